/*
 * engine/kern's float half: every tier gives the generic tier's bits, whatever the values and
 * sizes; the generic tier is as accurate as it says; nothing is read or written beside its place.
 *
 * The reference is libm in double precision. The elementary functions are reached by compiling the
 * generic body into this test.
 */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "engine/kern/lanes-generic.h"

#include "engine/kern/math.inc.c"

#include "base/macro.h"
#include "tests/util/test.h"

#include <float.h>
#include <stdio.h>
#include <sys/mman.h>

/* ---- values ---- */

static uint64_t random_state = 1;

static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float random_float(float magnitude) {
    return ((float)random_u32() * 0x1p-31f - 1.0f) * magnitude;
}

static float from_bits(uint32_t bits) {
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static const uint32_t specials[] = {
    0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x00000001, 0x807FFFFF,
    0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x42B17218, 0xC2CFF1B5, 0xC2AEAC50,
    0x3F200000, 0xBF200000, 0x3F1FFFFF, 0x477FF000, 0x477FEFFF, 0x33000000, 0x33000001, 0x7F800001,
};

/* How wild: 0 ordinary numbers, 1 with special ones among them, 2 any bits. */
static void fill(float *x, size_t n, int wildness) {
    for (size_t i = 0; i < n; i++) {
        x[i] = random_float(i % 7 ? 3.0f : 30.0f);
        if (wildness == 1 && random_u32() % 8 == 0)
            x[i] = from_bits(specials[random_u32() % ARRAY_SIZE(specials)]);
        if (wildness == 2)
            x[i] = from_bits(random_u32());
    }
}

/* The same bits, or NaN both: what a NaN carries is not part of the contract. */
static void assert_same(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i]))
            continue;
        if (bits_of(a[i]) != bits_of(b[i]))
            printf("# element %zu of %zu: %a, generic %a\n", i, n, (double)a[i], (double)b[i]);
        assert(bits_of(a[i]) == bits_of(b[i]));
    }
}

/* ---- memory between pages that can't be touched ---- */

#define PAGE     4096
#define GUARDS   12
#define GUARD_KB 1024

/* Slot i's n bytes end (or, where `front`, begin) at a page that faults. */
static void *guarded(unsigned i, size_t n, bool front) {
    static uint8_t *slots[GUARDS];
    const size_t n_inner = (size_t)GUARD_KB * 1024;

    assert(i < GUARDS && n <= n_inner);
    if (!slots[i]) {
        slots[i] =
            mmap(NULL, n_inner + 2 * (size_t)PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert(slots[i] != MAP_FAILED);
        assert(mprotect(slots[i] + PAGE, n_inner, PROT_READ | PROT_WRITE) == 0);
    }
    return slots[i] + PAGE + (front ? 0 : n_inner - n);
}

static float *guarded_floats(unsigned i, size_t n, bool front) {
    return guarded(i, n * sizeof(float), front);
}

/* ---- tiers ---- */

static const struct kern_ops *generic(void) {
    return kern_select("generic");
}

/* Calls check(tier) for each tier that this CPU has beside the generic one. */
static void each_tier(void (*check)(const struct kern_ops *kern)) {
    const char *const *names = kern_isa_names();
    unsigned n = 0;

    assert(strcmp(names[0], "generic") == 0);
    for (size_t i = 1; names[i]; i++) {
        const struct kern_ops *kern = kern_select(names[i]);

        if (!kern)
            continue;
        assert(strcmp(kern->name, names[i]) == 0);
        random_state = 1;
        check(kern);
        n++;
    }
    if (n == 0)
        test_skip("this CPU has no tier but the generic one");
}

/* ---- vectors ---- */

static void check_vectors_of(const struct kern_ops *kern, size_t n, int wildness, bool front) {
    float *a = guarded_floats(0, n, front), *b = guarded_floats(1, n, front);
    float *x = guarded_floats(2, n, front), *y = guarded_floats(3, n, front), dots[2];
    uint16_t *half = guarded(4, n * 2, front), *half_y = guarded(5, n * 2, front);
    const struct kern_ops *g = generic();

    fill(a, n, wildness);
    fill(b, n, wildness);
    dots[0] = kern->dot(a, b, n);
    dots[1] = g->dot(a, b, n);
    assert_same(&dots[0], &dots[1], 1);
    kern->rms_norm(a, b, 1e-5f, x, n);
    g->rms_norm(a, b, 1e-5f, y, n);
    assert_same(x, y, n);
    kern->silu_mul(a, b, x, n);
    g->silu_mul(a, b, y, n);
    assert_same(x, y, n);
    kern->gelu_mul(a, b, x, n);
    g->gelu_mul(a, b, y, n);
    assert_same(x, y, n);
#define CHECK_IN_PLACE(call_x, call_y)                                                             \
    do {                                                                                           \
        memcpy(x, b, n * sizeof(*x));                                                              \
        memcpy(y, b, n * sizeof(*y));                                                              \
        call_x;                                                                                    \
        call_y;                                                                                    \
        assert_same(x, y, n);                                                                      \
    } while (0)
    CHECK_IN_PLACE(kern->softmax(x, n), g->softmax(y, n));
    CHECK_IN_PLACE(kern->soft_cap(x, 30.0f, n), g->soft_cap(y, 30.0f, n));
    CHECK_IN_PLACE(kern->add_scaled(x, a, 0.37f, n), g->add_scaled(y, a, 0.37f, n));
    CHECK_IN_PLACE(kern->scale(x, 1.7f, n), g->scale(y, 1.7f, n));
    kern->to_f16(a, half, n);
    g->to_f16(a, half_y, n);
    assert(memcmp(half, half_y, n * 2) == 0);
    for (size_t i = 0; i < n; i++)
        half[i] = (uint16_t)random_u32();
    kern->from_f16(half, x, n);
    g->from_f16(half, y, n);
    assert_same(x, y, n);
    kern->dequantize[KERN_BF16](half, x, n);
    g->dequantize[KERN_BF16](half, y, n);
    assert_same(x, y, n);
    kern->dequantize[KERN_F16](half, x, n);
    g->dequantize[KERN_F16](half, y, n);
    assert_same(x, y, n);
    kern->dequantize[KERN_F32](a, x, n);
    assert_same(x, a, n);
}

static void check_vectors(const struct kern_ops *kern) {
    for (size_t n = 1; n < 100; n++)
        for (int wildness = 0; wildness < 3; wildness++)
            check_vectors_of(kern, n, wildness, n % 2);
    for (int i = 0; i < 20; i++)
        check_vectors_of(kern, 1000 + random_u32() % 5000, i % 3, i % 2);
}

static void test_vectors_have_the_same_bits_on_every_tier(void) {
    each_tier(check_vectors);
}

/* design.md 5.1: sixteen strided sums, then the tree, each product fused. */
static void test_dot_is_as_the_contract_says(void) {
    float a[77], b[77], sums[16] = {0}, dot;

    fill(a, 77, 0);
    fill(b, 77, 0);
    for (size_t i = 0; i < 77; i++)
        sums[i % 16] = fmaf(a[i], b[i], sums[i % 16]);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    dot = generic()->dot(a, b, 77);
    assert(bits_of(dot) == bits_of(sums[0]));
}

/* ---- halves ---- */

static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double r = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);

    return h & 0x8000 ? -r : r;
}

