/*
 * libgrokd against a server made of our own codec: every field of every message there and back,
 * streams and their ends, cancel, time limits, a server that dies at every byte, and both ways of
 * waiting.
 */
#include "base/alloc.h"
#include "client/grokd.h"
#include "proto/grokd.pb-c.h"
#include "proto/msg.h"
#include "proto/retry.h"
#include "proto/ttrpc.h"
#include "tests/util/test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

/* ---- the server: answers by what the request's text says ---- */

struct server {
    int fd;
    void *codec;
    uint64_t running; /* the Generate or Score that waits for Cancel; 0: none */
    char running_id[64];
    unsigned n_cancels;
};

#define TEXT(s) ((char *)(uintptr_t)(s))

static enum codec_kind on_kind(void *userdata, const char *service, const char *method) {
    static const char *const known[] = {"grokd.v1.Inference", "grokd.v1.Models", "grokd.v1.Admin"};

    (void)userdata;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (strcmp(service, known[i]) == 0)
            return strcmp(method, "Generate") == 0 || strcmp(method, "Load") == 0
                       ? CODEC_SERVER_STREAM
                       : CODEC_UNARY;
    return CODEC_UNKNOWN_SERVICE;
}

static void send_packed(struct server *s, uint64_t stream, const ProtobufCMessage *m) {
    Buf b CLEANUP(buf_deinit) = BUF_INIT(TTRPC_DATA_MAX);

    assert(msg_pack(m, &b) == 0);
    assert(ttrpc_codec.send_message(s->codec, stream, buf_bytes(&b), buf_size(&b)) == 0);
}

static void answer(struct server *s, uint64_t stream, const ProtobufCMessage *m) {
    Buf b CLEANUP(buf_deinit) = BUF_INIT(TTRPC_DATA_MAX);

    assert(msg_pack(m, &b) == 0);
    assert(ttrpc_codec.finish(s->codec, stream, STATUS_OK, NULL, buf_bytes(&b), buf_size(&b)) == 0);
}

static void end(struct server *s, uint64_t stream, enum status_code code, const char *sentence) {
    assert(ttrpc_codec.finish(s->codec, stream, code, sentence, NULL, 0) == 0);
}

static void send_chunk(struct server *s, uint64_t stream, uint64_t seq, const char *text) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Chunk chunk = GROKD__V1__CHUNK__INIT;

    event.seq = seq;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_CHUNK;
    event.chunk = &chunk;
    chunk.text = TEXT(text);
    send_packed(s, stream, &event.base);
}

static void send_final(struct server *s, uint64_t stream, uint64_t seq, uint64_t total) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Final final = GROKD__V1__FINAL__INIT;
    Grokd__V1__Usage usage = GROKD__V1__USAGE__INIT;

    event.seq = seq;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_FINAL;
    event.final = &final;
    final.total_events = total;
    final.finish_reason = GROKD__V1__FINISH_REASON__FINISH_REASON_STOP;
    final.stop = TEXT("END");
    final.usage = &usage;
    usage.prompt_tokens = 1;
    usage.generated_tokens = 2;
    usage.cached_tokens = 3;
    usage.queued_us = 4;
    usage.prefill_us = 5;
    usage.decode_us = 6;
    usage.seed = 1ull << 63;
    send_packed(s, stream, &event.base);
}

/* Queued, prefill, a chunk with all it can have, final. */
static void send_every_event(struct server *s, uint64_t stream, const char *request_id) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Queued queued = GROKD__V1__QUEUED__INIT;
    Grokd__V1__PrefillProgress prefill = GROKD__V1__PREFILL_PROGRESS__INIT;
    Grokd__V1__Chunk chunk = GROKD__V1__CHUNK__INIT;
    Grokd__V1__TokenLogprobs first = GROKD__V1__TOKEN_LOGPROBS__INIT, second = first;
    Grokd__V1__Logprob chosen = GROKD__V1__LOGPROB__INIT, other = chosen;
    Grokd__V1__TokenLogprobs *logprobs[] = {&first, &second};
    Grokd__V1__Logprob *top[] = {&chosen, &other};
    int32_t ids[] = {7, -1};

    event.request_id = TEXT(request_id);
    event.model = TEXT("demo");
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_QUEUED;
    event.queued = &queued;
    queued.position = 3;
    queued.estimated_wait_us = 1ull << 40;
    send_packed(s, stream, &event.base);
    event = (Grokd__V1__GenerateEvent)GROKD__V1__GENERATE_EVENT__INIT;
    event.seq = 1;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_PREFILL;
    event.prefill = &prefill;
    prefill.done_tokens = 64;
    prefill.total_tokens = 100;
    prefill.cached_tokens = 32;
    send_packed(s, stream, &event.base);
    event.seq = 2;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_CHUNK;
    event.chunk = &chunk;
    chunk.text = TEXT("żó");
    chunk.token_ids = ids;
    chunk.n_token_ids = 2;
    chunk.logprobs = logprobs;
    chunk.n_logprobs = 2;
    chosen.token = 7;
    chosen.logprob = -0.5f;
    chosen.text = (ProtobufCBinaryData){.data = (uint8_t *)TEXT("\xc5\x00x"), .len = 3};
    other.token = 8;
    first.chosen = &chosen;
    first.top = top;
    first.n_top = 2;
    send_packed(s, stream, &event.base);
    send_final(s, stream, 3, 4);
    end(s, stream, STATUS_OK, NULL);
}

