/* See moe.h. A dense model goes the same way, with one expert that every row chooses with gate 1.
 */
#include "engine/moe.h"

#include "engine/expert.h"

#include <math.h>
#include <string.h>

static uint32_t n_experts(const GkEngine *e) {
    return MAX(e->shape.n_experts, 1u);
}

static uint32_t n_used(const GkEngine *e) {
    return MAX(e->shape.n_experts_used, 1u);
}

static uint32_t n_tiles(uint32_t n, uint32_t tile) {
    return (n + tile - 1) / tile;
}

/* ---- routing ---- */

static void probabilities(const GkEngine *e, float *p) {
    uint32_t n = e->shape.n_experts;

    if (e->manifest.router_cap > 0)
        e->kern->soft_cap(p, e->manifest.router_cap, n);
    if (e->manifest.gating == GATING_SOFTMAX) {
        e->kern->softmax(p, n);
        return;
    }
    /* sigmoid(x) = silu(x) / x, but without the division by zero: 1 / (1 + e^−x) through softmax of
     * (x, 0) */
    for (uint32_t i = 0; i < n; i++) {
        float pair[2] = {p[i], 0};

        e->kern->softmax(pair, 2);
        p[i] = pair[0];
    }
}

/* The n_used largest, ties to the lower number; a NaN counts as less than everything. */
static void choose(const float *p, uint32_t n, uint32_t n_chosen, uint32_t *ret) {
    bool taken[EXPERTS_MAX] = {false};

    for (uint32_t rank = 0; rank < n_chosen; rank++) {
        uint32_t best = n;

        for (uint32_t i = 0; i < n; i++)
            if (!taken[i] && (best == n || p[i] > p[best] || (p[best] != p[best] && p[i] == p[i])))
                best = i;
        taken[best] = true;
        ret[rank] = best;
    }
}

void moe_route(const GkEngine *e, const struct layer *l, uint32_t i_row, void *scratch) {
    const Scratch *s = &e->scratch;
    uint32_t n = e->shape.n_experts, used = n_used(e);
    uint32_t *chosen = s->chosen + (size_t)i_row * used;
    float *p = s->router + (size_t)i_row * n, *gates = s->gates + (size_t)i_row * used, sum = 0;
    struct kern_acts x = {
        .kind = ACT_F32,
        .k = e->shape.n_embd,
        .data = (uint8_t *)(s->normed + (size_t)i_row * e->shape.n_embd),
    };

    if (n == 0) {
        chosen[0] = 0;
        gates[0] = 1;
        return;
    }
    /* Always by our own kernel: the choice of experts must not depend on who else is in the step.
     */
    e->kern->mul[l->router.type](&(struct kern_mul){.w = l->router.data,
                                                    .row_bytes = l->router.row_bytes,
                                                    .n_out = n,
                                                    .x = &x,
                                                    .n_rows = 1,
                                                    .y = p,
                                                    .y_stride = n,
                                                    .scratch = scratch});
    probabilities(e, p);
    choose(p, n, used, chosen);
    for (uint32_t i = 0; i < used; i++)
        sum += p[chosen[i]];
    for (uint32_t i = 0; i < used; i++)
        gates[i] = (e->manifest.renormalize_gates ? p[chosen[i]] / sum : p[chosen[i]]) *
                   e->manifest.gate_scale;
}

static uint32_t n_expert_rows(const GkEngine *e, uint32_t i_expert) {
    return e->scratch.expert_begin[i_expert + 1] - e->scratch.expert_begin[i_expert];
}

/* First those of more rows than the average. */
static void list_active(const GkEngine *e, uint32_t n_slots) {
    const Scratch *s = &e->scratch;
    uint32_t n = 0, n_found = 0;

    for (uint32_t i = 0; i < n_experts(e); i++)
        n += n_expert_rows(e, i) > 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < n_experts(e); i++) {
            uint32_t n_rows = n_expert_rows(e, i);

            if (n_rows == 0 || (n_rows > n_slots / n) != (pass == 0))
                continue;
            s->active[n_found++] = i;
            pool_count_set(&s->counts[i].gathered, n_rows);
            pool_count_set(&s->counts[i].inner, n_tiles(e->shape.n_ff, TILE_FF));
        }
    *s->n_active = n;
}

void moe_sort(const GkEngine *e, uint32_t n_rows) {
    const Scratch *s = &e->scratch;
    uint32_t n = n_experts(e), n_slots = n_rows * n_used(e), next[EXPERTS_MAX] = {0};

    (void)memset(s->expert_begin, 0, (n + 1) * sizeof(*s->expert_begin));
    for (uint32_t i = 0; i < n_slots; i++)
        s->expert_begin[s->chosen[i] + 1]++;
    for (uint32_t i = 0; i < n; i++) {
        s->expert_begin[i + 1] += s->expert_begin[i];
        next[i] = s->expert_begin[i];
    }
    for (uint32_t i = 0; i < n_slots; i++) {
        s->slot_of[i] = next[s->chosen[i]]++;
        s->slot_row[s->slot_of[i]] = i / n_used(e);
    }
    list_active(e, n_slots);
}

