/*
 * engine: the table of a model (parameters, active ones, bytes) computed from its shapes, against
 * published figures and against the tensors that files hold; and the memory of its steps.
 */
#include "base/macro.h"
#include "engine/file/file.h"
#include "engine/internal.h"
#include "engine/kv.h"
#include "tests/util/team.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- real shapes, and what is known of them ---- */

struct known {
    const char *name, *architecture;
    Shape shape;
    double parameters, per_expert, active; /* in thousand millions, 0: none */
    uint64_t kv_bytes_per_token;           /* f16 */
};

/* Grok-1 and Mixtral: from their published checkpoints' shapes (the articles' 314, 86 and 45.6, 12
 * are rounder). Llama 2 70B and Qwen 72B: 68.98 and 72.71 by their publishers' own count. Grok-0:
 * "33 billion". */
static const struct known models[] = {
    {"Grok-1",
     "grok",
     {.n_layers = 64,
      .n_embd = 6144,
      .n_ff = 32768,
      .n_vocab = 131072,
      .n_heads = 48,
      .n_kv_heads = 8,
      .head_size = 128,
      .n_experts = 8,
      .n_experts_used = 2,
      .tied_output = true},
     315.7,
     38.65,
     83.8,
     262144},
    {"Mixtral 8x7B",
     "llama",
     {.n_layers = 32,
      .n_embd = 4096,
      .n_ff = 14336,
      .n_vocab = 32000,
      .n_heads = 32,
      .n_kv_heads = 8,
      .head_size = 128,
      .n_experts = 8,
      .n_experts_used = 2},
     46.7,
     5.64,
     12.75,
     131072},
    {"Llama 2 70B",
     "llama",
     {.n_layers = 80,
      .n_embd = 8192,
      .n_ff = 28672,
      .n_vocab = 32000,
      .n_heads = 64,
      .n_kv_heads = 8,
      .head_size = 128},
     68.98,
     0,
     68.71,
     327680},
    {"Qwen2 72B",
     "qwen2",
     {.n_layers = 80,
      .n_embd = 8192,
      .n_ff = 29568,
      .n_vocab = 152064,
      .n_heads = 64,
      .n_kv_heads = 8,
      .head_size = 128},
     72.71,
     0,
     71.46,
     327680},
    {"ChatGLM3 6B",
     "chatglm",
     {.n_layers = 28,
      .n_embd = 4096,
      .n_ff = 13696,
      .n_vocab = 65024,
      .n_heads = 32,
      .n_kv_heads = 2,
      .head_size = 128},
     6.24,
     0,
     5.98,
     28672},
};

static bool agrees(uint64_t n, double known) {
    return fabs(1e-9 * (double)n - known) <= 1e-3 * known;
}

static void test_real_shapes(void) {
    for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
        const struct known *k = &models[i];
        const struct manifest *m = manifest_find(k->architecture, strlen(k->architecture));
        struct shape_counts c = shape_count(&k->shape, m);

        (void)printf("# %s: %.3f, %.3f an expert, %.3f active\n", k->name,
                     1e-9 * (double)c.n_parameters, 1e-9 * (double)c.n_parameters_per_expert,
                     1e-9 * (double)c.n_parameters_active);
        assert(agrees(c.n_parameters, k->parameters));
        assert(agrees(c.n_parameters_per_expert, k->per_expert));
        assert(agrees(c.n_parameters_active, k->active));
        assert(kv_bytes_per_position(&k->shape, GK_KV_F16) == k->kv_bytes_per_token);
        assert(kv_bytes_per_position(&k->shape, GK_KV_F32) == 2 * k->kv_bytes_per_token);
        /* 34 bytes a block of 32 */
        assert(kv_bytes_per_position(&k->shape, GK_KV_Q8_0) == k->kv_bytes_per_token * 17 / 32);
    }
}

/* ---- files ---- */

/* "blk.0.ffn_up_exps.weight" or "blk.0.ffn_up.3.weight" */
static bool is_expert(const char *name) {
    const char *part = strstr(name, ".ffn_"), *after = part ? strchr(part + 1, '.') : NULL;

    return strstr(name, "_exps.") || (after && after[1] >= '0' && after[1] <= '9');
}

