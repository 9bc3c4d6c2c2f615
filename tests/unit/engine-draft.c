/*
 * Speculation: drafts against a plain search, and sequences with drafts, right and wrong ones,
 * against the same sequences without, to the last bit.
 */
#include "base/alloc.h"
#include "engine/draft.h"
#include "engine/engine.h"
#include "tests/util/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEMO      "engine/demo/model-q8_0.gguf"
#define GROK      "tests/golden/grok/model-q8_0.gguf"
#define N_CONTEXT 192
#define N_JOBS    8

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    assert(n > 0);
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

/* ---- finding ---- */

/* The same, by looking everywhere: the newest of the longest. */
static size_t find_plainly(const int32_t *tokens, size_t n) {
    size_t best = 0, n_best = DRAFT_MATCH_MIN - 1;

    for (size_t place = n - 1; place >= DRAFT_MATCH_MIN; place--) {
        size_t n_here = 0;

        while (n_here < place && n_here < DRAFT_MATCH_MAX &&
               tokens[place - 1 - n_here] == tokens[n - 1 - n_here])
            n_here++;
        if (n_here > n_best) {
            n_best = n_here;
            best = place;
        }
    }
    return best;
}

static void check_text(uint32_t n_vocab, size_t n_max) {
    int32_t *tokens = alloc_array(n_max + GK_DRAFT_MAX, sizeof(*tokens)), expected[GK_DRAFT_MAX];
    size_t n = 0, n_found = 0;
    Drafter d;

    assert(drafter_init(&d, n_max) == 0);
    while (n < n_max) {
        size_t n_new = 1 + random_below(9), from = n > 40 ? random_below((uint32_t)n - 20) : 0,
               place;

        /* now and then something is said again */
        for (size_t i = 0; i < n_new && n < n_max; i++, n++)
            tokens[n] = from > 0 && n_new > 4 ? tokens[from + i] : (int32_t)random_below(n_vocab);
        if (n >= n_max || n <= DRAFT_MATCH_MIN)
            continue;
        place = find_plainly(tokens, n);
        if (place == 0) {
            assert(drafter_find(&d, tokens, n, GK_DRAFT_MAX) == 0);
            continue;
        }
        for (size_t i = 0; i < GK_DRAFT_MAX; i++)
            expected[i] = place + i < n ? tokens[place + i] : expected[place + i - n];
        assert(drafter_find(&d, tokens, n, GK_DRAFT_MAX) == GK_DRAFT_MAX);
        assert(memcmp(tokens + n, expected, sizeof(expected)) == 0);
        n_found++;
    }
    assert(n_found > 0);
    drafter_deinit(&d);
    free(tokens);
}

static void test_finds_the_longest(void) {
    random_state = 88172645463325252ull;
    for (int i = 0; i < 200; i++)
        check_text(2 + random_below(4) * 10, 60 + random_below(140));
    check_text(1000, 3000);
}

/* More places than are looked at: what is found is right, if not the best. */
static void test_looks_at_some_places_only(void) {
    enum { N = 100000 };
    int32_t *tokens = alloc_array(N + GK_DRAFT_MAX, sizeof(*tokens));
    Drafter d;

    assert(drafter_init(&d, N) == 0);
    for (size_t n = 0; n < N; n++) {
        tokens[n] = n % 7 == 0 ? (int32_t)random_below(2) : 5;
        if (n <= 1000 || drafter_find(&d, tokens, n, 2) == 0)
            continue;
        assert((tokens[n] == 5 || tokens[n] < 2) && (tokens[n + 1] == 5 || tokens[n + 1] < 2));
    }
    drafter_deinit(&d);
    free(tokens);
}

static void test_short_texts(void) {
    int32_t tokens[16] = {7, 7, 7, 7, 7, 7};
    Drafter d;

    assert(drafter_init(&d, 6) == 0);
    for (size_t n = 0; n <= DRAFT_MATCH_MIN; n++)
        assert(drafter_find(&d, tokens, n, 3) == 0);
    assert(drafter_find(&d, tokens, 5, 1) == 1 && tokens[5] == 7);
    drafter_deinit(&d);
    for (size_t i = 1; i <= 2; i++) {
        alloc_fail_after(i);
        assert(drafter_init(&d, 6) == -ENOMEM && !d.newest && !d.older);
    }
    alloc_fail_after(0);
}

/* ---- decoding ---- */

