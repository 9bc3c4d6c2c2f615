/* Promises about endings: computing stops soon, nothing is left, and who gets nothing hears so. */
#include "tests/bench/service.h"
#include "tests/e2e/util-ends.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STOP_MS_MAX 250

/* ---- every way to end at every stage ---- */

static struct {
    enum ends_stage stage;
    enum ends_way way;
    struct load_seen *seen;
} ends;

static void end_many(const TestDaemon *d, TestUser *self) {
    unsigned n = MAX(service_seconds / (ends.stage == ENDS_SUSPENDED ? 8 : 3), 2u);

    (void)self;
    for (unsigned i = 0; i < n; i++) {
        struct ends_seen one = ends_try(d, ends.stage, ends.way, i);

        times_add(&ends.seen->gaps, one.us);
        times_add(&ends.seen->firsts, one.n_steps);
    }
}

static void measure_way(const TestDaemon *d) {
    const char *stage = ends_stage_name(ends.stage), *way = ends_way_name(ends.way);

    ends.seen = load_seen_new();
    test_as(d, ALICE, 0, end_many);
    report_most((double)atomic_load(&ends.seen->gaps.max_us) / 1000, STOP_MS_MAX, "ms",
                "%s, %s: most until its work is gone, of %llu", stage, way,
                (unsigned long long)atomic_load(&ends.seen->gaps.n));
    if (ends.stage == ENDS_PREFILL || ends.stage == ENDS_DECODE) /* nobody else's steps */
        report((double)atomic_load(&ends.seen->firsts.max_us), "steps",
               "%s, %s: most steps until then", stage, way);
    load_seen_free(ends.seen);
}

static void measure_stage(void) {
    TestUser bob = {.fd = -1};
    struct load other;
    TestDaemon d;

    test_daemon_start_open(&d, ENDS_CONFIG);
    if (ends_other_user(ends.stage, &other)) {
        other.seen = load_seen_new();
        bob = load_start(&d, BOB, &other);
    }
    for (ends.way = 0; ends.way < _ENDS_WAYS; ends.way++)
        measure_way(&d);
    if (bob.fd >= 0) {
        test_user_end(&bob);
        load_seen_free(other.seen);
    }
    test_daemon_stop(&d);
}

void measure_ends(void) {
    for (ends.stage = 0; ends.stage < _ENDS_STAGES; ends.stage++)
        measure_stage();
}

/* ---- a storm ---- */

#define N_STORM 10000

static unsigned n_each;

static void storm(const TestDaemon *d, TestUser *self) {
    (void)self;
    load_storm(d, n_each);
}

void measure_storm(void) {
    TestUser users[4];
    TestDaemon d;
    int64_t begun;

    n_each = MIN(N_STORM * service_seconds / 60, (unsigned)N_STORM) / ARRAY_SIZE(users);
    test_daemon_start_open(&d, "[engine]\nkv_memory = 4M\nmax_sequences = 8\n");
    begun = load_now_us();
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        users[i] = test_user_start(&d, ALICE + (uid_t)(i % 2), 0, storm);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    report((double)(load_now_us() - begun) / 1e6, "s", "for %u requests ended at random",
           n_each * (unsigned)ARRAY_SIZE(users));
    report_most((double)count_left(&d), 0, "", "requests, KV pages and connections left");
    test_daemon_stop(&d); /* asserts that all accounts are at zero */
}

/* ---- a prefix ---- */

#define N_PREFIX 1000

static struct load_seen *prefix_seen;

static void await_chunk(grokd_call *call) {
    const struct grokd_event *event;

    do
        assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT);
    while (!event->chunk);
}

static uint64_t time_first(const TestDaemon *d, unsigned family) {
    struct grokd_generate_request request = load_prompt(N_PREFIX, family);
    CLIENT *client = test_connect(d);
    int64_t begun = load_now_us();
    CALL *call = test_begin(client, &request);
    uint64_t us;

    await_chunk(call);
    us = (uint64_t)(load_now_us() - begun);
    assert(test_finish(call, NULL, NULL) == GROKD_OK);
    return us;
}

static void ask_twice(const TestDaemon *d, TestUser *self) {
    (void)self;
    for (unsigned i = 0; i <= service_seconds / 2; i++) {
        times_add(&prefix_seen->firsts, time_first(d, i));
        times_add(&prefix_seen->gaps, time_first(d, i));
    }
}

