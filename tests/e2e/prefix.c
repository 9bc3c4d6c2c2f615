/* The prefix cache as requests see it: what their usage says, and whose prompts serve whom. */
#include "tests/e2e/util-daemon.h"

#include <stdlib.h>
#include <string.h>

#define ALICE    2001
#define BOB      2002
#define N_PROMPT 1000

static uint32_t ask(const TestDaemon *d, int family, bool share, char **ret_text) {
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    const struct grokd_event *event = NULL;
    CLIENT *client = test_connect(d);
    CLEANUP(freep) char *text = calloc(1, 4096);
    int32_t tokens[N_PROMPT];
    CALL *call;
    int r;

    for (int i = 0; i < N_PROMPT; i++)
        tokens[i] = 300 + (i * 37 + family) % 3000;
    sampling.has_max_tokens = sampling.ignore_eos = true;
    sampling.max_tokens = 8;
    request.sampling = &sampling;
    request.tokens = tokens;
    request.n_tokens = N_PROMPT;
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

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_second_prompt_is_cached),
        TEST(without_a_cache),
        TEST(users_are_kept_apart),
        TEST(what_is_shared_serves_all),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
