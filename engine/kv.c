/* See kv.h. */
#include "engine/kv.h"

#include "base/alloc.h"
#include "base/checked.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

const char *const gk_kv_type_names[] = {
    [GK_KV_F16] = "f16", [GK_KV_F32] = "f32", [GK_KV_Q8_0] = "q8_0", NULL};

static enum kern_page page_type(enum gk_kv_type type) {
    return type == GK_KV_F32 ? KERN_PAGE_F32 : type == GK_KV_Q8_0 ? KERN_PAGE_Q8_0 : KERN_PAGE_F16;
}

uint64_t kv_bytes_per_position(const Shape *s, enum gk_kv_type type) {
    return 2ull * s->n_layers * s->n_kv_heads *
           (kern_page_bytes(page_type(type), s->head_size) / KV_PAGE_POSITIONS);
}

int kv_pool_init(KvPool *kv, const Shape *s, enum gk_kv_type type, uint64_t n_bytes_max,
                 bool hugepages, Error *reterr) {
    uint64_t page_bytes = kv_bytes_per_position(s, type) * KV_PAGE_POSITIONS, n_pages, n_bytes;
    void *memory;

    n_pages = MIN(n_bytes_max / page_bytes, (uint64_t)UINT32_MAX);
    if (n_pages == 0)
        return error_set(reterr, GK_E_INVALID,
                         "a KV budget of %llu bytes holds no page: one takes %llu (64 positions)",
                         (unsigned long long)n_bytes_max, (unsigned long long)page_bytes);
    if (!checked_mul(n_pages, page_bytes, &n_bytes))
        return error_set(reterr, GK_E_INVALID, "a KV budget of %llu bytes is too large",
                         (unsigned long long)n_bytes_max);
    kv->type = page_type(type);
    kv->n_kv_heads = s->n_kv_heads;
    kv->slice_bytes = kern_page_bytes(kv->type, s->head_size);
    kv->page_bytes = page_bytes;
    kv->free_pages = alloc_array(n_pages, sizeof(*kv->free_pages));
    kv->n_users = alloc_array(n_pages, sizeof(*kv->n_users));
    if (!kv->free_pages || !kv->n_users)
        return error_set(reterr, -ENOMEM, "out of memory for a table of %llu KV pages",
                         (unsigned long long)n_pages);
    memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return error_set(reterr, -errno, "can't map %llu bytes for the KV cache: %m",
                         (unsigned long long)n_bytes);
    if (hugepages)
        (void)madvise(memory, n_bytes, MADV_HUGEPAGE);
    kv->memory = memory;
    kv->n_memory_bytes = n_bytes;
    kv->n_pages = (uint32_t)n_pages;
    /* The stack gives low pages first, so that a quiet daemon touches little memory. */
    for (uint32_t i = 0; i < kv->n_pages; i++)
        kv->free_pages[i] = kv->n_pages - 1 - i;
    kv->n_free = kv->n_pages;
    return 0;
}

void kv_pool_deinit(KvPool *kv) {
    assert(kv->n_free == kv->n_pages);
    if (kv->memory)
        (void)munmap(kv->memory, kv->n_memory_bytes);
    free(kv->free_pages);
    free(kv->n_users);
    *kv = (KvPool){0};
}

bool kv_pool_take(KvPool *kv, size_t n, uint32_t *ret_pages) {
    uint32_t n_touched = atomic_load_explicit(&kv->n_touched, memory_order_relaxed);

    if (n > kv->n_free)
        return false;
    for (size_t i = 0; i < n; i++) {
        ret_pages[i] = kv->free_pages[--kv->n_free];
        kv->n_users[ret_pages[i]] = 1;
        n_touched = MAX(n_touched, ret_pages[i] + 1);
    }
    atomic_store_explicit(&kv->n_touched, n_touched, memory_order_relaxed);
    return true;
}

void kv_pool_give(KvPool *kv, size_t n, const uint32_t *pages) {
    while (n-- > 0) {
        assert(kv->n_users[pages[n]] > 0);
        if (--kv->n_users[pages[n]] == 0)
            kv->free_pages[kv->n_free++] = pages[n];
    }
}

void kv_page_copy(KvPool *kv, uint32_t to, uint32_t from) {
    (void)memcpy(kv_page_memory(kv, to), kv_page_memory(kv, from), kv->page_bytes);
}
