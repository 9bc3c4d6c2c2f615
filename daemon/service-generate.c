/* What comes back from the worker: a Generate's events, a Score's answer. */
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/service.h"

#include <math.h>
#include <string.h>

/* Beside the text: what a chunk's messages take in memory. */
#define CHUNK_BUDGET(o)                                                                            \
    (MSG_BUDGET_BASE + buf_size(&(o)->text) +                                                      \
     16 * buf_size(&(o)->logprobs) / sizeof(struct gk_logprob) * sizeof(Grokd__V1__Logprob))

void fill_usage(const Call *call, Grokd__V1__Usage *u) {
    grokd__v1__usage__init(u);
    u->prompt_tokens = (uint32_t)call->n_prompt;
    u->generated_tokens = (uint32_t)call->n_generated;
    /* The worker's clock is read when it starts, the loop's once a round. */
    u->queued_us = call->started_us - MIN(call->queued_us, call->started_us);
    u->prefill_us = (call->decoding_us ? call->decoding_us : call->ended_us) - call->started_us;
    u->decode_us = call->decoding_us ? call->ended_us - call->decoding_us : 0;
    u->cached_tokens = (uint32_t)call->n_cached;
    u->seed = call->seed;
    u->drafted_tokens = call->n_drafted;
    u->accepted_tokens = call->n_accepted;
}

/* Returns 0, or < 0: not sent; -ENOBUFS: later, anything else: the call is over. */
static int send_event(Call *call, Grokd__V1__GenerateEvent *event) {
    int r;

    event->seq = call->n_events;
    if (call->n_events == 0) {
        event->request_id = call->request_id;
        event->model = call->model->name;
    }
    r = call_send(call, &event->base);
    if (r == 0)
        call->n_events++;
    else if (r != -ENOBUFS)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s",
                  r == -EMSGSIZE ? "a piece of the output is longer than the wire can carry"
                                 : "out of memory");
    return r;
}

static int send_position(Call *call) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Queued queued = GROKD__V1__QUEUED__INIT;
    int r;

    queued.position = call->output.position;
    queued.estimated_wait_us = call->output.wait_us;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_QUEUED;
    event.queued = &queued;
    r = send_event(call, &event);
    if (r == 0)
        call->output.has_position = false;
    return r;
}

static int send_prefill(Call *call) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__PrefillProgress prefill = GROKD__V1__PREFILL_PROGRESS__INIT;
    int r;

    prefill.done_tokens = call->output.n_prefill_done;
    prefill.total_tokens = (uint32_t)call->n_prompt;
    prefill.cached_tokens = (uint32_t)call->n_cached;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_PREFILL;
    event.prefill = &prefill;
    r = send_event(call, &event);
    if (r == 0)
        call->output.has_prefill = false;
    return r;
}

static int send_chunk(Call *call) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Chunk chunk = GROKD__V1__CHUNK__INIT;
    MsgArena arena;
    int r;

    msg_arena_init(&arena, CHUNK_BUDGET(&call->output));
    r = output_fill_chunk(&call->output, call->model->engine, &arena, &chunk);
    if (r < 0) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    } else {
        event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_CHUNK;
        event.chunk = &chunk;
        r = send_event(call, &event);
        if (r == 0)
            output_clear_chunk(&call->output);
    }
    msg_arena_deinit(&arena);
    return r;
}

static int send_final(Call *call) {
    Grokd__V1__GenerateEvent event = GROKD__V1__GENERATE_EVENT__INIT;
    Grokd__V1__Final final = GROKD__V1__FINAL__INIT;
    Grokd__V1__Usage usage;

    fill_usage(call, &usage);
    final.finish_reason = call->finish == GK_FINISH_LENGTH
                              ? GROKD__V1__FINISH_REASON__FINISH_REASON_LENGTH
                              : GROKD__V1__FINISH_REASON__FINISH_REASON_STOP;
    final.usage = &usage;
    final.total_events = call->n_events + 1;
    final.stop = call->stop;
    event.event_case = GROKD__V1__GENERATE_EVENT__EVENT_FINAL;
    event.final = &final;
    return send_event(call, &event);
}

bool generate_has_output(const Call *call) {
    return call->output.has_position || call->output.has_prefill ||
           output_has_chunk(&call->output) || call->state == CALL_FLUSHING;
}

void generate_flush(Call *call) {
    const Output *o = &call->output;

    if ((o->has_position && send_position(call) < 0) ||
        (o->has_prefill && send_prefill(call) < 0) || (output_has_chunk(o) && send_chunk(call) < 0))
        return;
    if (call->state == CALL_FLUSHING && send_final(call) == 0)
        call_complete(call);
}

