/*
 * Checked allocation. Memory from here is released with free().
 *
 * alloc_fail_after() makes the n-th allocation from now return NULL (n >= 1; 0: none), so that
 * tests can walk every failure path; it is not for threads.
 */
#pragma once

#include <stddef.h>

/* Zero-filled array of n elements, or NULL (also where n * size overflows). */
void *alloc_array(size_t n, size_t size);
/* One zero-filled object. */
#define alloc_new(type) ((type *)alloc_array(1, sizeof(type)))
/* As realloc(); new bytes are not filled. */
void *alloc_resize(void *p, size_t n);
/* Zero-filled, aligned to 64 bytes (one cache line, one AVX-512 vector). */
void *alloc_aligned(size_t n);
char *alloc_string(const char *s);
/* A copy of n bytes with a zero byte after it. */
char *alloc_string_n(const void *bytes, size_t n);

void alloc_fail_after(size_t n);
