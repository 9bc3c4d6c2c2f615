/*
 * A vocabulary in the order of its tokens' bytes, laid out for walking through all of it: a token
 * goes on from where it parts from the one before it, and tokens that begin alike stand together.
 */
#pragma once

#include "engine/text/vocab.h"

/* Owner: AutomatonCache. Thread: any, once made. */
typedef struct TokenTable {
    uint32_t n;         /* tokens that are text */
    uint32_t *tokens;   // (n)
    uint16_t *shared;   // (n) bytes in common with the token before
    uint32_t *at;       // (n + 1) in suffixes: the bytes that follow those
    uint8_t *suffixes;  // (at[n])
    uint32_t *next;     // (n) the first token after i that does not begin with its shared + 1 bytes
    uint64_t *kinds;    // (n) of all bytes in [i, next[i]) after the shared ones: token_byte_kind()
    uint64_t *ends;     // (n_words) bit set: they end the text
    size_t n_words;     /* of a bit set with all of the vocabulary */
    size_t n_bytes_max; /* of the longest token */
} TokenTable;

int token_table_init(TokenTable *t, const Vocab *vocab, bool (*is_end)(const void *, int32_t),
                     const void *userdata);
void token_table_deinit(TokenTable *t);

#define TOKEN_BYTE_KINDS 45

/* Bytes that constraints seldom tell apart are of one kind, a number below TOKEN_BYTE_KINDS. */
unsigned token_byte_kind(uint8_t byte);

static inline void token_set(uint64_t *bits, uint32_t token, bool value) {
    uint64_t bit = 1ull << (token % 64);

    bits[token / 64] = value ? bits[token / 64] | bit : bits[token / 64] & ~bit;
}
