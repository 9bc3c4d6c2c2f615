/*
 * The model in memory: its hyper-parameters, its weights, and the scratch of one step.
 * Shapes stand beside every pointer, slowest dimension first.
 */
#pragma once

#include "engine/engine.h"
#include "engine/kern/kern.h"
#include "engine/manifest.h"
#include "engine/pool.h"

#include <stdatomic.h>

#define EXPERTS_MAX      256
#define EXPERTS_USED_MAX 32
#define LAYERS_MAX       1024
#define HEAD_SIZE_MAX    1024
#define HEADS_PER_KV_MAX 256

/* Hyper-parameters, from the file's metadata. */
typedef struct Shape {
    uint32_t n_layers, n_embd, n_ff, n_vocab;
    uint32_t n_heads, n_kv_heads, head_size;
    uint32_t n_rot;                        /* features of a head that RoPE turns; even */
    uint32_t n_experts, n_experts_used;    /* 0 and 0: dense */
    uint32_t n_context;                    /* positions the model was trained for */
    float norm_eps, rope_base, rope_scale; /* positions are divided by rope_scale */
    bool tied_output;
} Shape;

/* A matrix in the file: n_out rows of k weights. data NULL: the model has none. */
struct weight {
    const uint8_t *data;
    size_t row_bytes;
    uint32_t n_out, k;
    enum kern_type type;
};

enum expert_part { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_PART_N };

struct layer {
    const float *attn_norm;      // (n_embd)
    const float *attn_post_norm; // (n_embd) or NULL
    const float *ffn_norm;       // (n_embd)
    const float *ffn_post_norm;  // (n_embd) or NULL
    struct weight q, k, v; // (n_heads·head_size, n_embd), (n_kv_heads·head_size, n_embd) twice
    const float *q_bias, *k_bias, *v_bias; // (their n_out) or NULL
    struct weight o;                       // (n_embd, n_heads·head_size)
    struct weight router;                  // (n_experts, n_embd)
    /* Reached through expert.h only. Gate and up (n_ff, n_embd), down (n_embd, n_ff). */
    struct weight *experts[EXPERT_PART_N]; // (max(n_experts, 1)) each
};

typedef struct Weights {
    struct weight embedding;  // (n_vocab, n_embd)
    struct weight output;     // (n_vocab, n_embd); the embedding where tied
    const float *output_norm; // (n_embd)
    struct layer *layers;     // (n_layers)
    void **owned;             // converted vectors and arrays of the above, freed at the end
    size_t n_owned;
} Weights;

/* Activations of one kind, as many rows as the step may have; data NULL where no weight needs it.
 */
#define ACT_KINDS 3

/* One row of a step. */
struct row {
    GkSeq *seq;
    uint32_t position;
    int32_t token;
    bool wants_logits, wants_hidden;
    bool is_drafted; /* its logits count only if what the row before it gave is its token */
};

/* Rows of one sequence, at ascending positions, whose queries attend together. */
struct row_run {
    uint32_t first, n;
    uint32_t first_part; /* where spans are folded at the same time: see attn_plan_spans() */
};

/* What a layer's tasks of an expert wait for, of that expert. */
struct expert_counts {
    PoolCount gathered; /* slots that moe_gather() has copied */
    PoolCount inner;    /* tasks of its inner features that are done */
};

/* Everything a step writes. n_rows at most n_rows_max; slots are (row, rank) pairs. */
typedef struct Scratch {
    struct row *rows;              // (n_rows)
    struct row_run *runs;          // (n_runs) of the rows, in their order
    float *hidden;                 // (n_rows, n_embd) the residual stream
    float *normed;                 // (n_rows, n_embd)
    float *branch;                 // (n_rows, n_embd) what attention or the experts add
    float *rope_cos, *rope_sin;    // (n_rows, n_rot / 2)
    struct kern_acts x[ACT_KINDS]; // (n_x, n_embd) normed, quantised; then as many rows of what
                                   // that left, where queries, keys or values are made from it
    bool x_has_rest[ACT_KINDS];    /* they are */
    uint32_t n_x;                  /* n_rows_max, or LOGIT_ROWS if that is more */
    float *router;                 // (n_rows, n_experts) probabilities
    uint32_t *chosen;              // (n_rows, n_experts_used) expert of each rank
    float *gates;                  // (n_rows, n_experts_used) weight of each rank
    uint32_t *slot_of;             // (n_rows, n_experts_used) slot of each rank
    uint32_t *slot_row;            // (n_slots) the slot's row, sorted by expert
    uint32_t *expert_begin;        // (n_experts + 1) each expert's slots
    struct expert_counts *counts;  // (n_experts)
    uint32_t *active, *n_active;   // (n_experts), (1) experts that have slots, and how many
    uint32_t *logit_rows;          // (n_rows) rows that want logits
    void **thread;                 // (n_threads) THREAD_SCRATCH_BYTES each

    uint8_t *phases; /* what follows, in the same memory: each holds until the next phase begins */
    /* attention */
    float *q;                          // (n_rows, n_heads, head_size)
    float *k, *v;                      // (n_rows, n_kv_heads, head_size)
    float *attended;                   // (n_rows, n_heads, head_size)
    float *span_acc;                   // (n_rows, n_heads, head_size) of the span at hand; or
                                       // (parts, n_heads, head_size): see attn_plan_spans()
    float *span_max, *span_sum;        // (parts, n_heads), at most n_rows_max parts
    struct kern_acts heads[ACT_KINDS]; // (n_rows, n_heads·head_size) attended, quantised
    /* experts */
    struct kern_acts
        slot_x[ACT_KINDS]; // (n_slots, n_embd) experts' rows of x where moe_gathers(); no floats
    struct kern_acts inner[ACT_KINDS]; // (n_slots, n_ff) activation(gate)·up, quantised
    float *expert_out;                 // (n_slots, n_embd)
    /* output head */
    float *logits; // (LOGIT_ROWS, n_vocab) one group of them

    uint64_t n_bytes; /* all of it */
} Scratch;

#define LOGIT_ROWS 64  /* rows that go through the output head together */
#define TILE_FF    256 /* features of the feed-forward block that one task computes */
#define TILE_ROWS  256 /* rows that it computes at a time */
#define TILE_OUT   128 /* output features of one task of a plain product */

/* A member's own memory: the kernels' scratch, then gate and up tiles, of which queries, keys and
 * values make other use, then one quantised row of a tile. */
#define THREAD_TILES_OFFSET  ((size_t)KERN_SCRATCH_BYTES)
#define THREAD_ROW_OFFSET    (THREAD_TILES_OFFSET + 2 * sizeof(float) * TILE_FF * TILE_ROWS)
#define THREAD_SCRATCH_BYTES (THREAD_ROW_OFFSET + 4096)

/* The numbers of grokd's tables (parameters, active ones, bytes), from shapes alone. */
struct shape_counts {
    uint64_t n_parameters, n_parameters_per_expert, n_parameters_active;
};
struct shape_counts shape_count(const Shape *s, const struct manifest *m);