static void test_halves(void) {
    const struct kern_ops *g = generic();
    uint16_t back;
    float f;

    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;

        g->from_f16(&half, &f, 1);
        g->to_f16(&f, &back, 1);
        if ((h & 0x7FFF) > 0x7C00) {
            assert(isnan(f) && back == (half | 0x0200));
            continue;
        }
        assert(back == half);
        if ((h & 0x7FFF) == 0x7C00)
            assert(isinf(f) && !!signbit(f) == (int)(h >> 15));
        else
            assert((double)f == half_value(half) && !!signbit(f) == (int)(h >> 15));
    }
    /* The nearest, ties to even; the first that is infinite is half-way beyond the last. */
    for (int i = 0; i < 300000; i++) {
        double below, above;

        f = i % 3 ? fabsf(random_float(i % 2 ? 70000.0f : 1e-4f)) : from_bits(random_u32() >> 1);
        if (isnan(f))
            continue;
        g->to_f16(&f, &back, 1);
        if (f >= 65520.0f) {
            assert(back == 0x7C00);
            continue;
        }
        assert(back < 0x7C00);
        below = back ? half_value(back - 1) : -1;
        above = back == 0x7BFF ? 65536 : half_value(back + 1);
        assert(fabs((double)f - half_value(back)) <= fmin((double)f - below, above - (double)f));
        if (fabs((double)f - half_value(back)) == fmin((double)f - below, above - (double)f))
            assert(back % 2 == 0);
    }
}

/* ---- accuracy of the elementary functions ---- */

/* Distance in units of the float's last place; denormals have 2^-149. */
static double ulps(float got, double truth) {
    int exponent;

    if (isnan(truth) || isinf((float)truth) || isinf(got))
        return (isnan(truth) ? isnan(got) : got == (float)truth) ? 0 : INFINITY;
    (void)frexp(truth, &exponent);
    return fabs((double)got - truth) / ldexp(1, MAX(exponent, -125) - 24);
}

/* The worst over floats of all magnitudes, every `step`-th. */
static double worst_ulps(v16 (*lanes)(v16), double (*truth)(double), uint32_t step, float min,
                         float max) {
    double worst = 0;
    v16 x, y;

    for (uint64_t bits = 0; bits <= UINT32_MAX - 16ull * step; bits += 16ull * step) {
        for (uint32_t i = 0; i < 16; i++)
            x.f[i] = from_bits((uint32_t)bits + i * step);
        y = lanes(x);
        for (uint32_t i = 0; i < 16; i++)
            if (isnan(x.f[i]))
                assert(isnan(y.f[i]));
            else if (x.f[i] >= min && x.f[i] <= max)
                worst = fmax(worst, ulps(y.f[i], truth((double)x.f[i])));
    }
    return worst;
}

