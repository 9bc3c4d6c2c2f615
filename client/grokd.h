/*
 * libgrokd: the C client of grokd. See libgrokd(3) for an example.
 *
 * A grokd_client is one connection. A grokd_call is one request on it; several may be under way at
 * once. Calls never block on each other. A client and its calls belong to one thread at a time.
 *
 * Blocking use: connect, then either the plain function of a unary call (grokd_tokenize(), …), or
 * grokd_begin_…() and grokd_call_next() until it gives no more. Use in somebody else's event loop:
 * watch grokd_fd() for grokd_events(), wait at most grokd_timeout_ms(), call grokd_process(), then
 * take what has come with grokd_ready() and grokd_call_next(call, 0, …).
 *
 * Results: functions return GROKD_OK (0) or a code from enum grokd_code, and fill *error (which may
 * be NULL) on failure only. The library never prints, never exits, raises no SIGPIPE and starts no
 * threads.
 *
 * Requests are structs of the caller, begun with their _INIT value:
 *
 *     struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
 *
 * Everything left as it is means "the daemon's default". Strings are UTF-8, NULL meaning "". A
 * request is copied before the function returns. Answers are structs of the library, always reached
 * through a pointer, so that fields can be added to them; strings and pointers in them are never
 * NULL unless it is said. Bytes that need not be UTF-8 have a length and, beyond it, a zero byte.
 */
#ifndef GROKD_H
#define GROKD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define GROKD_SOCKET_DEFAULT "/run/grokd/grokd.sock"

typedef struct grokd_client grokd_client;
typedef struct grokd_call grokd_call;

/* ---- errors ---- */

/* gRPC's canonical codes; what each means here is said in grokctl(1). */
enum grokd_code {
    GROKD_OK = 0,
    GROKD_CANCELLED = 1,
    GROKD_UNKNOWN = 2,
    GROKD_INVALID_ARGUMENT = 3,
    GROKD_DEADLINE_EXCEEDED = 4,
    GROKD_NOT_FOUND = 5,
    GROKD_ALREADY_EXISTS = 6,
    GROKD_PERMISSION_DENIED = 7,
    GROKD_RESOURCE_EXHAUSTED = 8,
    GROKD_FAILED_PRECONDITION = 9,
    GROKD_ABORTED = 10,
    GROKD_OUT_OF_RANGE = 11,
    GROKD_UNIMPLEMENTED = 12,
    GROKD_INTERNAL = 13,
    GROKD_UNAVAILABLE = 14, /* no daemon there, or it went away */
    GROKD_DATA_LOSS = 15,   /* also: events of a stream are missing */
    GROKD_UNAUTHENTICATED = 16
};

struct grokd_error {
    int code;                /* enum grokd_code */
    uint32_t retry_after_ms; /* when to try again what was refused for now; 0: not said */
    char text[504];          /* one sentence without a final dot */
};

/* "NOT_FOUND"; "UNKNOWN" for a number that is no code. */
const char *grokd_code_name(int code);
/* The library's own version, such as "0.1.0". */
const char *grokd_version(void);

/* ---- connections ---- */

/* Connects to the socket at `path`; NULL: $GROKD_SOCKET, or else GROKD_SOCKET_DEFAULT. Gives up
 * after 10 seconds. */
int grokd_connect(grokd_client **ret, const char *path, struct grokd_error *error);
/* Takes a connected stream socket over: it is made non-blocking, and closed with the client. On
 * failure it stays the caller's. */
int grokd_connect_fd(grokd_client **ret, int fd, struct grokd_error *error);
/* Closes the connection, which ends its calls in the daemon. Calls not yet freed have then failed
 * with CANCELLED and must still be freed. NULL is taken. Returns NULL. */
grokd_client *grokd_client_free(grokd_client *client);
/* Calls begun from now on end with DEADLINE_EXCEEDED after `ms` milliseconds, here and in the
 * daemon; 0: never (as it is at first). */
void grokd_set_timeout(grokd_client *client, uint32_t ms);

/* ---- somebody else's event loop ---- */

/* The socket, to be polled, not touched. Stays the same. */
int grokd_fd(const grokd_client *client);
/* What to wait for: POLLIN | POLLOUT as needed; 0 once the connection is lost. Ask before each
 * wait. */