/* The tensors' own sizes: every value is a parameter. */
static void check_file(const char *path) {
    struct gk_options options = {.path = path};
    uint64_t n = 0, n_bytes = 0, n_experts_bytes = 0, n_unread = 0, n_vectors = 0;
    const struct gk_model_info *info;
    Error error = ERROR_INIT;
    bool tied = true;
    ModelFile *f;
    GkEngine *e;

    assert(model_file_open(&f, path, &error) == 0);
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct file_tensor *t = model_file_tensor(f, i);

        n += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        n_bytes += t->n_bytes;
        if (is_expert(t->name))
            n_experts_bytes += t->n_bytes;
        else if (strstr(t->name, "norm") || strstr(t->name, "bias"))
            n_vectors += t->n_bytes;
        if (strcmp(t->name, "token_embd.weight") == 0)
            n_unread = t->n_bytes;
        if (strcmp(t->name, "output.weight") == 0)
            tied = false;
    }
    (void)model_file_close(f);
    assert(gk_pool_new(&options.pool, 1, NULL) == 0);
    assert(gk_engine_open(&e, &options, &error) == 0);
    info = gk_engine_info(e);
    (void)printf("# %s: %llu parameters, %s\n", path, (unsigned long long)info->n_parameters,
                 info->weight_types);
    assert(info->n_parameters == n);
    assert(info->n_half_precision_bytes == 2 * n);
    /* Read for one token: all but the experts that nobody chose, the embedding where the output has
     * a matrix of its own, and (left out as too small to matter) vectors. */
    if (info->n_experts > 0)
        n_bytes -= n_experts_bytes / info->n_experts * (info->n_experts - info->n_experts_used);
    assert(info->n_active_bytes == n_bytes - n_vectors - (tied ? 0 : n_unread));
    e = gk_engine_close(e);
    options.pool = gk_pool_free(options.pool);
}

static void test_files(void) {
    check_file("tests/golden/grok/model-q8_0.gguf");
    check_file("tests/golden/mixtral/model-f32-split-experts.gguf");
    check_file("tests/golden/mixtral256/model-q4_k.gguf");
    check_file("tests/golden/llama/model-f32.gguf");
    check_file("tests/golden/qwen2/model-f32.gguf");
    check_file("tests/golden/chatglm/model-f32.gguf");
    check_file("engine/demo/model-q8_0.gguf");
}

/* ---- what a step would take ---- */

/* A small file can ask for large steps: that is refused before a byte is taken. */
static void test_steps_larger_than_the_machine(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_F32);
    struct gk_options options = {.n_rows_max = 65536};
    Error error = ERROR_INIT;
    GkEngine *e = NULL;
    GgufWriter *w;

    if ((uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) > 1000ull << 30)
        test_skip("this machine has memory for it");
    shape.n_layers = 1;
    shape.n_embd = 2;
    shape.n_heads = shape.n_kv_heads = 1;
    shape.head_size = 2;
    shape.n_ff = 1u << 16;
    shape.n_experts = shape.n_experts_used = 32;
    w = tiny_model(&shape);
    options.path = temp_path("wide.gguf");
    gguf_writer_save(w, options.path);
    gguf_writer_free(w);
    assert(gk_pool_new(&options.pool, 1, NULL) == 0);
    assert(gk_engine_open(&e, &options, &error) == GK_E_INVALID);
    (void)printf("# %s\n", error.text);
    assert(strstr(error.text, "steps of 65536 rows"));
    options.n_rows_max = 8;
    assert(gk_engine_open(&e, &options, &error) == 0);
    e = gk_engine_close(e);
    options.pool = gk_pool_free(options.pool);
}

/* What a step of 512 rows of Grok-1's takes, with all weights of one type. */
static uint64_t step_bytes_of_grok_1(enum kern_type type, GkPool *pool) {
    Shape s = models[0].shape;
    uint32_t n_heads = s.n_heads * s.head_size, n_kv = s.n_kv_heads * s.head_size;
    struct weight gate = {.n_out = s.n_ff, .k = s.n_embd, .type = type}, up = gate,
                  down = {.n_out = s.n_embd, .k = s.n_ff, .type = type};
    struct layer layer = {
        .q = {.n_out = n_heads, .k = s.n_embd, .type = type},
        .k = {.n_out = n_kv, .k = s.n_embd, .type = type},
        .v = {.n_out = n_kv, .k = s.n_embd, .type = type},
        .o = {.n_out = s.n_embd, .k = n_heads, .type = type},
        .experts = {&gate, &up, &down},
    };
    Weights w = {.output = {.n_out = s.n_vocab, .k = s.n_embd, .type = type}, .layers = &layer};
    Scratch scratch = {.rows = NULL};
    uint64_t ret;

    s.n_layers = 1; /* layers take turns with the scratch */
    s.n_rot = s.head_size;
    assert(scratch_init(&scratch, &s, &w, 512, pool, NULL) == 0);
    ret = scratch.n_bytes;
    scratch_deinit(&scratch, gk_pool_n_threads(pool));
    return ret;
}

/* Slices of 512 of Grok-1's prompts: less than 300 MB besides the file and the KV cache, by
 * up to 64 threads and with weights of one type. */
static void test_a_step_of_grok_1(void) {
    GkPool *pool = test_team(64, 1);

    for (int type = 0; type < KERN_TYPE_N; type++) {
        uint64_t n_bytes = step_bytes_of_grok_1((enum kern_type)type, pool);

        (void)printf("# %s: %.1f MB\n", kern_types[type].name, 1e-6 * (double)n_bytes);
        assert(n_bytes > 512ull * 2 * models[0].shape.n_ff); /* (slots, n_ff) that down reads */
        assert(n_bytes < 300 * 1000 * 1000);
    }
    pool = gk_pool_free(pool);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(real_shapes),
        TEST(files),
        TEST(steps_larger_than_the_machine),
        TEST(a_step_of_grok_1),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
