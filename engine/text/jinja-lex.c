/*
 * Templates: source → tokens, with Jinja's rules for the white space around its braces. A `-`
 * inside a brace takes all the white space on that side. Without one, the newline right after a tag
 * or a comment goes (trim_blocks), and so do the blanks before one that is the first in its line
 * (lstrip_blocks); a `+` keeps them. The source's very last newline goes as well.
 */
#include "engine/text/jinja-tree.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/engine.h"

#include <string.h>

typedef struct Lexer {
    Template *t;
    const char *source;
    size_t n, at;
    uint32_t line;
    bool at_line_start; /* what came before ended a line, or nothing did */
    struct token *tokens;
    size_t n_tokens;
    Error *reterr;
} Lexer;

#define lex_fail(lexer, ...)                                                                       \
    (error_set((lexer)->reterr, GK_E_INVALID, __VA_ARGS__),                                        \
     error_prefix((lexer)->reterr, "chat template, line %u", (lexer)->line),                       \
     error_value(GK_E_INVALID))

static bool looking_at(const Lexer *l, size_t at, const char *what) {
    size_t n = strlen(what);

    return n <= l->n - at && memcmp(l->source + at, what, n) == 0;
}

/* Moves on and counts lines. */
static void skip(Lexer *l, size_t n) {
    for (size_t i = 0; i < n; i++)
        l->line += l->source[l->at + i] == '\n';
    l->at += n;
}

static size_t space_length(const Lexer *l, size_t at) {
    bool is_space = false;
    size_t n = at < l->n ? text_character(l->source + at, l->n - at, &is_space) : 0;

    return is_space ? n : 0;
}

static void skip_space(Lexer *l) {
    for (size_t n; (n = space_length(l, l->at)) > 0;)
        skip(l, n);
}

/* There are never more tokens than bytes, and one. */
static struct token *push(Lexer *l, enum token_kind kind, const char *bytes, size_t n) {
    struct token *token = &l->tokens[l->n_tokens++];

    *token = (struct token){.kind = kind, .line = l->line, .text = {.bytes = bytes, .n = n}};
    return token;
}

/* ---- text ---- */

/* Where the next brace opens, or the end. */
static size_t find_brace(const Lexer *l) {
    for (size_t at = l->at; at + 1 < l->n; at++)
        if (l->source[at] == '{' && strchr("{%#", l->source[at + 1]))
            return at;
    return l->n;
}

/* The text before a brace, without what the brace takes of it. */
static Text text_before(const Lexer *l, size_t end) {
    Text text = {.bytes = l->source + l->at, .n = end - l->at};
    const char *newline;
    size_t n_before;
    char kind, sign;

    if (end == l->n)
        return text;
    kind = l->source[end + 1];
    sign = end + 2 < l->n ? l->source[end + 2] : '\0';
    if (sign == '-')
        return text_strip(text, NULL, false, true);
    if (kind == '{' || sign == '+')
        return text;
    newline = memrchr(text.bytes, '\n', text.n);
    n_before = newline ? (size_t)(newline - text.bytes) + 1 : 0;
    if ((newline || l->at_line_start) &&
        text_strip(text_slice(text, n_before, text.n), NULL, false, true).n == 0)
        text.n = n_before;
    return text;
}

/* After a tag's or a comment's end, where `sign` stood before its last two characters. */
static void skip_after(Lexer *l, char sign, bool trims_newline) {
    size_t begin = l->at;

    if (sign == '-')
        skip_space(l);
    else if (trims_newline && sign != '+' && l->at < l->n && l->source[l->at] == '\n')
        skip(l, 1);
    l->at_line_start = l->at > begin && l->source[l->at - 1] == '\n';
}

static int lex_comment(Lexer *l) {
    for (size_t at = l->at + 2; at + 1 < l->n; at++)
        if (looking_at(l, at, "#}")) {
            char sign = at > l->at + 2 ? l->source[at - 1] : '\0';

            skip(l, at + 2 - l->at);
            skip_after(l, sign, true);
            return 0;
        }
    return lex_fail(l, "a comment {# has no end #}");
}

/* ---- inside of braces ---- */

static int read_escape(Lexer *l, const char *at, const char *end, char *to, size_t *ret_n_read,
                       size_t *ret_n) {
    static const char letters[] = "ntrabfv\\'\"\n", values[] = "\n\t\r\a\b\f\v\\'\"";
    const char *found = strchr(letters, at[1]);
    size_t n_digits = at[1] == 'x' ? 2 : at[1] == 'u' ? 4 : at[1] == 'U' ? 8 : 0;
    uint32_t code = 0;

    *ret_n_read = 2;
    *ret_n = 0;
    if (at[1] == '\n')
        return 0;
    if (at[1] && found) {
        to[(*ret_n)++] = values[found - letters];
        return 0;
    }
    if (n_digits == 0) {
        if (at[1] >= '0' && at[1] <= '9')
            return lex_fail(l, "octal escapes in a string are not supported");
        to[(*ret_n)++] = '\\';
        to[(*ret_n)++] = at[1];
        return 0;
    }
    for (size_t i = 0; i < n_digits; i++) {
        char c = at + 2 + i < end ? at[2 + i] : '\0';
        const char *digits = "0123456789abcdef";
        const char *digit = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;

        if (!digit)
            return lex_fail(l, "\\%c in a string needs %zu hexadecimal digits", at[1], n_digits);
        code = code << 4 | (uint32_t)(digit - digits);
    }
    *ret_n_read = 2 + n_digits;
    *ret_n = utf8_encode(code, to);
    if (*ret_n == 0)
        return lex_fail(l, "a string has an escape that is no character");
    return 0;
}

