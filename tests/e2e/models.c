/* Several models: loaded when asked for, sent away when idle or in the way, never while in use. */
#include "tests/e2e/util-daemon.h"
#include "tests/util/memlock.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAR   "tar(1) - an archiving utility."
#define ALICE 2001

static TestDaemon d; /* each test is a process of its own */

static void start(const char *text) {
    test_daemon_init(&d);
    test_daemon_configure(&d, text);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
}

#define MODEL(name, more) "[model " name "]\npath = " DEMO_MODEL "\n" more "\n"

static struct grokd_model_summary find(grokd_client *client, const char *name) {
    ANSWER grokd_list_models_response *list = NULL;

    test_daemon_forget_notifications(&d); /* each model that comes or goes makes one */
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK);
    for (size_t i = 0; i < list->n_models; i++)
        if (strcmp(list->models[i]->name, name) == 0)
            return *list->models[i]; /* its strings are not to be used */
    abort();
}

static void await_state(grokd_client *client, const char *name, int state) {
    for (int i = 0; find(client, name).state != state; i++) {
        assert(i < 3000);
        (void)usleep(10000);
    }
}

/* Until nothing is computed for a request any more. */
static void await_idle(grokd_client *client, const char *name) {
    while (find(client, name).idle_us == 0)
        (void)usleep(1000);
}

static void expect_tar(grokd_client *client, const char *model) {
    CLEANUP(freep) char *text = test_ask(client, model, "What does tar do?");

    assert(strcmp(text, TAR) == 0);
}

static int ask(grokd_client *client, const char *model, struct grokd_error *error) {
    struct grokd_generate_request request = test_question(model, "What does tar do?");
    CALL *call = test_begin(client, &request);

    return test_finish(call, NULL, error);
}

/* A call that runs until it is freed. */
static grokd_call *hold(grokd_client *client, const char *model) {
    struct grokd_generate_request request = test_long(3900);
    const struct grokd_event *event;
    grokd_call *call;

    request.model = model;
    call = test_begin(client, &request);
    do
        assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT);
    while (!event->chunk);
    return call;
}

static void ask_for_b(const TestDaemon *daemon, TestUser *self) {
    CLIENT *client = test_connect(daemon);

    (void)self;
    expect_tar(client, "b");
}

static void test_asking_loads(void) {
    CLIENT *client = NULL;
    struct grokd_generate_request request = test_question("b", "What does tar do?");
    struct grokd_tokenize_request tokenize = GROKD_TOKENIZE_REQUEST_INIT;
    ANSWER grokd_tokenize_response *tokens = NULL;
    const struct grokd_event *event;
    grokd_call *calls[8];

    start(MODEL("a", "") MODEL("b", "load = no") MODEL("c", "load = no"));
    client = test_connect(&d);
    assert(find(client, "b").state == GROKD_MODEL_CONFIGURED);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = test_begin(client, &request);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        CLEANUP(freep) char *text = NULL;

        /* In order: the first event says how many wait before it. */
        assert(grokd_call_next(calls[i], -1, &event, NULL) == GROKD_NEXT_EVENT);
        assert(event->queued && event->queued->position <= i && event->request_id[0]);
        assert(strcmp(event->model, "b") == 0);
        assert(test_finish(calls[i], &text, NULL) == GROKD_OK);
        assert(strcmp(text + strspn(text, " "), TAR) == 0);
        calls[i] = grokd_call_free(calls[i]);
    }
    assert(find(client, "b").state == GROKD_MODEL_READY && find(client, "b").users == 0);
    tokenize.model = "c";
    tokenize.text = "tar";
    assert(grokd_tokenize(client, &tokenize, &tokens, NULL) == GROKD_OK && tokens->n_ids > 0);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_the_queue_for_a_model_is_bounded(void) {
    CLIENT *client = NULL;
    struct grokd_generate_request request = test_long(300);
    grokd_call *calls[8];
    size_t n_done = 0, n_refused = 0;

    start("[engine]\nmax_sequences = 1\n[limits]\nmax_queued_requests = 2\n" MODEL("a", "")
              MODEL("b", "load = no"));
    client = test_connect(&d);
    request.model = "b";
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        calls[i] = test_begin(client, &request);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_error error = {0};
        int r = test_finish(calls[i], NULL, &error);

        n_done += r == GROKD_OK;
        n_refused += r == GROKD_RESOURCE_EXHAUSTED && strstr(error.text, "max_queued_requests");
        calls[i] = grokd_call_free(calls[i]);
    }
    assert(n_done >= 2 && n_refused >= 1 && n_done + n_refused == ARRAY_SIZE(calls));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_anybody_may_ask(void) {

    test_daemon_init(&d);
    test_daemon_open(&d);
    test_daemon_configure(&d,
                          "[daemon]\nsocket_mode = 0666\n" MODEL("a", "") MODEL("b", "load = no"));
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    test_as(&d, ALICE, 0, ask_for_b);
    test_daemon_stop(&d);
}

