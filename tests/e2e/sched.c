/* Many users on one model: shares, priorities, the queue, refusals, and a storm of cancellations.
 * Needs root to become others. */
#include "tests/e2e/util-load.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALICE 2001
#define BOB   2002
/* On one connection. */
#define N_STREAMS 64

/* What processes tell each other: tokens that came, or steps taken. */
struct shared {
    atomic_uint n_alice, n_bob, may_go;
};
static struct shared *shared;

static void start(TestDaemon *d, const char *text) {
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert(shared != MAP_FAILED);
    test_daemon_start_open(d, text);
}

/* ---- reading many calls at once ---- */

/* Takes what has come for one call. Adds its tokens to *count; true where it has ended. */
static bool take(grokd_call *call, atomic_uint *count) {
    const struct grokd_event *event;
    struct grokd_error error = {0};
    int got;

    while ((got = grokd_call_next(call, 0, &event, &error)) == GROKD_NEXT_EVENT)
        if (event->chunk)
            (void)atomic_fetch_add(count, (unsigned)event->chunk->n_token_ids);
    if (got == GROKD_NEXT_FAILED) {
        (void)printf("%s\n", error.text);
        abort();
    }
    return got == GROKD_NEXT_END;
}

/* Waits for something, and takes it. Returns the number of calls that ended. */
static size_t take_some(grokd_client *client, atomic_uint *count) {
    struct pollfd p = {.fd = grokd_fd(client), .events = (short)grokd_events(client)};
    grokd_call *call;
    size_t n = 0;

    assert(poll(&p, 1, -1) == 1 && grokd_process(client, NULL) == GROKD_OK);
    while ((call = grokd_ready(client)))
        n += take(call, count);
    return n;
}

/* Runs n requests until all have ended, or that many tokens have come. */
static void run_many(const TestDaemon *d, size_t n, const struct grokd_generate_request *request,
                     atomic_uint *count, uint32_t n_tokens) {
    CLIENT *client = test_connect(d);
    grokd_call *calls[N_STREAMS];

    assert(n <= N_STREAMS);
    for (size_t i = 0; i < n; i++)
        calls[i] = test_begin(client, request);
    for (size_t n_ended = 0; n_ended < n && atomic_load(count) < n_tokens;)
        n_ended += take_some(client, count);
    for (size_t i = 0; i < n; i++)
        calls[i] = grokd_call_free(calls[i]);
}

static void await_count(const atomic_uint *count, unsigned n) {
    while (atomic_load(count) < n)
        (void)usleep(1000);
}

/* One that runs, and any number after it: of requests that come together any may be the first to
 * have its tokens. */
static void begin_behind_one(grokd_client *client, const struct grokd_generate_request *request,
                             grokd_call **calls, size_t n) {
    const struct grokd_event *event;

    calls[0] = test_begin(client, request);
    do
        assert(grokd_call_next(calls[0], -1, &event, NULL) == GROKD_NEXT_EVENT);
    while (!event->chunk);
    for (size_t i = 1; i < n; i++)
        calls[i] = test_begin(client, request);
}

/* ---- shares ---- */

static void flood(const TestDaemon *d, TestUser *self) {
    struct grokd_generate_request request = load_request(3900, GROKD_PRIORITY_UNSPECIFIED);

    (void)self;
    run_many(d, N_STREAMS, &request, &shared->n_alice, 1000000);
}

static void one_stream(const TestDaemon *d, TestUser *self) {
    struct grokd_generate_request request = load_request(3900, GROKD_PRIORITY_UNSPECIFIED);

    (void)self;
    run_many(d, 1, &request, &shared->n_bob, 1500);
}

static uint64_t count_steps(grokd_client *client) {
    ANSWER grokd_status_response *status = NULL;

    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    return status->steps_total;
}

/* One stream among another user's 64, which had taken every sequence: it has a token in every step
 * from then on. How long these may be is for the simulator to tell (unit/daemon-sched). */
