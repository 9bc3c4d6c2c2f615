/*
 * See sample.h.
 *
 * exp and log are this file's own, in double precision, of additions, multiplications and divisions
 * alone: the C library chooses among several by what the CPU has, and the same seed must give the
 * same text everywhere. Sums run in a fixed order for the same reason.
 */
#include "engine/sample.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define TEMPERATURE_MAX        100.0f
#define REPETITION_PENALTY_MAX 100.0f
#define PENALTY_MAX            2.0f
#define BIAS_MAX               100.0f
#define EXP_MIN                (-50.0) /* below: 0. e^-50 of the best is never drawn in a lifetime */

struct choice {
    float logit;
    int32_t token;
};

/* Owner: GkSeq. Thread: worker. */
struct Sampler {
    uint32_t n_vocab;
    float temperature, top_p, min_p;
    uint32_t top_k, n_logprobs;
    float repetition_penalty, presence_penalty, frequency_penalty;
    struct gk_logit_bias *bias; /* (n_bias) */
    size_t n_bias;
    uint32_t *n_output;     /* (n_vocab) times in the output; NULL: no penalties */
    uint8_t *is_in_prompt;  /* (n_vocab) */
    struct choice *choices; /* (n_vocab) scratch; NULL: greedy */
    float *raw;             /* (n_vocab) the logits as they came; NULL: no log-probabilities */
    uint64_t random[4];
};

/* ---- the generator: xoshiro256**, seeded by splitmix64 (Blackman and Vigna) ---- */

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, unsigned n) {
    return x << n | x >> (64 - n);
}

