/*
 * libgrokd: one call, from its request to its end.
 *
 * Frames put raw messages into the call's queue; grokd_call_next() decodes one at a time. A call
 * ends once, by the daemon's word or by ours, and after that its stream's frames are ignored.
 */
#include "base/alloc.h"
#include "client/internal.h"
#include "proto/retry.h"
#include "proto/ttrpc.pb-c.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* ---- beginning ---- */

void call_make_id(char ret[33]) {
    static uint64_t counter;
    uint64_t random[2];

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        random[0] = clock_ms() << 22 ^ (uint64_t)getpid(); /* before the kernel has randomness */
        random[1] = ++counter;
    }
    (void)snprintf(ret, 33, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
}

static grokd_call *call_new(const struct rpc *rpc, const char *request_id) {
    grokd_call *call = alloc_new(grokd_call);

    if (!call)
        return NULL;
    list_init(&call->node);
    list_init(&call->messages);
    call->rpc = rpc;
    call->request_id = alloc_string(request_id);
    return call->request_id ? call : grokd_call_free(call);
}

static int put_request(grokd_client *client, grokd_call *call, const ProtobufCMessage *request) {
    Buf payload CLEANUP(buf_deinit) = BUF_INIT(TTRPC_DATA_MAX);
    Ttrpc__Request envelope = TTRPC__REQUEST__INIT;
    int r;

    r = msg_pack(request, &payload);
    if (r < 0)
        return r == -ENOBUFS ? -EMSGSIZE : r;
    envelope.service = (char *)(uintptr_t)call->rpc->service;
    envelope.method = (char *)(uintptr_t)call->rpc->method;
    envelope.timeout_nano = (int64_t)client->timeout_ms * 1000000;
    envelope.payload =
        (ProtobufCBinaryData){.data = payload.data + payload.start, .len = buf_size(&payload)};
    return ttrpc_put_message(&client->out, call->stream, TTRPC_REQUEST,
                             call->rpc->is_stream ? TTRPC_REMOTE_CLOSED : 0, &envelope.base);
}

int call_begin(grokd_client *client, const struct rpc *rpc, const ProtobufCMessage *request,
               const char *request_id, grokd_call **ret, struct grokd_error *error) {
    grokd_call *call;
    int r;

    if (client->lost.code)
        return copy_error(error, &client->lost);
    if (client->next_stream >= TTRPC_ID_LAST)
        return set_error(error, GROKD_UNAVAILABLE,
                         "the connection has carried all the calls it can; connect again");
    call = call_new(rpc, request_id);
    if (!call)
        return out_of_memory(error);
    call->stream = client->next_stream;
    r = put_request(client, call, request);
    if (r < 0) {
        (void)grokd_call_free(call);
        if (r == -EMSGSIZE)
            return set_error(error, GROKD_RESOURCE_EXHAUSTED,
                             "the request is longer than the 4 MiB that ttrpc can carry");
        if (r == -ENOBUFS)
            return set_error(error, GROKD_RESOURCE_EXHAUSTED,
                             "grokd does not read; %zu bytes of requests are waiting to be sent",
                             buf_size(&client->out));
        return out_of_memory(error);
    }
    client->next_stream += 2;
    if (client->timeout_ms > 0) {
        call->timeout_ms = client->timeout_ms;
        call->deadline_ms = clock_ms() + client->timeout_ms;
    }
    call->client = client;
    list_push_back(&client->calls, &call->node);
    client_flush(client);
    *ret = call;
    return GROKD_OK;
}

/* ---- ending ---- */

void call_end(grokd_call *call, int code, const char *format, ...) {
    va_list args;

    if (call->has_ended)
        return;
    call->has_ended = true;
    call->error.code = code;
    va_start(args, format);
    (void)vsnprintf(call->error.text, sizeof(call->error.text), format, args);
    va_end(args);
}

void call_give_up(grokd_call *call) {
    if (!call->client || call->has_ended || call->is_given_up || !call->rpc->is_cancellable)
        return;
    call->is_given_up = true;
    client_put_cancel(call->client, call->request_id);
}

