/*
 * See daemon.h.
 *
 * One turn of the loop: bytes are fed to codecs, letters from the worker and results of background
 * work reach their calls, and only then, before it sleeps and after it woke, what all of them have
 * to say is encoded and written. So the tokens of one wake-up travel in one message for each call
 * and one write for each connection.
 *
 * The end: SIGTERM closes the listener and lets running calls go on for drain_timeout; then what is
 * left is ended, written out, and everything closes in the reverse order of its making.
 */
#include "daemon/daemon.h"

#include "daemon/conn.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/room.h"
#include "daemon/service.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

/* While models load, connections wait in the kernel for so long: small models are there before
 * anyone is told that they are not. */
#define START_WAIT_MS 2000
/* What is still unwritten so long after the last call has ended is given up. */
#define LINGER_MS 2000
/* Files of our own: models, the log, libuv's. */
#define OWN_FILES 64
/* How often the watchdog is fed within its period. */
#define WATCHDOG_SHARE 4

uint64_t daemon_now_us(const Daemon *d) {
    (void)d;
    return uv_hrtime() / 1000;
}

/* ---- what is due ---- */

static void on_deadline(uv_timer_t *timer);

void daemon_wake_at(Daemon *d, uint64_t at_us) {
    uint64_t now = daemon_now_us(d);

    if (d->is_closing || (d->deadline_us > 0 && d->deadline_us <= at_us))
        return;
    d->deadline_us = at_us;
    uv_update_time(&d->loop);
    (void)uv_timer_start(&d->deadline, on_deadline, at_us > now ? (at_us - now) / 1000 + 1 : 0, 0);
}

/* Ends those whose time is up, and lets those act whose turn it is. */
static uint64_t tick_calls(Daemon *d, uint64_t now) {
    uint64_t next = 0;

    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each_safe (node, &d->calls[i]) {
            Call *call = container_of(node, Call, id_node);

            if (call->deadline_us > 0 && call->deadline_us <= now) {
                call_fail(call, STATUS_DEADLINE_EXCEEDED,
                          "the request's time was up after %" PRIu64 " ms",
                          (now - call->begun_us) / 1000);
                continue;
            }
            if (call->tick_us > 0 && call->tick_us <= now)
                call->method->on_tick(call, now);
            next = daemon_earlier(next, daemon_earlier(call->deadline_us, call->tick_us));
        }
    return next;
}

static void on_deadline(uv_timer_t *timer) {
    Daemon *d = timer->data;
    uint64_t now = daemon_now_us(d), next;

    d->deadline_us = 0;
    next = daemon_earlier(tick_calls(d, now), room_tick(&d->models, now));
    listener_retry(&d->listener);
    list_for_each_safe (node, &d->connections)
        next = daemon_earlier(next, conn_tick(container_of(node, Conn, node), now));
    if (next > 0)
        daemon_wake_at(d, next);
}

/* ---- output ---- */

static void flush(Daemon *d) {
    while (!list_is_empty(&d->dirty_calls) || !list_is_empty(&d->dirty_connections)) {
        while (!list_is_empty(&d->dirty_calls)) {
            Call *call = list_first(&d->dirty_calls, Call, dirty_node);

            list_unlink(&call->dirty_node);
            call->method->flush(call);
        }
        while (!list_is_empty(&d->dirty_connections))
            conn_flush(list_first(&d->dirty_connections, Conn, dirty_node));
    }
}

static void on_before_poll(uv_prepare_t *handle) {
    flush(handle->data);
}

static void on_after_poll(uv_check_t *handle) {
    flush(handle->data);
}

/* ---- letters ---- */

static void take_letter(Daemon *d, Letter *letter) {
    Call *call = call_find(d, letter->id);
    Model *model = letter->model;
    bool is_ended = letter->type == LETTER_ENDED;
    bool is_lost = is_ended && container_of(letter, Job, letter)->code == STATUS_DATA_LOSS;

    if (letter->n_kv_total > 0) {
        model->n_kv_free = letter->n_kv_free;
        model->n_kv_total = letter->n_kv_total;
    }
    if (is_lost)
        model_lose(model);
    if (call)
        service_letter(call, letter);
    if (is_ended) {
        call_release_job(container_of(letter, Job, letter));
        model_release(model);
    }
    worker_letter_free(letter);
}

static void take_letters(Daemon *d) {
    ListNode letters;

    list_init(&letters);
    worker_take(&d->worker, &letters);
    list_for_each_safe (node, &letters) {
        list_unlink(node);
        take_letter(d, container_of(node, Letter, node));
    }
}

static void on_letters(uv_async_t *async) {
    take_letters(async->data);
}

static void wake_loop(void *userdata) {
    Daemon *d = userdata;

    (void)uv_async_send(&d->letters);
}

/* ---- the watchdog ---- */

