/*
 * Clients that keep a daemon busy, each in a process of its own user, and what they see: used by
 * tests, which look at what came, and by bench/service, which looks at when.
 */
#pragma once

#include "tests/e2e/util-daemon.h"

#include <stdatomic.h>

/* Times within 0.8 %: 128 buckets for each power of two of microseconds. */
#define TIMES_BUCKETS (128 * 32)
struct times {
    atomic_uint buckets[TIMES_BUCKETS];
    atomic_ullong n, sum_us, max_us;
};
void times_add(struct times *t, uint64_t us);
void times_clear(struct times *t);
/* The time that this part (0 to 1) of all does not exceed; 0 where there is none. */
double times_quantile(const struct times *t, double part);
double times_mean(const struct times *t);

/* What a load sees; in shared memory. */
struct load_seen {
    atomic_ullong n_tokens, n_ended, n_refused; /* at once */
    atomic_ullong n_displaced; /* refused while they waited, for users of whom fewer do */
    atomic_ullong n_failed;    /* for any other reason than that they were refused */
    atomic_ullong n_misplaced; /* events whose number was not the one after the last */
    atomic_bool is_timing;
    struct times gaps;     /* between tokens of a stream */
    struct times firsts;   /* from a request to its first token */
    struct times refusals; /* from a request to its refusal */
};
struct load_seen *load_seen_new(void);
void load_seen_free(struct load_seen *seen);

#define LOAD_STREAMS_MAX 200
/* Streams that begin anew when they end. */
struct load {
    size_t n_streams;        /* on one connection */
    uint32_t n_tokens;       /* of each request at most … */
    uint32_t n_tokens_least; /* … and at least, at random */
    unsigned requests_per_s; /* 0: at once when one has ended */
    bool never_reads;        /* begins them all and leaves it at that */
    bool may_be_refused;
    struct load_seen *seen;
};
/* As a process of the user, until test_user_end(). */
TestUser load_start(const TestDaemon *d, uid_t uid, const struct load *load);

/* Begins n random requests in a few streams, and ends them in every way that there is. */
void load_storm(const TestDaemon *d, unsigned n);

int64_t load_now_us(void);
/* Request for n tokens, whatever they are, with their ids; parameters live until the next one. */
struct grokd_generate_request load_request(uint32_t n, int priority);
/* A prompt of n tokens, the family's own, that asks for 4. */
struct grokd_generate_request load_prompt(size_t n, unsigned family);
