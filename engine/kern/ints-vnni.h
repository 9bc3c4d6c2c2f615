/* Integer lanes of the AVX-512 VNNI tier: 8-bit dot products in one instruction. */
#pragma once

#include "engine/kern/ints-512.h"

/* 30 accumulators of 32 registers. */
#define PANEL_ROWS 5
#define PANEL_VECS 2
/* Sub-blocks whose products are computed side by side. */
#define PANEL_SIDE 2
/* Up to so many rows, panels of nibbles: a third of the unpacking is saved, and tiles take nibbles
 * apart in pipes that products leave idle, where a CPU has such. (Measured. Where it has none, each
 * group of rows pays for that, and about three of them lose what unpacking gains.) */
#define PANEL_NIBBLE_ROWS 16

/* acc + four products of unsigned and signed bytes a lane */
static inline vi vi_dot4(vi acc, vi u, vi s) {
    return _mm512_dpbusd_epi32(acc, u, s);
}
/* acc + two products of signed 16-bit numbers a lane */
static inline vi vi_dot2(vi acc, vi a, vi b) {
    return _mm512_dpwssd_epi32(acc, a, b);
}
