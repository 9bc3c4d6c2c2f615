/* Integer lanes of the AVX-VNNI tier: 8-bit dot products in one instruction. */
#pragma once

#include "engine/kern/ints-256.h"

/* 12 accumulators of 16 registers. */
#define PANEL_ROWS 6
#define PANEL_VECS 2

/* acc + four products of unsigned and signed bytes a lane */
static inline vi vi_dot4(vi acc, vi u, vi s) {
    return _mm256_dpbusd_avx_epi32(acc, u, s);
}
static inline vi vi_dot4_at(vi acc, vi u, const int8_t *s) {
    return vi_dot4(acc, u, vi_set1_at(s));
}
/* acc + two products of signed 16-bit numbers a lane */
static inline vi vi_dot2(vi acc, vi a, vi b) {
    return _mm256_dpwssd_avx_epi32(acc, a, b);
}
static inline vi vi_dot2_at(vi acc, vi a, const int16_t *b) {
    return vi_dot2(acc, a, vi_set1_at(b));
}
