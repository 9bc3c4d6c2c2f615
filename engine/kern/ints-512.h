/* Integer lanes of 512 bits, for the tiers that have AVX-512 BW, DQ and VL. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define VI_LANES  16
#define VI_BYTES  64
#define VI_BLOCKS 2 /* of 32 weights in a vector */

typedef __m512i vi;
typedef __m512 vf;

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
/* The first n of a vector's blocks, the others zero and not read. */
static inline vi vi_load_blocks(const void *p, int n) {
    return _mm512_maskz_loadu_epi8(n > 1 ? ~0ull : 0xFFFFFFFFull, p);
}
static inline vi vi_set1(int32_t a) {
    return _mm512_set1_epi32(a);
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
/* Products of unsigned and signed bytes, two to an int16: no weight above 127. */
static inline vi vi_pairs(vi u, vi s) {
    return _mm512_maddubs_epi16(u, s);
}
/* Products of int16, two to an int32. */
static inline vi vi_pairs_16(vi a, vi b) {
    return _mm512_madd_epi16(a, b);
}
/* The low halves of dwords: even words of the one, odd words of the other. */
static inline vi vi_low_words(vi even, vi odd) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, even, vi_sll(odd, 16));
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
/* n: at most VI_LANES */
static inline void vf_store_n(float *p, vf a, uint32_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
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
static inline vf vf_from_halves(const uint16_t *p) {
    return _mm512_cvtph_ps(load_256(p));
}
/* The low halves of dwords, as float16. */
static inline vf vf_from_half(vi a) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

/* ---- between vectors of 256 bits and these ---- */

/* Two halves of 64 bytes as vectors, here a single one. */
static inline vi vi_part(__m256i low, __m256i high, int part) {
    (void)part;
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
/* Adds `more` where `bits` have `bit` (in the low half) or the next higher one (in the high half).
 */
static inline vi vi_add_bits(vi a, int part, __m256i bits, int bit, int more) {
    __mmask64 set = (uint64_t)_mm256_test_epi8_mask(bits, _mm256_set1_epi8((char)bit)) |
                    (uint64_t)_mm256_test_epi8_mask(bits, _mm256_set1_epi8((char)(2 * bit))) << 32;

    (void)part;
    return _mm512_mask_add_epi8(a, set, a, _mm512_set1_epi8((char)more));
}
/* Adds `more` to those of 32 bytes whose bit is set. */
static inline __m256i add_mask_256(__m256i a, uint32_t set, int more) {
    return _mm256_mask_add_epi8(a, set, a, _mm256_set1_epi8((char)more));
}
/* Above it zeros. */
static inline vi vi_from_256(__m256i a) {
    return _mm512_zextsi256_si512(a);
}
static inline vi vi_from_blocks(const __m256i a[VI_BLOCKS]) {
    return vi_part(a[0], a[1], 0);
}
/* For vector j of a super-block's sums of byte pairs, the int16 of their sub-blocks of 16: lane l
 * is of weights 64·j + 2·l, so of sub-block 4·j + l/8. */
static inline vi vi_sub_scales(__m256i scale, int j) {
    __m512i index =
        _mm512_add_epi16(_mm512_srli_epi16(_mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22,
                                                            21, 20, 19, 18, 17, 16, 15, 14, 13, 12,
                                                            11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           3),
                         _mm512_set1_epi16((short)(4 * j)));

    return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(scale));
}

/* ---- across lanes ---- */

/* Sixteen vectors to four; 128-bit lanes stay apart: of each output's quarters. */
static inline void vi_sum_quarters(const vi v[16], vi sum[4]) {
    vi a[8];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        sum[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                  _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
}
static inline void vi_sum_halves(const vi v[16], vi sum[2]) {
    vi b[4];

    vi_sum_quarters(v, b);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        sum[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                  _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xDD));
}
/* VI_LANES vectors to the sums of each. */
static inline vi vi_sum_lanes(const vi v[16]) {
    vi c[2];

    vi_sum_halves(v, c);
    return _mm512_add_epi32(_mm512_shuffle_i32x4(c[0], c[1], 0x88),
                            _mm512_shuffle_i32x4(c[0], c[1], 0xDD));
}
/* The same for each block apart. */
static inline void vi_sum_blocks(const vi v[16], vi sum[VI_BLOCKS]) {
    vi c[2];

    vi_sum_halves(v, c);
    sum[0] = _mm512_shuffle_i32x4(c[0], c[1], 0x88);
    sum[1] = _mm512_shuffle_i32x4(c[0], c[1], 0xDD);
}

/* GCC computes sixteen addresses before it uses the first of them; there are not as many registers.
 */
static inline const uint8_t *vi_settled_address(const uint8_t *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* Memory of VI_LANES rows. */
struct vi_rows {
    const uint8_t *first;
    size_t stride; /* from each to the next */
};

/* Bytes [at, at + 16) of sixteen rows: lane j of to[i] is dword i of row j. */
static inline void vi_load_runs(struct vi_rows from, size_t at, vi to[4]) {
    const uint8_t *four =
        from.first + at; /* row 0, 4, 8, 12: the others are addressed from there */
    vi x[4], y[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_castsi128_si512(load_128(four + i * from.stride));
    four = vi_settled_address(four + 4 * from.stride);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 1);
    four = vi_settled_address(four + 4 * from.stride);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 2);
    four = vi_settled_address(four + 4 * from.stride);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++)
        x[i] = _mm512_inserti32x4(x[i], load_128(four + i * from.stride), 3);
    y[0] = _mm512_unpacklo_epi32(x[0], x[1]);
    y[1] = _mm512_unpackhi_epi32(x[0], x[1]);
    y[2] = _mm512_unpacklo_epi32(x[2], x[3]);
    y[3] = _mm512_unpackhi_epi32(x[2], x[3]);
    to[0] = _mm512_unpacklo_epi64(y[0], y[2]);
    to[1] = _mm512_unpackhi_epi64(y[0], y[2]);
    to[2] = _mm512_unpacklo_epi64(y[1], y[3]);
    to[3] = _mm512_unpackhi_epi64(y[1], y[3]);
}
