/*
 * KV cache: a pool of pages of 64 positions, tables of pages per sequence.
 *
 * A page holds, for each layer and kv head, the keys of its 64 positions as (head_size, 64) and
 * then their values as (64, head_size), as kern.h says: what one attention task reads is one run of
 * memory. The page size is part of the exactness contract (attention folds whole pages in ascending
 * order) and never changes. Owner: GkEngine. Thread: worker.
 */
#pragma once

#include "engine/shape.h"

#define KV_PAGE_POSITIONS KERN_PAGE_POSITIONS
_Static_assert(KV_PAGE_POSITIONS == GK_KV_PAGE_POSITIONS, "as engine.h tells the daemon");

typedef struct KvPool {
    enum kern_page type;
    size_t slice_bytes, page_bytes; /* of 64 keys or values; of a whole page */
    uint32_t n_kv_heads;
    uint8_t *memory; /* mapped, touched page by page as it is used */
    size_t n_memory_bytes;
    uint32_t n_pages, n_free;
    atomic_uint n_touched; /* pages that were ever taken: the first ones; read by any thread */
    uint32_t *free_pages;  // (n_pages) a stack, n_free of them in use
    uint32_t *n_users;     // (n_pages) sequences that have the page, and the prefix cache
} KvPool;

/* With `hugepages` the kernel is asked for them; it need not have any. Returns GK_E_INVALID where
 * the budget holds no page, -ENOMEM. */
int kv_pool_init(KvPool *kv, const Shape *s, enum gk_kv_type type, uint64_t n_bytes_max,
                 bool hugepages, Error *reterr);
/* Every page must have been given back. */
void kv_pool_deinit(KvPool *kv);
/* Takes n pages or none: false where fewer are free. */
bool kv_pool_take(KvPool *kv, size_t n, uint32_t *ret_pages);
/* One user less of each; a page without users is free. */
void kv_pool_give(KvPool *kv, size_t n, const uint32_t *pages);

uint64_t kv_bytes_per_position(const Shape *s, enum gk_kv_type type);

#define KV_NO_PAGE UINT32_MAX

static inline uint32_t kv_page_users(const KvPool *kv, uint32_t page) {
    return kv->n_users[page];
}
/* One user more of a page in use: none writes to it from now on. */
static inline void kv_page_share(KvPool *kv, uint32_t page) {
    kv->n_users[page]++;
}
void kv_page_copy(KvPool *kv, uint32_t to, uint32_t from);

static inline uint8_t *kv_page_memory(const KvPool *kv, uint32_t page) {
    return kv->memory + page * kv->page_bytes;
}
static inline void *kv_keys(const KvPool *kv, uint32_t page, uint32_t i_layer, uint32_t i_head) {
    return kv_page_memory(kv, page) + 2 * (i_layer * kv->n_kv_heads + i_head) * kv->slice_bytes;
}
static inline void *kv_values(const KvPool *kv, uint32_t page, uint32_t i_layer, uint32_t i_head) {
    return (uint8_t *)kv_keys(kv, page, i_layer, i_head) + kv->slice_bytes;
}
