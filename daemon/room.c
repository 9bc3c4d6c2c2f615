/*
 * See room.h.
 *
 * What a model takes is its file, its KV cache (all of it, though pages are taken from the system
 * as they are used) and what a step works in. The file is mapped: it is page cache, which the
 * kernel calls available, for the machine as for a control group; so what is loaded, and KV pages
 * that nobody has come to yet, are taken off from what is said to be available. A locked file is
 * not, as it is in use already.
 *
 * Only a model that somebody asked for sends others away; those loaded at start would otherwise
 * chase each other out. A model that is alone is tried however large it is: it may be slow, but
 * nobody else is there to be hurt.
 */
#include "daemon/room.h"

#include "base/cgroup.h"
#include "base/human.h"
#include "daemon/daemon.h"
#include "daemon/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SPLIT_FILES_MAX 9999
/* The KV cache's share of the available memory where nothing is configured, and its floor. */
#define KV_SHARE     8
#define KV_BYTES_MIN (64ull << 20)

/* By the machine's or our control group's word, whichever is less. */
struct memory {
    uint64_t n_bytes;
    char what[CGROUP_WHAT_MAX + 16];
};

static struct memory available(void) {
    struct cgroup_memory group = cgroup_memory(CGROUP_LIST, CGROUP_MOUNT);
    FILE *file = fopen("/proc/meminfo", "re");
    struct memory m = {.what = "MemAvailable"};
    uint64_t kib = 0;
    char line[256];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    m.n_bytes = kib * 1024;
    if (group.n_available < m.n_bytes) {
        m.n_bytes = group.n_available;
        (void)snprintf(m.what, sizeof(m.what), "%s", group.what);
    }
    return m;
}

static uint64_t minus(uint64_t a, uint64_t b) {
    return a - MIN(a, b);
}

static uint64_t file_bytes(const char *path) {
    struct stat status;

    return stat(path, &status) == 0 && status.st_size > 0 ? (uint64_t)status.st_size : 0;
}

/* Of all files of a split model, NAME-00001-of-00009.gguf. 0: not known, loading will say why. */
static uint64_t path_bytes(const char *path) {
    const char *of = strstr(path, "-00001-of-");
    unsigned n_files = 0;
    uint64_t sum = 0;
    char part[4352];

    if (!of || sscanf(of, "-00001-of-%5u", &n_files) != 1 || n_files > SPLIT_FILES_MAX)
        return file_bytes(path);
    for (unsigned i = 1; i <= n_files; i++) {
        (void)snprintf(part, sizeof(part), "%.*s-%05u%s", (int)(of - path), path, i, of + 6);
        sum += file_bytes(part);
    }
    return sum;
}

/* 0: as there is room. */
static uint64_t configured_kv_bytes(const Model *m) {
    return m->kv_bytes > 0 ? m->kv_bytes : m->daemon->config->kv_bytes;
}

/* Of what is loaded; of what is to be, but for what a step works in, which its shapes will tell. */
static uint64_t bytes_of(const Model *m) {
    const struct gk_model_info *info = m->engine ? gk_engine_info(m->engine) : NULL;
    uint64_t kv = configured_kv_bytes(m);

    if (info)
        return info->n_file_bytes + info->n_kv_bytes_max + info->n_step_bytes;
    return path_bytes(m->path) + (kv > 0 ? kv : KV_BYTES_MIN);
}

/* Of what is loaded: what the system calls available all the same. */
static uint64_t promised_of(const Model *m) {
    const struct gk_model_info *info = gk_engine_info(m->engine);

    return minus(info->n_file_bytes, info->memory.n_locked_bytes) +
           gk_engine_kv_untouched(m->engine);
}

/* Loaded, and doing nothing. */
static bool is_idle(const Model *m) {
    return m->state == MODEL_READY && m->n_users == 0 && !m->is_pinned && !m->is_working;
}

static Model *find_oldest(const Models *m) {
    Model *oldest = NULL;

    list_for_each (node, &m->all) {
        Model *model = container_of(node, Model, node);

        if (is_idle(model) && (!oldest || model->idle_us < oldest->idle_us))
            oldest = model;
    }
    return oldest;
}

