/* See text.h. */
#include "daemon/text.h"

#include "base/alloc.h"
#include "daemon/chat.h"
#include "daemon/daemon.h"

#include <string.h>

TextWork *text_work_free(TextWork *w) {
    if (!w)
        return NULL;
    model_release(w->model);
    (void)job_free(w->job);
    (void)gk_constraint_unref(w->constraint);
    free(w->constraint_source);
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

bool text_work_set_constraint(Call *call, TextWork *w, enum gk_constraint_kind kind,
                              const char *source) {
    w->constraint_kind = kind;
    w->constraint = constraints_find(&w->daemon->constraints, kind, source, strlen(source));
    if (!w->constraint)
        w->constraint_source = alloc_string(source);
    return w->constraint || w->constraint_source || fail_memory(call, w);
}

static void run_in_background(uv_work_t *work) {
    TextWork *w = work->data;
    const GkEngine *engine = w->model->engine; /* stays, as it is in use */

    if (w->constraint_source)
        w->result = gk_constraint_new(&w->constraint, w->constraint_kind, w->constraint_source,
                                      strlen(w->constraint_source), &w->error);
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

static void on_finished(uv_work_t *work, int status) {
    TextWork *w = work->data;
    Call *call = call_find(w->daemon, w->id);

    (void)status;
    if (w->constraint_source && w->constraint)
        w->constraint =
            constraints_add(&w->daemon->constraints, w->constraint_kind, w->constraint_source,
                            strlen(w->constraint_source), w->constraint);
    if (call)
        w->on_done(call, w);
    (void)text_work_free(w);
}

void text_work_start(TextWork *w) {
    (void)uv_queue_work(&w->daemon->loop, &w->work, run_in_background, on_finished);
}