/* From so many slots on: fewer rows are multiplied as fast from where they are. */
#define GATHER_SLOTS_MIN 128

static bool has_many_slots(const GkEngine *e) {
    return e->shape.n_experts > 0 &&
           e->scratch.expert_begin[e->shape.n_experts] >= GATHER_SLOTS_MIN;
}

static bool takes_slots(const GkEngine *e, const struct weight *w) {
    return e->scratch.slot_x[kern_types[w->type].act].data != NULL;
}

bool moe_gathers(const GkEngine *e, const struct layer *l) {
    return has_many_slots(e) && (takes_slots(e, &l->experts[EXPERT_GATE][0]) ||
                                 takes_slots(e, &l->experts[EXPERT_UP][0]));
}

static void gather_slot(const GkEngine *e, const struct layer *l, uint32_t slot) {
    const Scratch *s = &e->scratch;
    enum act_kind gate = kern_types[l->experts[EXPERT_GATE][0].type].act,
                  up = kern_types[l->experts[EXPERT_UP][0].type].act;

    for (enum act_kind kind = 0; kind < ACT_KINDS; kind++)
        if ((kind == gate || kind == up) && s->slot_x[kind].data)
            (void)memcpy(s->slot_x[kind].data + slot * s->slot_x[kind].stride,
                         s->x[kind].data + s->slot_row[slot] * s->x[kind].stride,
                         s->x[kind].stride);
}

void moe_gather(const GkEngine *e, const struct layer *l, uint32_t begin, uint32_t end) {
    const Scratch *s = &e->scratch;

    for (uint32_t slot = begin, i = 0; slot < end; i++) {
        uint32_t first = slot, expert_end = MIN(s->expert_begin[i + 1], end);

        for (; slot < expert_end; slot++)
            gather_slot(e, l, slot);
        if (slot > first)
            pool_count_add(&s->counts[i].gathered, slot - first);
    }
}

/* ---- feed-forward blocks ---- */

struct task_part moe_inner_tasks(const GkEngine *e) {
    return (struct task_part){*e->scratch.n_active, n_tiles(e->shape.n_ff, TILE_FF)};
}

struct task_part moe_down_tasks(const GkEngine *e) {
    return (struct task_part){*e->scratch.n_active, n_tiles(e->shape.n_embd, TILE_OUT)};
}

/* Puts n features from feature `begin` on into a slot's row of the down product's activations. */
static void put_inner(const GkEngine *e, enum act_kind kind, uint32_t slot, uint32_t begin,
                      uint32_t n, const float *values, uint8_t *row) {
    const struct kern_acts *to = &e->scratch.inner[kind];
    struct kern_acts part = {.kind = kind, .k = n, .stride = kern_act_stride(kind, n), .data = row};
    uint8_t *at = to->data + slot * to->stride;

    if (kind == ACT_F32) {
        (void)memcpy((float *)(void *)at + begin, values, n * sizeof(float));
        return;
    }
    if (kind == ACT_Q8_256) {
        e->kern->quantize_q8_256(values, n, at + begin / 256 * sizeof(struct kern_super));
        return;
    }
    e->kern->quantize_q8_32(values, n, row);
    (void)memcpy(at + begin, row, n);
    (void)memcpy((float *)(uintptr_t)kern_act_scales(to, slot) + begin / 32,
                 kern_act_scales(&part, 0), n / 32 * sizeof(float));
    (void)memcpy((int16_t *)(uintptr_t)kern_act_sums(to, slot) + begin / 32,
                 kern_act_sums(&part, 0), n / 32 * sizeof(int16_t));
}

/* Where the weights of a task begin: one of n_tiles(n_out, tile) for each active expert. NULL:
 * there is no such task. */
static const uint8_t *task_weights(const GkEngine *e, const struct layer *l, enum expert_part part,
                                   uint32_t n_out, uint32_t tile, size_t i_task) {
    uint32_t per_expert = n_tiles(n_out, tile);
    size_t i_active = i_task / per_expert, begin = i_task % per_expert * tile;
    const struct weight *w;

    if (i_active >= *e->scratch.n_active)
        return NULL;
    w = expert_weight(l, e->scratch.active[i_active], part);
    return w->data + begin * w->row_bytes;
}

