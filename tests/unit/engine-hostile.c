/*
 * engine: models whose file is well-formed but whose content lies.
 *
 * A mutant of a tiny model is either refused by gk_engine_open() with a sentence that names the key
 * or tensor, or it is accepted; then it must tokenize a text and run: a prompt and two tokens, with
 * nothing read or written out of bounds (the sanitizer build looks).
 */
#include "base/macro.h"
#include "engine/engine.h"
#include "tests/util/gguf-write.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static GkPool *pool;

static void check_result(const GkEngine *e, const struct gk_result *result) {
    int32_t n_vocab = (int32_t)gk_engine_info(e)->n_vocab;

    if (result->has_token)
        assert(result->token >= 0 && result->token < n_vocab);
    for (size_t i = 0; i < result->n_top; i++)
        assert(result->top[i].token >= 0 && result->top[i].token < n_vocab);
    for (size_t i = 0; i < result->n_text; i++) /* all of it is there to read */
        (void)*(const volatile char *)&result->text[i];
}

/* A prompt in two slices, then two tokens, greedy or sampled. */
static void run_sequence(GkEngine *e, const int32_t *tokens, size_t n_tokens, float temperature) {
    struct gk_params params = gk_params_default();
    struct gk_plan_row row = {.n_rows = 1};
    struct gk_result result = {.finish = GK_FINISH_NONE};
    Error error = ERROR_INIT;
    GkSeq *seq = NULL;
    int r;

    params.n_tokens_max = 2;
    params.temperature = temperature;
    params.ignore_eos = true;
    params.logprobs = true;
    params.n_logprobs = 3;
    r = gk_seq_new(&seq, e, tokens, n_tokens, &params, &error);
    if (r) {
        assert((r == GK_E_INVALID || r == GK_E_TOO_LONG || r == GK_E_BUSY) && error.text[0]);
        return;
    }
    for (int i = 0; gk_seq_n_pending(seq) > 0; i++) {
        struct gk_plan plan = {&row, 1};

        assert(i < 100);
        row.seq = seq;
        row.n_rows = (uint32_t)MIN(gk_seq_n_pending(seq), (size_t)gk_engine_info(e)->n_rows_max);
        if (i == 0 && row.n_rows > 1)
            row.n_rows /= 2;
        assert(gk_step(e, &plan, &result) == 0);
        check_result(e, &result);
    }
    assert(result.finish != GK_FINISH_NONE);
    (void)gk_seq_free(seq);
}

static void run_engine(GkEngine *e) {
    static const char text[] = "ab  hdc\xff é▁<s>\n";
    const struct gk_model_info *info = gk_engine_info(e);
    Error error = ERROR_INIT;
    int32_t *tokens = NULL;
    char *back = NULL;
    size_t n_tokens, n_back;
    int r = gk_tokenize(e, text, strlen(text), GK_TOKENIZE_CONTROL, 64, &tokens, &n_tokens, &error);

    assert(r == 0 || (r == GK_E_INVALID && error.text[0]));
    for (uint32_t i = 0; i < info->n_vocab; i += 7)
        (void)gk_token_text(e, (int32_t)i, &n_back);
    if (r)
        return;
    for (size_t i = 0; i < n_tokens; i++)
        assert(tokens[i] >= 0 && tokens[i] < (int32_t)info->n_vocab);
    assert(gk_detokenize(e, tokens, n_tokens, true, &back, &n_back, &error) == 0);
    if (n_tokens > 0) {
        run_sequence(e, tokens, n_tokens, 0);
        run_sequence(e, tokens, n_tokens, 1);
    }
    free(tokens);
    free(back);
}

/* Returns whether the model was accepted; it has been run then. */
static bool try_model(const char *path, Error *error) {
    struct gk_options options = {.path = path, .pool = pool};
    GkEngine *e = NULL;
    int r = gk_engine_open(&e, &options, error);

    assert(r == 0 || (r == GK_E_FILE && !e && error->text[0]));
    if (r)
        return false;
    run_engine(e);
    (void)gk_engine_close(e);
    return true;
}

enum verdict { REFUSED, RUNS, EITHER };

