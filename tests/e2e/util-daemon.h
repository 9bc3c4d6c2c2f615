/*
 * A real grokd for a test: on a private socket in a directory of its own, with a notify socket that
 * the test reads. Everything asserts; a daemon never outlives its test.
 */
#pragma once

#include "base/macro.h"
#include "client/grokd.h"
#include "tests/util/test.h"

#include <stdbool.h>
#include <sys/types.h>

#define DEMO_MODEL "engine/demo/model-q8_0.gguf"

typedef struct TestDaemon {
    pid_t pid;
    int notify_fd;
    char directory[80];
    char socket[100], log[100], config[100], notify[100];
} TestDaemon;

/* Makes the directory and the notify socket, starts nothing. */
void test_daemon_init(TestDaemon *d);
void test_daemon_deinit(TestDaemon *d);
/* Lets processes of other users in. Skips the test where we may not become one. */
void test_daemon_open(TestDaemon *d);
/* What grokd.conf will hold; before start. */
void test_daemon_configure(TestDaemon *d, const char *text);
/* Runs `--config … --socket …` and the options (NULL-ended, may be NULL) and returns at once. */
void test_daemon_spawn(TestDaemon *d, const char *const *options);
/* Runs any program with the daemon's environment; argv[0] is a path or a name in PATH. */
void test_daemon_exec(TestDaemon *d, const char *const *argv);
/* Serves the demo model, ready. */
TestDaemon *test_daemon_start(TestDaemon *d);
/* The same for processes of every user, with this in its configuration. Skips the test where we may
 * not become one. */
void test_daemon_start_open(TestDaemon *d, const char *config);
/* Waits for a notification that has this line, or begins with it where it ends in '='. */
void test_daemon_await(TestDaemon *d, const char *line);
/* True where one comes within `ms`. */
bool test_daemon_notified(TestDaemon *d, const char *line, int ms);
/* grokd waits where too many are unread. */
void test_daemon_forget_notifications(const TestDaemon *d);
/* Waits for its end and gives its exit status; 128 + n for a signal. */
int test_daemon_wait(TestDaemon *d);
/* Asserts that nothing is left running, ends it with SIGTERM and asserts that it exits with 0. */
void test_daemon_stop(TestDaemon *d);
bool test_daemon_logged(const TestDaemon *d, const char *text);

/* A process of another user (and a further group, unless 0), running `run` until it returns. Its
 * asserts are the test's. It may say "ready" with test_user_ready() and go on until it is told to
 * end. */
typedef struct TestUser {
    pid_t pid;
    int fd;
} TestUser;
typedef void (*test_user_run)(const TestDaemon *d, TestUser *self);
TestUser test_user_start(const TestDaemon *d, uid_t uid, gid_t group, test_user_run run);
/* In the process: ready; returns when it is to end. */
void test_user_ready(TestUser *self);
/* In the process: whether it is to go on, after at most `ms`. */
bool test_user_is_wanted(TestUser *self, int ms);
void test_user_await(TestUser *user);
/* Tells it to end, waits, and asserts that all went well. */
void test_user_end(TestUser *user);
/* Start and end in one. */
void test_as(const TestDaemon *d, uid_t uid, gid_t group, test_user_run run);
/* As processes of all of these users at the same time: each runs it over and over until every one
 * of them has done so n times. */
void test_as_all(const TestDaemon *d, const uid_t *uids, size_t n_uids, unsigned n,
                 test_user_run run);

grokd_client *test_connect(const TestDaemon *d);
/* Waits until so many requests are running or queued. */
void test_await_running(const TestDaemon *d, uint32_t n);
/* Waits until no request runs, no KV page is used and no connection but ours is open. */
void test_await_idle(const TestDaemon *d);

/* The request "Q: QUESTION\nA:"; lives until the next call. */
struct grokd_generate_request test_question(const char *model, const char *question);
/* One that generates n tokens, whatever they are. */
struct grokd_generate_request test_long(uint32_t n_tokens);
grokd_call *test_begin(grokd_client *client, const struct grokd_generate_request *request);
/* Reads a call to its end. Returns its code; *ret_text (may be NULL) is malloc()ed. */
int test_finish(grokd_call *call, char **ret_text, struct grokd_error *error);
/* The answer to a question, without the blank before it. malloc()ed. */
char *test_ask(grokd_client *client, const char *model, const char *question);

static inline void grokd_client_freep(grokd_client **client) {
    (void)grokd_client_free(*client);
}
static inline void grokd_call_freep(grokd_call **call) {
    (void)grokd_call_free(*call);
}
static inline void test_answer_freep(void *answer) {
    grokd_free(*(void **)answer);
}
#define CLIENT CLEANUP(grokd_client_freep) grokd_client
#define CALL   CLEANUP(grokd_call_freep) grokd_call
#define ANSWER CLEANUP(test_answer_freep) struct
