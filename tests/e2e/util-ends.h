/* Every way for a request to end before its time, at every stage it may be in. */
#pragma once

#include "tests/e2e/util-load.h"

#define ENDS_STAGE_MAP(X)                                                                          \
    X(QUEUED, "queued")                                                                            \
    X(PREFILL, "prefill")                                                                          \
    X(DECODE, "decode")                                                                            \
    X(SUSPENDED, "suspended")
#define ENDS_WAY_MAP(X)                                                                            \
    X(CANCEL, "cancel")                                                                            \
    X(DISCONNECT, "disconnect")                                                                    \
    X(DEADLINE, "deadline")

enum ends_stage {
#define X(name, word) ENDS_##name,
    ENDS_STAGE_MAP(X)
#undef X
        _ENDS_STAGES
};
enum ends_way {
#define X(name, word) ENDS_##name,
    ENDS_WAY_MAP(X)
#undef X
        _ENDS_WAYS
};
const char *ends_stage_name(enum ends_stage stage);
const char *ends_way_name(enum ends_way way);

/* For a daemon on which these stages are reached: one sequence, and everybody sees its Top. */
#define ENDS_CONFIG "[engine]\nmax_sequences = 1\n[access]\nadmin_allow = *\n"
/* Whoever else asks, so that the stage is reached. Returns false where nobody needs to. */
bool ends_other_user(enum ends_stage stage, struct load *ret);

struct ends_seen {
    uint64_t us, n_steps; /* until nothing of it was left, from its end on */
};
/* The calling user's only request, the i-th of its kind, comes to the stage and ends. */
struct ends_seen ends_try(const TestDaemon *d, enum ends_stage stage, enum ends_way way,
                          unsigned i);
