/* libgrokd: codes, sentences and other names. */
#include "client/internal.h"
#include "proto/status.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)GROKD_UNAUTHENTICATED == (int)STATUS_UNAUTHENTICATED &&
                   (int)GROKD_NOT_FOUND == (int)STATUS_NOT_FOUND,
               "the public codes are the wire's");

void write_error(struct grokd_error *error, int code, const char *format, ...) {
    va_list args;

    if (!error)
        return;
    error->code = code;
    error->retry_after_ms = 0;
    va_start(args, format);
    (void)vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
}

int copy_error(struct grokd_error *error, const struct grokd_error *from) {
    if (error)
        *error = *from;
    return from->code;
}

int out_of_memory(struct grokd_error *error) {
    return set_error(error, GROKD_RESOURCE_EXHAUSTED, "out of memory");
}

const char *grokd_code_name(int code) {
    return status_name(code);
}

const char *grokd_version(void) {
    return GROKD_VERSION;
}

const char *grokd_model_state_name(int state) {
    static const char *const names[] = {
        [GROKD_MODEL_UNSPECIFIED] = "unspecified", [GROKD_MODEL_CONFIGURED] = "configured",
        [GROKD_MODEL_LOADING] = "loading",         [GROKD_MODEL_READY] = "ready",
        [GROKD_MODEL_FAILED] = "failed",           [GROKD_MODEL_UNLOADING] = "unloading",
    };

    return state >= 0 && (size_t)state < ARRAY_SIZE(names) ? names[state] : names[0];
}

const char *grokd_finish_reason_name(int reason) {
    return reason == GROKD_FINISH_STOP     ? "stop"
           : reason == GROKD_FINISH_LENGTH ? "length"
                                           : "unspecified";
}

const char *grokd_request_state_name(int state) {
    static const char *const names[] = {
        [GROKD_REQUEST_UNSPECIFIED] = "unspecified", [GROKD_REQUEST_OPENING] = "opening",
        [GROKD_REQUEST_QUEUED] = "queued",           [GROKD_REQUEST_RUNNING] = "running",
        [GROKD_REQUEST_FLUSHING] = "flushing",
    };

    return state >= 0 && (size_t)state < ARRAY_SIZE(names) ? names[state] : names[0];
}
