/*
 * See sched.h.
 *
 * Shares. Each user has a virtual time: tokens computed for it, prompt tokens and generated ones
 * alike. Whoever has least goes first, for sequences and for rows (start-time fair queueing: Goyal,
 * Vin, Cheng 1996). A user who wants less than there is for it is moved up to the time of those who
 * want more, so that nothing is saved up by being idle. An interactive request borrows (Duda and
 * Cheriton 1999): it goes first as if its user had some tokens less, and pays them back.
 *
 * A step. First every user that decodes has one row: nobody's stream stands still. Then rows are
 * given one after the other to the user with least virtual time, its decoding sequences in turn
 * before its prompts, these in slices, until the step is as long as it may be:
 *
 *  - Among several users as many times what the smallest of them would take alone as there are
 *    users. One with a single stream has it at least as fast as on a machine of which it had its
 *    share, however many streams another one runs; where the rows of a batch are cheap, nobody is
 *    held back. Where somebody is, the smallest has a step of its own from time to time: what it
 *    takes alone is measured, and no guess from larger steps.
 *  - Prompts may stretch a step with decoding rows up to target_us, or a quarter more than its
 *    decoding rows take where those take longer. Without decoding rows up to ALONE_US, which bounds
 *    the time that a cancellation takes, or ALONE_FIXED times the fixed part of a step: a large
 *    model would do little but read its weights. And never more than twice as many rows as were
 *    measured.
 *
 * Drafted tokens have rows only in steps that decode and leave nobody out, where they pay
 * (drafts.h); a user is charged for those that were right.
 *
 * When the user whose turn it is doesn't fit, the step is full for all: those behind it would only
 * run further ahead.
 *
 * Classes. Batch entries are served only where there is nobody else, running or waiting. What was
 * not served for AGE_US is no longer batch and goes before what its user sent later; each user has
 * one such entry at a time, so a flood of them does not become one of normal requests.
 *
 * Sequences. The user with fewest running goes first. Where there is no room, batch entries make
 * it, and then users with more than twice as many running as the newcomer's user would have; they
 * go on after RESUME_US; what room was made stays for whom it was made. The first entry that
 * doesn't fit is passed by others that do until it was blocked for HOLD_US; then they wait for it.
 * And then, where its user runs nothing at all, it takes turns with those that run: one makes room
 * that has given tokens for TURN_US, or for TURN_PROMPTS times what its prompt took where that is
 * longer, as it may have to be computed again. So one request that has all the memory keeps nobody
 * out until it ends. Prompts are not interrupted so: what is done of them would be done in vain.
 *
 * A shared deficit per step was rejected (it ties shares to the length of steps), and so was a time
 * share: what a token costs depends on who else is in the step.
 */
#include "daemon/sched.h"

#include "base/alloc.h"
#include "base/error.h"
#include "daemon/drafts.h"

#include <float.h>

/* Prompt rows given at once; a step with any has so many, whatever they cost. */
#define SLICE_ROWS 16u
/* A step that only processes prompts: cancelling takes so long. */
#define ALONE_US    200000.0
#define ALONE_FIXED 4
/* Decoding leaves prompts this part of a step that is too long already. */
#define PROMPT_SHARE 0.25
/* Tokens that an interactive request may be ahead of others. */
#define BORROW_TOKENS 256
#define AGE_US        30000000
/* Steps after which what one takes is measured again, where others depend on it. */
#define MEASURE_STEPS 128
#define HOLD_US       2000000
#define RESUME_US     1000000
#define TURN_US       10000000
#define TURN_PROMPTS  2
/* Entries that are tried in vain before something ends. */
#define TRIES_MAX 8
/* Steps after which costs are believed enough to end a request for them, and how far. */
#define COST_KNOWN_STEPS 16
#define COST_DOUBT       0.8
#define INTERVAL_WEIGHT  4

/* A record stays for a user's virtual time when its last entry is gone, until another needs it. */
struct SchedUser {
    ListNode node;
    uint32_t uid;
    bool is_known;
    double served;
    ListNode waiting, running;
    size_t n_waiting, n_running;
    SchedEntry *aged;
    /* of the step being planned */
    ListNode *next_decoding; /* in `running` */
    size_t n_decoding, n_prompts;
};

/* ---- users and entries ---- */

