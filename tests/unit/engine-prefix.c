/* The prefix cache: what is found, by whom, and that no bit of an answer depends on it. */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/engine.h"
#include "tests/util/test.h"

#include <errno.h>
#include <string.h>

#define MODEL    "engine/demo/model-q8_0.gguf"
#define N_PAGES  24
#define N_PROMPT 300
#define N_OUTPUT 40

static GkPool *pool;

static GkEngine *open_pages(bool prefix_cache, uint64_t n_pages) {
    struct gk_options o = {.path = MODEL, .prefix_cache = prefix_cache};
    GkEngine *e;

    if (!pool)
        assert(gk_pool_new(&pool, 2, NULL) == 0);
    o.pool = pool;
    assert(gk_engine_open(&e, &o, NULL) == 0);
    o.kv_bytes_max = n_pages * 64 * gk_engine_info(e)->n_kv_bytes_per_token;
    e = gk_engine_close(e);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    return e;
}

static GkEngine *open_engine(bool prefix_cache) {
    return open_pages(prefix_cache, N_PAGES);
}

static uint32_t random_below(uint32_t n) {
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % n;
}

/* Token i of family f: families are the same up to position f, and then are not. */
static void make_prompt(int32_t *tokens, size_t n, size_t family) {
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(300 + (i * 37 + (i >= family ? family + 1 : 0) * 11) % 3000);
}

struct answer {
    int32_t tokens[N_OUTPUT];
    struct gk_logprob logprobs[N_OUTPUT];
    size_t n, n_cached;
};

static GkSeq *begin(GkEngine *e, const int32_t *tokens, size_t n, uint64_t owner, bool share) {
    struct gk_params params = gk_params_default();
    GkSeq *seq;

    params.n_tokens_max = N_OUTPUT;
    params.temperature = 0.9f;
    params.seed = 5;
    params.ignore_eos = true;
    params.logprobs = true;
    params.owner = owner;
    params.share_prefix = share;
    assert(gk_seq_new(&seq, e, tokens, n, &params, NULL) == 0);
    return seq;
}

static void finish(GkEngine *e, GkSeq *seq, struct answer *ret) {
    struct gk_result result = {.finish = GK_FINISH_NONE};

    *ret = (struct answer){.n_cached = gk_seq_n_cached(seq)};
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {seq, 1 + random_below((uint32_t)gk_seq_n_pending(seq))};

        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        if (!result.has_token)
            continue;
        assert(ret->n < N_OUTPUT);
        ret->logprobs[ret->n] = (struct gk_logprob){result.token, result.logprob};
        ret->tokens[ret->n++] = result.token;
    }
    seq = gk_seq_free(seq);
}

static void ask(GkEngine *e, const int32_t *tokens, size_t n, uint64_t owner, bool share,
                struct answer *ret) {
    finish(e, begin(e, tokens, n, owner, share), ret);
}

static void assert_same(const struct answer *a, const struct answer *b) {
    assert(a->n == b->n && memcmp(a->tokens, b->tokens, sizeof(a->tokens)) == 0 &&
           memcmp(a->logprobs, b->logprobs, sizeof(a->logprobs)) == 0);
}

static void assert_all_available(const GkEngine *e) {
    uint64_t n_free, n;

    gk_engine_kv_pages(e, &n_free, &n);
    assert(n_free == n && n == N_PAGES);
}

/* Whole pages are shared, the page where prompts part is copied, and the last token always runs. */
static void test_finds_the_longest_beginning(void) {
    static const struct {
        size_t family, n, n_cached;
    } cases[] = {
        {N_PROMPT, N_PROMPT, 0},            /* nothing is there yet */
        {N_PROMPT, N_PROMPT, N_PROMPT - 1}, /* the same */
        {200, N_PROMPT, 200},               /* parts from it within a page */
        {200, N_PROMPT, N_PROMPT - 1},      /* and is known now */
        {128, N_PROMPT, 128},               /* parts at a page's end */
        {0, N_PROMPT, 0},                   /* nothing in common */
        {N_PROMPT, 130, 129},               /* a beginning of what is there */
        {N_PROMPT, 64, 63},
        {N_PROMPT, 65, 64},
        {N_PROMPT, 1, 0},
    };
    GkEngine *cached = open_engine(true), *plain = open_engine(false);
    int32_t tokens[N_PROMPT];
    struct answer a, b;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        make_prompt(tokens, N_PROMPT, cases[i].family);
        ask(cached, tokens, cases[i].n, 1, false, &a);
        ask(plain, tokens, cases[i].n, 1, false, &b);
        assert(a.n_cached == cases[i].n_cached && b.n_cached == 0);
        assert_same(&a, &b);
        assert_all_available(cached);
    }
    cached = gk_engine_close(cached);
    plain = gk_engine_close(plain);
}

