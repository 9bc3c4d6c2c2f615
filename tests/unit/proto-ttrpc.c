/*
 * proto/ttrpc: the rules that transcripts can't show (sizes, limits, memory), one case each, and
 * random peers held against the codec's invariants. What frames say is tests/wire's.
 */
#include "base/alloc.h"
#include "proto/retry.h"
#include "proto/sniff.h"
#include "proto/ttrpc.h"
#include "proto/ttrpc.pb-c.h"
#include "tests/util/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define IDS_MAX 4096 /* ids of the tests are below */

/* One connection: what the codec told its owner, and what it told the peer. */
struct side {
    void *codec;
    bool answers_at_once; /* inside on_request */
    enum status_code answer;
    size_t n_requests, n_cancels, n_payload;
    bool is_open[IDS_MAX]; /* to the owner */
    unsigned n_asked[IDS_MAX], n_endings[IDS_MAX], n_messages[IDS_MAX];
    uint32_t last_id;
    TtrpcReader reader;
    int last_code; /* of the last Response read */
    uint64_t last_retry_us;
    char last_text[TTRPC_SENTENCE_BYTES_MAX + 1];
};

static enum codec_kind on_kind(void *userdata, const char *service, const char *method) {
    (void)userdata;
    if (strcmp(service, "S") != 0)
        return CODEC_UNKNOWN_SERVICE;
    return *method == 'u'   ? CODEC_UNARY
           : *method == 's' ? CODEC_SERVER_STREAM
                            : CODEC_UNKNOWN_METHOD;
}

static void on_request(void *userdata, const struct codec_request *request) {
    struct side *s = userdata;

    assert(request->stream < IDS_MAX && !s->is_open[request->stream]);
    s->n_requests++;
    s->n_payload = request->n_payload;
    s->last_id = (uint32_t)request->stream;
    s->is_open[request->stream] = true;
    if (s->answers_at_once) {
        s->is_open[request->stream] = false;
        assert(ttrpc_codec.finish(s->codec, request->stream, s->answer, "no", NULL, 0) == 0);
    }
}

static void on_cancel(void *userdata, uint64_t stream) {
    struct side *s = userdata;

    assert(stream < IDS_MAX && s->is_open[stream]);
    s->is_open[stream] = false;
    s->n_cancels++;
    assert(ttrpc_codec.finish(s->codec, stream, STATUS_OK, NULL, NULL, 0) == -ENOENT);
}

static void side_init(struct side *s) {
    struct codec_env env = {
        .userdata = s, .kind = on_kind, .on_request = on_request, .on_cancel = on_cancel};

    *s = (struct side){0};
    assert((s->codec = alloc_array(1, ttrpc_codec.state_size)));
    assert(ttrpc_codec.init(s->codec, &env) == 0);
}

static void side_deinit(struct side *s) {
    ttrpc_codec.deinit(s->codec);
    free(s->codec);
    ttrpc_reader_deinit(&s->reader);
}

/* ---- the peer ---- */

static int put_request(Buf *to, uint32_t id, unsigned flags, const char *service,
                       const char *method, const uint8_t *payload, size_t n) {
    Ttrpc__Request m = TTRPC__REQUEST__INIT;

    m.service = (char *)(uintptr_t)service;
    m.method = (char *)(uintptr_t)method;
    m.payload = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)payload, .len = n};
    return ttrpc_put_message(to, id, TTRPC_REQUEST, flags, &m.base);
}

static int feed_request(struct side *s, uint32_t id, unsigned flags, const char *method) {
    Buf b CLEANUP(buf_deinit) = BUF_INIT(1000);

    assert(put_request(&b, id, flags, "S", method, (const uint8_t *)"x", 1) == 0);
    return ttrpc_codec.feed(s->codec, buf_bytes(&b), buf_size(&b));
}

