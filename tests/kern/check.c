/*
 * Every kernel of every tier against generic C, bit for bit: random and adversarial blocks, odd
 * sizes, inputs that end at a page nobody may touch, outputs with borders that must stay as they
 * were.
 */
#include "base/macro.h"
#include "engine/kern/kern.h"
#include "tests/kern/amx-emulated.h"
#include "tests/util/test.h"
#include "tests/util/tiles.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define K_MAX 20736 /* of ROWS_MAX rows; fewer may be longer */
/* Both more than a tier keeps sums of. */
#define OUT_MAX  300
#define ROWS_MAX 290
#define Y_STRIDE (OUT_MAX + 3)
#define BORDER   (-12345.0f)

static uint64_t seed = 7;

static uint64_t next_random(void) {
    uint64_t z = (seed += 0x9E3779B97F4A7C15ull);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* n bytes between two pages that can't be read or written: where the second begins they end, or
 * they begin where the first ends. */
struct guarded {
    uint8_t *map, *bytes;
    size_t n_map;
};

static struct guarded guard(size_t n, bool at_first) {
    size_t page = 4096, n_map = (n + page - 1) / page * page + 2 * page;
    struct guarded g = {.n_map = n_map};

    g.map = mmap(NULL, n_map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(g.map != MAP_FAILED);
    assert(mprotect(g.map, page, PROT_NONE) == 0);
    assert(mprotect(g.map + n_map - page, page, PROT_NONE) == 0);
    g.bytes = at_first ? g.map + page : g.map + n_map - page - n;
    return g;
}

static void unguard(struct guarded *g) {
    assert(munmap(g->map, g->n_map) == 0);
}

/* ---- inputs ---- */

enum kind {
    KIND_RANDOM,
    KIND_ZERO,
    KIND_FULL,
    KIND_EXTREME,
    KIND_DENORMAL,
    KIND_INFINITE,
    KIND_GENTLE, /* one large value among small ones, as activations often are */
    /* What saturates or wraps in 16 bits, and the ends of the range that weights times scales have:
     * the largest or the smallest of both, or the smallest weights times the largest scales; and q
     * all 127 or all -127. */
    KIND_LARGEST,
    KIND_LARGEST_NEGATED,
    KIND_SMALLEST,
    KIND_OPPOSITE,
    /* Products of sub-blocks that are just what an int16 holds, and one step more. */
    KIND_AT_LIMIT,
    KIND_PAST_LIMIT,
    KIND_N
};

static void put_half(uint8_t *at, enum kind kind) {
    static const uint16_t extreme[] = {0x7BFF, 0xFBFF, 0x0400, 0x8400, 0x3C00, 0x0000, 0x8000};
    static const uint16_t infinite[] = {0x7C00, 0xFC00, 0x7E00, 0x3C00, 0x0001};
    uint16_t h = (uint16_t)(0x1400 + next_random() % 0x1800);

    if (next_random() % 2)
        h |= 0x8000;
    if (kind == KIND_EXTREME)
        h = extreme[next_random() % ARRAY_SIZE(extreme)];
    else if (kind == KIND_DENORMAL)
        h = (uint16_t)(next_random() % 0x400);
    else if (kind == KIND_INFINITE)
        h = infinite[next_random() % ARRAY_SIZE(infinite)];
    (void)memcpy(at, &h, sizeof(h));
}

/* Where a block's float16 numbers are (-1: it has no second one), and its integer scales; bytes of
 * the smallest and the largest weights, and scales. */
static const struct {
    int half_at[2];
    uint8_t scales_at, n_scales;
    uint8_t weight[2], scale[2];
} layouts[KERN_TYPE_N] = {
    [KERN_Q4_0] = {{0, -1}, .weight = {0, 0xFF}},
    [KERN_Q4_1] = {{0, 2}, .weight = {0, 0xFF}},
    [KERN_Q5_0] = {{0, -1}, .weight = {0, 0xFF}},
    [KERN_Q5_1] = {{0, 2}, .weight = {0, 0xFF}},
    [KERN_Q8_0] = {{0, -1}, .weight = {0x80, 0x7F}},
    [KERN_Q2_K] = {{80, 82}, 0, 16, {0, 0xFF}, {0, 0xFF}},
    [KERN_Q3_K] = {{108, -1}, 96, 12, {0, 0xFF}, {0, 0xFF}},
    [KERN_Q4_K] = {{0, 2}, 4, 12, {0, 0xFF}, {0, 0xFF}},
    [KERN_Q5_K] = {{0, 2}, 4, 12, {0, 0xFF}, {0, 0xFF}},
    [KERN_Q6_K] = {{208, -1}, 192, 16, {0, 0xFF}, {0x80, 0x7F}},
};

/* Byte `at` of a block. */
static uint8_t block_byte(enum kern_type type, size_t at, enum kind kind) {
    size_t scales_at = layouts[type].scales_at;
    bool is_scale = at >= scales_at && at < scales_at + layouts[type].n_scales;
    /* Q6_K reaches a limit by its smallest weights, -32. */
    bool is_small = kind == KIND_SMALLEST || kind == KIND_OPPOSITE ||
                    (kind >= KIND_AT_LIMIT && type == KERN_Q6_K);

    if (kind == KIND_ZERO)
        return 0;
    if (kind == KIND_FULL)
        return 0xFF;
    if (kind < KIND_LARGEST)
        return (uint8_t)next_random();
    return is_scale ? layouts[type].scale[kind != KIND_SMALLEST] : layouts[type].weight[!is_small];
}

static void fill_blocks(enum kern_type type, uint8_t *bytes, size_t n, enum kind kind) {
    size_t block = kern_types[type].block_bytes;

    for (size_t i = 0; i < n; i++)
        bytes[i] = block_byte(type, i % block, kind);
    if (kern_types[type].act == ACT_F32) {
        for (size_t at = 0; at < n; at += block) {
            float f = ((float)(next_random() % 65536) - 32768) * 1e-4f;

            if (type == KERN_F32)
                (void)memcpy(bytes + at, &f, 4);
            else if (type == KERN_BF16)
                (void)memcpy(bytes + at, (const uint8_t *)&f + 2, 2);
            else
                put_half(bytes + at, kind);
        }
        return;
    }
    for (size_t at = 0; at < n; at += block)
        for (int i = 0; i < 2 && layouts[type].half_at[i] >= 0; i++)
            put_half(bytes + at + layouts[type].half_at[i], kind);
}

static void fill_floats(float *x, size_t n, enum kind kind) {
    for (size_t i = 0; i < n; i++) {
        x[i] = ((float)(next_random() % 65536) - 32768) * 1e-3f;
        if (kind == KIND_ZERO)
            x[i] = 0;
        else if (kind == KIND_FULL)
            x[i] = i % 2 ? 1.0f : -1.0f; /* every q is ±127 */
        else if (kind == KIND_LARGEST || kind == KIND_SMALLEST || kind == KIND_OPPOSITE)
            x[i] = 1.0f;
        else if (kind == KIND_LARGEST_NEGATED)
            x[i] = -1.0f;
        else if (kind == KIND_GENTLE)
            x[i] *= i % 256 ? 0.1f : 1.0f;
        else if (kind == KIND_DENORMAL)
            x[i] *= 1e-40f;
        else if (kind == KIND_EXTREME)
            x[i] *= next_random() % 3 ? 1e-3f : 1e30f;
        else if (kind == KIND_INFINITE && next_random() % 64 == 0)
            x[i] = next_random() % 2 ? INFINITY : NAN;
    }
}

/* Whole numbers, of which the largest is 127, so that they are quantised to themselves. In each
 * sub-block they are of one sign and add up to `sum`: negative in one even and in one odd one of
 * eight, too few to make up for others' overflow. */
static void fill_sums(float *x, size_t n, size_t n_sub, int sum) {
    for (size_t i = 0; i < n; i++) {
        int left = sum - 127 * (int)(i % n_sub), q = left < 0 ? 0 : left < 127 ? left : 127;

        x[i] = (float)(i / n_sub % 8 == 2 || i / n_sub % 8 == 5 ? -q : q);
    }
}

/* See KIND_AT_LIMIT: the sum whose product with the weights that fill_blocks() makes is the limit;
 * past it are the last row and each third one before it. */
static void fill_limits(float *x, uint32_t k, uint32_t n_rows, enum kern_type type,
                        enum kind kind) {
    int weight = type == KERN_Q6_K ? 32 : type == KERN_Q5_K ? 31 : 15;

    for (uint32_t i = 0; i < n_rows; i++) {
        bool is_past = kind == KIND_PAST_LIMIT && (n_rows - 1 - i) % 3 == 0;

        fill_sums(x + (size_t)i * k, k, type == KERN_Q6_K ? 16 : 32,
                  INT16_MAX / weight + (is_past ? 1 : 0));
    }
}

/* The same bits, or both NaN: which NaN comes out of two is not promised. */
static bool same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

/* ---- products ---- */

/* The last row ends at a page that nobody may touch, or the first one begins at it. Its parts are
 * whole cache lines, as kern.h has them: what those lines hold besides numbers, and what is between
 * rows, is NaN. */
static struct kern_acts make_acts(const struct kern_ops *k, enum act_kind kind, uint32_t n,
                                  uint32_t n_rows, const float *x, bool at_first,
                                  struct guarded *ret_memory) {
    struct kern_acts a = {.kind = kind, .k = n, .stride = kern_act_stride(kind, n)};
    size_t n_last = kind == ACT_Q8_256 ? n / 256 * sizeof(struct kern_super) : a.stride;
    size_t n_bytes = a.stride * (n_rows - 1) + n_last;

    *ret_memory = guard(n_bytes, at_first);
    a.data = ret_memory->bytes;
    (void)memset(a.data, 0xFF, n_bytes);
    for (uint32_t i = 0; i < n_rows; i++) {
        uint8_t *row = a.data + i * a.stride;

        if (kind == ACT_F32)
            (void)memcpy(row, x + (size_t)i * n, n * sizeof(float));
        else if (kind == ACT_Q8_32)
            k->quantize_q8_32(x + (size_t)i * n, n, row);
        else
            k->quantize_q8_256(x + (size_t)i * n, n, row);
    }
    return a;
}

static bool same_acts(const struct kern_acts a[2], uint32_t row) {
    const uint8_t *at[2] = {a[0].data + row * a[0].stride, a[1].data + row * a[1].stride};
    const struct kern_super *supers[2] = {kern_act_supers(&a[0], row), kern_act_supers(&a[1], row)};
    bool same = true;

    if (a->kind == ACT_F32)
        return true;
    if (a->kind == ACT_Q8_32)
        return memcmp(at[0], at[1], a->k) == 0 &&
               same_floats(kern_act_scales(&a[0], row), kern_act_scales(&a[1], row), a->k / 32) &&
               memcmp(kern_act_sums(&a[0], row), kern_act_sums(&a[1], row),
                      a->k / 32 * sizeof(int16_t)) == 0;
    for (uint32_t b = 0; b < a->k / 256; b++)
        same = same && memcmp(supers[0][b].q, supers[1][b].q, sizeof(supers[0]->q)) == 0 &&
               memcmp(supers[0][b].sums, supers[1][b].sums, sizeof(supers[0]->sums)) == 0 &&
               same_floats(&supers[0][b].d, &supers[1][b].d, 1);
    return same;
}

/* What a row's quantisation left of it. */
static void check_residual(const struct kern_ops *tier, const struct kern_acts *acts, uint32_t row,
                           const float *x) {
    struct guarded rest[2] = {guard(acts->k * sizeof(float), false),
                              guard(acts->k * sizeof(float), false)};
    float *y[2] = {(float *)(void *)rest[0].bytes, (float *)(void *)rest[1].bytes};

    kern_select("generic")->residual(x, acts, row, y[0]);
    tier->residual(x, acts, row, y[1]);
    assert(same_floats(y[0], y[1], acts->k));
    unguard(&rest[0]);
    unguard(&rest[1]);
}

static void check_dequantize(const struct kern_ops *tier, enum kern_type type, enum kind kind) {
    const struct kern_type_info *info = &kern_types[type];
    size_t n_blocks = info->block_values == 1 ? 77 : 9, n = n_blocks * info->block_values;
    struct guarded w = guard(n_blocks * info->block_bytes, kind % 2 == 1);
    struct guarded values[2] = {guard(n * sizeof(float), false), guard(n * sizeof(float), false)};
    float *y[2] = {(float *)(void *)values[0].bytes, (float *)(void *)values[1].bytes};

    fill_blocks(type, w.bytes, n_blocks * info->block_bytes, kind);
    kern_select("generic")->dequantize[type](w.bytes, y[0], n);
    tier->dequantize[type](w.bytes, y[1], n);
    assert(same_floats(y[0], y[1], n));
    unguard(&values[0]);
    unguard(&values[1]);
    unguard(&w);
}

static void check_mul_kinds(const struct kern_ops *tier, enum kern_type type, uint32_t k,
                            uint32_t n_out, uint32_t n_rows, enum kind kind, enum kind acts_kind,
                            bool gather) {
    const struct kern_ops *generic = kern_select("generic");
    const struct kern_type_info *info = &kern_types[type];
    size_t row_bytes = k / info->block_values * info->block_bytes;
    bool at_first = ((unsigned)kind + n_rows) % 2 == 1;
    struct guarded w = guard(row_bytes * n_out, at_first);
    static float x[ROWS_MAX * K_MAX], y[2][(ROWS_MAX + 1) * Y_STRIDE];
    static struct guarded scratch; /* stays */
    struct kern_acts acts[2];
    struct guarded acts_memory[2];
    uint32_t rows[ROWS_MAX];
    size_t n_y = (n_rows + 1) * (size_t)Y_STRIDE; /* with a row after the last one */

    assert((size_t)n_rows * k <= ARRAY_SIZE(x));
    if (!scratch.bytes)
        scratch = guard(KERN_SCRATCH_BYTES, false);
    fill_blocks(type, w.bytes, row_bytes * n_out, kind);
    if (acts_kind >= KIND_AT_LIMIT)
        fill_limits(x, k, n_rows, type, acts_kind);
    else
        fill_floats(x, (size_t)n_rows * k, acts_kind);
    acts[0] = make_acts(generic, info->act, k, n_rows, x, at_first, &acts_memory[0]);
    acts[1] = make_acts(tier, info->act, k, n_rows, x, at_first, &acts_memory[1]);
    for (uint32_t i = 0; i < n_rows; i++) {
        rows[i] = i % 4 == 2 ? 0 : n_rows - 1 - i;
        assert(same_acts(acts, i));
    }
    if (info->act != ACT_F32)
        check_residual(tier, &acts[1], n_rows - 1, x + (size_t)(n_rows - 1) * k);
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < n_y; i++)
            y[t][i] = BORDER;
        (void)memset(scratch.bytes, 0xFF, KERN_SCRATCH_BYTES); /* NaN, or -1 */
        (t ? tier : generic)
            ->mul[type](&(struct kern_mul){.w = w.bytes,
                                           .row_bytes = row_bytes,
                                           .n_out = n_out,
                                           .x = &acts[t],
                                           .rows = gather ? rows : NULL,
                                           .n_rows = n_rows,
                                           .y = y[t],
                                           .y_stride = Y_STRIDE,
                                           .next = (n_out + (unsigned)kind) % 2 ? w.bytes : NULL,
                                           .scratch = scratch.bytes});
    }
    for (size_t i = 0; i < n_y; i++)
        assert((i / Y_STRIDE < n_rows && i % Y_STRIDE < n_out) || y[0][i] == BORDER);
    if (!same_floats(y[0], y[1], n_y)) {
        (void)printf("# %s %s: k %u, outputs %u, rows %u, kinds %d and %d, gather %d: other bits\n",
                     tier->name, info->name, k, n_out, n_rows, (int)kind, (int)acts_kind, gather);
        for (size_t i = 0; i < n_y; i++)
            if (!same_floats(&y[0][i], &y[1][i], 1)) {
                (void)printf("# first at row %zu output %zu: %.9g, not %.9g\n", i / Y_STRIDE,
                             i % Y_STRIDE, (double)y[1][i], (double)y[0][i]);
                break;
            }
        (void)fflush(stdout);
        assert(!"the same bits");
    }
    unguard(&acts_memory[0]);
    unguard(&acts_memory[1]);
    unguard(&w);
}

