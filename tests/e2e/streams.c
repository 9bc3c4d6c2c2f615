/* Many streams at once, and every way one of them can end before its time. */
#include "tests/e2e/util-daemon.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_CLIENTS 64

static int64_t now_ms(void) {
    struct timespec t;

    assert(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A prompt of n tokens. */
static struct grokd_generate_request long_prompt(size_t n) {
    static int32_t tokens[4096];
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;

    assert(n <= ARRAY_SIZE(tokens));
    for (size_t i = 0; i < n; i++)
        tokens[i] = 300 + (int32_t)(i * 7919 % 3000);
    request.tokens = tokens;
    request.n_tokens = n;
    return request;
}

static void await_first_event(grokd_call *call) {
    const struct grokd_event *event;
    struct grokd_error error = {0};

    if (grokd_call_next(call, -1, &event, &error) != GROKD_NEXT_EVENT) {
        (void)printf("no event: %s\n", error.text);
        abort();
    }
}

static void test_64_clients_get_the_same_answer(void) {
    static const char *const questions[] = {"What does tar do?", "What is Grok-1?",
                                            "What does strace do?", "Who are you?"};
    TestDaemon d;
    grokd_client *clients[N_CLIENTS];
    grokd_call *calls[N_CLIENTS];
    char *alone[ARRAY_SIZE(questions)];

    clients[0] = test_connect(test_daemon_start(&d));
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++)
        alone[i] = test_ask(clients[0], NULL, questions[i]);
    for (size_t i = 0; i < N_CLIENTS; i++) {
        struct grokd_generate_request request =
            test_question(NULL, questions[i % ARRAY_SIZE(questions)]);

        if (i > 0)
            clients[i] = test_connect(&d);
        calls[i] = test_begin(clients[i], &request);
    }
    for (size_t i = 0; i < N_CLIENTS; i++) {
        CLEANUP(freep) char *text = NULL;
        struct grokd_error error = {0};

        if (test_finish(calls[i], &text, &error) != GROKD_OK) {
            (void)printf("client %zu: %s\n", i, error.text);
            abort();
        }
        assert(strcmp(text + 1, alone[i % ARRAY_SIZE(questions)]) == 0);
        calls[i] = grokd_call_free(calls[i]);
        clients[i] = grokd_client_free(clients[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++)
        free(alone[i]);
    test_daemon_stop(&d);
}

static void test_one_connection_carries_many_streams(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    grokd_call *calls[32], *ready;
    unsigned n_ended = 0;

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_generate_request request = test_long(20 + (uint32_t)i);

        calls[i] = test_begin(client, &request);
    }
    while (n_ended < ARRAY_SIZE(calls)) { /* as a program with its own event loop does it */
        struct pollfd p = {.fd = grokd_fd(client), .events = (short)grokd_events(client)};
        const struct grokd_event *event;

        assert(poll(&p, 1, grokd_timeout_ms(client)) >= 0);
        assert(grokd_process(client, NULL) == GROKD_OK);
        while ((ready = grokd_ready(client)) != NULL) {
            int r = grokd_call_next(ready, 0, &event, NULL);

            assert(r != GROKD_NEXT_FAILED);
            if (r != GROKD_NEXT_END)
                continue;
            for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                if (calls[i] == ready)
                    calls[i] = grokd_call_free(ready);
            n_ended++;
        }
    }
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Sampling with a seed is as repeatable as greedy decoding, alone and in company. */
static void test_seeded_text_is_the_same_under_load(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(60), load = request;
    struct grokd_sampling sampling = *request.sampling;
    CLEANUP(freep) char *alone = NULL;
    grokd_call *crowd[8];

    sampling.has_temperature = sampling.has_seed = sampling.has_top_p = true;
    sampling.temperature = 1.2f;
    sampling.top_p = 0.95f;
    sampling.seed = 42;
    request.sampling = &sampling;
    for (int round = 0; round < 2; round++) {
        CLEANUP(freep) char *text = NULL;
        CALL *call = NULL;

        for (size_t i = 0; round == 1 && i < ARRAY_SIZE(crowd); i++)
            crowd[i] = test_begin(client, &load);
        call = test_begin(client, &request);
        assert(test_finish(call, &text, NULL) == GROKD_OK && strlen(text) > 60);
        if (round == 0)
            alone = take_ptr(text);
        else
            assert(strcmp(text, alone) == 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(crowd); i++)
        crowd[i] = grokd_call_free(crowd[i]);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_disconnect_ends_the_work(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(4000);
    grokd_call *calls[4];

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        calls[i] = test_begin(client, &request);
        await_first_event(calls[i]);
    }
    client = grokd_client_free(client);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = grokd_call_free(calls[i]);
    test_daemon_stop(&d);
}

static void test_freed_call_is_cancelled(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(4000);
    CALL *call = test_begin(client, &request);
    CLEANUP(freep) char *text = NULL;

    await_first_event(call);
    call = grokd_call_free(call);
    text = test_ask(client, NULL, "What does tar do?");
    assert(strcmp(text, "tar(1) - an archiving utility.") == 0);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* In prefill: the prompt takes many steps, and the end comes after the first of them. */
static void test_cancel_and_disconnect_in_prefill(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = long_prompt(4000);
    CALL *call = test_begin(client, &request);
    const struct grokd_event *event;
    struct grokd_error error = {0};
    uint32_t seen = 0;
    int64_t begun;

    while (!seen && grokd_call_next(call, -1, &event, &error) == GROKD_NEXT_EVENT)
        if (event->prefill)
            seen = event->prefill->done_tokens;
    assert(seen < 4000);
    grokd_call_cancel(call);
    begun = now_ms();
    assert(test_finish(call, NULL, NULL) == GROKD_CANCELLED);
    (void)printf("# cancelled at token %u, %d ms\n", seen, (int)(now_ms() - begun));
    call = grokd_call_free(call);
    call = test_begin(client, &request);
    await_first_event(call);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static int come_and_go(const TestDaemon *d, const struct grokd_generate_request *request) {
    CLIENT *client = test_connect(d);
    struct grokd_list_models_response *list = NULL;
    grokd_call *calls[6];
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = test_begin(client, request);
    r = grokd_list_models(client, &list, NULL); /* it has read them */
    assert(r == GROKD_OK || r == GROKD_RESOURCE_EXHAUSTED);
    grokd_free(list);
    client = grokd_client_free(client);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = grokd_call_free(calls[i]);
    return (int)ARRAY_SIZE(calls);
}

/* During one step, more requests come and go than there may be. */
static void test_many_come_and_go_in_one_step(void) {
    static const char *const options[] = {"--model", "demo=" DEMO_MODEL, NULL};
    struct grokd_generate_request request = long_prompt(3000), small = request;
    int n_calls = 0, n_done = 0, r;
    TestDaemon d;

    small.n_tokens = 10;
    test_daemon_init(&d);
    test_daemon_configure(&d, "[engine]\nprefix_cache = no\nthreads = 1\n"
                              "[limits]\nmax_requests = 8\n");
    test_daemon_spawn(&d, options);
    test_daemon_await(&d, "READY=1");
    for (int i = 0; i < 3; i++) {
        CLIENT *client = test_connect(&d);
        CALL *call = test_begin(client, &request);

        for (int k = 0; k < 20; k++)
            n_calls += come_and_go(&d, &small);
        r = test_finish(call, NULL, NULL);
        assert(r == GROKD_OK || r == GROKD_RESOURCE_EXHAUSTED);
        n_done += r == GROKD_OK;
    }
    assert(n_done > 0);
    (void)printf("# %d came and went\n", n_calls);
    test_daemon_stop(&d);
}

static void test_deadlines_end_streams_and_scores(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request generate = test_long(4000), prompt = long_prompt(4000);
    struct grokd_score_request score = GROKD_SCORE_REQUEST_INIT;
    ANSWER grokd_score_response *none = NULL;
    CALL *first = NULL, *second = NULL;

    generate.timeout_ms = 50;
    prompt.timeout_ms = 20;
    score.tokens = prompt.tokens;
    score.n_tokens = prompt.n_tokens;
    score.timeout_ms = 20;
    first = test_begin(client, &generate);
    assert(test_finish(first, NULL, NULL) == GROKD_DEADLINE_EXCEEDED);
    second = test_begin(client, &prompt);
    assert(test_finish(second, NULL, NULL) == GROKD_DEADLINE_EXCEEDED);
    assert(grokd_score(client, &score, &none, NULL) == GROKD_DEADLINE_EXCEEDED);
    first = grokd_call_free(first);
    second = grokd_call_free(second);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_killed_clients_leave_nothing_behind(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(4000);
    CLEANUP(freep) char *text = NULL;
    pid_t pids[8];

    for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
        pids[i] = fork();
        assert(pids[i] >= 0);
        if (pids[i] == 0) {
            grokd_client *own = test_connect(&d);

            for (int j = 0; j < 4; j++)
                (void)test_begin(own, &request);
            for (;;)
                (void)pause();
        }
    }
    (void)usleep(200000);
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        assert(kill(pids[i], SIGKILL) == 0 && waitpid(pids[i], NULL, 0) == pids[i]);
    text = test_ask(client, NULL, "What does tar do?");
    assert(strcmp(text, "tar(1) - an archiving utility.") == 0);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Reads nothing: its streams end at a named limit, and everybody else is served. */
static void test_slow_reader_stalls_itself_alone(void) {
    static const char *const options[] = {"--model", "demo=" DEMO_MODEL, NULL};
    TestDaemon d;
    CLIENT *slow = NULL, *client = NULL;
    struct grokd_generate_request request = test_long(4000);
    struct grokd_sampling sampling = *request.sampling;
    grokd_call *calls[6];
    int64_t slowest = 0;

    test_daemon_init(&d);
    test_daemon_configure(&d, "[limits]\nmax_unread_bytes = 8K\n");
    test_daemon_spawn(&d, options);
    test_daemon_await(&d, "READY=1");
    slow = test_connect(&d);
    client = test_connect(&d);
    sampling.logprobs = true;
    sampling.top_logprobs = 20;
    request.sampling = &sampling;
    request.token_ids = true;
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = test_begin(slow, &request);
    for (int i = 0; i < 10; i++) {
        int64_t begun = now_ms();
        CLEANUP(freep) char *answer = test_ask(client, NULL, "What does tar do?");

        assert(strcmp(answer, "tar(1) - an archiving utility.") == 0);
        slowest = MAX(slowest, now_ms() - begun);
    }
    (void)printf("# slowest answer beside a slow reader: %d ms\n", (int)slowest);
    test_await_running(&d, 0);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_error error = {0};

        if (test_finish(calls[i], NULL, &error) != GROKD_RESOURCE_EXHAUSTED) {
            (void)printf("stream %zu: %d %s\n", i, error.code, error.text);
            abort();
        }
        calls[i] = grokd_call_free(calls[i]);
    }
    slow = grokd_client_free(slow);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"64_clients_get_the_same_answer", test_64_clients_get_the_same_answer, 60},
        {"one_connection_carries_many_streams", test_one_connection_carries_many_streams, 60},
        {"seeded_text_is_the_same_under_load", test_seeded_text_is_the_same_under_load, 60},
        {"disconnect_ends_the_work", test_disconnect_ends_the_work, 30},
        {"freed_call_is_cancelled", test_freed_call_is_cancelled, 30},
        {"cancel_and_disconnect_in_prefill", test_cancel_and_disconnect_in_prefill, 30},
        TEST(many_come_and_go_in_one_step),
        {"deadlines_end_streams_and_scores", test_deadlines_end_streams_and_scores, 30},
        {"killed_clients_leave_nothing_behind", test_killed_clients_leave_nothing_behind, 30},
        {"slow_reader_stalls_itself_alone", test_slow_reader_stalls_itself_alone, 60},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
