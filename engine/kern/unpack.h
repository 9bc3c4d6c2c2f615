/*
 * Weight blocks as small integers: what each format means, written once for every tier.
 *
 * A plain block is w = d·q + m (m 0 where the format has none). A super-block is
 * w = d·scale[j]·q − dmin·min[j] with sub-block j of 16 values. Offsets are folded into q.
 */
#pragma once

#include "engine/kern/quant.h"

#include <string.h>

struct unpacked_block {
    float d, m;
    int8_t q[QUANT_BLOCK];
};

struct unpacked_super {
    float d, dmin;
    int16_t scale[16], min[16];
    int8_t q[QUANT_SUPER];
};

/* Every half is a float: exact, denormals too (IEEE 754). */
static inline float half_to_float(uint16_t h) {
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

static inline void unpack_q4_0(const struct q4_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    for (int i = 0; i < 16; i++) {
        u->q[i] = (int8_t)((b->qs[i] & 15) - 8);
        u->q[i + 16] = (int8_t)((b->qs[i] >> 4) - 8);
    }
}

static inline void unpack_q4_1(const struct q4_1_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = half_to_float(b->m);
    for (int i = 0; i < 16; i++) {
        u->q[i] = (int8_t)(b->qs[i] & 15);
        u->q[i + 16] = (int8_t)(b->qs[i] >> 4);
    }
}

static inline void unpack_fifth_bits(const uint8_t qh[4], const uint8_t qs[16], int offset,
                                     int8_t *q) {
    uint32_t high =
        (uint32_t)qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24;

    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((int)((qs[i] & 15u) | (high >> i & 1) << 4) - offset);
        q[i + 16] = (int8_t)((int)((qs[i] >> 4) | (high >> (i + 16) & 1) << 4) - offset);
    }
}

static inline void unpack_q5_0(const struct q5_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    unpack_fifth_bits(b->qh, b->qs, 16, u->q);
}

static inline void unpack_q5_1(const struct q5_1_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = half_to_float(b->m);
    unpack_fifth_bits(b->qh, b->qs, 0, u->q);
}

static inline void unpack_q8_0(const struct q8_0_block *b, struct unpacked_block *u) {
    u->d = half_to_float(b->d);
    u->m = 0;
    (void)memcpy(u->q, b->qs, sizeof(u->q));
}

static inline void unpack_q2_k(const struct q2_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    for (int j = 0; j < 16; j++) {
        u->scale[j] = b->scales[j] & 15;
        u->min[j] = b->scales[j] >> 4;
    }
    for (int i = 0; i < QUANT_SUPER; i++)
        u->q[i] = (int8_t)(b->qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3);
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
    for (int i = 0; i < QUANT_SUPER; i++) {
        int low = b->qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        int high = b->hmask[i % 32] >> (i / 32) & 1;

        u->q[i] = (int8_t)(low - (high ? 0 : 4));
    }
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

static inline void unpack_q4_k(const struct q4_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    unpack_k4_scales(b->scales, u);
    for (int i = 0; i < QUANT_SUPER; i++)
        u->q[i] = (int8_t)(b->qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15);
}

static inline void unpack_q5_k(const struct q5_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = half_to_float(b->dmin);
    unpack_k4_scales(b->scales, u);
    for (int i = 0; i < QUANT_SUPER; i++)
        u->q[i] = (int8_t)((b->qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) |
                           (b->qh[i % 32] >> (i / 32) & 1) << 4);
}

static inline void unpack_q6_k(const struct q6_k_block *b, struct unpacked_super *u) {
    u->d = half_to_float(b->d);
    u->dmin = 0;
    for (int j = 0; j < 16; j++) {
        u->scale[j] = b->scales[j];
        u->min[j] = 0;
    }
    for (int i = 0; i < QUANT_SUPER; i++) {
        int low = b->ql[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        int high = b->qh[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;

        u->q[i] = (int8_t)((low | high << 4) - 32);
    }
}
