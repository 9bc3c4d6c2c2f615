/* See seq.h. */
#include "engine/seq.h"

#include "base/alloc.h"
#include "engine/internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct gk_params gk_params_default(void) {
    return (struct gk_params){.mode = GK_GENERATE, .top_p = 1, .repetition_penalty = 1};
}

/* ---- checks ---- */

/* Prompt and output, at most. */
static size_t n_positions_of(const GkEngine *e, size_t n_tokens, const struct gk_params *p) {
    size_t n_most = MIN((size_t)e->info.n_context_max, (size_t)e->kv.n_pages * KV_PAGE_POSITIONS);

    if (p->mode != GK_GENERATE)
        return n_tokens;
    return p->n_tokens_max > 0 ? n_tokens + p->n_tokens_max : MAX(n_most, n_tokens + 1);
}

static size_t n_pages_of(size_t n_positions) {
    return (n_positions + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS;
}

static int check_length(const GkEngine *e, size_t n, const struct gk_params *p, Error *reterr) {
    size_t n_context = e->info.n_context_max, n_positions;

    if (n == 0)
        return error_set(reterr, GK_E_INVALID, "the prompt is empty");
    if (n > n_context || p->n_tokens_max > n_context - n)
        return error_set(reterr, GK_E_TOO_LONG,
                         "%zu prompt tokens and %u to generate exceed the context of %zu", n,
                         p->n_tokens_max, n_context);
    if (p->mode == GK_GENERATE && n == n_context)
        return error_set(reterr, GK_E_TOO_LONG,
                         "%zu prompt tokens leave nothing of the context of %zu", n, n_context);
    n_positions = n_positions_of(e, n, p);
    if (n_pages_of(n_positions) > e->kv.n_pages)
        return error_set(reterr, GK_E_TOO_LONG,
                         "%zu positions need %zu KV pages, and there are only %u", n_positions,
                         n_pages_of(n_positions), e->kv.n_pages);
    return 0;
}

static int check_lost(const GkEngine *e, Error *reterr) {
    return gk_engine_is_lost(e)
               ? error_set(reterr, GK_E_DATA_LOSS, "the model's file could not be read any more")
               : 0;
}

int gk_seq_check(const GkEngine *e, const int32_t *tokens, size_t n, const struct gk_params *p,
                 Error *reterr) {
    int r;

    if ((r = sampler_check(p, e->shape.n_vocab, reterr)) != 0 ||
        (r = check_length(e, n, p, reterr)) != 0 || (r = check_lost(e, reterr)) != 0)
        return r;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= e->shape.n_vocab)
            return error_set(reterr, GK_E_INVALID,
                             "token %d at position %zu is not in the vocabulary of %u", tokens[i],
                             i, e->shape.n_vocab);
    return 0;
}

/* ---- pages ---- */

/* Holds what the prefix cache has, and reserves the rest. The last token is always computed, for
 * its logits, and scores and embeddings want what all of them give. */
static int reserve_pages(GkSeq *seq, Error *reterr) {
    PrefixCache *c = &seq->engine->prefixes;
    size_t n = n_pages_of(seq->n_tokens_max);
    size_t n_wanted = seq->params.mode == GK_GENERATE ? seq->n_tokens - 1 : 0;
    struct prefix_match found =
        prefix_find(c, seq->params.owner, seq->tokens, n_wanted, seq->pages);

    seq->n_pages = found.n_pages;
    seq->n_reserved = n - found.n_pages;
    if (!prefix_reserve(c, seq->n_reserved)) {
        prefix_release(c, seq->params.owner, 0, NULL, 0, seq->pages, seq->n_pages);
        seq->n_pages = seq->n_reserved = 0;
        return error_set(reterr, GK_E_BUSY, "%zu KV pages are needed and %u can be had", n,
                         prefix_n_available(c));
    }
    seq->n_done = found.n_tokens;
    if (found.partial != KV_NO_PAGE &&
        prefix_take_copy(c, found.partial, &seq->pages[seq->n_pages])) {
        seq->n_done += found.n_partial;
        seq->n_pages++;
        seq->n_reserved--;
    }
    seq->n_cached = seq->n_done;
    return 0;
}

