/*
 * One sequence: its tokens, its KV pages, its sampler and text. See engine.h for what callers see.
 * Owner: GkEngine (listed there until gk_seq_free()). Thread: worker; in a step, the member that
 * samples its row.
 *
 * States, by n_done (positions whose keys and values are in the cache) and `finish`:
 *
 *     prefill  n_done < n_prompt          decode  n_done = n_tokens - 1       ended  finish != NONE
 */
#pragma once

#include "base/list.h"
#include "engine/draft.h"
#include "engine/engine.h"
#include "engine/grammar/match.h"
#include "engine/sample.h"
#include "engine/text/stream.h"

/* What one row gave that was sampled from. */
struct output {
    struct sampled sampled; /* token -1: none was possible */
    enum gk_guess guess;
    enum gk_finish finish;
    const char *text; // (n_text) in GkSeq.texts
    size_t n_text;
    const char *stop;
};

struct GkSeq {
    GkEngine *engine;
    ListNode node;
    uint64_t tag;
    struct gk_params params; /* scalars and stop_tokens only: strings live in `text` */
    int32_t *stop_tokens;    // (params.n_stop_tokens)
    int32_t *tokens;         // (n_tokens_max) prompt, then what was sampled, then what is drafted
    size_t n_tokens, n_tokens_max, n_prompt, n_done, n_drafts;
    uint32_t *pages;   // (n_pages) pages[i] holds positions 64·i …
    size_t n_pages;    /* those it has come to; 0 while suspended */
    size_t n_reserved; /* those that it may still come to */
    size_t n_cached;   /* tokens whose pages came from the prefix cache */
    bool is_suspended;
    Sampler *sampler; /* GK_GENERATE */
    TextStream *text; /* GK_GENERATE */
    Matcher *matcher; /* NULL: no constraint */
    Drafter drafter;  /* params.speculate */
    enum gk_finish finish;
    /* Of the step under way. */
    struct output outputs[1 + GK_DRAFT_MAX]; // (n_outputs), of which n_told are in results
    size_t n_outputs, n_told;
    char *texts; // (n_texts, …) GK_GENERATE: the outputs' texts one after the other
    size_t n_texts;
    size_t score_begin, n_scores; /* scores[0] belongs to token score_begin */
    float *scores;                // (n_prompt) GK_SCORE
    struct gk_logprob *score_top; // (n_prompt, params.n_logprobs) GK_SCORE
    double *pooled;               // (n_embd) GK_EMBED: the sum so far
    float *embedding;             // (n_embd) GK_EMBED
};

/* Before a step: pages for the first n_positions, of those that are reserved. */
void seq_take_pages(GkSeq *seq, size_t n_positions);
/* A step that has rows of it begins. */
void seq_begin_step(GkSeq *seq);
/* Takes the logits (n_vocab, changed in place) of row `position`, which has `token`: samples the
 * next token, or scores the prompt's. Those of drafted rows come in their order after the row that
 * they follow, and change nothing where the draft was wrong. */
void seq_take_logits(GkSeq *seq, size_t position, int32_t token, float *logits);
/* After a step of n_rows rows: moves on and says what came of it. */
void seq_finish_step(GkSeq *seq, size_t n_rows, struct gk_result *ret);
/* Takes features [begin, end) of row `position`'s last hidden state, after the output's norm. Rows
 * come in the order of their positions. */
void seq_take_hidden(GkSeq *seq, const float *normed, size_t begin, size_t end);
/* True where row `position` goes into the embedding. */
bool seq_wants_hidden(const GkSeq *seq, size_t position);
/* True where row `position` is a guess, and what it gives depends on the row before it. */
bool seq_is_drafted(const GkSeq *seq, size_t position);
/* True where row `position` must go through the output head. */
bool seq_wants_logits(const GkSeq *seq, size_t position);
