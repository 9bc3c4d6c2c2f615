/* Templates: what can be called by name. Filters, tests, methods and functions are tables. */
#include "engine/text/jinja-value.h"

#include "base/utf8.h"
#include "engine/engine.h"

#include <string.h>

#define UNLIMITED INT64_MAX

/* ---- arguments ---- */

/* The i-th positional argument, or the keyword's; NULL: not given. */
static const Value *argument(const struct arguments *args, size_t i, const char *keyword) {
    if (i < args->n_positional)
        return &args->values[i];
    for (size_t j = args->n_positional; j < args->n; j++)
        if (text_is(args->names[j], keyword))
            return &args->values[j];
    return NULL;
}

static bool get_text(Run *run, const char *what, const Value *v, Text *ret) {
    if (!v || v->kind != VALUE_TEXT)
        return run_fail(run, "%s takes a string, not %s", what, v ? value_kind_name(v) : "nothing");
    *ret = v->text;
    return true;
}

static bool get_number(Run *run, const char *what, const Value *v, int64_t *ret) {
    if (!v || (v->kind != VALUE_NUMBER && v->kind != VALUE_BOOL))
        return run_fail(run, "%s takes a number, not %s", what, v ? value_kind_name(v) : "nothing");
    *ret = v->number;
    return true;
}

/* ---- texts ---- */

static char upper(char c) {
    return c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool is_letter(char c) {
    return upper(c) != lower(c) || (c & 0x80);
}

enum letters { UPPER, LOWER, CAPITALIZE, TITLE };

static bool change_letters(Run *run, Text text, enum letters how, Value *ret) {
    uint8_t *marks;
    char *bytes;
    Text copy;

    if (!text_new(run, text.n, text.marks != NULL, &copy, &bytes, &marks))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        bool is_first = i == 0 || (how == TITLE && !is_letter(text.bytes[i - 1]));

        bytes[i] = how == UPPER || (how >= CAPITALIZE && is_first) ? upper(text.bytes[i])
                                                                   : lower(text.bytes[i]);
    }
    if (text.marks && text.n > 0)
        (void)memcpy(marks, text.marks, text.n);
    *ret = TEXT_VALUE(copy);
    return true;
}

static size_t count_parts(Text text, Text separator, int64_t n_max) {
    size_t n = 0;

    for (size_t at = 0; (int64_t)n < n_max; n++) {
        at = text_find(text, at, separator);
        if (at == text.n)
            break;
        at += separator.n;
    }
    return n;
}

static bool replace(Run *run, Text text, Text from, Text to, int64_t n_max, Value *ret) {
    size_t n, at = 0;
    Text *parts, joined;

    if (from.n == 0)
        return run_fail(run, "replace takes a string that is not empty");
    n = count_parts(text, from, n_max) + 1;
    parts = arena_alloc(&run->arena, n, sizeof(*parts));
    if (!parts)
        return run_no_memory(run);
    for (size_t i = 0; i < n; i++) {
        size_t end = i + 1 < n ? text_find(text, at, from) : text.n;

        parts[i] = text_slice(text, at, end);
        at = end + from.n;
    }
    if (!run_charge_bytes(run, text.n) || !text_join(run, parts, n, to, &joined))
        return false;
    *ret = TEXT_VALUE(joined);
    return true;
}

/* Python's split() without a separator: at runs of white space, of which none is left. */
static bool split_words(Run *run, Text text, Value *ret) {
    size_t n = 0, begin = 0;
    bool is_space, in_word = false;

    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1 && !list_new(run, n, ret))
            return false;
        n = 0;
        in_word = false;
        for (size_t at = 0, length; at < text.n; at += length) {
            length = text_character(text.bytes + at, text.n - at, &is_space);
            if (!is_space && !in_word) {
                begin = at;
                n++;
            }
            in_word = !is_space;
            if (pass == 1 && in_word)
                ret->list->items[n - 1] = TEXT_VALUE(text_slice(text, begin, at + length));
        }
    }
    return run_charge_bytes(run, text.n);
}

