/* Sixteen float lanes as one AVX-512 vector. Same results as lanes-generic.h, bit for bit. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 v16;

/* 6 x 4 accumulators, 4 columns: 28 of 32 registers. */
#define LANES_TILE_WIDTH(n) 4
#define LANES_MUL_ROWS      4
#define LANES_MUL_OUTS      4
#define LANES_GEMM_ROWS_MIN UINT32_MAX

/* Lanes below n; all where n is 16 or more. */
static inline __mmask16 v16_first_mask(size_t n) {
    return (__mmask16)(n >= 16 ? 0xFFFF : (1u << n) - 1);
}
static inline v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline v16 v16_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(v16_first_mask(n), p);
}
static inline void v16_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
static inline void v16_store_n(float *p, v16 a, size_t n) {
    _mm512_mask_storeu_ps(p, v16_first_mask(n), a);
}
static inline v16 v16_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
static inline v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
static inline v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
static inline v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
static inline v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
static inline v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
static inline v16 v16_round(v16 a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline v16 v16_scale2(v16 x, v16 n) {
    return _mm512_scalef_ps(x, n);
}
static inline v16 v16_with_sign(v16 a, v16 b) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);

    /* 0xCA: where the mask (first) has a one, the second, else the third */
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b), _mm512_castps_si512(a), 0xCA));
}
static inline v16 v16_first(size_t n, v16 a, v16 b) {
    return _mm512_mask_blend_ps(v16_first_mask(n), b, a);
}
static inline v16 v16_if_small(v16 a, float limit, v16 yes, v16 no) {
    __mmask16 small = _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(limit), _CMP_LT_OQ);

    return _mm512_mask_blend_ps(small, no, yes);
}
static inline v16 v16_keep_nan(v16 a, v16 r) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), r, a);
}
static inline float v16_tree(v16 a) {
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float v16_tree_max(v16 a) {
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
static inline v16 v16_load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline v16 v16_load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline v16 v16_load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void v16_store_half(uint16_t *p, v16 a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