static int feed_header(struct side *s, uint32_t length, uint32_t id, unsigned type,
                       unsigned flags) {
    uint8_t header[TTRPC_HEADER_BYTES] = {[8] = (uint8_t)type, [9] = (uint8_t)flags};

    put_u32be(header, length);
    put_u32be(header + 4, id);
    return ttrpc_codec.feed(s->codec, header, sizeof(header));
}

static int feed_zeros(struct side *s, size_t n) {
    static const uint8_t zeros[65536];
    int r = 0;

    for (size_t now; n > 0 && r == 0; n -= now) {
        now = MIN(n, sizeof(zeros));
        r = ttrpc_codec.feed(s->codec, zeros, now);
    }
    return r;
}

static void count_frame(struct side *s, const struct ttrpc_frame *frame) {
    Ttrpc__Response *response;

    assert(frame->stream < IDS_MAX && !frame->is_oversize);
    if (frame->type == TTRPC_DATA && frame->flags == 0) {
        s->n_messages[frame->stream]++;
        return;
    }
    s->n_endings[frame->stream]++;
    if (frame->type == TTRPC_DATA) {
        assert(frame->flags == (TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA) && frame->n_data == 0);
        return;
    }
    assert(frame->type == TTRPC_RESPONSE && frame->flags == 0);
    response = ttrpc__response__unpack(NULL, frame->n_data, frame->data);
    assert(response);
    s->last_code = response->status ? response->status->code : 0;
    s->last_retry_us = 0;
    if (response->status && response->status->n_details == 1)
        assert(retry_unpack(response->status->details[0].data, response->status->details[0].len,
                            &s->last_retry_us));
    (void)snprintf(s->last_text, sizeof(s->last_text), "%s",
                   response->status ? response->status->message : "");
    ttrpc__response__free_unpacked(response, NULL);
}

/* Reads up to n bytes of what is queued. */
static void peer_read(struct side *s, size_t n) {
    struct ttrpc_frame frame;
    const uint8_t *bytes;
    Cursor c;
    int r;

    n = MIN(n, ttrpc_codec.pending(s->codec, &bytes));
    c = cursor_make(bytes, n);
    while ((r = ttrpc_reader_next(&s->reader, &c, &frame)) == 0)
        count_frame(s, &frame);
    assert(r == TTRPC_E_MORE);
    ttrpc_codec.drained(s->codec, n);
}

static size_t n_pending(const struct side *s) {
    const uint8_t *bytes;

    return ttrpc_codec.pending(s->codec, &bytes);
}

/* ---- sizes ---- */

static void test_largest_frame_is_taken_next_byte_is_not(void) {
    uint8_t *payload = alloc_array(TTRPC_DATA_MAX, 1);
    Buf b CLEANUP(buf_deinit) = BUF_INIT(2 * TTRPC_DATA_MAX);
    struct side s;
    size_t n = TTRPC_DATA_MAX - (2 + 1) - (2 + 1) - (1 + 4);

    assert(payload);
    side_init(&s);
    assert(put_request(&b, 1, 0, "S", "u", payload, n) == 0);
    assert(buf_size(&b) == TTRPC_HEADER_BYTES + TTRPC_DATA_MAX);
    assert(ttrpc_codec.feed(s.codec, buf_bytes(&b), buf_size(&b)) == 0);
    assert(s.n_requests == 1 && s.n_payload == n);
    assert(put_request(&b, 3, 0, "S", "u", payload, n + 1) == -EMSGSIZE);

    assert(feed_header(&s, TTRPC_DATA_MAX + 1, 3, TTRPC_REQUEST, 0) == 0);
    assert(feed_zeros(&s, TTRPC_DATA_MAX + 1) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_endings[3] == 1 && s.last_code == STATUS_RESOURCE_EXHAUSTED);
    assert(feed_request(&s, 5, 0, "u") == 0 && s.n_requests == 2 && s.last_id == 5);
    free(payload);
    side_deinit(&s);
}