void measure_prefix(void) {
    TestDaemon d;
    double first, second;

    prefix_seen = load_seen_new();
    test_daemon_start_open(&d, "");
    test_as(&d, ALICE, 0, ask_twice);
    first = times_quantile(&prefix_seen->firsts, 0.5);
    second = times_quantile(&prefix_seen->gaps, 0.5);
    report(first / 1000, "ms", "to the first token of %d others, median", N_PREFIX);
    report(second / 1000, "ms", "the second time");
    report_least(first / second, 20, "x", "shorter");
    test_daemon_stop(&d);
    load_seen_free(prefix_seen);
}

/* ---- refusals ---- */

#define OVERLOAD      10
#define N_OVERLOADERS 3

/* What three users ask for at once, where they take what they get. */
static double capacity(const TestDaemon *d, struct load *load) {
    TestUser user = load_start(d, ALICE, load);
    uint64_t n;

    sleep_ms(1000);
    n = atomic_load(&load->seen->n_ended);
    sleep_ms(service_seconds * 50);
    n = atomic_load(&load->seen->n_ended) - n;
    test_user_end(&user);
    return (double)n / (service_seconds * 0.05);
}

void measure_refusals(void) {
    struct load load = {.n_streams = 16, .n_tokens = 100, .n_tokens_least = 100};
    struct load_seen *seen = load.seen = load_seen_new(), *probes = load_seen_new();
    TestUser users[N_OVERLOADERS], prober;
    TestDaemon d;
    double per_s;

    test_daemon_start_open(&d, "[engine]\nmax_sequences = 8\n[limits]\nmax_queued_requests = 16\n");
    per_s = capacity(&d, &load);
    load.n_streams = 100;
    load.may_be_refused = true;
    load.requests_per_s = (unsigned)(per_s * OVERLOAD / N_OVERLOADERS) + 1;
    prober = probe_start(&d, &probes->firsts);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        users[i] = load_start(&d, ALICE + (uid_t)i, &load);
    sleep_ms(service_seconds * 250);
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    test_user_end(&prober);
    report(per_s, "1/s", "requests of 100 tokens can be served");
    report((double)atomic_load(&seen->n_refused) / (service_seconds * 0.25), "1/s",
           "refused of %d times as many", OVERLOAD);
    report_most(times_quantile(&seen->refusals, 0.99) / 1000, 10, "ms", "p99 until the refusal");
    report_most((double)atomic_load(&probes->firsts.max_us) / 1000, 100, "ms",
                "slowest answer of Status, Top and List");
    report((double)atomic_load(&seen->n_displaced) / (service_seconds * 0.25), "1/s",
           "made room for others in the queue");
    report_most((double)atomic_load(&seen->n_failed), 0, "", "requests that failed otherwise");
    report_most((double)count_left(&d), 0, "", "requests, KV pages and connections left");
    test_daemon_stop(&d);
    load_seen_free(seen);
    load_seen_free(probes);
}

/* ---- idle connections ---- */

#define N_IDLERS 2
#define N_IDLE   500 /* of each of them */

/* Each has had an answer, so that all it ever needs is there. */
static void be_idle(const TestDaemon *d, TestUser *self) {
    static grokd_client *clients[N_IDLE];
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;

    request.text = "What does tar do?";
    for (size_t i = 0; i < N_IDLE; i++) {
        ANSWER grokd_tokenize_response *tokens = NULL;

        clients[i] = test_connect(d);
        assert(grokd_tokenize(clients[i], &request, &tokens, NULL) == GROKD_OK);
    }
    test_user_ready(self);
    for (size_t i = 0; i < N_IDLE; i++)
        clients[i] = grokd_client_free(clients[i]);
}

static double slab_kib(void) {
    char line[128];
    unsigned long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");

    assert(file);
    while (fgets(line, sizeof(line), file))
        (void)sscanf(line, "Slab: %lu", &kib);
    (void)fclose(file);
    return (double)kib;
}

void measure_idle(void) {
    TestUser users[N_IDLERS];
    TestDaemon d;
    double rss, slab, n = N_IDLERS * N_IDLE;

    test_daemon_start_open(&d, "");
    test_await_idle(&d);
    rss = (double)memory_kib(d.pid, "VmRSS");
    slab = slab_kib();
    for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
        users[i] = test_user_start(&d, ALICE + (uid_t)i, 0, be_idle);
        test_user_await(&users[i]);
    }
    report_most(((double)memory_kib(d.pid, "VmRSS") - rss) / n, 64, "KiB",
                "memory of the daemon for each of %.0f idle connections", n);
    report((slab_kib() - slab) / n, "KiB",
           "the kernel's, both ends (whatever else the machine does)");
    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        test_user_end(&users[i]);
    test_daemon_stop(&d);
}
