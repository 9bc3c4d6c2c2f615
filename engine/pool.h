/*
 * Compute threads: one team that runs a function together, meets at barriers, and waits for parts
 * of its work.
 *
 * Thread: the team is led by whoever calls pool_run(), as member 0; one call at a time. Nothing is
 * allocated after gk_pool_new().
 */
#pragma once

#include "engine/engine.h"

#include <sched.h>
#include <stdatomic.h>

struct cpus_sources;

/* gk_pool_new() with these in the place of the kernel's. */
int pool_new(GkPool **ret, unsigned n_threads, const struct cpus_sources *sources, Error *reterr);

typedef void pool_fn(void *userdata, unsigned i_thread);

/* Runs fn on every member and returns when all have returned. */
void pool_run(GkPool *pool, pool_fn *fn, void *userdata);
/* Inside pool_run(): waits until every member is here. All writes before it are seen after it. */
void pool_barrier(GkPool *pool, unsigned i_thread);
/* The same, but whoever comes last calls fn first, while the others wait. */
void pool_barrier_once(GkPool *pool, void (*fn)(void *userdata), void *userdata);
/* How often its members have met since it began, modulo 2^32; the end of pool_run() counts. One
 * member alone never waits: 0. */
unsigned pool_n_barriers(const GkPool *pool);

/* The NUMA nodes that members are on, counted from 0 in the members' order; 1 where members are not
 * pinned. */
unsigned pool_n_nodes(const GkPool *pool);
unsigned pool_node(const GkPool *pool, unsigned i_thread);
/* The kernel's number of a node; -1: it has none. */
int pool_node_number(const GkPool *pool, unsigned i_node);

/* For a model that is opened while steps of others run: fn(userdata, i_node) on each node, at once,
 * by threads of their own, of which the caller is node 0's. Returns when all have returned;
 * -EAGAIN, -ENOMEM where they can't be started. */
int pool_run_on_nodes(const GkPool *pool, pool_fn *fn, void *userdata, Error *reterr);
/* Puts the caller where a member is, and back. */
void pool_visit(const GkPool *pool, unsigned i_thread, cpu_set_t *ret_own);
void pool_return(const cpu_set_t *own);

/* A value that members wait to see change. */
struct pool_gate {
    atomic_uint epoch;
    atomic_uint n_sleepers;
};

/* Work done in parts by some members, for which others wait without a meeting of all. Set by one
 * member while all are between two barriers; n_parts > 0. */
typedef struct PoolCount {
    _Alignas(64) struct pool_gate done;
    atomic_uint n_left;
} PoolCount;

void pool_count_set(PoolCount *count, unsigned n_parts);
/* So many more of them are done. All writes before it are seen after a wait. */
void pool_count_add(PoolCount *count, unsigned n_parts);
/* Until all are done: whoever does them must not wait for the caller. */
void pool_count_wait(const GkPool *pool, PoolCount *count);

/* A list of n tasks shared by the team: pool_tasks_take() gives each index once, the first or the
 * last that is left, n when none is. Reset by one member while all are between two barriers. */
typedef struct PoolTasks {
    _Alignas(64) _Atomic uint64_t taken; /* of the first ones; of the last ones in the upper half */
} PoolTasks;

static inline void pool_tasks_reset(PoolTasks *tasks) {
    atomic_store_explicit(&tasks->taken, 0, memory_order_relaxed);
}

/* n: less than 2^31. *ret_left, written where there was one: how many are left after it. */
static inline size_t pool_tasks_take(PoolTasks *tasks, size_t n, bool last, size_t *ret_left) {
    uint64_t taken = atomic_fetch_add_explicit(&tasks->taken, last ? UINT64_C(1) << 32 : 1,
                                               memory_order_relaxed);
    size_t n_first = taken & UINT32_MAX, n_last = taken >> 32;

    if (n_first + n_last >= n)
        return n;
    *ret_left = n - n_first - n_last - 1;
    return last ? n - 1 - n_last : n_first;
}