/* Takes the writer. `reason` is part of the refusal's sentence, or NULL. */
static void try_writer(const char *name, GgufWriter *w, enum verdict verdict, const char *reason) {
    const char *path = temp_path("mutant.gguf");
    Error error = ERROR_INIT;
    bool accepted;

    (void)printf("# %s: ", name);
    (void)fflush(stdout); /* names the case where the next line crashes */
    gguf_writer_save(w, path);
    gguf_writer_free(w);
    accepted = try_model(path, &error);
    (void)printf("%s\n", accepted ? "runs" : error.text);
    (void)fflush(stdout);
    assert(verdict != REFUSED || !accepted);
    assert(verdict != RUNS || accepted);
    assert(accepted || !reason || strstr(error.text, reason));
    assert(accepted || strstr(error.text, path) == error.text); /* named, and once */
    assert(accepted || !strstr(error.text + 1, path));
    for (const char *p = error.text; *p != '\0'; p++)
        assert((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void start(void) {
    assert(gk_pool_new(&pool, 1, NULL) == 0);
}

static void stop(void) {
    pool = gk_pool_free(pool);
}

static GgufWriter *tiny(const char *architecture, enum kern_type type) {
    struct tiny_shape shape = tiny_shape_default(architecture, type);

    return tiny_model(&shape);
}

static void test_honest_models_run(void) {
    start();
    for (int type = 0; type < KERN_TYPE_N; type++) {
        try_writer(kern_types[type].name, tiny("llama", (enum kern_type)type), RUNS, NULL);
        try_writer(kern_types[type].name, tiny("grok", (enum kern_type)type), RUNS, NULL);
    }
    stop();
}

/* ---- hyper-parameters ---- */

static const struct {
    const char *key;
    uint32_t value;
    enum verdict verdict;
    const char *reason; /* NULL: the key's name */
} counts[] = {
    {"attention.head_count", 0, REFUSED, NULL},
    {"attention.head_count", 3, REFUSED, "head_count_kv"},
    {"attention.head_count", 8, REFUSED, "tensor blk.0.attn_q.weight"},
    {"attention.head_count", 1u << 31, REFUSED, NULL},
    {"attention.head_count", UINT32_MAX, REFUSED, NULL},
    {"attention.head_count_kv", 0, REFUSED, NULL},
    {"attention.head_count_kv", 3, REFUSED, NULL},
    {"attention.head_count_kv", 4, REFUSED, "tensor blk.0.attn_k.weight"},
    {"attention.head_count_kv", 8, REFUSED, NULL},
    {"attention.head_count_kv", UINT32_MAX, REFUSED, NULL},
    {"attention.key_length", 0, REFUSED, NULL},
    {"attention.key_length", 7, REFUSED, "attention.value_length"},
    {"attention.key_length", 16, REFUSED, "attention.value_length"},
    {"attention.key_length", 1u << 31, REFUSED, NULL},
    {"attention.value_length", 4, REFUSED, NULL},
    {"attention.value_length", UINT32_MAX, REFUSED, NULL},
    {"rope.dimension_count", 7, REFUSED, NULL},
    {"rope.dimension_count", 16, REFUSED, NULL},
    {"rope.dimension_count", 1u << 31, REFUSED, NULL},
    {"expert_count", 0, REFUSED, "expert_used_count"},
    {"expert_count", 5, REFUSED, "tensor blk.0.ffn_gate_inp.weight"},
    {"expert_count", 1u << 31, REFUSED, NULL},
    {"expert_used_count", 0, REFUSED, NULL},
    {"expert_used_count", 5, REFUSED, NULL},
    {"expert_used_count", UINT32_MAX, REFUSED, NULL},
    {"block_count", 0, REFUSED, NULL},
    {"block_count", 1, REFUSED, "tensor blk.1."}, /* leaves tensors over */
    {"block_count", 3, REFUSED, "tensor blk.2.attn_norm"},
    {"block_count", 1000000000, REFUSED, NULL},
    {"block_count", UINT32_MAX, REFUSED, NULL},
    {"context_length", 0, REFUSED, NULL},
    {"context_length", 1, EITHER, NULL},
    {"context_length", 1u << 31, EITHER, NULL},
    {"context_length", UINT32_MAX, EITHER, NULL},
    {"embedding_length", 0, REFUSED, NULL},
    {"embedding_length", 64, REFUSED, "tensor token_embd.weight"},
    {"embedding_length", 1u << 31, REFUSED, NULL},
    {"feed_forward_length", 0, REFUSED, NULL},
    {"feed_forward_length", 64, REFUSED, "tensor blk.0.ffn_gate_exps.weight"},
    {"feed_forward_length", UINT32_MAX, REFUSED, NULL},
    {"vocab_size", 100, REFUSED, NULL},
    {"vocab_size", 1000, REFUSED, NULL},
};

static const char *full_key(const char *architecture, const char *key) {
    static char full[96];

    (void)snprintf(full, sizeof(full), "%s.%s", architecture, key);
    return full;
}

static const char *const architectures[] = {"llama", "grok"};

static void test_counts(void) {
    start();
    for (size_t a = 0; a < ARRAY_SIZE(architectures); a++) {
        for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
            GgufWriter *w = tiny(architectures[a], KERN_Q8_0);
            char name[128];

            gguf_writer_u32(w, full_key(architectures[a], counts[i].key), counts[i].value);
            (void)snprintf(name, sizeof(name), "%s.%s = %u", architectures[a], counts[i].key,
                           counts[i].value);
            try_writer(name, w, counts[i].verdict,
                       counts[i].reason ? counts[i].reason : counts[i].key);
        }
    }
    stop();
}

static void test_floats(void) {
    static const char *const keys[] = {"attention.layer_norm_rms_epsilon", "rope.freq_base"};
    const float values[] = {NAN, INFINITY, -INFINITY, 0.0f, -1.0f};

    start();
    for (size_t a = 0; a < ARRAY_SIZE(architectures); a++) {
        for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
            for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                GgufWriter *w = tiny(architectures[a], KERN_Q8_0);
                const char *key = full_key(architectures[a], keys[k]);
                char name[128];

                gguf_writer_f32(w, key, values[i]);
                (void)snprintf(name, sizeof(name), "%s = %g", key, (double)values[i]);
                try_writer(name, w, REFUSED, key);
            }
        }
    }
    stop();
}

