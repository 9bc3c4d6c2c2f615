/* A directory of the test's own, below $TMPDIR or /tmp, gone when the test program ends. */
#pragma once

/* A path in it: a buffer of the caller's process, valid for the next 7 calls. */
const char *temp_path(const char *format, ...) __attribute__((format(printf, 1, 2)));
