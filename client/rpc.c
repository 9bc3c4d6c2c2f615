/*
 * libgrokd: one function for each method of grokd.proto, from public requests to messages, and the
 * plain functions that wait for a unary call's answer.
 */
#include "base/alloc.h"
#include "client/internal.h"
#include "proto/grokd.pb-c.h"

#include <string.h>

/* ---- requests ---- */

/* protobuf-c's messages have no const, and packing changes nothing. */
#define MUTABLE(type, p) ((type)(uintptr_t)(p))

static char *text_of(const char *s) {
    return MUTABLE(char *, s ? s : "");
}

/* Copies a public request, which may be of an older program (shorter: the rest stays zero) or a
 * newer one (longer: refused where it says something that is unknown here). */
static int take_request(void *to, size_t n, const void *from, struct grokd_error *error) {
    const uint8_t *bytes = from;
    size_t size;

    (void)memcpy(&size, from, sizeof(size));
    if (size < sizeof(size))
        return set_error(error, GROKD_INVALID_ARGUMENT,
                         "the request was not begun with its _INIT value");
    for (size_t i = n; i < size; i++)
        if (bytes[i] != 0)
            return set_error(error, GROKD_INVALID_ARGUMENT,
                             "the program uses fields that this version of libgrokd (%s) lacks",
                             GROKD_VERSION);
    (void)memset(to, 0, n);
    (void)memcpy(to, from, MIN(size, n));
    return GROKD_OK;
}

#define SET_OPTIONAL(m, from, field, case_value)                                                   \
    do {                                                                                           \
        if ((from)->has_##field) {                                                                 \
            (m)->has_##field##_case = (case_value);                                                \
            (m)->field = (from)->field;                                                            \
        }                                                                                          \
    } while (0)

/* The biases as the message wants them: one allocation, of pointers and what they point at. */
static int fill_logit_bias(Grokd__V1__SamplingParams *m, const struct grokd_sampling *s,
                           void **ret_memory, struct grokd_error *error) {
    Grokd__V1__LogitBias **pointers, *biases;

    if (s->n_logit_bias == 0)
        return GROKD_OK;
    *ret_memory = alloc_array(s->n_logit_bias, sizeof(*pointers) + sizeof(*biases));
    if (!*ret_memory)
        return out_of_memory(error);
    biases = *ret_memory;
    pointers = (Grokd__V1__LogitBias **)(biases + s->n_logit_bias);
    for (size_t i = 0; i < s->n_logit_bias; i++) {
        grokd__v1__logit_bias__init(&biases[i]);
        biases[i].token = s->logit_bias[i].token;
        biases[i].bias = s->logit_bias[i].bias;
        pointers[i] = &biases[i];
    }
    m->logit_bias = pointers;
    m->n_logit_bias = s->n_logit_bias;
    return GROKD_OK;
}

