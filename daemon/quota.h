/* What each user id has of the daemon: charged before it is taken, given back when it ends. */
#pragma once

#include "base/error.h"
#include "base/list.h"

#include <sys/types.h>

#define QUOTA_MAP(X)                                                                               \
    X(CONNECTIONS, "connections", max_user_connections)                                            \
    X(REQUESTS, "requests under way", max_user_requests)                                           \
    X(BYTES, "bytes of requests and unread answers", max_user_bytes)

enum quota_kind {
#define X(name, words, key) QUOTA_##name,
    QUOTA_MAP(X)
#undef X
        _QUOTA_N
};

typedef struct User User;

/* Owner: Daemon. Thread: loop. */
typedef struct Quota {
    ListNode users;
    uint64_t max[_QUOTA_N];
} Quota;

enum { _QUOTA_E_SUCCESS, QUOTA_E_EXCEEDED };

void quota_init(Quota *q);
/* Everything must have been given back. */
void quota_deinit(Quota *q);
/* Finds or makes the user and charges it; whoever was charged holds *ret until quota_release().
 * Returns QUOTA_E_EXCEEDED (reterr says what of), -ENOMEM. */
int quota_charge(Quota *q, uid_t uid, enum quota_kind kind, uint64_t n, User **ret, Error *reterr);
/* The user is gone when the last charge is. */
void quota_release(User *user, enum quota_kind kind, uint64_t n);
uint64_t quota_used(const Quota *q, uid_t uid, enum quota_kind kind);
