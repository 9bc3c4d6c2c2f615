/*
 * See pool.h. The barrier counts arrivals on one cache line and publishes an epoch on another (a
 * count of parts, which few add to, has both on one). Who waits spins for a while (a step's phases
 * are microseconds apart), then yields, then sleeps on the epoch by futex. Few yields: where
 * another program has the CPU, each gives it a whole time slice of milliseconds in which the
 * barrier may open, while a sleeper is woken at once. (Decoding by two threads, a busy loop on one
 * of their CPUs: 41 to 47 tokens a second with two yields, 37 to 40 with fifty, 46 with one thread
 * alone, 66 where nobody disturbs two.)
 */
#include "engine/pool.h"

#include "base/alloc.h"
#include "engine/cpus.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define THREADS_MAX 1024
#define SPIN_NS     100000
#define SPIN_PAUSES 64 /* between two looks at the clock */
#define YIELDS_MAX  2

struct member {
    GkPool *pool;
    pthread_t thread;
    unsigned i;
    unsigned node;  /* of pool->nodes */
    cpu_set_t cpus; /* where it runs; none: anywhere */
};

struct GkPool {
    unsigned n, n_nodes;
    int nodes[GK_NODES_MAX]; // (n_nodes) the kernel's numbers
    struct member *members;  /* (n); member 0 is the caller: no thread of ours */
    pool_fn *run;
    void *userdata;
    bool stop;
    int64_t
        spin_ns; /* 0 where members share CPUs, as in tests: it would keep others from working */
    _Alignas(64) struct pool_gate work;    /* moves on when there is something to run, or to stop */
    _Alignas(64) struct pool_gate barrier; /* moves on when all have arrived */
    _Alignas(64) atomic_uint n_arrived;
};

static void gate_open(struct pool_gate *g) {
    atomic_fetch_add_explicit(&g->epoch, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&g->n_sleepers, memory_order_seq_cst) > 0)
        (void)syscall(SYS_futex, &g->epoch, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static bool gate_passed(struct pool_gate *g, unsigned old) {
    return atomic_load_explicit(&g->epoch, memory_order_acquire) != old;
}

static int64_t now_ns(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* A pause takes 10 to 140 cycles, depending on the CPU: hence the clock. */
static bool gate_spin(struct pool_gate *g, unsigned old, int64_t spin_ns) {
    int64_t end = 0;

    do {
        for (unsigned i = 0; i < SPIN_PAUSES; i++) {
            if (gate_passed(g, old))
                return true;
            __builtin_ia32_pause();
        }
        if (end == 0)
            end = now_ns() + spin_ns;
    } while (now_ns() < end);
    return false;
}

static void gate_wait(struct pool_gate *g, unsigned old, int64_t spin_ns) {
    if (gate_spin(g, old, spin_ns))
        return;
    for (unsigned i = 0; i < YIELDS_MAX; i++) {
        if (gate_passed(g, old))
            return;
        (void)sched_yield();
    }
    atomic_fetch_add_explicit(&g->n_sleepers, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&g->epoch, memory_order_seq_cst) == old)
        (void)syscall(SYS_futex, &g->epoch, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub_explicit(&g->n_sleepers, 1, memory_order_seq_cst);
}

static void nothing(void *userdata) {
    (void)userdata;
}

void pool_barrier(GkPool *pool, unsigned i_thread) {
    (void)i_thread;
    pool_barrier_once(pool, nothing, NULL);
}

void pool_barrier_once(GkPool *pool, void (*fn)(void *userdata), void *userdata) {
    unsigned epoch = atomic_load_explicit(&pool->barrier.epoch, memory_order_acquire);

    if (pool->n == 1) {
        fn(userdata);
        return;
    }
    if (atomic_fetch_add_explicit(&pool->n_arrived, 1, memory_order_acq_rel) + 1 < pool->n) {
        gate_wait(&pool->barrier, epoch, pool->spin_ns);
        return;
    }
    fn(userdata);
    atomic_store_explicit(&pool->n_arrived, 0, memory_order_relaxed);
    gate_open(&pool->barrier);
}

unsigned pool_n_barriers(const GkPool *pool) {
    return atomic_load_explicit(&pool->barrier.epoch, memory_order_relaxed);
}

void pool_count_set(PoolCount *count, unsigned n_parts) {
    atomic_store_explicit(&count->done.epoch, 0, memory_order_relaxed);
    atomic_store_explicit(&count->n_left, n_parts, memory_order_relaxed);
}

void pool_count_add(PoolCount *count, unsigned n_parts) {
    if (atomic_fetch_sub_explicit(&count->n_left, n_parts, memory_order_acq_rel) == n_parts)
        gate_open(&count->done);
}

void pool_count_wait(const GkPool *pool, PoolCount *count) {
    gate_wait(&count->done, 0, pool->spin_ns);
}

static bool is_pinned(const struct member *m) {
    return CPU_COUNT(&m->cpus) > 0;
}

static void pin(const struct member *m) {
    if (is_pinned(m)) /* a sandbox may forbid it: slower, not wrong */
        (void)sched_setaffinity(0, sizeof(m->cpus), &m->cpus);
}

static void *member_main(void *userdata) {
    struct member *m = userdata;
    GkPool *pool = m->pool;
    unsigned epoch = 0;

    pin(m);
    for (;;) {
        gate_wait(&pool->work, epoch, pool->spin_ns);
        epoch++;
        if (pool->stop)
            return NULL;
        pool->run(pool->userdata, m->i);
        pool_barrier(pool, m->i);
    }
}

/*
 * The caller has the first CPU to itself while it leads, and its own mask before and after: what it
 * may start meanwhile is not ours to confine. Left to the kernel, it may come to share a member's
 * CPU where the others are busy, and then each barrier costs both their spins: 100 µs in place of
 * less than one.
 */
void pool_run(GkPool *pool, pool_fn *fn, void *userdata) {
    cpu_set_t own;

    pool_visit(pool, 0, &own);
    pool->run = fn;
    pool->userdata = userdata;
    if (pool->n > 1)
        gate_open(&pool->work);
    fn(userdata, 0);
    pool_barrier(pool, 0);
    pool_return(&own);
}

void pool_visit(const GkPool *pool, unsigned i_thread, cpu_set_t *ret_own) {
    const struct member *m = &pool->members[i_thread];

    CPU_ZERO(ret_own);
    if (is_pinned(m) && sched_getaffinity(0, sizeof(*ret_own), ret_own) == 0)
        pin(m);
}

void pool_return(const cpu_set_t *own) {
    if (CPU_COUNT(own) > 0)
        (void)sched_setaffinity(0, sizeof(*own), own);
}

/* ---- life ---- */

static int start_member(struct member *m) {
    sigset_t all, old;
    int r;

    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS); /* raised by the thread itself: must not be blocked */
    (void)sigdelset(&all, SIGSEGV);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&m->thread, NULL, member_main, m);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

/* A team of n without threads, on one node, not pinned. */
static int team_new(GkPool **ret, unsigned n, Error *reterr) {
    CLEANUP(gk_pool_freep) GkPool *pool = alloc_aligned(sizeof(*pool));

    if (!pool)
        return error_set(reterr, -ENOMEM, "out of memory");
    pool->members = alloc_array(n, sizeof(*pool->members));
    if (!pool->members)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < n; i++)
        pool->members[i] = (struct member){.pool = pool, .i = i};
    pool->n = pool->n_nodes = 1;
    pool->nodes[0] = -1;
    *ret = take_ptr(pool);
    return 0;
}

