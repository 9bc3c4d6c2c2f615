/*
 * See quota.h.
 *
 * Two levels. A user has its limits; what its programs do on behalf of actors is charged to the
 * actors' accounts, too, and there each must leave room for the others. An actor's charge passes
 * only where it leaves to the user as much as the actor would have then, for each of the user's
 * actors there. So one actor alone can have half of a limit, the second a sixth, the n-th
 * 1/(n(n + 1)), and none who comes later finds nothing. (The rule is dbus-broker's.) What is done
 * without an actor is the user's own and may use its whole limit.
 *
 * The token window outlives requests and connections, else coming again would empty it: an account
 * is forgotten only when nothing is charged to it and its window is empty.
 */
#include "daemon/quota.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What a speed is the mean of. */
#define SPEED_US 5000000ull

/* What a user's failing requests may take of the loop: so many a second for long, so many at once,
 * and beyond these it waits, but not so long that its cancellations and disconnects are late. */
#define FAILURES_PER_S   1000u
#define FAILURES_AT_ONCE 512u
#define FAILURE_US       (1000000u / FAILURES_PER_S)
#define FAILURE_HOLD_US  100000u

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

/* ---- windows ---- */

static uint64_t slice_us(uint64_t span_us) {
    return MAX(span_us / QUOTA_SLICES, (uint64_t)1);
}

/* Forgets what is too old. */
static void window_turn(struct quota_window *w, uint64_t span_us, uint64_t now_us) {
    uint64_t now = now_us / slice_us(span_us);

    if (now > w->newest + QUOTA_SLICES) {
        *w = (struct quota_window){.newest = now};
        return;
    }
    while (w->newest < now) {
        uint64_t *slice = &w->slices[++w->newest % ARRAY_SIZE(w->slices)];

        w->sum -= *slice;
        *slice = 0;
    }
}

static void window_add(struct quota_window *w, uint64_t span_us, uint64_t now_us, uint64_t n) {
    window_turn(w, span_us, now_us);
    w->slices[w->newest % ARRAY_SIZE(w->slices)] += n;
    w->sum += n;
}

static double window_speed(struct quota_window *w, uint64_t now_us) {
    window_turn(w, SPEED_US, now_us);
    return (double)w->sum * 1e6 / (double)SPEED_US;
}

/* ---- users and their accounts ---- */

void quota_init(Quota *q, uint64_t window_us) {
    *q = (Quota){.window_us = window_us};
    list_init(&q->users);
}

static User *find_user(const Quota *q, uid_t uid) {
    list_for_each (node, &q->users) {
        User *user = container_of(node, User, node);

        if (user->uid == uid)
            return user;
    }
    return NULL;
}

static Account *find_account(const User *user, const char *actor) {
    list_for_each (node, &user->accounts) {
        Account *a = container_of(node, Account, node);

        if (strcmp(a->actor, actor) == 0)
            return a;
    }
    return NULL;
}

static bool is_charged(const Account *a) {
    for (int i = 0; i < _QUOTA_SLOTS; i++)
        if (a->used[i] > 0)
            return true;
    return false;
}

static void free_user_if_unused(User *user) {
    if (user->n_accounts > 0 || user->window.sum > 0)
        return;
    list_unlink(&user->node);
    free(user);
}

/* Its user stays. */
static void free_account(Account *a) {
    assert(!is_charged(a) && a->n_spent == 0 && a->n_running + a->n_queued == 0);
    list_unlink(&a->node);
    a->user->n_accounts--;
    free(a->actor);
    free(a);
}

void quota_sweep(Quota *q, uint64_t now_us) {
    list_for_each_safe (node, &q->users) {
        User *user = container_of(node, User, node);

        window_turn(&user->window, q->window_us, now_us);
        list_for_each_safe (account, &user->accounts) {
            Account *a = container_of(account, Account, node);

            window_turn(&a->window, q->window_us, now_us);
            if (a->window.sum == 0 && !is_charged(a))
                free_account(a);
        }
        free_user_if_unused(user);
    }
}

void quota_deinit(Quota *q) {
    list_for_each_safe (node, &q->users) {
        User *user = container_of(node, User, node);

        list_for_each_safe (account, &user->accounts)
            free_account(container_of(account, Account, node)); /* asserts */
        user->window.sum = 0;
        free_user_if_unused(user);
    }
}

/* Room for one more actor: of those that do nothing, the one that did least is forgotten. What it
 * did stays in the user's window. */
static bool make_room(User *user) {
    Account *least = NULL;

    if (user->n_accounts < QUOTA_ACTORS_MAX)
        return true;
    list_for_each (node, &user->accounts) {
        Account *a = container_of(node, Account, node);

        if (!is_charged(a) && (!least || a->window.sum < least->window.sum))
            least = a;
    }
    if (least)
        free_account(least);
    return least != NULL;
}

