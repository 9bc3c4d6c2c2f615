/*
 * The float kernels, written once over sixteen lanes and compiled for every tier (the tier's file
 * includes its lanes-*.h first). No operation here depends on how wide the machine's vectors are,
 * so every tier gives the same bits.
 *
 * Elementary functions are our own, with errors measured against double-precision libm over their
 * whole range (tests/unit/engine-math.c): exp 2 ulp, tanh 4 ulp, and what is built from them.
 */
#include "engine/kern/kern.h"
#include "engine/kern/unpack.h"

#include <math.h>

/* Calls `body` for each full group of 16 with `at` its start, then once for what is left. */
#define LANES_FOR(at, n, full, rest)                                                               \
    do {                                                                                           \
        size_t at = 0;                                                                             \
        for (; at + 16 <= (n); at += 16) {                                                         \
            full;                                                                                  \
        }                                                                                          \
        if (at < (n)) {                                                                            \
            rest;                                                                                  \
        }                                                                                          \
    } while (0)

/* ---- elementary functions ---- */

/*
 * e^x = 2^n · e^r with n = round(x / ln 2) and |r| <= ln 2 / 2: ln 2 is split in two (Cody and
 * Waite) and e^r is a polynomial of degree 6, the minimax one of the Cephes library's expf. 2^n is
 * applied in two factors, so that results run into 0 and infinity as they should.
 */
static inline v16 exp_lanes(v16 x) {
    v16 clamped = v16_min(v16_max(x, v16_set1(-110.0f)), v16_set1(100.0f));
    v16 n = v16_round(v16_mul(clamped, v16_set1(1.44269504f)));
    v16 r = v16_fma(n, v16_set1(-0.693359375f), clamped);
    v16 half = v16_round(v16_mul(n, v16_set1(0.5f)));
    v16 p = v16_set1(1.9875691500e-4f);

    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    p = v16_add(v16_fma(p, v16_mul(r, r), r), v16_set1(1.0f));
    p = v16_mul(v16_mul(p, v16_power2(half)), v16_power2(v16_sub(n, half)));
    return v16_keep_nan(x, p);
}

/* Near zero an odd polynomial (Cephes' tanhf), else 1 − 2/(e^2x + 1). */
static inline v16 tanh_lanes(v16 x) {
    v16 one = v16_set1(1.0f), z = v16_mul(x, x), p = v16_set1(-5.70498872745e-3f), large;

    p = v16_fma(p, z, v16_set1(2.06390887954e-2f));
    p = v16_fma(p, z, v16_set1(-5.37397155531e-2f));
    p = v16_fma(p, z, v16_set1(1.33314422036e-1f));
    p = v16_fma(p, z, v16_set1(-3.33332819422e-1f));
    p = v16_fma(v16_mul(p, z), x, x);
    large = v16_div(v16_set1(2.0f), v16_add(exp_lanes(v16_add(x, x)), one));
    return v16_if_small(x, 0.625f, p, v16_sub(one, large));
}

/* x / (1 + e^−x) */
static inline v16 silu_lanes(v16 x) {
    v16 e = exp_lanes(v16_sub(v16_set1(0.0f), x));

    return v16_div(x, v16_add(v16_set1(1.0f), e));
}

/* x/2 · (1 + tanh u) = x / (1 + e^−2u) with u = √(2/π)·(x + 0.044715·x³): JAX's default GELU. */
static inline v16 gelu_lanes(v16 x) {
    v16 cubed = v16_mul(v16_mul(x, x), x);
    v16 u = v16_mul(v16_fma(cubed, v16_set1(0.044715f), x), v16_set1(0.7978845608f));
    v16 e = exp_lanes(v16_mul(u, v16_set1(-2.0f)));

    return v16_div(x, v16_add(v16_set1(1.0f), e));
}

/* ---- over features ---- */

static float math_dot(const float *a, const float *b, size_t n) {
    v16 sum = v16_set1(0.0f);

    LANES_FOR(i, n, sum = v16_fma(v16_load(a + i), v16_load(b + i), sum),
              sum = v16_fma(v16_load_n(a + i, n - i), v16_load_n(b + i, n - i), sum));
    return v16_tree(sum);
}

