/*
 * engine: what a file's keys and tensor names may override, by consequences that follow from the
 * key's meaning; and files that mix the types of weights.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_PROMPT  40
#define N_EXPERTS 4

/* What a model computes for one prompt. */
struct seen {
    size_t n_vocab;
    float *logits;                     // (N_PROMPT, n_vocab)
    float router[N_PROMPT][N_EXPERTS]; // of layer 0, whose inputs no key of the router changes
};

static void on_row(void *userdata, const GkSeq *seq, const char *name, int i_layer, size_t position,
                   const float *values, size_t n) {
    struct seen *s = userdata;

    (void)seq;
    if (strcmp(name, "logits") == 0)
        (void)memcpy(s->logits + position * n, values, n * sizeof(float));
    else if (strcmp(name, "router_probabilities") == 0 && i_layer == 0)
        (void)memcpy(s->router[position], values, n * sizeof(float));
}

/* Takes the writer. */
static struct seen *run(GgufWriter *w) {
    struct gk_options options = {.path = temp_path("keys.gguf"), .kv_type = GK_KV_F32};
    struct gk_params params = gk_params_default();
    struct seen *s = alloc_new(struct seen);
    int32_t tokens[N_PROMPT];
    struct gk_result result;
    Error error = ERROR_INIT;
    GkEngine *e = NULL;
    GkSeq *seq;

    gguf_writer_save(w, options.path);
    gguf_writer_free(w);
    options.exact_floats = true;
    assert(gk_pool_new(&options.pool, 1, NULL) == 0);
    if (gk_engine_open(&e, &options, &error) != 0)
        (void)printf("# %s\n", error.text);
    assert(e);
    s->n_vocab = gk_engine_info(e)->n_vocab;
    s->logits = alloc_array(N_PROMPT * s->n_vocab, sizeof(float));
    for (size_t i = 0; i < N_PROMPT; i++)
        tokens[i] = (int32_t)((i * 37 + i * i % 11 + 5) % s->n_vocab);
    gk_engine_observe(e, &(struct gk_observer){on_row, s});
    params.mode = GK_SCORE;
    assert(gk_seq_new(&seq, e, tokens, N_PROMPT, &params, NULL) == 0);
    assert(gk_step(e, &(struct gk_plan){&(struct gk_plan_row){seq, N_PROMPT}, 1}, &result) == 0);
    (void)gk_seq_free(seq);
    e = gk_engine_close(e);
    options.pool = gk_pool_free(options.pool);
    return s;
}

static void forget(struct seen *s) {
    free(s->logits);
    free(s);
}

static GgufWriter *tiny(const char *architecture) {
    struct tiny_shape shape = tiny_shape_default(architecture, KERN_F32);

    return tiny_model(&shape);
}

static struct seen *run_with_float(const char *architecture, const char *key, float value) {
    GgufWriter *w = tiny(architecture);

    gguf_writer_f32(w, key, value);
    return run(w);
}

static bool same_bits(const struct seen *a, const struct seen *b) {
    return memcmp(a->logits, b->logits, N_PROMPT * a->n_vocab * sizeof(float)) == 0;
}

static double error_of(const struct seen *ours, const struct seen *truth) {
    double difference = 0, size = 0;

    for (size_t i = 0; i < N_PROMPT * truth->n_vocab; i++) {
        double d = (double)ours->logits[i] - (double)truth->logits[i];

        difference += d * d;
        size += (double)truth->logits[i] * (double)truth->logits[i];
    }
    return difference / size;
}

/* ---- scales and caps ---- */

