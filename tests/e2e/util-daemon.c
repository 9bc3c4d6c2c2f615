/* See util-daemon.h. */
#include "tests/e2e/util-daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS 60000
#define IDLE_MS  30000

/* Sanitizer builds are several times slower. */
static int slow_ms(int ms) {
    const char *factor = getenv("GROKD_TEST_SLOWNESS");

    return factor ? ms * (int)strtol(factor, NULL, 10) : ms;
}

static int64_t now_ms(void) {
    struct timespec t;

    assert(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the process ---- */

void test_daemon_init(TestDaemon *d) {
    const char *parent = getenv("TMPDIR");
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *d = (TestDaemon){.pid = 0};
    (void)snprintf(d->directory, sizeof(d->directory), "%s/e2e.XXXXXX", parent ? parent : "/tmp");
    assert(mkdtemp(d->directory));
    (void)snprintf(d->socket, sizeof(d->socket), "%s/grokd.sock", d->directory);
    (void)snprintf(d->log, sizeof(d->log), "%s/log", d->directory);
    (void)snprintf(d->config, sizeof(d->config), "%s/grokd.conf", d->directory);
    (void)snprintf(d->notify, sizeof(d->notify), "%s/notify", d->directory);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", d->notify);
    d->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert(d->notify_fd >= 0);
    assert(bind(d->notify_fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    test_daemon_configure(d, "");
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void test_daemon_deinit(TestDaemon *d) {
    if (d->pid > 0) {
        (void)kill(d->pid, SIGKILL);
        (void)test_daemon_wait(d);
    }
    closep(&d->notify_fd);
    (void)nftw(d->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void test_daemon_configure(TestDaemon *d, const char *text) {
    FILE *file = fopen(d->config, "we");

    assert(file && fputs(text, file) >= 0);
    assert(fclose(file) == 0);
}

void test_daemon_open(TestDaemon *d) {
    if (geteuid() != 0) {
        test_daemon_deinit(d);
        test_skip("only root can become other users");
    }
    assert(chmod(d->directory, 0711) == 0);
}

void test_daemon_exec(TestDaemon *d, const char *const *argv) {
    assert(d->pid == 0);
    d->pid = fork();
    assert(d->pid >= 0);
    if (d->pid == 0) {
        char pid[16];
        int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

        (void)alarm(0); /* the test's own limit is not the daemon's */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)snprintf(pid, sizeof(pid), "%d", getpid());
        assert(setenv("NOTIFY_SOCKET", d->notify, 1) == 0 && setenv("WATCHDOG_PID", pid, 1) == 0);
        assert(log >= 0 && dup2(log, STDERR_FILENO) >= 0);
        (void)execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
}

void test_daemon_spawn(TestDaemon *d, const char *const *options) {
    const char *build = getenv("GROKD_BUILD"), *argv[32];
    char program[256];
    size_t n = 0;

    (void)snprintf(program, sizeof(program), "%s/grokd", build ? build : "build");
    argv[n++] = program;
    argv[n++] = "--config";
    argv[n++] = d->config;
    argv[n++] = "--socket";
    argv[n++] = d->socket;
    while (options && *options && n < ARRAY_SIZE(argv) - 1)
        argv[n++] = *options++;
    argv[n] = NULL;
    test_daemon_exec(d, argv);
}

static void serve_demo(TestDaemon *d) {
    static const char *const options[] = {"--model", "demo=" DEMO_MODEL, NULL};

    test_daemon_spawn(d, options);
    test_daemon_await(d, "READY=1");
}

TestDaemon *test_daemon_start(TestDaemon *d) {
    test_daemon_init(d);
    serve_demo(d);
    return d;
}

void test_daemon_start_open(TestDaemon *d, const char *config) {
    char text[2048];

    test_daemon_init(d);
    test_daemon_open(d);
    (void)snprintf(text, sizeof(text), "[daemon]\nsocket_mode = 0666\n%s", config);
    test_daemon_configure(d, text);
    serve_demo(d);
}

static void print_log(const TestDaemon *d) {
    FILE *file = fopen(d->log, "re");
    char line[1024];

    while (file && fgets(line, sizeof(line), file))
        (void)printf("grokd: %s", line);
    if (file)
        (void)fclose(file);
}

bool test_daemon_logged(const TestDaemon *d, const char *text) {
    FILE *file = fopen(d->log, "re");
    char line[4096];
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file))
        found = strstr(line, text) != NULL;
    if (file)
        (void)fclose(file);
    return found;
}

static bool has_line(const char *message, const char *line) {
    size_t n = strlen(line);

    for (const char *at = message; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, line, n) == 0 && (line[n - 1] == '=' || at[n] == '\n' || at[n] == '\0'))
            return true;
    }
    return false;
}

bool test_daemon_notified(TestDaemon *d, const char *line, int ms) {
    int64_t end = now_ms() + ms, left;

    while ((left = end - now_ms()) > 0) {
        struct pollfd p = {.fd = d->notify_fd, .events = POLLIN};
        char message[4096];
        ssize_t n;

        if (poll(&p, 1, (int)MIN(left, 100)) == 0) {
            if (d->pid > 0 && waitpid(d->pid, NULL, WNOHANG | WNOWAIT) != 0 && errno != EINTR) {
                siginfo_t info = {0};

                if (waitid(P_PID, (id_t)d->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
                    info.si_pid)
                    return false; /* it has ended and will say no more */
            }
            continue;
        }
        n = recv(d->notify_fd, message, sizeof(message) - 1, 0);
        assert(n >= 0);
        message[n] = '\0';
        if (has_line(message, line))
            return true;
    }
    return false;
}

void test_daemon_forget_notifications(const TestDaemon *d) {
    char message[4096];

    while (recv(d->notify_fd, message, sizeof(message), MSG_DONTWAIT) >= 0)
        ;
}

void test_daemon_await(TestDaemon *d, const char *line) {
    if (!test_daemon_notified(d, line, slow_ms(START_MS))) {
        print_log(d);
        (void)printf("grokd did not notify %s\n", line);
        abort();
    }
}

int test_daemon_wait(TestDaemon *d) {
    int status;

    while (waitpid(d->pid, &status, 0) < 0)
        assert(errno == EINTR);
    d->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void test_daemon_stop(TestDaemon *d) {
    int status;

    test_await_idle(d);
    assert(kill(d->pid, SIGTERM) == 0);
    status = test_daemon_wait(d);
    if (status != 0)
        print_log(d);
    assert(status == 0);
    test_daemon_deinit(d);
}

/* ---- other users ---- */

TestUser test_user_start(const TestDaemon *d, uid_t uid, gid_t group, test_user_run run) {
    TestUser user;
    int fds[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    (void)fflush(stdout);
    user = (TestUser){.pid = fork(), .fd = fds[0]};
    assert(user.pid >= 0);
    if (user.pid == 0) {
        closep(&fds[0]);
        user.fd = fds[1];
        assert(setgroups(group != 0, &group) == 0 && setgid((gid_t)uid) == 0 && setuid(uid) == 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* setuid() would undo it */
        run(d, &user);
        (void)fflush(stdout);
        _exit(0);
    }
    closep(&fds[1]);
    return user;
}

/* What test_user_await() waits for. */
static void say_ready(const TestUser *self) {
    char byte = 0;

    assert(write(self->fd, &byte, 1) == 1);
}

void test_user_ready(TestUser *self) {
    char byte;

    say_ready(self);
    assert(read(self->fd, &byte, 1) == 0);
}

bool test_user_is_wanted(TestUser *self, int ms) {
    struct pollfd p = {.fd = self->fd, .events = POLLIN};

    return poll(&p, 1, ms) == 0;
}

void test_user_await(TestUser *user) {
    char byte;

    assert(read(user->fd, &byte, 1) == 1);
}

void test_user_end(TestUser *user) {
    int status;

    (void)shutdown(user->fd, SHUT_RDWR); /* users that were started later have it open, too */
    closep(&user->fd);
    assert(waitpid(user->pid, &status, 0) == user->pid && status == 0);
}

void test_as(const TestDaemon *d, uid_t uid, gid_t group, test_user_run run) {
    TestUser user = test_user_start(d, uid, group, run);

    test_user_end(&user);
}

static struct {
    test_user_run run;
    unsigned n;
} repeated;

static void run_repeated(const TestDaemon *d, TestUser *self) {
    for (unsigned i = 1; test_user_is_wanted(self, 0); i++) {
        repeated.run(d, self);
        if (i == repeated.n)
            say_ready(self);
    }
}

void test_as_all(const TestDaemon *d, const uid_t *uids, size_t n_uids, unsigned n,
                 test_user_run run) {
    TestUser users[8];

    assert(n_uids <= ARRAY_SIZE(users));
    repeated.run = run;
    repeated.n = n;
    for (size_t i = 0; i < n_uids; i++)
        users[i] = test_user_start(d, uids[i], 0, run_repeated);
    for (size_t i = 0; i < n_uids; i++)
        test_user_await(&users[i]);
    for (size_t i = 0; i < n_uids; i++)
        test_user_end(&users[i]);
}

/* ---- asking it ---- */

grokd_client *test_connect(const TestDaemon *d) {
    struct grokd_error error = {0};
    grokd_client *client;

    if (grokd_connect(&client, d->socket, &error) != GROKD_OK) {
        (void)printf("connect: %s\n", error.text);
        print_log(d);
        abort();
    }
    return client;
}

static void await_status(const TestDaemon *d,
                         bool (*is_due)(const struct grokd_status_response *, uint32_t),
                         uint32_t n) {
    CLIENT *client = test_connect(d);
    int64_t end = now_ms() + slow_ms(IDLE_MS);

    for (;;) {
        ANSWER grokd_status_response *status = NULL;

        assert(grokd_status(client, &status, NULL) == GROKD_OK);
        if (is_due(status, n))
            return;
        if (now_ms() > end) {
            (void)printf("running %u, queued %u, KV pages %lu, connections %u\n",
                         status->requests_running, status->requests_queued,
                         (unsigned long)status->kv_pages_used, status->connections);
            print_log(d);
            abort();
        }
        (void)usleep(10000);
    }
}

static bool is_running(const struct grokd_status_response *status, uint32_t n) {
    return status->requests_running + status->requests_queued == n;
}

static bool is_idle(const struct grokd_status_response *status, uint32_t n) {
    return is_running(status, n) && status->kv_pages_used == 0 && status->connections == 1;
}

void test_await_running(const TestDaemon *d, uint32_t n) {
    await_status(d, is_running, n);
}

void test_await_idle(const TestDaemon *d) {
    await_status(d, is_idle, 0);
}

struct grokd_generate_request test_question(const char *model, const char *question) {
    static char text[1024];
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;

    (void)snprintf(text, sizeof(text), "Q: %s\nA:", question);
    request.model = model;
    request.text = text;
    return request;
}

struct grokd_generate_request test_long(uint32_t n_tokens) {
    static struct grokd_sampling sampling;
    struct grokd_generate_request request = test_question(NULL, "What does tar do?");

    sampling = (struct grokd_sampling)GROKD_SAMPLING_INIT;
    sampling.ignore_eos = true;
    sampling.has_max_tokens = true;
    sampling.max_tokens = n_tokens;
    request.sampling = &sampling;
    return request;
}

grokd_call *test_begin(grokd_client *client, const struct grokd_generate_request *request) {
    struct grokd_error error = {0};
    grokd_call *call = NULL;

    if (grokd_begin_generate(client, request, &call, &error) != GROKD_OK) {
        (void)printf("generate: %s\n", error.text);
        abort();
    }
    return call;
}

int test_finish(grokd_call *call, char **ret_text, struct grokd_error *error) {
    struct grokd_error own = {0}, *e = error ? error : &own;
    const struct grokd_event *event;
    CLEANUP(freep) char *text = NULL;
    size_t n_text = 0;
    FILE *out = open_memstream(&text, &n_text);
    int r;

    assert(out);
    while ((r = grokd_call_next(call, -1, &event, e)) == GROKD_NEXT_EVENT)
        if (event->chunk)
            (void)fputs(event->chunk->text, out);
    assert(fclose(out) == 0);
    if (ret_text)
        *ret_text = take_ptr(text);
    assert(r == GROKD_NEXT_END || (r == GROKD_NEXT_FAILED && e->text[0]));
    return r == GROKD_NEXT_END ? GROKD_OK : e->code;
}

char *test_ask(grokd_client *client, const char *model, const char *question) {
    struct grokd_generate_request request = test_question(model, question);
    CALL *call = test_begin(client, &request);
    struct grokd_error error = {0};
    char *text = NULL;

    if (test_finish(call, &text, &error) != GROKD_OK) {
        (void)printf("%s: %s\n", question, error.text);
        abort();
    }
    (void)memmove(text, text + strspn(text, " "), strlen(text + strspn(text, " ")) + 1);
    return text;
}
