/* One RPC, from its request to its one ending. */
#pragma once

#include "base/list.h"
#include "daemon/output.h"
#include "daemon/quota.h"
#include "proto/codec.h"

struct Conn;
struct Daemon;
struct Model;
struct TextWork;
struct method;
struct Embed;

#define CALL_ID_MAX    128 /* bytes of a request_id */
#define CALL_ACTOR_MAX 64  /* bytes of an actor's name */

#define CALL_STATE_MAP(X)                                                                          \
    X(OPENING)  /* its request is looked at, its prompt tokenized */                               \
    X(QUEUED)   /* the worker has it, without a sequence */                                        \
    X(RUNNING)  /* it has a sequence */                                                            \
    X(FLUSHING) /* computed; its last output waits for the connection */                           \
    X(DONE)

enum call_state {
#define X(name) CALL_##name,
    CALL_STATE_MAP(X)
#undef X
};

/* What Score gathers. */
struct call_scores {
    struct gk_logprob *entries; /* (n_tokens, 1 + n_top): each token's own, then alternatives */
    size_t n_tokens;
    uint32_t n_top;
};

/* Owner: Conn. Thread: loop. */
typedef struct Call {
    ListNode conn_node, id_node, dirty_node;
    ListNode model_node; /* among those who wait for its model's state */
    struct Daemon *daemon;
    struct Conn *conn;
    uint64_t id, stream;
    const struct method *method;
    enum call_state state;
    Account *account; /* its user's own until the request names an actor */
    size_t n_charged_bytes;
    struct Model *model; /* in use by this call, or waited for; NULL: none */
    uint8_t *request;    /* kept while it waits for its model; NULL: it does not */
    size_t n_request;
    const uint8_t *view; /* the request's bytes while its method runs */
    size_t n_view;
    struct TextWork *text; /* waits for its turn in the background; NULL: none does */
    Job *job;              /* the worker has it; NULL: not yet, or no more */
    char request_id[CALL_ID_MAX + 1];
    uint64_t begun_us, queued_us, started_us, decoding_us, ended_us, deadline_us;
    uint64_t told_us; /* when it heard how far its model is */
    size_t n_prompt, n_prompt_done, n_cached, n_generated;
    uint32_t n_drafted, n_accepted;
    uint64_t seed;
    uint64_t tick_us, interval_us; /* of methods that act now and then; 0: never */
    bool is_due;                   /* such a method has something to say */
    /* Generate */
    Output output;
    uint64_t n_events;
    enum gk_finish finish;
    char stop[GK_STOP_STRING_BYTES_MAX + 1];
    char *echo;
    struct call_scores scores;
    struct Embed *embed; /* what Embed gathers; NULL: another method */
} Call;

/* Takes a request; the call may be over when this returns. */
void call_begin(struct Conn *c, const struct codec_request *request);
Call *call_find(const struct Daemon *d, uint64_t id);

/* Each of these ends the call, which is gone afterwards. */
void call_fail(Call *call, enum status_code code, const char *format, ...) PRINTF_FORMAT(3, 4);
/* For now: with a hint when to try again. */
void call_refuse(Call *call, const char *format, ...) PRINTF_FORMAT(2, 3);
void call_reply(Call *call, const ProtobufCMessage *answer); /* unary */
void call_complete(Call *call);                              /* a stream */
void call_abandon(Call *call);                               /* nobody hears the answer */

void call_set_state(Call *call, enum call_state to);
/* One message of a stream. Returns as codec_ops.send_message(). */
int call_send(Call *call, const ProtobufCMessage *message);
/* Has something to say as soon as its connection can take it. */
void call_mark_dirty(Call *call);
/* Milliseconds that the message asks for, 0: none. Returns false where the call is over. */
bool call_set_timeout(Call *call, uint32_t ms);
/* From now on it uses the model, which is not closed then. */
void call_use_model(Call *call, struct Model *model);
void call_leave_model(Call *call);
/* Waits for the model to be loaded: then the method runs again, from the start. May fail the call.
 */
void call_await_model(Call *call, struct Model *model);
/* Says how far it is, where there is something new to say: so many wait before this one. */
void call_tell_wait(Call *call, uint32_t n_ahead);
/* What it waited for is there. The call may be over when this returns. */
void call_run_again(Call *call);
/* Looks for a place among those that run or wait for its model. Returns false where the call is
 * over: refused, with a hint when to try again. */
bool call_find_place(Call *call);
/* From now on the actor's account is charged; "": the user's own. Before anything is charged but
 * the call itself. Returns false where the call is over. */
bool call_set_actor(Call *call, const char *actor);
/* Charges what it keeps in memory. Returns false where the call is over. */
bool call_charge(Call *call, size_t n_bytes);
/* Charges the tokens and KV pages that the job may come to need. Returns false where the call is
 * over. */
bool call_charge_job(Call *call, Job *job);
/* Gives them back. */
void call_release_job(Job *job);
/* Notes what the worker has computed for the call. */
void call_count(Call *call, const Letter *letter);
/* So much of the prompt needs no computing. */
void call_count_cached(Call *call, size_t n);
/* Notes how far the prompt is: a sequence that was suspended begins again, its prompt does not.
 * Returns false where that is nothing new. */
bool call_advance(Call *call, size_t n_prompt_done);