struct census {
    uint64_t n_bytes, n_promised;
    size_t n_loaded;
    bool any_leaves;
};

static struct census count(const Models *m, const Model *wanted) {
    struct census c = {0};

    list_for_each (node, &m->all) {
        const Model *model = container_of(node, Model, node);

        if (model == wanted)
            continue;
        c.any_leaves |= model->is_working && model->state != MODEL_LOADING;
        if (!model->engine)
            continue;
        c.n_bytes += bytes_of(model);
        c.n_promised += promised_of(model);
        c.n_loaded++;
    }
    return c;
}

/* Returns true where it would not fit; reterr says why. */
static bool is_over(const Models *m, const Model *wanted, const struct census *c, Error *reterr) {
    uint64_t max = m->daemon->config->model_bytes_max, n = bytes_of(wanted);
    struct memory memory = available();

    if (max > 0 && n > minus(max, c->n_bytes))
        error_write(reterr,
                    "model %s needs %" PRIu64 " MiB with its KV cache, and of the %" PRIu64
                    " MiB for models (model_memory_max) those in use or pinned have %" PRIu64,
                    wanted->name, n >> 20, max >> 20, c->n_bytes >> 20);
    else if (n > minus(memory.n_bytes, c->n_promised) && c->n_loaded > 0)
        error_write(reterr,
                    "model %s needs %" PRIu64 " MiB with its KV cache, and of the %" PRIu64
                    " MiB of memory that are available (%s) models in use or pinned need %" PRIu64,
                    wanted->name, n >> 20, memory.n_bytes >> 20, memory.what, c->n_promised >> 20);
    else
        return false;
    return true;
}

int room_make(Models *m, Model *wanted, Error *reterr) {
    uint64_t max = m->daemon->config->model_bytes_max;
    struct census c = count(m, wanted);
    Model *oldest;

    if (c.any_leaves)
        return ROOM_E_WAIT;
    if (!is_over(m, wanted, &c, reterr))
        return 0;
    oldest = wanted->may_evict ? find_oldest(m) : NULL;
    if (!oldest || (max > 0 && bytes_of(wanted) > max))
        return ROOM_E_NONE;
    log_info("unloading model %s: model %s needs the room", oldest->name, wanted->name);
    model_send_away(oldest);
    *reterr = (Error)ERROR_INIT;
    return ROOM_E_WAIT;
}

uint64_t room_kv_bytes(const Models *m, const Model *wanted) {
    uint64_t max = m->daemon->config->model_bytes_max, n = configured_kv_bytes(wanted);
    struct memory memory = available();
    struct census c = count(m, wanted);
    uint64_t n_free = minus(memory.n_bytes, c.n_promised), n_file = path_bytes(wanted->path);
    uint64_t n_left = minus(n_free, n_file);
    char amount[HUMAN_BYTES], whole[HUMAN_BYTES];
    const char *why = "an eighth";

    if (n > 0) {
        log_info("model %s: %s for its KV cache, as configured", wanted->name,
                 human_amount((double)n, "B", amount));
        return n;
    }
    n = n_free / KV_SHARE;
    if (max > 0)
        n_left = MIN(n_left, minus(minus(max, c.n_bytes), n_file));
    if (n_left < n) {
        n = n_left;
        why = "what the model leaves";
    }
    if (n < KV_BYTES_MIN) {
        n = KV_BYTES_MIN;
        why = "the least there is, whatever is left";
    }
    log_info("model %s: %s for its KV cache: %s of the %s that are available (%s) beside other "
             "models",
             wanted->name, human_amount((double)n, "B", amount), why,
             human_amount((double)n_free, "B", whole), memory.what);
    return n;
}

uint64_t room_tick(Models *m, uint64_t now_us) {
    uint64_t next = 0;

    list_for_each_safe (node, &m->all) {
        Model *model = container_of(node, Model, node);
        uint64_t at = model->idle_us + model->keep_us;

        if (!is_idle(model) || model->keep_us == 0)
            continue;
        if (at <= now_us) {
            log_info("unloading model %s: nobody has used it for %" PRIu64 " s", model->name,
                     model->keep_us / 1000000);
            model_send_away(model);
        } else {
            next = next ? MIN(next, at) : at;
        }
    }
    return next;
}
