/* The facts about a model, computed from its shapes and tensors. */
#include "engine/info.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct shape_counts shape_count(const Shape *s, const struct manifest *m) {
    uint64_t n_q = (uint64_t)s->n_heads * s->head_size,
             n_kv = (uint64_t)s->n_kv_heads * s->head_size;
    uint64_t expert = 3ull * s->n_embd * s->n_ff, embedding = (uint64_t)s->n_vocab * s->n_embd;
    uint64_t n_norms = 2 + (m->attn_post_norm ? 1 : 0) + (m->ffn_post_norm ? 1 : 0);
    uint64_t common = s->n_embd * (2 * n_q + 2 * n_kv) + n_norms * s->n_embd +
                      (m->qkv_biases ? n_q + 2 * n_kv : 0) + (uint64_t)s->n_embd * s->n_experts;
    uint64_t n_experts = MAX(s->n_experts, 1u), n_used = MAX(s->n_experts_used, 1u);
    struct shape_counts c;

    c.n_parameters_per_expert = s->n_experts > 0 ? expert * s->n_layers : 0;
    c.n_parameters = s->n_layers * (common + n_experts * expert) +
                     embedding * (s->tied_output ? 1 : 2) + s->n_embd;
    /* One row of an embedding is used; the output head is used whole. */
    c.n_parameters_active = s->n_layers * (common + n_used * expert) + embedding + s->n_embd;
    return c;
}

static uint64_t weight_bytes(const struct weight *w) {
    return (uint64_t)w->row_bytes * w->n_out;
}

static uint64_t active_bytes(const Shape *s, const Weights *w) {
    uint64_t n_used = MAX(s->n_experts_used, 1u), sum = weight_bytes(&w->output);

    for (uint32_t i = 0; i < s->n_layers; i++) {
        const struct layer *l = &w->layers[i];

        sum += weight_bytes(&l->q) + weight_bytes(&l->k) + weight_bytes(&l->v) +
               weight_bytes(&l->o) + weight_bytes(&l->router);
        for (int part = 0; part < EXPERT_PART_N; part++)
            sum += n_used * weight_bytes(&l->experts[part][0]);
    }
    return sum;
}

/* "Q8_0 ×50, F32 ×24": tensors by type, most frequent first. */
static char *describe_types(const ModelFile *f) {
    size_t counts[KERN_TYPE_N] = {0}, at = 0;
    char text[256] = "";

    for (size_t i = 0; i < model_file_n_tensors(f); i++)
        counts[model_file_tensor(f, i)->type]++;
    for (;;) {
        size_t best = 0;

        for (size_t i = 1; i < KERN_TYPE_N; i++)
            best = counts[i] > counts[best] ? i : best;
        if (counts[best] == 0 || at >= sizeof(text) - 32)
            return alloc_string(text);
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s ×%zu", at ? ", " : "",
                               kern_types[best].name, counts[best]);
        counts[best] = 0;
    }
}

/* A string of the metadata: made valid UTF-8, "" where there is none. */
static char *copy_string(const ModelFile *f, const char *key) {
    struct file_string s = {.bytes = "", .n = 0};

    if (!model_file_get_string(f, key, &s) || !utf8_is_valid(s.bytes, s.n) ||
        memchr(s.bytes, 0, s.n))
        s = (struct file_string){.bytes = "", .n = 0};
    return alloc_string_n(s.bytes, s.n);
}

int info_init(GkEngine *e) {
    const ModelFile *f = e->file;
    const Shape *s = &e->shape;
    struct shape_counts counts = shape_count(s, &e->manifest);
    struct gk_model_info *i = &e->info;
    char **text = e->strings;

    text[0] = copy_string(f, "general.name");
    text[1] = copy_string(f, "general.license");
    text[2] = copy_string(f, "general.description");
    text[3] = copy_string(f, "tokenizer.chat_template");
    text[4] = describe_types(f);
    for (size_t t = 0; t < 5; t++)
        if (!text[t])
            return -ENOMEM;
    i->architecture = e->manifest.architecture;
    i->name = text[0];
    i->license = text[1];
    i->description = text[2];
    i->chat_template = text[3];
    i->weight_types = text[4];
    i->isa = e->kern->name;
    i->n_parameters = counts.n_parameters;
    i->n_parameters_per_expert = counts.n_parameters_per_expert;
    i->n_parameters_active = counts.n_parameters_active;
    i->n_half_precision_bytes = 2 * counts.n_parameters;
    i->n_file_bytes = model_file_n_bytes(f);
    i->n_active_bytes = active_bytes(s, &e->weights);
    i->n_kv_bytes_per_token = e->kv.page_bytes / KV_PAGE_POSITIONS;
    i->n_kv_bytes_max = e->kv.n_memory_bytes;
    i->n_step_bytes = e->scratch.n_bytes;
    i->n_layers = s->n_layers;
    i->n_experts = s->n_experts;
    i->n_experts_used = s->n_experts_used;
    i->n_embd = s->n_embd;
    i->n_ff = s->n_ff;
    i->n_heads = s->n_heads;
    i->n_kv_heads = s->n_kv_heads;
    i->head_size = s->head_size;
    i->n_vocab = s->n_vocab;
    i->n_context_trained = s->n_context;
    i->token_bos = tokenizer_bos(e->tokenizer);
    i->token_eos = tokenizer_eos(e->tokenizer);
    i->add_bos = tokenizer_add_bos(e->tokenizer);
    return 0;
}
