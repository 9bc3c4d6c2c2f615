/* ttrpc's frames: see ttrpc.h. */
#include "proto/msg.h"
#include "proto/ttrpc.h"

#include <string.h>

void ttrpc_reader_deinit(TtrpcReader *reader) {
    buf_deinit(&reader->data);
    *reader = (TtrpcReader){0};
}

/* Moves up to n bytes to `to`. */
static size_t take_up_to(Cursor *bytes, uint8_t *to, size_t n) {
    const uint8_t *view;

    n = MIN(n, cursor_left(bytes));
    if (n > 0 && cursor_take(bytes, n, &view))
        (void)memcpy(to, view, n);
    return n;
}

static void skip(TtrpcReader *reader, Cursor *bytes) {
    const uint8_t *view;
    uint32_t n = (uint32_t)MIN((size_t)reader->to_skip, cursor_left(bytes));

    if (cursor_take(bytes, n, &view))
        reader->to_skip -= n;
}

/* The frame's data: a view of `bytes` where it is whole there, or else put together in a buffer
 * that grows with what has come, not with what was announced. */
static int read_data(TtrpcReader *reader, Cursor *bytes, size_t n, const uint8_t **ret) {
    const uint8_t *view;
    size_t n_now;
    int r;

    reader->data.max = TTRPC_DATA_MAX;
    if (buf_size(&reader->data) == 0 && cursor_take(bytes, n, ret))
        return 0;
    n_now = MIN(n - buf_size(&reader->data), cursor_left(bytes));
    if (!cursor_take(bytes, n_now, &view))
        return error_origin(-EPROTO);
    r = buf_append(&reader->data, view, n_now);
    if (r < 0)
        return error_trace(r);
    if (buf_size(&reader->data) < n)
        return TTRPC_E_MORE;
    *ret = buf_bytes(&reader->data);
    reader->is_given = true;
    return 0;
}

int ttrpc_reader_next(TtrpcReader *reader, Cursor *bytes, struct ttrpc_frame *ret) {
    struct ttrpc_frame frame = {0};
    uint32_t length = 0;
    Cursor header;
    int r;

    if (reader->is_given) {
        buf_consume(&reader->data, buf_size(&reader->data));
        reader->is_given = false;
    }
    skip(reader, bytes);
    reader->n_header +=
        take_up_to(bytes, reader->header + reader->n_header, TTRPC_HEADER_BYTES - reader->n_header);
    if (reader->n_header > 0 && reader->header[0] != 0)
        return error_origin(-EPROTO);
    if (reader->n_header < TTRPC_HEADER_BYTES)
        return TTRPC_E_MORE;
    header = cursor_make(reader->header, TTRPC_HEADER_BYTES);
    if (!cursor_u32be(&header, &length) || !cursor_u32be(&header, &frame.stream) ||
        !cursor_u8(&header, &frame.type) || !cursor_u8(&header, &frame.flags))
        return error_origin(-EPROTO);
    if (length > TTRPC_DATA_MAX) {
        frame.is_oversize = true;
        reader->to_skip = length;
    } else {
        r = read_data(reader, bytes, length, &frame.data);
        if (r)
            return r;
        frame.n_data = length;
    }
    reader->n_header = 0;
    *ret = frame;
    return 0;
}

static int put_header(Buf *to, uint32_t stream, enum ttrpc_type type, unsigned flags, size_t n,
                      uint8_t **ret_data) {
    uint8_t *at;
    int r;

    if (n > TTRPC_DATA_MAX)
        return -EMSGSIZE;
    r = buf_reserve(to, TTRPC_HEADER_BYTES + n, &at);
    if (r < 0)
        return r;
    put_u32be(at, (uint32_t)n);
    put_u32be(at + 4, stream);
    at[8] = (uint8_t)type;
    at[9] = (uint8_t)flags;
    *ret_data = at + TTRPC_HEADER_BYTES;
    return 0;
}

int ttrpc_put_frame(Buf *to, uint32_t stream, enum ttrpc_type type, unsigned flags,
                    const uint8_t *data, size_t n) {
    uint8_t *at;
    int r;

    r = put_header(to, stream, type, flags, n, &at);
    if (r < 0)
        return r;
    if (n > 0)
        (void)memcpy(at, data, n);
    buf_commit(to, TTRPC_HEADER_BYTES + n);
    return 0;
}

int ttrpc_put_message(Buf *to, uint32_t stream, enum ttrpc_type type, unsigned flags,
                      const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *at;
    int r;

    r = put_header(to, stream, type, flags, n, &at);
    if (r < 0)
        return r;
    buf_commit(to, TTRPC_HEADER_BYTES + protobuf_c_message_pack(m, at));
    return 0;
}
