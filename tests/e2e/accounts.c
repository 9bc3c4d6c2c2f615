/* Many users: limits of each, fair parts of actors, who may do what. Needs root to become others.
 */
#include "tests/e2e/util-daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ALICE 2001
#define BOB   2002
#define CAROL 2003
#define GROUP 3001

/* Waits until the call has its first text. */
static void await_text(grokd_call *call) {
    const struct grokd_event *event;

    do
        assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT);
    while (!event->chunk);
}

/* What comes of a request for n tokens. */
static int ask(grokd_client *client, uint32_t n, const char *actor, struct grokd_error *error) {
    struct grokd_generate_request request = test_long(n);
    CALL *call = NULL;

    request.actor = actor;
    call = test_begin(client, &request);
    return test_finish(call, NULL, error);
}

/* Returns when to try again, in milliseconds; 0: it is not said. */
static uint32_t expect_refusal(grokd_client *client, uint32_t n, const char *actor,
                               const char *words) {
    struct grokd_error error = {0};

    assert(ask(client, n, actor, &error) == GROKD_RESOURCE_EXHAUSTED);
    if (!strstr(error.text, words))
        (void)printf("%s\n", error.text);
    assert(strstr(error.text, words));
    return error.retry_after_ms;
}

static void expect_answer(grokd_client *client, uint32_t n, const char *actor) {
    struct grokd_error error = {0};

    if (ask(client, n, actor, &error) == GROKD_OK)
        return;
    (void)printf("%s\n", error.text);
    abort();
}

/* ---- limits ---- */

/* Two long requests, which is all it may have, until told to end. */
static void hold_two(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(3900);
    CALL *one = test_begin(client, &request);
    CALL *two = test_begin(client, &request);

    await_text(one);
    await_text(two);
    (void)expect_refusal(client, 1, NULL, "max_user_requests");
    (void)expect_refusal(client, 1, NULL, "user 2001 has 2 requests under way");
    test_user_ready(self);
}

static void may_not_one_more(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);

    (void)self;
    (void)expect_refusal(client, 1, NULL, "max_user_requests");
}

static void may(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);

    (void)self;
    expect_answer(client, 4, NULL);
}

static void test_requests_are_counted_by_user(void) {
    TestDaemon d;
    TestUser holder;

    test_daemon_start_open(&d, "[limits]\nmax_user_requests = 2\n");
    holder = test_user_start(&d, ALICE, 0, hold_two);
    test_user_await(&holder);
    test_as(&d, ALICE, 0, may_not_one_more); /* whatever connection it comes from */
    test_as(&d, BOB, 0, may);
    test_user_end(&holder);
    test_await_idle(&d);
    test_as(&d, ALICE, 0, may);
    test_daemon_stop(&d); /* asserts that all accounts are at zero */
}

static void connect_twice(const TestDaemon *d, TestUser *self) {
    CLIENT *one = test_connect(d);
    CLIENT *two = test_connect(d);
    CLIENT *three = test_connect(d);

    (void)self;
    expect_answer(one, 1, NULL);
    expect_answer(two, 1, NULL);
    (void)expect_refusal(three, 1, NULL, "max_user_connections");
}

static void connect_thrice(const TestDaemon *d, TestUser *self) {
    CLIENT *one = test_connect(d);
    CLIENT *two = test_connect(d);
    CLIENT *three = test_connect(d);

    (void)self;
    expect_answer(one, 1, NULL);
    expect_answer(two, 1, NULL);
    expect_answer(three, 1, NULL);
}

static void test_limits_by_user_and_group(void) {
    TestDaemon d;

    test_daemon_start_open(
        &d, "[limits]\nmax_user_connections = 2\n[group 3001]\nmax_user_connections = 3\n"
            "[user 2002]\nmax_user_connections = 3\n");
    test_as(&d, ALICE, 0, connect_twice);
    test_as(&d, CAROL, GROUP,
            connect_thrice); /* not Alice, whose connections may still be closing */
    test_as(&d, BOB, 0, connect_thrice);
    test_daemon_stop(&d);
}

