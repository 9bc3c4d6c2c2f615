/*
 * See conn.h.
 *
 *   SNIFF ─ first bytes ─▶ OPEN ─ peer's end, broken frames, drain ─▶ ENDING
 *
 *   ENDING ─ all written ─▶ CLOSING; any ─ errors, limits ─▶ CLOSING
 *
 * Reading never stops because writing does: two peers that did so would wait for each other for
 * ever. It pauses, for a time, where a user's requests fail faster than FAILURES_PER_S (quota.c).
 * What a peer must not do is let us queue without end; the codec has a limit for that, and a write
 * that makes no progress is given up after write_timeout.
 *
 * Memory: bytes are read into the daemon's one buffer and fed at once; what is to be written stays
 * with the codec, of which at most WRITE_BYTES_MAX are copied for a write that the kernel did not
 * take. So an idle connection holds its codec's state and nothing else.
 *
 * A peer that has only shut its writing side down still gets its answers. Unix sockets tell it from
 * one that is gone: POLLHUP.
 *
 * Two steps to the grave: conn_close() closes the handle, and only its callback frees.
 */
#include "daemon/conn.h"

#include "base/alloc.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/service.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define WRITE_BYTES_MAX 65536
/* Beyond this calls hold their output back, where tokens coalesce. */
#define BACKLOG_BYTES_MAX 262144
/* How often a half-closed connection with work under way is looked at. */
#define CHECK_US 100000
/* A refused connection may stay so long to hear it. */
#define REFUSED_US 5000000
/* Read at once from a user whose requests fail and fail, of which one may take a hundred bytes. */
#define FAILING_READ_BYTES 1024

static const char *const state_names[] = {
#define X(name) #name,
    CONN_STATE_MAP(X)
#undef X
};

static const unsigned state_edges[] = {
    [CONN_SNIFF] = BIT(CONN_OPEN) | BIT(CONN_CLOSING),
    [CONN_OPEN] = BIT(CONN_ENDING) | BIT(CONN_CLOSING),
    [CONN_ENDING] = BIT(CONN_CLOSING),
    [CONN_CLOSING] = 0,
};

static void set_state(Conn *c, enum conn_state to) {
    assert(state_edges[c->state] & BIT(to));
    log_debug("connection of pid %d: %s to %s", (int)c->pid, state_names[c->state],
              state_names[to]);
    c->state = to;
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *handle) {
    Conn *c = handle->data;
    Daemon *d = c->daemon;

    assert(list_is_empty(&c->calls));
    if (c->codec)
        c->codec->deinit(c->codec_state);
    free(c->codec_state);
    free(c->writing);
    free(c->refusal);
    if (c->n_charged > 0)
        quota_release(c->account, QUOTA_BYTES, c->n_charged);
    if (c->account)
        quota_release(c->account, QUOTA_CONNECTIONS, 1);
    list_unlink(&c->node);
    d->n_connections--;
    free(c);
    daemon_something_ended(d);
}

static void drop_calls(Conn *c) {
    while (!list_is_empty(&c->calls))
        call_abandon(list_first(&c->calls, Call, conn_node));
}

void conn_close(Conn *c) {
    if (c->state == CONN_CLOSING)
        return;
    set_state(c, CONN_CLOSING);
    drop_calls(c);
    list_unlink(&c->dirty_node);
    uv_close((uv_handle_t *)&c->pipe, on_closed);
}

void conn_end(Conn *c) {
    if (c->state == CONN_SNIFF) {
        conn_close(c);
        return;
    }
    if (c->state != CONN_OPEN)
        return;
    (void)uv_read_stop((uv_stream_t *)&c->pipe);
    set_state(c, CONN_ENDING);
    conn_flush(c);
}

/* ---- writing ---- */

static void mark_dirty(Conn *c) {
    if (c->state != CONN_CLOSING && list_is_empty(&c->dirty_node))
        list_push_back(&c->daemon->dirty_connections, &c->dirty_node);
}

static void on_written(uv_write_t *write, int status) {
    Conn *c = write->data;

    free(c->writing);
    c->writing = NULL;
    c->stall_us = 0;
    if (status < 0)
        conn_close(c);
    else
        mark_dirty(c);
}