int sched_init(Sched *s, const struct sched_options *o) {
    *s = (Sched){.options = *o};
    list_init(&s->active);
    cost_init(&s->cost);
    s->users = alloc_array(o->n_entries_max, sizeof(*s->users));
    s->ranked = alloc_array(o->n_entries_max, sizeof(*s->ranked));
    s->planned = alloc_array(o->n_running_max, sizeof(*s->planned));
    if (!s->users || !s->ranked || !s->planned) {
        sched_deinit(s);
        return error_origin(-ENOMEM);
    }
    return 0;
}

void sched_deinit(Sched *s) {
    assert(s->n_entries == 0);
    free(s->users);
    free(s->ranked);
    free(s->planned);
}

/* There is one free at least: an active user has entries. */
static SchedUser *get_user(Sched *s, uint32_t uid) {
    SchedUser *free_one = NULL, *user;

    list_for_each (node, &s->active)
        if (container_of(node, SchedUser, node)->uid == uid)
            return container_of(node, SchedUser, node);
    for (size_t i = 0; i < s->options.n_entries_max; i++) {
        user = &s->users[i];
        if (user->is_known && user->uid == uid) {
            free_one = user;
            break;
        }
        if (user->n_waiting + user->n_running == 0 &&
            (!free_one ||
             (free_one->is_known && (!user->is_known || user->served < free_one->served))))
            free_one = user;
    }
    assert(free_one);
    user = free_one;
    if (!user->is_known || user->uid != uid)
        *user = (SchedUser){.uid = uid, .is_known = true};
    user->served = MAX(user->served, s->now);
    list_init(&user->waiting);
    list_init(&user->running);
    list_push_back(&s->active, &user->node);
    return user;
}

static SchedEntry *entry_of(ListNode *node) {
    return container_of(node, SchedEntry, node);
}

static bool is_foreground(const SchedEntry *e) {
    return e->class != SCHED_CLASS_BATCH || e->is_aged;
}

/* Among the entries of one user. */
static bool goes_before(const SchedEntry *a, const SchedEntry *b) {
    if (a->is_aged != b->is_aged)
        return a->is_aged;
    return a->class != b->class ? a->class < b->class : a->number < b->number;
}

static void insert_waiting(SchedUser *user, SchedEntry *e) {
    ListNode *after = user->waiting.prev;

    while (after != &user->waiting && goes_before(e, entry_of(after)))
        after = after->prev;
    list_push_front(after, &e->node);
}

static void may_fit(Sched *s) {
    s->epoch++;
    s->n_tried = 0;
}

void sched_add(Sched *s, SchedEntry *e, uint32_t uid, enum sched_class class, uint64_t now_us) {
    assert(s->n_entries < s->options.n_entries_max);
    list_init(&e->node);
    e->user = get_user(s, uid);
    e->class = class;
    e->number = ++s->n_arrivals;
    e->served_us = now_us;
    e->draft_rate = DRAFTS_RATE_FIRST;
    insert_waiting(e->user, e);
    e->user->n_waiting++;
    s->n_waiting++;
    s->n_entries++;
    s->n_foreground += is_foreground(e);
    may_fit(s);
}

static void drop_claim(Sched *s, SchedEntry *e) {
    s->n_claims -= e->has_claim;
    e->has_claim = false;
}

void sched_remove(Sched *s, SchedEntry *e) {
    SchedUser *user = e->user;

    list_unlink(&e->node);
    user->n_running -= e->is_running;
    user->n_waiting -= !e->is_running;
    s->n_running -= e->is_running;
    s->n_waiting -= !e->is_running;
    s->n_foreground -= is_foreground(e);
    s->n_entries--;
    if (user->aged == e)
        user->aged = NULL;
    if (user->n_waiting + user->n_running == 0)
        list_unlink(&user->node);
    if (s->n_waiting == 0)
        s->is_backed_up = false;
    drop_claim(s, e);
    e->user = NULL;
    may_fit(s);
}

/* ---- ageing ---- */

/* The oldest of the list's batch entries that was not served for long. */
static SchedEntry *oldest_starving(ListNode *list, SchedEntry *than, uint64_t now_us) {
    list_for_each (node, list) {
        SchedEntry *e = entry_of(node);

        if (now_us - e->served_us >= AGE_US && (!than || e->number < than->number))
            than = e;
    }
    return than;
}

