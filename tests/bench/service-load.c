/* Promises about many streams: none is disturbed, and users have their shares. */
#include "tests/bench/median.h"
#include "tests/bench/service.h"

#include <stdio.h>
#include <unistd.h>

#define N_USERS   4
#define N_STREAMS 50
#define N_WINDOWS 9
/* Of a client that asks for more than it may have. */
#define N_CONNECTIONS 4

/* ---- 200 streams ---- */

static double loop_us_per_token(const TestDaemon *d, uint64_t cpu_ns, uint64_t n_tokens) {
    return (double)(thread_cpu_ns(d->pid, d->pid) - cpu_ns) / 1000 / (double)MAX(n_tokens, 1u);
}

static void start_crowd(const TestDaemon *d, TestUser *users, const struct load *load) {
    for (size_t i = 0; i < N_USERS; i++)
        users[i] = load_start(d, ALICE + (uid_t)i, load);
}

static void end_crowd(TestUser *users) {
    for (size_t i = 0; i < N_USERS; i++)
        test_user_end(&users[i]);
}

/* The warm-up takes all of the memory that the streams can need: first all of them are as long as
 * can be at the same time. Chance alone would bring new peaks of the KV cache for long. */
void measure_crowd(void) {
    struct load load = {.n_streams = N_STREAMS, .n_tokens = 200, .n_tokens_least = 50},
                longest = {.n_streams = N_STREAMS, .n_tokens = 200, .n_tokens_least = 200};
    struct load_seen *seen = load.seen = longest.seen = load_seen_new(), *probes = load_seen_new();
    unsigned warm_ms = service_seconds * 250;
    TestUser users[N_USERS], prober;
    uint64_t rss, anon, cpu, n_tokens, n_left;
    TestDaemon d;
    double change;

    test_daemon_start_open(&d, "[engine]\nmax_sequences = 200\nkv_memory = 112M\n");
    prober = probe_start(&d, &probes->firsts);
    start_crowd(&d, users, &longest);
    sleep_ms(warm_ms);
    end_crowd(users);
    start_crowd(&d, users, &load);
    sleep_ms(warm_ms);
    rss = memory_kib(d.pid, "VmRSS");
    anon = memory_kib(d.pid, "RssAnon");
    cpu = thread_cpu_ns(d.pid, d.pid);
    n_tokens = atomic_load(&seen->n_tokens);
    sleep_ms(service_seconds * 1000);
    n_tokens = atomic_load(&seen->n_tokens) - n_tokens;
    report_most(loop_us_per_token(&d, cpu, n_tokens), 20, "us", "CPU of the loop thread per token");
    change = ((double)memory_kib(d.pid, "VmRSS") / (double)rss - 1) * 100;
    report_most(change < 0 ? -change : change, 1, "%",
                "change of RSS after the warm-up, of %.0f MiB", (double)rss / 1024);
    report(((double)memory_kib(d.pid, "RssAnon") / (double)anon - 1) * 100, "%",
           "change of its anonymous part");
    end_crowd(users);
    test_user_end(&prober);
    n_left = count_left(&d);
    report_most((double)atomic_load(&seen->n_failed), 0, "", "streams that failed, of %llu",
                (unsigned long long)atomic_load(&seen->n_ended));
    report_most((double)atomic_load(&seen->n_misplaced), 0, "", "lost or repeated events");
    report_most((double)n_left, 0, "", "requests, KV pages and connections left");
    report_most((double)atomic_load(&probes->firsts.max_us) / 1000, 100, "ms",
                "slowest answer of Status, Top and List");
    report((double)n_tokens / service_seconds, "token/s", "speed of all streams");
    report(times_quantile(&seen->gaps, 0.99) / 1000, "ms", "p99 between tokens");
    test_daemon_stop(&d);
    load_seen_free(seen);
    load_seen_free(probes);
}

/* ---- shares ---- */

/* What comes in the next ms. */
static void watch(struct load_seen *seen, unsigned ms) {
    times_clear(&seen->gaps);
    atomic_store(&seen->is_timing, true);
    sleep_ms(ms);
    atomic_store(&seen->is_timing, false);
}

static void await_tokens(const struct load_seen *seen, uint64_t n) {
    n += atomic_load(&seen->n_tokens);
    while (atomic_load(&seen->n_tokens) < n)
        sleep_ms(1);
}

