/*
 * ttrpc's frames, for both roles, and its server codec (ttrpc_codec in proto/codec.h).
 *
 * A frame is ten bytes, big endian: u32 length of the data | u32 stream | u8 type | u8 flags. See
 * PROTOCOL.md of containerd/ttrpc.
 */
#pragma once

#include "base/buf.h"
#include "base/cursor.h"
#include "proto/codec.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#define TTRPC_HEADER_BYTES 10
#define TTRPC_DATA_MAX     CODEC_MESSAGE_BYTES_MAX
/* Queued for a peer that does not read: messages, and room beyond them for the endings. */
#define TTRPC_MESSAGES_BYTES_MAX (8u << 20)
#define TTRPC_ENDINGS_BYTES_MAX  (1u << 20)
/* Sentences of failures are cut to this. */
#define TTRPC_SENTENCE_BYTES_MAX 1024
/* Ended calls that are remembered, so that their ids can't be used again at once. */
#define TTRPC_RECENT_MAX 512
/* From here on a connection has no ids left for new calls (they may come a little out of order). */
#define TTRPC_ID_LAST 0xfffff000u

enum ttrpc_type { TTRPC_REQUEST = 1, TTRPC_RESPONSE = 2, TTRPC_DATA = 3 };

enum ttrpc_flag {
    TTRPC_REMOTE_CLOSED = 0x01, /* the sender has no more to say on this stream */
    TTRPC_REMOTE_OPEN = 0x02,   /* Data frames follow this Request */
    TTRPC_NO_DATA = 0x04,       /* the frame is no message (an empty one without this is) */
};

struct ttrpc_frame {
    uint32_t stream;
    uint8_t type, flags;
    bool is_oversize;    /* longer than TTRPC_DATA_MAX: its data is skipped */
    const uint8_t *data; /* a view until the next call of the reader */
    size_t n_data;
};

/* Takes a stream of bytes apart. Owner: a codec or a client. Begins zero-filled. */
typedef struct TtrpcReader {
    uint8_t header[TTRPC_HEADER_BYTES];
    size_t n_header;
    Buf data;         /* of a frame that came in pieces */
    bool is_given;    /* that frame has been given out */
    uint32_t to_skip; /* bytes left of an oversize frame */
} TtrpcReader;

enum { _TTRPC_E_SUCCESS, TTRPC_E_MORE };

void ttrpc_reader_deinit(TtrpcReader *reader);
/* Gives the next frame; TTRPC_E_MORE: all bytes are taken and no frame is whole. Returns -EPROTO
 * where a frame's first byte, which is reserved, is not zero: the framing is lost; -ENOMEM. */
int ttrpc_reader_next(TtrpcReader *reader, Cursor *bytes, struct ttrpc_frame *ret);

/* Append one frame whole or nothing. Return -ENOBUFS (the buffer's cap), -EMSGSIZE, -ENOMEM. */
int ttrpc_put_frame(Buf *to, uint32_t stream, enum ttrpc_type type, unsigned flags,
                    const uint8_t *data, size_t n);
int ttrpc_put_message(Buf *to, uint32_t stream, enum ttrpc_type type, unsigned flags,
                      const ProtobufCMessage *m);
