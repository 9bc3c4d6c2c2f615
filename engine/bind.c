/* See bind.h. Whatever a file says is checked here against what the architecture needs. */
#include "engine/bind.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX     128
#define EMBD_MAX    (1u << 20)
#define FF_MAX      (1u << 22)
#define VOCAB_MAX   (1u << 20)
#define HEADS_MAX   4096
#define CONTEXT_MAX (1u << 24)

/* ---- metadata ---- */

struct keys {
    const ModelFile *file;
    const char *architecture;
    Error *reterr;
};

static const char *key_name(const struct keys *k, const char *name, char buffer[KEY_MAX]) {
    (void)snprintf(buffer, KEY_MAX, "%s.%s", k->architecture, name);
    return buffer;
}

/* Takes a number in [least, most]; where the key is absent, `fallback` (least > fallback:
 * required). */
static int get_u32(const struct keys *k, const char *name, uint32_t least, uint32_t most,
                   uint32_t fallback, uint32_t *ret) {
    char key[KEY_MAX];
    uint64_t v;

    (void)key_name(k, name, key);
    if (!model_file_has(k->file, key)) {
        if (fallback < least)
            return error_set(k->reterr, GK_E_FILE, "key %s is missing", key);
        *ret = fallback;
        return 0;
    }
    if (!model_file_get_u64(k->file, key, &v))
        return error_set(k->reterr, GK_E_FILE, "key %s is not a whole number", key);
    if (v < least || v > most)
        return error_set(k->reterr, GK_E_FILE, "key %s is %llu, not %u to %u", key,
                         (unsigned long long)v, least, most);
    *ret = (uint32_t)v;
    return 0;
}

/* Leaves *ret alone where the key is absent. */
static int get_bool(const struct keys *k, const char *name, bool *ret) {
    char key[KEY_MAX];

    if (model_file_has(k->file, key_name(k, name, key)) && !model_file_get_bool(k->file, key, ret))
        return error_set(k->reterr, GK_E_FILE, "key %s is not a bool", key);
    return 0;
}

/* A finite float in (above, most]; absent: what *ret holds already. */
static int get_f32(const struct keys *k, const char *name, float above, float most, float *ret) {
    char key[KEY_MAX];
    float v;

    (void)key_name(k, name, key);
    if (!model_file_has(k->file, key))
        return 0;
    if (!model_file_get_f32(k->file, key, &v))
        return error_set(k->reterr, GK_E_FILE, "key %s is not a float", key);
    if (!(v > above && v <= most))
        return error_set(k->reterr, GK_E_FILE, "key %s is %g, not above %g and at most %g", key,
                         (double)v, (double)above, (double)most);
    *ret = v;
    return 0;
}

/* Scales and caps: 0 in a file means "none". */
static int get_factor(const struct keys *k, const char *name, float *ret) {
    return get_f32(k, name, -1e-30f, 1e6f, ret);
}

static int bind_heads(const struct keys *k, const struct manifest *m, Shape *s) {
    uint32_t value_length;
    int r;

    if ((r = get_u32(k, "attention.head_count", 1, HEADS_MAX, 0, &s->n_heads)) != 0 ||
        (r = get_u32(k, "attention.head_count_kv", 1, HEADS_MAX, s->n_heads, &s->n_kv_heads)) !=
            0 ||
        (r = get_u32(k, "attention.key_length", 1, HEAD_SIZE_MAX, s->n_embd / s->n_heads,
                     &s->head_size)) != 0 ||
        (r = get_u32(k, "attention.value_length", 1, HEAD_SIZE_MAX, s->head_size, &value_length)) !=
            0 ||
        (r = get_u32(k, "rope.dimension_count", 1, HEAD_SIZE_MAX, s->head_size / m->rope_share,
                     &s->n_rot)) != 0)
        return r;
    if (s->n_heads % s->n_kv_heads != 0 || s->n_heads / s->n_kv_heads > HEADS_PER_KV_MAX)
        return error_set(k->reterr, GK_E_FILE,
                         "key %s.attention.head_count_kv is %u: %u query heads can't share so many",
                         k->architecture, s->n_kv_heads, s->n_heads);
    if (value_length != s->head_size)
        return error_set(k->reterr, GK_E_FILE,
                         "key %s.attention.value_length is %u: it must be the keys' %u",
                         k->architecture, value_length, s->head_size);
    if (s->n_rot > s->head_size || s->n_rot % 2 != 0)
        return error_set(
            k->reterr, GK_E_FILE,
            "key %s.rope.dimension_count is %u: it must be even and at most the head's %u",
            k->architecture, s->n_rot, s->head_size);
    return 0;
}

