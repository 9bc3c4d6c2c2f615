/*
 * The pieces of a vocabulary, and the questions that tokenizing asks of them.
 *
 * Filled with vocab_add(), then checked and indexed by vocab_finish(); immutable from then on. What
 * comes in may be hostile: whatever is accepted is safe to ask about, in time that the limits
 * bound.
 */
#pragma once

#include "base/error.h"
#include "engine/text/text.h"

#define VOCAB_BYTES_MAX       (64u << 20) /* of all pieces and their surfaces */
#define VOCAB_FIXED_BYTES_MAX 512 /* of a user-defined or control piece: tried at every byte */
#define VOCAB_PAIR_BITS       18

/* The numbers of SentencePiece's ModelProto and of GGUF's tokenizer.ggml.token_type. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE,
    _PIECE_N
};

struct piece {
    uint32_t at, at_surface; /* in Vocab.bytes: as stored, and as it stands in text */
    uint16_t n, n_surface;
    uint8_t type;
    float score;
};

struct vocab_slot {
    uint32_t hash, token; /* token TEXT_VOCAB_MAX: empty */
};

/* Tokens of one kind in the order of their bytes, for longest matches at the start of a text. */
struct vocab_set {
    uint32_t *tokens, n;
    uint32_t first[257]; /* [first[b], first[b + 1]): those that begin with byte b */
};

/* Owner: Tokenizer. Thread: any, once finished. */
typedef struct Vocab {
    struct piece *pieces; /* (n) */
    uint32_t n, capacity;
    uint8_t *bytes; /* the pieces, then their surfaces, both in the order of their tokens */
    size_t n_bytes, bytes_capacity;
    struct vocab_slot *slots; /* (n_slots), a power of two: normal, user-defined, unused pieces */
    uint32_t n_slots;
    struct vocab_set user_defined, control;
    uint32_t *by_surface; /* (n) tokens in the order of their surface bytes */
    uint64_t *pairs;      /* bit set: the two characters may stand side by side in a merged piece */
    int32_t byte_tokens[256];
    uint32_t n_merged_bytes_max; /* the longest piece that merging can make */
    uint32_t n_bytes_max;        /* the longest piece */
    uint32_t n_surface_max;      /* the longest surface */
    bool has_bytes;              /* all 256 byte pieces, or none */
    bool has_unused;             /* merging may make an unused piece */
} Vocab;

void vocab_deinit(Vocab *v);
/* Copies the piece; its number is the count of those before. Returns GK_E_FILE with what is wrong
 * with this piece. */
int vocab_add(Vocab *v, const void *bytes, size_t n, float score, uint32_t type, Error *reterr);
/* unknown_surface: what an unknown piece stands for in text. Returns GK_E_FILE. */
int vocab_finish(Vocab *v, const void *unknown_surface, size_t n_unknown_surface, Error *reterr);

static inline const uint8_t *vocab_bytes(const Vocab *v, uint32_t token) {
    return v->bytes + v->pieces[token].at;
}
static inline const uint8_t *vocab_surface(const Vocab *v, uint32_t token) {
    return v->bytes + v->pieces[token].at_surface;
}

/* The normal, user-defined or unused piece of exactly these bytes; -1: none. */
int32_t vocab_find(const Vocab *v, const uint8_t *bytes, size_t n);
/* The first control piece of these bytes; -1: none. */
int32_t vocab_find_control(const Vocab *v, const void *bytes, size_t n);
/* The longest piece of the set that the text (n >= 1 bytes) begins with; -1: none. */
int32_t vocab_match(const Vocab *v, const struct vocab_set *set, const uint8_t *text, size_t n);
/* The tokens whose surface begins with these bytes: a view into by_surface. */
const uint32_t *vocab_with_prefix(const Vocab *v, const void *bytes, size_t n, size_t *ret_n);

/* The first token from `from` on whose surface has these bytes (n >= 1) in it; v->n: none. */
uint32_t vocab_find_holding(const Vocab *v, uint32_t from, const void *bytes, size_t n);

/* The character at the start of n >= 1 bytes: its length, and a number of its own. A byte that
 * begins no well-formed one is a character too. */
size_t vocab_character(const uint8_t *bytes, size_t n, uint32_t *ret_character);
/* False: no piece that merging makes has character `a` directly before `b`. */
bool vocab_may_join(const Vocab *v, uint32_t a, uint32_t b);
