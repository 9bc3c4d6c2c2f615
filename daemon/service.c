/* See service.h. */
#include "daemon/service.h"

#include "daemon/conn.h"
#include "daemon/daemon.h"

#include <inttypes.h>
#include <string.h>

#define INFERENCE "grokd.v1.Inference"
#define MODELS    "grokd.v1.Models"
#define ADMIN     "grokd.v1.Admin"

static bool no_output(const Call *call) {
    (void)call;
    return false;
}

#define REQUEST(name) &grokd__v1__##name##__descriptor

/* clang-format off */
static const struct method methods[] = {
    {.service = INFERENCE, .name = "Generate", .kind = CODEC_SERVER_STREAM, .is_inference = true,
     .request = REQUEST(generate_request), .run = inference_generate, .has_output = generate_has_output,
     .flush = generate_flush, .on_letter = generate_on_letter, .on_ended = generate_on_ended},
    {.service = INFERENCE, .name = "Score", .kind = CODEC_UNARY, .is_inference = true,
     .request = REQUEST(score_request), .run = inference_score, .has_output = no_output,
     .on_letter = score_on_letter, .on_ended = score_on_ended},
    {.service = INFERENCE, .name = "Embed", .kind = CODEC_UNARY, .is_inference = true,
     .request = REQUEST(embed_request), .run = inference_embed, .has_output = no_output,
     .on_letter = embed_on_letter, .on_ended = embed_on_ended},
    {.service = INFERENCE, .name = "Tokenize", .kind = CODEC_UNARY,
     .request = REQUEST(tokenize_request), .run = inference_tokenize, .has_output = no_output},
    {.service = INFERENCE, .name = "Detokenize", .kind = CODEC_UNARY,
     .request = REQUEST(detokenize_request), .run = inference_detokenize, .has_output = no_output},
    {.service = INFERENCE, .name = "Cancel", .kind = CODEC_UNARY,
     .request = REQUEST(cancel_request), .run = inference_cancel, .has_output = no_output},
    {.service = MODELS, .name = "List", .kind = CODEC_UNARY,
     .request = REQUEST(list_models_request), .run = models_list, .has_output = no_output},
    {.service = MODELS, .name = "Show", .kind = CODEC_UNARY,
     .request = REQUEST(show_model_request), .run = models_show, .has_output = no_output},
    {.service = MODELS, .name = "Load", .kind = CODEC_SERVER_STREAM,
     .request = REQUEST(load_model_request), .run = models_load_rpc, .has_output = no_output,
     .on_model = models_on_load},
    {.service = MODELS, .name = "Unload", .kind = CODEC_UNARY,
     .request = REQUEST(unload_model_request), .run = models_unload_rpc, .has_output = no_output,
     .on_model = models_on_unload},
    {.service = ADMIN, .name = "Status", .kind = CODEC_UNARY,
     .request = REQUEST(status_request), .run = admin_status, .has_output = no_output},
    {.service = ADMIN, .name = "Top", .kind = CODEC_SERVER_STREAM,
     .request = REQUEST(top_request), .run = admin_top, .has_output = top_has_output,
     .flush = top_flush, .on_tick = top_on_tick},
};
/* clang-format on */

const struct method *service_find(const char *service, const char *method) {
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (strcmp(methods[i].service, service) == 0 && strcmp(methods[i].name, method) == 0)
            return &methods[i];
    return NULL;
}

enum codec_kind service_kind(const char *service, const char *method) {
    const struct method *found = service_find(service, method);

    if (found)
        return found->kind;
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (strcmp(methods[i].service, service) == 0)
            return CODEC_UNKNOWN_METHOD;
    return CODEC_UNKNOWN_SERVICE;
}

bool service_is_allowed(Call *call, enum config_service service) {
    static const struct {
        const char *what, *key;
    } rows[] = {
        [CONFIG_INFERENCE] = {"ask for text", "inference"},
        [CONFIG_MODELS] = {"load and unload models", "models"},
        [CONFIG_ADMIN] = {"see the daemon's state", "admin"},
    };

    if (call->conn->services & BIT(service))
        return true;
    call_fail(call, STATUS_PERMISSION_DENIED,
              "user %u may not %s: %s.%s is for those in %s_allow and not in %s_deny, section "
              "[access] of grokd.conf",
              (unsigned)call->conn->uid, rows[service].what, call->method->service,
              call->method->name, rows[service].key, rows[service].key);
    return false;
}

/* What a service as a whole is for. Methods of Models ask by themselves where they change one. */
static bool is_open(Call *call) {
    if (strcmp(call->method->service, INFERENCE) == 0)
        return service_is_allowed(call, CONFIG_INFERENCE);
    if (strcmp(call->method->service, ADMIN) == 0)
        return service_is_allowed(call, CONFIG_ADMIN);
    return true;
}

