/* Integer lanes of the AVX-512 VNNI tier: sixteen int32, and 8-bit dot products in one instruction.
 */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES   16
/* 24 accumulators of 32 registers (measured: 3 x 4 and 4 x 3 are slower). */
#define PANEL_ROWS 6
#define PANEL_VECS 2

typedef __m512i vi;
typedef __m512 vf;

static inline vi vi_load(const void *p) {
    return _mm512_load_si512(p);
}
static inline void vi_store(void *p, vi a) {
    _mm512_store_si512(p, a);
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
static inline vf vf_load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
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

/* Rows of sixteen dwords to columns: to[i * stride] lane j is from[j * from_stride] dword i. */
static inline void vi_transpose(const uint8_t *from, size_t from_stride, vi *to, size_t stride) {
    vi a[16], b[16];

#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        a[i] = vi_load(from + (size_t)i * from_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
        b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xDD);
        b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[(size_t)(i)*stride] = _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88);
        to[(size_t)(8 + i) * stride] = _mm512_shuffle_i32x4(b[i], b[8 + i], 0xDD);
        to[(size_t)(4 + i) * stride] = _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88);
        to[(size_t)(12 + i) * stride] = _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xDD);
    }
}