/* Steps done, and progress within the one under way. */
static uint64_t progress(const Daemon *d) {
    uint64_t sum = atomic_load(&d->worker.n_steps);

    list_for_each (node, &d->models.all) {
        const Model *model = container_of(node, Model, node);

        if (model->engine)
            sum += gk_engine_heartbeat(model->engine);
    }
    return sum;
}

/* That this runs shows that the loop turns. A busy worker must have come further, too. */
static void on_watchdog(uv_timer_t *timer) {
    Daemon *d = timer->data;
    uint64_t now = progress(d);

    if (!atomic_load(&d->worker.is_busy) || now != d->watched_progress)
        notify_watchdog();
    d->watched_progress = now;
}

/* ---- start and end ---- */

static void on_handle_closed(uv_handle_t *handle, void *userdata) {
    (void)userdata;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* No call is left. Connections close when they are written out, or soon anyway. */
static void close_connections(Daemon *d, bool at_once) {
    list_for_each_safe (node, &d->connections) {
        Conn *c = container_of(node, Conn, node);

        if (at_once)
            conn_close(c);
        else
            conn_end(c);
    }
}

static void on_linger(uv_timer_t *timer) {
    close_connections(timer->data, true);
}

static void finish_drain(Daemon *d) {
    if (d->is_closing)
        return;
    d->is_closing = true;
    flush(d);
    models_stop(&d->models);
    close_connections(d, false);
    (void)uv_timer_start(&d->drain, on_linger, LINGER_MS, 0);
    daemon_something_ended(d);
}

static void on_drain_timeout(uv_timer_t *timer) {
    Daemon *d = timer->data;

    if (d->n_calls > 0)
        log_notice("drain_timeout is over: ending the %zu requests under way", d->n_calls);
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        while (!list_is_empty(&d->calls[i]))
            call_fail(list_first(&d->calls[i], Call, id_node), STATUS_UNAVAILABLE,
                      "the daemon is shutting down");
    finish_drain(d);
}

void daemon_something_ended(Daemon *d) {
    if (d->is_draining && d->n_calls == 0 && !d->is_closing)
        (void)uv_timer_start(&d->drain, on_drain_timeout, 0, 0);
    if (d->is_closing && d->n_connections == 0)
        uv_stop(&d->loop);
}

/* Those that would go on as long as the daemon does. */
static void end_endless_calls(Daemon *d) {
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each_safe (node, &d->calls[i]) {
            Call *call = container_of(node, Call, id_node);

            if (call->method->on_tick)
                call_fail(call, STATUS_UNAVAILABLE, "the daemon is shutting down");
        }
}

static void begin_drain(Daemon *d, int exit_status) {
    if (d->is_draining)
        return;
    d->is_draining = true;
    d->exit_status = exit_status;
    notify_stopping();
    listener_close(&d->listener);
    models_drain(&d->models);
    end_endless_calls(d);
    log_info("ending: %zu requests under way", d->n_calls);
    if (d->n_calls > 0)
        notify_extend(d->config->drain_us + LINGER_MS * 1000);
    (void)uv_timer_start(&d->drain, on_drain_timeout,
                         d->n_calls > 0 ? d->config->drain_us / 1000 : 0, 0);
}

static void on_terminate(uv_signal_t *handle, int signal_number) {
    Daemon *d = handle->data;

    if (!d->is_draining) {
        log_info("%s", strsignal(signal_number));
        begin_drain(d, 0);
        return;
    }
    /* Somebody is in a hurry: nothing is owed to anyone but the kernel, which cleans up. */
    log_warning("%s again: ending at once", strsignal(signal_number));
    _exit(1);
}

static void on_hang_up(uv_signal_t *handle, int signal_number) {
    (void)handle;
    (void)signal_number;
    log_notice("SIGHUP: there is nothing to reload, ignoring it; restart to change the "
               "configuration");
}

static void start_listening(Daemon *d) {
    if (d->is_listening || d->is_draining)
        return;
    d->is_listening = true;
    (void)uv_timer_stop(&d->start);
    if (listener_start(&d->listener) < 0)
        begin_drain(d, 1);
}

static void on_start_wait_over(uv_timer_t *timer) {
    start_listening(timer->data);
}

void daemon_models_changed(Daemon *d) {
    size_t n_ready = models_n_ready(&d->models);

    if (d->is_draining || !models_are_settled(&d->models))
        return;
    if (d->is_ready) {
        notify_status("%zu of %zu models ready", n_ready, d->models.n);
        return;
    }
    if (n_ready == 0 && models_any_failed(&d->models)) {
        log_error("no model could be loaded");
        begin_drain(d, 1);
        return;
    }
    start_listening(d);
    d->is_ready = true;
    notify_status("%zu of %zu models ready", n_ready, d->models.n);
    notify_ready();
}

/* ---- the object ---- */

/* As many connections as there may be files: what is beyond must be accepted to be refused. */
static size_t connections_max(const Config *c) {
    struct rlimit limit;
    size_t n = c->n_connections_max;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return n;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {.rlim_cur = MIN(limit.rlim_max, (rlim_t)n + OWN_FILES * 2),
                                .rlim_max = limit.rlim_max};

        if (raised.rlim_cur > limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit = raised;
    }
    if (limit.rlim_cur < n + OWN_FILES + DAEMON_REFUSED_MAX) {
        n = limit.rlim_cur > OWN_FILES + DAEMON_REFUSED_MAX + 1
                ? limit.rlim_cur - OWN_FILES - DAEMON_REFUSED_MAX
                : 1;
        log_warning("max_connections is lowered to %zu: there may be %llu open files", n,
                    (unsigned long long)limit.rlim_cur);
    }
    return n;
}

static int init_handles(Daemon *d) {
    struct {
        uv_signal_t *handle;
        int number;
        uv_signal_cb run;
    } signals[] = {{&d->terminate, SIGTERM, on_terminate},
                   {&d->interrupt, SIGINT, on_terminate},
                   {&d->hang_up, SIGHUP, on_hang_up}};
    uv_timer_t *timers[] = {&d->deadline, &d->watchdog, &d->start, &d->drain};
    int r = uv_async_init(&d->loop, &d->letters, on_letters);

    d->letters.data = d;
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(timers); i++) {
        r = uv_timer_init(&d->loop, timers[i]);
        timers[i]->data = d;
    }
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(signals); i++) {
        r = uv_signal_init(&d->loop, signals[i].handle);
        signals[i].handle->data = d;
        if (r == 0)
            r = uv_signal_start(signals[i].handle, signals[i].run, signals[i].number);
    }
    (void)uv_prepare_init(&d->loop, &d->before_poll);
    (void)uv_check_init(&d->loop, &d->after_poll);
    d->before_poll.data = d->after_poll.data = d;
    (void)uv_prepare_start(&d->before_poll, on_before_poll);
    (void)uv_check_start(&d->after_poll, on_after_poll);
    return r;
}

