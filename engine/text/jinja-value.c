/* See jinja-value.h. */
#include "engine/text/jinja-value.h"

#include "base/checked.h"
#include "base/utf8.h"
#include "engine/engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- failing ---- */

void run_write_error(Run *run, const char *format, ...) {
    char text[ERROR_TEXT_MAX];
    va_list args;

    if (run->r)
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    run->r = error_set(run->reterr, GK_E_INVALID, "chat template, line %u: %s", run->line, text);
}

void run_note_memory(Run *run) {
    if (run->r)
        return;
    if (run->arena.max - run->arena.n_bytes < JINJA_MEMORY_BYTES_MAX / 2)
        run_write_error(run, "the template takes more than %u MiB of memory",
                        JINJA_MEMORY_BYTES_MAX >> 20);
    else
        run->r = error_set(run->reterr, -ENOMEM, "out of memory");
}

bool run_charge(Run *run, size_t n) {
    run->work += n;
    return run->work <= JINJA_WORK_MAX || run_fail(run, "the template takes too many steps");
}

bool run_charge_bytes(Run *run, size_t n_bytes) {
    return run_charge(run, 1 + n_bytes / 16);
}

/* ---- texts ---- */

bool text_equal(Text a, Text b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.bytes, b.bytes, a.n) == 0);
}

size_t text_find(Text text, size_t from, Text part) {
    const char *found;

    if (part.n == 0 || part.n > text.n - from)
        return part.n == 0 ? from : text.n;
    found = memmem(text.bytes + from, text.n - from, part.bytes, part.n);
    return found ? (size_t)(found - text.bytes) : text.n;
}

Text text_slice(Text text, size_t begin, size_t end) {
    return (Text){.bytes = text.bytes + begin,
                  .marks = text.marks ? text.marks + begin : NULL,
                  .n = end - begin};
}

static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t text_character(const char *bytes, size_t n, bool *ret_is_space) {
    uint32_t code = 0;
    size_t length = utf8_decode(bytes, n, &code);

    *ret_is_space = length > 0 && is_space(code);
    return length > 0 ? length : 1;
}

static bool is_stripped(const char *bytes, size_t n, const Text *set) {
    bool is;

    (void)text_character(bytes, n, &is);
    if (!set)
        return is;
    for (size_t at = 0, length; at < set->n; at += length) {
        length = text_character(set->bytes + at, set->n - at, &is);
        if (length == n && memcmp(set->bytes + at, bytes, n) == 0)
            return true;
    }
    return false;
}

Text text_strip(Text text, const Text *set, bool at_start, bool at_end) {
    bool is;

    while (at_start && text.n > 0) {
        size_t n = text_character(text.bytes, text.n, &is);

        if (!is_stripped(text.bytes, n, set))
            break;
        text = text_slice(text, n, text.n);
    }
    while (at_end && text.n > 0) {
        size_t n = 1;

        while (n < 4 && n < text.n && (text.bytes[text.n - n] & 0xc0) == 0x80)
            n++;
        if (text_character(text.bytes + text.n - n, n, &is) != n)
            n = 1;
        if (!is_stripped(text.bytes + text.n - n, n, set))
            break;
        text.n -= n;
    }
    return text;
}

bool text_new(Run *run, size_t n, bool with_marks, Text *ret, char **ret_bytes,
              uint8_t **ret_marks) {
    *ret_bytes = arena_alloc(&run->arena, n + 1, 1);
    *ret_marks = with_marks && *ret_bytes ? arena_alloc(&run->arena, n + 1, 1) : NULL;
    if (!*ret_bytes || (with_marks && !*ret_marks))
        return run_no_memory(run);
    *ret = (Text){.bytes = *ret_bytes, .marks = *ret_marks, .n = n};
    return run_charge_bytes(run, n);
}

static void put(Text part, char **bytes, uint8_t **marks) {
    if (part.n == 0)
        return;
    (void)memcpy(*bytes, part.bytes, part.n);
    *bytes += part.n;
    if (!*marks)
        return;
    if (part.marks)
        (void)memcpy(*marks, part.marks, part.n); /* else zero already: the template's */
    *marks += part.n;
}