static bool split(Run *run, Text text, const struct arguments *args, Value *ret) {
    const Value *by = argument(args, 0, "sep"), *max = argument(args, 1, "maxsplit");
    int64_t n_max = UNLIMITED;
    size_t n, at = 0;
    Text separator;

    if (max && !get_number(run, "split", max, &n_max))
        return false;
    if (!by || by->kind == VALUE_NONE)
        return max ? run_fail(run, "split with maxsplit takes a separator")
                   : split_words(run, text, ret);
    if (!get_text(run, "split", by, &separator))
        return false;
    if (separator.n == 0)
        return run_fail(run, "split takes a separator that is not empty");
    n = count_parts(text, separator, n_max < 0 ? UNLIMITED : n_max) + 1;
    if (!list_new(run, n, ret))
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t end = i + 1 < n ? text_find(text, at, separator) : text.n;

        ret->list->items[i] = TEXT_VALUE(text_slice(text, at, end));
        at = end + separator.n;
    }
    return run_charge_bytes(run, text.n);
}

static bool strip(Run *run, Text text, const Value *set, bool at_start, bool at_end, Value *ret) {
    bool has_set = set && set->kind != VALUE_NONE;
    Text characters = TEXT("");

    if (has_set && !get_text(run, "strip", set, &characters))
        return false;
    if (characters.n > JINJA_STRIP_BYTES_MAX)
        return run_fail(run, "strip takes at most %d bytes", JINJA_STRIP_BYTES_MAX);
    if (!run_charge_bytes(run, text.n * (1 + characters.n)))
        return false;
    *ret = TEXT_VALUE(text_strip(text, has_set ? &characters : NULL, at_start, at_end));
    return true;
}

/* ---- JSON ---- */

struct json {
    Run *run;
    Text *parts;
    size_t n, capacity;
    int64_t indent; /* < 0: all in one line */
};

static bool json_put(struct json *j, Text part) {
    if (j->n == j->capacity) {
        Text *larger = arena_alloc(&j->run->arena, 2 * j->capacity + 32, sizeof(*larger));

        if (!larger)
            return run_no_memory(j->run);
        if (j->n > 0)
            (void)memcpy(larger, j->parts, j->n * sizeof(*larger));
        j->parts = larger;
        j->capacity = 2 * j->capacity + 32;
    }
    j->parts[j->n++] = part;
    return run_charge(j->run, 1);
}

static bool json_escape(struct json *j, char c) {
    static const char plain[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    static const char digits[] = "0123456789abcdef";
    const char *found = strchr(plain, c);
    uint8_t *marks;
    char *bytes;
    Text text;

    if (c && found) {
        if (!text_new(j->run, 2, false, &text, &bytes, &marks))
            return false;
        bytes[0] = '\\';
        bytes[1] = letters[found - plain];
        return json_put(j, text);
    }
    if (!text_new(j->run, 6, false, &text, &bytes, &marks))
        return false;
    (void)memcpy(bytes, "\\u00", 4);
    bytes[4] = digits[c >> 4];
    bytes[5] = digits[c & 15];
    return json_put(j, text);
}

static bool json_text(struct json *j, Text text) {
    size_t begin = 0;

    if (!json_put(j, TEXT("\"")))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.bytes[i];

        if (c != '"' && c != '\\' && (c & 0x80 || c >= ' '))
            continue;
        if (!json_put(j, text_slice(text, begin, i)) || !json_escape(j, c))
            return false;
        begin = i + 1;
    }
    return json_put(j, text_slice(text, begin, text.n)) && json_put(j, TEXT("\""));
}

/* Between elements, and around them where lines are indented. */
static bool json_gap(struct json *j, bool with_comma, unsigned depth) {
    if (with_comma && !json_put(j, j->indent < 0 ? TEXT(", ") : TEXT(",")))
        return false;
    if (j->indent < 0)
        return true;
    if (!json_put(j, TEXT("\n")))
        return false;
    for (int64_t i = 0; i < j->indent * depth; i++)
        if (!json_put(j, TEXT(" ")))
            return false;
    return true;
}

static bool json_value(struct json *j, const Value *v, unsigned depth);

