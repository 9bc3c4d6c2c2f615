/*
 * Inside libgrokd. Owner: the program's grokd_client ⊃ its calls; a call outlives a client that was
 * freed before it, ended and with client NULL.
 */
#pragma once

#include "base/list.h"
#include "base/macro.h"
#include "client/grokd.h"
#include "proto/msg.h"
#include "proto/ttrpc.h"

#include <stdbool.h>

/* Requests not yet sent, of all calls. */
#define CLIENT_OUTPUT_BYTES_MAX (16u << 20)
/* Answers that came and were not taken, of one call: it fails when there are more. */
#define CALL_QUEUE_BYTES_MAX (8u << 20)

/* An answer decoded, and the public structs that view it, all in one arena. */
struct answer {
    MsgArena arena;
    struct grokd_event event;
};

/* A row for each method: see rpc.c. */
struct rpc {
    const char *service, *method;
    bool is_stream;
    bool is_generate;    /* its events are numbered and the last one counts them */
    bool is_cancellable; /* by its request_id */
    const ProtobufCMessageDescriptor *answer;
    /* Fills the event from the unpacked message; -ENOMEM. */
    int (*convert)(struct answer *answer, const void *m);
};

struct message {
    ListNode node;
    size_t n;
    uint8_t bytes[];
};

struct grokd_call {
    ListNode node;
    grokd_client *client; /* NULL: freed before the call */
    const struct rpc *rpc;
    uint32_t stream;
    uint64_t deadline_ms; /* by the monotonic clock; 0: none */
    uint32_t timeout_ms;  /* that it was made from */
    char *request_id;     /* "" where the method has none */
    void *userdata;
    ListNode messages; /* that came and were not taken */
    size_t n_queued_bytes;
    bool has_ended;           /* no more will come; `error` says how it ended */
    bool was_told;            /* and the caller knows */
    bool is_given_up;         /* the daemon was asked to cancel it */
    struct grokd_error error; /* code GROKD_OK: well */
    struct answer *answer;    /* the last that was given out */
    uint64_t n_events;
    bool has_final;
};

struct grokd_client {
    int fd;
    char *name; /* the socket's path, for sentences */
    uint32_t timeout_ms;
    uint32_t next_stream;
    ListNode calls;
    Buf out;
    TtrpcReader reader;
    struct grokd_error lost; /* code GROKD_OK: connected */
};

/* error.c: fill *error (may be NULL) and return its code. */
#define set_error(error, code, ...) (write_error((error), (code), __VA_ARGS__), error_value(code))
void write_error(struct grokd_error *error, int code, const char *format, ...) PRINTF_FORMAT(3, 4);
int copy_error(struct grokd_error *error, const struct grokd_error *from);
int out_of_memory(struct grokd_error *error);

/* client.c */
uint64_t clock_ms(void);
/* Waits for the socket, then reads once and writes. False: a signal handler ran. */
bool client_wait(grokd_client *client, int ms);
/* Writes what can be written. */
void client_flush(grokd_client *client);
/* Queues it without sending: frames may be half way through being read. */
void client_put_cancel(grokd_client *client, const char *request_id);

/* call.c */
int call_begin(grokd_client *client, const struct rpc *rpc, const ProtobufCMessage *request,
               const char *request_id, grokd_call **ret, struct grokd_error *error);
void call_on_frame(grokd_call *call, const struct ttrpc_frame *frame);
/* Ends it, once; what came before can still be taken. */
void call_end(grokd_call *call, int code, const char *format, ...) PRINTF_FORMAT(3, 4);
/* The call ends here without the daemon's word: tell the daemon, where it can be told. */
void call_give_up(grokd_call *call);
/* A 128-bit random id of 32 hexadecimal digits and a zero byte. */
void call_make_id(char ret[33]);

/* answers.c: struct rpc's convert() */
int convert_generate_event(struct answer *answer, const void *m);
int convert_embed(struct answer *answer, const void *m);
int convert_score(struct answer *answer, const void *m);
int convert_tokenize(struct answer *answer, const void *m);
int convert_detokenize(struct answer *answer, const void *m);
int convert_cancel(struct answer *answer, const void *m);
int convert_list_models(struct answer *answer, const void *m);
int convert_show_model(struct answer *answer, const void *m);
int convert_load_progress(struct answer *answer, const void *m);
int convert_unload_model(struct answer *answer, const void *m);
int convert_status(struct answer *answer, const void *m);
int convert_top(struct answer *answer, const void *m);
struct answer *answer_free(struct answer *answer);
/* For grokd_free(): what an answer's public struct belongs to. */
struct answer *answer_of(void *public);