/* Optional multipliers and caps: where one is read, it must be a number. */
static void test_optional_floats(void) {
    static const char *const keys[] = {
        "attn_logit_softcapping",
        "router_logit_softcapping",
        "final_logit_softcapping",
        "embedding_scale",
        "logit_scale",
        "expert_weights_scale",
        "attention.scale",
        "attention.output_scale",
        "residual_scale",
        "rope.scaling.factor",
    };
    const float values[] = {NAN, INFINITY, -1.0f, 0.0f, 1e38f};

    start();
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
            GgufWriter *w = tiny("grok", KERN_Q8_0);

            gguf_writer_f32(w, full_key("grok", keys[k]), values[i]);
            try_writer(keys[k], w, EITHER, NULL);
        }
    }
    stop();
}

/* What a file asks for and we can't do is refused, never left out. */
static void test_what_we_lack(void) {
    static const uint64_t dims[] = {4};
    GgufWriter *w;

    start();
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_string(w, "llama.rope.scaling.type", "yarn");
    try_writer("yarn", w, REFUSED, "llama.rope.scaling.type");
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_u32(w, "llama.rope.scaling.type", 1);
    try_writer("scaling by number", w, REFUSED, "llama.rope.scaling.type");
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_f32(w, "llama.rope.scaling.factor", NAN);
    try_writer("scaling without type", w, REFUSED, "llama.rope.scaling.factor");
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_u32(w, "llama.expert_weights_norm", 1);
    try_writer("normalised by number", w, REFUSED, "llama.expert_weights_norm");
    w = tiny("llama", KERN_Q8_0);
    (void)gguf_writer_tensor(w, "rope_freqs.weight", 0, 1, dims, NULL, 16);
    try_writer("frequencies of our own", w, REFUSED, "tensor rope_freqs.weight has no place");
    stop();
}

