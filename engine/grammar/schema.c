/*
 * JSON Schema: the shapes of OpenAI's structured outputs, and some more.
 *
 * What comes out is valid under the schema, but not all that is valid can come out:
 *
 *   - Between the parts of an object or array there is nothing, one blank, or a newline and up to
 *     32 blanks; after a colon at most one blank; nothing around the document.
 *   - Properties come in the order of the schema, those that are only in `required` after them.
 *     Others come only where `additionalProperties` says so, or where there are no `properties`.
 *   - Without `type`, keywords that are about one type imply it.
 *   - Numbers have at most 15 digits before and after the point, and no exponent where bounded.
 *   - `oneOf` is understood where no value can satisfy two of its schemas (schema-disjoint.c): then
 *     it is `anyOf`.
 *
 * Annotations (title, description, default, …) are passed over; every other keyword that is not
 * understood is refused by name with the JSON pointer of its schema.
 */
#include "engine/grammar/schema.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GAP_BLANKS_MAX 32

/* Keywords that we know, and the type that they imply; 0: none. */
static const struct keyword {
    const char *name;
    unsigned types;
    bool is_annotation;
} keywords[] = {
    {"$schema", 0, true},
    {"$id", 0, true},
    {"$comment", 0, true},
    {"$defs", 0, true},
    {"definitions", 0, true},
    {"title", 0, true},
    {"description", 0, true},
    {"default", 0, true},
    {"examples", 0, true},
    {"deprecated", 0, true},
    {"readOnly", 0, true},
    {"writeOnly", 0, true},
    {"type", 0, false},
    {"enum", 0, false},
    {"const", 0, false},
    {"$ref", 0, false},
    {"allOf", 0, false},
    {"anyOf", 0, false},
    {"oneOf", 0, false},
    {"properties", SCHEMA_OBJECT, false},
    {"required", SCHEMA_OBJECT, false},
    {"additionalProperties", SCHEMA_OBJECT, false},
    {"items", SCHEMA_ARRAY, false},
    {"prefixItems", SCHEMA_ARRAY, false},
    {"minItems", SCHEMA_ARRAY, false},
    {"maxItems", SCHEMA_ARRAY, false},
    {"pattern", SCHEMA_STRING, false},
    {"minLength", SCHEMA_STRING, false},
    {"maxLength", SCHEMA_STRING, false},
    {"format", SCHEMA_STRING, false},
    {"minimum", SCHEMA_NUMBER, false},
    {"maximum", SCHEMA_NUMBER, false},
    {"exclusiveMinimum", SCHEMA_NUMBER, false},
    {"exclusiveMaximum", SCHEMA_NUMBER, false},
    {"multipleOf", SCHEMA_NUMBER, false},
};

/* ---- telling ---- */

void schema_refuse(Schema *s, const char *format, ...) {
    char sentence[256], path[SCHEMA_PATH_BYTES];
    va_list arguments;

    if (s->result != 0)
        return;
    va_start(arguments, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    (void)utf8_printable(path, sizeof(path), s->path, s->n_path);
    s->result = error_set(s->reterr, GK_E_INVALID, "the JSON schema at #%s: %s", path, sentence);
}

void schema_no_memory(Schema *s) {
    if (s->result == 0)
        s->result = error_set(s->reterr, -ENOMEM, "out of memory");
}

bool schema_visit(Schema *s) {
    if (s->result == 0 && ++s->n_visits > SCHEMA_VISITS_MAX)
        schema_refuse(s, "the schema unfolds to more than %d parts", SCHEMA_VISITS_MAX);
    return s->result == 0 && s->x->result == 0;
}

/* Goes down to a part; a path that is too long for messages stays where it is. */
static size_t enter(Schema *s, const char *key, const char *name) {
    size_t before = s->n_path;
    int n = snprintf(s->path + before, sizeof(s->path) - before, "/%s%s%s", key, name ? "/" : "",
                     name ? name : "");

    if (n > 0 && (size_t)n < sizeof(s->path) - before)
        s->n_path += (size_t)n;
    s->path[s->n_path] = '\0';
    return before;
}

static void leave(Schema *s, size_t before) {
    s->n_path = before;
    s->path[before] = '\0';
}

static Expr compile_part(Schema *s, const json_t *schema, const char *key, const char *name) {
    size_t before = enter(s, key, name);
    Expr e = schema_compile(s, schema);

    leave(s, before);
    return expr_shared(s->x, e);
}

static Expr compile_item(Schema *s, const json_t *schema, const char *key, size_t i) {
    char number[24];

    (void)snprintf(number, sizeof(number), "%zu", i);
    return compile_part(s, schema, key, number);
}

/* ---- keywords ---- */

static const struct keyword *find_keyword(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(keywords); i++)
        if (strcmp(keywords[i].name, name) == 0)
            return &keywords[i];
    return NULL;
}

