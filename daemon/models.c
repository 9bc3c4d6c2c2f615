/*
 * See models.h.
 *
 *   CONFIGURED ──load──▶ LOADING ──▶ READY ──unload──▶ UNLOADING ──nobody uses it──▶ CONFIGURED
 *        ▲                  ├─ no room ──▶ CONFIGURED
 *        │                  └──▶ FAILED ◀── its file is lost ──┘        (or gone, if temporary)
 *        └──────── load ────────────┘
 *
 * Opening reads the whole file and closing gives back its pages: both take long, so libuv's threads
 * do them. One model is opened at a time: the disk is the bottleneck, and the other threads stay
 * free for tokenizing. An engine is closed only when no call, job or background work uses it;
 * n_users counts them.
 */
#include "daemon/models.h"

#include "base/alloc.h"
#include "base/human.h"
#include "daemon/chat.h"
#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/room.h"
#include "daemon/service.h"
#include "daemon/state.h"
#include "proto/msg.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DEMO_NAME      "demo"
#define DEMO_FILE      "model-q8_0.gguf"
#define DEMO_IN_SOURCE "engine/demo/" DEMO_FILE
/* How often the manager is told of progress, and how much longer that gives us. */
#define TELL_US   1000000
#define EXTEND_US 30000000
/* After a failure to load: 10 s, 20 s, … 640 s. */
#define COOL_MIN_US    10000000ull
#define COOL_DOUBLINGS 6u
/* More of a model than this on other NUMA nodes than it should be is worth a warning. */
#define AWAY_PERCENT_MAX 10u

static const char *const state_names[] = {
#define X(name) #name,
    MODEL_STATE_MAP(X)
#undef X
};

static const unsigned state_edges[] = {
    [MODEL_CONFIGURED] = BIT(MODEL_LOADING),
    [MODEL_LOADING] = BIT(MODEL_READY) | BIT(MODEL_FAILED) | BIT(MODEL_CONFIGURED),
    [MODEL_READY] = BIT(MODEL_UNLOADING) | BIT(MODEL_FAILED),
    [MODEL_FAILED] = BIT(MODEL_LOADING) | BIT(MODEL_UNLOADING),
    [MODEL_UNLOADING] = BIT(MODEL_CONFIGURED),
};

static void set_state(Model *m, enum model_state to) {
    assert(state_edges[m->state] & BIT(to));
    log_debug("model %s: %s to %s", m->name, state_names[m->state], state_names[to]);
    m->state = to;
}

/* ---- the list ---- */

static Model *model_free(Model *m) {
    if (!m)
        return NULL;
    assert(!m->engine && m->n_users == 0 && !m->is_working);
    assert(list_is_empty(&m->waiters));
    list_unlink(&m->node);
    m->daemon->models.n--;
    free(m->name);
    free(m->path);
    free(m->shown_path);
    free(m->chat_template);
    free(m);
    return NULL;
}

Model *models_find(const Models *m, const char *name) {
    list_for_each (node, &m->all) {
        Model *model = container_of(node, Model, node);

        if (name && name[0] ? strcmp(model->name, name) == 0 : model->is_default)
            return model;
    }
    return NULL;
}

int models_add(Models *m, const char *name, const char *path, Model **ret, Error *reterr) {
    Model *model;

    if (m->n >= WORKER_MODELS_MAX)
        return error_set(reterr, -E2BIG, "there are %zu models already", m->n);
    model = alloc_new(Model);
    if (model) {
        list_init(&model->node);
        list_init(&model->waiters);
        model->daemon = m->daemon;
        model->name = alloc_string(name);
        model->path = alloc_string(path);
        model->shown_path = alloc_string(path);
        model->keep_us =
            m->daemon->config->keep_us == CONFIG_FOREVER ? 0 : m->daemon->config->keep_us;
        m->n++;
    }
    if (!model || !model->name || !model->path || !model->shown_path) {
        (void)model_free(model);
        return error_set(reterr, -ENOMEM, "out of memory");
    }
    msg_make_utf8(model->shown_path);
    list_push_back(&m->all, &model->node);
    *ret = model;
    return 0;
}

