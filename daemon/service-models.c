/* Models.* */
#include "daemon/chat.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/service.h"

#include <string.h>

static char *view(const char *s) { /* protobuf-c's strings are not const; packing only reads */
    return (char *)(uintptr_t)s;
}

void models_list(Call *call, void *request) {
    Grokd__V1__ListModelsResponse answer = GROKD__V1__LIST_MODELS_RESPONSE__INIT;
    MsgArena arena;

    (void)request;
    msg_arena_init(&arena, MSG_BUDGET_BASE);
    if (models_fill_summaries(&call->daemon->models, &arena, &answer.models, &answer.n_models) < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    else
        call_reply(call, &answer.base);
    msg_arena_deinit(&arena);
}

static void fill_memory(const struct gk_memory *m, Grokd__V1__ShowModelResponse *a) {
    a->resident_bytes = m->n_resident_bytes;
    a->huge_page_bytes = m->n_huge_bytes;
    a->locked_bytes = m->n_locked_bytes;
    a->numa_nodes = m->n_nodes;
    a->home_bytes = m->n_home_bytes;
    a->away_bytes = m->n_away_bytes;
    a->node_bytes = (uint64_t *)(uintptr_t)m->node_bytes; /* packing only reads */
    for (size_t i = 0; i < GK_NODES_MAX; i++)
        if (m->node_bytes[i] > 0)
            a->n_node_bytes = i + 1;
}

static void fill_show(const Model *model, const struct gk_model_info *i,
                      Grokd__V1__ShowModelResponse *a) {
    const char *template = chat_template_of(model), *named = gk_chat_template_text(template);

    a->chat_template = view(named ? named : template);
    a->chat_template_name = view(chat_template_name_of(model));
    a->title = view(i->name);
    a->description = view(i->description);
    a->license = view(i->license);
    a->weight_types = view(i->weight_types);
    a->parameters_per_expert = i->n_parameters_per_expert;
    a->parameters_active = i->n_parameters_active;
    a->half_precision_bytes = i->n_half_precision_bytes;
    a->active_bytes = i->n_active_bytes;
    a->kv_bytes_per_token = i->n_kv_bytes_per_token;
    a->kv_bytes_max = i->n_kv_bytes_max;
    a->kv_type = view(i->kv_type);
    a->layers = i->n_layers;
    a->experts = i->n_experts;
    a->experts_used = i->n_experts_used;
    a->embedding_size = i->n_embd;
    a->feed_forward_size = i->n_ff;
    a->heads = i->n_heads;
    a->kv_heads = i->n_kv_heads;
    a->head_size = i->head_size;
    a->vocabulary = i->n_vocab;
    a->context_trained = i->n_context_trained;
    a->context_max = i->n_context_max;
    a->bos_token = i->token_bos;
    a->eos_token = i->token_eos;
    a->add_bos = i->add_bos;
    a->instruction_set = view(i->isa);
    fill_memory(&i->memory, a);
}

void models_show(Call *call, void *request) {
    const Grokd__V1__ShowModelRequest *q = request;
    Grokd__V1__ShowModelResponse answer = GROKD__V1__SHOW_MODEL_RESPONSE__INIT;
    Grokd__V1__ModelSummary summary;
    Model *model = service_find_model(call, q->model);

    if (!model)
        return;
    model_fill_summary(model, &summary);
    answer.summary = &summary;
    if (!model->engine && model->state != MODEL_FAILED) {
        call_fail(call,
                  model->state == MODEL_LOADING ? STATUS_UNAVAILABLE : STATUS_FAILED_PRECONDITION,
                  model->state == MODEL_LOADING ? "model %s is being loaded: %u %%"
                                                : "model %s is not loaded",
                  model->name, model_percent(model));
        return;
    }
    answer.bos_token = answer.eos_token = -1;
    if (model->engine)
        fill_show(model, gk_engine_info(model->engine), &answer);
    call_reply(call, &answer.base);
}

/* ---- Load, Unload ---- */

static void send_load_event(Call *call, const Model *model, bool is_last) {
    Grokd__V1__LoadModelEvent event = GROKD__V1__LOAD_MODEL_EVENT__INIT;
    Grokd__V1__ModelSummary summary;
    int r;

    event.total_bytes = atomic_load(&model->total_bytes);
    event.done_bytes = MIN((uint64_t)atomic_load(&model->done_bytes), event.total_bytes);
    if (is_last) {
        model_fill_summary(model, &summary);
        event.summary = &summary;
        event.done_bytes = event.total_bytes = MAX(event.total_bytes, summary.file_bytes);
    }
    r = call_send(call, &event.base);
    if (is_last && r < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "too much output is waiting to be read");
    else if (is_last)
        call_complete(call);
}

void models_on_load(Call *call, Model *model) {
    switch (model->state) {
    case MODEL_READY:
        send_load_event(call, model, true);
        return;
    case MODEL_LOADING:
        if (conn_is_writable(call->conn)) /* who does not read misses some progress */
            send_load_event(call, model, false);
        return;
    case MODEL_FAILED:
        call_fail(call, STATUS_FAILED_PRECONDITION, "model %s can't be loaded: %s", model->name,
                  model->error.text);
        return;
    default:
        if (model->has_no_room)
            call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", model->error.text);
        else if (model->is_leaving && model->state == MODEL_CONFIGURED)
            model_load(model, true); /* it has left, and is wanted again */
        else if (!model->is_leaving)
            call_fail(call, STATUS_UNAVAILABLE, "model %s was unloaded meanwhile", model->name);
    }
}

void models_on_unload(Call *call, Model *model) {
    Grokd__V1__UnloadModelResponse answer = GROKD__V1__UNLOAD_MODEL_RESPONSE__INIT;

    if (model->state == MODEL_UNLOADING)
        return;
    if (model->state == MODEL_CONFIGURED)
        call_reply(call, &answer.base);
    else
        call_fail(call, STATUS_ABORTED, "model %s was loaded again meanwhile", model->name);
}

static Model *add_temporary(Call *call, const char *name, const char *path) {
    Error error = ERROR_INIT;
    Model *model;

    if (!config_is_model_name(name)) {
        call_fail(call, STATUS_INVALID_ARGUMENT,
                  "a model's name has 1 to 64 letters, digits or any of ._:-");
        return NULL;
    }
    if (models_add(&call->daemon->models, name, path, &model, &error) != 0) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", error.text);
        return NULL;
    }
    model->is_temporary = true;
    return model;
}