static void check_every_generate_field(const Grokd__V1__GenerateRequest *m) {
    const Grokd__V1__SamplingParams *p = m->sampling;

    assert(m->prompt_case == GROKD__V1__GENERATE_REQUEST__PROMPT_TOKENS);
    assert(m->tokens->n_ids == 3 && m->tokens->ids[2] == 300);
    assert(strcmp(m->request_id, "mine") == 0 && m->timeout_ms == 1234);
    assert(m->has_add_bos_case && !m->add_bos && m->parse_control && m->echo && m->token_ids);
    assert(m->priority == GROKD__V1__PRIORITY__PRIORITY_BATCH);
    assert(p && p->has_max_tokens_case && p->max_tokens == 5);
    assert(p->has_temperature_case && p->temperature == 0.0f);
    assert(p->has_top_k_case && p->top_k == 40 && p->has_top_p_case && p->top_p == 0.9f);
    assert(p->has_min_p_case && p->min_p == 0.1f);
    assert(p->has_repetition_penalty_case && p->repetition_penalty == 1.1f);
    assert(p->has_presence_penalty_case && p->presence_penalty == 0.2f);
    assert(p->has_frequency_penalty_case && p->frequency_penalty == 0.3f);
    assert(p->has_seed_case && p->seed == 0);
    assert(p->n_stop == 2 && strcmp(p->stop[1], "END") == 0);
    assert(p->n_stop_token_ids == 1 && p->stop_token_ids[0] == 9);
    assert(p->n_banned_strings == 1 && strcmp(p->banned_strings[0], "no") == 0);
    assert(p->n_logit_bias == 2 && p->logit_bias[1]->token == 11 && p->logit_bias[1]->bias == -2);
    assert(p->top_logprobs == 4 && p->logprobs && p->ignore_eos && p->include_stop);
}

static void on_generate(struct server *s, uint64_t stream, const Grokd__V1__GenerateRequest *m) {
    const char *text = m->prompt_case == GROKD__V1__GENERATE_REQUEST__PROMPT_TEXT ? m->text : "";

    if (strcmp(m->model, "every-field") == 0)
        check_every_generate_field(m);
    if (strcmp(text, "fail") == 0) {
        send_chunk(s, stream, 0, "half");
        end(s, stream, STATUS_ABORTED, "half way");
    } else if (strcmp(text, "full") == 0) {
        uint8_t detail[RETRY_BYTES_MAX];
        size_t n = retry_pack(1234567, detail);

        assert(ttrpc_codec.finish(s->codec, stream, STATUS_RESOURCE_EXHAUSTED, "later", detail,
                                  n) == 0);
    } else if (strcmp(text, "gap") == 0) {
        send_chunk(s, stream, 0, "a");
        send_chunk(s, stream, 2, "c");
    } else if (strcmp(text, "short") == 0) {
        send_chunk(s, stream, 0, "a");
        send_final(s, stream, 1, 3);
        end(s, stream, STATUS_OK, NULL);
    } else if (strcmp(text, "no final") == 0) {
        send_chunk(s, stream, 0, "a");
        end(s, stream, STATUS_OK, NULL);
    } else if (strcmp(text, "wait") == 0) {
        send_chunk(s, stream, 0, "a");
        s->running = stream;
        (void)snprintf(s->running_id, sizeof(s->running_id), "%s", m->request_id);
    } else if (strcmp(text, "flood") == 0) {
        for (uint64_t seq = 0; seq < 50000; seq++)
            send_chunk(s, stream, seq, "many");
        send_final(s, stream, 50000, 50001);
        end(s, stream, STATUS_OK, NULL);
    } else {
        send_every_event(s, stream, m->request_id);
    }
}

static void fill_summary(Grokd__V1__ModelSummary *m) {
    grokd__v1__model_summary__init(m);
    m->name = TEXT("grok-1");
    m->path = TEXT("/models/grok-1.gguf");
    m->state = GROKD__V1__MODEL_STATE__MODEL_STATE_FAILED;
    m->error = TEXT("no such file");
    m->architecture = TEXT("grok");
    m->parameters = 314000000000;
    m->file_bytes = 170000000000;
    m->is_default = true;
    m->is_demo = true;
}

static void answer_score(struct server *s, uint64_t stream) {
    Grokd__V1__ScoreResponse m = GROKD__V1__SCORE_RESPONSE__INIT;
    Grokd__V1__TokenLogprobs token = GROKD__V1__TOKEN_LOGPROBS__INIT, *tokens[] = {&token};
    Grokd__V1__Usage usage = GROKD__V1__USAGE__INIT;

    m.tokens = tokens;
    m.n_tokens = 1;
    m.sum_logprob = -1.5;
    m.perplexity = 2.5;
    m.usage = &usage;
    usage.prompt_tokens = 77;
    answer(s, stream, &m.base);
}

static void answer_tokenize(struct server *s, uint64_t stream,
                            const Grokd__V1__TokenizeRequest *q) {
    Grokd__V1__TokenizeResponse m = GROKD__V1__TOKENIZE_RESPONSE__INIT;
    ProtobufCBinaryData pieces[2] = {{.len = 0}, {.data = (uint8_t *)TEXT("a\0b"), .len = 3}};
    int32_t ids[] = {1, 2};

    if (strcmp(q->text, "silence") == 0)
        return;
    if (strcmp(q->text, "refuse") == 0) {
        end(s, stream, STATUS_NOT_FOUND, "there is no such model");
        return;
    }
    assert(strcmp(q->model, "m") == 0 && q->has_add_bos_case && q->add_bos && q->parse_control);
    assert(q->pieces);
    m.ids = ids;
    m.n_ids = 2;
    m.pieces = pieces;
    m.n_pieces = 2;
    answer(s, stream, &m.base);
}

static void answer_show(struct server *s, uint64_t stream) {
    Grokd__V1__ShowModelResponse m = GROKD__V1__SHOW_MODEL_RESPONSE__INIT;
    Grokd__V1__ModelSummary summary;

    fill_summary(&summary);
    m.summary = &summary;
    m.title = TEXT("t");
    m.description = TEXT("d");
    m.license = TEXT("l");
    m.weight_types = TEXT("w");
    m.parameters_per_expert = 101;
    m.parameters_active = 102;
    m.half_precision_bytes = 103;
    m.active_bytes = 104;
    m.kv_bytes_per_token = 105;
    m.kv_bytes_max = 106;
    m.layers = 107;
    m.experts = 108;
    m.experts_used = 109;
    m.embedding_size = 110;
    m.feed_forward_size = 111;
    m.heads = 112;
    m.kv_heads = 113;
    m.head_size = 114;
    m.vocabulary = 115;
    m.context_trained = 116;
    m.context_max = 117;
    m.bos_token = -1;
    m.eos_token = 118;
    m.add_bos = true;
    m.chat_template = TEXT("c");
    m.instruction_set = TEXT("i");
    m.resident_bytes = 119;
    m.huge_page_bytes = 120;
    m.locked_bytes = 121;
    m.numa_nodes = 2;
    m.node_bytes = (uint64_t[]){122, 123};
    m.n_node_bytes = 2;
    m.home_bytes = 124;
    m.away_bytes = 125;
    m.kv_type = TEXT("f32");
    answer(s, stream, &m.base);
}

