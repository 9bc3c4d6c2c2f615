/*
 * The engine against the golden outputs: logits within the limits, best and greedy tokens, and the
 * activations of each layer, so that a mistake is located by the first tensor that is off. See
 * tests/golden/README.md.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN        "tests/golden/"
#define N_PROMPTS_MAX 16
#define N_TOKENS_MAX  512
#define LAYERS_MAX    8

struct ids {
    int32_t values[N_TOKENS_MAX];
    size_t n;
};

struct cases {
    struct ids prompt[N_PROMPTS_MAX], argmax[N_PROMPTS_MAX], greedy[N_PROMPTS_MAX];
    size_t n;
};

/* What an observer saw of one prompt. */
struct seen {
    size_t n_vocab, n_positions;
    float *logits; // (n_positions, n_vocab)
    struct {
        char name[40];
        size_t n, n_rows;
        float *values; // (n_positions, n)
    } tensors[LAYERS_MAX * 4];
    size_t n_tensors;
};

static struct cases *read_cases(const char *folder) {
    struct cases *c = alloc_new(struct cases);
    char path[256], *line = NULL;
    size_t capacity = 0;
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/cases.txt", folder);
    f = fopen(path, "re");
    assert(c && f);
    while (getline(&line, &capacity, f) > 0) {
        char *kind = strtok(line, " \n"), *number = strtok(NULL, " \n");
        size_t i;
        struct ids *ids;

        assert(kind && number);
        i = strtoul(number, NULL, 10);
        assert(i < N_PROMPTS_MAX);
        ids = strcmp(kind, "prompt") == 0   ? &c->prompt[i]
              : strcmp(kind, "argmax") == 0 ? &c->argmax[i]
                                            : &c->greedy[i];
        for (char *at; (at = strtok(NULL, " \n"));) {
            assert(ids->n < N_TOKENS_MAX);
            ids->values[ids->n++] = (int32_t)strtol(at, NULL, 10);
        }
        c->n = MAX(c->n, i + 1);
    }
    free(line);
    (void)fclose(f);
    assert(c->n > 0);
    return c;
}

/* NULL where there is no such file. */
static float *read_floats(const char *path, size_t *ret_n) {
    FILE *f = fopen(path, "re");
    float *values;
    long n;

    if (!f)
        return NULL;
    assert(fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) > 0 && fseek(f, 0, SEEK_SET) == 0);
    values = malloc((size_t)n);
    assert(values && fread(values, 1, (size_t)n, f) == (size_t)n);
    (void)fclose(f);
    *ret_n = (size_t)n / sizeof(float);
    return values;
}

static void on_row(void *userdata, const GkSeq *seq, const char *name, int i_layer, size_t position,
                   const float *values, size_t n) {
    struct seen *s = userdata;
    char full[40];
    size_t i;

    (void)seq;
    if (strcmp(name, "logits") == 0) {
        (void)memcpy(s->logits + position * n, values, n * sizeof(float));
        return;
    }
    (void)snprintf(full, sizeof(full), "layer%d.%s", i_layer, name);
    for (i = 0; i < s->n_tensors && strcmp(s->tensors[i].name, full) != 0; i++)
        ;
    if (i == s->n_tensors) {
        assert(i < ARRAY_SIZE(s->tensors));
        (void)memcpy(s->tensors[i].name, full, sizeof(full));
        s->tensors[i].n = n;
        s->tensors[i].values = alloc_array(s->n_positions * n, sizeof(float));
        s->n_tensors++;
    }
    (void)memcpy(s->tensors[i].values + position * n, values, n * sizeof(float));
}

static void run_step(GkEngine *e, GkSeq *seq, struct gk_result *ret) {
    struct gk_plan_row row = {.seq = seq, .n_rows = (uint32_t)gk_seq_n_pending(seq)};

    assert(gk_step(e, &(struct gk_plan){.rows = &row, .n = 1}, ret) == 0);
}

static struct seen *run_prompt(GkEngine *e, const struct ids *prompt) {
    struct seen *s = alloc_new(struct seen);
    struct gk_params params = gk_params_default();
    struct gk_result result;
    GkSeq *seq;

