/*
 * See drafts.h.
 *
 * Tokens per time are compared: n rows give n tokens in cost(n); with k rows more, each right with
 * its probability, n + Σp in cost(n + k). Rows are added in the order of their probabilities, and
 * what gives most of all the sizes counts, since costs are no line: kernels and experts make steps.
 * The probability of a request's i-th drafted token is its rate to the power of i.
 *
 * A size that was not measured lately counts as if it took no longer than smaller ones. So it is
 * tried, and soon known; where it doesn't pay that is one step in thousands. The step without
 * drafts is measured likewise, by planning none. A request's drafts grow as they are right, and so
 * do the sizes that are tried.
 *
 * Others pay for a step that is longer and get nothing: where there are any, it may be longer by
 * OTHERS_SHARE only.
 */
#include "daemon/drafts.h"

#include "base/macro.h"

#include <float.h>

/* In one step. */
#define ROWS_MAX 64u
/* A gain that is less may be noise. */
#define GAIN_MIN     1.05
#define OTHERS_SHARE 0.1
/* What is less likely to be right is not computed, however cheap it seems. */
#define CHANCE_MIN 0.15
/* Of a new token in a request's rate. */
#define NEWS 0.125

void drafts_learn(SchedEntry *e, bool was_right) {
    e->draft_rate += NEWS * ((was_right ? 1.0 : 0.0) - e->draft_rate);
}

/* The next row of each entry, by how likely it is right. */
static SchedEntry *find_likeliest(const struct drafts_step *step) {
    SchedEntry *best = NULL;

    for (size_t i = 0; i < step->n; i++) {
        SchedEntry *e = step->entries[i];

        if (e->n_draft_rows < e->n_drafts && e->draft_next >= CHANCE_MIN &&
            (!best || e->draft_next > best->draft_next))
            best = e;
    }
    return best;
}

/* Adds the likeliest rows one after the other. Returns how many of them are best. */
static uint32_t find_best(const Cost *cost, const struct drafts_step *step,
                          SchedEntry **ret_added) {
    uint32_t n = (uint32_t)step->n, n_added = 0, n_best = 0;
    double plain_us = cost_of_decoding(cost, n), us = plain_us;
    double us_max = step->n > 1 ? (1 + OTHERS_SHARE) * plain_us : DBL_MAX;
    double n_tokens = n, best = GAIN_MIN * n / plain_us;
    SchedEntry *e;

    while (n_added < MIN(step->n_rows_max, ROWS_MAX) && (e = find_likeliest(step))) {
        ret_added[n_added++] = e;
        if (cost_is_known(cost, n + n_added))
            us = MAX(us, cost_of_decoding(cost, n + n_added));
        n_tokens += e->draft_next;
        e->draft_next *= e->draft_rate;
        e->n_draft_rows++;
        if (us > us_max || n_tokens / us <= best)
            continue;
        best = n_tokens / us;
        n_best = n_added;
    }
    return n_best;
}

uint32_t drafts_plan(const Cost *cost, const struct drafts_step *step) {
    SchedEntry *added[ROWS_MAX];
    uint32_t n = 0;

    if (!cost_is_known(cost, (uint32_t)step->n))
        return 0;
    for (size_t i = 0; i < step->n; i++) {
        step->entries[i]->n_draft_rows = 0;
        step->entries[i]->draft_next = step->entries[i]->draft_rate;
    }
    n = find_best(cost, step, added);
    for (size_t i = 0; i < step->n; i++)
        step->entries[i]->n_draft_rows = 0;
    for (uint32_t i = 0; i < n; i++)
        added[i]->n_draft_rows++;
    return n;
}
