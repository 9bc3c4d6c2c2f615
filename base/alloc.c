/* See alloc.h. */
#include "base/alloc.h"

#include "base/macro.h"

#include <stdbool.h>
#include <string.h>

#define ALIGNMENT 64

static size_t fail_countdown;

void alloc_fail_after(size_t n) {
    fail_countdown = n;
}

static bool must_fail(void) {
    return fail_countdown > 0 && --fail_countdown == 0;
}

void *alloc_array(size_t n, size_t size) {
    return must_fail() ? NULL : calloc(n ? n : 1, size ? size : 1);
}

void *alloc_resize(void *p, size_t n) {
    return must_fail() ? NULL : realloc(p, n ? n : 1);
}

void *alloc_aligned(size_t n) {
    void *p;

    if (must_fail() || n > SIZE_MAX - ALIGNMENT)
        return NULL;
    n = (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    p = aligned_alloc(ALIGNMENT, n ? n : ALIGNMENT);
    if (p)
        (void)memset(p, 0, n);
    return p;
}

char *alloc_string(const char *s) {
    return alloc_string_n(s, strlen(s));
}

char *alloc_string_n(const void *bytes, size_t n) {
    char *p;

    if (n == SIZE_MAX)
        return NULL;
    p = alloc_array(n + 1, 1);
    if (p && n > 0)
        (void)memcpy(p, bytes, n);
    return p;
}
