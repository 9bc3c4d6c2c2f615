/*
 * The quantised kernels, written once for all formats and compiled for every tier that has no
 * faster one of its own. This is the definition of the product (design.md 5.1): integers within a
 * block are exact; blocks are folded into one float per output, in ascending order of k, by
 *   y += d_a · (d_w·Σ + m_w·Σ a)       for super-blocks: y += d_a · (d_w·Σ − dmin_w·Σ min·sum)
 * with one rounding for the first product, one for the fused step of the mins, one for that of y.
 */
#include "engine/kern/kern.h"
#include "engine/kern/unpack.h"

#include <math.h>

static inline const int8_t *act_row(const struct kern_mul *m, uint32_t i, const float **ret_d,
                                    const int16_t **ret_sums) {
    size_t row = kern_mul_row(m, i);

    *ret_d = kern_act_scales(m->x, row);
    *ret_sums = kern_act_sums(m->x, row);
    return (const int8_t *)(m->x->data + row * m->x->stride);
}

static inline float fold_block(const struct unpacked_block *u, const int8_t *a, float d,
                               int16_t sum_a, int offset, bool has_min, float acc) {
    int32_t sum = 0;
    float value;

    for (int i = 0; i < QUANT_BLOCK; i++)
        sum += (u->q[i] - offset) * a[i];
    value = u->d * (float)sum;
    if (has_min)
        value = fmaf(u->m, (float)sum_a, value);
    return fmaf(d, value, acc);
}

static inline float fold_super(const struct unpacked_super *u, const struct kern_super *x,
                               int offset, bool has_min, float acc) {
    int32_t sum = 0, mins = 0;
    float value;

    for (int j = 0; j < 16; j++) {
        int32_t part = 0;

        for (int i = 0; i < 16; i++)
            part += (u->q[16 * j + i] - offset) * x->q[16 * j + i];
        sum += u->scale[j] * part;
        mins += u->min[j] * x->sums[j];
    }
    value = u->d * (float)sum;
    if (has_min)
        value = fmaf(-u->dmin, (float)mins, value);
    return fmaf(x->d, value, acc);
}

/* A weight block is unpacked once and used for every row; sums are folded in y itself. */
#define MUL_PLAIN(name, block, has_min)                                                            \
    static void mul_##name(const struct kern_mul *m) {                                             \
        for (uint32_t o = 0; o < m->n_out; o++) {                                                  \
            const struct block *w = (const struct block *)(const void *)(m->w + o * m->row_bytes); \
                                                                                                   \
            for (uint32_t i = 0; i < m->n_rows; i++)                                               \
                m->y[i * m->y_stride + o] = 0.0f;                                                  \
            for (uint32_t b = 0; b < m->x->k / QUANT_BLOCK; b++) {                                 \
                struct unpacked_block u;                                                           \
                                                                                                   \
                unpack_##name(&w[b], &u);                                                          \
                for (uint32_t i = 0; i < m->n_rows; i++) {                                         \
                    const int16_t *sums;                                                           \
                    const float *d;                                                                \
                    const int8_t *a = act_row(m, i, &d, &sums);                                    \
                    float *y = &m->y[i * m->y_stride + o];                                         \
                                                                                                   \
                    *y = fold_block(&u, a + b * QUANT_BLOCK, d[b], sums[b], OFFSET_##name,         \
                                    has_min, *y);                                                  \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

#define MUL_SUPER(name, block, has_min)                                                            \
    static void mul_##name(const struct kern_mul *m) {                                             \
        for (uint32_t o = 0; o < m->n_out; o++) {                                                  \
            const struct block *w = (const struct block *)(const void *)(m->w + o * m->row_bytes); \
                                                                                                   \
            for (uint32_t i = 0; i < m->n_rows; i++)                                               \
                m->y[i * m->y_stride + o] = 0.0f;                                                  \
            for (uint32_t b = 0; b < m->x->k / QUANT_SUPER; b++) {                                 \
                struct unpacked_super u;                                                           \
                                                                                                   \
                unpack_##name(&w[b], &u);                                                          \
                for (uint32_t i = 0; i < m->n_rows; i++) {                                         \
                    float *y = &m->y[i * m->y_stride + o];                                         \
                                                                                                   \
                    *y = fold_super(&u, &kern_act_supers(m->x, kern_mul_row(m, i))[b],             \
                                    OFFSET_##name, has_min, *y);                                   \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

MUL_PLAIN(q4_0, q4_0_block, false)
MUL_PLAIN(q4_1, q4_1_block, true)
MUL_PLAIN(q5_0, q5_0_block, false)
MUL_PLAIN(q5_1, q5_1_block, true)
MUL_PLAIN(q8_0, q8_0_block, false)
MUL_SUPER(q2_k, q2_k_block, true)
MUL_SUPER(q3_k, q3_k_block, false)
MUL_SUPER(q4_k, q4_k_block, true)
MUL_SUPER(q5_k, q5_k_block, true)
MUL_SUPER(q6_k, q6_k_block, false)