bool schema_is_annotation(const char *key) {
    const struct keyword *k = find_keyword(key);

    return k && k->is_annotation;
}

bool schema_has_constraint(const json_t *schema, const char *except) {
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        if (!schema_is_annotation(key) && (!except || strcmp(key, except) != 0))
            return true;
    }
    return false;
}

static void check_keywords(Schema *s, const json_t *schema) {
    char shown[64];
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        (void)utf8_printable(shown, sizeof(shown), key, strlen(key));
        if (!find_keyword(key))
            schema_refuse(s, "the keyword '%s' is not supported", shown);
        if (strcmp(key, "$id") == 0 && schema != s->root)
            schema_refuse(s, "'$id' is supported at the root only");
    }
}

static unsigned type_of_name(Schema *s, const json_t *name) {
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {
        {"null", SCHEMA_NULL},     {"boolean", SCHEMA_BOOLEAN}, {"integer", SCHEMA_INTEGER},
        {"number", SCHEMA_NUMBER}, {"string", SCHEMA_STRING},   {"array", SCHEMA_ARRAY},
        {"object", SCHEMA_OBJECT},
    };

    for (size_t i = 0; json_is_string(name) && i < ARRAY_SIZE(types); i++)
        if (strcmp(types[i].name, json_string_value(name)) == 0)
            return types[i].type;
    schema_refuse(s, "'type' is none of null, boolean, integer, number, string, array, object");
    return 0;
}

unsigned schema_types(Schema *s, const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");
    unsigned types = 0;
    const char *key;
    json_t *value;

    if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type); i++)
            types |= type_of_name(s, json_array_get(type, i));
        return types;
    }
    if (type)
        return type_of_name(s, type);
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        const struct keyword *k = find_keyword(key);

        types |= k ? k->types : 0;
    }
    return types ? types : SCHEMA_ALL;
}

uint32_t schema_count(Schema *s, const json_t *schema, const char *key, uint32_t otherwise) {
    const json_t *value = json_object_get(schema, key);
    double n = json_number_value(value);

    if (!value)
        return otherwise;
    if (!json_is_number(value) || n < 0 || n != floor(n)) {
        schema_refuse(s, "'%s' is not a whole number of at least 0", key);
        return 0;
    }
    if (n > EXPR_REPEAT_MAX) {
        schema_refuse(s, "'%s' is more than %u", key, EXPR_REPEAT_MAX);
        return 0;
    }
    return (uint32_t)n;
}

/* ---- references ---- */

static int hex_value(char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
}

/* The next part of a pointer with %XX, ~0 and ~1 as what they stand for. Returns what follows it;
 * NULL: it is too long. */
static const char *take_token(const char *p, char *token, size_t size) {
    size_t n = 0;

    for (; *p && *p != '/'; p++) {
        char c = *p;

        if (c == '%' && hex_value(p[1]) >= 0 && hex_value(p[2]) >= 0) {
            c = (char)(hex_value(p[1]) * 16 + hex_value(p[2]));
            p += 2;
        }
        if (n > 0 && token[n - 1] == '~' && (c == '0' || c == '1'))
            token[n - 1] = c == '0' ? '\0' : '/'; /* '\0' until the end: "~01" is "~1" */
        else
            token[n++] = c;
        if (n == size)
            return NULL;
    }
    for (size_t i = 0; i < n; i++)
        token[i] = token[i] == '\0' ? '~' : token[i];
    token[n] = '\0';
    return p;
}

