/*
 * libgrokd: from the wire's messages to the public structs. Strings and packed numbers are viewed
 * where protobuf-c put them; all else is made in the same arena.
 */
#include "base/alloc.h"
#include "client/internal.h"
#include "proto/grokd.pb-c.h"

#include <errno.h>
#include <string.h>

/* Before the public struct of an answer, for grokd_free(). */
struct front {
    struct answer *answer;
    _Alignas(16) uint8_t public[];
};

struct answer *answer_free(struct answer *answer) {
    if (answer) {
        msg_arena_deinit(&answer->arena);
        free(answer);
    }
    return NULL;
}

struct answer *answer_of(void *public) {
    struct front *front = (void *)((uint8_t *)public - offsetof(struct front, public));

    return front->answer;
}

static void *make(MsgArena *a, size_t n) {
    void *p = msg_arena_alloc(a, n);

    return p ? memset(p, 0, n) : NULL;
}

#define MAKE(a, type)          ((type *)make((a), sizeof(type)))
#define MAKE_ARRAY(a, n, type) ((type *)make((a), (n) * sizeof(type)))

static void *make_answer(struct answer *answer, size_t n) {
    struct front *front = make(&answer->arena, sizeof(*front) + n);

    if (!front)
        return NULL;
    front->answer = answer;
    return front->public;
}

#define MAKE_ANSWER(answer, type) ((type *)make_answer((answer), sizeof(type)))

/* A copy with a zero byte after it. */
static bool copy_bytes(MsgArena *a, const ProtobufCBinaryData *from, const char **ret,
                       size_t *ret_n) {
    char *to = make(a, from->len + 1);

    if (!to)
        return false;
    if (from->len > 0)
        (void)memcpy(to, from->data, from->len);
    *ret = to;
    *ret_n = from->len;
    return true;
}

/* ---- parts ---- */

static bool copy_logprob(MsgArena *a, const Grokd__V1__Logprob *from, struct grokd_logprob *to) {
    to->token = from->token;
    to->logprob = from->logprob;
    return copy_bytes(a, &from->text, &to->text, &to->n_text);
}

static bool copy_token(MsgArena *a, const Grokd__V1__TokenLogprobs *from,
                       struct grokd_token_logprobs *to) {
    struct grokd_logprob *chosen, *top;

    if (from->chosen) {
        chosen = MAKE(a, struct grokd_logprob);
        if (!chosen || !copy_logprob(a, from->chosen, chosen))
            return false;
        to->chosen = chosen;
    }
    top = MAKE_ARRAY(a, from->n_top, struct grokd_logprob);
    if (!top)
        return false;
    for (size_t i = 0; i < from->n_top; i++)
        if (!copy_logprob(a, from->top[i], &top[i]))
            return false;
    to->top = top;
    to->n_top = from->n_top;
    return true;
}

static bool copy_tokens(MsgArena *a, Grokd__V1__TokenLogprobs *const *from, size_t n,
                        const struct grokd_token_logprobs **ret) {
    struct grokd_token_logprobs *to = MAKE_ARRAY(a, n, struct grokd_token_logprobs);

    if (!to)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!copy_token(a, from[i], &to[i]))
            return false;
    *ret = to;
    return true;
}

static const struct grokd_usage *copy_usage(MsgArena *a, const Grokd__V1__Usage *from) {
    struct grokd_usage *to = MAKE(a, struct grokd_usage);

    if (to && from)
        *to = (struct grokd_usage){
            .prompt_tokens = from->prompt_tokens,
            .generated_tokens = from->generated_tokens,
            .cached_tokens = from->cached_tokens,
            .queued_us = from->queued_us,
            .prefill_us = from->prefill_us,
            .decode_us = from->decode_us,
            .seed = from->seed,
            .drafted_tokens = from->drafted_tokens,
            .accepted_tokens = from->accepted_tokens,
        };
    return to;
}

/* An empty one where there is none. */
static const struct grokd_model_summary *copy_summary(MsgArena *a,
                                                      const Grokd__V1__ModelSummary *from) {
    static const Grokd__V1__ModelSummary empty = GROKD__V1__MODEL_SUMMARY__INIT;
    struct grokd_model_summary *to = MAKE(a, struct grokd_model_summary);

    if (!from)
        from = &empty;
    if (to)
        *to = (struct grokd_model_summary){
            .name = from->name,
            .path = from->path,
            .state = (int)from->state,
            .error = from->error,
            .architecture = from->architecture,
            .parameters = from->parameters,
            .file_bytes = from->file_bytes,
            .is_default = from->is_default,
            .is_demo = from->is_demo,
            .pinned = from->pinned,
            .users = from->users,
            .idle_us = from->idle_us,
            .keep_alive_us = from->keep_alive_us,
            .retry_us = from->retry_us,
        };
    return to;
}