static double true_silu(double x) {
    return x / (1 + exp(-x));
}

/* x/2 · (1 + tanh u) without the cancellation. */
static double true_gelu(double x) {
    return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static void test_elementary_functions_are_accurate(void) {
    double exp_ulps = worst_ulps(exp_lanes, exp, 1499, -INFINITY, INFINITY);
    double tanh_ulps = worst_ulps(tanh_lanes, tanh, 1499, -INFINITY, INFINITY);
    double silu_ulps = worst_ulps(silu_lanes, true_silu, 1499, -80.0f, FLT_MAX);
    double gelu_ulps = worst_ulps(gelu_lanes, true_gelu, 1499, -1.0f, FLT_MAX);

    printf("# ulp: exp %.2f, tanh %.2f, silu %.2f, gelu %.2f\n", exp_ulps, tanh_ulps, silu_ulps,
           gelu_ulps);
    assert(exp_ulps <= 1.1 && tanh_ulps <= 1.5 && silu_ulps <= 2.5 && gelu_ulps <= 4);
}

static void test_elementary_functions_at_the_edges(void) {
    const v16 x = {.f = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 88.7228f, 88.73f, -87.3365f,
                         -103.97f, -103.98f, -1000.0f, 1000.0f, 1e-45f, -1e-45f, FLT_MAX,
                         -FLT_MAX}};
    v16 e = exp_lanes(x), t = tanh_lanes(x), s = silu_lanes(x), g = gelu_lanes(x);

    assert(e.f[0] == 1 && e.f[1] == 1 && isinf(e.f[2]) && e.f[3] == 0 && isnan(e.f[4]));
    assert(!isinf(e.f[5]) && isinf(e.f[6]) && e.f[7] > 0 && e.f[8] == from_bits(1));
    assert(e.f[9] == 0 && e.f[10] == 0 && isinf(e.f[11]) && e.f[12] == 1 && e.f[13] == 1);
    assert(t.f[0] == 0 && !signbit(t.f[0]) && signbit(t.f[1]) && t.f[2] == 1 && t.f[3] == -1);
    assert(isnan(t.f[4]) && t.f[11] == 1 && t.f[10] == -1 && t.f[12] == x.f[12]);
    assert(s.f[0] == 0 && s.f[2] == INFINITY && isnan(s.f[4]) && s.f[14] == FLT_MAX);
    assert(g.f[0] == 0 && isnan(g.f[4]) && g.f[11] == 1000 && g.f[10] == 0);
    for (int i = 0; i < 16; i++)
        if (!isnan(x.f[i]))
            assert(fabsf(t.f[i]) <= 1 && e.f[i] >= 0);
}

/* Far below zero GELU is tiny and the exponential magnifies its argument's rounding. */
static void test_gelu_below_minus_one(void) {
    double worst = 0;

    for (int i = 0; i < 50000; i++) {
        float at = -1.0f - (float)i * 1e-4f;
        v16 g = gelu_lanes(v16_set1(at));

        worst = fmax(worst, fabs((double)g.f[3] / true_gelu((double)at) - 1));
    }
    printf("# gelu: relative error %.2g\n", worst);
    assert(worst < 3e-6);
}

static void test_softmax_and_norm_against_double(void) {
    float x[301], p[301], scale[301], y[301];
    double sum = 0, most = -INFINITY;

    fill(x, 301, 0);
    fill(scale, 301, 0);
    memcpy(p, x, sizeof(p));
    generic()->softmax(p, 301);
    for (size_t i = 0; i < 301; i++)
        most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < 301; i++)
        sum += exp((double)x[i] - most);
    for (size_t i = 0; i < 301; i++)
        assert(fabs((double)p[i] / (exp((double)x[i] - most) / sum) - 1) < 2e-6);
    generic()->rms_norm(x, scale, 1e-5f, y, 301);
    sum = 0;
    for (size_t i = 0; i < 301; i++)
        sum += (double)x[i] * (double)x[i];
    for (size_t i = 0; i < 301; i++)
        assert(fabs((double)y[i] - (double)x[i] * (double)scale[i] / sqrt(sum / 301 + 1e-5)) <=
               1e-6 * fabs((double)y[i]));
}

static void test_softmax_of_what_is_masked(void) {
    float x[20], y[3] = {-INFINITY, -INFINITY, -INFINITY}, z[3] = {1, NAN, 2};

    for (int i = 0; i < 20; i++)
        x[i] = i == 3 || i == 17 ? 5.0f : -INFINITY;
    generic()->softmax(x, 20);
    for (int i = 0; i < 20; i++)
        assert(x[i] == (i == 3 || i == 17 ? 0.5f : 0.0f));
    generic()->softmax(y, 3);
    generic()->softmax(z, 3);
    for (int i = 0; i < 3; i++)
        assert(isnan(y[i]) && isnan(z[i]));
}

