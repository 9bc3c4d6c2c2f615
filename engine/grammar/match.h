/*
 * One sequence's way through its constraint: which tokens may come next, and whether the text may
 * end. The automaton behind it is shared with other sequences, and matchers of one automaton may be
 * asked by several threads at once; matchers are made and freed by one.
 *
 * A step asks after its products, when a row has its logits. That is the one place in it that locks
 * (the automaton) and takes memory (for states and masks that are new), of which an automaton has
 * AUTOMATON_BYTES_MAX beside the states in use and what one question works in, which
 * AUTOMATON_WORK_MAX bounds. Masks have AUTOMATA_MASK_BYTES_MAX in all automata of an engine, but
 * for the AUTOMATON_MASKS_MIN that each may have.
 *
 * Answers depend on the text so far and on nothing else, but for this: of questions that are so
 * much work that they are given up, more are answered where more is known already.
 */
#pragma once

#include "engine/grammar/automaton-cache.h"

typedef struct Matcher Matcher;

struct matcher_options {
    bool ignore_ends;           /* the end tokens are not offered */
    const int32_t *stop_tokens; /* these end the text too: offered where it may end, only there */
    size_t n_stop_tokens;
};

/* The cache and the stop tokens outlive the matcher. */
int matcher_new(Matcher **ret, AutomatonCache *cache, struct GkConstraint *constraint,
                const struct matcher_options *options);
Matcher *matcher_free(Matcher *m);
DEFINE_CLEANUP(Matcher *, matcher_free)

/* A bit set (n_vocab) of the tokens that may come next, valid until the next call; NULL: finding
 * out would take more than the maxima allow, or memory ran out. */
const uint64_t *matcher_mask(Matcher *m);
/* Text that came. Returns false where the constraint does not allow it: nothing is possible then.
 */
bool matcher_push(Matcher *m, const void *bytes, size_t n);
/* The text so far satisfies the constraint. */
bool matcher_is_accepting(Matcher *m);
/* … and no longer text that begins with it does. */
bool matcher_is_complete(Matcher *m);
