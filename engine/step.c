/*
 * The forward pass: rows in, tokens out, top to bottom in the order of the paper.
 *
 * A row is one token of one sequence at one position; a step's rows are the decode rows of many
 * sequences and slices of prompts, in any mix. Every member of the pool runs step_forward() from
 * beginning to end, and they meet at barriers. Two ways of sharing the work, in turn:
 *
 *   each_task   members draw tasks (a block of output features for all rows) from a list: the
 *               products, attention.
 *   then_each   a member computes a fixed share of the rows or heads: norms, routing, rotation. A
 *               row by itself is done by whoever comes last from the list (then_rows).
 *
 * An expert's tasks wait for what they need of that expert and for nothing else (PoolCount): from
 * routed rows to the experts' outputs nobody meets. A layer has eight barriers for many rows, five
 * for one, and one more where attention goes by spans.
 *
 * Attention, the experts and the output head use the same memory one after the other (Scratch): the
 * barriers between them are for that too.
 *
 * Each output is computed by one member in one fixed order, so the bits depend on neither the
 * number of threads nor on who was quicker. Nothing here logs, and nothing allocates or locks
 * but what a constraint asks (grammar/match.h), and OpenBLAS at a thread's first product. Rejected:
 * a fork and join around each operation, as a compute graph has it, which costs two barriers where
 * this has one.
 */
#include "engine/step.h"

#include "engine/attn.h"
#include "engine/moe.h"
#include "engine/seq.h"

#include <string.h>

struct member {
    struct forward *f;
    const GkEngine *e;
    const Scratch *s;
    const Shape *shape;
    unsigned i, n;          /* this member, and how many there are */
    unsigned node, n_nodes; /* where it is */
    void *scratch;          /* its own memory, THREAD_SCRATCH_BYTES */
    unsigned i_draw;        /* which of f->draws is next; the same on every member */
    size_t upcoming;        /* the task after the one at hand: its weights are fetched meanwhile; or
                               TASKS_END */
};

static void barrier(const struct member *m) {
    pool_barrier(m->e->pool, m->i);
}

/* This member's rows of n: [begin, end). */
static void share(const struct member *m, size_t n, size_t *ret_begin, size_t *ret_end) {
    *ret_begin = n * m->i / m->n;
    *ret_end = n * (m->i + 1) / m->n;
}

/* What a row needs of itself from one such loop to the next needs no barrier: the share is the
 * same. */
