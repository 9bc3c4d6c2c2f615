/*
 * Weight blocks as small integers: what each format means, written once for every tier.
 *
 * A plain block is w = d·(q − offset) + m (m 0 where the format has none). A super-block is
 * w = d·scale[j]·(q − offset) − dmin·min[j] with sub-block j of 16 values. q is unsigned, as the
 * 8-bit dot products want it; the offset is the format's constant OFFSET_name. The loops run over
 * whole vectors, so that compilers vectorise them.
 */
#pragma once

#include "engine/kern/quant.h"

#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

struct unpacked_block {
    float d, m;
    _Alignas(64) uint8_t q[QUANT_BLOCK];
};

struct unpacked_super {
    float d, dmin;
    int16_t scale[16], min[16];
    _Alignas(64) uint8_t q[QUANT_SUPER];
};

/* Every half is a float: exact, denormals too (IEEE 754). Tiers that have the conversion use it. */
static inline float half_to_float(uint16_t h) {
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3FF,
             bits;
    float f;

    if (exponent == 31) {
        bits = sign | 0x7F800000 | fraction << 13;
        if (fraction)
            bits |= 0x00400000; /* quiet, as the hardware's conversion makes it */
    } else if (exponent > 0) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        f = (float)fraction * 0x1p-24f;
        (void)memcpy(&bits, &f, sizeof(bits));
        bits |= sign;
    }
    (void)memcpy(&f, &bits, sizeof(f));
    return f;
#endif
}

/* Rounded to nearest, ties to even, as the hardware's conversion does; NaN stays NaN (quiet). */
static inline uint16_t float_to_half(float f) {
    uint32_t bits, magnitude, rounded;
    uint16_t sign;

    (void)memcpy(&bits, &f, sizeof(bits));
    sign = (uint16_t)(bits >> 16 & 0x8000);
    magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x477FF000) /* 65520 and more round to infinity */
        return sign | 0x7C00;
    if (magnitude < 0x38800000) { /* below 2^-14: a denormal half, in units of 2^-24 */
        float scaled;

        (void)memcpy(&scaled, &magnitude, sizeof(scaled));
        scaled =
            scaled * 0x1p24f + 0x1p23f; /* adding 2^23 rounds to a whole number, ties to even */
        (void)memcpy(&rounded, &scaled, sizeof(rounded));
        return (uint16_t)(sign | (rounded - 0x4B000000));
    }
    rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

#define OFFSET_q4_0  8
#define OFFSET_q4_1  0
#define OFFSET_q5_0  16
#define OFFSET_q5_1  0
#define OFFSET_q8_0  128
#define OFFSET_q2_k  0
#define OFFSET_q3_k  4
#define OFFSET_q4_k  0
#define OFFSET_q5_k  0
#define OFFSET_q6_k  32

#define LARGEST_q4_0 15 /* of the unsigned weights */
#define LARGEST_q4_1 15
#define LARGEST_q5_0 31
#define LARGEST_q5_1 31
#define LARGEST_q8_0 255
#define LARGEST_q2_k 3
#define LARGEST_q3_k 7
#define LARGEST_q4_k 15
#define LARGEST_q5_k 31
#define LARGEST_q6_k 63

static inline void unpack_nibbles(const uint8_t qs[16], uint8_t q[32]) {
    for (int i = 0; i < 16; i++)
        q[i] = qs[i] & 15;
    for (int i = 0; i < 16; i++)
        q[i + 16] = qs[i] >> 4;
}

static inline void unpack_q4_0(const struct q4_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    unpack_nibbles(b->qs, u->q);
}

static inline void unpack_q4_1(const struct q4_1_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = half_to_float(b->m);
    unpack_nibbles(b->qs, u->q);
}

static inline void add_fifth_bits(const uint8_t qh[4], uint8_t q[32]) {
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)(q[i] | (qh[i / 8] >> (i % 8) & 1) << 4);
}

static inline void unpack_q5_0(const struct q5_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    unpack_nibbles(b->qs, u->q);
    add_fifth_bits(b->qh, u->q);
}

static inline void unpack_q5_1(const struct q5_1_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = half_to_float(b->m);
    unpack_nibbles(b->qs, u->q);
    add_fifth_bits(b->qh, u->q);
}

static inline void unpack_q8_0(const struct q8_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    for (int i = 0; i < 32; i++)
        u->q[i] = (uint8_t)b->qs[i] ^ 0x80;
}

/* Four 2-bit values a byte: 128 values from 32 bytes, each quarter at another shift. */
static inline void unpack_crumbs(const uint8_t qs[64], uint8_t q[256]) {
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++)
                q[half * 128 + j * 32 + i] = qs[half * 32 + i] >> (2 * j) & 3;
}

static inline void unpack_q2_k(const struct q2_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    for (int j = 0; j < 16; j++) {
        u->scale[j] = b->scales[j] & 15;
        u->min[j] = b->scales[j] >> 4;
    }
    unpack_crumbs(b->qs, u->q);
}

static inline void unpack_q3_k(const struct q3_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = 0;
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? b->scales[j] & 15 : b->scales[j - 8] >> 4;
        int high = b->scales[8 + j % 4] >> (2 * (j / 4)) & 3;

        u->scale[j] = (int16_t)((low | high << 4) - 32);
        u->min[j] = 0;
    }
    unpack_crumbs(b->qs, u->q);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            u->q[j * 32 + i] = (uint8_t)(u->q[j * 32 + i] | (b->hmask[i] >> j & 1) << 2);
}

/* 6-bit scales and mins of eight sub-blocks of 32, each given for both of its halves of 16. */
static inline void unpack_k4_scales(const uint8_t s[12], struct unpacked_super *u) {
    for (int j = 0; j < 8; j++) {
        int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        int min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;

        u->scale[2 * j] = u->scale[2 * j + 1] = (int16_t)scale;
        u->min[2 * j] = u->min[2 * j + 1] = (int16_t)min;
    }
}

static inline void unpack_k4_nibbles(const uint8_t qs[128], uint8_t q[256]) {
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++)
            q[j * 64 + i] = qs[j * 32 + i] & 15;
        for (int i = 0; i < 32; i++)
            q[j * 64 + 32 + i] = qs[j * 32 + i] >> 4;
    }
}

static inline void unpack_q4_k(const struct q4_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    unpack_k4_scales(b->scales, u);
    unpack_k4_nibbles(b->qs, u->q);
}

static inline void unpack_q5_k(const struct q5_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    unpack_k4_scales(b->scales, u);
    unpack_k4_nibbles(b->qs, u->q);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            u->q[j * 32 + i] = (uint8_t)(u->q[j * 32 + i] | (b->qh[i] >> j & 1) << 4);
}

static inline void unpack_q6_k(const struct q6_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = 0;
    for (int j = 0; j < 16; j++) {
        u->scale[j] = b->scales[j];
        u->min[j] = 0;
    }
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++)
                u->q[half * 128 + j * 32 + i] =
                    (uint8_t)((b->ql[half * 64 + j % 2 * 32 + i] >> (j / 2 * 4) & 15) |
                              (b->qh[half * 32 + i] >> (2 * j) & 3) << 4);
}