/* ---- attention ---- */

struct attention {
    uint32_t n_rows, n_heads, head_size, n_pages;
    enum kern_page type;
    float cap;
    uint32_t n_positions[32]; // (n_rows) of the last page
    size_t row_stride;
    bool by_spans; /* each page is one */
    float *q, *max, *sum;
    float *span_acc, *span_max, *span_sum; /* of a span after the first */
    void *k, *v, *scratch;                 // (n_pages, 64·head_size)
};

static size_t page_bytes(const struct attention *a) {
    return kern_page_bytes(a->type, a->head_size);
}

static void fill_page(const struct attention *a, void *page, float magnitude) {
    size_t n_scales = KERN_PAGE_POSITIONS * kern_page_n_blocks(a->head_size);

    for (size_t i = 0; i < (size_t)a->head_size * KERN_PAGE_POSITIONS; i++)
        if (a->type == KERN_PAGE_F32)
            ((float *)page)[i] = random_float(magnitude);
        else if (a->type == KERN_PAGE_F16)
            ((uint16_t *)page)[i] = float_to_half(random_float(magnitude));
        else
            ((int8_t *)page)[i] = (int8_t)(random_u32() % 255 - 127);
    for (size_t i = 0; a->type == KERN_PAGE_Q8_0 && i < n_scales; i++)
        kern_page_scales(page, a->head_size)[i] = float_to_half(random_float(magnitude / 127));
}

/* What a page holds of a position's feature: keys lie feature by feature, and so do their scales.
 */
static double page_value(const struct attention *a, const void *pages, bool keys, size_t position,
                         size_t feature) {
    const uint8_t *p = (const uint8_t *)pages + position / KERN_PAGE_POSITIONS * page_bytes(a);
    size_t at = position % KERN_PAGE_POSITIONS, block = feature / KERN_PAGE_BLOCK;
    size_t i = keys ? feature * KERN_PAGE_POSITIONS + at : at * a->head_size + feature;

    if (a->type == KERN_PAGE_F32)
        return (double)((const float *)(const void *)p)[i];
    if (a->type == KERN_PAGE_F16)
        return half_value(((const uint16_t *)(const void *)p)[i]);
    return ((const int8_t *)p)[i] *
           half_value(kern_page_scales(
               p, a->head_size)[keys ? block * KERN_PAGE_POSITIONS + at
                                     : at * kern_page_n_blocks(a->head_size) + block]);
}

/* What no row may see: values that would spoil everything. */
static void spoil_the_unseen(const struct attention *a) {
    uint8_t *k = (uint8_t *)a->k + (a->n_pages - 1) * page_bytes(a);
    uint8_t *v = (uint8_t *)a->v + (a->n_pages - 1) * page_bytes(a);
    const uint8_t nan[2][4] = {{0, 0x7E}, {0, 0, 0xC0, 0x7F}};
    bool blocks = a->type == KERN_PAGE_Q8_0;
    size_t n = a->type == KERN_PAGE_F32 ? 4 : 2,
           n_each = blocks ? kern_page_n_blocks(a->head_size) : a->head_size;
    uint32_t seen = 0;

    if (blocks) { /* the scales, then */
        k = (uint8_t *)kern_page_scales(k, a->head_size);
        v = (uint8_t *)kern_page_scales(v, a->head_size);
    }

    for (uint32_t i = 0; i < a->n_rows; i++)
        seen = MAX(seen, a->n_positions[i]);
    for (size_t position = seen; position < KERN_PAGE_POSITIONS; position++)
        for (size_t i = 0; i < n_each; i++) {
            memcpy(k + (i * KERN_PAGE_POSITIONS + position) * n, nan[n == 4], n);
            memcpy(v + (position * n_each + i) * n, nan[n == 4], n);
        }
}

/* What queries, keys and values are made of: ordinary numbers; all the same, so that scores are;
 * denormal ones; the largest, so that scores saturate the cap or overflow; infinite ones and NaN.
 */
enum wild_kind { ORDINARY, ALL_EQUAL, DENORMAL, LARGEST, SPECIAL, N_WILD_KINDS };

/* A float16. */
static uint16_t wild_half(enum wild_kind kind) {
    uint16_t sign = (uint16_t)(random_u32() % 2 << 15), fraction = (uint16_t)(random_u32() % 0x400);

    switch (kind) {
    case ALL_EQUAL:
        return 0x3400;
    case DENORMAL:
        return sign | fraction;
    case LARGEST:
        return sign | 0x7BFF;
    default:
        return sign | (random_u32() % 8 ? 0x3800 | fraction : random_u32() % 2 ? 0x7C00 : 0x7E00);
    }
}

static float wild_float(enum wild_kind kind) {
    uint32_t sign = random_u32() << 31;

    switch (kind) {
    case ALL_EQUAL:
        return 0.25f;
    case DENORMAL:
        return from_bits(sign | random_u32() % 0x800000);
    case LARGEST:
        return from_bits(sign | 0x7F7FFFFF);
    default:
        return random_u32() % 8 ? random_float(1)
                                : from_bits(specials[random_u32() % ARRAY_SIZE(specials)]);
    }
}

