/* Small language helpers that every folder uses. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(x)             (sizeof(x) / sizeof((x)[0]))
#define BIT(n)                    (1u << (n))
#define CLEANUP(fn)               __attribute__((cleanup(fn)))
#define PRINTF_FORMAT(fmt, first) __attribute__((format(printf, fmt, first)))
#define COLD                      __attribute__((cold))
#define ALWAYS_INLINE             inline __attribute__((always_inline))

#define MIN(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) _min_a = (a);                                                                \
        __typeof__(b) _min_b = (b);                                                                \
        _min_a < _min_b ? _min_a : _min_b;                                                         \
    })
#define MAX(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) _max_a = (a);                                                                \
        __typeof__(b) _max_b = (b);                                                                \
        _max_a > _max_b ? _max_a : _max_b;                                                         \
    })

#define container_of(ptr, type, member)                                                            \
    ((type *)(void *)((char *)(1 ? (ptr) : &((type *)NULL)->member) - offsetof(type, member)))

/* Hands a pointer over and leaves NULL behind, so that the cleanup attribute lets go of it. */
#define take_ptr(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) *_take_at = &(p);                                                            \
        __typeof__(p) _take_value = *_take_at;                                                     \
        *_take_at = NULL;                                                                          \
        _take_value;                                                                               \
    })

static inline int take_fd(int *fd) {
    int r = *fd;

    *fd = -1;
    return r;
}

static inline void freep(void *p) {
    free(*(void **)p);
}

static inline void closep(int *fd) {
    if (*fd >= 0)
        (void)close(*fd);
}

/* Declares `fn##p` for CLEANUP(fn##p) beside a destructor that accepts NULL. */
#define DEFINE_CLEANUP(type, fn)                                                                   \
    static inline void fn##p(type *p) {                                                            \
        if (*p)                                                                                    \
            (void)fn(*p);                                                                          \
    }
