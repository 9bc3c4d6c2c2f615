/*
 * One sequence's output as text, while its tokens come.
 *
 * The stream begins where the prompt ended: it releases the continuation, so that prompt + output
 * is the whole text. A first piece "▁grokd" comes as " grokd"; only tokenizer_decode() of whole
 * texts drops the dummy prefix's space. Control pieces print nothing.
 *
 * What is released is whole UTF-8: an unfinished character waits for its other bytes, and each
 * maximal part that can't become one is released as U+FFFD. Text that may be the beginning of a
 * stop string waits as well. The first stop string to be complete ends the text, whatever tokens it
 * came in; of those that are complete at the same byte, the longest. What follows it in the same
 * token is dropped.
 *
 * Banned strings are matched on the bytes that tokens stand for, from the start of the output. The
 * sampling stage is one pass, without trying again:
 *
 *     n = text_stream_banned(stream, &banned);
 *     sampler_sample(sampler, logits, banned, n, NULL, &sampled);
 *     sampler_accept(sampler, sampled.token, false);
 *     text_stream_push(stream, sampled.token, &out);
 *
 * All memory is taken by text_stream_new(): nothing fails later.
 */
#pragma once

#include "engine/engine.h"
#include "engine/text/text.h"

typedef struct TextStream TextStream;

struct text_out {
    const char *text; /* released now; a view until the next call */
    size_t n;
    const char *stop; /* the stop string that ended the text (terminated; a view as long as the
                         stream), or NULL */
};

/* Copies the stop and banned strings of params (checked by sampler_check()); the tokenizer must
 * outlive the stream. */
int text_stream_new(TextStream **ret, const Tokenizer *t, const struct gk_params *params);
TextStream *text_stream_free(TextStream *s);
DEFINE_CLEANUP(TextStream *, text_stream_free)

/* What one call releases at most. */
size_t text_stream_bytes_max(const TextStream *s);
/* Any token of the vocabulary. Once the text has ended, with a stop string or one of the two calls
 * below, nothing more is released. */
void text_stream_push(TextStream *s, int32_t token, struct text_out *ret);
/* The same, and what waits as well: there is no next token. */
void text_stream_push_last(TextStream *s, int32_t token, struct text_out *ret);
/* There was no next token: releases what waits. `stop` is NULL, or the stop string that a U+FFFD
 * for the last bytes completed. */
void text_stream_flush(TextStream *s, struct text_out *ret);
/* The tokens that would complete a banned string if they came next, each once: a view until the
 * next call. 0 where there are no banned strings. */
size_t text_stream_banned(TextStream *s, const int32_t **ret_tokens);
