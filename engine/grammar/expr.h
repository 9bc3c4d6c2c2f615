/*
 * What the parsers of constraints make, and network.c makes a network of: regular expressions over
 * Unicode characters and bytes, with rules that may call each other.
 *
 * Expressions are numbers into one arena. Building never fails on its own: the first thing that
 * goes wrong (memory, a maximum) is remembered, everything after it is harmless, and
 * exprs_check() tells at the end.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPRS_MAX        (1u << 18)
#define EXPR_RULES_MAX   (1u << 16)
#define EXPR_RANGES_MAX  (1u << 18) /* of all character sets */
#define EXPR_BYTES_MAX   (1u << 20) /* of all literals */
#define EXPR_REPEAT_MAX  10000u     /* in {m,n}, minLength, maxItems, … */
#define EXPR_NESTING_MAX 128        /* groups in groups, schemas in schemas */
#define EXPR_UNLIMITED   UINT32_MAX

typedef uint32_t Expr;

enum expr_type {
    EXPR_TEXT,   /* bytes [a, a + b); none: the empty text */
    EXPR_CHARS,  /* one character of ranges [a, a + b); none: nothing matches */
    EXPR_SEQ,    /* a, then b */
    EXPR_ALT,    /* a or b */
    EXPR_REPEAT, /* a, from b to c times */
    EXPR_CALL,   /* rule a */
};

struct expr {
    enum expr_type type;
    uint32_t a, b, c;
};

/* Code points, both ends belong to it. */
struct char_range {
    uint32_t low, high;
};

struct expr_rule {
    Expr body;
    bool is_defined;
    const char *name; /* for messages, n_name bytes of the source; n_name 0: none */
    size_t n_name;
};

/* Owner: the one who compiles. */
typedef struct Exprs {
    struct expr *exprs;
    struct char_range *ranges;
    uint8_t *bytes;
    struct expr_rule *rules;
    uint32_t n, n_ranges, n_bytes, n_rules;
    uint32_t capacity, ranges_capacity, bytes_capacity, rules_capacity;
    int result;
    Error error;
} Exprs;

int exprs_init(Exprs *x);
void exprs_deinit(Exprs *x);
/* Returns 0, or what went wrong: GK_E_INVALID, -ENOMEM. */
int exprs_check(const Exprs *x, Error *reterr);

#define EXPR_EMPTY   0u /* the empty text */
#define EXPR_NOTHING 1u /* no text at all */

Expr expr_text(Exprs *x, const void *bytes, size_t n);
Expr expr_string(Exprs *x, const char *text);
Expr expr_seq(Exprs *x, Expr a, Expr b);
Expr expr_alt(Exprs *x, Expr a, Expr b);
/* max EXPR_UNLIMITED: no end. */
Expr expr_repeat(Exprs *x, Expr a, uint32_t min, uint32_t max);
Expr expr_optional(Exprs *x, Expr a);
Expr expr_call(Exprs *x, uint32_t rule);
/* A rule to be called from now on and defined later. */
uint32_t expr_rule_new(Exprs *x, const char *name, size_t n_name);
void expr_rule_define(Exprs *x, uint32_t rule, Expr body);
/* The same expression, of which copies cost next to nothing. */
Expr expr_shared(Exprs *x, Expr a);

/* ---- sets of characters ---- */

#define CHAR_MAX_CODE 0x10ffffu

typedef struct CharSet {
    struct char_range *ranges;
    size_t n, capacity;
    bool has_failed; /* out of memory */
} CharSet;

void charset_deinit(CharSet *s);
void charset_add(CharSet *s, uint32_t low, uint32_t high);
void charset_add_set(CharSet *s, const CharSet *other);
/* Sorts and joins. */
void charset_normalize(CharSet *s);
/* Normalises too. */
void charset_negate(CharSet *s);
bool charset_has(const CharSet *s, uint32_t code);
/* One character of the set; surrogates, which UTF-8 has not, are left out. Normalises the set. */
Expr expr_chars(Exprs *x, CharSet *s);
Expr expr_range(Exprs *x, uint32_t low, uint32_t high);
