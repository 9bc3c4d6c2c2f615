/*
 * See cost.h.
 *
 * Steps come in long runs of one shape, which tell nothing of its parts; a recursive fit forgets
 * the others meanwhile. So the last of each shape are kept, one cell for all that are about the
 * same, and the three values are fitted through the cells: least squares of relative errors, none
 * of the values negative.
 *
 * With few rows an expert's weights are read for one of them alone, so a line through all sizes
 * says too much of small steps; for what only decodes its own cell is asked first.
 */
#include "daemon/cost.h"

#include "base/macro.h"

#include <float.h>

/* A cell that was not seen for so many steps counts half. */
#define STEPS_HALF 1024.0
/* Of a new measurement in its cell. */
#define NEWS 0.125
/* One that took longer than this many times its cell counts as this: it was disturbed. */
#define SURPRISE_MAX 2.0
/* A size is known that was seen so often, and among so many of the last steps. */
#define KNOWN_TIMES 4
#define KNOWN_STEPS 2048
/* A line through sizes so many times larger says nothing of small ones. */
#define FAR 4.0

/* Before the first step: slow, so that the first slices are small. Hardly counts later. */
static const struct cost_cell first[] = {
    {1, 0, 60000, 0, 0}, {64, 0, 690000, 0, 0}, {0, 1, 100000, 0, 0}, {0, 32, 1650000, 0, 0}};
#define FIRST_WEIGHT 1e-4

/* ---- the fit ---- */

/* Normal equations: sums of x·x/us² and x/us. */
struct sums {
    double xx[COST_N][COST_N], x[COST_N];
};

static void add(struct sums *sums, const struct cost_cell *cell, double weight) {
    const double x[COST_N] = {1 / cell->us, cell->n_prompt_rows / cell->us,
                              cell->n_decode_rows / cell->us};

    for (int i = 0; i < COST_N; i++) {
        sums->x[i] += weight * x[i];
        for (int j = 0; j < COST_N; j++)
            sums->xx[i][j] += weight * x[i] * x[j];
    }
}

/* Solves for the values in `subset`, the others 0. Returns false where they can't be told apart. */
static bool solve(const struct sums *sums, unsigned subset, double *ret_value) {
    double a[COST_N][COST_N + 1];

    for (int i = 0; i < COST_N; i++) {
        bool in = subset & BIT(i);

        for (int j = 0; j < COST_N; j++)
            a[i][j] = in && (subset & BIT(j)) ? sums->xx[i][j] : i == j;
        a[i][COST_N] = in ? sums->x[i] : 0;
    }
    for (int i = 0; i < COST_N; i++) { /* symmetric and positive: no pivoting */
        if (a[i][i] <= 1e-12 * sums->xx[i][i])
            return false;
        for (int k = 0; k < COST_N; k++) {
            double factor = a[k][i] / a[i][i];

            for (int j = i; k != i && j <= COST_N; j++)
                a[k][j] -= factor * a[i][j];
        }
    }
    for (int i = 0; i < COST_N; i++)
        ret_value[i] = a[i][COST_N] / a[i][i];
    return true;
}

/* The sum of squares, but for a constant. */
static double error_of(const struct sums *sums, const double *value) {
    double error = 0;

    for (int i = 0; i < COST_N; i++) {
        error -= 2 * value[i] * sums->x[i];
        for (int j = 0; j < COST_N; j++)
            error += value[i] * value[j] * sums->xx[i][j];
    }
    return error;
}

static bool is_possible(const double *value) {
    return value[0] >= 0 && value[1] >= 0 && value[2] >= 0;
}

static double weight_of(const Cost *c, const struct cost_cell *cell) {
    return STEPS_HALF / (STEPS_HALF + (double)(c->n_learnt - cell->seen));
}

static void fit(Cost *c) {
    double value[COST_N], error, least = DBL_MAX;
    struct sums sums = {0};

    for (size_t i = 0; i < ARRAY_SIZE(first); i++)
        add(&sums, &first[i], FIRST_WEIGHT);
    for (int i = 0; i < COST_LENGTHS; i++)
        for (int j = 0; j < COST_LENGTHS; j++)
            if (c->cells[i][j].seen > 0)
                add(&sums, &c->cells[i][j], weight_of(c, &c->cells[i][j]));
    for (unsigned subset = 1; subset < BIT(COST_N); subset++) {
        if (!solve(&sums, subset, value) || !is_possible(value))
            continue;
        error = error_of(&sums, value);
        if (error >= least)
            continue;
        least = error;
        for (int i = 0; i < COST_N; i++)
            c->value[i] = value[i];
    }
}

