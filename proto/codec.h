/*
 * The sans-I/O codec vtable: bytes in, events out; bytes out when asked.
 *
 * A codec is a state machine over one connection, server side. It knows no socket, no clock and no
 * libuv: its owner feeds what it read, drains what there is to write, and is told of requests
 * through the env's hooks. So a codec can be fed a transcript split at every byte and must behave
 * the same.
 *
 * Limits that a peer can reach are named here and in each codec; reaching one never ends the
 * process.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"
#include "proto/status.h"

#include <stdbool.h>
#include <stdint.h>

#define CODEC_MESSAGE_BYTES_MAX 4194304 /* ttrpc's own limit for one message */
#define CODEC_DETAIL_BYTES_MAX  128
#define CODEC_STREAMS_MAX       128 /* calls alive on one connection */

struct codec_request {
    uint64_t stream;        /* names the call until it is finished */
    const char *service;    /* "grokd.v1.Inference"; a view for the length of the hook */
    const char *method;     /* "Generate" */
    const uint8_t *payload; /* the request message; a view for the length of the hook */
    size_t n_payload;
    int64_t timeout_ns; /* 0: none given; < 0: already passed */
};

/* How a method answers; asked of the owner, because ttrpc's frames do not tell. */
enum codec_kind { CODEC_UNKNOWN_SERVICE, CODEC_UNKNOWN_METHOD, CODEC_UNARY, CODEC_SERVER_STREAM };

struct codec_env {
    void *userdata;
    enum codec_kind (*kind)(void *userdata, const char *service, const char *method);
    /* A whole request has come. The owner answers now or later: any number of send_message() where
     * it is a server stream, and one finish(). */
    void (*on_request)(void *userdata, const struct codec_request *request);
    /* The call is over for the peer (it gave it up or broke its rules); the owner must not answer
     * it any more. */
    void (*on_cancel)(void *userdata, uint64_t stream);
    /* A request was answered with a failure, the owner's or the codec's own. May be NULL. */
    void (*on_failure)(void *userdata);
};

struct codec_ops {
    const char *name;
    size_t state_size; /* zero-filled by the owner; every later function gets it as `state` */
    int (*init)(void *state, const struct codec_env *env);
    void (*deinit)(void *state);
    /* Takes all n bytes. < 0: the connection is beyond repair (-EPROTO: the peer broke framing,
     * -ENOMEM, -ENOBUFS: it does not read what it asked for); drain what is left, then close. */
    int (*feed)(void *state, const uint8_t *bytes, size_t n);
    /* The peer will send no more (half-close): running calls go on and are answered. */
    void (*feed_eof)(void *state);
    /* One message of a server stream. -ENOBUFS: the output limit is reached, -EMSGSIZE: longer than
     * the wire can carry; nothing was queued. */
    int (*send_message)(void *state, uint64_t stream, const uint8_t *bytes, size_t n);
    /* Ends a call: unary success carries its message; a stream's success carries none (n 0);
     * a failure carries code and sentence, and maybe (n > 0, at most CODEC_DETAIL_BYTES_MAX) one
     * detail, a packed google.protobuf.Any. An answer that the wire can't carry or that the peer
     * leaves no room for is replaced by RESOURCE_EXHAUSTED. Both send functions return -ENOENT for
     * a call that has ended or was given up. -ENOMEM from finish(): the connection has failed. */
    int (*finish)(void *state, uint64_t stream, enum status_code code, const char *sentence,
                  const uint8_t *bytes, size_t n);
    /* Bytes to write: a view of what is queued, valid until the next call; consumed by drained().
     */
    size_t (*pending)(const void *state, const uint8_t **ret_bytes);
    void (*drained)(void *state, size_t n);
    size_t (*n_streams)(const void *state);
    /* Bytes kept of requests that have not come whole. */
    size_t (*n_held)(const void *state);
    /* No request will come any more and no call is under way: close once pending() is drained. */
    bool (*is_finished)(const void *state);
};

extern const struct codec_ops ttrpc_codec;
