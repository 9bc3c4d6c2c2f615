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
/* logits (n_vocab) are changed in place. banned (n_banned) tokens are never chosen: what the text
 * stage says would complete a banned string. NaN logits count as -INFINITY. Order: bias, penalties,
 * bans, then (temperature 0: the best) temperature, top-k, top-p, min-p. Ties go to the lowest id.
 */
void sampler_sample(Sampler *s, float *logits, const int32_t *banned, size_t n_banned,
                    struct sampled *ret);
/* Log-softmax of one row (NaN is replaced in it): the log-probability of `token`, and the n_top
 * best. */
void sampler_score(float *logits, uint32_t n_vocab, int32_t token, float *ret_logprob,
                   struct gk_logprob *ret_top, size_t n_top);
