/*
 * See call.h.
 *
 *   OPENING ──pushed──▶ QUEUED ──LETTER_STARTED──▶ RUNNING ──LETTER_ENDED──▶ FLUSHING ──▶ DONE
 *      └──────────────────┴───────────────────────────┴────── any failure ─────────────────▲
 *
 * Whatever ends a call, finish() is where it happens, once: an answer, a refusal, a deadline, a
 * Cancel, a disconnect, the daemon's end. It lets go of all that the call holds. The worker's job
 * is not waited for: it is told to end, and comes back to a call that is no longer there. Until
 * then it counts as a request: who asks and goes again and again during one step would fill the
 * worker's inbox with what is in nobody's accounts.
 */
#include "daemon/call.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "daemon/text.h"

#include "proto/retry.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Of what is refused for now: when to try again. */
#define RETRY_MIN_US     100000ull
#define RETRY_MAX_US     60000000ull
#define RETRY_UNKNOWN_US 1000000ull
/* Who waits for a model hears of it so often. */
#define TELL_US 250000

static const char *const state_names[] = {
#define X(name) #name,
    CALL_STATE_MAP(X)
#undef X
};

static const unsigned state_edges[] = {
    [CALL_OPENING] = BIT(CALL_QUEUED) | BIT(CALL_DONE),
    [CALL_QUEUED] = BIT(CALL_RUNNING) | BIT(CALL_DONE),
    [CALL_RUNNING] = BIT(CALL_QUEUED) | BIT(CALL_FLUSHING) | BIT(CALL_DONE), /* of several jobs */
    [CALL_FLUSHING] = BIT(CALL_DONE),
    [CALL_DONE] = 0,
};

void call_set_state(Call *call, enum call_state to) {
    Daemon *d = call->daemon;

    assert(state_edges[call->state] & BIT(to));
    log_debug("call %" PRIu64 ": %s to %s", call->id, state_names[call->state], state_names[to]);
    d->n_queued += (to == CALL_QUEUED) - (call->state == CALL_QUEUED);
    d->n_running += (to == CALL_RUNNING) - (call->state == CALL_RUNNING);
    call->account->n_queued += (to == CALL_QUEUED) - (call->state == CALL_QUEUED);
    call->account->n_running += (to == CALL_RUNNING) - (call->state == CALL_RUNNING);
    call->state = to;
}

Call *call_find(const Daemon *d, uint64_t id) {
    list_for_each (node, &d->calls[id % DAEMON_CALL_BUCKETS]) {
        Call *call = container_of(node, Call, id_node);

        if (call->id == id)
            return call;
    }
    return NULL;
}

/* ---- the one ending ---- */

static double ms_between(uint64_t begin_us, uint64_t end_us) {
    return begin_us && end_us > begin_us ? (double)(end_us - begin_us) / 1000 : 0;
}

/* One line a request, never its text. */
static void log_ending(const Call *call, const char *outcome) {
    uint64_t now = daemon_now_us(call->daemon);
    uint64_t started = call->started_us ? call->started_us : now;
    uint64_t ended = call->ended_us ? call->ended_us : now;

    if (!call->method->is_inference) {
        log_debug("%s: %s uid=%u pid=%d total=%.1fms", call->method->name, outcome,
                  (unsigned)call->conn->uid, (int)call->conn->pid, ms_between(call->begun_us, now));
        return;
    }
    log_info("%s: %s uid=%u pid=%d model=%s id=%s prompt=%zu cached=%zu generated=%zu queue=%.1fms "
             "prefill=%.1fms decode=%.1fms total=%.1fms",
             call->method->name, outcome, (unsigned)call->conn->uid, (int)call->conn->pid,
             call->model ? call->model->name : "-", call->request_id[0] ? call->request_id : "-",
             call->n_prompt, call->n_cached, call->n_generated,
             ms_between(call->queued_us, started),
             ms_between(call->started_us, call->decoding_us ? call->decoding_us : ended),
             ms_between(call->decoding_us, ended), ms_between(call->begun_us, now));
}

