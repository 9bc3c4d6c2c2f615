/* See status.h. */
#include "proto/status.h"

const char *status_name(int code) {
    switch (code) {
#define X(name, value)                                                                             \
    case value:                                                                                    \
        return #name;
        STATUS_MAP(X)
#undef X
    default:
        return "UNKNOWN";
    }
}