static void exceed_each(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_score_request score = GROKD_SCORE_REQUEST_INIT;
    struct grokd_generate_request clipped = test_question(NULL, "What does tar do?");
    ANSWER grokd_score_response *answer = NULL;
    struct grokd_error error = {0};
    char text[4000];
    CALL *call = NULL;

    (void)self;
    expect_answer(client, 20, NULL);
    (void)expect_refusal(client, 300, NULL, "tokens in flight");
    /* That would never do. */
    assert(expect_refusal(client, 300, NULL, "limit of 290 (max_user_tokens)") == 0);
    assert(expect_refusal(client, 700, NULL, "max_user_context") == 0);
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        text[i] = i % 2 ? ' ' : 'x';
    text[sizeof(text) - 1] = '\0';
    score.text = text;
    assert(grokd_score(client, &score, &answer, &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "max_user_context"));
    call = test_begin(client, &clipped); /* by default it may have what it is allowed */
    assert(test_finish(call, NULL, &error) == GROKD_OK);
}

static void test_tokens_and_context_are_limited(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_tokens = 290\nmax_user_context = 400\n"
                               "[requests]\ndefault_max_tokens = 100\n");
    test_as(&d, ALICE, 0, exceed_each);
    test_daemon_stop(&d);
}

/* What an answer will be is charged, too, before it is there. */
static void ask_for_many_scores(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_score_request score = GROKD_SCORE_REQUEST_INIT;
    ANSWER grokd_score_response *answer = NULL;
    static int32_t tokens[1000];
    struct grokd_error error = {0};

    (void)self;
    for (size_t i = 0; i < ARRAY_SIZE(tokens); i++)
        tokens[i] = 300 + (int32_t)i;
    score.tokens = tokens;
    score.n_tokens = ARRAY_SIZE(tokens);
    score.top_logprobs = 10;
    assert(grokd_score(client, &score, &answer, &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "max_user_bytes"));
    score.top_logprobs = 1;
    assert(grokd_score(client, &score, &answer, &error) == GROKD_OK);
}

static void test_scores_are_charged(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_bytes = 64K\n");
    test_as(&d, ALICE, 0, ask_for_many_scores);
    test_daemon_stop(&d);
}

/* A prompt that is to be repeated is kept for that, and there twice. */
static void ask_for_an_echo(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(4);
    char text[5000];

    (void)self;
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        text[i] = "an archiving utility "[i % 21];
    text[sizeof(text) - 1] = '\0';
    request.text = text;
    for (int i = 0; i < 4; i++) {
        struct grokd_error error = {0};
        CALL *call = NULL;
        int r;

        request.echo = i % 2 == 1;
        call = test_begin(client, &request);
        r = test_finish(call, NULL, &error);
        if (!request.echo)
            assert(r == GROKD_OK); /* the refusal has left nothing */
        else
            assert(r == GROKD_RESOURCE_EXHAUSTED && strstr(error.text, "max_user_bytes"));
    }
}

static void test_echoes_are_charged(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_bytes = 8K\n");
    test_as(&d, ALICE, 0, ask_for_an_echo);
    test_daemon_stop(&d);
}

static void exceed_pages(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(3900);
    CALL *long_one = test_begin(client, &request);

    (void)self;
    await_text(long_one);
    assert(expect_refusal(client, 200, NULL,
                          "KV pages, and 4 more would exceed the limit of 64 "
                          "(max_user_kv_pages); try again in") > 0);
    expect_answer(client, 20, NULL); /* one page is left */
}

static void test_kv_pages_are_limited(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_kv_pages = 64\n");
    test_as(&d, ALICE, 0, exceed_pages);
    test_as(&d, ALICE, 0, may);
    test_daemon_stop(&d);
}

static void use_window_up(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_error error = {0};

    (void)self;
    expect_answer(client, 150, NULL);
    assert(ask(client, 150, NULL, &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "max_user_window_tokens") && strstr(error.text, "they fit in 3"));
    expect_answer(client, 10, NULL); /* what is left can be had */
}

