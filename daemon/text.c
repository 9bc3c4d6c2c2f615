/*
 * See text.h.
 *
 * A short text takes less time than two changes of threads for it, which at a flood of requests
 * take the CPUs from the computing: it is done at once. But a template or a constraint may take
 * tenths of a second, and libuv's queue serves who comes first: it is given no more than can run.
 * The others wait here, by user, where they go when their calls do. The user with least work being
 * done goes first, and of equal ones the one that has had least of the threads' time; a user that
 * comes anew begins where the others are.
 */
#include "daemon/text.h"

#include "base/alloc.h"
#include "daemon/chat.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"

#include <string.h>

/* Of libuv's four threads: one is left for models. And one is left by each user for others. */
#define RUNNING_MAX      3u
#define USER_RUNNING_MAX 2u
/* Done at once: about 50 µs. */
#define SHORT_BYTES 512
/* Of a constraint's source: hashed at once, in as much time. A longer one is looked for when the
 * background has hashed it. */
#define SHORT_SOURCE_BYTES (32u << 10)

/* Owner: TextQueue. Thread: loop. Lives while it has work there. */
struct text_user {
    ListNode node;
    uid_t uid;
    ListNode waiting;
    size_t n_running;
    uint64_t served_us;
};

TextWork *text_work_free(TextWork *w) {
    if (!w)
        return NULL;
    model_release(w->model);
    (void)job_free(w->job);
    (void)gk_constraint_unref(w->constraint);
    free(w->source.text);
    free(w->text);
    free(w->messages);
    free(w->tokens);
    free(w);
    return NULL;
}

TextWork *text_work_new(Call *call, void (*on_done)(Call *call, TextWork *w)) {
    TextWork *w = alloc_new(TextWork);

    if (!w) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return NULL;
    }
    model_use(call->model);
    w->daemon = call->daemon;
    w->model = call->model;
    w->id = call->id;
    w->on_done = on_done;
    w->work.data = w;
    list_init(&w->node);
    return w;
}

static bool fail_memory(Call *call, TextWork *w) {
    (void)text_work_free(w);
    call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    return false;
}

bool text_work_set_text(Call *call, TextWork *w, const char *text) {
    w->kind = TEXT_TO_TOKENS;
    w->n_text = strlen(text);
    w->text = alloc_string_n(text, w->n_text);
    return w->text || fail_memory(call, w);
}

bool text_work_set_tokens(Call *call, TextWork *w, const int32_t *tokens, size_t n) {
    w->kind = TOKENS_TO_TEXT;
    w->n_tokens = n;
    w->tokens = alloc_array(n + 1, sizeof(*tokens));
    if (!w->tokens)
        return fail_memory(call, w);
    if (n > 0)
        (void)memcpy(w->tokens, tokens, n * sizeof(*tokens));
    return true;
}

/* By the hash of its source, which is there now. */
static void find_constraint(TextWork *w) {
    w->is_hashed = true;
    w->constraint = constraints_find(&w->daemon->constraints, &w->source);
    if (w->constraint)
        free(take_ptr(w->source.text));
}

bool text_work_set_constraint(Call *call, TextWork *w, enum gk_constraint_kind kind,
                              const char *source) {
    w->source = (struct constraint_source){.kind = kind, .n = strlen(source)};
    w->source.text = alloc_string_n(source, w->source.n);
    if (!w->source.text)
        return fail_memory(call, w);
    if (w->source.n <= SHORT_SOURCE_BYTES) {
        w->source.hash = constraint_hash(w->source.text, w->source.n);
        find_constraint(w);
    }
    return true;
}

static void run(TextWork *w) {
    const GkEngine *engine = w->model->engine; /* stays, as it is in use */

    if (w->source.text && !w->is_hashed) {
        w->source.hash = constraint_hash(w->source.text, w->source.n);
        return;
    }
    if (w->source.text)
        w->result = gk_constraint_new(&w->constraint, w->source.kind, w->source.text, w->source.n,
                                      &w->error);
    if (w->result != 0)
        return;
    if (w->kind == TEXT_CONVERSATION)
        chat_run(w);
    else if (w->kind == TEXT_TO_TOKENS && w->text)
        w->result = gk_tokenize(engine, w->text, w->n_text, w->flags, w->n_tokens_max, &w->tokens,
                                &w->n_tokens, &w->error);
    else if (w->tokens)
        w->result = gk_detokenize(engine, w->tokens, w->n_tokens, w->control, &w->text, &w->n_text,
                                  &w->error);
}