struct token {
    int32_t token;
    float logprob;
    struct gk_logprob top[4];
    size_t n_top, n_text;
};

struct output {
    struct token tokens[N_CONTEXT];
    size_t n;
    char text[8192], stop[64];
    size_t n_text;
    enum gk_finish finish;
};

struct job {
    struct gk_params params;
    struct gk_string stop, banned;
    struct gk_logit_bias bias;
    int32_t stop_token;
    char stop_bytes[8];
    int32_t prompt[N_CONTEXT];
    size_t n_prompt;
    struct output plain, drafted;
    size_t n_computed, n_right; /* drafted rows, and those that saved a step */
    GkSeq *seq;
};

static void open_engine(const char *path, enum gk_kv_type kv, bool prefix_cache, unsigned n_threads,
                        GkEngine **ret, GkPool **ret_pool) {
    struct gk_options o = {.path = path,
                           .n_context_max = N_CONTEXT,
                           .n_sequences_max = N_JOBS,
                           .kv_type = kv,
                           .kv_bytes_max = 16u << 20,
                           .prefix_cache = prefix_cache};

    assert(gk_pool_new(&o.pool, n_threads, NULL) == 0);
    assert(gk_engine_open(ret, &o, NULL) == 0);
    *ret_pool = o.pool;
}

static void close_engine(GkEngine *e, GkPool *pool) {
    (void)gk_engine_close(e);
    (void)gk_pool_free(pool);
}

static void take(struct output *to, const struct gk_result *r) {
    struct token *t = &to->tokens[to->n];

    to->finish = r->finish;
    (void)snprintf(to->stop, sizeof(to->stop), "%s", r->stop);
    assert(to->n_text + r->n_text <= sizeof(to->text));
    if (r->n_text > 0)
        (void)memcpy(to->text + to->n_text, r->text, r->n_text);
    to->n_text += r->n_text;
    if (!r->has_token)
        return;
    assert(to->n < N_CONTEXT && r->n_top <= ARRAY_SIZE(t->top));
    t->token = r->token;
    t->logprob = r->logprob;
    t->n_top = r->n_top;
    t->n_text = r->n_text;
    if (r->n_top > 0)
        (void)memcpy(t->top, r->top, r->n_top * sizeof(*r->top));
    to->n++;
}

static void assert_same(const struct output *a, const struct output *b) {
    assert(a->n == b->n && a->n_text == b->n_text && a->finish == b->finish);
    assert(memcmp(a->text, b->text, a->n_text) == 0 && strcmp(a->stop, b->stop) == 0);
    for (size_t i = 0; i < a->n; i++) {
        const struct token *x = &a->tokens[i], *y = &b->tokens[i];

        assert(x->token == y->token && x->n_text == y->n_text && x->n_top == y->n_top);
        assert(memcmp(&x->logprob, &y->logprob, sizeof(x->logprob)) == 0);
        assert(memcmp(x->top, y->top, x->n_top * sizeof(*x->top)) == 0);
    }
}

static void decode_plainly(GkEngine *e, struct job *job) {
    struct gk_result result = {.finish = GK_FINISH_NONE};

    job->plain = (struct output){.n = 0};
    assert(gk_seq_new(&job->seq, e, job->prompt, job->n_prompt, &job->params, NULL) == 0);
    assert(gk_seq_draft(job->seq) == 0);
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {job->seq, (uint32_t)gk_seq_n_pending(job->seq)};

        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        assert(result.n_more == 0 && result.guess == GK_GUESS_NONE);
        take(&job->plain, &result);
        assert(!gk_seq_next_result(job->seq, &result));
    }
    job->seq = gk_seq_free(job->seq);
}

enum how { LOOKED_UP, RANDOM, RIGHT, NEARLY_RIGHT, ANY };

/* Tokens that come, as far as they are known, and then some that don't. */
static size_t draft(GkEngine *e, struct job *job, enum how how) {
    uint32_t n_vocab = gk_engine_info(e)->n_vocab, n = 1 + random_below(GK_DRAFT_MAX);
    int32_t guess[GK_DRAFT_MAX];

    if (how == ANY)
        how = (enum how)random_below(ANY);
    if (how == LOOKED_UP)
        return gk_seq_draft(job->seq);
    for (uint32_t i = 0; i < n; i++) {
        size_t at = job->drafted.n + i;

        guess[i] = how != RANDOM && at < job->plain.n ? job->plain.tokens[at].token
                                                      : (int32_t)random_below(n_vocab);
    }
    if (how == NEARLY_RIGHT)
        guess[random_below(n)] = (int32_t)random_below(n_vocab);
    return gk_seq_set_draft(job->seq, guess, n);
}

