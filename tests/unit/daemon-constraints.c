/* daemon/constraints: the same text is the same constraint, and what is kept has its bounds. */
#include "base/alloc.h"
#include "daemon/constraints.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static GkConstraint *compile(const char *source) {
    GkConstraint *c;

    assert(gk_constraint_new(&c, GK_CONSTRAINT_REGEX, source, strlen(source), NULL) == 0);
    return c;
}

static struct constraint_source source_of(enum gk_constraint_kind kind, const char *text) {
    return (struct constraint_source){.kind = kind,
                                      .text = alloc_string(text),
                                      .n = strlen(text),
                                      .hash = constraint_hash(text, strlen(text))};
}

static GkConstraint *find_kind(Constraints *c, enum gk_constraint_kind kind, const char *text) {
    struct constraint_source source = source_of(kind, text);
    GkConstraint *found = constraints_find(c, &source);

    free(source.text);
    return found;
}

static GkConstraint *find(Constraints *c, const char *text) {
    return find_kind(c, GK_CONSTRAINT_REGEX, text);
}

static GkConstraint *add(Constraints *c, const char *text) {
    struct constraint_source source = source_of(GK_CONSTRAINT_REGEX, text);
    GkConstraint *added = constraints_add(c, &source, compile(text));

    assert(!source.text);
    return added;
}

static void test_same_text_is_shared(void) {
    Constraints c;
    GkConstraint *first, *second;

    constraints_init(&c);
    assert(!find(&c, "a+"));
    first = add(&c, "a+");
    assert((second = find(&c, "a+")) == first);
    (void)gk_constraint_unref(second);
    assert(!find(&c, "a") && !find(&c, "a+b") && !find(&c, "a*"));
    assert(!find_kind(&c, GK_CONSTRAINT_GRAMMAR, "a+"));
    /* Two that were compiled at the same time become one. */
    assert((second = add(&c, "a+")) == first && c.n == 1);
    (void)gk_constraint_unref(second);
    constraints_deinit(&c);
    assert(gk_constraint_bytes(first) > 0); /* still ours */
    (void)gk_constraint_unref(first);
}

static void test_least_used_go_first(void) {
    Constraints c;
    char source[32];

    constraints_init(&c);
    for (int i = 0; i < 3 * CONSTRAINTS_MAX; i++) {
        GkConstraint *kept;

        (void)snprintf(source, sizeof(source), "[a-z]{%d}", i);
        (void)gk_constraint_unref(add(&c, source));
        kept = find(&c, "[a-z]{0}");
        assert(kept && c.n <= CONSTRAINTS_MAX);
        (void)gk_constraint_unref(kept);
    }
    assert(c.n == CONSTRAINTS_MAX && !find(&c, "[a-z]{1}"));
    constraints_deinit(&c);
}

static void test_bytes_are_bounded(void) {
    Constraints c;
    char source[64];
    size_t n_most = 0;

    constraints_init(&c);
    for (int i = 0; i < 80; i++) {
        (void)snprintf(source, sizeof(source), "[a-z]{9999}[0-9]{9999}[a-c]{9999}[x-z]{%d}", i);
        (void)gk_constraint_unref(add(&c, source));
        assert(c.n_bytes <= CONSTRAINTS_BYTES_MAX);
        n_most = c.n > n_most ? c.n : n_most;
    }
    assert(c.n_bytes > CONSTRAINTS_BYTES_MAX / 2 && n_most < CONSTRAINTS_MAX);
    constraints_deinit(&c);
}

static void test_without_memory(void) {
    struct constraint_source source = source_of(GK_CONSTRAINT_REGEX, "x");
    GkConstraint *own = compile("x");
    Constraints c;

    constraints_init(&c);
    alloc_fail_after(1);
    assert(constraints_add(&c, &source, own) == own && c.n == 0 && !source.text);
    alloc_fail_after(0);
    (void)gk_constraint_unref(own);
    constraints_deinit(&c);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(same_text_is_shared),
        TEST(least_used_go_first),
        TEST(bytes_are_bounded),
        TEST(without_memory),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
