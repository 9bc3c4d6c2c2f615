/*
 * What the float kernels and the pool reach on this machine: build/tests/bench/math [ISA]
 *
 * One thread but for the pool's part; each figure is the best of several rounds, so that another
 * program on the machine disturbs it less.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/kern/kern.h"
#include "engine/pool.h"
#include "tests/bench/barrier.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ROUNDS       40
#define STREAM_BYTES ((size_t)256 << 20) /* more than the last-level cache */
#define PAGE_STEP    257                 /* a sequence's pages are far apart, as in the engine */

static const struct kern_ops *kern;
static void *scratch;

static double now(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef void work_fn(void *what);

/* Seconds of one call: the best of ROUNDS rounds of at least 2 ms each. */
static double seconds_of(work_fn *work, void *what) {
    double best = INFINITY, begin, took;
    size_t n = 1;

    for (int round = 0; round < ROUNDS; round++) {
        begin = now();
        for (size_t i = 0; i < n; i++)
            work(what);
        took = now() - begin;
        best = MIN(best, took / (double)n);
        if (took < 0.002) {
            n = n * 2 + (size_t)(0.002 / (took + 1e-9) * (double)n);
            round--;
        }
    }
    return best;
}

static float *floats(size_t n) {
    float *x = alloc_aligned(n * sizeof(*x));

    assert(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 61) * 0.05f - 1.5f;
    return x;
}

/* ---- attention ---- */

struct attend_work {
    struct kern_attend a;
    uint8_t *pages;
    size_t n_pages, page, slice_bytes;
};

static void attend_next(void *what) {
    struct attend_work *w = what;
    uint8_t *page = w->pages + w->page * 2 * w->slice_bytes;
    size_t next = (w->page + PAGE_STEP) % w->n_pages;

    w->a.k = page;
    w->a.v = page + w->slice_bytes;
    w->a.next_k = w->n_pages > 1 ? w->pages + next * 2 * w->slice_bytes : NULL;
    w->a.next_v = w->n_pages > 1 ? w->pages + next * 2 * w->slice_bytes + w->slice_bytes : NULL;
    kern->attend_page(&w->a);
    w->page = next;
}

static void bench_attend(const char *name, uint32_t n_rows, uint32_t n_heads, float cap,
                         bool stream) {
    uint32_t head_size = 128, n = n_rows * n_heads, seen[64];
    struct attend_work w = {.slice_bytes = (size_t)head_size * KERN_PAGE_POSITIONS * 2};
    float *max = floats(n), *sum = floats(n);
    double took;

    w.n_pages = stream ? STREAM_BYTES / (2 * w.slice_bytes) : 1;
    w.pages = alloc_aligned(w.n_pages * 2 * w.slice_bytes);
    assert(w.pages);
    for (size_t i = 0; i < w.n_pages * 2 * w.slice_bytes; i += 2)
        memcpy(w.pages + i, &(uint16_t){(uint16_t)(0x2C00 + i % 997)}, 2);
    for (uint32_t i = 0; i < n_rows; i++)
        seen[i] = KERN_PAGE_POSITIONS;
    w.a = (struct kern_attend){.q = floats((size_t)n * head_size),
                               .acc = floats((size_t)n * head_size),
                               .max = max,
                               .sum = sum,
                               .row_stride = (size_t)n_heads * head_size,
                               .n_rows = n_rows,
                               .n_heads = n_heads,
                               .head_size = head_size,
                               .n_positions = seen,
                               .cap = cap,
                               .scratch = scratch};
    took = seconds_of(attend_next, &w);
    printf("attend %-34s %8.2f us/page %7.1f GFLOP/s %6.1f GB/s\n", name, took * 1e6,
           4.0 * n * head_size * KERN_PAGE_POSITIONS / took * 1e-9,
           2.0 * (double)w.slice_bytes / took * 1e-9);
    free((void *)(uintptr_t)w.a.q);
    free(w.a.acc);
    free(max);
    free(sum);
    free(w.pages);
}

/* ---- vectors ---- */

struct vector_work {
    float *a, *b, *y;
    uint16_t *half;
    size_t n;
};

static void run_rms_norm(void *what) {
    struct vector_work *w = what;
    kern->rms_norm(w->a, w->b, 1e-5f, w->y, w->n);
}

static void run_softmax(void *what) {
    struct vector_work *w = what;
    kern->softmax(w->y, w->n);
}

static void run_silu(void *what) {
    struct vector_work *w = what;
    kern->silu_mul(w->a, w->b, w->y, w->n);
}

static void run_gelu(void *what) {
    struct vector_work *w = what;
    kern->gelu_mul(w->a, w->b, w->y, w->n);
}

static void run_soft_cap(void *what) {
    struct vector_work *w = what;
    kern->soft_cap(w->a, 30.0f, w->n);
}

static void run_add_scaled(void *what) {
    struct vector_work *w = what;
    kern->add_scaled(w->y, w->a, 0.5f, w->n);
}

static void run_to_f16(void *what) {
    struct vector_work *w = what;
    kern->to_f16(w->a, w->half, w->n);
}

static void run_from_f16(void *what) {
    struct vector_work *w = what;
    kern->from_f16(w->half, w->y, w->n);
}

static void bench_vectors(void) {
    static const struct {
        const char *name;
        work_fn *run;
    } all[] = {
        {"rms_norm", run_rms_norm}, {"softmax", run_softmax},   {"silu_mul", run_silu},
        {"gelu_mul", run_gelu},     {"soft_cap", run_soft_cap}, {"add_scaled", run_add_scaled},
        {"to_f16", run_to_f16},     {"from_f16", run_from_f16},
    };
    struct vector_work w = {.n = 4096};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        w.a = floats(w.n);
        w.b = floats(w.n);
        w.y = floats(w.n);
        w.half = alloc_aligned(w.n * sizeof(*w.half));
        assert(w.half);
        printf("%-10s 4096 values %28.3f ns/value\n", all[i].name,
               seconds_of(all[i].run, &w) / (double)w.n * 1e9);
        free(w.a);
        free(w.b);
        free(w.y);
        free(w.half);
    }
}

