/*
 * See match.h.
 *
 * A state is the set of all stacks that the network can be in after the text so far: the node that
 * takes the next byte on top, below it the nodes to return to. A set of stacks is kept as a tree
 * from the top down, in which what is equal is one: for each top node, once, the set of what may
 * lie below it. Sets are numbered so that equal sets have equal numbers (as in hash consing): a
 * state is a number, its transitions are a row of numbers, and a mask belongs to a number. Finite
 * parts of a constraint thus become an ordinary deterministic automaton as far as the text goes
 * there, and recursion costs a few nodes a level.
 *
 * Rejected: stacks one by one, as llama.cpp has them (ambiguous grammars multiply them), and an
 * Earley chart (its states name positions of the text, so none ever comes back and no mask can be
 * kept).
 *
 * A mask is one walk over the vocabulary in the order of its bytes: a token goes on from where it
 * parts from the one before it, and what no text allows is passed over with all that begins so.
 *
 * Where a maximum is reached everything is forgotten but the present state, and the question is
 * asked once more: so the answer does not depend on what was kept before.
 */
#include "engine/grammar/match.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <string.h>

#define NOT_KNOWN   UINT32_MAX
#define NO_STACKS   0u /* the empty set: no text goes on from here */
#define EMPTY_STACK 1u /* the set of the one empty stack: the root's end */
#define MASK_SLOTS  256
#define PAIRS_MAX   (1u << 16) /* of a node and what is below it, in one step */

/* One node on top, and the set of what may lie below it. */
struct top {
    uint32_t node, below;
};

struct stacks {
    uint32_t first, n; /* in tops, by node */
    uint32_t next;     /* with the same hash */
    uint32_t row;      /* in rows; NOT_KNOWN: none yet */
    uint16_t depth;    /* of the deepest stack */
    bool has_empty;    /* the empty stack is one of them */
};

struct mask {
    uint32_t state; /* NOT_KNOWN: none */
    uint64_t used;
    uint64_t *bits; /* (n_words) */
};

struct pair {
    uint32_t node, below, next; /* next + 1 with the same hash */
};

/* Owner: GkSeq. Thread: worker; in a step, the member that samples its row. */
struct Matcher {
    const Network *network;
    const TokenTable *table;
    struct matcher_options options;
    uint32_t state;
    size_t n_words;
    /* what is known of states */
    struct stacks *stacks;
    struct top *tops;
    uint32_t *rows;    // (n_rows, n_classes)
    uint32_t *buckets; // (n_buckets) a power of two; stacks + 1
    uint32_t n_stacks, n_tops, n_rows, n_buckets;
    uint32_t stacks_capacity, tops_capacity, rows_capacity;
    struct mask masks[MASK_SLOTS];
    size_t n_masks;
    uint64_t clock;
    /* of the question under way */
    uint64_t work;
    bool has_failed;        /* a maximum was reached */
    struct pair *pairs;     // (PAIRS_MAX) at most, seen in this step
    uint32_t *pair_buckets; // (pairs_capacity)
    uint32_t n_pairs, pairs_capacity;
    struct top *scratch; /* a stack of tops to be put together */
    uint32_t n_scratch, scratch_capacity;
    uint32_t *trail; // (n_surface_max + 1) states after each byte of a token
};

/* ---- memory ---- */

static size_t n_bytes(const Matcher *m) {
    return m->stacks_capacity * sizeof(*m->stacks) + m->tops_capacity * sizeof(*m->tops) +
           (size_t)m->rows_capacity * m->network->n_classes * sizeof(uint32_t) +
           m->n_buckets * sizeof(uint32_t);
}

