/* Inside the tokenizer: what its sources (spm-gguf.c, spm-proto.c) fill in. */
#pragma once

#include "engine/text/text.h"
#include "engine/text/vocab.h"

#define SPM_UNKNOWN_SURFACE " \xe2\x81\x87 " /* SentencePiece's own: " ⁇ " */

/* Owner: GkEngine. Thread: any, once made. */
struct Tokenizer {
    Vocab vocab;
    int32_t bos, eos, eot, eom; /* -1: none */
    int32_t unknown;            /* -1: none; then there are byte pieces */
    bool add_bos, add_dummy_prefix, remove_extra_whitespaces;
};

Tokenizer *spm_new(void);
/* After all pieces: checks that everything has a token. Returns GK_E_FILE. */
int spm_finish(Tokenizer *t, const void *unknown_surface, size_t n_unknown_surface, Error *reterr);
