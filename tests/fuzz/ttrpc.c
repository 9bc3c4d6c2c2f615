/*
 * libFuzzer: ttrpc's server codec under a peer and an owner who do anything.
 *
 * The input is a list of operations, one byte each and what it takes: feed bytes as they are, feed
 * a frame whose length is made true, answer a call, read output, half-close. Checked all along: the
 * owner's view and the codec's agree, output is bounded and well-formed, and in the end every
 * request has its ending.
 */
#include "proto/ttrpc.h"
#include "base/alloc.h"
#include "proto/sniff.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CALLS_MAX CODEC_STREAMS_MAX

struct owner {
    void *codec;
    uint64_t calls[CALLS_MAX]; /* to be answered */
    size_t n_calls, n_requests, n_cancels, n_finished;
    bool answers_at_once, has_failed;
    size_t n_endings, n_messages, n_sent;
    TtrpcReader reader;
};

static enum codec_kind on_kind(void *userdata, const char *service, const char *method) {
    (void)userdata;
    if (strcmp(service, "S") != 0)
        return CODEC_UNKNOWN_SERVICE;
    return *method == 'u'   ? CODEC_UNARY
           : *method == 's' ? CODEC_SERVER_STREAM
                            : CODEC_UNKNOWN_METHOD;
}

static void forget_call(struct owner *o, uint64_t stream) {
    size_t i = 0;

    while (i < o->n_calls && o->calls[i] != stream)
        i++;
    fuzz_check(i < o->n_calls);
    o->calls[i] = o->calls[--o->n_calls];
}

static void finish(struct owner *o, uint64_t stream, unsigned code) {
    forget_call(o, stream);
    o->n_finished++;
    fuzz_check(ttrpc_codec.finish(o->codec, stream, (enum status_code)(code % 17), "a sentence",
                                  (const uint8_t *)"answer", 6) == 0);
    fuzz_check(ttrpc_codec.finish(o->codec, stream, STATUS_OK, NULL, NULL, 0) == -ENOENT);
}

static void on_request(void *userdata, const struct codec_request *request) {
    struct owner *o = userdata;

    fuzz_check(o->n_calls < CALLS_MAX && request->stream % 2 == 1);
    for (size_t i = 0; i < o->n_calls; i++)
        fuzz_check(o->calls[i] != request->stream);
    for (size_t i = 0; i < request->n_payload; i++) /* all of it may be read */
        fuzz_check(request->payload[i] <= UINT8_MAX);
    o->calls[o->n_calls++] = request->stream;
    o->n_requests++;
    if (o->answers_at_once)
        finish(o, request->stream, 0);
}

static void on_cancel(void *userdata, uint64_t stream) {
    struct owner *o = userdata;

    forget_call(o, stream);
    o->n_cancels++;
}

static void feed(struct owner *o, const uint8_t *bytes, size_t n) {
    int r = ttrpc_codec.feed(o->codec, bytes, n);

    fuzz_check(r == 0 || r == -EPROTO || r == -ENOBUFS);
    fuzz_check(!o->has_failed || r < 0);
    o->has_failed = r < 0;
    fuzz_check(!o->has_failed || ttrpc_codec.is_finished(o->codec));
}

static void read_output(struct owner *o, size_t n) {
    struct ttrpc_frame frame;
    const uint8_t *bytes;
    size_t n_pending = ttrpc_codec.pending(o->codec, &bytes);
    Cursor c;

    fuzz_check(n_pending <= TTRPC_MESSAGES_BYTES_MAX + TTRPC_ENDINGS_BYTES_MAX);
    n = MIN(n, n_pending);
    c = cursor_make(bytes, n);
    while (ttrpc_reader_next(&o->reader, &c, &frame) == 0) {
        fuzz_check(frame.type == TTRPC_RESPONSE || frame.type == TTRPC_DATA);
        if (frame.type == TTRPC_DATA && frame.flags == 0)
            o->n_messages++;
        else
            o->n_endings++;
    }
    fuzz_check(cursor_left(&c) == 0);
    ttrpc_codec.drained(o->codec, n);
}

/* A frame of the next bytes, whose length is right: so that the fuzzer gets past the framing. */
static void feed_frame(struct owner *o, Cursor *input) {
    uint8_t header[TTRPC_HEADER_BYTES] = {0};
    const uint8_t *data, *head;

    if (!cursor_take(input, 4, &head) ||
        !cursor_take(input, MIN((size_t)head[0], cursor_left(input)), &data))
        return;
    put_u32be(header, (uint32_t)(input->at - data));
    header[7] = head[1];
    header[8] = head[2] % 5;
    header[9] = head[3] % 8;
    feed(o, header, sizeof(header));
    feed(o, data, (size_t)(input->at - data));
}