static void answer_status(struct server *s, uint64_t stream) {
    Grokd__V1__StatusResponse m = GROKD__V1__STATUS_RESPONSE__INIT;
    Grokd__V1__ModelSummary summary, *models[] = {&summary, &summary};

    fill_summary(&summary);
    m.version = TEXT("9.9");
    m.uptime_us = 1;
    m.pid = 2;
    m.threads = 3;
    m.instruction_set = TEXT("vnni");
    m.connections = 4;
    m.requests_running = 5;
    m.requests_queued = 6;
    m.requests_total = 7;
    m.requests_failed = 8;
    m.prompt_tokens_total = 9;
    m.generated_tokens_total = 10;
    m.resident_bytes = 11;
    m.kv_pages_used = 12;
    m.kv_pages_total = 13;
    m.models = models;
    m.n_models = 2;
    m.draining = true;
    m.steps_total = 14;
    m.kv_type = TEXT("q8_0");
    answer(s, stream, &m.base);
}

static void on_load(struct server *s, uint64_t stream, const Grokd__V1__LoadModelRequest *q) {
    Grokd__V1__LoadModelEvent m = GROKD__V1__LOAD_MODEL_EVENT__INIT;
    Grokd__V1__ModelSummary summary;

    assert(strcmp(q->model, "m") == 0 && strcmp(q->path, "/p") == 0);
    fill_summary(&summary);
    m.done_bytes = 5;
    m.total_bytes = 10;
    send_packed(s, stream, &m.base);
    m.done_bytes = 10;
    m.summary = &summary;
    send_packed(s, stream, &m.base);
    end(s, stream, STATUS_OK, NULL);
}

static void on_cancel_request(struct server *s, uint64_t stream, const char *request_id) {
    Grokd__V1__CancelResponse m = GROKD__V1__CANCEL_RESPONSE__INIT;

    s->n_cancels++;
    m.found = s->running && strcmp(s->running_id, request_id) == 0;
    if (m.found) {
        end(s, s->running, STATUS_CANCELLED, "cancelled by the client");
        s->running = 0;
    }
    answer(s, stream, &m.base);
}

/* Unpacks the request as the method's, in the order of the list. */
static void on_request(void *userdata, const struct codec_request *request) {
    static const struct {
        const char *method;
        const ProtobufCMessageDescriptor *type;
    } methods[] = {
        {"Generate", &grokd__v1__generate_request__descriptor},
        {"Score", &grokd__v1__score_request__descriptor},
        {"Tokenize", &grokd__v1__tokenize_request__descriptor},
        {"Detokenize", &grokd__v1__detokenize_request__descriptor},
        {"Cancel", &grokd__v1__cancel_request__descriptor},
        {"List", &grokd__v1__list_models_request__descriptor},
        {"Show", &grokd__v1__show_model_request__descriptor},
        {"Load", &grokd__v1__load_model_request__descriptor},
        {"Unload", &grokd__v1__unload_model_request__descriptor},
        {"Status", &grokd__v1__status_request__descriptor},
    };
    Grokd__V1__DetokenizeResponse detokenized = GROKD__V1__DETOKENIZE_RESPONSE__INIT;
    Grokd__V1__ListModelsResponse list = GROKD__V1__LIST_MODELS_RESPONSE__INIT;
    Grokd__V1__ModelSummary summary, *summaries[] = {&summary};
    struct server *s = userdata;
    uint64_t stream = request->stream;
    MsgArena arena;
    size_t i = 0;
    void *m;

    while (i < ARRAY_SIZE(methods) && strcmp(methods[i].method, request->method) != 0)
        i++;
    assert(i < ARRAY_SIZE(methods));
    msg_arena_init(&arena, MSG_BUDGET(request->n_payload));
    assert(msg_unpack(methods[i].type, request->payload, request->n_payload, &arena, &m, NULL) ==
           0);
    switch (i) {
    case 0:
        on_generate(s, stream, m);
        break;
    case 1:
        assert(((Grokd__V1__ScoreRequest *)m)->tokens->ids[0] == 5);
        assert(((Grokd__V1__ScoreRequest *)m)->top_logprobs == 2);
        assert(((Grokd__V1__ScoreRequest *)m)->timeout_ms == 50);
        assert(strlen(((Grokd__V1__ScoreRequest *)m)->request_id) == 32);
        answer_score(s, stream);
        break;
    case 2:
        answer_tokenize(s, stream, m);
        break;
    case 3:
        assert(((Grokd__V1__DetokenizeRequest *)m)->ids[1] == 2);
        assert(((Grokd__V1__DetokenizeRequest *)m)->control);
        detokenized.text = (ProtobufCBinaryData){.data = (uint8_t *)TEXT("a\0b"), .len = 3};
        answer(s, stream, &detokenized.base);
        break;
    case 4:
        on_cancel_request(s, stream, ((Grokd__V1__CancelRequest *)m)->request_id);
        break;
    case 5:
        fill_summary(&summary);
        list.models = summaries;
        list.n_models = 1;
        answer(s, stream, &list.base);
        break;
    case 6:
        assert(strcmp(((Grokd__V1__ShowModelRequest *)m)->model, "m") == 0);
        answer_show(s, stream);
        break;
    case 7:
        on_load(s, stream, m);
        break;
    case 8:
        assert(strcmp(((Grokd__V1__UnloadModelRequest *)m)->model, "m") == 0);
        answer(s, stream,
               &(Grokd__V1__UnloadModelResponse)GROKD__V1__UNLOAD_MODEL_RESPONSE__INIT.base);
        break;
    default:
        answer_status(s, stream);
    }
    msg_arena_deinit(&arena);
}

static void on_codec_cancel(void *userdata, uint64_t stream) {
    (void)userdata;
    (void)stream;
    assert(!"libgrokd breaks no rule");
}

static void server_init(struct server *s, int fd) {
    struct codec_env env = {
        .userdata = s, .kind = on_kind, .on_request = on_request, .on_cancel = on_codec_cancel};

    *s = (struct server){.fd = fd};
    assert((s->codec = alloc_array(1, ttrpc_codec.state_size)));
    assert(ttrpc_codec.init(s->codec, &env) == 0);
}

