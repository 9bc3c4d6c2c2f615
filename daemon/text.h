/*
 * Tokenizing, detokenizing, rendering conversations and compiling constraints in libuv's threads: a
 * long text must not hold the loop up, nor one user's texts those of others.
 */
#pragma once

#include "daemon/call.h"
#include "daemon/constraints.h"
#include "daemon/models.h"

enum text_kind { TEXT_TO_TOKENS, TOKENS_TO_TEXT, TEXT_CONVERSATION };

/* What is to be done. Owner: Daemon. Thread: loop. */
typedef struct TextQueue {
    ListNode users; /* those with work that waits or is being done */
    size_t n_running;
    uint64_t served_us; /* what the user whose turn it was last had had of it */
} TextQueue;

struct text_user;

/* Owner: its call while it waits, then the background until on_done. */
typedef struct TextWork {
    uv_work_t work;
    ListNode node; /* while it waits: its user's, with the next two */
    Call *call;
    struct text_user *user; /* from then on until it is done */
    struct Daemon *daemon;
    Model *model; /* in use */
    uint64_t id;  /* the call's */
    uint64_t begun_us;
    Job *job; /* what the tokens are for, or NULL; freed with the work unless taken */
    struct constraint_source source; /* text NULL: none to compile */
    bool is_hashed;                  /* and looked for; else that is done first */
    GkConstraint *constraint;        /* result */
    enum text_kind kind;
    unsigned flags; /* enum gk_tokenize_flags */
    bool control;   /* of detokenizing */
    bool pieces;    /* the caller's */
    size_t n_tokens_max;
    /* One is given, the other is the result; or neither. */
    char *text;
    size_t n_text;
    int32_t *tokens;
    size_t n_tokens;
    /* of a conversation, which gives text and tokens: one block of memory, and the result */
    struct gk_message *messages;
    size_t n_messages;
    const char *template;
    int32_t end_token;
    const char *end_text;
    int result; /* as gk_tokenize()'s, gk_constraint_new()'s */
    Error error;
    void (*on_done)(Call *call, struct TextWork *w); /* only where the call is still there */
} TextWork;

void text_queue_init(TextQueue *q);
/* All calls have ended, and the background with them. */
void text_queue_deinit(TextQueue *q);

/* NULL: out of memory, the call has been failed. */
TextWork *text_work_new(Call *call, void (*on_done)(Call *call, TextWork *w));
TextWork *text_work_free(TextWork *w);
/* Copies the input. Returns false where the call has been failed; the work is freed then. */
bool text_work_set_text(Call *call, TextWork *w, const char *text);
bool text_work_set_constraint(Call *call, TextWork *w, enum gk_constraint_kind kind,
                              const char *source);
bool text_work_set_tokens(Call *call, TextWork *w, const int32_t *tokens, size_t n);
/* It is done when its turn comes. The call may be over when this returns. */
void text_work_start(Call *call, TextWork *w);
/* At once where it is short. The call may be over when this returns. */
void text_work_do(Call *call, TextWork *w);
/* The call is ending: what waits for it is not done. */
void text_drop(Call *call);
