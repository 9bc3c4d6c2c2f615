/* See buf.h. */
#include "base/buf.h"

#include "base/alloc.h"

#include <errno.h>
#include <string.h>

/* An emptied buffer keeps at most this much, so that an idle connection costs little. */
#define BUF_IDLE_BYTES 4096

void buf_deinit(Buf *b) {
    free(b->data);
    *b = BUF_INIT(b->max);
}

int buf_reserve(Buf *b, size_t n, uint8_t **ret) {
    size_t size = buf_size(b), capacity;
    uint8_t *data;

    if (n > b->max || size > b->max - n)
        return -ENOBUFS;
    if (n <= b->capacity - b->end) {
        *ret = b->data + b->end;
        return 0;
    }
    if (b->start > 0) {
        (void)memmove(b->data, b->data + b->start, size);
        b->start = 0;
        b->end = size;
    }
    if (n > b->capacity - size) {
        capacity = b->capacity ? b->capacity : 256;
        while (capacity < size + n)
            capacity = capacity > b->max / 2 ? b->max : capacity * 2;
        data = alloc_resize(b->data, capacity);
        if (!data)
            return -ENOMEM;
        b->data = data;
        b->capacity = capacity;
    }
    *ret = b->data + b->end;
    return 0;
}

void buf_commit(Buf *b, size_t n) {
    assert(n <= b->capacity - b->end);
    b->end += n;
}

int buf_append(Buf *b, const void *bytes, size_t n) {
    uint8_t *to;
    int r;

    if (n == 0)
        return 0;
    r = buf_reserve(b, n, &to);
    if (r < 0)
        return r;
    (void)memcpy(to, bytes, n);
    buf_commit(b, n);
    return 0;
}

void buf_consume(Buf *b, size_t n) {
    assert(n <= buf_size(b));
    b->start += n;
    if (b->start < b->end)
        return;
    b->start = b->end = 0;
    if (b->capacity > BUF_IDLE_BYTES) {
        free(b->data);
        b->data = NULL;
        b->capacity = 0;
    }
}