/* ---- products ---- */

struct mul_work {
    struct kern_mul m;
    enum kern_type type;
};

static void run_own(void *what) {
    struct mul_work *w = what;
    kern->mul[w->type](&w->m);
}

static void run_openblas(void *what) {
    struct mul_work *w = what;
    kern_gemm_float(kern, w->type, &w->m);
}

static void bench_products(void) {
    static const uint32_t n_rows[] = {1, 4, 8, 16, 32, 64, 128, 512};
    static const enum kern_type types[] = {KERN_F32, KERN_F16, KERN_BF16};
    const uint32_t k = 4096, n_out = 128; /* one task of the engine */
    float *x = floats((size_t)k * 512), *w = floats((size_t)k * n_out),
          *y = floats((size_t)512 * n_out);
    struct kern_acts acts = {
        .kind = ACT_F32, .k = k, .stride = kern_act_stride(ACT_F32, k), .data = (uint8_t *)x};

    for (size_t t = 0; t < ARRAY_SIZE(types); t++)
        for (size_t i = 0; i < ARRAY_SIZE(n_rows); i++) {
            struct mul_work work = {.type = types[t],
                                    .m = {.w = (const uint8_t *)w,
                                          .row_bytes = k * kern_types[types[t]].block_bytes,
                                          .n_out = n_out,
                                          .x = &acts,
                                          .n_rows = n_rows[i],
                                          .y = y,
                                          .y_stride = n_out,
                                          .scratch = scratch}};
            double flop = 2e-9 * k * n_out * n_rows[i];

            printf("mul %-4s k 4096, outputs 128, rows %3u   own %6.1f, OpenBLAS %6.1f GFLOP/s\n",
                   kern_types[types[t]].name, n_rows[i], flop / seconds_of(run_own, &work),
                   flop / seconds_of(run_openblas, &work));
        }
    free(x);
    free(w);
    free(y);
}

/* ---- the pool ---- */

static void nothing(void *userdata, unsigned i) {
    (void)userdata;
    (void)i;
}

static void run_nothing(void *what) {
    pool_run(what, nothing, NULL);
}

static void bench_pool(void) {
    GkPool *pool;
    unsigned n;

    assert(gk_pool_new(&pool, 0, NULL) == 0);
    n = gk_pool_n_threads(pool);
    (void)gk_pool_free(pool);
    for (unsigned i = 1; i <= n; i++) {
        assert(gk_pool_new(&pool, i, NULL) == 0);
        printf("pool of %u   barrier %.0f ns, run %.0f ns\n", i, barrier_seconds(pool) * 1e9,
               seconds_of(run_nothing, pool) * 1e9);
        (void)gk_pool_free(pool);
    }
}

int main(int argc, char **argv) {
    kern = kern_select(argc > 1 ? argv[1] : NULL);
    if (!kern) {
        (void)fprintf(stderr, "math: no kernels named \"%s\" on this CPU\n", argv[1]);
        return 1;
    }
    scratch = alloc_aligned(KERN_SCRATCH_BYTES);
    assert(scratch);
    printf("kernels: %s, one thread, heads of 128, pages of f16\n", kern->name);
    bench_attend("decode, 4 heads, page in cache", 1, 4, 0, false);
    bench_attend("decode, 4 heads, from memory", 1, 4, 0, true);
    bench_attend("decode, 6 heads, cap, in cache", 1, 6, 30, false);
    bench_attend("decode, 6 heads, cap, from memory", 1, 6, 30, true);
    bench_attend("decode, 1 head, page in cache", 1, 1, 0, false);
    bench_attend("prefill, 16 rows of 4, in cache", 16, 4, 0, false);
    bench_attend("prefill, 16 rows of 4, from memory", 16, 4, 0, true);
    bench_attend("prefill, 10 rows of 6, cap", 10, 6, 30, false);
    bench_vectors();
    bench_products();
    bench_pool();
    free(scratch);
    return 0;
}
