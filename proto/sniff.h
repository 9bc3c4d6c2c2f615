/* First bytes of a connection → its codec. */
#pragma once

#include "base/error.h"
#include "proto/codec.h"

/* As many bytes as are ever needed to tell. */
#define SNIFF_BYTES_MAX 4

enum {
    _SNIFF_E_SUCCESS,
    SNIFF_E_MORE,    /* too few bytes to tell */
    SNIFF_E_REFUSED, /* nothing we speak; reterr says what it looks like */
};

/* Takes nothing: the codec is fed the same bytes. */
int sniff_codec(const uint8_t *bytes, size_t n, const struct codec_ops **ret, Error *reterr);
