/* Admin.* */
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/service.h"

#include <stdio.h>

#define TOP_INTERVAL_MS_MIN 100
#define TOP_INTERVAL_MS_MAX 60000

static char *view(const char *s) { /* protobuf-c's strings are not const; packing only reads */
    return (char *)(uintptr_t)s;
}

static uint64_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long n_pages = 0, n_resident = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &n_pages, &n_resident) != 2)
        n_resident = 0;
    (void)fclose(file);
    return n_resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static const char *instruction_set(const Models *m) {
    const char *const *names = gk_isa_names();
    unsigned available = gk_isa_available();
    const char *best = "";

    list_for_each (node, &m->all) {
        const Model *model = container_of(node, Model, node);

        if (model->engine)
            return gk_engine_info(model->engine)->isa;
    }
    for (unsigned i = 0; names[i]; i++)
        if (available & BIT(i))
            best = names[i];
    return best;
}

static void count_pages(const Daemon *d, uint64_t *ret_used, uint64_t *ret_total) {
    *ret_used = *ret_total = 0;
    list_for_each (node, &d->models.all) {
        const Model *model = container_of(node, Model, node);

        *ret_total += model->n_kv_total;
        *ret_used += model->n_kv_total - model->n_kv_free;
    }
}

/* ---- Status ---- */

