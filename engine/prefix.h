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
 * Owner: GkEngine. Thread: worker. Nothing here allocates after prefix_init().
 */
#pragma once

#include "engine/kv.h"

#define PREFIX_COMMON UINT64_MAX

struct prefix_node;

typedef struct PrefixCache {
    KvPool *kv;
    struct prefix_node
        *nodes;              // (n_pages + 1) by page, the last one the root; NULL: nothing is kept
    uint32_t *buckets;       // (n_buckets) whole pages by parent and tokens
    uint32_t n_buckets;      /* a power of two */
    uint32_t newest, oldest; /* of the nodes; KV_NO_PAGE: none */
    uint32_t n_idle;         /* nodes whose page no sequence uses */
} PrefixCache;

/* is_on false: nothing is ever kept or found. Returns -ENOMEM. */
int prefix_init(PrefixCache *c, KvPool *kv, bool is_on, Error *reterr);
/* Gives every page back. One that is all zero is taken. */
void prefix_deinit(PrefixCache *c);

/* Pages that can be taken: free ones and idle ones. */
uint32_t prefix_n_available(const PrefixCache *c);
/* Takes n pages or none: false where fewer are available. */
bool prefix_take(PrefixCache *c, size_t n, uint32_t *ret_pages);

struct prefix_match {
    size_t n_tokens;  /* whose keys and values are there */
    size_t n_pages;   /* whole pages of them, in the caller's array: held until prefix_release() */
    uint32_t partial; /* the page that has the rest, held likewise; KV_NO_PAGE: there is no rest */
};
/* The longest beginning of tokens[0 .. n) that `owner` may use, `ret_pages` having room for its
 * pages. */
struct prefix_match prefix_find(PrefixCache *c, uint64_t owner, const int32_t *tokens, size_t n,
                                uint32_t *ret_pages);
/* Gives a sequence's pages up: those of its first n_done tokens go to the tree, whole pages of the
 * first n_common to everyone, the others to `owner`. n_done 0: none is kept. */
void prefix_release(PrefixCache *c, uint64_t owner, size_t n_common, const int32_t *tokens,
                    size_t n_done, const uint32_t *pages, size_t n_pages);