static int get_account(User *user, const char *actor, Account **ret, Error *reterr) {
    Account *a = find_account(user, actor);

    if (!a && !make_room(user))
        return error_set(reterr, QUOTA_E_EXCEEDED, "user %u has %d actors at work already",
                         (unsigned)user->uid, QUOTA_ACTORS_MAX);
    if (!a) {
        a = alloc_new(Account);
        if (!a)
            return error_set(reterr, -ENOMEM, "out of memory");
        a->actor = alloc_string(actor);
        if (!a->actor) {
            free(a);
            return error_set(reterr, -ENOMEM, "out of memory");
        }
        a->user = user;
        list_push_back(&user->accounts, &a->node);
        user->n_accounts++;
    }
    *ret = a;
    return 0;
}

/* ---- limits ---- */

/* Who is refused. */
static const char *who(const Account *a, char *text, size_t n) {
    char actor[128];

    if (a->actor[0])
        (void)snprintf(text, n, "actor '%s' of user %u",
                       utf8_printable(actor, sizeof(actor), a->actor, strlen(a->actor)),
                       (unsigned)a->user->uid);
    else
        (void)snprintf(text, n, "user %u", (unsigned)a->user->uid);
    return text;
}

/* The user's named actors that have some of a slot; this one counts in any case. */
static uint64_t n_sharing(const Account *a, enum quota_kind slot) {
    uint64_t n = 0;

    list_for_each (node, &a->user->accounts) {
        const Account *other = container_of(node, Account, node);

        n += other->actor[0] && (other == a || other->used[slot] > 0);
    }
    return n;
}

/* n more of a limit of which the user has `used`, and the account `share` of them. */
static bool fits(const Account *a, uint64_t n_actors, uint64_t max, uint64_t used, uint64_t share,
                 uint64_t n) {
    uint64_t left, more, others;

    if (max == QUOTA_UNLIMITED)
        return true;
    if (used > max || n > max - used)
        return false;
    if (!a->actor[0])
        return true;
    left = max - used;
    return checked_mul(n_actors + 1, n, &more) && checked_mul(n_actors, share, &others) &&
           checked_add(more, others, &more) && more <= left;
}

/* `hint` ends the sentence. */
static int refuse(const Account *a, enum quota_kind kind, uint64_t used, uint64_t n,
                  const char *hint, Error *reterr) {
    uint64_t max = a->user->max[kind];
    char name[192];

    if (used > max || n > max - used)
        return error_set(reterr, QUOTA_E_EXCEEDED,
                         "user %u has %" PRIu64 " %s, and %" PRIu64
                         " more would exceed the limit of %" PRIu64 " (%s)%s",
                         (unsigned)a->user->uid, used, words[kind], n, max, keys[kind], hint);
    return error_set(reterr, QUOTA_E_EXCEEDED,
                     "%s may not have %" PRIu64 " more %s: of the user's limit of %" PRIu64
                     " (%s) %" PRIu64
                     " are in use, and it must leave as much as it has to others%s",
                     who(a, name, sizeof(name)), n, words[kind], max, keys[kind], used, hint);
}

int quota_charge(Account *a, enum quota_kind slot, uint64_t n, Error *reterr) {
    User *user = a->user;
    uint64_t sum;

    assert(n > 0 && slot < _QUOTA_SLOTS);
    if (!fits(a, n_sharing(a, slot), user->max[slot], user->used[slot], a->used[slot], n) ||
        !checked_add(user->used[slot], n, &sum))
        return refuse(a, slot, user->used[slot], n, "", reterr);
    user->used[slot] = sum;
    a->used[slot] += n;
    return 0;
}

static void free_if_unused(Account *a) {
    User *user = a->user;

    if (is_charged(a) || a->window.sum > 0)
        return;
    free_account(a);
    free_user_if_unused(user);
}

int quota_charge_actor(User *user, const char *actor, enum quota_kind slot, uint64_t n,
                       Account **ret, Error *reterr) {
    Account *a;
    int r;

    r = get_account(user, actor, &a, reterr);
    if (r != 0)
        return r;
    r = quota_charge(a, slot, n, reterr);
    if (r == 0)
        *ret = a;
    else
        free_if_unused(a);
    return r;
}

int quota_connect(Quota *q, uid_t uid, const uint64_t max[_QUOTA_N], Account **ret, Error *reterr) {
    User *user = find_user(q, uid);
    int r;

    if (!user) {
        user = alloc_new(User);
        if (!user)
            return error_set(reterr, -ENOMEM, "out of memory");
        user->uid = uid;
        list_init(&user->accounts);
        list_push_back(&q->users, &user->node);
    }
    for (int i = 0; i < _QUOTA_N; i++)
        user->max[i] = user->used[QUOTA_CONNECTIONS] > 0 ? MAX(user->max[i], max[i]) : max[i];
    r = quota_charge_actor(user, "", QUOTA_CONNECTIONS, 1, ret, reterr);
    if (r < 0)
        free_user_if_unused(user);
    return r;
}

void quota_release(Account *a, enum quota_kind slot, uint64_t n) {
    assert(slot < _QUOTA_SLOTS && a->used[slot] >= n && a->user->used[slot] >= n);
    a->used[slot] -= n;
    a->user->used[slot] -= n;
    free_if_unused(a);
}