// NOLINTNEXTLINE(misc-no-recursion): as deep as JINJA_DEPTH_MAX
static bool json_list(struct json *j, const struct list *list, unsigned depth) {
    if (list->n == 0)
        return json_put(j, TEXT("[]"));
    if (!json_put(j, TEXT("[")))
        return false;
    for (size_t i = 0; i < list->n; i++)
        if (((i > 0 || j->indent >= 0) && !json_gap(j, i > 0, depth + 1)) ||
            !json_value(j, &list->items[i], depth + 1))
            return false;
    return (j->indent < 0 || json_gap(j, false, depth)) && json_put(j, TEXT("]"));
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as JINJA_DEPTH_MAX
static bool json_map(struct json *j, const struct map *map, unsigned depth) {
    if (map->n == 0)
        return json_put(j, TEXT("{}"));
    if (!json_put(j, TEXT("{")))
        return false;
    for (size_t i = 0; i < map->n; i++)
        if (((i > 0 || j->indent >= 0) && !json_gap(j, i > 0, depth + 1)) ||
            !json_text(j, map->pairs[i].key) || !json_put(j, TEXT(": ")) ||
            !json_value(j, &map->pairs[i].value, depth + 1))
            return false;
    return (j->indent < 0 || json_gap(j, false, depth)) && json_put(j, TEXT("}"));
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as JINJA_DEPTH_MAX
static bool json_value(struct json *j, const Value *v, unsigned depth) {
    Text text;

    if (depth > JINJA_DEPTH_MAX)
        return run_fail(j->run, "values are nested too deeply for tojson");
    switch (v->kind) {
    case VALUE_NONE:
        return json_put(j, TEXT("null"));
    case VALUE_BOOL:
        return json_put(j, v->number ? TEXT("true") : TEXT("false"));
    case VALUE_NUMBER:
        return value_to_text(j->run, v, &text) && json_put(j, text);
    case VALUE_TEXT:
        return json_text(j, v->text);
    case VALUE_LIST:
        return json_list(j, v->list, depth);
    case VALUE_MAP:
        return json_map(j, v->map, depth);
    default:
        return run_fail(j->run, "%s can't be JSON", value_kind_name(v));
    }
}

static bool filter_tojson(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *indent = argument(args, 1, "indent");
    struct json j = {.run = run, .indent = -1};
    Text text;

    if (args->n_positional == 1) /* transformers' first parameter is ensure_ascii */
        return run_fail(run, "tojson takes its arguments by name");
    if (indent && indent->kind != VALUE_NONE &&
        (!get_number(run, "indent", indent, &j.indent) || j.indent < 0 || j.indent > 16))
        return run_fail(run, "tojson indents by 0 to 16");
    if (!json_value(&j, of, 0) || !text_join(run, j.parts, j.n, TEXT(""), &text))
        return false;
    *ret = TEXT_VALUE(text);
    return true;
}

/* ---- filters ---- */

static bool filter_trim(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    Text text;

    return value_to_text(run, of, &text) &&
           strip(run, text, argument(args, 0, "chars"), true, true, ret);
}

static bool filter_letters(Run *run, const Value *of, enum letters how, Value *ret) {
    Text text;

    return value_to_text(run, of, &text) && change_letters(run, text, how, ret);
}

static bool filter_upper(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)args;
    return filter_letters(run, of, UPPER, ret);
}

static bool filter_lower(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)args;
    return filter_letters(run, of, LOWER, ret);
}

static bool filter_title(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)args;
    return filter_letters(run, of, TITLE, ret);
}

static bool filter_capitalize(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)args;
    return filter_letters(run, of, CAPITALIZE, ret);
}

static bool filter_string(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    Text text;

    (void)args;
    if (!value_to_text(run, of, &text))
        return false;
    *ret = TEXT_VALUE(text);
    return true;
}

static bool filter_same(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)run;
    (void)args;
    *ret = *of;
    return true;
}

static bool filter_length(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    struct list items;

    (void)args;
    if (of->kind == VALUE_TEXT) {
        int64_t n = 0;

        for (size_t i = 0; i < of->text.n; i++)
            n += (of->text.bytes[i] & 0xc0) != 0x80;
        *ret = NUMBER(n);
        return run_charge_bytes(run, of->text.n);
    }
    if (!value_items(run, of, &items))
        return false;
    *ret = NUMBER((int64_t)items.n);
    return true;
}

