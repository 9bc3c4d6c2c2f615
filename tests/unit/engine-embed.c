/*
 * Embeddings: of the golden activations of the last layer, pooled by plain arithmetic; and the same
 * bits in company, in slices and on any number of threads.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/internal.h"
#include "tests/util/team.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN   "tests/golden/grok/"
#define N_EMBD   4096
#define N_TOKENS 512

/* Prompt 2 is the one whose activations are there. */
static size_t read_prompt(const char *kind, int32_t *tokens) {
    char path[128], *line = NULL;
    size_t capacity = 0, n = 0;
    FILE *f;

    (void)snprintf(path, sizeof(path), GOLDEN "%s/cases.txt", kind);
    f = fopen(path, "re");
    assert(f);
    while (n == 0 && getline(&line, &capacity, f) > 0) {
        if (strncmp(line, "prompt 2 ", 9) != 0)
            continue;
        (void)strtok(line, " ");
        (void)strtok(NULL, " ");
        for (char *at; n < N_TOKENS && (at = strtok(NULL, " \n"));)
            tokens[n++] = (int32_t)strtol(at, NULL, 10);
    }
    free(line);
    (void)fclose(f);
    assert(n > 3);
    return n;
}

static GkEngine *open_engine(const char *kind, unsigned n_threads) {
    struct gk_options o = {.kv_type = GK_KV_F32, .exact_floats = true};
    char path[128];
    GkEngine *e;

    (void)snprintf(path, sizeof(path), GOLDEN "model-%s.gguf", kind);
    o.path = path;
    o.pool = test_team(n_threads, 1);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    return e;
}

static void close_engine(GkEngine *e) {
    GkPool *pool = e->pool;

    (void)gk_engine_close(e);
    (void)gk_pool_free(pool);
}

/* What comes of the golden hidden states; with `last` of the last position alone. */
static void plain(const GkEngine *e, const char *kind, size_t n_tokens, bool last, bool normalize,
                  double *ret) {
    size_t n = e->shape.n_embd;
    float *hidden = alloc_array(n_tokens * n, sizeof(*hidden));
    double length = 0;
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), GOLDEN "%s/layer%u.hidden.f32", kind, e->shape.n_layers - 1);
    f = fopen(path, "re");
    assert(f && fread(hidden, sizeof(float), n_tokens * n, f) == n_tokens * n && fgetc(f) == EOF);
    (void)fclose(f);
    (void)memset(ret, 0, n * sizeof(*ret));
    for (size_t i = last ? n_tokens - 1 : 0; i < n_tokens; i++) {
        double square = 0;

        for (size_t k = 0; k < n; k++)
            square += (double)hidden[i * n + k] * (double)hidden[i * n + k];
        for (size_t k = 0; k < n; k++)
            ret[k] += (double)hidden[i * n + k] * (double)e->weights.output_norm[k] /
                      sqrt(square / (double)n + (double)e->shape.norm_eps) /
                      (last ? 1 : (double)n_tokens);
    }
    for (size_t k = 0; k < n; k++)
        length += ret[k] * ret[k];
    for (size_t k = 0; normalize && k < n; k++)
        ret[k] /= sqrt(length);
    free(hidden);
}

static GkSeq *begin(GkEngine *e, const int32_t *tokens, size_t n, bool last, bool normalize) {
    struct gk_params p = gk_params_default();
    GkSeq *seq;

    p.mode = GK_EMBED;
    p.pooling = last ? GK_POOLING_LAST : GK_POOLING_MEAN;
    p.normalize = normalize;
    assert(gk_seq_new(&seq, e, tokens, n, &p, NULL) == 0);
    return seq;
}

