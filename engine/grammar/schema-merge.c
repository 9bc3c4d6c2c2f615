/* Two schemas as one that says what both say: for `allOf`, and for what stands beside `anyOf`,
 * `oneOf` and `$ref`. What one schema can't say is refused by name. */
#include "engine/grammar/schema.h"

#include <string.h>

/* Counts and bounds, of which the one that allows less stays. */
static const struct {
    const char *key;
    bool is_upper;
} bounds[] = {
    {"minimum", false}, {"exclusiveMinimum", false}, {"minLength", false}, {"minItems", false},
    {"maximum", true},  {"exclusiveMaximum", true},  {"maxLength", true},  {"maxItems", true},
};

static void set(Schema *s, json_t *schema, const char *key, json_t *value) {
    if (s->result != 0)
        json_decref(value);
    else if (json_object_set_new(schema, key, value) != 0)
        schema_no_memory(s);
}

/* An object that lives as long as s. */
static json_t *keep(Schema *s, json_t *made) {
    if (s->result == 0 && made && json_array_append(s->made, made) != 0)
        schema_no_memory(s);
    else if (!made)
        schema_no_memory(s);
    json_decref(made);
    return s->result == 0 ? made : NULL;
}

json_t *schema_without(Schema *s, const json_t *schema, const char *key) {
    json_t *copy = keep(s, json_copy((json_t *)(uintptr_t)schema));

    if (copy) {
        (void)json_object_del(copy, key);
        (void)json_object_del(copy, "$id"); /* of the root, which the copy is not */
    }
    return copy;
}

/* {"allOf": [a, b]} */
static json_t *both(const json_t *a, const json_t *b) {
    return json_pack("{s:[O, O]}", "allOf", a, b);
}

/* ---- one keyword ---- */

static void merge_types(Schema *s, json_t *into, const json_t *other) {
    static const struct {
        unsigned type;
        const char *name;
    } names[] = {
        {SCHEMA_NULL, "null"},     {SCHEMA_BOOLEAN, "boolean"}, {SCHEMA_INTEGER, "integer"},
        {SCHEMA_NUMBER, "number"}, {SCHEMA_STRING, "string"},   {SCHEMA_ARRAY, "array"},
        {SCHEMA_OBJECT, "object"},
    };
    unsigned a = schema_types(s, into), b = schema_types(s, other);
    json_t *types = json_array();

    /* What is a number is an integer too. */
    a |= a & SCHEMA_NUMBER ? SCHEMA_INTEGER : 0;
    b |= b & SCHEMA_NUMBER ? SCHEMA_INTEGER : 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (a & b & names[i].type)
            (void)json_array_append_new(types, json_string(names[i].name));
    set(s, into, "type", types);
}

static void merge_bound(Schema *s, json_t *into, const char *key, json_t *value, bool is_upper) {
    const json_t *mine = json_object_get(into, key);
    double a = json_number_value(mine), b = json_number_value(value);

    if (!json_is_number(mine) || !json_is_number(value))
        schema_refuse(s, "'%s' is not a number", key);
    else if (is_upper ? b < a : b > a)
        set(s, into, key, json_incref(value));
}

static void merge_required(Schema *s, json_t *into, json_t *value) {
    json_t *all = json_copy(json_object_get(into, "required"));

    if (!json_is_array(all) || !json_is_array(value) || json_array_extend(all, value) != 0)
        schema_refuse(s, "'required' is not an array");
    set(s, into, "required", all);
}

static void merge_enum(Schema *s, json_t *into, const json_t *value) {
    const json_t *mine = json_object_get(into, "enum");
    json_t *common = json_array();

    for (size_t i = 0; i < json_array_size(mine); i++)
        for (size_t k = 0; k < json_array_size(value) && schema_visit(s); k++)
            if (json_equal(json_array_get(mine, i), json_array_get(value, k)))
                (void)json_array_append(common, json_array_get(mine, i));
    set(s, into, "enum", common);
}

/* `const` as an `enum` of one. */
static const json_t *with_enum(Schema *s, const json_t *schema) {
    json_t *value = json_object_get(schema, "const"), *copy;

    if (!value || json_object_get(schema, "enum"))
        return schema;
    copy = schema_without(s, schema, "const");
    if (copy)
        set(s, copy, "enum", json_pack("[O]", value));
    return copy;
}

/* What `from` says about all properties that it does not name, said of those that `named` names. */
static void spread_additional(Schema *s, json_t *properties, const json_t *from,
                              const json_t *named) {
    const json_t *additional = json_object_get(from, "additionalProperties");
    const json_t *own = json_object_get(from, "properties");
    const char *name;
    json_t *part;

    if (!additional || json_is_true(additional))
        return;
    json_object_foreach((json_t *)(uintptr_t)named, name, part) {
        if (!json_object_get(own, name) && schema_visit(s))
            set(s, properties, name,
                json_is_false(additional) ? json_false() : both(part, additional));
    }
}

