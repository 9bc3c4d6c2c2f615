/* What it costs a pool's threads to meet. */
#pragma once

#include "base/macro.h"
#include "engine/pool.h"

#include <math.h>
#include <time.h>

#define BARRIER_ROUNDS 40
#define BARRIERS       1000 /* few: a round may go by undisturbed */

struct barrier_team {
    GkPool *pool;
    double seconds; /* of one barrier */
};

static inline double barrier_clock(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void barrier_round(void *userdata, unsigned i) {
    struct barrier_team *team = userdata;
    double begin = barrier_clock();

    for (int j = 0; j < BARRIERS; j++)
        pool_barrier(team->pool, i);
    if (i == 0)
        team->seconds = (barrier_clock() - begin) / BARRIERS;
}

/* Seconds of one barrier, in the best of some rounds. */
static inline double barrier_seconds(GkPool *pool) {
    struct barrier_team team = {.pool = pool};
    double best = INFINITY;

    for (int round = 0; round < BARRIER_ROUNDS; round++) {
        pool_run(pool, barrier_round, &team);
        best = MIN(best, team.seconds);
    }
    return best;
}