static void test_waiting_can_be_given_up(void) {
    CLIENT *client = NULL;
    CLIENT *other = NULL;
    struct grokd_generate_request request = test_question("b", "What does tar do?");
    ANSWER grokd_cancel_response *cancel = NULL;
    CALL *call = NULL;

    start(MODEL("a", "") MODEL("b", "load = no"));
    client = test_connect(&d);
    other = test_connect(&d);
    request.request_id = "mine";
    for (int i = 0; i < 20; i++) { /* cancelled while it loads, or just after */
        CALL *first = test_begin(client, &request);
        const struct grokd_event *event;

        assert(grokd_call_next(first, -1, &event, NULL) == GROKD_NEXT_EVENT);
        if (i % 2) {
            assert(grokd_cancel(other, "mine", &cancel, NULL) == GROKD_OK);
            grokd_free(cancel);
            cancel = NULL;
        }
        first = grokd_call_free(first);
        test_await_running(&d, 0);
        while (find(client, "b").state != GROKD_MODEL_CONFIGURED)
            (void)grokd_unload_model(client, "b", NULL);
    }
    request.timeout_ms = 1;
    call = test_begin(client, &request);
    assert(test_finish(call, NULL, NULL) == GROKD_DEADLINE_EXCEEDED);
    expect_tar(client, "b");
    client = grokd_client_free(client);
    other = grokd_client_free(other);
    test_daemon_stop(&d);
}

