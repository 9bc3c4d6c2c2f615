/* Many small things that are let go of at once, with a hard cap on what they take. */
#pragma once

#include "base/macro.h"

struct arena_block;

typedef struct Arena {
    struct arena_block *blocks; /* the newest first */
    size_t n_left;              /* free bytes at the end of the newest */
    size_t n_bytes, max;        /* what all blocks take, and may take */
} Arena;

#define ARENA_INIT(max_bytes) ((Arena){.max = (max_bytes)})

void arena_deinit(Arena *a);
/* Zero-filled, aligned for anything; NULL where the cap or memory forbids it. */
void *arena_alloc(Arena *a, size_t n, size_t size);
#define arena_new(a, type) ((type *)arena_alloc((a), 1, sizeof(type)))