static bool filter_first(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    struct list items;

    (void)args;
    if (!value_items(run, of, &items))
        return false;
    *ret = items.n > 0 ? items.items[0] : UNDEFINED(TEXT("the first item"));
    return true;
}

static bool filter_last(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    struct list items;

    (void)args;
    if (!value_items(run, of, &items))
        return false;
    *ret = items.n > 0 ? items.items[items.n - 1] : UNDEFINED(TEXT("the last item"));
    return true;
}

static bool filter_list(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    struct list items;

    (void)args;
    if (!value_items(run, of, &items) || !list_new(run, items.n, ret))
        return false;
    for (size_t i = 0; i < items.n; i++)
        ret->list->items[i] = items.items[i];
    return true;
}

static bool filter_reverse(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value bounds[3] = {NONE_VALUE, NONE_VALUE, NUMBER(-1)};
    Value list;

    (void)args;
    if (of->kind == VALUE_TEXT)
        return value_slice(run, of, bounds, ret);
    return filter_list(run, of, args, &list) && value_slice(run, &list, bounds, ret);
}

static bool filter_default(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *value = argument(args, 0, "default_value"), *falsy = argument(args, 1, "boolean");
    bool replaced =
        of->kind == VALUE_UNDEFINED || (falsy && value_is_true(falsy) && !value_is_true(of));

    (void)run;
    *ret = !replaced ? *of : value ? *value : TEXT_VALUE(TEXT(""));
    return true;
}

static bool filter_join(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *by = argument(args, 0, "d"), *name = argument(args, 1, "attribute");
    Text separator = TEXT(""), joined, *parts;
    struct list items;

    if ((by && !value_to_text(run, by, &separator)) || !value_items(run, of, &items))
        return false;
    parts = arena_alloc(&run->arena, items.n + 1, sizeof(*parts));
    if (!parts)
        return run_no_memory(run);
    for (size_t i = 0; i < items.n; i++) {
        Value item = items.items[i];

        if ((name && !value_get(run, &items.items[i], name, &item)) ||
            !value_to_text(run, &item, &parts[i]))
            return false;
    }
    if (!text_join(run, parts, items.n, separator, &joined))
        return false;
    *ret = TEXT_VALUE(joined);
    return true;
}

static bool filter_replace(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *count = argument(args, 2, "count");
    int64_t n_max = UNLIMITED;
    Text text, from, to;

    return value_to_text(run, of, &text) &&
           get_text(run, "replace", argument(args, 0, "old"), &from) &&
           get_text(run, "replace", argument(args, 1, "new"), &to) &&
           (!count || get_number(run, "replace", count, &n_max)) &&
           replace(run, text, from, to, n_max < 0 ? UNLIMITED : n_max, ret);
}

static bool filter_int(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *fallback = argument(args, 0, "default");
    bool is_negative = false;
    int64_t n = 0;
    Text text;

    *ret = fallback ? *fallback : NUMBER(0);
    if (of->kind == VALUE_NUMBER || of->kind == VALUE_BOOL)
        *ret = NUMBER(of->number);
    if (of->kind != VALUE_TEXT)
        return true;
    if (!run_charge_bytes(run, of->text.n))
        return false;
    text = text_strip(of->text, NULL, true, true);
    if (text.n > 0 && (text.bytes[0] == '-' || text.bytes[0] == '+')) {
        is_negative = text.bytes[0] == '-';
        text = text_slice(text, 1, text.n);
    }
    for (size_t i = 0; i < text.n; i++)
        if (text.bytes[i] < '0' || text.bytes[i] > '9' ||
            __builtin_mul_overflow(n, (int64_t)10, &n) ||
            __builtin_add_overflow(n, (int64_t)(text.bytes[i] - '0'), &n))
            return true;
    if (text.n > 0)
        *ret = NUMBER(is_negative ? -n : n);
    return true;
}

