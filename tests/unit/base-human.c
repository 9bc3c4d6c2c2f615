/* base/human: amounts with the prefix that suits them. */
#include "base/human.h"
#include "base/macro.h"
#include "tests/util/test.h"

#include <string.h>

static void test_amounts(void) {
    static const struct {
        double value;
        const char *unit, *text;
    } rows[] = {
        {0, "B", "0 B"},
        {720, "B", "720 B"},
        {999, "B", "999 B"},
        {1000, "B", "1.0 kB"},
        {999940, "B", "999.9 kB"},
        {999950, "B", "1.0 MB"}, /* not 1000.0 kB */
        {12386304, "B", "12.4 MB"},
        {314e9, "", "314.0 G"},
        {18446744073709551615.0, "B", "18446.7 PB"},
    };
    char text[HUMAN_BYTES];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert(strcmp(human_amount(rows[i].value, rows[i].unit, text), rows[i].text) == 0);
}

static const struct test tests[] = {TEST(amounts)};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