/* What stands between the quotes, its escapes read; it never becomes longer. */
static int lex_string(Lexer *l) {
    char quote = l->source[l->at], *to;
    size_t end = l->at + 1, n = 0;
    int r;

    while (end < l->n && l->source[end] != quote)
        end += l->source[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        return lex_fail(l, "a string has no end");
    to = arena_alloc(&l->t->arena, end - l->at, 1);
    if (!to)
        return error_set(l->reterr, -ENOMEM, "out of memory");
    for (size_t at = l->at + 1, n_read, n_put; at < end; at += n_read, n += n_put) {
        n_read = n_put = 1;
        to[n] = l->source[at];
        if (l->source[at] != '\\')
            continue;
        r = read_escape(l, l->source + at, l->source + end, to + n, &n_read, &n_put);
        if (r)
            return r;
    }
    (void)push(l, TOKEN_STRING, to, n);
    skip(l, end + 1 - l->at);
    return 0;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static int lex_number(Lexer *l) {
    struct token *token = push(l, TOKEN_NUMBER, l->source + l->at, 0);
    int64_t number = 0;

    for (; l->at < l->n && (is_digit(l->source[l->at]) || l->source[l->at] == '_'); l->at++)
        if (l->source[l->at] != '_' &&
            (__builtin_mul_overflow(number, (int64_t)10, &number) ||
             __builtin_add_overflow(number, (int64_t)(l->source[l->at] - '0'), &number)))
            return lex_fail(l, "a number is too large");
    if (l->at + 1 < l->n && l->source[l->at] == '.' && is_digit(l->source[l->at + 1]))
        return lex_fail(l, "numbers with a fraction are not supported");
    if (l->at < l->n && is_name(l->source[l->at]))
        return lex_fail(l, "a number is followed by '%c'", l->source[l->at]);
    token->number = number;
    return 0;
}

static int lex_operator(Lexer *l) {
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "+", "-", "*",
                                            "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                            "]",  "{",  "}",  ",",  ".",  ":", "|"};

    if (looking_at(l, l->at, "**"))
        return lex_fail(l, "the operator '**' is not supported");
    for (size_t i = 0; i < ARRAY_SIZE(operators); i++)
        if (looking_at(l, l->at, operators[i])) {
            (void)push(l, TOKEN_OPERATOR, operators[i], strlen(operators[i]));
            l->at += strlen(operators[i]);
            return 0;
        }
    if ((l->source[l->at] & 0x80) || l->source[l->at] < ' ')
        return lex_fail(l, "a character that means nothing here (byte 0x%02x)",
                        (unsigned)(uint8_t)l->source[l->at]);
    return lex_fail(l, "'%c' means nothing here", l->source[l->at]);
}

static int lex_inside(Lexer *l) {
    char c = l->source[l->at];

    if (c == '"' || c == '\'')
        return lex_string(l);
    if (is_digit(c))
        return lex_number(l);
    if (is_name(c)) {
        size_t n = 0;

        while (l->at + n < l->n && is_name(l->source[l->at + n]))
            n++;
        (void)push(l, TOKEN_NAME, l->source + l->at, n);
        l->at += n;
        return 0;
    }
    return lex_operator(l);
}

/* {{ … }} or {% … %}. Where brackets are open, }} closes two of them. */
static int lex_brace(Lexer *l, bool is_print) {
    const char *end = is_print ? "}}" : "%}";
    uint32_t first_line = l->line;
    size_t n_open = 0;
    int r;

    (void)push(l, is_print ? TOKEN_PRINT : TOKEN_TAG, NULL, 0);
    l->at += 2;
    if (l->at < l->n && (l->source[l->at] == '-' || (l->source[l->at] == '+')))
        l->at++;
    for (;;) {
        char sign;

        skip_space(l);
        if (l->at == l->n) {
            l->line = first_line;
            return lex_fail(l, "'%s' has no end '%s'", is_print ? "{{" : "{%", end);
        }
        sign = l->source[l->at];
        sign = n_open == 0 && (sign == '-' || (sign == '+' && !is_print)) &&
                       looking_at(l, l->at + 1, end)
                   ? sign
                   : '\0';
        if (sign || (n_open == 0 && looking_at(l, l->at, end))) {
            (void)push(l, is_print ? TOKEN_PRINT_END : TOKEN_TAG_END, NULL, 0);
            l->at += sign ? 3 : 2;
            skip_after(l, sign, !is_print);
            return 0;
        }
        if (strchr("([{", l->source[l->at]))
            n_open++;
        else if (strchr(")]}", l->source[l->at]) && n_open > 0)
            n_open--;
        r = lex_inside(l);
        if (r)
            return r;
    }
}

/* ---- all of it ---- */

int jinja_lex(Template *t, struct token **ret, Error *reterr) {
    Lexer l = {.t = t,
               .source = t->source,
               .n = t->n_source,
               .line = 1,
               .at_line_start = true,
               .reterr = reterr};
    int r = 0;

    l.tokens = alloc_array(t->n_source + 2, sizeof(*l.tokens));
    if (!l.tokens)
        return error_set(reterr, -ENOMEM, "out of memory");
    while (!r && l.at < l.n) {
        size_t end = find_brace(&l);
        Text text = text_before(&l, end);

        if (text.n > 0)
            (void)push(&l, TOKEN_TEXT, text.bytes, text.n);
        skip(&l, end - l.at);
        if (l.at < l.n)
            r = l.source[l.at + 1] == '#' ? lex_comment(&l)
                                          : lex_brace(&l, l.source[l.at + 1] == '{');
    }
    if (r) {
        free(l.tokens);
        return r;
    }
    (void)push(&l, TOKEN_END, NULL, 0);
    *ret = l.tokens;
    return 0;
}