static bool filter_items(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    (void)args;
    if (of->kind == VALUE_UNDEFINED)
        return list_new(run, 0, ret);
    if (of->kind != VALUE_MAP)
        return run_fail(run, "items takes a map, not %s", value_kind_name(of));
    if (!list_new(run, of->map->n, ret))
        return false;
    for (size_t i = 0; i < of->map->n; i++) {
        Value *pair = &ret->list->items[i];

        if (!list_new(run, 2, pair))
            return false;
        pair->list->items[0] = TEXT_VALUE(of->map->pairs[i].key);
        pair->list->items[1] = of->map->pairs[i].value;
    }
    return true;
}

/* map(attribute='name'), or map('filter'). */
static bool filter_map(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    const Value *name = argument(args, JINJA_ARGUMENTS_MAX, "attribute");
    const struct arguments none = {.n = 0};
    struct list items;
    Text filter = TEXT("");

    if ((!name && !get_text(run, "map", argument(args, 0, "filter"), &filter)) ||
        !value_items(run, of, &items) || !list_new(run, items.n, ret))
        return false;
    if (filter.n == 3 && text_is(filter, "map"))
        return run_fail(run, "map can't call itself");
    for (size_t i = 0; i < items.n; i++)
        if (name ? !value_get(run, &items.items[i], name, &ret->list->items[i])
                 : !call_filter(run, filter, &items.items[i], &none, &ret->list->items[i]))
            return false;
    return true;
}

/* selectattr('role', 'equalto', 'user'): items of which the test holds; rejectattr: the others. */
static bool select_items(Run *run, const Value *of, const struct arguments *args, bool by_attribute,
                         bool wanted, Value *ret) {
    size_t at_test = by_attribute ? 1 : 0, n = 0;
    struct arguments rest = {.n = 0};
    Text test = TEXT("");
    struct list items;

    if (by_attribute && args->n_positional == 0)
        return run_fail(run, "an attribute's name is missing");
    if (args->n_positional > at_test && !get_text(run, "a test", &args->values[at_test], &test))
        return false;
    for (size_t i = at_test + 1; i < args->n_positional; i++)
        rest.values[rest.n++] = args->values[i];
    rest.n_positional = rest.n;
    if (!value_items(run, of, &items) || !list_new(run, items.n, ret))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        Value v = items.items[i];
        bool holds;

        if (by_attribute && !value_get(run, &items.items[i], &args->values[0], &v))
            return false;
        holds = value_is_true(&v);
        if (test.n > 0 && !call_test(run, test, &v, &rest, &holds))
            return false;
        if (holds == wanted)
            ret->list->items[n++] = items.items[i];
    }
    ret->list->n = n;
    return true;
}

static bool filter_selectattr(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    return select_items(run, of, args, true, true, ret);
}

static bool filter_rejectattr(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    return select_items(run, of, args, true, false, ret);
}

static bool filter_select(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    return select_items(run, of, args, false, true, ret);
}

static bool filter_reject(Run *run, const Value *of, const struct arguments *args, Value *ret) {
    return select_items(run, of, args, false, false, ret);
}

static const struct filter {
    const char *name;
    bool (*run)(Run *run, const Value *of, const struct arguments *args, Value *ret);
} filters[] = {
    {"capitalize", filter_capitalize},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"first", filter_first},
    {"int", filter_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_lower},
    {"map", filter_map},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"replace", filter_replace},
    {"reverse", filter_reverse},
    {"safe", filter_same},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"upper", filter_upper},
};

static const struct filter *find_filter(Text name) {
    for (size_t i = 0; i < ARRAY_SIZE(filters); i++)
        if (text_is(name, filters[i].name))
            return &filters[i];
    return NULL;
}

bool is_filter(Text name) {
    return find_filter(name) != NULL;
}

// NOLINTNEXTLINE(misc-no-recursion): map's filter is another
bool call_filter(Run *run, Text name, const Value *of, const struct arguments *args, Value *ret) {
    const struct filter *filter = find_filter(name);

    if (!filter)
        return run_fail(run, "there is no filter '%.*s'", (int)MIN(name.n, (size_t)64), name.bytes);
    return filter->run(run, of, args, ret);
}

/* ---- tests ---- */

