/*
 * What is known of a constraint's states with one vocabulary: their transitions, and the masks of
 * the tokens that may come next. All sequences of an engine that have the constraint share it.
 *
 * What it knows only saves time, and all of it is bounded: where there is too much of it all is
 * forgotten but the states that sequences are in, and the question is asked once more. A question
 * that takes too much work is given up.
 */
#pragma once

#include "base/list.h"
#include "engine/grammar/network.h"
#include "engine/grammar/tokens.h"

#include <pthread.h>
#include <stdatomic.h>

#define AUTOMATON_BYTES_MAX (2u << 20) /* of states and transitions, beside those in use */
#define AUTOMATON_WORK_MAX  (1u << 20) /* units (some ns each) for one question */
#define AUTOMATON_MASKS_MAX 512
#define AUTOMATON_MASKS_MIN 8 /* these it may have however many others there are */

#define STATE_UNKNOWN       UINT32_MAX
#define STATE_NOTHING       0u /* the empty set of stacks: no text goes on from here */
#define STATE_AT_END        1u /* the set of the one empty stack: the root's end */

/* One node on top, and the set of what may lie below it. */
struct top {
    uint32_t node, below;
};

/* A state: a set of stacks. */
struct stacks {
    uint32_t first, n; /* in tops, by node */
    uint32_t next;     /* with the same hash */
    uint32_t row;      /* in rows; STATE_UNKNOWN: none yet */
    uint64_t loops;    /* kinds of bytes that lead back here, and LOOPS_KNOWN */
    uint16_t depth;    /* of the deepest stack */
    uint16_t mask;     /* in masks, + 1; 0: none */
    bool has_empty;    /* the empty stack is one of them */
};

#define LOOPS_KNOWN (1ull << 63)

/* Masks that all automata of an engine have together. */
struct mask_budget {
    atomic_size_t n;
    size_t n_max;
};

struct mask {
    uint32_t state; /* STATE_UNKNOWN: none */
    uint64_t used;
    uint64_t *bits; /* (table->n_words) */
};

struct pair {
    uint32_t node, below, next; /* next + 1 with the same hash */
};

/* Where a sequence is. Owner: Matcher, listed with its automaton, under whose lock it is used. */
struct cursor {
    ListNode node;
    uint32_t state; /* STATE_UNKNOWN: not begun yet */
};

/* Owner: AutomatonCache. Thread: any; all but what never changes under `lock`. */
typedef struct Automaton {
    ListNode node;                   /* the cache's */
    struct GkConstraint *constraint; /* a reference; never changes, nor do the next three */
    const Network *network;          /* the constraint's */
    const TokenTable *table;         /* the cache's */
    struct mask_budget *budget;      /* the cache's */
    uint32_t n_users;                /* likewise */
    pthread_mutex_t lock;
    ListNode cursors;
    /* what is known of states */
    struct stacks *stacks;
    struct top *tops;
    uint32_t *rows;    // (n_rows, n_classes)
    uint32_t *buckets; // (n_buckets) a power of two; stacks + 1
    uint32_t n_stacks, n_tops, n_rows, n_buckets;
    uint32_t stacks_capacity, tops_capacity, rows_capacity;
    size_t n_bytes_in_use; /* of the states that sequences were in, when last forgotten */
    struct mask masks[AUTOMATON_MASKS_MAX];
    uint32_t n_masks;
    uint64_t clock;
    /* of the question under way */
    uint64_t work;
    bool has_failed;        /* a maximum was reached */
    bool is_full;           /* it was that of memory */
    struct pair *pairs;     // (pairs_capacity) seen in this step
    uint32_t *pair_buckets; // (pairs_capacity)
    uint32_t n_pairs, pairs_capacity;
    struct top *scratch; /* a stack of tops to be put together */
    uint32_t n_scratch, scratch_capacity;
    uint32_t *trail; // (n_bytes_max + 1) states after each byte of a token
} Automaton;

int automaton_new(Automaton **ret, struct GkConstraint *constraint, const TokenTable *table,
                  struct mask_budget *budget);
/* No cursor is left. */
Automaton *automaton_free(Automaton *a);
DEFINE_CLEANUP(Automaton *, automaton_free)
/* The memory that it takes. */
size_t automaton_bytes(const Automaton *a);

/* The rest under the lock. */

/* The cursor's state, which is the first one where it has not begun. */
uint32_t automaton_begin(Automaton *a, struct cursor *c);
/* Follows text. Returns false where the constraint does not allow it, or finding out took more than
 * the maxima: nothing is possible then. */
bool automaton_follow(Automaton *a, struct cursor *c, const uint8_t *bytes, size_t n);
/* A bit set (table->n_words) of the tokens with text that may come next, to be written to `bits`.
 * Returns false where it would take more than the maxima. */
bool automaton_mask(Automaton *a, struct cursor *c, uint64_t *bits);

/* Inside: automaton.c and automaton-mask.c. */

/* Begins a question, after what was kept is forgotten where it was too much. Returns false where
 * that fails. */
bool automaton_ask(Automaton *a);
/* Counts work; false: it is too much. */
static inline bool automaton_spend(Automaton *a, uint64_t n) {
    a->work += n;
    a->has_failed |= a->work > AUTOMATON_WORK_MAX;
    return !a->has_failed;
}
/* From one state to the next, where that is not known yet. */
uint32_t automaton_step_slowly(Automaton *a, uint32_t state, uint8_t byte);
static inline uint32_t automaton_step(Automaton *a, uint32_t state, uint8_t byte) {
    uint32_t row = a->stacks[state].row, to = STATE_UNKNOWN;

    if (row != STATE_UNKNOWN)
        to = a->rows[(size_t)row * a->network->n_classes + a->network->classes[byte]];
    return to != STATE_UNKNOWN ? to : automaton_step_slowly(a, state, byte);
}