static void check_mul(const struct kern_ops *tier, enum kern_type type, uint32_t k, uint32_t n_out,
                      uint32_t n_rows, enum kind kind, bool gather) {
    check_mul_kinds(tier, type, k, n_out, n_rows, kind, kind, gather);
}

/* Weights of one kind and activations of another. */
static void check_kinds_that_meet(const struct kern_ops *tier, enum kern_type type, uint32_t k) {
    static const uint32_t rows[] = {1, 3, 24, 6};

    for (int kind = 0; kind < KIND_N; kind++)
        for (int acts_kind = 0; acts_kind < KIND_N; acts_kind++) {
            uint32_t n_rows = rows[(size_t)(kind + acts_kind) % ARRAY_SIZE(rows)];

            check_mul_kinds(tier, type, k, 37, n_rows, (enum kind)kind, (enum kind)acts_kind,
                            acts_kind % 2);
        }
}

/* Rows of so many blocks as the kernels of few rows want: whole groups of lanes, halves, others;
 * as many as they read in whole rows, and more. Scales that hide the order of sums are few. */
static void check_long_rows(const struct kern_ops *tier, enum kern_type type) {
    uint32_t block = kern_types[type].block_values;
    static const uint32_t supers[] = {8,  11, 12, 16, 17, 23, 24, 32,
                                      35, 36, 40, 64, 68, 72, 76, 81},
                          plains[] = {8,   16,  17,  24,  40,  128, 135, 136,
                                      160, 168, 256, 264, 300, 512, 519, 648};
    static const uint32_t outs[] = {1, 2, 3, 4, 5, 8, 9, 19};

    for (size_t i = 0; block > 1 && i < ARRAY_SIZE(supers); i++)
        for (size_t j = 0; j < ARRAY_SIZE(outs); j++)
            for (uint32_t n_rows = 1; n_rows <= 4; n_rows++) {
                size_t kind = (i + j + n_rows) % (2 * KIND_N);

                check_mul(tier, type, (block == 256 ? supers[i] : plains[i]) * block, outs[j],
                          n_rows, kind < KIND_N ? (enum kind)kind : KIND_GENTLE, (i + j) % 2);
            }
}