void admin_status(Call *call, void *request) {
    Grokd__V1__StatusResponse answer = GROKD__V1__STATUS_RESPONSE__INIT;
    Daemon *d = call->daemon;
    MsgArena arena;

    (void)request;
    msg_arena_init(&arena, MSG_BUDGET_BASE);
    answer.version = view(GROKD_VERSION);
    answer.uptime_us = daemon_now_us(d) - d->begun_us;
    answer.pid = (uint32_t)getpid();
    answer.threads = gk_pool_n_threads(d->models.pool);
    answer.instruction_set = view(instruction_set(&d->models));
    answer.connections = (uint32_t)d->n_connections;
    answer.requests_running = (uint32_t)d->n_running;
    answer.requests_queued = (uint32_t)d->n_queued;
    answer.requests_total = d->counters.n_requests;
    answer.requests_failed = d->counters.n_failed;
    answer.prompt_tokens_total = d->counters.n_prompt_tokens;
    answer.generated_tokens_total = d->counters.n_generated_tokens;
    answer.resident_bytes = resident_bytes();
    answer.draining = d->is_draining;
    answer.steps_total = atomic_load(&d->worker.n_steps);
    count_pages(d, &answer.kv_pages_used, &answer.kv_pages_total);
    answer.kv_type = view(gk_kv_type_names[d->config->kv_type]);
    if (models_fill_summaries(&d->models, &arena, &answer.models, &answer.n_models) < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    else
        call_reply(call, &answer.base);
    msg_arena_deinit(&arena);
}

/* ---- Top ---- */

static void fill_account(const Daemon *d, Account *a, uint64_t now, Grokd__V1__TopAccount *ret) {
    grokd__v1__top_account__init(ret);
    ret->uid = (uint32_t)a->user->uid;
    ret->actor = a->actor;
    ret->connections = (uint32_t)a->used[QUOTA_CONNECTIONS];
    ret->requests_running = (uint32_t)a->n_running;
    ret->requests_queued = (uint32_t)a->n_queued;
    ret->bytes = a->used[QUOTA_BYTES];
    ret->tokens_in_flight = a->used[QUOTA_TOKENS];
    ret->window_tokens = quota_window_tokens(&d->quota, a, now);
    ret->kv_pages = a->used[QUOTA_KV_PAGES];
    ret->prompt_tokens_per_s = quota_prompt_speed(a, now);
    ret->generated_tokens_per_s = quota_generated_speed(a, now);
}

/* All of them, and what they add up to. */
static int fill_accounts(Daemon *d, uint64_t now, MsgArena *arena, Grokd__V1__TopEvent *ret) {
    Grokd__V1__TopAccount *each;
    size_t n = 0;

    list_for_each (node, &d->quota.users)
        n += container_of(node, User, node)->n_accounts;
    each = msg_arena_alloc(arena, (n + 1) * sizeof(*each));
    ret->accounts = msg_arena_alloc(arena, (n + 1) * sizeof(*ret->accounts));
    if (!each || !ret->accounts)
        return -ENOMEM;
    list_for_each (node, &d->quota.users)
        list_for_each (account, &container_of(node, User, node)->accounts) {
            Grokd__V1__TopAccount *row = &each[ret->n_accounts];

            fill_account(d, container_of(account, Account, node), now, row);
            ret->prompt_tokens_per_s += row->prompt_tokens_per_s;
            ret->generated_tokens_per_s += row->generated_tokens_per_s;
            ret->accounts[ret->n_accounts++] = row;
        }
    return 0;
}

/* A user's ids are its own and root's; whoever else may see the daemon's state sees that there are
 * requests, and whose. */
static void fill_row(const Call *viewer, const Call *call, uint64_t now, Grokd__V1__TopRow *ret) {
    static const Grokd__V1__RequestState states[] = {
        [CALL_OPENING] = GROKD__V1__REQUEST_STATE__REQUEST_STATE_OPENING,
        [CALL_QUEUED] = GROKD__V1__REQUEST_STATE__REQUEST_STATE_QUEUED,
        [CALL_RUNNING] = GROKD__V1__REQUEST_STATE__REQUEST_STATE_RUNNING,
        [CALL_FLUSHING] = GROKD__V1__REQUEST_STATE__REQUEST_STATE_FLUSHING,
    };
    static const Grokd__V1__Priority priorities[] = {
        [SCHED_CLASS_INTERACTIVE] = GROKD__V1__PRIORITY__PRIORITY_INTERACTIVE,
        [SCHED_CLASS_NORMAL] = GROKD__V1__PRIORITY__PRIORITY_NORMAL,
        [SCHED_CLASS_BATCH] = GROKD__V1__PRIORITY__PRIORITY_BATCH,
    };
    uid_t uid = call->conn->uid;

    grokd__v1__top_row__init(ret);
    ret->uid = (uint32_t)uid;
    ret->actor = call->account->actor;
    ret->method = view(call->method->name);
    if (viewer->conn->uid == 0 || viewer->conn->uid == uid)
        ret->request_id = view(call->request_id);
    if (call->model)
        ret->model = call->model->name;
    ret->state = states[call->state];
    ret->prompt_tokens = (uint32_t)call->n_prompt;
    ret->prompt_done = (uint32_t)call->n_prompt_done;
    ret->generated_tokens = (uint32_t)call->n_generated;
    if (call->job) {
        ret->priority = priorities[call->job->class];
        ret->max_tokens = call->job->params.n_tokens_max;
    }
    ret->age_us = now - call->begun_us;
}

static int compare_age(const void *a, const void *b) {
    const Grokd__V1__TopRow *const *x = a, *const *y = b;

    return ((*x)->age_us < (*y)->age_us) - ((*x)->age_us > (*y)->age_us);
}

static int fill_rows(const Call *viewer, uint64_t now, MsgArena *arena, Grokd__V1__TopEvent *ret) {
    const Daemon *d = viewer->daemon;
    Grokd__V1__TopRow *each = msg_arena_alloc(arena, d->n_calls * sizeof(*each));

    ret->requests = msg_arena_alloc(arena, d->n_calls * sizeof(*ret->requests));
    if (!each || !ret->requests)
        return -ENOMEM;
    for (size_t i = 0; i < DAEMON_CALL_BUCKETS; i++)
        list_for_each (node, &d->calls[i]) {
            const Call *call = container_of(node, Call, id_node);
            Grokd__V1__TopRow *row = &each[ret->n_requests];

            if (!call->method->is_inference)
                continue;
            fill_row(viewer, call, now, row);
            ret->requests[ret->n_requests++] = row;
        }
    qsort(ret->requests, ret->n_requests, sizeof(*ret->requests), compare_age);
    return 0;
}

static int send_top(Call *call) {
    Grokd__V1__TopEvent event = GROKD__V1__TOP_EVENT__INIT;
    Daemon *d = call->daemon;
    uint64_t now = daemon_now_us(d);
    MsgArena arena;
    int r;

    quota_sweep(&d->quota, now);
    msg_arena_init(&arena, SIZE_MAX); /* as much as there is to tell, which is bounded */
    event.uptime_us = now - d->begun_us;
    event.draining = d->is_draining;
    event.connections = (uint32_t)d->n_connections;
    event.requests_running = (uint32_t)d->n_running;
    event.requests_queued = (uint32_t)d->n_queued;
    event.steps_total = atomic_load(&d->worker.n_steps);
    event.steps_us_total = atomic_load(&d->worker.steps_us);
    event.resident_bytes = resident_bytes();
    count_pages(d, &event.kv_pages_used, &event.kv_pages_total);
    r = models_fill_summaries(&d->models, &arena, &event.models, &event.n_models);
    if (r == 0)
        r = fill_accounts(d, now, &arena, &event);
    if (r == 0)
        r = fill_rows(call, now, &arena, &event);
    if (r == 0)
        r = call_send(call, &event.base);
    msg_arena_deinit(&arena);
    return r;
}

bool top_has_output(const Call *call) {
    return call->is_due;
}

/* Who does not read misses some: the next one is made when there is room for it. */
void top_flush(Call *call) {
    int r = send_top(call);

    if (r == -ENOBUFS)
        return;
    call->is_due = false;
    if (r < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s",
                  r == -EMSGSIZE ? "there is more to tell than the wire can carry"
                                 : "out of memory");
    else if (call->interval_us == 0)
        call_complete(call);
}

void top_on_tick(Call *call, uint64_t now) {
    call->is_due = true;
    call->tick_us = now + call->interval_us;
    call_mark_dirty(call);
}

void admin_top(Call *call, void *request) {
    const Grokd__V1__TopRequest *q = request;
    uint64_t now = daemon_now_us(call->daemon);

    if (q->interval_ms > 0 &&
        (q->interval_ms < TOP_INTERVAL_MS_MIN || q->interval_ms > TOP_INTERVAL_MS_MAX)) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "interval_ms must be 0 or from %d to %d",
                  TOP_INTERVAL_MS_MIN, TOP_INTERVAL_MS_MAX);
        return;
    }
    call->interval_us = (uint64_t)q->interval_ms * 1000;
    call->is_due = true;
    if (call->interval_us > 0) {
        call->tick_us = now + call->interval_us;
        daemon_wake_at(call->daemon, call->tick_us);
    }
    call_mark_dirty(call);
}