/* Each key left out, and each of a type that it cannot be. */
static void test_keys_missing_or_of_another_type(void) {
    start();
    for (size_t a = 0; a < ARRAY_SIZE(architectures); a++) {
        GgufWriter *w = tiny(architectures[a], KERN_Q8_0);
        size_t n = w->n_keys;

        gguf_writer_free(w);
        for (size_t i = 0; i < n; i++) {
            char name[128];

            w = tiny(architectures[a], KERN_Q8_0);
            (void)snprintf(name, sizeof(name), "without %s", w->keys[i].name);
            gguf_writer_remove_key(w, w->keys[i].name);
            try_writer(name, w, EITHER, NULL);
            w = tiny(architectures[a], KERN_Q8_0);
            (void)snprintf(name, sizeof(name), "%s of type INT8", w->keys[i].name);
            (void)gguf_writer_key(w, w->keys[i].name, GGUF_INT8, "\xff", 1);
            try_writer(name, w, EITHER, NULL);
        }
        w = tiny(architectures[a], KERN_Q8_0);
        gguf_writer_remove_key(w, "general.architecture");
        try_writer("no architecture", w, REFUSED, "general.architecture");
    }
    stop();
}

static void test_architecture_by_name(void) {
    GgufWriter *w;

    start();
    w = tiny("llama", KERN_F32);
    gguf_writer_string(w, "general.architecture", "mamba");
    try_writer("another architecture", w, REFUSED, "mamba");
    w = tiny("llama", KERN_F32);
    gguf_writer_string(w, "general.architecture", "x\n\x1b[31m");
    try_writer("an architecture for the terminal", w, REFUSED, "x\\x0a\\x1b[31m");
    w = tiny("llama", KERN_F32);
    gguf_writer_string(w, "general.architecture", "");
    try_writer("an empty architecture", w, REFUSED, "architecture");
    stop();
}

/* ---- tensors ---- */

static void change_tensor(struct gguf_tensor *t, int how) {
    switch (how) {
    case 0: /* one row, or value, too few */
        t->dims[t->n_dims - 1]--;
        break;
    case 1: /* one dimension more */
        t->dims[t->n_dims++] = 1;
        break;
    case 2: /* columns for rows */
        t->dims[1] = t->dims[0] / 2;
        t->dims[0] *= 2;
        t->n_dims = 2;
        break;
    default: /* F32 as half as much F16, others as F32 of the bytes that are there */
        t->type = t->type == 0 ? 1 : 0;
        t->dims[0] = t->type == 1 ? t->dims[0] : t->dims[0] / 8;
        break;
    }
}

/* Each tensor left out, of another shape, of another type. */
static void test_tensors_missing_or_of_another_shape(void) {
    start();
    for (size_t a = 0; a < ARRAY_SIZE(architectures); a++) {
        GgufWriter *w = tiny(architectures[a], KERN_Q8_0);
        size_t n = w->n_tensors;

        gguf_writer_free(w);
        for (size_t i = 0; i < n; i++) {
            char name[128], tensor[64];

            w = tiny(architectures[a], KERN_Q8_0);
            (void)snprintf(tensor, sizeof(tensor), "%s", w->tensors[i].name);
            (void)snprintf(name, sizeof(name), "without %s", tensor);
            gguf_writer_remove_tensor(w, tensor);
            /* A llama without output.weight uses the embedding. */
            try_writer(name, w, strcmp(tensor, "output.weight") == 0 ? EITHER : REFUSED, tensor);
            for (int how = 0; how < 4; how++) {
                w = tiny(architectures[a], KERN_Q8_0);
                change_tensor(gguf_writer_find_tensor(w, tensor), how);
                (void)snprintf(name, sizeof(name), "%s changed (%d)", tensor, how);
                try_writer(name, w, how == 0 ? REFUSED : EITHER, tensor);
            }
        }
    }
    stop();
}

/* Every bit pattern is a number to the kernels: not-a-number goes in, something comes out. */
static void test_scales_that_are_no_numbers(void) {
    static const uint16_t patterns[] = {0x7e00, 0x7c00, 0xfc00, 0x7bff, 0xffff, 0x0001};

    start();
    for (int type = 0; type < KERN_TYPE_N; type++) {
        for (size_t i = 0; i < ARRAY_SIZE(patterns); i++) {
            GgufWriter *w = tiny("grok", (enum kern_type)type);

            for (size_t j = 0; j < w->n_tensors; j++) {
                struct gguf_tensor *t = &w->tensors[j];

                for (size_t at = 0; at + 2 <= t->n_bytes; at += 2)
                    (void)memcpy(t->bytes + at, &patterns[i], 2);
            }
            try_writer(kern_types[type].name, w, EITHER, NULL);
        }
    }
    stop();
}

