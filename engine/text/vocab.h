/*
 * What both readers (GGUF metadata, tokenizer.model) fill in and tokenizer_new() checks: pieces and
 * the settings of SentencePiece's normaliser and trainer that change ids.
 */
#pragma once

#include "engine/text/text.h"

/* SentencePiece's own numbers, which GGUF's token_type took over. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

struct piece {
    const char *text; /* raw: ▁ is still U+2581; a view until tokenizer_new() returns */
    size_t n;
    float score;
    enum piece_type type;
};

struct vocab {
    struct piece *pieces; /* owned by the reader */
    uint32_t n;
    int32_t bos, eos, unknown; /* -1: none */
    bool add_bos, add_dummy_prefix, remove_extra_whitespaces;
};

/* Copies what it keeps. Returns GK_E_FILE with a sentence that names the piece, -ENOMEM. */
int tokenizer_new(Tokenizer **ret, const struct vocab *v, Error *reterr);