static void test_idle_models_go(void) {
    CLIENT *client = NULL;
    CALL *call = NULL;
    struct grokd_model_summary b;

    start("[engine]\nkeep_alive = 200ms\n" MODEL("a", "keep_alive = infinity") MODEL("b", "")
              MODEL("c", "pin = yes"));
    client = test_connect(&d);
    await_state(client, "b", GROKD_MODEL_CONFIGURED); /* which nobody ever used */
    call = hold(client, "b");
    b = find(client, "b");
    assert(b.users == 1 && b.idle_us == 0 && b.keep_alive_us == 200000 && !b.pinned);
    (void)usleep(500000);
    assert(find(client, "b").state == GROKD_MODEL_READY);
    call = grokd_call_free(call);
    await_state(client, "b", GROKD_MODEL_CONFIGURED);
    expect_tar(client, "b"); /* and comes again */
    assert(find(client, "a").state == GROKD_MODEL_READY && find(client, "a").keep_alive_us == 0);
    assert(find(client, "c").state == GROKD_MODEL_READY && find(client, "c").pinned);
    assert(find(client, "c").idle_us > 500000);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static int load(grokd_client *client, const char *model, bool pin, struct grokd_error *error) {
    struct grokd_load_model_request request = GROKD_LOAD_MODEL_REQUEST_INIT;
    CALL *call = NULL;

    request.model = model;
    request.pin = pin;
    assert(grokd_begin_load_model(client, &request, &call, error) == GROKD_OK);
    return test_finish(call, NULL, error);
}

static void test_the_oldest_makes_room(void) {
    CLIENT *client = NULL;
    CALL *of_a = NULL;
    CALL *of_c = NULL;
    struct grokd_error error = {0};

    /* 12 MB of weights each, and 3 for steps */
    start("[engine]\nmodel_memory_max = 47M\nkv_memory = 7M\nstep_rows = 16\nthreads = 2\n" MODEL(
        "a", "") MODEL("b", "") MODEL("c", "") MODEL("d", "load = no"));
    client = test_connect(&d);
    /* At start nobody is sent away for a model that nobody asked for. */
    assert(find(client, "a").state == GROKD_MODEL_READY);
    assert(find(client, "b").state == GROKD_MODEL_READY);
    assert(find(client, "c").state == GROKD_MODEL_CONFIGURED);
    expect_tar(client, "b");
    expect_tar(client, "a");
    expect_tar(client, "c");
    assert(find(client, "a").state == GROKD_MODEL_READY);
    assert(find(client, "b").state == GROKD_MODEL_CONFIGURED);
    /* Nothing in use goes. */
    of_a = hold(client, "a");
    of_c = hold(client, "c");
    assert(ask(client, "d", &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "model_memory_max") && strstr(error.text, "model d"));
    assert(load(client, "d", false, &error) == GROKD_RESOURCE_EXHAUSTED);
    of_a = grokd_call_free(of_a);
    await_idle(client, "a");
    expect_tar(client, "d"); /* no need to wait */
    assert(find(client, "a").state == GROKD_MODEL_CONFIGURED);
    of_c = grokd_call_free(of_c);
    await_idle(client, "c");
    /* Nor does what is pinned, by whoever. */
    assert(load(client, "d", true, &error) == GROKD_OK && find(client, "d").pinned);
    assert(load(client, "c", true, &error) == GROKD_OK && find(client, "c").pinned);
    assert(ask(client, "b", &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(grokd_unload_model(client, "d", &error) == GROKD_OK && !find(client, "d").pinned);
    expect_tar(client, "b");
    assert(find(client, "c").state == GROKD_MODEL_READY);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_too_large_is_refused_and_sends_nobody_away(void) {
    CLIENT *client = NULL;
    struct grokd_error error = {0};

    start("[engine]\nmodel_memory_max = 1M\n" MODEL("a", "load = no"));
    client = test_connect(&d);
    assert(ask(client, "a", &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "model_memory_max"));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Where nothing is said of it, the KV cache is what the limit leaves, and counts. */
static void test_caches_count(void) {
    CLIENT *client = NULL;
    struct grokd_error error = {0};
    CALL *call = NULL;

    start("[engine]\nmodel_memory_max = 100M\n" MODEL("a", "") MODEL("b", "load = no"));
    assert(test_daemon_logged(&d, "model a: 92.5 MB for its KV cache: what the model leaves of"));
    client = test_connect(&d);
    call = hold(client, "a");
    assert(ask(client, "b", &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "with its KV cache"));
    call = grokd_call_free(call);
    await_idle(client, "a");
    expect_tar(client, "b");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* A split model of 8 TiB, of which nothing is written. */
static void make_huge(char path[200]) {
    for (int i = 1; i <= 2; i++) {
        (void)snprintf(path, 200, "%s/huge-%05d-of-00002.gguf", d.directory, i);
        FILE *file = fopen(path, "we");

        assert(file);
        if (ftruncate(fileno(file), 1ll << 42) < 0) {
            test_daemon_deinit(&d);
            test_skip("files can't be that large here");
        }
        assert(fclose(file) == 0);
    }
    (void)snprintf(path, 200, "%s/huge-00001-of-00002.gguf", d.directory);
}

static void test_memory_is_not_promised_twice(void) {
    struct grokd_error error = {0};
    CLIENT *client = NULL;
    CALL *call = NULL;
    char config[512], path[200];

    test_daemon_init(&d);
    make_huge(path);
    (void)snprintf(config, sizeof(config), MODEL("a", "") "[model huge]\npath = %s\nload = no\n",
                   path);
    test_daemon_configure(&d, config);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    client = test_connect(&d);
    call = hold(client, "a");
    assert(ask(client, "huge", &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "huge needs 8388672 MiB") && strstr(error.text, "available"));
    assert(find(client, "a").state == GROKD_MODEL_READY);
    call = grokd_call_free(call);
    await_idle(client, "a");
    /* Alone it is tried however large it is, and turns out to be no model. */
    assert(ask(client, "huge", &error) == GROKD_FAILED_PRECONDITION);
    assert(find(client, "a").state == GROKD_MODEL_CONFIGURED);
    expect_tar(client, "a");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static size_t count_lines(const char *text) {
    FILE *file = fopen(d.log, "re");
    char line[4096];
    size_t n = 0;

    assert(file);
    while (fgets(line, sizeof(line), file))
        n += strstr(line, text) != NULL;
    (void)fclose(file);
    return n;
}

static void test_failures_cool_down(void) {
    CLIENT *client = NULL;
    struct grokd_error error = {0};
    char config[1024], command[512];
    size_t n;

    test_daemon_init(&d);
    (void)snprintf(config, sizeof(config), MODEL("a", "") "[model bad]\npath = %s/bad\nload = no\n",
                   d.directory);
    test_daemon_configure(&d, config);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    client = test_connect(&d);
    for (int i = 0; i < 50; i++) {
        assert(ask(client, "bad", &error) == GROKD_FAILED_PRECONDITION);
        assert(strstr(error.text, "/bad") && strstr(error.text, "tried again in"));
    }
    n = count_lines("loading model bad");
    assert(n >= 1 && n < 5); /* 1, unless this took longer than the 10 s */
    assert(find(client, "bad").state == GROKD_MODEL_FAILED && find(client, "bad").retry_us > 0);
    /* Who may load models need not wait. */
    (void)snprintf(command, sizeof(command), "cp " DEMO_MODEL " %s/bad", d.directory);
    assert(system(command) == 0);
    assert(load(client, "bad", false, &error) == GROKD_OK);
    expect_tar(client, "bad");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* What the daemon reads and does before it looks at anything else. */
static void pause_daemon(void) {
    int status;

    assert(kill(d.pid, SIGSTOP) == 0);
    assert(waitpid(d.pid, &status, WUNTRACED) == d.pid && WIFSTOPPED(status));
}

static void resume_daemon(void) {
    assert(kill(d.pid, SIGCONT) == 0);
}

static void copy_model(const char *to) {
    char command[512];

    (void)snprintf(command, sizeof(command), "cp " DEMO_MODEL " %s", to);
    assert(system(command) == 0);
}

/* Lost, unloaded and asked for again, while its engine is being closed. */
static void test_asked_for_while_a_lost_one_is_closed(void) {
    CLIENT *client = NULL;
    struct grokd_generate_request request = test_question("b", "What does tar do?");
    struct grokd_error error = {0};
    CALL *first = NULL;
    CALL *unload = NULL;
    CALL *second = NULL;
    char config[1024], path[200];
    int r;

    test_daemon_init(&d);
    (void)snprintf(path, sizeof(path), "%s/b", d.directory);
    copy_model(path);
    (void)snprintf(config, sizeof(config), MODEL("a", "") "[model b]\npath = %s\n", path);
    test_daemon_configure(&d, config);
    test_daemon_spawn(&d, NULL);
    test_daemon_await(&d, "READY=1");
    client = test_connect(&d);
    expect_tar(client, "b");
    await_idle(client, "b");
    assert(utimensat(AT_FDCWD, path, NULL, 0) == 0); /* another one, as far as can be told */
    pause_daemon();
    first = test_begin(client, &request);
    assert(grokd_begin_unload_model(client, "b", &unload, NULL) == GROKD_OK);
    second = test_begin(client, &request);
    resume_daemon();
    assert(test_finish(first, NULL, &error) == GROKD_DATA_LOSS);
    r = test_finish(second, NULL, &error);
    assert(r == GROKD_UNAVAILABLE || r == GROKD_OK);
    assert(test_finish(unload, NULL, &error) == GROKD_OK);
    expect_tar(client, "b");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* One without a lasting name that is asked for while it leaves, and then has no room: the asking
 * ends, and it is forgotten. */
static void test_asked_for_while_it_leaves_for_ever(void) {
    CLIENT *client = NULL;
    struct grokd_load_model_request load_request = GROKD_LOAD_MODEL_REQUEST_INIT;
    struct grokd_generate_request request = test_question("t", "What does tar do?");
    struct grokd_error error = {0};
    CALL *load_call = NULL;
    CALL *call = NULL;
    char path[200];

    start("[engine]\nmodel_memory_max = 1G\nkv_memory = 7M\nkeep_alive = 2s\n" MODEL(
        "a", "keep_alive = infinity"));
    (void)snprintf(path, sizeof(path), "%s/t", d.directory);
    copy_model(path);
    client = test_connect(&d);
    load_request.model = "t";
    load_request.path = path;
    assert(grokd_begin_load_model(client, &load_request, &load_call, &error) == GROKD_OK);
    assert(test_finish(load_call, NULL, &error) == GROKD_OK);
    (void)usleep(500000); /* so that it waits for something to do */
    pause_daemon();
    assert(truncate(path, 2ll << 30) == 0);
    (void)usleep(2000000); /* its time is up first, then the request is read */
    call = test_begin(client, &request);
    resume_daemon();
    assert(test_finish(call, NULL, &error) == GROKD_RESOURCE_EXHAUSTED);
    assert(strstr(error.text, "model_memory_max"));
    assert(ask(client, "t", &error) == GROKD_NOT_FOUND);
    expect_tar(client, "a");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_the_end_waits_for_no_model(void) {
    CLIENT *client = NULL;
    struct grokd_generate_request request = test_question("b", "What does tar do?");
    struct grokd_error error = {0};
    CALL *call = NULL;
    int r;

    start(MODEL("a", "") MODEL("b", "load = no"));
    client = test_connect(&d);
    call = test_begin(client, &request);
    assert(kill(d.pid, SIGTERM) == 0);
    r = test_finish(call, NULL, &error);
    assert(r == GROKD_OK || r == GROKD_UNAVAILABLE);
    assert(test_daemon_wait(&d) == 0);
    test_daemon_deinit(&d);
}

/* ---- what it has of memory ---- */

#define NOT_LOCKED "model a is not locked in memory"

static struct grokd_show_model_response *show(const char *text) {
    struct grokd_show_model_response *answer = NULL;
    CLIENT *client = NULL;

    start(text);
    client = test_connect(&d);
    assert(grokd_show_model(client, "a", &answer, NULL) == GROKD_OK);
    (void)printf(
        "# %llu bytes of %llu resident, %llu locked, %llu in huge pages\n",
        (unsigned long long)answer->resident_bytes, (unsigned long long)answer->summary->file_bytes,
        (unsigned long long)answer->locked_bytes, (unsigned long long)answer->huge_page_bytes);
    return answer;
}

/* To the end of its last page. */
static size_t whole_pages(uint64_t n_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (n_bytes + page - 1) / page * page;
}

static void test_what_is_locked_is_told(void) {
    ANSWER grokd_show_model_response *m =
        show("[engine]\npreload = yes\nlock = yes\nhugepages = yes\n" MODEL("a", ""));
    size_t n_bytes = whole_pages(m->summary->file_bytes);

    assert(m->resident_bytes == n_bytes && m->huge_page_bytes <= n_bytes && m->numa_nodes >= 1);
    assert(test_daemon_logged(&d, "model a: memory: 12.4 MB mapped, 12.4 MB resident, "));
    if (test_may_lock(n_bytes)) {
        assert(m->locked_bytes == n_bytes && !test_daemon_logged(&d, NOT_LOCKED));
        assert(test_daemon_logged(&d, "resident, 12.4 MB locked, "));
    } else {
        assert(m->locked_bytes == 0 && test_daemon_logged(&d, NOT_LOCKED));
        assert(test_daemon_logged(&d, "LimitMEMLOCK="));
    }
    test_daemon_stop(&d);
}

static void test_nothing_is_locked_unless_wanted(void) {
    ANSWER grokd_show_model_response *m =
        show("[engine]\npreload = yes\nlock = no\nhugepages = no\n" MODEL("a", ""));

    assert(m->resident_bytes == whole_pages(m->summary->file_bytes) && m->locked_bytes == 0);
    assert(test_daemon_logged(&d, "resident, 0 B locked, ") && !test_daemon_logged(&d, NOT_LOCKED));
    test_daemon_stop(&d);
}

/* Told is what was there when it had been loaded, and that is little where nothing was preloaded.
 */
static void test_what_is_not_preloaded_is_told(void) {
    ANSWER grokd_show_model_response *m =
        show("[engine]\npreload = no\nlock = yes\n" MODEL("a", ""));

    assert(m->resident_bytes < m->summary->file_bytes && m->locked_bytes <= m->resident_bytes);
    assert(m->home_bytes == 0 && m->away_bytes == 0);
    test_daemon_stop(&d);
}

static void test_the_type_of_the_cache_is_told(void) {
    ANSWER grokd_show_model_response *m = show("[engine]\nkv_type = q8_0\n" MODEL("a", ""));
    ANSWER grokd_status_response *status = NULL;
    CLIENT *client = test_connect(&d);

    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    assert(strcmp(m->kv_type, "q8_0") == 0 && strcmp(status->kv_type, "q8_0") == 0);
    assert(test_daemon_logged(&d, " KV pages of q8_0"));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(asking_loads),
        TEST(the_queue_for_a_model_is_bounded),
        TEST(anybody_may_ask),
        TEST(waiting_can_be_given_up),
        TEST(idle_models_go),
        TEST(the_oldest_makes_room),
        TEST(too_large_is_refused_and_sends_nobody_away),
        TEST(caches_count),
        TEST(memory_is_not_promised_twice),
        TEST(failures_cool_down),
        TEST(asked_for_while_a_lost_one_is_closed),
        TEST(asked_for_while_it_leaves_for_ever),
        TEST(the_end_waits_for_no_model),
        TEST(what_is_locked_is_told),
        TEST(nothing_is_locked_unless_wanted),
        TEST(what_is_not_preloaded_is_told),
        TEST(the_type_of_the_cache_is_told),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