static void math_rms_norm(const float *x, const float *scale, float eps, float *ret, size_t n) {
    float factor = 1.0f / sqrtf(math_dot(x, x, n) / (float)n + eps);
    v16 f = v16_set1(factor);

    LANES_FOR(
        i, n, v16_store(ret + i, v16_mul(v16_mul(v16_load(x + i), f), v16_load(scale + i))),
        v16_store_n(ret + i,
                    v16_mul(v16_mul(v16_load_n(x + i, n - i), f), v16_load_n(scale + i, n - i)),
                    n - i));
}

static float max_of(const float *x, size_t n) {
    v16 most = v16_set1(-INFINITY);
    float tail, r;

    LANES_FOR(i, n, most = v16_max(v16_load(x + i), most), {
        r = v16_tree_max(most);
        for (; i < n; i++) {
            tail = x[i];
            r = tail > r ? tail : r;
        }
        return r;
    });
    return v16_tree_max(most);
}

static void math_softmax(float *x, size_t n) {
    v16 most = v16_set1(max_of(x, n)), sum = v16_set1(0.0f), e;

    LANES_FOR(
        i, n,
        {
            e = exp_lanes(v16_sub(v16_load(x + i), most));
            sum = v16_add(sum, e);
            v16_store(x + i, e);
        },
        {
            e = exp_lanes(v16_sub(v16_load_n(x + i, n - i), most));
            v16_store_n(x + i, e, n - i);
            sum = v16_add(sum, v16_load_n(x + i, n - i));
        });
    sum = v16_set1(v16_tree(sum));
    LANES_FOR(i, n, v16_store(x + i, v16_div(v16_load(x + i), sum)),
              v16_store_n(x + i, v16_div(v16_load_n(x + i, n - i), sum), n - i));
}

static void math_silu_mul(const float *gate, const float *up, float *ret, size_t n) {
    LANES_FOR(
        i, n, v16_store(ret + i, v16_mul(silu_lanes(v16_load(gate + i)), v16_load(up + i))),
        v16_store_n(ret + i,
                    v16_mul(silu_lanes(v16_load_n(gate + i, n - i)), v16_load_n(up + i, n - i)),
                    n - i));
}

static void math_gelu_mul(const float *gate, const float *up, float *ret, size_t n) {
    LANES_FOR(
        i, n, v16_store(ret + i, v16_mul(gelu_lanes(v16_load(gate + i)), v16_load(up + i))),
        v16_store_n(ret + i,
                    v16_mul(gelu_lanes(v16_load_n(gate + i, n - i)), v16_load_n(up + i, n - i)),
                    n - i));
}

static inline v16 cap_lanes(v16 x, float cap) {
    v16 c = v16_set1(cap);

    return v16_mul(c, tanh_lanes(v16_div(x, c)));
}

static void math_soft_cap(float *x, float cap, size_t n) {
    LANES_FOR(i, n, v16_store(x + i, cap_lanes(v16_load(x + i), cap)),
              v16_store_n(x + i, cap_lanes(v16_load_n(x + i, n - i), cap), n - i));
}

static void math_add_scaled(float *y, const float *x, float scale, size_t n) {
    v16 s = v16_set1(scale);

    LANES_FOR(
        i, n, v16_store(y + i, v16_fma(s, v16_load(x + i), v16_load(y + i))),
        v16_store_n(y + i, v16_fma(s, v16_load_n(x + i, n - i), v16_load_n(y + i, n - i)), n - i));
}

static void math_scale(float *x, float factor, size_t n) {
    v16 f = v16_set1(factor);

    LANES_FOR(i, n, v16_store(x + i, v16_mul(v16_load(x + i), f)),
              v16_store_n(x + i, v16_mul(v16_load_n(x + i, n - i), f), n - i));
}

/* ---- halves ---- */

static void math_from_f16(const uint16_t *x, float *ret, size_t n) {
    LANES_FOR(i, n, v16_store(ret + i, v16_load_half(x + i)), {
        for (; i < n; i++)
            ret[i] = half_to_float(x[i]);
    });
}

static void math_to_f16(const float *x, uint16_t *ret, size_t n) {
    LANES_FOR(i, n, v16_store_half(ret + i, v16_load(x + i)), {
        for (; i < n; i++)
            ret[i] = float_to_half(x[i]);
    });
}

/* ---- attention over one page ---- */

#define PAGE_POSITIONS 64

/* max' = max(max, page's); sum and acc are scaled by e^(max − max'), then the page is added,
 * position by position in ascending order. */
static void fold_page(const float *p, const float *v, uint32_t n_positions, uint32_t head_size,
                      float *acc) {
    for (uint32_t i = 0; i < n_positions; i++)
        math_add_scaled(acc, v + (size_t)i * head_size, p[i], head_size);
}

