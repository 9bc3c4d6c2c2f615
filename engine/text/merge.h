/* Byte-pair merging of one text, as SentencePiece does it. */
#pragma once

#include "engine/text/vocab.h"

/* Takes the pieces as they become final, in order: n bytes, and the token or -1 where no piece is
 * these bytes. What it returns but 0 ends the merging. */
typedef int (*merge_emit)(void *userdata, const uint8_t *bytes, size_t n, int32_t token);

struct symbol {
    uint32_t at, n; /* bytes of the text; n 0: merged into another */
    uint32_t prev, next;
    int32_t token; /* -1: no piece */
};

/* Two neighbouring symbols that together are a piece. */
struct candidate {
    float score;
    uint32_t left, n; /* n: bytes of both; other than the sum when one has merged elsewhere */
    int32_t token;
};

typedef struct Merger {
    const Vocab *vocab;
    merge_emit emit;
    void *userdata;
    const uint8_t *text;
    struct symbol *symbols;
    size_t n_symbols, symbols_capacity;
    struct candidate *heap; /* the best first */
    size_t n_heap, heap_capacity;
    uint32_t *splits; /* (n_vocab) of an unused piece: bytes of its left part; 0: never made */
} Merger;

#define MERGER_INIT(v, emit_fn, data)                                                              \
    ((Merger){.vocab = (v), .emit = (emit_fn), .userdata = (data)})

void merger_deinit(Merger *m);
/* Merges and emits a whole text, < 4 GiB. Returns what emit returned, or -ENOMEM. */
int merger_run(Merger *m, const uint8_t *text, size_t n);
