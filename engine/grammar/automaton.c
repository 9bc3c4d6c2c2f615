/*
 * See automaton.h.
 *
 * A state is the set of all stacks that the network can be in after the text so far: the node that
 * takes the next byte on top, below it the nodes to return to. A set of stacks is kept as a tree
 * from the top down, in which what is equal is one: for each top node, once, the set of what may
 * lie below it. Sets are numbered so that equal sets have equal numbers (as in hash consing): a
 * state is a number, its transitions are a row of numbers, and a mask belongs to a number. Finite
 * parts of a constraint thus become an ordinary deterministic automaton as far as texts go there,
 * and recursion costs a few nodes a level.
 *
 * Rejected: stacks one by one, as llama.cpp has them (ambiguous grammars multiply them), and an
 * Earley chart (its states name positions of the text, so none ever comes back and no mask can be
 * kept).
 */
#include "engine/grammar/automaton.h"

#include "base/alloc.h"
#include "engine/grammar/grammar.h"

#include <string.h>

#define PAIRS_MAX (1u << 16) /* of a node and what is below it, in one step */

/* ---- memory ---- */

static size_t n_bytes(const Automaton *a) {
    return a->stacks_capacity * sizeof(*a->stacks) + a->tops_capacity * sizeof(*a->tops) +
           (size_t)a->rows_capacity * a->network->n_classes * sizeof(uint32_t) +
           a->n_buckets * sizeof(uint32_t);
}

/* Room for n more; what is kept between questions counts against the maximum. */
static bool reserve(Automaton *a, void *array, uint32_t *capacity, uint32_t n_used, uint32_t n,
                    size_t size, bool is_kept) {
    size_t wanted = ((size_t)n_used + n) * 3 / 2 + 32;
    void *p;

    if (a->has_failed)
        return false;
    if ((size_t)n_used + n <= *capacity)
        return true;
    (void)memcpy(&p, array, sizeof(p));
    if ((is_kept &&
         n_bytes(a) + (wanted - *capacity) * size > a->n_bytes_in_use + AUTOMATON_BYTES_MAX) ||
        wanted > UINT32_MAX / 2 || !(p = alloc_resize(p, wanted * size))) {
        a->has_failed = a->is_full = true;
        return false;
    }
    (void)memcpy(array, &p, sizeof(p));
    *capacity = (uint32_t)wanted;
    return true;
}

/* ---- sets of stacks ---- */

static uint32_t hash_tops(const struct top *tops, uint32_t n, bool has_empty) {
    uint64_t hash = has_empty;

    for (uint32_t i = 0; i < n; i++) {
        hash = (hash ^ tops[i].node) * 0x9e3779b97f4a7c15u;
        hash = (hash ^ hash >> 32 ^ tops[i].below) * 0xc2b2ae3d27d4eb4fu;
    }
    return (uint32_t)(hash >> 32);
}

static void rehash(Automaton *a, uint32_t n_buckets) {
    uint32_t *buckets = alloc_array(n_buckets, sizeof(*buckets));

    if (!buckets) {
        a->has_failed = true;
        return;
    }
    free(a->buckets);
    a->buckets = buckets;
    a->n_buckets = n_buckets;
    for (uint32_t i = 0; i < a->n_stacks; i++) {
        struct stacks *s = &a->stacks[i];
        const struct top *tops = s->n > 0 ? a->tops + s->first : NULL;
        uint32_t *bucket = &buckets[hash_tops(tops, s->n, s->has_empty) & (n_buckets - 1)];

        s->next = *bucket;
        *bucket = i + 1;
    }
}

/* The number of this set; tops are sorted by node, each node once. They may lie in a->scratch. */
static uint32_t intern(Automaton *a, const struct top *tops, uint32_t n, bool has_empty) {
    uint32_t hash = hash_tops(tops, n, has_empty), *bucket;
    struct stacks set = {.n = n, .row = STATE_UNKNOWN, .has_empty = has_empty};

    if (!automaton_spend(a, 1 + n))
        return STATE_NOTHING;
    for (uint32_t i = a->buckets[hash & (a->n_buckets - 1)]; i != 0; i = a->stacks[i - 1].next) {
        const struct stacks *s = &a->stacks[i - 1];

        assert(a->stacks);
        if (s->n != n || s->has_empty != has_empty)
            continue;
        if (n == 0)
            return i - 1;
        assert(a->tops && tops); /* both have n of them */
        if (memcmp(a->tops + s->first, tops, n * sizeof(*tops)) == 0)
            return i - 1;
    }
    if (!reserve(a, &a->stacks, &a->stacks_capacity, a->n_stacks, 1, sizeof(*a->stacks), true) ||
        !reserve(a, &a->tops, &a->tops_capacity, a->n_tops, n, sizeof(*a->tops), true))
        return STATE_NOTHING;
    if (a->n_stacks >= a->n_buckets)
        rehash(a, 2 * a->n_buckets);
    for (uint32_t i = 0; i < n; i++)
        if (a->stacks[tops[i].below].depth >= set.depth)
            set.depth = (uint16_t)(a->stacks[tops[i].below].depth + 1);
    set.first = a->n_tops;
    if (n > 0)
        (void)memcpy(a->tops + a->n_tops, tops, n * sizeof(*tops));
    a->n_tops += n;
    bucket = &a->buckets[hash & (a->n_buckets - 1)];
    set.next = *bucket;
    *bucket = a->n_stacks + 1;
    a->stacks[a->n_stacks] = set;
    return a->n_stacks++;
}