static bool copy_summaries(MsgArena *a, Grokd__V1__ModelSummary *const *from, size_t n,
                           const struct grokd_model_summary *const **ret) {
    const struct grokd_model_summary **to = MAKE_ARRAY(a, n, const struct grokd_model_summary *);

    if (!to)
        return false;
    for (size_t i = 0; i < n; i++) {
        to[i] = copy_summary(a, from[i]);
        if (!to[i])
            return false;
    }
    *ret = to;
    return true;
}

/* ---- Generate ---- */

static bool convert_queued(struct answer *answer, const Grokd__V1__Queued *m) {
    struct grokd_queued *to = MAKE(&answer->arena, struct grokd_queued);

    if (!to)
        return false;
    to->position = m->position;
    to->estimated_wait_us = m->estimated_wait_us;
    answer->event.queued = to;
    return true;
}

static bool convert_prefill(struct answer *answer, const Grokd__V1__PrefillProgress *m) {
    struct grokd_prefill *to = MAKE(&answer->arena, struct grokd_prefill);

    if (!to)
        return false;
    to->done_tokens = m->done_tokens;
    to->total_tokens = m->total_tokens;
    to->cached_tokens = m->cached_tokens;
    answer->event.prefill = to;
    return true;
}

static bool convert_chunk(struct answer *answer, const Grokd__V1__Chunk *m) {
    struct grokd_chunk *to = MAKE(&answer->arena, struct grokd_chunk);

    if (!to || !copy_tokens(&answer->arena, m->logprobs, m->n_logprobs, &to->logprobs))
        return false;
    to->text = m->text;
    to->token_ids = m->token_ids;
    to->n_token_ids = m->n_token_ids;
    to->n_logprobs = m->n_logprobs;
    answer->event.chunk = to;
    return true;
}

static bool convert_final(struct answer *answer, const Grokd__V1__Final *m) {
    struct grokd_final *to = MAKE(&answer->arena, struct grokd_final);

    if (!to)
        return false;
    to->usage = copy_usage(&answer->arena, m->usage);
    to->finish_reason = (int)m->finish_reason;
    to->total_events = m->total_events;
    to->stop = m->stop;
    answer->event.final = to;
    return to->usage != NULL;
}

static bool convert_kind(struct answer *answer, const Grokd__V1__GenerateEvent *m) {
    switch (m->event_case) {
    case GROKD__V1__GENERATE_EVENT__EVENT_QUEUED:
        return convert_queued(answer, m->queued);
    case GROKD__V1__GENERATE_EVENT__EVENT_PREFILL:
        return convert_prefill(answer, m->prefill);
    case GROKD__V1__GENERATE_EVENT__EVENT_CHUNK:
        return convert_chunk(answer, m->chunk);
    case GROKD__V1__GENERATE_EVENT__EVENT_FINAL:
        return convert_final(answer, m->final);
    default:
        return true; /* of a newer daemon */
    }
}

int convert_generate_event(struct answer *answer, const void *message) {
    const Grokd__V1__GenerateEvent *m = message;

    answer->event.seq = m->seq;
    answer->event.request_id = m->request_id;
    answer->event.model = m->model;
    return convert_kind(answer, m) ? 0 : -ENOMEM;
}

/* ---- the other answers ---- */

int convert_score(struct answer *answer, const void *message) {
    struct grokd_score_response *to = MAKE_ANSWER(answer, struct grokd_score_response);
    const Grokd__V1__ScoreResponse *m = message;

    if (!to || !copy_tokens(&answer->arena, m->tokens, m->n_tokens, &to->tokens))
        return -ENOMEM;
    to->n_tokens = m->n_tokens;
    to->sum_logprob = m->sum_logprob;
    to->perplexity = m->perplexity;
    to->usage = copy_usage(&answer->arena, m->usage);
    answer->event.score = to;
    return to->usage ? 0 : -ENOMEM;
}

int convert_embed(struct answer *answer, const void *message) {
    struct grokd_embed_response *to = MAKE_ANSWER(answer, struct grokd_embed_response);
    const Grokd__V1__EmbedResponse *m = message;
    struct grokd_embedding *embeddings;

    if (!to)
        return -ENOMEM;
    embeddings = MAKE_ARRAY(&answer->arena, m->n_embeddings, struct grokd_embedding);
    if (!embeddings)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_embeddings; i++)
        embeddings[i] = (struct grokd_embedding){.values = m->embeddings[i]->values,
                                                 .n_values = m->embeddings[i]->n_values,
                                                 .n_tokens = m->embeddings[i]->tokens};
    to->embeddings = embeddings;
    to->n_embeddings = m->n_embeddings;
    to->usage = copy_usage(&answer->arena, m->usage);
    answer->event.embed = to;
    return to->usage ? 0 : -ENOMEM;
}

