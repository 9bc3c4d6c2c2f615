/* See tiny-model.h. */
#include "tests/util/tiny-model.h"

#include "base/macro.h"
#include "engine/kern/unpack.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_LETTERS 9 /* a to h and ▁ */

/* splitmix64 */
static uint64_t next_random(uint64_t *seed) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* -1 to 1 */
static float next_float(uint64_t *seed) {
    return (float)(next_random(seed) >> 40) / (float)(1 << 23) - 1.0f;
}

struct tiny_shape tiny_shape_default(const char *architecture, enum kern_type type) {
    uint32_t width = MAX(32u, kern_types[type].block_values);

    return (struct tiny_shape){.architecture = architecture,
                               .type = type,
                               .n_layers = 2,
                               .n_embd = width,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .head_size = width / 4,
                               .n_ff = width,
                               .n_experts = 4,
                               .n_experts_used = 2,
                               .n_vocab = TINY_VOCAB_MIN + 20,
                               .n_context = 128,
                               .seed = 1};
}

/* ---- weights ---- */

static void put_f16(uint8_t *p, float value) {
    uint16_t half = float_to_half(value);

    (void)memcpy(p, &half, sizeof(half));
}

static void put_bf16(uint8_t *p, float value) {
    uint8_t bytes[4];

    (void)memcpy(bytes, &value, sizeof(bytes));
    (void)memcpy(p, bytes + 2, 2);
}

/* Where a block keeps its F16 scales (ggml's block layouts), and the largest number that the first
 * one multiplies. */
static const struct {
    uint8_t scale_at, min_at; /* 255: none */
    float q_max;
} layouts[KERN_TYPE_N] = {
    [KERN_Q4_0] = {0, 255, 8},        [KERN_Q4_1] = {0, 2, 15},
    [KERN_Q5_0] = {0, 255, 16},       [KERN_Q5_1] = {0, 2, 31},
    [KERN_Q8_0] = {0, 255, 128},      [KERN_Q2_K] = {80, 82, 15 * 3},
    [KERN_Q3_K] = {108, 255, 32 * 4}, [KERN_Q4_K] = {0, 2, 63 * 15},
    [KERN_Q5_K] = {0, 2, 63 * 31},    [KERN_Q6_K] = {208, 255, 128 * 32},
};

/* Random bits with a scale that keeps values within ±amplitude or so. */
static void random_block(enum kern_type type, uint8_t *block, float amplitude, uint64_t *seed) {
    const struct kern_type_info *info = &kern_types[type];
    float scale;

    for (uint32_t i = 0; i < info->block_bytes; i++)
        block[i] = (uint8_t)next_random(seed);
    scale = amplitude / layouts[type].q_max * (1.5f + 0.5f * next_float(seed));
    put_f16(block + layouts[type].scale_at, scale);
    if (type == KERN_Q4_1 || type == KERN_Q5_1) /* an addend, the others a factor */
        put_f16(block + layouts[type].min_at, -scale * layouts[type].q_max / 2);
    else if (layouts[type].min_at != 255)
        put_f16(block + layouts[type].min_at, scale);
}

uint8_t *tiny_matrix(enum kern_type type, uint64_t n_rows, uint64_t n_columns, uint64_t *seed,
                     size_t *ret_n) {
    const struct kern_type_info *info = &kern_types[type];
    size_t n_blocks = n_rows * n_columns / info->block_values;
    uint8_t *bytes = malloc(n_blocks * info->block_bytes);
    float amplitude = 1.5f / sqrtf((float)n_columns);

    assert(bytes && n_columns % info->block_values == 0);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = bytes + i * info->block_bytes;
        float value;

        if (info->block_values > 1) {
            random_block(type, block, amplitude, seed);
            continue;
        }
        value = amplitude * next_float(seed);
        if (type == KERN_F32)
            (void)memcpy(block, &value, sizeof(value));
        else if (type == KERN_F16)
            put_f16(block, value);
        else
            put_bf16(block, value);
    }
    *ret_n = n_blocks * info->block_bytes;
    return bytes;
}

/* dims as in the file: columns, rows, matrices; 0: no such dimension. */
static void add_matrix(GgufWriter *w, uint64_t *seed, const char *name, enum kern_type type,
                       uint64_t n_columns, uint64_t n_rows, uint64_t n_matrices) {
    const uint64_t dims[] = {n_columns, n_rows, n_matrices};
    uint64_t rows = n_rows * MAX(n_matrices, 1u);
    size_t n;
    uint8_t *bytes = tiny_matrix(type, rows, n_columns, seed, &n);

    (void)gguf_writer_tensor(w, name, kern_types[type].gguf_id, n_matrices ? 3 : 2, dims, bytes, n);
    free(bytes);
}