static int start_worker(Daemon *d) {
    const Config *c = d->config;

    return worker_start(&d->worker, &(struct worker_options){
                                        .n_jobs_max = c->n_requests_max,
                                        .n_sequences_max = c->n_sequences_max,
                                        .n_prompt_rows_max = (uint32_t)c->n_step_rows,
                                        .target_us = c->target_us,
                                        .wake = wake_loop,
                                        .userdata = d,
                                    });
}

static void init_fields(Daemon *d, const Config *config) {
    *d = (Daemon){.config = config, .begun_us = uv_hrtime() / 1000};
    list_init(&d->connections);
    list_init(&d->dirty_connections);
    list_init(&d->dirty_calls);
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_init(&d->calls[i]);
    list_init(&d->models.all);
    constraints_init(&d->constraints);
    text_queue_init(&d->texts);
    d->scratch = BUF_INIT(CODEC_MESSAGE_BYTES_MAX);
    quota_init(&d->quota, config->window_us);
    d->n_connections_max = connections_max(config);
}

static void close_loop(Daemon *d) {
    uv_walk(&d->loop, on_handle_closed, NULL);
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&d->loop);
}

int daemon_init(Daemon *d, const Config *config) {
    Error error = ERROR_INIT;
    int r;

    init_fields(d, config);
    if (access_init(&d->access, config, &error) < 0) {
        log_error("%s", error.text);
        return -EINVAL;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that is too large can't be written, that's all */
    r = uv_loop_init(&d->loop);
    if (r < 0) {
        log_error("can't make an event loop: %s", uv_strerror(r));
        return r;
    }
    r = init_handles(d);
    if (r == 0)
        r = listener_open(&d->listener, d,
                          &(struct listener_options){.path = config->socket,
                                                     .group = config->socket_group,
                                                     .mode = (unsigned)config->socket_mode});
    if (r == 0)
        r = models_init(&d->models, d);
    if (r == 0)
        r = start_worker(d);
    if (r < 0) {
        listener_close(&d->listener);
        close_loop(d);
        models_deinit(&d->models);
    }
    return r;
}

int daemon_run(Daemon *d) {
    uint64_t watchdog_us = notify_watchdog_us();

    if (watchdog_us > 0) {
        uint64_t ms = MAX(watchdog_us / WATCHDOG_SHARE / 1000, (uint64_t)1);

        (void)uv_timer_start(&d->watchdog, on_watchdog, ms, ms);
    }
    (void)uv_timer_start(&d->start, on_start_wait_over, START_WAIT_MS, 0);
    if (models_start(&d->models) < 0)
        begin_drain(d, 1);
    else
        daemon_models_changed(d);
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    return d->exit_status;
}

void daemon_deinit(Daemon *d) {
    worker_stop(&d->worker);
    take_letters(d);
    models_stop(&d->models);
    close_loop(d); /* waits for the background, too */
    worker_deinit(&d->worker);
    models_deinit(&d->models);
    constraints_deinit(&d->constraints);
    text_queue_deinit(&d->texts);
    buf_deinit(&d->scratch);
    quota_deinit(&d->quota);
    log_info("ended");
}
