/*
 * Regular expressions: what Python's `re` and ECMAScript have in common, without what looks around
 * or back.
 *
 *     literals  .  [a-z]  [^a-z]  |  (…)  (?:…)  (?P<name>…)  (?<name>…)  * + ? {m} {m,} {,n} {m,n}
 *     \d \D \w \W \s \S (ASCII)  \n \r \t \f \v \0  \xHH  \uHHHH  \u{H…}  \ before punctuation
 *
 * A `?` after a quantifier is taken and means nothing here: which texts match does not depend on
 * it. `.` is any character but a newline. `^` and `$` are understood at the ends of the
 * alternatives of the whole expression. Everything else is refused by name.
 */
#include "base/utf8.h"
#include "engine/grammar/grammar.h"

#include <stdio.h>
#include <string.h>

struct regex {
    Exprs *x;
    const char *text;
    size_t n, at;
    enum regex_style style;
    unsigned nesting;
    int result;
    Error *reterr;
};

#define refuse_at(r, where, ...) (refuse((r), (where), __VA_ARGS__), EXPR_EMPTY)

static void refuse(struct regex *r, size_t where, const char *format, ...) PRINTF_FORMAT(3, 4);

static void refuse(struct regex *r, size_t where, const char *format, ...) {
    char sentence[256];
    va_list arguments;

    if (r->result != 0)
        return;
    va_start(arguments, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    r->result = error_set(r->reterr, GK_E_INVALID, "the regular expression at byte %zu: %s", where,
                          sentence);
    r->at = r->n; /* every loop ends */
}

/* ---- characters ---- */

static bool has_more(const struct regex *r) {
    return r->at < r->n;
}

/* '\0' at the end: a NUL in the text is refused before anything is read. */
static char peek(const struct regex *r) {
    return has_more(r) ? r->text[r->at] : '\0';
}

static bool take(struct regex *r, const char *word) {
    size_t n = strlen(word);

    if (r->n - r->at < n || memcmp(r->text + r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

static uint32_t take_code(struct regex *r) {
    uint32_t code = 0;
    size_t n = has_more(r) ? utf8_decode(r->text + r->at, r->n - r->at, &code) : 0;

    r->at += n;
    return code;
}

/* In a JSON string these have an escape of one letter; '\0': the others of those that need one. */
static char escape_letter(uint32_t code) {
    switch (code) {
    case '"':
    case '\\':
        return (char)code;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return '\0';
    }
}

static void add_char(CharSet *set, char c) {
    charset_add(set, (uint8_t)c, (uint8_t)c);
}

/* The escapes of these, each in one way: \n or \u001f. */
static Expr json_escapes(Exprs *x, const CharSet *escaped) {
    CharSet letters = {.n = 0}, digits[2] = {{.n = 0}};
    Expr e = EXPR_NOTHING;

    for (size_t i = 0; i < escaped->n; i++) {
        uint32_t code = escaped->ranges[i].low;
        char letter = escape_letter(code);

        if (letter)
            add_char(&letters, letter);
        else
            add_char(&digits[code >> 4 & 1], "0123456789abcdef"[code & 15]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(digits); i++)
        e = expr_alt(
            x, e, expr_seq(x, expr_string(x, i == 0 ? "u000" : "u001"), expr_chars(x, &digits[i])));
    e = expr_seq(x, expr_string(x, "\\"), expr_alt(x, expr_chars(x, &letters), e));
    charset_deinit(&letters);
    charset_deinit(&digits[0]);
    charset_deinit(&digits[1]);
    return e;
}

/* The part of a range that lies in another. */
static void add_common(CharSet *set, const struct char_range *range, uint32_t low, uint32_t high) {
    if (range->low <= high && range->high >= low)
        charset_add(set, MAX(range->low, low), MIN(range->high, high));
}

Expr regex_json_chars(Exprs *x, CharSet *set) {
    CharSet plain = {.n = 0}, escaped = {.n = 0};
    Expr e = EXPR_NOTHING;

    charset_normalize(set);
    for (size_t i = 0; i < set->n; i++) {
        const struct char_range *r = &set->ranges[i];

        add_common(&plain, r, 0x20, '"' - 1);
        add_common(&plain, r, '"' + 1, '\\' - 1);
        add_common(&plain, r, '\\' + 1, CHAR_MAX_CODE);
        for (uint32_t code = r->low; code <= MIN(r->high, 0x1fu); code++)
            charset_add(&escaped, code, code);
        add_common(&escaped, r, '"', '"');
        add_common(&escaped, r, '\\', '\\');
    }
    plain.has_failed |= set->has_failed || escaped.has_failed;
    e = expr_alt(x, expr_chars(x, &plain), json_escapes(x, &escaped));
    charset_deinit(&plain);
    charset_deinit(&escaped);
    return x->n > 0 && x->exprs[e].type == EXPR_ALT ? expr_shared(x, e) : e;
}

/* The set is used up. */
static Expr emit(struct regex *r, CharSet *set) {
    Expr e = r->style == REGEX_WHOLE ? expr_chars(r->x, set) : regex_json_chars(r->x, set);

    charset_deinit(set);
    return e;
}

static Expr emit_range(struct regex *r, uint32_t low, uint32_t high) {
    CharSet set = {.n = 0};

    charset_add(&set, low, high);
    return emit(r, &set);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* From n_min to n_max hexadecimal digits. */
static uint32_t take_hex(struct regex *r, size_t n_min, size_t n_max) {
    uint32_t code = 0;
    size_t n = 0;

    for (; n < n_max && hex_digit(peek(r)) >= 0; n++, r->at++)
        code = code * 16 + (uint32_t)hex_digit(peek(r));
    if (n < n_min)
        refuse(r, r->at, "%zu hexadecimal digits are needed here", n_min);
    return code;
}

/* ---- escapes ---- */

/* What ECMAScript or Python take for white space beside ASCII's: in a schema's pattern neither \s
 * nor \S is any of these, so that what comes is valid by either. */
static const struct char_range foreign_spaces[] = {
    {0x1c, 0x1f},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
    {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff},
};

static void add_spaces(const struct regex *r, CharSet *set, bool is_excluded) {
    charset_add(set, '\t', '\r');
    charset_add(set, ' ', ' ');
    for (size_t i = 0; is_excluded && r->style != REGEX_WHOLE && i < ARRAY_SIZE(foreign_spaces);
         i++)
        charset_add(set, foreign_spaces[i].low, foreign_spaces[i].high);
}

/* \d, \w, \s and their opposites; false: it is none of these. */
static bool take_class_escape(struct regex *r, bool in_negated, CharSet *set) {
    static const char letters[] = "dDwWsS";
    CharSet one = {.n = 0};
    char c = peek(r);

    if (!c || !strchr(letters, c))
        return false;
    r->at++;
    if (c == 'd' || c == 'D' || c == 'w' || c == 'W')
        charset_add(&one, '0', '9');
    if (c == 'w' || c == 'W') {
        charset_add(&one, 'a', 'z');
        charset_add(&one, 'A', 'Z');
        charset_add(&one, '_', '_');
    }
    if (c == 's' || c == 'S')
        add_spaces(r, &one, (c == 'S') != in_negated);
    if (c == 'D' || c == 'W' || c == 'S')
        charset_negate(&one);
    charset_add_set(set, &one);
    charset_deinit(&one);
    return true;
}

static uint32_t take_code_escape(struct regex *r, size_t where) {
    uint32_t code;

    if (take(r, "x"))
        return take_hex(r, 2, 2);
    if (!take(r, "u{"))
        return r->at++, take_hex(r, 4, 4);
    code = take_hex(r, 1, 6);
    if (!take(r, "}"))
        refuse(r, r->at, "'}' is missing");
    if (code > CHAR_MAX_CODE)
        refuse(r, where, "there is no character U+%X", code);
    return code;
}

/* What follows a backslash and stands for one character. */
static uint32_t take_char_escape(struct regex *r, bool in_class) {
    static const char letters[] = "nrtfv0", codes[] = "\n\r\t\f\v";
    size_t where = r->at - 1;
    char c = peek(r);
    const char *found = c ? strchr(letters, c) : NULL;

    if (!c) {
        refuse(r, where, "nothing follows the backslash");
        return 0;
    }
    if (c == 'x' || c == 'u')
        return take_code_escape(r, where);
    if (found) {
        r->at++;
        if (c == '0' && peek(r) >= '0' && peek(r) <= '9')
            refuse(r, where, "octal escapes are not supported");
        return c == '0' ? 0 : (uint32_t)codes[found - letters];
    }
    if (in_class && c == 'b') {
        r->at++;
        return '\b';
    }
    if (c >= '1' && c <= '9')
        refuse(r, where, "a reference back to a group is not supported");
    else if (c == 'b' || c == 'B')
        refuse(r, where, "the word boundary \\%c is not supported", c);
    else if (c == 'p' || c == 'P')
        refuse(r, where, "the property class \\%c is not supported", c);
    else if (c == 'A' || c == 'Z' || c == 'z' || c == 'G')
        refuse(r, where, "the anchor \\%c is not supported", c);
    else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        refuse(r, where, "the escape \\%c is not known", c);
    return take_code(r);
}

/* ---- classes ---- */

static void take_class_item(struct regex *r, bool is_negated, CharSet *set) {
    size_t where = r->at;
    uint32_t low, high;

    if (take(r, "\\")) {
        if (take_class_escape(r, is_negated, set))
            return;
        low = take_char_escape(r, true);
    } else {
        low = take_code(r);
    }
    high = low;
    if (peek(r) == '-' && r->at + 1 < r->n && r->text[r->at + 1] != ']') {
        CharSet none = {.n = 0};

        r->at++;
        if (!take(r, "\\"))
            high = take_code(r);
        else if (take_class_escape(r, false, &none))
            refuse(r, where, "a class can't be the end of a range");
        else
            high = take_char_escape(r, true);
        charset_deinit(&none);
    }
    if (low > high)
        refuse(r, where, "the range's ends are in the wrong order");
    charset_add(set, low, high);
}

static Expr parse_class(struct regex *r) {
    CharSet set = {.n = 0};
    size_t where = r->at - 1;
    bool is_negated = take(r, "^"), is_first = true;

    for (; has_more(r) && (is_first || peek(r) != ']'); is_first = false)
        take_class_item(r, is_negated, &set);
    if (!take(r, "]"))
        refuse(r, where, "']' is missing");
    if (is_negated)
        charset_negate(&set);
    return emit(r, &set);
}

/* ---- quantifiers ---- */

/* Digits; false: there are none. */
static bool take_number(struct regex *r, uint32_t *ret) {
    size_t where = r->at;
    uint32_t n = 0;

    for (; peek(r) >= '0' && peek(r) <= '9'; r->at++)
        n = MIN(n * 10 + (uint32_t)(peek(r) - '0'), EXPR_REPEAT_MAX + 1);
    if (r->at == where)
        return false;
    if (n > EXPR_REPEAT_MAX)
        refuse(r, where, "a count is at most %u", EXPR_REPEAT_MAX);
    *ret = n;
    return true;
}

/* {m}, {m,}, {,n}, {m,n}; false: the brace stands for itself, and nothing is taken. */
static bool take_braces(struct regex *r, uint32_t *ret_min, uint32_t *ret_max) {
    size_t where = r->at;
    bool has_min, has_max, has_comma;

    if (!take(r, "{"))
        return false;
    has_min = take_number(r, ret_min);
    has_comma = take(r, ",");
    has_max = has_comma && take_number(r, ret_max);
    if (r->result != 0)
        return true;
    if (!take(r, "}") || !(has_min || has_max)) {
        r->at = where;
        return false;
    }
    if (!has_min)
        *ret_min = 0;
    if (!has_comma)
        *ret_max = *ret_min;
    else if (!has_max)
        *ret_max = EXPR_UNLIMITED;
    if (*ret_min > *ret_max)
        refuse(r, where, "the counts are in the wrong order");
    return true;
}

static bool take_quantifier(struct regex *r, uint32_t *ret_min, uint32_t *ret_max) {
    *ret_min = 0;
    *ret_max = EXPR_UNLIMITED;
    if (take(r, "*"))
        return true;
    if (take(r, "+")) {
        *ret_min = 1;
        return true;
    }
    if (take(r, "?")) {
        *ret_max = 1;
        return true;
    }
    return take_braces(r, ret_min, ret_max);
}

static Expr parse_quantifier(struct regex *r, Expr atom) {
    uint32_t min, max;
    size_t where;

    if (!take_quantifier(r, &min, &max))
        return atom;
    where = r->at;
    if (!take(r, "?") && take(r, "+"))
        return refuse_at(r, where, "possessive quantifiers are not supported");
    where = r->at;
    atom = expr_repeat(r->x, atom, min, max);
    if (take_quantifier(r, &min, &max))
        return refuse_at(r, where, "a quantifier follows another");
    return atom;
}

/* ---- groups, alternatives ---- */

static Expr parse_alternatives(struct regex *r);

/* After "(?": what kind of group it is. */
static void take_group_kind(struct regex *r, size_t where) {
    if (take(r, ":"))
        return;
    if (take(r, "=") || take(r, "!") || take(r, "<=") || take(r, "<!")) {
        refuse(r, where, "looking ahead or behind is not supported");
        return;
    }
    if (!take(r, "P<") && !take(r, "<")) {
        refuse(r, where, "this kind of group is not supported");
        return;
    }
    while (has_more(r) && peek(r) != '>')
        r->at++;
    if (!take(r, ">"))
        refuse(r, where, "the group's name does not end");
}

static Expr parse_group(struct regex *r) {
    size_t where = r->at - 1;
    Expr e;

    if (take(r, "?"))
        take_group_kind(r, where);
    if (++r->nesting > EXPR_NESTING_MAX)
        return refuse_at(r, where, "more than %d groups lie in each other", EXPR_NESTING_MAX);
    e = parse_alternatives(r);
    r->nesting--;
    if (!take(r, ")"))
        return refuse_at(r, where, "the group is not closed");
    return e;
}

static Expr parse_escape(struct regex *r) {
    CharSet set = {.n = 0};
    uint32_t code;

    if (take_class_escape(r, false, &set))
        return emit(r, &set);
    code = take_char_escape(r, false);
    return emit_range(r, code, code);
}

static Expr parse_atom(struct regex *r) {
    size_t where = r->at;
    uint32_t min, max, code;
    CharSet set = {.n = 0};

    if (take(r, "("))
        return parse_group(r);
    if (take(r, "["))
        return parse_class(r);
    if (take(r, "\\"))
        return parse_escape(r);
    if (take(r, ".")) {
        charset_add(&set, '\n', '\n');
        if (r->style != REGEX_WHOLE) { /* ECMAScript's other line ends */
            charset_add(&set, '\r', '\r');
            charset_add(&set, 0x2028, 0x2029);
        }
        charset_negate(&set);
        return emit(r, &set);
    }
    if (take(r, "^") || take(r, "$"))
        return refuse_at(r, where,
                         "'%c' is understood only at the ends of a whole alternative, outside "
                         "groups",
                         r->text[where]);
    if (take_quantifier(r, &min, &max))
        return refuse_at(r, where, "there is nothing to repeat");
    code = take_code(r);
    return emit_range(r, code, code);
}

static Expr parse_alternative(struct regex *r) {
    bool is_outer = r->nesting == 0, is_searched = is_outer && r->style == REGEX_JSON_SEARCH;
    bool starts = is_outer && take(r, "^"), ends = false;
    Expr e = EXPR_EMPTY, any = EXPR_EMPTY;

    if (is_searched)
        any = expr_repeat(r->x, emit_range(r, 0, CHAR_MAX_CODE), 0, EXPR_UNLIMITED);
    while (has_more(r) && peek(r) != '|' && !(peek(r) == ')' && !is_outer)) {
        if (is_outer && peek(r) == '$' && (r->at + 1 == r->n || r->text[r->at + 1] == '|')) {
            r->at++;
            ends = true;
            break;
        }
        if (peek(r) == ')')
            return refuse_at(r, r->at, "there is no group to close");
        e = expr_seq(r->x, e, parse_quantifier(r, parse_atom(r)));
    }
    if (is_searched && !starts)
        e = expr_seq(r->x, any, e);
    return is_searched && !ends ? expr_seq(r->x, e, any) : e;
}

static Expr parse_alternatives(struct regex *r) {
    Expr e = parse_alternative(r);

    while (take(r, "|"))
        e = expr_alt(r->x, e, parse_alternative(r));
    return e;
}

int regex_parse(Exprs *x, const char *source, size_t n, enum regex_style style, Expr *ret,
                Error *reterr) {
    struct regex r = {.x = x, .text = source, .n = n, .style = style, .reterr = reterr};

    if (memchr(source, 0, n))
        return error_set(reterr, GK_E_INVALID, "the regular expression has a zero byte; write \\0");
    *ret = parse_alternatives(&r);
    return r.result;
}
