/* Integer lanes of 256 bits, for the tiers that have AVX2. See ints-512.h. */
#pragma once

#include "engine/kern/rows.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VI_LANES 8

typedef __m256i vi;
typedef __m256 vf;

static inline vi vi_set1(int32_t a) {
    return _mm256_set1_epi32(a);
}
/* The four bytes at p, for every lane. */
static inline vi vi_set1_at(const void *p) {
    int32_t four;

    (void)memcpy(&four, p, sizeof(four));
    return vi_set1(four);
}
static inline vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
static inline vi vi_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
static inline vi vi_mul(vi a, vi b) {
    return _mm256_mullo_epi32(a, b);
}
static inline vi vi_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
static inline vi vi_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
static inline vi vi_xor(vi a, vi b) {
    return _mm256_xor_si256(a, b);
}
static inline vi vi_sll(vi a, int n) {
    return _mm256_slli_epi32(a, n);
}
static inline vi vi_srl(vi a, int n) {
    return _mm256_srli_epi32(a, n);
}
static inline vi vi_sra(vi a, int n) {
    return _mm256_srai_epi32(a, n);
}
static inline vi vi_add_16(vi a, vi b) {
    return _mm256_add_epi16(a, b);
}
static inline vi vi_sll_16(vi a, int n) {
    return _mm256_slli_epi16(a, n);
}
static inline vi vi_srl_16(vi a, int n) {
    return _mm256_srli_epi16(a, n);
}
static inline vi vi_sra_16(vi a, int n) {
    return _mm256_srai_epi16(a, n);
}
/* Products of unsigned and signed bytes, two to an int16: they must fit. */
static inline vi vi_pairs(vi u, vi s) {
    return _mm256_maddubs_epi16(u, s);
}
static inline vi vi_abs_8(vi a) {
    return _mm256_abs_epi8(a);
}
/* a times the sign of b, or anything where b is 0 */
static inline vi vi_sign_8(vi a, vi b) {
    return _mm256_sign_epi8(a, b);
}
/* Products of int16, two to an int32. */
static inline vi vi_pairs_16(vi a, vi b) {
    return _mm256_madd_epi16(a, b);
}
/* The low halves of dwords: even words of the one, odd words of the other. */
static inline vi vi_low_words(vi even, vi odd) {
    return _mm256_blend_epi16(even, vi_sll(odd, 16), 0xAA);
}
/* Int16 i of each dword as int32. */
static inline vi vi_word(vi a, int i) {
    return vi_sra(i ? a : vi_sll(a, 16), 16);
}
/* The odd words of dwords in both halves. */
static inline vi vi_high_words(vi a) {
    return _mm256_blend_epi16(vi_srl(a, 16), a, 0xAA);
}
/* Bytes 2·i and 2·i + 1 of each dword as two int16. */
static inline vi vi_byte_pair(vi x, int i) {
    const vi at = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, 1, -128, 4, -128, 5, -128, 8, -128, 9, -128, 12, -128, 13, -128));

    return _mm256_shuffle_epi8(x, vi_or(at, _mm256_set1_epi8((char)(2 * i))));
}
/* In a register, here and now: GCC 12 otherwise moves what computes it behind what comes later, or
 * reads memory again at each use. */
static inline vi vi_settled(vi a) {
    __asm__ volatile("" : "+v"(a));
    return a;
}
static inline vf vf_from(vi a) {
    return _mm256_cvtepi32_ps(a);
}
static inline vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void vf_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
static inline vf vf_set1(float a) {
    return _mm256_set1_ps(a);
}
static inline vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
/* c − a·b, rounded once */
static inline vf vf_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
/* The low halves of dwords, as float16. */
static inline vf vf_from_half(vi a) {
    a = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
    a = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(a));
}

/* ---- of many rows ---- */

static inline const uint8_t *vi_row(struct vi_rows r, int i) {
    return r.first + (size_t)i * r.stride;
}

/* In each four dwords: dword j of to[i] is dword i of x[j]. */
static ALWAYS_INLINE void vi_turn(const vi x[4], vi to[4]) {
    vi y[4] = {_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[0], x[1]),
               _mm256_unpacklo_epi32(x[2], x[3]), _mm256_unpackhi_epi32(x[2], x[3])};

    to[0] = _mm256_unpacklo_epi64(y[0], y[2]);
    to[1] = _mm256_unpackhi_epi64(y[0], y[2]);
    to[2] = _mm256_unpacklo_epi64(y[1], y[3]);
    to[3] = _mm256_unpackhi_epi64(y[1], y[3]);
}

/* Bytes [at, at + 16) of eight rows: lane j of to[i] is dword i of row j. Meanwhile, n_lines of
 * `ahead` are fetched: none or one. */
static ALWAYS_INLINE void vi_load_16s(struct vi_rows from, size_t at, vi to[4],
                                      struct fetching *ahead, int n_lines) {
    vi x[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_set_m128i(load_128(vi_row(from, 4 + i) + from.gap + at),
                                load_128(vi_row(from, i) + at));
    if (n_lines > 0)
        fetch_next(ahead);
    vi_turn(x, to);
}