/* A conversation: the next prompt is the last one, its answer, and something new. */
static void test_an_answer_is_part_of_it(void) {
    GkEngine *cached = open_engine(true);
    int32_t tokens[N_PROMPT];
    struct answer a;
    size_t n = 100;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(cached, tokens, n, 1, false, &a);
    (void)memcpy(tokens + n, a.tokens, sizeof(a.tokens));
    n += N_OUTPUT + 5;
    ask(cached, tokens, n, 1, false, &a);
    assert(a.n_cached == 100 + N_OUTPUT - 1); /* the last token was never an input */
    cached = gk_engine_close(cached);
}

/* What is shared is the prompt: the answer can't be found by asking for the prompt and a guess. */
static void test_answers_are_not_shared(void) {
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    struct answer a;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, 100, 1, true, &a);
    (void)memcpy(tokens + 100, a.tokens, sizeof(a.tokens));
    ask(e, tokens, 100 + N_OUTPUT, 2, false, &a);
    assert(a.n_cached == 64);
    e = gk_engine_close(e);
}

static void test_owners_are_kept_apart(void) {
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT], other[N_PROMPT];
    struct answer a;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    make_prompt(other, N_PROMPT, 0);
    ask(e, tokens, N_PROMPT, 1, false, &a);
    ask(e, tokens, N_PROMPT, 2, false, &a);
    assert(a.n_cached == 0);
    ask(e, tokens, N_PROMPT, 1, false, &a);
    assert(a.n_cached == N_PROMPT - 1);
    ask(e, other, N_PROMPT, 1, true, &a);
    ask(e, other, N_PROMPT, 2, false, &a);
    assert(a.n_cached == N_PROMPT / 64 * 64); /* whole pages, so that no token can be guessed */
    ask(e, other, N_PROMPT, 2, false, &a);
    assert(a.n_cached == N_PROMPT - 1);
    ask(e, tokens, N_PROMPT, 1, true, &a); /* what was private is shared from now on */
    ask(e, tokens, N_PROMPT, 3, false, &a);
    assert(a.n_cached / 64 == N_PROMPT / 64);
    e = gk_engine_close(e);
}

/* Who shares has what nobody else can ask for in part, however far the prompt came. */
static void test_given_up_while_shared(void) {
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    struct gk_result result;
    struct answer a;
    GkSeq *seq;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    seq = begin(e, tokens, N_PROMPT, 1, true);
    assert(gk_step(e, &(struct gk_plan){&(struct gk_plan_row){seq, 100}, 1}, &result) == 0);
    seq = gk_seq_free(seq);
    ask(e, tokens, N_PROMPT, 2, false, &a);
    assert(a.n_cached == 64);
    ask(e, tokens, N_PROMPT, 1, false, &a);
    assert(a.n_cached == 100);
    e = gk_engine_close(e);
}

/* The same was shared by another before: what hangs on that is still found. */
static void test_shared_twice(void) {
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    struct answer a;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, 80, 1, false, &a);
    ask(e, tokens, N_PROMPT, 2, true, &a);
    ask(e, tokens, 80, 1, true, &a);
    ask(e, tokens, N_PROMPT, 3, false, &a);
    assert(a.n_cached == N_PROMPT / 64 * 64);
    e = gk_engine_close(e);
}

/* Scores need every row's logits, and leave pages for prompts. */
static void test_scores_compute_everything(void) {
    struct gk_params params = gk_params_default();
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    struct answer a;
    GkSeq *seq;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, N_PROMPT, 0, false, &a);
    params.mode = GK_SCORE;
    assert(gk_seq_new(&seq, e, tokens, N_PROMPT, &params, NULL) == 0);
    assert(gk_seq_n_cached(seq) == 0 && gk_seq_n_pending(seq) == N_PROMPT);
    seq = gk_seq_free(seq);
    e = gk_engine_close(e);
}

static void assert_available(const GkEngine *e, uint64_t n) {
    uint64_t n_free, n_all;

    gk_engine_kv_pages(e, &n_free, &n_all);
    assert(n_free == n);
}

