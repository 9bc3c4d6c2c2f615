/* See prefix.h. */
#include "engine/prefix.h"

#include "base/alloc.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#define PAGE KV_PAGE_POSITIONS
#define NONE KV_NO_PAGE

/* A page that fits in part is looked for among so many of its owner's, the youngest first. */
#define SIBLINGS_MAX 64

_Static_assert(PREFIX_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "as XXH3 asks");

struct prefix_node {
    uint64_t owner;
    uint64_t hash;     /* of parent, owner and tokens, where it is whole */
    uint32_t n_tokens; /* 0: the page is not in the tree; less than PAGE: a leaf */
    uint32_t parent, n_children;
    uint32_t next_sibling, previous_sibling; /* of one owner; what is common has none */
    uint32_t next_family;                    /* in the bucket, where it is the youngest sibling */
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
    c->families = alloc_array(c->n_buckets, sizeof(*c->families));
    if (!c->nodes || !c->buckets || !c->families) {
        prefix_deinit(c);
        return error_set(reterr, -ENOMEM, "out of memory for the prefix cache of %u KV pages",
                         kv->n_pages);
    }
    /* Who could foresee which hashes are the same could make look-ups slow for all. */
    if (getrandom(c->secret, sizeof(c->secret), 0) != (ssize_t)sizeof(c->secret)) {
        prefix_deinit(c);
        return error_set(reterr, -EIO, "the system has no random numbers");
    }
    (void)memset(c->buckets, 0xFF, c->n_buckets * sizeof(*c->buckets));
    (void)memset(c->families, 0xFF, c->n_buckets * sizeof(*c->families));
    return 0;
}

/* ---- the order of use ---- */

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

static void make_oldest(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    n->older = NONE;
    n->newer = c->oldest;
    *(c->oldest == NONE ? &c->newest : &c->nodes[c->oldest].older) = page;
    c->oldest = page;
}

/* The node and then its parents, so that no child is younger than its parent. */
static void touch(PrefixCache *c, uint32_t page) {
    for (; page != root_of(c); page = c->nodes[page].parent) {
        unlink_age(c, page);
        make_newest(c, page);
    }
}

/* ---- the tree ---- */

static uint64_t hash_of(const PrefixCache *c, uint32_t parent, uint64_t owner,
                        const int32_t *tokens, size_t n) {
    struct {
        uint64_t owner;
        uint32_t parent;
        int32_t tokens[PAGE];
        uint32_t padding;
    } key = {.owner = owner, .parent = parent};

    _Static_assert(sizeof(key) == 16 + sizeof(key.tokens), "every byte is set");
    if (n > 0)
        (void)memcpy(key.tokens, tokens, n * sizeof(*tokens));
    return XXH3_64bits_withSecret(&key, sizeof(key), c->secret, sizeof(c->secret));
}

static uint32_t *bucket_of(const PrefixCache *c, uint64_t hash) {
    return &c->buckets[hash & (c->n_buckets - 1)];
}

/* Where the owner's youngest page under the parent is noted, or would be. */
static uint32_t *family_of(const PrefixCache *c, uint32_t parent, uint64_t owner) {
    uint32_t *at = &c->families[hash_of(c, parent, owner, NULL, 0) & (c->n_buckets - 1)];

    while (*at != NONE && (c->nodes[*at].parent != parent || c->nodes[*at].owner != owner))
        at = &c->nodes[*at].next_family;
    return at;
}

static void join_family(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];
    uint32_t *youngest;

    n->next_sibling = n->previous_sibling = n->next_family = NONE;
    if (n->owner == PREFIX_COMMON)
        return;
    youngest = family_of(c, n->parent, n->owner);
    if (*youngest != NONE) {
        n->next_sibling = *youngest;
        n->next_family = c->nodes[*youngest].next_family;
        c->nodes[*youngest].previous_sibling = page;
    }
    *youngest = page;
}

static void leave_family(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];
    uint32_t next = n->next_sibling;

    if (n->owner == PREFIX_COMMON)
        return;
    if (n->previous_sibling != NONE) {
        c->nodes[n->previous_sibling].next_sibling = next;
    } else {
        *family_of(c, n->parent, n->owner) = next != NONE ? next : n->next_family;
        if (next != NONE)
            c->nodes[next].next_family = n->next_family;
    }
    if (next != NONE)
        c->nodes[next].previous_sibling = n->previous_sibling;
}

