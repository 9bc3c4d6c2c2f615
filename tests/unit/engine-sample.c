/*
 * engine/sample: every stage against a plain version in double precision that sorts everything, and
 * what is drawn against the exact probabilities.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/sample.h"
#include "tests/util/test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_VOCAB 24

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static float random_logit(uint64_t *state, float scale) {
    return ((float)next_random(state) * 0x1p-30f - 1) * scale;
}

static void random_logits(uint64_t *state, float *logits, size_t n, float scale) {
    for (size_t i = 0; i < n; i++)
        logits[i] = random_logit(state, scale);
}

/* What gk_params_default() gives, written out: the engine is not needed here. */
static struct gk_params neutral(void) {
    return (struct gk_params){.top_p = 1, .repetition_penalty = 1};
}

static Sampler *make(const struct gk_params *p, uint32_t n_vocab) {
    Sampler *s;
    Error error = ERROR_INIT;

    if (sampler_check(p, n_vocab, &error))
        (void)printf("# %s\n", error.text);
    assert(sampler_check(p, n_vocab, NULL) == 0);
    assert(sampler_new(&s, p, n_vocab) == 0);
    return s;
}

static int32_t sample(Sampler *s, const float *logits, uint32_t n_vocab) {
    float *copy = malloc(n_vocab * sizeof(*copy));
    struct sampled r;

    assert(copy);
    (void)memcpy(copy, logits, n_vocab * sizeof(*copy));
    sampler_sample(s, copy, NULL, 0, NULL, &r);
    assert(r.token >= 0 && (uint32_t)r.token < n_vocab);
    free(copy);
    return r.token;
}

/* ---- the plain version ---- */

struct choice {
    double logit, p;
    int32_t token;
};

static int by_logit(const void *a, const void *b) {
    const struct choice *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->token - y->token;
}

static void normalise(struct choice *c, size_t n) {
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += c[i].p;
    for (size_t i = 0; i < n; i++)
        c[i].p /= sum;
}

/* Probabilities by token, 0 where a filter took it out. */
static void plain_probabilities(const struct gk_params *p, const float *logits, size_t n_vocab,
                                double *ret) {
    struct choice *c = calloc(n_vocab, sizeof(*c));
    size_t n = n_vocab, n_kept = 0;
    double sum = 0;

    assert(c);
    for (size_t i = 0; i < n_vocab; i++)
        c[i] = (struct choice){.logit = (double)logits[i], .token = (int32_t)i};
    qsort(c, n, sizeof(*c), by_logit);
    for (size_t i = 0; i < n; i++)
        c[i].p = exp((c[i].logit - c[0].logit) / (double)p->temperature);
    while (n_kept < n && c[n_kept].p > 0 && c[n_kept].p >= (double)p->min_p)
        n_kept++;
    n = n_kept;
    if (p->top_k > 0)
        n = MIN(n, (size_t)p->top_k);
    normalise(c, n);
    for (n_kept = 0; n_kept < n && (p->top_p == 1 || sum < (double)p->top_p); n_kept++)
        sum += c[n_kept].p;
    normalise(c, n_kept);
    (void)memset(ret, 0, n_vocab * sizeof(*ret));
    for (size_t i = 0; i < n_kept; i++)
        ret[c[i].token] = c[i].p;
    free(c);
}

/* ---- drawing ---- */

#define N_DRAWS 40000

/* Pearson's statistic; classes of fewer than 5 expected draws are put together. Returns it in
 * standard deviations above its mean (Wilson and Hilferty). */
static double surprise(const double *p, const unsigned *n_drawn, size_t n) {
    double statistic = 0, rest = 0, n_rest = 0, k = -1, x;

    for (size_t i = 0; i < n; i++) {
        double expected = p[i] * N_DRAWS, d = n_drawn[i] - expected;

        assert(p[i] > 0 || n_drawn[i] == 0);
        if (expected < 5) {
            rest += expected;
            n_rest += n_drawn[i];
            continue;
        }
        statistic += d * d / expected;
        k++;
    }
    if (rest >= 5) {
        statistic += (n_rest - rest) * (n_rest - rest) / rest;
        k++;
    }
    if (k < 1)
        return 0;
    x = cbrt(statistic / k);
    return (x - (1 - 2 / (9 * k))) / sqrt(2 / (9 * k));
}

