/* How grokd starts, serves models that go bad, and ends. */
#include "tests/e2e/util-daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAR "tar(1) - an archiving utility."

static const char *const demo[] = {"--model", "demo=" DEMO_MODEL, NULL};

static void expect_tar(const TestDaemon *d, const char *model) {
    CLIENT *client = test_connect(d);
    CLEANUP(freep) char *text = test_ask(client, model, "What does tar do?");

    assert(strcmp(text, TAR) == 0);
}

static void copy_file(const char *from, const char *to) {
    CLEANUP(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
    CLEANUP(closep) int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct stat st;

    assert(in >= 0 && out >= 0 && fstat(in, &st) == 0);
    while (lseek(out, 0, SEEK_CUR) < st.st_size)
        assert(sendfile(out, in, NULL, (size_t)st.st_size) > 0);
}

/* READY means that a request is answered at once; STATUS tells what is going on before it. */
static void test_notifies_in_order(void) {
    TestDaemon d;

    test_daemon_init(&d);
    test_daemon_spawn(&d, demo);
    test_daemon_await(&d, "STATUS=");
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, NULL);
    assert(kill(d.pid, SIGTERM) == 0);
    test_daemon_await(&d, "STOPPING=1");
    assert(test_daemon_wait(&d) == 0);
    assert(access(d.socket, F_OK) < 0 && errno == ENOENT);
    test_daemon_deinit(&d);
}

/* A grokd that was installed and told nothing serves the model that came with it, and says so. */
static void test_no_model_configured_means_the_demo(void) {
    TestDaemon d;
    ANSWER grokd_list_models_response *list = NULL;
    CLIENT *client = NULL;

    test_daemon_init(&d);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, NULL);
    client = test_connect(&d);
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK && list->n_models == 1);
    assert(list->models[0]->is_demo && list->models[0]->is_default);
    assert(test_daemon_logged(&d, "no model is configured"));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Never more threads than CPUs that it may use, and it says so. */