enum test {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_INTEGER,
    TEST_NUMBER,
    TEST_STRING,
    TEST_MAPPING,
    TEST_SEQUENCE,
    TEST_ITERABLE,
    TEST_CALLABLE,
    TEST_ODD,
    TEST_EVEN,
    TEST_DIVISIBLE,
    TEST_EQUAL,
    TEST_UNEQUAL,
    TEST_LESS,
    TEST_GREATER,
    TEST_IN,
};

static const struct {
    const char *name;
    enum test test;
} tests[] = {
    {"defined", TEST_DEFINED},   {"undefined", TEST_UNDEFINED},
    {"none", TEST_NONE},         {"boolean", TEST_BOOLEAN},
    {"true", TEST_TRUE},         {"false", TEST_FALSE},
    {"integer", TEST_INTEGER},   {"number", TEST_NUMBER},
    {"string", TEST_STRING},     {"mapping", TEST_MAPPING},
    {"sequence", TEST_SEQUENCE}, {"iterable", TEST_ITERABLE},
    {"callable", TEST_CALLABLE}, {"odd", TEST_ODD},
    {"even", TEST_EVEN},         {"divisibleby", TEST_DIVISIBLE},
    {"equalto", TEST_EQUAL},     {"eq", TEST_EQUAL},
    {"==", TEST_EQUAL},          {"ne", TEST_UNEQUAL},
    {"!=", TEST_UNEQUAL},        {"lt", TEST_LESS},
    {"lessthan", TEST_LESS},     {"<", TEST_LESS},
    {"gt", TEST_GREATER},        {"greaterthan", TEST_GREATER},
    {">", TEST_GREATER},         {"in", TEST_IN},
};

static bool find_test(Text name, enum test *ret) {
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
        if (text_is(name, tests[i].name)) {
            *ret = tests[i].test;
            return true;
        }
    return false;
}

bool is_test(Text name) {
    enum test test;

    return find_test(name, &test);
}

/* Those that look at the value alone. */
static bool test_kind(enum test test, const Value *v) {
    switch (test) {
    case TEST_DEFINED:
        return v->kind != VALUE_UNDEFINED;
    case TEST_UNDEFINED:
        return v->kind == VALUE_UNDEFINED;
    case TEST_NONE:
        return v->kind == VALUE_NONE;
    case TEST_BOOLEAN:
        return v->kind == VALUE_BOOL;
    case TEST_TRUE:
        return v->kind == VALUE_BOOL && v->number;
    case TEST_FALSE:
        return v->kind == VALUE_BOOL && !v->number;
    case TEST_INTEGER:
        return v->kind == VALUE_NUMBER;
    case TEST_NUMBER:
        return v->kind == VALUE_NUMBER || v->kind == VALUE_BOOL;
    case TEST_STRING:
        return v->kind == VALUE_TEXT;
    case TEST_MAPPING:
        return v->kind == VALUE_MAP && !v->map->is_namespace;
    case TEST_CALLABLE:
        return v->kind == VALUE_FUNCTION;
    case TEST_SEQUENCE:
    case TEST_ITERABLE:
        return v->kind == VALUE_TEXT || v->kind == VALUE_LIST || v->kind == VALUE_UNDEFINED ||
               (v->kind == VALUE_MAP && !v->map->is_namespace);
    default:
        return false;
    }
}

static bool test_number(Run *run, enum test test, const Value *v, const struct arguments *args,
                        bool *ret) {
    int64_t number = 0, divisor = 2;

    if (!get_number(run, "a test", v, &number) ||
        (test == TEST_DIVISIBLE &&
         !get_number(run, "divisibleby", argument(args, 0, "num"), &divisor)))
        return false;
    if (divisor == 0)
        return run_fail(run, "nothing is divisible by 0");
    *ret = (divisor == -1 || number % divisor == 0) == (test != TEST_ODD);
    return true;
}

