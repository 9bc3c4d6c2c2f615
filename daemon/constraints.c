/* See constraints.h. */
#include "daemon/constraints.h"

#include "base/alloc.h"

#include <string.h>

/* Owner: Constraints. */
struct kept {
    ListNode node;
    GkConstraint *constraint;
    struct constraint_source source;
};

uint64_t constraint_hash(const char *text, size_t n) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)text[i]) * 1099511628211u;
    return hash;
}

static size_t bytes_of(const struct kept *k) {
    return sizeof(*k) + k->source.n + gk_constraint_bytes(k->constraint);
}

void constraints_init(Constraints *c) {
    *c = (Constraints){.n = 0};
    list_init(&c->all);
}

static void drop(Constraints *c, struct kept *k) {
    c->n--;
    c->n_bytes -= bytes_of(k);
    list_unlink(&k->node);
    (void)gk_constraint_unref(k->constraint);
    free(k->source.text);
    free(k);
}

void constraints_deinit(Constraints *c) {
    list_for_each_safe (node, &c->all)
        drop(c, container_of(node, struct kept, node));
    assert(c->n == 0 && c->n_bytes == 0);
}

/* Those that are not the same are told by their hashes: how far their texts agree is nobody's. */
static bool is_same(const struct constraint_source *a, const struct constraint_source *b) {
    return a->hash == b->hash && a->kind == b->kind && a->n == b->n &&
           memcmp(a->text, b->text, a->n) == 0;
}

GkConstraint *constraints_find(Constraints *c, const struct constraint_source *source) {
    list_for_each (node, &c->all) {
        struct kept *k = container_of(node, struct kept, node);

        if (!is_same(&k->source, source))
            continue;
        list_unlink(node);
        list_push_front(&c->all, node);
        return gk_constraint_ref(k->constraint);
    }
    return NULL;
}

static void make_room(Constraints *c, size_t n_bytes) {
    while (c->n > 0 && (c->n == CONSTRAINTS_MAX || c->n_bytes + n_bytes > CONSTRAINTS_BYTES_MAX))
        drop(c, container_of(c->all.prev, struct kept, node));
}

GkConstraint *constraints_add(Constraints *c, struct constraint_source *source,
                              GkConstraint *constraint) {
    CLEANUP(freep) char *text = source->text;
    GkConstraint *found = constraints_find(c, source);
    struct kept *k;

    source->text = NULL;
    if (found) {
        (void)gk_constraint_unref(constraint);
        return found;
    }
    k = alloc_new(struct kept);
    if (!k)
        return constraint; /* it is not kept, that is all */
    k->constraint = gk_constraint_ref(constraint);
    k->source = *source;
    k->source.text = take_ptr(text);
    make_room(c, bytes_of(k));
    list_push_front(&c->all, &k->node);
    c->n++;
    c->n_bytes += bytes_of(k);
    if (c->n_bytes > CONSTRAINTS_BYTES_MAX)
        drop(c, k); /* it alone is too large */
    return constraint;
}
