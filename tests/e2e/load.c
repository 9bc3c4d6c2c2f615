/* Many clients of several users at once, good ones and bad ones. bench/service measures the same at
 * full length. Needs root to become others. */
#include "tests/e2e/util-ends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALICE 2001
#define BOB   2002

static void await_count(const atomic_ullong *count, unsigned long long n) {
    while (atomic_load(count) < n)
        (void)usleep(1000);
}

/* ---- a crowd ---- */

static uint64_t resident_bytes(const TestDaemon *d) {
    CLIENT *client = test_connect(d);
    ANSWER grokd_status_response *status = NULL;

    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    return status->resident_bytes;
}

/* Four users with fifty streams each, all of which run. The cache is small, so that soon all of it
 * is in use; from then on no memory more is taken, with room for what sanitizers keep. */
static void test_a_crowd_loses_nothing(void) {
    struct load load = {.n_streams = 50, .n_tokens = 40, .n_tokens_least = 10};
    struct load_seen *seen = load.seen = load_seen_new();
    uint64_t warm, n_bytes;
    TestUser users[4];
    TestDaemon d;

    test_daemon_start_open(&d, "[engine]\nmax_sequences = 200\nkv_memory = 24M\n");
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        users[i] = load_start(&d, ALICE + (uid_t)i, &load);
    await_count(&seen->n_ended, 600);
    warm = resident_bytes(&d);
    await_count(&seen->n_ended, 1800);
    n_bytes = resident_bytes(&d);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    (void)printf("# %llu tokens; resident %llu KiB, then %llu KiB\n",
                 (unsigned long long)atomic_load(&seen->n_tokens), (unsigned long long)warm / 1024,
                 (unsigned long long)n_bytes / 1024);
    assert(atomic_load(&seen->n_failed) == 0 && atomic_load(&seen->n_misplaced) == 0);
    assert(n_bytes < warm + (16 << 20));
    test_daemon_stop(&d);
    load_seen_free(seen);
}

/* ---- bad clients ---- */

/* Asks without pause for more than it may have: its refusals come no faster than the daemon lets
 * them, and others' requests are served. */
static void test_a_flood_is_held_back(void) {
    struct load flood = {.n_streams = 200,
                         .n_tokens = 100,
                         .n_tokens_least = 100,
                         .may_be_refused = true},
                good = {.n_streams = 8, .n_tokens = 50, .n_tokens_least = 50};
    struct load_seen *bad_seen = flood.seen = load_seen_new(), *seen = good.seen = load_seen_new();
    int64_t begun = load_now_us();
    TestUser alice, bob;
    TestDaemon d;
    double s;

    test_daemon_start_open(&d, "[limits]\nmax_user_requests = 16\n");
    alice = load_start(&d, ALICE, &flood);
    await_count(&bad_seen->n_refused, 1000);
    bob = load_start(&d, BOB, &good);
    await_count(&seen->n_ended, 40);
    test_user_end(&bob);
    s = (double)(load_now_us() - begun) / 1e6;
    (void)printf("# %llu refusals in %.1f s\n",
                 (unsigned long long)atomic_load(&bad_seen->n_refused), s);
    assert((double)atomic_load(&bad_seen->n_refused) < 2000 + 1500 * s);
    assert(atomic_load(&seen->n_failed) == 0 && atomic_load(&seen->n_misplaced) == 0);
    assert(atomic_load(&bad_seen->n_failed) == 0 && atomic_load(&bad_seen->n_ended) > 0);
    test_user_end(&alice);
    test_daemon_stop(&d);
    load_seen_free(bad_seen);
    load_seen_free(seen);
}

/* Has all of its streams computed and takes none of them: others have theirs. */
static void test_who_never_reads_is_alone(void) {
    struct load silent = {.n_streams = 100,
                          .n_tokens = 3900,
                          .n_tokens_least = 3900,
                          .never_reads = true},
                good = {.n_streams = 8, .n_tokens = 50, .n_tokens_least = 50};
    struct load_seen *seen = silent.seen = good.seen = load_seen_new();
    TestUser alice, bob;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    alice = load_start(&d, ALICE, &silent);
    test_await_running(&d, 100);
    bob = load_start(&d, BOB, &good);
    await_count(&seen->n_ended, 40);
    test_user_end(&bob);
    assert(atomic_load(&seen->n_failed) == 0 && atomic_load(&seen->n_misplaced) == 0);
    test_user_end(&alice);
    test_daemon_stop(&d);
    load_seen_free(seen);
}

/* Requests come and are given up before the worker has seen them, without pause. */
static void come_and_go(const TestDaemon *d, TestUser *self) {
    struct grokd_generate_request request = load_request(4, GROKD_PRIORITY_UNSPECIFIED);

    while (test_user_is_wanted(self, 0)) {
        struct grokd_list_models_response *list = NULL;
        CLIENT *client = test_connect(d);
        grokd_call *calls[8];

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
            calls[i] = test_begin(client, &request);
        (void)grokd_list_models(client, &list, NULL); /* it has read them */
        grokd_free(list);
        client = grokd_client_free(client);
        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
            calls[i] = grokd_call_free(calls[i]);
    }
}

static void test_what_is_given_up_counts_until_it_is_gone(void) {
    TestUser alice;
    TestDaemon d;

    test_daemon_start_open(&d, "[engine]\nthreads = 1\nprefix_cache = no\n"
                               "[limits]\nmax_requests = 32\nmax_user_requests = 8\n");
    alice = test_user_start(&d, ALICE, 0, come_and_go);
    for (unsigned i = 0; i < 8; i++) {
        CLIENT *client = test_connect(&d);
        struct grokd_generate_request prompt = load_prompt(1500, i);
        grokd_call *calls[4];

        for (size_t k = 0; k < ARRAY_SIZE(calls); k++) {
            calls[k] = test_begin(client, &prompt);
            (void)usleep(20000);
        }
        for (size_t k = 0; k < ARRAY_SIZE(calls); k++) {
            struct grokd_error error = {0};
            int r = test_finish(calls[k], NULL, &error);

            if (r != GROKD_OK)
                (void)printf("# %s\n", error.text);
            assert(r == GROKD_OK);
            calls[k] = grokd_call_free(calls[k]);
        }
    }
    test_user_end(&alice);
    test_daemon_stop(&d);
}