bool call_test(Run *run, Text name, const Value *of, const struct arguments *args, bool *ret) {
    const Value *other = argument(args, 0, "other");
    enum test test;
    int order;

    if (!find_test(name, &test))
        return run_fail(run, "there is no test '%.*s'", (int)MIN(name.n, (size_t)64), name.bytes);
    if (test >= TEST_EQUAL && !other)
        return run_fail(run, "a test lacks what to compare with");
    switch (test) {
    case TEST_ODD:
    case TEST_EVEN:
    case TEST_DIVISIBLE:
        return test_number(run, test, of, args, ret);
    case TEST_EQUAL:
        return value_equal(run, of, other, 0, ret);
    case TEST_UNEQUAL:
        if (!value_equal(run, of, other, 0, ret))
            return false;
        *ret = !*ret;
        return true;
    case TEST_LESS:
    case TEST_GREATER:
        if (!value_compare(run, of, other, &order))
            return false;
        *ret = test == TEST_LESS ? order < 0 : order > 0;
        return true;
    case TEST_IN:
        return value_in(run, of, other, ret);
    default:
        *ret = test_kind(test, of);
        return true;
    }
}

/* ---- methods ---- */

static bool ends_with(Run *run, Text text, Text name, const struct arguments *args, Value *ret) {
    bool at_start = text_is(name, "startswith");
    Text part;

    if (!get_text(run, at_start ? "startswith" : "endswith", argument(args, 0, ""), &part))
        return false;
    *ret = BOOL(part.n <= text.n &&
                text_equal(part, at_start ? text_slice(text, 0, part.n)
                                          : text_slice(text, text.n - part.n, text.n)));
    return run_charge_bytes(run, MIN(part.n, text.n));
}

/* Position of the first, by characters; -1: none. */
static bool find(Run *run, Text text, const struct arguments *args, Value *ret) {
    const struct arguments none = {.n = 0};
    Value before;
    Text part;
    size_t at;

    if (!get_text(run, "find", argument(args, 0, ""), &part))
        return false;
    at = text_find(text, 0, part);
    *ret = NUMBER(-1);
    if (at == text.n && part.n > 0)
        return run_charge_bytes(run, text.n);
    before = TEXT_VALUE(text_slice(text, 0, at));
    return filter_length(run, &before, &none, ret);
}

static bool call_text(Run *run, Text name, const Value *of, const struct arguments *args,
                      Value *ret) {
    const Value *first = argument(args, 0, "");
    Text text = of->text, part;

    if (text_is(name, "strip"))
        return strip(run, text, first, true, true, ret);
    if (text_is(name, "lstrip"))
        return strip(run, text, first, true, false, ret);
    if (text_is(name, "rstrip"))
        return strip(run, text, first, false, true, ret);
    if (text_is(name, "split"))
        return split(run, text, args, ret);
    if (text_is(name, "startswith") || text_is(name, "endswith"))
        return ends_with(run, text, name, args, ret);
    if (text_is(name, "find"))
        return find(run, text, args, ret);
    if (text_is(name, "count")) {
        if (!get_text(run, "count", first, &part))
            return false;
        if (part.n == 0)
            return run_fail(run, "count takes a string that is not empty");
        *ret = NUMBER((int64_t)count_parts(text, part, UNLIMITED));
        return run_charge_bytes(run, text.n);
    }
    if (text_is(name, "join")) {
        struct arguments by = {.values = {*of}, .n = 1, .n_positional = 1};

        return first ? filter_join(run, first, &by, ret) : run_fail(run, "join takes a list");
    }
    if (text_is(name, "replace"))
        return filter_replace(run, of, args, ret);
    if (text_is(name, "upper") || text_is(name, "lower") || text_is(name, "title") ||
        text_is(name, "capitalize"))
        return call_filter(run, name, of, args, ret);
    return run_fail(run, "strings have no method '%.*s'", (int)MIN(name.n, (size_t)64), name.bytes);
}

static bool call_map(Run *run, Text name, const Value *of, const struct arguments *args,
                     Value *ret) {
    const Value *key = argument(args, 0, ""), *otherwise = argument(args, 1, "");
    const Value *found;

    if (text_is(name, "items"))
        return filter_items(run, of, args, ret);
    if (text_is(name, "keys"))
        return filter_list(run, of, args, ret);
    if (text_is(name, "values")) {
        if (!list_new(run, of->map->n, ret))
            return false;
        for (size_t i = 0; i < of->map->n; i++)
            ret->list->items[i] = of->map->pairs[i].value;
        return true;
    }
    if (!text_is(name, "get"))
        return run_fail(run, "maps have no method '%.*s'", (int)MIN(name.n, (size_t)64),
                        name.bytes);
    found = key && key->kind == VALUE_TEXT ? map_find(run, of->map, key->text) : NULL;
    *ret = found ? *found : otherwise ? *otherwise : NONE_VALUE;
    return run->r == 0;
}