static void let_go(Call *call) {
    Daemon *d = call->daemon;

    if (call->job)
        worker_cancel(&d->worker, call->job);
    text_drop(call);
    list_unlink(&call->model_node);
    call_leave_model(call);
    free(call->request);
    output_deinit(&call->output);
    free(call->echo);
    free(call->scores.entries);
    (void)embed_free(call->embed);
    if (call->n_charged_bytes > 0)
        quota_release(call->account, QUOTA_BYTES, call->n_charged_bytes);
    if (call->job) {
        call->job->holds_request = true;
        d->n_given_up++;
    } else {
        quota_release(call->account, QUOTA_REQUESTS, 1);
    }
    list_unlink(&call->dirty_node);
    list_unlink(&call->id_node);
    list_unlink(&call->conn_node);
    d->n_calls--;
    free(call);
    daemon_something_ended(d);
}

/* How often requests end that had a sequence, while others wait for one. */
static void learn_interval(const Call *call) {
    struct daemon_counters *counters = &call->daemon->counters;
    uint64_t now = daemon_now_us(call->daemon), us = now - counters->last_ended_us;
    uint64_t *known = &counters->ended_interval_us;

    if (call->started_us == 0)
        return;
    if (counters->is_backed_up)
        *known = *known == 0 ? us : (*known * 7 + us) / 8;
    counters->last_ended_us = now;
    counters->is_backed_up = call->daemon->n_queued > 0;
}

static void finish(Call *call, const char *outcome) {
    struct daemon_counters *counters = &call->daemon->counters;

    call_set_state(call, CALL_DONE);
    learn_interval(call);
    if (call->method->is_inference) {
        counters->n_requests++;
        counters->n_failed += strcmp(outcome, status_name(STATUS_OK)) != 0;
        counters->n_prompt_tokens += call->n_prompt_done;
        counters->n_generated_tokens += call->n_generated;
    }
    log_ending(call, outcome);
    let_go(call);
}

/* A time in which half of those who wait will have ended, as requests end now. */
static uint64_t retry_us(const Daemon *d) {
    uint64_t interval = d->counters.ended_interval_us;

    return interval == 0
               ? RETRY_UNKNOWN_US
               : MIN(MAX(interval * MAX(d->n_queued / 2, (size_t)1), RETRY_MIN_US), RETRY_MAX_US);
}

static void send_hint(Conn *c, uint64_t stream, const char *sentence, uint64_t us) {
    uint8_t detail[RETRY_BYTES_MAX];
    size_t n = retry_pack(us, detail);

    conn_finish(c, stream, STATUS_RESOURCE_EXHAUSTED, sentence, detail, n);
}

/* Says what is wrong, and when to try again. */
static void send_refusal(Conn *c, uint64_t stream, const char *why) {
    uint64_t us = retry_us(c->daemon);
    char sentence[ERROR_TEXT_MAX + 64];

    (void)snprintf(sentence, sizeof(sentence), "%s; try again in %.1f s", why, (double)us / 1e6);
    send_hint(c, stream, sentence, us);
}

