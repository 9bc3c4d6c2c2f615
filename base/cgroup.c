/* See cgroup.h. */
#include "base/cgroup.h"

#include "base/macro.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* ---- the tree ---- */

/* True where a comma-separated list holds the word. */
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);

    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, word, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return true;
    }
    return false;
}

/* A line "ID:CONTROLLERS:/PATH"; version 2 has no controllers in it. */
static void walk_line(char *line, const char *mount, const char *controller, cgroup_visit visit,
                      void *userdata) {
    char directory[2 * PATH_MAX], *controllers = strchr(line, ':'), *group, *slash;
    bool is_v1;

    group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return;
    *group++ = '\0';
    controllers++;
    group[strcspn(group, "\n")] = '\0';
    is_v1 = controllers[0] != '\0';
    if (is_v1 && !has_word(controllers, controller))
        return;
    do {
        (void)snprintf(directory, sizeof(directory), "%s%s%s%s", mount, is_v1 ? "/" : "",
                       is_v1 ? controller : "", group);
        visit(userdata, directory, is_v1);
        slash = strrchr(group, '/');
        if (slash)
            *slash = '\0';
    } while (slash);
}

void cgroup_walk(const char *list, const char *mount, const char *controller, cgroup_visit visit,
                 void *userdata) {
    FILE *f = fopen(list, "re");
    char line[PATH_MAX];

    while (f && fgets(line, sizeof(line), f))
        walk_line(line, mount, controller, visit, userdata);
    if (f)
        (void)fclose(f);
}

static FILE *open_in(const char *directory, const char *file) {
    char path[3 * PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/%s", directory, file);
    return fopen(path, "re");
}

long long cgroup_read(const char *directory, const char *file, long long *ret_second) {
    char line[64] = "", *end, *second;
    FILE *f = open_in(directory, file);
    long long r;

    *ret_second = 0;
    if (!f)
        return -1;
    if (!fgets(line, sizeof(line), f))
        line[0] = '\0';
    (void)fclose(f);
    r = strtoll(line, &end, 10);
    if (end == line)
        return -1;
    *ret_second = strtoll(end, &second, 10);
    return r;
}

/* ---- memory ---- */

/* Files that hold limits, what is in use, and what of that the kernel takes back on demand. */
struct files {
    const char *limits[2], *usage, *reclaimable[2];
};
static const struct files v1 = {.limits = {"memory.limit_in_bytes"},
                                .usage = "memory.usage_in_bytes",
                                .reclaimable = {"total_active_file ", "total_inactive_file "}};
static const struct files v2 = {.limits = {"memory.max", "memory.high"},
                                .usage = "memory.current",
                                .reclaimable = {"active_file ", "inactive_file "}};

/* The sum of the keys' lines in memory.stat. */
static uint64_t read_reclaimable(const char *directory, const struct files *files) {
    FILE *f = open_in(directory, "memory.stat");
    uint64_t sum = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f))
        for (size_t i = 0; i < ARRAY_SIZE(files->reclaimable); i++) {
            size_t n = strlen(files->reclaimable[i]);

            if (strncmp(line, files->reclaimable[i], n) == 0)
                sum += MIN(strtoull(line + n, NULL, 10), (unsigned long long)INT64_MAX / 2);
        }
    if (f)
        (void)fclose(f);
    return sum;
}

static void narrow(void *userdata, const char *directory, bool is_v1) {
    const struct files *files = is_v1 ? &v1 : &v2;
    struct cgroup_memory *m = userdata;
    long long ignored, limit, usage = cgroup_read(directory, files->usage, &ignored);
    uint64_t used = (uint64_t)MAX(usage, 0ll), reclaimable = read_reclaimable(directory, files);

    used -= MIN(used, reclaimable);
    for (size_t i = 0; i < ARRAY_SIZE(files->limits) && files->limits[i]; i++) {
        uint64_t available;

        limit = cgroup_read(directory, files->limits[i], &ignored);
        if (limit < 0)
            continue;
        available = (uint64_t)limit - MIN(used, (uint64_t)limit);
        if (available >= m->n_available)
            continue;
        m->n_available = available;
        m->n_limit = (uint64_t)limit;
        m->n_used = used;
        (void)snprintf(m->what, sizeof(m->what), "%s/%s", directory, files->limits[i]);
    }
}

struct cgroup_memory cgroup_memory(const char *list, const char *mount) {
    struct cgroup_memory m = {.n_available = UINT64_MAX};

    cgroup_walk(list, mount, "memory", narrow, &m);
    return m;
}