static void merge_properties(Schema *s, json_t *into, const json_t *a, const json_t *b) {
    const json_t *mine = json_object_get(a, "properties"),
                 *theirs = json_object_get(b, "properties");
    json_t *all = mine ? json_copy((json_t *)(uintptr_t)mine) : json_object();
    const char *name;
    json_t *part;

    json_object_foreach((json_t *)(uintptr_t)theirs, name, part) {
        const json_t *other = json_object_get(mine, name);

        if (all && schema_visit(s))
            set(s, all, name, other ? both(other, part) : json_incref(part));
    }
    spread_additional(s, all, a, theirs);
    spread_additional(s, all, b, mine);
    set(s, into, "properties", all);
}

static bool is_any_of(const char *key, const char *const *keys, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

/* A keyword that both have. */
static void merge_keyword(Schema *s, json_t *into, const char *key, json_t *value) {
    static const char *const schemas[] = {"additionalProperties", "items"};
    json_t *mine = json_object_get(into, key);

    for (size_t i = 0; i < ARRAY_SIZE(bounds); i++)
        if (strcmp(key, bounds[i].key) == 0) {
            merge_bound(s, into, key, value, bounds[i].is_upper);
            return;
        }
    if (strcmp(key, "required") == 0)
        merge_required(s, into, value);
    else if (strcmp(key, "enum") == 0)
        merge_enum(s, into, value);
    else if (strcmp(key, "allOf") == 0)
        set(s, into, key, json_pack("[{s:O}, {s:O}]", "allOf", mine, "allOf", value));
    else if (is_any_of(key, schemas, ARRAY_SIZE(schemas)))
        set(s, into, key, both(mine, value));
    else if (!json_equal(mine, value))
        schema_refuse(s, "'%s' in two schemas that hold together is not supported", key);
}

/* ---- two schemas ---- */

static void check_items(Schema *s, const json_t *a, const json_t *b) {
    if (json_object_get(a, "prefixItems") &&
        (json_object_get(b, "items") || json_object_get(b, "prefixItems")))
        schema_refuse(s, "'prefixItems' and more items in two schemas that hold together are not "
                         "supported");
}

/* Copies are shallow; false: there are too many. */
static bool count_copies(Schema *s, const json_t *a) {
    s->n_copied += json_object_size(a) + json_object_size(json_object_get(a, "properties")) +
                   json_array_size(json_object_get(a, "required"));
    if (s->n_copied > SCHEMA_COPIED_MAX)
        schema_refuse(s, "schemas that hold together have more than %d parts", SCHEMA_COPIED_MAX);
    return s->result == 0;
}

static const json_t *merge_objects(Schema *s, const json_t *a, const json_t *b) {
    json_t *into = count_copies(s, a) ? keep(s, json_copy((json_t *)(uintptr_t)a)) : NULL;
    const char *key;
    json_t *value;

    if (!into)
        return NULL;
    (void)json_object_del(into, "$id");
    check_items(s, a, b);
    check_items(s, b, a);
    if (json_object_get(a, "type") || json_object_get(b, "type"))
        merge_types(s, into, b);
    json_object_foreach((json_t *)(uintptr_t)b, key, value) {
        if (schema_is_annotation(key) || strcmp(key, "type") == 0 ||
            strcmp(key, "properties") == 0 || s->result != 0)
            continue;
        if (json_object_get(into, key))
            merge_keyword(s, into, key, value);
        else
            set(s, into, key, json_incref(value));
    }
    if (json_object_get(a, "properties") || json_object_get(b, "properties"))
        merge_properties(s, into, a, b);
    return s->result == 0 ? into : NULL;
}

/* Follows a reference that is in the way of merging. */
static const json_t *without_ref(Schema *s, const json_t *schema) {
    const json_t *ref = json_object_get(schema, "$ref"), *target;

    if (!ref || !schema_visit(s))
        return schema;
    target = schema_target(s, ref);
    if (!target)
        return NULL;
    if (!schema_has_constraint(schema, "$ref"))
        return without_ref(s, target);
    return schema_merge(s, schema_without(s, schema, "$ref"), target);
}

const json_t *schema_merge(Schema *s, const json_t *a, const json_t *b) {
    s->n_visits += SCHEMA_MERGE_VISITS - 1;
    if (!schema_visit(s) || !a || !b)
        return NULL;
    if (++s->nesting > EXPR_NESTING_MAX) {
        schema_refuse(s, "more than %d schemas lie in each other", EXPR_NESTING_MAX);
        return NULL;
    }
    a = without_ref(s, a);
    b = without_ref(s, b);
    s->nesting--;
    if (!a || !b || s->result != 0)
        return NULL;
    if (json_is_true(a) || json_is_false(b))
        return b;
    if (json_is_true(b) || json_is_false(a))
        return a;
    if (!json_is_object(a) || !json_is_object(b)) {
        schema_refuse(s, "a schema is an object, true or false");
        return NULL;
    }
    if (json_object_get(a, "enum") || json_object_get(b, "enum") || json_object_get(a, "const") ||
        json_object_get(b, "const")) {
        a = with_enum(s, a);
        b = with_enum(s, b);
    }
    return a && b ? merge_objects(s, a, b) : NULL;
}
