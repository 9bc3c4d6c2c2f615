/* base/number: what is a number, and where it ends. */
#include "base/number.h"

#include "base/macro.h"
#include "tests/util/test.h"

#include <string.h>

static void test_numbers(void) {
    static const struct {
        const char *text;
        uint64_t max, number;
        const char *rest;
    } rows[] = {
        {"0", 0, 0, ""},
        {"007,8", 7, 7, ",8"},
        {"5x", 9, 5, "x"},
        {"4294967295", UINT32_MAX, UINT32_MAX, ""},
        {"18446744073709551615", UINT64_MAX, UINT64_MAX, ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t number = 99;
        const char *rest = number_read(rows[i].text, rows[i].max, &number);

        assert(rest && strcmp(rest, rows[i].rest) == 0 && number == rows[i].number);
    }
}

static void test_what_is_none(void) {
    static const char *const texts[] = {"", "x", "-1", "+1", " 1", "8", "18446744073709551616"};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        uint64_t number = 99;

        assert(!number_read(texts[i], 7, &number) && number == 99);
    }
}

static const struct test tests[] = {TEST(numbers), TEST(what_is_none)};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
