/* See number.h. */
#include "base/number.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

const char *number_read(const char *text, uint64_t max, uint64_t *ret) {
    unsigned long long number;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return NULL;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno != 0 || number > max)
        return NULL;
    *ret = number;
    return end;
}