/* Files without a type but with a factor are from before there were types: linear. */
static int bind_rope(const struct keys *k, Shape *s) {
    struct file_string type = {.bytes = "linear", .n = 6};
    char key[KEY_MAX];
    int r;

    s->rope_base = 10000;
    s->rope_scale = 1;
    if ((r = get_f32(k, "rope.freq_base", 1, 1e12f, &s->rope_base)) != 0)
        return r;
    if (model_file_has(k->file, key_name(k, "rope.scaling.type", key)) &&
        !model_file_get_string(k->file, key, &type))
        return error_set(k->reterr, GK_E_FILE, "key %s is not a string", key);
    if (type.n == 4 && memcmp(type.bytes, "none", 4) == 0)
        return 0;
    if (type.n == 6 && memcmp(type.bytes, "linear", 6) == 0) {
        r = get_f32(k, "rope.scale_linear", 0, 1e4f, &s->rope_scale);
        return r ? r : get_f32(k, "rope.scaling.factor", 0, 1e4f, &s->rope_scale);
    }
    return error_set(k->reterr, GK_E_FILE,
                     "key %s asks for a RoPE scaling that is not 'none' or 'linear'", key);
}

static int bind_experts(const struct keys *k, struct manifest *m, Shape *s) {
    uint32_t function = 1, n_ff;
    int r;

    if ((r = get_u32(k, "expert_count", 0, EXPERTS_MAX, 0, &s->n_experts)) != 0 ||
        (r = get_u32(k, "expert_used_count", 0, EXPERTS_USED_MAX, 0, &s->n_experts_used)) != 0 ||
        (r = get_u32(k, "expert_feed_forward_length", 0, FF_MAX, 0, &n_ff)) != 0 ||
        (r = get_factor(k, "expert_weights_scale", &m->gate_scale)) != 0 ||
        (r = get_factor(k, "router_logit_softcapping", &m->router_cap)) != 0 ||
        (r = get_u32(k, "expert_gating_func", 1, 2, 1, &function)) != 0 ||
        (r = get_bool(k, "expert_weights_norm", &m->renormalize_gates)) != 0)
        return r;
    m->gating = function == 2 ? GATING_SIGMOID : GATING_SOFTMAX;
    if (m->gate_scale == 0)
        m->gate_scale = 1;
    if (s->n_experts > 0 && n_ff > 0)
        s->n_ff = n_ff;
    if (s->n_experts_used > s->n_experts || (s->n_experts > 0 && s->n_experts_used == 0))
        return error_set(k->reterr, GK_E_FILE, "key %s.expert_used_count is %u of %u experts",
                         k->architecture, s->n_experts_used, s->n_experts);
    return 0;
}

/* Newer Grok files state these; absent, the manifest's constants stand. */
static int bind_scales(const struct keys *k, struct manifest *m) {
    int r;

    if ((r = get_factor(k, "embedding_scale", &m->embedding_scale)) != 0 ||
        (r = get_factor(k, "logit_scale", &m->logit_scale)) != 0 ||
        (r = get_factor(k, "attention.output_scale", &m->attention_scale)) != 0 ||
        (r = get_factor(k, "attention.scale", &m->attention_scale)) != 0 ||
        (r = get_factor(k, "attn_logit_softcapping", &m->attention_cap)) != 0 ||
        (r = get_factor(k, "final_logit_softcapping", &m->logit_cap)) != 0)
        return r;
    m->embedding_scale = m->embedding_scale == 0 ? 1 : m->embedding_scale;
    m->logit_scale = m->logit_scale == 0 ? 1 : m->logit_scale;
    return 0;
}

