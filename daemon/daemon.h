/* The root object: owns the loop, the listener, connections, models and the worker. */
#pragma once

#include "base/buf.h"
#include "daemon/access.h"
#include "daemon/config.h"
#include "daemon/constraints.h"
#include "daemon/listener.h"
#include "daemon/models.h"
#include "daemon/quota.h"
#include "daemon/text.h"
#include "daemon/worker.h"

#include <uv.h>

#define DAEMON_READ_BYTES   65536
#define DAEMON_CALL_BUCKETS 256
/* Connections beyond the limit that are kept to be told so. */
#define DAEMON_REFUSED_MAX 16

struct daemon_counters {
    uint64_t n_requests, n_failed, n_prompt_tokens, n_generated_tokens;
    uint64_t last_ended_us, ended_interval_us; /* of requests, while others waited; 0: not known */
    bool is_backed_up;                         /* others waited at the last ending */
};

/* Owner: main. Thread: loop. */
typedef struct Daemon {
    uv_loop_t loop;
    const Config *config;
    uint64_t begun_us;
    Quota quota;
    Access access;
    struct access_peer peer; /* of the connection that is being taken */
    Models models;
    Constraints constraints;
    TextQueue texts;
    Worker worker;
    Listener listener;
    ListNode connections;
    ListNode dirty_connections; /* have something to write */
    ListNode dirty_calls;       /* have output to encode */
    size_t n_connections, n_connections_max;
    ListNode calls[DAEMON_CALL_BUCKETS]; /* by id */
    uint64_t next_call_id;
    size_t n_calls, n_running, n_queued; /* n_running: with a sequence */
    size_t n_given_up;                   /* jobs that the worker has and whose calls are gone */
    struct daemon_counters counters;
    uv_async_t letters;
    uv_timer_t deadline; /* the earliest of all that have one */
    uint64_t deadline_us;
    uv_timer_t watchdog, start, drain;
    uv_signal_t terminate, interrupt, hang_up;
    uv_prepare_t before_poll;
    uv_check_t after_poll;
    uint64_t watched_progress; /* at the last feeding */
    bool is_listening, is_ready, is_draining, is_closing;
    int exit_status;
    uint8_t read_buffer[DAEMON_READ_BYTES]; /* shared: what is read is fed at once */
    Buf scratch;                            /* one message while it is sent */
} Daemon;

/* Until the loop runs. What can't be done is logged; returns < 0. */
int daemon_init(Daemon *d, const Config *config);
/* Runs until it is told to end; returns the exit status. */
int daemon_run(Daemon *d);
void daemon_deinit(Daemon *d);

/* Of two times at which something is due; 0: never. */
static inline uint64_t daemon_earlier(uint64_t a, uint64_t b) {
    return a == 0 || (b > 0 && b < a) ? b : a;
}
uint64_t daemon_now_us(const Daemon *d);
/* Something is due at this time. */
void daemon_wake_at(Daemon *d, uint64_t at_us);
/* Models came or went: READY, status, the end of a start that failed. */
void daemon_models_changed(Daemon *d);
/* A call or a connection has ended: a drain may be over. */
void daemon_something_ended(Daemon *d);
