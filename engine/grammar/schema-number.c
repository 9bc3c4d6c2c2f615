/*
 * Numbers of a JSON schema, bounds and all, as text.
 *
 * Bounds are compared digit by digit: where a text has been equal to a bound so far, its next digit
 * may not be on the wrong side of the bound's; once it differs, the rest is free. A whole number
 * has at most 15 digits, and a bounded number at most 15 in all beyond its bounds' own digits
 * before the point: as many as a double keeps apart.
 */
#include "base/alloc.h"
#include "engine/grammar/schema.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define DIGITS_MAX    15u
#define WHOLE_MAX     INT64_C(999999999999999)
#define MULTIPLES_MAX 1000 /* written out one by one */
#define DIVISOR_MAX   100  /* else followed by the remainders */

/* Of the absolute value. */
struct decimal {
    int64_t whole;
    char digits[DIGITS_MAX + 1]; /* after the point, without zeros at the end */
    bool is_excluded;
};

struct bounds {
    double low, high;
    bool has_low, has_high, excludes_low, excludes_high;
    bool is_stated; /* even where it is beyond what comes anyway */
};

static Expr digit(Exprs *x, char low, char high) {
    return expr_range(x, (uint32_t)low, (uint32_t)high);
}

static Expr digits(Exprs *x, uint32_t min, uint32_t max) {
    return expr_repeat(x, digit(x, '0', '9'), min, max);
}

/* ---- whole numbers ---- */

static bool is_all(const char *text, size_t n, char c) {
    for (size_t i = 0; i < n; i++)
        if (text[i] != c)
            return false;
    return true;
}

/* Texts of n digits from low to high; NULL: from 00… or to 99…. */
static Expr same_length(Exprs *x, const char *low, const char *high, uint32_t n) {
    char first, last;
    Expr e = EXPR_NOTHING;

    if ((!low || is_all(low, n, '0')) && (!high || is_all(high, n, '9')))
        return digits(x, n, n);
    first = low ? low[0] : '0';
    last = high ? high[0] : '9';
    if (first == last)
        return expr_seq(x, digit(x, first, first),
                        same_length(x, low ? low + 1 : NULL, high ? high + 1 : NULL, n - 1));
    if (low) {
        e = expr_seq(x, digit(x, first, first), same_length(x, low + 1, NULL, n - 1));
        first++;
    }
    if (high) {
        e = expr_alt(x, e,
                     expr_seq(x, digit(x, last, last), same_length(x, NULL, high + 1, n - 1)));
        last--;
    }
    if (first <= last)
        e = expr_alt(x, e, expr_seq(x, digit(x, first, last), digits(x, n - 1, n - 1)));
    return e;
}

/* 0 <= low, high <= WHOLE_MAX */
static Expr natural_between(Exprs *x, int64_t low, int64_t high) {
    Expr e = EXPR_NOTHING;

    for (int64_t first = 0, last = 9; first <= high; first = last + 1, last = last * 10 + 9) {
        int64_t from = MAX(low, first), to = MIN(high, last);
        char a[24], b[24];

        if (from > to)
            continue;
        (void)snprintf(a, sizeof(a), "%" PRId64, from);
        (void)snprintf(b, sizeof(b), "%" PRId64, to);
        e = expr_alt(x, e, same_length(x, a, b, (uint32_t)strlen(a)));
    }
    return e;
}

static Expr negative(Exprs *x, Expr e) {
    return expr_seq(x, expr_string(x, "-"), e);
}

static Expr integer_between(Exprs *x, int64_t low, int64_t high) {
    Expr e = EXPR_NOTHING;

    if (low > high)
        return e;
    if (low < 0)
        e = negative(x, natural_between(x, high < 0 ? -high : 1, -low));
    return high >= 0 ? expr_alt(x, e, natural_between(x, MAX(low, (int64_t)0), high)) : e;
}

