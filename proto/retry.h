/* google.rpc.RetryInfo, the detail of a refusal that says when to try again. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RETRY_BYTES_MAX 96

/* A packed google.protobuf.Any with a RetryInfo in it. Returns its length. */
size_t retry_pack(uint64_t us, uint8_t ret_bytes[RETRY_BYTES_MAX]);
/* False where it is another detail or none at all. */
bool retry_unpack(const uint8_t *bytes, size_t n, uint64_t *ret_us);
