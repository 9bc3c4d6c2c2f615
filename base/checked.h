/*
 * The one place that computes with sizes taken from files and peers.
 *
 * Every function returns false and leaves *ret alone when the true result does not fit; a caller
 * that goes on after false has a bug. Readers of hostile bytes use these instead of bare + and *.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *ret) {
    uint64_t r;

    if (__builtin_add_overflow(a, b, &r))
        return false;
    *ret = r;
    return true;
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *ret) {
    uint64_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *ret = r;
    return true;
}

/* Rounds up to a multiple of `alignment`, a power of two. */
static inline bool checked_align(uint64_t a, uint64_t alignment, uint64_t *ret) {
    uint64_t r;

    if (alignment == 0 || (alignment & (alignment - 1)) != 0)
        return false;
    if (!checked_add(a, alignment - 1, &r))
        return false;
    *ret = r & ~(alignment - 1);
    return true;
}

/* True where [offset, offset + length) lies inside [0, size). */
static inline bool checked_range(uint64_t offset, uint64_t length, uint64_t size) {
    return offset <= size && length <= size - offset;
}

/* Narrows to size_t (the same width on our targets, checked all the same). */
static inline bool checked_size(uint64_t a, size_t *ret) {
    if (a > SIZE_MAX)
        return false;
    *ret = (size_t)a;
    return true;
}
