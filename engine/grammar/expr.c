/* See expr.h. */
#include "engine/grammar/expr.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <string.h>

#define SURROGATE_FIRST 0xd800u
#define SURROGATE_LAST  0xdfffu
#define SETS_COMPARED   64u /* expressions looked back at for an equal set */

/* ---- the arena ---- */

static Expr fail(Exprs *x, int r, const char *sentence) {
    if (x->result == 0)
        x->result = error_set(&x->error, r, "%s", sentence);
    return EXPR_EMPTY;
}

/* Makes room for n more elements of the array whose address is given; false: the failure is noted.
 */
static bool reserve(Exprs *x, void *array, uint32_t *capacity, uint32_t n_used, size_t n,
                    uint32_t n_max, size_t size, const char *sentence) {
    uint32_t wanted;
    void *p;

    if (x->result != 0)
        return false;
    if (n > n_max - n_used) {
        (void)fail(x, GK_E_INVALID, sentence);
        return false;
    }
    if (n_used + n <= *capacity)
        return true;
    wanted = MIN(2 * (n_used + (uint32_t)n) + 64, n_max);
    (void)memcpy(&p, array, sizeof(p));
    p = alloc_resize(p, wanted * size);
    if (!p) {
        (void)fail(x, -ENOMEM, "out of memory");
        return false;
    }
    (void)memcpy(array, &p, sizeof(p));
    *capacity = wanted;
    return true;
}

static Expr add(Exprs *x, enum expr_type type, uint32_t a, uint32_t b, uint32_t c) {
    if (!reserve(x, &x->exprs, &x->capacity, x->n, 1, EXPRS_MAX, sizeof(*x->exprs),
                 "the constraint has too many parts"))
        return EXPR_EMPTY;
    x->exprs[x->n] = (struct expr){.type = type, .a = a, .b = b, .c = c};
    return x->n++;
}

int exprs_init(Exprs *x) {
    *x = (Exprs){.n = 0};
    (void)add(x, EXPR_TEXT, 0, 0, 0);
    (void)add(x, EXPR_CHARS, 0, 0, 0);
    return x->result;
}

void exprs_deinit(Exprs *x) {
    free(x->exprs);
    free(x->ranges);
    free(x->bytes);
    free(x->rules);
    *x = (Exprs){.n = 0};
}

int exprs_check(const Exprs *x, Error *reterr) {
    return x->result == 0 ? 0 : error_set(reterr, x->result, "%s", x->error.text);
}

/* ---- expressions ---- */

Expr expr_text(Exprs *x, const void *bytes, size_t n) {
    if (n == 0 || !reserve(x, &x->bytes, &x->bytes_capacity, x->n_bytes, n, EXPR_BYTES_MAX, 1,
                           "the constraint's literals are too long"))
        return EXPR_EMPTY;
    (void)memcpy(x->bytes + x->n_bytes, bytes, n);
    x->n_bytes += (uint32_t)n;
    return add(x, EXPR_TEXT, x->n_bytes - (uint32_t)n, (uint32_t)n, 0);
}

Expr expr_string(Exprs *x, const char *text) {
    return expr_text(x, text, strlen(text));
}

Expr expr_seq(Exprs *x, Expr a, Expr b) {
    if (a == EXPR_EMPTY || b == EXPR_NOTHING)
        return b;
    if (b == EXPR_EMPTY || a == EXPR_NOTHING)
        return a;
    return add(x, EXPR_SEQ, a, b, 0);
}

Expr expr_alt(Exprs *x, Expr a, Expr b) {
    if (a == EXPR_NOTHING || a == b)
        return b;
    return b == EXPR_NOTHING ? a : add(x, EXPR_ALT, a, b, 0);
}

Expr expr_repeat(Exprs *x, Expr a, uint32_t min, uint32_t max) {
    if (a == EXPR_EMPTY || max == 0)
        return EXPR_EMPTY;
    if (a == EXPR_NOTHING)
        return min == 0 ? EXPR_EMPTY : EXPR_NOTHING;
    if (min == 1 && max == 1)
        return a;
    return add(x, EXPR_REPEAT, a, min, max);
}

Expr expr_optional(Exprs *x, Expr a) {
    return expr_repeat(x, a, 0, 1);
}

/* ---- rules ---- */

Expr expr_call(Exprs *x, uint32_t rule) {
    return add(x, EXPR_CALL, rule, 0, 0);
}

uint32_t expr_rule_new(Exprs *x, const char *name, size_t n_name) {
    if (!reserve(x, &x->rules, &x->rules_capacity, x->n_rules, 1, EXPR_RULES_MAX, sizeof(*x->rules),
                 "the constraint has too many rules"))
        return 0;
    x->rules[x->n_rules] = (struct expr_rule){.body = EXPR_NOTHING, .name = name, .n_name = n_name};
    return x->n_rules++;
}

void expr_rule_define(Exprs *x, uint32_t rule, Expr body) {
    if (x->result != 0)
        return;
    x->rules[rule].body = body;
    x->rules[rule].is_defined = true;
}