void call_refuse(Call *call, const char *format, ...) {
    char sentence[ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    log_debug("call %" PRIu64 " is refused: %s", call->id, sentence);
    send_refusal(call->conn, call->stream, sentence);
    finish(call, status_name(STATUS_RESOURCE_EXHAUSTED));
}

void call_fail(Call *call, enum status_code code, const char *format, ...) {
    char sentence[ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    log_debug("call %" PRIu64 " fails: %s", call->id, sentence);
    conn_finish(call->conn, call->stream, code, sentence, NULL, 0);
    finish(call, status_name(code));
}

void call_complete(Call *call) {
    conn_finish(call->conn, call->stream, STATUS_OK, NULL, NULL, 0);
    finish(call, status_name(STATUS_OK));
}

void call_abandon(Call *call) {
    finish(call, "DISCONNECTED");
}

void call_reply(Call *call, const ProtobufCMessage *answer) {
    Buf *scratch = &call->daemon->scratch;
    int r = msg_pack(answer, scratch);

    if (r == 0) {
        conn_finish(call->conn, call->stream, STATUS_OK, NULL, buf_bytes(scratch),
                    buf_size(scratch));
        finish(call, status_name(STATUS_OK));
    } else {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED,
                  r == -ENOBUFS ? "the answer is longer than the wire can carry" : "out of memory");
    }
    buf_consume(scratch, buf_size(scratch));
}

int call_send(Call *call, const ProtobufCMessage *message) {
    Buf *scratch = &call->daemon->scratch;
    int r = msg_pack(message, scratch);

    if (r == -ENOBUFS)
        r = -EMSGSIZE;
    if (r == 0)
        r = conn_send(call->conn, call->stream, buf_bytes(scratch), buf_size(scratch));
    buf_consume(scratch, buf_size(scratch));
    return r;
}

void call_mark_dirty(Call *call) {
    if (call->method->has_output(call) && conn_is_writable(call->conn) &&
        list_is_empty(&call->dirty_node))
        list_push_back(&call->daemon->dirty_calls, &call->dirty_node);
}

/* ---- what it may have ---- */

/* The earlier of what was said before and now; never later than max_timeout. */
static void set_deadline(Call *call, uint64_t us) {
    uint64_t max = call->daemon->config->timeout_max_us;

    if (max > 0 && call->method->is_inference)
        us = us > 0 ? MIN(us, max) : max;
    if (us == 0 || (call->deadline_us > 0 && call->deadline_us <= call->begun_us + us))
        return;
    call->deadline_us = call->begun_us + us;
    daemon_wake_at(call->daemon, call->deadline_us);
}

bool call_set_timeout(Call *call, uint32_t ms) {
    uint64_t us = (uint64_t)ms * 1000;

    if (us == 0 && call->deadline_us == 0)
        us = call->daemon->config->timeout_default_us;
    set_deadline(call, us);
    return true;
}

/* Ends the call for n of what the user has too much of. */
static void refuse_charge(Call *call, enum quota_kind kind, uint64_t n, const Error *error) {
    if (quota_may_ever(call->account, kind, n))
        call_refuse(call, "%s", error->text);
    else
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", error->text);
}

bool call_charge(Call *call, size_t n_bytes) {
    Error error = ERROR_INIT;

    if (n_bytes == 0)
        return true;
    if (quota_charge(call->account, QUOTA_BYTES, n_bytes, &error) != 0) {
        refuse_charge(call, QUOTA_BYTES, n_bytes, &error);
        return false;
    }
    call->n_charged_bytes += n_bytes;
    return true;
}

/* Those that came before it and wait, or may soon. */
struct places {
    uint64_t n_waiting, n_user_waiting, n_running;
};

/* Beside this one, for the same model. */
static bool waits_with(const Call *call, const Call *other) {
    return other != call && other->model == call->model && other->method->is_inference &&
           (other->state == CALL_OPENING || other->state == CALL_QUEUED);
}

static struct places count_places(const Call *call) {
    struct places places = {0};

    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each (node, &call->daemon->calls[i]) {
            const Call *other = container_of(node, Call, id_node);
            bool waits = waits_with(call, other);

            places.n_waiting += waits;
            places.n_user_waiting += waits && other->conn->uid == call->conn->uid;
            places.n_running += other->state == CALL_RUNNING && other->model == call->model;
        }
    return places;
}

/* Of the user that has most of those that wait, the one that came last. NULL: it has hardly more of
 * them than this one's user. */
static Call *find_most(const Call *call, uint64_t n_own) {
    const Daemon *d = call->daemon;
    uint64_t n_most = n_own + 1;
    Call *last = NULL;

    list_for_each (node, &d->quota.users)
        container_of(node, User, node)->n_counted = 0;
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each (node, &d->calls[i])
            if (waits_with(call, container_of(node, Call, id_node)))
                container_of(node, Call, id_node)->account->user->n_counted++;
    list_for_each (node, &d->quota.users)
        n_most = MAX(n_most, container_of(node, User, node)->n_counted);
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS && n_most > n_own + 1; i++)
        list_for_each (node, &d->calls[i]) {
            Call *other = container_of(node, Call, id_node);

            if (waits_with(call, other) && other->account->user->n_counted == n_most &&
                other->started_us == 0 && (!last || other->id > last->id))
                last = other;
        }
    return last;
}

/* The queue is full: who has most of it makes room for who has less, as those few who would fill it
 * could else keep everybody out. Returns false where the call is over. */
static bool take_place(Call *call, const struct places *places) {
    Call *last = find_most(call, places->n_user_waiting), *refused = last ? last : call;

    call_refuse(refused, "%" PRIu64 " requests wait for model %s (max_queued_requests)",
                places->n_waiting, call->model->name);
    return last != NULL;
}

bool call_find_place(Call *call) {
    const Config *config = call->daemon->config;
    struct places places = count_places(call);
    uint64_t n_free;

    /* Some of those will start before anyone can wait. */
    n_free = config->n_sequences_max - MIN(places.n_running, config->n_sequences_max);
    if (places.n_waiting < n_free)
        return true;
    if (places.n_user_waiting >= n_free + call->account->user->max[QUOTA_QUEUED]) {
        call_refuse(call, "%" PRIu64 " requests of user %u wait (max_user_queued_requests)",
                    places.n_user_waiting, (unsigned)call->conn->uid);
        return false;
    }
    return places.n_waiting - n_free < config->n_queued_max || take_place(call, &places);
}

