/*
 * Errors have three values.
 *
 *   r < 0   an unexpected -errno. Never matched on: it is traced and passed up unchanged, to be
 *           absorbed by the smallest object that can (a call, a connection, a step, the daemon).
 *   r == 0  success.
 *   r > 0   one of the callee's own X_E_* values, documented at the function. The caller handles
 *           it or turns it into a fatal one with error_fold(); it is never passed on raw.
 *
 * Where a person must learn what went wrong, the function takes `Error *reterr` last and writes a
 * sentence into it on failure only. error_origin() and error_trace() cost nothing on success; with
 * GROKD_TRACE set in the environment they print where a fatal error was born and passed.
 */
#pragma once

#include "base/macro.h"

#include <errno.h>
#include <stdarg.h>

#define ERROR_TEXT_MAX 512

typedef struct Error {
    char text[ERROR_TEXT_MAX]; /* one sentence without a final dot; empty: none */
} Error;

#define ERROR_INIT      ((Error){.text = {0}})

#define error_origin(r) error_note((r), "origin", __func__, __FILE__, __LINE__)
#define error_trace(r)  error_note((r), "trace", __func__, __FILE__, __LINE__)
#define error_fold(r)                                                                              \
    error_note((r) > 0 ? -ENOTRECOVERABLE : (r), "fold", __func__, __FILE__, __LINE__)

/* Prints where r < 0 and tracing is on. */
void error_print(int r, const char *kind, const char *function, const char *file, int line);

static inline int error_note(int r, const char *kind, const char *function, const char *file,
                             int line) {
    error_print(r, kind, function, file, line);
    return r;
}

/* Writes the sentence (if reterr is not NULL) and gives r, so that `return error_set(...)` works. A
 * macro, so that whoever reads the code, static analysers too, sees which value comes back. */
#define error_set(reterr, r, ...) (error_write((reterr), __VA_ARGS__), error_value(r))
void error_write(Error *reterr, const char *format, ...) PRINTF_FORMAT(2, 3); /* keeps errno */
static inline int error_value(int r) {
    return r;
}
/* Puts "prefix: " before the sentence that is there; used on the way up, by those who know more. */
void error_prefix(Error *reterr, const char *format, ...) PRINTF_FORMAT(2, 3);
