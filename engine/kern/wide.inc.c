/*
 * Blocks as vectors of unsigned weights: what unpack.h says, for the kernels that are in a hurry.
 * Included by a tier after its ints-*.h.
 */
#include "engine/kern/unpack.h"

#include <stdbool.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Always inlined: GCC 12 takes a function that only prefetches for one without effect, and drops
 * its calls. */
static ALWAYS_INLINE void prefetch_run(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* ---- super-blocks as vectors: 256 unsigned weights, 16 scales, 16 mins ---- */

#define WIDE_PARTS (64 / VI_BYTES) /* vectors of 64 weights */

struct wide_super {
    vi q[QUANT_SUPER / VI_BYTES];
    __m256i scale, min; /* int16 */
    uint16_t d, dmin;   /* halves */
};

/* Eight 6-bit scales and mins, each doubled: see unpack_k4_scales(). */
static inline void wide_k4_scales(const uint8_t s[12], struct wide_super *w) {
    const __m128i twice = _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    uint32_t a, b, c;
    uint64_t scales, mins;

    (void)memcpy(&a, s, 4);
    (void)memcpy(&b, s + 4, 4);
    (void)memcpy(&c, s + 8, 4);
    scales = (a & 0x3F3F3F3F) | (uint64_t)((c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)) << 32;
    mins = (b & 0x3F3F3F3F) | (uint64_t)(((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)) << 32;
    w->scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)scales), twice));
    w->min = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)mins), twice));
}

/* Weights 64·j to 64·j + 63 from the nibbles of 32 bytes. */
static inline vi wide_k4_nibbles(const uint8_t *qs, int part) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i q = load_256(qs);

    return vi_part(_mm256_and_si256(q, low), _mm256_and_si256(_mm256_srli_epi16(q, 4), low), part);
}

static inline void wide_q4_k(const void *block, struct wide_super *w) {
    const struct q4_k_block *b = block;

    w->d = b->d;
    w->dmin = b->dmin;
    wide_k4_scales(b->scales, w);
#pragma GCC unroll 8
    for (int i = 0; i < 4 * WIDE_PARTS; i++)
        w->q[i] = wide_k4_nibbles(b->qs + 32 * (i / WIDE_PARTS), i % WIDE_PARTS);
}

static inline void wide_q5_k(const void *block, struct wide_super *w) {
    const struct q5_k_block *b = block;
    __m256i high = load_256(b->qh);

    w->d = b->d;
    w->dmin = b->dmin;
    wide_k4_scales(b->scales, w);
#pragma GCC unroll 8
    for (int i = 0; i < 4 * WIDE_PARTS; i++) {
        int j = i / WIDE_PARTS, part = i % WIDE_PARTS;

        w->q[i] = vi_add_bits(wide_k4_nibbles(b->qs + 32 * j, part), part, high, 1 << (2 * j), 16);
    }
}

static inline void wide_q6_k(const void *block, struct wide_super *w) {
    const struct q6_k_block *b = block;
    const vi low = vi_set1(0x0F0F0F0F), two = vi_set1(0x30303030);

    w->d = b->d;
    w->dmin = 0;
    w->scale = _mm256_cvtepi8_epi16(load_128(b->scales));
    w->min = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int i = 0; i < 2 * WIDE_PARTS; i++) {
        int half = i / WIDE_PARTS, part = i % WIDE_PARTS;
        vi *q = w->q + 2 * WIDE_PARTS * half + part;
        vi ql = vi_load(b->ql + VI_BYTES * i);
        __m256i qh = load_256(b->qh + 32 * half);
        vi first = vi_part(_mm256_slli_epi16(qh, 4), _mm256_slli_epi16(qh, 2), part);
        vi second = vi_part(qh, _mm256_srli_epi16(qh, 2), part);

        q[0] = vi_or(vi_and(ql, low), vi_and(first, two));
        q[WIDE_PARTS] = vi_or(vi_and(vi_srl_16(ql, 4), low), vi_and(second, two));
    }
}

/* Four 2-bit values a byte, each quarter of 128 weights at another shift. */
static inline void wide_crumbs(const uint8_t qs[64], vi q[4 * WIDE_PARTS]) {
    const vi low = vi_set1(0x03030303);

#pragma GCC unroll 4
    for (int i = 0; i < 2 * WIDE_PARTS; i++) {
        int half = i / WIDE_PARTS, part = i % WIDE_PARTS;
        vi *to = q + 2 * WIDE_PARTS * half + part;
        __m256i x = load_256(qs + 32 * half);

        to[0] = vi_and(vi_part(x, _mm256_srli_epi16(x, 2), part), low);
        to[WIDE_PARTS] =
            vi_and(vi_part(_mm256_srli_epi16(x, 4), _mm256_srli_epi16(x, 6), part), low);
    }
}

static inline void wide_q2_k(const void *block, struct wide_super *w) {
    const struct q2_k_block *b = block;
    const __m128i low = _mm_set1_epi8(15);
    __m128i s = load_128(b->scales);

    w->d = b->d;
    w->dmin = b->dmin;
    w->scale = _mm256_cvtepu8_epi16(_mm_and_si128(s, low));
    w->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(s, 4), low));
    wide_crumbs(b->qs, w->q);
}