/* Uniform in [0, 1), 53 bits. */
static double draw(uint64_t s[4]) {
    uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* ---- exp and log ---- */

/* e^x for x <= 0, to 1 ulp or so: 2^k e^r with |r| <= ln 2 / 2 and the Taylor series of e^r. */
static double exp_negative(double x) {
    static const double inverse_factorials[] = {1.0 / 6227020800,
                                                1.0 / 479001600,
                                                1.0 / 39916800,
                                                1.0 / 3628800,
                                                1.0 / 362880,
                                                1.0 / 40320,
                                                1.0 / 5040,
                                                1.0 / 720,
                                                1.0 / 120,
                                                1.0 / 24,
                                                1.0 / 6,
                                                1.0 / 2,
                                                1.0,
                                                1.0};
    uint64_t bits;
    double k, r, sum = 0;

    if (!(x > EXP_MIN))
        return 0;
    k = (double)(int64_t)(x * 1.4426950408889634 - 0.5);
    r = x - k * 0x1.62e42fee00000p-1 - k * 0x1.a39ef35793c76p-33;
    for (size_t i = 0; i < ARRAY_SIZE(inverse_factorials); i++)
        sum = sum * r + inverse_factorials[i];
    bits = (uint64_t)((int64_t)k + 1023) << 52;
    (void)memcpy(&k, &bits, sizeof(k));
    return sum * k;
}

/* ln x for finite x >= 1: k ln 2 + 2 artanh((m - 1) / (m + 1)) with m in [√½, √2). */
static double log_of(double x) {
    uint64_t bits;
    int64_t k;
    double m, s, sum = 0;

    (void)memcpy(&bits, &x, sizeof(bits));
    k = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    (void)memcpy(&m, &bits, sizeof(m));
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    s = (m - 1) / (m + 1);
    for (int i = 21; i >= 1; i -= 2)
        sum = sum * (s * s) + 1.0 / i;
    return (double)k * 0x1.62e42fefa39efp-1 + 2 * s * sum;
}

/* ---- the object ---- */

static bool has_penalties(const struct gk_params *p) {
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static int allocate(Sampler *s, const struct gk_params *p) {
    if (p->n_logit_bias > 0) {
        s->bias = alloc_array(p->n_logit_bias, sizeof(*s->bias));
        if (!s->bias)
            return error_origin(-ENOMEM);
        (void)memcpy(s->bias, p->logit_bias, p->n_logit_bias * sizeof(*s->bias));
    }
    if (has_penalties(p)) {
        s->n_output = alloc_array(s->n_vocab, sizeof(*s->n_output));
        s->is_in_prompt = alloc_array(s->n_vocab, sizeof(*s->is_in_prompt));
        if (!s->n_output || !s->is_in_prompt)
            return error_origin(-ENOMEM);
    }
    if (p->temperature > 0) {
        s->choices = alloc_array(s->n_vocab, sizeof(*s->choices));
        if (!s->choices)
            return error_origin(-ENOMEM);
    }
    if (p->logprobs || p->n_logprobs > 0) {
        s->raw = alloc_array(s->n_vocab, sizeof(*s->raw));
        if (!s->raw)
            return error_origin(-ENOMEM);
    }
    return 0;
}

int sampler_new(Sampler **ret, const struct gk_params *p, uint32_t n_vocab) {
    CLEANUP(sampler_freep) Sampler *s = alloc_new(Sampler);
    uint64_t state = p->seed;
    int r;

    if (!s)
        return error_origin(-ENOMEM);
    *s = (Sampler){
        .n_vocab = n_vocab,
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .n_logprobs = p->n_logprobs,
        .repetition_penalty = p->repetition_penalty,
        .presence_penalty = p->presence_penalty,
        .frequency_penalty = p->frequency_penalty,
        .n_bias = p->n_logit_bias,
    };
    for (size_t i = 0; i < ARRAY_SIZE(s->random); i++)
        s->random[i] = splitmix64(&state);
    r = allocate(s, p);
    if (r)
        return r;
    *ret = take_ptr(s);
    return 0;
}

Sampler *sampler_free(Sampler *s) {
    if (!s)
        return NULL;
    free(s->bias);
    free(s->n_output);
    free(s->is_in_prompt);
    free(s->choices);
    free(s->raw);
    free(s);
    return NULL;
}

void sampler_accept(Sampler *s, int32_t token, bool is_prompt) {
    if (!s->n_output)
        return;
    if (is_prompt)
        s->is_in_prompt[token] = 1;
    else if (s->n_output[token] < UINT32_MAX)
        s->n_output[token]++;
}

/* ---- checking parameters ---- */

#define refuse(reterr, ...) error_set(reterr, GK_E_INVALID, __VA_ARGS__)

static int check_numbers(const struct gk_params *p, Error *reterr) {
    if (p->mode != GK_GENERATE && p->mode != GK_SCORE && p->mode != GK_EMBED)
        return refuse(reterr, "mode is %d, not generate, score or embed", (int)p->mode);
    if (p->pooling != GK_POOLING_MEAN && p->pooling != GK_POOLING_LAST)
        return refuse(reterr, "pooling is %d, not mean or last", (int)p->pooling);
    if (!(p->temperature >= 0 && p->temperature <= TEMPERATURE_MAX))
        return refuse(reterr, "temperature is %g, not from 0 to %g", (double)p->temperature,
                      (double)TEMPERATURE_MAX);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return refuse(reterr, "top_p is %g, not above 0 and at most 1", (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return refuse(reterr, "min_p is %g, not from 0 to 1", (double)p->min_p);
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= REPETITION_PENALTY_MAX))
        return refuse(reterr, "repetition_penalty is %g, not above 0 and at most %g",
                      (double)p->repetition_penalty, (double)REPETITION_PENALTY_MAX);
    if (!(fabsf(p->presence_penalty) <= PENALTY_MAX))
        return refuse(reterr, "presence_penalty is %g, not from %g to %g",
                      (double)p->presence_penalty, (double)-PENALTY_MAX, (double)PENALTY_MAX);
    if (!(fabsf(p->frequency_penalty) <= PENALTY_MAX))
        return refuse(reterr, "frequency_penalty is %g, not from %g to %g",
                      (double)p->frequency_penalty, (double)-PENALTY_MAX, (double)PENALTY_MAX);
    if (p->n_logprobs > GK_LOGPROBS_MAX)
        return refuse(reterr, "n_logprobs is %u, more than %d", p->n_logprobs, GK_LOGPROBS_MAX);
    return 0;
}

static int check_strings(const char *field, const struct gk_string *strings, size_t n, size_t n_max,
                         Error *reterr) {
    if (n > n_max)
        return refuse(reterr, "%s has %zu strings, more than %zu", field, n, n_max);
    for (size_t i = 0; i < n; i++) {
        if (strings[i].n < 1 || strings[i].n > GK_STOP_STRING_BYTES_MAX)
            return refuse(reterr, "string %zu of %s has %zu bytes, not 1 to %d", i, field,
                          strings[i].n, GK_STOP_STRING_BYTES_MAX);
        if (!utf8_is_valid(strings[i].bytes, strings[i].n) ||
            memchr(strings[i].bytes, 0, strings[i].n))
            return refuse(reterr, "string %zu of %s is not valid UTF-8 without zero bytes", i,
                          field);
    }
    return 0;
}

static int check_token(const char *field, size_t i, int32_t token, uint32_t n_vocab,
                       Error *reterr) {
    if (token >= 0 && (uint32_t)token < n_vocab)
        return 0;
    return refuse(reterr, "token %zu of %s is %" PRId32 "; the vocabulary has 0 to %u", i, field,
                  token, n_vocab - 1);
}

static int check_tokens(const struct gk_params *p, uint32_t n_vocab, Error *reterr) {
    int r = 0;

    if (p->n_stop_tokens > GK_STOP_TOKENS_MAX)
        return refuse(reterr, "stop_tokens has %zu tokens, more than %d", p->n_stop_tokens,
                      GK_STOP_TOKENS_MAX);
    if (p->n_logit_bias > GK_LOGIT_BIAS_MAX)
        return refuse(reterr, "logit_bias has %zu tokens, more than %d", p->n_logit_bias,
                      GK_LOGIT_BIAS_MAX);
    for (size_t i = 0; !r && i < p->n_stop_tokens; i++)
        r = check_token("stop_tokens", i, p->stop_tokens[i], n_vocab, reterr);
    for (size_t i = 0; !r && i < p->n_logit_bias; i++) {
        float bias = p->logit_bias[i].bias;

        r = check_token("logit_bias", i, p->logit_bias[i].token, n_vocab, reterr);
        if (!r && !(fabsf(bias) <= BIAS_MAX) && bias != -INFINITY)
            r = refuse(reterr, "bias %zu of logit_bias is %g, not from %g to %g or -inf", i,
                       (double)bias, (double)-BIAS_MAX, (double)BIAS_MAX);
    }
    return r;
}

int sampler_check(const struct gk_params *p, uint32_t n_vocab, Error *reterr) {
    int r = check_numbers(p, reterr);

    if (!r)
        r = check_strings("stop_strings", p->stop_strings, p->n_stop_strings, GK_STOP_STRINGS_MAX,
                          reterr);
    if (!r)
        r = check_strings("banned_strings", p->banned_strings, p->n_banned_strings,
                          GK_BANNED_STRINGS_MAX, reterr);
    return r ? r : check_tokens(p, n_vocab, reterr);
}

/* ---- log-probabilities ---- */

/* NaN says nothing, so that it is never chosen; infinity would be NaN as soon as one subtracts. */
static float sane(float logit) {
    return isnan(logit) ? -INFINITY : MIN(logit, FLT_MAX);
}

/* The first of the largest. Returns -INFINITY where there is none. */
static float find_best(const float *logits, uint32_t n, uint32_t *ret_token) {
    float best = -INFINITY;

    *ret_token = 0;
    for (uint32_t i = 0; i < n; i++) {
        float logit = sane(logits[i]);

        if (logit > best) {
            best = logit;
            *ret_token = i;
        }
    }
    return best;
}

/* Puts the n_top best in order, of equal ones the lower id first. */
static void find_top(const float *logits, uint32_t n, struct gk_logprob *top, size_t n_top) {
    size_t n_found = 0;

    for (uint32_t i = 0; i < n && n_top > 0; i++) {
        float logit = sane(logits[i]);
        size_t j = n_found;

        if (n_found == n_top && !(logit > top[n_top - 1].logprob))
            continue;
        if (n_found < n_top)
            n_found++;
        else
            j--;
        for (; j > 0 && logit > top[j - 1].logprob; j--)
            top[j] = top[j - 1];
        top[j] = (struct gk_logprob){.token = (int32_t)i, .logprob = logit};
    }
}

void sampler_score(const float *logits, uint32_t n_vocab, int32_t token, float *ret_logprob,
                   struct gk_logprob *ret_top, size_t n_top) {
    uint32_t i_best;
    double best = (double)find_best(logits, n_vocab, &i_best), sum = 0, log_sum;

    n_top = MIN(n_top, (size_t)n_vocab);
    find_top(logits, n_vocab, ret_top, n_top);
    if (best == -INFINITY) {
        *ret_logprob = -INFINITY;
        return;
    }
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp_negative((double)sane(logits[i]) - best);
    log_sum = log_of(sum);
    *ret_logprob = (float)((double)sane(logits[token]) - best - log_sum);
    for (size_t i = 0; i < n_top; i++)
        ret_top[i].logprob = (float)((double)ret_top[i].logprob - best - log_sum);
}

/* ---- changing logits ---- */

static void penalise(const Sampler *s, float *logits) {
    if (!s->n_output)
        return;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        uint32_t n = s->n_output[i];

        if (n == 0 && !s->is_in_prompt[i])
            continue;
        if (logits[i] > 0)
            logits[i] /= s->repetition_penalty;
        else
            logits[i] *= s->repetition_penalty;
        if (n > 0)
            logits[i] -= s->presence_penalty + s->frequency_penalty * (float)n;
        logits[i] = sane(logits[i]);
    }
}

static bool is_allowed(const uint64_t *allowed, size_t token) {
    return !allowed || (allowed[token / 64] >> (token % 64) & 1) != 0;
}

static void adjust(const Sampler *s, float *logits, const int32_t *banned, size_t n_banned,
                   const uint64_t *allowed) {
    for (uint32_t i = 0; i < s->n_vocab; i++)
        logits[i] = sane(logits[i]);
    for (size_t i = 0; i < s->n_bias; i++)
        logits[s->bias[i].token] += s->bias[i].bias;
    penalise(s, logits);
    for (size_t i = 0; i < n_banned; i++)
        logits[banned[i]] = -INFINITY;
    for (size_t i = 0; allowed && i < s->n_vocab; i++)
        if (!is_allowed(allowed, i))
            logits[i] = -INFINITY;
}

/* ---- choosing ---- */

static bool is_better(const struct choice *a, const struct choice *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* Puts c at i or below, the best on top. */
static void sift_down(struct choice *heap, size_t n, size_t i, struct choice c) {
    size_t child;

    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && is_better(&heap[child + 1], &heap[child]))
            child++;
        if (!is_better(&heap[child], &c))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

static void make_heap(struct choice *heap, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, heap[i]);
}

/* Moves the best of n to the end, so that what was taken lies best last. */
static struct choice heap_take(struct choice *heap, size_t n) {
    struct choice best = heap[0];

    sift_down(heap, n - 1, 0, heap[n - 1]);
    heap[n - 1] = best;
    return best;
}

/* Relative to the best: e^((logit - best) / temperature). */
static double weight(const Sampler *s, float logit, double best) {
    return exp_negative(((double)logit - best) / (double)s->temperature);
}

/* Those that are possible and pass min_p, in the order of their ids; *ret_sum adds their weights.
 */
static size_t collect(const Sampler *s, const float *logits, double best, double *ret_sum) {
    size_t n = 0;
    double sum = 0;

    for (uint32_t i = 0; i < s->n_vocab; i++) {
        double w = weight(s, logits[i], best);

        if (w <= 0 || w < (double)s->min_p)
            continue;
        s->choices[n++] = (struct choice){.logit = logits[i], .token = (int32_t)i};
        sum += w;
    }
    *ret_sum = sum;
    return n;
}

/* The last `n_kept` of n choices are sorted, best last. Of these as few as make top_p of their
 * weight stay. */
static size_t cut_top_p(const Sampler *s, size_t n, size_t n_kept, double best, double *sum) {
    double wanted = *sum * (double)s->top_p, so_far = 0;

    for (size_t i = 0; i < n_kept; i++) {
        so_far += weight(s, s->choices[n - 1 - i].logit, best);
        if (so_far >= wanted) {
            *sum = so_far;
            return i + 1;
        }
    }
    return n_kept;
}

/* As few of the n choices as make top_p of the sum, sorted at the end of the array. */
static size_t take_top_p(const Sampler *s, size_t n, double best, double *sum) {
    double wanted = *sum * (double)s->top_p, so_far = 0;
    size_t n_left = n;

    while (n_left > 0 && so_far < wanted) {
        so_far += weight(s, heap_take(s->choices, n_left).logit, best);
        n_left--;
    }
    *sum = so_far;
    return n - n_left;
}

static size_t take_top_k(const Sampler *s, size_t n, double best, double *sum) {
    double so_far = 0;
    size_t n_kept = MIN(n, (size_t)s->top_k);

    for (size_t i = 0; i < n_kept; i++)
        so_far += weight(s, heap_take(s->choices, n - i).logit, best);
    *sum = so_far;
    return s->top_p < 1 ? cut_top_p(s, n, n_kept, best, sum) : n_kept;
}

static int32_t choose(Sampler *s, const float *logits, double best) {
    double sum, so_far = 0, point;
    size_t n = collect(s, logits, best, &sum), n_kept = n;

    if (s->top_k > 0 || s->top_p < 1)
        make_heap(s->choices, n);
    if (s->top_k > 0)
        n_kept = take_top_k(s, n, best, &sum);
    else if (s->top_p < 1)
        n_kept = take_top_p(s, n, best, &sum);
    point = draw(s->random) * sum;
    for (size_t i = 0; i + 1 < n_kept; i++) {
        const struct choice *c = &s->choices[n - 1 - i];

        so_far += weight(s, c->logit, best);
        if (point < so_far)
            return c->token;
    }
    return s->choices[n - n_kept].token;
}

/* Everything is impossible: the first that is not ruled out, so that there is an answer. */
static int32_t first_allowed(const Sampler *s, const int32_t *banned, size_t n_banned,
                             const uint64_t *allowed) {
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        bool is_banned = !is_allowed(allowed, i);

        for (size_t j = 0; !is_banned && j < n_banned; j++)
            is_banned = banned[j] == (int32_t)i;
        if (!is_banned)
            return (int32_t)i;
    }
    return allowed ? -1 : 0;
}

void sampler_sample(Sampler *s, float *logits, const int32_t *banned, size_t n_banned,
                    const uint64_t *allowed, struct sampled *ret) {
    uint32_t i_best;
    float best;

    *ret = (struct sampled){.n_top = MIN(s->n_logprobs, s->n_vocab)};
    if (s->raw)
        (void)memcpy(s->raw, logits, s->n_vocab * sizeof(*logits));
    adjust(s, logits, banned, n_banned, allowed);
    best = find_best(logits, s->n_vocab, &i_best);
    if (best == -INFINITY)
        ret->token = first_allowed(s, banned, n_banned, allowed);
    else if (s->choices)
        ret->token = choose(s, logits, (double)best);
    else
        ret->token = (int32_t)i_best;
    if (s->raw && ret->token >= 0)
        sampler_score(s->raw, s->n_vocab, ret->token, &ret->logprob, ret->top, ret->n_top);
}