/* [1-9][0-9]*, at most DIGITS_MAX of them */
static Expr positive(Exprs *x) {
    return expr_seq(x, digit(x, '1', '9'), digits(x, 0, DIGITS_MAX - 1));
}

/* ---- multiples ---- */

static Expr listed_multiples(Exprs *x, int64_t low, int64_t high, int64_t divisor) {
    Expr e = EXPR_NOTHING;
    int64_t first = low / divisor * divisor;

    for (int64_t i = first < low ? first + divisor : first; i <= high; i += divisor) {
        char text[24];

        (void)snprintf(text, sizeof(text), "%" PRId64, i);
        e = expr_alt(x, e, expr_string(x, text));
    }
    return e;
}

/* Any multiple without a sign: for each remainder and number of digits that may still come, a rule.
 */
static Expr natural_multiples(Exprs *x, uint32_t divisor) {
    Expr rules[DIVISOR_MAX], next[DIVISOR_MAX], e = EXPR_NOTHING;

    for (uint32_t r = 0; r < divisor; r++)
        next[r] = r == 0 ? EXPR_EMPTY : EXPR_NOTHING;
    for (uint32_t n = 1; n < DIGITS_MAX; n++) {
        for (uint32_t r = 0; r < divisor; r++) {
            rules[r] = r == 0 ? EXPR_EMPTY : EXPR_NOTHING;
            for (uint32_t d = 0; d < 10; d++)
                rules[r] = expr_alt(x, rules[r],
                                    expr_seq(x, digit(x, (char)('0' + d), (char)('0' + d)),
                                             next[(r * 10 + d) % divisor]));
            rules[r] = expr_shared(x, rules[r]);
        }
        (void)memcpy(next, rules, sizeof(next));
    }
    for (uint32_t d = 1; d < 10; d++)
        e = expr_alt(x, e,
                     expr_seq(x, digit(x, (char)('0' + d), (char)('0' + d)), next[d % divisor]));
    return e;
}

static Expr multiples_between(Schema *s, int64_t low, int64_t high, const json_t *multiple) {
    double divisor = json_number_value(multiple);
    Exprs *x = s->x;
    Expr e;

    if (!(divisor >= 1) || divisor > (double)WHOLE_MAX || divisor != floor(divisor)) {
        schema_refuse(s, "'multipleOf' is supported for whole numbers from 1 on");
        return EXPR_NOTHING;
    }
    if (divisor == 1)
        return integer_between(x, low, high);
    if (high - low <= (int64_t)divisor * MULTIPLES_MAX)
        return listed_multiples(x, low, high, (int64_t)divisor);
    if (divisor > DIVISOR_MAX || (low != 0 && low != -WHOLE_MAX) || high != WHOLE_MAX) {
        schema_refuse(s,
                      "'multipleOf' is supported for up to %d values between the bounds, or up to "
                      "%d with no bound but a minimum of 0",
                      MULTIPLES_MAX, DIVISOR_MAX);
        return EXPR_NOTHING;
    }
    e = expr_shared(x, natural_multiples(x, (uint32_t)divisor));
    if (low < 0)
        e = expr_alt(x, e, negative(x, e));
    return expr_alt(x, e, expr_string(x, "0"));
}

/* ---- fractions ---- */

/* Digits after the point that do not fall below `low` nor rise above `high`; NULL: no bound there.
 * i digits have come, all equal to what bounds them; n may come in all. The point comes with the
 * first of them. */
