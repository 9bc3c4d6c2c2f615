/* Strings of a JSON schema: of a pattern, of a format, of a length. */
#include "base/utf8.h"
#include "engine/grammar/schema.h"

#include <string.h>

#define DATE                                                                                       \
    "([12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"  \
    "02-(0[1-9]|1[0-9]|2[0-8]))|([12][0-9](0[48]|[2468][048]|[13579][26])|(12|16|20|24|28)00)-02-" \
    "29)"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define OCTET    "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define LABEL    "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20}){0,2}"
#define HEX4     "[0-9A-Fa-f]{1,4}"
#define HEX4S(n) "(" HEX4 "(:" HEX4 "){0," n "})?"
#define SECONDS  "[0-9]{1,3}S"
#define MINUTES  "[0-9]{1,3}M(" SECONDS ")?"
#define HOURS    "[0-9]{1,3}H(" MINUTES ")?"
#define CLOCK    "T(" HOURS "|" MINUTES "|" SECONDS ")"
#define DAYS     "[0-9]{1,3}D"
#define MONTHS   "[0-9]{1,3}M(" DAYS ")?"
#define YEARS    "[0-9]{1,4}Y(" MONTHS ")?"

/* Years 1000 to 2999, no leap seconds; no quotes or comments in addresses. */
static const struct {
    const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", "(" DATE ")T" TIME},
    {"duration", "P([0-9]{1,3}W|(" YEARS "|" MONTHS "|" DAYS ")(" CLOCK ")?|" CLOCK ")"},
    {"email", "[A-Za-z0-9_%+-]{1,32}(\\.[A-Za-z0-9_%+-]{1,15}){0,2}@" LABEL "(\\." LABEL "){1,2}"},
    {"hostname", LABEL "(\\." LABEL "){0,2}"},
    {"ipv4", OCTET "(\\." OCTET "){3}"},
    {"ipv6",
     "(" HEX4 ":){7}" HEX4 "|::" HEX4S("6") "|" HEX4 "::" HEX4S("5") "|(" HEX4 ":){2}:" HEX4S(
         "4") "|(" HEX4 ":){3}:" HEX4S("3") "|(" HEX4
                                            ":){4}:" HEX4S("2") "|(" HEX4 ":){5}:" HEX4S(
                                                "1") "|(" HEX4 ":){6}:(" HEX4 ")?|(" HEX4 ":){7}:"},
    {"uuid", "[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"},
};

Expr schema_quoted(Schema *s, Expr inside) {
    return expr_seq(s->x, expr_seq(s->x, expr_string(s->x, "\""), inside), expr_string(s->x, "\""));
}

Expr schema_text_char(Schema *s) {
    Exprs *x = s->x;
    CharSet plain = {.n = 0}, letters = {.n = 0}, hex = {.n = 0}, no_d = {.n = 0};
    Expr any_hex, unicode, low_d;

    charset_add(&plain, 0x20, 0x21);
    charset_add(&plain, 0x23, 0x5b);
    charset_add(&plain, 0x5d, CHAR_MAX_CODE);
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        charset_add(&letters, (uint32_t)*c, (uint32_t)*c);
    charset_add(&hex, '0', '9');
    charset_add(&hex, 'a', 'f');
    charset_add(&hex, 'A', 'F');
    charset_add(&no_d, '0', '9');
    charset_add(&no_d, 'a', 'c');
    charset_add(&no_d, 'A', 'C');
    charset_add(&no_d, 'e', 'f');
    charset_add(&no_d, 'E', 'F');
    any_hex = expr_chars(x, &hex);
    low_d =
        expr_seq(x, expr_alt(x, expr_string(x, "d"), expr_string(x, "D")), expr_range(x, '0', '7'));
    unicode = expr_alt(x, expr_seq(x, expr_chars(x, &no_d), any_hex), low_d);
    unicode = expr_seq(x, expr_seq(x, expr_string(x, "u"), unicode), expr_repeat(x, any_hex, 2, 2));
    unicode = expr_seq(x, expr_string(x, "\\"), expr_alt(x, expr_chars(x, &letters), unicode));
    unicode = expr_alt(x, expr_chars(x, &plain), unicode);
    charset_deinit(&plain);
    charset_deinit(&letters);
    charset_deinit(&hex);
    charset_deinit(&no_d);
    return expr_shared(x, unicode);
}

static Expr compile_regex(Schema *s, const char *text, enum regex_style style, const char *key) {
    Expr e = EXPR_NOTHING;
    Error error = ERROR_INIT;
    int r = s->result != 0 ? 0 : regex_parse(s->x, text, strlen(text), style, &e, &error);

    if (r == -ENOMEM)
        schema_no_memory(s);
    else if (r != 0)
        schema_refuse(s, "'%s': %s", key, error.text);
    return schema_quoted(s, e);
}

static Expr compile_format(Schema *s, const json_t *format) {
    const char *name = json_string_value(format);
    char shown[64];

    for (size_t i = 0; name && i < ARRAY_SIZE(formats); i++)
        if (strcmp(formats[i].name, name) == 0)
            return compile_regex(s, formats[i].regex, REGEX_JSON_WHOLE, "format");
    if (!name)
        schema_refuse(s, "'format' is not a string");
    else
        schema_refuse(s, "the format '%s' is not supported",
                      utf8_printable(shown, sizeof(shown), name, strlen(name)));
    return EXPR_NOTHING;
}

static Expr of_length(Schema *s, uint32_t min, uint32_t max) {
    Expr e;

    for (size_t i = 0; i < s->n_lengths; i++)
        if (s->lengths[i].min == min && s->lengths[i].max == max)
            return s->lengths[i].e;
    e = expr_shared(s->x, schema_quoted(s, expr_repeat(s->x, s->text_char, min, max)));
    if (s->n_lengths < SCHEMA_LENGTHS)
        s->lengths[s->n_lengths++] = (struct schema_length){min, max, e};
    return e;
}

Expr schema_string(Schema *s, const json_t *schema) {
    const json_t *pattern = json_object_get(schema, "pattern");
    const json_t *format = json_object_get(schema, "format");
    uint32_t min = schema_count(s, schema, "minLength", 0);
    uint32_t max = schema_count(s, schema, "maxLength", EXPR_UNLIMITED);
    bool has_length = min > 0 || max != EXPR_UNLIMITED;

    if ((pattern && format) || ((pattern || format) && has_length))
        schema_refuse(s, "only one of 'pattern', 'format' and a length is supported");
    if (format)
        return compile_format(s, format);
    if (pattern && !json_is_string(pattern))
        schema_refuse(s, "'pattern' is not a string");
    if (json_is_string(pattern))
        return compile_regex(s, json_string_value(pattern), REGEX_JSON_SEARCH, "pattern");
    if (min > max)
        return EXPR_NOTHING;
    return has_length ? of_length(s, min, max) : s->any_text;
}
