/* See quota.h. */
#include "daemon/quota.h"

#include "base/alloc.h"
#include "base/checked.h"

static const char *const words[] = {
#define X(name, words, key) words,
    QUOTA_MAP(X)
#undef X
};
static const char *const keys[] = {
#define X(name, words, key) #key,
    QUOTA_MAP(X)
#undef X
};

/* Owner: Quota. Thread: loop. Lives as long as anything is charged. */
struct User {
    ListNode node;
    uid_t uid;
    uint64_t used[_QUOTA_N];
};

void quota_init(Quota *q) {
    *q = (Quota){.max = {0}};
    list_init(&q->users);
}

void quota_deinit(Quota *q) {
    assert(list_is_empty(&q->users));
}

static User *find_user(const Quota *q, uid_t uid) {
    list_for_each (node, &q->users) {
        User *user = container_of(node, User, node);

        if (user->uid == uid)
            return user;
    }
    return NULL;
}

int quota_charge(Quota *q, uid_t uid, enum quota_kind kind, uint64_t n, User **ret, Error *reterr) {
    User *user = find_user(q, uid);
    uint64_t used = user ? user->used[kind] : 0, sum;

    assert(n > 0);
    if (!checked_add(used, n, &sum) || sum > q->max[kind])
        return error_set(reterr, QUOTA_E_EXCEEDED,
                         "user %u has %llu %s, and %llu more would exceed the limit of %llu (%s)",
                         (unsigned)uid, (unsigned long long)used, words[kind],
                         (unsigned long long)n, (unsigned long long)q->max[kind], keys[kind]);
    if (!user) {
        user = alloc_new(User);
        if (!user)
            return error_set(reterr, -ENOMEM, "out of memory");
        user->uid = uid;
        list_push_back(&q->users, &user->node);
    }
    user->used[kind] = sum;
    *ret = user;
    return 0;
}

void quota_release(User *user, enum quota_kind kind, uint64_t n) {
    assert(user->used[kind] >= n);
    user->used[kind] -= n;
    for (int i = 0; i < _QUOTA_N; i++)
        if (user->used[i] > 0)
            return;
    list_unlink(&user->node);
    free(user);
}

uint64_t quota_used(const Quota *q, uid_t uid, enum quota_kind kind) {
    const User *user = find_user(q, uid);

    return user ? user->used[kind] : 0;
}
