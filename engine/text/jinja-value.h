/* Inside the templates: the values that they compute with, and what can be done with them. */
#pragma once

#include "base/arena.h"
#include "engine/text/jinja.h"

/* A view; its bytes are never NULL. Its marks say where each byte came from; NULL: all from the
 * template. */
typedef struct Text {
    const char *bytes;
    const uint8_t *marks;
    size_t n;
} Text;

#define TEXT(literal) ((Text){.bytes = (literal), .n = sizeof(literal) - 1})

enum value_kind {
    VALUE_UNDEFINED, /* text: what was asked for */
    VALUE_NONE,
    VALUE_BOOL, /* number 0 or 1 */
    VALUE_NUMBER,
    VALUE_TEXT,
    VALUE_LIST,
    VALUE_MAP,
    VALUE_LOOP,
    VALUE_FUNCTION,
};

typedef struct Value Value;
struct list {
    Value *items;
    size_t n;
};
struct pair;
struct map {
    struct pair *pairs; /* in the order in which they came */
    size_t n, capacity;
    bool is_namespace; /* its values may be set */
};
struct loop {
    const Value *items;
    size_t n, at;
};

struct Value {
    enum value_kind kind;
    union {
        int64_t number;
        Text text;
        struct list *list;
        struct map *map;
        const struct loop *loop;
    };
};
struct pair {
    Text key;
    Value value;
};

#define NUMBER(v)     ((Value){.kind = VALUE_NUMBER, .number = (v)})
#define BOOL(v)       ((Value){.kind = VALUE_BOOL, .number = (v)})
#define TEXT_VALUE(v) ((Value){.kind = VALUE_TEXT, .text = (v)})
#define UNDEFINED(v)  ((Value){.kind = VALUE_UNDEFINED, .text = (v)})
#define NONE_VALUE    ((Value){.kind = VALUE_NONE})

struct variable {
    Text name;
    Value value;
};

/* One rendering. Owner: template_render(). */
typedef struct Run {
    Arena arena;
    uint64_t work;
    uint32_t line; /* of the statement that runs */
    int r;         /* what went wrong: GK_E_INVALID or -ENOMEM; 0: nothing yet */
    Error *reterr;
    struct variable variables[JINJA_VARIABLES_MAX];
    size_t n_variables, scope; /* [scope, n_variables): those that the innermost loop set */
    struct jinja_output out;
    size_t out_capacity;
} Run;

/* Everything below that returns bool: false where the rendering has failed. */

/* Says in which line, and gives false. Macros, so that who reads the code sees that. */
#define run_fail(run, ...) (run_write_error((run), __VA_ARGS__), false)
#define run_no_memory(run) (run_note_memory(run), false)
void run_write_error(Run *run, const char *format, ...) PRINTF_FORMAT(2, 3);
void run_note_memory(Run *run);
/* Counts work. */
bool run_charge(Run *run, size_t n);
bool run_charge_bytes(Run *run, size_t n_bytes);

static inline bool text_is(Text a, const char *b) {
    return __builtin_strlen(b) == a.n && __builtin_memcmp(a.bytes, b, a.n) == 0;
}
bool text_equal(Text a, Text b);
/* Where `part` begins in the text at or after `from`; text.n: nowhere. */
size_t text_find(Text text, size_t from, Text part);
Text text_slice(Text text, size_t begin, size_t end);
/* Bytes of the character that n >= 1 bytes begin with, and whether Python's strip() takes it. */
size_t text_character(const char *bytes, size_t n, bool *ret_is_space);
#define JINJA_STRIP_BYTES_MAX 256 /* of such a set */
/* Without the characters of the set (NULL: white space) at the ends that are asked for. */
Text text_strip(Text text, const Text *set, bool at_start, bool at_end);
/* Writable: *ret_bytes is that of ret->bytes, likewise the marks, which are there where asked for.
 */
bool text_new(Run *run, size_t n, bool with_marks, Text *ret, char **ret_bytes,
              uint8_t **ret_marks);
bool text_join(Run *run, const Text *parts, size_t n, Text separator, Text *ret);

/* "a list", for sentences. */
const char *value_kind_name(const Value *v);
bool value_is_true(const Value *v);
/* As Python's str(); Jinja prints nothing for what is undefined. Lists and maps are refused. */
bool value_to_text(Run *run, const Value *v, Text *ret);
bool value_equal(Run *run, const Value *a, const Value *b, unsigned depth, bool *ret);
bool value_compare(Run *run, const Value *a, const Value *b, int *ret);
bool value_in(Run *run, const Value *a, const Value *in, bool *ret);
/* What a for loop goes through: a list's items, a map's keys, a text's characters. */
bool value_items(Run *run, const Value *v, struct list *ret);
bool value_get(Run *run, const Value *of, const Value *key, Value *ret);
bool value_slice(Run *run, const Value *v, const Value bounds[3], Value *ret);
bool value_add(Run *run, const Value *a, const Value *b, Value *ret);
bool list_new(Run *run, size_t n, Value *ret);
bool map_new(Run *run, size_t capacity, Value *ret);
/* NULL: there is none, or the rendering has failed: see run->r. */
Value *map_find(Run *run, const struct map *m, Text key);
bool map_put(Run *run, struct map *m, Text key, Value value);

/* Arguments of a call: the positional ones, then the keywords. */
#define JINJA_ARGUMENTS_MAX 8
struct arguments {
    Text names[JINJA_ARGUMENTS_MAX]; /* empty: positional */
    Value values[JINJA_ARGUMENTS_MAX];
    size_t n, n_positional;
};

/* jinja-calls.c */
bool call_filter(Run *run, Text name, const Value *of, const struct arguments *args, Value *ret);
bool call_test(Run *run, Text name, const Value *of, const struct arguments *args, bool *ret);
bool call_method(Run *run, Text name, const Value *of, const struct arguments *args, Value *ret);
bool call_function(Run *run, Text name, const struct arguments *args, Value *ret);
bool is_function(Text name);
/* While parsing: what is not there is refused before anything runs. */
bool is_filter(Text name);
bool is_test(Text name);
