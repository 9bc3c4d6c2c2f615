/* What a Generate has to say and has not said yet: tokens of one wake-up, or of a slow reader. */
#pragma once

#include "base/buf.h"
#include "daemon/job.h"

#include "proto/msg.h"

#include "proto/grokd.pb-c.h"

/* Owner: Call. Thread: loop. */
typedef struct Output {
    Buf text;     /* whole UTF-8 without zero bytes */
    Buf ids;      /* int32_t */
    Buf logprobs; /* struct gk_logprob: the token's, then n_top alternatives (token -1: none) */
    uint32_t n_top;
    bool wants_ids, wants_logprobs, wants_echo;
    bool has_prefill;
    uint32_t n_prefill_done;
    bool has_position;
    uint32_t position;
    uint64_t wait_us; /* estimated; 0: not known */
} Output;

void output_init(Output *o, size_t n_bytes_max);
void output_deinit(Output *o);
bool output_has_chunk(const Output *o);
/* Returns -ENOBUFS where the limit is reached, -ENOMEM. */
int output_add_text(Output *o, const char *text, size_t n);
int output_add_token(Output *o, const Letter *letter);
/* Fills the chunk with all there is, its memory in the arena. Returns -ENOMEM. */
int output_fill_chunk(const Output *o, const GkEngine *engine, MsgArena *arena,
                      Grokd__V1__Chunk *ret);
void output_clear_chunk(Output *o);

/* One token's log-probabilities: entry[0] is its own, those after it the alternatives. */
int output_fill_logprobs(const GkEngine *engine, const struct gk_logprob *entry, uint32_t n_top,
                         MsgArena *arena, Grokd__V1__TokenLogprobs **ret);