int convert_tokenize(struct answer *answer, const void *message) {
    struct grokd_tokenize_response *to = MAKE_ANSWER(answer, struct grokd_tokenize_response);
    const Grokd__V1__TokenizeResponse *m = message;
    struct grokd_bytes *pieces;

    if (!to)
        return -ENOMEM;
    pieces = MAKE_ARRAY(&answer->arena, m->n_pieces, struct grokd_bytes);
    if (!pieces)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_pieces; i++)
        if (!copy_bytes(&answer->arena, &m->pieces[i], &pieces[i].bytes, &pieces[i].n))
            return -ENOMEM;
    to->ids = m->ids;
    to->n_ids = m->n_ids;
    to->pieces = pieces;
    to->n_pieces = m->n_pieces;
    answer->event.tokenize = to;
    return 0;
}

int convert_detokenize(struct answer *answer, const void *message) {
    struct grokd_detokenize_response *to = MAKE_ANSWER(answer, struct grokd_detokenize_response);
    const Grokd__V1__DetokenizeResponse *m = message;

    if (!to || !copy_bytes(&answer->arena, &m->text, &to->text, &to->n_text))
        return -ENOMEM;
    answer->event.detokenize = to;
    return 0;
}

int convert_cancel(struct answer *answer, const void *message) {
    struct grokd_cancel_response *to = MAKE_ANSWER(answer, struct grokd_cancel_response);
    const Grokd__V1__CancelResponse *m = message;

    if (!to)
        return -ENOMEM;
    to->found = m->found;
    answer->event.cancel = to;
    return 0;
}

int convert_list_models(struct answer *answer, const void *message) {
    struct grokd_list_models_response *to = MAKE_ANSWER(answer, struct grokd_list_models_response);
    const Grokd__V1__ListModelsResponse *m = message;

    if (!to || !copy_summaries(&answer->arena, m->models, m->n_models, &to->models))
        return -ENOMEM;
    to->n_models = m->n_models;
    answer->event.list_models = to;
    return 0;
}

int convert_show_model(struct answer *answer, const void *message) {
    struct grokd_show_model_response *to = MAKE_ANSWER(answer, struct grokd_show_model_response);
    const Grokd__V1__ShowModelResponse *m = message;

    if (!to)
        return -ENOMEM;
    *to = (struct grokd_show_model_response){
        .summary = copy_summary(&answer->arena, m->summary),
        .title = m->title,
        .description = m->description,
        .license = m->license,
        .weight_types = m->weight_types,
        .parameters_per_expert = m->parameters_per_expert,
        .parameters_active = m->parameters_active,
        .half_precision_bytes = m->half_precision_bytes,
        .active_bytes = m->active_bytes,
        .kv_bytes_per_token = m->kv_bytes_per_token,
        .kv_bytes_max = m->kv_bytes_max,
        .layers = m->layers,
        .experts = m->experts,
        .experts_used = m->experts_used,
        .embedding_size = m->embedding_size,
        .feed_forward_size = m->feed_forward_size,
        .heads = m->heads,
        .kv_heads = m->kv_heads,
        .head_size = m->head_size,
        .vocabulary = m->vocabulary,
        .context_trained = m->context_trained,
        .context_max = m->context_max,
        .bos_token = m->bos_token,
        .eos_token = m->eos_token,
        .add_bos = m->add_bos,
        .chat_template = m->chat_template,
        .instruction_set = m->instruction_set,
        .chat_template_name = m->chat_template_name,
        .resident_bytes = m->resident_bytes,
        .huge_page_bytes = m->huge_page_bytes,
        .locked_bytes = m->locked_bytes,
        .numa_nodes = m->numa_nodes,
        .node_bytes = m->node_bytes,
        .n_node_bytes = m->n_node_bytes,
        .home_bytes = m->home_bytes,
        .away_bytes = m->away_bytes,
        .kv_type = m->kv_type,
    };
    answer->event.show_model = to;
    return to->summary ? 0 : -ENOMEM;
}

int convert_load_progress(struct answer *answer, const void *message) {
    struct grokd_load_progress *to = MAKE(&answer->arena, struct grokd_load_progress);
    const Grokd__V1__LoadModelEvent *m = message;

    if (!to)
        return -ENOMEM;
    to->done_bytes = m->done_bytes;
    to->total_bytes = m->total_bytes;
    to->summary = m->summary ? copy_summary(&answer->arena, m->summary) : NULL;
    answer->event.load = to;
    return m->summary && !to->summary ? -ENOMEM : 0;
}

int convert_unload_model(struct answer *answer, const void *message) {
    (void)message;
    answer->event.unload_model = MAKE_ANSWER(answer, struct grokd_unload_model_response);
    return answer->event.unload_model ? 0 : -ENOMEM;
}