const json_t *schema_target(Schema *s, const json_t *ref) {
    const char *text = json_string_value(ref), *p = text;
    char token[SCHEMA_KEY_BYTES_MAX + 1], shown[96];
    const json_t *at = s->root;

    if (!text || text[0] != '#' || (text[1] != '/' && text[1] != '\0')) {
        schema_refuse(s, "'$ref' is supported to '#' and '#/…' only");
        return NULL;
    }
    for (p++; p && *p == '/';) {
        p = take_token(p + 1, token, sizeof(token));
        if (p && json_is_array(at))
            at = token[strspn(token, "0123456789")] == '\0'
                     ? json_array_get(at, (size_t)strtoul(token, NULL, 10))
                     : NULL;
        else
            at = p ? json_object_get(at, token) : NULL;
    }
    if (!p || !at) {
        schema_refuse(s, "'$ref' points to nothing: %s",
                      utf8_printable(shown, sizeof(shown), text, strlen(text)));
        return NULL;
    }
    return at;
}

static Expr compile_ref(Schema *s, const json_t *ref) {
    const json_t *target = schema_target(s, ref);
    char path[SCHEMA_PATH_BYTES];
    size_t n_path = s->n_path;
    const char *name;
    uint32_t rule;
    Expr body;

    for (size_t i = 0; i < s->n_refs; i++)
        if (s->refs[i].schema == target)
            return expr_call(s->x, s->refs[i].rule);
    if (!target)
        return EXPR_NOTHING;
    if (s->n_refs == s->refs_capacity) {
        size_t capacity = 2 * s->refs_capacity + 16;
        struct schema_ref *p = alloc_resize(s->refs, capacity * sizeof(*p));

        if (!p) {
            schema_no_memory(s);
            return EXPR_NOTHING;
        }
        s->refs = p;
        s->refs_capacity = capacity;
    }
    rule = expr_rule_new(s->x, "", 0);
    /* For messages, which come when the JSON is gone: as it stands in the source. */
    name = memmem(s->source, s->n_source, json_string_value(ref), json_string_length(ref));
    if (name && s->x->result == 0) {
        s->x->rules[rule].name = name;
        s->x->rules[rule].n_name = json_string_length(ref);
    }
    s->refs[s->n_refs++] = (struct schema_ref){target, rule};
    (void)memcpy(path, s->path, sizeof(path));
    (void)snprintf(s->path, sizeof(s->path), "%s", json_string_value(ref) + 1);
    s->n_path = strlen(s->path);
    body = schema_compile(s, target);
    (void)memcpy(s->path, path, sizeof(path));
    s->n_path = n_path;
    expr_rule_define(s->x, rule, body);
    return expr_call(s->x, rule);
}

/* ---- values as they are ---- */

/* Numbers as short as they can be told. */
static Expr compile_value(Schema *s, const json_t *value) {
    CLEANUP(freep) char *text = NULL;
    Expr e;

    for (size_t digits = 15; digits <= 17; digits++) {
        json_t *again;
        bool is_same;

        free(text);
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(digits));
        again = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        is_same = again && json_equal(again, value);
        json_decref(again);
        if (is_same)
            break;
    }
    if (!text) {
        schema_no_memory(s);
        return EXPR_NOTHING;
    }
    e = expr_string(s->x, text);
    return e;
}

bool schema_has_type(const json_t *value, unsigned types) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return (types & SCHEMA_OBJECT) != 0;
    case JSON_ARRAY:
        return (types & SCHEMA_ARRAY) != 0;
    case JSON_STRING:
        return (types & SCHEMA_STRING) != 0;
    case JSON_INTEGER:
        return (types & (SCHEMA_INTEGER | SCHEMA_NUMBER)) != 0;
    case JSON_REAL:
        return (types & SCHEMA_NUMBER) != 0 ||
               ((types & SCHEMA_INTEGER) != 0 &&
                json_real_value(value) == floor(json_real_value(value)));
    case JSON_NULL:
        return (types & SCHEMA_NULL) != 0;
    default:
        return (types & SCHEMA_BOOLEAN) != 0;
    }
}

