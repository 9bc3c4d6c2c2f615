/*
 * The exactness contract: a sequence's logits are the same bits alone and in company, on any number
 * of threads and nodes, on every instruction set, and however its prompt is sliced.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/shape.h"
#include "tests/util/team.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <stdio.h>
#include <string.h>

#define N_PROMPT      90 /* more than one page */
#define N_LONG_PROMPT (2 * KERN_SPAN_POSITIONS + 70)
#define N_COMPANY     7

struct seen {
    const GkSeq *watched;
    float *logits; // (n_prompt, n_vocab)
    size_t n_rows;
};

struct way {
    unsigned n_threads, n_nodes;
    const char *isa;
    uint32_t n_slice;
    uint32_t n_company, company_begins; /* the watched sequence joins after so many steps */
};

static void on_row(void *userdata, const GkSeq *seq, const char *name, int i_layer, size_t position,
                   const float *values, size_t n) {
    struct seen *s = userdata;

    (void)i_layer;
    if (seq != s->watched || strcmp(name, "logits") != 0)
        return;
    (void)memcpy(s->logits + position * n, values, n * sizeof(float));
    s->n_rows++;
}

static GkSeq *make(GkEngine *e, uint32_t which, size_t n) {
    uint32_t n_vocab = gk_engine_info(e)->n_vocab;
    struct gk_params params = gk_params_default();
    int32_t tokens[N_LONG_PROMPT];
    GkSeq *seq;

    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((i * 37 + which * 101 + i * i % 11 + 5) % n_vocab);
    params.mode = GK_SCORE;
    assert(gk_seq_new(&seq, e, tokens, n, &params, NULL) == 0);
    return seq;
}

/* Returns how many sequences had something to do, and a result for each. */
static size_t step(GkEngine *e, GkSeq **seqs, uint32_t n, uint32_t n_slice,
                   struct gk_result ret_results[N_COMPANY + 1]) {
    struct gk_plan_row rows[N_COMPANY + 1];
    size_t n_plan = 0;

    for (uint32_t i = 0; i < n; i++) {
        size_t pending = gk_seq_n_pending(seqs[i]);

        if (pending > 0)
            rows[n_plan++] = (struct gk_plan_row){seqs[i], (uint32_t)MIN(pending, (size_t)n_slice)};
    }
    if (n_plan > 0)
        assert(gk_step(e, &(struct gk_plan){rows, n_plan}, ret_results) == 0);
    return n_plan;
}

/* What all ways of running must agree for. */
struct model {
    const char *path;
    enum gk_kv_type kv;
    bool exact_floats;
    size_t n_prompt;
};

static float *run(const struct model *model, const struct way *w, size_t *ret_n_vocab) {
    struct gk_options o = {.path = model->path,
                           .isa = w->isa,
                           .n_rows_max = 4096,
                           .kv_type = model->kv,
                           .exact_floats = model->exact_floats,
                           .kv_bytes_max = 64u << 20,
                           .preload = true};
    struct gk_result results[N_COMPANY + 1];
    GkSeq *seqs[N_COMPANY + 1] = {NULL};
    struct seen seen = {0};
    GkEngine *e;

    o.pool = test_team(w->n_threads, w->n_nodes);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    *ret_n_vocab = gk_engine_info(e)->n_vocab;
    seen.logits = alloc_array(model->n_prompt * *ret_n_vocab, sizeof(float));
    gk_engine_observe(e, &(struct gk_observer){on_row, &seen});
    for (uint32_t i = 0; i < w->n_company; i++)
        seqs[i] = make(e, i + 1, N_PROMPT / 2 + 13 * i);
    for (uint32_t i = 0; i < w->company_begins; i++) /* one more joins each time */
        (void)step(e, seqs, MIN(i + 1, w->n_company), 5, results);
    seqs[w->n_company] = make(e, 0, model->n_prompt);
    seen.watched = seqs[w->n_company];
    while (gk_seq_n_pending(seen.watched) > 0)
        (void)step(e, seqs, w->n_company + 1, w->n_slice, results);
    assert(seen.n_rows == model->n_prompt);
    for (uint32_t i = 0; i <= w->n_company; i++)
        (void)gk_seq_free(seqs[i]);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
    return seen.logits;
}

