/* Inference.*: requests are checked, their text turned to tokens, and handed to the worker. */
#include "base/alloc.h"
#include "daemon/chat.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/service.h"
#include "daemon/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Beyond it the answer would not fit into one message, whatever the vocabulary. */
#define TOKENIZE_TOKENS_MAX (CODEC_MESSAGE_BYTES_MAX - 64)
/* A log-probability on the wire takes no less: two tags, a length, a float, an id. */
#define LOGPROB_BYTES_MIN 9

/* ---- ids ---- */

static const Call *find_request(const Daemon *d, const char *id, uid_t uid, bool any_user) {
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each (node, &d->calls[i]) {
            const Call *call = container_of(node, Call, id_node);

            if (call->method->is_inference && strcmp(call->request_id, id) == 0 &&
                (any_user || call->conn->uid == uid))
                return call;
        }
    return NULL;
}

/* Returns false where the call is over. */
bool inference_take_request_id(Call *call, const char *id) {
    if (call->request_id[0])
        return true; /* it runs again */
    if (strlen(id) > CALL_ID_MAX) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "a request_id has at most %d bytes", CALL_ID_MAX);
        return false;
    }
    if (id[0] && find_request(call->daemon, id, call->conn->uid, false)) {
        call_fail(call, STATUS_ALREADY_EXISTS, "request_id '%s' is in use", id);
        return false;
    }
    if (id[0])
        (void)snprintf(call->request_id, sizeof(call->request_id), "%s", id);
    else
        (void)snprintf(call->request_id, sizeof(call->request_id), "%d-%" PRIu64, (int)getpid(),
                       call->id);
    return true;
}

void inference_cancel(Call *call, void *request) {
    const Grokd__V1__CancelRequest *q = request;
    Grokd__V1__CancelResponse answer = GROKD__V1__CANCEL_RESPONSE__INIT;
    const Call *found;

    if (q->request_id[0] == '\0') {
        call_fail(call, STATUS_INVALID_ARGUMENT, "Cancel needs a request_id");
        return;
    }
    while ((found = find_request(call->daemon, q->request_id, call->conn->uid,
                                 call->conn->uid == 0)) != NULL) {
        answer.found = true;
        call_fail((Call *)(uintptr_t)found, STATUS_CANCELLED, "cancelled on request");
    }
    call_reply(call, &answer.base);
}

/* ---- parameters ---- */

/* One block of memory, filled from the start. */
struct filler {
    char *at;
    size_t n;
};

static void *fill(struct filler *f, const void *bytes, size_t n) {
    void *p = f->at;

    if (n > 0 && bytes)
        (void)memcpy(p, bytes, n);
    f->at += n;
    return p;
}

static size_t strings_bytes(size_t n, char *const *strings) {
    size_t sum = n * sizeof(struct gk_string);

    for (size_t i = 0; i < n; i++)
        sum += strlen(strings[i]);
    return sum;
}

static void fill_strings(struct gk_string *to, struct filler *f, size_t n, char *const *strings) {
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes = strlen(strings[i]);

        to[i] = (struct gk_string){.bytes = fill(f, strings[i], n_bytes), .n = n_bytes};
    }
}

/* Arrays first, as they want alignment, bytes last. */
static int fill_lists(Job *job, const Grokd__V1__SamplingParams *s, size_t *ret_n) {
    size_t n =
        strings_bytes(s->n_stop, s->stop) + strings_bytes(s->n_banned_strings, s->banned_strings) +
        s->n_logit_bias * sizeof(struct gk_logit_bias) + s->n_stop_token_ids * sizeof(int32_t);
    struct gk_params *p = &job->params;
    struct gk_string *stop, *banned;
    struct gk_logit_bias *bias;
    struct filler f;

    job->params_memory = alloc_array(n + 1, 1);
    if (!job->params_memory)
        return -ENOMEM;
    f = (struct filler){.at = job->params_memory};
    stop = fill(&f, NULL, s->n_stop * sizeof(*stop));
    banned = fill(&f, NULL, s->n_banned_strings * sizeof(*banned));
    bias = fill(&f, NULL, s->n_logit_bias * sizeof(*bias));
    for (size_t i = 0; i < s->n_logit_bias; i++)
        bias[i] = (struct gk_logit_bias){.token = s->logit_bias[i]->token,
                                         .bias = s->logit_bias[i]->bias};
    p->stop_tokens = fill(&f, s->stop_token_ids, s->n_stop_token_ids * sizeof(int32_t));
    p->n_stop_tokens = s->n_stop_token_ids;
    fill_strings(stop, &f, s->n_stop, s->stop);
    fill_strings(banned, &f, s->n_banned_strings, s->banned_strings);
    p->stop_strings = stop;
    p->n_stop_strings = s->n_stop;
    p->banned_strings = banned;
    p->n_banned_strings = s->n_banned_strings;
    p->logit_bias = bias;
    p->n_logit_bias = s->n_logit_bias;
    *ret_n = n;
    return 0;
}