/* Scales near 1. */
static void add_norm(GgufWriter *w, uint64_t *seed, const char *name, uint64_t n) {
    float *values = malloc(n * sizeof(*values));

    assert(values);
    for (uint64_t i = 0; i < n; i++)
        values[i] = 1.0f + 0.2f * next_float(seed);
    (void)gguf_writer_tensor(w, name, 0, 1, &n, values, n * sizeof(*values));
    free(values);
}

static const char *layer_name(uint32_t i_layer, const char *what) {
    static char name[64];

    (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i_layer, what);
    return name;
}

static void add_feed_forward(GgufWriter *w, const struct tiny_shape *s, uint64_t *seed,
                             uint32_t i) {
    if (s->n_experts == 0) {
        add_matrix(w, seed, layer_name(i, "ffn_gate"), s->type, s->n_embd, s->n_ff, 0);
        add_matrix(w, seed, layer_name(i, "ffn_up"), s->type, s->n_embd, s->n_ff, 0);
        add_matrix(w, seed, layer_name(i, "ffn_down"), s->type, s->n_ff, s->n_embd, 0);
        return;
    }
    add_matrix(w, seed, layer_name(i, "ffn_gate_inp"), KERN_F32, s->n_embd, s->n_experts, 0);
    add_matrix(w, seed, layer_name(i, "ffn_gate_exps"), s->type, s->n_embd, s->n_ff, s->n_experts);
    add_matrix(w, seed, layer_name(i, "ffn_up_exps"), s->type, s->n_embd, s->n_ff, s->n_experts);
    add_matrix(w, seed, layer_name(i, "ffn_down_exps"), s->type, s->n_ff, s->n_embd, s->n_experts);
}

static void add_layer(GgufWriter *w, const struct tiny_shape *s, uint64_t *seed, uint32_t i) {
    uint64_t n_q = (uint64_t)s->n_heads * s->head_size;
    uint64_t n_kv = (uint64_t)s->n_kv_heads * s->head_size;

    add_norm(w, seed, layer_name(i, "attn_norm"), s->n_embd);
    add_norm(w, seed, layer_name(i, "ffn_norm"), s->n_embd);
    if (strcmp(s->architecture, "grok") == 0) {
        add_norm(w, seed, layer_name(i, "attn_output_norm"), s->n_embd);
        add_norm(w, seed, layer_name(i, "layer_output_norm"), s->n_embd);
    }
    add_matrix(w, seed, layer_name(i, "attn_q"), s->type, s->n_embd, n_q, 0);
    add_matrix(w, seed, layer_name(i, "attn_k"), s->type, s->n_embd, n_kv, 0);
    add_matrix(w, seed, layer_name(i, "attn_v"), s->type, s->n_embd, n_kv, 0);
    add_matrix(w, seed, layer_name(i, "attn_output"), s->type, n_q, s->n_embd, 0);
    add_feed_forward(w, s, seed, i);
}

/* ---- metadata ---- */

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_BYTE = 6 };

static void make_piece(uint32_t i, char *ret, size_t capacity) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    static const char *const letters[N_LETTERS] = {"a", "b", "c", "d", "e", "f", "g", "h", "▁"};
    uint32_t i_letter = i - 3 - 256, i_word = i_letter - N_LETTERS;

    if (i < 3)
        (void)snprintf(ret, capacity, "%s", special[i]);
    else if (i < 3 + 256)
        (void)snprintf(ret, capacity, "<0x%02X>", i - 3);
    else if (i_letter < N_LETTERS)
        (void)snprintf(ret, capacity, "%s", letters[i_letter]);
    else if (i_word < 72) /* ab, ac, …: all pairs of letters */
        (void)snprintf(ret, capacity, "%s%s", letters[i_word / 8 % N_LETTERS], letters[i_word % 8]);
    else
        (void)snprintf(ret, capacity, "word%u", i_word);
}

static void add_tokenizer(GgufWriter *w, uint32_t n_vocab) {
    char(*pieces)[16] = malloc(n_vocab * sizeof(*pieces));
    const char **texts = malloc(n_vocab * sizeof(*texts));
    float *scores = malloc(n_vocab * sizeof(*scores));
    int32_t *types = malloc(n_vocab * sizeof(*types));

    assert(pieces && texts && scores && types && n_vocab >= TINY_VOCAB_MIN);
    for (uint32_t i = 0; i < n_vocab; i++) {
        make_piece(i, pieces[i], sizeof(pieces[i]));
        texts[i] = pieces[i];
        scores[i] = i < 3 + 256 ? 0.0f : -(float)(i - 3 - 256);
        types[i] = i == 0        ? PIECE_UNKNOWN
                   : i < 3       ? PIECE_CONTROL
                   : i < 3 + 256 ? PIECE_BYTE
                                 : PIECE_NORMAL;
    }
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", texts, n_vocab);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_FLOAT32, scores, n_vocab,
                      n_vocab * sizeof(*scores));
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_INT32, types, n_vocab,
                      n_vocab * sizeof(*types));
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    free(pieces);
    free(texts);
    free(scores);
    free(types);
}