static bool available(const char *isa) {
    const char *const *names = gk_isa_names();

    for (unsigned i = 0; names[i]; i++)
        if (strcmp(names[i], isa) == 0)
            return gk_isa_available() >> i & 1;
    return false;
}

static const struct way ways[] = {
    {1, 1, NULL, 1, 0, 0},    {1, 1, NULL, 7, 0, 0},  {1, 1, NULL, 64, 0, 0},
    {2, 1, NULL, 2000, 0, 0}, {2, 1, NULL, 1, 0, 0},  {3, 1, NULL, 7, 0, 0},
    {2, 1, NULL, 64, 7, 0},   {1, 1, NULL, 1, 7, 0},  {2, 1, NULL, 64, 7, 9},
    {2, 1, NULL, 2000, 7, 3}, {3, 1, NULL, 7, 7, 20}, {2, 2, NULL, 64, 0, 0},
    {4, 2, NULL, 2000, 7, 3}, {3, 3, NULL, 7, 0, 0},  {6, 4, NULL, 64, 7, 9},
};

/* What all others are compared with. */
static float *run_first(const struct model *model) {
    size_t n_vocab;

    return run(model, &(struct way){1, 1, "generic", 2000, 0, 0}, &n_vocab);
}

static void compare(const struct model *model, const struct way *w, const float *first) {
    size_t n_vocab;
    float *again = run(model, w, &n_vocab);

    if (memcmp(first, again, model->n_prompt * n_vocab * sizeof(float)) != 0) {
        (void)printf("# %s: KV %d, threads %u on %u nodes, isa %s, slice %u, company %u after %u "
                     "steps: other bits\n",
                     model->path, (int)model->kv, w->n_threads, w->n_nodes,
                     w->isa ? w->isa : "best", w->n_slice, w->n_company, w->company_begins);
        assert(!"the same bits");
    }
    free(again);
}

/* A tier that this CPU lacks is left out: its own test says so. */
static void check_model(const struct model *model) {
    float *first = run_first(model);

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
        compare(model, &ways[i], first);
    for (const char *const *isa = gk_isa_names(); *isa; isa++)
        if (available(*isa)) {
            compare(model, &(struct way){2, 1, *isa, 64, 3, 2}, first);
            compare(model, &(struct way){1, 1, *isa, 2000, 0, 0}, first);
        }
    free(first);
}

static void check(const char *path, bool exact_floats) {
    check_model(&(struct model){path, GK_KV_F16, exact_floats, N_PROMPT});
}

/* A model that is made for the test. */
static void check_made(GgufWriter *w, const char *name, bool exact_floats) {
    const char *path = temp_path("%s.gguf", name);

    gguf_writer_save(w, path);
    gguf_writer_free(w);
    check(path, exact_floats);
}

#define GOLDEN "tests/golden/"

static void test_grok(void) {
    check(GOLDEN "grok/model-q8_0.gguf", false);
    check(GOLDEN "grok/model-q5_1.gguf", false);
    check(GOLDEN "grok/model-q5_0.gguf", false);
    check(GOLDEN "grok/model-q4_1.gguf", false);
    check(GOLDEN "grok/model-q4_0.gguf", false);
}

static void test_mixtral(void) {
    check(GOLDEN "mixtral/model-q8_0.gguf", false);
    check(GOLDEN "mixtral/model-q5_1.gguf", false);
    check(GOLDEN "mixtral/model-q5_0.gguf", false);
    check(GOLDEN "mixtral/model-q4_1.gguf", false);
    check(GOLDEN "mixtral/model-q4_0.gguf", false);
}

static void test_k_quants(void) {
    check(GOLDEN "mixtral256/model-q2_k.gguf", false);
    check(GOLDEN "mixtral256/model-q3_k.gguf", false);
    check(GOLDEN "mixtral256/model-q4_k.gguf", false);
    check(GOLDEN "mixtral256/model-q5_k.gguf", false);
    check(GOLDEN "mixtral256/model-q6_k.gguf", false);
}