bool call_method(Run *run, Text name, const Value *of, const struct arguments *args, Value *ret) {
    if (of->kind == VALUE_TEXT)
        return call_text(run, name, of, args, ret);
    if (of->kind == VALUE_MAP)
        return call_map(run, name, of, args, ret);
    if (of->kind == VALUE_UNDEFINED)
        return run_fail(run, "'%.*s' is undefined", (int)MIN(of->text.n, (size_t)64),
                        of->text.bytes);
    return run_fail(run, "%s has no method '%.*s'", value_kind_name(of),
                    (int)MIN(name.n, (size_t)64), name.bytes);
}

/* ---- functions ---- */

static bool function_raise(Run *run, const struct arguments *args, Value *ret) {
    Text text = TEXT("");
    char shown[256];

    (void)ret;
    if (!get_text(run, "raise_exception", argument(args, 0, "message"), &text))
        return false;
    run->r = error_set(run->reterr, GK_E_INVALID, "the chat template refuses the conversation: %s",
                       utf8_printable(shown, sizeof(shown), text.bytes, text.n));
    return false;
}

static bool function_namespace(Run *run, const struct arguments *args, Value *ret) {
    if (args->n_positional > 0)
        return run_fail(run, "namespace takes its arguments by name");
    if (!map_new(run, args->n, ret))
        return false;
    ret->map->is_namespace = true;
    for (size_t i = 0; i < args->n; i++)
        if (!map_put(run, ret->map, args->names[i], args->values[i]))
            return false;
    return true;
}

static bool function_dict(Run *run, const struct arguments *args, Value *ret) {
    if (!function_namespace(run, args, ret))
        return false;
    ret->map->is_namespace = false;
    return true;
}

static bool function_range(Run *run, const struct arguments *args, Value *ret) {
    int64_t begin = 0, end = 0, step = 1;
    uint64_t n = 0;

    if (!get_number(run, "range", argument(args, args->n_positional > 1, ""), &end) ||
        (args->n_positional > 1 && !get_number(run, "range", &args->values[0], &begin)) ||
        (args->n_positional > 2 && !get_number(run, "range", &args->values[2], &step)))
        return false;
    if (step == 0)
        return run_fail(run, "range with a step of 0");
    if (step > 0 && end > begin)
        n = ((uint64_t)end - (uint64_t)begin - 1) / (uint64_t)step + 1;
    else if (step < 0 && end < begin)
        n = ((uint64_t)begin - (uint64_t)end - 1) / (0 - (uint64_t)step) + 1;
    if (n > JINJA_RANGE_MAX)
        return run_fail(run, "range has more than %d numbers", JINJA_RANGE_MAX);
    if (!list_new(run, n, ret))
        return false;
    for (uint64_t i = 0; i < n; i++)
        ret->list->items[i] = NUMBER((int64_t)((uint64_t)begin + i * (uint64_t)step));
    return true;
}

static const struct function {
    const char *name;
    bool (*run)(Run *run, const struct arguments *args, Value *ret);
} functions[] = {
    {"raise_exception", function_raise},
    {"namespace", function_namespace},
    {"dict", function_dict},
    {"range", function_range},
};

static const struct function *find_function(Text name) {
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
        if (text_is(name, functions[i].name))
            return &functions[i];
    return NULL;
}

bool is_function(Text name) {
    return find_function(name) != NULL;
}

bool call_function(Run *run, Text name, const struct arguments *args, Value *ret) {
    const struct function *function = find_function(name);

    if (!function)
        return run_fail(run, "there is no function '%.*s'", (int)MIN(name.n, (size_t)64),
                        name.bytes);
    return function->run(run, args, ret);
}
