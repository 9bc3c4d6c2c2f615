/* The method table: what each RPC of grokd.proto does. */
#pragma once

#include "daemon/call.h"
#include "daemon/models.h"

struct method {
    const char *service, *name;
    enum codec_kind kind;
    bool is_inference; /* counted, logged and limited as a request of a model */
    const ProtobufCMessageDescriptor *request;
    void (*run)(Call *call, void *request); /* the call may be over when it returns */
    /* The rest is for some only. */
    bool (*has_output)(const Call *call);
    void (*flush)(Call *call); /* sends what it can; the call may be over */
    void (*on_letter)(Call *call, const Letter *letter);
    void (*on_ended)(Call *call, const Job *job); /* the call may be over */
    void (*on_model)(Call *call, Model *model);   /* the model it waits for changed */
    void (*on_tick)(Call *call, uint64_t now_us); /* at its tick_us; it never ends by itself */
};

enum codec_kind service_kind(const char *service, const char *method);
const struct method *service_find(const char *service, const char *method);
/* Decodes the request and runs the method, where its user may. */
void service_run(Call *call, const uint8_t *payload, size_t n);
/* For a call that waits for the model, behind so many others. */
void service_model_changed(Call *call, Model *model, uint32_t n_ahead);
/* A letter of the worker's for a call that is still there. */
void service_letter(Call *call, const Letter *letter);

/* For methods: finds the model that requests name, ready, and has the call use it. NULL: the call
 * is over, or waits until the model is loaded, and the method will run again. */
Model *service_use_model(Call *call, const char *name);
/* The model by its name; NULL: the call is over. */
Model *service_find_model(Call *call, const char *name);
enum status_code service_status_of(int r);
/* Returns false where the user may not use the service: the call is over. */
bool service_is_allowed(Call *call, enum config_service service);

/* service-inference.c */
void inference_generate(Call *call, void *request);
void inference_score(Call *call, void *request);
void inference_tokenize(Call *call, void *request);
void inference_detokenize(Call *call, void *request);
void inference_cancel(Call *call, void *request);
/* For Embed, which is a request of several jobs; each of these may end the call. */
bool inference_take_request_id(Call *call, const char *id);
unsigned inference_bos_flags(int has_add_bos, bool add_bos, bool parse_control);
Job *inference_new_job(Call *call, enum gk_mode mode, Grokd__V1__Priority priority);
void inference_push(Call *call, Job *job); /* takes it */
/* service-embed.c */
void inference_embed(Call *call, void *request);
void embed_on_letter(Call *call, const Letter *letter);
void embed_on_ended(Call *call, const Job *job);
struct Embed *embed_free(struct Embed *e);
/* service-generate.c: what comes back from the worker */
bool generate_has_output(const Call *call);
void generate_flush(Call *call);
void generate_on_letter(Call *call, const Letter *letter);
void generate_on_ended(Call *call, const Job *job);
void fill_usage(const Call *call, Grokd__V1__Usage *u);
void score_on_letter(Call *call, const Letter *letter);
void score_on_ended(Call *call, const Job *job);
/* service-models.c */
void models_list(Call *call, void *request);
void models_show(Call *call, void *request);
void models_load_rpc(Call *call, void *request);
void models_unload_rpc(Call *call, void *request);
void models_on_load(Call *call, Model *model);
void models_on_unload(Call *call, Model *model);
/* service-admin.c */
void admin_status(Call *call, void *request);
void admin_top(Call *call, void *request);
bool top_has_output(const Call *call);
void top_flush(Call *call);
void top_on_tick(Call *call, uint64_t now_us);