Expr expr_shared(Exprs *x, Expr a) {
    uint32_t rule;

    if (x->result != 0 || a <= EXPR_NOTHING || x->exprs[a].type == EXPR_CALL ||
        x->exprs[a].type == EXPR_CHARS)
        return a;
    rule = expr_rule_new(x, "", 0);
    expr_rule_define(x, rule, a);
    return expr_call(x, rule);
}

/* ---- sets of characters ---- */

void charset_deinit(CharSet *s) {
    free(s->ranges);
    *s = (CharSet){.n = 0};
}

void charset_add(CharSet *s, uint32_t low, uint32_t high) {
    if (s->n == s->capacity) {
        size_t capacity = 2 * s->capacity + 8;
        void *p = alloc_resize(s->ranges, capacity * sizeof(*s->ranges));

        if (!p) {
            s->has_failed = true;
            return;
        }
        s->ranges = p;
        s->capacity = capacity;
    }
    s->ranges[s->n++] = (struct char_range){low, high};
}

void charset_add_set(CharSet *s, const CharSet *other) {
    for (size_t i = 0; i < other->n; i++)
        charset_add(s, other->ranges[i].low, other->ranges[i].high);
    s->has_failed |= other->has_failed;
}

static int by_low(const void *a, const void *b) {
    const struct char_range *x = a, *y = b;

    return x->low < y->low ? -1 : x->low > y->low;
}

void charset_normalize(CharSet *s) {
    size_t n = 0;

    if (s->n == 0)
        return;
    qsort(s->ranges, s->n, sizeof(*s->ranges), by_low);
    for (size_t i = 1; i < s->n; i++) {
        if (s->ranges[i].low <= s->ranges[n].high + 1)
            s->ranges[n].high = MAX(s->ranges[n].high, s->ranges[i].high);
        else
            s->ranges[++n] = s->ranges[i];
    }
    s->n = n + 1;
}

void charset_negate(CharSet *s) {
    CharSet old = *s;
    uint32_t next = 0;

    charset_normalize(&old);
    *s = (CharSet){.has_failed = old.has_failed};
    for (size_t i = 0; i < old.n; i++) {
        if (old.ranges[i].low > next)
            charset_add(s, next, old.ranges[i].low - 1);
        next = old.ranges[i].high + 1;
    }
    if (next <= CHAR_MAX_CODE)
        charset_add(s, next, CHAR_MAX_CODE);
    charset_deinit(&old);
}

bool charset_has(const CharSet *s, uint32_t code) {
    for (size_t i = 0; i < s->n; i++)
        if (s->ranges[i].low <= code && code <= s->ranges[i].high)
            return true;
    return false;
}

static void remove_surrogates(CharSet *s) {
    size_t n = s->n;

    for (size_t i = 0; i < n; i++) {
        struct char_range *r = &s->ranges[i];

        if (r->high < SURROGATE_FIRST || r->low > SURROGATE_LAST)
            continue;
        if (r->low < SURROGATE_FIRST && r->high > SURROGATE_LAST) {
            uint32_t high = r->high;

            r->high = SURROGATE_FIRST - 1;
            charset_add(s, SURROGATE_LAST + 1, high); /* moves r */
        } else if (r->low < SURROGATE_FIRST) {
            r->high = SURROGATE_FIRST - 1;
        } else if (r->high > SURROGATE_LAST) {
            r->low = SURROGATE_LAST + 1;
        } else {
            *r = s->ranges[--s->n];
            n = MIN(n, s->n);
            i--;
        }
    }
    charset_normalize(s);
}

/* The same set made a moment ago: shared, so that the network has it once. */
static Expr find_chars(const Exprs *x, const CharSet *s) {
    for (uint32_t i = x->n; i-- > 2 && x->n - i <= SETS_COMPARED;) {
        const struct expr *e = &x->exprs[i];

        if (e->type == EXPR_CHARS && e->b == s->n &&
            memcmp(&x->ranges[e->a], s->ranges, s->n * sizeof(*s->ranges)) == 0)
            return i;
    }
    return EXPR_NOTHING;
}

Expr expr_chars(Exprs *x, CharSet *s) {
    Expr found;

    charset_normalize(s);
    remove_surrogates(s);
    if (s->has_failed)
        return fail(x, -ENOMEM, "out of memory");
    if (s->n == 0)
        return EXPR_NOTHING;
    found = find_chars(x, s);
    if (found != EXPR_NOTHING)
        return found;
    if (!reserve(x, &x->ranges, &x->ranges_capacity, x->n_ranges, s->n, EXPR_RANGES_MAX,
                 sizeof(*x->ranges), "the constraint's character sets are too large"))
        return EXPR_EMPTY;
    (void)memcpy(x->ranges + x->n_ranges, s->ranges, s->n * sizeof(*s->ranges));
    x->n_ranges += (uint32_t)s->n;
    return add(x, EXPR_CHARS, x->n_ranges - (uint32_t)s->n, (uint32_t)s->n, 0);
}

Expr expr_range(Exprs *x, uint32_t low, uint32_t high) {
    CharSet s = {.n = 0};
    Expr e;

    charset_add(&s, low, high);
    e = expr_chars(x, &s);
    charset_deinit(&s);
    return e;
}
