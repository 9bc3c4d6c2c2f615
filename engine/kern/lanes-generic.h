/* Sixteen float lanes in plain C: the definition of what the vector tiers compute. */
#pragma once

#include "engine/kern/unpack.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 {
    float f[16];
} v16;

/* How many vectors side by side a tile of n rows of accumulators has: what the registers hold. */
#define LANES_TILE_WIDTH(n) 1
/* Rows and outputs of a tile of a float product. */
#define LANES_MUL_ROWS      1
#define LANES_MUL_OUTS      1
#define LANES_GEMM_ROWS_MIN 4

#define LANES_EACH(expression)                                                                     \
    ({                                                                                             \
        v16 _r;                                                                                    \
        for (int i = 0; i < 16; i++)                                                               \
            _r.f[i] = (expression);                                                                \
        _r;                                                                                        \
    })

static inline v16 v16_load(const float *p) {
    return LANES_EACH(p[i]);
}
static inline v16 v16_load_n(const float *p, size_t n) {
    return LANES_EACH((size_t)i < n ? p[i] : 0.0f);
}
static inline void v16_store(float *p, v16 a) {
    (void)memcpy(p, a.f, sizeof(a.f));
}
static inline void v16_store_n(float *p, v16 a, size_t n) {
    (void)memcpy(p, a.f, n * sizeof(float));
}
static inline v16 v16_set1(float x) {
    return LANES_EACH(x);
}
static inline v16 v16_add(v16 a, v16 b) {
    return LANES_EACH(a.f[i] + b.f[i]);
}
static inline v16 v16_sub(v16 a, v16 b) {
    return LANES_EACH(a.f[i] - b.f[i]);
}
static inline v16 v16_mul(v16 a, v16 b) {
    return LANES_EACH(a.f[i] * b.f[i]);
}
static inline v16 v16_div(v16 a, v16 b) {
    return LANES_EACH(a.f[i] / b.f[i]);
}
/* a·b + c, rounded once */
static inline v16 v16_fma(v16 a, v16 b, v16 c) {
    return LANES_EACH(fmaf(a.f[i], b.f[i], c.f[i]));
}
/* The second operand where either is NaN, as x86 has it. */
static inline v16 v16_max(v16 a, v16 b) {
    return LANES_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
static inline v16 v16_min(v16 a, v16 b) {
    return LANES_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
/* To the nearest integer, ties to even. */
static inline v16 v16_round(v16 a) {
    return LANES_EACH(rintf(a.f[i]));
}
/* x·2^n rounded once, for 0.5 <= x <= 2 and whole n in -160 .. 145: in two factors, of which the
 * first is exact. */
static inline v16 v16_scale2(v16 x, v16 n) {
    v16 r;

    for (int i = 0; i < 16; i++) {
        int32_t whole = (int32_t)n.f[i], half = whole / 2;
        uint32_t bits[2] = {(uint32_t)(half + 127) << 23, (uint32_t)(whole - half + 127) << 23};
        float factors[2];

        (void)memcpy(factors, bits, sizeof(factors));
        r.f[i] = x.f[i] * factors[0] * factors[1];
    }
    return r;
}
/* |a| with the sign of b */
static inline v16 v16_with_sign(v16 a, v16 b) {
    return LANES_EACH(copysignf(a.f[i], b.f[i]));
}
/* The first n lanes of a, then b's. */
static inline v16 v16_first(size_t n, v16 a, v16 b) {
    return LANES_EACH((size_t)i < n ? a.f[i] : b.f[i]);
}
/* yes where |a| < limit, else no (no where a is NaN) */
static inline v16 v16_if_small(v16 a, float limit, v16 yes, v16 no) {
    return LANES_EACH(fabsf(a.f[i]) < limit ? yes.f[i] : no.f[i]);
}
/* a where a is NaN, else r */
static inline v16 v16_keep_nan(v16 a, v16 r) {
    return LANES_EACH(a.f[i] != a.f[i] ? a.f[i] : r.f[i]);
}
static inline float v16_tree(v16 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.f[i] = a.f[i] + a.f[i + half];
    return a.f[0];
}
static inline float v16_tree_max(v16 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.f[i] = a.f[i] > a.f[i + half] ? a.f[i] : a.f[i + half];
    return a.f[0];
}
static inline v16 v16_load_bf16(const uint16_t *p) {
    v16 r;

    for (int i = 0; i < 16; i++) {
        uint32_t bits = (uint32_t)p[i] << 16;

        (void)memcpy(&r.f[i], &bits, sizeof(bits));
    }
    return r;
}
static inline v16 v16_load_int8(const int8_t *p) {
    return LANES_EACH((float)p[i]);
}
static inline v16 v16_load_half(const uint16_t *p) {
    return LANES_EACH(half_to_float(p[i]));
}
static inline void v16_store_half(uint16_t *p, v16 a) {
    for (int i = 0; i < 16; i++)
        p[i] = float_to_half(a.f[i]);
}
