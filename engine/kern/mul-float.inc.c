/*
 * Products of float weights, exactly as math_dot() would give them: sixteen strided sums for each
 * output and row, then the tree. Several outputs and rows are summed at once, so that what is
 * loaded is used more than once.
 */
#include "base/macro.h"

#define MUL_OUTS      LANES_MUL_OUTS
#define MUL_ROWS      LANES_MUL_ROWS
#define MUL_ROW_BLOCK 16 /* rows that are gone through before the next outputs: they fit L2 */

static inline v16 load_weights(const uint8_t *w, size_t i, const enum kern_type type) {
    if (type == KERN_F32)
        return v16_load((const float *)(const void *)w + i);
    if (type == KERN_F16)
        return v16_load_half((const uint16_t *)(const void *)w + i);
    return v16_load_bf16((const uint16_t *)(const void *)w + i);
}

/* The last n < 16. */
static __attribute__((noinline)) v16 load_last_weights(const uint8_t *w, size_t i, size_t n,
                                                       const enum kern_type type) {
    uint16_t halves[16] = {0};

    if (type == KERN_F32)
        return v16_load_n((const float *)(const void *)w + i, n);
    (void)memcpy(halves, w + i * sizeof(uint16_t), n * sizeof(uint16_t));
    return load_weights((const uint8_t *)halves, 0, type);
}

static inline const float *mul_row(const struct kern_mul *m, size_t i) {
    size_t row = kern_mul_row(m, i);

    return (const float *)(const void *)(m->x->data + row * m->x->stride);
}

static ALWAYS_INLINE void mul_tile(const struct kern_mul *m, size_t row, size_t out,
                                   const enum kern_type type, const int n_i, const int n_o) {
    size_t k = m->x->k, at = 0;
    v16 sum[MUL_ROWS][MUL_OUTS], w_at[MUL_OUTS], x_at;
    const uint8_t *w[MUL_OUTS];
    const float *x[MUL_ROWS];

#pragma GCC unroll 4
    for (int o = 0; o < n_o; o++)
        w[o] = m->w + (out + (size_t)o) * m->row_bytes;
#pragma GCC unroll 4
    for (int i = 0; i < n_i; i++) {
        x[i] = mul_row(m, row + (size_t)i);
#pragma GCC unroll 4
        for (int o = 0; o < n_o; o++)
            sum[i][o] = v16_set1(0.0f);
    }
    for (; at + 16 <= k; at += 16) {
#pragma GCC unroll 4
        for (int o = 0; o < n_o; o++)
            w_at[o] = load_weights(w[o], at, type);
#pragma GCC unroll 4
        for (int i = 0; i < n_i; i++) {
            x_at = v16_load(x[i] + at);
#pragma GCC unroll 4
            for (int o = 0; o < n_o; o++)
                sum[i][o] = v16_fma(w_at[o], x_at, sum[i][o]);
        }
    }
    if (at < k) {
#pragma GCC unroll 4
        for (int o = 0; o < n_o; o++)
            w_at[o] = load_last_weights(w[o], at, k - at, type);
#pragma GCC unroll 4
        for (int i = 0; i < n_i; i++) {
            x_at = v16_load_n(x[i] + at, k - at);
#pragma GCC unroll 4
            for (int o = 0; o < n_o; o++)
                sum[i][o] = v16_fma(w_at[o], x_at, sum[i][o]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_i; i++)
#pragma GCC unroll 4
        for (int o = 0; o < n_o; o++)
            m->y[(row + (size_t)i) * m->y_stride + out + (size_t)o] = v16_tree(sum[i][o]);
}

/* Rows [row, end) of a block for n_o outputs. */
static ALWAYS_INLINE void mul_rows(const struct kern_mul *m, size_t row, size_t end, size_t out,
                                   const enum kern_type type, const int n_o) {
    for (; row + MUL_ROWS <= end; row += MUL_ROWS)
        mul_tile(m, row, out, type, MUL_ROWS, n_o);
    for (; row < end; row++)
        mul_tile(m, row, out, type, 1, n_o);
}

static ALWAYS_INLINE void mul_floats(const struct kern_mul *m, const enum kern_type type) {
    for (size_t row = 0, end; row < m->n_rows; row = end) {
        size_t out = 0;

        end = m->n_rows - row < MUL_ROW_BLOCK ? m->n_rows : row + MUL_ROW_BLOCK;
        for (; out + MUL_OUTS <= m->n_out; out += MUL_OUTS)
            mul_rows(m, row, end, out, type, MUL_OUTS);
        for (; out < m->n_out; out++)
            mul_rows(m, row, end, out, type, 1);
    }
}

static void math_mul_f32(const struct kern_mul *m) {
    mul_floats(m, KERN_F32);
}

static void math_mul_f16(const struct kern_mul *m) {
    mul_floats(m, KERN_F16);
}

static void math_mul_bf16(const struct kern_mul *m) {
    mul_floats(m, KERN_BF16);
}