static void test_one_tensor_without_numbers(void) {
    start();
    for (size_t a = 0; a < ARRAY_SIZE(architectures); a++) {
        GgufWriter *w = tiny(architectures[a], KERN_F32);
        size_t n = w->n_tensors;

        gguf_writer_free(w);
        for (size_t i = 0; i < n; i++) {
            w = tiny(architectures[a], KERN_F32);
            (void)memset(w->tensors[i].bytes, 0xff, w->tensors[i].n_bytes);
            try_writer(w->tensors[i].name, w, EITHER, NULL);
        }
    }
    stop();
}

/* ---- the tokenizer ---- */

/* Replaces one string of an array of strings. */
static void set_piece(GgufWriter *w, size_t i_piece, const char *bytes, uint64_t n) {
    for (size_t k = 0; k < w->n_keys; k++) {
        struct gguf_key *key = &w->keys[k];
        uint64_t at = 12, old_n;
        uint8_t *value;

        if (strcmp(key->name, "tokenizer.ggml.tokens") != 0)
            continue;
        for (size_t i = 0;; i++) {
            (void)memcpy(&old_n, key->value + at, 8);
            if (i == i_piece)
                break;
            at += 8 + old_n;
        }
        value = malloc(key->n_value + n);
        assert(value);
        (void)memcpy(value, key->value, at);
        (void)memcpy(value + at, &n, 8);
        (void)memcpy(value + at + 8, bytes, n);
        (void)memcpy(value + at + 8 + n, key->value + at + 8 + old_n,
                     key->n_value - at - 8 - old_n);
        free(key->value);
        key->value = value;
        key->n_value = key->n_value - old_n + n;
        return;
    }
    abort();
}

static void test_pieces(void) {
    static char huge[TINY_VOCAB_MIN * 100];
    static const struct {
        const char *name;
        size_t i;
        const char *bytes;
        size_t n;
        enum verdict verdict;
    } pieces[] = {
        {"byte <0x-1>", 3, "<0x-1>", 6, REFUSED},
        {"byte <0xGG>", 3, "<0xGG>", 6, REFUSED},
        {"byte <0x100>", 3, "<0x100>", 7, REFUSED},
        {"byte <0x>", 3, "<0x>", 4, REFUSED},
        {"byte without form", 3, "zz", 2, REFUSED},
        {"byte twice", 3, "<0x01>", 6, REFUSED},
        {"byte empty", 3, "", 0, REFUSED},
        {"empty", 270, "", 0, EITHER},
        {"duplicate", 270, "a", 1, EITHER},
        {"invalid UTF-8", 270, "\xff\xc0", 2, EITHER},
        {"half a character", 270, "\xe2\x96", 2, EITHER},
        {"zero bytes", 270, "\0\0", 2, EITHER},
        {"26800 bytes", 270, huge, sizeof(huge), REFUSED},
        {"control for the terminal", 1, "\x1b[31m", 5, EITHER},
    };

    start();
    (void)memset(huge, 'a', sizeof(huge));
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        GgufWriter *w = tiny("llama", KERN_Q8_0);

        set_piece(w, pieces[i].i, pieces[i].bytes, pieces[i].n);
        try_writer(pieces[i].name, w, pieces[i].verdict,
                   pieces[i].verdict == REFUSED ? "piece" : NULL);
    }
    stop();
}

static void test_token_ids(void) {
    static const char *const keys[] = {"bos_token_id", "eos_token_id"};
    static const uint32_t values[] = {288, 289, 1u << 31, UINT32_MAX - 1};

    start();
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
            GgufWriter *w = tiny("llama", KERN_Q8_0);
            char key[64];

            (void)snprintf(key, sizeof(key), "tokenizer.ggml.%s", keys[k]);
            gguf_writer_u32(w, key, values[i]);
            try_writer(key, w, REFUSED, key);
        }
    }
    stop();
}

static void shorten_array(GgufWriter *w, const char *key, uint32_t type, uint64_t n,
                          size_t element_bytes) {
    uint8_t *zeroes = calloc(n + 1, element_bytes);

    assert(zeroes);
    gguf_writer_array(w, key, type, zeroes, n, n * element_bytes);
    free(zeroes);
}