static void test_distributions(void) {
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } settings[] = {
        {1, 1, 0, 0},        {0.5f, 1, 0, 0},     {2, 1, 0, 0},
        {1, 1, 0, 1},        {1, 1, 0, 7},        {1, 1, 0, 23},
        {1, 1, 0, 1000},     {1, 0.9f, 0, 0},     {1, 0.5f, 0, 0},
        {1, 0.0001f, 0, 0},  {1, 0.9999f, 0, 0},  {1, 1, 0.1f, 0},
        {1, 1, 1, 0},        {1.5f, 0.8f, 0, 10}, {0.7f, 0.6f, 0.05f, 12},
        {3, 0.95f, 0.2f, 5}, {100, 1, 0, 0},      {0.01f, 1, 0, 0},
        {1e-30f, 1, 0, 0},   {1, 0.3f, 0.01f, 3},
    };
    double p[N_VOCAB], worst = 0;
    float logits[N_VOCAB];
    uint64_t state = 3;

    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        struct gk_params params = neutral();
        unsigned n_drawn[N_VOCAB] = {0};
        double surprised;
        Sampler *s;

        params.temperature = settings[i].temperature;
        params.top_p = settings[i].top_p;
        params.min_p = settings[i].min_p;
        params.top_k = settings[i].top_k;
        params.seed = i;
        random_logits(&state, logits, N_VOCAB, 3);
        plain_probabilities(&params, logits, N_VOCAB, p);
        s = make(&params, N_VOCAB);
        for (unsigned j = 0; j < N_DRAWS; j++)
            n_drawn[sample(s, logits, N_VOCAB)]++;
        surprised = surprise(p, n_drawn, N_VOCAB);
        worst = MAX(worst, surprised);
        if (surprised > 4)
            (void)printf("# setting %zu: %g standard deviations\n", i, surprised);
        (void)sampler_free(s);
    }
    (void)printf("# at most %g standard deviations\n", worst);
    assert(worst < 4);
}

/* Large vocabularies: what is drawn is what the plain version keeps. */
static void test_filters_at_size(void) {
    enum { N = 131072 };
    float *logits = malloc(N * sizeof(*logits));
    double *p = malloc(N * sizeof(*p));
    uint64_t state = 9;

    assert(logits && p);
    for (unsigned i = 0; i < 12; i++) {
        struct gk_params params = neutral();
        Sampler *s;

        random_logits(&state, logits, N, 10);
        params.temperature = 0.5f + (float)(i % 4) * 0.5f;
        params.top_k = i % 3 == 0 ? 0 : 1u << i;
        params.top_p = i % 2 == 0 ? 0.9f : 1;
        params.min_p = i % 4 == 3 ? 0.02f : 0;
        params.seed = i;
        plain_probabilities(&params, logits, N, p);
        s = make(&params, N);
        for (unsigned j = 0; j < 20; j++)
            assert(p[sample(s, logits, N)] > 0);
        (void)sampler_free(s);
    }
    free(logits);
    free(p);
}

/* Equal logits at the border: the lowest ids stay. */
static void test_ties(void) {
    float logits[N_VOCAB];
    struct gk_params params = neutral();
    unsigned n_drawn[N_VOCAB] = {0};
    Sampler *s;

    for (size_t i = 0; i < N_VOCAB; i++)
        logits[i] = i == 20 ? 1 : 0;
    params.temperature = 1;
    params.top_k = 4;
    s = make(&params, N_VOCAB);
    for (unsigned i = 0; i < 500; i++)
        n_drawn[sample(s, logits, N_VOCAB)]++;
    assert(n_drawn[20] && n_drawn[0] && n_drawn[1] && n_drawn[2]);
    assert(n_drawn[20] + n_drawn[0] + n_drawn[1] + n_drawn[2] == 500);
    (void)sampler_free(s);
    params.temperature = 0;
    s = make(&params, N_VOCAB);
    assert(sample(s, logits, N_VOCAB) == 20);
    logits[3] = logits[7] = 1;
    assert(sample(s, logits, N_VOCAB) == 3);
    (void)sampler_free(s);
}

/* ---- the generator ---- */

/* xoshiro256** seeded by splitmix64(1234567), computed elsewhere; equal weights are walked from the
 * last id. */
static void test_generator(void) {
    static const int32_t expected[] = {207, 230, 238, 20, 95, 143, 26, 163, 166, 207, 63, 179};
    static const float logits[256];
    struct gk_params params = neutral();
    Sampler *s;

    params.temperature = 1;
    params.seed = 1234567;
    s = make(&params, 256);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        assert(sample(s, logits, 256) == expected[i]);
    (void)sampler_free(s);
}