#define each_row(m, i)                                                                             \
    for (size_t i = (size_t)(m)->f->n_rows * (m)->i / (m)->n,                                      \
                i##_end = (size_t)(m)->f->n_rows * ((m)->i + 1) / (m)->n;                          \
         i < i##_end; i++)

typedef void task_fn(struct member *m, const void *what, size_t i);

/* Draws tasks until none is left; others may still be at theirs: a barrier follows, or then_each(),
 * or a list whose tasks wait for those of this one. The next task is drawn before one begins, but
 * for the last ones, which are for whoever is free. */
static void each_task(struct member *m, const struct task_list *list, task_fn *task,
                      const void *what) {
    struct task_draw *draw = &m->f->draws[m->i_draw];
    struct task_turn turn = {.node = m->node, .last = m->i % 2 == 1};

    for (size_t i = tasks_draw(draw, list, m->n_nodes, &turn); i != TASKS_END;) {
        bool is_early = turn.n_left * m->n_nodes >= 2 * (size_t)m->n;

        m->upcoming = is_early ? tasks_draw(draw, list, m->n_nodes, &turn) : TASKS_END;
        task(m, what, i);
        i = is_early ? m->upcoming : tasks_draw(draw, list, m->n_nodes, &turn);
    }
    /* Of three lists in a row, two have a barrier between them. So when list k ends here, nobody is
     * in list k − 2 any more, nor yet in list k + 2, which takes its draw. (Somebody may be in
     * k + 1: three draws are not enough.) */
    if (m->i == 0) {
        tasks_reset(&m->f->draws[(m->i_draw + 2) % ARRAY_SIZE(m->f->draws)], m->n_nodes);
        atomic_fetch_add_explicit(&m->f->engine->heartbeat, 1, memory_order_relaxed);
    }
    m->i_draw = (m->i_draw + 1) % ARRAY_SIZE(m->f->draws);
}

/* What the team does between two lists. It has no barrier inside, but to show values to an
 * observer. */
typedef void share_fn(const struct member *m, const void *what);

struct share_call {
    const struct member *m;
    share_fn *each, *once; /* either may be NULL */
    const void *what;
};

/* As if there were no other members. */
static void call_alone(void *share_call) {
    const struct share_call *c = share_call;
    struct member alone = *c->m;

    alone.i = 0;
    alone.n = 1;
    if (c->each)
        c->each(&alone, c->what);
    if (c->once)
        c->once(&alone, c->what);
}

static void barrier_once(const struct member *m, share_fn *each, share_fn *once, const void *what) {
    struct share_call call = {m, each, once, what};

    pool_barrier_once(m->e->pool, call_alone, &call);
}

/* After a list all meet, each member does its share, they meet again, and the last one who comes
 * does `once`, if it isn't NULL, while the others wait. */
static void then_each(const struct member *m, share_fn *each, share_fn *once, const void *what) {
    barrier(m);
    each(m, what);
    barrier_once(m, NULL, once, what);
}

/*
 * The same where shares are of rows. One row gives work to one member only: the last one who comes
 * from the list does that too, and they meet once, not twice. Where there is an observer, all have
 * to be there for what `each` shows to it.
 */
static void then_rows(const struct member *m, share_fn *each, share_fn *once, const void *what) {
    if (m->f->n_rows == 1 && !m->e->observer.on_row)
        barrier_once(m, each, once, what);
    else
        then_each(m, each, once, what);
}

static void observe(const struct member *m, size_t i_row, const char *name, int i_layer,
                    const float *values, size_t n) {
    const struct gk_observer *o = &m->e->observer;
    const struct row *row = &m->s->rows[i_row];

    if (o->on_row)
        o->on_row(o->userdata, row->seq, name, i_layer, row->position, values, n);
}

/* Observers are called by one member only, between barriers. */
static void observe_rows(const struct member *m, const char *name, int i_layer, const float *values,
                         size_t n) {
    if (!m->e->observer.on_row)
        return;
    barrier(m);
    for (size_t i = 0; m->i == 0 && i < m->f->n_rows; i++)
        observe(m, i, name, i_layer, values + i * n, n);
    barrier(m);
}

/* ---- products ---- */

static void quantize_one(const struct member *m, const struct kern_acts *to, size_t i_row,
                         const float *x) {
    uint8_t *at = to->data + i_row * to->stride;

    if (to->kind == ACT_F32)
        (void)memcpy(at, x, to->k * sizeof(float));
    else if (to->kind == ACT_Q8_32)
        m->e->kern->quantize_q8_32(x, to->k, at);
    else
        m->e->kern->quantize_q8_256(x, to->k, at);
}

/* One row of floats in every form that the weights of this place ask for. */
static void quantize_row(const struct member *m, const struct kern_acts acts[ACT_KINDS],
                         size_t i_row, const float *x) {
    for (int kind = 0; kind < ACT_KINDS; kind++)
        if (acts[kind].data)
            quantize_one(m, &acts[kind], i_row, x);
}

static void add_bias(float *y, size_t stride, size_t n_rows, const float *bias, size_t n) {
    for (size_t i = 0; bias && i < n_rows; i++)
        for (size_t j = 0; j < n; j++)
            y[i * stride + j] += bias[j];
}

static size_t n_blocks(const struct weight *w) {
    return (w->n_out + TILE_OUT - 1) / TILE_OUT;
}

/* Where a block of TILE_OUT features begins; NULL: the weight has none of that number. */
static const uint8_t *block_data(const struct weight *w, size_t i_block) {
    return i_block < n_blocks(w) ? w->data + i_block * TILE_OUT * w->row_bytes : NULL;
}

/* Features [begin, begin + TILE_OUT) of w · x for all rows, with a bias where there is one. */
static void mul_block(const struct member *m, const struct weight *w, size_t i_block,
                      const struct kern_acts *x, const float *bias, float *y, const uint8_t *next) {
    uint32_t begin = (uint32_t)i_block * TILE_OUT, n = MIN(w->n_out - begin, (uint32_t)TILE_OUT);

    engine_mul(m->e, w, begin,
               &(struct kern_mul){.n_out = n,
                                  .x = &x[kern_types[w->type].act],
                                  .n_rows = m->f->n_rows,
                                  .y = y + begin,
                                  .y_stride = w->n_out,
                                  .next = next,
                                  .scratch = m->scratch});
    add_bias(y + begin, w->n_out, m->f->n_rows, bias ? bias + begin : NULL, n);
}

/* Rows whose sums, and those of their rests, fit in a thread's tiles. */
#define FINE_ROWS (2 * TILE_FF * TILE_ROWS / (2 * TILE_OUT))

/*
 * The same with w · (what quantising x left) added: the input of queries, keys and values is taken
 * with 15 bits instead of 8. Attention scores go through an exponential, and on the golden models
 * most of the error of 8-bit activations came in here: without this, or for the queries and keys
 * alone, some of them are beyond the limits.
 */
static void mul_block_fine(const struct member *m, const struct weight *w, size_t i_block,
                           const float *bias, float *y, const uint8_t *next) {
    float *tile = (float *)(void *)((uint8_t *)m->scratch + THREAD_TILES_OFFSET);
    uint32_t begin = (uint32_t)i_block * TILE_OUT, n = MIN(w->n_out - begin, (uint32_t)TILE_OUT);
    enum act_kind kind = kern_types[w->type].act;
    uint32_t rows[2 * FINE_ROWS]; /* of x, then of their rests: one product reads weights once */

    if (kind == ACT_F32) {
        mul_block(m, w, i_block, m->s->x, bias, y, next);
        return;
    }
    for (uint32_t first = 0; first < m->f->n_rows; first += FINE_ROWS) {
        uint32_t n_rows = MIN(m->f->n_rows - first, (uint32_t)FINE_ROWS);

        for (uint32_t i = 0; i < n_rows; i++) {
            rows[i] = first + i;
            rows[n_rows + i] = m->s->n_x + first + i;
        }
        engine_mul(m->e, w, begin,
                   &(struct kern_mul){.n_out = n,
                                      .x = &m->s->x[kind],
                                      .rows = rows,
                                      .n_rows = 2 * n_rows,
                                      .y = tile,
                                      .y_stride = TILE_OUT,
                                      .next = next,
                                      .scratch = m->scratch});
        for (uint32_t i = 0; i < n_rows; i++) {
            float *to = y + (size_t)(first + i) * w->n_out + begin;

            (void)memcpy(to, tile + (size_t)i * TILE_OUT, n * sizeof(*to));
            add_bias(to, w->n_out, 1, bias ? bias + begin : NULL, n);
            m->e->kern->add_scaled(to, tile + (size_t)(n_rows + i) * TILE_OUT, 1.0f, n);
        }
    }
}

/* Queries, keys and values are one list of tasks. */
static const struct weight *qkv_weight(const struct layer *l, size_t *i) {
    if (*i < n_blocks(&l->q))
        return &l->q;
    *i -= n_blocks(&l->q);
    if (*i < n_blocks(&l->k))
        return &l->k;
    *i -= n_blocks(&l->k);
    return &l->v;
}

static void qkv_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    size_t i_next = m->upcoming;
    const struct weight *w = qkv_weight(l, &i), *w_next = qkv_weight(l, &i_next);
    const float *bias = w == &l->q ? l->q_bias : w == &l->k ? l->k_bias : l->v_bias;
    float *y = w == &l->q ? m->s->q : w == &l->k ? m->s->k : m->s->v;

    mul_block_fine(m, w, i, bias, y, block_data(w_next, i_next));
}

