/* Integer lanes of the AVX-512 VNNI tier: 8-bit dot products in one instruction. */
#pragma once

#include "engine/kern/ints-512.h"

/* 14 accumulators of runs and 14 of these times their scales, of 32 registers. */
#define PANEL_ROWS 7
#define PANEL_VECS 2
/* Up to so many rows, which is one group, panels of nibbles: a third of the unpacking is saved, and
 * tiles take nibbles apart in pipes that products leave idle, where a CPU has such. (Measured.
 * Where it has none, a group pays for that what unpacking gains.) */
#define PANEL_NIBBLE_ROWS PANEL_ROWS

/* acc + four products of unsigned and signed bytes a lane */
static inline vi vi_dot4(vi acc, vi u, vi s) {
    return _mm512_dpbusd_epi32(acc, u, s);
}
/* The same with the four bytes at s for every lane, as an operand in memory: GCC 12 has none such,
 * but reads them by an instruction of its own. */
static inline vi vi_dot4_at(vi acc, vi u, const int8_t *s) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(acc)
            : "v"(u), "m"(*(const int32_t *)(const void *)s));
    return acc;
}
/* acc + two products of signed 16-bit numbers a lane */
static inline vi vi_dot2(vi acc, vi a, vi b) {
    return _mm512_dpwssd_epi32(acc, a, b);
}
static inline vi vi_dot2_at(vi acc, vi a, const int16_t *b) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0"
            : "+v"(acc)
            : "v"(a), "m"(*(const int32_t *)(const void *)b));
    return acc;
}