/* ---- in the background ---- */

static bool on_read(void *userdata, uint64_t done_bytes, uint64_t total_bytes) {
    Model *m = userdata;

    atomic_store(&m->total_bytes, total_bytes);
    atomic_store(&m->done_bytes, done_bytes);
    (void)uv_async_send(&m->daemon->models.progress);
    return !atomic_load(&m->is_given_up);
}

static void open_in_background(uv_work_t *work) {
    Model *m = work->data;
    const Config *c = m->daemon->config;
    struct gk_options options = {
        .path = m->path,
        .pool = m->daemon->models.pool,
        .isa = c->isa[0] ? c->isa : NULL,
        .kv_type = (enum gk_kv_type)c->kv_type,
        .kv_bytes_max = m->kv_bytes_now,
        .n_context_max = (uint32_t)(m->n_context_max ? m->n_context_max : c->n_context_max),
        .n_rows_max = (uint32_t)(c->n_step_rows + c->n_sequences_max),
        .n_sequences_max = (uint32_t)c->n_sequences_max,
        .exact_floats = c->exact_floats,
        .prefix_cache = c->prefix_cache,
        .hugepages = c->hugepages,
        .preload = c->preload,
        .lock = c->lock,
        .on_progress = on_read,
        .userdata = m,
    };

    m->work_result = gk_engine_open(&m->work_engine, &options, &m->work_error);
    if (m->work_result == 0)
        state_load(m, m->work_engine);
}

static void close_in_background(uv_work_t *work) {
    Model *m = work->data;

    state_save(m, m->work_engine);
    m->work_engine = gk_engine_close(m->work_engine);
}

/* ---- loading ---- */

static void load_next(Models *m);
static void close_if_unused(Model *m);

/* Whoever is told may end, and with it others; or load the model, and with that tell them all. Not
 * while it is being loaded, when they hear their places. */
static void tell_waiters(Model *m) {
    uint32_t n_told = 0;
    ListNode untold;

    list_init(&untold);
    while (!list_is_empty(&m->waiters)) {
        Call *call = list_first(&m->waiters, Call, model_node);

        list_unlink(&call->model_node);
        list_push_back(&untold, &call->model_node);
    }
    while (!list_is_empty(&untold)) {
        Call *call = list_first(&untold, Call, model_node);

        list_unlink(&call->model_node);
        list_push_back(&m->waiters, &call->model_node);
        service_model_changed(call, m, n_told++);
    }
}

/* Where nobody needs to know the model any more. */
static void settle(Model *m) {
    Daemon *d = m->daemon;

    m->n_users++; /* whoever is told may settle it again: it goes here */
    tell_waiters(m);
    m->n_users--;
    close_if_unused(m);
    if (m->is_temporary && !m->engine && !m->is_working && m->n_users == 0 &&
        (m->state == MODEL_FAILED || m->state == MODEL_CONFIGURED))
        (void)model_free(m);
    load_next(&d->models);
    daemon_models_changed(d);
}

/* From now on nobody uses it. */
static void note_idle(Model *m) {
    m->idle_us = daemon_now_us(m->daemon);
    if (m->keep_us > 0 && m->state == MODEL_READY)
        daemon_wake_at(m->daemon, m->idle_us + m->keep_us);
}

/* Requests alone don't load it again for a while, each time longer. */
static void cool_down(Model *m) {
    uint64_t us = COOL_MIN_US << MIN(m->n_failures, COOL_DOUBLINGS);

    m->n_failures++;
    m->retry_us = daemon_now_us(m->daemon) + us;
}