/* What the kernel does not take at once is copied: the codec's view does not last. */
static int write_rest(Conn *c, const uint8_t *bytes, size_t n) {
    uv_buf_t buf;
    int r;

    n = MIN(n, (size_t)WRITE_BYTES_MAX);
    c->writing = alloc_array(n, 1);
    if (!c->writing)
        return -ENOMEM;
    (void)memcpy(c->writing, bytes, n);
    buf = uv_buf_init((char *)c->writing, (unsigned)n);
    c->n_writing = n;
    c->write.data = c;
    r = uv_write(&c->write, (uv_stream_t *)&c->pipe, &buf, 1, on_written);
    if (r < 0) {
        free(c->writing);
        c->writing = NULL;
        return r;
    }
    c->codec->drained(c->codec_state, n);
    c->stall_us = daemon_now_us(c->daemon) + c->daemon->config->write_us;
    daemon_wake_at(c->daemon, c->stall_us);
    return 0;
}

static int write_some(Conn *c) {
    const uint8_t *bytes;
    size_t n;

    while ((n = c->codec->pending(c->codec_state, &bytes)) > 0) {
        uv_buf_t buf = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)MIN(n, (size_t)INT32_MAX));
        int r = uv_try_write((uv_stream_t *)&c->pipe, &buf, 1);

        if (r == UV_EAGAIN)
            return write_rest(c, bytes, n);
        if (r < 0)
            return r;
        c->codec->drained(c->codec_state, (size_t)r);
    }
    return 0;
}

/* What the peer leaves unread, and what it began to send and did not end, is its user's, or many
 * connections could hold what one may not. */
static int charge_bytes(Conn *c) {
    const uint8_t *bytes;
    size_t n = c->codec->n_held(c->codec_state);
    Error error = ERROR_INIT;

    if (!c->account)
        return 0;
    if (c->writing)
        n += c->n_writing + c->codec->pending(c->codec_state, &bytes);
    if (n > c->n_charged && quota_charge(c->account, QUOTA_BYTES, n - c->n_charged, &error) != 0) {
        log_notice("connection of pid %d, uid %u neither reads its answers nor ends its requests, "
                   "closing it: %s",
                   (int)c->pid, (unsigned)c->uid, error.text);
        return -ENOBUFS;
    }
    if (n < c->n_charged)
        quota_release(c->account, QUOTA_BYTES, c->n_charged - n);
    c->n_charged = n;
    return 0;
}

void conn_flush(Conn *c) {
    list_unlink(&c->dirty_node);
    if (c->state == CONN_CLOSING || c->state == CONN_SNIFF)
        return;
    if ((!c->writing && write_some(c) < 0) || charge_bytes(c) < 0) {
        conn_close(c); /* the peer is gone or reads nothing: answers have nowhere to go */
        return;
    }
    if (c->writing)
        return;
    if (c->codec->is_finished(c->codec_state) ||
        (c->state == CONN_ENDING && list_is_empty(&c->calls))) {
        conn_close(c);
        return;
    }
    list_for_each (node, &c->calls)
        call_mark_dirty(container_of(node, Call, conn_node));
}

bool conn_is_writable(const Conn *c) {
    const uint8_t *bytes;

    return c->state != CONN_CLOSING &&
           c->codec->pending(c->codec_state, &bytes) < BACKLOG_BYTES_MAX;
}

int conn_send(Conn *c, uint64_t stream, const uint8_t *bytes, size_t n) {
    if (c->state == CONN_CLOSING)
        return -ENOENT;
    mark_dirty(c);
    return c->codec->send_message(c->codec_state, stream, bytes, n);
}

void conn_finish(Conn *c, uint64_t stream, enum status_code code, const char *sentence,
                 const uint8_t *bytes, size_t n) {
    if (c->state == CONN_CLOSING)
        return;
    /* A failure makes the codec say that it is finished. */
    (void)c->codec->finish(c->codec_state, stream, code, sentence, bytes, n);
    mark_dirty(c);
}

