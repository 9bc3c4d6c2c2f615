/* Integer lanes of 512 bits, for the tiers that have AVX-512 BW, DQ and VL. */
#pragma once

#include "engine/kern/rows.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VI_LANES 16

typedef __m512i vi;
typedef __m512 vf;

static inline vi vi_set1(int32_t a) {
    return _mm512_set1_epi32(a);
}
/* The four bytes at p, for every lane. */
static inline vi vi_set1_at(const void *p) {
    int32_t four;

    (void)memcpy(&four, p, sizeof(four));
    return vi_set1(four);
}
static inline vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
static inline vi vi_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
static inline vi vi_mul(vi a, vi b) {
    return _mm512_mullo_epi32(a, b);
}
static inline vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
static inline vi vi_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
static inline vi vi_xor(vi a, vi b) {
    return _mm512_xor_si512(a, b);
}
static inline vi vi_sll(vi a, int n) {
    return _mm512_slli_epi32(a, (unsigned)n);
}
static inline vi vi_srl(vi a, int n) {
    return _mm512_srli_epi32(a, (unsigned)n);
}
static inline vi vi_sra(vi a, int n) {
    return _mm512_srai_epi32(a, (unsigned)n);
}
static inline vi vi_add_16(vi a, vi b) {
    return _mm512_add_epi16(a, b);
}
static inline vi vi_sll_16(vi a, int n) {
    return _mm512_slli_epi16(a, (unsigned)n);
}
static inline vi vi_srl_16(vi a, int n) {
    return _mm512_srli_epi16(a, (unsigned)n);
}
static inline vi vi_sra_16(vi a, int n) {
    return _mm512_srai_epi16(a, (unsigned)n);
}
/* Products of unsigned and signed bytes, two to an int16: they must fit. */
static inline vi vi_pairs(vi u, vi s) {
    return _mm512_maddubs_epi16(u, s);
}
static inline vi vi_abs_8(vi a) {
    return _mm512_abs_epi8(a);
}
/* a times the sign of b, or anything where b is 0 */
static inline vi vi_sign_8(vi a, vi b) {
    return _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(b), _mm512_setzero_si512(), a);
}
/* Products of int16, two to an int32. */
static inline vi vi_pairs_16(vi a, vi b) {
    return _mm512_madd_epi16(a, b);
}
/* The low halves of dwords: even words of the one, odd words of the other. */
static inline vi vi_low_words(vi even, vi odd) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, even, vi_sll(odd, 16));
}
/* Int16 i of each dword as int32. */
static inline vi vi_word(vi a, int i) {
    return vi_sra(i ? a : vi_sll(a, 16), 16);
}
/* The odd words of dwords in both halves. */
static inline vi vi_high_words(vi a) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, vi_srl(a, 16), a);
}
/* Bytes 2·i and 2·i + 1 of each dword as two int16. */
static inline vi vi_byte_pair(vi x, int i) {
    const vi at = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, -128, 1, -128, 4, -128, 5, -128, 8, -128, 9, -128, 12, -128, 13, -128));

    return _mm512_shuffle_epi8(x, vi_or(at, _mm512_set1_epi8((char)(2 * i))));
}
/* In a register, here and now: GCC 12 otherwise moves what computes it behind what comes later, or
 * reads memory again at each use. */
static inline vi vi_settled(vi a) {
    __asm__ volatile("" : "+v"(a));
    return a;
}
static inline vf vf_from(vi a) {
    return _mm512_cvtepi32_ps(a);
}
static inline vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void vf_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
static inline vf vf_set1(float a) {
    return _mm512_set1_ps(a);
}
static inline vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* c − a·b, rounded once */
static inline vf vf_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
}
/* The low halves of dwords, as float16. */
static inline vf vf_from_half(vi a) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

/* ---- of many rows ---- */

/* GCC computes sixteen addresses before it uses the first of them; there are not as many registers.
 */
static inline const uint8_t *vi_settled_address(const uint8_t *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* In each four dwords: dword j of to[i] is dword i of x[j]. */
static ALWAYS_INLINE void vi_turn(const vi x[4], vi to[4]) {
    vi y[4] = {_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]),
               _mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3])};

    to[0] = _mm512_unpacklo_epi64(y[0], y[2]);
    to[1] = _mm512_unpackhi_epi64(y[0], y[2]);
    to[2] = _mm512_unpacklo_epi64(y[1], y[3]);
    to[3] = _mm512_unpackhi_epi64(y[1], y[3]);
}

/* Bytes [at, at + 16) of sixteen rows: lane j of to[i] is dword i of row j. Meanwhile, n_lines of
 * `ahead` are fetched, apart: none or two. */
static ALWAYS_INLINE void vi_load_16s(struct vi_rows from, size_t at, vi to[4],
                                      struct fetching *ahead, int n_lines) {
    const uint8_t *four =
        from.first + at; /* row 0, 4, 8, 12: the others are addressed from there */
    vi x[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_castsi128_si512(load_128(four + i * from.stride));
    if (n_lines > 0)
        fetch_next(ahead);
    four = vi_settled_address(four + 4 * from.stride);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 1);
    four = vi_settled_address(four + 4 * from.stride + from.gap);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 2);
    if (n_lines > 1)
        fetch_next(ahead);
    four = vi_settled_address(four + 4 * from.stride);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 3);
    vi_turn(x, to);
}

/* Bytes [at, at + 32) of sixteen rows: lane j of to[i] is dword i of row j. Meanwhile, n_lines
 * of `ahead` are fetched, none or four. */
static ALWAYS_INLINE void vi_load_32s(struct vi_rows from, size_t at, vi to[8],
                                      struct fetching *ahead, int n_lines) {
    const uint8_t *four = from.first + at; /* row 0, then row 8 */
    vi x[4], half[2][4];                   /* dwords i and i + 4 of eight rows */

#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            x[i] = _mm512_inserti64x4(_mm512_castsi256_si512(load_256(four + i * from.stride)),
                                      load_256(four + (i + 4) * from.stride), 1);
        if (n_lines > 0)
            fetch_next(ahead);
        four = vi_settled_address(four + 8 * from.stride + from.gap);
        if (n_lines > 0)
            fetch_next(ahead);
        vi_turn(x, half[h]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[i] = _mm512_shuffle_i32x4(half[0][i], half[1][i], 0x88);
        to[4 + i] = _mm512_shuffle_i32x4(half[0][i], half[1][i], 0xDD);
    }
}