/* Room for n more; what is kept between questions counts against the maximum. */
static bool reserve(Matcher *m, void *array, uint32_t *capacity, uint32_t n_used, uint32_t n,
                    size_t size, bool is_kept) {
    size_t wanted = 2 * ((size_t)n_used + n) + 32;
    void *p;

    if (m->has_failed)
        return false;
    if ((size_t)n_used + n <= *capacity)
        return true;
    (void)memcpy(&p, array, sizeof(p));
    if ((is_kept && n_bytes(m) + (wanted - *capacity) * size > MATCHER_BYTES_MAX) ||
        wanted > UINT32_MAX / 2 || !(p = alloc_resize(p, wanted * size))) {
        m->has_failed = true;
        return false;
    }
    (void)memcpy(array, &p, sizeof(p));
    *capacity = (uint32_t)wanted;
    return true;
}

static bool spend(Matcher *m, uint64_t n) {
    m->work += n;
    m->has_failed |= m->work > MATCHER_WORK_MAX;
    return !m->has_failed;
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

static void rehash(Matcher *m, uint32_t n_buckets) {
    uint32_t *buckets = alloc_array(n_buckets, sizeof(*buckets));

    if (!buckets) {
        m->has_failed = true;
        return;
    }
    free(m->buckets);
    m->buckets = buckets;
    m->n_buckets = n_buckets;
    for (uint32_t i = 0; i < m->n_stacks; i++) {
        struct stacks *s = &m->stacks[i];
        const struct top *tops = s->n > 0 ? m->tops + s->first : NULL;
        uint32_t *bucket = &buckets[hash_tops(tops, s->n, s->has_empty) & (n_buckets - 1)];

        s->next = *bucket;
        *bucket = i + 1;
    }
}

/* The number of this set; tops are sorted by node, each node once. They may lie in m->scratch. */
static uint32_t intern(Matcher *m, const struct top *tops, uint32_t n, bool has_empty) {
    uint32_t hash = hash_tops(tops, n, has_empty), *bucket;
    struct stacks set = {.n = n, .row = NOT_KNOWN, .has_empty = has_empty};

    if (!spend(m, 1 + n))
        return NO_STACKS;
    for (uint32_t i = m->buckets[hash & (m->n_buckets - 1)]; i != 0; i = m->stacks[i - 1].next) {
        const struct stacks *s = &m->stacks[i - 1];

        assert(m->stacks);
        if (s->n != n || s->has_empty != has_empty)
            continue;
        if (n == 0)
            return i - 1;
        assert(m->tops && tops); /* both have n of them */
        if (memcmp(m->tops + s->first, tops, n * sizeof(*tops)) == 0)
            return i - 1;
    }
    if (!reserve(m, &m->stacks, &m->stacks_capacity, m->n_stacks, 1, sizeof(*m->stacks), true) ||
        !reserve(m, &m->tops, &m->tops_capacity, m->n_tops, n, sizeof(*m->tops), true))
        return NO_STACKS;
    if (m->n_stacks >= m->n_buckets)
        rehash(m, 2 * m->n_buckets);
    for (uint32_t i = 0; i < n; i++)
        if (m->stacks[tops[i].below].depth >= set.depth)
            set.depth = (uint16_t)(m->stacks[tops[i].below].depth + 1);
    set.first = m->n_tops;
    if (n > 0)
        (void)memcpy(m->tops + m->n_tops, tops, n * sizeof(*tops));
    m->n_tops += n;
    bucket = &m->buckets[hash & (m->n_buckets - 1)];
    set.next = *bucket;
    *bucket = m->n_stacks + 1;
    m->stacks[m->n_stacks] = set;
    return m->n_stacks++;
}

static int by_node(const void *a, const void *b) {
    const struct top *x = a, *y = b;

    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->below < y->below ? -1 : x->below > y->below;
}

static void push_scratch(Matcher *m, uint32_t node, uint32_t below) {
    if (reserve(m, &m->scratch, &m->scratch_capacity, m->n_scratch, 1, sizeof(*m->scratch), false))
        m->scratch[m->n_scratch++] = (struct top){node, below};
}

static uint32_t unite(Matcher *m, uint32_t begin, bool has_empty);

/* The union of the sets below the tops [from, to) of the scratch. */
static uint32_t unite_below(Matcher *m, uint32_t from, uint32_t to) {
    uint32_t begin = m->n_scratch;
    bool has_empty = false;

    for (uint32_t i = from; i < to && !m->has_failed; i++) {
        const struct stacks *s = &m->stacks[m->scratch[i].below];

        has_empty |= s->has_empty;
        if (!spend(m, s->n))
            break;
        assert(s->n == 0 || m->tops);
        for (uint32_t k = 0; k < s->n; k++)
            push_scratch(m, m->tops[s->first + k].node, m->tops[s->first + k].below);
    }
    return unite(m, begin, has_empty);
}

/* The set of what lies in the scratch from `begin` on, which is then taken off. */
static uint32_t unite(Matcher *m, uint32_t begin, bool has_empty) {
    uint32_t end = m->n_scratch, n = begin, set;

    if (end - begin > 1)
        qsort(m->scratch + begin, end - begin, sizeof(*m->scratch), by_node);
    for (uint32_t i = begin, k; i < end && spend(m, 1); i = k) {
        uint32_t n_different = 1;
        struct top top;

        assert(m->scratch);
        top = m->scratch[i];
        for (k = i + 1; k < end && m->scratch[k].node == top.node; k++)
            if (m->scratch[k].below != m->scratch[k - 1].below)
                n_different++;
        if (n_different > 1)
            top.below = unite_below(m, i, k);
        m->scratch[n++] = top;
    }
    set = intern(m, n > begin ? m->scratch + begin : NULL, n - begin, has_empty);
    m->n_scratch = begin;
    return set;
}

/* ---- one byte ---- */

/* Notes that the node is reached with this below it, unless it was before. */
static void visit(Matcher *m, uint32_t node, uint32_t below) {
    const Network *w = m->network;
    uint32_t *bucket;

    if (w->heights[node] == NODE_HOPELESS ||
        m->stacks[below].depth + w->heights[node] > NETWORK_DEPTH_MAX)
        return;
    if (!spend(m, 2))
        return;
    if (m->n_pairs == m->pairs_capacity) {
        uint32_t n = m->pairs_capacity ? 2 * m->pairs_capacity : 64;
        uint32_t capacity = m->pairs_capacity, *buckets;

        if (n > PAIRS_MAX || !(buckets = alloc_array(n, sizeof(*buckets)))) {
            m->has_failed = true;
            return;
        }
        free(m->pair_buckets);
        m->pair_buckets = buckets;
        if (!reserve(m, &m->pairs, &capacity, n - 1, 1, sizeof(*m->pairs), false))
            return;
        m->pairs_capacity = n;
        for (uint32_t i = 0; i < m->n_pairs; i++) {
            struct top key = {m->pairs[i].node, m->pairs[i].below};

            bucket = &buckets[hash_tops(&key, 1, false) & (n - 1)];
            m->pairs[i].next = *bucket;
            *bucket = i + 1;
        }
    }
    bucket =
        &m->pair_buckets[hash_tops(&(struct top){node, below}, 1, false) & (m->pairs_capacity - 1)];
    for (uint32_t i = *bucket; i != 0; i = m->pairs[i - 1].next)
        if (m->pairs[i - 1].node == node && m->pairs[i - 1].below == below)
            return;
    m->pairs[m->n_pairs] = (struct pair){.node = node, .below = below, .next = *bucket};
    *bucket = ++m->n_pairs;
}

static void visit_call(Matcher *m, const struct node *call, uint32_t below) {
    const Network *w = m->network;
    struct top frame = {call->out, below};

    if (call->out != 0) { /* in last place it needs no return */
        if (w->heights[call->out] == NODE_HOPELESS ||
            m->stacks[below].depth + w->heights[call->out] > NETWORK_DEPTH_MAX)
            return;
        below = intern(m, &frame, 1, false);
    }
    if (!m->has_failed)
        visit(m, w->rules[call->a], below);
}

/* From the pairs visited so far to all that are reached without a byte: the state they make. */
static uint32_t close_over(Matcher *m) {
    const struct node *nodes = m->network->nodes;
    bool has_empty = false;
    uint32_t state;

    for (uint32_t i = 0; i < m->n_pairs && !m->has_failed; i++) {
        struct pair p = m->pairs[i];
        const struct node *node = &nodes[p.node];

        switch (node->type) {
        case NODE_BYTES:
            push_scratch(m, p.node, p.below);
            break;
        case NODE_SPLIT:
            visit(m, node->out, p.below);
            visit(m, node->a, p.below);
            break;
        case NODE_CALL:
            visit_call(m, node, p.below);
            break;
        case NODE_END:
            has_empty |= m->stacks[p.below].has_empty;
            for (uint32_t k = 0; k < m->stacks[p.below].n && !m->has_failed; k++) {
                struct top top = m->tops[m->stacks[p.below].first + k];

                visit(m, top.node, top.below);
            }
            break;
        }
    }
    state = unite(m, 0, has_empty);
    if (m->n_pairs > 0)
        (void)memset(m->pair_buckets, 0, m->pairs_capacity * sizeof(*m->pair_buckets));
    m->n_pairs = 0;
    m->n_scratch = 0;
    return m->has_failed ? NO_STACKS : state;
}

static uint32_t compute_step(Matcher *m, uint32_t state, uint8_t example) {
    const Network *w = m->network;

    for (uint32_t i = 0; i < m->stacks[state].n && spend(m, 1); i++) {
        struct top top = m->tops[m->stacks[state].first + i];
        const struct node *node = &w->nodes[top.node];

        if (network_takes(w, node->a, example))
            visit(m, node->out, top.below);
    }
    return close_over(m);
}

static uint32_t step(Matcher *m, uint32_t state, uint8_t byte) {
    uint32_t n_classes = m->network->n_classes, class = m->network->classes[byte], to;
    uint32_t row = m->stacks[state].row;

    if (row == NOT_KNOWN) {
        if (!reserve(m, &m->rows, &m->rows_capacity, m->n_rows, 1, n_classes * sizeof(*m->rows),
                     true))
            return NO_STACKS;
        row = m->stacks[state].row = m->n_rows++;
        (void)memset(m->rows + (size_t)row * n_classes, 0xff, n_classes * sizeof(*m->rows));
    }
    to = m->rows[(size_t)row * n_classes + class];
    if (to != NOT_KNOWN)
        return to;
    to = compute_step(m, state, m->network->examples[class]);
    if (!m->has_failed)
        m->rows[(size_t)row * n_classes + class] = to;
    return to;
}

/* ---- forgetting ---- */

static bool make_empty(Matcher *m) {
    for (size_t i = 0; i < m->n_masks; i++)
        m->masks[i].state = NOT_KNOWN;
    free(m->stacks);
    free(m->tops);
    free(m->rows);
    m->stacks = NULL;
    m->tops = NULL;
    m->rows = NULL;
    m->n_stacks = m->n_tops = m->n_rows = 0;
    m->stacks_capacity = m->tops_capacity = m->rows_capacity = 0;
    m->n_pairs = m->n_scratch = 0;
    m->work = 0;
    m->has_failed = false;
    if (m->pair_buckets)
        (void)memset(m->pair_buckets, 0, m->pairs_capacity * sizeof(*m->pair_buckets));
    rehash(m, 256);
    (void)intern(m, NULL, 0, false); /* NO_STACKS */
    (void)intern(m, NULL, 0, true);  /* EMPTY_STACK */
    return !m->has_failed;
}

/* The set `from` of the old tables in the new ones; what is below a set has a lower number. */
static bool copy_sets(Matcher *m, const struct stacks *old, const struct top *tops, uint32_t from,
                      uint32_t *new_of) {
    uint8_t *wanted = alloc_array((size_t)from + 1, 1);

    if (!wanted)
        return false;
    wanted[from] = 1;
    for (uint32_t i = from + 1; i-- > 0;)
        for (uint32_t k = 0; wanted[i] && k < old[i].n; k++)
            wanted[tops[old[i].first + k].below] = 1;
    for (uint32_t i = 0; i <= from && !m->has_failed; i++) {
        if (!wanted[i])
            continue;
        m->n_scratch = 0;
        for (uint32_t k = 0; k < old[i].n; k++)
            push_scratch(m, tops[old[i].first + k].node, new_of[tops[old[i].first + k].below]);
        new_of[i] = unite(m, 0, old[i].has_empty);
    }
    free(wanted);
    return !m->has_failed;
}

/* Forgets all but the present state. */
static bool forget(Matcher *m) {
    struct stacks *old = take_ptr(m->stacks);
    struct top *tops = take_ptr(m->tops);
    uint32_t state = m->state, *new_of = alloc_array((size_t)m->n_stacks + 1, sizeof(*new_of));
    bool is_done = new_of && make_empty(m) && copy_sets(m, old, tops, state, new_of);

    if (is_done)
        m->state = new_of[state];
    else
        m->has_failed = true;
    m->work = 0;
    free(old);
    free(tops);
    free(new_of);
    return is_done;
}

/* ---- the object ---- */

/* Before the first question, so that a sequence that is made and not run costs nothing. */
static void start(Matcher *m) {
    if (m->state != NOT_KNOWN)
        return;
    visit(m, m->network->rules[m->network->root], EMPTY_STACK);
    m->state = close_over(m);
}

int matcher_new(Matcher **ret, const Network *network, const TokenTable *table,
                const struct matcher_options *options) {
    CLEANUP(matcher_freep) Matcher *m = alloc_new(Matcher);

    if (!m)
        return error_origin(-ENOMEM);
    m->network = network;
    m->table = table;
    m->options = *options;
    m->n_words = ((size_t)table->vocab->n + 63) / 64;
    m->n_masks = MIN((size_t)MASK_SLOTS, MAX(MATCHER_MASK_BYTES_MAX / (8 * m->n_words), 1u));
    m->trail = alloc_array((size_t)table->vocab->n_surface_max + 1, sizeof(*m->trail));
    if (!m->trail || !make_empty(m))
        return error_origin(-ENOMEM);
    m->state = NOT_KNOWN;
    *ret = take_ptr(m);
    return 0;
}

Matcher *matcher_free(Matcher *m) {
    if (!m)
        return NULL;
    for (size_t i = 0; i < m->n_masks; i++)
        free(m->masks[i].bits);
    free(m->stacks);
    free(m->tops);
    free(m->rows);
    free(m->buckets);
    free(m->pairs);
    free(m->pair_buckets);
    free(m->scratch);
    free(m->trail);
    free(m);
    return NULL;
}

static bool follow(Matcher *m, const uint8_t *bytes, size_t n) {
    uint32_t state = m->state;

    m->work = 0;
    for (size_t i = 0; i < n && state != NO_STACKS; i++) {
        state = step(m, state, bytes[i]);
        m->work = 0; /* each byte has its own */
    }
    if (m->has_failed)
        return false;
    m->state = state;
    return true;
}

bool matcher_push(Matcher *m, const void *bytes, size_t n) {
    start(m);
    if (!follow(m, bytes, n) && !(forget(m) && follow(m, bytes, n)))
        m->state = NO_STACKS;
    return m->state != NO_STACKS;
}

bool matcher_is_accepting(Matcher *m) {
    start(m);
    return m->stacks[m->state].has_empty;
}

bool matcher_is_complete(Matcher *m) {
    start(m);
    return m->stacks[m->state].has_empty && m->stacks[m->state].n == 0;
}

/* ---- masks ---- */

static void set_bit(uint64_t *bits, uint32_t token, bool value) {
    uint64_t bit = 1ull << (token % 64);

    bits[token / 64] = value ? bits[token / 64] | bit : bits[token / 64] & ~bit;
}

/* Tokens that are text. */
static void walk(Matcher *m, uint64_t *bits) {
    const TokenTable *t = m->table;
    const Vocab *v = t->vocab;
    size_t n_alive = 0; /* bytes of the token before that went well: trail[n_alive] is the state */

    m->trail[0] = m->state;
    for (uint32_t i = 0; i < t->n && !m->has_failed; i++) {
        const struct piece *p = &v->pieces[t->tokens[i]];
        const uint8_t *bytes = vocab_surface(v, t->tokens[i]);
        size_t at = t->shared[i];

        /* What it shares with the one before is already impossible. */
        if (at > n_alive)
            continue;
        (void)spend(m, 1 + p->n_surface - at);
        for (n_alive = at; n_alive < p->n_surface; n_alive++) {
            uint32_t state = step(m, m->trail[n_alive], bytes[n_alive]);

            if (state == NO_STACKS)
                break;
            m->trail[n_alive + 1] = state;
        }
        if (n_alive == p->n_surface && p->n_surface > 0 && p->type != PIECE_CONTROL &&
            p->type != PIECE_UNKNOWN)
            set_bit(bits, t->tokens[i], true);
    }
}

static bool fill_mask(Matcher *m, uint64_t *bits) {
    bool may_end = matcher_is_accepting(m);

    (void)memset(bits, 0, m->n_words * sizeof(*bits));
    m->work = 0;
    walk(m, bits);
    for (size_t i = 0; i < m->n_words; i++) {
        bits[i] &= ~m->table->ends[i];
        if (may_end && !m->options.ignore_ends)
            bits[i] |= m->table->ends[i];
    }
    for (size_t i = 0; i < m->options.n_stop_tokens; i++)
        set_bit(bits, (uint32_t)m->options.stop_tokens[i], may_end);
    return !m->has_failed;
}

/* The slot of the present state, or the one used longest ago. */
static struct mask *find_mask(Matcher *m) {
    struct mask *oldest = &m->masks[0];

    for (size_t i = 0; i < m->n_masks; i++) {
        struct mask *mask = &m->masks[i];

        if (mask->bits && mask->state == m->state)
            return mask;
        if (mask->used < oldest->used)
            oldest = mask;
    }
    oldest->state = NOT_KNOWN;
    return oldest;
}

const uint64_t *matcher_mask(Matcher *m) {
    struct mask *mask;

    start(m);
    mask = find_mask(m);
    mask->used = ++m->clock;
    if (mask->state == m->state)
        return mask->bits;
    if (!mask->bits)
        mask->bits = alloc_array(m->n_words, sizeof(*mask->bits));
    if (!mask->bits || m->has_failed ||
        (!fill_mask(m, mask->bits) && !(forget(m) && fill_mask(m, mask->bits))))
        return NULL;
    mask->state = m->state;
    return mask->bits;
}

/* ---- the vocabulary ---- */

static uint16_t n_shared(const Vocab *v, uint32_t a, uint32_t b) {
    const uint8_t *x = vocab_surface(v, a), *y = vocab_surface(v, b);
    uint16_t n = v->pieces[a].n_surface, i = 0;

    if (v->pieces[b].n_surface < n)
        n = v->pieces[b].n_surface;
    while (i < n && x[i] == y[i])
        i++;
    return i;
}

int token_table_init(TokenTable *t, const Vocab *vocab, bool (*is_end)(const void *, int32_t),
                     const void *userdata) {
    *t = (TokenTable){.vocab = vocab, .tokens = vocab->by_surface, .n = vocab->n};
    t->shared = alloc_array(vocab->n, sizeof(*t->shared));
    t->ends = alloc_array(((size_t)vocab->n + 63) / 64, sizeof(*t->ends));
    if (!t->shared || !t->ends)
        return error_origin(-ENOMEM);
    for (uint32_t i = 1; i < vocab->n; i++)
        t->shared[i] = n_shared(vocab, t->tokens[i - 1], t->tokens[i]);
    for (uint32_t i = 0; i < vocab->n; i++)
        if (is_end(userdata, (int32_t)i)) {
            set_bit(t->ends, i, true);
            t->has_ends = true;
        }
    return 0;
}

void token_table_deinit(TokenTable *t) {
    free(t->shared);
    free(t->ends);
    *t = (TokenTable){.vocab = NULL};
}
