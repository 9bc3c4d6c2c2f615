/*
 * bench/service: prints what the daemon promises its users beside what it measured.
 *
 *     service [--only NAME]... [--seconds N] [--json]
 *
 * Ends with 0 where all is met. Needs root, to be several users.
 */
#include "tests/bench/service.h"

#include "tests/util/proc.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECONDS_DEFAULT 60
#define FILES           4096

unsigned service_seconds = SECONDS_DEFAULT;

static const struct promise {
    const char *name;
    void (*measure)(void);
    const char *what;
} promises[] = {
    {"crowd", measure_crowd, "200 streams of 4 users at once"},
    {"share", measure_share, "a user with one request beside a user with 64"},
    {"flood", measure_flood, "streams beside a client that floods, and one that never reads"},
    {"ends", measure_ends, "cancel, disconnect and deadline at every stage"},
    {"storm", measure_storm, "10,000 requests ended at random"},
    {"prefix", measure_prefix, "a second request with the same 1,000 tokens before it"},
    {"refusals", measure_refusals, "ten times more requests than can be served"},
    {"idle", measure_idle, "1,000 idle connections"},
};

/* ---- the table ---- */

enum bound { NONE, MOST, LEAST };

static bool as_json, all_met = true;
static size_t n_rows;
static const char *measuring;

static void print_row(const char *what, double measured, enum bound kind, double bound,
                      const char *unit) {
    bool is_met = kind == NONE || (kind == MOST ? measured <= bound : measured >= bound);
    const char *verdict = kind == NONE ? "" : is_met ? "met" : "MISSED";
    char required[32] = "";

    all_met &= is_met;
    if (as_json) {
        (void)printf(
            "%s\n  {\"name\": \"%s\", \"what\": \"%s\", \"measured\": %.6g, \"unit\": \"%s\"",
            n_rows++ ? "," : "", measuring, what, measured, unit);
        if (kind != NONE)
            (void)printf(", \"%s\": %.6g, \"met\": %s", kind == MOST ? "at_most" : "at_least",
                         bound, is_met ? "true" : "false");
        (void)printf("}");
    } else {
        if (kind != NONE)
            (void)snprintf(required, sizeof(required), "%s %.6g",
                           kind == MOST ? "<=" : ">=", bound);
        (void)printf("%-9s %-62s %10.4g %-8s %-9s %s\n", measuring, what, measured, unit, required,
                     verdict);
    }
    (void)fflush(stdout);
}

#define PRINT_ROW(kind, bound)                                                                     \
    do {                                                                                           \
        char what[128];                                                                            \
        va_list args;                                                                              \
                                                                                                   \
        va_start(args, format);                                                                    \
        (void)vsnprintf(what, sizeof(what), format, args);                                         \
        va_end(args);                                                                              \
        print_row(what, measured, kind, bound, unit);                                              \
    } while (0)

void report_most(double measured, double bound, const char *unit, const char *format, ...) {
    PRINT_ROW(MOST, bound);
}

void report_least(double measured, double bound, const char *unit, const char *format, ...) {
    PRINT_ROW(LEAST, bound);
}

void report(double measured, const char *unit, const char *format, ...) {
    PRINT_ROW(NONE, 0);
}

/* ---- the daemon ---- */

void sleep_ms(unsigned ms) {
    (void)usleep(ms * 1000);
}

uint64_t memory_kib(pid_t pid, const char *key) {
    char path[64];
    int64_t kib;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    kib = proc_number(path, key);
    assert(kib >= 0);
    return (uint64_t)kib;
}

uint64_t thread_cpu_ns(pid_t pid, pid_t thread) {
    char path[64], line[128];
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", (int)pid, (int)thread);
    file = fopen(path, "re");
    assert(file && fgets(line, sizeof(line), file));
    (void)fclose(file);
    return strtoull(line, NULL, 10);
}

struct counts read_counts(grokd_client *client) {
    ANSWER grokd_status_response *s = NULL;

    assert(grokd_status(client, &s, NULL) == GROKD_OK);
    return (struct counts){.n_steps = s->steps_total,
                           .n_tokens = s->generated_tokens_total,
                           .n_kv_pages = s->kv_pages_used,
                           .n_running = s->requests_running,
                           .n_queued = s->requests_queued,
                           .n_connections = s->connections};
}

uint64_t count_left(const TestDaemon *d) {
    CLIENT *client = test_connect(d);
    int64_t end = load_now_us() + 5000000;
    uint64_t n_left;

    do {
        struct counts c = read_counts(client);

        n_left = c.n_kv_pages + c.n_running + c.n_queued + c.n_connections - 1;
        sleep_ms(10);
    } while (n_left > 0 && load_now_us() < end);
    return n_left;
}

static struct times *probe_times;

static void probe(const TestDaemon *d, TestUser *self) {
    CLIENT *client = test_connect(d);

    while (test_user_is_wanted(self, 5)) {
        ANSWER grokd_list_models_response *models = NULL;
        ANSWER grokd_status_response *status = NULL;
        const struct grokd_event *event;
        CALL *top = NULL;
        int64_t begun = load_now_us(), then;

        assert(grokd_status(client, &status, NULL) == GROKD_OK);
        then = load_now_us();
        times_add(probe_times, (uint64_t)(then - begun));
        assert(grokd_list_models(client, &models, NULL) == GROKD_OK);
        begun = load_now_us();
        times_add(probe_times, (uint64_t)(begun - then));
        assert(grokd_begin_top(client, 0, &top, NULL) == GROKD_OK);
        assert(grokd_call_next(top, -1, &event, NULL) == GROKD_NEXT_EVENT);
        times_add(probe_times, (uint64_t)(load_now_us() - begun));
    }
}

TestUser probe_start(const TestDaemon *d, struct times *times) {
    probe_times = times;
    return test_user_start(d, 0, 0, probe);
}

/* ---- main ---- */

static int list_promises(FILE *to) {
    (void)fprintf(to, "usage: service [--only NAME]... [--seconds N] [--json]\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(promises); i++)
        (void)fprintf(to, "  %-9s %s\n", promises[i].name, promises[i].what);
    return to == stdout ? EXIT_SUCCESS : EXIT_FAILURE;
}

static bool choose(const char *name, unsigned *chosen) {
    for (size_t i = 0; i < ARRAY_SIZE(promises); i++)
        if (strcmp(promises[i].name, name) == 0) {
            *chosen |= BIT(i);
            return true;
        }
    (void)fprintf(stderr, "service: there is no '%s' to measure\n", name);
    return false;
}

static void raise_files(void) {
    struct rlimit limit;

    assert(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = MIN(MAX(limit.rlim_cur, (rlim_t)FILES), limit.rlim_max);
    assert(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"only", required_argument, NULL, 'o'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    unsigned chosen = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'h')
            return list_promises(stdout);
        if (c == 's' && strtoul(optarg, NULL, 10) > 0)
            service_seconds = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'j')
            as_json = true;
        else if (c != 'o' || !choose(optarg, &chosen))
            return list_promises(stderr);
    }
    if (geteuid() != 0) {
        (void)fprintf(stderr, "service: only root can be several users\n");
        return EXIT_FAILURE;
    }
    raise_files();
    if (as_json)
        (void)printf("[");
    for (size_t i = 0; i < ARRAY_SIZE(promises); i++) {
        if (chosen && !(chosen & BIT(i)))
            continue;
        measuring = promises[i].name;
        promises[i].measure();
    }
    if (as_json)
        (void)printf("\n]\n");
    return all_met ? EXIT_SUCCESS : EXIT_FAILURE;
}
