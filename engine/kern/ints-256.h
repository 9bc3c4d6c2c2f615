/* Integer lanes of 256 bits, for the tiers that have AVX2. See ints-512.h. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES  8
#define VI_BYTES  32
#define VI_BLOCKS 1 /* of 32 weights in a vector */

typedef __m256i vi;
typedef __m256 vf;

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline vi vi_load(const void *p) {
    return load_256(p);
}
static inline vi vi_load_blocks(const void *p, int n) {
    (void)n;
    return load_256(p);
}
static inline vi vi_set1(int32_t a) {
    return _mm256_set1_epi32(a);
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
/* Products of unsigned and signed bytes, two to an int16: no weight above 127. */
static inline vi vi_pairs(vi u, vi s) {
    return _mm256_maddubs_epi16(u, s);
}
/* Products of int16, two to an int32. */
static inline vi vi_pairs_16(vi a, vi b) {
    return _mm256_madd_epi16(a, b);
}
/* The low halves of dwords: even words of the one, odd words of the other. */
static inline vi vi_low_words(vi even, vi odd) {
    return _mm256_blend_epi16(even, vi_sll(odd, 16), 0xAA);
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
/* n: at most VI_LANES */
static inline void vf_store_n(float *p, vf a, uint32_t n) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane), a);
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
static inline vf vf_from_halves(const uint16_t *p) {
    return _mm256_cvtph_ps(load_128(p));
}
/* The low halves of dwords, as float16. */
static inline vf vf_from_half(vi a) {
    a = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
    a = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(a));
}

/* ---- between vectors of 256 bits and these ---- */

/* Two halves of 64 bytes as vectors, here two. */
static inline vi vi_part(__m256i low, __m256i high, int part) {
    return part ? high : low;
}
/* Adds `more` where `bits` have `bit` (in the low half) or the next higher one (in the high half).
 */
static inline vi vi_add_bits(vi a, int part, __m256i bits, int bit, int more) {
    __m256i one = _mm256_set1_epi8((char)(bit << part));
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, one), one);

    return _mm256_add_epi8(a, _mm256_and_si256(set, _mm256_set1_epi8((char)more)));
}
/* Adds `more` to those of 32 bytes whose bit is set. */
static inline __m256i add_mask_256(__m256i a, uint32_t set, int more) {
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i one = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi32((int)set), byte);

    bits = _mm256_cmpeq_epi8(_mm256_and_si256(bits, one), one);
    return _mm256_add_epi8(a, _mm256_and_si256(bits, _mm256_set1_epi8((char)more)));
}
static inline vi vi_from_256(__m256i a) {
    return a;
}
static inline vi vi_from_blocks(const __m256i a[VI_BLOCKS]) {
    return a[0];
}
/* For vector j of a super-block's sums of byte pairs, the int16 of their sub-blocks of 16: lane l
 * is of weights 32·j + 2·l, so of sub-block 2·j + l/8. */
static inline vi vi_sub_scales(__m256i scale, int j) {
    __m256i eight = j < 4 ? _mm256_permute2x128_si256(scale, scale, 0x00)
                          : _mm256_permute2x128_si256(scale, scale, 0x11);
    __m256i two = _mm256_set_m128i(_mm_set1_epi16(0x0302), _mm_set1_epi16(0x0100));

    return _mm256_shuffle_epi8(eight, _mm256_add_epi8(two, _mm256_set1_epi8((char)(4 * (j % 4)))));
}

/* ---- across lanes ---- */

/* VI_LANES vectors to the sums of each. */
static inline vi vi_sum_lanes(const vi v[8]) {
    vi a[4], b[2];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        a[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        b[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm256_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(b[0], b[1], 0x20),
                            _mm256_permute2x128_si256(b[0], b[1], 0x31));
}
/* The same for each block apart. */
static inline void vi_sum_blocks(const vi v[8], vi sum[VI_BLOCKS]) {
    sum[0] = vi_sum_lanes(v);
}

/* Memory of VI_LANES rows. */
struct vi_rows {
    const uint8_t *first;
    size_t stride; /* from each to the next */
};
static inline const uint8_t *vi_row(struct vi_rows r, int i) {
    return r.first + (size_t)i * r.stride;
}

/* Bytes [at, at + 16) of eight places: lane j of to[i] is dword i of place j. */
static inline void vi_load_runs(struct vi_rows from, size_t at, vi to[4]) {
    vi x[4], y[4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_set_m128i(load_128(vi_row(from, 4 + i) + at), load_128(vi_row(from, i) + at));
    y[0] = _mm256_unpacklo_epi32(x[0], x[1]);
    y[1] = _mm256_unpackhi_epi32(x[0], x[1]);
    y[2] = _mm256_unpacklo_epi32(x[2], x[3]);
    y[3] = _mm256_unpackhi_epi32(x[2], x[3]);
    to[0] = _mm256_unpacklo_epi64(y[0], y[2]);
    to[1] = _mm256_unpackhi_epi64(y[0], y[2]);
    to[2] = _mm256_unpacklo_epi64(y[1], y[3]);
    to[3] = _mm256_unpackhi_epi64(y[1], y[3]);
}
