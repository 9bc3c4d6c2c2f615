/* See error.h. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

void error_print(int r, const char *kind, const char *function, const char *file, int line) {
    static int enabled = -1;

    if (r >= 0)
        return;
    if (enabled < 0)
        enabled = getenv("GROKD_TRACE") != NULL;
    if (enabled)
        (void)fprintf(stderr, "%s: %s at %s:%d (%s)\n", kind, strerror(-r), file, line, function);
}

void error_write(Error *reterr, const char *format, ...) {
    int saved_errno = errno;
    va_list args;

    if (!reterr)
        return;
    va_start(args, format);
    (void)vsnprintf(reterr->text, sizeof(reterr->text), format, args);
    va_end(args);
    errno = saved_errno;
}

void error_prefix(Error *reterr, const char *format, ...) {
    char old[ERROR_TEXT_MAX];
    va_list args;
    int n;

    if (!reterr)
        return;
    (void)memcpy(old, reterr->text, sizeof(old));
    va_start(args, format);
    n = vsnprintf(reterr->text, sizeof(reterr->text), format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(reterr->text))
        return;
    (void)snprintf(reterr->text + n, sizeof(reterr->text) - (size_t)n, ": %s", old);
}