static int team_start(GkPool *pool, unsigned n, Error *reterr) {
    int r;

    for (; pool->n < n; pool->n++)
        if ((r = start_member(&pool->members[pool->n])) != 0)
            return error_set(reterr, -r, "can't start compute thread %u of %u: %s", pool->n + 1, n,
                             strerror(r));
    return 0;
}

/* Pins member i to the CPU of place i, and numbers the nodes. More of them than can be told apart
 * are one. */
static void place_members(GkPool *pool, const struct cpu_place *places, size_t n) {
    unsigned node = 0;

    for (size_t i = 0; i < n; i++) {
        struct member *m = &pool->members[i];

        CPU_SET((unsigned)places[i].cpu, &m->cpus);
        node += i > 0 && places[i].node != places[i - 1].node;
        m->node = node;
        if (node < GK_NODES_MAX)
            pool->nodes[node] = places[i].node;
    }
    pool->n_nodes = node + 1;
    if (pool->n_nodes <= GK_NODES_MAX)
        return;
    pool->n_nodes = 1;
    for (size_t i = 0; i < n; i++)
        pool->members[i].node = 0;
}

int pool_new(GkPool **ret, unsigned n_threads, const struct cpus_sources *sources, Error *reterr) {
    CLEANUP(gk_pool_freep) GkPool *pool = NULL;
    struct cpu_place places[CPU_SETSIZE];
    unsigned n_usable, n;
    cpu_set_t cpus, here;
    int r;

    if (n_threads > THREADS_MAX)
        return error_set(reterr, GK_E_INVALID, "%u threads are more than the %d that are allowed",
                         n_threads, THREADS_MAX);
    n_usable = MIN(cpus_usable(sources, &cpus), (unsigned)THREADS_MAX);
    n = n_threads ? MIN(n_threads, n_usable) : n_usable;
    r = team_new(&pool, n, reterr);
    if (r != 0)
        return r;
    pool->spin_ns = n <= cpus_usable(&cpus_kernel, &here) ? SPIN_NS : 0;
    if (n > 1 && n <= (unsigned)CPU_COUNT(&cpus))
        place_members(pool, places, cpus_spread(sources->nodes, &cpus, n, places));
    r = team_start(pool, n, reterr);
    if (r == 0)
        *ret = take_ptr(pool);
    return r;
}

int gk_pool_new(GkPool **ret, unsigned n_threads, Error *reterr) {
    return pool_new(ret, n_threads, &cpus_kernel, reterr);
}

GkPool *gk_pool_free(GkPool *pool) {
    if (!pool)
        return NULL;
    pool->stop = true;
    gate_open(&pool->work);
    for (unsigned i = 1; i < pool->n; i++)
        (void)pthread_join(pool->members[i].thread, NULL);
    free(pool->members);
    free(pool);
    return NULL;
}

unsigned gk_pool_n_threads(const GkPool *pool) {
    return pool->n;
}

/* ---- nodes ---- */

unsigned pool_n_nodes(const GkPool *pool) {
    return pool->n_nodes;
}

unsigned pool_node(const GkPool *pool, unsigned i_thread) {
    return pool->members[i_thread].node;
}

int pool_node_number(const GkPool *pool, unsigned i_node) {
    return pool->nodes[i_node];
}

/* A team with one member for each node, on all of the CPUs that the pool has there. */
int pool_run_on_nodes(const GkPool *pool, pool_fn *fn, void *userdata, Error *reterr) {
    CLEANUP(gk_pool_freep) GkPool *team = NULL;
    int r = team_new(&team, pool->n_nodes, reterr);

    if (r != 0)
        return r;
    for (unsigned i = 0; i < pool->n; i++) {
        cpu_set_t *cpus = &team->members[pool->members[i].node].cpus;

        CPU_OR(cpus, cpus, &pool->members[i].cpus);
    }
    r = team_start(team, pool->n_nodes, reterr);
    if (r == 0)
        pool_run(team, fn, userdata);
    return r;
}
