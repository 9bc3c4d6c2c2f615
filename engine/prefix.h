/*
 * Prefix cache: a radix tree of KV pages, so that a prompt that begins like an earlier one computes
 * only what is new.
 *
 * Each node is one page: up to 64 tokens that follow those of its parents. Sequences share whole
 * pages, which nobody writes to any more; of a page that fits only in part the beginning is copied.
 * That changes no bit of an answer: keys and values depend on nothing but the tokens before them
 * (design: the exactness contract).
 *
 * Nodes belong to an owner, and only its sequences find them: how quickly an answer comes would
 * otherwise tell one user what another has asked. What is shared on purpose belongs to
 * PREFIX_COMMON, and is found in whole pages only: who could ask for a part of a page could guess
 * what is in it token by token. Pages that no sequence uses are free for the taking: the least
 * recently used leaf first, and parents are used whenever their children are. Rejected: weighing
 * pages by what they would cost again, since pages deep in the tree, which cost most, are the
 * private ends of conversations, and their recency says more.
 *
 * Looking up touches nothing of other owners: whole pages are found by a hash of parent, owner and
 * tokens, of which nobody outside knows the secret, and which is verified token by token; parts of
 * a page among the owner's own.
 *
 * Pages are promised before they are taken: a sequence reserves those of its worst case, so that it
 * never fails for want of memory, and takes each when it comes to it, so that what it may never
 * need pushes nothing out.
 *
 * Owner: GkEngine. Thread: worker. Nothing here allocates after prefix_init().
 */
#pragma once

#include "engine/kv.h"

#define PREFIX_COMMON UINT64_MAX
/* XXH3_SECRET_SIZE_MIN is 136. */
#define PREFIX_SECRET_BYTES 192

struct prefix_node;

typedef struct PrefixCache {
    KvPool *kv;
    struct prefix_node
        *nodes;              // (n_pages + 1) by page, the last one the root; NULL: nothing is kept
    uint32_t *buckets;       // (n_buckets) whole pages by parent, owner and tokens
    uint32_t *families;      // (n_buckets) an owner's youngest page under a parent, by both
    uint32_t n_buckets;      /* a power of two */
    uint32_t newest, oldest; /* of the nodes; KV_NO_PAGE: none */
    uint32_t n_idle;         /* nodes whose page no sequence uses */
    uint64_t n_reserved;     /* pages promised and not taken: at most the free and the idle ones */
    uint8_t secret[PREFIX_SECRET_BYTES];
} PrefixCache;

/* is_on false: nothing is ever kept or found. Returns -ENOMEM, -EIO. */
int prefix_init(PrefixCache *c, KvPool *kv, bool is_on, Error *reterr);
/* Gives every page back. One that is all zero is taken. */
void prefix_deinit(PrefixCache *c);

/* Pages that can be reserved: free and idle ones that are not. */
uint32_t prefix_n_available(const PrefixCache *c);
/* Promises n pages, to be taken one by one or given up. False where fewer are available. */
bool prefix_reserve(PrefixCache *c, size_t n);
void prefix_unreserve(PrefixCache *c, size_t n);
/* One of those that are reserved. */
uint32_t prefix_take(PrefixCache *c);

struct prefix_match {
    size_t n_tokens;  /* of whole pages, whose keys and values are there */
    size_t n_pages;   /* those pages, in the caller's array: held until prefix_release() */
    uint32_t partial; /* a page that begins with what follows, until others are reserved, taken or
                         released; KV_NO_PAGE: there is none */
    size_t n_partial; /* tokens that it has of that */
};
/* The longest beginning of tokens[0 .. n) that `owner` may use, `ret_pages` having room for its
 * pages. */
struct prefix_match prefix_find(PrefixCache *c, uint64_t owner, const int32_t *tokens, size_t n,
                                uint32_t *ret_pages);
/* Takes one of the reserved pages with a copy of the match's partial one. False where that is the
 * only one that could be taken. */
bool prefix_take_copy(PrefixCache *c, uint32_t partial, uint32_t *ret_page);
/* Gives a sequence's pages up: those of its first n_done tokens go to the tree, whole pages of the
 * first n_common of them to everyone, the others to `owner`. n_done 0: none is kept. */
void prefix_release(PrefixCache *c, uint64_t owner, size_t n_common, const int32_t *tokens,
                    size_t n_done, const uint32_t *pages, size_t n_pages);

/* ---- for what is kept in a file ---- */

bool prefix_is_on(const PrefixCache *c);
struct prefix_node_info {
    uint64_t owner;
    uint32_t parent; /* a page; KV_NO_PAGE: none */
    uint32_t n_tokens;
    const int32_t *tokens;
};
/* The page used last, and the one used before another; KV_NO_PAGE: there is none. No page is
 * younger than its parent. */
uint32_t prefix_youngest(const PrefixCache *c);
uint32_t prefix_older(const PrefixCache *c, uint32_t page);
struct prefix_node_info prefix_node_info(const PrefixCache *c, uint32_t page);
/* Puts a page that the caller has taken into the tree, as the one that was used least recently.
 * False where the tree can't have it so: the page stays the caller's. */
bool prefix_restore(PrefixCache *c, uint32_t page, const struct prefix_node_info *node);
/* Forgets what no sequence uses. */
void prefix_clear(PrefixCache *c);
