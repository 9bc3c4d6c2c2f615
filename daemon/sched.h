/*
 * Who runs next: which requests of one engine get sequences, and what its next step computes.
 *
 * A state machine without clock, threads, engine or memory of its own after sched_init(): time
 * enters as an argument, and the caller does what it is told and reports what came of it.
 */
#pragma once

#include "base/list.h"
#include "daemon/cost.h"

enum sched_class {
    SCHED_CLASS_INTERACTIVE, /* a person waits */
    SCHED_CLASS_NORMAL,
    SCHED_CLASS_BATCH, /* only what nobody else wants */
};

typedef struct SchedUser SchedUser;

/* One request. Owner: the caller, who embeds it. */
typedef struct SchedEntry {
    size_t n_pending;     /* caller's, while it runs: rows until its next token; 0: none */
    bool has_token;       /* caller's: its first has come */
    uint32_t n_drafts;    /* caller's, while n_pending is 1: guesses of what comes then */
    uint64_t deadline_us; /* caller's; 0: none */
    uint32_t n_pages;     /* caller's: of memory, at most */
    uint32_t n_rows;      /* of the step planned last, n_draft_rows of them for drafts */
    uint32_t n_draft_rows;
    uint32_t n_ahead; /* while it waits, from sched_rank(): how many start before it */
    /* the scheduler's */
    ListNode node; /* its user's waiting, next first, or running, longest unserved first */
    SchedUser *user;
    enum sched_class class;
    bool is_running, is_aged;
    uint64_t number;      /* order of arrival */
    uint64_t served_us;   /* came, or had a row */
    uint64_t started;     /* order of starting */
    uint64_t started_us;  /* since when it runs … */
    uint64_t decoding_us; /* … and since when it gives tokens; 0: not yet */
    uint64_t blocked_us;  /* since when it can't start though it may; 0: it is not so */
    uint64_t blocked_epoch;
    bool has_claim;        /* others were suspended for it */
    uint64_t suspended_us; /* when it last made room; 0: never */
    double draft_rate;     /* drafts.h: how many of its drafts are right, of late */
    double draft_next;     /* in drafts_plan(): the chance of the row that would be added next */
} SchedEntry;

struct sched_options {
    size_t n_entries_max;
    size_t n_running_max;
    uint64_t n_pages;           /* of memory, for all of them */
    uint32_t n_rows_max;        /* of one step: at least n_running_max + 1 */
    uint32_t n_prompt_rows_max; /* of these for prompts */
    uint64_t target_us;         /* prompts may stretch the time between two tokens up to this */
};

/* Owner: Worker. */
typedef struct Sched {
    struct sched_options options;
    Cost cost;
    SchedUser *users;     /* (n_entries_max) */
    SchedEntry **ranked;  /* (n_entries_max) */
    SchedEntry **planned; /* (n_running_max) those with rows in the step */
    size_t n_planned;
    uint32_t n_prompt_rows, n_decode_rows; /* of the step */
    ListNode active;                       /* users with entries */
    size_t n_entries, n_running, n_waiting;
    size_t n_foreground; /* entries that are not batch, or aged */
    size_t n_claims;
    double now; /* virtual time: tokens a user is served who always wants more */
    uint64_t n_arrivals, n_starts;
    uint64_t epoch; /* counts up when there may be room for those who are blocked */
    size_t n_tried; /* in this epoch, in vain */
    uint64_t started_us;
    uint64_t start_interval_us; /* between starts while others wait; 0: not known */
    bool is_backed_up;          /* others waited at the last start */
} Sched;

/* -ENOMEM. */
int sched_init(Sched *s, const struct sched_options *options);
/* Every entry must have been removed. */
void sched_deinit(Sched *s);

/* It waits from now on. `entry` is zero-filled but for the caller's fields. */
void sched_add(Sched *s, SchedEntry *entry, uint32_t uid, enum sched_class class, uint64_t now_us);
/* It has ended, wherever it was. */
void sched_remove(Sched *s, SchedEntry *entry);

/* The entry that should start now, or NULL. The caller then calls sched_start(), sched_block() or
 * sched_remove() (of it, or after sched_suspend() of its victims). */
SchedEntry *sched_next(Sched *s, uint64_t now_us);
/* All places for running entries are taken. */
bool sched_is_full(const Sched *s);
/* An entry that should make room for this one, or NULL. */
SchedEntry *sched_victim(const Sched *s, const SchedEntry *entry, uint64_t now_us);
/* It runs from now on: n_pending is set. */
void sched_start(Sched *s, SchedEntry *entry, uint64_t now_us);
/* It can't have what it needs before something else ends. */
void sched_block(Sched *s, SchedEntry *entry, uint64_t now_us);
/* A running entry waits again, to make room. */
void sched_suspend(Sched *s, SchedEntry *entry, SchedEntry *for_whom, uint64_t now_us);

/* Its deadline has passed, or can't be kept with the whole machine. */
bool sched_is_late(const Sched *s, const SchedEntry *entry, uint64_t now_us);
/* True where an entry that is not batch is there. */
bool sched_has_foreground(const Sched *s);

/* Plans one step: fills `planned` and its entries' n_rows. Returns the number of rows. */
uint32_t sched_plan(Sched *s, uint64_t now_us);
/* So many of the entry's drafts were right in the step that was planned last. */
void sched_accept(SchedEntry *entry, size_t n);
/* The step that was planned last took so long. */
void sched_done(Sched *s, uint64_t us);

/* Counts for each waiting entry those that start before it. */
void sched_rank(Sched *s);
/* Until the entry starts, as far as is known; 0: it is not known. */
uint64_t sched_wait_us(const Sched *s, const SchedEntry *entry);