int grokd_events(const grokd_client *client);
/* How long to wait at most: milliseconds until a call's time is up; -1: no limit. */
int grokd_timeout_ms(const grokd_client *client);
/* Reads and writes what can be done without blocking, and ends calls whose time is up. Fails with
 * UNAVAILABLE when the connection is lost; every call under way has then failed likewise. */
int grokd_process(grokd_client *client, struct grokd_error *error);
/* A call that has something for grokd_call_next(), oldest first, or NULL. A call is given again and
 * again until all it has is taken. */
grokd_call *grokd_ready(grokd_client *client);

/* ---- calls ---- */

struct grokd_event;

enum grokd_next {
    GROKD_NEXT_FAILED = -1, /* the call has ended; *error says why */
    GROKD_NEXT_END = 0,     /* the call has ended well, and all its events were taken */
    GROKD_NEXT_EVENT = 1,   /* *ret_event is the next event */
    GROKD_NEXT_WAIT = 2     /* nothing yet: the time passed, or a signal handler ran */
};

/* Takes the call's next event, waiting up to `wait_ms` milliseconds for it (0: not at all, -1:
 * without limit). The event is valid until the next call of this function for the same call. Once
 * it has said END or FAILED it says so every time. A unary call has one event, its answer. */
int grokd_call_next(grokd_call *call, int wait_ms, const struct grokd_event **ret_event,
                    struct grokd_error *error);
/* Asks the daemon to end the call, which then fails with CANCELLED, unless it ends by itself
 * before: go on with grokd_call_next(). What can't be ended in the daemon (all but Generate,
 * Score and Embed) fails with CANCELLED at once, and its answer is ignored when it comes. Never
 * blocks. */
void grokd_call_cancel(grokd_call *call);
/* A call that has not ended is cancelled first. NULL is taken. Returns NULL. */
grokd_call *grokd_call_free(grokd_call *call);
/* Of Generate, Score and Embed: the request's id, the caller's or one made here. Otherwise "". */
const char *grokd_call_request_id(const grokd_call *call);
void grokd_call_set_userdata(grokd_call *call, void *userdata);
void *grokd_call_userdata(const grokd_call *call);

/* Frees an answer of one of the plain (blocking) functions. NULL is taken. */
void grokd_free(void *answer);

/* ---- Inference.Generate: events queued, prefill, chunk, and last final ---- */

struct grokd_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY bans the token */
};

/* A number counts only where its has_ is true. */
struct grokd_sampling {
    size_t size;
    bool has_max_tokens, has_temperature, has_top_k, has_top_p, has_min_p, has_repetition_penalty,
        has_presence_penalty, has_frequency_penalty, has_seed;
    uint32_t max_tokens;      /* tokens to generate */
    float temperature;        /* 0: greedy */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off */
    float presence_penalty;   /* 0: off */
    float frequency_penalty;  /* 0: off */
    uint64_t seed;            /* without it a random one, told in the usage */
    const char *const *stop;  /* strings that end the text; not part of it */
    size_t n_stop;
    const int32_t *stop_token_ids;
    size_t n_stop_token_ids;
    const char *const *banned_strings; /* never completed in the text */
    size_t n_banned_strings;
    const struct grokd_logit_bias *logit_bias;
    size_t n_logit_bias;
    uint32_t top_logprobs; /* alternatives for each token */
    bool logprobs;         /* log-probabilities in the chunks */
    bool ignore_eos;
    bool include_stop; /* keep the stop string in the text */
};
#define GROKD_SAMPLING_INIT                                                                        \
    { .size = sizeof(struct grokd_sampling) }

enum grokd_priority {
    GROKD_PRIORITY_UNSPECIFIED = 0, /* the daemon's default */
    GROKD_PRIORITY_INTERACTIVE = 1, /* a person waits */
    GROKD_PRIORITY_NORMAL = 2,
    GROKD_PRIORITY_BATCH = 3 /* runs in capacity that nobody else wants */
};

struct grokd_message {
    const char *role; /* "system", "user", "assistant", or what the chat template knows */
    const char *content;
};