static int by_node(const void *a, const void *b) {
    const struct top *x = a, *y = b;

    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->below < y->below ? -1 : x->below > y->below;
}

static void push_scratch(Automaton *a, uint32_t node, uint32_t below) {
    if (reserve(a, &a->scratch, &a->scratch_capacity, a->n_scratch, 1, sizeof(*a->scratch), false))
        a->scratch[a->n_scratch++] = (struct top){node, below};
}

static uint32_t unite(Automaton *a, uint32_t begin, bool has_empty);

/* The union of the sets below the tops [from, to) of the scratch. */
static uint32_t unite_below(Automaton *a, uint32_t from, uint32_t to) {
    uint32_t begin = a->n_scratch;
    bool has_empty = false;

    for (uint32_t i = from; i < to && !a->has_failed; i++) {
        const struct stacks *s = &a->stacks[a->scratch[i].below];

        has_empty |= s->has_empty;
        if (!automaton_spend(a, s->n))
            break;
        assert(s->n == 0 || a->tops);
        for (uint32_t k = 0; k < s->n; k++)
            push_scratch(a, a->tops[s->first + k].node, a->tops[s->first + k].below);
    }
    return unite(a, begin, has_empty);
}

/* The set of what lies in the scratch from `begin` on, which is then taken off. */
static uint32_t unite(Automaton *a, uint32_t begin, bool has_empty) {
    uint32_t end = a->n_scratch, n = begin, set;

    if (end - begin > 1)
        qsort(a->scratch + begin, end - begin, sizeof(*a->scratch), by_node);
    for (uint32_t i = begin, k; i < end && automaton_spend(a, 1); i = k) {
        uint32_t n_different = 1;
        struct top top;

        assert(a->scratch);
        top = a->scratch[i];
        for (k = i + 1; k < end && a->scratch[k].node == top.node; k++)
            if (a->scratch[k].below != a->scratch[k - 1].below)
                n_different++;
        if (n_different > 1)
            top.below = unite_below(a, i, k);
        a->scratch[n++] = top;
    }
    set = intern(a, n > begin ? a->scratch + begin : NULL, n - begin, has_empty);
    a->n_scratch = begin;
    return set;
}

/* ---- one byte ---- */

/* Notes that the node is reached with this below it, unless it was before. */
static void visit(Automaton *a, uint32_t node, uint32_t below) {
    const Network *w = a->network;
    uint32_t *bucket;

    if (w->heights[node] == NODE_HOPELESS ||
        a->stacks[below].depth + w->heights[node] > NETWORK_DEPTH_MAX)
        return;
    if (!automaton_spend(a, 2))
        return;
    if (a->n_pairs == a->pairs_capacity) {
        uint32_t n = a->pairs_capacity ? 2 * a->pairs_capacity : 64;
        uint32_t capacity = a->pairs_capacity, *buckets;

        if (n > PAIRS_MAX || !(buckets = alloc_array(n, sizeof(*buckets)))) {
            a->has_failed = true;
            return;
        }
        free(a->pair_buckets);
        a->pair_buckets = buckets;
        if (!reserve(a, &a->pairs, &capacity, n - 1, 1, sizeof(*a->pairs), false))
            return;
        a->pairs_capacity = n;
        for (uint32_t i = 0; i < a->n_pairs; i++) {
            struct top key = {a->pairs[i].node, a->pairs[i].below};

            bucket = &buckets[hash_tops(&key, 1, false) & (n - 1)];
            a->pairs[i].next = *bucket;
            *bucket = i + 1;
        }
    }
    bucket =
        &a->pair_buckets[hash_tops(&(struct top){node, below}, 1, false) & (a->pairs_capacity - 1)];
    for (uint32_t i = *bucket; i != 0; i = a->pairs[i - 1].next)
        if (a->pairs[i - 1].node == node && a->pairs[i - 1].below == below)
            return;
    a->pairs[a->n_pairs] = (struct pair){.node = node, .below = below, .next = *bucket};
    *bucket = ++a->n_pairs;
}

