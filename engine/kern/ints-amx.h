/* Integer lanes of the AMX tier: those of VNNI, and what the weights of tiles are made with. */
#pragma once

#include "engine/kern/ints-vnni.h"

#define HAS_TILES

/* From so many rows on tiles are used, but for Q8_0 (IN_PLACE_ROWS_MIN): where a group of them
 * takes less time than the rows would without (measured). */
#define AMX_ROWS_MIN 14

#define VI_BYTES     64

static inline vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
static inline vi vi_sub_8(vi a, vi b) {
    return _mm512_sub_epi8(a, b);
}
static inline vi vi_sub_16(vi a, vi b) {
    return _mm512_sub_epi16(a, b);
}
static inline vi vi_mul_16(vi a, vi b) {
    return _mm512_mullo_epi16(a, b);
}
/* Where mask's bits are set those of a, else those of b. */
static inline vi vi_select(vi mask, vi a, vi b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xCA);
}
/* Lane j is the dword at p + j·stride; 15·stride is below 2^31. */
static inline vi vi_gather(const void *p, size_t stride) {
    const vi lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

    return _mm512_i32gather_epi32(_mm512_mullo_epi32(lanes, vi_set1((int32_t)stride)), p, 1);
}
/* Lane i is lane first + i / n of a. */
static ALWAYS_INLINE vf vf_spread(vf a, int first, int n) {
#define LANE(i) (first + (i) / n)
    return _mm512_permutexvar_ps(_mm512_setr_epi32(LANE(0), LANE(1), LANE(2), LANE(3), LANE(4),
                                                   LANE(5), LANE(6), LANE(7), LANE(8), LANE(9),
                                                   LANE(10), LANE(11), LANE(12), LANE(13), LANE(14),
                                                   LANE(15)),
                                 a);
#undef LANE
}
static inline vf vf_of_bits(vi a) {
    return _mm512_castsi512_ps(a);
}
/* The tiles, by number. Sums of the panel's first and second outputs: */
#define T_SUM_0  0
#define T_SUM_1  1
#define T_MORE_0 2 /* more such sums: of high digits, or of another block */
#define T_MORE_1 3
#define T_ACTS   4
#define T_W_0    5
#define T_W_1    6
#define T_UNREAD 7

/*
 * A product that nobody reads. Tiles fall asleep: after some 200 ns without a product the next one
 * takes 300 ns more, and unpacking a panel takes as long, but for Q4_K. (Measured on Emerald
 * Rapids, of Q6_K: for 16 rows 1110 ns a panel, and 860 with some of these; for 128 rows 2920 and
 * 2710. Where another program on the same core keeps tiles awake they cost up to 2 %.)
 */
static ALWAYS_INLINE void keep_tiles_awake(void) {
    _tile_dpbsud(T_UNREAD, T_ACTS, T_W_0);
}
