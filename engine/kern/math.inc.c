/*
 * The float kernels, written once over sixteen lanes and compiled for every tier (the tier's file
 * includes its lanes-*.h first). No operation here depends on how wide the machine's vectors are,
 * so every tier gives the same bits.
 *
 * Elementary functions are our own, with errors measured against double-precision libm over their
 * whole range (tests/unit/engine-math.c): exp 1.1 ulp, tanh 1.5, silu 2.5, gelu 4 ulp down to -1
 * and a relative error of 3e-6 below.
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
 * Waite) and e^r is a polynomial of degree 6, the minimax one of the Cephes library's expf. Beyond
 * the clamps the result is 0 or infinity anyway; between, denormals are rounded once.
 */
static inline v16 exp_lanes(v16 x) {
    v16 clamped = v16_min(v16_max(x, v16_set1(-110.0f)), v16_set1(100.0f));
    v16 n = v16_round(v16_mul(clamped, v16_set1(1.44269504f)));
    v16 r = v16_fma(n, v16_set1(-0.693359375f), clamped);
    v16 p = v16_set1(1.9875691500e-4f);

    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    p = v16_add(v16_fma(p, v16_mul(r, r), r), v16_set1(1.0f));
    return v16_keep_nan(x, v16_scale2(p, n));
}

/* Near zero an odd polynomial (Cephes' tanhf), else 1 − 2/(e^2|x| + 1) with x's sign. */
static inline v16 tanh_lanes(v16 x) {
    v16 one = v16_set1(1.0f), z = v16_mul(x, x), p = v16_set1(-5.70498872745e-3f), large;
    v16 magnitude = v16_with_sign(x, one);

    p = v16_fma(p, z, v16_set1(2.06390887954e-2f));
    p = v16_fma(p, z, v16_set1(-5.37397155531e-2f));
    p = v16_fma(p, z, v16_set1(1.33314422036e-1f));
    p = v16_fma(p, z, v16_set1(-3.33332819422e-1f));
    p = v16_fma(v16_mul(p, z), x, x);
    large = v16_add(exp_lanes(v16_add(magnitude, magnitude)), one);
    large = v16_sub(one, v16_div(v16_set1(2.0f), large));
    return v16_with_sign(v16_if_small(x, 0.625f, p, large), x);
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

/* NaNs are passed over; -INFINITY where there is nothing else. */
static float max_of(const float *x, size_t n) {
    v16 least = v16_set1(-INFINITY), most = least;

    LANES_FOR(i, n, most = v16_max(v16_load(x + i), most),
              most = v16_max(v16_first(n - i, v16_load_n(x + i, n - i), least), most));
    return v16_tree_max(most);
}

/* What is subtracted before e^x: -INFINITY is a thing masked, and masked things alone give 0. */
static float softmax_top(float most) {
    return most == -INFINITY ? 0.0f : most;
}

static void math_softmax(float *x, size_t n) {
    v16 top = v16_set1(softmax_top(max_of(x, n))), sum = v16_set1(0.0f), e;

    LANES_FOR(
        i, n,
        {
            e = exp_lanes(v16_sub(v16_load(x + i), top));
            sum = v16_add(sum, e);
            v16_store(x + i, e);
        },
        {
            e = exp_lanes(v16_sub(v16_load_n(x + i, n - i), top));
            v16_store_n(x + i, e, n - i);
            sum = v16_add(sum, v16_first(n - i, e, v16_set1(0.0f)));
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

static inline v16 cap_lanes(v16 x, v16 cap, v16 inverse) {
    return v16_mul(cap, tanh_lanes(v16_mul(x, inverse)));
}

static void math_soft_cap(float *x, float cap, size_t n) {
    v16 c = v16_set1(cap), inverse = v16_set1(1.0f / cap);

    LANES_FOR(i, n, v16_store(x + i, cap_lanes(v16_load(x + i), c, inverse)),
              v16_store_n(x + i, cap_lanes(v16_load_n(x + i, n - i), c, inverse), n - i));
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

static void math_dequantize_f32(const void *blocks, float *ret, size_t n) {
    (void)memcpy(ret, blocks, n * sizeof(float));
}

static void math_dequantize_f16(const void *blocks, float *ret, size_t n) {
    math_from_f16(blocks, ret, n);
}

static void math_dequantize_bf16(const void *blocks, float *ret, size_t n) {
    const uint16_t *b = blocks;

    LANES_FOR(i, n, v16_store(ret + i, v16_load_bf16(b + i)), {
        for (; i < n; i++) {
            uint32_t bits = (uint32_t)b[i] << 16;

            (void)memcpy(&ret[i], &bits, sizeof(bits));
        }
    });
}

#include "engine/kern/attend.inc.c"
#include "engine/kern/mul-float.inc.c"