/* Grok-1's own constants, stated. */
static void test_defaults_may_be_stated(void) {
    struct seen *plain = run(tiny("grok")), *stated;
    GgufWriter *w = tiny("grok");

    gguf_writer_f32(w, "grok.embedding_scale", 78.38367176906169f);
    gguf_writer_f32(w, "grok.logit_scale", 0.5773502691896257f);
    gguf_writer_f32(w, "grok.attention.output_scale", 0.08838834764831845f);
    gguf_writer_f32(w, "grok.attn_logit_softcapping", 30);
    gguf_writer_f32(w, "grok.final_logit_softcapping", 0);
    gguf_writer_f32(w, "grok.router_logit_softcapping", 0);
    gguf_writer_f32(w, "grok.expert_weights_scale", 1);
    gguf_writer_bool(w, "grok.expert_weights_norm", false);
    gguf_writer_u32(w, "grok.expert_gating_func", 1);
    gguf_writer_u32(w, "grok.expert_feed_forward_length", 32);
    gguf_writer_string(w, "grok.rope.scaling.type", "none");
    stated = run(w);
    assert(same_bits(plain, stated));
    forget(plain);
    forget(stated);
}

static void test_logit_scale_and_cap(void) {
    struct seen *one = run_with_float("llama", "llama.logit_scale", 0), *plain = run(tiny("llama")),
                *half = run_with_float("llama", "llama.logit_scale", 0.5f),
                *capped = run_with_float("llama", "llama.final_logit_softcapping", 0.7f);

    assert(same_bits(one, plain)); /* 0: none */
    for (size_t i = 0; i < N_PROMPT * plain->n_vocab; i++) {
        double x = (double)plain->logits[i];

        assert(half->logits[i] == 0.5f * plain->logits[i]);
        assert(fabs((double)capped->logits[i] - 0.7 * tanh(x / 0.7)) < 1e-6);
    }
    forget(one);
    forget(plain);
    forget(half);
    forget(capped);
}

/* A scale of 0 makes all scores equal, as a tiny one nearly does; the cap's effect is least where
 * scores are small. */
static void test_attention_scale_and_cap(void) {
    struct seen *plain = run_with_float("grok", "grok.attn_logit_softcapping", 0),
                *wide = run_with_float("grok", "grok.attn_logit_softcapping", 1e4f),
                *capped = run_with_float("grok", "grok.attn_logit_softcapping", 0.05f),
                *scaled = run_with_float("grok", "grok.attention.output_scale", 1.5f),
                *other = run_with_float("grok", "grok.attention.scale", 1.5f);

    assert(error_of(wide, plain) < 1e-9 && !same_bits(wide, plain));
    assert(error_of(capped, plain) > 1e-6);
    assert(error_of(scaled, plain) > 1e-6);
    assert(same_bits(scaled, other));
    forget(plain);
    forget(wide);
    forget(capped);
    forget(scaled);
    forget(other);
}

static void test_rope_scaling(void) {
    struct seen *plain = run(tiny("llama")),
                *one = run_with_float("llama", "llama.rope.scaling.factor", 1),
                *four = run_with_float("llama", "llama.rope.scaling.factor", 4),
                *old = run_with_float("llama", "llama.rope.scale_linear", 4), *none;
    GgufWriter *w = tiny("llama");

    gguf_writer_string(w, "llama.rope.scaling.type", "none");
    gguf_writer_f32(w, "llama.rope.scaling.factor", 4);
    none = run(w);
    assert(same_bits(one, plain) && same_bits(none, plain));
    assert(same_bits(four, old) && error_of(four, plain) > 1e-6);
    /* The first position is where it was. */
    assert(memcmp(four->logits, plain->logits, plain->n_vocab * sizeof(float)) == 0);
    forget(plain);
    forget(one);
    forget(four);
    forget(old);
    forget(none);
}

/* ---- the router ---- */

/* Grok's norm after the experts takes away whatever factor they share, but for its epsilon. */
static void test_gates_of_grok_cancel(void) {
    struct seen *plain = run(tiny("grok")), *normed,
                *scaled = run_with_float("grok", "grok.expert_weights_scale", 3);
    GgufWriter *w = tiny("grok");

    gguf_writer_bool(w, "grok.expert_weights_norm", true);
    normed = run(w);
    (void)printf("# renormalised %.1e, scaled %.1e\n", error_of(normed, plain),
                 error_of(scaled, plain));
    assert(error_of(normed, plain) < 1e-4 && !same_bits(normed, plain));
    assert(error_of(scaled, plain) < 1e-4 && !same_bits(scaled, plain));
    forget(plain);
    forget(normed);
    forget(scaled);
}