static void make_page_wild(const struct attention *a, void *page, enum wild_kind kind) {
    size_t n = (size_t)a->head_size * KERN_PAGE_POSITIONS,
           n_scales = KERN_PAGE_POSITIONS * kern_page_n_blocks(a->head_size);

    for (size_t i = 0; i < n; i++)
        if (a->type == KERN_PAGE_F32)
            ((float *)page)[i] = wild_float(kind);
        else if (a->type == KERN_PAGE_F16)
            ((uint16_t *)page)[i] = wild_half(kind);
        else if (kind == ALL_EQUAL || kind == LARGEST)
            ((int8_t *)page)[i] = kind == LARGEST && random_u32() % 2 ? -127 : 127;
    for (size_t i = 0; a->type == KERN_PAGE_Q8_0 && i < n_scales; i++)
        kern_page_scales(page, a->head_size)[i] = wild_half(kind);
}

/* Queries, keys and values each of this kind or ordinary, so that kinds meet. */
static void make_wild(const struct attention *a, enum wild_kind kind) {
    uint32_t which = kind == ORDINARY ? 0 : 1 + random_u32() % 7;
    size_t n = (a->n_rows - 1) * a->row_stride + (size_t)a->n_heads * a->head_size;

    for (size_t i = 0; which & 1 && i < n; i++)
        a->q[i] = wild_float(kind);
    for (size_t i = 0; i < a->n_pages; i++) {
        if (which & 2)
            make_page_wild(a, (uint8_t *)a->k + i * page_bytes(a), kind);
        if (which & 4)
            make_page_wild(a, (uint8_t *)a->v + i * page_bytes(a), kind);
    }
    spoil_the_unseen(a);
}

static struct attention random_attention(bool front, uint32_t head_size) {
    struct attention a = {
        .n_rows = 1 + random_u32() % 9,
        .n_heads = 1 + random_u32() % 8,
        .head_size = head_size,
        .n_pages = 1 + random_u32() % 3,
        .type = (enum kern_page)(random_u32() % 3),
        .cap = random_u32() % 2 ? 30.0f : 0.0f,
        .by_spans = random_u32() % 2,
    };
    size_t n, n_queries = (size_t)a.n_rows * a.n_heads;

    a.row_stride = (size_t)a.n_heads * head_size + random_u32() % 2 * 5;
    n = (a.n_rows - 1) * a.row_stride + (size_t)a.n_heads * head_size;
    for (uint32_t i = 0; i < a.n_rows; i++)
        a.n_positions[i] = random_u32() % 3 ? 1 + random_u32() % 64 : 64;
    a.q = guarded_floats(0, n, front);
    a.max = guarded_floats(2, n_queries, front);
    a.sum = guarded_floats(3, n_queries, front);
    a.span_acc = guarded_floats(1, n, front);
    a.span_max = guarded_floats(9, n_queries, front);
    a.span_sum = guarded_floats(10, n_queries, front);
    a.k = guarded(4, a.n_pages * page_bytes(&a), front);
    a.v = guarded(5, a.n_pages * page_bytes(&a), front);
    a.scratch = guarded(6, KERN_SCRATCH_BYTES, front);
    fill(a.q, n, 0);
    for (size_t i = 0; i < n; i++)
        a.q[i] *= 0.1f;
    for (size_t i = 0; i < a.n_pages; i++) {
        fill_page(&a, (uint8_t *)a.k + i * page_bytes(&a), 2.0f);
        fill_page(&a, (uint8_t *)a.v + i * page_bytes(&a), 3.0f);
    }
    spoil_the_unseen(&a);
    return a;
}

static size_t query_at(const struct attention *a, uint32_t i) {
    return i / a->n_heads * a->row_stride + (size_t)(i % a->n_heads) * a->head_size;
}

/* Rows [first, first + n_rows) before the first page of a span. */
static void begin_span(const struct attention *a, uint32_t n_rows, float *acc, float *max,
                       float *sum) {
    for (uint32_t i = 0; i < n_rows * a->n_heads; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }
    for (uint32_t i = 0; i < n_rows; i++)
        memset(acc + i * a->row_stride, 0, (size_t)a->n_heads * a->head_size * 4);
}

/* Rows [first, first + n_rows) through all pages; results as far as acc / sum, in `ret`, which is
 * strided as q is. */