/* `enum` or `const`, with `type` at most beside it. */
static Expr compile_enum(Schema *s, const json_t *schema, const char *key) {
    const json_t *values = json_object_get(schema, key);
    unsigned types = json_object_get(schema, "type") ? schema_types(s, schema) : SCHEMA_ALL;
    Expr e = EXPR_NOTHING;
    const char *other;
    json_t *ignored;

    json_object_foreach((json_t *)(uintptr_t)schema, other, ignored) {
        if (strcmp(other, key) != 0 && strcmp(other, "type") != 0 && !schema_is_annotation(other))
            schema_refuse(s, "'%s' beside '%s' is not supported", other, key);
    }
    if (strcmp(key, "const") == 0)
        return schema_has_type(values, types) ? compile_value(s, values) : EXPR_NOTHING;
    if (!json_is_array(values))
        schema_refuse(s, "'enum' is not an array");
    for (size_t i = 0; i < json_array_size(values) && schema_visit(s); i++)
        if (schema_has_type(json_array_get(values, i), types))
            e = expr_alt(s->x, e, compile_value(s, json_array_get(values, i)));
    return e;
}

/* ---- objects ---- */

struct members {
    const char *names[1024];
    Expr pairs[1024];
    bool is_required[1024];
    size_t n;
    Expr additional; /* a pair of any other name; EXPR_NOTHING: none */
};

static Expr make_pair(Schema *s, Expr key, Expr value) {
    Exprs *x = s->x;
    Expr colon = expr_seq(x, expr_string(x, ":"), expr_optional(x, expr_string(x, " ")));

    return value == EXPR_NOTHING ? EXPR_NOTHING
                                 : expr_shared(x, expr_seq(x, expr_seq(x, key, colon), value));
}

/* The rest of a name, and its closing quote, that is none of these; all in one code for each
 * character, so that no escape hides one of them. */
static Expr other_name(Schema *s, const char **names, size_t n, size_t depth) {
    Exprs *x = s->x;
    CharSet others = {.n = 0};
    Expr e = expr_string(x, "\""), rest;
    CLEANUP(freep) const char **rests = alloc_array(n, sizeof(*rests));

    if (!rests)
        schema_no_memory(s);
    for (size_t i = 0; i < n; i++)
        if (names[i][0] == '\0')
            e = EXPR_NOTHING;
    for (size_t i = 0; rests && i < n && depth <= SCHEMA_KEY_BYTES_MAX && schema_visit(s); i++) {
        CharSet one = {.n = 0};
        uint32_t code = 0;
        size_t length = utf8_decode(names[i], strlen(names[i]) + 1, &code), n_rests = 0;

        charset_normalize(&others);
        if (names[i][0] == '\0' || length == 0 || charset_has(&others, code))
            continue;
        charset_add(&others, code, code);
        for (size_t k = i; k < n; k++)
            if (strncmp(names[k], names[i], length) == 0)
                rests[n_rests++] = names[k] + length;
        charset_add(&one, code, code);
        rest = other_name(s, rests, n_rests, depth + 1);
        e = expr_alt(x, e, expr_seq(x, regex_json_chars(x, &one), rest));
        charset_deinit(&one);
    }
    charset_negate(&others);
    e = expr_alt(x, e, expr_seq(x, regex_json_chars(x, &others), s->any_name));
    charset_deinit(&others);
    return e;
}

static void add_member(Schema *s, struct members *m, const char *name, Expr value) {
    json_t *key = json_string(name);

    if (m->n == ARRAY_SIZE(m->names))
        schema_refuse(s, "an object has more than %zu properties", ARRAY_SIZE(m->names));
    else if (strlen(name) > SCHEMA_KEY_BYTES_MAX)
        schema_refuse(s, "a property's name has more than %d bytes", SCHEMA_KEY_BYTES_MAX);
    else if (!key)
        schema_no_memory(s);
    if (s->result == 0) {
        m->names[m->n] = name;
        m->pairs[m->n++] = make_pair(s, compile_value(s, key), value);
    }
    json_decref(key);
}

/* A name in `required` that is no property is one like the additional ones. */
static void add_required(Schema *s, struct members *m, const json_t *required, Expr additional) {
    if (required && !json_is_array(required))
        schema_refuse(s, "'required' is not an array");
    for (size_t i = 0; i < json_array_size(required) && schema_visit(s); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        size_t k = 0;

        if (!name) {
            schema_refuse(s, "'required' has something that is not a string");
            return;
        }
        while (k < m->n && strcmp(m->names[k], name) != 0)
            k++;
        if (k == m->n)
            add_member(s, m, name, additional);
        if (s->result == 0)
            m->is_required[k] = true;
    }
}

