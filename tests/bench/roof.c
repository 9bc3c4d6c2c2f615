/* See roof.h. Loops that keep every vector register busy and touch no memory, and one that only
 * reads. */
#include "tests/bench/roof.h"

#include "base/alloc.h"
#include "base/macro.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define THREADS_MAX    256
#define READ_BYTES     (1ull << 30) /* of all threads together */
#define COMPUTE_ROUNDS 4000000ull
#define RUNS           5
#define ACCUMULATORS   12

static double now(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each loop does COMPUTE_ROUNDS × ACCUMULATORS vector operations and gives the operations done. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static double int8_vnni(void) {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), acc[ACCUMULATORS];

    for (int i = 0; i < ACCUMULATORS; i++) {
        acc[i] = _mm512_set1_epi32(i);
        __asm__ volatile("" : "+v"(acc[i])); /* else equal chains are computed once */
    }
    for (unsigned long long r = 0; r < COMPUTE_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 1; i < ACCUMULATORS; i++)
        acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    __asm__ volatile("" : : "v"(acc[0]));
    return (double)COMPUTE_ROUNDS * ACCUMULATORS * 128;
}

__attribute__((target("avx2"))) static double int8_avx2(void) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    __m256i acc[ACCUMULATORS];

    for (int i = 0; i < ACCUMULATORS; i++) {
        acc[i] = _mm256_set1_epi32(i);
        __asm__ volatile("" : "+x"(acc[i]));
    }
    for (unsigned long long r = 0; r < COMPUTE_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) {
            __m256i p = _mm256_maddubs_epi16(a, b);

            __asm__ volatile("" : "+x"(a));
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(p, ones));
        }
        __asm__ volatile("" : "+x"(b));
    }
    for (int i = 1; i < ACCUMULATORS; i++)
        acc[0] = _mm256_add_epi32(acc[0], acc[i]);
    __asm__ volatile("" : : "x"(acc[0]));
    return (double)COMPUTE_ROUNDS * ACCUMULATORS * 64;
}

__attribute__((target("avx512f"))) static double f32_avx512(void) {
    __m512 a = _mm512_set1_ps(1.0000001f), b = _mm512_set1_ps(1e-7f), acc[ACCUMULATORS];

    for (int i = 0; i < ACCUMULATORS; i++) {
        acc[i] = _mm512_set1_ps((float)i);
        __asm__ volatile("" : "+v"(acc[i]));
    }
    for (unsigned long long r = 0; r < COMPUTE_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = _mm512_fmadd_ps(acc[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 1; i < ACCUMULATORS; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    __asm__ volatile("" : : "v"(acc[0]));
    return (double)COMPUTE_ROUNDS * ACCUMULATORS * 32;
}

__attribute__((target("avx2,fma"))) static double f32_avx2(void) {
    __m256 a = _mm256_set1_ps(1.0000001f), b = _mm256_set1_ps(1e-7f), acc[ACCUMULATORS];

    for (int i = 0; i < ACCUMULATORS; i++) {
        acc[i] = _mm256_set1_ps((float)i);
        __asm__ volatile("" : "+x"(acc[i]));
    }
    for (unsigned long long r = 0; r < COMPUTE_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], a, b);
        __asm__ volatile("" : "+x"(a), "+x"(b));
    }
    for (int i = 1; i < ACCUMULATORS; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    __asm__ volatile("" : : "x"(acc[0]));
    return (double)COMPUTE_ROUNDS * ACCUMULATORS * 16;
}

static double int8_work(void) {
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"))
        return int8_vnni();
    return __builtin_cpu_supports("avx2") ? int8_avx2() : 0;
}

static double f32_work(void) {
    if (__builtin_cpu_supports("avx512f"))
        return f32_avx512();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? f32_avx2() : 0;
}

enum work { WORK_READ, WORK_INT8, WORK_F32 };

struct team {
    pthread_barrier_t start;
    enum work work;
    const uint8_t *bytes; /* NULL for compute */
    size_t n_bytes;       /* of one member */
};

struct member {
    struct team *team;
    unsigned i;
    double amount, begin, end;
};

static double read_all(const uint8_t *p, size_t n) {
    const uint64_t *words = (const uint64_t *)(const void *)p;
    uint64_t sum[8] = {0};

    for (size_t i = 0; i + 8 <= n / sizeof(*words); i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += words[i + j];
    for (size_t j = 1; j < 8; j++)
        sum[0] += sum[j];
    __asm__ volatile("" : : "r"(sum[0]));
    return (double)n;
}

static void *member_main(void *userdata) {
    struct member *m = userdata;
    struct team *t = m->team;
    cpu_set_t all, one;
    int seen = 0;

    if (sched_getaffinity(0, sizeof(all), &all) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &all) || seen++ != (int)m->i % CPU_COUNT(&all))
                continue;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            (void)sched_setaffinity(0, sizeof(one), &one);
        }
    }
    (void)pthread_barrier_wait(&t->start);
    m->begin = now();
    if (t->work == WORK_READ)
        m->amount = read_all(t->bytes + m->i * t->n_bytes, t->n_bytes);
    else
        m->amount = t->work == WORK_INT8 ? int8_work() : f32_work();
    m->end = now();
    return NULL;
}

/* Amount a second of all members between the first's start and the last's end. */
static double run_team(struct team *t, unsigned n) {
    pthread_t threads[THREADS_MAX];
    struct member members[THREADS_MAX];
    double amount = 0, begin = 0, end = 0;

    assert(pthread_barrier_init(&t->start, NULL, n) == 0);
    for (unsigned i = 0; i < n; i++) {
        members[i] = (struct member){.team = t, .i = i};
        assert(pthread_create(&threads[i], NULL, member_main, &members[i]) == 0);
    }
    for (unsigned i = 0; i < n; i++) {
        (void)pthread_join(threads[i], NULL);
        amount += members[i].amount;
        begin = i == 0 || members[i].begin < begin ? members[i].begin : begin;
        end = members[i].end > end ? members[i].end : end;
    }
    (void)pthread_barrier_destroy(&t->start);
    return amount / (end - begin);
}

static double best(struct team *t, unsigned n) {
    double most = 0;

    for (int i = 0; i < RUNS; i++)
        most = MAX(most, run_team(t, n));
    return most;
}

struct roofs roofs_measure(unsigned n_threads) {
    unsigned n = MIN(n_threads, (unsigned)THREADS_MAX);
    struct roofs r = {.n_threads = n};
    uint8_t *bytes;

    bytes = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(bytes != MAP_FAILED);
    (void)madvise(bytes, READ_BYTES, MADV_HUGEPAGE);
    (void)memset(bytes, 1, READ_BYTES);
    r.read_bytes_per_second = best(
        &(struct team){.work = WORK_READ, .bytes = bytes, .n_bytes = READ_BYTES / n / 64 * 64}, n);
    (void)munmap(bytes, READ_BYTES);
    r.int8_ops_per_second = best(&(struct team){.work = WORK_INT8}, n);
    r.f32_ops_per_second = best(&(struct team){.work = WORK_F32}, n);
    return r;
}
