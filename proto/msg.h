/*
 * Thin helpers over protobuf-c: bytes to messages within a budget of memory, and back.
 *
 * protobuf-c expands: two bytes of wire (an empty string in a list) become some sixty of memory. So
 * a message is decoded into an arena that refuses to grow beyond its budget, which callers derive
 * from the length of the bytes. Everything decoded lives until msg_arena_deinit().
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* Memory for a message of n bytes: ample for every legitimate one (the worst, lists of
 * log-probabilities, need eleven times their bytes). */
#define MSG_BUDGET_BASE   65536
#define MSG_BUDGET_FACTOR 16
#define MSG_BUDGET(n)     (MSG_BUDGET_BASE + MSG_BUDGET_FACTOR * (size_t)(n))

struct msg_block;

typedef struct MsgArena {
    ProtobufCAllocator allocator; /* points back at this arena: an arena can't be moved */
    struct msg_block *blocks;     /* newest first */
    size_t n_bytes, n_bytes_max;
    bool over_budget, out_of_memory;
} MsgArena;

void msg_arena_init(MsgArena *a, size_t n_bytes_max);
void msg_arena_deinit(MsgArena *a);
/* Memory of the arena, not filled; NULL where the budget or the machine has no more. */
void *msg_arena_alloc(MsgArena *a, size_t n);

enum {
    _MSG_E_SUCCESS,
    MSG_E_MALFORMED, /* not this message, or a string that is not UTF-8 or holds a zero byte */
    MSG_E_TOO_LARGE, /* would need more memory than the arena's budget */
};

/* *ret is of the type that `type` describes, and lives in the arena. Strings are held to proto3:
 * they are UTF-8; zero bytes, which a C string can't hold, are refused too. Returns
 * MSG_E_MALFORMED, MSG_E_TOO_LARGE (reterr says which field and where), -ENOMEM. */
int msg_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, MsgArena *a,
               void *ret, Error *reterr);
/* Appends the message's bytes. Returns -ENOBUFS at the buffer's cap, -ENOMEM. */
int msg_pack(const ProtobufCMessage *m, Buf *to);

/* Length of the longest start of the n bytes that is UTF-8. */
size_t msg_utf8_length(const char *bytes, size_t n);
/* Puts '?' in place of every byte that is not UTF-8: strings from files that go into messages,
 * which strict peers would refuse whole. */
void msg_make_utf8(char *s);
