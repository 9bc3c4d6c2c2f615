/*
 * A constraint, compiled: a recursive transition network over bytes. Every rule is a small
 * nondeterministic automaton from its start to END, and a call goes through another rule's before
 * it goes on. What a parser understands ends here; match.h follows it. Immutable once made.
 */
#pragma once

#include "engine/grammar/expr.h"

#define NETWORK_NODES_MAX (1u << 18)
#define NETWORK_SETS_MAX  4096u /* different sets of bytes */
#define NETWORK_DEPTH_MAX 250   /* calls within calls; text that needs more is not generated */

enum node_type {
    NODE_END,   /* of its rule */
    NODE_BYTES, /* one byte of set a, then out */
    NODE_SPLIT, /* out or a */
    NODE_CALL,  /* rule a, then out */
};

struct node {
    enum node_type type;
    uint32_t a, out;
};

struct byte_set {
    uint64_t bits[4];
};

#define NODE_HOPELESS UINT16_MAX

/* Owner: GkConstraint. Thread: any. */
typedef struct Network {
    struct node *nodes;    /* (n_nodes); node 0 is END, of every rule */
    uint16_t *heights;     /* (n_nodes) calls within calls that END is away, NODE_HOPELESS: it can't
                              be reached */
    uint32_t *rules;       /* (n_rules) their starts */
    struct byte_set *sets; /* (n_sets) */
    uint32_t n_nodes, n_rules, n_sets, root;
    uint8_t classes[256];  /* bytes that no set tells apart have one class */
    uint8_t examples[256]; /* (n_classes) a byte of each */
    uint32_t n_classes;
} Network;

/* Returns GK_E_INVALID: left recursion, nothing matches, more than a maximum; -ENOMEM. */
int network_init(Network *w, const Exprs *x, uint32_t root, Error *reterr);
void network_deinit(Network *w);

static inline bool network_takes(const Network *w, uint32_t set, uint8_t byte) {
    return (w->sets[set].bits[byte / 64] >> (byte % 64) & 1) != 0;
}
