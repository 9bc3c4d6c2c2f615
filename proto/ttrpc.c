/*
 * ttrpc's server codec.
 *
 * Every request that reached the peer's side of the wire gets exactly one ending on ours: an OK
 * server stream ends with an empty Data frame (flags 0x05), everything else with one Response. An
 * id whose stream has ended is remembered for a while; a frame for it is answered with an error,
 * unless it only completes what the peer had begun to send (Data after a Request with remote-open).
 *
 * Clients differ in how they begin a server stream: Go and Rust send the message in the Request
 * (flags 0x01); a client that opens a stream to write to (0x02, Rust 0x06) may send it in the first
 * Data frame. The method table tells what a call is, never the flags, and all of these are taken.
 *
 * Memory: the peer decides how much we must say, and whether it reads it. Messages stop at
 * TTRPC_MESSAGES_BYTES_MAX (-ENOBUFS, the owner waits or gives up). Endings have room of their own
 * beyond that, enough for each live stream at all times: `reserve`. Whatever would eat into
 * that reserve because of new frames from the peer makes the connection fail with -ENOBUFS. So
 * finish() never lacks room. We never stop reading because we can't write: two peers that did
 * would wait for each other for ever.
 */
#include "proto/ttrpc.h"

#include "base/alloc.h"
#include "proto/msg.h"
#include "proto/retry.h"
#include "proto/ttrpc.pb-c.h"

#include <stdio.h>
#include <string.h>

/* To a peer with too many calls: when one of them will end is not known here. */
#define STREAMS_RETRY_US 1000000
/* Most that one ending takes: header, envelope, code, sentence. */
#define ENDING_BYTES_MAX                                                                           \
    (TTRPC_HEADER_BYTES + 32 + TTRPC_SENTENCE_BYTES_MAX + CODEC_DETAIL_BYTES_MAX)

_Static_assert((CODEC_STREAMS_MAX + 1) * ENDING_BYTES_MAX < TTRPC_ENDINGS_BYTES_MAX,
               "each live stream can be ended");

struct stream {
    uint32_t id; /* 0: free */
    enum codec_kind kind;
    bool is_unary_request; /* no flags: the peer may not send Data at all */
    bool is_remote_open;   /* the peer may send Data frames yet */
    bool has_request;      /* its message has come and the owner was told */
    /* While the message has not come: what the Request frame said. */
    char *service, *method;
    int64_t timeout_ns;
};

/* Rejected requests count as ended streams too. */
struct ended {
    uint32_t id;
    bool is_remote_open;
};

/* Owner: the connection. Knows no thread. */
typedef struct Ttrpc {
    struct codec_env env;
    TtrpcReader reader;
    Buf out;
    struct stream streams[CODEC_STREAMS_MAX];
    size_t n_streams;
    struct ended ended[TTRPC_RECENT_MAX]; /* a ring */
    size_t n_ended;                       /* ever */
    bool is_eof, is_used_up;
    int failed; /* what feed() returned when it gave up */
} Ttrpc;

static int ttrpc_init(void *state, const struct codec_env *env) {
    Ttrpc *t = state;

    t->env = *env;
    t->out = BUF_INIT(TTRPC_MESSAGES_BYTES_MAX + TTRPC_ENDINGS_BYTES_MAX);
    return 0;
}

static void ttrpc_deinit(void *state) {
    Ttrpc *t = state;

    for (size_t i = 0; i < CODEC_STREAMS_MAX; i++) {
        free(t->streams[i].service);
        free(t->streams[i].method);
    }
    ttrpc_reader_deinit(&t->reader);
    buf_deinit(&t->out);
}

/* ---- streams ---- */

static struct stream *find_stream(Ttrpc *t, uint64_t id) {
    for (size_t i = 0; id > 0 && i < CODEC_STREAMS_MAX; i++)
        if (t->streams[i].id == id)
            return &t->streams[i];
    return NULL;
}

static struct stream *new_stream(Ttrpc *t, uint32_t id) {
    for (size_t i = 0; i < CODEC_STREAMS_MAX; i++)
        if (t->streams[i].id == 0) {
            t->streams[i] = (struct stream){.id = id};
            t->n_streams++;
            return &t->streams[i];
        }
    return NULL;
}

