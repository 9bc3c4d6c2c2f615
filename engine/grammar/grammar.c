/* A constraint from its source: see grammar.h. */
#include "engine/grammar/grammar.h"

#include "base/alloc.h"
#include "base/utf8.h"

static int parse(Exprs *x, enum gk_constraint_kind kind, const char *source, size_t n, Expr *ret,
                 Error *reterr) {
    switch (kind) {
    case GK_CONSTRAINT_JSON_SCHEMA:
        return schema_parse(x, source, n, ret, reterr);
    case GK_CONSTRAINT_REGEX:
        return regex_parse(x, source, n, REGEX_WHOLE, ret, reterr);
    case GK_CONSTRAINT_GRAMMAR:
        return gbnf_parse(x, source, n, ret, reterr);
    }
    return error_set(reterr, GK_E_INVALID, "a constraint of unknown kind %d", (int)kind);
}

static int compile(Network *w, enum gk_constraint_kind kind, const char *source, size_t n,
                   Error *reterr) {
    Expr whole = EXPR_NOTHING;
    uint32_t root = 0;
    Exprs x;
    int r;

    (void)exprs_init(&x);
    r = parse(&x, kind, source, n, &whole, reterr);
    if (r == 0) {
        root = expr_rule_new(&x, "", 0);
        expr_rule_define(&x, root, whole);
        r = exprs_check(&x, reterr);
    }
    if (r == 0)
        r = network_init(w, &x, root, reterr);
    exprs_deinit(&x);
    return r;
}

static size_t valid_bytes(const char *text, size_t n) {
    size_t at = 0, length;
    uint32_t code;

    while (at < n && (length = utf8_decode(text + at, n - at, &code)) > 0)
        at += length;
    return at;
}

int gk_constraint_new(GkConstraint **ret, enum gk_constraint_kind kind, const char *source,
                      size_t n, Error *reterr) {
    CLEANUP(gk_constraint_unrefp) GkConstraint *c = NULL;
    size_t n_valid;
    int r;

    if (n > GK_CONSTRAINT_BYTES_MAX)
        return error_set(reterr, GK_E_INVALID, "the constraint has %zu bytes, more than %d", n,
                         GK_CONSTRAINT_BYTES_MAX);
    n_valid = valid_bytes(source, n);
    if (n_valid < n)
        return error_set(reterr, GK_E_INVALID, "the constraint at byte %zu is not UTF-8", n_valid);
    c = alloc_new(GkConstraint);
    if (!c)
        return error_set(reterr, -ENOMEM, "out of memory");
    atomic_init(&c->n_refs, 1);
    r = compile(&c->network, kind, source, n, reterr);
    if (r != 0)
        return r;
    *ret = take_ptr(c);
    return 0;
}

size_t gk_constraint_bytes(const GkConstraint *c) {
    const Network *w = &c->network;

    return sizeof(*c) + w->n_nodes * (sizeof(*w->nodes) + sizeof(*w->heights)) +
           w->n_rules * sizeof(*w->rules) + w->n_sets * sizeof(*w->sets);
}

GkConstraint *gk_constraint_ref(GkConstraint *c) {
    (void)atomic_fetch_add(&c->n_refs, 1);
    return c;
}

GkConstraint *gk_constraint_unref(GkConstraint *c) {
    if (c && atomic_fetch_sub(&c->n_refs, 1) == 1) {
        network_deinit(&c->network);
        free(c);
    }
    return NULL;
}