static void test_oversize_is_skipped_up_to_the_last_byte_of_16_mib(void) {
    struct side s;

    side_init(&s);
    assert(feed_header(&s, 0xffffff, 1, TTRPC_REQUEST, 0) == 0);
    assert(feed_zeros(&s, 0xffffff) == 0);
    assert(feed_request(&s, 3, 0, "u") == 0 && s.n_requests == 1);
    assert(feed_header(&s, 0x1000000, 5, TTRPC_REQUEST, 0) == -EPROTO);
    assert(feed_request(&s, 7, 0, "u") == -EPROTO && s.n_requests == 1);
    assert(ttrpc_codec.is_finished(s.codec));
    side_deinit(&s);
}

static void test_oversize_data_ends_its_stream_and_unknown_types_nothing(void) {
    struct side s;

    side_init(&s);
    assert(feed_request(&s, 1, TTRPC_REMOTE_OPEN, "s") == 0 && s.n_requests == 1);
    assert(feed_header(&s, TTRPC_DATA_MAX + 1, 1, 9, 0) == 0);
    assert(feed_zeros(&s, TTRPC_DATA_MAX + 1) == 0);
    assert(n_pending(&s) == 0 && s.n_cancels == 0);
    assert(feed_header(&s, TTRPC_DATA_MAX + 1, 1, TTRPC_DATA, 0) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_cancels == 1 && s.n_endings[1] == 1 && s.last_code == STATUS_RESOURCE_EXHAUSTED);
    side_deinit(&s);
}

static void test_announced_bytes_cost_nothing_before_they_come(void) {
    struct side s;

    /* The n-th allocation fails, but with ten bytes there is none. */
    side_init(&s);
    alloc_fail_after(1);
    assert(feed_header(&s, TTRPC_DATA_MAX, 1, TTRPC_REQUEST, 0) == 0);
    assert(feed_zeros(&s, 1) == -ENOMEM);
    side_deinit(&s);
}

static void test_answers_too_long_for_the_wire_are_refused(void) {
    uint8_t *payload = alloc_array(TTRPC_DATA_MAX + 1, 1);
    struct side s;

    assert(payload);
    side_init(&s);
    assert(feed_request(&s, 1, 0, "u") == 0 && feed_request(&s, 3, 0, "u") == 0);
    assert(feed_request(&s, 5, 0, "u") == 0 && feed_request(&s, 7, 1, "s") == 0);
    assert(ttrpc_codec.finish(s.codec, 1, STATUS_OK, NULL, payload, TTRPC_DATA_MAX + 1) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_endings[1] == 1 && s.last_code == STATUS_RESOURCE_EXHAUSTED);
    assert(ttrpc_codec.finish(s.codec, 3, STATUS_OK, NULL, payload, TTRPC_DATA_MAX - 4) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_endings[3] == 1 && s.last_code == STATUS_RESOURCE_EXHAUSTED);
    assert(ttrpc_codec.finish(s.codec, 5, STATUS_OK, NULL, payload, TTRPC_DATA_MAX - 5) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_endings[5] == 1 && s.last_code == STATUS_OK);
    assert(ttrpc_codec.send_message(s.codec, 7, payload, TTRPC_DATA_MAX + 1) == -EMSGSIZE);
    assert(ttrpc_codec.send_message(s.codec, 7, payload, TTRPC_DATA_MAX) == 0);
    peer_read(&s, SIZE_MAX);
    assert(s.n_messages[7] == 1);
    free(payload);
    side_deinit(&s);
}

