/* One connection: its socket, its codec, its calls. */
#pragma once

#include "base/list.h"
#include "daemon/quota.h"
#include "proto/codec.h"
#include "proto/sniff.h"

#include <uv.h>

struct Daemon;

#define CONN_STATE_MAP(X)                                                                          \
    X(SNIFF)                                                                                       \
    X(OPEN)                                                                                        \
    X(ENDING) /* reads no more; closes when everything is written */                               \
    X(CLOSING)

enum conn_state {
#define X(name) CONN_##name,
    CONN_STATE_MAP(X)
#undef X
};

/* Owner: Daemon. Thread: loop. */
typedef struct Conn {
    ListNode node, dirty_node;
    struct Daemon *daemon;
    uv_pipe_t pipe;
    enum conn_state state;
    uid_t uid;
    pid_t pid;
    Account *account;  /* the user's own; NULL: refused */
    unsigned services; /* it may use: bits of enum config_service */
    char *refusal;     /* why every call is refused; NULL: it is not */
    ListNode calls;
    const struct codec_ops *codec;
    void *codec_state;
    uint8_t sniffed[SNIFF_BYTES_MAX];
    size_t n_sniffed;
    uv_write_t write;
    uint8_t *writing; /* bytes that the kernel has not taken yet */
    size_t n_writing;
    size_t n_charged;  /* of bytes: written and not taken, or come and not whole */
    uint64_t stall_us; /* when the write under way is given up; 0: none */
    uint64_t check_us; /* when to look whether a half-closed peer is still there; 0: never */
    uint64_t held_us;  /* until when nothing is read from it; 0: it is */
} Conn;

/* Returns false where there is no memory to take the connection: it waits for another try. */
bool conn_accept(struct Daemon *d, uv_stream_t *listener);
/* For calls. As in codec_ops; a connection that is going away says -ENOENT. */
int conn_send(Conn *c, uint64_t stream, const uint8_t *bytes, size_t n);
void conn_finish(Conn *c, uint64_t stream, enum status_code code, const char *sentence,
                 const uint8_t *bytes, size_t n);
/* More can be sent before earlier output has left. */
bool conn_is_writable(const Conn *c);
/* Writes what is queued, as far as the kernel takes it. */
void conn_flush(Conn *c);
/* Acts on what is due; returns when to come again, 0: never. */
uint64_t conn_tick(Conn *c, uint64_t now_us);
/* Takes no more calls; closes when all is written. */
void conn_end(Conn *c);
/* Ends its calls and closes at once; the connection is gone when libuv is done with it. */
void conn_close(Conn *c);