static void find_members(Schema *s, const json_t *schema, struct members *m) {
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *additional = json_object_get(schema, "additionalProperties");
    Expr value = s->any_value, key;
    const char *name;
    json_t *part;

    if (properties && !json_is_object(properties))
        schema_refuse(s, "'properties' is not an object");
    if (additional)
        value = compile_part(s, additional, "additionalProperties", NULL);
    json_object_foreach((json_t *)(uintptr_t)properties, name, part) {
        add_member(s, m, name, compile_part(s, part, "properties", name));
    }
    add_required(s, m, json_object_get(schema, "required"), value);
    if (!additional && properties)
        return;
    key = m->n == 0 ? s->any_text
                    : expr_shared(s->x, expr_seq(s->x, expr_string(s->x, "\""),
                                                 other_name(s, m->names, m->n, 0)));
    m->additional = make_pair(s, key, value);
}

/* From the back: for each place in the order of properties what may follow there, with and without
 * a property before it. */
static Expr compile_members(Schema *s, const struct members *m) {
    Exprs *x = s->x;
    Expr comma = expr_shared(x, expr_seq(x, expr_string(x, ","), s->gap));
    Expr close = expr_string(x, "}"), more = expr_seq(x, s->gap, close), first;

    more = expr_seq(x,
                    expr_repeat(x, expr_seq(x, comma, m->additional), 0,
                                m->additional == EXPR_NOTHING ? 0 : EXPR_UNLIMITED),
                    more);
    first = expr_alt(
        x, close, m->additional == EXPR_NOTHING ? EXPR_NOTHING : expr_seq(x, m->additional, more));
    for (size_t i = m->n; i-- > 0;) {
        Expr pair = m->pairs[i], skipped_more = more, skipped_first = first;

        if (m->is_required[i])
            skipped_more = skipped_first = EXPR_NOTHING;
        first = EXPR_NOTHING;
        if (pair != EXPR_NOTHING)
            first = expr_seq(x, pair, more);
        first = expr_shared(x, expr_alt(x, first, skipped_first));
        more = pair == EXPR_NOTHING ? EXPR_NOTHING : expr_seq(x, comma, expr_seq(x, pair, more));
        more = expr_shared(x, expr_alt(x, more, skipped_more));
    }
    return first == EXPR_NOTHING ? first
                                 : expr_seq(x, expr_seq(x, expr_string(x, "{"), s->gap), first);
}

static Expr compile_object(Schema *s, const json_t *schema) {
    struct members *m = alloc_new(struct members);
    Expr e = EXPR_NOTHING;

    if (!m) {
        schema_no_memory(s);
        return e;
    }
    m->additional = EXPR_NOTHING;
    find_members(s, schema, m);
    if (s->result == 0)
        e = compile_members(s, m);
    free(m);
    return e;
}

/* ---- arrays ---- */

/* What follows item i - 1 where items from i on are alike: ", item" and the closing bracket. */
static Expr rest_of_array(Schema *s, Expr item, uint32_t i, uint32_t min, uint32_t max) {
    Exprs *x = s->x;
    Expr close = expr_seq(x, s->gap, expr_string(x, "]"));
    Expr next = expr_seq(x, expr_seq(x, expr_string(x, ","), s->gap), item);

    min = min > i ? min - i : 0;
    if (item == EXPR_NOTHING)
        return min > 0 ? EXPR_NOTHING : close;
    max = max == EXPR_UNLIMITED ? max : max - i;
    next = expr_repeat(x, expr_shared(x, next), min, max);
    return expr_seq(x, next, close);
}