static void age(Sched *s, SchedUser *user, uint64_t now_us) {
    SchedEntry *e = oldest_starving(&user->waiting, NULL, now_us);

    e = oldest_starving(&user->running, e, now_us);
    if (!e)
        return;
    s->n_foreground += !is_foreground(e);
    e->is_aged = true;
    user->aged = e;
    if (e->is_running)
        return;
    list_unlink(&e->node);
    insert_waiting(user, e);
    may_fit(s);
}

static void age_all(Sched *s, uint64_t now_us) {
    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);

        if (!user->aged)
            age(s, user, now_us);
    }
}

bool sched_has_foreground(const Sched *s) {
    return s->n_foreground > 0;
}

/* Batch is served where there is nothing else. */
static bool is_eligible(const Sched *s, const SchedEntry *e) {
    return s->n_foreground == 0 || is_foreground(e);
}

/* ---- starting ---- */

static double key_of(const SchedUser *user, const SchedEntry *e) {
    return user->served - (e->class == SCHED_CLASS_INTERACTIVE ? BORROW_TOKENS : 0);
}

static bool starts_before(const SchedEntry *a, const SchedEntry *b) {
    const SchedUser *ua = a->user, *ub = b->user;

    if (ua->n_running != ub->n_running)
        return ua->n_running < ub->n_running;
    if (key_of(ua, a) != key_of(ub, b))
        return key_of(ua, a) < key_of(ub, b);
    return a->number < b->number;
}

static bool was_tried(const Sched *s, const SchedEntry *e) {
    return e->blocked_us > 0 && e->blocked_epoch == s->epoch;
}

static bool anyone_runs(const Sched *s) {
    list_for_each (node, &s->active)
        list_for_each (at, &container_of(node, SchedUser, node)->running)
            if (is_eligible(s, entry_of(at)))
                return true;
    return false;
}

/* Who comes again and again must not make the same one begin again and again. */
static bool is_resting(const Sched *s, const SchedEntry *e, uint64_t now_us) {
    return e->suspended_us > 0 && now_us - e->suspended_us < RESUME_US && anyone_runs(s);
}

/* The first of all, or of those that were not tried in vain. */
static SchedEntry *find_first(const Sched *s, bool untried, uint64_t now_us) {
    SchedEntry *best = NULL;

    list_for_each (node, &s->active)
        list_for_each (at, &container_of(node, SchedUser, node)->waiting) {
            SchedEntry *e = entry_of(at);

            if (!is_eligible(s, e) || is_resting(s, e, now_us) || (untried && was_tried(s, e)))
                continue;
            if (!best || starts_before(e, best))
                best = e;
            break; /* the user's next */
        }
    return best;
}

bool sched_is_full(const Sched *s) {
    return s->n_running >= s->options.n_running_max;
}

static bool is_held_up(const SchedEntry *e, uint64_t now_us) {
    return e->blocked_us > 0 && now_us - e->blocked_us >= HOLD_US;
}

SchedEntry *sched_next(Sched *s, uint64_t now_us) {
    SchedEntry *first;

    age_all(s, now_us);
    if (s->n_waiting == 0)
        return NULL;
    first = find_first(s, false, now_us);
    if (first && was_tried(s, first)) {
        if (is_held_up(first, now_us)) /* somebody's turn may be over */
            return sched_victim(s, first, now_us) ? first : NULL;
        if (s->n_claims > 0)
            return NULL;
        first = find_first(s, true, now_us);
    }
    if (!first || s->n_tried >= TRIES_MAX)
        return NULL;
    if (!sched_is_full(s) || sched_victim(s, first, now_us))
        return first;
    if (first->blocked_us == 0)
        first->blocked_us = now_us;
    return NULL;
}

/* The one that has come least far, as far as we know. */
static SchedEntry *last_started(SchedEntry *a, SchedEntry *b) {
    return !a || b->started > a->started ? b : a;
}

static bool is_turn_over(const SchedEntry *e, uint64_t now_us) {
    return e->decoding_us > 0 &&
           now_us - e->decoding_us >=
               MAX((uint64_t)TURN_US, TURN_PROMPTS * (e->decoding_us - e->started_us));
}

/* Of those whose turn is over, the one that has run longest; NULL also where all of them together
 * would not make room enough, as then they may as well go on. */
