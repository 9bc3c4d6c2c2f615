/* Random-weight models that open and run: of any shape and format, the same for the same seed. */
#pragma once

#include "engine/kern/kern.h"
#include "tests/util/gguf-write.h"

/* n_experts 0: a dense feed-forward block. n_vocab is at least TINY_VOCAB_MIN. */
struct tiny_shape {
    const char *architecture; /* "llama" or "grok" */
    enum kern_type type;      /* of the matrices; norms and router are F32 */
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_size, n_ff, n_experts, n_experts_used;
    uint32_t n_vocab, n_context;
    uint64_t seed;
};

/* The vocabulary: <unk> <s> </s>, 256 byte pieces, the letters a to h and ▁, then random words of
 * two pieces. */
#define TINY_VOCAB_MIN 268

/* Two layers, width 32 (256 for the k-quants), 4 heads on 2, 4 experts of which 2 are used. */
struct tiny_shape tiny_shape_default(const char *architecture, enum kern_type type);
GgufWriter *tiny_model(const struct tiny_shape *shape);
/* Three layers whose matrices have one type after the other, so that gate and up, queries and keys
 * differ; with `widen` the same values in F32. */
GgufWriter *tiny_mixed_model(const char *architecture, bool widen);
/* Bytes of rows × columns random values in the format; malloc()ed. */
uint8_t *tiny_matrix(enum kern_type type, uint64_t n_rows, uint64_t n_columns, uint64_t *seed,
                     size_t *ret_n);