static void test_tokenizer_arrays(void) {
    static const struct {
        const char *key;
        uint32_t type;
        uint64_t n;
        size_t element_bytes;
        enum verdict verdict;
    } arrays[] = {
        {"tokenizer.ggml.scores", GGUF_FLOAT32, 0, 4, REFUSED},
        {"tokenizer.ggml.scores", GGUF_FLOAT32, 287, 4, REFUSED},
        {"tokenizer.ggml.scores", GGUF_FLOAT32, 289, 4, REFUSED},
        {"tokenizer.ggml.scores", GGUF_INT32, 288, 4, REFUSED},
        {"tokenizer.ggml.scores", GGUF_STRING, 288, 8, REFUSED},
        {"tokenizer.ggml.token_type", GGUF_INT32, 0, 4, REFUSED},
        {"tokenizer.ggml.token_type", GGUF_INT32, 287, 4, REFUSED},
        {"tokenizer.ggml.token_type", GGUF_INT32, 289, 4, REFUSED},
        {"tokenizer.ggml.token_type", GGUF_FLOAT32, 288, 4, REFUSED},
        {"tokenizer.ggml.tokens", GGUF_STRING, 0, 8, REFUSED},
        {"tokenizer.ggml.tokens", GGUF_STRING, 287, 8, REFUSED},
        {"tokenizer.ggml.tokens", GGUF_STRING, 289, 8, REFUSED},
        {"tokenizer.ggml.tokens", GGUF_INT32, 288, 4, REFUSED},
    };

    start();
    for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
        GgufWriter *w = tiny("llama", KERN_Q8_0);

        shorten_array(w, arrays[i].key, arrays[i].type, arrays[i].n, arrays[i].element_bytes);
        try_writer(arrays[i].key, w, arrays[i].verdict, "tokenizer.ggml");
    }
    stop();
}

static void test_scores_and_types(void) {
    const float scores[] = {NAN, INFINITY, -INFINITY, 3e38f};
    static const int32_t types[] = {0, 7, 99, -1, INT32_MIN, INT32_MAX};

    start();
    for (size_t i = 0; i < ARRAY_SIZE(scores); i++) {
        float array[288] = {0};
        GgufWriter *w = tiny("llama", KERN_Q8_0);

        array[270] = scores[i];
        gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_FLOAT32, array, 288, sizeof(array));
        try_writer("score", w, isnan(scores[i]) ? REFUSED : RUNS, "tokenizer.ggml.scores");
    }
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        int32_t array[288];
        GgufWriter *w = tiny("llama", KERN_Q8_0);

        for (size_t j = 0; j < 288; j++)
            array[j] = 1;
        array[270] = types[i];
        gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_INT32, array, 288, sizeof(array));
        try_writer("token type", w, EITHER, "tokenizer.ggml");
    }
    stop();
}

static void test_tokenizer_by_name(void) {
    GgufWriter *w;

    start();
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_string(w, "tokenizer.ggml.model", "wordpiece\n");
    try_writer("another tokenizer", w, REFUSED, "wordpiece\\x0a");
    w = tiny("llama", KERN_Q8_0);
    gguf_writer_remove_key(w, "tokenizer.ggml.model");
    try_writer("no tokenizer", w, REFUSED, "tokenizer.ggml.model");
    stop();
}

/* ---- files that fail in use ---- */

struct cut {
    const char *path;
    off_t n_left;
};

/* Between two layers: the pages of the next ones then fail under both threads. */
static void cut_in_step(void *userdata, const GkSeq *seq, const char *name, int i_layer,
                        size_t position, const float *values, size_t n) {
    const struct cut *cut = userdata;

    assert(seq && values && n > 0 && position < 128);
    if (i_layer == 0 && strcmp(name, "hidden") == 0)
        assert(truncate(cut->path, cut->n_left) == 0);
}

/* Cut while a sequence runs on two threads, before a step or within: the step says so, and nothing
 * is answered after it. */