static SchedEntry *find_turn_over(const Sched *s, const SchedEntry *e, uint64_t now_us) {
    SchedEntry *longest = NULL;
    uint64_t n_kept = 0;

    list_for_each (node, &s->active)
        list_for_each (at, &container_of(node, SchedUser, node)->running) {
            SchedEntry *other = entry_of(at);

            if (!is_turn_over(other, now_us))
                n_kept += other->n_pages;
            else if (!longest || other->started < longest->started)
                longest = other;
        }
    return n_kept + e->n_pages <= s->options.n_pages ? longest : NULL;
}

SchedEntry *sched_victim(const Sched *s, const SchedEntry *e, uint64_t now_us) {
    size_t n_most = 2 * (e->user->n_running + 1) - 1;
    SchedEntry *victim = NULL;
    SchedUser *over = NULL;

    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);

        if (is_foreground(e))
            list_for_each (at, &user->running)
                if (!is_foreground(entry_of(at)))
                    victim = last_started(victim, entry_of(at));
        if (user != e->user && user->n_running > n_most) {
            over = user;
            n_most = user->n_running;
        }
    }
    if (!victim && over)
        list_for_each (at, &over->running)
            victim = last_started(victim, entry_of(at));
    if (!victim && e->user->n_running == 0 && is_held_up(e, now_us))
        victim = find_turn_over(s, e, now_us);
    return victim;
}

static void learn_interval(Sched *s, uint64_t now_us) {
    uint64_t us = MAX(now_us - s->started_us, (uint64_t)1), *known = &s->start_interval_us;

    if (s->is_backed_up)
        *known = *known == 0 ? us : (*known * (INTERVAL_WEIGHT - 1) + us) / INTERVAL_WEIGHT;
    s->started_us = now_us;
    s->is_backed_up = s->n_waiting > 0;
}

void sched_start(Sched *s, SchedEntry *e, uint64_t now_us) {
    assert(!e->is_running && !sched_is_full(s));
    list_unlink(&e->node);
    list_push_back(&e->user->running, &e->node);
    e->is_running = true;
    e->blocked_us = 0;
    e->started = ++s->n_starts;
    e->started_us = now_us;
    e->decoding_us = 0;
    e->user->n_waiting--;
    e->user->n_running++;
    s->n_waiting--;
    s->n_running++;
    drop_claim(s, e);
    learn_interval(s, now_us);
}

void sched_block(Sched *s, SchedEntry *e, uint64_t now_us) {
    assert(!e->is_running);
    if (e->blocked_us == 0)
        e->blocked_us = now_us;
    e->blocked_epoch = s->epoch;
    s->n_tried++;
}

void sched_suspend(Sched *s, SchedEntry *e, SchedEntry *for_whom, uint64_t now_us) {
    assert(e->is_running && !for_whom->is_running);
    s->n_claims += !for_whom->has_claim;
    for_whom->has_claim = true;
    list_unlink(&e->node);
    e->suspended_us = now_us;
    e->is_running = false;
    e->user->n_running--;
    e->user->n_waiting++;
    s->n_running--;
    s->n_waiting++;
    insert_waiting(e->user, e);
}

bool sched_is_late(const Sched *s, const SchedEntry *e, uint64_t now_us) {
    if (e->deadline_us == 0)
        return false;
    if (now_us >= e->deadline_us)
        return true;
    if (!e->is_running || e->has_token || s->cost.n_learnt < COST_KNOWN_STEPS)
        return false; /* a waiting prompt may be in the cache */
    return COST_DOUBT * cost_of_prompt(&s->cost, e->n_pending, s->options.n_prompt_rows_max) >
           (double)(e->deadline_us - now_us);
}

/* ---- a step ---- */

struct step {
    double us_max, us_prompt_max; /* in all; where prompts are in it */
    size_t n_users, n_decoding;
    SchedUser *least; /* decodes fewest sequences; NULL: nobody decodes */
    bool measures;    /* what the decoding rows of `least` take, alone */
    uint32_t n_prompt_rows_max;
};

static bool is_decoding(const SchedEntry *e) {
    return e->n_pending == 1;
}

