/*
 * See sample.h. A candidate list is made only where something must be sorted: greedy decoding is
 * one pass over the logits. The generator and e^x are our own, so that a seed means the same text
 * on every machine.
 */
#include "engine/sample.h"

#include "base/alloc.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct candidate {
    int32_t token;
    float logit;
    double weight; /* unnormalised probability */
};

struct Sampler {
    struct gk_params params;
    struct gk_logit_bias *bias; // (params.n_logit_bias)
    uint32_t n_vocab;
    uint64_t state[4];     /* xoshiro256** */
    uint16_t *n_generated; // (n_vocab) times each token was generated; NULL without penalties
    uint8_t *seen;         // (n_vocab) in the prompt or generated; NULL without penalties
    struct candidate *candidates; // (n_vocab) NULL where decoding is greedy
    float *raw; // (n_vocab) the model's own logits; NULL without log-probabilities
};

/* ---- numbers ---- */

/* e^x for x <= 0 in double: 2^n times a Taylor polynomial of degree 13 on |r| <= ln 2 / 2 (relative
 * error below 1e-15). Only +, ×, and rounding: the same bits everywhere. */
static double exp_negative(double x) {
    double n, r, p = 1.0 / 6227020800.0;
    static const double inverse[] = {1.0 / 479001600,
                                     1.0 / 39916800,
                                     1.0 / 3628800,
                                     1.0 / 362880,
                                     1.0 / 40320,
                                     1.0 / 5040,
                                     1.0 / 720,
                                     1.0 / 120,
                                     1.0 / 24,
                                     1.0 / 6,
                                     0.5,
                                     1.0,
                                     1.0};

    if (!(x > -700))
        return 0;
    n = rint(x * 1.4426950408889634);
    r = (x - n * 0.69314718036912382) - n * 1.9082149292705877e-10;
    for (size_t i = 0; i < ARRAY_SIZE(inverse); i++)
        p = p * r + inverse[i];
    return ldexp(p, (int)n);
}

/* Natural logarithm of x >= 1: atanh series on [1/√2, √2] (relative error below 1e-14). */
static double log_positive(double x) {
    double m, z, z2, sum = 0;
    int e;

    m = frexp(x, &e);
    if (m < 0.70710678118654752) {
        m *= 2;
        e--;
    }
    z = (m - 1) / (m + 1);
    z2 = z * z;
    for (int i = 21; i >= 1; i -= 2)
        sum = sum * z2 + 1.0 / i;
    return 2 * z * sum + e * 0.69314718055994531;
}

static uint64_t split_mix(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15ull);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t x, int n) {
    return x << n | x >> (64 - n);
}

/* xoshiro256** 1.0 (Blackman and Vigna, public domain algorithm). */
static uint64_t next_random(Sampler *s) {
    uint64_t r = rotate(s->state[1] * 5, 7) * 9, t = s->state[1] << 17;

    s->state[2] ^= s->state[0];
    s->state[3] ^= s->state[1];
    s->state[1] ^= s->state[2];
    s->state[0] ^= s->state[3];
    s->state[2] ^= t;
    s->state[3] = rotate(s->state[3], 45);
    return r;
}

/* Uniform in [0, 1) with 53 bits. */
static double next_uniform(Sampler *s) {
    return (double)(next_random(s) >> 11) * 0x1p-53;
}

/* ---- life ---- */

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return error_set(reterr, GK_E_INVALID, __VA_ARGS__);                                   \
    } while (0)

static int check_strings(const struct gk_string *strings, size_t n, size_t n_max, const char *what,
                         Error *reterr) {
    CHECK(n <= n_max, "%zu %s strings are more than the %zu allowed", n, what, n_max);
    for (size_t i = 0; i < n; i++)
        CHECK(strings[i].n > 0 && strings[i].n <= GK_STOP_STRING_BYTES_MAX,
              "%s string %zu has %zu bytes, not 1 to %d", what, i + 1, strings[i].n,
              GK_STOP_STRING_BYTES_MAX);
    return 0;
}