static void visit_call(Automaton *a, const struct node *call, uint32_t below) {
    const Network *w = a->network;
    struct top frame = {call->out, below};

    if (call->out != 0) { /* in last place it needs no return */
        if (w->heights[call->out] == NODE_HOPELESS ||
            a->stacks[below].depth + w->heights[call->out] > NETWORK_DEPTH_MAX)
            return;
        below = intern(a, &frame, 1, false);
    }
    if (!a->has_failed)
        visit(a, w->rules[call->a], below);
}

/* From the pairs visited so far to all that are reached without a byte: the state they make. */
static uint32_t close_over(Automaton *a) {
    const struct node *nodes = a->network->nodes;
    bool has_empty = false;
    uint32_t state;

    for (uint32_t i = 0; i < a->n_pairs && !a->has_failed; i++) {
        struct pair p = a->pairs[i];
        const struct node *node = &nodes[p.node];

        switch (node->type) {
        case NODE_BYTES:
            push_scratch(a, p.node, p.below);
            break;
        case NODE_SPLIT:
            visit(a, node->out, p.below);
            visit(a, node->a, p.below);
            break;
        case NODE_CALL:
            visit_call(a, node, p.below);
            break;
        case NODE_END:
            has_empty |= a->stacks[p.below].has_empty;
            for (uint32_t k = 0; k < a->stacks[p.below].n && !a->has_failed; k++) {
                struct top top = a->tops[a->stacks[p.below].first + k];

                visit(a, top.node, top.below);
            }
            break;
        }
    }
    state = unite(a, 0, has_empty);
    if (a->n_pairs > 0)
        (void)memset(a->pair_buckets, 0, a->pairs_capacity * sizeof(*a->pair_buckets));
    a->n_pairs = 0;
    a->n_scratch = 0;
    return a->has_failed ? STATE_NOTHING : state;
}

static uint32_t compute_step(Automaton *a, uint32_t state, uint8_t example) {
    const Network *w = a->network;

    for (uint32_t i = 0; i < a->stacks[state].n && automaton_spend(a, 1); i++) {
        struct top top = a->tops[a->stacks[state].first + i];
        const struct node *node = &w->nodes[top.node];

        if (network_takes(w, node->a, example))
            visit(a, node->out, top.below);
    }
    return close_over(a);
}

uint32_t automaton_step_slowly(Automaton *a, uint32_t state, uint8_t byte) {
    uint32_t n_classes = a->network->n_classes, class = a->network->classes[byte], to;
    uint32_t row = a->stacks[state].row;

    if (row == STATE_UNKNOWN) {
        if (!reserve(a, &a->rows, &a->rows_capacity, a->n_rows, 1, n_classes * sizeof(*a->rows),
                     true))
            return STATE_NOTHING;
        row = a->stacks[state].row = a->n_rows++;
        (void)memset(a->rows + (size_t)row * n_classes, 0xff, n_classes * sizeof(*a->rows));
    }
    to = a->rows[(size_t)row * n_classes + class];
    if (to != STATE_UNKNOWN)
        return to;
    to = compute_step(a, state, a->network->examples[class]);
    if (!a->has_failed)
        a->rows[(size_t)row * n_classes + class] = to;
    return to;
}

/* ---- forgetting ---- */

static void make_empty(Automaton *a) {
    for (size_t i = 0; i < a->n_masks; i++)
        a->masks[i].state = STATE_UNKNOWN;
    free(a->stacks);
    free(a->tops);
    free(a->rows);
    a->stacks = NULL;
    a->tops = NULL;
    a->rows = NULL;
    a->n_stacks = a->n_tops = a->n_rows = 0;
    a->stacks_capacity = a->tops_capacity = a->rows_capacity = 0;
    a->n_pairs = a->n_scratch = 0;
    a->has_failed = a->is_full = false;
    a->work = 0;
    if (a->pair_buckets)
        (void)memset(a->pair_buckets, 0, a->pairs_capacity * sizeof(*a->pair_buckets));
    rehash(a, 256);
    (void)intern(a, NULL, 0, false); /* STATE_NOTHING */
    (void)intern(a, NULL, 0, true);  /* STATE_AT_END */
}

/* The sets of the old tables that are wanted in the new ones; what is below a set has a lower
 * number. */
static void copy_sets(Automaton *a, const struct stacks *old, const struct top *tops, uint32_t n,
                      const uint8_t *wanted, uint32_t *new_of) {
    for (uint32_t i = 0; i < n && !a->has_failed; i++) {
        if (!wanted[i])
            continue;
        a->work = 0;
        for (uint32_t k = 0; k < old[i].n; k++)
            push_scratch(a, tops[old[i].first + k].node, new_of[tops[old[i].first + k].below]);
        new_of[i] = unite(a, 0, old[i].has_empty);
    }
}