/* The model to load, or the call is over. */
static Model *find_or_add(Call *call, const Grokd__V1__LoadModelRequest *q) {
    Model *model = models_find(&call->daemon->models, q->model);
    bool is_known = model && (q->path[0] == '\0' || strcmp(q->path, model->path) == 0);

    /* To watch what is loaded anyway is everybody's right. */
    if (is_known && !q->pin && (model->state == MODEL_READY || model->state == MODEL_LOADING))
        return model;
    if (!service_is_allowed(call, CONFIG_MODELS))
        return NULL;
    if (call->daemon->is_draining) {
        call_fail(call, STATUS_UNAVAILABLE, "the daemon is shutting down");
        return NULL;
    }
    if (!model && q->path[0])
        return add_temporary(call, q->model, q->path);
    if (!model)
        return service_find_model(call, q->model);
    if (!is_known) {
        call_fail(call, STATUS_ALREADY_EXISTS, "model %s is another file: %s", model->name,
                  model->shown_path);
        return NULL;
    }
    if (model->state != MODEL_READY && model->state != MODEL_LOADING && !model->is_leaving &&
        (model->engine || model->is_working)) {
        call_fail(call, STATUS_UNAVAILABLE, "model %s is still being unloaded", model->name);
        return NULL;
    }
    return model;
}

void models_load_rpc(Call *call, void *request) {
    const Grokd__V1__LoadModelRequest *q = request;
    Model *model = find_or_add(call, q);

    if (!model)
        return;
    model->is_pinned |= q->pin;
    if (model->state == MODEL_READY) {
        send_load_event(call, model, true);
        return;
    }
    list_push_back(&model->waiters, &call->model_node);
    if (model->state != MODEL_LOADING && model->state != MODEL_UNLOADING)
        model_load(model, true);
}

void models_unload_rpc(Call *call, void *request) {
    const Grokd__V1__UnloadModelRequest *q = request;
    Model *model;

    if (!service_is_allowed(call, CONFIG_MODELS))
        return;
    model = service_find_model(call, q->model);
    if (!model)
        return;
    if (model->state == MODEL_LOADING || model->state == MODEL_CONFIGURED) {
        call_fail(call, STATUS_FAILED_PRECONDITION, "model %s is %s", model->name,
                  model->state == MODEL_LOADING ? "being loaded" : "not loaded");
        return;
    }
    list_push_back(&model->waiters, &call->model_node);
    if (model->state != MODEL_UNLOADING)
        model_unload(model);
}
