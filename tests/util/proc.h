/* What the kernel's files say of a process, a line each: "VmRSS:     1234 kB". */
#pragma once

#include <stdint.h>

/* The number after `key` and a colon, such as of "VmRSS" in /proc/self/status, where it is KiB. -1:
 * there is no such file, or no such line. */
int64_t proc_number(const char *path, const char *key);