struct grokd_generate_request {
    size_t size;
    const char *model;     /* NULL: the default model */
    const char *text;      /* the prompt: either this … */
    const int32_t *tokens; /* … or this, where not NULL … */
    size_t n_tokens;
    const struct grokd_sampling *sampling; /* NULL: all defaults */
    const char *request_id; /* unique among the user's running requests; NULL: made here */
    uint32_t timeout_ms;    /* from arrival, enforced by the daemon; 0: its default */
    bool has_add_bos, add_bos;
    bool parse_control;                   /* let control pieces in `text` match */
    bool echo;                            /* begin the text with the prompt */
    bool token_ids;                       /* give each chunk's token ids */
    const char *actor;                    /* on whose behalf; NULL: the user's own */
    int priority;                         /* enum grokd_priority */
    const struct grokd_message *messages; /* … or, where not NULL, a conversation to be answered */
    size_t n_messages;
    const char *chat_template; /* of the conversation: a name or a text; NULL: the model's */
    /* What the text must be; at most one is not NULL. */
    const char *json_schema; /* a JSON document that is valid under the schema */
    const char *regex;       /* text that the regular expression matches as a whole */
    const char *grammar;     /* text of a GBNF grammar's `root` */
    bool share_prefix;       /* others' requests may reuse what is computed for the prompt */
};
#define GROKD_GENERATE_REQUEST_INIT                                                                \
    { .size = sizeof(struct grokd_generate_request) }

int grokd_begin_generate(grokd_client *client, const struct grokd_generate_request *request,
                         grokd_call **ret, struct grokd_error *error);

enum grokd_finish_reason {
    GROKD_FINISH_UNSPECIFIED = 0,
    GROKD_FINISH_STOP = 1,  /* end-of-text token, stop token or string, the constraint's end */
    GROKD_FINISH_LENGTH = 2 /* max_tokens, or the context is full */
};

/* This struct and the next lie in arrays and will not change. */
struct grokd_logprob {
    int32_t token;
    float logprob;
    const char *text; /* the token's bytes */
    size_t n_text;
};

struct grokd_token_logprobs {
    const struct grokd_logprob *chosen; /* may be NULL */
    const struct grokd_logprob *top;
    size_t n_top;
};

struct grokd_usage {
    uint32_t prompt_tokens, generated_tokens;
    uint32_t cached_tokens; /* prompt tokens that needed no computing */
    uint64_t queued_us, prefill_us, decode_us;
    uint64_t seed;
    uint32_t drafted_tokens;  /* guessed by what came before in the text, and computed */
    uint32_t accepted_tokens; /* that came with another one because a guess was right */
};

struct grokd_queued {
    uint32_t position;          /* requests ahead */
    uint64_t estimated_wait_us; /* 0: not known */
};

struct grokd_prefill {
    uint32_t done_tokens, total_tokens;
    uint32_t cached_tokens; /* of the done ones, those that needed no computing */
};

struct grokd_chunk {
    const char *text; /* whole UTF-8 */
    const int32_t *token_ids;
    size_t n_token_ids;
    const struct grokd_token_logprobs *logprobs;
    size_t n_logprobs;
};

struct grokd_final {
    int finish_reason; /* enum grokd_finish_reason */
    const struct grokd_usage *usage;
    uint64_t total_events; /* checked by the library: a stream that lost events fails */
    const char *stop;      /* the stop string that ended the text */
};

/* ---- Inference.Score ---- */

struct grokd_score_request {
    size_t size;
    const char *model;
    const char *text;      /* either this … */
    const int32_t *tokens; /* … or this, where not NULL */
    size_t n_tokens;
    uint32_t top_logprobs;
    const char *request_id; /* NULL: made here */
    uint32_t timeout_ms;
    bool has_add_bos, add_bos;
    bool parse_control;
    const char *actor; /* on whose behalf; NULL: the user's own */
    int priority;      /* enum grokd_priority */
};
#define GROKD_SCORE_REQUEST_INIT                                                                   \
    { .size = sizeof(struct grokd_score_request) }

struct grokd_score_response {
    const struct grokd_token_logprobs *tokens; /* the first has no log-probability */
    size_t n_tokens;
    double sum_logprob;
    double perplexity; /* 0 where fewer than 2 tokens */
    const struct grokd_usage *usage;
};