static int bind_vocab(const struct keys *k, Shape *s) {
    const struct file_tensor *embedding = model_file_find(k->file, "token_embd.weight");
    int r;

    if (!embedding)
        return error_set(k->reterr, GK_E_FILE, "tensor token_embd.weight is missing");
    if (embedding->dims[1] > VOCAB_MAX)
        return error_set(k->reterr, GK_E_FILE,
                         "tensor token_embd.weight has %llu rows, more than %u",
                         (unsigned long long)embedding->dims[1], VOCAB_MAX);
    r = get_u32(k, "vocab_size", 1, VOCAB_MAX, (uint32_t)embedding->dims[1], &s->n_vocab);
    if (r != 0)
        return r;
    if (s->n_vocab != embedding->dims[1])
        return error_set(k->reterr, GK_E_FILE,
                         "key %s.vocab_size is %u, but tensor token_embd.weight has %llu rows",
                         k->architecture, s->n_vocab, (unsigned long long)embedding->dims[1]);
    return 0;
}

int bind_shape(const ModelFile *f, struct manifest *ret_manifest, Shape *ret_shape, Error *reterr) {
    const struct manifest *row;
    struct file_string name;
    struct keys k = {.file = f, .reterr = reterr};
    Shape s = {.norm_eps = 0};
    char shown[64];
    int r;

    if (!model_file_get_string(f, "general.architecture", &name))
        return error_set(reterr, GK_E_FILE, "key general.architecture is missing or not a string");
    row = manifest_find(name.bytes, name.n);
    if (!row)
        return error_set(reterr, GK_E_FILE, "key general.architecture is '%s', not one of %s",
                         utf8_printable(shown, sizeof(shown), name.bytes, name.n),
                         manifest_names());
    *ret_manifest = *row;
    k.architecture = row->architecture;
    if ((r = get_u32(&k, "block_count", 1, LAYERS_MAX, 0, &s.n_layers)) != 0 ||
        (r = get_u32(&k, "embedding_length", 1, EMBD_MAX, 0, &s.n_embd)) != 0 ||
        (r = get_u32(&k, "feed_forward_length", 1, FF_MAX, 0, &s.n_ff)) != 0 ||
        (r = get_u32(&k, "context_length", 1, CONTEXT_MAX, 0, &s.n_context)) != 0 ||
        (r = get_f32(&k, "attention.layer_norm_rms_epsilon", 0, 1, &s.norm_eps)) != 0 ||
        (r = bind_heads(&k, row, &s)) != 0 || (r = bind_rope(&k, &s)) != 0 ||
        (r = bind_experts(&k, ret_manifest, &s)) != 0 || (r = bind_scales(&k, ret_manifest)) != 0 ||
        (r = bind_vocab(&k, &s)) != 0)
        return r;
    if (s.norm_eps == 0)
        return error_set(reterr, GK_E_FILE, "key %s.attention.layer_norm_rms_epsilon is missing",
                         k.architecture);
    s.tied_output = !model_file_find(f, "output.weight");
    *ret_shape = s;
    return 0;
}

/* ---- tensors ---- */

struct binder {
    const ModelFile *file;
    Weights *weights;
    bool *used; /* (the file's tensors) */
    Error *reterr;
};

static void *own(struct binder *b, void *p) {
    void **larger =
        p ? alloc_resize(b->weights->owned, (b->weights->n_owned + 1) * sizeof(*larger)) : NULL;

    if (!larger) {
        free(p);
        return NULL;
    }
    b->weights->owned = larger;
    larger[b->weights->n_owned++] = p;
    return p;
}

static int find_tensor(const struct binder *b, const char *name, uint64_t k, uint64_t n_out,
                       uint64_t n_matrices, const struct file_tensor **ret) {
    const struct file_tensor *t = model_file_find(b->file, name);

    if (!t)
        return error_set(b->reterr, GK_E_FILE, "tensor %s is missing", name);
    if (t->dims[0] != k || t->dims[1] != n_out || t->dims[2] != n_matrices || t->dims[3] != 1)
        return error_set(
            b->reterr, GK_E_FILE,
            "tensor %s (offset %llu) is %llu × %llu × %llu × %llu, not %llu × %llu × %llu", name,
            (unsigned long long)t->offset, (unsigned long long)t->dims[0],
            (unsigned long long)t->dims[1], (unsigned long long)t->dims[2],
            (unsigned long long)t->dims[3], (unsigned long long)k, (unsigned long long)n_out,
            (unsigned long long)n_matrices);
    b->used[t - model_file_tensor(b->file, 0)] = true;
    *ret = t;
    return 0;
}