int quota_check_context(const Account *a, uint64_t n, Error *reterr) {
    uint64_t max = a->user->max[QUOTA_CONTEXT];

    if (n <= max)
        return 0;
    return error_set(reterr, QUOTA_E_EXCEEDED,
                     "the request has %" PRIu64 " tokens, its output included, and user %u may have"
                     " %" PRIu64 " %s (%s)",
                     n, (unsigned)a->user->uid, max, words[QUOTA_CONTEXT], keys[QUOTA_CONTEXT]);
}

/* ---- tokens in time ---- */

static uint64_t n_window_sharing(const Account *a) {
    uint64_t n = 0;

    list_for_each (node, &a->user->accounts) {
        const Account *other = container_of(node, Account, node);

        n += other->actor[0] &&
             (other == a || other->used[QUOTA_TOKENS] > 0 || other->window.sum > 0);
    }
    return n;
}

/* Microseconds until n tokens fit because older ones leave the window; 0: they don't that way. */
static uint64_t wait_us(const Quota *q, const Account *a, uint64_t n, uint64_t used, uint64_t share,
                        uint64_t now_us) {
    const struct quota_window *of_user = &a->user->window, *own = &a->window;
    uint64_t n_actors = n_window_sharing(a), each = slice_us(q->window_us);

    for (uint64_t i = MIN((uint64_t)QUOTA_SLICES, of_user->newest) + 1; i-- > 0;) {
        uint64_t number = of_user->newest - i;

        used -= of_user->slices[number % ARRAY_SIZE(of_user->slices)];
        share -= own->slices[number % ARRAY_SIZE(own->slices)];
        if (fits(a, n_actors, a->user->max[QUOTA_WINDOW], used, share, n))
            return (number + QUOTA_SLICES + 1) * each - now_us;
    }
    return 0;
}

bool quota_may_ever(const Account *a, enum quota_kind kind, uint64_t n) {
    return fits(a, /* n_actors= */ 1, a->user->max[kind], 0, 0, n);
}

int quota_check_window(const Quota *q, Account *a, uint64_t n, uint64_t now_us,
                       uint64_t *ret_wait_us, Error *reterr) {
    User *user = a->user;
    uint64_t used, share, wait;
    char hint[64] = "";

    *ret_wait_us = 0;
    window_turn(&user->window, q->window_us, now_us);
    window_turn(&a->window, q->window_us, now_us);
    used = user->window.sum + user->used[QUOTA_TOKENS] - user->n_spent;
    share = a->window.sum + a->used[QUOTA_TOKENS] - a->n_spent;
    if (fits(a, n_window_sharing(a), user->max[QUOTA_WINDOW], used, share, n))
        return 0;
    wait = *ret_wait_us = wait_us(q, a, n, used, share, now_us);
    if (wait > 0)
        (void)snprintf(hint, sizeof(hint), "; they fit in %" PRIu64 " s",
                       (wait + 999999) / 1000000);
    else if (n <= user->max[QUOTA_WINDOW])
        (void)snprintf(hint, sizeof(hint), "; requests under way must end first");
    return refuse(a, QUOTA_WINDOW, used, n, hint, reterr);
}

void quota_spend(const Quota *q, Account *a, uint64_t n_prompt, uint64_t n_generated,
                 uint64_t now_us) {
    uint64_t n = n_prompt + n_generated;

    window_add(&a->user->window, q->window_us, now_us, n);
    window_add(&a->window, q->window_us, now_us, n);
    window_add(&a->prompt, SPEED_US, now_us, n_prompt);
    window_add(&a->generated, SPEED_US, now_us, n_generated);
    a->n_spent += n;
    a->user->n_spent += n;
}

void quota_spare(Account *a, uint64_t n) {
    a->n_spent += n;
    a->user->n_spent += n;
}

void quota_settle(Account *a, uint64_t n_spent) {
    assert(a->n_spent >= n_spent && a->user->n_spent >= n_spent);
    a->n_spent -= n_spent;
    a->user->n_spent -= n_spent;
}

uint64_t quota_window_tokens(const Quota *q, Account *a, uint64_t now_us) {
    window_turn(&a->window, q->window_us, now_us);
    return a->window.sum;
}

double quota_prompt_speed(Account *a, uint64_t now_us) {
    return window_speed(&a->prompt, now_us);
}

double quota_generated_speed(Account *a, uint64_t now_us) {
    return window_speed(&a->generated, now_us);
}

uint64_t quota_note_failure(User *user, uint64_t now_us) {
    uint64_t allowed = now_us + (uint64_t)FAILURES_AT_ONCE * FAILURE_US;

    user->failures_us = MAX(user->failures_us, now_us) + FAILURE_US;
    if (user->failures_us <= allowed)
        return 0;
    return now_us + MIN(user->failures_us - allowed, (uint64_t)FAILURE_HOLD_US);
}

bool quota_is_failing(const User *user, uint64_t now_us) {
    return user->failures_us > now_us;
}
