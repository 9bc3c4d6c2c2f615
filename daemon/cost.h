/* What a step takes: fixed + per prompt row + per decode row, learnt from the steps that were done.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define COST_N 3
/* Numbers of rows by their binary length: 0, 1, 2–3, 4–7, … */
#define COST_LENGTHS 15

/* Steps of about the same shape: recent ones count most. */
struct cost_cell {
    double n_prompt_rows, n_decode_rows, us;
    uint64_t seen; /* the step that was learnt last; 0: none */
    uint32_t n_seen;
};

/* Owner: Sched. In microseconds. */
typedef struct Cost {
    double value[COST_N];                               /* of a step, a prompt row, a decode row */
    struct cost_cell cells[COST_LENGTHS][COST_LENGTHS]; /* prompt rows, decode rows */
    uint32_t n_prompt_rows_seen;                        /* at most in one step */
    uint64_t n_learnt;
} Cost;

void cost_init(Cost *c);
void cost_learn(Cost *c, uint32_t n_prompt_rows, uint32_t n_decode_rows, double us);
double cost_of_step(const Cost *c, uint32_t n_prompt_rows, uint32_t n_decode_rows);
/* Of one that only decodes: nearer to what was measured at this size. */
double cost_of_decoding(const Cost *c, uint32_t n_rows);
/* That was measured some times, and lately. */
bool cost_is_known(const Cost *c, uint32_t n_decode_rows);
/* Steps since one of about this size, that only decoded; UINT64_MAX: there was none. */
uint64_t cost_age(const Cost *c, uint32_t n_decode_rows);
/* Of a prompt that has the machine to itself, in steps of n_step_rows. */
double cost_of_prompt(const Cost *c, uint64_t n_rows, uint32_t n_step_rows);
