/* See human.h. */
#include "base/human.h"

#include "base/macro.h"

#include <stddef.h>
#include <stdio.h>

const char *human_amount(double value, const char *unit, char buffer[HUMAN_BYTES]) {
    static const char prefixes[][2] = {"", "k", "M", "G", "T", "P"};
    size_t i = 0;

    while (value >= 999.95 && i + 1 < ARRAY_SIZE(prefixes)) {
        value /= 1000;
        i++;
    }
    (void)snprintf(buffer, HUMAN_BYTES, i == 0 ? "%.0f %s%s" : "%.1f %s%s", value, prefixes[i],
                   unit);
    return buffer;
}