static void test_threads_are_capped(void) {
    ANSWER grokd_status_response *status = NULL;
    CLIENT *client = NULL;
    cpu_set_t cpus;
    TestDaemon d;

    assert(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
    test_daemon_init(&d);
    test_daemon_configure(&d, "[engine]\nthreads = 1024\n");
    test_daemon_spawn(&d, demo);
    test_daemon_await(&d, "READY=1");
    client = test_connect(&d);
    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    assert(status->threads >= 1 && status->threads <= (unsigned)CPU_COUNT(&cpus));
    assert(test_daemon_logged(&d, "threads = 1024: grokd may use"));
    expect_tar(&d, NULL);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_feeds_the_watchdog_idle_and_busy(void) {
    TestDaemon d;
    struct grokd_generate_request request = test_long(4000);
    CALL *call = NULL;
    CLIENT *client = NULL;

    assert(setenv("WATCHDOG_USEC", "400000", 1) == 0);
    client = test_connect(test_daemon_start(&d));
    for (int i = 0; i < 3; i++)
        assert(test_daemon_notified(&d, "WATCHDOG=1", 1000));
    call = test_begin(client, &request);
    for (int i = 0; i < 3; i++)
        assert(test_daemon_notified(&d, "WATCHDOG=1", 1000));
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_no_watchdog_asked_none_fed(void) {
    TestDaemon d;

    assert(unsetenv("WATCHDOG_USEC") == 0);
    (void)test_daemon_start(&d);
    assert(!test_daemon_notified(&d, "WATCHDOG=1", 500));
    test_daemon_stop(&d);
}

static void test_term_lets_running_answers_end(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(300);
    grokd_call *calls[4];

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        const struct grokd_event *event;

        calls[i] = test_begin(client, &request);
        assert(grokd_call_next(calls[i], -1, &event, NULL) == GROKD_NEXT_EVENT);
    }
    assert(kill(d.pid, SIGTERM) == 0);
    test_daemon_await(&d, "STOPPING=1");
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_error error = {0};

        if (test_finish(calls[i], NULL, &error) != GROKD_OK) {
            (void)printf("stream %zu: %s\n", i, error.text);
            abort();
        }
        calls[i] = grokd_call_free(calls[i]);
    }
    assert(test_daemon_wait(&d) == 0);
    client = grokd_client_free(client);
    test_daemon_deinit(&d);
}

static void test_draining_takes_no_new_requests(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(300), late = test_question(NULL, "Hello");
    CALL *running = test_begin(client, &request), *refused = NULL;
    const struct grokd_event *event;
    struct grokd_error error = {0};

    assert(grokd_call_next(running, -1, &event, NULL) == GROKD_NEXT_EVENT);
    assert(kill(d.pid, SIGTERM) == 0);
    test_daemon_await(&d, "STOPPING=1");
    refused = test_begin(client, &late);
    assert(test_finish(refused, NULL, &error) == GROKD_UNAVAILABLE);
    assert(test_finish(running, NULL, &error) == GROKD_OK);
    refused = grokd_call_free(refused);
    running = grokd_call_free(running);
    assert(test_daemon_wait(&d) == 0);
    client = grokd_client_free(client);
    test_daemon_deinit(&d);
}

/* Its clients learn of it, and the next one takes over the socket that was left behind. */
static void test_killed_daemon_is_replaced(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_long(4000);
    CALL *call = test_begin(client, &request);

    assert(kill(d.pid, SIGKILL) == 0 && test_daemon_wait(&d) == 128 + SIGKILL);
    assert(test_finish(call, NULL, NULL) == GROKD_UNAVAILABLE);
    assert(access(d.socket, F_OK) == 0);
    test_daemon_spawn(&d, demo);
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, NULL);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_live_socket_is_refused(void) {
    TestDaemon d, second;

    (void)test_daemon_start(&d);
    second = d;
    second.pid = 0;
    test_daemon_spawn(&second, demo);
    assert(test_daemon_wait(&second) == 1);
    assert(test_daemon_logged(&d, d.socket));
    expect_tar(&d, NULL);
    test_daemon_stop(&d);
}

static void test_what_is_no_socket_is_not_removed(void) {
    TestDaemon d;
    CLEANUP(closep) int fd = -1;

    test_daemon_init(&d);
    fd = open(d.socket, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert(fd >= 0);
    test_daemon_spawn(&d, demo);
    assert(test_daemon_wait(&d) == 1);
    assert(access(d.socket, F_OK) == 0);
    test_daemon_deinit(&d);
}

static void test_serves_an_activated_socket(void) {
    TestDaemon d;
    char program[256], listen_on[128];
    const char *build = getenv("GROKD_BUILD");
    const char *argv[] = {"systemd-socket-activate",
                          "-l",
                          listen_on,
                          "--fdname=grokd",
                          "-ENOTIFY_SOCKET",
                          "-EASAN_OPTIONS",
                          "-EUBSAN_OPTIONS",
                          "-EPATH",
                          program,
                          "--config",
                          d.config,
                          "--model",
                          "demo=" DEMO_MODEL,
                          NULL};
    struct grokd_error error;

    test_daemon_init(&d);
    (void)snprintf(program, sizeof(program), "%s/grokd", build ? build : "build");
    (void)snprintf(listen_on, sizeof(listen_on), "%s", d.socket);
    test_daemon_exec(&d, argv);
    for (int i = 0; i < 500; i++) { /* until systemd-socket-activate listens */
        CLIENT *client = NULL;

        if (grokd_connect(&client, d.socket, &error) == GROKD_OK)
            break;
        (void)usleep(10000);
    }
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, NULL);
    test_await_idle(&d);
    assert(kill(d.pid, SIGTERM) == 0);
    assert(test_daemon_wait(&d) == 0);
    assert(access(d.socket, F_OK) == 0); /* it is systemd's, not grokd's to remove */
    test_daemon_deinit(&d);
}

/* Cuts the file of a model short, before a request or under one. */
static void truncate_model(bool in_use) {
    TestDaemon d;
    char path[128], option[160];
    const char *options[] = {"--model", "demo=" DEMO_MODEL, "--model", option, NULL};
    struct grokd_generate_request request = test_long(4000);
    ANSWER grokd_list_models_response *list = NULL;
    const struct grokd_event *event;
    struct grokd_error error = {0};
    CLIENT *client = NULL;
    CALL *call = NULL;

    test_daemon_init(&d);
    (void)snprintf(path, sizeof(path), "%s/victim.gguf", d.directory);
    (void)snprintf(option, sizeof(option), "victim=%s", path);
    copy_file(DEMO_MODEL, path);
    test_daemon_spawn(&d, options);
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, "victim");
    client = test_connect(&d);
    request.model = "victim";
    if (in_use) {
        call = test_begin(client, &request);
        assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT);
    }
    assert(truncate(path, 300000) == 0);
    if (!in_use)
        call = test_begin(client, &request);
    if (test_finish(call, NULL, &error) != GROKD_DATA_LOSS) {
        (void)printf("it ended with %s: %s\n", grokd_code_name(error.code), error.text);
        abort();
    }
    expect_tar(&d, "demo");
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK && list->n_models == 2);
    for (size_t i = 0; i < list->n_models; i++)
        assert(list->models[i]->state == (strcmp(list->models[i]->name, "victim") == 0
                                              ? GROKD_MODEL_FAILED
                                              : GROKD_MODEL_READY));
    call = grokd_call_free(call);
    call = test_begin(client, &request); /* out of service from now on */
    assert(test_finish(call, NULL, &error) != GROKD_OK);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_truncated_model_fails_alone(void) {
    truncate_model(false);
}

static void test_model_truncated_in_use_fails_alone(void) {
    truncate_model(true);
}

static void test_broken_model_does_not_stop_the_others(void) {
    TestDaemon d;
    const char *options[] = {"--model", "demo=" DEMO_MODEL, "--model", "broken=README.md", NULL};
    ANSWER grokd_list_models_response *list = NULL;
    CLIENT *client = NULL;

    test_daemon_init(&d);
    test_daemon_spawn(&d, options);
    test_daemon_await(&d, "READY=1");
    expect_tar(&d, "demo");
    client = test_connect(&d);
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK && list->n_models == 2);
    for (size_t i = 0; i < list->n_models; i++)
        if (strcmp(list->models[i]->name, "broken") == 0)
            assert(list->models[i]->state == GROKD_MODEL_FAILED && list->models[i]->error[0]);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(notifies_in_order),
        TEST(no_model_configured_means_the_demo),
        TEST(threads_are_capped),
        TEST(feeds_the_watchdog_idle_and_busy),
        TEST(no_watchdog_asked_none_fed),
        {"term_lets_running_answers_end", test_term_lets_running_answers_end, 30},
        {"draining_takes_no_new_requests", test_draining_takes_no_new_requests, 30},
        TEST(killed_daemon_is_replaced),
        TEST(live_socket_is_refused),
        TEST(what_is_no_socket_is_not_removed),
        TEST(serves_an_activated_socket),
        TEST(truncated_model_fails_alone),
        TEST(model_truncated_in_use_fails_alone),
        TEST(broken_model_does_not_stop_the_others),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