/* Pages that were in the page cache already are not moved. */
static void log_homes(const Model *m, const struct gk_memory *memory) {
    uint64_t n_known = memory->n_home_bytes + memory->n_away_bytes;
    unsigned percent = n_known > 0 ? (unsigned)(100 * memory->n_away_bytes / n_known) : 0;

    if (n_known == 0)
        return;
    log_info("model %s: %u %% of it are on the NUMA node of the threads that read them", m->name,
             100 - percent);
    if (percent > AWAY_PERCENT_MAX)
        log_warning("model %s: %u %% of it were in the page cache on other NUMA nodes than that of "
                    "the threads that read them, which is slower; grokd.conf(5), preload, says "
                    "what helps",
                    m->name, percent);
}

static void log_memory(const Model *m, const struct gk_model_info *info) {
    const struct gk_memory *memory = &info->memory;
    char mapped[HUMAN_BYTES], resident[HUMAN_BYTES], locked[HUMAN_BYTES], huge[HUMAN_BYTES];

    log_info("model %s: memory: %s mapped, %s resident, %s locked, %s in huge pages; %u NUMA "
             "node%s",
             m->name, human_amount((double)info->n_file_bytes, "B", mapped),
             human_amount((double)memory->n_resident_bytes, "B", resident),
             human_amount((double)memory->n_locked_bytes, "B", locked),
             human_amount((double)memory->n_huge_bytes, "B", huge), memory->n_nodes,
             memory->n_nodes == 1 ? "" : "s");
    log_homes(m, memory);
    if (m->daemon->config->lock && memory->n_locked_bytes < memory->n_resident_bytes)
        log_warning("model %s is not locked in memory: the limit (LimitMEMLOCK= of the unit, "
                    "RLIMIT_MEMLOCK) is too low",
                    m->name);
}

static void on_opened(uv_work_t *work, int status) {
    Model *m = work->data;
    bool is_open = m->work_result == 0, is_late = m->daemon->is_closing;

    (void)status;
    m->is_working = false;
    m->engine = m->work_engine;
    m->work_engine = NULL;
    if (is_open) {
        const struct gk_model_info *info = gk_engine_info(m->engine);

        gk_engine_kv_pages(m->engine, &m->n_kv_free, &m->n_kv_total);
        log_info("model %s is ready: %s, %" PRIu64 " parameters, %s, context %u, %" PRIu64
                 " KV pages of %s",
                 m->name, info->architecture, info->n_parameters, info->isa, info->n_context_max,
                 m->n_kv_total, info->kv_type);
        if (!m->daemon->config->isa[0] && gk_isa_refused())
            log_notice("model %s is slower than it could be: %s", m->name, gk_isa_refused());
        log_memory(m, info);
        m->n_failures = 0;
        chat_check_template(m);
        set_state(m, MODEL_READY);
        note_idle(m);
    } else {
        m->error = m->work_error;
        msg_make_utf8(m->error.text);
        if (atomic_load(&m->is_given_up))
            log_info("loading model %s is given up", m->name);
        else
            log_error("model %s can't be loaded: %s", m->name, m->error.text);
        set_state(m, MODEL_FAILED);
        cool_down(m);
    }
    settle(m); /* forgets it, where it is temporary and failed */
    if (is_open && is_late) {
        m->is_closing = true;
        close_if_unused(m);
    }
}

/* The first that waits to be loaded, where none is being loaded. */
static Model *find_next(const Models *m) {
    Model *next = NULL;

    list_for_each (node, &m->all) {
        Model *model = container_of(node, Model, node);

        if (model->state == MODEL_LOADING && model->is_working)
            return NULL;
        if (model->state == MODEL_LOADING && !next)
            next = model;
    }
    return next;
}