void call_use_model(Call *call, Model *model) {
    model_use(model);
    model->n_calls++;
    call->model = model;
}

void call_leave_model(Call *call) {
    Model *model = call->model;

    list_unlink(&call->model_node);
    if (!model)
        return;
    call->model = NULL;
    model->n_calls--;
    model_release(model);
}

static uint32_t count_waiters(const Model *model) {
    uint32_t n = 0;

    list_for_each (node, &model->waiters)
        n++;
    return n;
}

void call_await_model(Call *call, Model *model) {
    uint32_t n_ahead;

    if (!call_charge(call, call->n_view))
        return;
    call->request = alloc_array(call->n_view + 1, 1);
    if (!call->request) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    if (call->n_view > 0)
        (void)memcpy(call->request, call->view, call->n_view);
    call->n_request = call->n_view;
    call->queued_us = daemon_now_us(call->daemon);
    call_use_model(call, model);
    if (call->method->is_inference && !call_find_place(call))
        return;
    n_ahead = count_waiters(model);
    list_push_back(&model->waiters, &call->model_node);
    call_tell_wait(call, n_ahead);
}

void call_tell_wait(Call *call, uint32_t n_ahead) {
    uint64_t now = daemon_now_us(call->daemon);

    if (call->method->kind != CODEC_SERVER_STREAM ||
        (call->told_us > 0 && now - call->told_us < TELL_US))
        return;
    call->told_us = now;
    call->output.position = n_ahead;
    call->output.wait_us = model_wait_us(call->model);
    call->output.has_position = true;
    call_mark_dirty(call);
}

void call_run_again(Call *call) {
    CLEANUP(freep) uint8_t *request = take_ptr(call->request);

    call_leave_model(call);
    if (call->n_request > 0) {
        quota_release(call->account, QUOTA_BYTES, call->n_request);
        call->n_charged_bytes -= call->n_request;
    }
    service_run(call, request, call->n_request);
}

bool call_set_actor(Call *call, const char *actor) {
    Account *own = call->account;
    Error error = ERROR_INIT;
    char shown[CALL_ACTOR_MAX * 4 + 1];
    size_t n = strlen(actor);

    if (strcmp(own->actor, actor) == 0)
        return true;
    if (n > CALL_ACTOR_MAX || strcmp(utf8_printable(shown, sizeof(shown), actor, n), actor) != 0) {
        call_fail(call, STATUS_INVALID_ARGUMENT,
                  "an actor's name has at most %d bytes, all of them printable", CALL_ACTOR_MAX);
        return false;
    }
    assert(call->n_charged_bytes == 0 && !call->job);
    quota_release(own, QUOTA_REQUESTS, 1); /* stays: the connection is charged to it */
    if (quota_charge_actor(own->user, actor, QUOTA_REQUESTS, 1, &call->account, &error) == 0)
        return true;
    (void)quota_charge(own, QUOTA_REQUESTS, 1, NULL); /* it was there a moment ago */
    call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", error.text);
    return false;
}

/* ---- what is computed ---- */

/* Returns false where the call is over. */
static bool check_window(Call *call, uint64_t n) {
    Daemon *d = call->daemon;
    Error error = ERROR_INIT;
    uint64_t us;

    if (quota_check_window(&d->quota, call->account, n, daemon_now_us(d), &us, &error) == 0)
        return true;
    if (us > 0) { /* the sentence says so */
        send_hint(call->conn, call->stream, error.text, us);
        finish(call, status_name(STATUS_RESOURCE_EXHAUSTED));
    } else {
        refuse_charge(call, QUOTA_WINDOW, n, &error);
    }
    return false;
}

bool call_charge_job(Call *call, Job *job) {
    bool is_generate = job->params.mode == GK_GENERATE;
    /* An empty one, which the worker refuses, counts as one token. */
    uint64_t n = MAX(job->n_tokens + (is_generate ? job->params.n_tokens_max : 0), (size_t)1);
    uint64_t n_pages = n / GK_KV_PAGE_POSITIONS + (n % GK_KV_PAGE_POSITIONS > 0);
    Error error = ERROR_INIT;

    if (quota_check_context(call->account, n, &error) != 0) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s", error.text);
        return false;
    }
    if (!check_window(call, n))
        return false;
    if (quota_charge(call->account, QUOTA_KV_PAGES, n_pages, &error) != 0) {
        refuse_charge(call, QUOTA_KV_PAGES, n_pages, &error);
        return false;
    }
    if (quota_charge(call->account, QUOTA_TOKENS, n, &error) != 0) {
        quota_release(call->account, QUOTA_KV_PAGES, n_pages);
        refuse_charge(call, QUOTA_TOKENS, n, &error);
        return false;
    }
    job->account = call->account;
    job->n_charged_tokens = n;
    job->n_charged_pages = n_pages;
    return true;
}

