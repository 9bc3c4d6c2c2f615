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

/* What it must have to look for its pages. */
static int make_tokens(GkSeq *seq, const int32_t *tokens, Error *reterr) {
    seq->tokens = alloc_array(seq->n_tokens_max, sizeof(*seq->tokens));
    seq->pages = alloc_array(n_pages_of(seq->n_tokens_max), sizeof(*seq->pages));
    if (!seq->tokens || !seq->pages)
        return error_set(reterr, -ENOMEM, "out of memory");
    (void)memcpy(seq->tokens, tokens, seq->n_prompt * sizeof(*tokens));
    return 0;
}

static int make_parts(GkSeq *seq, const struct gk_params *p, Error *reterr) {
    GkEngine *e = seq->engine;
    int r = 0;

    seq->stop_tokens = alloc_array(p->n_stop_tokens, sizeof(*seq->stop_tokens));
    if (p->mode == GK_SCORE) {
        seq->scores = alloc_array(seq->n_prompt, sizeof(*seq->scores));
        seq->score_top =
            alloc_array(seq->n_prompt, MAX(p->n_logprobs, 1u) * sizeof(*seq->score_top));
    }
    if (!seq->stop_tokens || (p->mode == GK_SCORE && (!seq->scores || !seq->score_top)))
        return error_set(reterr, -ENOMEM, "out of memory");
    if (p->n_stop_tokens > 0)
        (void)memcpy(seq->stop_tokens, p->stop_tokens,
                     p->n_stop_tokens * sizeof(*seq->stop_tokens));
    if (p->mode == GK_EMBED) {
        seq->pooled = alloc_array(e->shape.n_embd, sizeof(*seq->pooled));
        seq->embedding = alloc_array(e->shape.n_embd, sizeof(*seq->embedding));
        if (!seq->pooled || !seq->embedding)
            return error_set(reterr, -ENOMEM, "out of memory");
    }
    if (p->mode != GK_GENERATE)
        return 0;
    if ((r = sampler_new(&seq->sampler, p, e->shape.n_vocab)) != 0 ||
        (r = text_stream_new(&seq->text, e->tokenizer, p)) != 0 ||
        (p->speculate && (r = drafter_init(&seq->drafter, seq->n_tokens_max)) != 0))
        return error_set(reterr, r, "out of memory");
    seq->texts = alloc_array(1 + GK_DRAFT_MAX, text_stream_bytes_max(seq->text));
    if (!seq->texts)
        return error_set(reterr, -ENOMEM, "out of memory");
    if (p->constraint &&
        matcher_new(&seq->matcher, &e->automata, p->constraint,
                    &(struct matcher_options){.ignore_ends = p->ignore_eos,
                                              .stop_tokens = seq->stop_tokens,
                                              .n_stop_tokens = p->n_stop_tokens}) != 0)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (size_t i = 0; i < seq->n_prompt; i++)
        sampler_accept(seq->sampler, seq->tokens[i], true);
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
    /* Pages first: who waits for them asks often, and its sampler and matcher take work. */
    if ((r = make_tokens(seq, tokens, reterr)) != 0 || (r = reserve_pages(seq, reterr)) != 0 ||
        (r = make_parts(seq, params, reterr)) != 0)
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
    drafter_deinit(&seq->drafter);
    free(seq->texts);
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

/* ---- drafts ---- */

/* Of n wanted ones, those that fit: the last one's row gives a token, too. */
static size_t n_drafts_of(const GkSeq *seq, size_t n) {
    if (seq->params.mode != GK_GENERATE || gk_seq_n_pending(seq) != 1)
        return 0;
    n = MIN(n, (size_t)GK_DRAFT_MAX);
    return MIN(n, seq->n_tokens_max - seq->n_tokens - 1);
}

size_t gk_seq_draft(GkSeq *seq) {
    size_t n = seq->params.speculate ? n_drafts_of(seq, GK_DRAFT_MAX) : 0;

    seq->n_drafts = n > 0 ? drafter_find(&seq->drafter, seq->tokens, seq->n_tokens, n) : 0;
    return seq->n_drafts;
}

size_t gk_seq_set_draft(GkSeq *seq, const int32_t *tokens, size_t n) {
    seq->n_drafts = n_drafts_of(seq, n);
    for (size_t i = 0; i < seq->n_drafts; i++) {
        assert(tokens[i] >= 0 && (uint32_t)tokens[i] < seq->engine->shape.n_vocab);
        seq->tokens[seq->n_tokens + i] = tokens[i];
    }
    return seq->n_drafts;
}

/* ---- in a step ---- */

void seq_begin_step(GkSeq *seq) {
    seq->n_outputs = seq->n_told = seq->n_texts = 0;
}

bool seq_is_drafted(const GkSeq *seq, size_t position) {
    return position >= seq->n_tokens;
}

bool seq_wants_logits(const GkSeq *seq, size_t position) {
    if (seq->params.mode == GK_SCORE)
        return position + 1 < seq->n_prompt;
    if (seq->params.mode == GK_EMBED)
        return false;
    return position + 1 >= seq->n_tokens;
}

static bool ends_text(const GkSeq *seq, int32_t token) {
    if (!seq->params.ignore_eos && tokenizer_is_eog(seq->engine->tokenizer, token))
        return true;
    for (size_t i = 0; i < seq->params.n_stop_tokens; i++)
        if (seq->stop_tokens[i] == token)
            return true;
    return false;
}

static void sample(GkSeq *seq, float *logits, struct sampled *ret) {
    const uint64_t *allowed = seq->matcher ? matcher_mask(seq->matcher) : NULL;
    const int32_t *banned;
    size_t n_banned;

    if (seq->matcher && !allowed) {
        *ret = (struct sampled){.token = -1};
        return;
    }
    n_banned = text_stream_banned(seq->text, &banned);
    sampler_sample(seq->sampler, logits, banned, n_banned, allowed, ret);
}

/* The stream's view is good until its next token. */
static void keep_text(GkSeq *seq, const struct text_out *text, struct output *out) {
    char *to = seq->texts + seq->n_texts;

    if (text->n > 0)
        (void)memcpy(to, text->text, text->n);
    out->text = to;
    out->n_text = text->n;
    out->stop = text->stop;
    seq->n_texts += text->n;
}

/* There is no next token: what waits is released, and that is all. */
static void end_stuck(GkSeq *seq, struct output *out) {
    struct text_out text;

    text_stream_flush(seq->text, &text);
    keep_text(seq, &text, out);
    out->stop = NULL;
    out->finish = seq->finish = GK_FINISH_STUCK;
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

/* It takes the place of what was drafted there. */
static void append_token(GkSeq *seq, struct output *out) {
    int32_t token = out->sampled.token, *place = &seq->tokens[seq->n_tokens];

    if (seq->n_outputs <= seq->n_drafts)
        out->guess = *place == token ? GK_GUESS_RIGHT : GK_GUESS_WRONG;
    *place = token;
    seq->n_tokens++;
    sampler_accept(seq->sampler, token, false);
}

static void accept_token(GkSeq *seq, struct output *out) {
    int32_t token = out->sampled.token;
    bool ended = ends_text(seq, token), is_complete, is_last;
    struct text_out text;

    is_complete = !ended && constraint_ends(seq, token);
    append_token(seq, out);
    is_last = seq->n_tokens == seq->n_tokens_max;
    /* The end token itself is not text. */
    if (ended)
        text_stream_flush(seq->text, &text);
    else if (is_last || is_complete)
        text_stream_push_last(seq->text, token, &text);
    else
        text_stream_push(seq->text, token, &text);
    keep_text(seq, &text, out);
    if (ended || text.stop || is_complete)
        seq->finish = GK_FINISH_STOP;
    else if (is_last)
        seq->finish = GK_FINISH_LENGTH;
    out->finish = seq->finish;
}

/* Each row after the pending one counts only where the tokens before it and its own are what was
 * sampled: then it is the last one's row, as it would be without drafts. */
static void take_next(GkSeq *seq, size_t position, int32_t token, float *logits) {
    struct output *out = &seq->outputs[seq->n_outputs];

    if (position + 1 != seq->n_tokens || seq->tokens[position] != token ||
        seq->finish != GK_FINISH_NONE)
        return;
    seq->n_outputs++;
    out->guess = GK_GUESS_NONE;
    sample(seq, logits, &out->sampled);
    if (out->sampled.token < 0)
        end_stuck(seq, out);
    else
        accept_token(seq, out);
}

void seq_take_logits(GkSeq *seq, size_t position, int32_t token, float *logits) {
    uint32_t n_top = seq->params.n_logprobs;

    if (seq->params.mode == GK_GENERATE)
        take_next(seq, position, token, logits);
    else
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

/* ---- after a step ---- */

bool gk_seq_next_result(GkSeq *seq, struct gk_result *ret) {
    const struct output *out = &seq->outputs[seq->n_told];

    if (seq->n_told == seq->n_outputs)
        return false;
    seq->n_told++;
    *ret = (struct gk_result){.seq = seq,
                              .finish = out->finish,
                              .has_token = out->sampled.token >= 0,
                              .token = out->sampled.token,
                              .logprob = out->sampled.logprob,
                              .top = out->sampled.top,
                              .n_top = out->sampled.n_top,
                              .text = out->text,
                              .n_text = out->n_text,
                              .stop = out->stop ? out->stop : "",
                              .n_prompt_done = seq->n_prompt,
                              .guess = out->guess,
                              .n_more = seq->n_outputs - seq->n_told};
    return true;
}

/* What was sampled last is pending; keys and values of what was drafted in vain don't count. */
static void finish_sampling(GkSeq *seq, struct gk_result *ret) {
    seq->n_done = seq->n_tokens - (seq->outputs[seq->n_outputs - 1].sampled.token >= 0);
    seq->n_drafts = 0;
    (void)gk_seq_next_result(seq, ret);
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
    else if (seq->n_outputs > 0)
        finish_sampling(seq, ret);
}
