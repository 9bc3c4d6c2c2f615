/* Arguments of the programs here: what is wrong with one is told by its name, with status 2. */
#pragma once

#include "base/macro.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

_Noreturn PRINTF_FORMAT(1, 2) static inline void wrong_argument(const char *format, ...) {
    va_list list;

    (void)fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(list, format);
    (void)vfprintf(stderr, format, list);
    va_end(list);
    (void)fputc('\n', stderr);
    exit(2);
}

/* Digits at the start of the text that are a number from min to max; the rest is left in *ret_rest.
 */
static inline bool read_number(const char *text, uint32_t min, uint32_t max, uint32_t *ret,
                               const char **ret_rest) {
    unsigned long long number;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno != 0 || number < min || number > max)
        return false;
    *ret = (uint32_t)number;
    *ret_rest = end;
    return true;
}

static inline uint32_t number_argument(const char *option, const char *text, uint32_t min,
                                       uint32_t max) {
    const char *rest;
    uint32_t number;

    if (!read_number(text, min, max, &number, &rest) || *rest != '\0')
        wrong_argument("--%s takes a whole number from %u to %u, not '%s'", option, min, max, text);
    return number;
}