/* Rows so long that the kernels of few rows have no room to lay activations out. */
static void check_longest_rows(const struct kern_ops *tier, enum kern_type type) {
    if (kern_types[type].block_values == 1)
        return;
    for (uint32_t n_rows = 1; n_rows <= 3; n_rows++)
        check_mul(tier, type, (KERN_SCRATCH_BYTES / n_rows / 256 + 1) * 256, 3, n_rows, KIND_GENTLE,
                  n_rows == 3);
}

/* Plain blocks as few as a panel of weights may have, one more than it has, and more than rows are
 * multiplied with at a time; rows that leave a tile unfilled, fill it, and are one more than two of
 * them. */
static void check_plain_blocks(const struct kern_ops *tier, enum kern_type type) {
    static const uint32_t rows[] = {7, 12, 16, 33};

    if (kern_types[type].block_values != 32)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (int gather = 0; gather < 2; gather++) {
            for (uint32_t n_blocks = 1; n_blocks <= 9; n_blocks++)
                check_mul(tier, type, n_blocks * 32, 37, rows[i], KIND_GENTLE, gather);
            check_mul(tier, type, 300 * 32, 37, rows[i], KIND_GENTLE, gather);
        }
}

/* Every number of rows that panels of nibbles may have, and one more; and as many with several
 * blocks of k. */
