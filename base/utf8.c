/* See utf8.h. */
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

size_t utf8_decode(const void *bytes, size_t n, uint32_t *ret_code) {
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *p = bytes;
    uint32_t code = p[0];
    size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc0 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    if (length == 0 || p[0] > 0xf4 || length > n)
        return 0;
    if (length > 1)
        code = p[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    *ret_code = code;
    return length;
}

size_t utf8_encode(uint32_t code, char *to) {
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    if (length == 1) {
        to[0] = (char)code;
        return 1;
    }
    for (size_t i = length; i-- > 1; code >>= 6)
        to[i] = (char)(0x80 | (code & 0x3f));
    to[0] = (char)(0xf00u >> length | code);
    return length;
}

bool utf8_is_valid(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    uint32_t code;

    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_decode(p + i, n - i, &code);
        if (length == 0)
            return false;
    }
    return true;
}

static bool is_printable(uint32_t code) {
    if (code < 0xa0)
        return code >= 0x20 && code < 0x7f;
    /* Line separators and direction overrides. */
    return !(code >= 0x2028 && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069);
}

const char *utf8_printable(char *buf, size_t capacity, const void *bytes, size_t n) {
    static const char cut[] = "…";
    const uint8_t *p = bytes;
    size_t at = 0, length;
    uint32_t code;

    for (size_t i = 0; i < n; i += length) {
        char piece[5];
        size_t n_piece;

        length = utf8_decode(p + i, n - i, &code);
        if (length > 0 && is_printable(code)) {
            (void)memcpy(piece, p + i, length);
            n_piece = length;
        } else {
            length = 1;
            n_piece = (size_t)snprintf(piece, sizeof(piece), "\\x%02x", p[i]);
        }
        if (at + n_piece + sizeof(cut) > capacity) {
            (void)memcpy(buf + at, cut, sizeof(cut));
            return buf;
        }
        (void)memcpy(buf + at, piece, n_piece);
        at += n_piece;
    }
    buf[at] = '\0';
    return buf;
}
