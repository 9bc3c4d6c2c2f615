/* base/arena: what it gives is zero, aligned and apart, and never beyond the cap. */
#include "base/arena.h"
#include "tests/util/test.h"

#include <string.h>

static void test_pieces_are_apart(void) {
    Arena a = ARENA_INIT(1u << 20);
    uint8_t *pieces[500];

    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        size_t n = i * 7 % 900;

        pieces[i] = arena_alloc(&a, n, 1);
        assert(pieces[i] && (uintptr_t)pieces[i] % 16 == 0);
        for (size_t j = 0; j < n; j++)
            assert(pieces[i][j] == 0);
        (void)memset(pieces[i], (int)(i % 255) + 1, n);
    }
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
        for (size_t j = 0; j < i * 7 % 900; j++)
            assert(pieces[i][j] == i % 255 + 1);
    arena_deinit(&a);
}

static void test_the_cap_holds(void) {
    Arena a = ARENA_INIT(100000);
    size_t n = 0;

    assert(!arena_alloc(&a, 100001, 1));
    assert(!arena_alloc(&a, SIZE_MAX, 2) && !arena_alloc(&a, SIZE_MAX, 1));
    while (arena_alloc(&a, 100, 1))
        n++;
    assert(n > 100000 / 112 / 2 && n <= 100000 / 112);
    assert(a.n_bytes <= a.max);
    arena_deinit(&a);
    assert(arena_alloc(&a, 100000, 1)); /* it can be used again */
    arena_deinit(&a);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {TEST(pieces_are_apart), TEST(the_cap_holds)};

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
