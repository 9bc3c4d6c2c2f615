/* The engine thread: the only one that makes sequences and runs steps. */
#pragma once

#include "daemon/job.h"
#include "daemon/mailbox.h"

#define WORKER_MODELS_MAX 128

/* What one engine runs. Owner: Worker. Thread: worker. */
typedef struct Lane {
    ListNode node;
    GkEngine *engine; /* valid while it has jobs */
    Sched sched;
    uint64_t told_us; /* when those who wait heard of their places */
    bool has_newcomers;
} Lane;

/* Owner: Daemon. Thread: what is not said to be otherwise belongs to the worker. */
typedef struct Worker {
    pthread_t thread; /* loop */
    Mailbox inbox;    /* jobs */
    Mailbox outbox;   /* letters */
    ListNode letters; /* to be posted together */
    ListNode jobs;
    ListNode lanes;
    size_t n_lanes;
    struct sched_options options; /* of every lane, but for what its engine says */
    /* (n_sequences_max) */
    struct gk_plan_row *plan;
    struct gk_result *results;
    /* any thread */
    atomic_bool is_stopping, is_busy;
    atomic_ullong n_steps, steps_us; /* done, and what they took */
} Worker;

struct worker_options {
    size_t n_jobs_max;      /* alive at once */
    size_t n_sequences_max; /* running at once, of one engine */
    uint32_t n_prompt_rows_max;
    uint64_t target_us;           /* see sched.h */
    void (*wake)(void *userdata); /* letters are there; called on the worker's thread */
    void *userdata;
};

int worker_start(Worker *w, const struct worker_options *options);
/* Ends every job, waits for the step under way, and leaves the last letters in the outbox. */
void worker_stop(Worker *w);
void worker_deinit(Worker *w);

/* Hands a job over; it comes back with LETTER_ENDED. Returns MAILBOX_E_FULL: it stays the
 * caller's. */
int worker_push(Worker *w, Job *job);
/* Ends it soon; it still comes back. */
void worker_cancel(Worker *w, Job *job);
/* Moves the letters that came to the end of the list. */
void worker_take(Worker *w, ListNode *to);
void worker_letter_free(Letter *letter);
