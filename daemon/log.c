/*
 * See log.h.
 *
 * Nobody's prompt or answer is ever written. Names that come from peers are made printable here, at
 * the one place that all lines pass, so that no line can pretend to be two.
 */
#include "daemon/log.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_MAX_BYTES 2048

/* syslog(3)'s numbers */
static const int priorities[] = {3, 4, 5, 6, 7};
static bool to_journal;
static enum log_level level_max = LOG_LEVEL_INFO;

void log_init(void) {
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    char own[64];

    /* The variable is inherited by children whose standard error may be something else. */
    if (!stream || fstat(STDERR_FILENO, &status) < 0)
        return;
    (void)snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
    to_journal = strcmp(stream, own) == 0;
}

void log_set_level(enum log_level level) {
    level_max = level;
}

void log_write(enum log_level level, const char *format, ...) {
    char text[LINE_MAX_BYTES], shown[LINE_MAX_BYTES], line[LINE_MAX_BYTES + 64];
    va_list args;
    int n;

    if (level > level_max)
        return;
    va_start(args, format);
    n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n < 0)
        return;
    (void)utf8_printable(shown, sizeof(shown), text, strlen(text));
    if (to_journal)
        n = snprintf(line, sizeof(line), "<%d>%s\n", priorities[level], shown);
    else
        n = snprintf(line, sizeof(line), "grokd: %s\n", shown);
    if (n > 0) /* a log that can't be written is no reason to end */
        (void)!write(STDERR_FILENO, line, (size_t)n);
}
