/* A growable byte queue with a hard cap: append at the end, consume at the start. */
#pragma once

#include "base/macro.h"

typedef struct Buf {
    uint8_t *data;
    size_t start, end; /* the bytes held are data[start .. end) */
    size_t capacity;
    size_t max; /* never holds more than this many bytes */
} Buf;

#define BUF_INIT(max_bytes) ((Buf){.max = (max_bytes)})

void buf_deinit(Buf *b);

static inline size_t buf_size(const Buf *b) {
    return b->end - b->start;
}

static inline const uint8_t *buf_bytes(const Buf *b) {
    return b->data ? b->data + b->start : NULL;
}

/* Makes room for n more bytes and gives where to write them; buf_commit() then adds those written.
 * Returns -ENOBUFS where the cap forbids it, -ENOMEM. */
int buf_reserve(Buf *b, size_t n, uint8_t **ret);
void buf_commit(Buf *b, size_t n);
int buf_append(Buf *b, const void *bytes, size_t n);
/* Drops n <= buf_size() bytes from the start; an emptied buffer gives large memory back. */
void buf_consume(Buf *b, size_t n);