static void server_deinit(struct server *s) {
    ttrpc_codec.deinit(s->codec);
    free(s->codec);
    (void)close(s->fd);
}

/* Reads what has come; false at its end. */
static bool server_read(struct server *s, int flags) {
    uint8_t bytes[4096];
    ssize_t n = recv(s->fd, bytes, sizeof(bytes), flags);

    if (n <= 0)
        return false;
    assert(ttrpc_codec.feed(s->codec, bytes, (size_t)n) == 0);
    return true;
}

static void server_write(struct server *s, size_t n_max) {
    const uint8_t *bytes;
    size_t n = MIN(ttrpc_codec.pending(s->codec, &bytes), n_max);
    ssize_t sent = n > 0 ? send(s->fd, bytes, n, MSG_NOSIGNAL) : 0;

    if (sent > 0)
        ttrpc_codec.drained(s->codec, (size_t)sent);
}

/* A server in a process of its own, for blocking calls. */
static pid_t server_start(grokd_client **ret) {
    int fds[2];
    pid_t pid;

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    pid = fork();
    assert(pid >= 0);
    if (pid == 0) {
        struct server s;

        (void)close(fds[0]);
        server_init(&s, fds[1]);
        while (server_read(&s, 0))
            server_write(&s, SIZE_MAX);
        server_deinit(&s);
        exit(0);
    }
    (void)close(fds[1]);
    assert(grokd_connect_fd(ret, fds[0], NULL) == GROKD_OK);
    return pid;
}

static void server_stop(pid_t pid, grokd_client *client) {
    int status;

    assert(grokd_client_free(client) == NULL);
    assert(waitpid(pid, &status, 0) == pid && status == 0);
}

/* A server in this process, for calls that don't block. */
static grokd_client *connect_here(struct server *s) {
    grokd_client *client;
    int fds[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    server_init(s, fds[1]);
    assert(grokd_connect_fd(&client, fds[0], NULL) == GROKD_OK);
    return client;
}

static grokd_call *begin(grokd_client *client, const char *text) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    grokd_call *call;

    request.text = text;
    assert(grokd_begin_generate(client, &request, &call, NULL) == GROKD_OK);
    return call;
}

/* ---- every field ---- */

static void check_usage(const struct grokd_usage *u) {
    assert(u->prompt_tokens == 1 && u->generated_tokens == 2 && u->cached_tokens == 3);
    assert(u->queued_us == 4 && u->prefill_us == 5 && u->decode_us == 6 && u->seed == 1ull << 63);
}

static void check_events(grokd_call *call, const char *request_id) {
    const struct grokd_event *e;
    const struct grokd_token_logprobs *t;

    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT && e->queued);
    assert(e->seq == 0 && strcmp(e->request_id, request_id) == 0 && strcmp(e->model, "demo") == 0);
    assert(e->queued->estimated_wait_us == 1ull << 40);
    assert(e->queued->position == 3 && !e->chunk && !e->final && !e->prefill && !e->status);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT && e->prefill && !e->queued);
    assert(e->prefill->cached_tokens == 32);
    assert(e->prefill->done_tokens == 64 && e->prefill->total_tokens == 100 && e->seq == 1);
    assert(strcmp(e->request_id, "") == 0 && strcmp(e->model, "") == 0);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT && e->chunk);
    assert(strcmp(e->chunk->text, "żó") == 0);
    assert(e->chunk->n_token_ids == 2 && e->chunk->token_ids[1] == -1);
    assert(e->chunk->n_logprobs == 2);
    t = e->chunk->logprobs;
    assert(t[0].chosen->token == 7 && t[0].chosen->logprob == -0.5f && t[0].n_top == 2);
    assert(t[0].chosen->n_text == 3 && memcmp(t[0].chosen->text, "\xc5\0x", 4) == 0);
    assert(t[0].top[1].token == 8 && strcmp(t[0].top[1].text, "") == 0);
    assert(!t[1].chosen && t[1].n_top == 0);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT && e->final);
    assert(e->final->finish_reason == GROKD_FINISH_STOP && e->final->total_events == 4);
    assert(strcmp(e->final->stop, "END") == 0);
    check_usage(e->final->usage);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_END);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_END);
}

static void test_generate_carries_every_field(void) {
    static const char *const stop[] = {"a", "END"}, *const banned[] = {"no"};
    static const struct grokd_logit_bias bias[] = {{10, 1}, {11, -2}};
    static const int32_t tokens[] = {1, 2, 300}, stop_ids[] = {9};
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    grokd_client *client;
    pid_t pid = server_start(&client);
    grokd_call *call;

    request.model = "every-field";
    request.tokens = tokens;
    request.n_tokens = 3;
    request.sampling = &sampling;
    request.request_id = "mine";
    request.timeout_ms = 1234;
    request.priority = GROKD_PRIORITY_BATCH;
    request.has_add_bos = request.parse_control = request.echo = request.token_ids = true;
    sampling.has_max_tokens = sampling.has_temperature = sampling.has_top_k = true;
    sampling.has_top_p = sampling.has_min_p = sampling.has_repetition_penalty = true;
    sampling.has_presence_penalty = sampling.has_frequency_penalty = sampling.has_seed = true;
    sampling.max_tokens = 5;
    sampling.top_k = 40;
    sampling.top_p = 0.9f;
    sampling.min_p = 0.1f;
    sampling.repetition_penalty = 1.1f;
    sampling.presence_penalty = 0.2f;
    sampling.frequency_penalty = 0.3f;
    sampling.stop = stop;
    sampling.n_stop = 2;
    sampling.stop_token_ids = stop_ids;
    sampling.n_stop_token_ids = 1;
    sampling.banned_strings = banned;
    sampling.n_banned_strings = 1;
    sampling.logit_bias = bias;
    sampling.n_logit_bias = 2;
    sampling.top_logprobs = 4;
    sampling.logprobs = sampling.ignore_eos = sampling.include_stop = true;
    assert(grokd_begin_generate(client, &request, &call, NULL) == GROKD_OK);
    assert(strcmp(grokd_call_request_id(call), "mine") == 0);
    check_events(call, "mine");
    assert(grokd_call_free(call) == NULL);
    server_stop(pid, client);
}