static int fill_sampling(Grokd__V1__SamplingParams *m, const struct grokd_sampling *from,
                         void **ret_memory, struct grokd_error *error) {
    struct grokd_sampling s;
    int r;

    r = take_request(&s, sizeof(s), from, error);
    if (r)
        return r;
    SET_OPTIONAL(m, &s, max_tokens, GROKD__V1__SAMPLING_PARAMS__HAS_MAX_TOKENS_MAX_TOKENS);
    SET_OPTIONAL(m, &s, temperature, GROKD__V1__SAMPLING_PARAMS__HAS_TEMPERATURE_TEMPERATURE);
    SET_OPTIONAL(m, &s, top_k, GROKD__V1__SAMPLING_PARAMS__HAS_TOP_K_TOP_K);
    SET_OPTIONAL(m, &s, top_p, GROKD__V1__SAMPLING_PARAMS__HAS_TOP_P_TOP_P);
    SET_OPTIONAL(m, &s, min_p, GROKD__V1__SAMPLING_PARAMS__HAS_MIN_P_MIN_P);
    SET_OPTIONAL(m, &s, repetition_penalty,
                 GROKD__V1__SAMPLING_PARAMS__HAS_REPETITION_PENALTY_REPETITION_PENALTY);
    SET_OPTIONAL(m, &s, presence_penalty,
                 GROKD__V1__SAMPLING_PARAMS__HAS_PRESENCE_PENALTY_PRESENCE_PENALTY);
    SET_OPTIONAL(m, &s, frequency_penalty,
                 GROKD__V1__SAMPLING_PARAMS__HAS_FREQUENCY_PENALTY_FREQUENCY_PENALTY);
    SET_OPTIONAL(m, &s, seed, GROKD__V1__SAMPLING_PARAMS__HAS_SEED_SEED);
    m->stop = MUTABLE(char **, s.stop);
    m->n_stop = s.n_stop;
    m->stop_token_ids = MUTABLE(int32_t *, s.stop_token_ids);
    m->n_stop_token_ids = s.n_stop_token_ids;
    m->banned_strings = MUTABLE(char **, s.banned_strings);
    m->n_banned_strings = s.n_banned_strings;
    m->top_logprobs = s.top_logprobs;
    m->logprobs = s.logprobs;
    m->ignore_eos = s.ignore_eos;
    m->include_stop = s.include_stop;
    return fill_logit_bias(m, &s, ret_memory, error);
}

/* ---- methods ---- */

/* One allocation, of pointers and what they point at. */
static int fill_conversation(Grokd__V1__Conversation *m, const struct grokd_generate_request *q,
                             void **ret_memory, struct grokd_error *error) {
    Grokd__V1__Message **pointers, *messages;

    *ret_memory = alloc_array(q->n_messages + 1, sizeof(*pointers) + sizeof(*messages));
    if (!*ret_memory)
        return out_of_memory(error);
    messages = *ret_memory;
    pointers = (Grokd__V1__Message **)(messages + q->n_messages);
    for (size_t i = 0; i < q->n_messages; i++) {
        grokd__v1__message__init(&messages[i]);
        messages[i].role = text_of(q->messages[i].role);
        messages[i].content = text_of(q->messages[i].content);
        pointers[i] = &messages[i];
    }
    m->messages = pointers;
    m->n_messages = q->n_messages;
    m->template_ = text_of(q->chat_template);
    return GROKD_OK;
}

static const struct rpc generate = {
    .service = "grokd.v1.Inference",
    .method = "Generate",
    .is_stream = true,
    .is_generate = true,
    .is_cancellable = true,
    .answer = &grokd__v1__generate_event__descriptor,
    .convert = convert_generate_event,
};

static int fill_constraint(Grokd__V1__GenerateRequest *m, const struct grokd_generate_request *q,
                           struct grokd_error *error) {
    if ((q->json_schema != NULL) + (q->regex != NULL) + (q->grammar != NULL) > 1)
        return set_error(error, GROKD_INVALID_ARGUMENT,
                         "only one of json_schema, regex and grammar may be given");
    if (q->json_schema) {
        m->constraint_case = GROKD__V1__GENERATE_REQUEST__CONSTRAINT_JSON_SCHEMA;
        m->json_schema = text_of(q->json_schema);
    } else if (q->regex) {
        m->constraint_case = GROKD__V1__GENERATE_REQUEST__CONSTRAINT_REGEX;
        m->regex = text_of(q->regex);
    } else if (q->grammar) {
        m->constraint_case = GROKD__V1__GENERATE_REQUEST__CONSTRAINT_GRAMMAR;
        m->grammar = text_of(q->grammar);
    }
    return GROKD_OK;
}

