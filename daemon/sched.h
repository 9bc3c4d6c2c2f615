/* What the next step computes: a pure function of the sequences that run. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct sched_row {
    size_t n_pending; /* rows until the next token: 1 when decoding; 0: none */
    uint32_t n_rows;  /* out: rows in this step */
};

struct sched_budget {
    uint32_t n_rows_max;        /* what a step can take: more than there are sequences */
    uint32_t n_prompt_rows_max; /* of these for prompts */
};

/* `rows` are in the order of arrival. Returns the number of rows planned. */
uint32_t sched_plan(const struct sched_budget *budget, struct sched_row *rows, size_t n);