static void load_next(Models *m) {
    Model *next = m->daemon->is_draining ? NULL : find_next(m);
    int r;

    if (!next)
        return;
    r = room_make(m, next, &next->error);
    if (r == ROOM_E_WAIT)
        return; /* until it has left */
    if (r != 0) {
        log_warning("%s", next->error.text);
        next->has_no_room = true;
        set_state(next, MODEL_CONFIGURED);
        settle(next); /* and on to the next */
        return;
    }
    log_info("loading model %s from %s", next->name, next->path);
    notify_status("Loading model %s", next->name);
    next->kv_bytes_now = room_kv_bytes(m, next);
    next->is_working = true;
    next->load_us = daemon_now_us(m->daemon);
    next->work.data = next;
    (void)uv_queue_work(&m->daemon->loop, &next->work, open_in_background, on_opened);
}

void model_load(Model *m, bool may_evict) {
    assert(!m->engine && !m->is_working);
    m->error = (Error)ERROR_INIT;
    m->is_closing = m->is_lost = m->is_leaving = m->has_no_room = false;
    m->may_evict = may_evict;
    atomic_store(&m->done_bytes, 0);
    atomic_store(&m->total_bytes, 0);
    set_state(m, MODEL_LOADING);
    load_next(&m->daemon->models);
}

unsigned model_percent(const Model *m) {
    uint64_t done = atomic_load(&m->done_bytes), total = atomic_load(&m->total_bytes);

    return total > 0 ? (unsigned)(done / (total / 100 + 1)) : 0;
}

uint64_t model_wait_us(const Model *m) {
    uint64_t done = atomic_load(&m->done_bytes), total = atomic_load(&m->total_bytes);
    uint64_t us = daemon_now_us(m->daemon) - m->load_us;

    if (m->state != MODEL_LOADING || !m->is_working || done == 0 || done > total)
        return 0;
    return (uint64_t)((double)us * (double)(total - done) / (double)done);
}

static void on_progress(uv_async_t *async) {
    Models *m = async->data;
    uint64_t now = daemon_now_us(m->daemon);

    list_for_each (node, &m->all) {
        Model *model = container_of(node, Model, node);

        if (model->state != MODEL_LOADING || !model->is_working)
            continue;
        tell_waiters(model);
        if (now < m->told_us + TELL_US)
            return;
        m->told_us = now;
        notify_status("Loading model %s: %u %%", model->name, model_percent(model));
        if (!m->daemon->is_ready)
            notify_extend(EXTEND_US);
        return;
    }
}

/* ---- unloading ---- */

static void on_engine_closed(uv_work_t *work, int status) {
    Model *m = work->data;

    (void)status;
    m->is_working = false;
    m->is_closing = false;
    if (m->state == MODEL_UNLOADING) {
        log_info("model %s is unloaded", m->name);
        set_state(m, MODEL_CONFIGURED);
    }
    settle(m);
}

static void close_if_unused(Model *m) {
    if (!m->is_closing || m->n_users > 0 || !m->engine || m->is_working)
        return;
    m->work_engine = m->engine;
    m->engine = NULL;
    m->n_kv_free = m->n_kv_total = 0;
    m->is_working = true;
    m->work.data = m;
    (void)uv_queue_work(&m->daemon->loop, &m->work, close_in_background, on_engine_closed);
}

void model_send_away(Model *m) {
    assert(m->n_users == 0);
    model_unload(m);
    m->is_leaving = m->state == MODEL_UNLOADING;
}

void model_unload(Model *m) {
    set_state(m, MODEL_UNLOADING);
    m->is_pinned = m->is_pinned_always;
    m->is_closing = true;
    if (m->engine || m->is_working) { /* a lost one may be being closed already */
        close_if_unused(m);
        return;
    }
    set_state(m, MODEL_CONFIGURED);
    settle(m);
}

void model_lose(Model *m) {
    if (m->state != MODEL_READY)
        return;
    (void)error_set(&m->error, 0, "its file was changed or could not be read any more");
    log_error("model %s is out of service: %s", m->name, m->error.text);
    m->is_lost = true;
    set_state(m, MODEL_FAILED);
    cool_down(m);
    m->is_closing = true;
    close_if_unused(m);
    daemon_models_changed(m->daemon);
}

