/* The models: names, files, engines and how they come and go. */
#pragma once

#include "base/error.h"
#include "base/list.h"
#include "daemon/config.h"
#include "engine/engine.h"
#include "proto/msg.h"

#include "proto/grokd.pb-c.h"

#include <stdatomic.h>
#include <uv.h>

struct Daemon;

#define MODEL_STATE_MAP(X)                                                                         \
    X(CONFIGURED)                                                                                  \
    X(LOADING)                                                                                     \
    X(READY)                                                                                       \
    X(FAILED)                                                                                      \
    X(UNLOADING)

enum model_state {
#define X(name) MODEL_##name,
    MODEL_STATE_MAP(X)
#undef X
};

/* Owner: Models. Thread: loop, but for what is said to be the background's while it works. */
typedef struct Model {
    ListNode node;
    struct Daemon *daemon;
    char *name, *path;
    char *shown_path; /* UTF-8, for messages */
    enum model_state state;
    Error error;  /* why it FAILED */
    bool is_lost; /* FAILED because the file went bad under us */
    bool is_default, is_demo;
    bool is_temporary; /* came by Models.Load with a path: forgotten when it is not loaded */
    bool is_working;   /* the background opens or closes it */
    bool is_closing;   /* to be closed as soon as nobody uses it */
    bool is_leaving;   /* UNLOADING, but whoever asks for it loads it again */
    bool may_evict;    /* LOADING because somebody asked for it */
    bool has_no_room;  /* CONFIGURED, as it could not be loaded beside the others: `error` */
    bool is_pinned, is_pinned_always;
    uint64_t kv_bytes, n_context_max, keep_us; /* keep_us 0: for ever */
    uint64_t kv_bytes_now;                     /* of this time that it is loaded */
    uint64_t idle_us;                          /* when its last user went, or it was loaded */
    unsigned n_failures;                       /* to load, one after the other */
    uint64_t retry_us;                         /* FAILED: requests may not load it before */
    uint64_t load_us;                          /* when the background began to load it */
    char *chat_template;            /* configured: a name or a text; NULL: the file's, or plain */
    const char *chat_template_name; /* the configuration's words for it */
    GkEngine *engine;               /* NULL: none */
    uint64_t n_users;               /* calls, jobs and background work that need the engine */
    uint64_t n_calls;               /* of these, calls */
    uint64_t n_kv_free, n_kv_total;
    ListNode waiters; /* calls that wait for its state to change */
    uv_work_t work;
    /* the background's */
    int work_result;
    GkEngine *work_engine;
    Error work_error;
    atomic_ullong done_bytes, total_bytes;
    atomic_bool is_given_up; /* reading may stop */
} Model;

/* Owner: Daemon. Thread: loop. */
typedef struct Models {
    struct Daemon *daemon;
    ListNode all;
    size_t n;
    GkPool *pool;
    uv_async_t progress; /* a load has read more */
    uint64_t told_us;    /* when the manager was last told */
} Models;

int models_init(Models *m, struct Daemon *daemon);
/* Adds the configured models, or the demo model, and begins to load. */
int models_start(Models *m);
/* Lets go of what is loading; engines in use are closed when they are not. */
void models_stop(Models *m);
/* After the worker and the loop have ended. */
void models_deinit(Models *m);
/* True while the background works on any. */
bool models_are_working(const Models *m);
/* True where nothing is being loaded or waits for it. */
bool models_are_settled(const Models *m);
size_t models_n_ready(const Models *m);
bool models_any_failed(const Models *m);

/* NULL or "": the default. */
Model *models_find(const Models *m, const char *name);
/* Adds one that is not there yet. */
int models_add(Models *m, const char *name, const char *path, Model **ret, Error *reterr);
/* Begins to load; waiters learn of the end. The model must be CONFIGURED or FAILED, unused. At the
 * cost of others, where `may_evict`. */
void model_load(Model *m, bool may_evict);
/* Takes no more requests; waiters learn when it is gone. */
void model_unload(Model *m);
/* The same for one that nobody uses; who asks for it meanwhile loads it again. */
void model_send_away(Model *m);
/* Requests that wait for a model are told that it won't come. */
void models_drain(Models *m);
/* Its file has failed: out of service from now on. */
void model_lose(Model *m);
void model_use(Model *m);
void model_release(Model *m); /* it may be gone afterwards */

unsigned model_percent(const Model *m);
/* Until it is loaded, as it went so far; 0: not known. */
uint64_t model_wait_us(const Model *m);
/* Views of the model's own strings. */
void model_fill_summary(const Model *m, Grokd__V1__ModelSummary *ret);
/* Of all, in the arena. Returns -ENOMEM. */
int models_fill_summaries(const Models *m, MsgArena *arena, Grokd__V1__ModelSummary ***ret,
                          size_t *ret_n);