int grokd_begin_score(grokd_client *client, const struct grokd_score_request *request,
                      grokd_call **ret, struct grokd_error *error);
int grokd_score(grokd_client *client, const struct grokd_score_request *request,
                struct grokd_score_response **ret, struct grokd_error *error);

/* ---- Inference.Embed: a vector for each of several texts ---- */

enum grokd_pooling {
    GROKD_POOLING_UNSPECIFIED = 0, /* mean */
    GROKD_POOLING_MEAN = 1,        /* of the last hidden states of all tokens */
    GROKD_POOLING_LAST = 2         /* the last token's */
};

/* This struct and grokd_embedding lie in arrays and will not change. */
struct grokd_input {
    const char *text;      /* either this … */
    const int32_t *tokens; /* … or this, where not NULL */
    size_t n_tokens;
};

struct grokd_embed_request {
    size_t size;
    const char *model;
    const struct grokd_input *inputs; /* at most 256 */
    size_t n_inputs;
    int pooling;                   /* enum grokd_pooling */
    bool has_normalize, normalize; /* to length 1; yes where not given */
    const char *request_id;        /* NULL: made here */
    uint32_t timeout_ms;
    bool has_add_bos, add_bos;
    bool parse_control;
    const char *actor; /* on whose behalf; NULL: the user's own */
    int priority;      /* enum grokd_priority */
};
#define GROKD_EMBED_REQUEST_INIT                                                                   \
    { .size = sizeof(struct grokd_embed_request) }

struct grokd_embedding {
    const float *values;
    size_t n_values;
    uint32_t n_tokens; /* of its input */
};

struct grokd_embed_response {
    const struct grokd_embedding *embeddings; /* one for each input, in their order */
    size_t n_embeddings;
    const struct grokd_usage *usage;
};

int grokd_begin_embed(grokd_client *client, const struct grokd_embed_request *request,
                      grokd_call **ret, struct grokd_error *error);
int grokd_embed(grokd_client *client, const struct grokd_embed_request *request,
                struct grokd_embed_response **ret, struct grokd_error *error);

/* ---- Inference.Tokenize, Detokenize ---- */

struct grokd_tokenize_request {
    size_t size;
    const char *model;
    const char *text;
    bool has_add_bos, add_bos;
    bool parse_control;
    bool pieces; /* give each token's bytes too */
};
#define GROKD_TOKENIZE_REQUEST_INIT                                                                \
    { .size = sizeof(struct grokd_tokenize_request) }

struct grokd_bytes {
    const char *bytes;
    size_t n;
};

struct grokd_tokenize_response {
    const int32_t *ids;
    size_t n_ids;
    const struct grokd_bytes *pieces;
    size_t n_pieces; /* n_ids or 0 */
};

int grokd_begin_tokenize(grokd_client *client, const struct grokd_tokenize_request *request,
                         grokd_call **ret, struct grokd_error *error);
int grokd_tokenize(grokd_client *client, const struct grokd_tokenize_request *request,
                   struct grokd_tokenize_response **ret, struct grokd_error *error);

struct grokd_detokenize_request {
    size_t size;
    const char *model;
    const int32_t *ids;
    size_t n_ids;
    bool control; /* print control pieces instead of leaving them out */
};
#define GROKD_DETOKENIZE_REQUEST_INIT                                                              \
    { .size = sizeof(struct grokd_detokenize_request) }

struct grokd_detokenize_response {
    const char *text;
    size_t n_text;
};

int grokd_begin_detokenize(grokd_client *client, const struct grokd_detokenize_request *request,
                           grokd_call **ret, struct grokd_error *error);
int grokd_detokenize(grokd_client *client, const struct grokd_detokenize_request *request,
                     struct grokd_detokenize_response **ret, struct grokd_error *error);

/* ---- Inference.Cancel: ends another Generate, Score or Embed of the same user ---- */

struct grokd_cancel_response {
    bool found;
};

int grokd_begin_cancel(grokd_client *client, const char *request_id, grokd_call **ret,
                       struct grokd_error *error);
int grokd_cancel(grokd_client *client, const char *request_id, struct grokd_cancel_response **ret,
                 struct grokd_error *error);

/* ---- Models ---- */

