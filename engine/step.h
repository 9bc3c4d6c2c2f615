/* One batched forward pass. */
#pragma once

#include "engine/internal.h"
#include "engine/tasks.h"

struct forward {
    GkEngine *engine;
    uint32_t n_rows, n_runs, n_logit_rows;
    uint32_t n_spans;          /* of all runs, where they are folded at the same time; else 0 */
    bool has_embeddings;       /* some row goes into one */
    struct task_draw draws[4]; /* used in turn: see each_task() */
};

/* Run by every member of the pool: computes e->scratch.rows[0 .. n_rows). After it rows and runs
 * are those in logit_rows, and those that want their hidden values. */
void step_forward(void *forward, unsigned i_thread);
