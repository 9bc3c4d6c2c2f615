/* The control groups that this process is in, version 2 and 1: what their files say. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CGROUP_LIST  "/proc/self/cgroup"
#define CGROUP_MOUNT "/sys/fs/cgroup"

/* The directory of our group that has the controller, below `mount`, and then of each above it. Not
 * all need exist: in a container the paths in `list` may begin above what is mounted. */
typedef void (*cgroup_visit)(void *userdata, const char *directory, bool is_v1);
void cgroup_walk(const char *list, const char *mount, const char *controller, cgroup_visit visit,
                 void *userdata);

/* The first number of a file; -1 where there is none ("max") or no file. *ret_second: the one
 * behind it, 0 where there is none. */
long long cgroup_read(const char *directory, const char *file, long long *ret_second);

#define CGROUP_WHAT_MAX 512
struct cgroup_memory {
    uint64_t n_limit, n_used;   /* used: what the kernel could not take back, the page cache */
    uint64_t n_available;       /* UINT64_MAX: there is no limit */
    char what[CGROUP_WHAT_MAX]; /* the file that holds the limit */
};
/* What may be had more by the narrowest of the groups' limits. */
struct cgroup_memory cgroup_memory(const char *list, const char *mount);