void seq_take_pages(GkSeq *seq, size_t n_positions) {
    for (size_t n = n_pages_of(n_positions); seq->n_pages < n; seq->n_reserved--) {
        assert(seq->n_reserved > 0);
        seq->pages[seq->n_pages++] = prefix_take(&seq->engine->prefixes);
    }
}

/* ---- making ---- */

static int make_parts(GkSeq *seq, const int32_t *tokens, const struct gk_params *p, Error *reterr) {
    GkEngine *e = seq->engine;
    int r = 0;

    seq->tokens = alloc_array(seq->n_tokens_max, sizeof(*seq->tokens));
    seq->pages = alloc_array(n_pages_of(seq->n_tokens_max), sizeof(*seq->pages));
    seq->stop_tokens = alloc_array(p->n_stop_tokens, sizeof(*seq->stop_tokens));
    if (p->mode == GK_SCORE) {
        seq->scores = alloc_array(seq->n_prompt, sizeof(*seq->scores));
        seq->score_top =
            alloc_array(seq->n_prompt, MAX(p->n_logprobs, 1u) * sizeof(*seq->score_top));
    }
    if (!seq->tokens || !seq->pages || !seq->stop_tokens ||
        (p->mode == GK_SCORE && (!seq->scores || !seq->score_top)))
        return error_set(reterr, -ENOMEM, "out of memory");
    (void)memcpy(seq->tokens, tokens, seq->n_prompt * sizeof(*tokens));
    if (p->n_stop_tokens > 0)
        (void)memcpy(seq->stop_tokens, p->stop_tokens, p->n_stop_tokens * sizeof(*tokens));
    if (p->mode == GK_EMBED) {
        seq->pooled = alloc_array(e->shape.n_embd, sizeof(*seq->pooled));
        seq->embedding = alloc_array(e->shape.n_embd, sizeof(*seq->embedding));
        if (!seq->pooled || !seq->embedding)
            return error_set(reterr, -ENOMEM, "out of memory");
    }
    if (p->mode != GK_GENERATE)
        return 0;
    if ((r = sampler_new(&seq->sampler, p, e->shape.n_vocab)) != 0 ||
        (r = text_stream_new(&seq->text, e->tokenizer, p)) != 0)
        return error_set(reterr, r, "out of memory");
    if (p->constraint &&
        matcher_new(&seq->matcher, &e->automata, p->constraint,
                    &(struct matcher_options){.ignore_ends = p->ignore_eos,
                                              .stop_tokens = seq->stop_tokens,
                                              .n_stop_tokens = p->n_stop_tokens}) != 0)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (size_t i = 0; i < seq->n_prompt; i++)
        sampler_accept(seq->sampler, tokens[i], true);
    return 0;
}

static int check_place(const GkEngine *e, Error *reterr) {
    int r = check_lost(e, reterr);

    if (r != 0)
        return r;
    if (e->n_sequences == e->info.n_sequences_max)
        return error_set(reterr, GK_E_BUSY, "all %u sequences are in use", e->info.n_sequences_max);
    return 0;
}

int gk_seq_new(GkSeq **ret, GkEngine *e, const int32_t *tokens, size_t n_tokens,
               const struct gk_params *params, Error *reterr) {
    CLEANUP(gk_seq_freep) GkSeq *seq = NULL;
    int r;

    if ((r = gk_seq_check(e, tokens, n_tokens, params, reterr)) != 0 ||
        (r = check_place(e, reterr)) != 0)
        return r;
    seq = alloc_new(GkSeq);
    if (!seq)
        return error_set(reterr, -ENOMEM, "out of memory");
    seq->engine = e;
    list_init(&seq->node);
    seq->params = *params;
    seq->n_prompt = seq->n_tokens = n_tokens;
    seq->n_tokens_max = n_positions_of(e, n_tokens, params);
    e->n_sequences++;
    if ((r = make_parts(seq, tokens, params, reterr)) != 0 || (r = reserve_pages(seq, reterr)) != 0)
        return r;
    list_push_back(&e->sequences, &seq->node);
    *ret = take_ptr(seq);
    return 0;
}

