/* See team.h. */
#include "tests/util/team.h"

#include "base/macro.h"
#include "engine/cpus.h"
#include "engine/pool.h"
#include "tests/util/temp.h"

#include <stdio.h>
#include <sys/stat.h>

/* The CPUs that we have come first, then others. */
static void choose_cpus(int *ret, unsigned n) {
    cpu_set_t ours;
    unsigned n_chosen = 0;

    assert(sched_getaffinity(0, sizeof(ours), &ours) == 0);
    for (int is_ours = 1; is_ours >= 0; is_ours--)
        for (int cpu = 0; cpu < CPU_SETSIZE && n_chosen < n; cpu++)
            if (!CPU_ISSET(cpu, &ours) == !is_ours)
                ret[n_chosen++] = cpu;
    assert(n_chosen == n);
}

static void write_nodes(const char *directory, const int *cpus, unsigned n, unsigned n_nodes) {
    char path[192];
    FILE *f;

    (void)mkdir(directory, 0700);
    (void)snprintf(path, sizeof(path), "%s/online", directory);
    assert((f = fopen(path, "we")) && fprintf(f, "0-%u\n", n_nodes - 1) > 0 && fclose(f) == 0);
    for (unsigned node = 0; node < n_nodes; node++) {
        (void)snprintf(path, sizeof(path), "%s/node%u", directory, node);
        (void)mkdir(path, 0700);
        (void)snprintf(path, sizeof(path), "%s/node%u/cpulist", directory, node);
        assert((f = fopen(path, "we")));
        for (unsigned i = node * n / n_nodes, end = (node + 1) * n / n_nodes; i < end; i++)
            (void)fprintf(f, "%d%c", cpus[i], i + 1 < end ? ',' : '\n');
        assert(fclose(f) == 0);
    }
}

GkPool *test_team(unsigned n_threads, unsigned n_nodes) {
    static char directory[128]; /* temp_path()'s are few, and the caller's */
    struct cpus_sources sources = {
        .cgroups = "/dev/null", .cgroup_mount = "/dev/null", .nodes = directory};
    int cpus[CPU_SETSIZE];
    GkPool *pool = NULL;
    cpu_set_t allowed;

    if (directory[0] == '\0')
        (void)snprintf(directory, sizeof(directory), "%s", temp_path("team-nodes"));
    choose_cpus(cpus, n_threads);
    write_nodes(directory, cpus, n_threads, n_nodes);
    CPU_ZERO(&allowed);
    for (unsigned i = 0; i < n_threads; i++)
        CPU_SET(cpus[i], &allowed);
    sources.allowed = &allowed;
    assert(pool_new(&pool, n_threads, &sources, NULL) == 0);
    assert(gk_pool_n_threads(pool) == n_threads);
    return pool;
}
