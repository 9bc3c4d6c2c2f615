/*
 * The accounts: what each user id, and each actor that its programs name, has of the daemon.
 * Charged before it is taken, given back when it ends.
 */
#pragma once

#include "base/error.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What is charged and given back. Each has a limit by the name of its configuration key. */
#define QUOTA_SLOT_MAP(X)                                                                          \
    X(CONNECTIONS, "connections", max_user_connections)                                            \
    X(REQUESTS, "requests under way", max_user_requests)                                           \
    X(BYTES, "bytes of requests and unread answers", max_user_bytes)                               \
    X(TOKENS, "tokens in flight", max_user_tokens)                                                 \
    X(KV_PAGES, "KV pages", max_user_kv_pages)
/* What else has a limit. */
#define QUOTA_MAP(X)                                                                               \
    QUOTA_SLOT_MAP(X)                                                                              \
    X(WINDOW, "tokens in the time window", max_user_window_tokens)                                 \
    X(CONTEXT, "positions in one request", max_user_context)                                       \
    X(QUEUED, "requests that wait", max_user_queued_requests)

enum quota_kind {
#define X(name, words, key) QUOTA_##name,
    QUOTA_MAP(X)
#undef X
        _QUOTA_N,
    _QUOTA_SLOTS = QUOTA_WINDOW
};

/* A limit that is none. */
#define QUOTA_UNLIMITED UINT64_MAX
/* Actors of one user that are remembered at once. */
#define QUOTA_ACTORS_MAX 256

/* Tokens of the last so many seconds, in slices: the oldest is forgotten whole. */
#define QUOTA_SLICES 16
struct quota_window {
    uint64_t slices[QUOTA_SLICES + 1]; /* by the slice's number, modulo */
    uint64_t newest, sum;
};

/* Owner: Quota. Thread: loop. Lives while it has an account. */
typedef struct User {
    ListNode node;
    uid_t uid;
    uint64_t max[_QUOTA_N];
    uint64_t used[_QUOTA_SLOTS];
    uint64_t n_spent; /* tokens in flight that the window has already, or won't have */
    struct quota_window window;
    uint64_t n_counted;   /* scratch of whoever counts something by user */
    uint64_t failures_us; /* when its failures will be paid for, at the rate that is allowed */
    ListNode accounts;
    size_t n_accounts;
} User;

/* Owner: User. Thread: loop. Lives while anything is charged to it or is in its window. */
typedef struct Account {
    ListNode node;
    User *user;
    char *actor; /* "": the user itself */
    uint64_t used[_QUOTA_SLOTS];
    uint64_t n_spent;
    struct quota_window window;
    struct quota_window prompt, generated; /* of the last seconds: its speed */
    size_t n_running, n_queued;            /* the calls' */
} Account;

/* Owner: Daemon. Thread: loop. */
typedef struct Quota {
    ListNode users;
    uint64_t window_us;
} Quota;

enum { _QUOTA_E_SUCCESS, QUOTA_E_EXCEEDED };

void quota_init(Quota *q, uint64_t window_us);
/* Everything must have been given back. */
void quota_deinit(Quota *q);
/* Charges a connection to the user itself. `max` holds its limits, with the groups that it had this
 * time: the largest of all times count. Returns as quota_charge(). */
int quota_connect(Quota *q, uid_t uid, const uint64_t max[_QUOTA_N], Account **ret, Error *reterr);
/* Finds or makes the account of an actor of somebody connected, and charges it; whoever was charged
 * holds *ret until quota_release(). Returns QUOTA_E_EXCEEDED (reterr says what of), -ENOMEM. */
int quota_charge_actor(User *user, const char *actor, enum quota_kind slot, uint64_t n,
                       Account **ret, Error *reterr);
/* The same, for an account that is held already. */
int quota_charge(Account *a, enum quota_kind slot, uint64_t n, Error *reterr);
/* The account may be gone when the last charge is. */
void quota_release(Account *a, enum quota_kind slot, uint64_t n);
/* Whether the user's limit for a single request allows so many positions. Returns 0,
 * QUOTA_E_EXCEEDED. */
int quota_check_context(const Account *a, uint64_t n, Error *reterr);
/* Whether so many tokens more keep the window's limit, counting those in flight that are not spent
 * yet. Returns 0, QUOTA_E_EXCEEDED: reterr says when they would fit, *ret_wait_us too; 0: that is
 * not known, or never. */
int quota_check_window(const Quota *q, Account *a, uint64_t n, uint64_t now_us,
                       uint64_t *ret_wait_us, Error *reterr);
/* Whether n could be charged if nothing else were. */
bool quota_may_ever(const Account *a, enum quota_kind kind, uint64_t n);
/* Tokens were computed, of those charged as in flight. */
void quota_spend(const Quota *q, Account *a, uint64_t n_prompt, uint64_t n_generated,
                 uint64_t now_us);
/* Of those in flight, so many need no computing: the window has room for others. */
void quota_spare(Account *a, uint64_t n);
/* Of those in flight that are given back now, so many were spent or spared. */
void quota_settle(Account *a, uint64_t n_spent);
/* Notes that a request of the user's failed. Returns until when no more of them should be read: who
 * asks in vain without pause takes the loop's time from all others. 0: need not wait. */
uint64_t quota_note_failure(User *user, uint64_t now_us);
/* Has failed more often of late than it may for long. */
bool quota_is_failing(const User *user, uint64_t now_us);
/* Forgets accounts that have nothing any more. */
void quota_sweep(Quota *q, uint64_t now_us);

/* For who looks on: tokens in the window, tokens a second. */
uint64_t quota_window_tokens(const Quota *q, Account *a, uint64_t now_us);
double quota_prompt_speed(Account *a, uint64_t now_us);
double quota_generated_speed(Account *a, uint64_t now_us);
