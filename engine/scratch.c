/* The memory of one step, all of it taken when the model is opened. See shape.h. */
#include "engine/internal.h"

#include "base/alloc.h"

#include <errno.h>

static uint32_t n_used(const Shape *s) {
    return MAX(s->n_experts_used, 1u);
}

/* Rows of a kind of activations, if some weight reads them so. */
static int acts_init(struct kern_acts acts[ACT_KINDS], enum act_kind kind, uint32_t k,
                     size_t n_rows) {
    struct kern_acts *a = &acts[kind];

    if (a->data)
        return 0;
    *a = (struct kern_acts){.kind = kind, .k = k, .stride = kern_act_stride(kind, k)};
    a->data = alloc_aligned(a->stride * n_rows);
    return a->data ? 0 : -ENOMEM;
}

static int acts_for(struct kern_acts acts[ACT_KINDS], const struct weight *w, size_t n_rows) {
    return acts_init(acts, kern_types[w->type].act, w->k, n_rows);
}

static int layer_acts(Scratch *s, const struct layer *l, size_t n_rows, size_t n_slots) {
    const struct weight *fine[] = {&l->q, &l->k, &l->v};
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(fine); i++)
        if (kern_types[fine[i]->type].act != ACT_F32 &&
            (r = acts_for(s->x_rest, fine[i], n_rows)) != 0)
            return r;
    if ((r = acts_for(s->x, &l->q, n_rows)) != 0 || (r = acts_for(s->x, &l->k, n_rows)) != 0 ||
        (r = acts_for(s->x, &l->v, n_rows)) != 0 || (r = acts_for(s->heads, &l->o, n_rows)) != 0 ||
        (r = acts_for(s->x, &l->experts[EXPERT_GATE][0], n_rows)) != 0 ||
        (r = acts_for(s->x, &l->experts[EXPERT_UP][0], n_rows)) != 0)
        return r;
    return acts_for(s->inner, &l->experts[EXPERT_DOWN][0], n_slots);
}

int scratch_init(Scratch *s, const Shape *shape, const Weights *w, uint32_t n_rows_max,
                 unsigned n_threads) {
    size_t n = n_rows_max, n_slots = n * n_used(shape), n_experts = MAX(shape->n_experts, 1u);
    size_t n_q = (size_t)shape->n_heads * shape->head_size,
           n_kv = (size_t)shape->n_kv_heads * shape->head_size;
    size_t n_head_rows = MAX(n, (size_t)LOGIT_ROWS);
    const struct {
        void *at; /* of a pointer */
        size_t n_bytes;
    } parts[] = {
        {&s->rows, n * sizeof(*s->rows)},
        {&s->runs, n * sizeof(*s->runs)},
        {&s->hidden, n * shape->n_embd * sizeof(float)},
        {&s->normed, n_head_rows * shape->n_embd * sizeof(float)},
        {&s->branch, n * shape->n_embd * sizeof(float)},
        {&s->q, n * n_q * sizeof(float)},
        {&s->k, n * n_kv * sizeof(float)},
        {&s->v, n * n_kv * sizeof(float)},
        {&s->attended, n * n_q * sizeof(float)},
        {&s->rope_cos, n * (shape->n_rot / 2) * sizeof(float)},
        {&s->rope_sin, n * (shape->n_rot / 2) * sizeof(float)},
        {&s->router, n * n_experts * sizeof(float)},
        {&s->chosen, n_slots * sizeof(uint32_t)},
        {&s->gates, n_slots * sizeof(float)},
        {&s->slot_of, n_slots * sizeof(uint32_t)},
        {&s->slot_row, n_slots * sizeof(uint32_t)},
        {&s->expert_begin, (n_experts + 1) * sizeof(uint32_t)},
        {&s->expert_out, n_slots * shape->n_embd * sizeof(float)},
        {&s->logit_rows, n * sizeof(uint32_t)},
        {&s->logits, (size_t)LOGIT_ROWS * shape->n_vocab * sizeof(float)},
        {&s->thread, n_threads * sizeof(void *)},
    };
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        *(void **)parts[i].at = alloc_aligned(parts[i].n_bytes);
        if (!*(void **)parts[i].at)
            return -ENOMEM;
    }
    for (unsigned i = 0; i < n_threads; i++) {
        s->thread[i] = alloc_aligned(THREAD_SCRATCH_BYTES);
        if (!s->thread[i])
            return -ENOMEM;
    }
    for (uint32_t i = 0; i < shape->n_layers; i++)
        if ((r = layer_acts(s, &w->layers[i], n_head_rows, n_slots)) != 0)
            return r;
    return acts_for(s->x, &w->output, n_head_rows);
}

void scratch_deinit(Scratch *s, unsigned n_threads) {
    void *const parts[] = {
        s->rows,    s->runs,     s->hidden,       s->normed,     s->branch,     s->q,      s->k,
        s->v,       s->attended, s->rope_cos,     s->rope_sin,   s->router,     s->chosen, s->gates,
        s->slot_of, s->slot_row, s->expert_begin, s->expert_out, s->logit_rows, s->logits,
    };

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        free(parts[i]);
    for (unsigned i = 0; s->thread && i < n_threads; i++)
        free(s->thread[i]);
    free(s->thread);
    for (int kind = 0; kind < ACT_KINDS; kind++) {
        free(s->x[kind].data);
        free(s->x_rest[kind].data);
        free(s->heads[kind].data);
        free(s->inner[kind].data);
    }
    *s = (Scratch){0};
}
