/* How many CPUs this process may use: its affinity mask and the quota of its cgroups. */
#pragma once

#include <sched.h>

/* The affinity mask, and how many threads make sense on it: at least 1. */
unsigned cpus_usable(cpu_set_t *ret_mask);
/* CPUs' worth of quota, rounded up, that the cgroups in `list` (/proc/self/cgroup) leave below
 * `mount` (/sys/fs/cgroup); 0: no limit. */
unsigned cpus_quota(const char *list, const char *mount);
