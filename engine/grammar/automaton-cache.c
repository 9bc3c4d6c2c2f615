/* See automaton-cache.h. */
#include "engine/grammar/automaton-cache.h"

#include "engine/grammar/grammar.h"

void automaton_cache_init(AutomatonCache *c, const Vocab *vocab,
                          bool (*is_end)(const void *, int32_t), const void *userdata) {
    *c = (AutomatonCache){.vocab = vocab, .is_end = is_end, .userdata = userdata};
    list_init(&c->automata);
    c->budget.n_max = AUTOMATA_MASK_BYTES_MAX / (((size_t)vocab->n + 63) / 64 * 8);
}

void automaton_cache_deinit(AutomatonCache *c) {
    if (!c->vocab)
        return;
    list_for_each_safe (node, &c->automata) {
        Automaton *a = container_of(node, Automaton, node);

        assert(a->n_users == 0);
        (void)automaton_free(a);
    }
    token_table_deinit(&c->table);
    *c = (AutomatonCache){.vocab = NULL};
}

static Automaton *find(AutomatonCache *c, const GkConstraint *constraint) {
    list_for_each (node, &c->automata) {
        Automaton *a = container_of(node, Automaton, node);

        if (a->constraint == constraint)
            return a;
    }
    return NULL;
}

int automaton_cache_get(AutomatonCache *c, GkConstraint *constraint, Automaton **ret) {
    Automaton *a = find(c, constraint);
    int r;

    if (!c->table.ends && (r = token_table_init(&c->table, c->vocab, c->is_end, c->userdata)) != 0)
        return r;
    if (!a && (r = automaton_new(&a, constraint, &c->table, &c->budget)) != 0)
        return r;
    list_unlink(&a->node);
    list_push_front(&c->automata, &a->node);
    a->n_users++;
    *ret = a;
    return 0;
}

void automaton_cache_put(AutomatonCache *c, Automaton *a) {
    size_t n = 0, n_bytes = 0;

    assert(a->n_users > 0);
    a->n_users--;
    list_unlink(&a->node);
    list_push_front(&c->automata, &a->node);
    list_for_each_safe (node, &c->automata) {
        Automaton *idle = container_of(node, Automaton, node);

        if (idle->n_users > 0)
            continue;
        n_bytes += automaton_bytes(idle) + gk_constraint_bytes(idle->constraint);
        if (++n > AUTOMATA_IDLE_MAX || n_bytes > AUTOMATA_IDLE_BYTES_MAX)
            (void)automaton_free(idle);
    }
}