/* ---- prompts that take long to make ---- */

/* As much work as a template may be. */
static struct grokd_generate_request heavy(const struct grokd_message *message) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;

    request.messages = message;
    request.n_messages = 1;
    request.chat_template = "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}"
                            "{% endfor %}";
    return request;
}

#define N_HEAVY 100

static void ask_for_much_work(const TestDaemon *d, TestUser *self) {
    static const struct grokd_message message = {"user", "a"};
    struct grokd_generate_request request = heavy(&message);
    CLIENT *client = test_connect(d);
    grokd_call *calls[N_HEAVY];

    for (size_t i = 0; i < N_HEAVY; i++)
        calls[i] = test_begin(client, &request);
    test_user_ready(self);
    for (size_t i = 0; i < N_HEAVY; i++)
        (void)grokd_call_free(calls[i]);
}

/* Somebody else's prompt is tokenized before it is done. */
static void test_work_on_prompts_is_shared(void) {
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    ANSWER grokd_status_response *status = NULL;
    CLIENT *client = NULL;
    TestUser alice;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    client = test_connect(&d);
    alice = test_user_start(&d, ALICE, 0, ask_for_much_work);
    test_user_await(&alice);
    request.text = "a b c";
    for (int i = 0; i < 5; i++) {
        ANSWER grokd_tokenize_response *answer = NULL;

        assert(grokd_tokenize(client, &request, &answer, NULL) == GROKD_OK);
    }
    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    (void)printf("# %llu of %d were done before\n", (unsigned long long)status->requests_failed,
                 N_HEAVY);
    assert(status->requests_failed < N_HEAVY / 2);
    test_user_end(&alice);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Of requests that are given up before their prompts are made nothing stays. */
static void give_up_much_work(const TestDaemon *d, TestUser *self) {
    enum { N_BYTES = 1 << 20, N_AT_ONCE = 10, N_TIMES = 30 };
    char *text = malloc(N_BYTES + 1);
    const struct grokd_message message = {"user", text};
    struct grokd_generate_request request = heavy(&message);
    CLIENT *client = test_connect(d);

    (void)self;
    assert(text);
    (void)memset(text, 'a', N_BYTES);
    text[N_BYTES] = '\0';
    for (int i = 0; i < N_TIMES; i++) {
        struct grokd_list_models_response *list = NULL;
        grokd_call *calls[N_AT_ONCE];

        for (int k = 0; k < N_AT_ONCE; k++)
            calls[k] = test_begin(client, &request);
        for (int k = 0; k < N_AT_ONCE; k++)
            (void)grokd_call_free(calls[k]);
        assert(grokd_list_models(client, &list, NULL) == GROKD_OK); /* it has read them */
        grokd_free(list);
    }
    free(text);
}

static void test_prompts_given_up_take_nothing(void) {
    uint64_t n_before, n_after;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    test_as(&d, ALICE, 0, give_up_much_work); /* the first time buffers grow */
    test_await_idle(&d);
    n_before = resident_bytes(&d);
    test_as(&d, ALICE, 0, give_up_much_work);
    n_after = resident_bytes(&d);
    (void)printf("# resident %llu KiB, then %llu KiB\n", (unsigned long long)n_before / 1024,
                 (unsigned long long)n_after / 1024);
    assert(n_after < n_before + (100 << 20));
    test_daemon_stop(&d);
}

/* ---- endings ---- */

static enum ends_stage stage;

static void end_all(const TestDaemon *d, TestUser *self) {
    (void)self;
    for (enum ends_way way = 0; way < _ENDS_WAYS; way++) {
        struct ends_seen seen = ends_try(d, stage, way, 0);

        (void)printf("# %s, %s: %llu steps, %llu us\n", ends_stage_name(stage), ends_way_name(way),
                     (unsigned long long)seen.n_steps, (unsigned long long)seen.us);
    }
}

static void test_every_way_to_end_at_every_stage(void) {
    for (stage = 0; stage < _ENDS_STAGES; stage++) {
        TestUser bob = {.fd = -1};
        struct load other;
        TestDaemon d;

        test_daemon_start_open(&d, ENDS_CONFIG);
        if (ends_other_user(stage, &other)) {
            other.seen = load_seen_new();
            bob = load_start(&d, BOB, &other);
        }
        test_as(&d, ALICE, 0, end_all);
        if (bob.fd >= 0) {
            test_user_end(&bob);
            assert(atomic_load(&other.seen->n_failed) == 0);
            load_seen_free(other.seen);
        }
        test_daemon_stop(&d);
    }
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"a_crowd_loses_nothing", test_a_crowd_loses_nothing, 60},
        {"a_flood_is_held_back", test_a_flood_is_held_back, 60},
        {"who_never_reads_is_alone", test_who_never_reads_is_alone, 60},
        {"what_is_given_up_counts_until_it_is_gone", test_what_is_given_up_counts_until_it_is_gone,
         60},
        {"work_on_prompts_is_shared", test_work_on_prompts_is_shared, 60},
        {"prompts_given_up_take_nothing", test_prompts_given_up_take_nothing, 60},
        {"every_way_to_end_at_every_stage", test_every_way_to_end_at_every_stage, 60},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