enum grokd_model_state {
    GROKD_MODEL_UNSPECIFIED = 0,
    GROKD_MODEL_CONFIGURED = 1, /* known by name, not in memory */
    GROKD_MODEL_LOADING = 2,
    GROKD_MODEL_READY = 3,
    GROKD_MODEL_FAILED = 4,   /* `error` says why */
    GROKD_MODEL_UNLOADING = 5 /* answers what is running, takes no more */
};

struct grokd_model_summary {
    const char *name;
    const char *path;
    int state; /* enum grokd_model_state */
    const char *error;
    const char *architecture;
    uint64_t parameters;
    uint64_t file_bytes;
    bool is_default;
    bool is_demo;           /* the model that comes with grokd, served because none is configured */
    bool pinned;            /* stays when others need its room or nobody uses it */
    uint32_t users;         /* requests that use it or wait for it */
    uint64_t idle_us;       /* since nobody uses it; 0: somebody does */
    uint64_t keep_alive_us; /* unloaded after being idle for so long; 0: never */
    uint64_t retry_us;      /* failed: until then requests don't load it again */
};

/* "ready", "loading", …; "unspecified" for a number that is no state. */
const char *grokd_model_state_name(int state);
/* "stop", "length"; "unspecified" for a number that is no reason. */
const char *grokd_finish_reason_name(int reason);

struct grokd_list_models_response {
    const struct grokd_model_summary *const *models;
    size_t n_models;
};

int grokd_begin_list_models(grokd_client *client, grokd_call **ret, struct grokd_error *error);
int grokd_list_models(grokd_client *client, struct grokd_list_models_response **ret,
                      struct grokd_error *error);

/* Computed from the shapes in the file, not from its labels. */
struct grokd_show_model_response {
    const struct grokd_model_summary *summary;
    const char *title, *description, *license, *weight_types;
    uint64_t parameters_per_expert;
    uint64_t parameters_active; /* used for one token */
    uint64_t half_precision_bytes;
    uint64_t active_bytes; /* weights read for one decoded token */
    uint64_t kv_bytes_per_token, kv_bytes_max;
    uint32_t layers, experts, experts_used, embedding_size, feed_forward_size;
    uint32_t heads, kv_heads, head_size, vocabulary, context_trained, context_max;
    int32_t bos_token; /* -1: none */
    int32_t eos_token;
    bool add_bos;
    const char *chat_template, *instruction_set;
    /* A built-in template's name, the configured file, or "model" for the model file's own. */
    const char *chat_template_name;
    /* Where the mapped file was when it had been loaded; little, where it is not preloaded. */
    uint64_t resident_bytes, huge_page_bytes, locked_bytes;
    uint32_t numa_nodes;        /* of the machine */
    const uint64_t *node_bytes; /* (n_node_bytes) resident on node 0, 1, ... */
    size_t n_node_bytes;
    /* On the node of the threads that read it, and on others; 0 and 0: they are on one node. */
    uint64_t home_bytes, away_bytes;
    const char *kv_type; /* "f16", "f32" or "q8_0" */
};

/* model NULL: the default one */
int grokd_begin_show_model(grokd_client *client, const char *model, grokd_call **ret,
                           struct grokd_error *error);
int grokd_show_model(grokd_client *client, const char *model,
                     struct grokd_show_model_response **ret, struct grokd_error *error);

struct grokd_load_model_request {
    size_t size;
    const char *model;
    const char *path; /* NULL: the configured one */
    bool pin;         /* until it is unloaded */
};
#define GROKD_LOAD_MODEL_REQUEST_INIT                                                              \
    { .size = sizeof(struct grokd_load_model_request) }

struct grokd_load_progress {
    uint64_t done_bytes, total_bytes;
    const struct grokd_model_summary *summary; /* in the last event; otherwise NULL */
};

/* A stream of `load` events. */
int grokd_begin_load_model(grokd_client *client, const struct grokd_load_model_request *request,
                           grokd_call **ret, struct grokd_error *error);

struct grokd_unload_model_response {
    char unused; /* nothing to tell yet */
};

int grokd_begin_unload_model(grokd_client *client, const char *model, grokd_call **ret,
                             struct grokd_error *error);
int grokd_unload_model(grokd_client *client, const char *model, struct grokd_error *error);

/* ---- Admin.Status ---- */