static struct ended *find_ended(Ttrpc *t, uint32_t id) {
    size_t n = MIN(t->n_ended, (size_t)TTRPC_RECENT_MAX);

    for (size_t i = 0; i < n; i++)
        if (t->ended[i].id == id)
            return &t->ended[i];
    return NULL;
}

static void remember_ended(Ttrpc *t, uint32_t id, bool is_remote_open) {
    struct ended *ended = find_ended(t, id);

    if (!ended)
        ended = &t->ended[t->n_ended++ % TTRPC_RECENT_MAX];
    *ended = (struct ended){.id = id, .is_remote_open = is_remote_open};
}

static void free_stream(Ttrpc *t, struct stream *stream) {
    remember_ended(t, stream->id, stream->is_remote_open);
    free(stream->service);
    free(stream->method);
    *stream = (struct stream){0};
    t->n_streams--;
}

/* ---- endings ---- */

static int put_detailed(Ttrpc *t, uint32_t id, int code, const char *sentence, const uint8_t *bytes,
                        size_t n) {
    Ttrpc__Response response = TTRPC__RESPONSE__INIT;
    Ttrpc__Status status = TTRPC__STATUS__INIT;
    ProtobufCBinaryData detail = {.data = (uint8_t *)(uintptr_t)bytes, .len = n};
    char text[TTRPC_SENTENCE_BYTES_MAX];

    if (t->env.on_failure)
        t->env.on_failure(t->env.userdata);
    (void)snprintf(text, sizeof(text), "%s", sentence ? sentence : "");
    if (strlen(text) == sizeof(text) - 1) /* maybe cut inside a character */
        text[msg_utf8_length(text, strlen(text))] = 0;
    msg_make_utf8(text);
    status.code = code;
    status.message = text;
    status.details = &detail;
    status.n_details = n > 0;
    assert(n <= CODEC_DETAIL_BYTES_MAX);
    response.status = &status;
    return ttrpc_put_message(&t->out, id, TTRPC_RESPONSE, 0, &response.base);
}

static int put_failure(Ttrpc *t, uint32_t id, int code, const char *sentence) {
    return put_detailed(t, id, code, sentence, NULL, 0);
}

/* Room for one ending more than the live streams may need, or the peer does not read. */
static int check_reserve(const Ttrpc *t) {
    size_t reserve = (t->n_streams + 1) * ENDING_BYTES_MAX;

    return buf_size(&t->out) <= t->out.max - reserve ? 0 : error_origin(-ENOBUFS);
}

/* Answers a frame that belongs to no live stream. */
static int reject_detailed(Ttrpc *t, const struct ttrpc_frame *frame, int code,
                           const char *sentence, const uint8_t *bytes, size_t n) {
    int r;

    r = check_reserve(t);
    if (r < 0)
        return r;
    if (frame->type == TTRPC_REQUEST && frame->stream % 2 == 1)
        remember_ended(t, frame->stream, frame->flags & TTRPC_REMOTE_OPEN);
    return put_detailed(t, frame->stream, code, sentence, bytes, n);
}

static int reject(Ttrpc *t, const struct ttrpc_frame *frame, int code, const char *sentence) {
    return reject_detailed(t, frame, code, sentence, NULL, 0);
}

static int reject_one_too_many(Ttrpc *t, const struct ttrpc_frame *frame) {
    uint8_t detail[RETRY_BYTES_MAX];
    size_t n = retry_pack(STREAMS_RETRY_US, detail);

    return reject_detailed(t, frame, STATUS_RESOURCE_EXHAUSTED,
                           "too many calls are under way on this connection; try again when one "
                           "has ended, or connect again",
                           detail, n);
}

/* Ends a live stream because of what the peer did; the owner is told if it knew of it. */
static int abort_stream(Ttrpc *t, struct stream *stream, int code, const char *sentence) {
    uint32_t id = stream->id;
    bool was_known = stream->has_request;

    free_stream(t, stream);
    if (was_known)
        t->env.on_cancel(t->env.userdata, id);
    return put_failure(t, id, code, sentence);
}