static void test_exact_floats(void) {
    check(GOLDEN "grok/model-f32.gguf", true);
    check(GOLDEN "mixtral/model-f16.gguf", true);
    check(GOLDEN "mixtral/model-bf16.gguf", true);
    check(GOLDEN "qwen2/model-f32.gguf", true);
    check(GOLDEN "chatglm/model-f32.gguf", true);
}

static void test_kv_types(void) {
    static const char *const paths[] = {GOLDEN "grok/model-q8_0.gguf",
                                        GOLDEN "mixtral256/model-q4_k.gguf"};

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        check_model(&(struct model){paths[i], GK_KV_F32, false, N_PROMPT});
        check_model(&(struct model){paths[i], GK_KV_Q8_0, false, N_PROMPT});
    }
}

/* Every format in one file: what one tensor's activations are quantised to is not the next one's.
 */
static void test_mixed_types(void) {
    static const char *const architectures[] = {"llama", "grok"};

    for (size_t i = 0; i < ARRAY_SIZE(architectures); i++)
        check_made(tiny_mixed_model(architectures[i], false), architectures[i], true);
}

/* Every matrix has several blocks of rows, so that every node is home to some. */
static void test_many_blocks(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q4_K);

    shape.n_ff = 5 * TILE_FF;
    shape.n_embd = 4 * TILE_OUT;
    shape.n_heads = 8;
    shape.n_kv_heads = 4;
    shape.head_size = 64;
    shape.n_vocab = 5 * TILE_OUT + 1;
    check_made(tiny_model(&shape), "blocks", false);
}

/* Positions of several spans, folded one after the other and at the same time. */
static void test_long(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q8_0);
    const char *path = temp_path("long.gguf");
    GgufWriter *w;

    shape.n_context = N_LONG_PROMPT;
    w = tiny_model(&shape);
    gguf_writer_save(w, path);
    gguf_writer_free(w);
    check_model(&(struct model){path, GK_KV_F16, false, N_LONG_PROMPT});
    check_model(&(struct model){path, GK_KV_Q8_0, false, N_LONG_PROMPT});
}

/* No experts: rows stay where they are, however many a step has. */
static void test_dense(void) {
    static const enum kern_type types[] = {KERN_Q8_0, KERN_Q4_K};

    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        struct tiny_shape shape = tiny_shape_default("llama", types[i]);

        shape.n_experts = shape.n_experts_used = 0;
        check_made(tiny_model(&shape), kern_types[types[i]].name, false);
    }
}

/* ---- unobserved ---- */

#define N_GENERATED 6
#define N_TOP       5
#define N_WRITERS   3

struct writing {
    int32_t tokens[N_WRITERS][N_GENERATED];
    struct gk_logprob top[N_WRITERS][N_GENERATED][N_TOP];
    size_t n[N_WRITERS];
};

static void ignore_row(void *userdata, const GkSeq *seq, const char *name, int i_layer,
                       size_t position, const float *values, size_t n) {
    (void)userdata, (void)seq, (void)name, (void)i_layer, (void)position, (void)values, (void)n;
}

static GkSeq *make_writer(GkEngine *e, uint32_t which) {
    struct gk_params params = gk_params_default();
    uint32_t n_prompt = 20 + 35 * which;
    int32_t tokens[N_PROMPT];
    GkSeq *seq;

    for (uint32_t i = 0; i < n_prompt; i++)
        tokens[i] = (int32_t)((i * 37 + which * 101 + 5) % gk_engine_info(e)->n_vocab);
    params.temperature = 0;
    params.n_tokens_max = N_GENERATED;
    params.ignore_eos = true;
    params.logprobs = true;
    params.n_logprobs = N_TOP;
    assert(gk_seq_new(&seq, e, tokens, n_prompt, &params, NULL) == 0);
    return seq;
}

static void take_result(struct writing *w, uint32_t which, const struct gk_result *r) {
    if (!r->has_token)
        return;
    assert(w->n[which] < N_GENERATED && r->n_top == N_TOP);
    w->tokens[which][w->n[which]] = r->token;
    (void)memcpy(w->top[which][w->n[which]++], r->top, sizeof(w->top[which][0]));
}

