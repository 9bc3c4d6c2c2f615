/*
 * See worker.h.
 *
 * One round: take new jobs, let go of cancelled ones, give sequences to those that waited (first
 * come, first served, for each engine), and run one step of each engine that has sequences. So a
 * cancellation waits for one step at most, and a job that can't have its KV pages now waits without
 * being passed by later ones.
 *
 * The worker never waits for a client: it posts letters, and what a slow client has not read piles
 * up in its call, where there is a limit. It waits for the loop only where thousands of letters are
 * unread.
 */
#include "daemon/worker.h"

#include "base/alloc.h"

#include <signal.h>
#include <stdio.h>

/* Letters that the loop has not taken: some steps of every sequence. */
#define LETTERS_MAX 16384

/* ---- endings ---- */

static void post(Worker *w, Letter *letter) {
    mailbox_push_wait(&w->outbox, &letter->node);
}

/* The job goes back; it is not touched any more. */
static void end_job(Worker *w, Job *job, enum gk_finish finish, enum status_code code) {
    job->seq = gk_seq_free(job->seq);
    gk_engine_kv_pages(job->engine, &job->letter.n_kv_free, &job->letter.n_kv_total);
    job->finish = finish;
    job->code = code;
    job->letter.type = LETTER_ENDED;
    w->may_start = true;
    list_unlink(&job->letter.node);
    post(w, &job->letter);
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

static void end_cancelled(Worker *w, ListNode *jobs, bool all) {
    list_for_each_safe (node, jobs) {
        Job *job = container_of(node, Job, letter.node);

        if (all || atomic_load(&job->is_cancelled))
            end_job(w, job, GK_FINISH_NONE, all ? STATUS_UNAVAILABLE : STATUS_CANCELLED);
    }
}

/* ---- starting ---- */

static bool engine_has_running(const Worker *w, const GkEngine *engine) {
    list_for_each (node, &w->running)
        if (container_of(node, Job, letter.node)->engine == engine)
            return true;
    return false;
}

static void start(Worker *w, Job *job) {
    static const struct gk_result nothing;
    Letter *letter = letter_new(LETTER_STARTED, job, &nothing);

    list_unlink(&job->letter.node);
    list_push_back(&w->running, &job->letter.node);
    if (!letter) {
        (void)error_set(&job->error, 0, "out of memory");
        end_job(w, job, GK_FINISH_NONE, STATUS_RESOURCE_EXHAUSTED);
        return;
    }
    gk_engine_kv_pages(job->engine, &letter->n_kv_free, &letter->n_kv_total);
    post(w, letter);
}

/* That it waits is worth knowing; where there is no memory to say so, it waits all the same. */
static void tell_waiting(Worker *w, const Job *job) {
    static const struct gk_result nothing;
    Letter *letter = letter_new(LETTER_WAITING, job, &nothing);

    if (letter)
        post(w, letter);
}

/* Gives the job its sequence, or only checks that it may have one some day. Returns false where it
 * must wait. */
static bool try_start(Worker *w, Job *job, bool check_only) {
    int r =
        gk_seq_new(&job->seq, job->engine, job->tokens, job->n_tokens, &job->params, &job->error);

    if (r == 0 && !check_only) {
        start(w, job);
        return true;
    }
    if (r != 0 && (r != GK_E_BUSY || !engine_has_running(w, job->engine))) {
        end_job(w, job, GK_FINISH_NONE, code_of(r));
        return true;
    }
    job->seq = gk_seq_free(job->seq);
    job->error = (Error)ERROR_INIT;
    if (!job->is_checked)
        tell_waiting(w, job);
    job->is_checked = true;
    return false;
}

static bool is_one_of(const GkEngine *engine, GkEngine *const *engines, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (engines[i] == engine)
            return true;
    return false;
}

static void start_waiting(Worker *w) {
    GkEngine *full[WORKER_MODELS_MAX];
    size_t n_full = 0;

    w->may_start = false;
    list_for_each_safe (node, &w->waiting) {
        Job *job = container_of(node, Job, letter.node);
        GkEngine *engine = job->engine;

        if (is_one_of(engine, full, n_full)) {
            if (!job->is_checked)
                (void)try_start(w, job, true);
        } else if (!try_start(w, job, false) && n_full < ARRAY_SIZE(full)) {
            full[n_full++] = engine;
        }
    }
}

/* ---- steps ---- */

static void report(Worker *w, Job *job, const struct gk_result *result) {
    enum letter_type type = result->has_token      ? LETTER_TOKEN
                            : result->n_scores > 0 ? LETTER_SCORES
                                                   : LETTER_PREFILL;
    Letter *letter = NULL;

    if (result->finish != GK_FINISH_FAILED) {
        letter = letter_new(type, job, result);
        if (!letter) {
            (void)error_set(&job->error, 0, "out of memory");
            end_job(w, job, GK_FINISH_NONE, STATUS_RESOURCE_EXHAUSTED);
            return;
        }
        post(w, letter);
    }
    switch (result->finish) {
    case GK_FINISH_NONE:
        return;
    case GK_FINISH_FAILED:
        (void)error_set(&job->error, 0, "the model's file could not be read any more");
        end_job(w, job, GK_FINISH_FAILED, STATUS_DATA_LOSS);
        return;
    default:
        (void)snprintf(job->stop, sizeof(job->stop), "%s", result->stop ? result->stop : "");
        end_job(w, job, result->finish, STATUS_OK);
    }
}

static void step_engine(Worker *w, GkEngine *engine) {
    struct sched_budget budget = {.n_rows_max = gk_engine_info(engine)->n_rows_max,
                                  .n_prompt_rows_max = w->n_prompt_rows_max};
    struct gk_plan plan = {.rows = w->plan};
    size_t n = 0;

    list_for_each (node, &w->running) {
        Job *job = container_of(node, Job, letter.node);

        if (job->engine != engine)
            continue;
        assert(n < w->n_sequences_max);
        job->round = w->round;
        w->jobs[n] = job;
        w->rows[n++] = (struct sched_row){.n_pending = gk_seq_n_pending(job->seq)};
    }
    (void)sched_plan(&budget, w->rows, n);
    for (size_t i = 0; i < n; i++) {
        if (w->rows[i].n_rows == 0)
            continue;
        w->jobs[plan.n] = w->jobs[i]; /* plan.n <= i */
        w->plan[plan.n++] =
            (struct gk_plan_row){.seq = w->jobs[i]->seq, .n_rows = w->rows[i].n_rows};
    }
    (void)gk_step(engine, &plan, w->results); /* a failure is in the results */
    (void)atomic_fetch_add(&w->n_steps, 1);
    for (size_t i = 0; i < plan.n; i++)
        report(w, w->jobs[i], &w->results[i]);
}

static void step_all(Worker *w) {
    ListNode *node = w->running.next;

    w->round++;
    while (node != &w->running) {
        Job *job = container_of(node, Job, letter.node);

        if (job->round == w->round) {
            node = node->next;
            continue;
        }
        step_engine(w, job->engine);
        node = w->running.next; /* the step may have ended any of them */
    }
}

static void *worker_run(void *userdata) {
    Worker *w = userdata;

    while (!atomic_load(&w->is_stopping)) {
        ListNode jobs;

        list_init(&jobs);
        atomic_store(&w->is_busy, !list_is_empty(&w->running));
        if (list_is_empty(&w->running) && list_is_empty(&w->waiting))
            mailbox_wait(&w->inbox, &jobs);
        else
            mailbox_take(&w->inbox, &jobs);
        list_for_each_safe (node, &jobs) {
            list_unlink(node);
            list_push_back(&w->waiting, node);
            w->may_start = true;
        }
        end_cancelled(w, &w->waiting, false);
        end_cancelled(w, &w->running, false);
        if (w->may_start)
            start_waiting(w);
        atomic_store(&w->is_busy, !list_is_empty(&w->running));
        step_all(w);
    }
    mailbox_take(&w->inbox, &w->waiting);
    end_cancelled(w, &w->waiting, true);
    end_cancelled(w, &w->running, true);
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

    *w = (Worker){.n_sequences_max = o->n_sequences_max, .n_prompt_rows_max = o->n_prompt_rows_max};
    list_init(&w->waiting);
    list_init(&w->running);
    w->jobs = alloc_array(o->n_sequences_max, sizeof(*w->jobs));
    w->plan = alloc_array(o->n_sequences_max, sizeof(*w->plan));
    w->results = alloc_array(o->n_sequences_max, sizeof(*w->results));
    w->rows = alloc_array(o->n_sequences_max, sizeof(*w->rows));
    if (!w->jobs || !w->plan || !w->results || !w->rows)
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
    free(w->jobs);
    free(w->plan);
    free(w->results);
    free(w->rows);
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
