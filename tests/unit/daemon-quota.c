/* daemon/quota: limits hold for each user, and what is given back is gone. */
#include "daemon/quota.h"
#include "tests/util/test.h"

#include <string.h>

static void test_limits_are_each_users_own(void) {
    Error error = ERROR_INIT;
    User *a = NULL, *b = NULL, *more = NULL;
    Quota q;

    quota_init(&q);
    q.max[QUOTA_CONNECTIONS] = 2;
    q.max[QUOTA_BYTES] = 100;
    assert(quota_charge(&q, 1000, QUOTA_CONNECTIONS, 1, &a, &error) == 0);
    assert(quota_charge(&q, 1000, QUOTA_CONNECTIONS, 1, &more, &error) == 0 && more == a);
    assert(quota_charge(&q, 1000, QUOTA_CONNECTIONS, 1, &more, &error) == QUOTA_E_EXCEEDED);
    assert(strstr(error.text, "1000") && strstr(error.text, "connections") &&
           strstr(error.text, "max_user_connections"));
    assert(quota_charge(&q, 0, QUOTA_CONNECTIONS, 1, &b, &error) == 0 && b != a);
    assert(quota_charge(&q, 0, QUOTA_BYTES, 100, &b, &error) == 0);
    assert(quota_charge(&q, 0, QUOTA_BYTES, 1, &b, &error) == QUOTA_E_EXCEEDED);
    assert(quota_charge(&q, 0, QUOTA_BYTES, UINT64_MAX, &b, &error) == QUOTA_E_EXCEEDED);
    assert(quota_used(&q, 0, QUOTA_BYTES) == 100 && quota_used(&q, 1000, QUOTA_BYTES) == 0);
    quota_release(b, QUOTA_BYTES, 60);
    assert(quota_charge(&q, 0, QUOTA_BYTES, 60, &b, &error) == 0);
    quota_release(b, QUOTA_BYTES, 100);
    quota_release(b, QUOTA_CONNECTIONS, 1);
    quota_release(a, QUOTA_CONNECTIONS, 2);
    assert(quota_used(&q, 1000, QUOTA_CONNECTIONS) == 0);
    quota_deinit(&q); /* asserts that nobody is left */
}

static void test_refused_users_leave_nothing(void) {
    Error error = ERROR_INIT;
    User *user = NULL;
    Quota q;

    quota_init(&q);
    for (uid_t uid = 0; uid < 100; uid++)
        assert(quota_charge(&q, uid, QUOTA_REQUESTS, 1, &user, &error) == QUOTA_E_EXCEEDED);
    assert(!user);
    quota_deinit(&q);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(limits_are_each_users_own),
        TEST(refused_users_leave_nothing),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
