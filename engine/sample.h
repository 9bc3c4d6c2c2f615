/*
 * From logits to a token. A Sampler belongs to one sequence and holds its generator, so that the
 * same seed gives the same text whatever runs beside it.
 */
#pragma once

#include "engine/engine.h"

typedef struct Sampler Sampler;

/* Copies what it needs of params (already validated by sampler_check()). */
int sampler_new(Sampler **ret, const struct gk_params *params, uint32_t n_vocab);
Sampler *sampler_free(Sampler *s);
DEFINE_CLEANUP(Sampler *, sampler_free)
/* Returns GK_E_INVALID with a sentence naming the field and its range. */
int sampler_check(const struct gk_params *params, uint32_t n_vocab, Error *reterr);

/* Tells the sampler of a token that is now part of the sequence; the prompt's tokens too. */
void sampler_accept(Sampler *s, int32_t token, bool is_prompt);

struct sampled {
    int32_t token;
    float logprob; /* params.logprobs or n_logprobs > 0 */
    struct gk_logprob top[GK_LOGPROBS_MAX];
    size_t n_top;
};
/* In this order: NaN counts as -INFINITY; log-probabilities are taken (of the model's own logits);
 * logit bias is added; penalties (repetition, then presence and frequency); banned tokens
 * (n_banned) fall out, and those that are not `allowed` (a bit set; NULL: all are). Temperature 0
 * then gives the best. Else: temperature; min_p; of what is left the top_k best; of these as few of
 * the best as make top_p of their probability; one draw. Of equal logits the lowest id is the best.
 * There is always an answer: where everything is impossible, the first token that may come; -1
 * where none may.
 *
 * logits (n_vocab) are changed in place. */
void sampler_sample(Sampler *s, float *logits, const int32_t *banned, size_t n_banned,
                    const uint64_t *allowed, struct sampled *ret);
/* Log-softmax of one row: the log-probability of `token`, and the n_top <= GK_LOGPROBS_MAX best (as
 * many as the vocabulary has). */
void sampler_score(const float *logits, uint32_t n_vocab, int32_t token, float *ret_logprob,
                   struct gk_logprob *ret_top, size_t n_top);
