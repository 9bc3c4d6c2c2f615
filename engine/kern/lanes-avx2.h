/* Sixteen float lanes as two AVX2 vectors. Same results as lanes-generic.h, bit for bit. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 {
    __m256 a, b;
} v16;

/* At most 6 accumulators of two registers each, of 16 registers. */
#define LANES_TILE_WIDTH(n) ((n) == 1 ? 4 : (n) <= 3 ? 2 : 1)
#define LANES_MUL_ROWS      2
#define LANES_MUL_OUTS      2
#define LANES_GEMM_ROWS_MIN 32

static inline v16 v16_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline v16 v16_load_n(const float *p, size_t n) {
    float full[16] = {0};

    (void)memcpy(full, p, n * sizeof(float));
    return v16_load(full);
}
static inline void v16_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline void v16_store_n(float *p, v16 x, size_t n) {
    float full[16];

    v16_store(full, x);
    (void)memcpy(p, full, n * sizeof(float));
}
static inline v16 v16_set1(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
#define LANES_BINARY(name, op)                                                                     \
    static inline v16 v16_##name(v16 x, v16 y) {                                                   \
        return (v16){op(x.a, y.a), op(x.b, y.b)};                                                  \
    }
LANES_BINARY(add, _mm256_add_ps)
LANES_BINARY(sub, _mm256_sub_ps)
LANES_BINARY(mul, _mm256_mul_ps)
LANES_BINARY(div, _mm256_div_ps)
LANES_BINARY(max, _mm256_max_ps)
LANES_BINARY(min, _mm256_min_ps)
#undef LANES_BINARY
static inline v16 v16_fma(v16 x, v16 y, v16 z) {
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline v16 v16_round(v16 x) {
    return (v16){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                 _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline __m256 half_power2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline __m256 half_scale2(__m256 x, __m256 n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);

    x = _mm256_mul_ps(x, half_power2(half));
    return _mm256_mul_ps(x, half_power2(_mm256_sub_epi32(whole, half)));
}
static inline v16 v16_scale2(v16 x, v16 n) {
    return (v16){half_scale2(x.a, n.a), half_scale2(x.b, n.b)};
}
static inline __m256 half_with_sign(__m256 a, __m256 b) {
    const __m256 sign = _mm256_set1_ps(-0.0f);

    return _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b));
}
static inline v16 v16_with_sign(v16 a, v16 b) {
    return (v16){half_with_sign(a.a, b.a), half_with_sign(a.b, b.b)};
}
static inline __m256 half_first(__m256i n, int first, __m256 a, __m256 b) {
    __m256i lane =
        _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(first));

    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, lane)));
}
static inline v16 v16_first(size_t n, v16 a, v16 b) {
    __m256i many = _mm256_set1_epi32(n > 16 ? 16 : (int)n);

    return (v16){half_first(many, 0, a.a, b.a), half_first(many, 8, a.b, b.b)};
}
static inline __m256 half_if_small(__m256 a, float limit, __m256 yes, __m256 no) {
    __m256 absolute = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);

    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(absolute, _mm256_set1_ps(limit), _CMP_LT_OQ));
}
static inline v16 v16_if_small(v16 x, float limit, v16 yes, v16 no) {
    return (v16){half_if_small(x.a, limit, yes.a, no.a), half_if_small(x.b, limit, yes.b, no.b)};
}
static inline v16 v16_keep_nan(v16 x, v16 r) {
    return (v16){_mm256_blendv_ps(r.a, x.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
                 _mm256_blendv_ps(r.b, x.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
}
static inline float v16_tree(v16 x) {
    __m256 s8 = _mm256_add_ps(x.a, x.b);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
static inline float v16_tree_max(v16 x) {
    __m256 s8 = _mm256_max_ps(x.a, x.b);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
static inline __m256 half_load_bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline v16 v16_load_bf16(const uint16_t *p) {
    return (v16){half_load_bf16(p), half_load_bf16(p + 8)};
}
static inline __m256 half_load_int8(const int8_t *p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline v16 v16_load_int8(const int8_t *p) {
    return (v16){half_load_int8(p), half_load_int8(p + 8)};
}
static inline v16 v16_load_half(const uint16_t *p) {
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}
static inline void v16_store_half(uint16_t *p, v16 x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
