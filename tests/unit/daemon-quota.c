/* daemon/quota: limits hold for each user and actor, and what is given back is gone. */
#include "daemon/quota.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <string.h>

#define WINDOW_US 16000000ull /* slices of a second */

static Quota q;
static Error error;

static void begin(void) {
    quota_init(&q, WINDOW_US);
}

/* A user with these limits; 0: none. */
static Account *connect_user(uid_t uid, const uint64_t limits[_QUOTA_N]) {
    Account *a = NULL;
    uint64_t max[_QUOTA_N];

    for (int i = 0; i < _QUOTA_N; i++)
        max[i] = limits[i] ? limits[i] : QUOTA_UNLIMITED;
    return quota_connect(&q, uid, max, &a, &error) == 0 ? a : NULL;
}

static void test_limits_are_each_users_own(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_CONNECTIONS] = 2, [QUOTA_BYTES] = 100};
    Account *a, *b;

    begin();
    a = connect_user(1000, limits);
    assert(a && connect_user(1000, limits) == a);
    assert(!connect_user(1000, limits));
    assert(strstr(error.text, "user 1000") && strstr(error.text, "connections") &&
           strstr(error.text, "limit of 2") && strstr(error.text, "max_user_connections"));
    b = connect_user(0, limits);
    assert(b && b != a && quota_charge(b, QUOTA_BYTES, 100, &error) == 0);
    assert(quota_charge(b, QUOTA_BYTES, 1, &error) == QUOTA_E_EXCEEDED);
    assert(quota_charge(b, QUOTA_BYTES, UINT64_MAX, &error) == QUOTA_E_EXCEEDED);
    assert(b->used[QUOTA_BYTES] == 100 && a->used[QUOTA_BYTES] == 0);
    assert(quota_charge(a, QUOTA_TOKENS, UINT64_MAX, &error) == 0);
    assert(quota_charge(a, QUOTA_TOKENS, 1, &error) == QUOTA_E_EXCEEDED); /* no wrapping around */
    quota_release(a, QUOTA_TOKENS, UINT64_MAX);
    quota_release(b, QUOTA_BYTES, 60);
    assert(quota_charge(b, QUOTA_BYTES, 60, &error) == 0);
    quota_release(b, QUOTA_BYTES, 100);
    quota_release(b, QUOTA_CONNECTIONS, 1);
    quota_release(a, QUOTA_CONNECTIONS, 2);
    assert(list_is_empty(&q.users));
    quota_deinit(&q); /* asserts that nothing is charged */
}

static void test_failures_are_paid_for(void) {
    static const uint64_t limits[_QUOTA_N] = {0};
    uint64_t now = 1000000000, until = 0;
    unsigned n = 0;
    Account *a;

    begin();
    a = connect_user(1, limits);
    assert(!quota_is_failing(a->user, now));
    while (until == 0 && ++n < 10000) /* all at once: some hundred are free */
        until = quota_note_failure(a->user, now);
    assert(n > 100 && n < 1000 && until > now && quota_is_failing(a->user, now));
    for (n = 0; now < 1010000000; n++) { /* for ten seconds, as fast as allowed */
        until = quota_note_failure(a->user, now);
        now = MAX(now, until);
    }
    assert(n > 5000 && n < 20000);
    while (n-- > 0) /* who doesn't stop is held for a short time only */
        until = quota_note_failure(a->user, now);
    assert(until - now <= 200000);
    assert(quota_note_failure(a->user, now + 60000000) == 0); /* and then forgiven */
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

static void test_refused_users_leave_nothing(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_CONNECTIONS] = 1};
    Account *a, *actor = NULL;

    begin();
    a = connect_user(1, limits);
    a->user->max[QUOTA_REQUESTS] = 1;
    for (int i = 0; i < 1000; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "actor %d", i);
        assert(quota_charge_actor(a->user, name, QUOTA_REQUESTS, 2, &actor, &error) ==
               QUOTA_E_EXCEEDED);
    }
    assert(!actor && a->user->n_accounts == 1);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    assert(list_is_empty(&q.users));
    quota_deinit(&q);
}

/* As many as one actor gets, one by one. */
static uint64_t fill_up(User *user, const char *actor) {
    Account *a;
    uint64_t n = 0;

    while (quota_charge_actor(user, actor, QUOTA_TOKENS, 1, &a, &error) == 0)
        n++;
    return n;
}