void model_use(Model *m) {
    m->n_users++;
}

void model_release(Model *m) {
    assert(m->n_users > 0);
    m->n_users--;
    if (m->n_users > 0)
        return;
    note_idle(m);
    close_if_unused(m);
}

/* ---- all of them ---- */

int models_init(Models *m, Daemon *daemon) {
    Error error = ERROR_INIT;
    int r;

    *m = (Models){.daemon = daemon};
    list_init(&m->all);
    m->progress.data = m;
    r = uv_async_init(&daemon->loop, &m->progress, on_progress);
    if (r < 0)
        return r;
    m->progress.data = m;
    r = gk_pool_new(&m->pool, (unsigned)daemon->config->n_threads, &error);
    if (r != 0) {
        log_error("can't start the compute threads: %s", error.text);
        return -ENOTRECOVERABLE;
    }
    if ((unsigned)daemon->config->n_threads > gk_pool_n_threads(m->pool))
        log_warning("threads = %u: grokd may use %u CPU%s (affinity and quota of its cgroup) and "
                    "starts no more threads than that",
                    (unsigned)daemon->config->n_threads, gk_pool_n_threads(m->pool),
                    gk_pool_n_threads(m->pool) == 1 ? "" : "s");
    return 0;
}

static bool is_readable(const char *path) {
    return access(path, R_OK) == 0;
}

/* Installed, or in the source tree that this program was built in. */
static int find_demo(char *path, size_t n) {
    char program[4096];
    ssize_t n_program;

    (void)snprintf(path, n, "%s", GROKD_SHARE_DIR "/" DEMO_FILE);
    if (is_readable(path))
        return 0;
    n_program = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (n_program < 0)
        return -errno;
    program[n_program] = '\0';
    for (char *slash = strrchr(program, '/'); slash; slash = strrchr(program, '/')) {
        *slash = '\0';
        if ((size_t)snprintf(path, n, "%s/%s", program, DEMO_IN_SOURCE) < n && is_readable(path))
            return 0;
    }
    return -ENOENT;
}

static int add_demo(Models *m) {
    char path[4096 + sizeof(DEMO_IN_SOURCE) + 1];
    Error error = ERROR_INIT;
    Model *model;

    if (find_demo(path, sizeof(path)) < 0) {
        log_error("no model is configured, and the demo model is not at %s",
                  GROKD_SHARE_DIR "/" DEMO_FILE);
        return -ENOENT;
    }
    if (models_add(m, DEMO_NAME, path, &model, &error) != 0) {
        log_error("%s", error.text);
        return -ENOMEM;
    }
    log_notice("no model is configured: serving the demo model %s", path);
    model->is_demo = model->is_default = true;
    model_load(model, false);
    return 0;
}

int models_start(Models *m) {
    const Config *c = m->daemon->config;
    Error error = ERROR_INIT;
    Model *model, *chosen = NULL;

    if (c->n_models == 0)
        return add_demo(m);
    for (size_t i = 0; i < c->n_models; i++) {
        if (models_add(m, c->models[i].name, c->models[i].path, &model, &error) != 0) {
            log_error("%s", error.text);
            return -ENOMEM;
        }
        model->kv_bytes = c->models[i].kv_bytes;
        model->n_context_max = c->models[i].n_context_max;
        model->is_pinned = model->is_pinned_always = c->models[i].pin;
        if (c->models[i].keep_us > 0)
            model->keep_us = c->models[i].keep_us == CONFIG_FOREVER ? 0 : c->models[i].keep_us;
        model->chat_template_name = c->models[i].chat_template;
        if (model->chat_template_name[0] &&
            chat_load_template(model->chat_template_name, &model->chat_template, &error) != 0) {
            log_error("[model %s] chat_template: %s", model->name, error.text);
            return -EINVAL;
        }
        if (!chosen || c->models[i].is_default)
            chosen = model;
    }
    chosen->is_default = true;
    for (size_t i = 0; i < c->n_models; i++)
        if (c->models[i].load)
            model_load(models_find(m, c->models[i].name), false);
    return 0;
}