int convert_status(struct answer *answer, const void *message) {
    struct grokd_status_response *to = MAKE_ANSWER(answer, struct grokd_status_response);
    const Grokd__V1__StatusResponse *m = message;

    if (!to)
        return -ENOMEM;
    *to = (struct grokd_status_response){
        .version = m->version,
        .uptime_us = m->uptime_us,
        .pid = m->pid,
        .threads = m->threads,
        .instruction_set = m->instruction_set,
        .connections = m->connections,
        .requests_running = m->requests_running,
        .requests_queued = m->requests_queued,
        .requests_total = m->requests_total,
        .requests_failed = m->requests_failed,
        .prompt_tokens_total = m->prompt_tokens_total,
        .generated_tokens_total = m->generated_tokens_total,
        .resident_bytes = m->resident_bytes,
        .kv_pages_used = m->kv_pages_used,
        .kv_pages_total = m->kv_pages_total,
        .n_models = m->n_models,
        .draining = m->draining,
        .steps_total = m->steps_total,
        .kv_type = m->kv_type,
    };
    answer->event.status = to;
    return copy_summaries(&answer->arena, m->models, m->n_models, &to->models) ? 0 : -ENOMEM;
}

/* ---- Top ---- */

static bool copy_accounts(MsgArena *a, const Grokd__V1__TopEvent *m, struct grokd_top *to) {
    const struct grokd_top_account **all =
        MAKE_ARRAY(a, m->n_accounts, const struct grokd_top_account *);
    struct grokd_top_account *each = MAKE_ARRAY(a, m->n_accounts, struct grokd_top_account);

    if (!all || !each)
        return false;
    for (size_t i = 0; i < m->n_accounts; i++) {
        const Grokd__V1__TopAccount *from = m->accounts[i];

        each[i] = (struct grokd_top_account){
            .uid = from->uid,
            .actor = from->actor,
            .connections = from->connections,
            .requests_running = from->requests_running,
            .requests_queued = from->requests_queued,
            .bytes = from->bytes,
            .tokens_in_flight = from->tokens_in_flight,
            .window_tokens = from->window_tokens,
            .kv_pages = from->kv_pages,
            .prompt_tokens_per_s = from->prompt_tokens_per_s,
            .generated_tokens_per_s = from->generated_tokens_per_s,
        };
        all[i] = &each[i];
    }
    to->accounts = all;
    to->n_accounts = m->n_accounts;
    return true;
}

static bool copy_requests(MsgArena *a, const Grokd__V1__TopEvent *m, struct grokd_top *to) {
    const struct grokd_top_request **all =
        MAKE_ARRAY(a, m->n_requests, const struct grokd_top_request *);
    struct grokd_top_request *each = MAKE_ARRAY(a, m->n_requests, struct grokd_top_request);

    if (!all || !each)
        return false;
    for (size_t i = 0; i < m->n_requests; i++) {
        const Grokd__V1__TopRow *from = m->requests[i];

        each[i] = (struct grokd_top_request){
            .uid = from->uid,
            .actor = from->actor,
            .method = from->method,
            .request_id = from->request_id,
            .model = from->model,
            .state = (int)from->state,
            .priority = (int)from->priority,
            .prompt_tokens = from->prompt_tokens,
            .prompt_done = from->prompt_done,
            .generated_tokens = from->generated_tokens,
            .max_tokens = from->max_tokens,
            .age_us = from->age_us,
        };
        all[i] = &each[i];
    }
    to->requests = all;
    to->n_requests = m->n_requests;
    return true;
}

int convert_top(struct answer *answer, const void *message) {
    struct grokd_top *to = MAKE(&answer->arena, struct grokd_top);
    const Grokd__V1__TopEvent *m = message;

    if (!to)
        return -ENOMEM;
    *to = (struct grokd_top){
        .uptime_us = m->uptime_us,
        .draining = m->draining,
        .connections = m->connections,
        .requests_running = m->requests_running,
        .requests_queued = m->requests_queued,
        .prompt_tokens_per_s = m->prompt_tokens_per_s,
        .generated_tokens_per_s = m->generated_tokens_per_s,
        .kv_pages_used = m->kv_pages_used,
        .kv_pages_total = m->kv_pages_total,
        .steps_total = m->steps_total,
        .steps_us_total = m->steps_us_total,
        .resident_bytes = m->resident_bytes,
        .n_models = m->n_models,
    };
    answer->event.top = to;
    return copy_summaries(&answer->arena, m->models, m->n_models, &to->models) &&
                   copy_accounts(&answer->arena, m, to) && copy_requests(&answer->arena, m, to)
               ? 0
               : -ENOMEM;
}