static void find_window_used(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);

    (void)self;
    assert(expect_refusal(client, 150, NULL, "they fit in") > 3000000); /* of 3600 s */
}

static void test_window_outlives_the_connection(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_window_tokens = 250\ntoken_window = 1h\n");
    test_as(&d, ALICE, 0, use_window_up);
    test_as(&d, ALICE, 0, find_window_used);
    test_as(&d, BOB, 0, use_window_up);
    test_daemon_stop(&d);
}

/* One actor can't take what the others need. */
static void work_for_actors(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(1900);
    struct grokd_error error = {0};
    CALL *greedy = NULL;

    (void)self;
    request.actor = "greedy";
    greedy = test_begin(client, &request);
    await_text(greedy);
    (void)expect_refusal(client, 500, "greedy", "actor 'greedy' of user 2001 may not have");
    expect_answer(client, 200, "modest");
    expect_answer(client, 1000, NULL);
    assert(ask(client, 1, "a\nb", &error) == GROKD_INVALID_ARGUMENT);
    assert(strstr(error.text, "actor"));
    assert(ask(client, 1, "0123456789012345678901234567890123456789012345678901234567890123456789",
               &error) == GROKD_INVALID_ARGUMENT);
    expect_answer(client, 1, "\xc3\xa4 of 'mine'");
}

static void test_actors_have_fair_parts(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "[limits]\nmax_user_tokens = 4000\n");
    test_as(&d, ALICE, 0, work_for_actors);
    test_daemon_stop(&d);
}

/* ---- bytes that never become a request ---- */

static int connect_raw(const TestDaemon *d) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", d->socket);
    assert(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

/* The beginning of a frame of 1 MiB, all but its last byte. False: the connection was closed. */
static bool send_most(int fd) {
    static const uint8_t header[10] = {0, 0x10, 0, 0, 0, 0, 0, 1, 1, 0};
    static uint8_t zeros[(1 << 20) - 1];
    size_t sent = 0;
    ssize_t n = send(fd, header, sizeof(header), MSG_NOSIGNAL);

    while (n > 0 && sent < sizeof(zeros)) {
        n = send(fd, zeros, sizeof(zeros) - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
    }
    return n > 0;
}

static void send_pieces(const TestDaemon *d, TestUser *self) {
    struct pollfd p = {.events = 0};
    int fds[4];
    size_t n_closed = 0;

    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = connect_raw(d);
        (void)send_most(fds[i]);
    }
    /* Of 4 MiB with a limit of 3, one connection at least is closed. */
    while (n_closed == 0)
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
            p.fd = fds[i];
            n_closed += poll(&p, 1, 10) > 0 && (p.revents & POLLHUP);
        }
    assert(n_closed < ARRAY_SIZE(fds));
    test_user_ready(self);
}

static void test_pieces_of_requests_are_charged(void) {
    TestDaemon d;
    TestUser holder;

    test_daemon_start_open(&d, "[limits]\nmax_user_bytes = 3M\n");
    holder = test_user_start(&d, ALICE, 0, send_pieces);
    test_user_await(&holder);
    test_as(&d, BOB, 0, may);
    assert(test_daemon_logged(&d, "max_user_bytes"));
    test_user_end(&holder);
    test_daemon_stop(&d);
}

/* ---- access ---- */

static struct { bool inference, models, admin; } rights;

static void expect(bool is_allowed, int code, const struct grokd_error *error, const char *key) {
    if (is_allowed != (code != GROKD_PERMISSION_DENIED))
        (void)printf("%s: %s\n", key, error->text);
    assert(is_allowed == (code != GROKD_PERMISSION_DENIED));
    assert(is_allowed || (strstr(error->text, key) && strstr(error->text, "grokd.conf")));
}