/* Counts what each user wants, and what the step may take. */
static struct step measure(Sched *s) {
    struct step step = {.n_prompt_rows_max = MAX(2 * s->cost.n_prompt_rows_seen, SLICE_ROWS)};
    uint32_t n_least;
    double all;

    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);

        user->n_decoding = user->n_prompts = 0;
        user->next_decoding = user->running.next;
        list_for_each (at, &user->running) {
            SchedEntry *e = entry_of(at);

            e->n_rows = e->n_draft_rows = 0;
            if (!is_eligible(s, e) || e->n_pending == 0)
                continue;
            user->n_decoding += is_decoding(e);
            user->n_prompts += !is_decoding(e);
        }
        step.n_users += user->n_decoding + user->n_prompts > 0;
        step.n_decoding += user->n_decoding;
        if (user->n_decoding > 0 && (!step.least || user->n_decoding < step.least->n_decoding))
            step.least = user;
    }
    step.n_prompt_rows_max = MIN(step.n_prompt_rows_max, s->options.n_prompt_rows_max);
    step.us_max = step.us_prompt_max = MAX(ALONE_US, ALONE_FIXED * cost_of_step(&s->cost, 0, 0));
    if (!step.least)
        return step;
    n_least = (uint32_t)step.least->n_decoding;
    all = cost_of_decoding(&s->cost, (uint32_t)step.n_decoding);
    step.us_max =
        step.n_users == 1 ? DBL_MAX : (double)step.n_users * cost_of_decoding(&s->cost, n_least);
    step.us_prompt_max = MAX((double)s->options.target_us, (1 + PROMPT_SHARE) * all);
    step.us_prompt_max = MIN(step.us_prompt_max, step.us_max);
    step.measures = all > step.us_max && step.n_decoding > step.n_users * n_least &&
                    cost_age(&s->cost, n_least) >= MEASURE_STEPS;
    return step;
}

static void give(Sched *s, SchedEntry *e, uint32_t n_rows) {
    if (e->n_rows == 0)
        s->planned[s->n_planned++] = e;
    e->n_rows += n_rows;
    e->user->served += n_rows;
}

static SchedEntry *find_decoding(Sched *s, SchedUser *user) {
    for (; user->next_decoding != &user->running; user->next_decoding = user->next_decoding->next) {
        SchedEntry *e = entry_of(user->next_decoding);

        if (is_decoding(e) && is_eligible(s, e))
            return e;
    }
    return NULL;
}

static void give_decoding(Sched *s, SchedEntry *e) {
    e->user->next_decoding = e->node.next;
    e->user->n_decoding--;
    s->n_decode_rows++;
    give(s, e, 1);
}

static SchedEntry *find_prompt(Sched *s, SchedUser *user) {
    SchedEntry *first = NULL;

    list_for_each (at, &user->running) {
        SchedEntry *e = entry_of(at);

        if (e->n_pending > 1 && e->n_rows < e->n_pending && is_eligible(s, e) &&
            (!first || goes_before(e, first)))
            first = e;
    }
    return first;
}

static void give_prompt(Sched *s, SchedEntry *e, uint32_t n_rows) {
    give(s, e, n_rows);
    s->n_prompt_rows += n_rows;
    e->user->n_prompts -= e->n_rows == e->n_pending;
}

/* What the user would run next. */
static SchedEntry *find_row(Sched *s, SchedUser *user) {
    return user->n_decoding > 0 ? find_decoding(s, user) : find_prompt(s, user);
}

/* Of the users that want a row, the one that was served least. */
static SchedEntry *find_turn(Sched *s) {
    SchedEntry *turn = NULL;

    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);
        SchedEntry *e;

        if (user->n_decoding + user->n_prompts == 0)
            continue;
        if (turn && user->served - BORROW_TOKENS >= key_of(turn->user, turn))
            continue;
        e = find_row(s, user);
        if (!turn || key_of(user, e) < key_of(turn->user, turn))
            turn = e;
    }
    return turn;
}

/* Gives it what fits; false: the step is full. */
static bool give_turn(Sched *s, SchedEntry *e, const struct step *step) {
    uint32_t n_left = s->options.n_rows_max - s->n_prompt_rows - s->n_decode_rows, n_rows;
    double us;

    if (is_decoding(e)) {
        us = s->n_prompt_rows == 0 ? cost_of_decoding(&s->cost, s->n_decode_rows + 1)
                                   : cost_of_step(&s->cost, s->n_prompt_rows, s->n_decode_rows + 1);
        if (n_left == 0 || us > step->us_max)
            return false;
        give_decoding(s, e);
        return true;
    }
    n_left = MIN(n_left, step->n_prompt_rows_max - s->n_prompt_rows);
    n_rows = (uint32_t)MIN(e->n_pending - e->n_rows, (size_t)SLICE_ROWS);
    n_rows = MIN(n_rows, n_left);
    us = cost_of_step(&s->cost, s->n_prompt_rows + n_rows, s->n_decode_rows);
    if (n_rows == 0 || (s->n_prompt_rows > 0 && us > step->us_prompt_max))
        return false;
    give_prompt(s, e, n_rows);
    return true;
}