static Expr fraction(Exprs *x, const struct decimal *low, const struct decimal *high, uint32_t i,
                     uint32_t n) {
    char first = '0', last = '9';
    bool low_ends = low && i >= strlen(low->digits);
    bool high_ends = high && i >= strlen(high->digits), may_stop;
    Expr e, stop, more = EXPR_NOTHING, point = i == 0 ? expr_string(x, ".") : EXPR_EMPTY;

    if (low_ends && !low->is_excluded) {
        low = NULL; /* nothing that comes makes it smaller */
        low_ends = false;
    }
    if (high_ends) /* zeros would be all that may follow */
        return high->is_excluded || low ? EXPR_NOTHING : EXPR_EMPTY;
    may_stop = !low;
    stop = may_stop ? EXPR_EMPTY : EXPR_NOTHING;
    if (i == n)
        return stop;
    if (!low && !high)
        return expr_optional(x, expr_seq(x, point, digits(x, 1, n - i)));
    if (low)
        first = low_ends ? '0' : low->digits[i];
    if (high)
        last = high->digits[i];
    if (low && high && first == last) {
        more = expr_seq(x, digit(x, first, first), fraction(x, low, high, i + 1, n));
    } else {
        if (low) {
            more = expr_seq(x, digit(x, first, first), fraction(x, low, NULL, i + 1, n));
            first++;
        }
        if (high) {
            e = expr_seq(x, digit(x, last, last), fraction(x, NULL, high, i + 1, n));
            more = expr_alt(x, more, e);
            last--;
        }
        if (first <= last)
            more = expr_alt(x, more, expr_seq(x, digit(x, first, last), digits(x, 0, n - i - 1)));
    }
    more = more == EXPR_NOTHING ? more : expr_seq(x, point, more);
    return expr_alt(x, stop, more);
}

/* Absolute values from low to high. */
static Expr magnitude(Exprs *x, const struct decimal *low, const struct decimal *high, uint32_t n) {
    Expr e, part;

    if (low->whole > high->whole)
        return EXPR_NOTHING;
    if (low->whole == high->whole)
        return expr_seq(x, natural_between(x, low->whole, low->whole),
                        fraction(x, low, high, 0, n));
    part = fraction(x, low, NULL, 0, n);
    e = expr_seq(x, natural_between(x, low->whole, low->whole), part);
    part = fraction(x, NULL, high, 0, n);
    e = expr_alt(x, e, expr_seq(x, natural_between(x, high->whole, high->whole), part));
    if (low->whole + 1 < high->whole)
        e = expr_alt(x, e,
                     expr_seq(x, natural_between(x, low->whole + 1, high->whole - 1),
                              fraction(x, NULL, NULL, 0, n)));
    return e;
}

/* The digits of |value|; false: it has too many. */
static bool to_decimal(double value, bool is_excluded, struct decimal *ret) {
    char text[64];

    for (int n = 0; n <= (int)DIGITS_MAX; n++) {
        (void)snprintf(text, sizeof(text), "%.*f", n, fabs(value));
        if (strtod(text, NULL) != fabs(value))
            continue;
        *ret = (struct decimal){.whole = strtoll(text, NULL, 10), .is_excluded = is_excluded};
        if (n > 0)
            (void)snprintf(ret->digits, sizeof(ret->digits), "%s", strchr(text, '.') + 1);
        return true;
    }
    return false;
}

static uint32_t n_whole_digits(double value) {
    uint32_t n = 1;

    for (value = fabs(value); value >= 10; value /= 10)
        n++;
    return n;
}

static Expr bounded_number(Schema *s, const struct bounds *b) {
    static const struct decimal largest = {.whole = WHOLE_MAX, .digits = "999999999999999"};
    struct decimal low = largest, high = largest, zero = {.whole = 0};
    struct decimal above_zero = {.whole = 0, .is_excluded = true};
    uint32_t n =
        MAX(b->has_low ? n_whole_digits(b->low) : 1, b->has_high ? n_whole_digits(b->high) : 1);
    Expr e = EXPR_NOTHING;

    if ((b->has_low && !to_decimal(b->low, b->excludes_low, &low)) ||
        (b->has_high && !to_decimal(b->high, b->excludes_high, &high))) {
        schema_refuse(s, "a bound has more than %u digits after the point", DIGITS_MAX);
        return e;
    }
    n = DIGITS_MAX - MIN(n, DIGITS_MAX - 1);
    if (!b->has_low || b->low < 0) /* -0 is left out */
        e = negative(s->x,
                     magnitude(s->x, b->has_high && b->high < 0 ? &high : &above_zero, &low, n));
    if (!b->has_high || b->high >= 0)
        e = expr_alt(s->x, e, magnitude(s->x, b->has_low && b->low >= 0 ? &low : &zero, &high, n));
    return e;
}