/* Two users: half of the machine is each one's, so a token may take twice what it takes alone. */
void measure_share(void) {
    struct load many = {.n_streams = 64, .n_tokens = 3000, .n_tokens_least = 500},
                one = {.n_streams = 1, .n_tokens = 3000, .n_tokens_least = 500};
    struct load_seen *seen = one.seen = load_seen_new();
    unsigned ms = service_seconds * 1000 / 4;
    double alone;
    uint64_t cpu, n_tokens;
    TestUser alice, bob;
    TestDaemon d;

    many.seen = load_seen_new();
    test_daemon_start_open(&d, "");
    bob = load_start(&d, BOB, &one);
    await_tokens(seen, 1000);
    cpu = thread_cpu_ns(d.pid, d.pid);
    n_tokens = atomic_load(&seen->n_tokens);
    watch(seen, ms);
    report_most(loop_us_per_token(&d, cpu, atomic_load(&seen->n_tokens) - n_tokens), 20, "us",
                "CPU of the loop thread per token, one stream");
    alone = times_mean(&seen->gaps);
    alice = load_start(&d, ALICE, &many);
    await_tokens(many.seen, 2000);
    watch(seen, ms);
    report(alone / 1000, "ms", "between tokens of one stream, alone");
    report(times_mean(&seen->gaps) / 1000, "ms", "beside another user's 64");
    report_most(times_mean(&seen->gaps) / (2 * alone), 1.3, "x",
                "of its fair share: twice the former");
    test_user_end(&alice);
    test_user_end(&bob);
    test_daemon_stop(&d);
    load_seen_free(seen);
    load_seen_free(many.seen);
}

/* ---- floods ---- */

/* p99 between the tokens of `seen` while Alice does this on each of her connections. */
static double watch_beside(const TestDaemon *d, const struct load *load, struct load_seen *seen) {
    TestUser alice[N_CONNECTIONS];
    double p99;

    for (size_t i = 0; i < N_CONNECTIONS; i++)
        alice[i] = load_start(d, ALICE, load);
    sleep_ms(1000);
    watch(seen, service_seconds * 1000 / 30);
    p99 = times_quantile(&seen->gaps, 0.99);
    for (size_t i = 0; i < N_CONNECTIONS; i++)
        test_user_end(&alice[i]);
    return p99;
}

static void report_change(double *with, double *without, const char *what) {
    double change = (median(with, N_WINDOWS) / median(without, N_WINDOWS) - 1) * 100;

    report(median(without, N_WINDOWS) / 1000, "ms", "p99 between tokens beside 64 other streams");
    report(median(with, N_WINDOWS) / 1000, "ms", "p99 beside a client that %s", what);
    report_most(change, 5, "%", "change by it");
}

/* Bob's 8 streams beside Alice's 64: she has her share in any case, and may have no more of it by
 * having as many requests under way as she is allowed, sending another for each that is refused;
 * nor by reading nothing. Both ways in turn, so that both meet the same machine, and by as many
 * processes: the clients share its CPUs with the daemon, and each that wakes takes some of them. */
static void measure_beside(const struct load *bad, const char *what) {
    struct load eight = {.n_streams = 8, .n_tokens = 3000, .n_tokens_least = 500},
                good = {.n_streams = 64 / N_CONNECTIONS, .n_tokens = 3000, .n_tokens_least = 500};
    double with[N_WINDOWS], without[N_WINDOWS];
    TestUser bob;
    TestDaemon d;

    eight.seen = load_seen_new();
    good.seen = bad->seen;
    test_daemon_start_open(&d, "");
    bob = load_start(&d, BOB, &eight);
    await_tokens(eight.seen, 2000);
    for (size_t i = 0; i < N_WINDOWS; i++) {
        without[i] = watch_beside(&d, &good, eight.seen);
        with[i] = watch_beside(&d, bad, eight.seen);
    }
    report_change(with, without, what);
    test_user_end(&bob);
    test_daemon_stop(&d);
    load_seen_free(eight.seen);
}

void measure_flood(void) {
    struct load flood = {.n_streams = 200,
                         .n_tokens = 3000,
                         .n_tokens_least = 500,
                         .may_be_refused = true},
                silent = {.n_streams = 100, .n_tokens = 3900, .never_reads = true};

    flood.seen = silent.seen = load_seen_new();
    measure_beside(&flood, "floods");
    report((double)atomic_load(&flood.seen->n_refused), "", "requests were refused");
    measure_beside(&silent, "never reads");
    load_seen_free(flood.seen);
}