static void attend(const struct kern_ops *kern, const struct attention *a, uint32_t first,
                   uint32_t n_rows, float *ret) {
    uint32_t seen[32];

    ret += first * a->row_stride;
    begin_span(a, n_rows, ret, a->max, a->sum);
    for (uint32_t page = 0; page < a->n_pages; page++) {
        bool is_more = a->by_spans && page > 0;

        if (is_more)
            begin_span(a, n_rows, a->span_acc, a->span_max, a->span_sum);
        for (uint32_t i = 0; i < n_rows; i++)
            seen[i] = page + 1 < a->n_pages ? 64 : a->n_positions[first + i];
        kern->attend_page(&(struct kern_attend){
            .q = a->q + first * a->row_stride,
            .acc = is_more ? a->span_acc : ret,
            .max = is_more ? a->span_max : a->max,
            .sum = is_more ? a->span_sum : a->sum,
            .row_stride = a->row_stride,
            .n_rows = n_rows,
            .n_heads = a->n_heads,
            .head_size = a->head_size,
            .k = (uint8_t *)a->k + page * page_bytes(a),
            .v = (uint8_t *)a->v + page * page_bytes(a),
            .next_k = page % 2 ? NULL : a->q, /* only fetched: any address will do */
            .next_v = page % 2 ? NULL : (uint8_t *)a->v + a->n_pages * page_bytes(a),
            .type = a->type,
            .n_positions = seen,
            .cap = a->cap,
            .scratch = a->scratch,
        });
        for (uint32_t i = 0; is_more && i < n_rows * a->n_heads; i++) {
            struct kern_span so_far = {ret + query_at(a, i), a->max[i], a->sum[i]},
                             next = {a->span_acc + query_at(a, i), a->span_max[i], a->span_sum[i]};

            kern->attend_merge(&so_far, &next, a->head_size);
            a->max[i] = so_far.max;
            a->sum[i] = so_far.sum;
        }
    }
    for (uint32_t i = 0; i < n_rows * a->n_heads; i++)
        kern->scale(ret + query_at(a, i), 1.0f / a->sum[i], a->head_size);
}

static void assert_same_heads(const struct attention *a, const float *x, const float *y) {
    for (uint32_t i = 0; i < a->n_rows; i++)
        assert_same(x + i * a->row_stride, y + i * a->row_stride,
                    (size_t)a->n_heads * a->head_size);
}

static const uint32_t head_sizes[] = {128, 64, 16, 8, 32, 1, 17, 80, 100, 23, 256};

static void check_attention(const struct kern_ops *kern) {
    for (uint32_t round = 0; round < 220; round++) {
        enum wild_kind kind = round < 110 ? ORDINARY : 1 + round % (N_WILD_KINDS - 1);
        bool front = round % 2;
        struct attention a = random_attention(front, head_sizes[round % ARRAY_SIZE(head_sizes)]);
        size_t n = (a.n_rows - 1) * a.row_stride + (size_t)a.n_heads * a.head_size;
        float *x = guarded_floats(7, n, front), *y = guarded_floats(8, n, front);

        make_wild(&a, kind);
        attend(generic(), &a, 0, a.n_rows, y);
        attend(kern, &a, 0, a.n_rows, x);
        assert_same_heads(&a, x, y);
        for (uint32_t i = 0; i < a.n_rows; i++)
            attend(kern, &a, i, 1, x); /* each row alone */
        assert_same_heads(&a, x, y);
        for (uint32_t i = 0; kind == ORDINARY && i < a.n_rows; i++)
            for (size_t j = 0; j < (size_t)a.n_heads * a.head_size; j++)
                assert(isfinite(x[i * a.row_stride + j]));
    }
}

static void test_attention_has_the_same_bits_on_every_tier_and_in_company(void) {
    each_tier(check_attention);
}

/* As it is written: all scores, softmax, weighted sum. */
static void true_attention(const struct attention *a, uint32_t row, uint32_t head, double *ret) {
    uint32_t n = (a->n_pages - 1) * 64 + a->n_positions[row];
    const float *q = a->q + row * a->row_stride + (size_t)head * a->head_size;
    double scores[192], most = -INFINITY, sum = 0;

    assert(n <= ARRAY_SIZE(scores));
    for (uint32_t t = 0; t < n; t++) {
        scores[t] = 0;
        for (uint32_t i = 0; i < a->head_size; i++)
            scores[t] += (double)q[i] * page_value(a, a->k, true, t, i);
        if (a->cap > 0)
            scores[t] = (double)a->cap * tanh(scores[t] / (double)a->cap);
        most = fmax(most, scores[t]);
    }
    memset(ret, 0, a->head_size * sizeof(*ret));
    for (uint32_t t = 0; t < n; t++) {
        sum += exp(scores[t] - most);
        for (uint32_t i = 0; i < a->head_size; i++)
            ret[i] += exp(scores[t] - most) * page_value(a, a->v, false, t, i);
    }
    for (uint32_t i = 0; i < a->head_size; i++)
        ret[i] /= sum;
}