/* ---- the keywords ---- */

static void take_bound(Schema *s, const json_t *schema, const char *key, bool is_upper,
                       bool is_excluded, struct bounds *b) {
    const json_t *value = json_object_get(schema, key);
    double n = json_number_value(value);

    if (!value)
        return;
    b->is_stated = true;
    if (!json_is_number(value)) {
        schema_refuse(s, "'%s' is not a number", key);
    } else if (is_upper && (!b->has_high || n < b->high || (n == b->high && is_excluded))) {
        b->has_high = true;
        b->high = n;
        b->excludes_high = is_excluded;
    } else if (!is_upper && (!b->has_low || n > b->low || (n == b->low && is_excluded))) {
        b->has_low = true;
        b->low = n;
        b->excludes_low = is_excluded;
    }
}

static bool take_bounds(Schema *s, const json_t *schema, struct bounds *b) {
    *b = (struct bounds){.has_low = false};
    take_bound(s, schema, "minimum", false, false, b);
    take_bound(s, schema, "exclusiveMinimum", false, true, b);
    take_bound(s, schema, "maximum", true, false, b);
    take_bound(s, schema, "exclusiveMaximum", true, true, b);
    if (b->has_low && b->low < (double)-WHOLE_MAX)
        b->has_low = false;
    if (b->has_high && b->high > (double)WHOLE_MAX)
        b->has_high = false;
    if ((b->has_low && b->low > (double)WHOLE_MAX) || (b->has_high && b->high < (double)-WHOLE_MAX))
        schema_refuse(s, "a bound has more than %u digits", DIGITS_MAX);
    return s->result == 0;
}

static Expr free_number(Exprs *x, bool is_integer) {
    Expr e = expr_seq(x, expr_optional(x, expr_string(x, "-")), positive(x)), fraction_part, sign;

    if (is_integer)
        return expr_alt(x, expr_string(x, "0"), e);
    fraction_part = expr_seq(x, expr_string(x, "."), digits(x, 1, DIGITS_MAX));
    e = expr_seq(x, expr_optional(x, expr_string(x, "-")),
                 expr_alt(x, expr_string(x, "0"), positive(x)));
    e = expr_seq(x, e, expr_optional(x, fraction_part));
    sign = expr_optional(x, expr_alt(x, expr_string(x, "+"), expr_string(x, "-")));
    sign = expr_seq(x, expr_alt(x, expr_string(x, "e"), expr_string(x, "E")), sign);
    return expr_seq(x, e, expr_optional(x, expr_seq(x, sign, digits(x, 1, 2))));
}

Expr schema_number(Schema *s, const json_t *schema, bool is_integer) {
    const json_t *multiple = json_object_get(schema, "multipleOf");
    int64_t low = -WHOLE_MAX, high = WHOLE_MAX;
    struct bounds b;

    if (!take_bounds(s, schema, &b))
        return EXPR_NOTHING;
    if (!multiple && !b.is_stated)
        return expr_shared(s->x, free_number(s->x, is_integer));
    if (!multiple && !is_integer)
        return bounded_number(s, &b);
    if (b.has_low)
        low = (int64_t)ceil(b.low) + (b.excludes_low && b.low == ceil(b.low));
    if (b.has_high)
        high = (int64_t)floor(b.high) - (b.excludes_high && b.high == floor(b.high));
    return multiple ? multiples_between(s, low, high, multiple) : integer_between(s->x, low, high);
}
