/* See sniff.h. The first byte decides: ttrpc's is zero (reserved), HTTP's a letter, TLS's 0x16. */
#include "proto/sniff.h"

#include <stdbool.h>
#include <string.h>

#define TLS_HANDSHAKE 0x16

static bool is_upper(uint8_t c) {
    return c >= 'A' && c <= 'Z';
}

int sniff_codec(const uint8_t *bytes, size_t n, const struct codec_ops **ret, Error *reterr) {
    if (n == 0)
        return SNIFF_E_MORE;
    if (bytes[0] == 0) {
        *ret = &ttrpc_codec;
        return 0;
    }
    if (bytes[0] == TLS_HANDSHAKE)
        return error_set(reterr, SNIFF_E_REFUSED,
                         "this looks like TLS; grokd speaks plain ttrpc on this socket");
    for (size_t i = 0; i < MIN(n, (size_t)SNIFF_BYTES_MAX); i++)
        if (!is_upper(bytes[i]) && !(i > 0 && bytes[i] == ' '))
            return error_set(reterr, SNIFF_E_REFUSED,
                             "this is no protocol known here (first byte 0x%02x); grokd speaks "
                             "ttrpc on this socket",
                             bytes[0]);
    if (n < SNIFF_BYTES_MAX)
        return SNIFF_E_MORE;
    if (memcmp(bytes, "PRI ", SNIFF_BYTES_MAX) == 0)
        return error_set(reterr, SNIFF_E_REFUSED,
                         "this looks like HTTP/2 (gRPC); grokd speaks ttrpc on this socket");
    return error_set(reterr, SNIFF_E_REFUSED,
                     "this looks like HTTP/1; grokd speaks ttrpc on this socket");
}