static uint64_t random_seed(void) {
    uint64_t seed = 0;

    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
        seed = uv_hrtime();
    return seed;
}

static void fill_numbers(struct gk_params *p, const Grokd__V1__SamplingParams *s) {
    if (s->has_max_tokens_case)
        p->n_tokens_max = s->max_tokens;
    if (s->has_temperature_case)
        p->temperature = s->temperature;
    if (s->has_top_k_case)
        p->top_k = s->top_k;
    if (s->has_top_p_case)
        p->top_p = s->top_p;
    if (s->has_min_p_case)
        p->min_p = s->min_p;
    if (s->has_repetition_penalty_case)
        p->repetition_penalty = s->repetition_penalty;
    if (s->has_presence_penalty_case)
        p->presence_penalty = s->presence_penalty;
    if (s->has_frequency_penalty_case)
        p->frequency_penalty = s->frequency_penalty;
    if (s->has_seed_case)
        p->seed = s->seed;
    else if (p->temperature > 0)
        p->seed = random_seed();
    p->n_logprobs = s->top_logprobs;
    p->logprobs = s->logprobs || s->top_logprobs > 0;
    p->ignore_eos = s->ignore_eos;
    p->stop_in_output = s->include_stop;
}

static bool check_logprobs(Call *call, uint32_t n) {
    if (n <= GK_LOGPROBS_MAX)
        return true;
    call_fail(call, STATUS_INVALID_ARGUMENT, "top_logprobs %u is more than %d", n, GK_LOGPROBS_MAX);
    return false;
}

/* Returns false where the call is over. */
static bool take_sampling(Call *call, Job *job, const Grokd__V1__SamplingParams *s) {
    size_t n = 0;

    if (!s)
        return true;
    if (s->has_max_tokens_case && s->max_tokens == 0) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "max_tokens must be at least 1");
        return false;
    }
    if (!check_logprobs(call, s->top_logprobs))
        return false;
    fill_numbers(&job->params, s);
    call->seed = job->params.seed;
    call->output.wants_logprobs = job->params.logprobs;
    call->output.n_top = s->top_logprobs;
    if (fill_lists(job, s, &n) < 0) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    return call_charge(call, n);
}

/* ---- to the worker ---- */

/* Takes the job, or ends the call. */
void inference_push(Call *call, Job *job) {
    Daemon *d = call->daemon;
    Model *model = call->model;

    call->n_prompt = job->n_tokens;
    job->deadline_us = call->deadline_us;
    if (!call_charge_job(call, job)) {
        (void)job_free(job);
        return;
    }
    if (call->queued_us == 0) /* else it waited for its model */
        call->queued_us = daemon_now_us(d);
    if (worker_push(&d->worker, job) != 0) {
        call_release_job(job);
        (void)job_free(job);
        call_refuse(call, "too many requests are waiting");
        return;
    }
    model_use(model); /* until the job comes back */
    call->job = job;
    call_set_state(call, CALL_QUEUED);
}

/* What is not given is clipped to the context that is left; what is given is refused beyond it. */
static void push_generate(Call *call, Job *job) {
    uint64_t n_context = gk_engine_info(call->model->engine)->n_context_max;
    uint64_t n_default = call->daemon->config->n_tokens_default;
    uint64_t n_prompt = job->n_tokens, n_wanted = job->params.n_tokens_max;

    if (n_prompt >= n_context || n_wanted > n_context - n_prompt) {
        call_fail(call, STATUS_INVALID_ARGUMENT,
                  "%" PRIu64 " prompt tokens and %" PRIu64
                  " to generate exceed the context of %" PRIu64,
                  n_prompt, MAX(n_wanted, (uint64_t)1), n_context);
        (void)job_free(job);
        return;
    }
    if (n_wanted == 0) {
        n_context = MIN(n_context, MAX(n_prompt + 1, call->account->user->max[QUOTA_CONTEXT]));
        job->params.n_tokens_max = (uint32_t)MIN(n_default, n_context - n_prompt);
    }
    inference_push(call, job);
}