static void check_summary(const struct grokd_model_summary *m) {
    assert(strcmp(m->name, "grok-1") == 0 && strcmp(m->path, "/models/grok-1.gguf") == 0);
    assert(m->state == GROKD_MODEL_FAILED && strcmp(m->error, "no such file") == 0);
    assert(strcmp(m->architecture, "grok") == 0 && m->parameters == 314000000000);
    assert(m->file_bytes == 170000000000 && m->is_default && m->is_demo);
}

static void check_show(const struct grokd_show_model_response *m) {
    check_summary(m->summary);
    assert(strcmp(m->title, "t") == 0 && strcmp(m->description, "d") == 0);
    assert(strcmp(m->license, "l") == 0 && strcmp(m->weight_types, "w") == 0);
    assert(m->parameters_per_expert == 101 && m->parameters_active == 102);
    assert(m->half_precision_bytes == 103 && m->active_bytes == 104);
    assert(m->kv_bytes_per_token == 105 && m->kv_bytes_max == 106 && m->layers == 107);
    assert(m->experts == 108 && m->experts_used == 109 && m->embedding_size == 110);
    assert(m->feed_forward_size == 111 && m->heads == 112 && m->kv_heads == 113);
    assert(m->head_size == 114 && m->vocabulary == 115 && m->context_trained == 116);
    assert(m->context_max == 117 && m->bos_token == -1 && m->eos_token == 118 && m->add_bos);
    assert(strcmp(m->chat_template, "c") == 0 && strcmp(m->instruction_set, "i") == 0);
    assert(m->resident_bytes == 119 && m->huge_page_bytes == 120 && m->locked_bytes == 121);
    assert(m->numa_nodes == 2 && m->n_node_bytes == 2);
    assert(m->node_bytes[0] == 122 && m->node_bytes[1] == 123);
    assert(m->home_bytes == 124 && m->away_bytes == 125 && strcmp(m->kv_type, "f32") == 0);
}

static void check_status(const struct grokd_status_response *m) {
    assert(strcmp(m->version, "9.9") == 0 && strcmp(m->instruction_set, "vnni") == 0);
    assert(m->uptime_us == 1 && m->pid == 2 && m->threads == 3 && m->connections == 4);
    assert(m->requests_running == 5 && m->requests_queued == 6 && m->requests_total == 7);
    assert(m->requests_failed == 8 && m->prompt_tokens_total == 9);
    assert(m->generated_tokens_total == 10 && m->resident_bytes == 11 && m->kv_pages_used == 12);
    assert(m->kv_pages_total == 13 && m->draining && m->steps_total == 14 && m->n_models == 2);
    assert(strcmp(m->kv_type, "q8_0") == 0);
    check_summary(m->models[1]);
}

static void test_unary_calls_carry_every_field(void) {
    static const int32_t ids[] = {5, 2};
    struct grokd_score_request score = GROKD_SCORE_REQUEST_INIT;
    struct grokd_tokenize_request tokenize = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_detokenize_request detokenize = GROKD_DETOKENIZE_REQUEST_INIT;
    struct grokd_score_response *scored;
    struct grokd_tokenize_response *tokenized;
    struct grokd_detokenize_response *detokenized;
    struct grokd_cancel_response *cancelled;
    struct grokd_list_models_response *list;
    struct grokd_show_model_response *shown;
    struct grokd_status_response *status;
    grokd_client *client;
    pid_t pid = server_start(&client);

    score.tokens = detokenize.ids = ids;
    score.n_tokens = detokenize.n_ids = 2;
    score.top_logprobs = 2;
    score.timeout_ms = 50;
    assert(grokd_score(client, &score, &scored, NULL) == GROKD_OK);
    assert(scored->n_tokens == 1 && !scored->tokens[0].chosen && scored->sum_logprob == -1.5);
    assert(scored->perplexity == 2.5 && scored->usage->prompt_tokens == 77);
    grokd_free(scored);
    tokenize.model = "m";
    tokenize.has_add_bos = tokenize.add_bos = tokenize.parse_control = tokenize.pieces = true;
    assert(grokd_tokenize(client, &tokenize, &tokenized, NULL) == GROKD_OK);
    assert(tokenized->n_ids == 2 && tokenized->ids[1] == 2 && tokenized->n_pieces == 2);
    assert(tokenized->pieces[0].n == 0 && tokenized->pieces[0].bytes[0] == 0);
    assert(tokenized->pieces[1].n == 3 && memcmp(tokenized->pieces[1].bytes, "a\0b", 4) == 0);
    grokd_free(tokenized);
    detokenize.control = true;
    assert(grokd_detokenize(client, &detokenize, &detokenized, NULL) == GROKD_OK);
    assert(detokenized->n_text == 3 && memcmp(detokenized->text, "a\0b", 4) == 0);
    grokd_free(detokenized);
    assert(grokd_cancel(client, "nothing", &cancelled, NULL) == GROKD_OK && !cancelled->found);
    grokd_free(cancelled);
    assert(grokd_list_models(client, &list, NULL) == GROKD_OK && list->n_models == 1);
    check_summary(list->models[0]);
    grokd_free(list);
    assert(grokd_show_model(client, "m", &shown, NULL) == GROKD_OK);
    check_show(shown);
    grokd_free(shown);
    assert(grokd_unload_model(client, "m", NULL) == GROKD_OK);
    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    check_status(status);
    grokd_free(status);
    grokd_free(NULL);
    server_stop(pid, client);
}

static void test_load_is_a_stream(void) {
    struct grokd_load_model_request request = GROKD_LOAD_MODEL_REQUEST_INIT;
    const struct grokd_event *e;
    grokd_client *client;
    pid_t pid = server_start(&client);
    grokd_call *call;

    request.model = "m";
    request.path = "/p";
    assert(grokd_begin_load_model(client, &request, &call, NULL) == GROKD_OK);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT && !e->load->summary);
    assert(e->load->done_bytes == 5 && e->load->total_bytes == 10);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT);
    check_summary(e->load->summary);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_END);
    (void)grokd_call_free(call);
    server_stop(pid, client);
}

/* ---- requests of other versions ---- */