struct grokd_status_response {
    const char *version;
    uint64_t uptime_us;
    uint32_t pid, threads;
    const char *instruction_set;
    uint32_t connections, requests_running, requests_queued;
    uint64_t requests_total, requests_failed;
    uint64_t prompt_tokens_total, generated_tokens_total;
    uint64_t resident_bytes;
    uint64_t kv_pages_used, kv_pages_total;
    const struct grokd_model_summary *const *models;
    size_t n_models;
    bool draining;
    uint64_t steps_total;
    const char *kv_type; /* "f16", "f32" or "q8_0" */
};

int grokd_begin_status(grokd_client *client, grokd_call **ret, struct grokd_error *error);
int grokd_status(grokd_client *client, struct grokd_status_response **ret,
                 struct grokd_error *error);

/* ---- Admin.Top: who uses what ---- */

/* What a user, or one of the actors it names, has of the daemon now. */
struct grokd_top_account {
    uint32_t uid;
    const char *actor; /* "": the user itself */
    uint32_t connections, requests_running, requests_queued;
    uint64_t bytes;            /* of requests under way, and of answers left unread */
    uint64_t tokens_in_flight; /* prompts and max_tokens of requests under way */
    uint64_t window_tokens;    /* computed within the configured token_window */
    uint64_t kv_pages;         /* that its requests may come to need */
    double prompt_tokens_per_s, generated_tokens_per_s; /* in the last seconds */
};

enum grokd_request_state {
    GROKD_REQUEST_UNSPECIFIED = 0,
    GROKD_REQUEST_OPENING = 1, /* waits for its model, or is tokenized */
    GROKD_REQUEST_QUEUED = 2,
    GROKD_REQUEST_RUNNING = 3,
    GROKD_REQUEST_FLUSHING = 4 /* computed; its client has not read all */
};

/* "running", "queued", …; "unspecified" for a number that is no state. */
const char *grokd_request_state_name(int state);

struct grokd_top_request {
    uint32_t uid;
    const char *actor, *method;
    const char *request_id; /* "": another user's, which only root may see */
    const char *model;
    int state;    /* enum grokd_request_state */
    int priority; /* enum grokd_priority */
    uint32_t prompt_tokens, prompt_done, generated_tokens, max_tokens;
    uint64_t age_us;
};

struct grokd_top {
    uint64_t uptime_us;
    bool draining;
    uint32_t connections, requests_running, requests_queued;
    double prompt_tokens_per_s, generated_tokens_per_s; /* in the last seconds */
    uint64_t kv_pages_used, kv_pages_total;
    uint64_t steps_total, steps_us_total; /* and the time they took together */
    uint64_t resident_bytes;
    const struct grokd_model_summary *const *models;
    size_t n_models;
    const struct grokd_top_account *const *accounts;
    size_t n_accounts;
    const struct grokd_top_request *const *requests; /* the oldest first */
    size_t n_requests;
};

/* A stream of `top` events, one every `interval_ms` (100 to 60000); 0: a single one. */
int grokd_begin_top(grokd_client *client, uint32_t interval_ms, grokd_call **ret,
                    struct grokd_error *error);

/* ---- what grokd_call_next() gives ---- */

/* Of the pointers after `model` exactly one is not NULL: it tells what the event is. (All are NULL
 * where a newer daemon sends an event that this library doesn't know.) */
struct grokd_event {
    uint64_t seq;           /* Generate: 0, 1, 2, … */
    const char *request_id; /* Generate: in the first event; otherwise "" */
    const char *model;      /* Generate: in the first event; otherwise "" */
    const struct grokd_queued *queued;
    const struct grokd_prefill *prefill;
    const struct grokd_chunk *chunk;
    const struct grokd_final *final;
    const struct grokd_load_progress *load;
    const struct grokd_score_response *score;
    const struct grokd_tokenize_response *tokenize;
    const struct grokd_detokenize_response *detokenize;
    const struct grokd_cancel_response *cancel;
    const struct grokd_list_models_response *list_models;
    const struct grokd_show_model_response *show_model;
    const struct grokd_unload_model_response *unload_model;
    const struct grokd_status_response *status;
    const struct grokd_top *top;
    const struct grokd_embed_response *embed;
};

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
