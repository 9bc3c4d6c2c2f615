/*
 * Follows a network through text, and tells which tokens may come next.
 *
 * A Matcher belongs to one sequence. Its masks depend on the text so far and on nothing else: what
 * it keeps (states, their transitions, masks) only saves time, and all of it is bounded.
 */
#pragma once

#include "engine/grammar/network.h"
#include "engine/text/vocab.h"

#define MATCHER_BYTES_MAX      (8u << 20) /* of states and transitions */
#define MATCHER_MASK_BYTES_MAX (1u << 20)
#define MATCHER_WORK_MAX       (4u << 20) /* units (some ns each) for one mask */

/* The vocabulary's side, made once for a model. Owner: GkEngine. Thread: any, once made. */
typedef struct TokenTable {
    const Vocab *vocab;
    const uint32_t *tokens; /* (n) in the order of their surfaces: the vocabulary's own */
    uint16_t *shared;       /* (n) bytes that a surface has in common with the one before it */
    uint64_t *ends;         /* bit set (n_vocab): they end the text */
    uint32_t n;
    bool has_ends;
} TokenTable;

int token_table_init(TokenTable *t, const Vocab *vocab, bool (*is_end)(const void *, int32_t),
                     const void *userdata);
void token_table_deinit(TokenTable *t);

typedef struct Matcher Matcher;

struct matcher_options {
    bool ignore_ends;           /* the end tokens are not offered */
    const int32_t *stop_tokens; /* these end the text too: offered where it may end, only there */
    size_t n_stop_tokens;
};

/* Both outlive the matcher, as do the stop tokens. */
int matcher_new(Matcher **ret, const Network *network, const TokenTable *table,
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