static void use_rights(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_tokenize_request tokenize = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_load_model_request load = GROKD_LOAD_MODEL_REQUEST_INIT;
    struct grokd_error error = {0};
    ANSWER grokd_tokenize_response *tokens = NULL;
    ANSWER grokd_list_models_response *list = NULL;
    ANSWER grokd_show_model_response *show = NULL;
    ANSWER grokd_status_response *status = NULL;
    CALL *call = NULL;

    (void)self;
    expect(rights.inference, ask(client, 1, NULL, &error), &error, "inference_allow");
    tokenize.text = "tar";
    expect(rights.inference, grokd_tokenize(client, &tokenize, &tokens, &error), &error,
           "inference_deny");
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK);
    assert(grokd_show_model(client, NULL, &show, NULL) == GROKD_OK);
    load.model = "other";
    load.path = "/nonexistent";
    assert(grokd_begin_load_model(client, &load, &call, &error) == GROKD_OK);
    expect(rights.models, test_finish(call, NULL, &error), &error, "models_allow");
    expect(rights.models, grokd_unload_model(client, "no such", &error), &error, "models_deny");
    expect(rights.admin, grokd_status(client, &status, &error), &error, "admin_allow");
}

static void test_services_are_for_those_allowed(void) {
    TestDaemon d;

    test_daemon_start_open(&d, "");
    rights.inference = true;
    test_as(&d, ALICE, 0, use_rights);
    test_daemon_stop(&d);
    test_daemon_start_open(
        &d, "[access]\ninference_allow = @3001 2002\ninference_deny = 2002\nmodels_allow = 2002\n"
            "admin_allow = *\nadmin_deny = @3001\n");
    rights.inference = false;
    rights.admin = true;
    test_as(&d, ALICE, 0, use_rights);
    rights.models = true;
    test_as(&d, BOB, 0, use_rights);
    rights.inference = true;
    rights.models = rights.admin = false;
    test_as(&d, ALICE, GROUP, use_rights);
    rights.inference = rights.models = rights.admin = true;
    test_as(&d, 0, 0, use_rights);
    test_daemon_stop(&d);
}

/* ---- between users ---- */

static void hold_secret(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(3900);
    CALL *call = NULL;

    request.request_id = "secret";
    call = test_begin(client, &request);
    await_text(call);
    test_user_ready(self);
    await_text(call); /* nobody has ended it */
}

static void try_secret(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = test_long(2);
    ANSWER grokd_cancel_response *cancel = NULL;
    CALL *call = NULL;

    (void)self;
    assert(grokd_cancel(client, "secret", &cancel, NULL) == GROKD_OK && !cancel->found);
    request.request_id = "secret"; /* ids are each user's own: nothing tells that it is in use */
    call = test_begin(client, &request);
    assert(test_finish(call, NULL, NULL) == GROKD_OK);
}

static void test_others_requests_are_out_of_reach(void) {
    TestDaemon d;
    TestUser holder;

    test_daemon_start_open(&d, "");
    holder = test_user_start(&d, ALICE, 0, hold_secret);
    test_user_await(&holder);
    test_as(&d, BOB, 0, try_secret);
    test_user_end(&holder);
    test_daemon_stop(&d);
}

/* ---- Top ---- */

/* The next event; valid until the one after it. */
static const struct grokd_top *next_top(grokd_call *call) {
    const struct grokd_event *event;

    assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT && event->top);
    return event->top;
}

static const struct grokd_top_account *find_account(const struct grokd_top *top, uint32_t uid,
                                                    const char *actor) {
    for (size_t i = 0; i < top->n_accounts; i++)
        if (top->accounts[i]->uid == uid && strcmp(top->accounts[i]->actor, actor) == 0)
            return top->accounts[i];
    return NULL;
}

