/* The prefix cache as requests see it: what their usage says, and whose prompts serve whom. */
#include "tests/e2e/util-daemon.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALICE    2001
#define BOB      2002
#define N_PROMPT 1000
#define N_LONG   2600

/* Lives until the next but one. */
static struct grokd_generate_request prompt_of(int family, size_t n) {
    static struct grokd_sampling sampling;
    static int32_t tokens[2][N_LONG];
    static unsigned i_prompt;
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;

    request.tokens = tokens[i_prompt++ % 2];
    for (size_t i = 0; i < n; i++)
        ((int32_t *)(uintptr_t)request.tokens)[i] = 300 + ((int)i * 37 + family) % 3000;
    sampling = (struct grokd_sampling)GROKD_SAMPLING_INIT;
    sampling.has_max_tokens = sampling.ignore_eos = true;
    sampling.max_tokens = 8;
    request.sampling = &sampling;
    request.n_tokens = n;
    return request;
}

static uint32_t ask(const TestDaemon *d, int family, bool share, char **ret_text) {
    struct grokd_generate_request request = prompt_of(family, N_PROMPT);
    const struct grokd_event *event = NULL;
    CLIENT *client = test_connect(d);
    CLEANUP(freep) char *text = calloc(1, 4096);
    CALL *call;
    int r;

    request.share_prefix = share;
    call = test_begin(client, &request);
    while ((r = grokd_call_next(call, -1, &event, NULL)) == GROKD_NEXT_EVENT) {
        if (event->chunk)
            (void)strncat(text, event->chunk->text, 4095 - strlen(text));
        if (event->prefill)
            assert(event->prefill->cached_tokens <= event->prefill->done_tokens);
        if (event->final)
            break;
    }
    assert(r == GROKD_NEXT_EVENT && event->final->usage->prompt_tokens == N_PROMPT);
    if (ret_text) {
        *ret_text = text;
        text = NULL;
    }
    return event->final->usage->cached_tokens;
}

static void test_the_second_prompt_is_cached(void) {
    CLEANUP(freep) char *first = NULL, *second = NULL;
    TestDaemon d;

    (void)test_daemon_start(&d);
    assert(ask(&d, 1, false, &first) == 0);
    assert(ask(&d, 1, false, &second) == N_PROMPT - 1);
    assert(strcmp(first, second) == 0 && *first);
    test_daemon_stop(&d);
}

static void test_without_a_cache(void) {
    TestDaemon d;

    test_daemon_init(&d);
    test_daemon_configure(&d, "[engine]\nprefix_cache = no\n");
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    assert(ask(&d, 1, false, NULL) == 0 && ask(&d, 1, false, NULL) == 0);
    test_daemon_stop(&d);
}

static void ask_twice(const TestDaemon *d, TestUser *self) {
    (void)self;
    assert(ask(d, 1, false, NULL) == 0 && ask(d, 1, false, NULL) == N_PROMPT - 1);
}

static void offer(const TestDaemon *d, TestUser *self) {
    (void)self;
    assert(ask(d, 2, true, NULL) == 0);
}

static void expect_offer(const TestDaemon *d, TestUser *self) {
    (void)self;
    assert(ask(d, 2, false, NULL) == N_PROMPT / 64 * 64); /* whole pages */
}

static void expect_none(const TestDaemon *d, TestUser *self) {
    (void)self;
    assert(ask(d, 2, false, NULL) == 0);
}

static void start(TestDaemon *d, const char *text) {
    test_daemon_init(d);
    test_daemon_configure(d, text);
    test_daemon_open(d);
    test_daemon_spawn(d, NULL);
    test_daemon_await(d, "READY=1");
}

static void test_users_are_kept_apart(void) {
    TestDaemon d;

    start(&d, "[daemon]\nsocket_mode = 0666\n");
    test_as(&d, ALICE, 0, ask_twice);
    test_as(&d, BOB, 0, ask_twice);
    test_as(&d, ALICE, 0, offer); /* not allowed, so not heard */
    test_as(&d, BOB, 0, expect_none);
    test_daemon_stop(&d);
}

static void test_what_is_shared_serves_all(void) {
    TestDaemon d;

    start(&d, "[daemon]\nsocket_mode = 0666\n[engine]\nprefix_sharing = shared\n");
    test_as(&d, ALICE, 0, offer);
    test_as(&d, BOB, 0, expect_offer);
    test_as(&d, BOB, 0, ask_twice); /* what nobody offered is not there */
    test_daemon_stop(&d);
}

/* A prompt that makes room for another loses what it had, and what it says of itself stays. Returns
 * false where nothing more is there within `ms`, or the prompt is done. */