int grokd_begin_generate(grokd_client *client, const struct grokd_generate_request *request,
                         grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__GenerateRequest m = GROKD__V1__GENERATE_REQUEST__INIT;
    Grokd__V1__SamplingParams sampling = GROKD__V1__SAMPLING_PARAMS__INIT;
    Grokd__V1__Conversation conversation = GROKD__V1__CONVERSATION__INIT;
    Grokd__V1__TokenIds tokens = GROKD__V1__TOKEN_IDS__INIT;
    void *memory CLEANUP(freep) = NULL, *messages CLEANUP(freep) = NULL;
    struct grokd_generate_request q;
    char id[33];
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    if (q.sampling) {
        r = fill_sampling(&sampling, q.sampling, &memory, error);
        if (r)
            return r;
        m.sampling = &sampling;
    }
    r = fill_constraint(&m, &q, error);
    if (r)
        return r;
    call_make_id(id);
    m.model = text_of(q.model);
    m.request_id = q.request_id && *q.request_id ? text_of(q.request_id) : id;
    m.actor = text_of(q.actor);
    m.timeout_ms = q.timeout_ms;
    m.parse_control = q.parse_control;
    m.echo = q.echo;
    m.token_ids = q.token_ids;
    m.share_prefix = q.share_prefix;
    m.priority = (Grokd__V1__Priority)q.priority;
    SET_OPTIONAL(&m, &q, add_bos, GROKD__V1__GENERATE_REQUEST__HAS_ADD_BOS_ADD_BOS);
    if (q.messages) {
        r = fill_conversation(&conversation, &q, &messages, error);
        if (r)
            return r;
        m.prompt_case = GROKD__V1__GENERATE_REQUEST__PROMPT_CONVERSATION;
        m.conversation = &conversation;
    } else if (q.tokens) {
        tokens.ids = MUTABLE(int32_t *, q.tokens);
        tokens.n_ids = q.n_tokens;
        m.prompt_case = GROKD__V1__GENERATE_REQUEST__PROMPT_TOKENS;
        m.tokens = &tokens;
    } else {
        m.prompt_case = GROKD__V1__GENERATE_REQUEST__PROMPT_TEXT;
        m.text = text_of(q.text);
    }
    return call_begin(client, &generate, &m.base, m.request_id, ret, error);
}

static const struct rpc score = {
    .service = "grokd.v1.Inference",
    .method = "Score",
    .is_cancellable = true,
    .answer = &grokd__v1__score_response__descriptor,
    .convert = convert_score,
};

int grokd_begin_score(grokd_client *client, const struct grokd_score_request *request,
                      grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__ScoreRequest m = GROKD__V1__SCORE_REQUEST__INIT;
    Grokd__V1__TokenIds tokens = GROKD__V1__TOKEN_IDS__INIT;
    struct grokd_score_request q;
    char id[33];
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    call_make_id(id);
    m.model = text_of(q.model);
    m.request_id = q.request_id && *q.request_id ? text_of(q.request_id) : id;
    m.actor = text_of(q.actor);
    m.timeout_ms = q.timeout_ms;
    m.top_logprobs = q.top_logprobs;
    m.parse_control = q.parse_control;
    m.priority = (Grokd__V1__Priority)q.priority;
    SET_OPTIONAL(&m, &q, add_bos, GROKD__V1__SCORE_REQUEST__HAS_ADD_BOS_ADD_BOS);
    if (q.tokens) {
        tokens.ids = MUTABLE(int32_t *, q.tokens);
        tokens.n_ids = q.n_tokens;
        m.prompt_case = GROKD__V1__SCORE_REQUEST__PROMPT_TOKENS;
        m.tokens = &tokens;
    } else {
        m.prompt_case = GROKD__V1__SCORE_REQUEST__PROMPT_TEXT;
        m.text = text_of(q.text);
    }
    return call_begin(client, &score, &m.base, m.request_id, ret, error);
}

static const struct rpc embed = {
    .service = "grokd.v1.Inference",
    .method = "Embed",
    .is_cancellable = true,
    .answer = &grokd__v1__embed_response__descriptor,
    .convert = convert_embed,
};

/* The messages of one input. */
struct embed_input {
    Grokd__V1__EmbedInput message;
    Grokd__V1__TokenIds tokens;
};