static void give_back(User *user) {
    list_for_each_safe (node, &user->accounts) {
        Account *a = container_of(node, Account, node);

        if (a->used[QUOTA_TOKENS] > 0)
            quota_release(a, QUOTA_TOKENS, a->used[QUOTA_TOKENS]);
    }
}

static void test_actors_leave_room_for_others(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_TOKENS] = 10000};
    Account *own;
    uint64_t n;

    begin();
    own = connect_user(7, limits);
    n = fill_up(own->user, "first");
    assert(n == 5000 && strstr(error.text, "actor 'first' of user 7") &&
           strstr(error.text, "max_user_tokens") && strstr(error.text, "10000"));
    /* Of actors that come one after the other the n-th gets 1/(n(n + 1)), and the user the rest. */
    for (uint64_t i = 2; i <= 20; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "actor %d", (int)i);
        n = fill_up(own->user, name);
        assert(n + 1 >= 10000 / (i * (i + 1)) && n <= 10000 / (i * (i + 1)) + 1);
    }
    n = 10000 - own->user->used[QUOTA_TOKENS];
    assert(n > 0 && quota_charge(own, QUOTA_TOKENS, n, &error) == 0);
    assert(quota_charge(own, QUOTA_TOKENS, 1, &error) == QUOTA_E_EXCEEDED);
    give_back(own->user);
    assert(own->user->n_accounts == 1 && own->user->used[QUOTA_TOKENS] == 0);
    assert(fill_up(own->user, "") == 10000); /* the user itself may have it all */
    give_back(own->user);
    quota_release(own, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

static void test_actors_are_bounded(void) {
    static const uint64_t limits[_QUOTA_N] = {0};
    Account *own, *a[QUOTA_ACTORS_MAX], *more = NULL;
    char name[16];

    begin();
    own = connect_user(7, limits);
    for (int i = 1; i < QUOTA_ACTORS_MAX; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        assert(quota_charge_actor(own->user, name, QUOTA_REQUESTS, 1, &a[i], &error) == 0);
    }
    assert(quota_charge_actor(own->user, "more", QUOTA_REQUESTS, 1, &more, &error) ==
           QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "256 actors"));
    /* One that only has a past makes room. */
    assert(quota_charge(a[9], QUOTA_TOKENS, 50, &error) == 0);
    quota_spend(&q, a[9], 20, 10, 0);
    quota_settle(a[9], 30);
    quota_release(a[9], QUOTA_TOKENS, 50);
    quota_release(a[9], QUOTA_REQUESTS, 1);
    assert(own->user->n_accounts == QUOTA_ACTORS_MAX && own->user->window.sum == 30);
    assert(quota_charge_actor(own->user, "more", QUOTA_REQUESTS, 1, &more, &error) == 0);
    assert(own->user->n_accounts == QUOTA_ACTORS_MAX && own->user->window.sum == 30);
    quota_release(more, QUOTA_REQUESTS, 1);
    for (int i = 1; i < QUOTA_ACTORS_MAX; i++)
        if (i != 9)
            quota_release(a[i], QUOTA_REQUESTS, 1);
    quota_release(own, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

/* Charges, computes and gives back n tokens. */
static void work(Account *a, uint64_t n, uint64_t now_us) {
    uint64_t wait;

    assert(quota_check_window(&q, a, n, now_us, &wait, &error) == 0);
    assert(quota_charge(a, QUOTA_TOKENS, n, &error) == 0);
    quota_spend(&q, a, n, 0, now_us);
    quota_settle(a, n);
    quota_release(a, QUOTA_TOKENS, n);
}

static void test_window_slides(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_WINDOW] = 100};
    const uint64_t s = 1000000;
    uint64_t wait;
    Account *a;

    begin();
    a = connect_user(7, limits);
    work(a, 60, 100 * s);
    work(a, 40, 105 * s);
    assert(quota_check_window(&q, a, 1, 105 * s, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "max_user_window_tokens") && strstr(error.text, "fit in 12 s"));
    assert(wait == 12 * s && quota_may_ever(a, QUOTA_WINDOW, 100));
    assert(quota_check_window(&q, a, 61, 106 * s, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "fit in 16 s"));
    assert(quota_check_window(&q, a, 101, 106 * s, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(!strstr(error.text, "fit in") && wait == 0 && !quota_may_ever(a, QUOTA_WINDOW, 101));
    /* It is there when the sentence said so, not before. */
    assert(quota_check_window(&q, a, 60, 117 * s - 1, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(quota_check_window(&q, a, 60, 117 * s, &wait, &error) == 0);
    assert(quota_check_window(&q, a, 61, 117 * s, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(quota_check_window(&q, a, 100, 122 * s, &wait, &error) == 0);
    /* Coming again empties nothing; time does. */
    work(a, 100, 200 * s);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_sweep(&q, 201 * s);
    a = connect_user(7, limits);
    assert(quota_check_window(&q, a, 1, 202 * s, &wait, &error) == QUOTA_E_EXCEEDED);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_sweep(&q, 300 * s);
    assert(list_is_empty(&q.users));
    quota_deinit(&q);
}

static void test_window_counts_what_is_in_flight(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_WINDOW] = 100};
    uint64_t wait;
    Account *a;

    begin();
    a = connect_user(7, limits);
    assert(quota_check_window(&q, a, 80, 5, &wait, &error) == 0);
    assert(quota_charge(a, QUOTA_TOKENS, 80, &error) == 0);
    assert(quota_check_window(&q, a, 21, 5, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "under way must end"));
    quota_spend(&q, a, 30, 5, 6); /* moves from one to the other: nothing is counted twice */
    assert(quota_window_tokens(&q, a, 6) == 35);
    assert(quota_check_window(&q, a, 20, 6, &wait, &error) == 0);
    assert(quota_check_window(&q, a, 21, 6, &wait, &error) == QUOTA_E_EXCEEDED);
    quota_settle(a, 35);
    quota_release(a, QUOTA_TOKENS, 80); /* it ended early: what it left is free */
    assert(quota_check_window(&q, a, 65, 6, &wait, &error) == 0);
    assert(quota_check_window(&q, a, 66, 6, &wait, &error) == QUOTA_E_EXCEEDED);
    assert(quota_prompt_speed(a, 7) > 0 && quota_generated_speed(a, 7) > 0);
    assert(quota_prompt_speed(a, 60000000) == 0);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

/* Of a prompt that was in the cache. */
static void test_window_has_what_is_computed(void) {
    static const uint64_t limits[_QUOTA_N] = {[QUOTA_WINDOW] = 100};
    uint64_t wait;
    Account *a;

    begin();
    a = connect_user(7, limits);
    assert(quota_charge(a, QUOTA_TOKENS, 80, &error) == 0);
    quota_spare(a, 60);
    assert(quota_window_tokens(&q, a, 5) == 0);
    assert(quota_check_window(&q, a, 80, 5, &wait, &error) == 0);
    assert(quota_check_window(&q, a, 81, 5, &wait, &error) == QUOTA_E_EXCEEDED);
    quota_spend(&q, a, 15, 5, 6);
    quota_settle(a, 80);
    quota_release(a, QUOTA_TOKENS, 80);
    assert(quota_window_tokens(&q, a, 6) == 20);
    assert(quota_check_window(&q, a, 80, 6, &wait, &error) == 0);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

static void test_largest_limits_count(void) {
    static const uint64_t small[_QUOTA_N] = {[QUOTA_CONTEXT] = 10, [QUOTA_REQUESTS] = 9};
    static const uint64_t large[_QUOTA_N] = {[QUOTA_CONTEXT] = 20, [QUOTA_REQUESTS] = 8};
    Account *a;

    begin();
    a = connect_user(7, small);
    assert(quota_check_context(a, 10, &error) == 0);
    assert(quota_check_context(a, 11, &error) == QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "max_user_context") && strstr(error.text, "11"));
    assert(connect_user(7, large) == a);
    assert(a->user->max[QUOTA_CONTEXT] == 20 && a->user->max[QUOTA_REQUESTS] == 9);
    quota_release(a, QUOTA_CONNECTIONS, 2);
    a = connect_user(7, small); /* who was gone begins anew */
    assert(a->user->max[QUOTA_CONTEXT] == 10);
    quota_release(a, QUOTA_CONNECTIONS, 1);
    quota_deinit(&q);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(limits_are_each_users_own),
        TEST(failures_are_paid_for),
        TEST(refused_users_leave_nothing),
        TEST(actors_leave_room_for_others),
        TEST(actors_are_bounded),
        TEST(window_slides),
        TEST(window_counts_what_is_in_flight),
        TEST(window_has_what_is_computed),
        TEST(largest_limits_count),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