void call_release_job(Job *job) {
    if (!job->account)
        return;
    quota_settle(job->account, job->n_spent_tokens);
    quota_release(job->account, QUOTA_TOKENS, job->n_charged_tokens);
    quota_release(job->account, QUOTA_KV_PAGES, job->n_charged_pages);
    if (job->holds_request) {
        quota_release(job->account, QUOTA_REQUESTS, 1);
        job->letter.model->daemon->n_given_up--;
    }
    job->account = NULL;
}

void call_count(Call *call, const Letter *letter) {
    uint64_t n_prompt = 0, n_generated = letter->type == LETTER_TOKEN, n_left;
    Job *job = call->job;

    if (!job || !job->account)
        return;
    if (letter->n_prompt_done > job->n_spent_prompt) { /* less where it began again */
        n_prompt = letter->n_prompt_done - job->n_spent_prompt;
        job->n_spent_prompt = letter->n_prompt_done;
    }
    n_left = job->n_charged_tokens - job->n_spent_tokens;
    n_prompt = MIN(n_prompt, n_left);
    n_generated = MIN(n_generated, n_left - n_prompt);
    if (n_prompt + n_generated == 0)
        return;
    job->n_spent_tokens += n_prompt + n_generated;
    quota_spend(&call->daemon->quota, job->account, n_prompt, n_generated,
                daemon_now_us(call->daemon));
}

void call_count_cached(Call *call, size_t n) {
    Job *job = call->job;

    if (!job || !job->account)
        return;
    n = MIN(n, job->n_charged_tokens - job->n_spent_tokens);
    job->n_spent_prompt = n;
    job->n_spent_tokens += n;
    quota_spare(job->account, n);
}

bool call_advance(Call *call, size_t n_prompt_done) {
    if (n_prompt_done <= call->n_prompt_done)
        return false;
    call->n_prompt_done = n_prompt_done;
    return true;
}

/* ---- the beginning ---- */

static int new_call(Conn *c, const struct codec_request *request, Call **ret, Error *reterr) {
    Daemon *d = c->daemon;
    Call *call;
    int r;

    if (d->n_calls + d->n_given_up >= d->config->n_requests_max)
        return error_set(reterr, -EBUSY, "all %" PRIu64 " requests are in use (max_requests)",
                         d->config->n_requests_max);
    call = alloc_new(Call);
    if (!call)
        return error_set(reterr, -ENOMEM, "out of memory");
    r = quota_charge(c->account, QUOTA_REQUESTS, 1, reterr);
    if (r != 0) {
        free(call);
        return r;
    }
    call->daemon = d;
    call->account = c->account;
    call->conn = c;
    call->id = ++d->next_call_id;
    call->stream = request->stream;
    call->method = service_find(request->service, request->method);
    call->begun_us = daemon_now_us(d);
    list_init(&call->dirty_node);
    list_init(&call->model_node);
    output_init(&call->output, d->config->n_output_bytes_max);
    list_push_back(&c->calls, &call->conn_node);
    list_push_back(&d->calls[call->id % DAEMON_CALL_BUCKETS], &call->id_node);
    d->n_calls++;
    *ret = call;
    return 0;
}

void call_begin(Conn *c, const struct codec_request *request) {
    Error error = ERROR_INIT;
    Call *call;

    if (new_call(c, request, &call, &error) != 0) {
        log_notice("%s of pid %d, uid %u refused: %s", request->method, (int)c->pid,
                   (unsigned)c->uid, error.text);
        send_refusal(c, request->stream, error.text);
        return;
    }
    if (request->timeout_ns < 0) {
        call_fail(call, STATUS_DEADLINE_EXCEEDED, "the time was up before the request came");
        return;
    }
    set_deadline(call, (uint64_t)request->timeout_ns / 1000 + (request->timeout_ns % 1000 > 0));
    service_run(call, request->payload, request->n_payload);
}
