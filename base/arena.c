/* See arena.h. */
#include "base/arena.h"

#include "base/alloc.h"
#include "base/checked.h"

/* Small enough for what asks for little, and doubled for what asks for more. */
#define BLOCK_BYTES_MIN 4096
#define BLOCK_BYTES_MAX (1u << 20)
#define ALIGNMENT       16

struct arena_block {
    struct arena_block *next;
    size_t n;
    _Alignas(ALIGNMENT) char bytes[];
};

void arena_deinit(Arena *a) {
    for (struct arena_block *block = a->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    *a = ARENA_INIT(a->max);
}

static bool add_block(Arena *a, size_t n) {
    size_t n_usual = MIN(a->n_bytes, (size_t)BLOCK_BYTES_MAX), n_block = BLOCK_BYTES_MIN;
    struct arena_block *block;

    n_block = MAX(n_block, n_usual);
    n_block = MIN(n_block, a->max - a->n_bytes);
    n_block = MAX(n_block, n);
    if (n_block > a->max - a->n_bytes || n_block > SIZE_MAX - sizeof(*block))
        return false;
    block = alloc_array(1, sizeof(*block) + n_block);
    if (!block)
        return false;
    block->n = n_block;
    block->next = a->blocks;
    a->blocks = block;
    a->n_left = n_block;
    a->n_bytes += n_block;
    return true;
}

void *arena_alloc(Arena *a, size_t n, size_t size) {
    uint64_t n_all;

    if (!checked_mul(n, size, &n_all) || !checked_align(n_all, ALIGNMENT, &n_all))
        return NULL;
    if ((!a->blocks || n_all > a->n_left) && !add_block(a, n_all))
        return NULL;
    a->n_left -= n_all;
    return a->blocks->bytes + (a->blocks->n - a->n_left - n_all);
}
