/* The memory of one step, all of it taken when the model is opened. See shape.h. */
#include "engine/internal.h"

#include "base/alloc.h"
#include "base/checked.h"

#include <errno.h>
#include <unistd.h>

/*
 * The parts are gone through twice: first to count their bytes, then to take them. Sizes come from
 * a file and from the configuration, and a page that is taken is written to, so what they add up to
 * is judged before anything is taken.
 *
 * A step has phases that leave nothing to one another but what is taken outside of them: attention,
 * the experts, and the output head, with a barrier wherever one ends. They share memory, as much as
 * the largest of them needs.
 */
struct taker {
    bool counts; /* the first time */
    bool failed;
    uint64_t n_bytes;
    bool in_phase;
    uint64_t n_phase, n_phase_max; /* bytes of this phase, and of the largest one */
    uint8_t *phases;               // (n_phase_max) NULL while it counts
};

static void begin_phase(struct taker *t) {
    t->in_phase = true;
    t->n_phase = 0;
}

static void end_phases(struct taker *t) {
    t->in_phase = false;
}

static void *take_in_phase(struct taker *t, uint64_t n_bytes) {
    uint8_t *p = t->phases ? t->phases + t->n_phase : NULL;

    t->failed = !checked_add(n_bytes, 63, &n_bytes) ||
                !checked_add(t->n_phase, n_bytes / 64 * 64, &t->n_phase);
    t->n_phase_max = MAX(t->n_phase_max, t->n_phase);
    return p;
}

static void *take(struct taker *t, uint64_t n, uint64_t size) {
    uint64_t n_bytes;
    void *p;

    if (t->failed || !checked_mul(n, size, &n_bytes)) {
        t->failed = true;
        return NULL;
    }
    if (t->in_phase)
        return take_in_phase(t, n_bytes);
    t->failed = !checked_add(t->n_bytes, n_bytes, &t->n_bytes);
    if (t->counts || t->failed)
        return NULL;
    p = alloc_aligned(n_bytes);
    t->failed = !p;
    return p;
}

#define TAKE(t, at, n) ((at) = take((t), (n), sizeof(*(at))))

static uint32_t n_used(const Shape *s) {
    return MAX(s->n_experts_used, 1u);
}

/* Rows of a kind of activations, if some weight reads them so. */
static void take_acts(struct taker *t, struct kern_acts acts[ACT_KINDS], const struct weight *w,
                      size_t n_rows) {
    enum act_kind kind = kern_types[w->type].act;
    struct kern_acts *a = &acts[kind];

    if (a->stride > 0)
        return;
    *a = (struct kern_acts){.kind = kind, .k = w->k, .stride = kern_act_stride(kind, w->k)};
    a->data = take(t, n_rows, a->stride);
}

/* Of x, with room for rests: another layer may make queries of the kind. */
static void take_x(struct taker *t, Scratch *s, const struct weight *w) {
    take_acts(t, s->x, w, (kern_types[w->type].act == ACT_F32 ? 1 : 2) * (size_t)s->n_x);
}

/* Of slots, where rows of x may be copied: kernels of floats are as fast with rows that lie apart.
 */
static void take_slot_x(struct taker *t, Scratch *s, const Shape *shape, const struct weight *w,
                        size_t n_slots) {
    if (shape->n_experts > 0 && kern_types[w->type].act != ACT_F32)
        take_acts(t, s->slot_x, w, n_slots);
}

static void take_rows(struct taker *t, Scratch *s, const Shape *shape, size_t n) {
    TAKE(t, s->rows, n);
    TAKE(t, s->runs, n);
    TAKE(t, s->hidden, n * shape->n_embd);
    TAKE(t, s->normed, MAX(n, (size_t)LOGIT_ROWS) * shape->n_embd);
    TAKE(t, s->branch, n * shape->n_embd);
    TAKE(t, s->rope_cos, n * (shape->n_rot / 2));
    TAKE(t, s->rope_sin, n * (shape->n_rot / 2));
    TAKE(t, s->logit_rows, n);
}

static void take_routes(struct taker *t, Scratch *s, const Shape *shape, size_t n) {
    size_t n_slots = n * n_used(shape), n_experts = MAX(shape->n_experts, 1u);

    TAKE(t, s->router, n * n_experts);
    TAKE(t, s->chosen, n_slots);
    TAKE(t, s->gates, n_slots);
    TAKE(t, s->slot_of, n_slots);
    TAKE(t, s->slot_row, n_slots);
    TAKE(t, s->expert_begin, n_experts + 1);
    TAKE(t, s->counts, n_experts);
    TAKE(t, s->active, n_experts);
    TAKE(t, s->n_active, 1);
}

static void take_layer_x(struct taker *t, Scratch *s, const struct layer *l) {
    const struct weight *fine[] = {&l->q, &l->k, &l->v};

    for (size_t i = 0; i < ARRAY_SIZE(fine); i++) {
        enum act_kind kind = kern_types[fine[i]->type].act;

        take_x(t, s, fine[i]);
        s->x_has_rest[kind] = kind != ACT_F32;
    }
    take_x(t, s, &l->experts[EXPERT_GATE][0]);
    take_x(t, s, &l->experts[EXPERT_UP][0]);
}

