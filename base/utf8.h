/* UTF-8: is it valid, and how to show bytes of unknown origin in a message. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the well-formed sequence at the start of n >= 1 bytes, and its code point; 0: there is
 * none (overlong forms, surrogates and what is above U+10FFFF are not well-formed). */
size_t utf8_decode(const void *bytes, size_t n, uint32_t *ret_code);
/* Writes the character's 1 to 4 bytes; 0: there is no such character. */
size_t utf8_encode(uint32_t code, char *to);
bool utf8_is_valid(const void *bytes, size_t n);

/* Bytes as text that is safe in one line of a log or on a terminal: what is not valid UTF-8, and
 * control and direction characters, come as \xNN. Cut with "…" where it does not fit. Returns buf;
 * capacity >= 8. */
const char *utf8_printable(char *buf, size_t capacity, const void *bytes, size_t n);