static int bind_matrix(const struct binder *b, const char *name, uint32_t k, uint32_t n_out,
                       struct weight *ret) {
    const struct file_tensor *t;
    int r;

    r = find_tensor(b, name, k, n_out, 1, &t);
    if (r != 0)
        return r;
    *ret = (struct weight){
        .data = t->data, .row_bytes = t->row_bytes, .n_out = n_out, .k = k, .type = t->type};
    return 0;
}

/* n_out rows of a matrix from row `begin` on. */
static struct weight weight_rows(const struct weight *w, uint32_t begin, uint32_t n_out) {
    struct weight part = *w;

    part.data += begin * w->row_bytes;
    part.n_out = n_out;
    return part;
}

/* Vectors are used as F32: where they lie when they are that, else as a converted copy. */
static int bind_vector(struct binder *b, const char *name, uint32_t n, const float **ret) {
    const struct file_tensor *t;
    float *copy;
    int r;

    r = find_tensor(b, name, n, 1, 1, &t);
    if (r != 0)
        return r;
    if (t->type == KERN_F32) {
        *ret = (const float *)(const void *)t->data;
        return 0;
    }
    if (t->type != KERN_F16 && t->type != KERN_BF16)
        return error_set(b->reterr, GK_E_FILE, "tensor %s is %s, not F32, F16 or BF16", name,
                         kern_types[t->type].name);
    copy = own(b, alloc_array(n, sizeof(*copy)));
    if (!copy)
        return error_set(b->reterr, -ENOMEM, "out of memory");
    kern_select("generic")->dequantize[t->type](t->data, copy, n);
    *ret = copy;
    return 0;
}

static int bind_fused_qkv(struct binder *b, const struct manifest *m, const Shape *s,
                          uint32_t i_layer, struct layer *l) {
    uint32_t n_q = s->n_heads * s->head_size, n_kv = s->n_kv_heads * s->head_size;
    char name[FILE_NAME_MAX + 1];
    struct weight all;
    int r;

    (void)snprintf(name, sizeof(name), "blk.%u.attn_qkv.weight", i_layer);
    r = bind_matrix(b, name, s->n_embd, n_q + 2 * n_kv, &all);
    if (r != 0)
        return r;
    l->q = weight_rows(&all, 0, n_q);
    l->k = weight_rows(&all, n_q, n_kv);
    l->v = weight_rows(&all, n_q + n_kv, n_kv);
    if (!m->qkv_biases)
        return 0;
    (void)snprintf(name, sizeof(name), "blk.%u.attn_qkv.bias", i_layer);
    r = bind_vector(b, name, n_q + 2 * n_kv, &l->q_bias);
    if (r != 0)
        return r;
    l->k_bias = l->q_bias + n_q;
    l->v_bias = l->k_bias + n_kv;
    return 0;
}

static int bind_qkv(struct binder *b, const struct manifest *m, const Shape *s, uint32_t i_layer,
                    struct layer *l) {
    uint32_t n_q = s->n_heads * s->head_size, n_kv = s->n_kv_heads * s->head_size;
    const struct {
        const char *name;
        uint32_t n_out;
        struct weight *weight;
        const float **bias;
    } parts[] = {
        {"attn_q", n_q, &l->q, &l->q_bias},
        {"attn_k", n_kv, &l->k, &l->k_bias},
        {"attn_v", n_kv, &l->v, &l->v_bias},
    };
    char name[FILE_NAME_MAX + 1];
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i_layer, parts[i].name);
        r = bind_matrix(b, name, s->n_embd, parts[i].n_out, parts[i].weight);
        if (r != 0)
            return r;
        (void)snprintf(name, sizeof(name), "blk.%u.%s.bias", i_layer, parts[i].name);
        /* Some llama files carry biases as well: used where they are. */
        if (!m->qkv_biases && !model_file_find(b->file, name))
            continue;
        r = bind_vector(b, name, parts[i].n_out, parts[i].bias);
        if (r != 0)
            return r;
    }
    return 0;
}

