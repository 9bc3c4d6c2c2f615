/*
 * See pool.h. The barrier counts arrivals on one cache line and publishes an epoch on another; who
 * waits spins for a while (a step's phases are microseconds apart), then yields, then sleeps on the
 * epoch by futex. Few yields: where another program has the CPU, each gives it a whole time slice
 * of milliseconds in which the barrier may open, while a sleeper is woken at once. (Decoding by two
 * threads, a busy loop on one of their CPUs: 41 to 47 tokens a second with two yields, 37 to 40
 * with fifty, 46 with one thread alone, 66 where nobody disturbs two.)
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

/* A value that members wait to see change. */
struct gate {
    _Alignas(64) atomic_uint epoch;
    atomic_uint n_sleepers;
};

struct member {
    GkPool *pool;
    pthread_t thread;
    unsigned i;
    int cpu; /* -1: not pinned */
};

struct GkPool {
    unsigned n;
    struct member *members; /* (n); member 0 is the caller: no thread of ours */
    pool_fn *run;
    void *userdata;
    bool stop;
    int64_t
        spin_ns; /* 0 where members share CPUs, as in tests: it would keep others from working */
    struct gate work;    /* moves on when there is something to run, or to stop */
    struct gate barrier; /* moves on when all have arrived */
    _Alignas(64) atomic_uint n_arrived;
};

static void gate_open(struct gate *g) {
    atomic_fetch_add_explicit(&g->epoch, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&g->n_sleepers, memory_order_seq_cst) > 0)
        (void)syscall(SYS_futex, &g->epoch, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static bool gate_passed(struct gate *g, unsigned old) {
    return atomic_load_explicit(&g->epoch, memory_order_acquire) != old;
}

static int64_t now_ns(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* A pause takes 10 to 140 cycles, depending on the CPU: hence the clock. */
static bool gate_spin(struct gate *g, unsigned old, int64_t spin_ns) {
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

static void gate_wait(struct gate *g, unsigned old, int64_t spin_ns) {
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

void pool_barrier(GkPool *pool, unsigned i_thread) {
    unsigned epoch;

    (void)i_thread;
    if (pool->n == 1)
        return;
    epoch = atomic_load_explicit(&pool->barrier.epoch, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->n_arrived, 1, memory_order_acq_rel) + 1 == pool->n) {
        atomic_store_explicit(&pool->n_arrived, 0, memory_order_relaxed);
        gate_open(&pool->barrier);
    } else {
        gate_wait(&pool->barrier, epoch, pool->spin_ns);
    }
}

static void pin(int cpu) {
    cpu_set_t one;

    if (cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)sched_setaffinity(0, sizeof(one), &one); /* a sandbox may forbid it: slower, not wrong */
}

static void *member_main(void *userdata) {
    struct member *m = userdata;
    GkPool *pool = m->pool;
    unsigned epoch = 0;

    pin(m->cpu);
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
    int cpu = pool->members[0].cpu;
    cpu_set_t own;

    if (cpu >= 0 && sched_getaffinity(0, sizeof(own), &own) < 0)
        cpu = -1;
    pin(cpu);
    pool->run = fn;
    pool->userdata = userdata;
    if (pool->n > 1)
        gate_open(&pool->work);
    fn(userdata, 0);
    pool_barrier(pool, 0);
    if (cpu >= 0)
        (void)sched_setaffinity(0, sizeof(own), &own);
}

/* ---- life ---- */

static int start_member(GkPool *pool, unsigned i, int cpu) {
    sigset_t all, old;
    int r;

    pool->members[i] = (struct member){.pool = pool, .i = i, .cpu = cpu};
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS); /* raised by the thread itself: must not be blocked */
    (void)sigdelset(&all, SIGSEGV);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&pool->members[i].thread, NULL, member_main, &pool->members[i]);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

int pool_new(GkPool **ret, unsigned n_threads, const struct cpus_sources *sources, Error *reterr) {
    CLEANUP(gk_pool_freep) GkPool *pool = NULL;
    int order[CPU_SETSIZE]; /* members of a node are neighbours */
    unsigned n_usable, n_wanted;
    cpu_set_t cpus, here;
    bool pinned;
    int r;

    if (n_threads > THREADS_MAX)
        return error_set(reterr, GK_E_INVALID, "%u threads are more than the %d that are allowed",
                         n_threads, THREADS_MAX);
    n_usable = MIN(cpus_usable(sources, &cpus), (unsigned)THREADS_MAX);
    n_wanted = n_threads ? MIN(n_threads, n_usable) : n_usable;
    pool = alloc_aligned(sizeof(*pool));
    if (!pool)
        return error_set(reterr, -ENOMEM, "out of memory");
    pool->members = alloc_array(n_wanted, sizeof(*pool->members));
    if (!pool->members)
        return error_set(reterr, -ENOMEM, "out of memory");
    pool->n = 1;
    pool->spin_ns = n_wanted <= cpus_usable(&cpus_kernel, &here) ? SPIN_NS : 0;
    pinned = n_wanted > 1 && n_wanted <= (unsigned)CPU_COUNT(&cpus);
    if (pinned)
        (void)cpus_by_node(sources->nodes, &cpus, order, ARRAY_SIZE(order));
    pool->members[0] = (struct member){.pool = pool, .cpu = pinned ? order[0] : -1};
    for (unsigned i = 1; i < n_wanted; i++) {
        r = start_member(pool, i, pinned ? order[i] : -1);
        if (r != 0)
            return error_set(reterr, -r, "can't start compute thread %u of %u: %s", i + 1, n_wanted,
                             strerror(r));
        pool->n++;
    }
    *ret = take_ptr(pool);
    return 0;
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
