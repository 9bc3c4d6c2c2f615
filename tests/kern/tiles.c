/* Tiles in plain C do what Intel's manual says, and nothing else passes: see tests/util/tiles.h. */
#include "tests/util/tiles.h"

#include "base/macro.h"
#include "tests/util/test.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of 64 bytes: the palette is byte 0, sizes of rows are words from 16 on, numbers of rows bytes
 * from 48 on. */
struct sizes {
    uint8_t n_rows, row_bytes;
};

static void configure(const struct sizes sizes[3]) {
    uint8_t config[64] = {1};

    for (int i = 0; i < 3; i++) {
        config[16 + 2 * i] = sizes[i].row_bytes;
        config[48 + i] = sizes[i].n_rows;
    }
    tiles_load_config(config);
}

static bool aborts(void (*run)(void)) {
    pid_t pid = fork();
    int status;

    assert(pid >= 0);
    if (pid == 0) {
        (void)close(STDERR_FILENO);
        run();
        _exit(0);
    }
    assert(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static const struct sizes good[3] = {{2, 12}, {2, 8}, {2, 12}};

/* Two rows by eight values, times eight values by three: each of the four signednesses. */
static void test_products(void) {
    static const uint8_t a[2][8] = {{0xFF, 1, 2, 3, 4, 5, 6, 7}, {0x80, 0, 0, 0, 0, 0, 0, 0x80}};
    static const uint8_t b[2][12] = {{0xFF, 0, 0, 0, 1, 1, 1, 1, 2, 0, 0, 0},
                                     {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0xFF}};
    static const struct {
        bool a_signed, b_signed;
        int32_t sums[2][3];
    } all[] = {
        {true, true, {{1, 27, -2 - 7}, {128, -256, -256 + 128}}},
        {true, false, {{-255, 27, -2 + 1785}, {-32640, -256, -256 - 32640}}},
        {false, true, {{-255, 283, 510 - 7}, {-128, 256, 256 - 128}}},
        {false, false, {{65025, 283, 510 + 1785}, {32640, 256, 256 + 32640}}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        int32_t sums[2][4] = {{7, 7, 7, 7}, {7, 7, 7, 7}};

        configure(good);
        tiles_load(1, a, sizeof(a[0]));
        tiles_load(2, b, sizeof(b[0]));
        tiles_dot(0, 1, 2, all[i].a_signed, all[i].b_signed);
        tiles_store(0, sums, sizeof(sums[0]));
        for (int row = 0; row < 2; row++) {
            assert(memcmp(sums[row], all[i].sums[row], sizeof(all[i].sums[row])) == 0);
            assert(sums[row][3] == 7); /* past the tile's row */
        }
        tiles_dot(0, 1, 2, all[i].a_signed, all[i].b_signed);
        tiles_store(0, sums, sizeof(sums[0]));
        assert(sums[0][1] == 2 * all[i].sums[0][1]);
        tiles_zero(0);
        tiles_store(0, sums, sizeof(sums[0]));
        assert(sums[0][1] == 0);
        tiles_release();
        assert(!tiles_are_configured());
    }
}

/* ---- what faults ---- */

static uint8_t wrong[64];

static void load_wrong(void) {
    tiles_load_config(wrong);
}

static void test_configurations(void) {
    static const struct {
        uint8_t at, value;
    } faults[] = {
        {0, 2},                                        /* no such palette */
        {1, 1},                                        /* a start row */
        {2, 1},                                        /* reserved */
        {15, 1},  {32, 1}, {56, 1}, {63, 1}, {16, 65}, /* more than 64 bytes a row */
        {48, 17},                                      /* more than 16 rows */
        {48, 0},                                       /* bytes, but no rows */
        {16, 0},                                       /* rows, but no bytes */
    };

    for (size_t i = 0; i <= ARRAY_SIZE(faults); i++) {
        (void)memset(wrong, 0, sizeof(wrong));
        wrong[0] = 1;
        wrong[16] = 64;
        wrong[48] = 16;
        if (i < ARRAY_SIZE(faults))
            wrong[faults[i].at] = faults[i].value;
        assert(aborts(load_wrong) == (i < ARRAY_SIZE(faults)));
    }
}

static void zero_without_configuration(void) {
    tiles_release();
    tiles_zero(0);
}

static void zero_what_is_not_there(void) {
    configure(good);
    tiles_zero(3);
}

static void sums_are_an_operand(void) {
    configure((struct sizes[3]){{4, 16}, {4, 16}, {4, 16}});
    tiles_dot(0, 0, 1, true, true);
}

static void operands_are_one(void) {
    configure((struct sizes[3]){{4, 16}, {4, 16}, {4, 16}});
    tiles_dot(0, 1, 1, true, true);
}

static void rows_differ(void) {
    configure((struct sizes[3]){{2, 12}, {3, 8}, {2, 12}});
    tiles_dot(0, 1, 2, true, true);
}

static void columns_differ(void) {
    configure((struct sizes[3]){{2, 12}, {2, 8}, {2, 16}});
    tiles_dot(0, 1, 2, true, true);
}

static void inner_sizes_differ(void) {
    configure((struct sizes[3]){{2, 12}, {2, 8}, {3, 12}});
    tiles_dot(0, 1, 2, true, true);
}

static void fits(void) {
    configure(good);
    tiles_dot(0, 1, 2, true, true);
}

static void test_products_that_do_not_fit(void) {
    void (*const wrong_ones[])(void) = {zero_without_configuration,
                                        zero_what_is_not_there,
                                        sums_are_an_operand,
                                        operands_are_one,
                                        rows_differ,
                                        columns_differ,
                                        inner_sizes_differ};

    for (size_t i = 0; i < ARRAY_SIZE(wrong_ones); i++)
        assert(aborts(wrong_ones[i]));
    assert(!aborts(fits));
}

int main(int argc, char **argv) {
    static const struct test tests[] = {TEST(products), TEST(configurations),
                                        TEST(products_that_do_not_fit)};

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