static void mul_tile(const GkEngine *e, const struct weight *w, uint32_t begin, uint32_t n,
                     uint32_t slot, uint32_t n_rows, float *tile, const uint8_t *next,
                     void *scratch) {
    const Scratch *s = &e->scratch;
    enum act_kind kind = kern_types[w->type].act;
    struct kern_acts slots = s->slot_x[kind];
    bool gathered = has_many_slots(e) && takes_slots(e, w);

    if (gathered)
        slots.data += slot * slots.stride;
    engine_mul(e, w, begin,
               &(struct kern_mul){.n_out = n,
                                  .x = gathered ? &slots : &s->x[kind],
                                  .rows = gathered ? NULL : s->slot_row + slot,
                                  .n_rows = n_rows,
                                  .y = tile,
                                  .y_stride = TILE_FF,
                                  .next = next,
                                  .scratch = scratch});
}

void moe_inner_task(const GkEngine *e, const struct layer *l, size_t i_task, size_t i_next,
                    void *scratch) {
    uint32_t per_expert = n_tiles(e->shape.n_ff, TILE_FF),
             i_expert = e->scratch.active[i_task / per_expert];
    uint32_t begin = (uint32_t)(i_task % per_expert) * TILE_FF,
             n = MIN(e->shape.n_ff - begin, (uint32_t)TILE_FF);
    uint32_t slot_end = e->scratch.expert_begin[i_expert + 1];
    enum act_kind kind = kern_types[expert_weight(l, i_expert, EXPERT_DOWN)->type].act;
    float *gate = (float *)(void *)((uint8_t *)scratch + THREAD_TILES_OFFSET),
          *up = gate + TILE_FF * TILE_ROWS;
    uint8_t *row = (uint8_t *)scratch + THREAD_ROW_OFFSET;

    if (moe_gathers(e, l))
        pool_count_wait(e->pool, &e->scratch.counts[i_expert].gathered);
    for (uint32_t slot = e->scratch.expert_begin[i_expert]; slot < slot_end; slot += TILE_ROWS) {
        uint32_t n_rows = MIN(slot_end - slot, (uint32_t)TILE_ROWS);

        mul_tile(e, expert_weight(l, i_expert, EXPERT_GATE), begin, n, slot, n_rows, gate,
                 task_weights(e, l, EXPERT_UP, e->shape.n_ff, TILE_FF, i_task), scratch);
        mul_tile(e, expert_weight(l, i_expert, EXPERT_UP), begin, n, slot, n_rows, up,
                 task_weights(e, l, EXPERT_GATE, e->shape.n_ff, TILE_FF, i_next), scratch);
        for (uint32_t i = 0; i < n_rows; i++) {
            float *g = gate + (size_t)i * TILE_FF, *u = up + (size_t)i * TILE_FF;

            if (e->manifest.activation == ACTIVATION_GELU)
                e->kern->gelu_mul(g, u, g, n);
            else
                e->kern->silu_mul(g, u, g, n);
            put_inner(e, kind, slot + i, begin, n, g, row);
        }
    }
    pool_count_add(&e->scratch.counts[i_expert].inner, 1);
}

void moe_down_task(const GkEngine *e, const struct layer *l, size_t i_task, size_t i_next,
                   void *scratch) {
    uint32_t per_expert = n_tiles(e->shape.n_embd, TILE_OUT),
             i_expert = e->scratch.active[i_task / per_expert];
    uint32_t begin = (uint32_t)(i_task % per_expert) * TILE_OUT;
    uint32_t slot = e->scratch.expert_begin[i_expert],
             slot_end = e->scratch.expert_begin[i_expert + 1];
    const struct weight *w = expert_weight(l, i_expert, EXPERT_DOWN);
    struct kern_acts x = e->scratch.inner[kern_types[w->type].act];

    x.data += slot * x.stride;
    pool_count_wait(e->pool, &e->scratch.counts[i_expert].inner);
    engine_mul(e, w, begin,
               &(struct kern_mul){
                   .n_out = MIN(e->shape.n_embd - begin, (uint32_t)TILE_OUT),
                   .x = &x,
                   .n_rows = slot_end - slot,
                   .y = e->scratch.expert_out + (size_t)slot * e->shape.n_embd + begin,
                   .y_stride = e->shape.n_embd,
                   .next = task_weights(e, l, EXPERT_DOWN, e->shape.n_embd, TILE_OUT, i_next),
                   .scratch = scratch});
}

void moe_combine(const GkEngine *e, uint32_t i_row) {
    const Scratch *s = &e->scratch;
    uint32_t n = e->shape.n_embd, used = n_used(e);
    float *y = s->branch + (size_t)i_row * n;

    (void)memset(y, 0, n * sizeof(*y));
    for (uint32_t i = 0; i < used; i++)
        e->kern->add_scaled(y, s->expert_out + (size_t)s->slot_of[i_row * used + i] * n,
                            s->gates[i_row * used + i], n);
}
