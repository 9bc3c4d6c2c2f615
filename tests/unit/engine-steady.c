/*
 * A step takes no memory and no lock: all that it needs was there when the model was opened and the
 * sequence made. It writes to no file. Its threads seldom meet, and each matrix that its rows need
 * is multiplied once, for all of them.
 *
 * But OpenBLAS maps a buffer for each thread, once, and a sequence with a constraint asks the
 * constraint's automaton, which others may ask at the same time, when its logits are there: under
 * the automaton's lock, with memory for what is new to it, within the maxima of automaton.h.
 * malloc() and its kin, mmap() and pthread_mutex_lock() are ours here and count, whoever calls
 * them.
 */
#include "base/macro.h"
#include "engine/expert.h"
#include "engine/internal.h"
#include "engine/pool.h"
#include "tests/util/proc.h"
#include "tests/util/team.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static atomic_size_t n_allocated, n_locked;
static atomic_bool in_step;

static void count(atomic_size_t *n) {
    if (atomic_load(&in_step))
        atomic_fetch_add(n, 1);
}

#if TEST_SANITIZED
#define SHARED
#else
#define SHARED __attribute__((visibility("default"))) /* libraries call them, too */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

SHARED void *malloc(size_t n) {
    count(&n_allocated);
    return __libc_malloc(n);
}

SHARED void *calloc(size_t n, size_t size) {
    count(&n_allocated);
    return __libc_calloc(n, size);
}

SHARED void *realloc(void *p, size_t n) {
    count(&n_allocated);
    return __libc_realloc(p, n);
}

SHARED void *aligned_alloc(size_t alignment, size_t n) {
    count(&n_allocated);
    return __libc_memalign(alignment, n);
}

SHARED int posix_memalign(void **ret, size_t alignment, size_t n) {
    count(&n_allocated);
    *ret = __libc_memalign(alignment, n);
    return *ret ? 0 : ENOMEM;
}

SHARED void *mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
    void *(*next)(void *, size_t, int, int, int, off_t);

    *(void **)&next = dlsym(RTLD_NEXT, "mmap");
    count(&n_allocated);
    return next(at, n, protection, flags, file, offset);
}
#endif

SHARED int pthread_mutex_lock(pthread_mutex_t *mutex) {
    int (*next)(pthread_mutex_t *);

    *(void **)&next = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    count(&n_locked);
    return next(mutex);
}

#define N_SEQUENCES_MAX 64
_Static_assert(N_SEQUENCES_MAX <= LOGIT_ROWS, "more rows take another turn through the output");

static void step(GkEngine *e, GkSeq **seqs, size_t n, uint32_t n_slice) {
    struct gk_plan_row rows[N_SEQUENCES_MAX];
    struct gk_result results[N_SEQUENCES_MAX];
    struct gk_plan plan = {.rows = rows};

    assert(n <= ARRAY_SIZE(rows));
    for (size_t i = 0; i < n; i++) {
        size_t pending = gk_seq_n_pending(seqs[i]);

        if (pending > 0)
            rows[plan.n++] = (struct gk_plan_row){seqs[i], (uint32_t)MIN(pending, (size_t)n_slice)};
    }
    atomic_store(&in_step, true);
    assert(gk_step(e, &plan, results) == 0);
    atomic_store(&in_step, false);
}

/* Calls of write() and its kin by this process so far; -1: the kernel doesn't tell. */
static int64_t n_writes(void) {
    return proc_number("/proc/self/io", "syscw");
}

/* One that is scored, one that is greedy, and one with all that sampling has. */
static void make_sequences(GkEngine *e, GkSeq *ret[3]) {
    static const struct gk_string words[] = {{"the end", 7}, {"ab", 2}};
    struct gk_params params[3] = {gk_params_default(), gk_params_default(), gk_params_default()};
    int32_t tokens[100];

    for (size_t i = 0; i < ARRAY_SIZE(tokens); i++)
        tokens[i] = (int32_t)((i * 37 + 5) % gk_engine_info(e)->n_vocab);
    params[0].mode = GK_SCORE;
    params[0].n_logprobs = 5;
    params[1].n_tokens_max = 40;
    params[1].ignore_eos = true;
    params[2] = params[1];
    params[2].temperature = 0.8f;
    params[2].top_k = 40;
    params[2].top_p = 0.9f;
    params[2].min_p = 0.01f;
    params[2].repetition_penalty = 1.1f;
    params[2].presence_penalty = params[2].frequency_penalty = 0.1f;
    params[2].logprobs = true;
    params[2].n_logprobs = 5;
    params[2].stop_strings = words;
    params[2].n_stop_strings = 1;
    params[2].banned_strings = words;
    params[2].n_banned_strings = 2;
    for (size_t i = 0; i < 3; i++)
        assert(gk_seq_new(&ret[i], e, tokens, ARRAY_SIZE(tokens) - 7 * i, &params[i], NULL) == 0);
}

