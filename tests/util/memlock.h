/* Whether this process, and those that it starts, may lock memory: by its limit or by its rights.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Finds out by doing it, with the limit raised as far as grokd raises it. Nothing stays locked. */
bool test_may_lock(size_t n_bytes);
