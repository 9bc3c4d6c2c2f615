/*
 * See cpus.h. A quota may be set on our cgroup or on any above it, and in a container the path in
 * /proc/self/cgroup may begin above what is mounted: so every directory from there up to the mount
 * is read, those that don't exist are no limit, and the least one holds.
 */
#include "engine/cpus.h"

#include "base/macro.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The first word of a file as a number; -1 where there is none ("max") or no file. *ret_second: the
 * second word, 0 where there is none. */
static long long read_numbers(const char *path, long long *ret_second) {
    char line[64] = "", *end, *second;
    FILE *f = fopen(path, "re");
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

/* v2: cpu.max holds "QUOTA PERIOD" or "max PERIOD"; v1: a file for each, quota -1 for no limit. */
static unsigned quota_of(const char *directory, bool v1) {
    char path[2 * PATH_MAX];
    long long quota, period, ignored;

    (void)snprintf(path, sizeof(path), "%s/%s", directory, v1 ? "cpu.cfs_quota_us" : "cpu.max");
    quota = read_numbers(path, &period);
    if (v1) {
        (void)snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", directory);
        period = read_numbers(path, &ignored);
    }
    if (quota <= 0 || period <= 0)
        return 0;
    return (unsigned)MIN(quota / period + (quota % period > 0), (long long)INT_MAX);
}

static unsigned lesser(unsigned a, unsigned b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

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
static unsigned quota_of_line(char *line, const char *mount) {
    char directory[2 * PATH_MAX], *controllers = strchr(line, ':'), *group, *slash;
    unsigned least = 0;
    bool v1;

    group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    *group++ = '\0';
    controllers++;
    group[strcspn(group, "\n")] = '\0';
    v1 = controllers[0] != '\0';
    if (v1 && !has_word(controllers, "cpu"))
        return 0;
    for (;;) {
        (void)snprintf(directory, sizeof(directory), "%s%s%s", mount, v1 ? "/cpu" : "", group);
        least = lesser(least, quota_of(directory, v1));
        slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

unsigned cpus_quota(const char *list, const char *mount) {
    FILE *f = fopen(list, "re");
    char line[PATH_MAX];
    unsigned least = 0;

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f))
        least = lesser(least, quota_of_line(line, mount));
    (void)fclose(f);
    return least;
}

const struct cpus_sources cpus_kernel = {
    .cgroups = "/proc/self/cgroup", .cgroup_mount = "/sys/fs/cgroup", .nodes = CPUS_NODES};

unsigned cpus_usable(const struct cpus_sources *sources, cpu_set_t *ret_mask) {
    unsigned n, quota = cpus_quota(sources->cgroups, sources->cgroup_mount);

    CPU_ZERO(ret_mask);
    if (sources->allowed)
        *ret_mask = *sources->allowed;
    else if (sched_getaffinity(0, sizeof(*ret_mask), ret_mask) < 0)
        CPU_ZERO(ret_mask); /* more CPUs than the mask holds: nothing is pinned */
    n = (unsigned)CPU_COUNT(ret_mask);
    if (n == 0)
        n = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    return quota > 0 ? MIN(n, quota) : n;
}

/* ---- nodes ---- */

/* "0-3,8,10-11"; false where it is something else. */
static bool parse_list(const char *text, cpu_set_t *ret) {
    CPU_ZERO(ret);
    for (const char *at = text; *at != '\0' && *at != '\n';) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;

        if (end == at)
            return false;
        if (*end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
            if (end == at)
                return false;
        }
        if (last < first || last >= CPU_SETSIZE || (*end != ',' && *end != '\n' && *end != '\0'))
            return false;
        for (unsigned long i = first; i <= last; i++)
            CPU_SET(i, ret);
        at = *end == ',' ? end + 1 : end;
    }
    return true;
}

/* A set of numbers in a file of one line; empty where there is none. */
static void read_list(const char *path, cpu_set_t *ret) {
    FILE *f = fopen(path, "re");
    char line[8 * CPU_SETSIZE] = "";

    if (f && !fgets(line, sizeof(line), f))
        line[0] = '\0';
    if (f)
        (void)fclose(f);
    if (!parse_list(line, ret))
        CPU_ZERO(ret);
}

static void read_nodes(const char *directory, cpu_set_t *ret) {
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/online", directory);
    read_list(path, ret);
}

unsigned cpus_n_nodes(const char *directory) {
    cpu_set_t nodes;

    read_nodes(directory, &nodes);
    return MAX((unsigned)CPU_COUNT(&nodes), 1u);
}

/* Moves those of `some` that are still in `left` to the end of ret. */
static size_t take_cpus(cpu_set_t *left, const cpu_set_t *some, int *ret, size_t n, size_t n_max) {
    for (int cpu = 0; cpu < CPU_SETSIZE && n < n_max; cpu++)
        if (CPU_ISSET(cpu, left) && CPU_ISSET(cpu, some)) {
            CPU_CLR(cpu, left);
            ret[n++] = cpu;
        }
    return n;
}

size_t cpus_by_node(const char *directory, const cpu_set_t *cpus, int *ret, size_t n_max) {
    cpu_set_t nodes, of_node, left = *cpus;
    char path[PATH_MAX];
    size_t n = 0;

    read_nodes(directory, &nodes);
    for (int node = 0; node < CPU_SETSIZE; node++) {
        if (!CPU_ISSET(node, &nodes))
            continue;
        (void)snprintf(path, sizeof(path), "%s/node%d/cpulist", directory, node);
        read_list(path, &of_node);
        n = take_cpus(&left, &of_node, ret, n, n_max);
    }
    return take_cpus(&left, cpus, ret, n, n_max); /* what no node has */
}