static void fill_inputs(struct embed_input *inputs, const struct grokd_embed_request *q,
                        Grokd__V1__EmbedInput **ret_pointers) {
    for (size_t i = 0; i < q->n_inputs; i++) {
        struct embed_input *input = &inputs[i];

        grokd__v1__embed_input__init(&input->message);
        grokd__v1__token_ids__init(&input->tokens);
        ret_pointers[i] = &input->message;
        if (q->inputs[i].tokens) {
            input->tokens.ids = MUTABLE(int32_t *, q->inputs[i].tokens);
            input->tokens.n_ids = q->inputs[i].n_tokens;
            input->message.input_case = GROKD__V1__EMBED_INPUT__INPUT_TOKENS;
            input->message.tokens = &input->tokens;
        } else {
            input->message.input_case = GROKD__V1__EMBED_INPUT__INPUT_TEXT;
            input->message.text = text_of(q->inputs[i].text);
        }
    }
}

int grokd_begin_embed(grokd_client *client, const struct grokd_embed_request *request,
                      grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__EmbedRequest m = GROKD__V1__EMBED_REQUEST__INIT;
    CLEANUP(freep) Grokd__V1__EmbedInput **pointers = NULL;
    CLEANUP(freep) struct embed_input *inputs = NULL;
    struct grokd_embed_request q;
    char id[33];
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    inputs = alloc_array(q.n_inputs, sizeof(*inputs));
    pointers = alloc_array(q.n_inputs, sizeof(Grokd__V1__EmbedInput *));
    if (!inputs || !pointers)
        return out_of_memory(error);
    call_make_id(id);
    fill_inputs(inputs, &q, pointers);
    m.model = text_of(q.model);
    m.inputs = pointers;
    m.n_inputs = q.n_inputs;
    m.pooling = (Grokd__V1__Pooling)q.pooling;
    m.request_id = q.request_id && *q.request_id ? text_of(q.request_id) : id;
    m.timeout_ms = q.timeout_ms;
    m.parse_control = q.parse_control;
    m.actor = text_of(q.actor);
    m.priority = (Grokd__V1__Priority)q.priority;
    SET_OPTIONAL(&m, &q, normalize, GROKD__V1__EMBED_REQUEST__HAS_NORMALIZE_NORMALIZE);
    SET_OPTIONAL(&m, &q, add_bos, GROKD__V1__EMBED_REQUEST__HAS_ADD_BOS_ADD_BOS);
    return call_begin(client, &embed, &m.base, m.request_id, ret, error);
}

static const struct rpc tokenize = {
    .service = "grokd.v1.Inference",
    .method = "Tokenize",
    .answer = &grokd__v1__tokenize_response__descriptor,
    .convert = convert_tokenize,
};

int grokd_begin_tokenize(grokd_client *client, const struct grokd_tokenize_request *request,
                         grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__TokenizeRequest m = GROKD__V1__TOKENIZE_REQUEST__INIT;
    struct grokd_tokenize_request q;
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    m.model = text_of(q.model);
    m.text = text_of(q.text);
    SET_OPTIONAL(&m, &q, add_bos, GROKD__V1__TOKENIZE_REQUEST__HAS_ADD_BOS_ADD_BOS);
    m.parse_control = q.parse_control;
    m.pieces = q.pieces;
    return call_begin(client, &tokenize, &m.base, "", ret, error);
}

static const struct rpc detokenize = {
    .service = "grokd.v1.Inference",
    .method = "Detokenize",
    .answer = &grokd__v1__detokenize_response__descriptor,
    .convert = convert_detokenize,
};

int grokd_begin_detokenize(grokd_client *client, const struct grokd_detokenize_request *request,
                           grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__DetokenizeRequest m = GROKD__V1__DETOKENIZE_REQUEST__INIT;
    struct grokd_detokenize_request q;
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    m.model = text_of(q.model);
    m.ids = MUTABLE(int32_t *, q.ids);
    m.n_ids = q.n_ids;
    m.control = q.control;
    return call_begin(client, &detokenize, &m.base, "", ret, error);
}