int sampler_check(const struct gk_params *p, uint32_t n_vocab, Error *reterr) {
    int r;

    CHECK(p->mode == GK_GENERATE || p->mode == GK_SCORE, "mode %d is none", (int)p->mode);
    CHECK(p->temperature >= 0 && p->temperature <= 100, "temperature is %g, not 0 to 100",
          (double)p->temperature);
    CHECK(p->top_p > 0 && p->top_p <= 1, "top_p is %g, not above 0 and at most 1",
          (double)p->top_p);
    CHECK(p->min_p >= 0 && p->min_p <= 1, "min_p is %g, not 0 to 1", (double)p->min_p);
    CHECK(p->repetition_penalty > 0 && p->repetition_penalty <= 100,
          "repetition_penalty is %g, not above 0 and at most 100", (double)p->repetition_penalty);
    CHECK(fabsf(p->presence_penalty) <= 100, "presence_penalty is %g, not -100 to 100",
          (double)p->presence_penalty);
    CHECK(fabsf(p->frequency_penalty) <= 100, "frequency_penalty is %g, not -100 to 100",
          (double)p->frequency_penalty);
    CHECK(p->n_logprobs <= GK_LOGPROBS_MAX, "%u alternatives a token are more than the %d allowed",
          p->n_logprobs, GK_LOGPROBS_MAX);
    CHECK(p->n_stop_tokens <= GK_STOP_TOKENS_MAX, "%zu stop tokens are more than the %d allowed",
          p->n_stop_tokens, GK_STOP_TOKENS_MAX);
    CHECK(p->n_logit_bias <= GK_LOGIT_BIAS_MAX, "%zu logit biases are more than the %d allowed",
          p->n_logit_bias, GK_LOGIT_BIAS_MAX);
    for (size_t i = 0; i < p->n_stop_tokens; i++)
        CHECK(p->stop_tokens[i] >= 0 && (uint32_t)p->stop_tokens[i] < n_vocab,
              "stop token %d is not in the vocabulary of %u", p->stop_tokens[i], n_vocab);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        CHECK(p->logit_bias[i].token >= 0 && (uint32_t)p->logit_bias[i].token < n_vocab,
              "logit bias is for token %d, which is not in the vocabulary of %u",
              p->logit_bias[i].token, n_vocab);
        CHECK(p->logit_bias[i].bias <= 1000 &&
                  (p->logit_bias[i].bias >= -1000 || isinf(p->logit_bias[i].bias)),
              "logit bias of token %d is %g, not -1000 to 1000 or -inf", p->logit_bias[i].token,
              (double)p->logit_bias[i].bias);
    }
    if ((r = check_strings(p->stop_strings, p->n_stop_strings, GK_STOP_STRINGS_MAX, "stop",
                           reterr)) != 0)
        return r;
    return check_strings(p->banned_strings, p->n_banned_strings, GK_BANNED_STRINGS_MAX, "banned",
                         reterr);
}

