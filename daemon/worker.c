/*
 * See worker.h.
 *
 * One round: let go of cancelled jobs, take new ones, let go of late ones, give sequences to those
 * that wait as each engine's scheduler says (sched.c), and run one step of each engine that has
 * sequences. So a cancellation waits for one step at most.
 *
 * A sequence that must make room is suspended: its request waits again, and goes on to the same
 * tokens when its turn comes.
 *
 * What a step brings forth is posted at once, so that the loop wakes once for it and each
 * connection has one write.
 *
 * The worker never waits for a client: it posts letters, and what a slow client has not read piles
 * up in its call, where there is a limit. It waits for the loop only where thousands of letters are
 * unread.
 */
#include "daemon/worker.h"

#include "base/alloc.h"
#include "daemon/drafts.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <uv.h>

/* Letters that the loop has not taken: some steps of every sequence. */
#define LETTERS_MAX 16384
/* A waiting request hears of its place so often. */
#define POSITION_US 250000

static uint64_t now_us(void) {
    return uv_hrtime() / 1000;
}

/* ---- endings ---- */

static void post(Worker *w, Letter *letter) {
    letter->time_us = now_us();
    list_push_back(&w->letters, &letter->node);
}

static void send_letters(Worker *w) {
    mailbox_push_all(&w->outbox, &w->letters);
}

/* The job goes back; it is not touched any more. */
static void end_job(Worker *w, Job *job, enum gk_finish finish, enum status_code code) {
    job->seq = gk_seq_free(job->seq);
    if (job->lane)
        sched_remove(&job->lane->sched, &job->entry);
    gk_engine_kv_pages(job->engine, &job->letter.n_kv_free, &job->letter.n_kv_total);
    job->finish = finish;
    job->code = code;
    job->letter.type = LETTER_ENDED;
    list_unlink(&job->letter.node);
    post(w, &job->letter);
}

static void end_refused(Worker *w, Job *job) {
    (void)error_set(&job->error, 0, "out of memory");
    end_job(w, job, GK_FINISH_NONE, STATUS_RESOURCE_EXHAUSTED);
}

static enum status_code code_of(int r) {
    switch (r) {
    case GK_E_INVALID:
    case GK_E_TOO_LONG:
        return STATUS_INVALID_ARGUMENT;
    case GK_E_BUSY:
    case -ENOMEM:
        return STATUS_RESOURCE_EXHAUSTED;
    case GK_E_DATA_LOSS:
        return STATUS_DATA_LOSS;
    default:
        return STATUS_INTERNAL;
    }
}

static void end_cancelled(Worker *w, ListNode *jobs) {
    list_for_each_safe (node, jobs) {
        Job *job = container_of(node, Job, letter.node);

        if (atomic_load(&job->is_cancelled))
            end_job(w, job, GK_FINISH_NONE, STATUS_CANCELLED);
    }
}

static void end_all(Worker *w) {
    list_for_each_safe (node, &w->jobs)
        end_job(w, container_of(node, Job, letter.node), GK_FINISH_NONE, STATUS_UNAVAILABLE);
}

static void end_late(Worker *w) {
    uint64_t now = now_us();

    list_for_each_safe (node, &w->jobs) {
        Job *job = container_of(node, Job, letter.node);
        uint64_t at = job->entry.deadline_us;

        if (!sched_is_late(&job->lane->sched, &job->entry, now))
            continue;
        if (at <= now)
            (void)error_set(&job->error, 0, "the request's time was up");
        else
            (void)error_set(&job->error, 0,
                            "the request's time does not suffice for its prompt: of %zu tokens %zu "
                            "are left, and %" PRIu64 " ms",
                            job->n_tokens, job->entry.n_pending, (at - now) / 1000);
        end_job(w, job, GK_FINISH_NONE, STATUS_DEADLINE_EXCEEDED);
    }
}

/* ---- lanes ---- */

static Job *job_of(SchedEntry *entry) {
    return container_of(entry, Job, entry);
}

static void set_options(const Worker *w, struct sched_options *o, const GkEngine *engine) {
    const struct gk_model_info *info = gk_engine_info(engine);
    uint64_t n_free;

    *o = w->options;
    gk_engine_kv_pages(engine, &n_free, &o->n_pages);
    o->n_rows_max = info->n_rows_max;
    o->n_running_max = MIN(o->n_running_max, (size_t)info->n_sequences_max);
    o->n_prompt_rows_max = MIN(o->n_prompt_rows_max, info->n_rows_max);
}