void models_drain(Models *m) {
    list_for_each (node, &m->all)
        list_for_each_safe (waiter, &container_of(node, Model, node)->waiters) {
            Call *call = container_of(waiter, Call, model_node);

            if (call->method->is_inference)
                call_fail(call, STATUS_UNAVAILABLE, "the daemon is shutting down");
        }
}

void models_stop(Models *m) {
    list_for_each (node, &m->all) {
        Model *model = container_of(node, Model, node);

        atomic_store(&model->is_given_up, true);
        model->is_closing = true;
        close_if_unused(model);
    }
}

void models_deinit(Models *m) {
    while (!list_is_empty(&m->all))
        (void)model_free(list_first(&m->all, Model, node));
    m->pool = gk_pool_free(m->pool);
}

bool models_are_working(const Models *m) {
    list_for_each (node, &m->all)
        if (container_of(node, Model, node)->is_working)
            return true;
    return false;
}

bool models_are_settled(const Models *m) {
    list_for_each (node, &m->all)
        if (container_of(node, Model, node)->state == MODEL_LOADING)
            return false;
    return true;
}

size_t models_n_ready(const Models *m) {
    size_t n = 0;

    list_for_each (node, &m->all)
        n += container_of(node, Model, node)->state == MODEL_READY;
    return n;
}

bool models_any_failed(const Models *m) {
    list_for_each (node, &m->all)
        if (container_of(node, Model, node)->state == MODEL_FAILED)
            return true;
    return false;
}

void model_fill_summary(const Model *m, Grokd__V1__ModelSummary *ret) {
    static const Grokd__V1__ModelState states[] = {
#define X(name) [MODEL_##name] = GROKD__V1__MODEL_STATE__MODEL_STATE_##name,
        MODEL_STATE_MAP(X)
#undef X
    };

    uint64_t now = daemon_now_us(m->daemon);

    grokd__v1__model_summary__init(ret);
    ret->name = m->name;
    ret->path = m->shown_path;
    ret->state = states[m->state];
    ret->error = (char *)(uintptr_t)m->error.text;
    ret->is_default = m->is_default;
    ret->is_demo = m->is_demo;
    ret->pinned = m->is_pinned;
    ret->users = (uint32_t)m->n_calls;
    ret->keep_alive_us = m->keep_us;
    if (m->state == MODEL_READY && m->n_users == 0)
        ret->idle_us = now - MIN(now, m->idle_us);
    if (m->state == MODEL_FAILED)
        ret->retry_us = m->retry_us - MIN(m->retry_us, now);
    if (m->engine) {
        const struct gk_model_info *info = gk_engine_info(m->engine);

        ret->architecture = (char *)(uintptr_t)info->architecture;
        ret->parameters = info->n_parameters;
        ret->file_bytes = info->n_file_bytes;
    }
}

int models_fill_summaries(const Models *m, MsgArena *arena, Grokd__V1__ModelSummary ***ret,
                          size_t *ret_n) {
    Grokd__V1__ModelSummary **all = msg_arena_alloc(arena, (m->n + 1) * sizeof(*all));
    Grokd__V1__ModelSummary *each = msg_arena_alloc(arena, (m->n + 1) * sizeof(*each));
    size_t n = 0;

    if (!all || !each)
        return -ENOMEM;
    list_for_each (node, &m->all) {
        model_fill_summary(container_of(node, Model, node), &each[n]);
        all[n] = &each[n];
        n++;
    }
    *ret = all;
    *ret_n = n;
    return 0;
}
