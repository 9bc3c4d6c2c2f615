/* proto/retry: the bytes are those of Google's own library, and nothing else is a hint. */
#include "base/macro.h"
#include "proto/retry.h"
#include "tests/util/test.h"

#include <string.h>

/* protobuf 3.21 for Python: Any(RetryInfo(retry_delay=1.5 s)). */
static const uint8_t reference[] = "\n\x28type.googleapis.com/google.rpc.RetryInfo"
                                   "\x12\n\n\b\b\x01\x10\x80\xca\xb5\xee\x01";
#define N_REFERENCE (sizeof(reference) - 1)

static void test_bytes_are_the_reference(void) {
    uint8_t bytes[RETRY_BYTES_MAX];
    uint64_t us;

    assert(retry_pack(1500000, bytes) == N_REFERENCE);
    assert(memcmp(bytes, reference, N_REFERENCE) == 0);
    assert(retry_unpack(reference, N_REFERENCE, &us) && us == 1500000);
}

static void test_every_time_goes_there_and_back(void) {
    static const uint64_t times[] = {0, 1, 999999, 1000000, 60000000, 366ull * 86400 * 1000000};
    uint8_t bytes[RETRY_BYTES_MAX];
    uint64_t us;

    for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
        size_t n = retry_pack(times[i], bytes);

        assert(n <= RETRY_BYTES_MAX && retry_unpack(bytes, n, &us) && us == times[i]);
    }
    assert(retry_pack(UINT64_MAX, bytes) <= RETRY_BYTES_MAX);
}

static void test_other_bytes_are_no_hint(void) {
    uint8_t bytes[N_REFERENCE];
    uint64_t us;

    assert(!retry_unpack(NULL, 0, &us));
    for (size_t n = 0; n < N_REFERENCE; n++)
        assert(!retry_unpack(reference, n, &us));
    (void)memcpy(bytes, reference, N_REFERENCE);
    bytes[2 + 39] = 'p'; /* another type */
    assert(!retry_unpack(bytes, N_REFERENCE, &us));
    (void)memcpy(bytes, reference, N_REFERENCE);
    bytes[N_REFERENCE - 1] = 0x7f; /* more nanoseconds than a second has */
    assert(!retry_unpack(bytes, N_REFERENCE, &us));
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(bytes_are_the_reference),
        TEST(every_time_goes_there_and_back),
        TEST(other_bytes_are_no_hint),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