static bool next_progress(grokd_call *call, int ms, uint32_t *done, uint32_t *cached) {
    const struct grokd_event *event;
    int r = grokd_call_next(call, ms, &event, NULL);

    if (r == GROKD_NEXT_WAIT)
        return false;
    assert(r == GROKD_NEXT_EVENT);
    if (event->prefill) {
        assert(event->prefill->done_tokens >= *done && event->prefill->total_tokens == 2400);
        assert(*done == 0 || event->prefill->cached_tokens == *cached);
        assert(event->prefill->cached_tokens <= event->prefill->done_tokens);
        *done = event->prefill->done_tokens;
        *cached = event->prefill->cached_tokens;
    }
    return !event->chunk;
}

static void test_progress_goes_on(void) {
    struct grokd_generate_request request;
    uint32_t done = 0, cached = 0;
    CLIENT *client = NULL;
    CALL *call = NULL, *other = NULL;
    TestDaemon d;

    start(&d, "[engine]\nkv_memory = 4M\nstep_rows = 16\n"); /* 42 pages; both take more */
    assert(ask(&d, 1, false, NULL) == 0);
    client = test_connect(&d);
    request = prompt_of(1, 2400);
    request.priority = GROKD_PRIORITY_BATCH;
    call = test_begin(client, &request);
    while (done <= N_PROMPT)
        assert(next_progress(call, -1, &done, &cached));
    assert(cached == N_PROMPT);
    request = prompt_of(7, N_LONG);
    other = test_begin(client, &request);
    assert(test_finish(other, NULL, NULL) == GROKD_OK);
    while (next_progress(call, 0, &done, &cached))
        ;
    assert(done < 2400); /* else nobody had to make room */
    while (next_progress(call, -1, &done, &cached))
        ;
    assert(test_finish(call, NULL, NULL) == GROKD_OK);
    call = grokd_call_free(call);
    other = grokd_call_free(other);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* What a daemon has computed its successor need not: for the same users alone. */
static void expect_kept(const TestDaemon *d, TestUser *self) {
    (void)self;
    assert(ask(d, 1, false, NULL) == N_PROMPT - 1);
}

static void test_outlives_the_daemon(void) {
    char config[300];
    TestDaemon d;

    test_daemon_init(&d);
    (void)snprintf(config, sizeof(config),
                   "[daemon]\nsocket_mode = 0666\n[engine]\nprefix_sharing = shared\n"
                   "prefix_state = %s/state\n",
                   d.directory);
    test_daemon_configure(&d, config);
    test_daemon_open(&d);
    for (int i = 0; i < 3; i++) {
        test_daemon_spawn(&d, NULL);
        test_daemon_await(&d, "READY=1");
        test_as(&d, ALICE, 0, i == 0 ? ask_twice : expect_kept);
        if (i == 0)
            test_as(&d, ALICE, 0, offer);
        else
            test_as(&d, BOB, 0, i == 1 ? ask_twice : expect_offer);
        if (i < 2)
            assert(kill(d.pid, SIGTERM) == 0 && test_daemon_wait(&d) == 0);
    }
    assert(test_daemon_logged(&d, "cached tokens in"));
    test_daemon_stop(&d);
}

/* What is in the file is not what was written: it is said, and everything is computed. */
static void test_damage_is_not_believed(void) {
    char config[300], path[200];
    TestDaemon d;
    FILE *f;

    test_daemon_init(&d);
    (void)snprintf(config, sizeof(config), "[engine]\nprefix_state = %s/state\n", d.directory);
    (void)snprintf(path, sizeof(path), "%s/state/demo.kv", d.directory);
    test_daemon_configure(&d, config);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    assert(ask(&d, 1, false, NULL) == 0);
    assert(kill(d.pid, SIGTERM) == 0 && test_daemon_wait(&d) == 0);
    f = fopen(path, "r+");
    assert(f && fseek(f, 70000, SEEK_SET) == 0 && fputs("mend me", f) >= 0 && fclose(f) == 0);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    assert(test_daemon_logged(&d, "begins empty"));
    assert(ask(&d, 1, false, NULL) == 0 && ask(&d, 1, false, NULL) == N_PROMPT - 1);
    test_daemon_stop(&d);
}

/* What was cached is not charged to the window. */
static void test_cached_tokens_are_free(void) {
    struct grokd_generate_request request;
    struct grokd_error error = {0};
    CLIENT *client = NULL;
    CALL *call = NULL;
    TestDaemon d;

    start(&d, "[limits]\nmax_user_window_tokens = 2500\ntoken_window = 1h\n");
    assert(ask(&d, 1, false, NULL) == 0);
    for (int i = 0; i < 4; i++)
        assert(ask(&d, 1, false, NULL) == N_PROMPT - 1);
    assert(ask(&d, 2, false, NULL) == 0);
    client = test_connect(&d);
    request = prompt_of(3, N_PROMPT);
    call = test_begin(client, &request);
    assert(test_finish(call, NULL, &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "max_user_window_tokens"));
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_second_prompt_is_cached),
        TEST(without_a_cache),
        TEST(users_are_kept_apart),
        TEST(what_is_shared_serves_all),
        TEST(outlives_the_daemon),
        TEST(damage_is_not_believed),
        TEST(progress_goes_on),
        TEST(cached_tokens_are_free),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
