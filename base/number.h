/* Numbers that people write. */
#pragma once

#include <stdint.h>

/* The decimal number that the text begins with: digits, no sign or blank before them, at most max.
 * Returns what follows it, or NULL: there is none, and *ret is as before. */
const char *number_read(const char *text, uint64_t max, uint64_t *ret);