static void feed_request(struct owner *o, unsigned what, unsigned id) {
    uint8_t frame[] = {0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0x0a, 1, 'S', 0x12, 1, 'u', 0x1a, 1, 'x'};

    frame[7] = (uint8_t)id;
    frame[9] = what % 8;
    frame[15] = "usx"[what / 8 % 3];
    feed(o, frame, sizeof(frame));
}

static void operate(struct owner *o, uint8_t operation, Cursor *input) {
    const uint8_t *bytes;
    uint8_t a = 0, b = 0;

    switch (operation % 8) {
    case 0:
        if (cursor_u8(input, &a) && cursor_take(input, MIN((size_t)a, cursor_left(input)), &bytes))
            feed(o, bytes, (size_t)(input->at - bytes));
        break;
    case 1:
        feed_frame(o, input);
        break;
    case 2:
        if (cursor_u8(input, &a) && cursor_u8(input, &b))
            feed_request(o, a, b);
        break;
    case 3:
        if (cursor_u8(input, &a) && o->n_calls > 0)
            finish(o, o->calls[a % o->n_calls], operation / 8);
        break;
    case 4:
        if (cursor_u8(input, &a) && o->n_calls > 0) {
            fuzz_check(ttrpc_codec.send_message(o->codec, o->calls[a % o->n_calls],
                                                (const uint8_t *)"m", operation / 8 % 2) == 0);
            o->n_sent++;
        }
        break;
    case 5:
        if (cursor_u8(input, &a))
            read_output(o, a);
        break;
    case 6:
        o->answers_at_once = operation / 8 % 2;
        break;
    default:
        if (operation == 0xff) /* rarely: not much comes after it */
            ttrpc_codec.feed_eof(o->codec);
    }
}

int fuzz_one(const uint8_t *input, size_t n) {
    Cursor c = cursor_make(input, n);
    const struct codec_ops *ops;
    Error error = ERROR_INIT;
    struct owner o = {0};
    struct codec_env env = {
        .userdata = &o, .kind = on_kind, .on_request = on_request, .on_cancel = on_cancel};
    uint8_t operation;

    (void)sniff_codec(input, n, &ops, &error);
    o.codec = alloc_array(1, ttrpc_codec.state_size);
    fuzz_check(o.codec && ttrpc_codec.init(o.codec, &env) == 0);
    while (cursor_u8(&c, &operation)) {
        operate(&o, operation, &c);
        fuzz_check(ttrpc_codec.n_streams(o.codec) >= o.n_calls);
    }
    while (o.n_calls > 0)
        finish(&o, o.calls[0], 0);
    ttrpc_codec.feed_eof(o.codec);
    fuzz_check(o.has_failed || ttrpc_codec.n_streams(o.codec) == 0);
    fuzz_check(ttrpc_codec.is_finished(o.codec));
    read_output(&o, SIZE_MAX);
    fuzz_check(o.n_messages == o.n_sent && o.n_requests == o.n_finished + o.n_cancels);
    fuzz_check(o.n_endings >= o.n_requests);
    ttrpc_codec.deinit(o.codec);
    free(o.codec);
    ttrpc_reader_deinit(&o.reader);
    return 0;
}

static void seed(const char *directory, const char *name, const void *bytes, size_t n) {
    char path[4096];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "we");
    fuzz_check(file && fwrite(bytes, 1, n, file) == n);
    fuzz_check(fclose(file) == 0);
}

void fuzz_seed(const char *directory) {
    static const uint8_t raw[] = {0,  19, 0,   0,  0, 9,   0,    0, 0,   1, 1, 0,
                                  10, 1,  'S', 18, 1, 'u', 0x1a, 1, 'x', 3, 0};
    static const uint8_t unary[] = {2, 0, 1, 3, 0, 5, 99};
    static const uint8_t stream[] = {2, 9, 1, 4, 0, 12, 0, 3, 0, 5, 200};
    static const uint8_t opened[] = {2, 10, 1, 2, 14, 3, 1, 1, 3, 3, 1, 'x', 0xff};
    static const uint8_t broken[] = {2, 0, 1, 2, 0, 1, 2, 0, 2, 1, 1, 1, 3, 0, 'x', 14, 2, 1, 5};

    seed(directory, "raw", raw, sizeof(raw));
    seed(directory, "unary", unary, sizeof(unary));
    seed(directory, "stream", stream, sizeof(stream));
    seed(directory, "opened", opened, sizeof(opened));
    seed(directory, "broken", broken, sizeof(broken));
}
