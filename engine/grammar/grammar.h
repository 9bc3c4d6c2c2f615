/*
 * Constraints on generated text: a JSON schema, a regular expression or a grammar in GBNF becomes
 * a network (network.h), which a sequence's matcher (match.h) follows.
 *
 * The three parsers take any bytes. They refuse by name and place what they do not know, and what
 * is more than a maximum: none of them crashes, hangs or takes memory without a bound.
 */
#pragma once

#include "engine/engine.h"
#include "engine/grammar/network.h"

#include <stdatomic.h>

/* Owner: all that hold a reference. Thread: any, once made. */
struct GkConstraint {
    atomic_size_t n_refs;
    Network network;
};

/* How characters of a regular expression come out. */
enum regex_style {
    REGEX_WHOLE,       /* the whole text matches */
    REGEX_JSON_WHOLE,  /* the same within a JSON string: what needs an escape has it */
    REGEX_JSON_SEARCH, /* a part of the JSON string matches, as `pattern` in a schema means it */
};

/* Each adds rules and gives the expression of the whole; the source is UTF-8. Returns GK_E_INVALID
 * or -ENOMEM; what `x` itself remembers is told by exprs_check(). */
int regex_parse(Exprs *x, const char *source, size_t n, enum regex_style style, Expr *ret,
                Error *reterr);
int gbnf_parse(Exprs *x, const char *source, size_t n, Expr *ret, Error *reterr);
int schema_parse(Exprs *x, const char *source, size_t n, Expr *ret, Error *reterr);

/* One character of the set inside a JSON string. */
Expr regex_json_chars(Exprs *x, CharSet *set);