bool text_join(Run *run, const Text *parts, size_t n, Text separator, Text *ret) {
    bool with_marks = separator.marks != NULL;
    uint64_t n_all = 0;
    uint8_t *marks;
    char *bytes;

    for (size_t i = 0; i < n; i++) {
        with_marks |= parts[i].marks != NULL;
        if (!checked_add(n_all, parts[i].n, &n_all) ||
            (i > 0 && !checked_add(n_all, separator.n, &n_all)))
            return run_no_memory(run);
    }
    if (!run_charge(run, n) || !text_new(run, n_all, with_marks, ret, &bytes, &marks))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            put(separator, &bytes, &marks);
        put(parts[i], &bytes, &marks);
    }
    return true;
}

/* ---- lists and maps ---- */

bool list_new(Run *run, size_t n, Value *ret) {
    struct list *list = arena_new(&run->arena, struct list);

    if (!list)
        return run_no_memory(run);
    list->items = arena_alloc(&run->arena, MAX(n, (size_t)1), sizeof(*list->items));
    if (!list->items)
        return run_no_memory(run);
    list->n = n;
    *ret = (Value){.kind = VALUE_LIST, .list = list};
    return run_charge(run, n);
}

bool map_new(Run *run, size_t capacity, Value *ret) {
    struct map *map = arena_new(&run->arena, struct map);

    if (!map)
        return run_no_memory(run);
    map->capacity = MAX(capacity, (size_t)4);
    map->pairs = arena_alloc(&run->arena, map->capacity, sizeof(*map->pairs));
    if (!map->pairs)
        return run_no_memory(run);
    *ret = (Value){.kind = VALUE_MAP, .map = map};
    return run_charge(run, capacity);
}

Value *map_find(Run *run, const struct map *m, Text key) {
    if (!run_charge(run, 1 + m->n * (1 + key.n / 64) / 8))
        return NULL;
    for (size_t i = 0; i < m->n; i++)
        if (text_equal(m->pairs[i].key, key))
            return &m->pairs[i].value;
    return NULL;
}

bool map_put(Run *run, struct map *m, Text key, Value value) {
    Value *found = map_find(run, m, key);

    if (run->r)
        return false;
    if (found) {
        *found = value;
        return true;
    }
    if (m->n == m->capacity) {
        struct pair *larger = arena_alloc(&run->arena, 2 * m->capacity, sizeof(*larger));

        if (!larger)
            return run_no_memory(run);
        (void)memcpy(larger, m->pairs, m->n * sizeof(*larger));
        m->pairs = larger;
        m->capacity *= 2;
    }
    m->pairs[m->n++] = (struct pair){.key = key, .value = value};
    return true;
}

/* ---- questions ---- */

const char *value_kind_name(const Value *v) {
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "what is undefined",
        [VALUE_NONE] = "none",
        [VALUE_BOOL] = "true or false",
        [VALUE_NUMBER] = "a number",
        [VALUE_TEXT] = "a string",
        [VALUE_LIST] = "a list",
        [VALUE_MAP] = "a map",
        [VALUE_LOOP] = "a loop",
        [VALUE_FUNCTION] = "a function",
    };

    return names[v->kind];
}

bool value_is_true(const Value *v) {
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
    case VALUE_NUMBER:
        return v->number != 0;
    case VALUE_TEXT:
        return v->text.n > 0;
    case VALUE_LIST:
        return v->list->n > 0;
    case VALUE_MAP:
        return v->map->is_namespace || v->map->n > 0;
    default:
        return true;
    }
}

