/* Integer lanes of the AVX-512 VNNI tier: sixteen int32, and 8-bit dot products in one instruction.
 */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES 16
/* 24 accumulators of 32 registers (measured: 3 x 4 and 4 x 3 are slower). */
#define PANEL_ROWS 6
#define PANEL_VECS 2

typedef __m512i vi;
typedef __m512 vf;

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
static inline vi vi_set1(int32_t a) {
    return _mm512_set1_epi32(a);
}
static inline vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
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
/* acc + four products of unsigned and signed bytes a lane */
static inline vi vi_dot4(vi acc, vi u, vi s) {
    return _mm512_dpbusd_epi32(acc, u, s);
}
/* acc + two products of signed 16-bit numbers a lane */
static inline vi vi_dot2(vi acc, vi a, vi b) {
    return _mm512_dpwssd_epi32(acc, a, b);
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

/* Bytes [at, at + 16) of sixteen places: lane j of to[i] is dword i of place j. */
static inline void vi_load_runs(const uint8_t *const *from, size_t at, vi to[4]) {
    vi x[4], y[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_castsi128_si512(load_128(from[i] + at));
        x[i] = _mm512_inserti32x4(x[i], load_128(from[4 + i] + at), 1);
        x[i] = _mm512_inserti32x4(x[i], load_128(from[8 + i] + at), 2);
        x[i] = _mm512_inserti32x4(x[i], load_128(from[12 + i] + at), 3);
    }
    y[0] = _mm512_unpacklo_epi32(x[0], x[1]);
    y[1] = _mm512_unpackhi_epi32(x[0], x[1]);
    y[2] = _mm512_unpacklo_epi32(x[2], x[3]);
    y[3] = _mm512_unpackhi_epi32(x[2], x[3]);
    to[0] = _mm512_unpacklo_epi64(y[0], y[2]);
    to[1] = _mm512_unpackhi_epi64(y[0], y[2]);
    to[2] = _mm512_unpacklo_epi64(y[1], y[3]);
    to[3] = _mm512_unpackhi_epi64(y[1], y[3]);
}