static void mark_wanted(const Automaton *a, uint8_t *wanted) {
    list_for_each (node, &a->cursors) {
        uint32_t state = container_of(node, struct cursor, node)->state;

        if (state != STATE_UNKNOWN)
            wanted[state] = 1;
    }
    for (uint32_t i = a->n_stacks; i-- > 0;)
        for (uint32_t k = 0; wanted[i] && k < a->stacks[i].n; k++)
            wanted[a->tops[a->stacks[i].first + k].below] = 1;
}

/* Forgets all but the states of the cursors; where even that fails these are lost. */
static void forget(Automaton *a) {
    CLEANUP(freep) uint32_t *new_of = alloc_array((size_t)a->n_stacks + 1, sizeof(*new_of));
    CLEANUP(freep) uint8_t *wanted = alloc_array((size_t)a->n_stacks + 1, 1);
    CLEANUP(freep) struct stacks *old = NULL;
    CLEANUP(freep) struct top *tops = NULL;
    uint32_t n = a->n_stacks;

    if (wanted)
        mark_wanted(a, wanted);
    old = take_ptr(a->stacks);
    tops = take_ptr(a->tops);
    a->n_bytes_in_use = AUTOMATON_BYTES_MAX;
    make_empty(a);
    if (new_of && wanted)
        copy_sets(a, old, tops, n, wanted, new_of);
    a->has_failed |= !new_of || !wanted;
    a->is_full = a->has_failed;
    a->n_bytes_in_use = MIN(n_bytes(a), (size_t)AUTOMATON_BYTES_MAX);
    list_for_each (node, &a->cursors) {
        struct cursor *c = container_of(node, struct cursor, node);

        if (c->state != STATE_UNKNOWN)
            c->state = a->has_failed ? STATE_NOTHING : new_of[c->state];
    }
}

/* ---- following ---- */

bool automaton_ask(Automaton *a) {
    a->has_failed = false;
    if (a->is_full)
        forget(a);
    a->work = 0;
    return !a->has_failed;
}

uint32_t automaton_begin(Automaton *a, struct cursor *c) {
    uint32_t state = STATE_NOTHING;

    if (c->state != STATE_UNKNOWN)
        return c->state;
    for (int attempt = 0; attempt < 2 && automaton_ask(a); attempt++) {
        visit(a, a->network->rules[a->network->root], STATE_AT_END);
        state = close_over(a);
        if (!a->is_full)
            break;
    }
    c->state = a->has_failed ? STATE_NOTHING : state;
    return c->state;
}

bool automaton_follow(Automaton *a, struct cursor *c, const uint8_t *bytes, size_t n) {
    uint32_t state = automaton_begin(a, c);

    for (int attempt = 0; attempt < 2 && automaton_ask(a); attempt++) {
        state = c->state;
        for (size_t i = 0; i < n && state != STATE_NOTHING; i++)
            state = automaton_step(a, state, bytes[i]);
        if (!a->is_full)
            break;
    }
    c->state = a->has_failed ? STATE_NOTHING : state;
    return c->state != STATE_NOTHING;
}

/* ---- the object ---- */

int automaton_new(Automaton **ret, GkConstraint *constraint, const TokenTable *table,
                  struct mask_budget *budget) {
    CLEANUP(automaton_freep) Automaton *a = alloc_new(Automaton);

    if (!a)
        return error_origin(-ENOMEM);
    list_init(&a->node);
    list_init(&a->cursors);
    (void)pthread_mutex_init(&a->lock, NULL);
    a->constraint = gk_constraint_ref(constraint);
    a->network = &constraint->network;
    a->table = table;
    a->budget = budget;
    a->trail = alloc_array(table->n_bytes_max + 1, sizeof(*a->trail));
    make_empty(a);
    if (!a->trail || a->has_failed)
        return error_origin(-ENOMEM);
    *ret = take_ptr(a);
    return 0;
}

Automaton *automaton_free(Automaton *a) {
    if (!a)
        return NULL;
    assert(list_is_empty(&a->cursors));
    for (size_t i = 0; i < a->n_masks; i++)
        free(a->masks[i].bits);
    (void)atomic_fetch_sub(&a->budget->n, a->n_masks);
    free(a->stacks);
    free(a->tops);
    free(a->rows);
    free(a->buckets);
    free(a->pairs);
    free(a->pair_buckets);
    free(a->scratch);
    free(a->trail);
    (void)gk_constraint_unref(a->constraint);
    (void)pthread_mutex_destroy(&a->lock);
    list_unlink(&a->node);
    free(a);
    return NULL;
}

size_t automaton_bytes(const Automaton *a) {
    return sizeof(*a) + n_bytes(a) + a->pairs_capacity * (sizeof(*a->pairs) + sizeof(uint32_t)) +
           a->scratch_capacity * sizeof(*a->scratch) +
           a->n_masks * a->table->n_words * sizeof(uint64_t);
}