/* ---- letters ---- */

static int add_echo(Call *call) {
    size_t n = strlen(call->echo);
    int r;

    msg_make_utf8(call->echo);
    call->output.text.max += n; /* not the output's fault */
    r = output_add_text(&call->output, call->echo, n);
    free(call->echo);
    call->echo = NULL;
    return r;
}

static void add_token(Call *call, const Letter *letter) {
    int r = 0;

    if (call->n_generated == 0) {
        call->decoding_us = letter->time_us;
        call->n_prompt_done = call->n_prompt;
        call->output.has_prefill = false;
        if (call->echo)
            r = add_echo(call);
    }
    call->n_generated++;
    if (r == 0)
        r = output_add_token(&call->output, letter);
    if (r == -ENOBUFS)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED,
                  "the client does not read its output: %zu bytes are waiting (max_unread_bytes)",
                  call->output.text.max);
    else if (r < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    else
        call_mark_dirty(call);
}

/* Tokens of one step come together. Each has a chunk of its own, as it would have had its own step,
 * where the client keeps up. Returns false where the call is over. */
static bool send_token_before(Call *call, const Letter *letter) {
    Daemon *d = call->daemon;

    if (letter->is_more && output_has_chunk(&call->output))
        generate_flush(call);
    return call_find(d, letter->id) != NULL;
}

void generate_on_letter(Call *call, const Letter *letter) {
    if (letter->type == LETTER_TOKEN) {
        if (send_token_before(call, letter))
            add_token(call, letter);
        return;
    }
    if (!call_advance(call, letter->n_prompt_done))
        return;
    call->output.has_prefill = true;
    call->output.n_prefill_done = (uint32_t)letter->n_prompt_done;
    call_mark_dirty(call);
}

void generate_on_ended(Call *call, const Job *job) {
    call->finish = job->finish;
    (void)memcpy(call->stop, job->stop, sizeof(call->stop));
    call_set_state(call, CALL_FLUSHING);
    call_mark_dirty(call);
}

/* ---- Score ---- */

void score_on_letter(Call *call, const Letter *letter) {
    struct call_scores *s = &call->scores;

    (void)call_advance(call, letter->n_prompt_done);
    for (size_t i = 0; i < letter->n_scores; i++) {
        struct gk_logprob *entry = &s->entries[(letter->score_begin + i) * (s->n_top + 1)];

        assert(letter->score_begin + i < s->n_tokens && letter->n_top <= s->n_top);
        entry->logprob = letter->scores[i];
        if (letter->n_top > 0)
            (void)memcpy(entry + 1, &letter->top[i * letter->n_top],
                         letter->n_top * sizeof(*entry));
    }
}

static int fill_score(const Call *call, MsgArena *arena, Grokd__V1__ScoreResponse *a) {
    const struct call_scores *s = &call->scores;

    a->tokens = msg_arena_alloc(arena, (s->n_tokens + 1) * sizeof(Grokd__V1__TokenLogprobs *));
    if (!a->tokens)
        return -ENOMEM;
    for (; a->n_tokens < s->n_tokens; a->n_tokens++) {
        const struct gk_logprob *entry = &s->entries[a->n_tokens * (s->n_top + 1)];
        int r = output_fill_logprobs(call->model->engine, entry, s->n_top, arena,
                                     &a->tokens[a->n_tokens]);

        if (r < 0)
            return r;
        if (a->n_tokens > 0)
            a->sum_logprob += (double)entry->logprob;
    }
    if (s->n_tokens > 1)
        a->perplexity = exp(-a->sum_logprob / (double)(s->n_tokens - 1));
    return 0;
}

void score_on_ended(Call *call, const Job *job) {
    Grokd__V1__ScoreResponse answer = GROKD__V1__SCORE_RESPONSE__INIT;
    const struct call_scores *s = &call->scores;
    Grokd__V1__Usage usage;
    MsgArena arena;

    (void)job;
    fill_usage(call, &usage);
    answer.usage = &usage;
    msg_arena_init(&arena, MSG_BUDGET_BASE + s->n_tokens * (sizeof(Grokd__V1__TokenLogprobs) + 64 +
                                                            (s->n_top + 2) * 128));
    call_set_state(call, CALL_FLUSHING);
    if (fill_score(call, &arena, &answer) < 0)
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
    else
        call_reply(call, &answer.base);
    msg_arena_deinit(&arena);
}