/* Its place and its pages. */
static void give_up(GkSeq *seq) {
    seq->engine->n_sequences -= !seq->is_suspended;
    prefix_release(&seq->engine->prefixes, seq->params.owner,
                   seq->params.share_prefix ? seq->n_prompt : 0, seq->tokens,
                   gk_engine_is_lost(seq->engine) ? 0 : seq->n_done, seq->pages, seq->n_pages);
    prefix_unreserve(&seq->engine->prefixes, seq->n_reserved);
    seq->n_pages = seq->n_reserved = 0;
}

void gk_seq_suspend(GkSeq *seq) {
    assert(!seq->is_suspended);
    give_up(seq);
    seq->is_suspended = true;
    seq->n_done = 0;
    if (seq->pooled)
        (void)memset(seq->pooled, 0, seq->engine->shape.n_embd * sizeof(*seq->pooled));
}

int gk_seq_resume(GkSeq *seq, Error *reterr) {
    int r;

    assert(seq->is_suspended);
    if ((r = check_place(seq->engine, reterr)) != 0 || (r = reserve_pages(seq, reterr)) != 0)
        return r;
    seq->is_suspended = false;
    seq->engine->n_sequences++;
    return 0;
}

GkSeq *gk_seq_free(GkSeq *seq) {
    if (!seq)
        return NULL;
    give_up(seq);
    list_unlink(&seq->node);
    (void)sampler_free(seq->sampler);
    (void)text_stream_free(seq->text);
    (void)matcher_free(seq->matcher);
    free(seq->pages);
    free(seq->tokens);
    free(seq->stop_tokens);
    free(seq->scores);
    free(seq->score_top);
    free(seq->pooled);
    free(seq->embedding);
    free(seq);
    return NULL;
}

size_t gk_seq_n_pending(const GkSeq *seq) {
    return seq->finish != GK_FINISH_NONE ? 0 : seq->n_tokens - seq->n_done;
}

size_t gk_seq_n_cached(const GkSeq *seq) {
    return seq->n_cached;
}

void gk_seq_set_tag(GkSeq *seq, uint64_t tag) {
    seq->tag = tag;
}

uint64_t gk_seq_tag(const GkSeq *seq) {
    return seq->tag;
}

/* ---- in a step ---- */

bool seq_wants_logits(const GkSeq *seq, size_t position) {
    if (seq->params.mode == GK_SCORE)
        return position + 1 < seq->n_prompt;
    if (seq->params.mode == GK_EMBED)
        return false;
    return position + 1 == seq->n_tokens;
}

static bool ends_text(const GkSeq *seq, int32_t token) {
    if (!seq->params.ignore_eos && tokenizer_is_eog(seq->engine->tokenizer, token))
        return true;
    for (size_t i = 0; i < seq->params.n_stop_tokens; i++)
        if (seq->stop_tokens[i] == token)
            return true;
    return false;
}

static void sample(GkSeq *seq, float *logits) {
    const uint64_t *allowed = seq->matcher ? matcher_mask(seq->matcher) : NULL;
    const int32_t *banned;
    size_t n_banned;

    if (seq->matcher && !allowed) {
        seq->sampled = (struct sampled){.token = -1};
        return;
    }
    n_banned = text_stream_banned(seq->text, &banned);
    sampler_sample(seq->sampler, logits, banned, n_banned, allowed, &seq->sampled);
}

void seq_take_logits(GkSeq *seq, size_t position, float *logits) {
    uint32_t n_top = seq->params.n_logprobs;

    if (seq->params.mode == GK_GENERATE) {
        sample(seq, logits);
        return;
    }
    sampler_score(logits, seq->engine->shape.n_vocab, seq->tokens[position + 1],
                  &seq->scores[position + 1], seq->score_top + (position + 1) * n_top, n_top);
}

static void finish_scoring(GkSeq *seq, size_t n_before, struct gk_result *ret) {
    uint32_t n_top = seq->params.n_logprobs;

    /* Row p scores token p + 1; the last row has nothing to score. */
    ret->score_begin = n_before + 1;
    ret->n_scores = MIN(seq->n_done, seq->n_prompt - 1) - n_before;
    ret->scores = seq->scores + ret->score_begin;
    ret->top = seq->score_top + ret->score_begin * n_top;
    ret->n_top = n_top;
    if (seq->n_done == seq->n_prompt)
        ret->finish = seq->finish = GK_FINISH_SCORED;
}

