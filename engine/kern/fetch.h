/* Memory that is fetched before it is wanted. */
#pragma once

#include <stdint.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/*
 * One cache line, in the program's order: a compiler moves prefetches about, and a CPU goes on
 * fetching by itself only where lines follow each other. It drops a prefetch where it has many
 * under way, so those of a run are better spread among other work than made at once.
 */
static ALWAYS_INLINE void fetch_line(const uint8_t *p) {
    __asm__ volatile("prefetcht0 %0" : : "m"(*p));
}