/* Only what a sequence comes to pushes something out, however much it may come to need. */
static void test_promises_push_nothing_out(void) {
    struct gk_params params = gk_params_default();
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT], other[N_PROMPT];
    GkSeq *seq, *second;
    struct answer a;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    make_prompt(other, N_PROMPT, 0);
    ask(e, tokens, N_PROMPT, 1, false, &a);
    assert(params.n_tokens_max == 0);
    assert(gk_seq_check(e, other, 100, &params, NULL) == 0);
    assert_all_available(e);
    assert(gk_seq_new(&seq, e, other, 100, &params, NULL) == 0);
    assert_available(e, 0);
    assert(gk_seq_new(&second, e, other, 1, &params, NULL) == GK_E_BUSY);
    assert(gk_seq_check(e, other, 1, &params, NULL) == 0);
    seq = gk_seq_free(seq);
    ask(e, tokens, N_PROMPT, 1, false, &a);
    assert(a.n_cached == N_PROMPT - 1);
    e = gk_engine_close(e);
}

/* Allocations of a sequence that finds no pages: itself, its tokens, the list of pages. */
#define N_REFUSED_ALLOCATIONS 3

/* Who waits for pages asks again and again: nothing more is made for it before it has them. And
 * whatever can't be made then, they are given back. */
static void test_pages_come_first(void) {
    struct gk_params params = gk_params_default();
    GkConstraint *constraint;
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    GkSeq *seq, *second = NULL;
    int r;

    make_prompt(tokens, N_PROMPT, 0);
    assert(gk_constraint_new(&constraint, GK_CONSTRAINT_REGEX, "[a-z]+", 6, NULL) == 0);
    assert(gk_seq_new(&seq, e, tokens, 100, &params, NULL) == 0);
    params.constraint = constraint;
    params.speculate = true;
    alloc_fail_after(N_REFUSED_ALLOCATIONS + 1);
    r = gk_seq_new(&second, e, tokens, N_PROMPT, &params, NULL);
    alloc_fail_after(0);
    assert(r == GK_E_BUSY);
    seq = gk_seq_free(seq);
    for (size_t n = 1;; n++) {
        alloc_fail_after(n);
        r = gk_seq_new(&second, e, tokens, N_PROMPT, &params, NULL);
        alloc_fail_after(0);
        if (r == 0)
            break;
        assert(r == -ENOMEM && !second);
        assert_all_available(e);
    }
    second = gk_seq_free(second);
    assert_all_available(e);
    (void)gk_constraint_unref(constraint);
    e = gk_engine_close(e);
}

/* Every page is in use for something else when it comes to them: they are had all the same. */
static void test_promises_are_kept(void) {
    struct gk_params params = gk_params_default();
    struct gk_result result = {.finish = GK_FINISH_NONE};
    GkEngine *e = open_engine(true);
    int32_t tokens[N_PROMPT];
    GkSeq *whole, *held;
    struct answer a;
    size_t n = 0;

    for (size_t f = 0; f < 6; f++) {
        make_prompt(tokens, N_PROMPT, f * 30);
        ask(e, tokens, N_PROMPT, 1, false, &a);
    }
    make_prompt(tokens, N_PROMPT, N_PROMPT);
    held = begin(e, tokens, N_PROMPT, 1, false);
    make_prompt(tokens, N_PROMPT, 0);
    params.n_tokens_max = (N_PAGES - (N_PROMPT + N_OUTPUT + 63) / 64) * 64 - 200;
    params.ignore_eos = true;
    params.owner = 2;
    assert(gk_seq_new(&whole, e, tokens, 200, &params, NULL) == 0);
    assert_available(e, 0);
    make_prompt(tokens, N_PROMPT, 60);
    params.n_tokens_max = 8;
    params.owner = 1;
    assert(gk_seq_new(&(GkSeq *){NULL}, e, tokens, N_PROMPT, &params, NULL) == GK_E_BUSY);
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {whole, (uint32_t)gk_seq_n_pending(whole)};

        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        n += result.has_token;
    }
    assert(n == (N_PAGES - (N_PROMPT + N_OUTPUT + 63) / 64) * 64 - 200);
    finish(e, held, &a);
    whole = gk_seq_free(whole);
    assert_all_available(e);
    e = gk_engine_close(e);
}

