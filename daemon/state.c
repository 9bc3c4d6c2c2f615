/*
 * See state.h.
 *
 * Written where an engine is closed, that is when its model is unloaded or the daemon ends: nobody
 * waits for an answer then. What a crash takes was computed since the start, and can be again.
 * Rejected: writing now and then, since the engine belongs to the worker, and a thousand tokens of
 * a large model are a hundred megabytes, which would hold up everyone's streams.
 */
#include "daemon/state.h"

#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* How often the manager hears that it goes on, and how much longer that gives us. */
#define TELL_US   1000000
#define EXTEND_US 30000000

struct work {
    Model *model;
    bool may_give_up;
    uint64_t begun_us, told_us;
    char name[72];
    struct gk_prefix_file file;
};

static uint64_t now_us(void) {
    return uv_hrtime() / 1000;
}

static bool go_on(void *userdata) {
    struct work *w = userdata;
    uint64_t now = now_us();

    if (now - w->told_us >= TELL_US) {
        w->told_us = now;
        notify_extend(EXTEND_US);
    }
    return !w->may_give_up || !atomic_load(&w->model->is_given_up);
}

/* Returns false where nothing is kept: models that came with a path have no lasting name. */
static bool begin(struct work *w, Model *m, bool may_give_up) {
    const Config *c = m->daemon->config;
    uint64_t now = now_us();

    if (c->prefix_state[0] == '\0' || m->is_temporary)
        return false;
    *w = (struct work){.model = m, .may_give_up = may_give_up, .begun_us = now, .told_us = now};
    (void)snprintf(w->name, sizeof(w->name), "%s.kv", m->name);
    w->file = (struct gk_prefix_file){.directory = c->prefix_state,
                                      .name = w->name,
                                      .n_bytes_max = c->prefix_state_bytes_max,
                                      .may_share = c->prefix_shared,
                                      .go_on = go_on,
                                      .userdata = w};
    return true;
}

static void report(const struct work *w, int r, uint64_t n_tokens, const char *what,
                   const char *what_not, const Error *error) {
    if (r == 0 && n_tokens > 0)
        log_info("model %s: %s %" PRIu64 " cached tokens in %.1f s", w->model->name, what, n_tokens,
                 (double)(now_us() - w->begun_us) / 1e6);
    else if (r != 0 && r != -ECANCELED)
        log_warning("model %s: %s: %s", w->model->name, what_not, error->text);
}

void state_load(Model *m, GkEngine *engine) {
    Error error = ERROR_INIT;
    uint64_t n_tokens;
    struct work w;
    int r;

    if (!begin(&w, m, true))
        return;
    r = gk_prefixes_load(engine, &w.file, &n_tokens, &error);
    report(&w, r, n_tokens, "read", "the prefix cache begins empty", &error);
}

void state_save(Model *m, GkEngine *engine) {
    Error error = ERROR_INIT;
    uint64_t n_tokens;
    struct work w;
    int r;

    if (!begin(&w, m, false))
        return;
    notify_extend(EXTEND_US);
    r = gk_prefixes_save(engine, &w.file, &n_tokens, &error);
    report(&w, r, n_tokens, "kept", "the prefix cache is not kept", &error);
}
