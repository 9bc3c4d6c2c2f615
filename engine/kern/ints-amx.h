/* Integer lanes of the AMX tier: those of VNNI, and what the weights of tiles are made with. */
#pragma once

#include "engine/kern/ints-vnni.h"

/* From so many rows on tiles are used: a whole one, or more. (Unpacking and folding measured on
 * another CPU, the tiles' part reckoned from their instructions' throughput: 16 rows take about
 * three quarters of the time without tiles.) */
#define AMX_ROWS_MIN 16

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