bool value_to_text(Run *run, const Value *v, Text *ret) {
    char number[24];
    uint8_t *marks;
    char *bytes;
    int n;

    switch (v->kind) {
    case VALUE_TEXT:
        *ret = v->text;
        return true;
    case VALUE_UNDEFINED:
        *ret = TEXT("");
        return true;
    case VALUE_NONE:
        *ret = TEXT("None");
        return true;
    case VALUE_BOOL:
        *ret = v->number ? TEXT("True") : TEXT("False");
        return true;
    case VALUE_NUMBER:
        n = snprintf(number, sizeof(number), "%" PRId64, v->number);
        if (!text_new(run, (size_t)n, false, ret, &bytes, &marks))
            return false;
        (void)memcpy(bytes, number, (size_t)n);
        return true;
    default:
        return run_fail(run, "%s can't be printed; use tojson", value_kind_name(v));
    }
}

static bool is_number(const Value *v) {
    return v->kind == VALUE_NUMBER || v->kind == VALUE_BOOL;
}

static bool lists_equal(Run *run, const struct list *a, const struct list *b, unsigned depth,
                        bool *ret) {
    *ret = a->n == b->n;
    for (size_t i = 0; *ret && i < a->n; i++)
        if (!value_equal(run, &a->items[i], &b->items[i], depth + 1, ret))
            return false;
    return true;
}

static bool maps_equal(Run *run, const struct map *a, const struct map *b, unsigned depth,
                       bool *ret) {
    *ret = a->n == b->n;
    for (size_t i = 0; *ret && i < a->n; i++) {
        const Value *other = map_find(run, b, a->pairs[i].key);

        if (run->r)
            return false;
        *ret = other != NULL;
        if (other && !value_equal(run, &a->pairs[i].value, other, depth + 1, ret))
            return false;
    }
    return true;
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as JINJA_DEPTH_MAX
bool value_equal(Run *run, const Value *a, const Value *b, unsigned depth, bool *ret) {
    if (depth > JINJA_DEPTH_MAX)
        return run_fail(run, "values are nested too deeply to be compared");
    if (!run_charge(run, 1))
        return false;
    if (is_number(a) && is_number(b)) {
        *ret = a->number == b->number;
        return true;
    }
    *ret = a->kind == b->kind;
    if (!*ret)
        return true;
    switch (a->kind) {
    case VALUE_TEXT:
        *ret = text_equal(a->text, b->text);
        return run_charge_bytes(run, a->text.n);
    case VALUE_LIST:
        return lists_equal(run, a->list, b->list, depth, ret);
    case VALUE_MAP:
        return maps_equal(run, a->map, b->map, depth, ret);
    default:
        return true;
    }
}

bool value_compare(Run *run, const Value *a, const Value *b, int *ret) {
    if (is_number(a) && is_number(b)) {
        *ret = (a->number > b->number) - (a->number < b->number);
        return true;
    }
    if (a->kind != VALUE_TEXT || b->kind != VALUE_TEXT)
        return run_fail(run, "%s and %s have no order", value_kind_name(a), value_kind_name(b));
    *ret = memcmp(a->text.bytes, b->text.bytes, MIN(a->text.n, b->text.n));
    if (*ret == 0)
        *ret = (a->text.n > b->text.n) - (a->text.n < b->text.n);
    return run_charge_bytes(run, MIN(a->text.n, b->text.n));
}

bool value_in(Run *run, const Value *a, const Value *in, bool *ret) {
    *ret = false;
    switch (in->kind) {
    case VALUE_TEXT:
        if (a->kind != VALUE_TEXT)
            return run_fail(run, "%s can't be in a string", value_kind_name(a));
        *ret = a->text.n == 0 || text_find(in->text, 0, a->text) < in->text.n;
        return run_charge_bytes(run, in->text.n);
    case VALUE_LIST:
        for (size_t i = 0; !*ret && i < in->list->n; i++)
            if (!value_equal(run, a, &in->list->items[i], 0, ret))
                return false;
        return true;
    case VALUE_MAP:
        *ret = a->kind == VALUE_TEXT && map_find(run, in->map, a->text);
        return run->r == 0;
    case VALUE_UNDEFINED:
        return true;
    default:
        return run_fail(run, "nothing can be in %s", value_kind_name(in));
    }
}

/* ---- parts ---- */

static size_t n_characters(Text text) {
    size_t n = 0;
    bool is;

    for (size_t at = 0; at < text.n; n++)
        at += text_character(text.bytes + at, text.n - at, &is);
    return n;
}

static bool characters(Run *run, Text text, struct list *ret) {
    size_t n = n_characters(text), at = 0;
    Value list;
    bool is;

    if (!run_charge_bytes(run, text.n) || !list_new(run, n, &list))
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t length = text_character(text.bytes + at, text.n - at, &is);

        list.list->items[i] = TEXT_VALUE(text_slice(text, at, at + length));
        at += length;
    }
    *ret = *list.list;
    return true;
}