static Lane *new_lane(Worker *w) {
    Lane *lane = alloc_new(Lane);

    if (!lane || sched_init(&lane->sched, &w->options) < 0) {
        free(lane);
        return NULL;
    }
    list_push_back(&w->lanes, &lane->node);
    w->n_lanes++;
    return lane;
}

/* An idle lane keeps what it has learnt of its engine. It may be another one at the same address
 * by then, which is learnt anew. */
static Lane *get_lane(Worker *w, GkEngine *engine) {
    Lane *found = NULL, *idle = NULL;

    list_for_each (node, &w->lanes) {
        Lane *lane = container_of(node, Lane, node);

        if (lane->engine == engine)
            found = lane;
        if (lane->sched.n_entries == 0)
            idle = lane;
    }
    if (!found)
        found = w->n_lanes < WORKER_MODELS_MAX ? new_lane(w) : idle;
    if (!found)
        return NULL;
    found->engine = engine;
    if (found->sched.n_entries == 0)
        set_options(w, &found->sched.options, engine);
    return found;
}

static void take_job(Worker *w, Job *job) {
    list_push_back(&w->jobs, &job->letter.node);
    job->lane = get_lane(w, job->engine);
    if (!job->lane) {
        end_refused(w, job);
        return;
    }
    job->entry =
        (SchedEntry){.deadline_us = job->deadline_us, .n_pages = (uint32_t)job->n_charged_pages};
    sched_add(&job->lane->sched, &job->entry, job->uid, job->class, now_us());
    job->lane->has_newcomers = true;
}

/* Batch requests of one model wait for all others of every model. */
static bool is_held_back(const Worker *w, const Lane *lane) {
    if (sched_has_foreground(&lane->sched))
        return false;
    list_for_each (node, &w->lanes)
        if (sched_has_foreground(&container_of(node, Lane, node)->sched))
            return true;
    return false;
}

/* ---- starting ---- */

static const struct gk_result nothing;

static void start(Worker *w, Job *job) {
    Letter *letter;

    job->entry.n_pending = gk_seq_n_pending(job->seq);
    sched_start(&job->lane->sched, &job->entry, now_us());
    if (job->was_started)
        return;
    job->was_started = true;
    letter = letter_new(LETTER_STARTED, job, &nothing);
    if (!letter) {
        end_refused(w, job);
        return;
    }
    letter->n_cached = gk_seq_n_cached(job->seq);
    gk_engine_kv_pages(job->engine, &letter->n_kv_free, &letter->n_kv_total);
    post(w, letter);
}

static int take_sequence(Job *job) {
    if (job->seq)
        return gk_seq_resume(job->seq, &job->error);
    return gk_seq_new(&job->seq, job->engine, job->tokens, job->n_tokens, &job->params,
                      &job->error);
}

static void suspend(Job *job, Job *for_whom) {
    gk_seq_suspend(job->seq);
    sched_suspend(&job->lane->sched, &job->entry, &for_whom->entry, now_us());
}

/* Gives the job its sequence, where others make room for it if need be. */
static void try_start(Worker *w, Job *job) {
    Sched *sched = &job->lane->sched;
    SchedEntry *victim;
    int r;

    for (;;) {
        r = sched_is_full(sched) ? GK_E_BUSY : take_sequence(job);
        victim = r == GK_E_BUSY ? sched_victim(sched, &job->entry, now_us()) : NULL;
        if (!victim)
            break;
        suspend(job_of(victim), job);
    }
    if (r == 0) {
        start(w, job);
    } else if (r != GK_E_BUSY || sched->n_running == 0) {
        end_job(w, job, GK_FINISH_NONE, code_of(r));
    } else {
        job->error = (Error)ERROR_INIT;
        sched_block(sched, &job->entry, now_us());
    }
}

static void start_waiting(Worker *w, Lane *lane) {
    SchedEntry *entry;

    while ((entry = sched_next(&lane->sched, now_us())))
        try_start(w, job_of(entry));
}

/* ---- waiting ---- */

/* What could never run is refused before it waits. Returns false where the job has ended. */
static bool check(Worker *w, Job *job) {
    int r = gk_seq_check(job->engine, job->tokens, job->n_tokens, &job->params, &job->error);

    job->is_checked = true;
    if (r != 0)
        end_job(w, job, GK_FINISH_NONE, code_of(r));
    return r == 0;
}

