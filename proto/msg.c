/* See msg.h. */
#include "proto/msg.h"

#include "base/alloc.h"
#include "base/cursor.h"
#include "base/utf8.h"

#include <stdbool.h>
#include <string.h>

/* ---- arena ---- */

#define ALIGNMENT         ((size_t)16)
#define BLOCK_BYTES_FIRST ((size_t)1024)
#define BLOCK_BYTES_MAX   ((size_t)65536)

struct msg_block {
    struct msg_block *next;
    size_t n_used, n_bytes;
    _Alignas(ALIGNMENT) uint8_t bytes[];
};

void *msg_arena_alloc(MsgArena *a, size_t n) {
    struct msg_block *block = a->blocks;
    size_t n_block;
    void *p;

    if (n > a->n_bytes_max) {
        a->over_budget = true;
        return NULL;
    }
    n = (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!block || n > block->n_bytes - block->n_used) {
        n_block = block ? MIN(2 * block->n_bytes, BLOCK_BYTES_MAX) : BLOCK_BYTES_FIRST;
        n_block = MAX(n, MIN(n_block, a->n_bytes_max - a->n_bytes));
        if (n_block > a->n_bytes_max - a->n_bytes) {
            a->over_budget = true;
            return NULL;
        }
        block = alloc_resize(NULL, sizeof(*block) + n_block);
        if (!block) {
            a->out_of_memory = true;
            return NULL;
        }
        *block = (struct msg_block){.next = a->blocks, .n_bytes = n_block};
        a->blocks = block;
        a->n_bytes += n_block;
    }
    p = block->bytes + block->n_used;
    block->n_used += n;
    return p;
}

static void *allocator_alloc(void *arena, size_t n) {
    return msg_arena_alloc(arena, n);
}

/* All at once in msg_arena_deinit(). */
static void allocator_free(void *arena, void *p) {
    (void)arena;
    (void)p;
}

void msg_arena_init(MsgArena *a, size_t n_bytes_max) {
    *a = (MsgArena){
        .allocator = {.alloc = allocator_alloc, .free = allocator_free, .allocator_data = a},
        .n_bytes_max = n_bytes_max / ALIGNMENT * ALIGNMENT,
    };
}

void msg_arena_deinit(MsgArena *a) {
    struct msg_block *next;

    for (struct msg_block *block = a->blocks; block; block = next) {
        next = block->next;
        free(block);
    }
    a->blocks = NULL;
    a->n_bytes = 0;
}

/* ---- UTF-8 ---- */

size_t msg_utf8_length(const char *bytes, size_t n) {
    size_t at = 0, length;
    uint32_t code;

    while (at < n) {
        length = utf8_decode(bytes + at, n - at, &code);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

void msg_make_utf8(char *s) {
    size_t n = strlen(s), at = 0;

    for (;;) {
        at += msg_utf8_length(s + at, n - at);
        if (at == n)
            return;
        s[at++] = '?';
    }
}

/* ---- decoding ---- */

/* Our schema nests five deep; protobuf-c recurses as deep as the schema does. */
#define DEPTH_MAX 16

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static bool read_varint(Cursor *c, uint64_t *ret) {
    uint64_t value = 0;
    uint8_t byte;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (!cursor_u8(c, &byte))
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* Reads one field; of those that carry bytes, gives a view of them. */
static bool read_field(Cursor *c, uint64_t *ret_tag, const uint8_t **ret_bytes, uint64_t *ret_n) {
    uint64_t value;

    *ret_bytes = NULL;
    *ret_n = 0;
    if (!read_varint(c, ret_tag) || *ret_tag >> 3 == 0 || *ret_tag > UINT32_MAX)
        return false;
    switch (*ret_tag & 7) {
    case WIRE_VARINT:
        return read_varint(c, &value);
    case WIRE_64:
        return cursor_take(c, 8, ret_bytes);
    case WIRE_32:
        return cursor_take(c, 4, ret_bytes);
    case WIRE_BYTES:
        return read_varint(c, ret_n) && cursor_take(c, *ret_n, ret_bytes);
    default:
        return false; /* groups, which proto3 has not */
    }
}

static int check_string(const ProtobufCMessageDescriptor *type, const char *field,
                        const uint8_t *bytes, size_t n, Error *reterr) {
    size_t n_good = msg_utf8_length((const char *)bytes, n);

    if (n_good < n)
        return error_set(reterr, MSG_E_MALFORMED, "%s.%s is not UTF-8 at byte %zu", type->name,
                         field, n_good);
    if (n > 0 && memchr(bytes, 0, n))
        return error_set(reterr, MSG_E_MALFORMED, "%s.%s has a zero byte in it", type->name, field);
    return 0;
}

/* What protobuf-c leaves unchecked: that strings are UTF-8 and have no zero byte (it would cut them
 * off there). */
static int check_message(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n,
                         unsigned depth, Error *reterr) {
    Cursor c = cursor_make(bytes, n);
    const ProtobufCFieldDescriptor *field;
    const uint8_t *view;
    uint64_t tag, n_view, offset;
    int r;

    if (depth > DEPTH_MAX)
        return error_set(reterr, MSG_E_MALFORMED, "%s is nested too deeply", type->name);
    while (cursor_left(&c) > 0) {
        offset = cursor_offset(&c);
        if (!read_field(&c, &tag, &view, &n_view))
            return error_set(reterr, MSG_E_MALFORMED, "not a %s: malformed field at byte %llu",
                             type->name, (unsigned long long)offset);
        if ((tag & 7) != WIRE_BYTES)
            continue;
        field = protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
        r = 0;
        if (field && field->type == PROTOBUF_C_TYPE_STRING)
            r = check_string(type, field->name, view, (size_t)n_view, reterr);
        else if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
            r = check_message(field->descriptor, view, (size_t)n_view, depth + 1, reterr);
        if (r)
            return r;
    }
    return 0;
}

int msg_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, MsgArena *a,
               void *ret, Error *reterr) {
    static const uint8_t nothing[1];
    ProtobufCMessage *m;
    int r;

    bytes = n > 0 ? bytes : nothing;
    r = check_message(type, bytes, n, 0, reterr);
    if (r)
        return r;
    m = protobuf_c_message_unpack(type, &a->allocator, n, bytes);
    if (m) {
        *(ProtobufCMessage **)ret = m;
        return 0;
    }
    if (a->over_budget)
        return error_set(reterr, MSG_E_TOO_LARGE,
                         "%s of %zu bytes would need more than %zu bytes of memory", type->name, n,
                         a->n_bytes_max);
    if (a->out_of_memory)
        return error_origin(-ENOMEM);
    return error_set(reterr, MSG_E_MALFORMED, "not a %s", type->name);
}

int msg_pack(const ProtobufCMessage *m, Buf *to) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *at;
    int r;

    if (n == 0)
        return 0;
    r = buf_reserve(to, n, &at);
    if (r < 0)
        return r;
    buf_commit(to, protobuf_c_message_pack(m, at));
    return 0;
}
