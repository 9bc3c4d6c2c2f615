/* See prefix.h. */
#include "engine/prefix.h"

#include "base/alloc.h"

#include <errno.h>
#include <string.h>

#define PAGE KV_PAGE_POSITIONS
#define NONE KV_NO_PAGE

/* A page that fits in part is looked for among so many children, the youngest first. */
#define SIBLINGS_MAX 64

struct prefix_node {
    uint64_t owner;
    uint64_t hash;     /* of parent and tokens */
    uint32_t n_tokens; /* 0: the page is not in the tree; less than PAGE: a leaf */
    uint32_t parent, first_child, next_sibling, previous_sibling;
    uint32_t newer, older;
    uint32_t next_in_bucket;
    int32_t tokens[PAGE];
};

static uint32_t root_of(const PrefixCache *c) {
    return c->kv->n_pages;
}

int prefix_init(PrefixCache *c, KvPool *kv, bool is_on, Error *reterr) {
    *c = (PrefixCache){.kv = kv, .newest = NONE, .oldest = NONE, .n_buckets = 1};
    if (!is_on)
        return 0;
    while (c->n_buckets < kv->n_pages && c->n_buckets < 1u << 30)
        c->n_buckets *= 2;
    c->nodes = alloc_array((size_t)kv->n_pages + 1, sizeof(*c->nodes));
    c->buckets = alloc_array(c->n_buckets, sizeof(*c->buckets));
    if (!c->nodes || !c->buckets) {
        free(c->nodes);
        free(c->buckets);
        c->nodes = NULL;
        c->buckets = NULL;
        return error_set(reterr, -ENOMEM, "out of memory for the prefix cache of %u KV pages",
                         kv->n_pages);
    }
    (void)memset(c->buckets, 0xFF, c->n_buckets * sizeof(*c->buckets));
    c->nodes[root_of(c)].first_child = NONE;
    return 0;
}

/* ---- the tree ---- */

static uint64_t hash_of(uint32_t parent, const int32_t tokens[PAGE]) {
    uint64_t h = parent * 0x9E3779B97F4A7C15ull;

    for (size_t i = 0; i < PAGE; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
    }
    return h;
}

static uint32_t *bucket_of(const PrefixCache *c, uint64_t hash) {
    return &c->buckets[hash & (c->n_buckets - 1)];
}

static bool may_use(const struct prefix_node *node, uint64_t owner) {
    return node->owner == owner || node->owner == PREFIX_COMMON;
}

static void unlink_age(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    *(n->newer == NONE ? &c->newest : &c->nodes[n->newer].older) = n->older;
    *(n->older == NONE ? &c->oldest : &c->nodes[n->older].newer) = n->newer;
}

static void make_newest(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    n->newer = NONE;
    n->older = c->newest;
    *(c->newest == NONE ? &c->oldest : &c->nodes[c->newest].newer) = page;
    c->newest = page;
}

/* The node and then its parents, so that no child is younger than its parent. */
static void touch(PrefixCache *c, uint32_t page) {
    for (; page != root_of(c); page = c->nodes[page].parent) {
        unlink_age(c, page);
        make_newest(c, page);
    }
}

static void insert(PrefixCache *c, uint32_t page, uint32_t parent, uint64_t owner,
                   const int32_t *tokens, size_t n) {
    struct prefix_node *node = &c->nodes[page], *up = &c->nodes[parent];

    *node = (struct prefix_node){.owner = owner,
                                 .n_tokens = (uint32_t)n,
                                 .parent = parent,
                                 .first_child = NONE,
                                 .next_sibling = up->first_child,
                                 .previous_sibling = NONE};
    (void)memcpy(node->tokens, tokens, n * sizeof(*tokens));
    if (up->first_child != NONE)
        c->nodes[up->first_child].previous_sibling = page;
    up->first_child = page;
    if (n == PAGE) {
        node->hash = hash_of(parent, tokens);
        node->next_in_bucket = *bucket_of(c, node->hash);
        *bucket_of(c, node->hash) = page;
    }
    make_newest(c, page);
    c->n_idle++;
}

/* Takes an idle leaf out of the tree, and its page for the caller. */
static void take_out(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    assert(n->first_child == NONE && kv_page_users(c->kv, page) == 1);
    if (n->next_sibling != NONE)
        c->nodes[n->next_sibling].previous_sibling = n->previous_sibling;
    *(n->previous_sibling == NONE ? &c->nodes[n->parent].first_child
                                  : &c->nodes[n->previous_sibling].next_sibling) = n->next_sibling;
    if (n->n_tokens == PAGE) {
        uint32_t *at = bucket_of(c, n->hash);

        while (*at != page)
            at = &c->nodes[*at].next_in_bucket;
        *at = n->next_in_bucket;
    }
    unlink_age(c, page);
    n->n_tokens = 0;
    c->n_idle--;
}

void prefix_deinit(PrefixCache *c) {
    while (c->nodes && c->oldest != NONE) {
        uint32_t page = c->oldest;

        take_out(c, page);
        kv_pool_give(c->kv, 1, &page);
    }
    free(c->nodes);
    free(c->buckets);
    *c = (PrefixCache){0};
}

/* ---- pages ---- */

uint32_t prefix_n_available(const PrefixCache *c) {
    return c->kv->n_free + c->n_idle;
}