static uint32_t layer_number(const struct member *m, const struct layer *l) {
    return (uint32_t)(l - m->e->weights.layers);
}

static void attend_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    uint32_t n = m->shape->n_kv_heads;

    /* The last rows see most positions and go first, so that the team ends together. */
    attn_attend(m->e, layer_number(m, l), &m->s->runs[m->f->n_runs - 1 - i / n], (uint32_t)(i % n),
                m->scratch);
}

static void span_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    uint32_t n = m->shape->n_kv_heads;

    attn_attend_span(m->e, layer_number(m, l), (uint32_t)(i / n), (uint32_t)(i % n), m->scratch);
}

static void attn_out_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    mul_block(m, &l->o, i, m->s->heads, NULL, m->s->branch, block_data(&l->o, m->upcoming));
}

static void inner_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    moe_inner_task(m->e, l, i, m->upcoming, m->scratch);
}

static void down_task(struct member *m, const void *layer, size_t i) {
    const struct layer *l = layer;
    moe_down_task(m->e, l, i, m->upcoming, m->scratch);
}

/* ---- a layer ---- */

static void normalize(const struct member *m, size_t i_row, const float *scale) {
    size_t n = m->shape->n_embd;

    m->e->kern->rms_norm(m->s->hidden + i_row * n, scale, m->shape->norm_eps,
                         m->s->normed + i_row * n, n);
    quantize_row(m, m->s->x, i_row, m->s->normed + i_row * n);
}

