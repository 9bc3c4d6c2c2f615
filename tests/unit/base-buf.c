/* base/buf, base/checked, base/cursor: limits hold and nothing wraps. */
#include "base/buf.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "tests/util/test.h"

#include <errno.h>
#include <string.h>

static void test_buf_keeps_order_and_cap(void) {
    Buf b = BUF_INIT(1000);
    uint8_t bytes[300];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    for (int round = 0; round < 50; round++) {
        assert(buf_append(&b, bytes, sizeof(bytes)) == 0);
        assert(buf_append(&b, bytes, sizeof(bytes)) == 0);
        buf_consume(&b, 10);
        assert(memcmp(buf_bytes(&b), bytes + 10, 290) == 0);
        buf_consume(&b, 290);
        assert(memcmp(buf_bytes(&b), bytes, 300) == 0);
        buf_consume(&b, 300);
    }
    assert(buf_append(&b, bytes, 300) == 0 && buf_append(&b, bytes, 300) == 0);
    assert(buf_append(&b, bytes, 300) == 0);
    assert(buf_append(&b, bytes, 101) == -ENOBUFS);
    assert(buf_append(&b, bytes, 100) == 0);
    assert(buf_size(&b) == 1000);
    assert(buf_append(&b, bytes, SIZE_MAX) == -ENOBUFS);
    buf_deinit(&b);
}

static void test_checked_refuses_what_does_not_fit(void) {
    uint64_t r = 7;

    assert(!checked_add(UINT64_MAX, 1, &r) && r == 7);
    assert(!checked_mul(1ull << 32, 1ull << 32, &r) && r == 7);
    assert(!checked_align(UINT64_MAX - 3, 32, &r) && r == 7);
    assert(!checked_align(5, 0, &r) && !checked_align(5, 13, &r) && r == 7);
    assert(checked_align(33, 32, &r) && r == 64);
    assert(checked_range(3, 5, 8) && !checked_range(4, 5, 8));
    assert(!checked_range(9, 0, 8) && !checked_range(1, UINT64_MAX, 8));
}

static void test_cursor_stops_at_the_end(void) {
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    Cursor c = cursor_make(bytes, sizeof(bytes));
    uint64_t u64 = 0;
    uint32_t u32 = 0;

    assert(cursor_u64le(&c, &u64) && u64 == 0x0807060504030201);
    assert(!cursor_u32le(&c, &u32) && u32 == 0 && cursor_left(&c) == 1);
    c = cursor_make(bytes, 4);
    assert(cursor_u32be(&c, &u32) && u32 == 0x01020304 && cursor_left(&c) == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(buf_keeps_order_and_cap),
        TEST(checked_refuses_what_does_not_fit),
        TEST(cursor_stops_at_the_end),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