static void test_sentences_are_cut_between_characters_and_made_utf8(void) {
    char sentence[3 * TTRPC_SENTENCE_BYTES_MAX] = "x";
    struct side s;

    side_init(&s);
    for (size_t i = 1; i + 3 < sizeof(sentence); i += 3)
        (void)memcpy(sentence + i, "\xe2\x82\xac", 3);
    assert(feed_request(&s, 1, 0, "u") == 0 && feed_request(&s, 3, 0, "u") == 0);
    assert(ttrpc_codec.finish(s.codec, 1, STATUS_INTERNAL, sentence, NULL, 0) == 0);
    peer_read(&s, SIZE_MAX);
    assert(strlen(s.last_text) == 1 + 340 * 3 && strncmp(s.last_text, sentence, 1021) == 0);
    assert(ttrpc_codec.finish(s.codec, 3, STATUS_INTERNAL, "a\xff\xe2\x82z", NULL, 0) == 0);
    peer_read(&s, SIZE_MAX);
    assert(strcmp(s.last_text, "a???z") == 0);
    side_deinit(&s);
}

/* ---- limits ---- */

static void test_calls_on_one_connection_are_limited(void) {
    struct side s;

    side_init(&s);
    for (uint32_t i = 0; i < CODEC_STREAMS_MAX; i++)
        assert(feed_request(&s, 2 * i + 1, i % 2 ? 0 : TTRPC_REMOTE_CLOSED, i % 2 ? "u" : "s") ==
               0);
    assert(s.n_requests == CODEC_STREAMS_MAX && n_pending(&s) == 0);
    assert(feed_request(&s, 1001, 0, "u") == 0 && s.n_requests == CODEC_STREAMS_MAX);
    peer_read(&s, SIZE_MAX);
    assert(s.n_endings[1001] == 1 && s.last_code == STATUS_RESOURCE_EXHAUSTED &&
           s.last_retry_us > 0);
    assert(ttrpc_codec.finish(s.codec, 1, STATUS_OK, NULL, NULL, 0) == 0);
    assert(feed_request(&s, 1003, 0, "u") == 0 && s.last_id == 1003);
    assert(ttrpc_codec.n_streams(s.codec) == CODEC_STREAMS_MAX);
    side_deinit(&s);
}

static void test_messages_stop_at_the_limit_and_endings_still_fit(void) {
    uint8_t *payload = alloc_array(TTRPC_DATA_MAX, 1);
    char *sentence = alloc_array(2 * TTRPC_SENTENCE_BYTES_MAX, 1);
    struct side s;
    size_t n = 0;

    assert(payload && sentence);
    side_init(&s);
    (void)memset(sentence, 'x', 2 * TTRPC_SENTENCE_BYTES_MAX - 1);
    for (uint32_t i = 0; i < CODEC_STREAMS_MAX; i++)
        assert(feed_request(&s, 2 * i + 1, i % 2 ? 0 : TTRPC_REMOTE_CLOSED, i % 2 ? "u" : "s") ==
               0);
    while (ttrpc_codec.send_message(s.codec, 1, payload, 100000) == 0)
        n++;
    assert(n == TTRPC_MESSAGES_BYTES_MAX / 100010);
    while (ttrpc_codec.send_message(s.codec, 1, payload, 0) == 0)
        n++;
    assert(ttrpc_codec.send_message(s.codec, 1, payload, 0) == -ENOBUFS);
    /* A unary answer that finds no room is replaced; failures are as they are. */
    assert(ttrpc_codec.finish(s.codec, 3, STATUS_OK, NULL, payload, 100000) == 0);
    for (uint32_t i = 0; i < CODEC_STREAMS_MAX; i++)
        if (i != 1)
            assert(ttrpc_codec.finish(s.codec, 2 * i + 1, STATUS_ABORTED, sentence, NULL, 0) == 0);
    assert(n_pending(&s) <= TTRPC_MESSAGES_BYTES_MAX + TTRPC_ENDINGS_BYTES_MAX);
    peer_read(&s, TTRPC_MESSAGES_BYTES_MAX);
    peer_read(&s, SIZE_MAX);
    assert(s.n_messages[1] == n && s.last_code == STATUS_ABORTED);
    for (uint32_t i = 0; i < CODEC_STREAMS_MAX; i++)
        assert(s.n_endings[2 * i + 1] == 1);
    free(payload);
    free(sentence);
    side_deinit(&s);
}