static inline void wide_q3_k(const void *block, struct wide_super *w) {
    const struct q3_k_block *b = block;
    __m256i high = load_256(b->hmask);
    uint64_t low, scales[2];
    uint32_t c;

    (void)memcpy(&low, b->scales, 8);
    (void)memcpy(&c, b->scales + 8, 4);
    scales[0] = (low & 0x0F0F0F0F0F0F0F0F) |
                ((c & 0x03030303) << 4 | (uint64_t)(((c >> 2) & 0x03030303) << 4) << 32);
    scales[1] = ((low >> 4) & 0x0F0F0F0F0F0F0F0F) |
                (((c >> 4) & 0x03030303) << 4 | (uint64_t)(((c >> 6) & 0x03030303) << 4) << 32);
    w->d = b->d;
    w->dmin = 0;
    w->scale = _mm256_sub_epi16(
        _mm256_cvtepi8_epi16(_mm_set_epi64x((long long)scales[1], (long long)scales[0])),
        _mm256_set1_epi16(32));
    w->min = _mm256_setzero_si256();
    wide_crumbs(b->qs, w->q);
#pragma GCC unroll 8
    for (int i = 0; i < 4 * WIDE_PARTS; i++)
        w->q[i] = vi_add_bits(w->q[i], i % WIDE_PARTS, high, 1 << (2 * (i / WIDE_PARTS)), 4);
}

/* ---- plain blocks: 32 unsigned weights ---- */

static inline __m256i wide_nibbles(const uint8_t qs[16]) {
    __m128i x = load_128(qs);

    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15));
}

static inline __m256i wide_fives(const uint8_t qh[4], const uint8_t qs[16]) {
    __m256i q = wide_nibbles(qs);
    uint32_t high;

    (void)memcpy(&high, qh, sizeof(high));
    return add_mask_256(q, high, 16);
}

struct wide_plain {
    __m256i q;
    uint16_t d, m; /* halves */
};

static inline void wide_q4_0(const void *block, struct wide_plain *w) {
    const struct q4_0_block *b = block;

    *w = (struct wide_plain){.q = wide_nibbles(b->qs), .d = b->d};
}

static inline void wide_q4_1(const void *block, struct wide_plain *w) {
    const struct q4_1_block *b = block;

    *w = (struct wide_plain){.q = wide_nibbles(b->qs), .d = b->d, .m = b->m};
}

static inline void wide_q5_0(const void *block, struct wide_plain *w) {
    const struct q5_0_block *b = block;

    *w = (struct wide_plain){.q = wide_fives(b->qh, b->qs), .d = b->d};
}

static inline void wide_q5_1(const void *block, struct wide_plain *w) {
    const struct q5_1_block *b = block;

    *w = (struct wide_plain){.q = wide_fives(b->qh, b->qs), .d = b->d, .m = b->m};
}

static inline void wide_q8_0(const void *block, struct wide_plain *w) {
    const struct q8_0_block *b = block;

    *w = (struct wide_plain){.q = _mm256_xor_si256(load_256(b->qs), _mm256_set1_epi8((char)0x80)),
                             .d = b->d};
}

/* What a kernel is told of a format; all of it is constant where the kernels are instantiated. */
struct wide_format {
    size_t block_bytes;
    void (*plain)(const void *block, struct wide_plain *w); /* either this */
    void (*super)(const void *block, struct wide_super *w); /* or this */
    int offset, largest;                                    /* of the unsigned weights */
    int n_sub; /* sub-blocks with scales of their own in a super-block: 8 or 16 */
    bool has_min;
};

static const struct wide_format
    wide_format_q4_0 =
        {sizeof(struct q4_0_block), wide_q4_0, NULL, OFFSET_q4_0, LARGEST_q4_0, 0, false},
    wide_format_q4_1 =
        {sizeof(struct q4_1_block), wide_q4_1, NULL, OFFSET_q4_1, LARGEST_q4_1, 0, true},
    wide_format_q5_0 =
        {sizeof(struct q5_0_block), wide_q5_0, NULL, OFFSET_q5_0, LARGEST_q5_0, 0, false},
    wide_format_q5_1 =
        {sizeof(struct q5_1_block), wide_q5_1, NULL, OFFSET_q5_1, LARGEST_q5_1, 0, true},
    wide_format_q8_0 =
        {sizeof(struct q8_0_block), wide_q8_0, NULL, OFFSET_q8_0, LARGEST_q8_0, 0, false},
    wide_format_q2_k =
        {sizeof(struct q2_k_block), NULL, wide_q2_k, OFFSET_q2_k, LARGEST_q2_k, 16, true},
    wide_format_q3_k =
        {sizeof(struct q3_k_block), NULL, wide_q3_k, OFFSET_q3_k, LARGEST_q3_k, 16, false},
    wide_format_q4_k =
        {sizeof(struct q4_k_block), NULL, wide_q4_k, OFFSET_q4_k, LARGEST_q4_k, 8, true},
    wide_format_q5_k =
        {sizeof(struct q5_k_block), NULL, wide_q5_k, OFFSET_q5_k, LARGEST_q5_k, 8, true},
    wide_format_q6_k = {
        sizeof(struct q6_k_block), NULL, wide_q6_k, OFFSET_q6_k, LARGEST_q6_k, 16, false};
