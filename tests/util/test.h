/*
 * The runner of every C test: each test in a process of its own with a time limit, TAP on standard
 * output. Asserts are always on. A test that can't run here calls test_skip("reason").
 */
#pragma once

#undef NDEBUG
#include <assert.h>
#include <stddef.h>

struct test {
    const char *name;
    void (*run)(void);
    unsigned seconds; /* time limit; 0: TEST_SECONDS_DEFAULT (times GROKD_TEST_SLOWNESS) */
};

#define TEST_SECONDS_DEFAULT 30

/* With AddressSanitizer: malloc() is its own, and it takes memory of its own. */
#ifdef __SANITIZE_ADDRESS__
#define TEST_SANITIZED 1
#else
#define TEST_SANITIZED 0
#endif

/* For tables: TEST(splits_at_every_byte) names the static function test_splits_at_every_byte. */
#define TEST(name)                                                                                 \
    { #name, test_##name, 0 }

_Noreturn void test_skip(const char *reason);
/* Runs those named on the command line, or all. Returns what main() returns. */
int test_main(const struct test *tests, size_t n, int argc, char **argv);