static int put_success(Ttrpc *t, const struct stream *stream, const uint8_t *bytes, size_t n) {
    Ttrpc__Response response = TTRPC__RESPONSE__INIT;
    size_t n_frame;
    int r;

    if (stream->kind == CODEC_SERVER_STREAM)
        return ttrpc_put_frame(&t->out, stream->id, TTRPC_DATA, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA,
                               NULL, 0);
    response.payload = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)bytes, .len = n};
    if (n > TTRPC_DATA_MAX)
        return put_failure(t, stream->id, STATUS_RESOURCE_EXHAUSTED,
                           "the answer is longer than the 4 MiB that ttrpc can carry");
    n_frame = TTRPC_HEADER_BYTES + protobuf_c_message_get_packed_size(&response.base);
    if (n_frame > ENDING_BYTES_MAX && buf_size(&t->out) + n_frame > TTRPC_MESSAGES_BYTES_MAX)
        return put_failure(t, stream->id, STATUS_RESOURCE_EXHAUSTED,
                           "too many answers are waiting to be read on this connection");
    r = ttrpc_put_message(&t->out, stream->id, TTRPC_RESPONSE, 0, &response.base);
    if (r == -EMSGSIZE)
        return put_failure(t, stream->id, STATUS_RESOURCE_EXHAUSTED,
                           "the answer is longer than the 4 MiB that ttrpc can carry");
    return r;
}

static int ttrpc_finish(void *state, uint64_t id, enum status_code code, const char *sentence,
                        const uint8_t *bytes, size_t n) {
    Ttrpc *t = state;
    struct stream *stream = find_stream(t, id);
    int r;

    if (!stream || !stream->has_request)
        return -ENOENT;
    if (code == STATUS_OK)
        r = put_success(t, stream, bytes, n);
    else
        r = put_detailed(t, stream->id, (int)code, sentence, bytes, n);
    free_stream(t, stream);
    if (r < 0) /* without an ending the peer would wait for ever */
        t->failed = error_trace(r);
    return r;
}

static int ttrpc_send_message(void *state, uint64_t id, const uint8_t *bytes, size_t n) {
    Ttrpc *t = state;
    struct stream *stream = find_stream(t, id);

    if (!stream || !stream->has_request)
        return -ENOENT;
    if (n > TTRPC_DATA_MAX)
        return -EMSGSIZE;
    if (buf_size(&t->out) + TTRPC_HEADER_BYTES + n > TTRPC_MESSAGES_BYTES_MAX)
        return -ENOBUFS;
    return ttrpc_put_frame(&t->out, stream->id, TTRPC_DATA, 0, bytes, n);
}

/* ---- requests ---- */

/* Keeps what the Request frame said until the message comes in a Data frame. */
static int wait_for_message(Ttrpc *t, struct stream *stream, const Ttrpc__Request *envelope) {
    stream->service = alloc_string(envelope->service);
    stream->method = alloc_string(envelope->method);
    stream->timeout_ns = envelope->timeout_nano;
    if (stream->service && stream->method)
        return 0;
    free_stream(t, stream);
    return error_origin(-ENOMEM);
}

static int open_stream(Ttrpc *t, const struct ttrpc_frame *frame, enum codec_kind kind,
                       const Ttrpc__Request *envelope) {
    unsigned flags = frame->flags & (TTRPC_REMOTE_CLOSED | TTRPC_REMOTE_OPEN);
    struct stream *stream;
    int r;

    r = check_reserve(t);
    if (r < 0)
        return r;
    stream = new_stream(t, frame->stream);
    assert(stream); /* the caller has counted */
    stream->kind = kind;
    stream->is_unary_request = flags == 0;
    stream->is_remote_open = flags == TTRPC_REMOTE_OPEN;
    if (stream->is_remote_open && (frame->flags & TTRPC_NO_DATA || envelope->payload.len == 0))
        return wait_for_message(t, stream, envelope);
    stream->has_request = true;
    /* The owner may finish the call before it returns: `stream` is not touched any more. */
    t->env.on_request(t->env.userdata, &(struct codec_request){
                                           .stream = frame->stream,
                                           .service = envelope->service,
                                           .method = envelope->method,
                                           .payload = envelope->payload.data,
                                           .n_payload = envelope->payload.len,
                                           .timeout_ns = envelope->timeout_nano,
                                       });
    return 0;
}