/* Looks once; the holder's request must be there, its id only where `sees_id`. */
static void look(const TestDaemon *d, bool sees_id) {
    CLIENT *client = test_connect(d);
    const struct grokd_event *event;
    CALL *call = NULL;
    const struct grokd_top *top;

    assert(grokd_begin_top(client, 0, &call, NULL) == GROKD_OK);
    top = next_top(call);
    assert(top->n_requests == 1 && top->requests[0]->uid == ALICE);
    assert(strcmp(top->requests[0]->request_id, sees_id ? "secret" : "") == 0);
    assert(strcmp(top->requests[0]->model, "demo") == 0 && top->requests[0]->max_tokens == 3900);
    assert(top->requests[0]->prompt_done == top->requests[0]->prompt_tokens);
    assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_END);
}

static void look_and_see(const TestDaemon *d, TestUser *self) {
    (void)self;
    look(d, true);
}

static void look_and_see_no_id(const TestDaemon *d, TestUser *self) {
    (void)self;
    look(d, false);
}

static void test_top_tells_who_uses_what(void) {
    TestDaemon d;
    CLIENT *client = NULL;
    CALL *call = NULL;
    const struct grokd_top_account *alice;
    const struct grokd_top *top;
    TestUser holder;

    test_daemon_start_open(&d, "[access]\nadmin_allow = *\n");
    holder = test_user_start(&d, ALICE, 0, hold_secret);
    test_user_await(&holder);
    test_as(&d, ALICE, 0, look_and_see);
    test_as(&d, BOB, 0, look_and_see_no_id);
    test_as(&d, 0, 0, look_and_see);
    client = test_connect(&d);
    assert(grokd_begin_top(client, 100, &call, NULL) == GROKD_OK);
    top = next_top(call);
    alice = find_account(top, ALICE, "");
    assert(alice && alice->connections == 1 && alice->requests_running == 1);
    assert(alice->tokens_in_flight > 3900 &&
           alice->kv_pages == (alice->tokens_in_flight + 63) / 64);
    assert(alice->window_tokens > 0 && alice->generated_tokens_per_s > 0 && alice->bytes > 0);
    assert(top->requests_running == 1 && top->kv_pages_used >= alice->kv_pages);
    assert(top->generated_tokens_per_s >= alice->generated_tokens_per_s && top->steps_total > 0);
    assert(top->n_models == 1 && top->models[0]->users == 1);
    test_user_end(&holder);
    test_await_running(&d, 0);
    do { /* goes on, and everything comes back to zero */
        top = next_top(call);
        alice = find_account(top, ALICE, "");
    } while (alice && (alice->connections > 0 || alice->tokens_in_flight > 0));
    assert(!alice || (alice->kv_pages == 0 && alice->bytes == 0 && alice->requests_running == 0));
    assert(top->n_requests == 0 && find_account(top, 0, ""));
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* A stream without an end holds up nobody's end. */
static void test_top_ends_with_the_daemon(void) {
    TestDaemon d;
    CLIENT *client = NULL;
    CALL *call = NULL;
    CALL *bad = NULL;
    struct grokd_error error = {0};

    test_daemon_start_open(&d, "");
    client = test_connect(&d);
    assert(grokd_begin_top(client, 99, &bad, NULL) == GROKD_OK);
    assert(test_finish(bad, NULL, &error) == GROKD_INVALID_ARGUMENT);
    assert(grokd_begin_top(client, 60000, &call, NULL) == GROKD_OK);
    (void)next_top(call);
    assert(kill(d.pid, SIGTERM) == 0);
    assert(test_finish(call, NULL, &error) == GROKD_UNAVAILABLE);
    assert(test_daemon_wait(&d) == 0);
    test_daemon_deinit(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(requests_are_counted_by_user),
        TEST(limits_by_user_and_group),
        TEST(tokens_and_context_are_limited),
        TEST(scores_are_charged),
        TEST(echoes_are_charged),
        TEST(kv_pages_are_limited),
        TEST(window_outlives_the_connection),
        TEST(actors_have_fair_parts),
        TEST(pieces_of_requests_are_charged),
        TEST(services_are_for_those_allowed),
        TEST(others_requests_are_out_of_reach),
        TEST(top_tells_who_uses_what),
        TEST(top_ends_with_the_daemon),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