static struct seen *run_without_renormalising(uint32_t n_used) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_F32);
    GgufWriter *w;

    shape.n_experts_used = n_used;
    w = tiny_model(&shape);
    gguf_writer_bool(w, "llama.expert_weights_norm", false);
    return run(w);
}

/* Where every expert is used, probabilities add up to 1 as they are. */
static void test_gates_of_llama_are_renormalised(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_F32);
    struct seen *two = run(tiny("llama")), *two_raw = run_without_renormalising(2), *all,
                *all_raw = run_without_renormalising(N_EXPERTS);

    shape.n_experts_used = N_EXPERTS;
    all = run(tiny_model(&shape));
    assert(error_of(two_raw, two) > 1e-4);
    assert(error_of(all_raw, all) < 1e-10);
    forget(two);
    forget(two_raw);
    forget(all);
    forget(all_raw);
}

static double logit(double p) {
    return log(p / (1 - p));
}

/* The sigmoid's argument is the softmax's, up to what the softmax takes from all; a cap bends it.
 */
static void test_gating_and_router_cap(void) {
    struct seen *softmax = run(tiny("llama")), *sigmoid, *capped;
    GgufWriter *w = tiny("llama");

    gguf_writer_u32(w, "llama.expert_gating_func", 2);
    sigmoid = run(w);
    w = tiny("llama");
    gguf_writer_u32(w, "llama.expert_gating_func", 2);
    gguf_writer_f32(w, "llama.router_logit_softcapping", 0.5f);
    capped = run(w);
    for (size_t i = 0; i < N_PROMPT; i++) {
        double sum = 0;

        for (size_t j = 0; j < N_EXPERTS; j++) {
            double x = logit((double)sigmoid->router[i][j]),
                   x0 = logit((double)sigmoid->router[i][0]);
            double ratio = (double)softmax->router[i][j] / (double)softmax->router[i][0];

            sum += (double)softmax->router[i][j];
            assert(fabs(x - x0 - log(ratio)) < 1e-4);
            assert(fabs(logit((double)capped->router[i][j]) - 0.5 * tanh(x / 0.5)) < 1e-4);
        }
        assert(fabs(sum - 1) < 1e-6);
    }
    forget(softmax);
    forget(sigmoid);
    forget(capped);
}

/* ---- names ---- */

static void rename_tensor(GgufWriter *w, const char *from, const char *to) {
    struct gguf_tensor *t = gguf_writer_find_tensor(w, from);

    assert(t);
    free(t->name);
    t->name = alloc_string(to);
    t->n_name = t->n_name_claimed = strlen(to);
}

static void test_other_name_of_the_last_norm(void) {
    struct seen *plain = run(tiny("grok")), *other;
    GgufWriter *w = tiny("grok");

    rename_tensor(w, "blk.0.layer_output_norm.weight", "blk.0.post_ffw_norm.weight");
    rename_tensor(w, "blk.1.layer_output_norm.weight", "blk.1.post_ffw_norm.weight");
    other = run(w);
    assert(same_bits(plain, other));
    forget(plain);
    forget(other);
}

/* ---- types ---- */

/* Every tensor has its own type, and no two beside each other the same: gate and up, queries and
 * keys differ. The truth is the same file in F32. */
static void check_mixed(const char *architecture) {
    struct seen *ours = run(tiny_mixed_model(architecture, false)),
                *truth = run(tiny_mixed_model(architecture, true));

    (void)printf("# %s of 13 types: off by %.1e\n", architecture, error_of(ours, truth));
    assert(error_of(ours, truth) < 5e-3);
    forget(ours);
    forget(truth);
}

static void test_mixed_types(void) {
    check_mixed("llama");
    check_mixed("grok");
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(defaults_may_be_stated),
        TEST(logit_scale_and_cap),
        TEST(attention_scale_and_cap),
        TEST(rope_scaling),
        TEST(gates_of_grok_cancel),
        TEST(gates_of_llama_are_renormalised),
        TEST(gating_and_router_cap),
        TEST(other_name_of_the_last_norm),
        TEST(mixed_types),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