static bool make_scores(Call *call, const Job *job) {
    size_t n_each = 1 + (size_t)job->params.n_logprobs;
    struct call_scores *scores = &call->scores;

    if (!call_charge(call, job->n_tokens * n_each * sizeof(*scores->entries)))
        return false;
    scores->entries = alloc_array(job->n_tokens * n_each, sizeof(*scores->entries));
    if (!scores->entries) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    scores->n_tokens = job->n_tokens;
    scores->n_top = job->params.n_logprobs;
    for (size_t i = 0; i < job->n_tokens; i++)
        for (size_t j = 0; j < n_each; j++)
            scores->entries[i * n_each + j].token = j == 0 ? job->tokens[i] : -1;
    return true;
}

static void push_score(Call *call, Job *job) {
    size_t n_context = gk_engine_info(call->model->engine)->n_context_max;
    size_t n_each = 1 + (size_t)job->params.n_logprobs;

    if (job->n_tokens > n_context)
        call_fail(call, STATUS_INVALID_ARGUMENT, "%zu tokens exceed the context of %zu",
                  job->n_tokens, n_context);
    else if (job->n_tokens * n_each > CODEC_MESSAGE_BYTES_MAX / LOGPROB_BYTES_MIN)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED,
                  "%zu tokens with %u alternatives each do not fit into one answer", job->n_tokens,
                  job->params.n_logprobs);
    else if (make_scores(call, job)) {
        inference_push(call, job);
        return;
    }
    (void)job_free(job);
}

static void push_any(Call *call, Job *job) {
    if (job->params.mode == GK_SCORE)
        push_score(call, job);
    else
        push_generate(call, job);
}

/* ---- the prompt ---- */

/* What the work has made and the request needs. Returns false where the call is over. */
static bool keep_results(Call *call, Job *job, TextWork *w) {
    size_t n = 0;

    if (call->output.wants_echo) {
        call->echo = take_ptr(w->text);
        n += w->n_text + 1;
    }
    job->params.constraint = job->constraint = take_ptr(w->constraint);
    if (job->constraint)
        n += gk_constraint_bytes(job->constraint);
    return call_charge(call, n);
}

static void on_prompt(Call *call, TextWork *w) {
    Job *job;

    if (w->result != 0) {
        call_fail(call, service_status_of(w->result), "%s", w->error.text);
        return;
    }
    job = take_ptr(w->job);
    if (!job->tokens) {
        job->tokens = take_ptr(w->tokens);
        job->n_tokens = w->n_tokens;
    }
    if (w->kind == TEXT_CONVERSATION && chat_add_end(job, w) < 0) {
        (void)job_free(job);
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    if (keep_results(call, job, w))
        push_any(call, job);
    else
        (void)job_free(job);
}

unsigned inference_bos_flags(int has_add_bos, bool add_bos, bool parse_control) {
    return (!has_add_bos ? 0
            : add_bos    ? GK_TOKENIZE_BOS
                         : GK_TOKENIZE_NO_BOS) |
           (parse_control ? GK_TOKENIZE_CONTROL : 0);
}

static bool copy_tokens(Call *call, Job *job, const Grokd__V1__TokenIds *ids) {
    job->tokens = alloc_array(ids->n_ids + 1, sizeof(*job->tokens));
    if (!job->tokens) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    job->n_tokens = ids->n_ids;
    if (ids->n_ids > 0)
        (void)memcpy(job->tokens, ids->ids, ids->n_ids * sizeof(*ids->ids));
    return true;
}

/* What becomes the job's tokens, unless it has them: one of the first two. And what goes with it.
 */
struct prompt {
    const char *text;
    const Grokd__V1__Conversation *conversation;
    unsigned flags;
    const char *constraint; /* its source; NULL: none */
    enum gk_constraint_kind constraint_kind;
};

/* Returns false where the call is over; the work is freed then. */
static bool set_prompt(Call *call, TextWork *w, const Job *job, const struct prompt *p) {
    w->flags = p->flags;
    w->control = true;
    w->n_tokens_max = gk_engine_info(call->model->engine)->n_context_max;
    if (p->constraint && !text_work_set_constraint(call, w, p->constraint_kind, p->constraint))
        return false;
    if (p->conversation)
        return chat_set_conversation(call, w, p->conversation);
    if (p->text)
        return text_work_set_text(call, w, p->text);
    return !call->output.wants_echo || text_work_set_tokens(call, w, job->tokens, job->n_tokens);
}

/* Takes the job on with its prompt, which may take work before it is tokens. */
static void take_prompt(Call *call, Job *job, const struct prompt *p) {
    CLEANUP(job_freep) Job *owned = job;
    TextWork *w;

    if (!p->text && !p->conversation && !p->constraint && !call->output.wants_echo) {
        push_any(call, take_ptr(owned));
        return;
    }
    w = text_work_new(call, on_prompt);
    if (!w || !set_prompt(call, w, job, p))
        return;
    w->job = take_ptr(owned);
    text_work_do(call, w);
}

/* Returns false where it is none. */
static bool read_priority(const Daemon *d, Grokd__V1__Priority priority, enum sched_class *ret) {
    static const enum sched_class classes[] = {
        [GROKD__V1__PRIORITY__PRIORITY_INTERACTIVE] = SCHED_CLASS_INTERACTIVE,
        [GROKD__V1__PRIORITY__PRIORITY_NORMAL] = SCHED_CLASS_NORMAL,
        [GROKD__V1__PRIORITY__PRIORITY_BATCH] = SCHED_CLASS_BATCH,
    };

    if (priority == GROKD__V1__PRIORITY__PRIORITY_UNSPECIFIED)
        *ret = (enum sched_class)d->config->priority_default;
    else if (priority > 0 && (size_t)priority < ARRAY_SIZE(classes))
        *ret = classes[priority];
    else
        return false;
    return true;
}

/* NULL: the call is over. */
Job *inference_new_job(Call *call, enum gk_mode mode, Grokd__V1__Priority priority) {
    CLEANUP(job_freep) Job *job = NULL;

    if (call->state == CALL_OPENING && !call_find_place(call))
        return NULL;
    job = job_new(call->id, call->model, call->model->engine);
    if (!job) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return NULL;
    }
    if (!read_priority(call->daemon, priority, &job->class)) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "there is no priority %d", (int)priority);
        return NULL;
    }
    job->uid = call->conn->uid;
    job->params = gk_params_default();
    job->params.mode = mode;
    job->params.owner = call->conn->uid;
    return take_ptr(job);
}