    s->n_vocab = gk_engine_info(e)->n_vocab;
    s->n_positions = prompt->n;
    s->logits = alloc_array(prompt->n * s->n_vocab, sizeof(float));
    gk_engine_observe(e, &(struct gk_observer){.on_row = on_row, .userdata = s});
    params.mode = GK_SCORE;
    assert(gk_seq_new(&seq, e, prompt->values, prompt->n, &params, NULL) == 0);
    run_step(e, seq, &result);
    assert(result.finish == GK_FINISH_SCORED);
    (void)gk_seq_free(seq);
    gk_engine_observe(e, NULL);
    return s;
}

static void free_seen(struct seen *s) {
    for (size_t i = 0; i < s->n_tensors; i++)
        free(s->tensors[i].values);
    free(s->logits);
    free(s);
}

static double error_of(const float *ours, const float *golden, size_t n) {
    double difference = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        difference += ((double)ours[i] - (double)golden[i]) * ((double)ours[i] - (double)golden[i]);
        size += (double)golden[i] * (double)golden[i];
    }
    return difference / size;
}

/* The best token, and how far the second is behind. */
static int32_t best_of(const float *logits, size_t n, float *ret_margin) {
    float second = -INFINITY;
    size_t best = 0;

    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) {
            second = logits[best];
            best = i;
        } else {
            second = fmaxf(second, logits[i]);
        }
    }
    *ret_margin = logits[best] - second;
    return (int32_t)best;
}

struct file {
    const char *model, *kind;  /* for messages */
    const char *path, *folder; /* the model; its cases and what they give */
    enum gk_kv_type kv;
    double limit;       /* of the logits */
    double layer_limit; /* of each layer's tensors */
    bool is_float;
};

static void check_logits(const struct file *f, size_t i_prompt, const struct cases *c,
                         const struct seen *s) {
    /* Activations and cache in eight bits each: their errors add. */
    float margin_needed = f->is_float ? 0.01f : f->kv == GK_KV_Q8_0 ? 0.75f : 0.5f, margin;
    size_t n_golden, n_rows, first;
    char path[256];
    float *golden;
    double error;

    (void)snprintf(path, sizeof(path), "%s/logits%zu.f32", f->folder, i_prompt);
    golden = read_floats(path, &n_golden);
    assert(golden && n_golden % s->n_vocab == 0);
    n_rows = n_golden / s->n_vocab;
    first = s->n_positions - n_rows;
    error = error_of(s->logits + first * s->n_vocab, golden, n_golden);
    (void)printf("# %s %s KV %d prompt %zu: logits %.2e (limit %.0e)\n", f->model, f->kind,
                 (int)f->kv, i_prompt, error, f->limit);
    assert(error <= f->limit);
    for (size_t i = 0; i < s->n_positions; i++) {
        const float *judge =
            i < first ? s->logits + i * s->n_vocab : golden + (i - first) * s->n_vocab;
        int32_t ours = best_of(s->logits + i * s->n_vocab, s->n_vocab, &margin);

        (void)best_of(judge, s->n_vocab, &margin);
        if (margin > margin_needed && (f->is_float || i >= first))
            assert(ours == c->argmax[i_prompt].values[i]);
    }
    free(golden);
}

static void check_layers(const struct file *f, const struct seen *s) {
    bool ok = true;
    size_t n_compared = 0;

    for (size_t i = 0; i < s->n_tensors; i++) {
        char path[256];
        float *golden;
        double error;
        size_t n;

        (void)snprintf(path, sizeof(path), "%s/%s.f32", f->folder, s->tensors[i].name);
        golden = read_floats(path, &n);
        if (!golden)
            continue;
        assert(n == s->n_positions * s->tensors[i].n);
        error = error_of(s->tensors[i].values, golden, n);
        if (error > f->layer_limit)
            (void)printf("# %s %s: %s is off by %.2e (limit %.0e)\n", f->model, f->kind,
                         s->tensors[i].name, error, f->layer_limit);
        ok &= error <= f->layer_limit;
        n_compared++;
        free(golden);
    }
    /* At least what each layer leaves, but for the demo model, which has logits alone. */
    assert(n_compared >= (strcmp(f->model, "demo") == 0 ? 0 : 2));
    assert(ok);
}

/* Continues the prompt greedily, for as long as the best token is clearly ahead: a golden margin of
 * 0.5 is not known after the first, ours of 1 is taken for it. */