bool prefix_take(PrefixCache *c, size_t n, uint32_t *ret_pages) {
    uint32_t page = c->oldest;

    if (n > prefix_n_available(c))
        return false;
    while (c->kv->n_free < n) {
        uint32_t younger = c->nodes[page].newer;

        if (kv_page_users(c->kv, page) == 1) {
            take_out(c, page);
            kv_pool_give(c->kv, 1, &page);
        }
        page = younger;
    }
    return kv_pool_take(c->kv, n, ret_pages);
}

static void hold(PrefixCache *c, uint32_t page) {
    c->n_idle -= kv_page_users(c->kv, page) == 1;
    kv_page_share(c->kv, page);
}

static void let_go(PrefixCache *c, uint32_t page) {
    kv_pool_give(c->kv, 1, &page);
    c->n_idle += c->nodes && c->nodes[page].n_tokens > 0 && kv_page_users(c->kv, page) == 1;
}

/* ---- looking up ---- */

static uint32_t find_whole(const PrefixCache *c, uint32_t parent, uint64_t owner,
                           const int32_t *tokens) {
    uint64_t hash = hash_of(parent, tokens);
    uint32_t page = *bucket_of(c, hash);

    for (; page != NONE; page = c->nodes[page].next_in_bucket) {
        const struct prefix_node *n = &c->nodes[page];

        if (n->hash == hash && n->parent == parent && may_use(n, owner) &&
            memcmp(n->tokens, tokens, sizeof(n->tokens)) == 0)
            break;
    }
    return page;
}

/* The owner's own child that begins with most of tokens[0 .. n); *ret_n of them. */
static uint32_t find_part(const PrefixCache *c, uint32_t parent, uint64_t owner,
                          const int32_t *tokens, size_t n, size_t *ret_n) {
    uint32_t page = c->nodes[parent].first_child, best = NONE;

    *ret_n = 0;
    for (int i = 0; page != NONE && i < SIBLINGS_MAX; i++, page = c->nodes[page].next_sibling) {
        const struct prefix_node *node = &c->nodes[page];
        size_t n_same = 0;

        if (node->owner != owner)
            continue;
        while (n_same < n && n_same < node->n_tokens && node->tokens[n_same] == tokens[n_same])
            n_same++;
        if (n_same > *ret_n) {
            *ret_n = n_same;
            best = page;
        }
    }
    return best;
}

struct prefix_match prefix_find(PrefixCache *c, uint64_t owner, const int32_t *tokens, size_t n,
                                uint32_t *ret_pages) {
    struct prefix_match m = {.partial = NONE};
    uint32_t at;
    size_t n_part;

    if (!c->nodes)
        return m;
    at = root_of(c);
    while (n - m.n_tokens >= PAGE) {
        uint32_t child = find_whole(c, at, owner, tokens + m.n_tokens);

        if (child == NONE)
            break;
        at = child;
        hold(c, at);
        ret_pages[m.n_pages++] = at;
        m.n_tokens += PAGE;
    }
    m.partial = find_part(c, at, owner, tokens + m.n_tokens, n - m.n_tokens, &n_part);
    m.n_tokens += n_part;
    if (m.partial != NONE) {
        hold(c, m.partial);
        at = m.partial;
    }
    touch(c, at);
    return m;
}

/* ---- giving back ---- */

/* What a partly filled page says is said by a longer one, too. */
static bool is_known(const PrefixCache *c, uint32_t parent, uint64_t owner, const int32_t *tokens,
                     size_t n) {
    size_t n_same;

    return find_part(c, parent, owner, tokens, n, &n_same) != NONE && n_same == n;
}

/* Puts the sequence's page where it belongs under `parent`, or gives it back where there is one
 * like it. Returns the node that has the tokens; NONE: none. */
static uint32_t keep_page(PrefixCache *c, uint32_t parent, uint64_t owner, bool is_common,
                          const int32_t *tokens, size_t n, uint32_t page) {
    bool is_in_tree = c->nodes[page].n_tokens > 0;
    uint32_t there;

    if (n == PAGE) {
        there = find_whole(c, parent, owner, tokens);
        if (there != NONE) {
            if (is_common)
                c->nodes[there].owner = PREFIX_COMMON;
            let_go(c, page);
            return there;
        }
    }
    if (is_in_tree || n == 0 || (n < PAGE && is_known(c, parent, owner, tokens, n))) {
        let_go(c, page);
        return NONE;
    }
    insert(c, page, parent, is_common ? PREFIX_COMMON : owner, tokens, n);
    return page;
}

void prefix_release(PrefixCache *c, uint64_t owner, size_t n_common, const int32_t *tokens,
                    size_t n_done, const uint32_t *pages, size_t n_pages) {
    uint32_t at = c->nodes ? root_of(c) : NONE, last = NONE;

    for (size_t i = 0; i < n_pages; i++) {
        size_t first = i * PAGE, n = n_done > first ? MIN(n_done - first, (size_t)PAGE) : 0;

        if (at == NONE) {
            let_go(c, pages[i]);
            continue;
        }
        at = keep_page(c, at, owner, first + PAGE <= n_common, tokens + first, n, pages[i]);
        last = at != NONE ? at : last;
        if (n < PAGE)
            at = NONE; /* nothing follows a page that is not full */
    }
    if (last != NONE)
        touch(c, last);
}