/* From the very first step on: prompts in slices, then one token at a time. With an `isa`, whose
 * float products are OpenBLAS's from few rows on, a thread's first one may map a buffer. */
static void check(const char *path, enum gk_kv_type kv, unsigned n_threads, const char *isa) {
    struct gk_options o = {
        .path = path, .kv_type = kv, .kv_bytes_max = 64u << 20, .exact_floats = !isa, .isa = isa};
    int64_t n_written;
    GkSeq *seqs[3];
    GkEngine *e;

    if (TEST_SANITIZED)
        test_skip("the sanitizer has its own malloc()");
    o.pool = test_team(n_threads, 1);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    make_sequences(e, seqs);
    n_written = n_writes();
    for (uint32_t i = 0; i < 50; i++)
        step(e, seqs, ARRAY_SIZE(seqs), i == 0 ? 70 : 40);
    assert(n_writes() == n_written);
    (void)printf("# %s: allocated %zu times, locked %zu times\n", path, n_allocated, n_locked);
    (void)fflush(stdout);
    assert(n_written < 0 || n_writes() > n_written); /* by this line */
    assert(n_allocated <= (o.exact_floats ? 0 : n_threads) && n_locked == 0);
    for (size_t i = 0; i < ARRAY_SIZE(seqs); i++)
        (void)gk_seq_free(seqs[i]);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
}

static void test_steps_take_nothing(void) {
    check("tests/golden/grok/model-q8_0.gguf", GK_KV_F16, 1, NULL);
    check("tests/golden/grok/model-q8_0.gguf", GK_KV_Q8_0, 2, NULL);
    check("tests/golden/mixtral256/model-q4_k.gguf", GK_KV_F32, 3, NULL);
    check("tests/golden/mixtral/model-f16.gguf", GK_KV_F16, 2, NULL);
    check("tests/golden/mixtral/model-f16.gguf", GK_KV_F16, 2, "generic");
}

/* To the end of its text. */
static void generate(GkEngine *e, GkConstraint *constraint) {
    static const int32_t prompt[] = {1, 42, 99};
    struct gk_params params = gk_params_default();
    GkSeq *seq;

    params.n_tokens_max = 40;
    params.constraint = constraint;
    assert(gk_seq_new(&seq, e, prompt, ARRAY_SIZE(prompt), &params, NULL) == 0);
    n_allocated = n_locked = 0;
    while (gk_seq_n_pending(seq) > 0)
        step(e, &seq, 1, ARRAY_SIZE(prompt));
    (void)printf("# allocated %zu times, locked %zu times\n", n_allocated, n_locked);
    (void)fflush(stdout);
    seq = gk_seq_free(seq);
}

/* The states that a text comes to are new once; the next one that comes the same way has them. */
static void test_a_constraint_takes_memory_for_what_is_new(void) {
    static const char source[] = "([a-z]+ ){3,9}[0-9]*";
    struct gk_options o = {.path = "tests/golden/grok/model-q8_0.gguf"};
    GkConstraint *constraint;
    GkEngine *e;

    if (TEST_SANITIZED)
        test_skip("the sanitizer has its own malloc()");
    assert(gk_pool_new(&o.pool, 1, NULL) == 0 && gk_engine_open(&e, &o, NULL) == 0);
    assert(gk_constraint_new(&constraint, GK_CONSTRAINT_REGEX, source, strlen(source), NULL) == 0);
    generate(e, constraint);
    assert(n_allocated > 0 && n_locked > 0);
    generate(e, constraint);
    assert(n_allocated == 0 && n_locked > 0);
    constraint = gk_constraint_unref(constraint);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
}