/* One of gate, up and down for all experts: a merged tensor, or the early names, one tensor an
 * expert. */
static int bind_expert_part(struct binder *b, const Shape *s, uint32_t i_layer, const char *part,
                            uint32_t k, uint32_t n_out, struct weight *ret) {
    char name[FILE_NAME_MAX + 1];
    const struct file_tensor *t;
    int r;

    (void)snprintf(name, sizeof(name), "blk.%u.ffn_%s_exps.weight", i_layer, part);
    if (model_file_find(b->file, name)) {
        r = find_tensor(b, name, k, n_out, s->n_experts, &t);
        for (uint32_t e = 0; r == 0 && e < s->n_experts; e++)
            ret[e] = (struct weight){.data = t->data + (size_t)e * n_out * t->row_bytes,
                                     .row_bytes = t->row_bytes,
                                     .n_out = n_out,
                                     .k = k,
                                     .type = t->type};
        return r;
    }
    (void)snprintf(name, sizeof(name), "blk.%u.ffn_%s.0.weight", i_layer, part);
    if (!model_file_find(b->file, name))
        return error_set(b->reterr, GK_E_FILE,
                         "tensors blk.%u.ffn_%s_exps.weight and %s are both missing", i_layer, part,
                         name);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        (void)snprintf(name, sizeof(name), "blk.%u.ffn_%s.%u.weight", i_layer, part, e);
        r = bind_matrix(b, name, k, n_out, &ret[e]);
        if (r != 0)
            return r;
        if (ret[e].type != ret[0].type)
            return error_set(b->reterr, GK_E_FILE, "tensor %s is %s, but that of expert 0 is %s",
                             name, kern_types[ret[e].type].name, kern_types[ret[0].type].name);
    }
    return 0;
}

static int bind_dense(struct binder *b, const struct manifest *m, const Shape *s, uint32_t i_layer,
                      struct layer *l) {
    char name[FILE_NAME_MAX + 1];
    struct weight both;
    int r;

    (void)snprintf(name, sizeof(name), "blk.%u.ffn_up.weight", i_layer);
    if (m->fused_gate_up) {
        r = bind_matrix(b, name, s->n_embd, 2 * s->n_ff, &both);
        if (r != 0)
            return r;
        l->experts[EXPERT_GATE][0] = weight_rows(&both, 0, s->n_ff);
        l->experts[EXPERT_UP][0] = weight_rows(&both, s->n_ff, s->n_ff);
    } else {
        r = bind_matrix(b, name, s->n_embd, s->n_ff, &l->experts[EXPERT_UP][0]);
        if (r != 0)
            return r;
        (void)snprintf(name, sizeof(name), "blk.%u.ffn_gate.weight", i_layer);
        r = bind_matrix(b, name, s->n_embd, s->n_ff, &l->experts[EXPERT_GATE][0]);
        if (r != 0)
            return r;
    }
    (void)snprintf(name, sizeof(name), "blk.%u.ffn_down.weight", i_layer);
    return bind_matrix(b, name, s->n_ff, s->n_embd, &l->experts[EXPERT_DOWN][0]);
}

static int bind_feed_forward(struct binder *b, const struct manifest *m, const Shape *s,
                             uint32_t i_layer, struct layer *l) {
    char name[FILE_NAME_MAX + 1];
    int r;

    for (int part = 0; part < EXPERT_PART_N; part++) {
        l->experts[part] = own(b, alloc_array(MAX(s->n_experts, 1u), sizeof(*l->experts[part])));
        if (!l->experts[part])
            return error_set(b->reterr, -ENOMEM, "out of memory");
    }
    if (s->n_experts == 0)
        return bind_dense(b, m, s, i_layer, l);
    (void)snprintf(name, sizeof(name), "blk.%u.ffn_gate_inp.weight", i_layer);
    if ((r = bind_matrix(b, name, s->n_embd, s->n_experts, &l->router)) != 0 ||
        (r = bind_expert_part(b, s, i_layer, "gate", s->n_embd, s->n_ff,
                              l->experts[EXPERT_GATE])) != 0 ||
        (r = bind_expert_part(b, s, i_layer, "up", s->n_embd, s->n_ff, l->experts[EXPERT_UP])) != 0)
        return r;
    if (l->router.type != KERN_F32 && l->router.type != KERN_F16 && l->router.type != KERN_BF16)
        return error_set(b->reterr, GK_E_FILE, "tensor %s is %s, not F32, F16 or BF16", name,
                         kern_types[l->router.type].name);
    return bind_expert_part(b, s, i_layer, "down", s->n_ff, s->n_embd, l->experts[EXPERT_DOWN]);
}