static int route_request(Ttrpc *t, const struct ttrpc_frame *frame,
                         const Ttrpc__Request *envelope) {
    enum codec_kind kind = t->env.kind(t->env.userdata, envelope->service, envelope->method);
    char sentence[300];

    switch (kind) {
    case CODEC_UNKNOWN_SERVICE:
        (void)snprintf(sentence, sizeof(sentence), "there is no service %.200s", envelope->service);
        return reject(t, frame, STATUS_UNIMPLEMENTED, sentence);
    case CODEC_UNKNOWN_METHOD:
        (void)snprintf(sentence, sizeof(sentence), "service %.100s has no method %.100s",
                       envelope->service, envelope->method);
        return reject(t, frame, STATUS_UNIMPLEMENTED, sentence);
    default:
        return open_stream(t, frame, kind, envelope);
    }
}

static int on_request_frame(Ttrpc *t, const struct ttrpc_frame *frame) {
    struct stream *stream = find_stream(t, frame->stream);
    Ttrpc__Request *envelope;
    Error error = ERROR_INIT;
    MsgArena arena;
    int r;

    if (stream)
        return abort_stream(t, stream, STATUS_INVALID_ARGUMENT,
                            "the stream's id was used again while its call was under way");
    if (find_ended(t, frame->stream))
        return reject(t, frame, STATUS_INVALID_ARGUMENT, "the stream's id was used before");
    if (frame->stream >= TTRPC_ID_LAST) {
        t->is_used_up = true;
        return reject(t, frame, STATUS_UNAVAILABLE,
                      "the connection has used up its stream ids; connect again");
    }
    if (frame->is_oversize)
        return reject(t, frame, STATUS_RESOURCE_EXHAUSTED,
                      "the frame is longer than ttrpc's 4 MiB");
    if (t->n_streams == CODEC_STREAMS_MAX)
        return reject_one_too_many(t, frame);
    msg_arena_init(&arena, MSG_BUDGET(frame->n_data));
    r = msg_unpack(&ttrpc__request__descriptor, frame->data, frame->n_data, &arena, &envelope,
                   &error);
    if (r == 0)
        r = route_request(t, frame, envelope);
    else if (r > 0)
        r = reject(t, frame,
                   r == MSG_E_TOO_LARGE ? STATUS_RESOURCE_EXHAUSTED : STATUS_INVALID_ARGUMENT,
                   error.text);
    msg_arena_deinit(&arena);
    return r;
}

/* ---- Data frames ---- */

static void give_message(Ttrpc *t, struct stream *stream, const struct ttrpc_frame *frame) {
    char *service CLEANUP(freep) = take_ptr(stream->service);
    char *method CLEANUP(freep) = take_ptr(stream->method);

    stream->has_request = true;
    t->env.on_request(t->env.userdata, &(struct codec_request){
                                           .stream = frame->stream,
                                           .service = service,
                                           .method = method,
                                           .payload = frame->data,
                                           .n_payload = frame->n_data,
                                           .timeout_ns = stream->timeout_ns,
                                       });
}

/* Data for a call that has ended: what the peer had begun to send is let through. */
static int on_late_data(Ttrpc *t, const struct ttrpc_frame *frame) {
    struct ended *ended = find_ended(t, frame->stream);

    if (!ended || !ended->is_remote_open)
        return reject(t, frame, STATUS_INVALID_ARGUMENT, "the stream is not active");
    if (frame->flags & TTRPC_REMOTE_CLOSED)
        ended->is_remote_open = false;
    return 0;
}