/* The counters count: opening a model and its sequences takes memory. */
static void test_what_is_taken_is_counted(void) {
    struct gk_options o = {.path = "tests/golden/grok/model-q8_0.gguf"};
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    GkEngine *e;
    void *map;

    if (TEST_SANITIZED)
        test_skip("the sanitizer has its own malloc()");
    atomic_store(&in_step, true);
    assert(gk_pool_new(&o.pool, 1, NULL) == 0 && n_allocated > 0 && n_locked == 0);
    assert(gk_engine_open(&e, &o, NULL) == 0 && n_allocated > 10);
    n_allocated = 0;
    map = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(map != MAP_FAILED && munmap(map, 1) == 0 && n_allocated > 0);
    assert(pthread_mutex_lock(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0 && n_locked > 0);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
}

/* Meetings of two members in a prompt's step after n_before positions, of a model of n_layers. */
static unsigned n_barriers(uint32_t n_layers, uint32_t n_experts, uint32_t n_before,
                           uint32_t n_rows) {
    struct gk_options o = {
        .path = temp_path("layers.gguf"), .kv_bytes_max = 64u << 20, .n_rows_max = 2048};
    struct gk_params params = gk_params_default();
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q8_0);
    int32_t tokens[2048] = {0};
    GkSeq *seq = NULL;
    GkEngine *e = NULL;
    GgufWriter *w;
    unsigned ret;

    params.n_tokens_max = 1;
    shape.n_layers = n_layers;
    shape.n_experts = n_experts;
    shape.n_experts_used = MIN(n_experts, 2u);
    shape.n_context = ARRAY_SIZE(tokens);
    w = tiny_model(&shape);
    gguf_writer_save(w, o.path);
    gguf_writer_free(w);
    o.pool = test_team(2, 1);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    assert(gk_seq_new(&seq, e, tokens, n_before + n_rows, &params, NULL) == 0);
    if (n_before > 0)
        step(e, &seq, 1, n_before);
    ret = pool_n_barriers(o.pool);
    step(e, &seq, 1, n_rows);
    ret = pool_n_barriers(o.pool) - ret;
    seq = gk_seq_free(seq);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
    return ret;
}

/* Four of a layer's eight are the experts': two before them, two after. */
static void test_a_layer_meets_so_often(void) {
    static const struct {
        uint32_t n_experts, n_before, n_rows;
        unsigned n;
    } cases[] = {
        {4, 0, 40, 8}, {4, 0, 70, 8},   {0, 0, 40, 8},   {4, 3, 1, 5},
        {0, 3, 1, 5},  {4, 1500, 1, 6}, {4, 1500, 3, 9},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned two = n_barriers(2, cases[i].n_experts, cases[i].n_before, cases[i].n_rows),
                 five = n_barriers(5, cases[i].n_experts, cases[i].n_before, cases[i].n_rows);

        (void)printf("# %u experts, %u rows after %u: %u with 2 layers, %u with 5\n",
                     cases[i].n_experts, cases[i].n_rows, cases[i].n_before, two, five);
        assert(five - two == 3 * cases[i].n);
    }
}

/* ---- what is multiplied ---- */

/* How often each byte of the file was the first one of a weight's row that was multiplied. */
static struct {
    struct kern_ops kern; /* the engine's, with its product of Q8_0 counted */
    void (*mul)(const struct kern_mul *m);
    const uint8_t *file;
    atomic_uchar *n_products; // (bytes of the file)
    size_t n_bytes;
} counted;

static void counted_mul(const struct kern_mul *m) {
    for (uint32_t i = 0; i < m->n_out; i++)
        atomic_fetch_add(&counted.n_products[m->w + i * m->row_bytes - counted.file], 1);
    counted.mul(m);
}

static void count_products(GkEngine *e) {
    counted.file = model_file_part(e->file, 0, &counted.n_bytes);
    counted.n_products = calloc(counted.n_bytes, sizeof(*counted.n_products));
    assert(counted.n_products);
    counted.kern = *e->kern;
    counted.mul = e->kern->mul[KERN_Q8_0];
    counted.kern.mul[KERN_Q8_0] = counted_mul;
    e->kern = &counted.kern;
}

/* So often for each of its rows. */
static unsigned times_multiplied(const struct weight *w) {
    unsigned n = counted.n_products[w->data - counted.file];

    for (uint32_t i = 0; i < w->n_out; i++)
        assert(counted.n_products[w->data + i * w->row_bytes - counted.file] == n);
    return n;
}