static void take_attention(struct taker *t, Scratch *s, const Shape *shape, const Weights *w,
                           size_t n) {
    size_t n_q = (size_t)shape->n_heads * shape->head_size,
           n_kv = (size_t)shape->n_kv_heads * shape->head_size;

    TAKE(t, s->q, n * n_q);
    TAKE(t, s->k, n * n_kv);
    TAKE(t, s->v, n * n_kv);
    TAKE(t, s->attended, n * n_q);
    TAKE(t, s->span_acc, n * n_q);
    TAKE(t, s->span_max, n * shape->n_heads);
    TAKE(t, s->span_sum, n * shape->n_heads);
    for (uint32_t i = 0; i < shape->n_layers; i++)
        take_acts(t, s->heads, &w->layers[i].o, n);
}

static void take_experts(struct taker *t, Scratch *s, const Shape *shape, const Weights *w,
                         size_t n) {
    size_t n_slots = n * n_used(shape);

    for (uint32_t i = 0; i < shape->n_layers; i++) {
        const struct layer *l = &w->layers[i];

        take_slot_x(t, s, shape, &l->experts[EXPERT_GATE][0], n_slots);
        take_slot_x(t, s, shape, &l->experts[EXPERT_UP][0], n_slots);
        take_acts(t, s->inner, &l->experts[EXPERT_DOWN][0], n_slots);
    }
    TAKE(t, s->expert_out, n_slots * shape->n_embd);
}

/* Touched first on the member's own node. */
static void take_threads(struct taker *t, Scratch *s, const GkPool *pool) {
    unsigned n = gk_pool_n_threads(pool);

    TAKE(t, s->thread, n);
    for (unsigned i = 0; i < n; i++) {
        bool visits = !t->counts && pool_n_nodes(pool) > 1;
        cpu_set_t own;
        void *p;

        if (visits)
            pool_visit(pool, i, &own);
        p = take(t, 1, THREAD_SCRATCH_BYTES);
        if (visits)
            pool_return(&own);
        if (s->thread)
            s->thread[i] = p;
    }
}

static void take_all(struct taker *t, Scratch *s, const Shape *shape, const Weights *w, size_t n,
                     const GkPool *pool) {
    s->n_x = (uint32_t)MAX(n, (size_t)LOGIT_ROWS);
    take_rows(t, s, shape, n);
    take_routes(t, s, shape, n);
    for (uint32_t i = 0; i < shape->n_layers; i++)
        take_layer_x(t, s, &w->layers[i]);
    take_x(t, s, &w->output);
    take_threads(t, s, pool);
    begin_phase(t);
    take_attention(t, s, shape, w, n);
    begin_phase(t);
    take_experts(t, s, shape, w, n);
    begin_phase(t);
    TAKE(t, s->logits, (size_t)LOGIT_ROWS * shape->n_vocab);
    end_phases(t);
}

int scratch_init(Scratch *s, const Shape *shape, const Weights *w, uint32_t n_rows_max,
                 const GkPool *pool, Error *reterr) {
    uint64_t n_memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    struct taker counting = {.counts = true}, taking = {.counts = false};
    Scratch counted = {.rows = NULL};

    take_all(&counting, &counted, shape, w, n_rows_max, pool);
    (void)take(&counting, 1, counting.n_phase_max);
    if (counting.failed || counting.n_bytes > n_memory / 2)
        return error_set(reterr, GK_E_INVALID,
                         "steps of %u rows take %llu MB or more; half of this machine's memory, "
                         "the most they may take, is %llu MB",
                         n_rows_max, (unsigned long long)(counting.n_bytes >> 20),
                         (unsigned long long)(n_memory / 2 >> 20));
    taking.phases = s->phases = take(&taking, 1, counting.n_phase_max);
    take_all(&taking, s, shape, w, n_rows_max, pool);
    if (taking.failed)
        return error_set(reterr, -ENOMEM, "out of memory for steps of %u rows", n_rows_max);
    s->n_bytes = taking.n_bytes;
    return 0;
}

void scratch_deinit(Scratch *s, unsigned n_threads) {
    void *const parts[] = {
        s->rows,         s->runs,   s->hidden, s->normed,   s->branch,     s->rope_cos,
        s->rope_sin,     s->router, s->chosen, s->gates,    s->slot_of,    s->slot_row,
        s->expert_begin, s->counts, s->active, s->n_active, s->logit_rows, s->phases,
    };

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        free(parts[i]);
    for (unsigned i = 0; s->thread && i < n_threads; i++)
        free(s->thread[i]);
    free(s->thread);
    for (int kind = 0; kind < ACT_KINDS; kind++)
        free(s->x[kind].data);
    *s = (Scratch){0};
}