/* In slices, `company` of a kind of its own beside it. */
static void embed(GkEngine *e, GkSeq *seq, GkSeq *company, size_t n_slice, float *ret) {
    struct gk_result results[2];

    do {
        struct gk_plan_row rows[2] = {
            {seq, (uint32_t)MIN(gk_seq_n_pending(seq), n_slice)},
            {company, company ? (uint32_t)MIN(gk_seq_n_pending(company), (size_t)3) : 0}};

        assert(gk_step(e, &(struct gk_plan){rows, company && rows[1].n_rows > 0 ? 2 : 1},
                       results) == 0);
        assert(!results[0].has_token && results[0].n_text == 0);
        assert((results[0].finish == GK_FINISH_EMBEDDED) == (results[0].n_embedding > 0));
    } while (results[0].finish == GK_FINISH_NONE);
    assert(results[0].finish == GK_FINISH_EMBEDDED && gk_seq_n_pending(seq) == 0);
    assert(results[0].n_embedding == e->shape.n_embd);
    (void)memcpy(ret, results[0].embedding, e->shape.n_embd * sizeof(*ret));
    (void)gk_seq_free(seq);
    if (company)
        (void)gk_seq_free(company);
}

static void check(const char *kind, double limit) {
    GkEngine *e = open_engine(kind, 2);
    int32_t tokens[N_TOKENS];
    size_t n_tokens = read_prompt(kind, tokens), n = e->shape.n_embd;

    assert(n <= N_EMBD);
    for (unsigned i = 0; i < 4; i++) {
        static double golden[N_EMBD];
        static float ours[N_EMBD];
        bool last = i & 1, normalize = i & 2;
        double difference = 0, size = 0;

        plain(e, kind, n_tokens, last, normalize, golden);
        embed(e, begin(e, tokens, n_tokens, last, normalize), NULL, n_tokens, ours);
        for (size_t k = 0; k < n; k++) {
            difference += ((double)ours[k] - golden[k]) * ((double)ours[k] - golden[k]);
            size += golden[k] * golden[k];
        }
        (void)printf("# %s %s%s: %.2e (limit %.0e)\n", kind, last ? "last" : "mean",
                     normalize ? ", normalised" : "", difference / size, limit);
        assert(size > 0 && difference / size <= limit);
        if (normalize)
            assert(fabs(size - 1) < 1e-9);
    }
    close_engine(e);
}

static void test_golden_floats(void) {
    check("f32", 1e-8);
}

static void test_golden_quantized(void) {
    check("q8_0", 3e-3);
}

static void test_same_bits_everywhere(void) {
    static const size_t slices[] = {1, 2, 5, 1000};
    static float first[N_EMBD], other[N_EMBD];
    int32_t tokens[N_TOKENS];
    size_t n_tokens = read_prompt("q8_0", tokens);

    for (unsigned n_threads = 1; n_threads <= 3; n_threads++) {
        GkEngine *e = open_engine("q8_0", n_threads);

        for (size_t i = 0; i < ARRAY_SIZE(slices); i++) {
            GkSeq *company = i % 2 ? begin(e, tokens + 1, n_tokens - 1, true, false) : NULL;

            embed(e, begin(e, tokens, n_tokens, false, true), company, slices[i], other);
            if (n_threads == 1 && i == 0)
                (void)memcpy(first, other, sizeof(first));
            assert(memcmp(first, other, e->shape.n_embd * sizeof(float)) == 0);
        }
        close_engine(e);
    }
}

static void test_suspended_begins_again(void) {
    static float first[N_EMBD], other[N_EMBD];
    GkEngine *e = open_engine("q8_0", 2);
    int32_t tokens[N_TOKENS];
    size_t n_tokens = read_prompt("q8_0", tokens);
    struct gk_result result;
    struct gk_plan_row row;
    GkSeq *seq;

    embed(e, begin(e, tokens, n_tokens, false, false), NULL, n_tokens, first);
    seq = begin(e, tokens, n_tokens, false, false);
    row = (struct gk_plan_row){seq, (uint32_t)(n_tokens / 2)};
    assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
    gk_seq_suspend(seq);
    assert(gk_seq_resume(seq, NULL) == 0);
    embed(e, seq, NULL, n_tokens, other);
    assert(memcmp(first, other, e->shape.n_embd * sizeof(float)) == 0);
    close_engine(e);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(golden_floats),
        TEST(golden_quantized),
        TEST(same_bits_everywhere),
        TEST(suspended_begins_again),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