/* One draw a token, whatever is asked for besides. */
static void test_seeds(void) {
    struct gk_params params = neutral();
    float logits[N_VOCAB];
    uint64_t state = 4;
    unsigned n_different = 0;
    Sampler *a, *b, *c;

    params.temperature = 1;
    params.seed = 42;
    a = make(&params, N_VOCAB);
    params.n_logprobs = 3;
    b = make(&params, N_VOCAB);
    params.seed = 43;
    c = make(&params, N_VOCAB);
    for (unsigned i = 0; i < 200; i++) {
        int32_t token;

        /* Every other step has one choice only. */
        random_logits(&state, logits, N_VOCAB, i % 2 ? 2 : 1000);
        token = sample(a, logits, N_VOCAB);
        assert(sample(b, logits, N_VOCAB) == token);
        n_different += sample(c, logits, N_VOCAB) != token;
    }
    assert(n_different > 50);
    (void)sampler_free(a);
    (void)sampler_free(b);
    (void)sampler_free(c);
}

/* ---- logits ---- */

static void test_odd_logits(void) {
    struct gk_params params = neutral();
    float logits[6];
    struct sampled r;

    for (int drawn = 0; drawn < 2; drawn++) {
        Sampler *s;

        params.temperature = (float)drawn;
        params.n_logprobs = 3;
        s = make(&params, 6);
        (void)memcpy(logits, (float[]){NAN, -INFINITY, -3, NAN, -2000, NAN}, sizeof(logits));
        sampler_sample(s, logits, NULL, 0, NULL, &r);
        assert(r.token == 2 && r.logprob == 0);
        assert(r.n_top == 3 && r.top[0].token == 2 && r.top[1].token == 4 && r.top[2].token == 0);
        assert(r.top[1].logprob == -1997 && r.top[2].logprob == -INFINITY);

        (void)memcpy(logits, (float[]){0, INFINITY, 3, -INFINITY, NAN, FLT_MAX}, sizeof(logits));
        sampler_sample(s, logits, NULL, 0, NULL, &r);
        assert((r.token == 1 || (drawn && r.token == 5)) && fabsf(r.logprob + 0.6931472f) < 1e-6f);

        for (size_t i = 0; i < 6; i++)
            logits[i] = i % 2 ? NAN : -INFINITY;
        sampler_sample(s, logits, NULL, 0, NULL, &r);
        assert(r.token == 0 && r.logprob == -INFINITY);
        for (size_t i = 0; i < 6; i++)
            logits[i] = -INFINITY;
        sampler_sample(s, logits, (int32_t[]){0, 1, 3}, 3, NULL, &r);
        assert(r.token == 2);
        (void)sampler_free(s);
    }
}

static void test_banned(void) {
    struct gk_params params = neutral();
    float logits[4];
    struct sampled r;
    Sampler *s;

    for (int drawn = 0; drawn < 2; drawn++) {
        params.temperature = (float)drawn;
        s = make(&params, 4);
        for (unsigned i = 0; i < 100; i++) {
            (void)memcpy(logits, (float[]){1, 9, 8, 0}, sizeof(logits));
            sampler_sample(s, logits, (int32_t[]){1, 2}, 2, NULL, &r);
            assert(r.token == 0 || (drawn && r.token == 3));
        }
        (void)memcpy(logits, (float[]){1, 9, 8, 0}, sizeof(logits));
        sampler_sample(s, logits, (int32_t[]){2, 1, 0, 3}, 4, NULL, &r);
        assert(r.token == 0); /* there is always an answer */
        (void)sampler_free(s);
    }
}

/* ---- penalties and bias ---- */

static void test_penalties(void) {
    static const int32_t prompt[] = {0, 1, 2, 2}, output[] = {2, 3, 3, 3, 4};
    static const struct gk_logit_bias bias[] = {{5, 2.5f}, {0, -1}, {3, 4}, {6, -INFINITY}};
    struct gk_params params = neutral();
    uint64_t state = 8;

    params.repetition_penalty = 1.3f;
    params.presence_penalty = 0.7f;
    params.frequency_penalty = -0.25f;
    params.logit_bias = bias;
    params.n_logit_bias = ARRAY_SIZE(bias);
    for (unsigned i = 0; i < 300; i++) {
        float logits[8], expected[8];
        struct sampled r;
        Sampler *s = make(&params, 8);

        random_logits(&state, logits, 8, 4);
        for (int j = 0; j < 8; j++) {
            bool is_seen = j < 5;
            int n_output = j == 2 || j == 4 ? 1 : j == 3 ? 3 : 0;
            float x = logits[j] + (j == 5 ? 2.5f : j == 0 ? -1 : j == 3 ? 4 : 0);

            if (is_seen)
                x = x > 0 ? x / 1.3f : x * 1.3f;
            if (n_output > 0)
                x -= 0.7f - 0.25f * (float)n_output;
            expected[j] = j == 6 ? -INFINITY : x;
        }
        for (size_t j = 0; j < ARRAY_SIZE(prompt); j++)
            sampler_accept(s, prompt[j], true);
        for (size_t j = 0; j < ARRAY_SIZE(output); j++)
            sampler_accept(s, output[j], false);
        sampler_sample(s, logits, NULL, 0, NULL, &r);
        for (int j = 0; j < 8; j++) {
            assert(logits[j] == expected[j] || fabsf(logits[j] - expected[j]) < 1e-5f);
            assert(logits[r.token] >= logits[j]);
        }
        (void)sampler_free(s);
    }
}

