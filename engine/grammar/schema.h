/* Inside the schema parser: schema.c, schema-disjoint.c, schema-merge.c, schema-number.c,
 * schema-string.c. */
#pragma once

#include "engine/grammar/grammar.h"

#include <jansson.h>

#define SCHEMA_VISITS_MAX    20000  /* schemas looked at, counted each time */
#define SCHEMA_MERGE_VISITS  4      /* that merging two counts for */
#define SCHEMA_COMPARED_MAX  20000  /* pairs of schemas */
#define SCHEMA_COPIED_MAX    100000 /* keywords and properties, by merging */
#define SCHEMA_KEY_BYTES_MAX 256
#define SCHEMA_LENGTHS       16
#define SCHEMA_PATH_BYTES    192

enum schema_types {
    SCHEMA_NULL = 1 << 0,
    SCHEMA_BOOLEAN = 1 << 1,
    SCHEMA_INTEGER = 1 << 2,
    SCHEMA_NUMBER = 1 << 3,
    SCHEMA_STRING = 1 << 4,
    SCHEMA_ARRAY = 1 << 5,
    SCHEMA_OBJECT = 1 << 6,
    SCHEMA_ALL = (1 << 7) - 1,
};

struct schema_ref {
    const json_t *schema;
    uint32_t rule;
};

/* Strings of so many characters, of which each is made once. */
struct schema_length {
    uint32_t min, max;
    Expr e;
};

/* Owner: schema_parse(). */
typedef struct Schema {
    Exprs *x;
    const char *source;
    size_t n_source;
    json_t *root, *made; /* made: an array that keeps what merging makes */
    struct schema_ref *refs;
    size_t n_refs, refs_capacity;
    char path[SCHEMA_PATH_BYTES]; /* JSON pointer of where we are, for messages */
    size_t n_path;
    unsigned nesting;
    uint32_t n_visits, n_compared;
    size_t n_copied;
    int result;
    Error *reterr;
    Expr gap, text_char, any_text, any_value; /* shared by all of the document */
    Expr any_name;                            /* the rest of a name, and its closing quote */
    struct schema_length lengths[SCHEMA_LENGTHS];
    size_t n_lengths;
} Schema;

/* All of these give something harmless once s->result is set. */

void schema_refuse(Schema *s, const char *format, ...) PRINTF_FORMAT(2, 3);
void schema_no_memory(Schema *s);
/* One more schema is looked at; false: that is too many. */
bool schema_visit(Schema *s);
Expr schema_compile(Schema *s, const json_t *schema);
/* What a local $ref points to; NULL: refused. */
const json_t *schema_target(Schema *s, const json_t *ref);
/* It says something about values, beside `except` (NULL: nothing to leave out). */
bool schema_has_constraint(const json_t *schema, const char *except);
/* False: no annotation, container or keyword that we know. */
bool schema_is_annotation(const char *key);
/* The bits of `type`; those that other keywords imply where there is none. */
unsigned schema_types(Schema *s, const json_t *schema);
/* A whole number of at least 0; `otherwise` where the keyword is not there. */
uint32_t schema_count(Schema *s, const json_t *schema, const char *key, uint32_t otherwise);

/* The value is of one of the types. */
bool schema_has_type(const json_t *value, unsigned types);

/* schema-disjoint.c: no value satisfies both, as far as can be seen. */
bool schema_are_disjoint(Schema *s, const json_t *a, const json_t *b);

/* schema-merge.c: one schema that says what both say. Lives as long as s. */
const json_t *schema_merge(Schema *s, const json_t *a, const json_t *b);
/* The schema with this keyword taken out. */
json_t *schema_without(Schema *s, const json_t *schema, const char *key);

/* schema-number.c */
Expr schema_number(Schema *s, const json_t *schema, bool is_integer);

/* schema-string.c */
Expr schema_string(Schema *s, const json_t *schema);
Expr schema_quoted(Schema *s, Expr inside);
/* One character of a string: as it is, or in any of its escapes but those of surrogates. */
Expr schema_text_char(Schema *s);