/* The rows that are asked for are what is pending, part of it, or more. */
static struct gk_plan_row plan_job(GkEngine *e, struct job *job, enum how how) {
    uint32_t n_pending = (uint32_t)gk_seq_n_pending(job->seq);
    uint32_t n_drafted = (uint32_t)draft(e, job, how);
    struct gk_plan_row row = {job->seq, n_pending};

    assert(n_drafted <= GK_DRAFT_MAX && (n_drafted == 0 || n_pending == 1));
    if (n_pending > 1)
        row.n_rows = 1 + random_below(n_pending);
    else if (how != RIGHT)
        n_drafted = random_below(n_drafted + 1);
    row.n_rows += n_pending > 1 ? 0 : n_drafted;
    return row;
}

static void take_results(struct job *job, const struct gk_plan_row *row, struct gk_result *r) {
    size_t n = 0, n_more = r->n_more;

    if (r->has_token && row->n_rows > 1)
        job->n_computed += row->n_rows - 1;
    for (;;) {
        take(&job->drafted, r);
        assert(r->n_more == n_more - n && (n == n_more || r->finish == GK_FINISH_NONE));
        assert(n_more < row->n_rows && (n == n_more || r->guess == GK_GUESS_RIGHT));
        if (!gk_seq_next_result(job->seq, r))
            break;
        n++;
    }
    assert(n == n_more);
    job->n_right += n;
}

/* All of them together, now and then with one that makes room. */
static void decode_together(GkEngine *e, struct job *jobs, enum how how) {
    struct gk_plan_row rows[N_JOBS];
    struct gk_result results[N_JOBS];
    struct job *planned[N_JOBS];

    for (size_t i = 0; i < N_JOBS; i++) {
        struct job *job = &jobs[i];

        job->drafted = (struct output){.n = 0};
        job->params.speculate = true;
        assert(gk_seq_new(&job->seq, e, job->prompt, job->n_prompt, &job->params, NULL) == 0);
    }
    for (size_t n = 1; n > 0;) {
        n = 0;
        for (size_t i = 0; i < N_JOBS; i++) {
            if (gk_seq_n_pending(jobs[i].seq) == 0)
                continue;
            if (random_below(24) == 0) {
                gk_seq_suspend(jobs[i].seq);
                assert(gk_seq_resume(jobs[i].seq, NULL) == 0);
            }
            planned[n] = &jobs[i];
            rows[n++] = plan_job(e, &jobs[i], how);
        }
        assert(gk_step(e, &(struct gk_plan){rows, n}, results) == 0);
        for (size_t i = 0; i < n; i++)
            take_results(planned[i], &rows[i], &results[i]);
    }
    for (size_t i = 0; i < N_JOBS; i++) {
        jobs[i].seq = gk_seq_free(jobs[i].seq);
        assert_same(&jobs[i].plain, &jobs[i].drafted);
    }
}

/* A prompt that repeats itself, of the demo model's kind or of any tokens. */
static void make_prompt(GkEngine *e, struct job *job, bool is_text) {
    static const char question[] = "Q: What does tar do?\nA: It packs files.\n";
    uint32_t n_vocab = gk_engine_info(e)->n_vocab;
    int32_t *tokens;
    size_t n;

    if (is_text) {
        assert(gk_tokenize(e, question, sizeof(question) - 1, 0, 64, &tokens, &n, NULL) == 0);
    } else {
        n = 3 + random_below(9);
        tokens = alloc_array(n, sizeof(*tokens));
        for (size_t i = 0; i < n; i++)
            tokens[i] = 3 + (int32_t)random_below(n_vocab - 3);
    }
    job->n_prompt = MIN(n * (1 + random_below(4)), (size_t)N_CONTEXT - 60) - random_below(3);
    for (size_t i = 0; i < job->n_prompt; i++)
        job->prompt[i] = tokens[i % n];
    free(tokens);
}