static const struct rpc cancel = {
    .service = "grokd.v1.Inference",
    .method = "Cancel",
    .answer = &grokd__v1__cancel_response__descriptor,
    .convert = convert_cancel,
};

int grokd_begin_cancel(grokd_client *client, const char *request_id, grokd_call **ret,
                       struct grokd_error *error) {
    Grokd__V1__CancelRequest m = GROKD__V1__CANCEL_REQUEST__INIT;

    m.request_id = text_of(request_id);
    return call_begin(client, &cancel, &m.base, "", ret, error);
}

static const struct rpc list_models = {
    .service = "grokd.v1.Models",
    .method = "List",
    .answer = &grokd__v1__list_models_response__descriptor,
    .convert = convert_list_models,
};

int grokd_begin_list_models(grokd_client *client, grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__ListModelsRequest m = GROKD__V1__LIST_MODELS_REQUEST__INIT;

    return call_begin(client, &list_models, &m.base, "", ret, error);
}

static const struct rpc show_model = {
    .service = "grokd.v1.Models",
    .method = "Show",
    .answer = &grokd__v1__show_model_response__descriptor,
    .convert = convert_show_model,
};

int grokd_begin_show_model(grokd_client *client, const char *model, grokd_call **ret,
                           struct grokd_error *error) {
    Grokd__V1__ShowModelRequest m = GROKD__V1__SHOW_MODEL_REQUEST__INIT;

    m.model = text_of(model);
    return call_begin(client, &show_model, &m.base, "", ret, error);
}

static const struct rpc load_model = {
    .service = "grokd.v1.Models",
    .method = "Load",
    .is_stream = true,
    .answer = &grokd__v1__load_model_event__descriptor,
    .convert = convert_load_progress,
};

int grokd_begin_load_model(grokd_client *client, const struct grokd_load_model_request *request,
                           grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__LoadModelRequest m = GROKD__V1__LOAD_MODEL_REQUEST__INIT;
    struct grokd_load_model_request q;
    int r;

    r = take_request(&q, sizeof(q), request, error);
    if (r)
        return r;
    m.model = text_of(q.model);
    m.path = text_of(q.path);
    m.pin = q.pin;
    return call_begin(client, &load_model, &m.base, "", ret, error);
}

static const struct rpc unload_model = {
    .service = "grokd.v1.Models",
    .method = "Unload",
    .answer = &grokd__v1__unload_model_response__descriptor,
    .convert = convert_unload_model,
};

int grokd_begin_unload_model(grokd_client *client, const char *model, grokd_call **ret,
                             struct grokd_error *error) {
    Grokd__V1__UnloadModelRequest m = GROKD__V1__UNLOAD_MODEL_REQUEST__INIT;

    m.model = text_of(model);
    return call_begin(client, &unload_model, &m.base, "", ret, error);
}

static const struct rpc top = {
    .service = "grokd.v1.Admin",
    .method = "Top",
    .is_stream = true,
    .answer = &grokd__v1__top_event__descriptor,
    .convert = convert_top,
};

int grokd_begin_top(grokd_client *client, uint32_t interval_ms, grokd_call **ret,
                    struct grokd_error *error) {
    Grokd__V1__TopRequest m = GROKD__V1__TOP_REQUEST__INIT;

    m.interval_ms = interval_ms;
    return call_begin(client, &top, &m.base, "", ret, error);
}

static const struct rpc status = {
    .service = "grokd.v1.Admin",
    .method = "Status",
    .answer = &grokd__v1__status_response__descriptor,
    .convert = convert_status,
};

int grokd_begin_status(grokd_client *client, grokd_call **ret, struct grokd_error *error) {
    Grokd__V1__StatusRequest m = GROKD__V1__STATUS_REQUEST__INIT;

    return call_begin(client, &status, &m.base, "", ret, error);
}

