/* See retry.h. */
#include "proto/retry.h"

#include "base/macro.h"
#include "proto/msg.h"

#include "proto/ttrpc.pb-c.h"

#include <string.h>

#define TYPE_URL "type.googleapis.com/google.rpc.RetryInfo"
/* What a peer says beyond it is no hint. */
#define SECONDS_MAX (366LL * 86400)

size_t retry_pack(uint64_t us, uint8_t ret_bytes[RETRY_BYTES_MAX]) {
    static char type[] = TYPE_URL;
    Ttrpc__Duration delay = TTRPC__DURATION__INIT;
    Ttrpc__RetryInfo info = TTRPC__RETRY_INFO__INIT;
    Ttrpc__Any any = TTRPC__ANY__INIT;
    uint8_t value[32];

    delay.seconds = (int64_t)MIN(us / 1000000, (uint64_t)SECONDS_MAX);
    delay.nanos = (int32_t)(us % 1000000 * 1000);
    info.retry_delay = &delay;
    assert(protobuf_c_message_get_packed_size(&info.base) <= sizeof(value));
    any.type_url = type;
    any.value =
        (ProtobufCBinaryData){.len = protobuf_c_message_pack(&info.base, value), .data = value};
    assert(protobuf_c_message_get_packed_size(&any.base) <= RETRY_BYTES_MAX);
    return protobuf_c_message_pack(&any.base, ret_bytes);
}

bool retry_unpack(const uint8_t *bytes, size_t n, uint64_t *ret_us) {
    const Ttrpc__Duration *delay;
    Ttrpc__RetryInfo *info;
    Ttrpc__Any *any;
    MsgArena arena;
    bool ok;

    msg_arena_init(&arena, MSG_BUDGET(n));
    ok = msg_unpack(&ttrpc__any__descriptor, bytes, n, &arena, &any, NULL) == 0 &&
         strcmp(any->type_url, TYPE_URL) == 0 &&
         msg_unpack(&ttrpc__retry_info__descriptor, any->value.data, any->value.len, &arena, &info,
                    NULL) == 0 &&
         info->retry_delay;
    if (ok) {
        delay = info->retry_delay;
        ok = delay->seconds >= 0 && delay->seconds <= SECONDS_MAX && delay->nanos >= 0 &&
             delay->nanos < 1000000000;
        *ret_us = ok ? (uint64_t)delay->seconds * 1000000 + (uint64_t)delay->nanos / 1000 : 0;
    }
    msg_arena_deinit(&arena);
    return ok;
}