static const char *arch_key(const struct tiny_shape *s, const char *what) {
    static char key[80];

    (void)snprintf(key, sizeof(key), "%s.%s", s->architecture, what);
    return key;
}

static void add_metadata(GgufWriter *w, const struct tiny_shape *s) {
    gguf_writer_string(w, "general.architecture", s->architecture);
    gguf_writer_string(w, "general.name", "tiny");
    gguf_writer_u32(w, arch_key(s, "context_length"), s->n_context);
    gguf_writer_u32(w, arch_key(s, "embedding_length"), s->n_embd);
    gguf_writer_u32(w, arch_key(s, "block_count"), s->n_layers);
    gguf_writer_u32(w, arch_key(s, "feed_forward_length"), s->n_ff);
    gguf_writer_u32(w, arch_key(s, "attention.head_count"), s->n_heads);
    gguf_writer_u32(w, arch_key(s, "attention.head_count_kv"), s->n_kv_heads);
    gguf_writer_u32(w, arch_key(s, "attention.key_length"), s->head_size);
    gguf_writer_u32(w, arch_key(s, "attention.value_length"), s->head_size);
    gguf_writer_f32(w, arch_key(s, "attention.layer_norm_rms_epsilon"), 1e-5f);
    gguf_writer_u32(w, arch_key(s, "rope.dimension_count"), s->head_size);
    gguf_writer_f32(w, arch_key(s, "rope.freq_base"), 10000.0f);
    gguf_writer_u32(w, arch_key(s, "vocab_size"), s->n_vocab);
    if (s->n_experts > 0) {
        gguf_writer_u32(w, arch_key(s, "expert_count"), s->n_experts);
        gguf_writer_u32(w, arch_key(s, "expert_used_count"), s->n_experts_used);
    }
    add_tokenizer(w, s->n_vocab);
}

GgufWriter *tiny_model(const struct tiny_shape *s) {
    GgufWriter *w = gguf_writer_new();
    uint64_t seed = s->seed;

    add_metadata(w, s);
    add_matrix(w, &seed, "token_embd.weight", s->type, s->n_embd, s->n_vocab, 0);
    add_norm(w, &seed, "output_norm.weight", s->n_embd);
    if (strcmp(s->architecture, "grok") != 0) /* Grok's output is its embedding */
        add_matrix(w, &seed, "output.weight", s->type, s->n_embd, s->n_vocab, 0);
    for (uint32_t i = 0; i < s->n_layers; i++)
        add_layer(w, s, &seed, i);
    return w;
}

/* ---- a model of many types ---- */

/* F32 in place of what is there, with the same values. */
static void widen_tensor(struct gguf_tensor *t, enum kern_type type, uint64_t n_rows) {
    uint64_t k = t->dims[0];
    size_t row_bytes = t->n_bytes / n_rows;
    float *wide = malloc(n_rows * k * sizeof(*wide));

    assert(wide);
    for (uint64_t row = 0; row < n_rows; row++)
        kern_select("generic")->dequantize[type](t->bytes + row * row_bytes, wide + row * k, k);
    free(t->bytes);
    t->bytes = (uint8_t *)wide;
    t->n_bytes = n_rows * k * sizeof(*wide);
    t->type = kern_types[KERN_F32].gguf_id;
}

GgufWriter *tiny_mixed_model(const char *architecture, bool widen) {
    static const enum kern_type types[] = {KERN_Q4_0, KERN_Q6_K, KERN_F16,  KERN_Q8_0, KERN_Q4_K,
                                           KERN_BF16, KERN_Q5_1, KERN_Q3_K, KERN_F32,  KERN_Q2_K,
                                           KERN_Q5_0, KERN_Q5_K, KERN_Q4_1};
    struct tiny_shape shape = tiny_shape_default(architecture, KERN_Q4_K);
    uint64_t seed = 7;
    size_t n_done = 0;
    GgufWriter *w;

    _Static_assert(sizeof(types) / sizeof(types[0]) == KERN_TYPE_N, "every type");
    shape.n_layers = 3;
    w = tiny_model(&shape);
    for (size_t i = 0; i < w->n_tensors; i++) {
        struct gguf_tensor *t = &w->tensors[i];
        uint64_t n_rows = t->n_dims == 1 ? 1 : t->dims[1] * (t->n_dims == 3 ? t->dims[2] : 1);
        enum kern_type type;

        if (t->n_dims == 1 || strstr(t->name, "ffn_gate_inp"))
            continue;
        type = types[n_done++ % KERN_TYPE_N];
        free(t->bytes);
        t->bytes = tiny_matrix(type, n_rows, t->dims[0], &seed, &t->n_bytes);
        t->type = kern_types[type].gguf_id;
        if (widen)
            widen_tensor(t, type, n_rows);
    }
    assert(n_done > KERN_TYPE_N);
    return w;
}