static void check_greedy(const struct file *f, GkEngine *e, size_t i_prompt,
                         const struct cases *c) {
    const struct ids *greedy = &c->greedy[i_prompt];
    struct gk_params params = gk_params_default();
    float margin_needed = f->is_float ? 0.01f : 1;
    GkSeq *seq;

    params.n_tokens_max = (uint32_t)greedy->n;
    params.ignore_eos = true;
    params.n_logprobs = 2;
    assert(gk_seq_new(&seq, e, c->prompt[i_prompt].values, c->prompt[i_prompt].n, &params, NULL) ==
           0);
    for (size_t i = 0; i < greedy->n; i++) {
        struct gk_result r;

        run_step(e, seq, &r);
        assert(r.has_token && r.n_top == 2);
        if (r.top[0].logprob - r.top[1].logprob < margin_needed)
            break;
        if (r.token != greedy->values[i])
            (void)printf("# %s %s KV %d prompt %zu: greedy token %zu is %d, not %d; ahead by %g\n",
                         f->model, f->kind, (int)f->kv, i_prompt, i, r.token, greedy->values[i],
                         (double)(r.top[0].logprob - r.top[1].logprob));
        (void)fflush(stdout);
        assert(r.token == greedy->values[i]);
    }
    (void)gk_seq_free(seq);
}

static GkEngine *open_model(struct gk_options *options) {
    Error error = ERROR_INIT;
    GkEngine *e = NULL;

    assert(gk_pool_new(&options->pool, 2, NULL) == 0);
    if (gk_engine_open(&e, options, &error) != 0)
        (void)printf("# %s\n", error.text);
    assert(e);
    return e;
}

static void check_file(const struct file *f) {
    struct gk_options options = {.path = f->path, .kv_type = f->kv};
    struct cases *c = read_cases(f->folder);
    GkEngine *e = open_model(&options);

    for (size_t i = 0; i < c->n; i++) {
        struct seen *s = run_prompt(e, &c->prompt[i]);

        if (i == 2)
            check_layers(f, s);
        check_logits(f, i, c, s);
        /* In a continuation, unlike in the prompts, the second and third expert may be so close
         * that 16-bit keys decide who computes. */
        if (f->kv == GK_KV_F32)
            check_greedy(f, e, i, c);
        free_seen(s);
    }
    free(c);
    e = gk_engine_close(e);
    options.pool = gk_pool_free(options.pool);
}

/* Limits: tests/golden's own for logits; layers come before the errors that the output head
 * gathers. */
#define FLOAT_FILE(model, kind, reference, kv, limit)                                              \
    check_file(&(struct file){model, kind, GOLDEN model "/model-" kind ".gguf",                    \
                              GOLDEN model "/" reference, kv, limit, limit, true})
#define QUANT_KV(model, kind, path, folder, kv, limit)                                             \
    check_file(&(struct file){model, kind, path, folder, kv, limit, 2 * (limit), false})
#define QUANT_FILE(model, kind, limit)                                                             \
    QUANT_KV(model, kind, GOLDEN model "/model-" kind ".gguf", GOLDEN model "/" kind, GK_KV_F16,   \
             limit);                                                                               \
    QUANT_KV(model, kind, GOLDEN model "/model-" kind ".gguf", GOLDEN model "/" kind, GK_KV_F32,   \
             limit);                                                                               \
    QUANT_KV(model, kind, GOLDEN model "/model-" kind ".gguf", GOLDEN model "/" kind, GK_KV_Q8_0,  \
             limit)

#define F32_FILE(model)                                                                            \
    FLOAT_FILE(model, "f32", "f32", GK_KV_F32, 1e-8);                                              \
    FLOAT_FILE(model, "f32", "f32", GK_KV_F16, 2e-5);                                              \
    QUANT_KV(model, "f32", GOLDEN model "/model-f32.gguf", GOLDEN model "/f32", GK_KV_Q8_0, 3e-3)

static void test_grok_floats(void) {
    F32_FILE("grok");
    FLOAT_FILE("grok", "f16", "f16", GK_KV_F32, 1e-6);
    FLOAT_FILE("grok", "bf16", "bf16", GK_KV_F32, 1e-6);
}

static void test_mixtral_floats(void) {
    F32_FILE("mixtral");
    FLOAT_FILE("mixtral", "f32-split-experts", "f32", GK_KV_F32, 1e-8);
    FLOAT_FILE("mixtral", "f16", "f16", GK_KV_F32, 1e-6);
    FLOAT_FILE("mixtral", "bf16", "bf16", GK_KV_F32, 1e-6);
}

static void test_dense_kin(void) {
    F32_FILE("llama");
    F32_FILE("qwen2");
    F32_FILE("chatglm");
}