static void test_requests_of_other_versions(void) {
    struct {
        struct grokd_tokenize_request request;
        uint64_t newer;
    } longer = {.request = GROKD_TOKENIZE_REQUEST_INIT};
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_error error;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *call;

    longer.request.size = sizeof(longer);
    assert(grokd_begin_tokenize(client, &longer.request, &call, &error) == GROKD_OK);
    (void)grokd_call_free(call);
    longer.newer = 1;
    assert(grokd_begin_tokenize(client, &longer.request, &call, &error) == GROKD_INVALID_ARGUMENT);
    request.size = offsetof(struct grokd_tokenize_request, text); /* no text yet */
    request.text = (const char *)1;
    assert(grokd_begin_tokenize(client, &request, &call, &error) == GROKD_OK);
    (void)grokd_call_free(call);
    request.size = 0;
    assert(grokd_begin_tokenize(client, &request, &call, &error) == GROKD_INVALID_ARGUMENT);
    assert(strstr(error.text, "_INIT"));
    (void)grokd_client_free(client);
    server_deinit(&s);
}

static void test_a_request_too_long_is_refused_here(void) {
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    char *text = alloc_array(TTRPC_DATA_MAX + 1, 1);
    struct grokd_error error;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *call;
    int n = 0, r;

    assert(text);
    (void)memset(text, 'a', TTRPC_DATA_MAX);
    request.text = text;
    assert(grokd_begin_tokenize(client, &request, &call, &error) == GROKD_RESOURCE_EXHAUSTED);
    text[TTRPC_DATA_MAX - 30] = 0; /* fits the message, not the frame around it */
    assert(grokd_begin_tokenize(client, &request, &call, &error) == GROKD_RESOURCE_EXHAUSTED);
    /* A server that doesn't read: what is kept for it is limited. */
    text[TTRPC_DATA_MAX / 2] = 0;
    while ((r = grokd_begin_tokenize(client, &request, &call, &error)) == GROKD_OK)
        assert(++n < 20);
    assert(n > 5 && r == GROKD_RESOURCE_EXHAUSTED && strstr(error.text, "does not read"));
    assert(grokd_events(client) == (POLLIN | POLLOUT));
    while ((call = grokd_ready(client)))
        (void)grokd_call_free(call);
    free(text);
    server_deinit(&s);
    assert(grokd_process(client, &error) == GROKD_UNAVAILABLE && grokd_events(client) == 0);
    while ((call = grokd_ready(client)))
        (void)grokd_call_free(call);
    (void)grokd_client_free(client);
}

/* ---- endings ---- */

static void test_failures_carry_code_and_sentence(void) {
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_tokenize_response *response;
    const struct grokd_event *e;
    struct grokd_error error;
    grokd_client *client;
    pid_t pid = server_start(&client);
    grokd_call *call;

    request.text = "refuse";
    assert(grokd_tokenize(client, &request, &response, &error) == GROKD_NOT_FOUND);
    assert(error.code == GROKD_NOT_FOUND && strcmp(error.text, "there is no such model") == 0);
    call = begin(client, "fail");
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_EVENT);
    assert(strcmp(e->chunk->text, "half") == 0);
    for (int i = 0; i < 2; i++) {
        assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
        assert(error.code == GROKD_ABORTED && strcmp(error.text, "half way") == 0);
        assert(error.retry_after_ms == 0);
    }
    (void)grokd_call_free(call);
    call = begin(client, "full");
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_RESOURCE_EXHAUSTED && strcmp(error.text, "later") == 0);
    assert(error.retry_after_ms == 1235); /* rounded up */
    (void)grokd_call_free(call);
    server_stop(pid, client);
}

static void test_lost_events_are_noticed(void) {
    static const char *const texts[] = {"gap", "short", "no final"};
    static const char *const words[] = {"event 1", "3 events; 2 came", "final"};
    const struct grokd_event *e;
    struct grokd_error error;
    grokd_client *client;
    pid_t pid = server_start(&client);

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        grokd_call *call = begin(client, texts[i]);

        assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_EVENT);
        assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
        assert(error.code == GROKD_DATA_LOSS && strstr(error.text, words[i]));
        assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
        (void)grokd_call_free(call);
    }
    server_stop(pid, client);
}

static void test_cancel_ends_a_stream_by_the_daemons_word(void) {
    const struct grokd_event *e;
    struct grokd_error error;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *call = begin(client, "wait"), *other = begin(client, "wait");

    assert(server_read(&s, 0));
    server_write(&s, SIZE_MAX);
    assert(grokd_process(client, NULL) == GROKD_OK);
    assert(grokd_call_next(other, 0, &e, NULL) == GROKD_NEXT_EVENT);
    grokd_call_cancel(other);
    grokd_call_cancel(other);
    assert(grokd_call_next(other, 0, &e, NULL) == GROKD_NEXT_WAIT);
    assert(server_read(&s, 0) && s.n_cancels == 1 && s.running == 0);
    server_write(&s, SIZE_MAX);
    assert(grokd_call_next(other, -1, &e, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_CANCELLED && strcmp(error.text, "cancelled by the client") == 0);
    /* Freeing asks for the same. */
    (void)grokd_call_free(other);
    (void)grokd_call_free(call);
    assert(server_read(&s, 0) && s.n_cancels == 2);
    /* What can't be ended there ends here. */
    assert(grokd_begin_status(client, &call, NULL) == GROKD_OK);
    grokd_call_cancel(call);
    assert(grokd_call_next(call, 0, &e, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_CANCELLED);
    (void)grokd_call_free(call);
    assert(server_read(&s, 0));
    server_write(&s, SIZE_MAX);
    assert(grokd_process(client, NULL) == GROKD_OK && grokd_ready(client) == NULL);
    (void)grokd_client_free(client);
    server_deinit(&s);
}

static void test_a_time_limit_ends_a_call_here_too(void) {
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_tokenize_response *response;
    struct grokd_error error;
    const struct grokd_event *e;
    grokd_client *client;
    pid_t pid = server_start(&client);
    grokd_call *call;

    assert(grokd_timeout_ms(client) == -1);
    grokd_set_timeout(client, 50);
    request.text = "silence";
    assert(grokd_tokenize(client, &request, &response, &error) == GROKD_DEADLINE_EXCEEDED);
    call = begin(client, "wait");
    assert(grokd_timeout_ms(client) >= 0 && grokd_timeout_ms(client) <= 50);
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_EVENT);
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_DEADLINE_EXCEEDED && strstr(error.text, "50 ms"));
    (void)grokd_call_free(call);
    grokd_set_timeout(client, 0);
    call = begin(client, "wait");
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_EVENT);
    assert(grokd_call_next(call, 30, &e, &error) == GROKD_NEXT_WAIT);
    (void)grokd_call_free(call);
    server_stop(pid, client);
}