bool value_items(Run *run, const Value *v, struct list *ret) {
    Value keys;

    switch (v->kind) {
    case VALUE_LIST:
        *ret = *v->list;
        return true;
    case VALUE_TEXT:
        return characters(run, v->text, ret);
    case VALUE_MAP:
        if (!list_new(run, v->map->n, &keys))
            return false;
        for (size_t i = 0; i < v->map->n; i++)
            keys.list->items[i] = TEXT_VALUE(v->map->pairs[i].key);
        *ret = *keys.list;
        return true;
    case VALUE_UNDEFINED:
        *ret = (struct list){.n = 0};
        return true;
    default:
        return run_fail(run, "%s has no items", value_kind_name(v));
    }
}

static void get_of_loop(const struct loop *loop, Text name, Value *ret) {
    int64_t n = (int64_t)loop->n, at = (int64_t)loop->at;

    if (text_is(name, "index"))
        *ret = NUMBER(at + 1);
    else if (text_is(name, "index0"))
        *ret = NUMBER(at);
    else if (text_is(name, "first"))
        *ret = BOOL(at == 0);
    else if (text_is(name, "last"))
        *ret = BOOL(at == n - 1);
    else if (text_is(name, "length"))
        *ret = NUMBER(n);
    else if (text_is(name, "revindex"))
        *ret = NUMBER(n - at);
    else if (text_is(name, "revindex0"))
        *ret = NUMBER(n - at - 1);
    else if (text_is(name, "previtem") && at > 0)
        *ret = loop->items[at - 1];
    else if (text_is(name, "nextitem") && at < n - 1)
        *ret = loop->items[at + 1];
}

/* Bytes before the character; text.n: there are fewer. */
static size_t text_offset(Text text, int64_t i_character) {
    size_t at = 0;
    bool is;

    while (i_character-- > 0 && at < text.n)
        at += text_character(text.bytes + at, text.n - at, &is);
    return at;
}

static bool get_by_number(Run *run, const Value *of, int64_t at, Value *ret) {
    int64_t n;

    if (of->kind != VALUE_LIST && of->kind != VALUE_TEXT)
        return true;
    if (of->kind == VALUE_TEXT && !run_charge_bytes(run, of->text.n))
        return false; /* also where there is no such character */
    n = (int64_t)(of->kind == VALUE_LIST ? of->list->n : n_characters(of->text));
    if (at < 0)
        at += n;
    if (at < 0 || at >= n)
        return true;
    if (of->kind == VALUE_LIST) {
        *ret = of->list->items[at];
        return true;
    }
    *ret =
        TEXT_VALUE(text_slice(of->text, text_offset(of->text, at), text_offset(of->text, at + 1)));
    return true;
}

bool value_get(Run *run, const Value *of, const Value *key, Value *ret) {
    Value *found;

    if (of->kind == VALUE_UNDEFINED)
        return run_fail(run, "'%.*s' is undefined", (int)MIN(of->text.n, (size_t)64),
                        of->text.bytes);
    *ret = UNDEFINED(key->kind == VALUE_TEXT ? key->text : TEXT("an item"));
    if (is_number(key))
        return get_by_number(run, of, key->number, ret);
    if (key->kind != VALUE_TEXT)
        return true;
    if (of->kind == VALUE_LOOP)
        get_of_loop(of->loop, key->text, ret);
    if (of->kind == VALUE_MAP && (found = map_find(run, of->map, key->text)) != NULL)
        *ret = *found;
    return run->r == 0;
}