/* That it waits is worth knowing; where there is no memory to say so, it waits all the same. */
static void tell_place(Worker *w, Job *job) {
    Letter *letter = letter_new(LETTER_WAITING, job, &nothing);

    job->was_told = true;
    job->told_ahead = job->entry.n_ahead;
    if (!letter)
        return;
    letter->n_ahead = job->entry.n_ahead;
    letter->wait_us = sched_wait_us(&job->lane->sched, &job->entry);
    post(w, letter);
}

/* Newcomers hear at once that they wait, and everybody from time to time how far they have come. */
static void tell_waiting(Worker *w, Lane *lane) {
    uint64_t now = now_us();
    bool is_due = now - lane->told_us >= POSITION_US;

    if (lane->sched.n_waiting == 0 || (!is_due && !lane->has_newcomers))
        return;
    lane->has_newcomers = false;
    if (is_due)
        lane->told_us = now;
    sched_rank(&lane->sched);
    list_for_each_safe (node, &w->jobs) {
        Job *job = container_of(node, Job, letter.node);

        if (job->lane != lane || job->was_started || (!job->is_checked && !check(w, job)))
            continue;
        if (!job->was_told || (is_due && job->told_ahead != job->entry.n_ahead))
            tell_place(w, job);
    }
}

/* ---- steps ---- */

/* Returns false where the job has ended. */
static bool report(Worker *w, Job *job, const struct gk_result *result, bool is_more) {
    enum letter_type type = result->has_token         ? LETTER_TOKEN
                            : result->n_scores > 0    ? LETTER_SCORES
                            : result->n_embedding > 0 ? LETTER_EMBEDDING
                                                      : LETTER_PREFILL;
    bool is_silent = result->finish == GK_FINISH_FAILED || result->finish == GK_FINISH_STUCK ||
                     (type == LETTER_PREFILL && job->entry.has_token); /* it was suspended */
    Letter *letter = is_silent ? NULL : letter_new(type, job, result);

    if (!is_silent && !letter) {
        end_refused(w, job);
        return false;
    }
    if (letter) {
        letter->is_more = is_more;
        post(w, letter);
    }
    job->entry.has_token |= result->has_token;
    switch (result->finish) {
    case GK_FINISH_NONE:
        return true;
    case GK_FINISH_FAILED:
        (void)error_set(&job->error, 0, "the model's file could not be read any more");
        end_job(w, job, GK_FINISH_FAILED, STATUS_DATA_LOSS);
        return false;
    case GK_FINISH_STUCK:
        (void)error_set(&job->error, 0,
                        "no token may come next: the constraint allows none that is not banned, or "
                        "is too ambiguous to follow");
        end_job(w, job, GK_FINISH_STUCK, STATUS_ABORTED);
        return false;
    default:
        (void)snprintf(job->stop, sizeof(job->stop), "%s", result->stop ? result->stop : "");
        end_job(w, job, result->finish, STATUS_OK);
        return false;
    }
}

/* What the step gave the job, token by token. */
static void take_results(Worker *w, Job *job, struct gk_result *result) {
    job->n_drafted += job->entry.n_draft_rows;
    job->n_accepted += (uint32_t)result->n_more;
    sched_accept(&job->entry, result->n_more);
    for (bool is_more = false;; is_more = true) {
        if (result->guess != GK_GUESS_NONE)
            drafts_learn(&job->entry, result->guess == GK_GUESS_RIGHT);
        if (!report(w, job, result, is_more))
            return;
        if (!gk_seq_next_result(job->seq, result))
            break;
    }
    job->entry.n_pending = gk_seq_n_pending(job->seq);
    job->entry.n_drafts = (uint32_t)gk_seq_draft(job->seq);
}

static void step(Worker *w, Lane *lane) {
    Sched *sched = &lane->sched;
    struct gk_plan plan = {.rows = w->plan};
    uint64_t begun_us = now_us();

    if (sched_plan(sched, begun_us) == 0)
        return;
    for (; plan.n < sched->n_planned; plan.n++)
        w->plan[plan.n] = (struct gk_plan_row){.seq = job_of(sched->planned[plan.n])->seq,
                                               .n_rows = sched->planned[plan.n]->n_rows};
    (void)gk_step(lane->engine, &plan, w->results); /* a failure is in the results */
    (void)atomic_fetch_add(&w->n_steps, 1);
    for (size_t i = 0; i < plan.n; i++)
        take_results(w, job_of(sched->planned[i]), &w->results[i]);
    send_letters(w);
    (void)atomic_fetch_add(&w->steps_us, now_us() - begun_us);
    sched_done(sched, now_us() - begun_us); /* telling takes its time, too */
}

