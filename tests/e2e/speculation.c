/* Speculation as requests see it: the same stream with and without, and what the usage says. */
#include "tests/e2e/util-daemon.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_TOKENS 200
#define WITHOUT  "[engine]\nspeculation = no\n"

struct answer {
    int32_t ids[N_TOKENS];
    float logprobs[N_TOKENS];
    char text[16384];
    size_t n, n_logprobs, n_chunks;
    struct grokd_usage usage;
    char stop[32];
    int finish_reason;
};

static void add_chunk(struct answer *a, const struct grokd_chunk *c) {
    a->n_chunks++;
    (void)strncat(a->text, c->text, sizeof(a->text) - 1 - strlen(a->text));
    for (size_t i = 0; i < c->n_token_ids; i++) {
        assert(a->n < N_TOKENS);
        a->ids[a->n++] = c->token_ids[i];
    }
    for (size_t i = 0; i < c->n_logprobs; i++) {
        assert(a->n_logprobs < N_TOKENS && c->logprobs[i].n_top == 1);
        a->logprobs[a->n_logprobs++] = c->logprobs[i].chosen->logprob;
    }
}

static void add_final(struct answer *a, const struct grokd_final *f) {
    a->usage = *f->usage;
    a->finish_reason = (int)f->finish_reason;
    (void)strncat(a->stop, f->stop, sizeof(a->stop) - 1);
}

struct question {
    const char *text, *stop;
    float temperature;
};

/* An answer that repeats the prompt and itself. */
static const struct question questions[] = {
    {.text = "Q: What does tar do?\nA:"},
    {.text = "Q: What does tar do?\nA: tar(1).\nQ: What does cat do?\nA: cat(1).\nQ: What does tar "
             "do?\nA:"},
    {.text = "Q: What does tar do?\nA:", .stop = "Grok-1?\nA"},
    {.text = "Q: What does tar do?\nA:", .temperature = 0.4f},
};

static void ask(const TestDaemon *d, const struct question *q, struct answer *ret) {
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    const struct grokd_event *event = NULL;
    CLIENT *client = test_connect(d);
    const char *stops[] = {q->stop};
    CALL *call;
    int r;

    sampling.has_max_tokens = sampling.has_temperature = sampling.has_seed = true;
    sampling.ignore_eos = sampling.logprobs = true;
    sampling.max_tokens = N_TOKENS;
    sampling.temperature = q->temperature;
    sampling.seed = 3;
    sampling.top_logprobs = 1;
    sampling.stop = stops;
    sampling.n_stop = q->stop != NULL;
    request.sampling = &sampling;
    request.text = q->text;
    request.token_ids = true;
    *ret = (struct answer){.n = 0};
    call = test_begin(client, &request);
    while ((r = grokd_call_next(call, -1, &event, NULL)) == GROKD_NEXT_EVENT) {
        if (event->chunk)
            add_chunk(ret, event->chunk);
        if (event->final)
            add_final(ret, event->final);
    }
    assert(ret->usage.generated_tokens == ret->n && ret->n_logprobs == ret->n);
}

static void start(TestDaemon *d, const char *text) {
    test_daemon_init(d);
    test_daemon_configure(d, text);
    test_daemon_spawn(d, NULL);
    test_daemon_await(d, "READY=1");
}

static void check_same(const struct answer *plain, const struct answer *again) {
    assert(plain->n > 50 && plain->n == again->n && strcmp(plain->text, again->text) == 0);
    assert(memcmp(plain->ids, again->ids, sizeof(plain->ids)) == 0);
    assert(memcmp(plain->logprobs, again->logprobs, sizeof(plain->logprobs)) == 0);
    assert(plain->finish_reason == again->finish_reason && strcmp(plain->stop, again->stop) == 0);
    assert(plain->usage.drafted_tokens == 0 && plain->usage.accepted_tokens == 0);
    assert(again->usage.accepted_tokens <= again->usage.drafted_tokens);
    assert(again->n_chunks > again->usage.accepted_tokens); /* each token has its own */
}

/* Asked three times: sizes of steps are tried at first, and then chosen. */
static void test_answers_are_the_same(void) {
    static struct answer plain, again;
    TestDaemon without, with;
    uint32_t n_accepted = 0;

    start(&without, WITHOUT);
    start(&with, "");
    for (size_t i = 0; i < 3 * ARRAY_SIZE(questions); i++) {
        const struct question *q = &questions[i % ARRAY_SIZE(questions)];

        ask(&without, q, &plain);
        ask(&with, q, &again);
        check_same(&plain, &again);
        assert(plain.finish_reason == (q->stop ? GROKD_FINISH_STOP : GROKD_FINISH_LENGTH));
        n_accepted += again.usage.accepted_tokens;
    }
    assert(n_accepted > 0);
    test_daemon_stop(&with);
    test_daemon_stop(&without);
}

/* What each question gives alone and without drafts. */
static struct answer alone[ARRAY_SIZE(questions)];
static atomic_uint *n_drafts_accepted; /* by all processes */

/* Each user begins with another question. */
static void ask_all(const TestDaemon *d, TestUser *self) {
    static struct answer again;

    (void)self;
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++) {
        size_t k = (i + geteuid()) % ARRAY_SIZE(questions);

        ask(d, &questions[k], &again);
        check_same(&alone[k], &again);
        (void)atomic_fetch_add(n_drafts_accepted, again.usage.accepted_tokens);
    }
}

/* Drafts are rows of the same steps as other users' tokens. */
static void test_users_get_what_each_gets_alone(void) {
    static const uid_t users[] = {2001, 2002};
    TestDaemon without, with;

    test_daemon_start_open(&with, "");
    start(&without, WITHOUT);
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++)
        ask(&without, &questions[i], &alone[i]);
    test_daemon_stop(&without);
    n_drafts_accepted = mmap(NULL, sizeof(*n_drafts_accepted), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert(n_drafts_accepted != MAP_FAILED);
    test_as_all(&with, users, ARRAY_SIZE(users), 2, ask_all);
    assert(atomic_load(n_drafts_accepted) > 0);
    test_daemon_stop(&with); /* asserts that all accounts are at zero */
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(answers_are_the_same),
        TEST(users_get_what_each_gets_alone),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
