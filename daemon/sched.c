/*
 * First come, first served, in batches.
 *
 * Every sequence that decodes has its one row in every step, so a long prompt delays others' tokens
 * by no more than its slice. What is left of the prompt budget goes to prompts in the order they
 * came: the oldest is finished first, so each prompt waits only for those before it and nobody
 * starves. A shared budget (some rows for each prompt) was rejected: with equal prompts it makes
 * everyone as late as the last.
 *
 * The budget bounds a step's time, and with it how long a cancellation takes.
 */
#include "daemon/sched.h"

#include "base/macro.h"

uint32_t sched_plan(const struct sched_budget *budget, struct sched_row *rows, size_t n) {
    uint32_t n_left = budget->n_rows_max, n_prompt_left;

    for (size_t i = 0; i < n; i++) {
        rows[i].n_rows = rows[i].n_pending == 1 && n_left > 0;
        n_left -= rows[i].n_rows;
    }
    n_prompt_left = MIN(n_left, budget->n_prompt_rows_max);
    for (size_t i = 0; i < n && n_prompt_left > 0; i++) {
        if (rows[i].n_pending <= 1)
            continue;
        rows[i].n_rows = (uint32_t)MIN(rows[i].n_pending, (size_t)n_prompt_left);
        n_prompt_left -= rows[i].n_rows;
        n_left -= rows[i].n_rows;
    }
    return budget->n_rows_max - n_left;
}