/* ---- log-probabilities ---- */

static void test_logprobs(void) {
    float logits[1000], raw[1000];
    struct gk_params params = neutral();
    struct gk_logit_bias bias = {17, 50};
    uint64_t state = 12;
    Sampler *s;

    params.temperature = 0.3f; /* none of these changes what is reported */
    params.top_k = 5;
    params.repetition_penalty = 1.5f;
    params.logit_bias = &bias;
    params.n_logit_bias = 1;
    params.n_logprobs = GK_LOGPROBS_MAX;
    s = make(&params, 1000);
    for (unsigned i = 0; i < 100; i++) {
        struct choice sorted[1000];
        struct sampled r;
        double sum = 0;

        random_logits(&state, logits, 1000, 0.1f + (float)(i % 30));
        (void)memcpy(raw, logits, sizeof(raw));
        for (int32_t j = 0; j < 1000; j++) {
            if (i % 2)
                raw[j] = logits[j] = rintf(logits[j]); /* many ties */
            sorted[j] = (struct choice){.logit = (double)raw[j], .token = j};
        }
        qsort(sorted, 1000, sizeof(*sorted), by_logit);
        for (size_t j = 0; j < 1000; j++)
            sum += exp(sorted[j].logit - sorted[0].logit);
        sum = sorted[0].logit + log(sum);
        sampler_sample(s, logits, NULL, 0, NULL, &r);
        assert(fabs((double)r.logprob - ((double)raw[r.token] - sum)) < 1e-5);
        assert(r.n_top == GK_LOGPROBS_MAX);
        for (size_t j = 0; j < r.n_top; j++) {
            assert(r.top[j].token == sorted[j].token);
            assert(fabs((double)r.top[j].logprob - (sorted[j].logit - sum)) < 1e-5);
        }
        sampler_accept(s, r.token, false);
    }
    (void)sampler_free(s);
}

/* All log-probabilities of a row add up to 1, from flat to steep. */
static void test_score(void) {
    float logits[500], logprob, scale = 0.001f;
    uint64_t state = 2;

    for (unsigned i_scale = 0; i_scale < 19; i_scale++, scale *= 3) {
        struct gk_logprob top[3];
        double sum = 0;

        random_logits(&state, logits, 500, scale);
        for (int32_t i = 0; i < 500; i++) {
            sampler_score(logits, 500, i, &logprob, top, 3);
            assert(logprob <= 0 && top[0].logprob >= logprob);
            sum += exp((double)logprob);
        }
        assert(fabs(sum - 1) < 1e-5);
    }
    sampler_score(logits, 2, 1, &logprob, NULL, 0); /* no alternatives */
    assert(isfinite(logprob));
}

/* ---- checking ---- */

static void assert_refused(const struct gk_params *p, const char *reason) {
    Error error = ERROR_INIT;
    int r = sampler_check(p, N_VOCAB, &error);

    if (r != GK_E_INVALID || !strstr(error.text, reason))
        (void)printf("# %d, \"%s\" without \"%s\"\n", r, error.text, reason);
    assert(r == GK_E_INVALID && strstr(error.text, reason));
}

#define REFUSE(field, value, reason)                                                               \
    do {                                                                                           \
        struct gk_params _p = neutral();                                                           \
        _p.field = (value);                                                                        \
        assert_refused(&_p, reason);                                                               \
    } while (0)

