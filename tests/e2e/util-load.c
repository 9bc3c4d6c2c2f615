/* See util-load.h. */
#include "tests/e2e/util-load.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SUB_BUCKETS 128u

int64_t load_now_us(void) {
    struct timespec t;

    assert(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- times ---- */

/* Exact below SUB_BUCKETS, then as many buckets from each power of two to the next. */
static size_t bucket_of(uint64_t us) {
    unsigned shift = 0;
    size_t i;

    while (us >> shift >= 2 * SUB_BUCKETS)
        shift++;
    i = (size_t)shift * SUB_BUCKETS + (size_t)(us >> shift);
    return MIN(i, (size_t)TIMES_BUCKETS - 1);
}

/* Its middle. */
static double bucket_us(size_t i) {
    unsigned shift = i < 2 * SUB_BUCKETS ? 0 : (unsigned)(i / SUB_BUCKETS) - 1;

    return ldexp((double)(i - (size_t)shift * SUB_BUCKETS) + (shift > 0 ? 0.5 : 0), (int)shift);
}

void times_add(struct times *t, uint64_t us) {
    unsigned long long max = atomic_load(&t->max_us);

    (void)atomic_fetch_add(&t->buckets[bucket_of(us)], 1);
    (void)atomic_fetch_add(&t->n, 1);
    (void)atomic_fetch_add(&t->sum_us, us);
    while (us > max && !atomic_compare_exchange_weak(&t->max_us, &max, us))
        ;
}

void times_clear(struct times *t) {
    for (size_t i = 0; i < TIMES_BUCKETS; i++)
        atomic_store(&t->buckets[i], 0);
    atomic_store(&t->n, 0);
    atomic_store(&t->sum_us, 0);
    atomic_store(&t->max_us, 0);
}

double times_quantile(const struct times *t, double part) {
    double left = part * (double)atomic_load(&t->n);

    if (left == 0)
        return 0;
    for (size_t i = 0; i < TIMES_BUCKETS; i++) {
        left -= atomic_load(&t->buckets[i]);
        if (left <= 0)
            return bucket_us(i);
    }
    return (double)atomic_load(&t->max_us);
}

double times_mean(const struct times *t) {
    return (double)atomic_load(&t->sum_us) / MAX((double)atomic_load(&t->n), 1.0);
}

struct load_seen *load_seen_new(void) {
    struct load_seen *seen =
        mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert(seen != MAP_FAILED);
    atomic_store(&seen->is_timing, true);
    return seen;
}

void load_seen_free(struct load_seen *seen) {
    assert(munmap(seen, sizeof(*seen)) == 0);
}

/* ---- requests ---- */

struct grokd_generate_request load_request(uint32_t n, int priority) {
    struct grokd_generate_request request = test_long(n);

    request.token_ids = true;
    request.priority = priority;
    return request;
}

struct grokd_generate_request load_prompt(size_t n, unsigned family) {
    static int32_t tokens[4096];
    struct grokd_generate_request request = load_request(4, GROKD_PRIORITY_UNSPECIFIED);

    assert(n <= ARRAY_SIZE(tokens));
    for (size_t i = 0; i < n; i++)
        tokens[i] = 300 + (int32_t)((i * 7919 + (size_t)family * 131) % 3000);
    request.text = NULL;
    request.tokens = tokens;
    request.n_tokens = n;
    return request;
}

static unsigned random_below(unsigned n) {
    return (unsigned)random() % n;
}

/* ---- streams ---- */

struct stream {
    grokd_call *call;
    uint64_t n_events;
    int64_t begun_us, token_us; /* token_us: of the last one; 0: none yet */
};

static struct {
    struct load load;
    grokd_client *client;
    struct stream streams[LOAD_STREAMS_MAX];
    int64_t next_us; /* when the next may begin, where there is a rate */
} own;

static void begin(struct stream *s) {
    const struct load *l = &own.load;
    struct grokd_generate_request request =
        load_request(l->n_tokens_least + random_below(l->n_tokens - l->n_tokens_least + 1),
                     GROKD_PRIORITY_UNSPECIFIED);

    *s = (struct stream){.begun_us = load_now_us()};
    s->call = test_begin(own.client, &request);
    grokd_call_set_userdata(s->call, s);
}

static void see(struct stream *s, const struct grokd_event *event) {
    struct load_seen *seen = own.load.seen;
    int64_t now = load_now_us();
    size_t n = event->chunk ? event->chunk->n_token_ids : 0;

    (void)atomic_fetch_add(&seen->n_misplaced, event->seq != s->n_events);
    s->n_events = event->seq + 1;
    if (n == 0)
        return;
    (void)atomic_fetch_add(&seen->n_tokens, n);
    if (atomic_load(&seen->is_timing)) {
        if (s->token_us == 0)
            times_add(&seen->firsts, (uint64_t)(now - s->begun_us));
        else
            times_add(&seen->gaps, (uint64_t)(now - s->token_us));
        while (--n > 0) /* came with the first */
            times_add(&seen->gaps, 0);
    }
    s->token_us = now;
}

static void see_failure(const struct stream *s, const struct grokd_error *error) {
    struct load_seen *seen = own.load.seen;

    if (own.load.may_be_refused && error->code == GROKD_RESOURCE_EXHAUSTED &&
        error->retry_after_ms > 0 && s->token_us == 0) {
        (void)atomic_fetch_add(s->n_events == 0 ? &seen->n_refused : &seen->n_displaced, 1);
        if (s->n_events > 0)
            return;
        if (atomic_load(&seen->is_timing))
            times_add(&seen->refusals, (uint64_t)(load_now_us() - s->begun_us));
        return;
    }
    if (atomic_fetch_add(&seen->n_failed, 1) == 0)
        (void)printf("# a stream failed after %llu events: %s\n", (unsigned long long)s->n_events,
                     error->text);
}

static void take(struct stream *s) {
    const struct grokd_event *event;
    struct grokd_error error = {0};
    int got;

    while ((got = grokd_call_next(s->call, 0, &event, &error)) == GROKD_NEXT_EVENT)
        see(s, event);
    if (got == GROKD_NEXT_WAIT)
        return;
    if (got == GROKD_NEXT_FAILED)
        see_failure(s, &error);
    else
        (void)atomic_fetch_add(&own.load.seen->n_ended, 1);
    s->call = grokd_call_free(s->call);
}

/* Begins as many as may begin now. Returns how long to wait for the next, -1: for an answer. */
static int begin_due(void) {
    const struct load *l = &own.load;
    int64_t now = load_now_us();

    for (size_t i = 0; i < l->n_streams; i++) {
        if (own.streams[i].call)
            continue;
        if (l->requests_per_s > 0 && own.next_us > now)
            return (int)((own.next_us - now) / 1000 + 1);
        begin(&own.streams[i]);
        if (l->requests_per_s > 0)
            own.next_us = MAX(own.next_us, now - 100000) + 1000000 / l->requests_per_s;
    }
    return -1;
}

/* Returns false where the process is to end. */
static bool wait_for_some(int self, int ms) {
    struct pollfd p[2] = {{.fd = self, .events = POLLIN},
                          {.fd = grokd_fd(own.client), .events = (short)grokd_events(own.client)}};

    if (own.load.never_reads)
        p[1].fd = -1;
    assert(poll(p, 2, ms) >= 0);
    return p[0].revents == 0;
}

static void run_load(const TestDaemon *d, TestUser *self) {
    grokd_call *call;
    int ms;

    srandom((unsigned)getpid());
    own.client = test_connect(d);
    own.next_us = load_now_us();
    do {
        while (!own.load.never_reads && (call = grokd_ready(own.client)))
            take(grokd_call_userdata(call));
        ms = begin_due();
        if (wait_for_some(self->fd, ms) && !own.load.never_reads)
            assert(grokd_process(own.client, NULL) == GROKD_OK);
    } while (wait_for_some(self->fd, 0));
    own.client = grokd_client_free(own.client);
    for (size_t i = 0; i < own.load.n_streams; i++)
        own.streams[i].call = grokd_call_free(own.streams[i].call);
}

TestUser load_start(const TestDaemon *d, uid_t uid, const struct load *load) {
    assert(load->n_streams <= LOAD_STREAMS_MAX && load->n_tokens >= load->n_tokens_least);
    own.load = *load;
    return test_user_start(d, uid, 0, run_load);
}

/* ---- a storm ---- */

/* Begins a random request, and sees to the stream's last one in one of many ways. */
static void begin_and_end(const TestDaemon *d, grokd_client **client, grokd_call **call) {
    struct grokd_generate_request request =
        random_below(2) ? load_prompt(1 + random_below(400), 0)
                        : load_request(1 + random_below(100), (int)random_below(4));
    const struct grokd_event *event;

    if (*call && random_below(2))
        grokd_call_cancel(*call);
    if (*call && random_below(16) == 0)
        (void)test_finish(*call, NULL, NULL);
    *call = grokd_call_free(*call);
    if (random_below(16) == 0) {
        *client = grokd_client_free(*client);
        *client = test_connect(d);
    }
    if (random_below(8) == 0)
        request.timeout_ms = 1 + random_below(20);
    *call = test_begin(*client, &request);
    (void)grokd_call_next(*call, (int)random_below(3) * 3, &event, NULL);
}

void load_storm(const TestDaemon *d, unsigned n) {
    grokd_client *clients[8];
    grokd_call *calls[8] = {NULL};

    srandom((unsigned)getpid());
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        clients[i] = test_connect(d);
    while (n-- > 0) {
        size_t k = random_below(ARRAY_SIZE(calls));

        begin_and_end(d, &clients[k], &calls[k]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = grokd_client_free(clients[i]);
        calls[i] = grokd_call_free(calls[i]);
    }
}