/* ---- the codec's hooks ---- */

static enum codec_kind on_kind(void *userdata, const char *service, const char *method) {
    (void)userdata;
    return service_kind(service, method);
}

static void on_request(void *userdata, const struct codec_request *request) {
    Conn *c = userdata;

    if (c->refusal) {
        conn_finish(c, request->stream, STATUS_RESOURCE_EXHAUSTED, c->refusal, NULL, 0);
        return;
    }
    call_begin(c, request);
}

static void on_cancel(void *userdata, uint64_t stream) {
    Conn *c = userdata;

    list_for_each (node, &c->calls) {
        Call *call = container_of(node, Call, conn_node);

        if (call->stream == stream) {
            call_abandon(call);
            return;
        }
    }
}

/* Others shall not wait for a flood of requests that come to nothing. */
static void on_failure(void *userdata) {
    Conn *c = userdata;
    uint64_t until_us = 0;

    if (c->account)
        until_us = quota_note_failure(c->account->user, daemon_now_us(c->daemon));
    if (until_us == 0 || c->held_us > 0 || c->state != CONN_OPEN)
        return;
    (void)uv_read_stop((uv_stream_t *)&c->pipe);
    c->held_us = until_us;
    daemon_wake_at(c->daemon, until_us);
}

static int start_codec(Conn *c) {
    struct codec_env env = {.userdata = c,
                            .kind = on_kind,
                            .on_request = on_request,
                            .on_cancel = on_cancel,
                            .on_failure = on_failure};
    const struct codec_ops *codec;
    Error error = ERROR_INIT;
    int r = sniff_codec(c->sniffed, c->n_sniffed, &codec, &error);

    if (r == SNIFF_E_MORE)
        return 0;
    if (r != 0) {
        log_notice("connection of pid %d, uid %u: %s", (int)c->pid, (unsigned)c->uid, error.text);
        return -EPROTO;
    }
    c->codec_state = alloc_array(1, codec->state_size);
    if (!c->codec_state)
        return -ENOMEM;
    r = codec->init(c->codec_state, &env);
    if (r < 0)
        return r;
    c->codec = codec;
    set_state(c, CONN_OPEN);
    return codec->feed(c->codec_state, c->sniffed, c->n_sniffed);
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    Conn *c = handle->data;

    bool is_failing = c->account && quota_is_failing(c->account->user, daemon_now_us(c->daemon));

    (void)suggested;
    *buf = uv_buf_init((char *)c->daemon->read_buffer,
                       is_failing ? FAILING_READ_BYTES : DAEMON_READ_BYTES);
}

static int take_bytes(Conn *c, const uint8_t *bytes, size_t n) {
    int r = 0;

    if (c->state == CONN_SNIFF) {
        size_t n_more = MIN(n, sizeof(c->sniffed) - c->n_sniffed);

        (void)memcpy(c->sniffed + c->n_sniffed, bytes, n_more);
        c->n_sniffed += n_more;
        bytes += n_more;
        n -= n_more;
        r = start_codec(c);
    }
    if (r == 0 && n > 0 && c->state == CONN_OPEN)
        r = c->codec->feed(c->codec_state, bytes, n);
    return r;
}

/* True where the peer has closed both ways: nobody will read any answer. */
static bool is_hung_up(Conn *c) {
    struct pollfd p = {.events = 0};

    return uv_fileno((uv_handle_t *)&c->pipe, &p.fd) < 0 ||
           (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)));
}

