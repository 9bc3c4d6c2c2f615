/* One request's way through the worker, and the letters that tell the loop how it goes. */
#pragma once

#include "base/error.h"
#include "base/list.h"
#include "daemon/sched.h"
#include "engine/engine.h"
#include "proto/status.h"

#include <stdatomic.h>

struct Lane;
struct Account;
struct Model;

enum letter_type {
    LETTER_WAITING, /* it has to wait for its sequence, or has come nearer to it */
    LETTER_STARTED, /* it has its sequence */
    LETTER_PREFILL, /* part of the prompt is done */
    LETTER_TOKEN,   /* a token, and the text that it released */
    LETTER_SCORES,
    LETTER_EMBEDDING, /* in `scores` */
    LETTER_ENDED,     /* the letter is the job's own and brings it back to the loop */
};

/* Owner: the mailbox it is in, then the loop. */
typedef struct Letter {
    ListNode node;
    enum letter_type type;
    uint64_t id;                         /* the call's */
    uint64_t time_us;                    /* when it was posted: the loop may come to it later */
    struct Model *model;                 /* not touched by the worker */
    uint64_t n_kv_free, n_kv_total;      /* of STARTED and ENDED */
    uint32_t n_ahead;                    /* of WAITING: requests that start before it */
    uint64_t wait_us;                    /* of WAITING: estimated; 0: not known */
    size_t n_prompt_done;                /* of PREFILL */
    size_t n_cached;                     /* of STARTED: prompt tokens that need no computing */
    int32_t token;                       /* of TOKEN */
    bool is_more;                        /* of TOKEN: the one before came from the same step */
    float logprob;                       /* of TOKEN */
    size_t score_begin, n_scores, n_top; /* of SCORES and EMBEDDING; n_top of TOKEN too */
    const struct gk_logprob *top;        /* (n_top), or (n_scores, n_top) */
    const float *scores;                 /* (n_scores) */
    const char *text;
    size_t n_text;
} Letter;

/*
 * Owner: the loop until it is pushed to the worker, the worker until its LETTER_ENDED, then the
 * loop again, which frees it. So the loop may set is_cancelled until it has that letter.
 */
typedef struct Job {
    Letter letter; /* first: carries the job both ways */
    GkEngine *engine;
    int32_t *tokens;
    size_t n_tokens;
    struct gk_params params;
    void *params_memory;      /* what its pointers point into */
    void *end_memory;         /* likewise, what a chat template adds */
    GkConstraint *constraint; /* of params; NULL: none */
    uint32_t uid;
    enum sched_class class;
    uint64_t deadline_us; /* by uv_hrtime(); 0: none */
    atomic_bool is_cancelled;
    /* the loop's, at all times: what is charged until the job has ended */
    struct Account *account; /* NULL: nothing */
    uint64_t n_charged_tokens, n_charged_pages, n_spent_tokens, n_spent_prompt;
    bool holds_request; /* its call is gone and has left it its charge as a request */
    /* the worker's */
    struct Lane *lane;
    SchedEntry entry;
    GkSeq *seq;
    bool is_checked;  /* its parameters are known to be right */
    bool was_started; /* it may wait again */
    bool was_told;    /* that it waits */
    uint32_t told_ahead;
    /* the end, valid from LETTER_ENDED on */
    uint32_t n_drafted, n_accepted; /* rows for drafts, and tokens by them */
    enum gk_finish finish;
    enum status_code code;
    Error error;
    char stop[GK_STOP_STRING_BYTES_MAX + 1];
} Job;

Job *job_new(uint64_t id, struct Model *model, GkEngine *engine);
Job *job_free(Job *job);
DEFINE_CLEANUP(Job *, job_free)

/* A letter with room for what the result points at. NULL: out of memory. */
Letter *letter_new(enum letter_type type, const Job *job, const struct gk_result *result);
