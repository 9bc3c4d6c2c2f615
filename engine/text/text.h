/*
 * Text ↔ tokens. A Tokenizer is immutable once made: any thread may use it.
 */
#pragma once

#include "base/error.h"
#include "engine/file/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;
struct jinja_output;
struct Template;

#define TEXT_VOCAB_MAX       (1u << 20)
#define TEXT_PIECE_BYTES_MAX 4096

/* From the GGUF keys tokenizer.ggml.*, or a SentencePiece tokenizer.model (a protobuf). Both return
 * GK_E_FILE with a sentence naming the key or byte offset. */
int tokenizer_from_gguf(Tokenizer **ret, const ModelFile *file, Error *reterr);
int tokenizer_from_spm(Tokenizer **ret, const void *bytes, size_t n, Error *reterr);
Tokenizer *tokenizer_free(Tokenizer *t);
DEFINE_CLEANUP(Tokenizer *, tokenizer_free)

uint32_t tokenizer_n_vocab(const Tokenizer *t);
const struct Vocab *tokenizer_vocab(const Tokenizer *t);
int32_t tokenizer_bos(const Tokenizer *t);  /* -1: none */
int32_t tokenizer_eos(const Tokenizer *t);  /* -1: none */
bool tokenizer_add_bos(const Tokenizer *t); /* the model's default */
bool tokenizer_is_control(const Tokenizer *t, int32_t token);
/* End of generation: EOS and its kin in the vocabulary (<|im_end|>, <|eot_id|>, … as control
 * pieces). */
bool tokenizer_is_eog(const Tokenizer *t, int32_t token);

/* flags: enum gk_tokenize_flags. Any bytes are taken: those that are not valid UTF-8 become byte
 * pieces. Control pieces that are let match cut the text into texts of their own, each with its
 * dummy prefix. Returns GK_E_INVALID where there would be more than n_max tokens. */
int tokenizer_encode(const Tokenizer *t, const char *text, size_t n_text, unsigned flags,
                     size_t n_max, int32_t **ret_tokens, size_t *ret_n, Error *reterr);
/* A rendered conversation. Control pieces match where all their bytes are the template's. In a
 * message's content neither they match nor do user-defined pieces that look like markers (in <> or
 * []) and stand in the template's source. The text is cut where an answer begins, the spaces before
 * it included, as it was when the answer was generated; where it is glued to what is before it, it
 * has the dummy prefix of a text of its own. The BOS token does not come twice at the start. */
int tokenizer_encode_chat(const Tokenizer *t, const struct jinja_output *text,
                          const struct Template *template, unsigned flags, size_t n_max,
                          int32_t **ret_tokens, size_t *ret_n, Error *reterr);
/* The control piece, or user-defined one that looks like a marker, that the text begins with; -1:
 * none. */
int32_t tokenizer_match_marker(const Tokenizer *t, const char *text, size_t n_text);
/* The piece as the vocabulary has it, such as "<s>": a view as long as the tokenizer. */
const char *tokenizer_stored(const Tokenizer *t, int32_t token, size_t *ret_n);
/* The bytes one token stands for inside running text (▁ is a space, a byte piece its byte; empty
 * for control pieces). A view as long as the tokenizer. */
const char *tokenizer_piece(const Tokenizer *t, int32_t token, size_t *ret_n);
/* Whole texts: as SentencePiece decodes, that is without the dummy prefix's space at the start (and
 * after each control piece where `control` has them printed), but byte pieces give their bytes even
 * where these are not valid UTF-8. Returns GK_E_INVALID for an id outside the vocabulary. */
int tokenizer_decode(const Tokenizer *t, const int32_t *tokens, size_t n, bool control,
                     char **ret_text, size_t *ret_n, Error *reterr);
