/*
 * GBNF, the grammars of llama.cpp:
 *
 *     # comment
 *     root ::= "text\n" item{1,3} ("a" | [^b-z])* .
 *     item ::= …
 *
 * A rule goes to the end of its line; within parentheses, after `::=` and after `|` it goes on. The
 * text must satisfy `root`.
 */
#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/grammar/grammar.h"

#include <stdio.h>
#include <string.h>

#define NAME_BYTES_MAX 128
#define NAME_SLOTS     (2 * EXPR_RULES_MAX)

struct gbnf {
    Exprs *x;
    const char *text;
    size_t n, at;
    unsigned nesting;
    uint32_t *slots; /* (NAME_SLOTS) rules by name, + 1 */
    int result;
    Error *reterr;
};

static void refuse(struct gbnf *g, size_t where, const char *format, ...) PRINTF_FORMAT(3, 4);

static void refuse(struct gbnf *g, size_t where, const char *format, ...) {
    size_t line = 1, column = 1;
    char sentence[256];
    va_list arguments;

    if (g->result != 0)
        return;
    for (size_t i = 0; i < where && i < g->n; i++, column++)
        if (g->text[i] == '\n') {
            line++;
            column = 0;
        }
    va_start(arguments, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    g->result = error_set(g->reterr, GK_E_INVALID, "the grammar at line %zu, column %zu: %s", line,
                          column, sentence);
    g->at = g->n; /* every loop ends */
}

/* ---- reading ---- */

static char peek(const struct gbnf *g) {
    return g->at < g->n ? g->text[g->at] : '\0';
}

static bool take(struct gbnf *g, const char *word) {
    size_t n = strlen(word);

    if (g->n - g->at < n || memcmp(g->text + g->at, word, n) != 0)
        return false;
    g->at += n;
    return true;
}

/* Blanks and comments, and line ends where the rule goes on. */
static void skip(struct gbnf *g, bool with_lines) {
    for (; g->at < g->n; g->at++) {
        char c = peek(g);

        if (c == '#')
            while (g->at + 1 < g->n && g->text[g->at + 1] != '\n' && g->text[g->at + 1] != '\r')
                g->at++;
        else if (c != ' ' && c != '\t' && !(with_lines && (c == '\n' || c == '\r')))
            return;
    }
}

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t take_name(struct gbnf *g) {
    size_t where = g->at;

    while (is_name_char(peek(g)))
        g->at++;
    if (g->at - where > NAME_BYTES_MAX)
        refuse(g, where, "a rule's name has at most %d bytes", NAME_BYTES_MAX);
    return g->at - where;
}

/* The rule of this name, made where there is none yet. */
static uint32_t find_rule(struct gbnf *g, const char *name, size_t n) {
    uint32_t hash = 2166136261u, i;

    if (g->x->result != 0)
        return 0;
    for (size_t k = 0; k < n; k++)
        hash = (hash ^ (uint8_t)name[k]) * 16777619u;
    for (i = (hash ^ hash >> 15) % NAME_SLOTS; g->slots[i] != 0; i = (i + 1) % NAME_SLOTS) {
        const struct expr_rule *rule = &g->x->rules[g->slots[i] - 1];

        if (rule->n_name == n && memcmp(rule->name, name, n) == 0)
            return g->slots[i] - 1;
    }
    g->slots[i] = expr_rule_new(g->x, name, n) + 1;
    return g->slots[i] - 1;
}

/* ---- characters ---- */

static uint32_t take_hex(struct gbnf *g, size_t n) {
    size_t where = g->at;
    uint32_t code = 0;

    for (size_t i = 0; i < n; i++, g->at++) {
        char c = peek(g);

        if (c >= '0' && c <= '9')
            code = code << 4 | (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            code = code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        else {
            refuse(g, where, "%zu hexadecimal digits are needed here", n);
            return 0;
        }
    }
    if (code > CHAR_MAX_CODE)
        refuse(g, where, "there is no character U+%X", code);
    return MIN(code, CHAR_MAX_CODE);
}

static uint32_t take_char(struct gbnf *g) {
    size_t where = g->at;
    uint32_t code = 0;
    char c;

    if (!take(g, "\\")) {
        if (g->at < g->n)
            g->at += utf8_decode(g->text + g->at, g->n - g->at, &code);
        return code;
    }
    c = peek(g);
    g->at += g->at < g->n;
    switch (c) {
    case 'x':
        return take_hex(g, 2);
    case 'u':
        return take_hex(g, 4);
    case 'U':
        return take_hex(g, 8);
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        return (uint32_t)c;
    default:
        refuse(g, where, "this escape is not known");
        return 0;
    }
}

static Expr parse_literal(struct gbnf *g) {
    size_t where = g->at - 1;
    Expr e = EXPR_EMPTY;

    while (g->at < g->n && peek(g) != '"' && peek(g) != '\n') {
        uint32_t code = take_char(g);

        e = expr_seq(g->x, e, expr_range(g->x, code, code));
    }
    if (!take(g, "\""))
        refuse(g, where, "the text is not closed");
    return e;
}

static Expr parse_set(struct gbnf *g) {
    size_t where = g->at - 1;
    bool is_negated = take(g, "^");
    CharSet set = {.n = 0};
    Expr e;

    while (g->at < g->n && peek(g) != ']' && peek(g) != '\n') {
        size_t first = g->at;
        uint32_t low = take_char(g), high = low;

        if (peek(g) == '-' && g->at + 1 < g->n && g->text[g->at + 1] != ']' &&
            g->text[g->at + 1] != '\n') {
            g->at++;
            high = take_char(g);
        }
        if (low > high)
            refuse(g, first, "the range's ends are in the wrong order");
        charset_add(&set, low, high);
    }
    if (!take(g, "]"))
        refuse(g, where, "the character set is not closed");
    if (is_negated)
        charset_negate(&set);
    e = expr_chars(g->x, &set);
    charset_deinit(&set);
    return e;
}

/* ---- rules ---- */

static Expr parse_alternatives(struct gbnf *g, bool is_nested);

static bool take_number(struct gbnf *g, uint32_t *ret) {
    size_t where = g->at;
    uint32_t n = 0;

    for (; peek(g) >= '0' && peek(g) <= '9'; g->at++)
        n = MIN(n * 10 + (uint32_t)(peek(g) - '0'), EXPR_REPEAT_MAX + 1);
    if (n > EXPR_REPEAT_MAX)
        refuse(g, where, "a count is at most %u", EXPR_REPEAT_MAX);
    *ret = n;
    return g->at > where;
}

static Expr parse_braces(struct gbnf *g, Expr item, bool is_nested) {
    size_t where = g->at - 1;
    uint32_t min, max;

    skip(g, is_nested);
    if (!take_number(g, &min))
        refuse(g, g->at, "a count is missing");
    skip(g, is_nested);
    max = min;
    if (take(g, ",")) {
        skip(g, is_nested);
        if (!take_number(g, &max))
            max = EXPR_UNLIMITED;
        skip(g, is_nested);
    }
    if (!take(g, "}"))
        refuse(g, g->at, "'}' is missing");
    else if (min > max)
        refuse(g, where, "the counts are in the wrong order");
    return expr_repeat(g->x, item, min, max);
}

static Expr parse_group(struct gbnf *g) {
    size_t where = g->at - 1;
    Expr e;

    if (++g->nesting > EXPR_NESTING_MAX)
        refuse(g, where, "more than %d groups lie in each other", EXPR_NESTING_MAX);
    skip(g, true);
    e = parse_alternatives(g, true);
    g->nesting--;
    if (!take(g, ")"))
        refuse(g, where, "the group is not closed");
    return e;
}

/* False: there is no item here. */
static bool parse_item(struct gbnf *g, Expr *ret) {
    const char *name = g->text + g->at;

    if (take(g, "\""))
        *ret = parse_literal(g);
    else if (take(g, "["))
        *ret = parse_set(g);
    else if (take(g, "("))
        *ret = parse_group(g);
    else if (take(g, "."))
        *ret = expr_range(g->x, 0, CHAR_MAX_CODE);
    else if (is_name_char(peek(g)))
        *ret = expr_call(g->x, find_rule(g, name, take_name(g)));
    else
        return false;
    return true;
}

static Expr parse_sequence(struct gbnf *g, bool is_nested) {
    Expr e = EXPR_EMPTY, item;

    while (parse_item(g, &item)) {
        for (;;) {
            skip(g, is_nested);
            if (take(g, "*"))
                item = expr_repeat(g->x, item, 0, EXPR_UNLIMITED);
            else if (take(g, "+"))
                item = expr_repeat(g->x, item, 1, EXPR_UNLIMITED);
            else if (take(g, "?"))
                item = expr_repeat(g->x, item, 0, 1);
            else if (take(g, "{"))
                item = parse_braces(g, item, is_nested);
            else
                break;
        }
        e = expr_seq(g->x, e, item);
    }
    return e;
}

static Expr parse_alternatives(struct gbnf *g, bool is_nested) {
    Expr e = parse_sequence(g, is_nested);

    while (take(g, "|")) {
        skip(g, true);
        e = expr_alt(g->x, e, parse_sequence(g, is_nested));
    }
    return e;
}

static void parse_rule(struct gbnf *g) {
    size_t where = g->at, n = take_name(g);
    uint32_t rule;
    Expr body;

    if (n == 0)
        refuse(g, where, "the name of a rule is missing");
    skip(g, false);
    if (!take(g, "::="))
        refuse(g, g->at, "'::=' is missing");
    if (g->result != 0)
        return;
    rule = find_rule(g, g->text + where, n);
    if (g->x->result == 0 && g->x->rules[rule].is_defined)
        refuse(g, where, "the rule is there twice");
    skip(g, true);
    body = parse_alternatives(g, false);
    if (g->at < g->n && peek(g) != '\n' && peek(g) != '\r')
        refuse(g, g->at, "a text, a set, a group, a rule's name or the line's end is missing");
    expr_rule_define(g->x, rule, body);
    skip(g, true);
}

/* The root's call. */
static Expr check_rules(struct gbnf *g) {
    char name[NAME_BYTES_MAX + 8];
    uint32_t root;

    for (uint32_t i = 0; i < g->x->n_rules && g->x->result == 0; i++) {
        const struct expr_rule *rule = &g->x->rules[i];

        if (!rule->is_defined)
            refuse(g, (size_t)(rule->name - g->text), "there is no rule '%s'",
                   utf8_printable(name, sizeof(name), rule->name, rule->n_name));
    }
    if (g->result != 0 || g->x->result != 0)
        return EXPR_NOTHING;
    root = g->x->n_rules;
    for (uint32_t i = 0; i < g->x->n_rules; i++)
        if (g->x->rules[i].n_name == 4 && memcmp(g->x->rules[i].name, "root", 4) == 0)
            root = i;
    if (root == g->x->n_rules) {
        refuse(g, g->n, "there is no rule 'root'");
        return EXPR_NOTHING;
    }
    return expr_call(g->x, root);
}

int gbnf_parse(Exprs *x, const char *source, size_t n, Expr *ret, Error *reterr) {
    struct gbnf g = {.x = x, .text = source, .n = n, .reterr = reterr};
    const char *zero = memchr(source, 0, n);

    g.slots = alloc_array(NAME_SLOTS, sizeof(*g.slots));
    if (!g.slots)
        return error_set(reterr, -ENOMEM, "out of memory");
    if (zero)
        refuse(&g, (size_t)(zero - source), "a zero byte; write \\x00");
    skip(&g, true);
    while (g.at < n && g.result == 0 && x->result == 0)
        parse_rule(&g);
    *ret = check_rules(&g);
    free(g.slots);
    return g.result;
}
