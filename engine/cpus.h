/* Which CPUs this process may use: its affinity mask, the quota of its cgroups, and NUMA nodes. */
#pragma once

#include <sched.h>
#include <stddef.h>

/* Where the kernel tells of CPUs; tests have trees of their own. */
struct cpus_sources {
    const char *cgroups, *cgroup_mount; /* see cpus_quota() */
    const char *nodes;                  /* see cpus_n_nodes() */
    const cpu_set_t *allowed;           /* NULL: the affinity mask */
};
extern const struct cpus_sources cpus_kernel;

/* The affinity mask, and how many threads make sense on it: at least 1. */
unsigned cpus_usable(const struct cpus_sources *sources, cpu_set_t *ret_mask);
/* Whole CPUs' worth of quota, at least 1, that the cgroups in `list` (/proc/self/cgroup) leave
 * below `mount` (/sys/fs/cgroup); 0: no limit. */
unsigned cpus_quota(const char *list, const char *mount);

#define CPUS_NODES "/sys/devices/system/node"
/* NUMA nodes of this machine, 1 where `directory` does not tell. */
unsigned cpus_n_nodes(const char *directory);
struct cpu_place {
    int cpu, node; /* the kernel's numbers; node -1: none has it */
};
/* n CPUs of the mask, or all where it has fewer, spread over the nodes; those of a node stand
 * together. Returns how many. */
size_t cpus_spread(const char *directory, const cpu_set_t *cpus, size_t n, struct cpu_place *ret);