static void make_params(struct job *job) {
    struct gk_params *p = &job->params;

    *p = gk_params_default();
    p->n_tokens_max = random_below(4) == 0 ? 0 : 1 + random_below(50);
    p->temperature = random_below(2) ? 0 : 0.9f;
    p->top_p = random_below(2) ? 1 : 0.9f;
    p->seed = random_below(1000);
    p->ignore_eos = random_below(2);
    p->logprobs = random_below(2);
    p->n_logprobs = random_below(3);
    p->stop_in_output = random_below(2);
    if (random_below(3) == 0) {
        p->repetition_penalty = 1.2f;
        p->frequency_penalty = 0.2f;
    }
}

/* What ends, bans or favours is taken from what would come, so that it does something. */
static void add_strings(struct job *job) {
    const struct output *o = &job->plain;
    size_t at = o->n_text > 8 ? random_below((uint32_t)o->n_text - 8) : 0;

    if (o->n_text <= 8)
        return;
    (void)memcpy(job->stop_bytes, o->text + at, sizeof(job->stop_bytes));
    job->stop = (struct gk_string){job->stop_bytes, 2 + random_below(6)};
    for (size_t i = 0; i < job->stop.n; i++)
        if (job->stop_bytes[i] <= 0)
            return; /* not ASCII */
    switch (random_below(4)) {
    case 0:
        job->params.banned_strings = &job->stop;
        job->params.n_banned_strings = 1;
        break;
    case 1:
        job->stop_token = o->tokens[random_below((uint32_t)o->n)].token;
        job->params.stop_tokens = &job->stop_token;
        job->params.n_stop_tokens = 1;
        break;
    case 2:
        job->bias = (struct gk_logit_bias){o->tokens[random_below((uint32_t)o->n)].token, -3};
        job->params.logit_bias = &job->bias;
        job->params.n_logit_bias = 1;
        break;
    default:
        job->params.stop_strings = &job->stop;
        job->params.n_stop_strings = 1;
    }
}

static GkConstraint *make_constraint(void) {
    static const char *const sources[] = {"( [a-z]{1,12}){1,9}\\.", "(yes|no|maybe)( and \\1)?",
                                          "( tar| cat)*!", "[ a-zA-Z0-9.,]{5,40}"};
    const char *source = sources[random_below(ARRAY_SIZE(sources))];
    GkConstraint *c;

    if (gk_constraint_new(&c, GK_CONSTRAINT_REGEX, source, strlen(source), NULL) != 0)
        assert(gk_constraint_new(&c, GK_CONSTRAINT_REGEX, "(yes|no|maybe)", 14, NULL) == 0);
    return c;
}

/* What a drafted sequence has left in the prefix cache is what any other computes. */
static void check_what_is_left(GkEngine *plain, GkEngine *cached, struct job *job) {
    for (size_t i = 0; i < job->drafted.n && job->n_prompt < N_CONTEXT - 9; i++)
        job->prompt[job->n_prompt++] = job->drafted.tokens[i].token;
    job->params = gk_params_default();
    job->params.n_tokens_max = 8;
    job->params.logprobs = true;
    decode_plainly(plain, job);
    job->drafted = job->plain;
    decode_plainly(cached, job);
    assert_same(&job->drafted, &job->plain);
}

struct counts {
    size_t n_tokens, n_computed, n_right, n_finished[GK_FINISH_FAILED + 1];
};

static void round_of(GkEngine *plain, GkEngine *drafting, bool is_text, enum how how,
                     struct counts *counts) {
    static struct job jobs[N_JOBS];

    for (size_t i = 0; i < N_JOBS; i++) {
        struct job *job = &jobs[i];

        *job = (struct job){.n_prompt = 0};
        make_prompt(plain, job, is_text);
        make_params(job);
        decode_plainly(plain, job);
        if (random_below(4) == 0)
            job->params.constraint = make_constraint();
        else
            add_strings(job);
        decode_plainly(plain, job);
    }
    decode_together(drafting, jobs, how);
    for (size_t i = 0; i < N_JOBS; i++) {
        counts->n_tokens += jobs[i].drafted.n;
        counts->n_computed += jobs[i].n_computed;
        counts->n_right += jobs[i].n_right;
        counts->n_finished[jobs[i].drafted.finish]++;
        (void)gk_constraint_unref(jobs[i].params.constraint);
        check_what_is_left(plain, drafting, &jobs[i]);
    }
}

static struct counts check(const char *path, enum gk_kv_type kv, enum how how, int n_rounds) {
    struct counts counts = {0};
    GkEngine *plain, *drafting;
    GkPool *pools[2];

