/* base/utf8: well-formed or not by Unicode's table 3-7, and nothing unprintable comes through. */
#include "base/macro.h"
#include "base/utf8.h"
#include "tests/util/test.h"

#include <stdint.h>
#include <string.h>

static void test_well_formed(void) {
    static const struct {
        const char *bytes;
        uint32_t code;
    } good[] = {
        {"a", 'a'},
        {"\x7f", 0x7f},
        {"\xc2\x80", 0x80},
        {"\xdf\xbf", 0x7ff},
        {"\xe0\xa0\x80", 0x800},
        {"\xed\x9f\xbf", 0xd7ff},
        {"\xee\x80\x80", 0xe000},
        {"\xef\xbf\xbf", 0xffff},
        {"\xf0\x90\x80\x80", 0x10000},
        {"\xf4\x8f\xbf\xbf", 0x10ffff},
    };
    uint32_t code;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        size_t n = strlen(good[i].bytes);

        assert(utf8_decode(good[i].bytes, n, &code) == n && code == good[i].code);
        assert(utf8_is_valid(good[i].bytes, n));
        assert(n == 1 || !utf8_is_valid(good[i].bytes, n - 1));
    }
    assert(utf8_decode("\0", 1, &code) == 1 && code == 0);
    assert(utf8_is_valid("", 0) && utf8_is_valid("a▁é😀", 10));
}

static void test_ill_formed(void) {
    static const char *const bad[] = {
        "\x80",
        "\xbf",
        "\xc0\x80",
        "\xc1\xbf",
        "\xe0\x9f\xbf",
        "\xed\xa0\x80",
        "\xed\xbf\xbf",
        "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xff",
        "\xfe",
        "\xc2(",
        "\xe2\x82(",
        "\xf0\x9f\x98(",
        "ok\x80",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert(!utf8_is_valid(bad[i], strlen(bad[i])));
}

static void assert_printed(const char *bytes, size_t n, size_t capacity, const char *expected) {
    char buf[64];

    (void)memset(buf, 'X', sizeof(buf));
    assert(strcmp(utf8_printable(buf, capacity, bytes, n), expected) == 0);
    for (size_t i = capacity; i < sizeof(buf); i++)
        assert(buf[i] == 'X');
}

static void test_printable(void) {
    assert_printed("", 0, 8, "");
    assert_printed("plain é▁", 11, 32, "plain é▁");
    assert_printed("a\nb\0c\x1b\x7f", 7, 32, "a\\x0ab\\x00c\\x1b\\x7f");
    assert_printed("\xff\xc2\x85", 3, 32, "\\xff\\xc2\\x85"); /* NEL is a control character */
    assert_printed("\xe2\x80\xae", 3, 32, "\\xe2\\x80\\xae"); /* right-to-left override */
    assert_printed("0123456789", 10, 8, "0123…");
    assert_printed("0123456789", 10, 14, "0123456789");
    assert_printed("\n\n\n", 3, 8, "\\x0a…");
}

static void test_encodes_what_it_decodes(void) {
    for (uint32_t code = 0; code <= 0x110000; code++) {
        char bytes[4];
        size_t n = utf8_encode(code, bytes);
        uint32_t again = 0;

        assert((n == 0) == (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)));
        assert(n == 0 || (utf8_decode(bytes, n, &again) == n && again == code));
    }
}

static const struct test tests[] = {TEST(encodes_what_it_decodes), TEST(well_formed),
                                    TEST(ill_formed), TEST(printable)};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