static void on_alarm(int signal) {
    (void)signal;
}

static void test_a_signal_interrupts_waiting(void) {
    struct itimerval timer = {.it_value = {.tv_usec = 30000}};
    struct sigaction action = {.sa_handler = on_alarm};
    const struct grokd_event *e;
    grokd_client *client;
    pid_t pid = server_start(&client);
    grokd_call *call = begin(client, "wait");

    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_EVENT);
    assert(sigaction(SIGALRM, &action, NULL) == 0);
    assert(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    assert(grokd_call_next(call, -1, &e, NULL) == GROKD_NEXT_WAIT);
    (void)grokd_call_free(call);
    server_stop(pid, client);
}

/* Every prefix of the server's answer, then its end: the call fails, or has come whole. */
static void test_the_server_may_die_at_every_byte(void) {
    const uint8_t *bytes;
    size_t n_total = SIZE_MAX;

    for (size_t n = 0; n <= n_total; n++) {
        const struct grokd_event *e;
        struct grokd_error error = {0};
        struct server s;
        grokd_client *client = connect_here(&s);
        grokd_call *call = begin(client, "all");
        int n_events = 0, r;

        assert(server_read(&s, 0));
        n_total = ttrpc_codec.pending(s.codec, &bytes);
        server_write(&s, n);
        server_deinit(&s);
        while ((r = grokd_call_next(call, -1, &e, &error)) == GROKD_NEXT_EVENT)
            n_events++;
        assert(r == (n == n_total ? GROKD_NEXT_END : GROKD_NEXT_FAILED));
        assert(n < n_total ? n_events <= 4 : n_events == 4);
        assert(n == n_total || error.code == GROKD_UNAVAILABLE);
        assert(n == n_total || strstr(error.text, "closed the connection"));
        (void)grokd_call_free(call);
        assert(grokd_begin_status(client, &call, &error) ==
               (n == n_total ? GROKD_OK : GROKD_UNAVAILABLE));
        if (n == n_total) {
            assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
            assert(error.code == GROKD_UNAVAILABLE);
            (void)grokd_call_free(call);
        }
        (void)grokd_client_free(client);
    }
    assert(n_total > 100 && n_total != SIZE_MAX);
}

/* Hostile bytes instead of a server: nothing but failures may come of them. */
static void test_the_server_may_say_anything(void) {
    static const struct {
        const char *bytes;
        size_t n;
        int code;
    } cases[] = {
        {"HTTP/1.1 400 Bad", 16, GROKD_UNAVAILABLE},
        {"\0\0\0\0\0\0\0\1\2\0", 10, GROKD_DATA_LOSS}, /* success without events */
        {"\0\0\0\1\0\0\0\1\2\0\xff", 11, GROKD_INTERNAL},
        {"\0\0\0\1\0\0\0\1\3\0\xff", 11, GROKD_INTERNAL},
        {"\0\0\0\0\0\0\0\1\3\5", 10, GROKD_DATA_LOSS},
        {"\0\x40\0\1\0\0\0\1\3\0", 10, GROKD_RESOURCE_EXHAUSTED},            /* oversize */
        {"\0\0\0\0\0\0\0\3\2\0\0\0\0\0\0\0\0\1\7\0", 20, GROKD_UNAVAILABLE}, /* all ignored */
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct grokd_event *e;
        struct grokd_error error = {0};
        struct server s;
        grokd_client *client = connect_here(&s);
        grokd_call *call = begin(client, "all");

        assert(send(s.fd, cases[i].bytes, cases[i].n, 0) == (ssize_t)cases[i].n);
        server_deinit(&s);
        assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
        assert(error.code == cases[i].code);
        (void)grokd_call_free(call);
        (void)grokd_client_free(client);
    }
}

/* ---- event loops ---- */

static void test_several_calls_in_an_event_loop(void) {
    const struct grokd_event *e;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *calls[20], *call;
    size_t n_ended = 0, n_events = 0;

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        calls[i] = begin(client, "all");
        grokd_call_set_userdata(calls[i], &calls[i]);
    }
    while (n_ended < ARRAY_SIZE(calls)) {
        struct pollfd fds[] = {{.fd = grokd_fd(client), .events = (short)grokd_events(client)},
                               {.fd = s.fd, .events = POLLIN}};

        assert(poll(fds, 2, 5000) > 0);
        if (fds[1].revents)
            assert(server_read(&s, 0));
        server_write(&s, 7); /* frames in pieces */
        assert(grokd_process(client, NULL) == GROKD_OK);
        while ((call = grokd_ready(client))) {
            int r = grokd_call_next(call, 0, &e, NULL);

            assert(*(grokd_call **)grokd_call_userdata(call) == call);
            n_events += r == GROKD_NEXT_EVENT;
            n_ended += r == GROKD_NEXT_END;
            assert(r == GROKD_NEXT_EVENT || r == GROKD_NEXT_END);
        }
        server_write(&s, SIZE_MAX); /* or it would take long */
    }
    assert(n_events == 4 * ARRAY_SIZE(calls) && grokd_ready(client) == NULL);
    /* Calls may outlive their client. */
    (void)grokd_client_free(client);
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        (void)grokd_call_free(calls[i]);
    server_deinit(&s);
}

