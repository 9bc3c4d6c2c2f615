/*
 * The automata of an engine: each constraint that sequences have has one, and those that were used
 * last are kept for the next sequence that comes with the same constraint.
 */
#pragma once

#include "engine/grammar/automaton.h"

#define AUTOMATA_IDLE_MAX       32
#define AUTOMATA_IDLE_BYTES_MAX (32u << 20)
#define AUTOMATA_MASK_BYTES_MAX (32u << 20)

/* Owner: GkEngine. Thread: worker. */
typedef struct AutomatonCache {
    ListNode automata; /* those used last are first */
    struct mask_budget budget;
    TokenTable table; /* made when it is first wanted */
    const Vocab *vocab;
    bool (*is_end)(const void *userdata, int32_t token);
    const void *userdata;
} AutomatonCache;

void automaton_cache_init(AutomatonCache *c, const Vocab *vocab,
                          bool (*is_end)(const void *, int32_t), const void *userdata);
/* None is in use. */
void automaton_cache_deinit(AutomatonCache *c);
int automaton_cache_get(AutomatonCache *c, struct GkConstraint *constraint, Automaton **ret);
/* It is used no more: kept or freed. */
void automaton_cache_put(AutomatonCache *c, Automaton *a);