static int bind_norm(struct binder *b, uint32_t i_layer, const char *suffix, uint32_t n,
                     const float **ret) {
    char name[FILE_NAME_MAX + 1];

    if (!suffix)
        return 0;
    (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i_layer, suffix);
    return bind_vector(b, name, n, ret);
}

static int bind_ffn_post_norm(struct binder *b, const struct manifest *m, const Shape *s,
                              uint32_t i_layer, const float **ret) {
    char name[FILE_NAME_MAX + 1];

    if (m->ffn_post_norm_other) {
        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i_layer, m->ffn_post_norm_other);
        if (model_file_find(b->file, name))
            return bind_vector(b, name, s->n_embd, ret);
    }
    return bind_norm(b, i_layer, m->ffn_post_norm, s->n_embd, ret);
}

static int bind_layer(struct binder *b, const struct manifest *m, const Shape *s,
                      uint32_t i_layer) {
    struct layer *l = &b->weights->layers[i_layer];
    char name[FILE_NAME_MAX + 1];
    int r;

    (void)snprintf(name, sizeof(name), "blk.%u.attn_output.weight", i_layer);
    if ((r = bind_norm(b, i_layer, "attn_norm", s->n_embd, &l->attn_norm)) != 0 ||
        (r = bind_norm(b, i_layer, m->attn_post_norm, s->n_embd, &l->attn_post_norm)) != 0 ||
        (r = bind_norm(b, i_layer, "ffn_norm", s->n_embd, &l->ffn_norm)) != 0 ||
        (r = bind_ffn_post_norm(b, m, s, i_layer, &l->ffn_post_norm)) != 0 ||
        (r = m->fused_qkv ? bind_fused_qkv(b, m, s, i_layer, l) : bind_qkv(b, m, s, i_layer, l)) !=
            0 ||
        (r = bind_matrix(b, name, s->n_heads * s->head_size, s->n_embd, &l->o)) != 0)
        return r;
    return bind_feed_forward(b, m, s, i_layer, l);
}

/* What is left over is a part of the model that we would leave out: its answers would be wrong. */
static int check_all_used(const struct binder *b, const struct manifest *m) {
    for (size_t i = 0; i < model_file_n_tensors(b->file); i++)
        if (!b->used[i])
            return error_set(b->reterr, GK_E_FILE,
                             "tensor %s has no place in a %s model of these dimensions",
                             model_file_tensor(b->file, i)->name, m->architecture);
    return 0;
}

int bind_weights(const ModelFile *f, const struct manifest *m, const Shape *s, Weights *ret,
                 Error *reterr) {
    CLEANUP(freep) bool *used = alloc_array(model_file_n_tensors(f), sizeof(*used));
    struct binder b = {.file = f, .weights = ret, .used = used, .reterr = reterr};
    int r;

    ret->layers = own(&b, alloc_array(s->n_layers, sizeof(*ret->layers)));
    if (!used || !ret->layers)
        return error_set(reterr, -ENOMEM, "out of memory");
    if ((r = bind_matrix(&b, "token_embd.weight", s->n_embd, s->n_vocab, &ret->embedding)) != 0 ||
        (r = bind_vector(&b, "output_norm.weight", s->n_embd, &ret->output_norm)) != 0)
        return r;
    ret->output = ret->embedding;
    if (!s->tied_output &&
        (r = bind_matrix(&b, "output.weight", s->n_embd, s->n_vocab, &ret->output)) != 0)
        return r;
    for (uint32_t i = 0; i < s->n_layers; i++)
        if ((r = bind_layer(&b, m, s, i)) != 0)
            return r;
    return check_all_used(&b, m);
}

void weights_deinit(Weights *w) {
    for (size_t i = 0; i < w->n_owned; i++)
        free(w->owned[i]);
    free(w->owned);
    *w = (Weights){0};
}
