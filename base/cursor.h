/*
 * Bounded readers over bytes, the only place that shifts them together.
 *
 * A cursor never moves past `end`; a read that would do so returns false and leaves both the cursor
 * and *ret alone.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct Cursor {
    const uint8_t *start, *at, *end; /* start <= at <= end; `start` gives offsets for messages */
} Cursor;

/* NULL is taken where n is 0. */
static inline Cursor cursor_make(const void *bytes, size_t n) {
    const uint8_t *p = bytes ? bytes : "";

    return (Cursor){.start = p, .at = p, .end = p + n};
}

static inline size_t cursor_left(const Cursor *c) {
    return (size_t)(c->end - c->at);
}

static inline uint64_t cursor_offset(const Cursor *c) {
    return (uint64_t)(c->at - c->start);
}

/* Gives a view of the next n bytes and moves past them. */
static inline bool cursor_take(Cursor *c, uint64_t n, const uint8_t **ret) {
    if (n > cursor_left(c))
        return false;
    *ret = c->at;
    c->at += n;
    return true;
}

#define CURSOR_READ(name, type, assemble)                                                          \
    static inline bool cursor_##name(Cursor *c, type *ret) {                                       \
        const uint8_t *p;                                                                          \
        if (!cursor_take(c, sizeof(type), &p))                                                     \
            return false;                                                                          \
        *ret = (type)(assemble);                                                                   \
        return true;                                                                               \
    }

#define B(i, s) ((uint64_t)p[i] << (s))
CURSOR_READ(u8, uint8_t, p[0])
CURSOR_READ(u16le, uint16_t, B(0, 0) | B(1, 8))
CURSOR_READ(u32le, uint32_t, B(0, 0) | B(1, 8) | B(2, 16) | B(3, 24))
CURSOR_READ(u32be, uint32_t, B(3, 0) | B(2, 8) | B(1, 16) | B(0, 24))
CURSOR_READ(u64le, uint64_t,
            B(0, 0) | B(1, 8) | B(2, 16) | B(3, 24) | B(4, 32) | B(5, 40) | B(6, 48) | B(7, 56))
#undef B
#undef CURSOR_READ

static inline bool cursor_f32le(Cursor *c, float *ret) {
    uint32_t bits;

    if (!cursor_u32le(c, &bits))
        return false;
    (void)memcpy(ret, &bits, sizeof(*ret));
    return true;
}

static inline void put_u32be(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}