void grokd_call_cancel(grokd_call *call) {
    call_give_up(call);
    if (!call->rpc->is_cancellable)
        call_end(call, GROKD_CANCELLED, "cancelled");
    if (call->client)
        client_flush(call->client);
}

static void drop_messages(grokd_call *call) {
    list_for_each_safe (node, &call->messages)
        free(container_of(node, struct message, node));
    list_init(&call->messages);
    call->n_queued_bytes = 0;
}

grokd_call *grokd_call_free(grokd_call *call) {
    if (!call)
        return NULL;
    call_give_up(call);
    list_unlink(&call->node);
    if (call->client)
        client_flush(call->client);
    drop_messages(call);
    (void)answer_free(call->answer);
    free(call->request_id);
    free(call);
    return NULL;
}

/* ---- frames ---- */

static void push_message(grokd_call *call, const uint8_t *bytes, size_t n) {
    size_t n_bytes = sizeof(struct message) + n;
    struct message *message;

    if (n_bytes > CALL_QUEUE_BYTES_MAX - call->n_queued_bytes) {
        call_give_up(call);
        call_end(call, GROKD_RESOURCE_EXHAUSTED,
                 "this program left more than %u bytes of events untaken", CALL_QUEUE_BYTES_MAX);
        return;
    }
    message = alloc_resize(NULL, n_bytes);
    if (!message) {
        call_give_up(call);
        call_end(call, GROKD_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    message->n = n;
    if (n > 0)
        (void)memcpy(message->bytes, bytes, n);
    list_push_back(&call->messages, &message->node);
    call->n_queued_bytes += n_bytes;
}

static uint32_t read_retry(const Ttrpc__Status *status) {
    uint64_t us;

    for (size_t i = 0; i < status->n_details; i++)
        if (retry_unpack(status->details[i].data, status->details[i].len, &us))
            return (uint32_t)MIN(us / 1000 + (us % 1000 > 0), (uint64_t)UINT32_MAX);
    return 0;
}

static void on_response(grokd_call *call, const struct ttrpc_frame *frame) {
    Ttrpc__Response *response;
    Error why = ERROR_INIT;
    MsgArena arena;
    int r;

    msg_arena_init(&arena, MSG_BUDGET(frame->n_data));
    r = msg_unpack(&ttrpc__response__descriptor, frame->data, frame->n_data, &arena, &response,
                   &why);
    if (r < 0) {
        call_end(call, GROKD_RESOURCE_EXHAUSTED, "out of memory");
    } else if (r > 0) {
        call_end(call, GROKD_INTERNAL, "grokd's answer is malformed: %s", why.text);
    } else if (response->status && response->status->code != GROKD_OK) {
        call_end(call, response->status->code, "%s", response->status->message);
        call->error.retry_after_ms = read_retry(response->status);
    } else {
        if (!call->rpc->is_stream)
            push_message(call, response->payload.data, response->payload.len);
        call_end(call, GROKD_OK, "%s", "");
    }
    msg_arena_deinit(&arena);
}

void call_on_frame(grokd_call *call, const struct ttrpc_frame *frame) {
    if (frame->type != TTRPC_RESPONSE && frame->type != TTRPC_DATA)
        return; /* of a later version of the protocol */
    if (frame->is_oversize) {
        call_give_up(call);
        call_end(call, GROKD_RESOURCE_EXHAUSTED, "grokd's answer is longer than ttrpc's 4 MiB");
    } else if (frame->type == TTRPC_RESPONSE) {
        on_response(call, frame);
    } else if (!call->rpc->is_stream) {
        call_end(call, GROKD_INTERNAL, "grokd answered %s with a stream", call->rpc->method);
    } else {
        if (!(frame->flags & TTRPC_NO_DATA))
            push_message(call, frame->data, frame->n_data);
        if (frame->flags & TTRPC_REMOTE_CLOSED)
            call_end(call, GROKD_OK, "%s", "");
    }
}

/* ---- taking ---- */

/* Ends the call whatever was said of its end, and forgets what else has come. */
PRINTF_FORMAT(3, 4) static void fail(grokd_call *call, int code, const char *format, ...) {
    va_list args;

    call_give_up(call);
    drop_messages(call);
    call->has_ended = true;
    call->error.code = code;
    va_start(args, format);
    (void)vsnprintf(call->error.text, sizeof(call->error.text), format, args);
    va_end(args);
}

/* Clients of ttrpc have lost frames before: events are numbered, and the last one counts them. */
static bool check_sequence(grokd_call *call, const struct grokd_event *event) {
    uint64_t expected = call->n_events++;

    if (event->seq != expected) {
        fail(call, GROKD_DATA_LOSS, "event %" PRIu64 " of the stream is missing; %" PRIu64 " came",
             expected, event->seq);
        return false;
    }
    if (call->has_final) {
        fail(call, GROKD_DATA_LOSS, "an event came after the final one");
        return false;
    }
    if (event->final && event->final->total_events != call->n_events) {
        fail(call, GROKD_DATA_LOSS, "the stream had %" PRIu64 " events; %" PRIu64 " came",
             event->final->total_events, call->n_events);
        return false;
    }
    call->has_final = event->final != NULL;
    return true;
}

static struct answer *decode(grokd_call *call, const uint8_t *bytes, size_t n) {
    struct answer *answer = alloc_new(struct answer);
    Error why = ERROR_INIT;
    void *m;
    int r = -ENOMEM;

    if (answer) {
        answer->event.request_id = answer->event.model = "";
        /* Room for the message and for what makes it public. */
        msg_arena_init(&answer->arena, 2 * MSG_BUDGET(n));
        r = msg_unpack(call->rpc->answer, bytes, n, &answer->arena, &m, &why);
        if (r == 0)
            r = call->rpc->convert(answer, m);
    }
    if (r == 0)
        return answer;
    if (r == MSG_E_MALFORMED)
        fail(call, GROKD_INTERNAL, "grokd's answer is malformed: %s", why.text);
    else if (r > 0)
        fail(call, GROKD_RESOURCE_EXHAUSTED, "grokd's answer is too large: %s", why.text);
    else
        fail(call, GROKD_RESOURCE_EXHAUSTED, "out of memory");
    return answer_free(answer);
}

/* Decodes the oldest message; false: the call has failed over it. */
static bool take_message(grokd_call *call, const struct grokd_event **ret) {
    struct message *message = list_first(&call->messages, struct message, node);

    list_unlink(&message->node);
    call->n_queued_bytes -= sizeof(*message) + message->n;
    call->answer = answer_free(call->answer);
    call->answer = decode(call, message->bytes, message->n);
    free(message);
    if (!call->answer)
        return false;
    if (call->rpc->is_generate && !check_sequence(call, &call->answer->event))
        return false;
    *ret = &call->answer->event;
    return true;
}

static int tell_end(grokd_call *call, struct grokd_error *error) {
    if (call->rpc->is_generate && call->error.code == GROKD_OK && !call->has_final)
        fail(call, GROKD_DATA_LOSS, "the stream ended without its final event");
    call->was_told = true;
    if (call->error.code == GROKD_OK)
        return GROKD_NEXT_END;
    (void)copy_error(error, &call->error);
    return GROKD_NEXT_FAILED;
}

int grokd_call_next(grokd_call *call, int wait_ms, const struct grokd_event **ret_event,
                    struct grokd_error *error) {
    uint64_t until = wait_ms > 0 ? clock_ms() + (uint64_t)wait_ms : 0, now;
    bool is_patient = wait_ms != 0;

    for (;;) {
        if (!list_is_empty(&call->messages) && take_message(call, ret_event))
            return GROKD_NEXT_EVENT;
        if (call->has_ended)
            return tell_end(call, error);
        if (!is_patient || !client_wait(call->client, wait_ms))
            return GROKD_NEXT_WAIT;
        if (wait_ms > 0) {
            now = clock_ms();
            is_patient = now < until;
            wait_ms = is_patient ? (int)(until - now) : 0;
        }
    }
}

/* ---- small questions ---- */

const char *grokd_call_request_id(const grokd_call *call) {
    return call->request_id;
}

void grokd_call_set_userdata(grokd_call *call, void *userdata) {
    call->userdata = userdata;
}

void *grokd_call_userdata(const grokd_call *call) {
    return call->userdata;
}