/* Those whose calls are gone end first, old and new: then there are no more than n_jobs_max, which
 * is what each scheduler has room for. */
static void take_jobs(Worker *w) {
    ListNode jobs;

    list_init(&jobs);
    atomic_store(&w->is_busy, !list_is_empty(&w->jobs));
    if (list_is_empty(&w->jobs))
        mailbox_wait(&w->inbox, &jobs);
    else
        mailbox_take(&w->inbox, &jobs);
    atomic_store(&w->is_busy, true);
    end_cancelled(w, &w->jobs);
    end_cancelled(w, &jobs);
    list_for_each_safe (node, &jobs) {
        list_unlink(node);
        take_job(w, container_of(node, Job, letter.node));
    }
}

static void *worker_run(void *userdata) {
    Worker *w = userdata;

    while (!atomic_load(&w->is_stopping)) {
        take_jobs(w);
        end_late(w);
        list_for_each (node, &w->lanes) {
            Lane *lane = container_of(node, Lane, node);

            if (!is_held_back(w, lane))
                start_waiting(w, lane);
            tell_waiting(w, lane);
        }
        end_late(w); /* what has started tells how much of its prompt is new */
        send_letters(w);
        list_for_each (node, &w->lanes)
            if (!is_held_back(w, container_of(node, Lane, node)))
                step(w, container_of(node, Lane, node));
    }
    mailbox_take(&w->inbox, &w->jobs);
    end_all(w);
    send_letters(w);
    return NULL;
}

/* ---- the loop's side ---- */

static int start_thread(Worker *w) {
    sigset_t all, before;
    int r;

    /* Signals are the loop's; SIGBUS is sent to the thread that faults and must not be blocked. */
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS);
    (void)sigdelset(&all, SIGSEGV);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&w->thread, NULL, worker_run, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int worker_start(Worker *w, const struct worker_options *o) {
    int r;

    *w = (Worker){.options = {.n_entries_max = o->n_jobs_max,
                              .n_running_max = o->n_sequences_max,
                              .n_prompt_rows_max = o->n_prompt_rows_max,
                              .target_us = o->target_us}};
    list_init(&w->jobs);
    list_init(&w->letters);
    list_init(&w->lanes);
    w->plan = alloc_array(o->n_sequences_max, sizeof(*w->plan));
    w->results = alloc_array(o->n_sequences_max, sizeof(*w->results));
    if (!w->plan || !w->results)
        return error_origin(-ENOMEM);
    r = mailbox_init(&w->inbox, o->n_jobs_max, NULL, NULL);
    if (r == 0)
        r = mailbox_init(&w->outbox, LETTERS_MAX, o->wake, o->userdata);
    if (r == 0)
        r = start_thread(w);
    return error_trace(r);
}

void worker_stop(Worker *w) {
    mailbox_lift_limit(&w->outbox);
    atomic_store(&w->is_stopping, true);
    mailbox_poke(&w->inbox);
    (void)pthread_join(w->thread, NULL);
}

void worker_deinit(Worker *w) {
    mailbox_deinit(&w->inbox);
    mailbox_deinit(&w->outbox);
    free(w->plan);
    free(w->results);
    list_for_each_safe (node, &w->lanes) {
        Lane *lane = container_of(node, Lane, node);

        sched_deinit(&lane->sched);
        free(lane);
    }
}

int worker_push(Worker *w, Job *job) {
    return mailbox_push(&w->inbox, &job->letter.node);
}

void worker_cancel(Worker *w, Job *job) {
    atomic_store(&job->is_cancelled, true);
    mailbox_poke(&w->inbox);
}

void worker_take(Worker *w, ListNode *to) {
    mailbox_take(&w->outbox, to);
}

void worker_letter_free(Letter *letter) {
    if (letter->type == LETTER_ENDED)
        (void)job_free(container_of(letter, Job, letter));
    else
        free(letter);
}