/* What the prompt keeps in memory; 0 where there is none. */
static size_t prompt_bytes(const Grokd__V1__GenerateRequest *q) {
    switch (q->prompt_case) {
    case GROKD__V1__GENERATE_REQUEST__PROMPT_TEXT:
        return strlen(q->text) + 1;
    case GROKD__V1__GENERATE_REQUEST__PROMPT_TOKENS:
        return (q->tokens->n_ids + 1) * sizeof(int32_t);
    case GROKD__V1__GENERATE_REQUEST__PROMPT_CONVERSATION:
        return chat_n_bytes(q->conversation);
    default:
        return 0;
    }
}

/* Returns false where the call is over. */
static bool take_constraint(Call *call, const Grokd__V1__GenerateRequest *q, struct prompt *p) {
    switch (q->constraint_case) {
    case GROKD__V1__GENERATE_REQUEST__CONSTRAINT_JSON_SCHEMA:
        p->constraint_kind = GK_CONSTRAINT_JSON_SCHEMA;
        p->constraint = q->json_schema;
        break;
    case GROKD__V1__GENERATE_REQUEST__CONSTRAINT_REGEX:
        p->constraint_kind = GK_CONSTRAINT_REGEX;
        p->constraint = q->regex;
        break;
    case GROKD__V1__GENERATE_REQUEST__CONSTRAINT_GRAMMAR:
        p->constraint_kind = GK_CONSTRAINT_GRAMMAR;
        p->constraint = q->grammar;
        break;
    default:
        return true;
    }
    return call_charge(call, strlen(p->constraint) + 1);
}

void inference_generate(Call *call, void *request) {
    const Grokd__V1__GenerateRequest *q = request;
    bool is_tokens = q->prompt_case == GROKD__V1__GENERATE_REQUEST__PROMPT_TOKENS;
    struct prompt prompt = {
        .flags = inference_bos_flags(q->has_add_bos_case, q->add_bos, q->parse_control)};
    size_t n_bytes = prompt_bytes(q);
    CLEANUP(job_freep) Job *job = NULL;

    if (!call_set_timeout(call, q->timeout_ms) || !inference_take_request_id(call, q->request_id) ||
        !call_set_actor(call, q->actor) || !service_use_model(call, q->model))
        return;
    if (n_bytes == 0) {
        call_fail(call, STATUS_INVALID_ARGUMENT,
                  "there is no prompt: text, tokens or a conversation is needed");
        return;
    }
    if (!call_charge(call, n_bytes) || !take_constraint(call, q, &prompt))
        return;
    job = inference_new_job(call, GK_GENERATE, q->priority);
    if (!job || !take_sampling(call, job, q->sampling) ||
        (is_tokens && !copy_tokens(call, job, q->tokens)))
        return;
    job->params.share_prefix = q->share_prefix && call->daemon->config->prefix_shared;
    job->params.speculate = call->daemon->config->speculation;
    call->output.wants_ids = q->token_ids;
    call->output.wants_echo = q->echo;
    if (q->prompt_case == GROKD__V1__GENERATE_REQUEST__PROMPT_CONVERSATION)
        prompt.conversation = q->conversation;
    else if (!is_tokens)
        prompt.text = q->text;
    take_prompt(call, take_ptr(job), &prompt);
}