static void check_super_blocks(const struct kern_ops *tier, enum kern_type type) {
    if (kern_types[type].block_values != 256)
        return;
    for (int gather = 0; gather < 2; gather++) {
        for (uint32_t n_rows = 1; n_rows <= 25; n_rows++)
            check_mul(tier, type, 3 * 256, 37, n_rows, KIND_GENTLE, gather);
        check_mul(tier, type, 45 * 256, 37, 24, KIND_GENTLE, gather);
    }
}

static void check_type(const struct kern_ops *tier, enum kern_type type) {
    uint32_t block = kern_types[type].block_values == 1 ? 1 : kern_types[type].block_values;
    uint32_t n_many = block == 256 ? 5 : block == 32 ? 45 : 300; /* several blocks of a tier's */
    static const uint32_t outs[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 70};
    static const uint32_t rows[] = {1,  2,  3,  4,  5,  6,  7,  8,  11, 12,
                                    13, 14, 15, 16, 17, 24, 32, 33, 45};
    static const uint32_t kind_rows[] = {1, 2, 3, 4, 5, 7, 9, 12, 15, 16, 19, 21, 24, 45};
    uint32_t k_some = (block == 256 ? 2 : block == 32 ? 9 : 77) * block;

    for (size_t i = 0; i < ARRAY_SIZE(outs); i++)
        for (size_t j = 0; j < ARRAY_SIZE(rows); j++) {
            uint32_t n_blocks = (uint32_t)(1 + next_random() % (block == 256  ? 4
                                                                : block == 32 ? 19
                                                                              : 300));

            check_mul(tier, type, n_blocks * block, outs[i], rows[j],
                      j % 3 ? KIND_GENTLE : KIND_RANDOM, (i + j) % 2);
        }
    for (int kind = 0; kind < KIND_N; kind++) {
        check_dequantize(tier, type, (enum kind)kind);
        for (size_t i = 0; i < ARRAY_SIZE(kind_rows); i++)
            check_mul(tier, type, k_some, 37, kind_rows[i], (enum kind)kind,
                      (i + (size_t)kind) % 2);
    }
    check_kinds_that_meet(tier, type, k_some);
    for (int gather = 0; gather < 2; gather++)
        check_mul(tier, type, n_many * block, 33, ROWS_MAX, KIND_GENTLE, gather);
    check_mul(tier, type, n_many * block, 33, 256, KIND_GENTLE, false); /* whole tiles alone */
    check_mul(tier, type, n_many * block, OUT_MAX, 17, KIND_GENTLE, false);
    check_long_rows(tier, type);
    check_longest_rows(tier, type);
    check_plain_blocks(tier, type);
    check_super_blocks(tier, type);
}

