/*
 * Constraints that requests came with of late, compiled: the next request with the same text has it
 * at once, and with it what engines have learnt of it.
 *
 * Shared by all users: a constraint holds nothing but its own text, and what can be told by the
 * clock is that somebody has used the very same one.
 */
#pragma once

#include "base/list.h"
#include "engine/engine.h"

#define CONSTRAINTS_MAX       64
#define CONSTRAINTS_BYTES_MAX (16u << 20)

struct constraint_source {
    enum gk_constraint_kind kind;
    char *text; // (n)
    size_t n;
    uint64_t hash;
};
/* On any thread: a long text takes as long as many short requests. */
uint64_t constraint_hash(const char *text, size_t n);

/* Owner: Daemon. Thread: loop. */
typedef struct Constraints {
    ListNode all; /* those used last are first */
    size_t n, n_bytes;
} Constraints;

void constraints_init(Constraints *c);
void constraints_deinit(Constraints *c);
/* A reference; NULL: it is not there. */
GkConstraint *constraints_find(Constraints *c, const struct constraint_source *source);
/* Keeps what has been compiled. Takes the source's text and the reference, and returns one to the
 * constraint to use: that of another request where it came first. */
GkConstraint *constraints_add(Constraints *c, struct constraint_source *source,
                              GkConstraint *constraint);