static void lose_model(off_t n_left, bool within) {
    static const int32_t tokens[] = {1, 260, 261, 262};
    const char *path = temp_path("lost.gguf");
    struct cut cut = {path, n_left};
    struct gk_observer observer = {cut_in_step, &cut};
    struct gk_options options = {.path = path};
    struct gk_params params = gk_params_default();
    struct gk_plan_row row = {.n_rows = 4};
    struct gk_plan plan = {&row, 1};
    struct gk_result result;
    GgufWriter *w = tiny("grok", KERN_Q4_K); /* of many pages */
    Error error = ERROR_INIT;
    GkEngine *e = NULL;
    GkSeq *seq = NULL;

    gguf_writer_save(w, path);
    gguf_writer_free(w);
    assert(gk_pool_new(&options.pool, 2, &error) == 0);
    assert(gk_engine_open(&e, &options, &error) == 0);
    params.ignore_eos = true;
    assert(gk_seq_new(&seq, e, tokens, 4, &params, &error) == 0);
    row.seq = seq;
    assert(gk_step(e, &plan, &result) == 0 && result.has_token);
    assert(!gk_engine_is_lost(e));
    if (within)
        gk_engine_observe(e, &observer);
    else
        assert(truncate(path, n_left) == 0);
    row.n_rows = 1;
    assert(gk_step(e, &plan, &result) == GK_E_DATA_LOSS);
    assert(result.finish == GK_FINISH_FAILED && result.seq == seq && !result.has_token);
    assert(result.n_text == 0 && gk_seq_n_pending(seq) == 0 && gk_engine_is_lost(e));
    (void)gk_seq_free(seq);
    assert(gk_seq_new(&seq, e, tokens, 4, &params, &error) == GK_E_DATA_LOSS && error.text[0]);
    (void)gk_engine_close(e);
    (void)gk_pool_free(options.pool);
}

static void test_file_lost_in_use(void) {
    static const off_t sizes[] = {0, 4096, 300000};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        lose_model(sizes[i], false);
        lose_model(sizes[i], true);
    }
}

/* ---- changed bytes ---- */

/* Small enough that each byte can be tried; the seed decides what it becomes. */
static void try_changed_bytes(const char *architecture, bool in_header, size_t n_tries) {
    GgufWriter *w = tiny(architecture, KERN_Q8_0);
    const char *path = temp_path("mutant.gguf");
    size_t n, n_header, n_accepted = 0;
    uint8_t *bytes = gguf_writer_bytes(w, &n, &n_header);
    uint64_t random = 12345;

    gguf_writer_free(w);
    start();
    for (size_t i = 0; i < n_tries; i++) {
        size_t first = in_header ? 0 : n_header, n_bytes = in_header ? n_header : n - n_header;
        size_t at;
        uint8_t old;
        Error error = ERROR_INIT;

        random = random * 6364136223846793005u + 1442695040888963407u;
        at = first + (size_t)(random >> 33) % n_bytes;
        old = bytes[at];
        bytes[at] ^= (uint8_t)(1u << (random >> 24 & 7));
        if (random >> 20 & 1)
            bytes[at] = (uint8_t)(random >> 8);
        if (getenv("GROKD_TEST_VERBOSE"))
            (void)fprintf(stderr, "# byte %zu from 0x%02x to 0x%02x\n", at, old, bytes[at]);
        gguf_save_bytes(path, bytes, n);
        n_accepted += try_model(path, &error);
        bytes[at] = old;
    }
    stop();
    (void)printf("# %zu of %zu accepted\n", n_accepted, n_tries);
    assert(n_accepted > 0);
    free(bytes);
}

static void test_changed_header_bytes_llama(void) {
    try_changed_bytes("llama", true, 1500);
}

static void test_changed_header_bytes_grok(void) {
    try_changed_bytes("grok", true, 1500);
}

static void test_changed_data_bytes(void) {
    try_changed_bytes("grok", false, 300);
}

static const struct test tests[] = {
    TEST(honest_models_run),
    TEST(counts),
    TEST(floats),
    TEST(optional_floats),
    TEST(what_we_lack),
    TEST(keys_missing_or_of_another_type),
    TEST(architecture_by_name),
    TEST(tensors_missing_or_of_another_shape),
    TEST(scales_that_are_no_numbers),
    TEST(one_tensor_without_numbers),
    TEST(pieces),
    TEST(token_ids),
    TEST(tokenizer_arrays),
    TEST(scores_and_types),
    TEST(tokenizer_by_name),
    TEST(file_lost_in_use),
    {"changed_header_bytes_llama", test_changed_header_bytes_llama, 60},
    {"changed_header_bytes_grok", test_changed_header_bytes_grok, 60},
    {"changed_data_bytes", test_changed_data_bytes, 60},
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
