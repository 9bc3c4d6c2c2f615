/* Arguments of the programs here: what is wrong with one is told by its name, with status 2. */
#pragma once

#include "base/macro.h"
#include "base/number.h"

#include <errno.h>
#include <stdarg.h>
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

static inline uint32_t number_argument(const char *option, const char *text, uint32_t min,
                                       uint32_t max) {
    uint64_t number;
    const char *rest = number_read(text, max, &number);

    if (!rest || *rest != '\0' || number < min)
        wrong_argument("--%s takes a whole number from %u to %u, not '%s'", option, min, max, text);
    return (uint32_t)number;
}