/* See mul_block_fine(). The row of `branch` is free here and holds the rest. */
static void quantize_rest(const struct member *m, size_t i_row) {
    const Scratch *s = m->s;
    size_t n = m->shape->n_embd;
    float *rest = s->branch + i_row * n;

    for (int kind = 0; kind < ACT_KINDS; kind++) {
        if (!s->x_has_rest[kind])
            continue;
        m->e->kern->residual(s->normed + i_row * n, &s->x[kind], i_row, rest);
        quantize_one(m, &s->x[kind], s->n_x + i_row, rest);
    }
}

/* hidden += post-norm(branch) */
static void add_branch(const struct member *m, size_t i_row, const float *post_norm) {
    size_t n = m->shape->n_embd;
    float *branch = m->s->branch + i_row * n;

    if (post_norm)
        m->e->kern->rms_norm(branch, post_norm, m->shape->norm_eps, branch, n);
    m->e->kern->add_scaled(m->s->hidden + i_row * n, branch, 1.0f, n);
}

/* Row i takes the place of row `to`, which is before it or the same. */
static void move_row(const struct member *m, size_t i, size_t to) {
    size_t n = m->shape->n_embd, n_heads = (size_t)m->shape->n_heads * m->shape->head_size;

    if (i == to)
        return;
    m->s->rows[to] = m->s->rows[i];
    (void)memcpy(m->s->hidden + to * n, m->s->hidden + i * n, n * sizeof(float));
    (void)memcpy(m->s->q + to * n_heads, m->s->q + i * n_heads, n_heads * sizeof(float));
}

/*
 * Of most of a prompt's rows, the last layer gives keys and values, and nothing else is read: once
 * they are stored, those rows are left out. There may be none left.
 */
static void leave_out_unwanted(const struct member *m, const void *layer) {
    struct forward *f = m->f;
    uint32_t n_rows = 0, n_runs = 0, i_logit = 0;

    (void)layer;
    for (uint32_t i = 0; i < f->n_runs; i++) {
        struct row_run run = m->s->runs[i], kept = {.first = n_rows, .n = 0};

        for (uint32_t row = run.first; row < run.first + run.n; row++) {
            bool gives_logits = i_logit < f->n_logit_rows && m->s->logit_rows[i_logit] == row;

            if (!gives_logits && !m->s->rows[row].wants_hidden)
                continue;
            if (gives_logits)
                m->s->logit_rows[i_logit++] = n_rows;
            move_row(m, row, n_rows++);
            kept.n++;
        }
        if (kept.n > 0)
            m->s->runs[n_runs++] = kept;
    }
    f->n_rows = n_rows;
    f->n_runs = n_runs;
    f->n_spans = attn_plan_spans(m->e, n_runs);
}

