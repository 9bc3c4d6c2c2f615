/* See cpus.h. A quota may be set on our cgroup or on any above it: the least one holds. */
#include "engine/cpus.h"

#include "base/cgroup.h"
#include "base/macro.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* v2: cpu.max holds "QUOTA PERIOD" or "max PERIOD"; v1: a file for each, quota -1 for no limit. */
static void lessen(void *userdata, const char *directory, bool is_v1) {
    long long quota, period, ignored;
    unsigned *least = userdata, n;

    quota = cgroup_read(directory, is_v1 ? "cpu.cfs_quota_us" : "cpu.max", &period);
    if (is_v1)
        period = cgroup_read(directory, "cpu.cfs_period_us", &ignored);
    if (quota <= 0 || period <= 0)
        return;
    n = (unsigned)MIN(MAX(quota / period, 1LL), (long long)INT_MAX);
    *least = *least == 0 ? n : MIN(*least, n);
}

unsigned cpus_quota(const char *list, const char *mount) {
    unsigned least = 0;

    cgroup_walk(list, mount, "cpu", lessen, &least);
    return least;
}

const struct cpus_sources cpus_kernel = {
    .cgroups = CGROUP_LIST, .cgroup_mount = CGROUP_MOUNT, .nodes = CPUS_NODES};

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
static size_t take_cpus(cpu_set_t *left, const cpu_set_t *some, int node, struct cpu_place *ret,
                        size_t n) {
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, left) && CPU_ISSET(cpu, some)) {
            CPU_CLR(cpu, left);
            ret[n++] = (struct cpu_place){.cpu = cpu, .node = node};
        }
    return n;
}

/* All of the mask, node by node. */
static size_t cpus_by_node(const char *directory, const cpu_set_t *cpus,
                           struct cpu_place ret[CPU_SETSIZE]) {
    cpu_set_t nodes, of_node, left = *cpus;
    char path[PATH_MAX];
    size_t n = 0;

    read_nodes(directory, &nodes);
    for (int node = 0; node < CPU_SETSIZE; node++) {
        if (!CPU_ISSET(node, &nodes))
            continue;
        (void)snprintf(path, sizeof(path), "%s/node%d/cpulist", directory, node);
        read_list(path, &of_node);
        n = take_cpus(&left, &of_node, node, ret, n);
    }
    return take_cpus(&left, cpus, -1, ret, n);
}

/* The first CPUs of each node, then the second ones, and so on. */
size_t cpus_spread(const char *directory, const cpu_set_t *cpus, size_t n, struct cpu_place *ret) {
    struct cpu_place all[CPU_SETSIZE];
    size_t n_all = cpus_by_node(directory, cpus, all), n_chosen = 0, n_ret = 0;
    bool chosen[CPU_SETSIZE] = {false};

    for (size_t round = 0; n_chosen < MIN(n, n_all); round++)
        for (size_t i = 0, rank = 0; i < n_all && n_chosen < n; i++) {
            rank = i > 0 && all[i].node == all[i - 1].node ? rank + 1 : 0;
            if (rank == round) {
                chosen[i] = true;
                n_chosen++;
            }
        }
    for (size_t i = 0; i < n_all; i++)
        if (chosen[i])
            ret[n_ret++] = all[i];
    return n_ret;
}
