/*
 * What the daemon promises its users, measured at full length: a real grokd on the demo model, its
 * clients processes of different users. One function measures one promise and says what it found.
 */
#pragma once

#include "tests/e2e/util-load.h"

#define ALICE 2001
#define BOB   2002
#define CAROL 2003

/* How long the longest takes; the others less in proportion. */
extern unsigned service_seconds;

/* What was measured, and what is required: at most, or at least, `bound`. */
void report_most(double measured, double bound, const char *unit, const char *format, ...)
    PRINTF_FORMAT(4, 5);
void report_least(double measured, double bound, const char *unit, const char *format, ...)
    PRINTF_FORMAT(4, 5);
/* For information. */
void report(double measured, const char *unit, const char *format, ...) PRINTF_FORMAT(3, 4);

/* ---- the daemon ---- */

void sleep_ms(unsigned ms);
/* Lines of /proc/PID/status such as "VmRSS", in KiB. */
uint64_t memory_kib(pid_t pid, const char *key);
/* CPU time of one thread so far. The daemon's loop is its first thread. */
uint64_t thread_cpu_ns(pid_t pid, pid_t thread);
/* What requests, sequences, KV pages and connections (but ours) are left a while after the last
 * client has gone: all of them should be gone, too. */
uint64_t count_left(const TestDaemon *d);

struct counts {
    uint64_t n_steps, n_tokens, n_kv_pages;
    uint32_t n_running, n_queued, n_connections;
};
struct counts read_counts(grokd_client *client);

/* Asks for Admin.Status, Admin.Top and the list of models all the time; how long the answers took.
 */
TestUser probe_start(const TestDaemon *d, struct times *times);

/* ---- the promises ---- */

void measure_crowd(void);
void measure_share(void);
void measure_flood(void);
void measure_ends(void);
void measure_storm(void);
void measure_prefix(void);
void measure_refusals(void);
void measure_idle(void);