static void attend_one(const struct kern_attend *a, uint32_t i_q, const float *k, const float *v) {
    const float *q = a->q + i_q * a->q_stride;
    float p[PAGE_POSITIONS], most, shrink;
    v16 sum = v16_set1(0.0f), top, e;
    uint32_t n = a->n_positions;

    for (uint32_t i = 0; i < n; i++)
        p[i] = math_dot(q, k + (size_t)i * a->head_size, a->head_size);
    if (a->cap > 0)
        math_soft_cap(p, a->cap, n);
    most = max_of(p, n);
    most = a->max[i_q] > most ? a->max[i_q] : most;
    top = v16_set1(most);
    LANES_FOR(
        i, n,
        {
            e = exp_lanes(v16_sub(v16_load(p + i), top));
            v16_store(p + i, e);
            sum = v16_add(sum, e);
        },
        {
            e = exp_lanes(v16_sub(v16_load_n(p + i, n - i), top));
            v16_store_n(p + i, e, n - i);
            sum = v16_add(sum, v16_load_n(p + i, n - i));
        });
    v16_store_n(&shrink, exp_lanes(v16_set1(a->max[i_q] - most)), 1);
    a->max[i_q] = most;
    a->sum[i_q] = fmaf(a->sum[i_q], shrink, v16_tree(sum));
    math_scale(a->acc + (size_t)i_q * a->head_size, shrink, a->head_size);
    fold_page(p, v, n, a->head_size, a->acc + (size_t)i_q * a->head_size);
}

static void math_attend_page(const struct kern_attend *a) {
    size_t n = (size_t)a->n_positions * a->head_size;
    const float *k = a->k, *v = a->v;

    if (!a->f32) {
        float *floats = a->scratch;

        math_from_f16(a->k, floats, n);
        math_from_f16(a->v, floats + n, n);
        k = floats;
        v = floats + n;
    }
    for (uint32_t i = 0; i < a->n_q; i++)
        attend_one(a, i, k, v);
}

/* ---- float weights ---- */

static void math_dequantize_f32(const void *blocks, float *ret, size_t n) {
    (void)memcpy(ret, blocks, n * sizeof(float));
}

static void math_dequantize_f16(const void *blocks, float *ret, size_t n) {
    math_from_f16(blocks, ret, n);
}

static void math_dequantize_bf16(const void *blocks, float *ret, size_t n) {
    const uint16_t *b = blocks;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)b[i] << 16;

        (void)memcpy(&ret[i], &bits, sizeof(bits));
    }
}

#define FLOAT_CHUNK 4096 /* values dequantised at a time: a multiple of 16 */

/* Each output is a dot product as math_dot(); weights of 16 bits are widened by the chunk. */
static inline void mul_floats(const struct kern_mul *m, size_t value_bytes,
                              void (*dequantize)(const void *, float *, size_t)) {
    float *chunk = m->scratch;

    for (uint32_t o = 0; o < m->n_out; o++) {
        const uint8_t *w = m->w + o * m->row_bytes;

        for (uint32_t i = 0; i < m->n_rows; i++) {
            size_t row = m->rows ? m->rows[i] : i;
            const float *x = (const float *)(const void *)(m->x->data + row * m->x->stride);
            v16 sum = v16_set1(0.0f);

            for (size_t at = 0; at < m->x->k; at += FLOAT_CHUNK) {
                size_t n = m->x->k - at < FLOAT_CHUNK ? m->x->k - at : FLOAT_CHUNK;

                if (i == 0 || m->x->k > FLOAT_CHUNK)
                    dequantize(w + at * value_bytes, chunk, n);
                LANES_FOR(j, n, sum = v16_fma(v16_load(chunk + j), v16_load(x + at + j), sum),
                          sum = v16_fma(v16_load_n(chunk + j, n - j), v16_load_n(x + at + j, n - j),
                                        sum));
            }
            m->y[i * m->y_stride + o] = v16_tree(sum);
        }
    }
}

static void math_mul_f32(const struct kern_mul *m) {
    mul_floats(m, 4, math_dequantize_f32);
}

static void math_mul_f16(const struct kern_mul *m) {
    mul_floats(m, 2, math_dequantize_f16);
}

static void math_mul_bf16(const struct kern_mul *m) {
    mul_floats(m, 2, math_dequantize_bf16);
}
