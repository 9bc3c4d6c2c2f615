/*
 * libgrokd: the connection. Bytes in and out without blocking, time limits, and what happens to the
 * calls when the connection is lost. poll(2) is the only place that waits.
 */
#include "base/alloc.h"
#include "client/internal.h"
#include "proto/grokd.pb-c.h"
#include "proto/ttrpc.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define CONNECT_SECONDS 10
#define READ_BYTES      16384
/* Reads of one grokd_process(): a daemon that never pauses must not keep us here. */
#define READS_MAX 64

uint64_t clock_ms(void) {
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- connecting ---- */

static int client_new(grokd_client **ret, int fd, const char *name, struct grokd_error *error) {
    grokd_client *client;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return set_error(error, GROKD_INVALID_ARGUMENT, "%s: %m", name);
    client = alloc_new(grokd_client);
    if (!client)
        return out_of_memory(error);
    client->name = alloc_string(name);
    if (!client->name) {
        free(client);
        return out_of_memory(error);
    }
    client->fd = fd;
    client->next_stream = 1;
    client->out = BUF_INIT(CLIENT_OUTPUT_BYTES_MAX);
    list_init(&client->calls);
    *ret = client;
    return GROKD_OK;
}

int grokd_connect_fd(grokd_client **ret, int fd, struct grokd_error *error) {
    return client_new(ret, fd, "the socket", error);
}

static int explain_connect(const char *path, struct grokd_error *error) {
    switch (errno) {
    case EACCES:
    case EPERM:
        return set_error(error, GROKD_PERMISSION_DENIED,
                         "%s: %m (is this user in the socket's group?)", path);
    case ENOENT:
    case ECONNREFUSED:
        return set_error(error, GROKD_UNAVAILABLE, "%s: %m (is grokd running?)", path);
    case EAGAIN:
        return set_error(error, GROKD_UNAVAILABLE, "%s: grokd took no connection in %d seconds",
                         path, CONNECT_SECONDS);
    default:
        return set_error(error, GROKD_UNAVAILABLE, "%s: %m", path);
    }
}

int grokd_connect(grokd_client **ret, const char *path, struct grokd_error *error) {
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd CLEANUP(closep) = -1;
    int r;

    if (!path)
        path = secure_getenv("GROKD_SOCKET");
    if (!path || !*path)
        path = GROKD_SOCKET_DEFAULT;
    if (strlen(path) >= sizeof(address.sun_path))
        return set_error(error, GROKD_INVALID_ARGUMENT, "%s: too long for a socket's path", path);
    (void)memcpy(address.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
        return set_error(error, GROKD_UNAVAILABLE, "no socket to be had: %m");
    do
        r = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return explain_connect(path, error);
    r = client_new(ret, fd, path, error);
    if (r == GROKD_OK)
        (void)take_fd(&fd);
    return r;
}

grokd_client *grokd_client_free(grokd_client *client) {
    if (!client)
        return NULL;
    list_for_each_safe (node, &client->calls) {
        grokd_call *call = container_of(node, grokd_call, node);

        call_end(call, GROKD_CANCELLED, "the connection was closed by this program");
        call->client = NULL;
        list_unlink(node);
    }
    (void)close(client->fd);
    free(client->name);
    buf_deinit(&client->out);
    ttrpc_reader_deinit(&client->reader);
    free(client);
    return NULL;
}

void grokd_set_timeout(grokd_client *client, uint32_t ms) {
    client->timeout_ms = ms;
}

/* ---- bytes ---- */

PRINTF_FORMAT(2, 3) static void lose(grokd_client *client, const char *format, ...) {
    char why[200];
    va_list args;

    if (client->lost.code)
        return;
    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    (void)set_error(&client->lost, GROKD_UNAVAILABLE, "lost grokd at %s: %s", client->name, why);
    buf_deinit(&client->out);
    list_for_each (node, &client->calls)
        call_end(container_of(node, grokd_call, node), GROKD_UNAVAILABLE, "%s", client->lost.text);
}

static void on_frame(grokd_client *client, const struct ttrpc_frame *frame) {
    list_for_each (node, &client->calls) {
        grokd_call *call = container_of(node, grokd_call, node);

        if (call->stream == frame->stream && !call->has_ended) {
            call_on_frame(call, frame);
            return;
        }
    }
    /* Others belong to calls that were given up here. */
}

static void on_bytes(grokd_client *client, const uint8_t *bytes, size_t n) {
    Cursor c = cursor_make(bytes, n);
    struct ttrpc_frame frame;
    int r;

    while ((r = ttrpc_reader_next(&client->reader, &c, &frame)) == 0)
        on_frame(client, &frame);
    if (r < 0)
        lose(client, "%s",
             r == -EPROTO ? "what it sends is not ttrpc" : "out of memory for its answer");
}

/* True where there may be more to read. */
static bool read_once(grokd_client *client) {
    uint8_t bytes[READ_BYTES];
    ssize_t n;

    if (client->lost.code)
        return false;
    do
        n = recv(client->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        on_bytes(client, bytes, (size_t)n);
    else if (n == 0)
        lose(client, "it closed the connection");
    else if (errno != EAGAIN && errno != EWOULDBLOCK)
        lose(client, "%m");
    return n > 0;
}

void client_flush(grokd_client *client) {
    ssize_t n;

    while (buf_size(&client->out) > 0) {
        n = send(client->fd, buf_bytes(&client->out), buf_size(&client->out),
                 MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            buf_consume(&client->out, (size_t)n);
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        /* The daemon may have said why before it closed: that is read first. */
        if (errno == EPIPE || errno == ECONNRESET)
            while (read_once(client))
                ;
        lose(client, "it closed the connection");
        return;
    }
}

/* Asked for by nobody who waits: its answer is of no interest, and there may be no room for it. */
void client_put_cancel(grokd_client *client, const char *request_id) {
    Grokd__V1__CancelRequest cancel = GROKD__V1__CANCEL_REQUEST__INIT;
    Ttrpc__Request envelope = TTRPC__REQUEST__INIT;
    Buf payload CLEANUP(buf_deinit) = BUF_INIT(TTRPC_DATA_MAX);
    int r;

    if (client->lost.code || client->next_stream >= TTRPC_ID_LAST)
        return;
    cancel.request_id = (char *)(uintptr_t)request_id;
    r = msg_pack(&cancel.base, &payload);
    if (r < 0)
        return;
    envelope.service = (char *)(uintptr_t) "grokd.v1.Inference";
    envelope.method = (char *)(uintptr_t) "Cancel";
    envelope.payload =
        (ProtobufCBinaryData){.data = payload.data + payload.start, .len = buf_size(&payload)};
    r = ttrpc_put_message(&client->out, client->next_stream, TTRPC_REQUEST, 0, &envelope.base);
    if (r < 0)
        return;
    client->next_stream += 2;
}

/* ---- time, and the event loop's side ---- */

static void end_overdue(grokd_client *client) {
    uint64_t now = clock_ms();

    list_for_each (node, &client->calls) {
        grokd_call *call = container_of(node, grokd_call, node);

        if (!call->has_ended && call->deadline_ms > 0 && call->deadline_ms <= now) {
            call_give_up(call);
            call_end(call, GROKD_DEADLINE_EXCEEDED, "no answer within %u ms", call->timeout_ms);
        }
    }
}

int grokd_fd(const grokd_client *client) {
    return client->fd;
}

int grokd_events(const grokd_client *client) {
    if (client->lost.code)
        return 0;
    return POLLIN | (buf_size(&client->out) > 0 ? POLLOUT : 0);
}

int grokd_timeout_ms(const grokd_client *client) {
    uint64_t now = clock_ms(), least = UINT64_MAX;

    list_for_each (node, &client->calls) {
        const grokd_call *call = container_of(node, grokd_call, node);

        if (!call->has_ended && call->deadline_ms > 0)
            least = MIN(least, call->deadline_ms > now ? call->deadline_ms - now : 0);
    }
    return least == UINT64_MAX ? -1 : (int)MIN(least, (uint64_t)INT_MAX);
}

int grokd_process(grokd_client *client, struct grokd_error *error) {
    if (!client->lost.code)
        client_flush(client);
    for (int i = 0; i < READS_MAX && read_once(client); i++)
        ;
    end_overdue(client);
    return client->lost.code ? copy_error(error, &client->lost) : GROKD_OK;
}

/* Reads once only, so that a caller who takes one event after the other, and reads no faster than
 * that, holds the daemon back instead of filling our memory. */
bool client_wait(grokd_client *client, int ms) {
    struct pollfd p = {.fd = client->fd, .events = (short)grokd_events(client)};
    int limit = grokd_timeout_ms(client);
    int r;

    if (limit >= 0 && (ms < 0 || limit < ms))
        ms = limit;
    r = poll(&p, 1, ms);
    if (r < 0 && errno == EINTR)
        return false;
    if (r > 0 && (p.revents & POLLOUT))
        client_flush(client);
    if (r > 0 && (p.revents & (POLLIN | POLLHUP | POLLERR)))
        (void)read_once(client);
    end_overdue(client);
    return true;
}

grokd_call *grokd_ready(grokd_client *client) {
    list_for_each (node, &client->calls) {
        grokd_call *call = container_of(node, grokd_call, node);

        if (!list_is_empty(&call->messages) || (call->has_ended && !call->was_told))
            return call;
    }
    return NULL;
}