static void test_numbers_checked(void) {
    REFUSE(mode, (enum gk_mode)7, "mode is 7");
    REFUSE(temperature, -0.1f, "temperature is -0.1, not from 0 to 100");
    REFUSE(temperature, 100.5f, "temperature is 100.5");
    REFUSE(temperature, NAN, "temperature is");
    REFUSE(top_p, 0, "top_p is 0, not above 0 and at most 1");
    REFUSE(top_p, 1.01f, "top_p is 1.01");
    REFUSE(top_p, NAN, "top_p is");
    REFUSE(min_p, -0.5f, "min_p is -0.5, not from 0 to 1");
    REFUSE(min_p, 1.5f, "min_p is 1.5");
    REFUSE(min_p, NAN, "min_p is");
    REFUSE(repetition_penalty, 0, "repetition_penalty is 0, not above 0 and at most 100");
    REFUSE(repetition_penalty, INFINITY, "repetition_penalty is inf");
    REFUSE(repetition_penalty, NAN, "repetition_penalty is");
    REFUSE(presence_penalty, 2.1f, "presence_penalty is 2.1, not from -2 to 2");
    REFUSE(presence_penalty, NAN, "presence_penalty is");
    REFUSE(frequency_penalty, -3, "frequency_penalty is -3, not from -2 to 2");
    REFUSE(frequency_penalty, -INFINITY, "frequency_penalty is -inf");
    REFUSE(n_logprobs, 21, "n_logprobs is 21, more than 20");
}

static void test_lists_checked(void) {
    static const struct gk_logit_bias good[] = {{0, -100}, {23, 100}, {3, -INFINITY}};
    static const float bad[] = {100.5f, -101, NAN, INFINITY};
    struct gk_string strings[65];
    struct gk_params p = neutral();
    int32_t tokens[65] = {0};
    char long_string[257];

    p.stop_tokens = tokens;
    p.stop_strings = p.banned_strings = strings;
    p.n_stop_tokens = 65;
    assert_refused(&p, "stop_tokens has 65 tokens, more than 64");
    p.n_stop_tokens = 2;
    tokens[1] = N_VOCAB;
    assert_refused(&p, "token 1 of stop_tokens is 24; the vocabulary has 0 to 23");
    tokens[1] = -1;
    assert_refused(&p, "token 1 of stop_tokens is -1");
    p.n_stop_tokens = 1;

    (void)memset(long_string, 'x', sizeof(long_string));
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        strings[i] = (struct gk_string){long_string, 256};
    p.n_stop_strings = 17;
    assert_refused(&p, "stop_strings has 17 strings, more than 16");
    p.n_stop_strings = 16;
    p.n_banned_strings = 65;
    assert_refused(&p, "banned_strings has 65 strings, more than 64");
    p.n_banned_strings = 64;
    assert(sampler_check(&p, N_VOCAB, NULL) == 0);
    strings[20].n = 257;
    assert_refused(&p, "string 20 of banned_strings has 257 bytes, not 1 to 256");
    strings[2].n = 0;
    assert_refused(&p, "string 2 of stop_strings has 0 bytes");
    strings[2] = (struct gk_string){"a\xff", 2};
    assert_refused(&p, "string 2 of stop_strings is not valid UTF-8");
    strings[2] = (struct gk_string){"a\0b", 3};
    assert_refused(&p, "string 2 of stop_strings is not valid UTF-8 without zero bytes");
    p.n_stop_strings = p.n_banned_strings = 0;

    p.logit_bias = good;
    p.n_logit_bias = GK_LOGIT_BIAS_MAX + 1;
    assert_refused(&p, "logit_bias has 1025 tokens, more than 1024");
    p.n_logit_bias = ARRAY_SIZE(good);
    assert(sampler_check(&p, N_VOCAB, NULL) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct gk_logit_bias bias = {1, bad[i]};

        p.logit_bias = &bias;
        p.n_logit_bias = 1;
        assert_refused(&p, "bias 0 of logit_bias is");
        bias = (struct gk_logit_bias){N_VOCAB, 1};
        assert_refused(&p, "token 0 of logit_bias is 24");
    }
}

static void test_allocation_failures(void) {
    static const struct gk_logit_bias bias = {1, 1};
    struct gk_params params = neutral();

    params.temperature = 1;
    params.presence_penalty = 1;
    params.logprobs = true;
    params.logit_bias = &bias;
    params.n_logit_bias = 1;
    for (size_t i = 1;; i++) {
        Sampler *s = NULL;
        int r;

        alloc_fail_after(i);
        r = sampler_new(&s, &params, N_VOCAB);
        alloc_fail_after(0);
        (void)sampler_free(s);
        if (r == 0) {
            assert(i == 7); /* six of them */
            break;
        }
        assert(r == -ENOMEM && !s);
    }
}

static const struct test tests[] = {
    TEST(distributions),
    TEST(filters_at_size),
    TEST(ties),
    TEST(generator),
    TEST(seeds),
    TEST(odd_logits),
    TEST(banned),
    TEST(penalties),
    TEST(logprobs),
    TEST(score),
    TEST(numbers_checked),
    TEST(lists_checked),
    TEST(allocation_failures),
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