static void give_rows(Sched *s, const struct step *step) {
    SchedEntry *turn;

    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);

        if (user->n_decoding > 0)
            give_decoding(s, find_decoding(s, user));
    }
    while ((turn = find_turn(s)) && give_turn(s, turn, step))
        ;
}

/* Whoever got all it wanted has no claim to more than those who did not; virtual time goes on. */
static void settle(Sched *s, size_t n_users) {
    double least = DBL_MAX, most = s->now;

    if (n_users == 0)
        return;
    list_for_each (node, &s->active) {
        const SchedUser *user = container_of(node, SchedUser, node);

        most = MAX(most, user->served);
        if (user->n_decoding + user->n_prompts > 0)
            least = MIN(least, user->served);
    }
    s->now = MAX(s->now, least < DBL_MAX ? least : most);
    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);

        if (user->n_decoding + user->n_prompts == 0)
            user->served = MAX(user->served, s->now);
    }
}

/* Those with rows go behind the others of their user. */
static void rotate(Sched *s, uint64_t now_us) {
    for (size_t i = 0; i < s->n_planned; i++) {
        SchedEntry *e = s->planned[i];

        e->served_us = now_us;
        if (is_decoding(e) && e->decoding_us == 0)
            e->decoding_us = now_us;
        list_unlink(&e->node);
        list_push_back(&e->user->running, &e->node);
    }
}

static void speculate(Sched *s, const struct step *step) {
    struct drafts_step plain = {.entries = s->planned,
                                .n = s->n_planned,
                                .n_rows_max = s->options.n_rows_max - s->n_decode_rows};

    if (s->n_planned == 0 || s->n_prompt_rows > 0 || s->n_decode_rows < step->n_decoding)
        return;
    s->n_decode_rows += drafts_plan(&s->cost, &plain);
    for (size_t i = 0; i < s->n_planned; i++)
        s->planned[i]->n_rows += s->planned[i]->n_draft_rows;
}

void sched_accept(SchedEntry *e, size_t n) {
    e->user->served += (double)n;
}

uint32_t sched_plan(Sched *s, uint64_t now_us) {
    struct step step;

    s->n_planned = s->n_prompt_rows = s->n_decode_rows = 0;
    age_all(s, now_us);
    step = measure(s);
    if (step.measures) {
        while (step.least->n_decoding > 0)
            give_decoding(s, find_decoding(s, step.least));
    } else {
        give_rows(s, &step);
    }
    speculate(s, &step);
    settle(s, step.n_users);
    rotate(s, now_us);
    return s->n_prompt_rows + s->n_decode_rows;
}

void sched_done(Sched *s, uint64_t us) {
    cost_learn(&s->cost, s->n_prompt_rows, s->n_decode_rows, (double)us);
}

/* ---- the queue, as it is told ---- */

/* As starts_before(), where each user's entries start one after the other. */
static int compare_ranks(const void *a, const void *b) {
    const SchedEntry *x = *(SchedEntry *const *)a, *y = *(SchedEntry *const *)b;
    double kx = key_of(x->user, x), ky = key_of(y->user, y);

    if (is_foreground(x) != is_foreground(y))
        return is_foreground(x) ? -1 : 1;
    if (x->n_ahead != y->n_ahead)
        return x->n_ahead < y->n_ahead ? -1 : 1;
    if (kx != ky)
        return kx < ky ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

void sched_rank(Sched *s) {
    size_t n = 0;

    list_for_each (node, &s->active) {
        SchedUser *user = container_of(node, SchedUser, node);
        uint32_t n_own = (uint32_t)user->n_running;

        list_for_each (at, &user->waiting) {
            s->ranked[n] = entry_of(at);
            s->ranked[n++]->n_ahead = n_own++;
        }
    }
    qsort(s->ranked, n, sizeof(*s->ranked), compare_ranks);
    for (size_t i = 0; i < n; i++)
        s->ranked[i]->n_ahead = (uint32_t)i;
}

uint64_t sched_wait_us(const Sched *s, const SchedEntry *e) {
    return (e->n_ahead + 1) * s->start_interval_us;
}