/* As Python's slice.indices(). */
static int64_t bound(const Value *v, int64_t n, int64_t if_none, int64_t lowest, int64_t highest) {
    int64_t at = v->number;

    if (v->kind == VALUE_NONE)
        return if_none;
    if (at < 0)
        at = at < -n ? lowest : at + n;
    at = MIN(at, highest);
    return MAX(lowest, at);
}

static bool slice_text(Run *run, Text text, int64_t begin, int64_t count, int64_t step,
                       Value *ret) {
    struct list items;
    Text *parts, sliced;

    if (step == 1 || count == 0) {
        size_t from = text_offset(text, begin);
        size_t n = text_offset(text_slice(text, from, text.n), count);

        *ret = TEXT_VALUE(text_slice(text, from, from + n));
        return run_charge_bytes(run, text.n);
    }
    parts = arena_alloc(&run->arena, (size_t)count, sizeof(*parts));
    if (!parts)
        return run_no_memory(run);
    if (!characters(run, text, &items))
        return false;
    for (int64_t i = 0; i < count; i++)
        parts[i] = items.items[begin + i * step].text;
    if (!text_join(run, parts, (size_t)count, TEXT(""), &sliced))
        return false;
    *ret = TEXT_VALUE(sliced);
    return true;
}

bool value_slice(Run *run, const Value *v, const Value bounds[3], Value *ret) {
    int64_t n, step = bounds[2].kind == VALUE_NONE ? 1 : bounds[2].number, begin, end, count;

    for (int i = 0; i < 3; i++)
        if (bounds[i].kind != VALUE_NONE && !is_number(&bounds[i]))
            return run_fail(run, "a slice's bound is %s", value_kind_name(&bounds[i]));
    if (v->kind != VALUE_LIST && v->kind != VALUE_TEXT)
        return run_fail(run, "%s has no slices", value_kind_name(v));
    if (step == 0)
        return run_fail(run, "a slice's step is 0");
    n = (int64_t)(v->kind == VALUE_LIST ? v->list->n : n_characters(v->text));
    step = MIN(step, n + 1); /* further steps go nowhere else */
    step = MAX(step, -n - 1);
    begin = bound(&bounds[0], n, step > 0 ? 0 : n - 1, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    end = bound(&bounds[1], n, step > 0 ? n : -1, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    count = step > 0 ? (end - begin + step - 1) / step : (begin - end - step - 1) / -step;
    if ((step > 0 && begin >= end) || (step < 0 && begin <= end))
        count = 0;
    if (v->kind == VALUE_TEXT)
        return slice_text(run, v->text, begin, count, step, ret);
    if (!list_new(run, (size_t)count, ret))
        return false;
    for (int64_t i = 0; i < count; i++)
        ret->list->items[i] = v->list->items[begin + i * step];
    return true;
}

bool value_add(Run *run, const Value *a, const Value *b, Value *ret) {
    int64_t sum;
    Text text;

    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED) {
        Text name = a->kind == VALUE_UNDEFINED ? a->text : b->text;

        return run_fail(run, "'%.*s' is undefined", (int)MIN(name.n, (size_t)64), name.bytes);
    }
    if (is_number(a) && is_number(b)) {
        if (__builtin_add_overflow(a->number, b->number, &sum))
            return run_fail(run, "a number is too large");
        *ret = NUMBER(sum);
        return true;
    }
    if (a->kind == VALUE_TEXT && b->kind == VALUE_TEXT) {
        if (!text_join(run, (Text[]){a->text, b->text}, 2, TEXT(""), &text))
            return false;
        *ret = TEXT_VALUE(text);
        return true;
    }
    if (a->kind != VALUE_LIST || b->kind != VALUE_LIST)
        return run_fail(run, "%s and %s can't be added", value_kind_name(a), value_kind_name(b));
    if (!list_new(run, a->list->n + b->list->n, ret))
        return false;
    (void)memcpy(ret->list->items, a->list->items, a->list->n * sizeof(Value));
    (void)memcpy(ret->list->items + a->list->n, b->list->items, b->list->n * sizeof(Value));
    return true;
}