static bool has_penalties(const struct gk_params *p) {
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

int sampler_new(Sampler **ret, const struct gk_params *params, uint32_t n_vocab) {
    CLEANUP(sampler_freep) Sampler *s = alloc_new(Sampler);
    uint64_t seed = params->seed;

    if (!s)
        return -ENOMEM;
    s->params = *params;
    s->n_vocab = n_vocab;
    for (size_t i = 0; i < ARRAY_SIZE(s->state); i++)
        s->state[i] = split_mix(&seed);
    s->bias = alloc_array(params->n_logit_bias, sizeof(*s->bias));
    if (!s->bias)
        return -ENOMEM;
    if (params->n_logit_bias > 0)
        (void)memcpy(s->bias, params->logit_bias, params->n_logit_bias * sizeof(*s->bias));
    if (has_penalties(params)) {
        s->n_generated = alloc_array(n_vocab, sizeof(*s->n_generated));
        s->seen = alloc_array(n_vocab, sizeof(*s->seen));
        if (!s->n_generated || !s->seen)
            return -ENOMEM;
    }
    if (params->temperature > 0) {
        s->candidates = alloc_array(n_vocab, sizeof(*s->candidates));
        if (!s->candidates)
            return -ENOMEM;
    }
    if (params->logprobs || params->n_logprobs > 0) {
        s->raw = alloc_array(n_vocab, sizeof(*s->raw));
        if (!s->raw)
            return -ENOMEM;
    }
    *ret = take_ptr(s);
    return 0;
}

Sampler *sampler_free(Sampler *s) {
    if (!s)
        return NULL;
    free(s->bias);
    free(s->n_generated);
    free(s->seen);
    free(s->candidates);
    free(s->raw);
    free(s);
    return NULL;
}

void sampler_accept(Sampler *s, int32_t token, bool is_prompt) {
    if (!s->seen)
        return;
    s->seen[token] = 1;
    if (!is_prompt && s->n_generated[token] < UINT16_MAX)
        s->n_generated[token]++;
}

/* ---- log-probabilities ---- */

/* a before b: the larger logit, then the lower id. */
static bool is_better(float a, int32_t a_token, float b, int32_t b_token) {
    return a > b || (a == b && a_token < b_token);
}

static int32_t best_token(const float *logits, uint32_t n) {
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* log Σ e^logit, by way of the largest. */
static double log_sum(const float *logits, uint32_t n) {
    double most = logits[best_token(logits, n)], sum = 0;

    if (!(most > -INFINITY))
        return 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp_negative((double)logits[i] - most);
    return most + log_positive(sum);
}

static void drop_nan(float *logits, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        logits[i] = logits[i] != logits[i] ? -INFINITY : logits[i];
}

/* The n_top best by insertion: n_top is small. */
static void find_top(const float *logits, uint32_t n_vocab, double log_total,
                     struct gk_logprob *ret_top, size_t n_top) {
    size_t n = 0;

    for (uint32_t i = 0; n_top > 0 && i < n_vocab; i++) {
        size_t at = n;

        if (n == n_top && !(logits[i] > ret_top[n - 1].logprob))
            continue;
        at = n < n_top ? n++ : n - 1;
        for (; at > 0 &&
               is_better(logits[i], (int32_t)i, ret_top[at - 1].logprob, ret_top[at - 1].token);
             at--)
            ret_top[at] = ret_top[at - 1];
        ret_top[at] = (struct gk_logprob){.token = (int32_t)i, .logprob = logits[i]};
    }
    for (size_t i = 0; i < n; i++)
        ret_top[i].logprob = (float)((double)ret_top[i].logprob - log_total);
}

void sampler_score(float *logits, uint32_t n_vocab, int32_t token, float *ret_logprob,
                   struct gk_logprob *ret_top, size_t n_top) {
    double total;

    drop_nan(logits, n_vocab);
    total = log_sum(logits, n_vocab);
    *ret_logprob = (float)((double)logits[token] - total);
    find_top(logits, n_vocab, total, ret_top, n_top);
}

/* ---- sampling ---- */

static void apply_penalties(const Sampler *s, float *logits) {
    const struct gk_params *p = &s->params;

    for (size_t i = 0; i < p->n_logit_bias; i++)
        logits[s->bias[i].token] += s->bias[i].bias;
    if (!s->seen)
        return;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (!s->seen[i])
            continue;
        logits[i] =
            logits[i] > 0 ? logits[i] / p->repetition_penalty : logits[i] * p->repetition_penalty;
        if (s->n_generated[i] > 0)
            logits[i] -= p->presence_penalty + p->frequency_penalty * (float)s->n_generated[i];
    }
}

static int compare_candidates(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;

    return is_better(x->logit, x->token, y->logit, y->token) ? -1 : 1;
}

static void swap_candidates(struct candidate *a, struct candidate *b) {
    struct candidate t = *a;

    *a = *b;
    *b = t;
}

/* Restores a heap of n whose worst candidate is at the root, after c[0] changed. */
static void sift_down(struct candidate *c, size_t n) {
    for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && compare_candidates(&c[child + 1], &c[child]) > 0)
            child++;
        if (compare_candidates(&c[child], &c[i]) <= 0)
            return;
        swap_candidates(&c[child], &c[i]);
    }
}