static void check_tier(const char *name) {
    const struct kern_ops *tier = kern_select(name);
    const char *refused = strcmp(name, "amx") == 0 ? kern_isa_refused() : NULL;

    if (!tier)
        test_skip(refused ? refused : "this CPU lacks the instruction set");
    for (int type = 0; type < KERN_TYPE_N; type++)
        check_type(tier, (enum kern_type)type);
}

#define TIER(name)                                                                                 \
    static void test_##name(void) {                                                                \
        check_tier(#name);                                                                         \
    }
TIER(generic)
TIER(avx2)
TIER(avxvnni)
TIER(avx512)
TIER(vnni)
TIER(amx)

/* As on a CPU of the other kind. */
static void test_vnni_spare_pipes(void) {
    kern_has_spare_pipes = !kern_has_spare_pipes;
    check_tier("vnni");
}

/* The AMX tier on tiles in plain C. They were used, and were given back. (That memory is written
 * before a tile is loaded from it can only be seen on real ones: these are calls.) */
static void test_amx_emulated(void) {
    if (!kern_select("vnni"))
        test_skip("this CPU lacks AVX-512 VNNI, which the rest of the tier wants");
    for (int type = 0; type < KERN_TYPE_N; type++) {
        unsigned long n_dots = tiles_n_dots();

        check_type(&kern_ops_amx_emulated, (enum kern_type)type);
        assert((tiles_n_dots() > n_dots) == (kern_types[type].act != ACT_F32));
        assert(!tiles_are_configured());
    }
}