static void on_eof(Conn *c) {
    if (c->state != CONN_OPEN || is_hung_up(c)) {
        conn_close(c);
        return;
    }
    c->codec->feed_eof(c->codec_state);
    c->check_us = daemon_now_us(c->daemon) + CHECK_US;
    daemon_wake_at(c->daemon, c->check_us);
    mark_dirty(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    Conn *c = stream->data;
    int r;

    if (n == 0 || c->state == CONN_CLOSING)
        return;
    if (n == UV_EOF) {
        on_eof(c);
        return;
    }
    r = n < 0 ? (int)n : take_bytes(c, (const uint8_t *)buf->base, (size_t)n);
    if (n < 0 || (r < 0 && c->state == CONN_SNIFF)) {
        conn_close(c);
        return;
    }
    if (r < 0 && c->state == CONN_OPEN) { /* its last answers are drained, then it closes */
        log_notice("connection of pid %d, uid %u: %s", (int)c->pid, (unsigned)c->uid,
                   r == -EPROTO    ? "it broke ttrpc's framing"
                   : r == -ENOBUFS ? "it does not read what it asks for"
                                   : strerror(-r));
        drop_calls(c);
        conn_end(c);
        return;
    }
    mark_dirty(c);
}

uint64_t conn_tick(Conn *c, uint64_t now_us) {
    if (c->state == CONN_CLOSING)
        return 0;
    if (c->held_us > 0 && now_us >= c->held_us) {
        c->held_us = 0;
        if (c->state == CONN_OPEN)
            (void)uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
    }
    if (c->stall_us > 0 && now_us >= c->stall_us) {
        log_notice("connection of pid %d, uid %u: nothing was read for %llu s, closing it",
                   (int)c->pid, (unsigned)c->uid,
                   (unsigned long long)(c->daemon->config->write_us / 1000000));
        conn_close(c);
        return 0;
    }
    if (c->check_us > 0 && now_us >= c->check_us) {
        if (is_hung_up(c) || c->refusal) {
            conn_close(c);
            return 0;
        }
        c->check_us = now_us + CHECK_US;
    }
    return daemon_earlier(c->held_us, daemon_earlier(c->stall_us, c->check_us));
}

/* ---- the beginning ---- */

static int read_credentials(Conn *c) {
    struct access_peer *peer = &c->daemon->peer;
    int fd, r;

    r = uv_fileno((uv_handle_t *)&c->pipe, &fd);
    if (r == 0)
        r = access_read_peer(fd, peer);
    if (r < 0)
        return r;
    c->uid = peer->uid;
    c->pid = peer->pid;
    c->services = access_services(&c->daemon->access, peer);
    return 0;
}

/* Charges the connection; where that fails it stays for a moment to be told why. */
static int admit(Conn *c) {
    Daemon *d = c->daemon;
    Error error = ERROR_INIT;
    uint64_t max[_QUOTA_N];
    int r = 0;

    quota_sweep(&d->quota, daemon_now_us(d));
    access_fill_limits(&d->access, d->config, &d->peer, max);
    if (d->n_connections > d->n_connections_max)
        (void)error_set(&error, 0, "all %zu connections are in use (max_connections)",
                        d->n_connections_max);
    else
        r = quota_connect(&d->quota, c->uid, max, &c->account, &error);
    if (r < 0)
        return r;
    if (!c->account) {
        if (d->n_connections > d->n_connections_max + DAEMON_REFUSED_MAX)
            return -EMFILE;
        c->refusal = alloc_string(error.text);
        if (!c->refusal)
            return -ENOMEM;
        log_notice("connection of pid %d, uid %u refused: %s", (int)c->pid, (unsigned)c->uid,
                   error.text);
        c->check_us = daemon_now_us(d) + REFUSED_US;
        daemon_wake_at(d, c->check_us);
    }
    return 0;
}

bool conn_accept(Daemon *d, uv_stream_t *listener) {
    Conn *c = alloc_new(Conn);
    int r;

    if (!c) {
        log_warning("out of memory for a connection");
        return false;
    }
    c->daemon = d;
    list_init(&c->calls);
    list_init(&c->dirty_node);
    r = uv_pipe_init(&d->loop, &c->pipe, /* ipc= */ 0);
    if (r < 0) {
        free(c);
        return false;
    }
    c->pipe.data = c;
    list_push_back(&d->connections, &c->node);
    d->n_connections++;
    r = uv_accept(listener, (uv_stream_t *)&c->pipe);
    if (r == 0)
        r = read_credentials(c);
    if (r == 0)
        r = admit(c);
    if (r == 0)
        r = uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
    if (r < 0) {
        log_warning("a connection could not be taken: %s", uv_strerror(r));
        conn_close(c);
    }
    return true;
}