static void sift_up(struct candidate *c, size_t i) {
    for (; i > 0 && compare_candidates(&c[i], &c[(i - 1) / 2]) > 0; i = (i - 1) / 2)
        swap_candidates(&c[i], &c[(i - 1) / 2]);
}

/* Moves the k best of n to the front, in no order: a heap of the k best so far. */
static void select_best(struct candidate *c, size_t n, size_t k) {
    for (size_t i = 1; i < k; i++)
        sift_up(c, i);
    for (size_t i = k; i < n; i++) {
        if (compare_candidates(&c[i], &c[0]) >= 0)
            continue;
        c[0] = c[i];
        sift_down(c, k);
    }
}

/* Candidates in falling order as far as they are needed; returns how many remain. */
static size_t filter(struct candidate *c, size_t n, const struct gk_params *p) {
    double total = 0, sum = 0;
    size_t k = p->top_k > 0 && p->top_k < n ? p->top_k : n;

    if (k < n)
        select_best(c, n, k);
    if (k < n || p->top_p < 1)
        qsort(c, k, sizeof(*c), compare_candidates);
    if (p->top_p < 1) {
        for (size_t i = 0; i < k; i++)
            total += c[i].weight;
        for (size_t i = 0; i < k; i++) {
            sum += c[i].weight;
            if (sum >= (double)p->top_p * total) {
                k = i + 1;
                break;
            }
        }
    }
    return k;
}

static size_t filter_min_p(struct candidate *c, size_t n, double least) {
    size_t to = 0;

    for (size_t i = 0; i < n; i++)
        if (c[i].weight >= least)
            c[to++] = c[i];
    return to;
}

/* One draw by weight. */
static int32_t draw(Sampler *s, const struct candidate *c, size_t n) {
    double total = 0, at;
    size_t chosen = 0;

    for (size_t i = 0; i < n; i++)
        total += c[i].weight;
    at = next_uniform(s) * total;
    for (size_t i = 0; i < n; i++) {
        chosen = i;
        at -= c[i].weight;
        if (at < 0)
            break;
    }
    return c[chosen].token;
}

static int32_t sample_drawn(Sampler *s, const float *logits) {
    const struct gk_params *p = &s->params;
    double most = logits[best_token(logits, s->n_vocab)];
    struct candidate *c = s->candidates;
    size_t n = 0;

    if (!(most > -INFINITY))
        return best_token(logits, s->n_vocab);
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        double weight = exp_negative(((double)logits[i] - most) / (double)p->temperature);

        if (weight > 0)
            c[n++] = (struct candidate){.token = (int32_t)i, .logit = logits[i], .weight = weight};
    }
    n = filter(c, n, p);
    n = filter_min_p(c, n, (double)p->min_p);
    return draw(s, c, n);
}

void sampler_sample(Sampler *s, float *logits, const int32_t *banned, size_t n_banned,
                    struct sampled *ret) {
    const struct gk_params *p = &s->params;
    bool wants_logprobs = p->logprobs || p->n_logprobs > 0;
    double total = 0;

    drop_nan(logits, s->n_vocab);
    ret->n_top = MIN(p->n_logprobs, s->n_vocab);
    ret->logprob = 0;
    if (wants_logprobs) {
        total = log_sum(logits, s->n_vocab);
        find_top(logits, s->n_vocab, total, ret->top, ret->n_top);
        (void)memcpy(s->raw, logits, s->n_vocab * sizeof(*logits));
    }
    apply_penalties(s, logits);
    for (size_t i = 0; i < n_banned; i++)
        logits[banned[i]] = -INFINITY;
    ret->token = p->temperature > 0 ? sample_drawn(s, logits) : best_token(logits, s->n_vocab);
    if (wants_logprobs)
        ret->logprob = (float)((double)s->raw[ret->token] - total);
}
