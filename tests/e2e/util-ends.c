/* See util-ends.h. */
#include "tests/e2e/util-ends.h"

#include <stdlib.h>
#include <unistd.h>

#define DEADLINE_MS 60
/* How often the other user asks where it makes the request step aside, and how much later the time
 * of that is up: before a fast machine has computed 3900 tokens. */
#define OTHERS_PER_S 2
#define ASIDE_US     15000
/* Steps without a token for it, while others have theirs. */
#define QUIET_STEPS 10

const char *ends_stage_name(enum ends_stage stage) {
    static const char *const names[] = {
#define X(name, word) word,
        ENDS_STAGE_MAP(X)
#undef X
    };
    return names[stage];
}

const char *ends_way_name(enum ends_way way) {
    static const char *const names[] = {
#define X(name, word) word,
        ENDS_WAY_MAP(X)
#undef X
    };
    return names[way];
}

bool ends_other_user(enum ends_stage stage, struct load *ret) {
    *ret = (struct load){.n_streams = 1, .n_tokens = 3000, .n_tokens_least = 3000};
    if (stage == ENDS_SUSPENDED) {
        ret->n_tokens = ret->n_tokens_least = 100;
        ret->requests_per_s = OTHERS_PER_S;
    }
    return stage == ENDS_QUEUED || stage == ENDS_SUSPENDED;
}

/* ---- one request ---- */

/* Who has work in the worker: an account gives back what a request was charged when the worker has
 * let go of its sequence. */
struct look {
    bool own, others;
    uint64_t n_steps;
};

static struct look look(grokd_client *admin) {
    const struct grokd_event *event;
    struct look look = {0};
    CALL *call = NULL;

    assert(grokd_begin_top(admin, 0, &call, NULL) == GROKD_OK);
    assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT && event->top);
    for (size_t i = 0; i < event->top->n_accounts; i++) {
        const struct grokd_top_account *account = event->top->accounts[i];

        look.own |= account->uid == geteuid() && account->kv_pages > 0;
        look.others |= account->uid != geteuid() && account->kv_pages > 0;
    }
    look.n_steps = event->top->steps_total;
    return look;
}

/* Returns false where it has ended. */
static bool await_chunk(grokd_call *call) {
    const struct grokd_event *event;

    do {
        if (grokd_call_next(call, -1, &event, NULL) != GROKD_NEXT_EVENT)
            return false;
    } while (!event->chunk);
    return true;
}

/* Returns when steps are taken, and none for this call. */
static bool await_suspension(grokd_client *admin, grokd_call *call) {
    const struct grokd_event *event;
    uint64_t n_steps, n_quiet = 0, before;

    if (!await_chunk(call))
        return false;
    n_steps = look(admin).n_steps;
    while (n_quiet < QUIET_STEPS) {
        before = n_steps;
        n_steps = look(admin).n_steps;
        n_quiet += n_steps - before;
        while (grokd_call_next(call, 0, &event, NULL) == GROKD_NEXT_EVENT)
            n_quiet = event->chunk ? 0 : n_quiet;
    }
    return true;
}

static bool await_stage(enum ends_stage stage, grokd_client *admin, grokd_call *call) {
    const struct grokd_event *event;

    switch (stage) {
    case ENDS_QUEUED:
        return grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT;
    case ENDS_PREFILL:
        return grokd_call_next(call, 5, &event, NULL) != GROKD_NEXT_FAILED;
    case ENDS_SUSPENDED:
        return await_suspension(admin, call);
    default:
        return await_chunk(call);
    }
}

/* Returns the time left until the other user's next request but one will be under way. */
static uint32_t ms_until_aside(grokd_client *admin) {
    int64_t begun;

    while (look(admin).others)
        ;
    while (!look(admin).others)
        ;
    begun = load_now_us();
    while (look(admin).others)
        ;
    return (uint32_t)(MAX(begun + 1000000 / OTHERS_PER_S + ASIDE_US - load_now_us(), ASIDE_US) /
                      1000);
}

static struct grokd_generate_request request_for(enum ends_stage stage, enum ends_way way,
                                                 unsigned i, grokd_client *admin) {
    struct grokd_generate_request request = stage == ENDS_PREFILL
                                                ? load_prompt(4000, 100 * (unsigned)way + i)
                                                : load_request(3900, GROKD_PRIORITY_BATCH);

    if (way == ENDS_DEADLINE)
        request.timeout_ms = stage == ENDS_SUSPENDED ? ms_until_aside(admin) : DEADLINE_MS;
    return request;
}

/* Until nothing of it is left. */
static struct ends_seen await_end(grokd_client *admin, int64_t since_us, uint64_t since_step) {
    struct look now;
    int64_t us;

    do {
        now = look(admin);
        us = load_now_us() - since_us;
    } while (now.own);
    return (struct ends_seen){(uint64_t)MAX(us, (int64_t)0), now.n_steps - since_step};
}

struct ends_seen ends_try(const TestDaemon *d, enum ends_stage stage, enum ends_way way,
                          unsigned i) {
    CLIENT *admin = test_connect(d);
    CLIENT *client = test_connect(d);
    struct grokd_generate_request request = request_for(stage, way, i, admin);
    int64_t due = load_now_us() + (int64_t)request.timeout_ms * 1000;
    CALL *call = test_begin(client, &request);
    struct ends_seen seen;
    uint64_t step;

    assert(await_stage(stage, admin, call) || way == ENDS_DEADLINE);
    while (way == ENDS_DEADLINE && load_now_us() < due - 200)
        (void)usleep(100);
    step = look(admin).n_steps;
    if (way != ENDS_DEADLINE)
        due = load_now_us();
    if (way == ENDS_CANCEL)
        grokd_call_cancel(call);
    else if (way == ENDS_DISCONNECT)
        client = grokd_client_free(client);
    seen = await_end(admin, due, step);
    if (way != ENDS_DISCONNECT)
        assert(test_finish(call, NULL, NULL) ==
               (way == ENDS_CANCEL ? GROKD_CANCELLED : GROKD_DEADLINE_EXCEEDED));
    call = grokd_call_free(call);
    return seen;
}