static int on_data_frame(Ttrpc *t, const struct ttrpc_frame *frame) {
    struct stream *stream = find_stream(t, frame->stream);
    bool is_message = !(frame->flags & TTRPC_NO_DATA);

    if (!stream)
        return on_late_data(t, frame);
    if (frame->is_oversize)
        return abort_stream(t, stream, STATUS_RESOURCE_EXHAUSTED,
                            "the frame is longer than ttrpc's 4 MiB");
    if (stream->is_unary_request)
        return abort_stream(t, stream, STATUS_INVALID_ARGUMENT, "data on a unary stream");
    if (!stream->is_remote_open)
        return is_message ? abort_stream(t, stream, STATUS_INVALID_ARGUMENT,
                                         "data on a stream that its sender had closed")
                          : 0;
    if (frame->flags & TTRPC_REMOTE_CLOSED)
        stream->is_remote_open = false;
    if (is_message && stream->has_request)
        return abort_stream(t, stream, STATUS_INVALID_ARGUMENT,
                            "a second message where the method takes one");
    if (is_message)
        give_message(t, stream, frame);
    else if (!stream->is_remote_open && !stream->has_request)
        return abort_stream(t, stream, STATUS_INVALID_ARGUMENT,
                            "the stream was closed before its request message came");
    return 0;
}

/* ---- bytes ---- */

static int on_frame(Ttrpc *t, const struct ttrpc_frame *frame) {
    if (frame->type != TTRPC_REQUEST && frame->type != TTRPC_DATA)
        return 0; /* for the sake of later versions, says PROTOCOL.md */
    if (frame->stream % 2 == 0)
        return reject(t, frame, STATUS_INVALID_ARGUMENT, "a client's stream id must be odd");
    return frame->type == TTRPC_REQUEST ? on_request_frame(t, frame) : on_data_frame(t, frame);
}

static int ttrpc_feed(void *state, const uint8_t *bytes, size_t n) {
    Ttrpc *t = state;
    Cursor c = cursor_make(bytes, n);
    struct ttrpc_frame frame;
    int r;

    while (t->failed == 0) {
        r = ttrpc_reader_next(&t->reader, &c, &frame);
        if (r == TTRPC_E_MORE)
            return 0;
        if (r == 0)
            r = on_frame(t, &frame);
        if (r < 0)
            t->failed = error_trace(r);
    }
    return t->failed;
}

static void ttrpc_feed_eof(void *state) {
    Ttrpc *t = state;

    t->is_eof = true;
    for (size_t i = 0; i < CODEC_STREAMS_MAX && t->failed == 0; i++)
        if (t->streams[i].id > 0 && !t->streams[i].has_request)
            t->failed = MIN(0, abort_stream(t, &t->streams[i], STATUS_INVALID_ARGUMENT,
                                            "the stream's request message never came"));
}

static size_t ttrpc_pending(const void *state, const uint8_t **ret_bytes) {
    const Ttrpc *t = state;
    size_t n = buf_size(&t->out);

    *ret_bytes = n > 0 ? buf_bytes(&t->out) : NULL;
    return n;
}

static void ttrpc_drained(void *state, size_t n) {
    Ttrpc *t = state;

    buf_consume(&t->out, n);
}

static size_t ttrpc_n_streams(const void *state) {
    const Ttrpc *t = state;

    return t->n_streams;
}

static size_t ttrpc_n_held(const void *state) {
    const Ttrpc *t = state;

    return buf_size(&t->reader.data);
}

static bool ttrpc_is_finished(const void *state) {
    const Ttrpc *t = state;

    return t->failed < 0 || ((t->is_eof || t->is_used_up) && t->n_streams == 0);
}

const struct codec_ops ttrpc_codec = {
    .name = "ttrpc",
    .state_size = sizeof(Ttrpc),
    .init = ttrpc_init,
    .deinit = ttrpc_deinit,
    .feed = ttrpc_feed,
    .feed_eof = ttrpc_feed_eof,
    .send_message = ttrpc_send_message,
    .finish = ttrpc_finish,
    .pending = ttrpc_pending,
    .drained = ttrpc_drained,
    .n_streams = ttrpc_n_streams,
    .n_held = ttrpc_n_held,
    .is_finished = ttrpc_is_finished,
};