static Expr compile_array(Schema *s, const json_t *schema) {
    const json_t *prefix = json_object_get(schema, "prefixItems");
    const json_t *items = json_object_get(schema, "items");
    uint32_t min = schema_count(s, schema, "minItems", 0);
    uint32_t max = schema_count(s, schema, "maxItems", EXPR_UNLIMITED), n;
    Exprs *x = s->x;
    Expr item = s->any_value, open = expr_seq(x, expr_string(x, "["), s->gap), rest, first;

    if (json_is_array(items))
        schema_refuse(s, "'items' is an array, which is called 'prefixItems' now");
    if (prefix && !json_is_array(prefix))
        schema_refuse(s, "'prefixItems' is not an array");
    if (items)
        item = compile_part(s, items, "items", NULL);
    if (s->result != 0 || min > max)
        return EXPR_NOTHING;
    n = (uint32_t)MIN(json_array_size(prefix), (size_t)max);
    if (n == 0) {
        first = min == 0 ? expr_string(x, "]") : EXPR_NOTHING;
        if (max > 0 && item != EXPR_NOTHING)
            first = expr_alt(x, first, expr_seq(x, item, rest_of_array(s, item, 1, min, max)));
        return first == EXPR_NOTHING ? first : expr_seq(x, open, first);
    }
    rest = rest_of_array(s, item, n, min, max);
    for (uint32_t i = n; i-- > 0 && schema_visit(s);) {
        Expr part = compile_item(s, json_array_get(prefix, i), "prefixItems", i), close;

        close = i == 0 ? expr_string(x, "]") : expr_seq(x, s->gap, expr_string(x, "]"));
        if (i > 0)
            part = expr_seq(x, expr_seq(x, expr_string(x, ","), s->gap), part);
        rest = rest == EXPR_NOTHING ? rest : expr_seq(x, part, rest);
        rest = expr_shared(x, expr_alt(x, i < min ? EXPR_NOTHING : close, rest));
    }
    return rest == EXPR_NOTHING ? rest : expr_seq(x, open, rest);
}

/* ---- all types ---- */

static Expr compile_types(Schema *s, const json_t *schema, unsigned types) {
    Exprs *x = s->x;
    Expr e = EXPR_NOTHING;

    if (types & SCHEMA_OBJECT)
        e = expr_alt(x, e, compile_object(s, schema));
    if (types & SCHEMA_ARRAY)
        e = expr_alt(x, e, compile_array(s, schema));
    if (types & SCHEMA_STRING)
        e = expr_alt(x, e, schema_string(s, schema));
    if (types & (SCHEMA_NUMBER | SCHEMA_INTEGER))
        e = expr_alt(x, e, schema_number(s, schema, !(types & SCHEMA_NUMBER)));
    if (types & SCHEMA_BOOLEAN)
        e = expr_alt(x, expr_alt(x, e, expr_string(x, "true")), expr_string(x, "false"));
    return types & SCHEMA_NULL ? expr_alt(x, e, expr_string(x, "null")) : e;
}

static Expr compile_all_of(Schema *s, const json_t *schema) {
    const json_t *parts = json_object_get(schema, "allOf");
    const json_t *merged = schema_without(s, schema, "allOf");

    if (!json_is_array(parts) || json_array_size(parts) == 0)
        schema_refuse(s, "'allOf' is not an array of schemas");
    for (size_t i = 0; i < json_array_size(parts) && s->result == 0; i++)
        merged = schema_merge(s, merged, json_array_get(parts, i));
    return s->result == 0 ? schema_compile(s, merged) : EXPR_NOTHING;
}

static void check_one_of(Schema *s, const json_t *parts) {
    for (size_t i = 0; i < json_array_size(parts) && s->result == 0; i++)
        for (size_t k = 0; k < i && s->result == 0; k++)
            if (!schema_are_disjoint(s, json_array_get(parts, k), json_array_get(parts, i)))
                schema_refuse(s,
                              "'oneOf' is supported where types, constants, bounds or a required "
                              "property show that no value satisfies two of its schemas; schemas "
                              "%zu and %zu may have one in common ('anyOf' would allow that)",
                              k, i);
}