/* ---- what is asked ---- */

void cost_init(Cost *c) {
    *c = (Cost){.n_learnt = 0};
    fit(c);
}

static unsigned length_of(uint32_t n_rows) {
    unsigned length = n_rows > 0 ? 32 - (unsigned)__builtin_clz(n_rows) : 0;

    return MIN(length, COST_LENGTHS - 1u);
}

void cost_learn(Cost *c, uint32_t n_prompt_rows, uint32_t n_decode_rows, double us) {
    struct cost_cell *cell = &c->cells[length_of(n_prompt_rows)][length_of(n_decode_rows)];

    us = MAX(us, 1.0);
    c->n_learnt++;
    c->n_prompt_rows_seen = MAX(c->n_prompt_rows_seen, n_prompt_rows);
    if (cell->seen == 0) {
        *cell = (struct cost_cell){
            .n_prompt_rows = n_prompt_rows, .n_decode_rows = n_decode_rows, .us = us};
    } else {
        cell->us += NEWS * (MIN(us, SURPRISE_MAX * cell->us) - cell->us);
        cell->n_prompt_rows += NEWS * (n_prompt_rows - cell->n_prompt_rows);
        cell->n_decode_rows += NEWS * (n_decode_rows - cell->n_decode_rows);
    }
    cell->seen = c->n_learnt;
    cell->n_seen += cell->n_seen < KNOWN_TIMES;
    fit(c);
}

double cost_of_step(const Cost *c, uint32_t n_prompt_rows, uint32_t n_decode_rows) {
    return c->value[0] + c->value[1] * n_prompt_rows + c->value[2] * n_decode_rows;
}

/* The next larger size that was seen. NULL: there is none. */
static const struct cost_cell *next_larger(const Cost *c, uint32_t n_rows) {
    for (unsigned i = length_of(n_rows) + 1; i < COST_LENGTHS; i++)
        if (c->cells[0][i].seen > 0)
            return &c->cells[0][i];
    return NULL;
}

/* Of a size that was not seen, by the line through the next two larger ones: not more than the
 * next, and not less than its part of it. Where that is far the least is said, so that the size is
 * tried. */
static double guess(const Cost *c, uint32_t n_rows, double line) {
    const struct cost_cell *next = next_larger(c, n_rows), *after;
    double least;

    if (!next)
        return line;
    least = next->us * n_rows / next->n_decode_rows;
    if (next->n_decode_rows >= FAR * n_rows)
        return least;
    after = next_larger(c, (uint32_t)next->n_decode_rows);
    if (after)
        line = next->us - (after->us - next->us) * (next->n_decode_rows - n_rows) /
                              (after->n_decode_rows - next->n_decode_rows);
    return MIN(MAX(line, least), next->us);
}

double cost_of_decoding(const Cost *c, uint32_t n_rows) {
    const struct cost_cell *cell = &c->cells[0][length_of(n_rows)];
    double line = cost_of_step(c, 0, n_rows), weight;

    if (n_rows == 0 || line <= 0)
        return line;
    if (cell->seen == 0)
        return guess(c, n_rows, line);
    weight = weight_of(c, cell);
    return (1 - weight) * line +
           weight * cell->us * line / (c->value[0] + c->value[2] * cell->n_decode_rows);
}

uint64_t cost_age(const Cost *c, uint32_t n_decode_rows) {
    const struct cost_cell *cell = &c->cells[0][length_of(n_decode_rows)];

    return cell->seen == 0 ? UINT64_MAX : c->n_learnt - cell->seen;
}

bool cost_is_known(const Cost *c, uint32_t n_decode_rows) {
    const struct cost_cell *cell = &c->cells[0][length_of(n_decode_rows)];

    return cell->n_seen >= KNOWN_TIMES && cost_age(c, n_decode_rows) < KNOWN_STEPS;
}

double cost_of_prompt(const Cost *c, uint64_t n_rows, uint32_t n_step_rows) {
    uint64_t n_steps = (n_rows + n_step_rows - 1) / n_step_rows;

    return c->value[0] * (double)n_steps + c->value[1] * (double)n_rows;
}