void service_run(Call *call, const uint8_t *payload, size_t n) {
    Error error = ERROR_INIT;
    MsgArena arena;
    void *request;
    int r;

    if (!is_open(call))
        return;
    call->view = payload;
    call->n_view = n;
    msg_arena_init(&arena, MSG_BUDGET(n));
    r = msg_unpack(call->method->request, payload, n, &arena, &request, &error);
    if (r == 0)
        call->method->run(call, request);
    else
        call_fail(call, r == MSG_E_MALFORMED ? STATUS_INVALID_ARGUMENT : STATUS_RESOURCE_EXHAUSTED,
                  "%s", error.text[0] ? error.text : "out of memory");
    msg_arena_deinit(&arena);
}

static void refuse_failed(Call *call, const Model *model) {
    uint64_t now = daemon_now_us(call->daemon);
    uint64_t wait_us = model->retry_us - MIN(model->retry_us, now);

    call_fail(call, model->is_lost ? STATUS_DATA_LOSS : STATUS_FAILED_PRECONDITION,
              "model %s is out of service: %s; it may be tried again in %" PRIu64 " s", model->name,
              model->error.text, (wait_us + 999999) / 1000000);
}

/* For a request that waits for its model. */
static void on_awaited_model(Call *call, Model *model, uint32_t n_ahead) {
    switch (model->state) {
    case MODEL_READY:
        call_run_again(call);
        return;
    case MODEL_FAILED:
        refuse_failed(call, model);
        return;
    case MODEL_CONFIGURED:
        if (model->has_no_room)
            call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", model->error.text);
        else
            model_load(model, true); /* it has left, and is wanted again */
        return;
    default:
        call_tell_wait(call, n_ahead);
    }
}

void service_model_changed(Call *call, Model *model, uint32_t n_ahead) {
    if (call->request)
        on_awaited_model(call, model, n_ahead);
    else
        call->method->on_model(call, model);
}

static void end_computing(Call *call, const Job *job) {
    call->job = NULL;
    call->ended_us = job->letter.time_us;
    call->n_drafted = job->n_drafted;
    call->n_accepted = job->n_accepted;
    if (job->code == STATUS_OK)
        call->method->on_ended(call, job);
    else
        call_fail(call, job->code, "%s",
                  job->error.text[0] ? job->error.text : "the daemon is shutting down");
}

void service_letter(Call *call, const Letter *letter) {
    call_count(call, letter);
    switch (letter->type) {
    case LETTER_WAITING:
        call->output.has_position = true;
        call->output.position = letter->n_ahead;
        call->output.wait_us = letter->wait_us;
        call_mark_dirty(call);
        return;
    case LETTER_STARTED:
        if (call->started_us == 0) /* else another of its jobs did */
            call->started_us = letter->time_us;
        call_set_state(call, CALL_RUNNING);
        call->output.has_position = false;
        call->output.has_prefill = true;
        call->output.n_prefill_done = (uint32_t)letter->n_cached;
        call->n_prompt_done = call->n_cached = letter->n_cached;
        call_count_cached(call, letter->n_cached);
        call_mark_dirty(call);
        return;
    case LETTER_ENDED:
        end_computing(call, container_of(letter, const Job, letter));
        return;
    default:
        call->method->on_letter(call, letter);
    }
}

/* ---- for methods ---- */

enum status_code service_status_of(int r) {
    return r == -ENOMEM        ? STATUS_RESOURCE_EXHAUSTED
           : r == GK_E_INVALID ? STATUS_INVALID_ARGUMENT
                               : STATUS_INTERNAL;
}

Model *service_find_model(Call *call, const char *name) {
    Model *model = models_find(&call->daemon->models, name);

    if (!model && name && name[0])
        call_fail(call, STATUS_NOT_FOUND, "there is no model '%.100s'", name);
    else if (!model)
        call_fail(call, STATUS_NOT_FOUND, "there is no default model");
    return model;
}

/* It may be known at once that it won't come. */
static void await_model(Call *call, Model *model) {
    if (model->state == MODEL_CONFIGURED && model->has_no_room)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", model->error.text);
    else
        call_await_model(call, model);
}

Model *service_use_model(Call *call, const char *name) {
    Model *model;

    if (call->daemon->is_draining) {
        call_fail(call, STATUS_UNAVAILABLE, "the daemon is shutting down");
        return NULL;
    }
    model = service_find_model(call, name);
    if (!model)
        return NULL;
    if (model->state == MODEL_READY && gk_engine_is_lost(model->engine))
        model_lose(model);
    switch (model->state) {
    case MODEL_READY:
        call_use_model(call, model);
        return model;
    case MODEL_FAILED:
        if (model->engine || model->is_working || daemon_now_us(call->daemon) < model->retry_us) {
            refuse_failed(call, model);
            return NULL;
        }
        model_load(model, true);
        break;
    case MODEL_UNLOADING:
        if (!model->is_leaving) {
            call_fail(call, STATUS_UNAVAILABLE, "model %s is being unloaded", model->name);
            return NULL;
        }
        break;
    case MODEL_CONFIGURED:
        model_load(model, true);
        break;
    case MODEL_LOADING:
        break;
    }
    await_model(call, model);
    return NULL;
}