static void test_attention_against_double(void) {
    double truth[256], worst = 0;

    for (uint32_t round = 0; round < 60; round++) {
        struct attention a = random_attention(false, head_sizes[round % ARRAY_SIZE(head_sizes)]);
        size_t n = (a.n_rows - 1) * a.row_stride + (size_t)a.n_heads * a.head_size;
        float *x = guarded_floats(7, n, false);

        attend(kern_select(NULL), &a, 0, a.n_rows, x);
        for (uint32_t row = 0; row < a.n_rows; row++)
            for (uint32_t head = 0; head < a.n_heads; head++) {
                true_attention(&a, row, head, truth);
                for (uint32_t i = 0; i < a.head_size; i++)
                    worst = fmax(
                        worst, fabs((double)x[row * a.row_stride + (size_t)head * a.head_size + i] -
                                    truth[i]));
            }
    }
    printf("# attention: error %.2g of values up to 3\n", worst);
    assert(worst < 5e-5);
}

/* NaN stays in its own query; -INFINITY is a position that isn't there. */
static void check_wild_attention(const struct kern_ops *kern) {
    uint32_t seen[2] = {5, 5};
    float q[2] = {NAN, 1}, acc[2] = {0}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0};
    float *k = guarded_floats(4, 64, false), *v = guarded_floats(5, 64, false);
    struct kern_attend a = {.q = q,
                            .acc = acc,
                            .max = max,
                            .sum = sum,
                            .row_stride = 1,
                            .n_rows = 2,
                            .n_heads = 1,
                            .head_size = 1,
                            .k = k,
                            .v = v,
                            .type = KERN_PAGE_F32,
                            .n_positions = seen,
                            .scratch = guarded(6, KERN_SCRATCH_BYTES, false)};

    for (int i = 0; i < 64; i++) {
        k[i] = i == 2 ? 0.5f : -INFINITY;
        v[i] = (float)i;
    }
    kern->attend_page(&a);
    assert(isnan(acc[0]) && acc[1] == 2 && sum[1] == 1 && max[1] == 0.5f);
    k[2] = -INFINITY; /* a page without any visible position changes nothing */
    kern->attend_page(&a);
    assert(isnan(acc[0]) && acc[1] == 2 && sum[1] == 1 && max[1] == 0.5f);
    acc[1] = sum[1] = 0;
    max[1] = -INFINITY;
    kern->attend_page(&a); /* nor does it as the first */
    assert(acc[1] == 0 && sum[1] == 0 && max[1] == -INFINITY);
    k[0] = INFINITY;
    kern->attend_page(&a);
    assert(isnan(acc[1] / sum[1]));
}

/* Nothing of a span that sees nothing; NaN from either. */
static void check_wild_merge(const struct kern_ops *kern) {
    float acc[2] = {6, 8}, other[2] = {1, 2};
    struct kern_span span = {acc, 0.5f, 2}, empty = {(float[2]){0}, -INFINITY, 0},
                     more = {other, 0.5f, 1}, wild = {(float[2]){NAN, NAN}, 0.5f, NAN};

    kern->attend_merge(&span, &empty, 2);
    assert(acc[0] == 6 && acc[1] == 8 && span.max == 0.5f && span.sum == 2);
    kern->attend_merge(&span, &more, 2);
    assert(acc[0] == 7 && acc[1] == 10 && span.max == 0.5f && span.sum == 3);
    kern->attend_merge(&empty, &more, 2);
    assert(empty.acc[0] == 1 && empty.acc[1] == 2 && empty.max == 0.5f && empty.sum == 1);
    kern->attend_merge(&more, &wild, 2);
    assert(isnan(other[0]) && isnan(other[1]) && isnan(more.sum));
}

static void test_attention_of_what_is_no_number(void) {
    check_wild_attention(generic());
    each_tier(check_wild_attention);
    check_wild_merge(generic());
    each_tier(check_wild_merge);
}

/* ---- products of float weights ---- */

static const enum kern_type float_types[] = {KERN_F32, KERN_F16, KERN_BF16};

struct product {
    struct kern_mul m;
    struct kern_acts x;
    uint32_t rows[200];
    enum kern_type type;
    size_t n_y;
};

static void random_product(struct product *p, enum kern_type type, uint32_t k, uint32_t n_rows,
                           uint32_t n_out, int wildness, bool front) {
    size_t value_bytes = kern_types[type].block_bytes, n_w = (size_t)k * n_out;
    uint32_t n_have = n_rows + random_u32() % 3;

    assert(n_rows <= ARRAY_SIZE(p->rows) && n_have > 0);
    *p = (struct product){.type = type};
    p->x = (struct kern_acts){.kind = ACT_F32, .k = k, .stride = kern_act_stride(ACT_F32, k)};
    p->x.data = guarded(0, n_have * p->x.stride, front);
    for (uint32_t i = 0; i < n_have; i++)
        fill((float *)(void *)(p->x.data + i * p->x.stride), k, wildness);
    for (uint32_t i = 0; i < n_rows; i++)
        p->rows[i] = random_u32() % n_have;
    p->m = (struct kern_mul){.w = guarded(1, n_w * value_bytes, front),
                             .row_bytes = k * value_bytes,
                             .n_out = n_out,
                             .x = &p->x,
                             .rows = random_u32() % 2 ? p->rows : NULL,
                             .n_rows = n_rows,
                             .y_stride = n_out + random_u32() % 2 * 3,
                             .scratch = guarded(6, KERN_SCRATCH_BYTES, true)};
    p->n_y = (n_rows - 1) * p->m.y_stride + n_out;
    for (size_t i = 0; i < n_w; i++)
        if (type == KERN_F32)
            fill((float *)(uintptr_t)p->m.w + i, 1, wildness);
        else if (wildness)
            ((uint16_t *)(uintptr_t)p->m.w)[i] = (uint16_t)random_u32();
        else
            ((uint16_t *)(uintptr_t)p->m.w)[i] =
                (uint16_t)((type == KERN_F16 ? 0x3000 : 0x3E00) | (random_u32() & 0x87FF));
}