static void enter_bucket(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    if (n->n_tokens < PAGE)
        return;
    n->hash = hash_of(c, n->parent, n->owner, n->tokens, PAGE);
    n->next_in_bucket = *bucket_of(c, n->hash);
    *bucket_of(c, n->hash) = page;
}

static void leave_bucket(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];
    uint32_t *at = bucket_of(c, n->hash);

    if (n->n_tokens < PAGE)
        return;
    while (*at != page)
        at = &c->nodes[*at].next_in_bucket;
    *at = n->next_in_bucket;
}

static void insert(PrefixCache *c, uint32_t page, uint32_t parent, uint64_t owner,
                   const int32_t *tokens, size_t n) {
    struct prefix_node *node = &c->nodes[page];

    *node = (struct prefix_node){.owner = owner, .n_tokens = (uint32_t)n, .parent = parent};
    (void)memcpy(node->tokens, tokens, n * sizeof(*tokens));
    c->nodes[parent].n_children++;
    join_family(c, page);
    enter_bucket(c, page);
    make_newest(c, page);
    c->n_idle++;
}

static void make_common(PrefixCache *c, uint32_t page) {
    leave_family(c, page);
    leave_bucket(c, page);
    c->nodes[page].owner = PREFIX_COMMON;
    join_family(c, page);
    enter_bucket(c, page);
}

/* Takes an idle leaf out of the tree, and its page for the caller. */
static void take_out(PrefixCache *c, uint32_t page) {
    struct prefix_node *n = &c->nodes[page];

    assert(n->n_children == 0 && kv_page_users(c->kv, page) == 1);
    leave_family(c, page);
    leave_bucket(c, page);
    unlink_age(c, page);
    c->nodes[n->parent].n_children--;
    n->n_tokens = 0;
    c->n_idle--;
}

void prefix_clear(PrefixCache *c) {
    for (uint32_t page = c->oldest, younger; c->nodes && page != NONE; page = younger) {
        younger = c->nodes[page].newer;
        if (kv_page_users(c->kv, page) > 1)
            continue;
        take_out(c, page);
        kv_pool_give(c->kv, 1, &page);
    }
}

void prefix_deinit(PrefixCache *c) {
    prefix_clear(c);
    free(c->nodes);
    free(c->buckets);
    free(c->families);
    *c = (PrefixCache){0};
}

/* ---- pages ---- */

uint32_t prefix_n_available(const PrefixCache *c) {
    return c->kv->n_free + c->n_idle - (uint32_t)c->n_reserved;
}

bool prefix_reserve(PrefixCache *c, size_t n) {
    /* What was found and is held since then may be what others have reserved. */
    if (n > c->kv->n_pages || c->n_reserved + n > (uint64_t)c->kv->n_free + c->n_idle)
        return false;
    c->n_reserved += n;
    return true;
}

void prefix_unreserve(PrefixCache *c, size_t n) {
    assert(n <= c->n_reserved);
    c->n_reserved -= n;
}