static struct writing write_texts(const char *path, bool observed, unsigned n_threads,
                                  uint32_t n_slice) {
    struct gk_options o = {
        .path = path, .n_rows_max = 256, .kv_bytes_max = 64u << 20, .preload = true};
    struct writing w = {0};
    struct gk_result results[N_COMPANY + 1];
    GkSeq *seqs[N_WRITERS];
    GkEngine *e;
    size_t n_results;

    o.pool = test_team(n_threads, 1);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    if (observed)
        gk_engine_observe(e, &(struct gk_observer){ignore_row, NULL});
    for (uint32_t i = 0; i < N_WRITERS; i++)
        seqs[i] = make_writer(e, i);
    do {
        n_results = step(e, seqs, N_WRITERS, n_slice, results);
        for (size_t i = 0; i < n_results; i++)
            for (uint32_t which = 0; which < N_WRITERS; which++)
                if (results[i].seq == seqs[which])
                    take_result(&w, which, &results[i]);
    } while (n_results > 0);
    for (uint32_t i = 0; i < N_WRITERS; i++) {
        assert(w.n[i] == N_GENERATED);
        (void)gk_seq_free(seqs[i]);
    }
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
    return w;
}

/* Rows whose results nobody wants are left out of the last layer, but not where somebody observes:
 * steps where none is left, some of several sequences, and all. */
static void test_unobserved(void) {
    static const char *const paths[] = {GOLDEN "grok/model-q8_0.gguf",
                                        GOLDEN "mixtral256/model-q4_k.gguf"};
    static const uint32_t slices[] = {1, 7, 64, 200};

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        struct writing all = write_texts(paths[i], true, 1, 200);

        for (size_t j = 0; j < ARRAY_SIZE(slices); j++)
            for (unsigned n_threads = 1; n_threads <= 3; n_threads++) {
                struct writing some = write_texts(paths[i], false, n_threads, slices[j]);

                assert(memcmp(all.tokens, some.tokens, sizeof(all.tokens)) == 0);
                assert(memcmp(all.top, some.top, sizeof(all.top)) == 0);
            }
    }
}

/* ---- tiers ---- */

static const char *why_unavailable(const char *isa) {
    const char *refused = gk_isa_refused();

    return refused && strcmp(isa, "amx") == 0 ? refused : "this CPU lacks the instruction set";
}

/* In company, which has decoding rows and slices of prompts. */
static void check_tier(const char *isa) {
    static const struct model models[] = {
        {GOLDEN "grok/model-q8_0.gguf", GK_KV_F16, false, N_PROMPT},
        {GOLDEN "mixtral256/model-q4_k.gguf", GK_KV_F16, false, N_PROMPT}};

    if (!available(isa))
        test_skip(why_unavailable(isa));
    for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
        float *first = run_first(&models[i]);

        for (size_t j = 0; j < ARRAY_SIZE(ways); j++) {
            struct way w = ways[j];

            w.isa = isa;
            if (w.n_company > 0)
                compare(&models[i], &w, first);
        }
        free(first);
    }
}

#define TIER(name)                                                                                 \
    static void test_##name(void) {                                                                \
        check_tier(#name);                                                                         \
    }
TIER(avx2)
TIER(avxvnni)
TIER(avx512)
TIER(vnni)
TIER(amx)

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"grok", test_grok, 120},
        {"mixtral", test_mixtral, 120},
        {"k_quants", test_k_quants, 120},
        {"exact_floats", test_exact_floats, 120},
        {"kv_types", test_kv_types, 120},
        {"mixed_types", test_mixed_types, 120},
        {"many_blocks", test_many_blocks, 120},
        {"long", test_long, 300}, /* slices of one position are many steps */
        {"dense", test_dense, 120},
        {"unobserved", test_unobserved, 120},
        {"avx2", test_avx2, 120},
        {"avxvnni", test_avxvnni, 120},
        {"avx512", test_avx512, 120},
        {"vnni", test_vnni, 120},
        {"amx", test_amx, 120},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