/* ---- plain functions ---- */

/* Waits for a unary call's end, takes its answer out of it and frees it. */
static int wait_for_answer(grokd_call *call, struct answer **ret, struct grokd_error *error) {
    struct answer *answer = NULL;
    const struct grokd_event *event;
    struct grokd_error why = {0};
    int r;

    do {
        r = grokd_call_next(call, -1, &event, &why);
        if (r == GROKD_NEXT_EVENT) {
            (void)answer_free(answer);
            answer = take_ptr(call->answer);
        }
    } while (r == GROKD_NEXT_EVENT || r == GROKD_NEXT_WAIT);
    (void)grokd_call_free(call);
    if (r == GROKD_NEXT_FAILED) {
        (void)answer_free(answer);
        return copy_error(error, &why);
    }
    if (!answer)
        return set_error(error, GROKD_INTERNAL, "grokd ended the call without an answer");
    *ret = answer;
    return GROKD_OK;
}

/* After grokd_begin_…(): `field` is the event's; the struct is the library's own memory. */
#define FINISH(call, field, ret, error)                                                            \
    do {                                                                                           \
        struct answer *_answer = NULL;                                                             \
        int _r = wait_for_answer((call), &_answer, (error));                                       \
        if (_answer)                                                                               \
            *(ret) = MUTABLE(__typeof__(*(ret)), _answer->event.field);                            \
        return _r;                                                                                 \
    } while (0)

void grokd_free(void *public) {
    if (public)
        (void)answer_free(answer_of(public));
}

int grokd_score(grokd_client *client, const struct grokd_score_request *request,
                struct grokd_score_response **ret, struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_score(client, request, &call, error);
    if (r)
        return r;
    FINISH(call, score, ret, error);
}

int grokd_embed(grokd_client *client, const struct grokd_embed_request *request,
                struct grokd_embed_response **ret, struct grokd_error *error) {
    grokd_call *call = NULL;
    int r;

    r = grokd_begin_embed(client, request, &call, error);
    if (r)
        return r;
    FINISH(call, embed, ret, error);
}

int grokd_tokenize(grokd_client *client, const struct grokd_tokenize_request *request,
                   struct grokd_tokenize_response **ret, struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_tokenize(client, request, &call, error);
    if (r)
        return r;
    FINISH(call, tokenize, ret, error);
}

int grokd_detokenize(grokd_client *client, const struct grokd_detokenize_request *request,
                     struct grokd_detokenize_response **ret, struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_detokenize(client, request, &call, error);
    if (r)
        return r;
    FINISH(call, detokenize, ret, error);
}

int grokd_cancel(grokd_client *client, const char *request_id, struct grokd_cancel_response **ret,
                 struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_cancel(client, request_id, &call, error);
    if (r)
        return r;
    FINISH(call, cancel, ret, error);
}

int grokd_list_models(grokd_client *client, struct grokd_list_models_response **ret,
                      struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_list_models(client, &call, error);
    if (r)
        return r;
    FINISH(call, list_models, ret, error);
}

int grokd_show_model(grokd_client *client, const char *model,
                     struct grokd_show_model_response **ret, struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_show_model(client, model, &call, error);
    if (r)
        return r;
    FINISH(call, show_model, ret, error);
}

int grokd_unload_model(grokd_client *client, const char *model, struct grokd_error *error) {
    struct answer *answer;
    grokd_call *call;
    int r;

    r = grokd_begin_unload_model(client, model, &call, error);
    if (r)
        return r;
    r = wait_for_answer(call, &answer, error);
    if (r == GROKD_OK)
        (void)answer_free(answer);
    return r;
}

int grokd_status(grokd_client *client, struct grokd_status_response **ret,
                 struct grokd_error *error) {
    grokd_call *call;
    int r;

    r = grokd_begin_status(client, &call, error);
    if (r)
        return r;
    FINISH(call, status, ret, error);
}