/* From how many rows on a product is made with tiles. */
static uint32_t first_rows_of_tiles(enum kern_type type) {
    for (uint32_t n_rows = 1; n_rows <= ROWS_MAX; n_rows++) {
        unsigned long n_dots = tiles_n_dots();

        check_mul(&kern_ops_amx_emulated, type, 512, 33, n_rows, KIND_RANDOM, false);
        if (tiles_n_dots() > n_dots)
            return n_rows;
    }
    return UINT32_MAX;
}

/* As was measured: Q8_0's are not unpacked, so fewer rows are worth it. */
static void test_rows_of_tiles(void) {
    if (!kern_select("vnni"))
        test_skip("this CPU lacks AVX-512 VNNI, which the rest of the tier wants");
    for (int type = 0; type < KERN_TYPE_N; type++)
        if (kern_types[type].act != ACT_F32)
            assert(first_rows_of_tiles((enum kern_type)type) == (type == KERN_Q8_0 ? 6 : 14));
}

/* ---- formats against their golden values ---- */

static void *read_file(const char *path, size_t *ret_n) {
    FILE *f = fopen(path, "re");
    static uint8_t bytes[1 << 20];

    assert(f);
    *ret_n = fread(bytes, 1, sizeof(bytes), f);
    (void)fclose(f);
    return memcpy(malloc(*ret_n), bytes, *ret_n);
}