static void run_in_background(uv_work_t *work) {
    run(work->data);
}

/* ---- turns ---- */

void text_queue_init(TextQueue *q) {
    *q = (TextQueue){.n_running = 0};
    list_init(&q->users);
}

void text_queue_deinit(TextQueue *q) {
    assert(list_is_empty(&q->users) && q->n_running == 0);
}

/* NULL: out of memory. */
static struct text_user *get_user(TextQueue *q, uid_t uid) {
    struct text_user *user;

    list_for_each (node, &q->users)
        if (container_of(node, struct text_user, node)->uid == uid)
            return container_of(node, struct text_user, node);
    user = alloc_new(struct text_user);
    if (!user)
        return NULL;
    user->uid = uid;
    user->served_us = q->served_us;
    list_init(&user->waiting);
    list_push_back(&q->users, &user->node);
    return user;
}

static void free_user_if_unused(struct text_user *user) {
    if (user->n_running > 0 || !list_is_empty(&user->waiting))
        return;
    list_unlink(&user->node);
    free(user);
}

static bool goes_before(const struct text_user *a, const struct text_user *b) {
    return a->n_running != b->n_running ? a->n_running < b->n_running : a->served_us < b->served_us;
}

/* Whose turn it is; NULL: nobody's. */
static struct text_user *find_turn(const TextQueue *q) {
    struct text_user *turn = NULL;

    list_for_each (node, &q->users) {
        struct text_user *user = container_of(node, struct text_user, node);

        if (!list_is_empty(&user->waiting) && user->n_running < USER_RUNNING_MAX &&
            (!turn || goes_before(user, turn)))
            turn = user;
    }
    return turn;
}

static void on_finished(uv_work_t *work, int status);

static void start_next(Daemon *d) {
    TextQueue *q = &d->texts;
    struct text_user *user;

    while (q->n_running < RUNNING_MAX && (user = find_turn(q))) {
        TextWork *w = list_first(&user->waiting, TextWork, node);

        list_unlink(&w->node);
        w->call->text = NULL;
        w->call = NULL;
        w->begun_us = daemon_now_us(d);
        q->served_us = MAX(q->served_us, user->served_us);
        q->n_running++;
        user->n_running++;
        (void)uv_queue_work(&d->loop, &w->work, run_in_background, on_finished);
    }
}

static void note_done(TextQueue *q, const TextWork *w) {
    w->user->served_us += daemon_now_us(w->daemon) - w->begun_us;
    w->user->n_running--;
    q->n_running--;
    free_user_if_unused(w->user);
}

static void on_finished(uv_work_t *work, int status) {
    TextWork *w = work->data;
    Daemon *d = w->daemon;
    Call *call = call_find(d, w->id);

    (void)status;
    note_done(&d->texts, w);
    start_next(d);
    if (call && w->source.text && !w->is_hashed) {
        find_constraint(w);
        text_work_do(call, w);
        return;
    }
    if (w->source.text && w->constraint)
        w->constraint = constraints_add(&d->constraints, &w->source, w->constraint);
    if (call)
        w->on_done(call, w);
    (void)text_work_free(w);
}

void text_work_start(Call *call, TextWork *w) {
    w->user = get_user(&call->daemon->texts, call->conn->uid);
    if (!w->user) {
        (void)fail_memory(call, w);
        return;
    }
    assert(!call->text);
    call->text = w;
    w->call = call;
    list_push_back(&w->user->waiting, &w->node);
    start_next(call->daemon);
}

static bool is_short(const TextWork *w) {
    return !w->source.text && w->kind != TEXT_CONVERSATION &&
           w->n_text + w->n_tokens * sizeof(*w->tokens) <= SHORT_BYTES;
}

void text_work_do(Call *call, TextWork *w) {
    if (!is_short(w)) {
        text_work_start(call, w);
        return;
    }
    run(w);
    w->on_done(call, w);
    (void)text_work_free(w);
}

void text_drop(Call *call) {
    TextWork *w = take_ptr(call->text);

    if (!w)
        return;
    list_unlink(&w->node);
    free_user_if_unused(w->user);
    (void)text_work_free(w);
}
