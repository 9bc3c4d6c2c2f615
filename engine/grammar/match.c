/* See match.h. */
#include "engine/grammar/match.h"

#include "base/alloc.h"

/* Owner: GkSeq. Thread: worker; in a step, the member that samples its row. */
struct Matcher {
    AutomatonCache *cache;
    Automaton *automaton;
    struct cursor cursor;
    struct matcher_options options;
    uint64_t *bits; // (table->n_words)
};

int matcher_new(Matcher **ret, AutomatonCache *cache, struct GkConstraint *constraint,
                const struct matcher_options *options) {
    CLEANUP(matcher_freep) Matcher *m = alloc_new(Matcher);
    int r;

    if (!m)
        return error_origin(-ENOMEM);
    m->cache = cache;
    m->options = *options;
    m->cursor.state = STATE_UNKNOWN;
    list_init(&m->cursor.node);
    if ((r = automaton_cache_get(cache, constraint, &m->automaton)) != 0)
        return r;
    m->bits = alloc_array(cache->table.n_words, sizeof(*m->bits));
    if (!m->bits)
        return error_origin(-ENOMEM);
    list_push_back(&m->automaton->cursors, &m->cursor.node);
    *ret = take_ptr(m);
    return 0;
}

Matcher *matcher_free(Matcher *m) {
    if (!m)
        return NULL;
    list_unlink(&m->cursor.node);
    if (m->automaton)
        automaton_cache_put(m->cache, m->automaton);
    free(m->bits);
    free(m);
    return NULL;
}

bool matcher_push(Matcher *m, const void *bytes, size_t n) {
    Automaton *a = m->automaton;
    bool is_possible;

    (void)pthread_mutex_lock(&a->lock);
    is_possible = automaton_follow(a, &m->cursor, bytes, n);
    (void)pthread_mutex_unlock(&a->lock);
    return is_possible;
}

struct ending {
    bool may_end, must_end;
};

/* Under the lock. */
static struct ending ending_of(Matcher *m) {
    uint32_t state = automaton_begin(m->automaton, &m->cursor);
    const struct stacks *s;

    if (state == STATE_NOTHING)
        return (struct ending){.may_end = false};
    s = &m->automaton->stacks[state];
    return (struct ending){.may_end = s->has_empty, .must_end = s->has_empty && s->n == 0};
}

static struct ending ask_ending(Matcher *m) {
    struct ending e;

    (void)pthread_mutex_lock(&m->automaton->lock);
    e = ending_of(m);
    (void)pthread_mutex_unlock(&m->automaton->lock);
    return e;
}

bool matcher_is_accepting(Matcher *m) {
    return ask_ending(m).may_end;
}

bool matcher_is_complete(Matcher *m) {
    return ask_ending(m).must_end;
}

const uint64_t *matcher_mask(Matcher *m) {
    const TokenTable *t = &m->cache->table;
    bool is_known, may_end;

    (void)pthread_mutex_lock(&m->automaton->lock);
    is_known = automaton_mask(m->automaton, &m->cursor, m->bits);
    may_end = ending_of(m).may_end;
    (void)pthread_mutex_unlock(&m->automaton->lock);
    if (!is_known)
        return NULL;
    for (size_t i = 0; i < t->n_words; i++) {
        m->bits[i] &= ~t->ends[i];
        if (may_end && !m->options.ignore_ends)
            m->bits[i] |= t->ends[i];
    }
    for (size_t i = 0; i < m->options.n_stop_tokens; i++)
        token_set(m->bits, (uint32_t)m->options.stop_tokens[i], may_end);
    return m->bits;
}