/* Sends the same bad frame until the codec gives up; it must, and within its limit. */
static size_t flood(struct side *s, uint32_t length, uint32_t id, unsigned type) {
    size_t n = 0;
    int r;

    for (;; n++) {
        assert(n < 1000000);
        r = feed_header(s, length, id, type, 0);
        if (r == 0)
            r = feed_zeros(s, length);
        assert(n_pending(s) <= TTRPC_MESSAGES_BYTES_MAX + TTRPC_ENDINGS_BYTES_MAX);
        if (r < 0)
            break;
    }
    assert(r == -ENOBUFS && ttrpc_codec.is_finished(s->codec));
    return n;
}

static void test_a_peer_that_floods_and_never_reads_is_cut_off(void) {
    static const struct {
        uint32_t length, id;
        unsigned type;
    } frames[] = {{0, 2, TTRPC_REQUEST}, {0, 9, TTRPC_DATA}, {1, 1, TTRPC_REQUEST}};

    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        struct side s;

        side_init(&s);
        assert(flood(&s, frames[i].length, frames[i].id, frames[i].type) > 10000);
        side_deinit(&s);
    }
}

static void test_a_peer_that_asks_and_never_reads_is_cut_off(void) {
    struct side s;
    uint32_t id = 1;
    int r;

    side_init(&s);
    s.answers_at_once = true;
    s.answer = STATUS_NOT_FOUND;
    do {
        r = feed_request(&s, id, 0, "u");
        id = (id + 2) % IDS_MAX; /* odd, and long forgotten when it comes again */
    } while (r == 0);
    assert(r == -ENOBUFS && s.n_requests > 100000);
    assert(n_pending(&s) <= TTRPC_MESSAGES_BYTES_MAX + TTRPC_ENDINGS_BYTES_MAX);
    side_deinit(&s);
}

static void test_a_peer_that_reads_may_go_on_for_ever(void) {
    struct side s;
    uint32_t id = 1;

    side_init(&s);
    s.answers_at_once = true;
    for (int i = 0; i < 100000; i++, id = (id + 2) % IDS_MAX) {
        assert(feed_request(&s, id, 0, "u") == 0);
        peer_read(&s, SIZE_MAX);
    }
    assert(s.n_requests == 100000);
    side_deinit(&s);
}

/* ---- random peers ---- */