static void test_one_stream_beside_64(void) {
    TestDaemon d;
    TestUser alice, bob;
    CLIENT *client = NULL;
    unsigned n_alice, n_bob;
    uint64_t n_steps;

    start(&d, "");
    client = test_connect(&d);
    alice = test_user_start(&d, ALICE, 0, flood);
    await_count(&shared->n_alice, 2000);
    bob = test_user_start(&d, BOB, 0, one_stream);
    await_count(&shared->n_bob, 100);
    n_bob = atomic_load(&shared->n_bob);
    n_alice = atomic_load(&shared->n_alice);
    n_steps = count_steps(client);
    await_count(&shared->n_bob, 1100);
    n_steps = count_steps(client) - n_steps;
    n_bob = atomic_load(&shared->n_bob) - n_bob;
    n_alice = atomic_load(&shared->n_alice) - n_alice;
    (void)printf("# %u tokens of one stream in %u steps, %u of the other user's 64\n", n_bob,
                 (unsigned)n_steps, n_alice);
    assert(n_alice > 0 && n_steps < n_bob + n_bob / 4);
    test_user_end(&bob);
    assert(kill(alice.pid, SIGKILL) == 0);
    closep(&alice.fd);
    assert(waitpid(alice.pid, NULL, 0) == alice.pid);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* ---- priorities ---- */

static void batch(const TestDaemon *d, TestUser *self) {
    struct grokd_generate_request request = load_request(1500, GROKD_PRIORITY_BATCH);

    (void)self;
    run_many(d, 4, &request, &shared->n_bob, 6000);
}

static void normal(const TestDaemon *d, TestUser *self) {
    struct grokd_generate_request request = load_request(500, GROKD_PRIORITY_NORMAL);
    unsigned n_before, n_after;

    (void)self;
    run_many(d, 1, &request, &shared->n_alice, 10); /* under way, whatever was in the pipe */
    atomic_store(&shared->n_alice, 0);
    n_before = atomic_load(&shared->n_bob);
    run_many(d, 1, &request, &shared->n_alice, 500);
    n_after = atomic_load(&shared->n_bob);
    (void)printf("# %u batch tokens beside 500 others\n", n_after - n_before);
    assert(atomic_load(&shared->n_alice) == 500 && n_after - n_before < 100);
}

static void test_batch_yields(void) {
    TestDaemon d;
    TestUser bob;

    start(&d, "");
    bob = test_user_start(&d, BOB, 0, batch);
    await_count(&shared->n_bob, 400);
    test_as(&d, ALICE, 0, normal);
    test_user_end(&bob); /* and has all of its tokens in the end */
    assert(atomic_load(&shared->n_bob) == 6000);
    test_daemon_stop(&d);
}

/* One whose text is random, but always the same. */
static struct grokd_generate_request seeded(uint32_t n, int priority,
                                            struct grokd_sampling *sampling) {
    struct grokd_generate_request request = load_request(n, priority);

    *sampling = *request.sampling;
    sampling->has_temperature = sampling->has_seed = true;
    sampling->temperature = 1.2f;
    sampling->seed = 5;
    request.sampling = sampling;
    return request;
}

/* Takes what has come, or waits for the first. Returns false where it has ended. */
static bool take_text(grokd_call *call, int wait_ms, FILE *to) {
    const struct grokd_event *event;
    struct grokd_error error = {0};
    int got;

    while ((got = grokd_call_next(call, wait_ms, &event, &error)) == GROKD_NEXT_EVENT)
        if (event->chunk) {
            (void)fputs(event->chunk->text, to);
            wait_ms = 0;
        }
    if (got == GROKD_NEXT_FAILED) {
        (void)printf("%s\n", error.text);
        abort();
    }
    return got == GROKD_NEXT_WAIT;
}

/* Others of n tokens come and end while it runs, with room for one of them. It has the same text as
 * without them. */
static void suspend_batch(const char *config, uint32_t n) {
    TestDaemon d;
    CLIENT *client = NULL;
    struct grokd_sampling sampling;
    struct grokd_generate_request request = seeded(2500, GROKD_PRIORITY_BATCH, &sampling), other;
    CLEANUP(freep) char *alone = NULL;
    CLEANUP(freep) char *suspended = NULL;
    size_t n_text;
    FILE *text = open_memstream(&suspended, &n_text);
    CALL *call = NULL;

    assert(text);
    start(&d, config);
    client = test_connect(&d);
    call = test_begin(client, &request);
    assert(test_finish(call, &alone, NULL) == GROKD_OK);
    call = grokd_call_free(call);
    call = test_begin(client, &request);
    other = load_request(n, GROKD_PRIORITY_NORMAL);
    for (int i = 0; i < 3; i++) {
        CALL *ahead = NULL;

        assert(take_text(call, -1, text)); /* it runs, and others go before it */
        ahead = test_begin(client, &other);
        assert(test_finish(ahead, NULL, NULL) == GROKD_OK);
        assert(take_text(call, 0, text));
    }
    while (take_text(call, -1, text))
        ;
    assert(fclose(text) == 0 && n_text > 1000 && strcmp(alone, suspended) == 0);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_suspended_for_a_place(void) {
    suspend_batch("[engine]\nmax_sequences = 1\n", 50);
}

/* 42 pages; both together take more. */
static void test_suspended_for_pages(void) {
    suspend_batch("[engine]\nkv_memory = 4M\nkv_type = f16\n", 200);
}

static void test_unknown_priority_is_refused(void) {
    TestDaemon d;
    CLIENT *client = NULL;
    struct grokd_generate_request request = load_request(1, 7);
    struct grokd_error error = {0};
    CALL *call = NULL;

    start(&d, "");
    client = test_connect(&d);
    call = test_begin(client, &request);
    assert(test_finish(call, NULL, &error) == GROKD_INVALID_ARGUMENT);
    assert(strstr(error.text, "priority 7"));
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* ---- the queue ---- */

/* Reads to its end; its places must come nearer. Returns how many it was told. */
static unsigned read_places(grokd_call *call, uint32_t *ret_first, bool *ret_estimated) {
    const struct grokd_event *event;
    uint32_t last = UINT32_MAX;
    unsigned n = 0;

    while (grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT) {
        if (!event->queued)
            continue;
        if (n++ == 0)
            *ret_first = event->queued->position;
        assert(event->queued->position < last);
        last = event->queued->position;
        *ret_estimated |= event->queued->estimated_wait_us > 0;
    }
    return n;
}

static void test_places_in_the_queue_are_told(void) {
    TestDaemon d;
    CLIENT *client = NULL;
    struct grokd_generate_request request = load_prompt(10, 0); /* texts may overtake each other */
    struct grokd_sampling sampling = *request.sampling;
    grokd_call *calls[10];
    uint32_t first[ARRAY_SIZE(calls)] = {0};
    unsigned n = 0;
    bool estimated = false;

    start(&d, "[engine]\nmax_sequences = 1\n");
    client = test_connect(&d);
    sampling.max_tokens = 600;
    request.sampling = &sampling;
    begin_behind_one(client, &request, calls, ARRAY_SIZE(calls));
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        n = read_places(calls[i], &first[i], &estimated);
        assert(i == 0 || n >= 1);
        assert(i == 0 || first[i] < i);
        calls[i] = grokd_call_free(calls[i]);
    }
    (void)printf("# the last was told %u places\n", n);
    assert(first[ARRAY_SIZE(calls) - 1] >= 4 && n >= 2 && estimated);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void expect_hint(grokd_call *call, const char *key) {
    const struct grokd_event *event;
    struct grokd_error error = {0};

    assert(grokd_call_next(call, -1, &event, &error) == GROKD_NEXT_FAILED); /* before any event */
    if (error.code != GROKD_RESOURCE_EXHAUSTED || error.retry_after_ms == 0 ||
        !strstr(error.text, key) || !strstr(error.text, "try again in"))
        (void)printf("%u: %s\n", error.retry_after_ms, error.text);
    assert(error.code == GROKD_RESOURCE_EXHAUSTED && error.retry_after_ms > 0);
    assert(strstr(error.text, key) && strstr(error.text, "try again in"));
}

/* So slowly that the first one runs still when others come. */
#define ONE_SLOWLY "[engine]\nmax_sequences = 1\nthreads = 1\ninstruction_set = generic\n"

/* One runs, two of each user may wait, three of all. */
static void ask_nine(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = load_request(3900, GROKD_PRIORITY_UNSPECIFIED);
    grokd_call *calls[9];

    (void)self;
    begin_behind_one(client, &request, calls, ARRAY_SIZE(calls));
    for (size_t i = 3; i < ARRAY_SIZE(calls); i++)
        expect_hint(calls[i], "max_user_queued_requests");
    atomic_store(&shared->n_alice, 1);
    await_count(&shared->may_go, 1);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = grokd_call_free(calls[i]);
}

static void ask_two(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = load_request(4, GROKD_PRIORITY_UNSPECIFIED);
    CALL *waits = test_begin(client, &request);
    CALL *refused = test_begin(client, &request);

    (void)self;
    expect_hint(refused, "max_queued_requests");
    atomic_store(&shared->may_go, 1);
    assert(test_finish(waits, NULL, NULL) == GROKD_OK);
}

static void test_full_queues_refuse_with_a_hint(void) {
    TestDaemon d;
    TestUser alice, bob;

    start(&d, ONE_SLOWLY "[limits]\nmax_queued_requests = 3\n"
                         "max_user_queued_requests = 2\n");
    alice = test_user_start(&d, ALICE, 0, ask_nine);
    await_count(&shared->n_alice, 1);
    bob = test_user_start(&d, BOB, 0, ask_two);
    test_user_end(&alice);
    test_user_end(&bob);
    test_daemon_stop(&d);
}

/* The whole queue is one user's; the last of its requests makes room for another's. */
static void fill_the_queue(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = load_request(3900, GROKD_PRIORITY_UNSPECIFIED);
    grokd_call *calls[5];

    (void)self;
    begin_behind_one(client, &request, calls, ARRAY_SIZE(calls));
    expect_hint(calls[4], "max_queued_requests");
    atomic_store(&shared->n_alice, 1);
    await_count(&shared->may_go, 1);
    {
        const struct grokd_event *event;
        struct grokd_error error = {0};
        int r;

        while ((r = grokd_call_next(calls[3], -1, &event, &error)) == GROKD_NEXT_EVENT)
            assert(!event->chunk);
        assert(r == GROKD_NEXT_FAILED && error.code == GROKD_RESOURCE_EXHAUSTED);
        assert(error.retry_after_ms > 0 && strstr(error.text, "max_queued_requests"));
    }
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = grokd_call_free(calls[i]);
}

static void ask_in_between(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = load_request(4, GROKD_PRIORITY_UNSPECIFIED);
    CALL *waits = test_begin(client, &request);
    CALL *refused = test_begin(client, &request);

    (void)self;
    expect_hint(refused, "max_queued_requests"); /* alice's have hardly more */
    atomic_store(&shared->may_go, 1);
    assert(test_finish(waits, NULL, NULL) == GROKD_OK);
}

static void test_a_full_queue_is_shared(void) {
    TestUser alice;
    TestDaemon d;

    start(&d, ONE_SLOWLY "[limits]\nmax_queued_requests = 3\n");
    alice = test_user_start(&d, ALICE, 0, fill_the_queue);
    await_count(&shared->n_alice, 1);
    test_as(&d, BOB, 0, ask_in_between);
    test_user_end(&alice);
    test_daemon_stop(&d);
}

/* ---- deadlines ---- */

/* Reads to its end, which must be for want of time. Returns how much of the prompt was done. */
static uint32_t expect_late(grokd_call *call, struct grokd_error *error) {
    const struct grokd_event *event;
    uint32_t n_done = 0;
    int got;

    while ((got = grokd_call_next(call, -1, &event, error)) == GROKD_NEXT_EVENT) {
        assert(!event->chunk);
        if (event->prefill)
            n_done = event->prefill->done_tokens;
    }
    assert(got == GROKD_NEXT_FAILED && error->code == GROKD_DEADLINE_EXCEEDED);
    return n_done;
}

static void test_deadlines_in_queue_and_prefill(void) {
    TestDaemon d;
    CLIENT *client = NULL;
    struct grokd_generate_request running, waiting, hopeless;
    struct grokd_error error = {0};
    CALL *first = NULL, *second = NULL, *third = NULL;
    const struct grokd_event *event;
    uint32_t n_done;

    start(&d, "[engine]\nmax_sequences = 1\n");
    client = test_connect(&d);
    hopeless = load_prompt(4000, 0);
    third = test_begin(client, &hopeless); /* its cost is learnt */
    assert(test_finish(third, NULL, NULL) == GROKD_OK);
    third = grokd_call_free(third);
    hopeless.tokens++; /* another prompt than the one before */
    hopeless.n_tokens--;
    hopeless.timeout_ms = 30;
    third = test_begin(client, &hopeless);
    n_done = expect_late(third, &error);
    (void)printf("# %u of 3999 tokens, then: %s\n", n_done, error.text);
    assert(n_done < 1000);
    running = load_request(3900, GROKD_PRIORITY_UNSPECIFIED);
    first = test_begin(client, &running);
    do
        assert(grokd_call_next(first, -1, &event, NULL) == GROKD_NEXT_EVENT);
    while (!event->chunk);
    waiting = load_request(4, GROKD_PRIORITY_UNSPECIFIED);
    waiting.timeout_ms = 100;
    second = test_begin(client, &waiting);
    assert(expect_late(second, &error) == 0);
    first = grokd_call_free(first);
    second = grokd_call_free(second);
    third = grokd_call_free(third);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* ---- a storm ---- */

static void cancel_500(const TestDaemon *d, TestUser *self) {
    (void)self;
    load_storm(d, 500);
}

static void test_cancel_storm_leaves_nothing(void) {
    TestDaemon d;
    TestUser users[4];

    start(&d, "[engine]\nkv_memory = 4M\nmax_sequences = 8\n");
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        users[i] = test_user_start(&d, i % 2 ? ALICE : BOB, 0, cancel_500);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    test_daemon_stop(&d); /* no request, no KV page and no account is left */
}

/* ---- a crowd ---- */

static void ask_fifty(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    CLEANUP(freep) char *alone = test_ask(client, NULL, "What is Grok-1?");
    struct grokd_generate_request request = test_question(NULL, "What is Grok-1?");
    grokd_call *calls[50];

    (void)self;
    (void)atomic_fetch_add(&shared->may_go, 1);
    await_count(&shared->may_go, 4); /* all at once */
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = test_begin(client, &request);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        CLEANUP(freep) char *text = NULL;
        struct grokd_error error = {0};

        if (test_finish(calls[i], &text, &error) != GROKD_OK) {
            (void)printf("stream %zu: %s\n", i, error.text);
            abort();
        }
        assert(strcmp(text + strspn(text, " "), alone) == 0);
        calls[i] = grokd_call_free(calls[i]);
    }
}

/* The library checks the numbers of all events. */
static void test_200_streams_of_two_users(void) {
    TestDaemon d;
    TestUser users[4];

    start(&d, "");
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        users[i] = test_user_start(&d, i % 2 ? ALICE : BOB, 0, ask_fifty);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"one_stream_beside_64", test_one_stream_beside_64, 60},
        {"batch_yields", test_batch_yields, 60},
        {"suspended_for_a_place", test_suspended_for_a_place, 60},
        {"suspended_for_pages", test_suspended_for_pages, 60},
        TEST(unknown_priority_is_refused),
        {"places_in_the_queue_are_told", test_places_in_the_queue_are_told, 60},
        {"full_queues_refuse_with_a_hint", test_full_queues_refuse_with_a_hint, 60},
        {"a_full_queue_is_shared", test_a_full_queue_is_shared, 60},
        {"deadlines_in_queue_and_prefill", test_deadlines_in_queue_and_prefill, 60},
        {"cancel_storm_leaves_nothing", test_cancel_storm_leaves_nothing, 120},
        {"200_streams_of_two_users", test_200_streams_of_two_users, 60},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