    random_state = 88172645463325252ull + (uint64_t)how * 31 + (uint64_t)kv;
    open_engine(path, kv, false, 1, &plain, &pools[0]);
    open_engine(path, kv, true, 3, &drafting, &pools[1]);
    for (int i = 0; i < n_rounds; i++)
        round_of(plain, drafting, strcmp(path, DEMO) == 0, how, &counts);
    close_engine(drafting, pools[1]);
    close_engine(plain, pools[0]);
    (void)printf("# KV %d, drafts %d: %zu tokens, of %zu drafted %zu saved a step; stop %zu, "
                 "length %zu, stuck %zu\n",
                 (int)kv, (int)how, counts.n_tokens, counts.n_computed, counts.n_right,
                 counts.n_finished[GK_FINISH_STOP], counts.n_finished[GK_FINISH_LENGTH],
                 counts.n_finished[GK_FINISH_STUCK]);
    return counts;
}

static void test_looked_up(void) {
    struct counts c = check(DEMO, GK_KV_F16, LOOKED_UP, 12);

    assert(c.n_right > 0 && c.n_right < c.n_computed);
    assert(c.n_finished[GK_FINISH_STOP] > 0 && c.n_finished[GK_FINISH_LENGTH] > 0);
}

static void test_wrong_ones(void) {
    assert(check(DEMO, GK_KV_F16, RANDOM, 4).n_computed > 0);
}

/* All of them: steps of so many rows that the output head takes them in several groups. */
static void test_right_ones(void) {
    struct counts c = check(DEMO, GK_KV_F16, RIGHT, 6);

    assert(c.n_right > c.n_tokens / 2);
}

static void test_nearly_right_ones(void) {
    struct counts c = check(DEMO, GK_KV_F16, NEARLY_RIGHT, 8);

    assert(c.n_right > 0 && c.n_right < c.n_computed);
}

static void test_every_cache(void) {
    for (int kv = GK_KV_F16; kv <= GK_KV_Q8_0; kv++) {
        assert(check(DEMO, (enum gk_kv_type)kv, ANY, 4).n_right > 0);
        assert(check(GROK, (enum gk_kv_type)kv, ANY, 2).n_right > 0);
    }
}

/* Drafts where there is nothing to draft. */
static void test_only_while_decoding(void) {
    struct gk_params params = gk_params_default();
    int32_t tokens[40] = {5, 6, 7, 8, 9}, guess[GK_DRAFT_MAX] = {5, 6, 7};
    struct gk_result result;
    GkEngine *e;
    GkPool *pool;
    GkSeq *seq;

    for (size_t i = 5; i < ARRAY_SIZE(tokens); i++)
        tokens[i] = tokens[i % 5];
    open_engine(DEMO, GK_KV_F16, false, 2, &e, &pool);
    params.speculate = true;
    params.n_tokens_max = 2;
    params.ignore_eos = true;
    assert(gk_seq_new(&seq, e, tokens, ARRAY_SIZE(tokens), &params, NULL) == 0);
    assert(gk_seq_draft(seq) == 0 && gk_seq_set_draft(seq, guess, 3) == 0);
    assert(!gk_seq_next_result(seq, &result));
    assert(gk_step(e, &(struct gk_plan){&(struct gk_plan_row){seq, ARRAY_SIZE(tokens)}, 1},
                   &result) == 0);
    assert(result.has_token && gk_seq_n_pending(seq) == 1);
    assert(gk_seq_set_draft(seq, guess, 3) == 0); /* the last token needs none */
    assert(gk_step(e, &(struct gk_plan){&(struct gk_plan_row){seq, 1}, 1}, &result) == 0);
    assert(result.finish == GK_FINISH_LENGTH && gk_seq_draft(seq) == 0);
    seq = gk_seq_free(seq);
    params.mode = GK_SCORE;
    params.n_tokens_max = 0;
    assert(gk_seq_new(&seq, e, tokens, 1, &params, NULL) == 0);
    assert(gk_seq_draft(seq) == 0 && gk_seq_set_draft(seq, guess, 3) == 0);
    seq = gk_seq_free(seq);
    close_engine(e, pool);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(finds_the_longest),
        TEST(looks_at_some_places_only),
        TEST(short_texts),
        {"looked_up", test_looked_up, 120},
        {"wrong_ones", test_wrong_ones, 120},
        {"right_ones", test_right_ones, 120},
        {"nearly_right_ones", test_nearly_right_ones, 120},
        {"every_cache", test_every_cache, 120},
        TEST(only_while_decoding),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
