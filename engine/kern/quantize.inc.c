/*
 * Blocks to floats and floats to activation rows, written once and compiled for every tier.
 */
#include "engine/kern/kern.h"
#include "engine/kern/unpack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEQUANTIZE_PLAIN(name)                                                                     \
    static void dequantize_##name(const void *blocks, float *ret, size_t n) {                      \
        const struct name##_block *w = blocks;                                                     \
                                                                                                   \
        for (size_t b = 0; b < n / QUANT_BLOCK; b++) {                                             \
            struct unpacked_block u;                                                               \
                                                                                                   \
            unpack_##name(&w[b], &u);                                                              \
            for (int i = 0; i < QUANT_BLOCK; i++)                                                  \
                ret[b * QUANT_BLOCK + (size_t)i] = u.d * (float)(u.q[i] - OFFSET_##name) + u.m;    \
        }                                                                                          \
    }

#define DEQUANTIZE_SUPER(name)                                                                     \
    static void dequantize_##name(const void *blocks, float *ret, size_t n) {                      \
        const struct name##_block *w = blocks;                                                     \
                                                                                                   \
        for (size_t b = 0; b < n / QUANT_SUPER; b++) {                                             \
            struct unpacked_super u;                                                               \
                                                                                                   \
            unpack_##name(&w[b], &u);                                                              \
            for (int i = 0; i < QUANT_SUPER; i++)                                                  \
                ret[b * QUANT_SUPER + (size_t)i] =                                                 \
                    u.d * u.scale[i / 16] * (float)(u.q[i] - OFFSET_##name) -                      \
                    u.dmin * u.min[i / 16];                                                        \
        }                                                                                          \
    }

DEQUANTIZE_PLAIN(q4_0)
DEQUANTIZE_PLAIN(q4_1)
DEQUANTIZE_PLAIN(q5_0)
DEQUANTIZE_PLAIN(q5_1)
DEQUANTIZE_PLAIN(q8_0)
DEQUANTIZE_SUPER(q2_k)
DEQUANTIZE_SUPER(q3_k)
DEQUANTIZE_SUPER(q4_k)
DEQUANTIZE_SUPER(q5_k)
DEQUANTIZE_SUPER(q6_k)

/* ---- activations ---- */

/*
 * d = max|x| / 127, q = x / d rounded to nearest even. A row with NaN or infinity in a block gets d
 * NaN and q 0 there: the mistake shows in the logits and nothing overflows.
 */
static inline void quantize_block(const float *x, size_t n, int8_t *q, float *ret_d, int16_t *sums,
                                  size_t n_sum) {
    uint32_t most_bits = 0;
    float most, inverse;
    bool finite;

    /* Magnitudes compare as their bits do, of which compilers make vectors. */
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;

        (void)memcpy(&bits, &x[i], sizeof(bits));
        bits &= 0x7FFFFFFF;
        most_bits = bits > most_bits ? bits : most_bits;
    }
    finite = most_bits < 0x7F800000;
    (void)memcpy(&most, &most_bits, sizeof(most));
    *ret_d = finite ? most / 127.0f : NAN;
    inverse = finite && most > 0 ? 127.0f / most : 0;
    if (inverse > 3.4028234e38f) /* max|x| is denormal: too small for a scale, so zero */
        inverse = 0;
    if (finite)
        for (size_t i = 0; i < n; i++)
            q[i] = (int8_t)(int32_t)rintf(x[i] * inverse);
    else
        (void)memset(q, 0, n);
    for (size_t j = 0; j < n / n_sum; j++) {
        int sum = 0;

        for (size_t i = 0; i < n_sum; i++)
            sum += q[j * n_sum + i];
        sums[j] = (int16_t)sum;
    }
}

/* What follows the sums of 16 values. */
static inline void finish_super(struct kern_super *x) {
    int size[16], reach_16 = 0, reach_32 = 0;

    for (int j = 0; j < 16; j++) {
        size[j] = 0;
        for (int i = 0; i < 16; i++)
            size[j] += abs(x->q[16 * j + i]);
        reach_16 = size[j] > reach_16 ? size[j] : reach_16;
    }
    for (int j = 0; j < 8; j++) {
        int sum = x->sums[2 * j] + x->sums[2 * j + 1];
        /* positive − negative = sum, positive + negative = size */
        int more = (size[2 * j] + size[2 * j + 1] + abs(sum)) / 2;

        reach_32 = more > reach_32 ? more : reach_32;
        x->sums[KERN_SUPER_SUMS_32 + j] = (int16_t)sum;
    }
    x->sums[KERN_SUPER_REACH_16] = (int16_t)reach_16;
    x->sums[KERN_SUPER_REACH_32] = (int16_t)reach_32;
}

static void quantize_q8_32(const float *x, size_t k, uint8_t *ret_row) {
    struct kern_acts acts = {.kind = ACT_Q8_32, .k = (uint32_t)k, .data = ret_row};
    float *d = (float *)(uintptr_t)kern_act_scales(&acts, 0);
    int16_t *sums = (int16_t *)(uintptr_t)kern_act_sums(&acts, 0);

    for (size_t b = 0; b < k / 32; b++)
        quantize_block(x + b * 32, 32, (int8_t *)ret_row + b * 32, &d[b], &sums[b], 32);
}

static void quantize_q8_256(const float *x, size_t k, uint8_t *ret_row) {
    struct kern_super *to = (struct kern_super *)(void *)ret_row;

    for (size_t b = 0; b < k / 256; b++) {
        quantize_block(x + b * 256, 256, to[b].q, &to[b].d, to[b].sums, 16);
        finish_super(&to[b]);
    }
}

static inline void residual_block(const float *x, const int8_t *q, float d, size_t n, float *ret) {
    for (size_t i = 0; i < n; i++)
        ret[i] = x[i] - (float)q[i] * d;
}

static void residual(const float *x, const struct kern_acts *acts, size_t row, float *ret) {
    const uint8_t *at = acts->data + row * acts->stride;
    const struct kern_super *super = kern_act_supers(acts, row);

    if (acts->kind == ACT_Q8_256)
        for (size_t b = 0; b < acts->k / 256; b++)
            residual_block(x + b * 256, super[b].q, super[b].d, 256, ret + b * 256);
    else
        for (size_t b = 0; b < acts->k / 32; b++)
            residual_block(x + b * 32, (const int8_t *)at + b * 32, kern_act_scales(acts, row)[b],
                           32, ret + b * 32);
}