void inference_score(Call *call, void *request) {
    const Grokd__V1__ScoreRequest *q = request;
    bool is_text = q->prompt_case == GROKD__V1__SCORE_REQUEST__PROMPT_TEXT;
    bool is_tokens = q->prompt_case == GROKD__V1__SCORE_REQUEST__PROMPT_TOKENS;
    CLEANUP(job_freep) Job *job = NULL;

    if (!call_set_timeout(call, q->timeout_ms) || !inference_take_request_id(call, q->request_id) ||
        !call_set_actor(call, q->actor) || !service_use_model(call, q->model) ||
        !check_logprobs(call, q->top_logprobs))
        return;
    if (!is_text && !is_tokens) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "there is no prompt: text or tokens are needed");
        return;
    }
    if (!call_charge(call, is_text ? strlen(q->text) : q->tokens->n_ids * sizeof(int32_t)))
        return;
    job = inference_new_job(call, GK_SCORE, q->priority);
    if (!job || (is_tokens && !copy_tokens(call, job, q->tokens)))
        return;
    job->params.n_logprobs = q->top_logprobs;
    take_prompt(call, take_ptr(job),
                &(struct prompt){.text = is_text ? q->text : NULL,
                                 .flags = inference_bos_flags(q->has_add_bos_case, q->add_bos,
                                                              q->parse_control)});
}

/* ---- Tokenize, Detokenize ---- */

static void on_tokenized(Call *call, TextWork *w) {
    Grokd__V1__TokenizeResponse answer = GROKD__V1__TOKENIZE_RESPONSE__INIT;
    CLEANUP(freep) ProtobufCBinaryData *pieces = NULL;

    if (w->result != 0) {
        call_fail(call, service_status_of(w->result), "%s", w->error.text);
        return;
    }
    answer.n_ids = w->n_tokens;
    answer.ids = w->tokens;
    if (w->pieces) {
        pieces = alloc_array(w->n_tokens + 1, sizeof(*pieces));
        if (!pieces) {
            call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
            return;
        }
        for (size_t i = 0; i < w->n_tokens; i++) {
            const char *text = gk_token_text(w->model->engine, w->tokens[i], &pieces[i].len);

            pieces[i].data = (uint8_t *)(uintptr_t)text;
        }
        answer.n_pieces = w->n_tokens;
        answer.pieces = pieces;
    }
    call_reply(call, &answer.base);
}

void inference_tokenize(Call *call, void *request) {
    const Grokd__V1__TokenizeRequest *q = request;
    TextWork *w;

    if (!service_use_model(call, q->model) || !call_charge(call, strlen(q->text)))
        return;
    w = text_work_new(call, on_tokenized);
    if (!w || !text_work_set_text(call, w, q->text))
        return;
    w->flags = inference_bos_flags(q->has_add_bos_case, q->add_bos, q->parse_control);
    w->n_tokens_max = TOKENIZE_TOKENS_MAX;
    w->pieces = q->pieces;
    text_work_do(call, w);
}

static void on_detokenized(Call *call, TextWork *w) {
    Grokd__V1__DetokenizeResponse answer = GROKD__V1__DETOKENIZE_RESPONSE__INIT;

    if (w->result != 0) {
        call_fail(call, service_status_of(w->result), "%s", w->error.text);
        return;
    }
    answer.text = (ProtobufCBinaryData){.data = (uint8_t *)w->text, .len = w->n_text};
    call_reply(call, &answer.base);
}

void inference_detokenize(Call *call, void *request) {
    const Grokd__V1__DetokenizeRequest *q = request;
    TextWork *w;

    if (!service_use_model(call, q->model) || !call_charge(call, q->n_ids * sizeof(*q->ids)))
        return;
    w = text_work_new(call, on_detokenized);
    if (!w || !text_work_set_tokens(call, w, q->ids, q->n_ids))
        return;
    w->control = q->control;
    text_work_do(call, w);
}