uint32_t prefix_take(PrefixCache *c) {
    uint32_t page = c->oldest, taken;
    bool is_taken;

    assert(c->n_reserved > 0);
    c->n_reserved--;
    if (c->kv->n_free == 0) {
        while (kv_page_users(c->kv, page) > 1)
            page = c->nodes[page].newer;
        take_out(c, page);
        kv_pool_give(c->kv, 1, &page);
    }
    is_taken = kv_pool_take(c->kv, 1, &taken);
    assert(is_taken);
    return taken;
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

static uint32_t find_whole_of(const PrefixCache *c, uint32_t parent, uint64_t owner,
                              const int32_t *tokens) {
    uint64_t hash = hash_of(c, parent, owner, tokens, PAGE);
    uint32_t page = *bucket_of(c, hash);

    for (; page != NONE; page = c->nodes[page].next_in_bucket) {
        const struct prefix_node *n = &c->nodes[page];

        if (n->hash == hash && n->parent == parent && n->owner == owner &&
            memcmp(n->tokens, tokens, sizeof(n->tokens)) == 0)
            break;
    }
    return page;
}

static uint32_t find_whole(const PrefixCache *c, uint32_t parent, uint64_t owner,
                           const int32_t *tokens) {
    uint32_t own = find_whole_of(c, parent, owner, tokens);

    return own != NONE ? own : find_whole_of(c, parent, PREFIX_COMMON, tokens);
}

/* The owner's own page that begins with most of tokens[0 .. n); *ret_n of them. */
static uint32_t find_part(const PrefixCache *c, uint32_t parent, uint64_t owner,
                          const int32_t *tokens, size_t n, size_t *ret_n) {
    uint32_t page = *family_of(c, parent, owner), best = NONE;

    *ret_n = 0;
    for (int i = 0; page != NONE && i < SIBLINGS_MAX; i++, page = c->nodes[page].next_sibling) {
        const struct prefix_node *node = &c->nodes[page];
        size_t n_same = 0;

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
    m.partial = find_part(c, at, owner, tokens + m.n_tokens, n - m.n_tokens, &m.n_partial);
    touch(c, m.partial != NONE ? m.partial : at);
    return m;
}

bool prefix_take_copy(PrefixCache *c, uint32_t partial, uint32_t *ret_page) {
    hold(c, partial);
    if (c->kv->n_free + c->n_idle > 0) {
        *ret_page = prefix_take(c);
        kv_page_copy(c->kv, *ret_page, partial);
        let_go(c, partial);
        return true;
    }
    let_go(c, partial);
    return false;
}

/* ---- giving back ---- */

/* What a partly filled page says is said by a longer one, too. */
static bool is_known(const PrefixCache *c, uint32_t parent, uint64_t owner, const int32_t *tokens,
                     size_t n) {
    size_t n_same;

    return find_part(c, parent, owner, tokens, n, &n_same) != NONE && n_same == n;
}

/* The whole page that has the tokens, which from now on is everyone's; or the one that already is,
 * so that what hangs on that stays in reach. NONE: there is none. */
static uint32_t share_whole(PrefixCache *c, uint32_t parent, uint64_t owner,
                            const int32_t *tokens) {
    uint32_t common = find_whole_of(c, parent, PREFIX_COMMON, tokens);
    uint32_t there = common != NONE ? common : find_whole_of(c, parent, owner, tokens);

    if (there != NONE && there != common)
        make_common(c, there);
    return there;
}

/* Puts the sequence's page where it belongs under `parent`, or gives it back where there is one
 * like it. Returns the node that has the tokens; NONE: none. */
static uint32_t keep_page(PrefixCache *c, uint32_t parent, uint64_t owner, bool is_common,
                          const int32_t *tokens, size_t n, uint32_t page) {
    bool is_in_tree = c->nodes[page].n_tokens > 0;
    uint32_t there;

    if (n == PAGE) {
        there = is_common ? share_whole(c, parent, owner, tokens)
                          : find_whole(c, parent, owner, tokens);
        if (there != NONE) {
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

    n_common = MIN(n_common, n_done);
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

/* ---- for what is kept in a file ---- */

bool prefix_is_on(const PrefixCache *c) {
    return c->nodes != NULL;
}

uint32_t prefix_youngest(const PrefixCache *c) {
    return c->newest;
}

uint32_t prefix_older(const PrefixCache *c, uint32_t page) {
    return c->nodes[page].older;
}

struct prefix_node_info prefix_node_info(const PrefixCache *c, uint32_t page) {
    const struct prefix_node *n = &c->nodes[page];

    return (struct prefix_node_info){.owner = n->owner,
                                     .parent = n->parent == root_of(c) ? NONE : n->parent,
                                     .n_tokens = n->n_tokens,
                                     .tokens = n->tokens};
}

/* Only a whole page has others after it, of the same owner or after what is common; and there is
 * one for the same tokens. */
static bool may_restore(const PrefixCache *c, uint32_t parent, const struct prefix_node_info *n) {
    const struct prefix_node *up = &c->nodes[parent];

    if (n->n_tokens == 0 || n->n_tokens > PAGE || (n->owner == PREFIX_COMMON && n->n_tokens < PAGE))
        return false;
    if (parent != root_of(c) &&
        (up->n_tokens < PAGE || (up->owner != n->owner && up->owner != PREFIX_COMMON)))
        return false;
    return n->n_tokens < PAGE || find_whole_of(c, parent, n->owner, n->tokens) == NONE;
}

bool prefix_restore(PrefixCache *c, uint32_t page, const struct prefix_node_info *node) {
    uint32_t parent = node->parent == NONE ? root_of(c) : node->parent;

    if (!may_restore(c, parent, node))
        return false;
    insert(c, page, parent, node->owner, node->tokens, node->n_tokens);
    unlink_age(c, page);
    make_oldest(c, page);
    return true;
}
