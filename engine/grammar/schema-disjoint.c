/*
 * Whether two schemas can have a value in common, for `oneOf`.
 *
 * A schema is a list of conditions that all hold, so one pair of conditions that exclude each other
 * is enough. Only what the standard says counts: without `type` a schema is about values of every
 * type. Where nothing is found the answer is that they may.
 */
#include "engine/grammar/schema.h"

#include <math.h>
#include <string.h>

struct range {
    double low, high;
    bool excludes_low, excludes_high;
};

static bool count_comparison(Schema *s) {
    if (++s->n_compared > SCHEMA_COMPARED_MAX)
        schema_refuse(s, "'oneOf' takes more than %d comparisons", SCHEMA_COMPARED_MAX);
    return s->result == 0;
}

/* ---- constants ---- */

static bool are_equal(const json_t *a, const json_t *b) {
    const char *key;
    json_t *value;

    if (json_is_number(a) && json_is_number(b)) /* 1 is 1.0 */
        return json_number_value(a) == json_number_value(b);
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_array(a)) {
        bool is_equal = json_array_size(a) == json_array_size(b);

        for (size_t i = 0; is_equal && i < json_array_size(a); i++)
            is_equal = are_equal(json_array_get(a, i), json_array_get(b, i));
        return is_equal;
    }
    if (!json_is_object(a))
        return json_equal(a, b);
    json_object_foreach((json_t *)(uintptr_t)a, key, value) {
        const json_t *other = json_object_get(b, key);

        if (!other || !are_equal(value, other))
            return false;
    }
    return json_object_size(a) == json_object_size(b);
}

/* The i-th of `enum`, or `const`; NULL: there are fewer, or none. */
static const json_t *constant(const json_t *schema, size_t i) {
    const json_t *values = json_object_get(schema, "enum");

    return values ? json_array_get(values, i) : i == 0 ? json_object_get(schema, "const") : NULL;
}

/* ---- types ---- */

static unsigned stated_types(Schema *s, const json_t *schema) {
    unsigned types = json_object_get(schema, "type") ? schema_types(s, schema) : SCHEMA_ALL;

    return types & SCHEMA_NUMBER ? types | SCHEMA_INTEGER : types;
}

static bool constants_differ(Schema *s, const json_t *a, const json_t *b) {
    unsigned types = stated_types(s, b);
    const json_t *mine, *theirs;

    for (size_t i = 0; (mine = constant(a, i)) != NULL; i++) {
        if (!schema_has_type(mine, types))
            continue;
        if (!constant(b, 0))
            return false;
        for (size_t k = 0; (theirs = constant(b, k)) != NULL; k++)
            if (!count_comparison(s) || are_equal(mine, theirs))
                return false;
    }
    return constant(a, 0) != NULL;
}

/* ---- bounds ---- */

static void narrow(const json_t *schema, const char *key, bool is_upper, bool is_excluded,
                   struct range *r) {
    const json_t *value = json_object_get(schema, key);
    double n = json_number_value(value);

    if (!json_is_number(value))
        return;
    if (is_upper && (n < r->high || (n == r->high && is_excluded))) {
        r->high = n;
        r->excludes_high = is_excluded;
    } else if (!is_upper && (n > r->low || (n == r->low && is_excluded))) {
        r->low = n;
        r->excludes_low = is_excluded;
    }
}

static bool is_below(const struct range *a, const struct range *b) {
    return a->high < b->low || (a->high == b->low && (a->excludes_high || b->excludes_low));
}

static bool bounds_differ(const json_t *a, const json_t *b, const char *min, const char *max,
                          bool with_exclusive) {
    const json_t *schemas[] = {a, b};
    struct range ranges[] = {{-INFINITY, INFINITY, false, false},
                             {-INFINITY, INFINITY, false, false}};

    for (size_t i = 0; i < 2; i++) {
        narrow(schemas[i], min, false, false, &ranges[i]);
        narrow(schemas[i], max, true, false, &ranges[i]);
        if (with_exclusive) {
            narrow(schemas[i], "exclusiveMinimum", false, true, &ranges[i]);
            narrow(schemas[i], "exclusiveMaximum", true, true, &ranges[i]);
        }
    }
    return is_below(&ranges[0], &ranges[1]) || is_below(&ranges[1], &ranges[0]);
}

/* ---- objects ---- */

/* What the schema says of a property; NULL: nothing. */
static const json_t *property_of(const json_t *schema, const char *name) {
    const json_t *found = json_object_get(json_object_get(schema, "properties"), name);

    return found ? found : json_object_get(schema, "additionalProperties");
}

/* One of the properties that `a` requires can't be what both say. */
static bool properties_differ(Schema *s, const json_t *a, const json_t *b) {
    const json_t *required = json_object_get(a, "required");

    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        const json_t *mine = name ? property_of(a, name) : NULL;
        const json_t *theirs = name ? property_of(b, name) : NULL;

        if (json_is_false(theirs) || (mine && theirs && schema_are_disjoint(s, mine, theirs)))
            return true;
    }
    return false;
}

/* ---- all together ---- */

/* What the schemas say themselves, without those that they hold. */
static bool conditions_differ(Schema *s, const json_t *a, const json_t *b) {
    unsigned common = stated_types(s, a) & stated_types(s, b);

    if (constants_differ(s, a, b) || constants_differ(s, b, a))
        return true;
    switch (common & ~(unsigned)SCHEMA_INTEGER) {
    case 0:
        return !(common & SCHEMA_INTEGER) || bounds_differ(a, b, "minimum", "maximum", true);
    case SCHEMA_NUMBER:
        return bounds_differ(a, b, "minimum", "maximum", true);
    case SCHEMA_STRING:
        return !(common & SCHEMA_INTEGER) && bounds_differ(a, b, "minLength", "maxLength", false);
    case SCHEMA_ARRAY:
        return !(common & SCHEMA_INTEGER) && bounds_differ(a, b, "minItems", "maxItems", false);
    case SCHEMA_OBJECT:
        return !(common & SCHEMA_INTEGER) &&
               (properties_differ(s, a, b) || properties_differ(s, b, a));
    default:
        return false;
    }
}

/* Some of a's `allOf`, all of its alternatives, or what its reference points to, have nothing in
 * common with b. */
static bool parts_differ(Schema *s, const json_t *a, const json_t *b) {
    static const char *const keys[] = {"anyOf", "oneOf"};
    const json_t *all = json_object_get(a, "allOf"), *ref = json_object_get(a, "$ref");
    const json_t *target = ref ? schema_target(s, ref) : NULL;

    for (size_t i = 0; i < json_array_size(all); i++)
        if (schema_are_disjoint(s, json_array_get(all, i), b))
            return true;
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
        const json_t *any = json_object_get(a, keys[k]);
        size_t i = 0;

        while (i < json_array_size(any) && schema_are_disjoint(s, json_array_get(any, i), b))
            i++;
        if (i > 0 && i == json_array_size(any))
            return true;
    }
    return target && schema_are_disjoint(s, target, b);
}

bool schema_are_disjoint(Schema *s, const json_t *a, const json_t *b) {
    bool is_found;

    if (s->nesting >= EXPR_NESTING_MAX || !count_comparison(s))
        return false;
    if (json_is_false(a) || json_is_false(b))
        return true;
    if (!json_is_object(a) || !json_is_object(b))
        return false;
    s->nesting++;
    is_found = conditions_differ(s, a, b) || parts_differ(s, a, b) || parts_differ(s, b, a);
    s->nesting--;
    return is_found;
}