/* Each alternative with what stands beside it. */
static Expr compile_any_of(Schema *s, const json_t *schema, const char *key) {
    const json_t *parts = json_object_get(schema, key);
    const json_t *beside =
        schema_has_constraint(schema, key) ? schema_without(s, schema, key) : NULL;
    Expr e = EXPR_NOTHING;

    if (!json_is_array(parts) || json_array_size(parts) == 0)
        schema_refuse(s, "'%s' is not an array of schemas", key);
    if (strcmp(key, "oneOf") == 0)
        check_one_of(s, parts);
    for (size_t i = 0; i < json_array_size(parts) && s->result == 0; i++) {
        const json_t *part = json_array_get(parts, i);

        if (beside)
            part = schema_merge(s, beside, part);
        if (part)
            e = expr_alt(s->x, e, compile_item(s, part, key, i));
    }
    return e;
}

static Expr compile_object_schema(Schema *s, const json_t *schema) {
    const json_t *ref = json_object_get(schema, "$ref");
    const json_t *target;

    check_keywords(s, schema);
    if (ref && !schema_has_constraint(schema, "$ref"))
        return compile_ref(s, ref);
    if (ref) {
        target = schema_target(s, ref);
        if (target)
            schema = schema_merge(s, schema_without(s, schema, "$ref"), target);
        return s->result == 0 ? schema_compile(s, schema) : EXPR_NOTHING;
    }
    if (json_object_get(schema, "allOf"))
        return compile_all_of(s, schema);
    if (json_object_get(schema, "anyOf"))
        return compile_any_of(s, schema, "anyOf");
    if (json_object_get(schema, "oneOf"))
        return compile_any_of(s, schema, "oneOf");
    if (json_object_get(schema, "enum"))
        return compile_enum(s, schema, "enum");
    if (json_object_get(schema, "const"))
        return compile_enum(s, schema, "const");
    return schema_has_constraint(schema, NULL) ? compile_types(s, schema, schema_types(s, schema))
                                               : s->any_value;
}

Expr schema_compile(Schema *s, const json_t *schema) {
    Expr e = EXPR_NOTHING;

    if (!schema_visit(s))
        return e;
    if (json_is_boolean(schema))
        return json_is_true(schema) ? s->any_value : EXPR_NOTHING;
    if (!json_is_object(schema))
        schema_refuse(s, "a schema is an object, true or false");
    else if (s->nesting >= EXPR_NESTING_MAX)
        schema_refuse(s, "more than %d schemas lie in each other", EXPR_NESTING_MAX);
    else {
        s->nesting++;
        e = compile_object_schema(s, schema);
        s->nesting--;
    }
    return e;
}

/* Any JSON document; what it and the rest are made of. */
static void make_parts(Schema *s) {
    Exprs *x = s->x;
    json_t *everything = json_object();
    uint32_t value = expr_rule_new(x, "", 0);
    Expr blank = expr_string(x, " "), line;
    CharSet all = {.n = 0};

    line = expr_seq(x, expr_string(x, "\n"), expr_repeat(x, blank, 0, GAP_BLANKS_MAX));
    s->gap = expr_shared(x, expr_optional(x, expr_alt(x, blank, line)));
    s->text_char = schema_text_char(s);
    charset_add(&all, 0, CHAR_MAX_CODE);
    s->any_name = expr_repeat(x, regex_json_chars(x, &all), 0, EXPR_UNLIMITED);
    s->any_name = expr_shared(x, expr_seq(x, s->any_name, expr_string(x, "\"")));
    charset_deinit(&all);
    s->any_text = expr_shared(x, schema_quoted(s, expr_repeat(x, s->text_char, 0, EXPR_UNLIMITED)));
    s->any_value = expr_call(x, value);
    if (everything)
        expr_rule_define(x, value, compile_types(s, everything, SCHEMA_ALL));
    else
        schema_no_memory(s);
    json_decref(everything);
}

int schema_parse(Exprs *x, const char *source, size_t n, Expr *ret, Error *reterr) {
    Schema s = {.x = x, .source = source, .n_source = n, .reterr = reterr};
    json_error_t error;

    s.root = json_loadb(source, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!s.root)
        return error_set(reterr, GK_E_INVALID,
                         "the JSON schema at line %d, column %d, can't be read: %s", error.line,
                         error.column, error.text);
    s.made = json_array();
    if (!s.made)
        schema_no_memory(&s);
    make_parts(&s);
    *ret = schema_compile(&s, s.root);
    json_decref(s.root);
    json_decref(s.made);
    free(s.refs);
    return s.result;
}
