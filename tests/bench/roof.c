/* See roof.h. Loops that keep every vector register busy and touch no memory, and one that only
 * reads. */
#include "tests/bench/roof.h"

#include "base/alloc.h"
#include "base/macro.h"
#include "engine/engine.h"
#include "tests/bench/median.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define LINE           64
#define READ_BYTES     (1ull << 30) /* of all threads together */
#define COMPUTE_ROUNDS 16000000ull
#define RUNS           5
#define ACCUMULATORS   12

static double now(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/*
 * A loop of COMPUTE_ROUNDS × ACCUMULATORS steps, which gives the operations done. The empty
 * assembler statements keep the compiler from computing equal chains, or equal products, once.
 */
#define PEAK_LOOP(name, isa, vector, zero, step, add, ops_per_step)                                \
    __attribute__((target(isa))) static double name(void) {                                        \
        vector a = zero(), b = zero(), acc[ACCUMULATORS];                                          \
                                                                                                   \
        for (int i = 0; i < ACCUMULATORS; i++) {                                                   \
            acc[i] = zero();                                                                       \
            __asm__ volatile("" : "+x"(acc[i]));                                                   \
        }                                                                                          \
        for (unsigned long long r = 0; r < COMPUTE_ROUNDS; r++) {                                  \
            _Pragma("GCC unroll 12") for (int i = 0; i < ACCUMULATORS; i++) {                      \
                acc[i] = step(acc[i], a, b);                                                       \
                __asm__ volatile("" : "+x"(a));                                                    \
            }                                                                                      \
            __asm__ volatile("" : "+x"(b));                                                        \
        }                                                                                          \
        for (int i = 1; i < ACCUMULATORS; i++)                                                     \
            acc[0] = add(acc[0], acc[i]);                                                          \
        __asm__ volatile("" : : "x"(acc[0]));                                                      \
        return (double)COMPUTE_ROUNDS * ACCUMULATORS * (ops_per_step);                             \
    }

/* Without an 8-bit dot product: bytes that are widened before, or sums of 16 bits, which have room
 * for several products where weights are small. */
#define STEP_MADD_128(acc, a, b) _mm_add_epi32(acc, _mm_madd_epi16(a, b))
#define STEP_MADD_256(acc, a, b) _mm256_add_epi16(acc, _mm256_maddubs_epi16(a, b))
#define STEP_MADD_512(acc, a, b) _mm512_add_epi16(acc, _mm512_maddubs_epi16(a, b))
#define STEP_FMA_128(acc, a, b)  _mm_add_ps(_mm_mul_ps(acc, a), b)
#define STEP_FMA_256(acc, a, b)  _mm256_fmadd_ps(acc, a, b)
#define STEP_FMA_512(acc, a, b)  _mm512_fmadd_ps(acc, a, b)

PEAK_LOOP(int8_sse2, "sse2", __m128i, _mm_setzero_si128, STEP_MADD_128, _mm_add_epi32, 16)
PEAK_LOOP(int8_avx2, "avx2", __m256i, _mm256_setzero_si256, STEP_MADD_256, _mm256_add_epi32, 64)
PEAK_LOOP(int8_avxvnni, "avx2,avxvnni", __m256i, _mm256_setzero_si256, _mm256_dpbusd_avx_epi32,
          _mm256_add_epi32, 64)
PEAK_LOOP(int8_avx512, "avx512f,avx512bw", __m512i, _mm512_setzero_si512, STEP_MADD_512,
          _mm512_add_epi32, 128)
PEAK_LOOP(int8_vnni, "avx512f,avx512bw,avx512vnni", __m512i, _mm512_setzero_si512,
          _mm512_dpbusd_epi32, _mm512_add_epi32, 128)
PEAK_LOOP(f32_sse2, "sse2", __m128, _mm_setzero_ps, STEP_FMA_128, _mm_add_ps, 8)
PEAK_LOOP(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps, STEP_FMA_256, _mm256_add_ps, 16)
PEAK_LOOP(f32_avx512, "avx512f", __m512, _mm512_setzero_ps, STEP_FMA_512, _mm512_add_ps, 32)

/* Four tiles of sums, since each step takes its sum from the one before it. The operands are not
 * zero, which would take less power and so be quicker. */
#define TILE_ROWS     16
#define TILE_BYTES    1024
#define TILE_STEP_OPS (2.0 * TILE_ROWS * TILE_ROWS * 64)

__attribute__((target("amx-tile,amx-int8"))) static double int8_amx(void) {
    /* LDTILECFG's operand (Intel SDM, volume 1, 18.2): tiles 0 to 3 sums, 4 to 7 operands */
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t n_rows[16];
    } config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .n_rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    const unsigned long long n_rounds = COMPUTE_ROUNDS / 16; /* a step does much more */
    _Alignas(64) uint8_t bytes[4 * TILE_BYTES], sums[TILE_BYTES];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    __asm__ volatile("" : : "r"(bytes) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, bytes, 64);
    _tile_loadd(5, bytes + TILE_BYTES, 64);
    _tile_loadd(6, bytes + (size_t)2 * TILE_BYTES, 64);
    _tile_loadd(7, bytes + (size_t)3 * TILE_BYTES, 64);
    for (unsigned long long r = 0; r < n_rounds; r++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_release();
    __asm__ volatile("" : : "r"(sums) : "memory");
    return (double)n_rounds * 4 * TILE_STEP_OPS;
}

/* Those of gk_isa_names(), with their widest instructions. */
static const struct tier {
    const char *isa;
    double (*int8)(void), (*f32)(void);
} tiers[] = {
    {"generic", int8_sse2, f32_sse2},    {"avx2", int8_avx2, f32_avx2},
    {"avxvnni", int8_avxvnni, f32_avx2}, {"avx512", int8_avx512, f32_avx512},
    {"vnni", int8_vnni, f32_avx512},     {"amx", int8_amx, f32_avx512},
};

/* The best that the CPU has, or the one that is asked for. */
static const struct tier *tier_select(const char *isa) {
    const char *const *names = gk_isa_names();
    const struct tier *best = &tiers[0];

    for (size_t i = 0; names[i]; i++)
        for (size_t j = 0; j < ARRAY_SIZE(tiers); j++)
            if (strcmp(tiers[j].isa, names[i]) == 0 && (gk_isa_available() >> i & 1)) {
                best = &tiers[j];
                if (isa && strcmp(isa, best->isa) == 0)
                    return best;
            }
    return best;
}

enum work { WORK_READ, WORK_INT8, WORK_F32 };

struct team {
    pthread_barrier_t start;
    enum work work;
    const struct tier *tier;
    const uint8_t *bytes; /* NULL for compute */
    size_t n_bytes;       /* of one member */
};

struct member {
    struct team *team;
    unsigned i;
    double amount, begin, end;
};

/* One word of each cache line: to add up all of them takes longer than memory does. */
static double read_all(const uint8_t *p, size_t n) {
    uint64_t sum[4] = {0};

    for (size_t at = 0; at + ARRAY_SIZE(sum) * LINE <= n;)
        for (size_t j = 0; j < ARRAY_SIZE(sum); j++, at += LINE)
            sum[j] += *(const uint64_t *)(const void *)(p + at);
    __asm__ volatile("" : : "r"(sum[0] + sum[1] + sum[2] + sum[3]));
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
        m->amount = t->work == WORK_INT8 ? t->tier->int8() : t->tier->f32();
    m->end = now();
    return NULL;
}

/* Amount a second of all members between the first's start and the last's end. */
static double run_team(struct team *t, unsigned n) {
    pthread_t threads[ROOF_THREADS_MAX];
    struct member members[ROOF_THREADS_MAX];
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

static double typical(struct team *t, unsigned n) {
    double values[RUNS];

    for (int i = 0; i < RUNS; i++)
        values[i] = run_team(t, n);
    return median(values, RUNS);
}

static void *read_bytes; /* READ_BYTES, or NULL */

double roof_read(unsigned n_threads) {
    struct team team = {.work = WORK_READ, .n_bytes = READ_BYTES / n_threads / LINE * LINE};

    if (!read_bytes) {
        read_bytes =
            mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert(read_bytes != MAP_FAILED);
        (void)madvise(read_bytes, READ_BYTES, MADV_HUGEPAGE);
        (void)memset(read_bytes, 1, READ_BYTES);
    }
    team.bytes = read_bytes;
    return typical(&team, n_threads);
}

void roof_free(void) {
    if (read_bytes)
        (void)munmap(read_bytes, READ_BYTES);
    read_bytes = NULL;
}

double roof_int8(unsigned n_threads, const char *isa) {
    return typical(&(struct team){.work = WORK_INT8, .tier = tier_select(isa)}, n_threads);
}

double roof_f32(unsigned n_threads, const char *isa) {
    return typical(&(struct team){.work = WORK_F32, .tier = tier_select(isa)}, n_threads);
}