bool seq_wants_hidden(const GkSeq *seq, size_t position) {
    return seq->params.mode == GK_EMBED &&
           (seq->params.pooling == GK_POOLING_MEAN || position + 1 == seq->n_prompt);
}

void seq_take_hidden(GkSeq *seq, const float *normed, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        seq->pooled[i] += (double)normed[i];
}

/* In double precision and a fixed order, so that the vector is the same bits everywhere. */
static void finish_embedding(GkSeq *seq, struct gk_result *ret) {
    size_t n = seq->engine->shape.n_embd;
    double scale = 1, sum = 0;

    if (seq->n_done < seq->n_prompt)
        return;
    for (size_t i = 0; i < n; i++)
        sum += seq->pooled[i] * seq->pooled[i];
    if (seq->params.normalize)
        scale = sum > 0 ? sqrt(sum) : 1;
    else if (seq->params.pooling == GK_POOLING_MEAN)
        scale = (double)seq->n_prompt;
    for (size_t i = 0; i < n; i++)
        seq->embedding[i] = (float)(seq->pooled[i] / scale);
    ret->finish = seq->finish = GK_FINISH_EMBEDDED;
    ret->embedding = seq->embedding;
    ret->n_embedding = n;
}

/* There is no next token: what waits is released, and that is all. */
static void end_stuck(GkSeq *seq, struct gk_result *ret) {
    struct text_out out;

    text_stream_flush(seq->text, &out);
    ret->finish = seq->finish = GK_FINISH_STUCK;
    ret->text = out.text;
    ret->n_text = out.n;
}

/* Returns true where the constraint leaves nothing but the end. */
static bool constraint_ends(GkSeq *seq, int32_t token) {
    size_t n;
    const char *piece;

    if (!seq->matcher)
        return false;
    piece = tokenizer_piece(seq->engine->tokenizer, token, &n);
    return matcher_push(seq->matcher, piece, n) && matcher_is_complete(seq->matcher);
}

static void accept_token(GkSeq *seq, struct gk_result *ret) {
    int32_t token = seq->sampled.token;
    bool ended = ends_text(seq, token), is_complete, is_last;
    struct text_out out;

    is_complete = !ended && constraint_ends(seq, token);
    seq->tokens[seq->n_tokens++] = token;
    is_last = seq->n_tokens == seq->n_tokens_max;
    sampler_accept(seq->sampler, token, false);
    ret->has_token = true;
    ret->token = token;
    ret->logprob = seq->sampled.logprob;
    ret->top = seq->sampled.top;
    ret->n_top = seq->sampled.n_top;
    /* The end token itself is not text. */
    if (ended)
        text_stream_flush(seq->text, &out);
    else if (is_last || is_complete)
        text_stream_push_last(seq->text, token, &out);
    else
        text_stream_push(seq->text, token, &out);
    if (ended || out.stop || is_complete)
        seq->finish = GK_FINISH_STOP;
    else if (is_last)
        seq->finish = GK_FINISH_LENGTH;
    ret->finish = seq->finish;
    ret->stop = out.stop ? out.stop : "";
    ret->text = out.text;
    ret->n_text = out.n;
}

void seq_finish_step(GkSeq *seq, size_t n_rows, struct gk_result *ret) {
    size_t n_before = seq->n_done;

    *ret = (struct gk_result){.seq = seq, .text = "", .stop = ""};
    seq->n_done += n_rows;
    ret->n_prompt_done = MIN(seq->n_done, seq->n_prompt);
    if (seq->params.mode == GK_SCORE)
        finish_scoring(seq, n_before, ret);
    else if (seq->params.mode == GK_EMBED)
        finish_embedding(seq, ret);
    else if (seq->n_done == seq->n_tokens && seq->sampled.token < 0)
        end_stuck(seq, ret);
    else if (seq->n_done == seq->n_tokens)
        accept_token(seq, ret);
}