static void test_calls_outlive_their_client(void) {
    const struct grokd_event *e;
    struct grokd_error error;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *call = begin(client, "wait");

    (void)grokd_client_free(client);
    assert(grokd_call_next(call, -1, &e, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_CANCELLED);
    grokd_call_cancel(call);
    (void)grokd_call_free(call);
    server_deinit(&s);
}

/* Who takes nothing while the loop goes on loses that call, not the connection. */
static void test_untaken_events_are_limited(void) {
    const struct grokd_event *e;
    struct grokd_error error;
    struct server s;
    grokd_client *client = connect_here(&s);
    grokd_call *call = begin(client, "flood"), *other;
    int n = 0, r;

    /* 50001 events of about 55 bytes in memory each make 3 MB: all are kept. */
    assert(server_read(&s, 0));
    while (n++ < 100000 && ttrpc_codec.pending(s.codec, &(const uint8_t *){NULL}) > 0) {
        server_write(&s, 4096);
        assert(grokd_process(client, NULL) == GROKD_OK);
    }
    for (n = 0; (r = grokd_call_next(call, 0, &e, &error)) == GROKD_NEXT_EVENT;)
        n++;
    assert(r == GROKD_NEXT_END && n == 50001);
    (void)grokd_call_free(call);
    /* Without an end in sight they are not. */
    call = begin(client, "wait");
    assert(server_read(&s, 0));
    for (uint64_t seq = 1; s.running && seq < 1000000; seq++) {
        send_chunk(&s, s.running, seq, "0123456789012345678901234567890123456789");
        if (seq % 64 == 0) {
            server_write(&s, SIZE_MAX);
            assert(grokd_process(client, NULL) == GROKD_OK);
            while (server_read(&s, MSG_DONTWAIT)) /* the library asks for an end by itself */
                ;
        }
    }
    assert(s.running == 0 && s.n_cancels == 1);
    assert(grokd_begin_status(client, &other, NULL) == GROKD_OK);
    assert(server_read(&s, 0));
    for (int i = 0; i < 100; i++) {
        server_write(&s, SIZE_MAX);
        assert(grokd_process(client, NULL) == GROKD_OK);
    }
    assert(grokd_call_next(other, 0, &e, &error) == GROKD_NEXT_EVENT && e->status);
    while ((r = grokd_call_next(call, 0, &e, &error)) == GROKD_NEXT_EVENT)
        ;
    assert(r == GROKD_NEXT_FAILED && error.code == GROKD_RESOURCE_EXHAUSTED);
    (void)grokd_call_free(call);
    (void)grokd_call_free(other);
    (void)grokd_client_free(client);
    server_deinit(&s);
}

/* ---- connecting, memory ---- */

static void test_connecting_says_what_is_wrong(void) {
    char long_path[200];
    struct grokd_error error;
    grokd_client *client;

    (void)memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = 0;
    assert(grokd_connect(&client, "/nonexistent/sock", &error) == GROKD_UNAVAILABLE);
    assert(strstr(error.text, "/nonexistent/sock: No such file") &&
           strstr(error.text, "is grokd running?"));
    assert(grokd_connect(&client, long_path, &error) == GROKD_INVALID_ARGUMENT);
    assert(setenv("GROKD_SOCKET", "/nonexistent/other", 1) == 0);
    assert(grokd_connect(&client, NULL, &error) == GROKD_UNAVAILABLE);
    assert(strstr(error.text, "/nonexistent/other"));
    assert(unsetenv("GROKD_SOCKET") == 0);
    assert(grokd_connect(&client, NULL, NULL) != GROKD_OK || client);
    assert(grokd_connect_fd(&client, -1, &error) == GROKD_INVALID_ARGUMENT);
    assert(strcmp(grokd_code_name(14), "UNAVAILABLE") == 0);
    assert(strcmp(grokd_code_name(99), "UNKNOWN") == 0);
    assert(strcmp(grokd_model_state_name(GROKD_MODEL_READY), "ready") == 0);
    assert(strcmp(grokd_model_state_name(77), "unspecified") == 0);
    assert(strcmp(grokd_finish_reason_name(GROKD_FINISH_LENGTH), "length") == 0);
    assert(strchr(grokd_version(), '.'));
}

static int dialogue(size_t n_allocations) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    static const struct grokd_logit_bias bias = {1, 1};
    const struct grokd_event *e;
    struct grokd_error error = {0};
    struct server s;
    grokd_client *client = NULL;
    grokd_call *call = NULL;
    int fds[2], r;

    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    server_init(&s, fds[1]);
    request.text = "all";
    request.sampling = &sampling;
    sampling.logit_bias = &bias;
    sampling.n_logit_bias = 1;
    alloc_fail_after(n_allocations);
    r = grokd_connect_fd(&client, fds[0], &error);
    if (r != GROKD_OK)
        (void)close(fds[0]);
    else
        r = grokd_begin_generate(client, &request, &call, &error);
    if (r == GROKD_OK) {
        /* The server's own allocations don't fail: it has its turn beside the count. */
        pid_t pid = fork();

        assert(pid >= 0);
        if (pid == 0) {
            alloc_fail_after(0);
            assert(server_read(&s, 0));
            server_write(&s, SIZE_MAX);
            _exit(0);
        }
        assert(waitpid(pid, &r, 0) == pid && r == 0);
        while ((r = grokd_call_next(call, -1, &e, &error)) == GROKD_NEXT_EVENT)
            ;
        r = r == GROKD_NEXT_END ? GROKD_OK : error.code;
    }
    (void)grokd_call_free(call);
    (void)grokd_client_free(client);
    alloc_fail_after(0);
    server_deinit(&s);
    return r;
}

static void test_every_allocation_may_fail(void) {
    size_t n = 1;
    int r;

    do {
        assert(n < 1000);
        r = dialogue(n++);
        assert(r == GROKD_OK || r == GROKD_RESOURCE_EXHAUSTED || r == GROKD_UNAVAILABLE);
    } while (r != GROKD_OK);
    assert(n > 10);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(generate_carries_every_field),
        TEST(unary_calls_carry_every_field),
        TEST(load_is_a_stream),
        TEST(requests_of_other_versions),
        TEST(a_request_too_long_is_refused_here),
        TEST(failures_carry_code_and_sentence),
        TEST(lost_events_are_noticed),
        TEST(cancel_ends_a_stream_by_the_daemons_word),
        TEST(a_time_limit_ends_a_call_here_too),
        TEST(a_signal_interrupts_waiting),
        TEST(the_server_may_die_at_every_byte),
        TEST(the_server_may_say_anything),
        TEST(several_calls_in_an_event_loop),
        TEST(calls_outlive_their_client),
        TEST(untaken_events_are_limited),
        TEST(connecting_says_what_is_wrong),
        TEST(every_allocation_may_fail),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
