/* The engine's own inside, shared by engine.c, seq.c and step.c. */
#pragma once

#include "base/list.h"
#include "engine/engine.h"
#include "engine/file/file.h"
#include "engine/grammar/match.h"
#include "engine/pool.h"
#include "engine/prefix.h"
#include "engine/shape.h"
#include "engine/text/text.h"

/* Owner: the worker. Thread: worker, but for what engine.h calls immutable, and the atomics. */
struct GkEngine {
    ModelFile *file;
    Tokenizer *tokenizer;
    AutomatonCache automata; /* of constraints, with the tokenizer's pieces */
    GkPool *pool;
    const struct kern_ops *kern;
    struct manifest manifest;
    Shape shape;
    Weights weights;
    Scratch scratch;
    KvPool kv;
    PrefixCache prefixes;
    struct gk_model_info info;
    char *strings[6]; /* what info's strings point to */
    bool exact_floats;
    ListNode sequences;
    size_t n_sequences;
    struct gk_observer observer;
    atomic_bool lost;
    atomic_uint_fast64_t heartbeat;
};

/* Allocates for n_rows_max rows. Returns GK_E_INVALID where that is too much to ask, -ENOMEM. */
int scratch_init(Scratch *s, const Shape *shape, const Weights *w, uint32_t n_rows_max,
                 const GkPool *pool, Error *reterr);
void scratch_deinit(Scratch *s, unsigned n_threads);

/* The product with the tier's kernel, or OpenBLAS for float weights where the engine allows it. */
void engine_mul(const GkEngine *e, const struct weight *w, uint32_t begin,
                const struct kern_mul *m);
