/* Integer lanes of the AMX tier: those of VNNI, and what the weights of tiles are made with. */
#pragma once

/* Into the second cache: on CPUs that have tiles, what comes from memory into the first one keeps
 * one of its 16 fill buffers busy for all that time. (Measured: of Q8_0, prompts of 128 are read a
 * quarter faster, and 8 to 16 sequences decoded a tenth.) */
#define FETCH_INSTRUCTION "prefetcht1"

#include "engine/kern/ints-vnni.h"

#define HAS_TILES
/* From so many rows on they are used: where a group of them takes less time than the rows would
 * without (measured). */
#define AMX_ROWS_MIN 12

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
/* vi_dot2() with two numbers in memory for all lanes. GCC 12 reads those into a general register
 * and broadcasts them from there, where the instruction does that itself. */
static inline vi vi_dot2_all(vi acc, vi a, const void *two) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)two));
    return acc;
}