static void rotate_and_store(const struct member *m, const void *layer) {
    uint32_t i_layer = layer_number(m, layer), n_kv_heads = m->shape->n_kv_heads;
    size_t begin, end;

    share(m, (size_t)m->f->n_rows * n_kv_heads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        attn_rotate_and_store(m->e, i_layer, (uint32_t)(i / n_kv_heads),
                              (uint32_t)(i % n_kv_heads));
}

static void attend(struct member *m, const struct layer *l) {
    uint32_t n_kv_heads = m->shape->n_kv_heads;
    size_t begin, end;

    if (m->f->n_spans == 0) {
        each_task(m, &(struct task_list){.parts = {{m->f->n_runs, n_kv_heads}}, .in_order = true},
                  attend_task, l);
        return;
    }
    each_task(m, &(struct task_list){.parts = {{m->f->n_spans, n_kv_heads}}, .in_order = true},
              span_task, l);
    barrier(m);
    share(m, (size_t)m->f->n_runs * n_kv_heads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        attn_merge(m->e, &m->s->runs[i / n_kv_heads], (uint32_t)(i % n_kv_heads));
}

static void quantize_attended(const struct member *m, const void *layer) {
    size_t n = (size_t)m->shape->n_heads * m->shape->head_size;

    (void)layer;
    each_row(m, i) {
        quantize_row(m, m->s->heads, i, m->s->attended + i * n);
    }
}

static void add_attention_and_route(const struct member *m, const void *layer) {
    const struct layer *l = layer;

    observe_rows(m, "attention", (int)layer_number(m, l), m->s->branch, m->shape->n_embd);
    each_row(m, i) {
        add_branch(m, i, l->attn_post_norm);
        normalize(m, i, l->ffn_norm);
        moe_route(m->e, l, (uint32_t)i, m->scratch);
    }
}

static void sort_slots(const struct member *m, const void *layer) {
    (void)layer;
    moe_sort(m->e, m->f->n_rows);
}

/* From normed rows to routed ones. */
static void attention(struct member *m, const struct layer *l) {
    bool is_last = layer_number(m, l) + 1 == m->shape->n_layers;

    each_task(m,
              &(struct task_list){
                  .parts = {{1, n_blocks(&l->q)}, {1, n_blocks(&l->k)}, {1, n_blocks(&l->v)}}},
              qkv_task, l);
    then_each(m, rotate_and_store, is_last ? leave_out_unwanted : NULL, l);
    if (m->f->n_rows == 0)
        return;
    attend(m, l);
    then_rows(m, quantize_attended, NULL, l);
    each_task(m, &(struct task_list){.parts = {{1, n_blocks(&l->o)}}}, attn_out_task, l);
    then_rows(m, add_attention_and_route, sort_slots, l);
}

/* Normed rows and their rests; `branch` is no longer needed. */
static void prepare_layer(const struct member *m, const struct layer *l) {
    each_row(m, i) {
        normalize(m, i, l->attn_norm);
        quantize_rest(m, i);
    }
}

static void add_feed_forward(const struct member *m, const void *layer) {
    const struct layer *l = layer;
    const Shape *s = m->shape;
    uint32_t i_layer = layer_number(m, l);

    each_row(m, i) {
        moe_combine(m->e, (uint32_t)i);
    }
    observe_rows(m, s->n_experts > 0 ? "moe" : "feed_forward", (int)i_layer, m->s->branch,
                 s->n_embd);
    each_row(m, i) {
        add_branch(m, i, l->ffn_post_norm);
    }
    observe_rows(m, "hidden", (int)i_layer, m->s->hidden, s->n_embd);
    if (i_layer + 1 < s->n_layers)
        prepare_layer(m, l + 1);
}

/* From routed rows to those that the next layer takes. */
static void feed_forward(struct member *m, const struct layer *l) {
    const Shape *s = m->shape;
    size_t begin, end;

    if (moe_gathers(m->e, l)) {
        share(m, (size_t)m->f->n_rows * s->n_experts_used, &begin, &end);
        moe_gather(m->e, l, (uint32_t)begin, (uint32_t)end);
    }
    if (s->n_experts > 0)
        observe_rows(m, "router_probabilities", (int)layer_number(m, l), m->s->router,
                     s->n_experts);
    each_task(m, &(struct task_list){.parts = {moe_inner_tasks(m->e)}}, inner_task, l);
    each_task(m, &(struct task_list){.parts = {moe_down_tasks(m->e)}}, down_task, l);
    then_rows(m, add_feed_forward, NULL, l);
}

/* ---- the ends ---- */

static void embed(const struct member *m, size_t i_row) {
    const struct weight *w = &m->e->weights.embedding;
    float *h = m->s->hidden + i_row * m->shape->n_embd;

    m->e->kern->dequantize[w->type](w->data + (size_t)m->s->rows[i_row].token * w->row_bytes, h,
                                    m->shape->n_embd);
    if (m->e->manifest.embedding_scale != 1)
        m->e->kern->scale(h, m->e->manifest.embedding_scale, m->shape->n_embd);
    attn_prepare_rope(m->e, (uint32_t)i_row);
}

/* The group's rows are the first of x: row j of the group is scratch.logit_rows[first + j]. */
struct logit_group {
    uint32_t first, n;
};

static void head_task(struct member *m, const void *group, size_t i) {
    const struct weight *w = &m->e->weights.output;
    const struct logit_group *g = group;
    uint32_t begin = (uint32_t)i * TILE_OUT;

    engine_mul(m->e, w, begin,
               &(struct kern_mul){.n_out = MIN(w->n_out - begin, (uint32_t)TILE_OUT),
                                  .x = &m->s->x[kern_types[w->type].act],
                                  .n_rows = g->n,
                                  .y = m->s->logits + begin,
                                  .y_stride = w->n_out,
                                  .next = block_data(w, m->upcoming),
                                  .scratch = m->scratch});
}

/* Row j of the group, or the next that is no guess: drafted rows go with the row that they follow,
 * since what they give depends on what that gave. */
static size_t skip_drafted(const struct member *m, struct logit_group g, size_t j) {
    while (j > 0 && j < g.n && m->s->rows[m->s->logit_rows[g.first + j]].is_drafted)
        j++;
    return j;
}

static void take_logits(const struct member *m, const void *group) {
    struct logit_group g = *(const struct logit_group *)group;
    size_t n = m->shape->n_vocab, begin, end;

    share(m, g.n, &begin, &end);
    begin = skip_drafted(m, g, begin);
    end = skip_drafted(m, g, end);
    for (size_t j = begin; j < end; j++) {
        float *logits = m->s->logits + j * n;

        if (m->e->manifest.logit_scale != 1)
            m->e->kern->scale(logits, m->e->manifest.logit_scale, n);
        if (m->e->manifest.logit_cap > 0)
            m->e->kern->soft_cap(logits, m->e->manifest.logit_cap, n);
    }
    if (m->e->observer.on_row) {
        barrier(m);
        for (size_t j = 0; m->i == 0 && j < g.n; j++)
            observe(m, m->s->logit_rows[g.first + j], "logits", -1, m->s->logits + j * n, n);
        barrier(m);
    }
    for (size_t j = begin; j < end; j++) {
        const struct row *row = &m->s->rows[m->s->logit_rows[g.first + j]];

        if (row->wants_logits)
            seq_take_logits(row->seq, row->position, row->token, m->s->logits + j * n);
    }
}

static void output_head(struct member *m) {
    size_t n = m->shape->n_embd, begin, end;

    for (uint32_t first = 0; first < m->f->n_logit_rows; first += LOGIT_ROWS) {
        struct logit_group g = {first, MIN(m->f->n_logit_rows - first, (uint32_t)LOGIT_ROWS)};

        share(m, g.n, &begin, &end);
        for (size_t j = begin; j < end; j++) {
            size_t i_row = m->s->logit_rows[first + j];

            m->e->kern->rms_norm(m->s->hidden + i_row * n, m->e->weights.output_norm,
                                 m->shape->norm_eps, m->s->normed + j * n, n);
            quantize_row(m, m->s->x, j, m->s->normed + j * n);
        }
        barrier(m);
        each_task(m, &(struct task_list){.parts = {{1, n_blocks(&m->e->weights.output)}}},
                  head_task, &g);
        then_rows(m, take_logits, NULL, &g);
    }
}

/* Each member adds its share of the features, of all rows in their order. */
static void pool_embeddings(const struct member *m) {
    size_t n = m->shape->n_embd, begin, end;

    each_row(m, i) {
        if (m->s->rows[i].wants_hidden)
            m->e->kern->rms_norm(m->s->hidden + i * n, m->e->weights.output_norm,
                                 m->shape->norm_eps, m->s->normed + i * n, n);
    }
    barrier(m);
    share(m, n, &begin, &end);
    for (size_t i = 0; i < m->f->n_rows; i++)
        if (m->s->rows[i].wants_hidden)
            seq_take_hidden(m->s->rows[i].seq, m->s->normed + i * n, begin, end);
    barrier(m); /* the head has normed rows of its own */
}

void step_forward(void *forward, unsigned i_thread) {
    struct forward *f = forward;
    const GkEngine *e = f->engine;
    struct member m = {
        .f = f,
        .e = e,
        .s = &e->scratch,
        .shape = &e->shape,
        .i = i_thread,
        .n = gk_pool_n_threads(e->pool),
        .node = pool_node(e->pool, i_thread),
        .n_nodes = pool_n_nodes(e->pool),
        .scratch = e->scratch.thread[i_thread],
    };

    each_row(&m, i) {
        embed(&m, i);
    }
    prepare_layer(&m, e->weights.layers);
    barrier(&m);
    for (uint32_t i = 0; i < e->shape.n_layers; i++) {
        attention(&m, &e->weights.layers[i]);
        if (f->n_rows == 0) /* none is left in the last layer: see leave_out_unwanted() */
            break;
        feed_forward(&m, &e->weights.layers[i]);
    }
    if (f->has_embeddings)
        pool_embeddings(&m);
    output_head(&m);
}