static void test_grok_quantized(void) {
    QUANT_FILE("grok", "q8_0", 3e-3);
    QUANT_FILE("grok", "q5_1", 3.5e-3);
    QUANT_FILE("grok", "q5_0", 3.5e-3);
    QUANT_FILE("grok", "q4_1", 3.5e-3);
    QUANT_FILE("grok", "q4_0", 3.5e-3);
}

static void test_mixtral_quantized(void) {
    QUANT_FILE("mixtral", "q8_0", 3e-3);
    QUANT_FILE("mixtral", "q5_1", 3.5e-3);
    QUANT_FILE("mixtral", "q5_0", 3.5e-3);
    QUANT_FILE("mixtral", "q4_1", 3.5e-3);
    QUANT_FILE("mixtral", "q4_0", 3.5e-3);
}

static void test_mixtral_k_quants(void) {
    QUANT_FILE("mixtral256", "q2_k", 5e-3);
    QUANT_FILE("mixtral256", "q3_k", 5e-3);
    QUANT_FILE("mixtral256", "q4_k", 5e-3);
    QUANT_FILE("mixtral256", "q5_k", 5e-3);
    QUANT_FILE("mixtral256", "q6_k", 5e-3);
}

/* ---- the bundled model ---- */

#define DEMO "engine/demo/model-q8_0.gguf"

static void test_demo(void) {
    QUANT_KV("demo", "q8_0", DEMO, GOLDEN "demo", GK_KV_F16, 3e-3);
    QUANT_KV("demo", "q8_0", DEMO, GOLDEN "demo", GK_KV_F32, 3e-3);
    QUANT_KV("demo", "q8_0", DEMO, GOLDEN "demo", GK_KV_Q8_0, 3e-3);
}

/* Returns the text that follows, greedily, up to the end token; malloc()ed. */
static char *answer(GkEngine *e, const char *prompt) {
    struct gk_params params = gk_params_default();
    struct gk_result r = {.finish = GK_FINISH_NONE};
    char *text = alloc_array(1024, 1);
    size_t n_tokens, n_text = 0;
    int32_t *tokens;
    GkSeq *seq;

    params.n_tokens_max = 100;
    assert(gk_tokenize(e, prompt, strlen(prompt), GK_TOKENIZE_NO_BOS, 256, &tokens, &n_tokens,
                       NULL) == 0);
    assert(gk_seq_new(&seq, e, tokens, n_tokens, &params, NULL) == 0);
    while (r.finish == GK_FINISH_NONE) {
        run_step(e, seq, &r);
        assert(n_text + r.n_text < 1024);
        (void)memcpy(text + n_text, r.text, r.n_text);
        n_text += r.n_text;
    }
    assert(r.finish == GK_FINISH_STOP);
    (void)gk_seq_free(seq);
    free(tokens);
    return text;
}

/* Where the best two logits were never closer than 1, int8 arithmetic must give the same words. */
static void test_demo_answers(void) {
    struct gk_options options = {.path = DEMO};
    FILE *f = fopen("engine/demo/answers.tsv", "re");
    GkEngine *e = open_model(&options);
    char *line = NULL;
    size_t capacity = 0, n = 0;

    assert(f);
    while (getline(&line, &capacity, f) > 0) {
        char *question = strtok(line, "\t"), *expected = strtok(NULL, "\t"),
             *distance = strtok(NULL, "\n"), prompt[512], *text;

        assert(question && expected && distance);
        if (strtod(distance, NULL) <= 1)
            continue;
        (void)snprintf(prompt, sizeof(prompt), "Q: %s\nA:", question);
        text = answer(e, prompt);
        if (text[0] != ' ' || strcmp(text + 1, expected) != 0)
            (void)printf("# %s:%s, not %s\n", question, text, expected);
        assert(text[0] == ' ' && strcmp(text + 1, expected) == 0);
        free(text);
        n++;
    }
    assert(n > 20);
    free(line);
    (void)fclose(f);
    e = gk_engine_close(e);
    options.pool = gk_pool_free(options.pool);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"grok_floats", test_grok_floats, 60},
        {"mixtral_floats", test_mixtral_floats, 60},
        {"dense_kin", test_dense_kin, 60},
        {"grok_quantized", test_grok_quantized, 60},
        {"mixtral_quantized", test_mixtral_quantized, 60},
        {"mixtral_k_quants", test_mixtral_k_quants, 60},
        {"demo", test_demo, 60},
        {"demo_answers", test_demo_answers, 60},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
