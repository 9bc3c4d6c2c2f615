/*
 * See room.h.
 *
 * What counts are the weights: a model's KV cache has a budget of its own, and is a part of what is
 * available when the model is opened. Mapped weights are page cache, which the kernel calls
 * available; so those of models that are loaded are taken off again.
 *
 * Only a model that somebody asked for sends others away; those loaded at start would otherwise
 * chase each other out. A model that is alone is tried however large it is: it may be slow, but
 * nobody else is there to be hurt.
 */
#include "daemon/room.h"

#include "daemon/daemon.h"
#include "daemon/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SPLIT_FILES_MAX 9999

uint64_t room_available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "re");
    uint64_t kib = 0, limit = uv_get_constrained_memory(), bytes;
    char line[256];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    bytes = kib * 1024;
    return limit > 0 && limit < bytes ? limit : bytes;
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

static uint64_t weights_of(const Model *m) {
    return m->engine ? gk_engine_info(m->engine)->n_file_bytes : path_bytes(m->path);
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
    uint64_t n_bytes; /* of weights */
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
        c.n_bytes += weights_of(model);
        c.n_loaded++;
    }
    return c;
}

int room_make(Models *m, Model *wanted, Error *reterr) {
    uint64_t max = m->daemon->config->model_bytes_max, available = room_available_bytes();
    uint64_t n = weights_of(wanted);
    struct census c = count(m, wanted);
    bool is_over_max = max > 0 && (n > max || c.n_bytes > max - n);
    bool is_over_memory = n > available || c.n_bytes > available - n;
    Model *oldest;

    if (c.any_leaves)
        return ROOM_E_WAIT;
    if (!is_over_max && (!is_over_memory || c.n_loaded == 0))
        return 0;
    oldest = wanted->may_evict ? find_oldest(m) : NULL;
    if (oldest && (max == 0 || n <= max)) {
        log_info("unloading model %s: model %s needs the room", oldest->name, wanted->name);
        model_send_away(oldest);
        return ROOM_E_WAIT;
    }
    if (is_over_max)
        return error_set(reterr, ROOM_E_NONE,
                         "model %s needs %" PRIu64 " MiB, and of the %" PRIu64
                         " MiB for models (model_memory_max) those in use or pinned have %" PRIu64,
                         wanted->name, n >> 20, max >> 20, c.n_bytes >> 20);
    return error_set(reterr, ROOM_E_NONE,
                     "model %s needs %" PRIu64 " MiB, and of the %" PRIu64
                     " MiB of memory that are available models in use or pinned have %" PRIu64,
                     wanted->name, n >> 20, available >> 20, c.n_bytes >> 20);
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