static void test_dequantize_golden(void) {
    for (int type = 1; type < KERN_TYPE_N; type++) {
        size_t n_blocks, n_values;
        char path[128];
        uint8_t *blocks;
        float *golden;

        (void)snprintf(path, sizeof(path), "tests/golden/quant/%s.blocks", kern_types[type].name);
        blocks = read_file(path, &n_blocks);
        (void)snprintf(path, sizeof(path), "tests/golden/quant/%s.f32", kern_types[type].name);
        golden = read_file(path, &n_values);
        n_values /= sizeof(float);
        for (const char *const *isa = kern_isa_names(); *isa; isa++) {
            const struct kern_ops *tier = kern_select(*isa);
            float *ours = calloc(n_values, sizeof(float));

            if (tier) {
                tier->dequantize[type](blocks, ours, n_values);
                for (size_t i = 0; i < n_values; i++)
                    assert(ours[i] == golden[i] || (isnan(ours[i]) && isnan(golden[i])));
            }
            free(ours);
        }
        free(blocks);
        free(golden);
    }
}

/* The definition itself, against double precision on the values that weights and activations stand
 * for. */
static void test_generic_is_a_product(void) {
    const struct kern_ops *k = kern_select("generic");
    static float x[1024], w[1024];
    static _Alignas(64) uint8_t scratch[KERN_SCRATCH_BYTES];

    for (int type = 0; type < KERN_TYPE_N; type++) {
        const struct kern_type_info *info = &kern_types[type];
        uint8_t blocks[4096];
        struct guarded acts_memory;
        struct kern_acts a;
        double sum = 0, size = 0;
        float y;

        fill_blocks((enum kern_type)type, blocks, 1024 / info->block_values * info->block_bytes,
                    KIND_RANDOM);
        fill_floats(x, 1024, KIND_RANDOM);
        a = make_acts(k, info->act, 1024, 1, x, false, &acts_memory);
        k->dequantize[type](blocks, w, 1024);
        for (size_t i = 0; i < 1024; i++) {
            double value = (double)x[i];
            const struct kern_super *super = kern_act_supers(&a, 0) + i / 256;

            if (info->act == ACT_Q8_32)
                value = (double)kern_act_scales(&a, 0)[i / 32] * ((const int8_t *)a.data)[i];
            else if (info->act == ACT_Q8_256)
                value = (double)super->d * super->q[i % 256];
            sum += (double)w[i] * value;
            size += fabs((double)w[i] * value);
        }
        k->mul[type](&(struct kern_mul){.w = blocks,
                                        .n_out = 1,
                                        .x = &a,
                                        .n_rows = 1,
                                        .y = &y,
                                        .y_stride = 1,
                                        .scratch = scratch});
        assert(fabs((double)y - sum) <= 1e-5 * size);
        unguard(&acts_memory);
    }
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"generic", test_generic, 60}, {"avx2", test_avx2, 60},
        {"avxvnni", test_avxvnni, 60}, {"avx512", test_avx512, 60},
        {"vnni", test_vnni, 60},       {"vnni_spare_pipes", test_vnni_spare_pipes, 60},
        {"amx", test_amx, 60},         {"amx_emulated", test_amx_emulated, 60},
        TEST(rows_of_tiles),           TEST(dequantize_golden),
        TEST(generic_is_a_product),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