/* Returns how many experts of this layer were multiplied. */
static uint32_t check_layer_products(const GkEngine *e, const struct layer *l) {
    uint32_t n_experts = 0;

    assert(times_multiplied(&l->q) == 1 && times_multiplied(&l->k) == 1);
    assert(times_multiplied(&l->v) == 1 && times_multiplied(&l->o) == 1);
    for (uint32_t i = 0; i < e->shape.n_experts; i++) {
        unsigned n = times_multiplied(expert_weight(l, i, EXPERT_GATE));

        assert(n <= 1 && times_multiplied(expert_weight(l, i, EXPERT_UP)) == n);
        assert(times_multiplied(expert_weight(l, i, EXPERT_DOWN)) == n);
        n_experts += n;
    }
    return n_experts;
}

/* Those of the last layer are what its rows have chosen, and nothing else. */
static void check_chosen(const GkEngine *e, const struct layer *last, size_t n_rows) {
    for (uint32_t i = 0; i < e->shape.n_experts; i++) {
        bool is_chosen = false;

        for (size_t j = 0; j < n_rows * e->shape.n_experts_used; j++)
            is_chosen |= e->scratch.chosen[j] == i;
        assert(times_multiplied(expert_weight(last, i, EXPERT_GATE)) == is_chosen);
    }
}

/* A row of each sequence, but of the last one of N_SEQUENCES_MAX a slice of its prompt, of which
 * nothing is left in the last layer. */
static void check_products(GkEngine *e, GkSeq **seqs, size_t n, uint32_t n_slice) {
    const struct layer *layers = e->weights.layers, *last = &layers[e->shape.n_layers - 1];
    uint32_t n_first, n_last;

    (void)memset(counted.n_products, 0, counted.n_bytes * sizeof(*counted.n_products));
    step(e, seqs, n, n_slice);
    n_first = check_layer_products(e, &layers[0]);
    n_last = check_layer_products(e, last);
    (void)printf("# %zu sequences, slices of %u: %u experts of the first layer, %u of the last\n",
                 n, n_slice, n_first, n_last);
    (void)fflush(stdout);
    assert(times_multiplied(&e->weights.output) == 1);
    assert(n_first >= e->shape.n_experts_used);
    assert(n > 1 || n_first == e->shape.n_experts_used);
    check_chosen(e, last, n - (n == N_SEQUENCES_MAX));
}

/* What the rows of a step choose together, for as many as go through experts and output at once. */
static void test_a_step_multiplies_each_matrix_once(void) {
    static const size_t n_sequences[] = {1, 2, 3, 4, 5, 8, 16, 33, N_SEQUENCES_MAX};
    struct gk_options o = {.path = temp_path("experts.gguf"), .kv_bytes_max = 64u << 20};
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q8_0);
    struct gk_params params = gk_params_default();
    GkSeq *seqs[N_SEQUENCES_MAX];
    GkEngine *e = NULL;
    GgufWriter *w;

    shape.n_experts = 32;
    shape.n_ff = 2 * TILE_FF + 64;
    shape.n_embd = TILE_OUT + 32;
    w = tiny_model(&shape);
    gguf_writer_save(w, o.path);
    gguf_writer_free(w);
    o.pool = test_team(3, 1);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    count_products(e);
    params.ignore_eos = true;
    for (size_t i = 0; i < ARRAY_SIZE(seqs); i++) {
        size_t n = i + 1 < ARRAY_SIZE(seqs) ? 1 : 100;
        int32_t tokens[100];

        for (size_t j = 0; j < n; j++)
            tokens[j] = (int32_t)((i * 31 + j * 37 + 5) % shape.n_vocab);
        assert(gk_seq_new(&seqs[i], e, tokens, n, &params, NULL) == 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(n_sequences); i++)
        check_products(e, seqs, n_sequences[i], 1);
    check_products(e, seqs, N_SEQUENCES_MAX, 70);
    for (size_t i = 0; i < ARRAY_SIZE(seqs); i++)
        (void)gk_seq_free(seqs[i]);
    free(counted.n_products);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(steps_take_nothing),
        TEST(a_constraint_takes_memory_for_what_is_new),
        TEST(what_is_taken_is_counted),
        TEST(a_layer_meets_so_often),
        TEST(a_step_multiplies_each_matrix_once),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
