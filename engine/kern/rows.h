/* How the kernels with integer lanes read weights: many blocks at once, while others are fetched.
 */
#pragma once

#include "base/macro.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Memory of VI_LANES rows: outputs' weights, or blocks of one output or of two. */
struct vi_rows {
    const uint8_t *first;
    size_t stride; /* from each to the next */
    ptrdiff_t gap; /* so much more from the first half to the second */
};

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}

static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/*
 * One cache line into the second cache, in the program's order: a compiler moves prefetches about,
 * and a CPU goes on fetching by itself only where lines follow each other. It drops a prefetch
 * where it has many under way, so those of a run are better spread among other work than made at
 * once. On its way from memory into the first cache a line would keep one of that cache's few
 * buffers busy all the time. (Measured: Zen 4 decodes Q4_K 1.5 to 1.9 times as fast; an Intel CPU
 * with tiles reads prompts of 128 of Q8_0 a quarter faster.)
 */
static ALWAYS_INLINE void fetch_line(const uint8_t *p) {
    __asm__ volatile("prefetcht1 %0" : : "m"(*p));
}

/* A line that is in the second cache by now, into the first one. */
static ALWAYS_INLINE void fetch_line_near(const uint8_t *p) {
    __asm__ volatile("prefetcht0 %0" : : "m"(*p));
}

/* Lines that are fetched while something else is done, one at each of its steps. */
struct fetching {
    const uint8_t *at;
    size_t n;     /* lines */
    size_t i;     /* the next; constant where steps are unrolled */
    bool is_near; /* from the second cache into the first; constant */
};

static ALWAYS_INLINE void fetch_next(struct fetching *f) {
    const uint8_t *line = f->at + 64 * f->i;

    if (f->i++ >= f->n)
        return;
    if (f->is_near)
        fetch_line_near(line);
    else
        fetch_line(line);
}