static const float *product_row(const struct product *p, uint32_t i) {
    size_t row = p->m.rows ? p->m.rows[i] : i;

    return (const float *)(const void *)(p->x.data + row * p->x.stride);
}

/* Each output is dot(w, x), whatever is computed beside it. */
static void check_product(const struct kern_ops *kern, struct product *p, bool front) {
    float *y = guarded_floats(7, p->n_y, front), w[400], dot;

    p->m.y = y;
    for (size_t i = 0; i < p->n_y; i++)
        y[i] = 12345.0f;
    kern->mul[p->type](&p->m);
    assert(p->x.k <= ARRAY_SIZE(w));
    for (uint32_t o = 0; o < p->m.n_out; o++) {
        generic()->dequantize[p->type](p->m.w + o * p->m.row_bytes, w, p->x.k);
        for (uint32_t i = 0; i < p->m.n_rows; i++) {
            dot = generic()->dot(w, product_row(p, i), p->x.k);
            assert_same(&y[i * p->m.y_stride + o], &dot, 1);
        }
    }
    for (uint32_t i = 0; i + 1 < p->m.n_rows; i++)
        for (size_t o = p->m.n_out; o < p->m.y_stride; o++)
            assert(y[i * p->m.y_stride + o] == 12345.0f);
}

static void check_products(const struct kern_ops *kern) {
    for (int round = 0; round < 300; round++) {
        bool front = round / 3 % 2;
        struct product p;

        random_product(&p, float_types[round % 3], 1 + random_u32() % 100 * (1 + round % 4),
                       1 + random_u32() % 40, 1 + random_u32() % 20, round % 2, front);
        check_product(kern, &p, front);
    }
}

static void test_products_are_dots_on_every_tier(void) {
    check_products(generic());
    each_tier(check_products);
}

static void test_openblas_against_double(void) {
    static const uint32_t shapes[][3] = {/* k, rows, outputs */
                                         {1, 1, 1},      {7, 3, 5},      {64, 70, 33},
                                         {1024, 65, 20}, {1025, 17, 70}, {2500, 70, 9}};
    double worst = 0;

    for (size_t round = 0; round < 3 * ARRAY_SIZE(shapes); round++) {
        const uint32_t *shape = shapes[round / 3];
        struct product p;
        float *w;

        random_product(&p, float_types[round % 3], shape[0], shape[1], shape[2], 0, false);
        p.m.y = guarded_floats(7, p.n_y, false);
        for (size_t i = 0; i < p.n_y; i++)
            p.m.y[i] = NAN; /* written, not added to */
        kern_gemm_float(kern_select(NULL), p.type, &p.m);
        w = guarded_floats(8, p.x.k, false);
        for (uint32_t o = 0; o < p.m.n_out; o++) {
            generic()->dequantize[p.type](p.m.w + o * p.m.row_bytes, w, p.x.k);
            for (uint32_t i = 0; i < p.m.n_rows; i++) {
                double truth = 0, size = 0;

                for (uint32_t j = 0; j < p.x.k; j++) {
                    truth += (double)w[j] * (double)product_row(&p, i)[j];
                    size += fabs((double)w[j] * (double)product_row(&p, i)[j]);
                }
                worst = fmax(worst,
                             fabs((double)p.m.y[i * p.m.y_stride + o] - truth) / fmax(size, 1e-30));
            }
        }
        for (uint32_t i = 0; i + 1 < p.m.n_rows; i++)
            for (size_t o = p.m.n_out; o < p.m.y_stride; o++)
                assert(isnan(p.m.y[i * p.m.y_stride + o]));
    }
    printf("# OpenBLAS: error %.2g of the sum of magnitudes\n", worst);
    assert(worst < 1e-6);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(vectors_have_the_same_bits_on_every_tier),
        TEST(dot_is_as_the_contract_says),
        TEST(halves),
        TEST(elementary_functions_are_accurate),
        TEST(elementary_functions_at_the_edges),
        TEST(gelu_below_minus_one),
        TEST(softmax_and_norm_against_double),
        TEST(softmax_of_what_is_masked),
        TEST(attention_has_the_same_bits_on_every_tier_and_in_company),
        TEST(attention_against_double),
        TEST(attention_of_what_is_no_number),
        {"products_are_dots_on_every_tier", test_products_are_dots_on_every_tier, 120},
        TEST(openblas_against_double),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
