/* daemon/mailbox: nothing is lost or reordered between two threads, and the bound holds. */
#include "base/alloc.h"
#include "daemon/mailbox.h"
#include "tests/util/test.h"

#include <stdatomic.h>

#define N_LETTERS 200000

struct letter {
    ListNode node;
    unsigned number;
};

static ListNode *letter(unsigned number) {
    struct letter *l = alloc_new(struct letter);

    assert(l);
    list_init(&l->node);
    l->number = number;
    return &l->node;
}

static unsigned open_letter(ListNode *node) {
    struct letter *l = container_of(node, struct letter, node);
    unsigned number = l->number;

    list_unlink(node);
    free(l);
    return number;
}

/* One waits for room, which two need not have. */
static void push_two(Mailbox *m, unsigned i) {
    ListNode letters;

    list_init(&letters);
    list_push_back(&letters, letter(i));
    list_push_back(&letters, letter(i + 1));
    mailbox_push_all(m, &letters);
    assert(list_is_empty(&letters));
}

static void test_bound_and_order(void) {
    Mailbox m;
    ListNode got, *extra = letter(99);
    unsigned expected = 0;

    list_init(&got);
    assert(mailbox_init(&m, 3, NULL, NULL) == 0);
    for (unsigned i = 0; i < 3; i++)
        assert(mailbox_push(&m, letter(i)) == 0);
    assert(mailbox_push(&m, extra) == MAILBOX_E_FULL);
    assert(open_letter(extra) == 99); /* it stayed ours */
    mailbox_take(&m, &got);
    list_for_each_safe (node, &got)
        assert(open_letter(node) == expected++);
    assert(expected == 3);
    mailbox_lift_limit(&m);
    for (unsigned i = 0; i < 6; i += 2)
        push_two(&m, expected + i);
    mailbox_take(&m, &got);
    list_for_each_safe (node, &got)
        assert(open_letter(node) == expected++);
    assert(expected == 9);
    mailbox_deinit(&m);
}

static void count_wake(void *userdata) {
    atomic_uint *n = userdata;

    (void)atomic_fetch_add(n, 1);
}

static void test_wakes_where_it_was_empty(void) {
    atomic_uint n_wakes = 0;
    Mailbox m;
    ListNode got;

    list_init(&got);
    assert(mailbox_init(&m, 10, count_wake, &n_wakes) == 0);
    assert(mailbox_push(&m, letter(0)) == 0 && mailbox_push(&m, letter(1)) == 0);
    assert(atomic_load(&n_wakes) == 1);
    mailbox_take(&m, &got);
    assert(mailbox_push(&m, letter(2)) == 0 && atomic_load(&n_wakes) == 2);
    mailbox_take(&m, &got);
    list_for_each_safe (node, &got)
        (void)open_letter(node);
    mailbox_deinit(&m);
}

static void *write_all(void *userdata) {
    for (unsigned i = 0; i < N_LETTERS; i += 2)
        push_two(userdata, i);
    return NULL;
}

static void test_two_threads(void) {
    pthread_t writer;
    unsigned expected = 0;
    Mailbox m;

    assert(mailbox_init(&m, 7, NULL, NULL) == 0);
    assert(pthread_create(&writer, NULL, write_all, &m) == 0);
    while (expected < N_LETTERS) {
        ListNode got;
        unsigned n = 0;

        list_init(&got);
        mailbox_wait(&m, &got);
        list_for_each_safe (node, &got) {
            assert(open_letter(node) == expected++);
            n++;
        }
        assert(n >= 1 && n <= 8); /* the last two found room for one */
    }
    assert(pthread_join(writer, NULL) == 0);
    mailbox_deinit(&m);
}

static void *poke(void *userdata) {
    mailbox_poke(userdata);
    return NULL;
}

static void test_poke_ends_a_wait_without_letters(void) {
    pthread_t other;
    Mailbox m;
    ListNode got;

    list_init(&got);
    assert(mailbox_init(&m, 1, NULL, NULL) == 0);
    assert(pthread_create(&other, NULL, poke, &m) == 0);
    mailbox_wait(&m, &got);
    assert(list_is_empty(&got) && pthread_join(other, NULL) == 0);
    mailbox_deinit(&m);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(bound_and_order),
        TEST(wakes_where_it_was_empty),
        TEST(two_threads),
        TEST(poke_ends_a_wait_without_letters),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