/* A page whose beginning would be copied may be the one that the copy needs. */
static void test_all_pages_for_one(void) {
    struct gk_params params = gk_params_default();
    GkEngine *e = open_pages(true, 2);
    int32_t tokens[N_PROMPT];
    struct answer a;
    GkSeq *seq;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, 80, 1, false, &a);
    tokens[70]++;
    params.owner = 1;
    params.n_tokens_max = 20;
    assert(gk_seq_new(&seq, e, tokens, 100, &params, NULL) == 0);
    assert(gk_seq_n_cached(seq) == 64);
    seq = gk_seq_free(seq);
    e = gk_engine_close(e);
}

/* However many others begin where one's own prompt does. */
static void test_others_are_not_looked_at(void) {
    enum { N_OTHERS = 200, N_SHORT = 20 };
    GkEngine *e = open_pages(true, N_OTHERS + 4);
    int32_t tokens[N_PROMPT];
    struct answer a;

    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, N_SHORT, 1, false, &a);
    for (uint32_t i = 0; i < N_OTHERS; i++) {
        struct gk_plan_row row;
        struct gk_result result;
        GkSeq *seq;

        tokens[N_SHORT - 1] = (int32_t)(500 + i);
        seq = begin(e, tokens, N_SHORT, 2 + i % 3, i % 2);
        row = (struct gk_plan_row){seq, (uint32_t)gk_seq_n_pending(seq)};
        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        seq = gk_seq_free(seq);
    }
    make_prompt(tokens, N_PROMPT, N_PROMPT);
    ask(e, tokens, N_SHORT, 1, false, &a);
    assert(a.n_cached == N_SHORT - 1);
    e = gk_engine_close(e);
}

/* Sequences of many prompts, some alive together, suspended and freed at random, in fewer pages
 * than they would like: the pages are all there in the end, and answers are those without a cache.
 */
static void test_random_company_under_pressure(void) {
    enum { N_ALIVE = 3, N_ROUNDS = 400, N_FAMILIES = 12 };
    static struct answer expected[N_FAMILIES];
    GkEngine *e = open_engine(true), *plain = open_engine(false);
    GkSeq *alive[N_ALIVE] = {0};
    bool is_suspended[N_ALIVE] = {0};
    size_t family[N_ALIVE] = {0}, n_answers = 0, n_hits = 0;
    int32_t tokens[N_PROMPT];

    for (size_t f = 0; f < N_FAMILIES; f++) {
        make_prompt(tokens, N_PROMPT, f * 25);
        ask(plain, tokens, 60 + f * 20, 1, false, &expected[f]);
    }
    for (int round = 0; round < N_ROUNDS; round++) {
        uint32_t i = random_below(N_ALIVE);
        struct answer a;

        if (!alive[i]) {
            family[i] = random_below(N_FAMILIES);
            make_prompt(tokens, N_PROMPT, family[i] * 25);
            alive[i] = begin(e, tokens, 60 + family[i] * 20, 1, random_below(4) == 0);
            is_suspended[i] = false;
            n_hits += gk_seq_n_cached(alive[i]) > 0;
        } else if (is_suspended[i]) {
            assert(gk_seq_resume(alive[i], NULL) == 0);
            is_suspended[i] = false;
        } else if (random_below(3) == 0) {
            gk_seq_suspend(alive[i]);
            is_suspended[i] = true;
        } else if (random_below(4) == 0) {
            alive[i] = gk_seq_free(alive[i]);
        } else if (gk_seq_n_pending(alive[i]) > 1 && random_below(2) == 0) {
            struct gk_plan_row row = {alive[i],
                                      1 + random_below((uint32_t)gk_seq_n_pending(alive[i]) - 1)};
            struct gk_result result;

            assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0 && !result.has_token);
        } else {
            finish(e, alive[i], &a);
            alive[i] = NULL;
            assert_same(&a, &expected[family[i]]);
            n_answers++;
        }
    }
    for (size_t i = 0; i < N_ALIVE; i++)
        alive[i] = gk_seq_free(alive[i]);
    assert(n_answers > 20 && n_hits > 20);
    assert_all_available(e);
    e = gk_engine_close(e);
    plain = gk_engine_close(plain);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(finds_the_longest_beginning),
        TEST(an_answer_is_part_of_it),
        TEST(answers_are_not_shared),
        TEST(owners_are_kept_apart),
        TEST(given_up_while_shared),
        TEST(shared_twice),
        TEST(scores_compute_everything),
        TEST(promises_push_nothing_out),
        TEST(pages_come_first),
        TEST(promises_are_kept),
        TEST(all_pages_for_one),
        TEST(others_are_not_looked_at),
        TEST(random_company_under_pressure),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