static uint32_t random_next(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

/* One random frame; valid requests are counted, so that endings can be. */
static int random_frame(struct side *s, uint32_t *state, uint32_t *next_id) {
    static const char *const methods[] = {"u", "s", "u", "s", "x"};
    uint32_t choice = random_next(state) % 16, id = random_next(state) % 64;

    if (choice < 7) {
        id = *next_id;
        *next_id += 2;
        s->n_asked[id]++;
        return feed_request(s, id, random_next(state) % 8, methods[random_next(state) % 5]);
    }
    if (choice < 11)
        id = *next_id > 32 ? *next_id - 2 * (id % 16) : 1;
    return feed_header(s, 0, id, choice < 14 ? TTRPC_DATA : random_next(state) % 6,
                       random_next(state) % 8);
}

static void random_answer(struct side *s, uint32_t *state) {
    uint32_t id = random_next(state) % IDS_MAX, verb = random_next(state) % 4;

    while (id < IDS_MAX && !s->is_open[id])
        id++;
    if (id == IDS_MAX)
        return;
    if (verb < 2) {
        assert(ttrpc_codec.send_message(s->codec, id, (const uint8_t *)"m", 1) == 0);
        return;
    }
    s->is_open[id] = false;
    assert(ttrpc_codec.finish(s->codec, id, verb == 2 ? STATUS_OK : STATUS_ABORTED, "no", NULL,
                              0) == 0);
}

static void random_run(uint32_t seed) {
    struct side *s = alloc_new(struct side);
    uint32_t state = seed, next_id = 101;
    size_t n_open = 0;

    assert(s);
    side_init(s);
    for (int i = 0; i < 800 && next_id < IDS_MAX - 2; i++) {
        assert(random_frame(s, &state, &next_id) == 0);
        random_answer(s, &state);
        if (random_next(&state) % 4 == 0)
            peer_read(s, random_next(&state) % 200);
    }
    for (uint32_t id = 0; id < IDS_MAX; id++)
        if (s->is_open[id]) {
            n_open++;
            s->is_open[id] = false;
            assert(ttrpc_codec.finish(s->codec, id, STATUS_OK, NULL, NULL, 0) == 0);
        }
    ttrpc_codec.feed_eof(s->codec); /* ends those whose message never came */
    assert(ttrpc_codec.n_streams(s->codec) == 0 && ttrpc_codec.is_finished(s->codec));
    peer_read(s, SIZE_MAX);
    /* Every request has an ending; more than one only where the peer went on with a dead id. */
    for (uint32_t id = 101; id < next_id; id += 2)
        assert(s->n_asked[id] == 1 && s->n_endings[id] >= 1);
    assert(s->n_requests > s->n_cancels + n_open);
    side_deinit(s);
    free(s);
}

static void test_random_peers_get_one_ending_a_request(void) {
    for (uint32_t seed = 1; seed <= 500; seed++)
        random_run(seed);
}

/* Well-behaved but concurrent: exactly one ending, exactly the messages that were sent. */
static void test_every_request_ends_exactly_once(void) {
    struct side s;
    uint32_t state = 7;
    unsigned sent[IDS_MAX] = {0};

    side_init(&s);
    for (uint32_t id = 1; id < IDS_MAX - 2; id += 2) {
        if (ttrpc_codec.n_streams(s.codec) < CODEC_STREAMS_MAX)
            assert(feed_request(&s, id, 1, "s") == 0 && s.last_id == id);
        for (uint32_t i = 0; i < IDS_MAX; i++) {
            if (!s.is_open[i] || random_next(&state) % 3)
                continue;
            if (random_next(&state) % 4) {
                sent[i]++;
                assert(ttrpc_codec.send_message(s.codec, i, (const uint8_t *)"m", 1) == 0);
            } else {
                s.is_open[i] = false;
                assert(ttrpc_codec.finish(s.codec, i, random_next(&state) % 2, "no", NULL, 0) == 0);
            }
        }
        peer_read(&s, random_next(&state) % 300);
    }
    peer_read(&s, SIZE_MAX);
    for (uint32_t i = 0; i < IDS_MAX; i++)
        assert(s.n_endings[i] == (i % 2 == 1 && i < IDS_MAX - 2 && !s.is_open[i]) &&
               s.n_messages[i] == sent[i]);
    side_deinit(&s);
}

/* ---- memory ---- */

static int little_dialogue(struct side *s, size_t n_allocations) {
    Buf b CLEANUP(buf_deinit) = BUF_INIT(10000);
    int r;

    /* Built while allocations still work, and fed in pieces so that the reader buffers. */
    assert(put_request(&b, 1, 0, "S", "u", (const uint8_t *)"xyz", 3) == 0);
    assert(put_request(&b, 3, TTRPC_REMOTE_OPEN, "S", "s", NULL, 0) == 0);
    assert(ttrpc_put_frame(&b, 3, TTRPC_DATA, 1, (const uint8_t *)"xyz", 3) == 0);
    assert(put_request(&b, 5, 0, "S", "x", NULL, 0) == 0);
    assert(put_request(&b, 7, TTRPC_REMOTE_OPEN, "S", "s", NULL, 0) == 0);
    alloc_fail_after(n_allocations);
    for (size_t i = 0; i < buf_size(&b); i++) {
        r = ttrpc_codec.feed(s->codec, buf_bytes(&b) + i, 1);
        if (r < 0)
            return r;
    }
    if (s->is_open[1]) {
        r = ttrpc_codec.finish(s->codec, 1, STATUS_OK, NULL, (const uint8_t *)"abc", 3);
        if (r < 0)
            return r;
    }
    ttrpc_codec.feed_eof(s->codec);
    return ttrpc_codec.n_streams(s->codec) == 1 ? 0 : -ENOMEM;
}

static void test_every_allocation_may_fail(void) {
    size_t n = 1;
    int r;

    do {
        struct side s;

        assert(n < 1000);
        side_init(&s);
        r = little_dialogue(&s, n);
        alloc_fail_after(0);
        assert(r == 0 || (r == -ENOMEM && ttrpc_codec.is_finished(s.codec)));
        side_deinit(&s);
        n++;
    } while (r < 0);
    assert(n > 5);
}

/* ---- the sniffer ---- */

static void test_sniffer_tells_from_the_first_bytes(void) {
    static const struct {
        const char *bytes;
        size_t n;
        int r;
        const char *word;
    } cases[] = {
        {"", 0, SNIFF_E_MORE, NULL},
        {"\0", 1, 0, NULL},
        {"\0\0\0\x10", 4, 0, NULL},
        {"P", 1, SNIFF_E_MORE, NULL},
        {"PRI", 3, SNIFF_E_MORE, NULL},
        {"PRI * HTTP/2.0\r\n", 16, SNIFF_E_REFUSED, "HTTP/2"},
        {"GET / HTTP/1.1\r\n", 16, SNIFF_E_REFUSED, "HTTP/1"},
        {"POST", 4, SNIFF_E_REFUSED, "HTTP/1"},
        {"PUT ", 4, SNIFF_E_REFUSED, "HTTP/1"},
        {"\x16\x03\x01", 3, SNIFF_E_REFUSED, "TLS"},
        {"\x01", 1, SNIFF_E_REFUSED, "0x01"},
        {"{\"a\":1}", 7, SNIFF_E_REFUSED, "0x7b"},
        {"Px", 2, SNIFF_E_REFUSED, "0x50"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct codec_ops *ops = NULL;
        Error error = ERROR_INIT;

        assert(sniff_codec((const uint8_t *)cases[i].bytes, cases[i].n, &ops, &error) ==
               cases[i].r);
        assert((ops == &ttrpc_codec) == (cases[i].r == 0));
        assert(!cases[i].word || strstr(error.text, cases[i].word));
    }
}

static void test_every_code_has_its_name(void) {
    assert(strcmp(status_name(STATUS_OK), "OK") == 0);
    assert(strcmp(status_name(16), "UNAUTHENTICATED") == 0);
    assert(strcmp(status_name(17), "UNKNOWN") == 0 && strcmp(status_name(-1), "UNKNOWN") == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(largest_frame_is_taken_next_byte_is_not),
        TEST(oversize_is_skipped_up_to_the_last_byte_of_16_mib),
        TEST(oversize_data_ends_its_stream_and_unknown_types_nothing),
        TEST(announced_bytes_cost_nothing_before_they_come),
        TEST(answers_too_long_for_the_wire_are_refused),
        TEST(sentences_are_cut_between_characters_and_made_utf8),
        TEST(calls_on_one_connection_are_limited),
        TEST(messages_stop_at_the_limit_and_endings_still_fit),
        TEST(a_peer_that_floods_and_never_reads_is_cut_off),
        TEST(a_peer_that_asks_and_never_reads_is_cut_off),
        TEST(a_peer_that_reads_may_go_on_for_ever),
        TEST(random_peers_get_one_ending_a_request),
        TEST(every_request_ends_exactly_once),
        TEST(every_allocation_may_fail),
        TEST(sniffer_tells_from_the_first_bytes),
        TEST(every_code_has_its_name),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
