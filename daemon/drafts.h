/*
 * Which drafted tokens are worth their rows.
 *
 * A drafted row makes a step longer and gives a token only where the guess is right. How often that
 * is so is known of each request, from all of its drafts, those that were not computed included.
 * What a longer step takes is known from steps (cost.h); sizes that were not measured lately are
 * tried. Part of the scheduler: no clock, no memory.
 */
#pragma once

#include "daemon/sched.h"

/* Of one that has drafted nothing yet: less than what most texts that draft come to. */
#define DRAFTS_RATE_FIRST 0.3

/* The step that is planned, which only decodes. */
struct drafts_step {
    SchedEntry **entries; /* (n) one row each */
    size_t n;
    uint32_t n_rows_max; /* that may be added */
};

/* Gives entries rows for their drafts where that makes tokens come faster. Returns how many. */
uint32_t drafts_plan(const Cost *cost, const struct drafts_step *step);
/* One of the entry's drafted tokens was right or not. */
void drafts_learn(SchedEntry *e, bool was_right);
