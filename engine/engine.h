/*
 * The engine's boundary: all that the daemon may know of it.
 *
 * An engine is one loaded model. A sequence is one request's timeline: its tokens, KV pages,
 * sampler and text state. gk_step() computes a batch of rows of many sequences at once. There are
 * no clocks, sockets or users here, and no threads but those of the compute pool that is handed in.
 *
 * Threads: an engine and its sequences belong to one thread at a time, the worker, which is the
 * only caller of gk_seq_*() and gk_step(). What the functions under "immutable" read never changes
 * after gk_engine_open(), so any thread may call them until gk_engine_close().
 *
 * Exactness: with quantised weights (and with float weights where `exact_floats` is set) a
 * sequence's logits are the same bits whatever else is in its steps, however its prompt is sliced,
 * and on every number of threads and instruction set.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct GkPool GkPool;
typedef struct GkEngine GkEngine;
typedef struct GkSeq GkSeq;

/* ---- the compute pool: shared by the engines of one process, used by one step at a time ---- */

/* n_threads 0: the CPUs this process may use (affinity mask and cgroup quota); never more than
 * these, whatever is asked for. The calling thread of gk_step() is one of the n; the others are
 * started here, pinned one to a CPU. */
int gk_pool_new(GkPool **ret, unsigned n_threads, Error *reterr);
GkPool *gk_pool_free(GkPool *pool);
unsigned gk_pool_n_threads(const GkPool *pool);

/* ---- models ---- */

enum gk_kv_type { GK_KV_F16, GK_KV_F32, GK_KV_Q8_0 };
extern const char *const gk_kv_type_names[]; /* NULL-ended */

struct gk_options {
    const char *path; /* GGUF; of a split model its first file */
    GkPool *pool;     /* not owned; outlives the engine */
    const char *isa;  /* kernels at most this tier by name (gk_isa_names()); NULL: the best */
    enum gk_kv_type kv_type;
    uint64_t kv_bytes_max;    /* budget for KV pages; 0: one full context */
    uint32_t n_context_max;   /* positions a sequence may have; 0: as the model says */
    uint32_t n_rows_max;      /* rows in one step; 0: 512 */
    uint32_t n_sequences_max; /* sequences alive; 0: 64 */
    bool exact_floats;        /* own kernels instead of OpenBLAS for F32, F16 and BF16 weights */
    bool prefix_cache;        /* keep pages of ended sequences for prompts that begin like them */
    bool hugepages;           /* ask for huge pages before the file is read, and for KV pages */
    bool preload;             /* read every page of the file before returning, with progress */
    bool lock;                /* keep in memory what has been read, as far as that is allowed */
    bool (*on_progress)(void *userdata, uint64_t done_bytes,
                        uint64_t total_bytes); /* may be NULL; false: give up, with -ECANCELED */
    void *userdata;
};

enum {
    _GK_E_SUCCESS,
    GK_E_FILE,     /* the file is missing, malformed or not a model we can run; reterr says where */
    GK_E_INVALID,  /* a parameter or the prompt is out of range; reterr says which */
    GK_E_TOO_LONG, /* prompt + n_tokens_max exceed the context */
    GK_E_BUSY,     /* no free sequence or too few free KV pages now; try when others have ended */
    GK_E_DATA_LOSS, /* the model file failed under us; the model answers nothing from now on */
};

/* Returns GK_E_FILE, GK_E_INVALID (options), -ECANCELED. */
int gk_engine_open(GkEngine **ret, const struct gk_options *options, Error *reterr);
/* Every sequence must have been freed. */
GkEngine *gk_engine_close(GkEngine *e);
DEFINE_CLEANUP(GkEngine *, gk_engine_close)
DEFINE_CLEANUP(GkPool *, gk_pool_free)

/* ---- immutable after open ---- */

#define GK_NODES_MAX 64
/* Where the mapped file is, as the kernel told when it had been opened; 0: it doesn't. */
struct gk_memory {
    uint64_t n_resident_bytes, n_huge_bytes; /* mapped in pages of any size, in huge ones */
    uint64_t n_locked_bytes;
    uint32_t n_nodes;                  /* NUMA nodes of this machine */
    uint64_t node_bytes[GK_NODES_MAX]; // (the nodes' numbers)
    /* With `preload`, where threads are on several nodes: of the file, what is on the node of the
     * threads that read it, and what is on others, from a sample of its pages. */
    uint64_t n_home_bytes, n_away_bytes;
};

/* Facts computed from the file's own shapes (grok1.md 1). Strings live as long as the engine. */
struct gk_model_info {
    const char *architecture, *name, *license, *description; /* "" where the file has none */
    const char *chat_template;                               /* "" where the file has none */
    const char *weight_types;                                /* such as "Q8_0 ×50, F32 ×24" */
    const char *isa;                                         /* the kernel tier in use */
    const char *kv_type;                                     /* of gk_kv_type_names */
    uint64_t n_parameters, n_parameters_per_expert, n_parameters_active;
    uint64_t n_file_bytes, n_active_bytes; /* bytes of weights read for one decoded token */
    uint64_t n_half_precision_bytes;       /* 2 bytes a parameter */
    uint64_t n_kv_bytes_per_token, n_kv_bytes_max;
    uint64_t n_step_bytes;                        /* what a step works in */
    uint32_t n_layers, n_experts, n_experts_used; /* experts: 0 for a dense model */
    uint32_t n_embd, n_ff, n_heads, n_kv_heads, head_size, n_vocab;
    uint32_t n_context_trained, n_context_max;
    uint32_t n_rows_max, n_sequences_max;
    struct gk_memory memory;
    int32_t token_bos, token_eos; /* -1: none */
    bool add_bos;                 /* what gk_tokenize() does where asked for the model's default */
};
const struct gk_model_info *gk_engine_info(const GkEngine *e);

/* Of n_kv_bytes_max, what no sequence has come to yet, so that the system counts it as free. Any
 * thread. */
uint64_t gk_engine_kv_untouched(const GkEngine *e);

/* True after the mapped file failed (SIGBUS: it shrank or could not be read). Any thread. */
bool gk_engine_is_lost(const GkEngine *e);

enum gk_tokenize_flags {
    GK_TOKENIZE_BOS = 1 << 0,     /* begin with the BOS token whatever the model says */
    GK_TOKENIZE_NO_BOS = 1 << 1,  /* never begin with it; neither flag: as the model says */
    GK_TOKENIZE_CONTROL = 1 << 2, /* let control pieces in the text match */
};
/* Text is UTF-8, any bytes are taken. *ret_tokens is malloc()ed. Returns GK_E_INVALID where the
 * text has more than n_max tokens. */
int gk_tokenize(const GkEngine *e, const char *text, size_t n_text, unsigned flags, size_t n_max,
                int32_t **ret_tokens, size_t *ret_n, Error *reterr);
/* Exact inverse: *ret_text is malloc()ed, with a zero byte after its n bytes (which may not be
 * whole UTF-8 when the tokens are not). `control`: print control pieces instead of leaving them
 * out. Returns GK_E_INVALID for an id outside the vocabulary. */
int gk_detokenize(const GkEngine *e, const int32_t *tokens, size_t n, bool control, char **ret_text,
                  size_t *ret_n, Error *reterr);
/* ---- conversations (immutable, too) ---- */

struct gk_message {
    const char *role; /* "system", "user", "assistant", or what the template has in quotes */
    const char *content;
};

#define GK_MESSAGES_MAX 16384 /* in one conversation */

struct gk_chat_prompt {
    int32_t *tokens; /* malloc()ed, and so is the text */
    size_t n_tokens;
    char *text; /* as the template renders it */
    size_t n_text;
    /* What ends an answer by the template, beside the model's EOS. */
    int32_t end_token;    /* -1: none */
    const char *end_text; /* in the same memory as the text; "" for none; at most
                             GK_STOP_STRING_BYTES_MAX bytes */
};

/* A conversation as the prompt for its next answer. The template is one of
 * gk_chat_template_name(), or a text in Jinja. Control pieces match in what comes from the
 * template, never in a message's content; an answer's first token begins where it began when it was
 * generated, so that a conversation's next prompt begins with the one before. GK_TOKENIZE_BOS as in
 * gk_tokenize(), and never twice where the template has the BOS token. Returns GK_E_INVALID. */
int gk_tokenize_chat(const GkEngine *e, const char *template, const struct gk_message *messages,
                     size_t n_messages, unsigned flags, size_t n_max, struct gk_chat_prompt *ret,
                     Error *reterr);
/* Returns GK_E_INVALID where the text is neither a template's name nor a template. */
int gk_chat_template_check(const char *template, Error *reterr);
/* The Jinja text of a named template; NULL: there is none of that name. */
const char *gk_chat_template_text(const char *name);
/* The i-th name; NULL: there are fewer. */
const char *gk_chat_template_name(size_t i);

/* The piece's own bytes as text (a view, not terminated). Token must be in the vocabulary. */
const char *gk_token_text(const GkEngine *e, int32_t token, size_t *ret_n);
/* One bit set for each kernel tier this CPU runs, in the order of gk_isa_names(). */
unsigned gk_isa_available(void);
/* NULL-ended, slowest first: "generic", "avx2", "avxvnni", "avx512", "vnni", "amx" */
const char *const *gk_isa_names(void);
/* Why the best tier of this CPU isn't available although the CPU has it; NULL: it is. */
const char *gk_isa_refused(void);

/* ---- constraints: what generated text must be ---- */

enum gk_constraint_kind {
    GK_CONSTRAINT_JSON_SCHEMA, /* a JSON document that is valid under the schema */
    GK_CONSTRAINT_REGEX,       /* text that the regular expression matches as a whole */
    GK_CONSTRAINT_GRAMMAR,     /* text of a GBNF grammar's `root` */
};

#define GK_CONSTRAINT_BYTES_MAX (256 << 10)

typedef struct GkConstraint GkConstraint;

/* Compiles the source (n bytes), in time and memory that maxima bound. What comes is immutable: any
 * thread may make it, and any number of sequences of any engine use it. Returns GK_E_INVALID with
 * the place and the reason, -ENOMEM. */
int gk_constraint_new(GkConstraint **ret, enum gk_constraint_kind kind, const char *source,
                      size_t n, Error *reterr);
/* The memory that it takes. What an engine learns of it while sequences follow it is shared by all
 * of these, and bounded (engine/grammar/automaton.h). */
size_t gk_constraint_bytes(const GkConstraint *c);
/* Any thread. */
GkConstraint *gk_constraint_ref(GkConstraint *c);
GkConstraint *gk_constraint_unref(GkConstraint *c);
DEFINE_CLEANUP(GkConstraint *, gk_constraint_unref)

/* ---- sequences ---- */

enum gk_mode {
    GK_GENERATE, /* sample tokens after the prompt */
    GK_SCORE,    /* log-probabilities of the prompt's own tokens; samples nothing */
    GK_EMBED,    /* one vector for the prompt; samples nothing */
};

/* Which of the prompt's positions the vector is made of: of their last hidden states, after the
 * output's norm. */
enum gk_pooling {
    GK_POOLING_MEAN,
    GK_POOLING_LAST,
};

struct gk_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY bans the token */
};

struct gk_string {
    const char *bytes;
    size_t n;
};

#define GK_STOP_STRINGS_MAX      16
#define GK_STOP_STRING_BYTES_MAX 256
#define GK_STOP_TOKENS_MAX       64
#define GK_BANNED_STRINGS_MAX    64
#define GK_LOGIT_BIAS_MAX        1024
#define GK_LOGPROBS_MAX          20

/* gk_params_default() gives greedy decoding. Everything is copied by gk_seq_new(); of the
 * constraint it takes a reference. */
struct gk_params {
    enum gk_mode mode;
    uint32_t n_tokens_max;    /* tokens to sample; 0: until the context or the KV memory ends */
    float temperature;        /* 0: greedy */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off; over prompt and output, divides positive logits, multiplies
                                 negative */
    float presence_penalty;   /* 0: off; over output, as OpenAI's */
    float frequency_penalty;  /* 0: off */
    uint64_t seed;
    uint64_t owner;      /* whose cached prefixes may be used, and who may use this one's */
    bool share_prefix;   /* everyone may use its prompt's, in whole pages */
    bool speculate;      /* gk_seq_draft() drafts; takes 8 bytes a position for it */
    uint32_t n_logprobs; /* alternatives per token, <= GK_LOGPROBS_MAX */
    bool logprobs;       /* log-probability of each sampled token */
    bool ignore_eos;
    bool stop_in_output; /* keep the stop string that ended the text in the text */
    const struct gk_string *stop_strings;
    size_t n_stop_strings;
    const struct gk_string
        *banned_strings; /* never completed in the text, across token borders too */
    size_t n_banned_strings;
    const int32_t *stop_tokens; /* in addition to the model's EOS */
    size_t n_stop_tokens;
    const struct gk_logit_bias *logit_bias;
    size_t n_logit_bias;
    /* What the text must be, or NULL: masks the logits before all filters. It may end only where
     * the constraint is satisfied, and ends by itself where nothing else is possible. */
    GkConstraint *constraint;
    enum gk_pooling pooling; /* GK_EMBED */
    bool normalize;          /* GK_EMBED: to length 1 */
};
struct gk_params gk_params_default(void);

/* What gk_seq_new() would refuse however much is free; takes nothing. Returns GK_E_INVALID,
 * GK_E_TOO_LONG, GK_E_DATA_LOSS. */
int gk_seq_check(const GkEngine *e, const int32_t *tokens, size_t n_tokens,
                 const struct gk_params *params, Error *reterr);
/* Checks the parameters, copies them and the tokens, and reserves the KV pages of the worst case
 * (n_tokens and n_tokens_max), so that a sequence once made never fails for want of memory. Pages
 * are taken, and what is cached in them is dropped, only when the sequence comes to them. Returns
 * GK_E_INVALID, GK_E_TOO_LONG, GK_E_BUSY, GK_E_DATA_LOSS. */
int gk_seq_new(GkSeq **ret, GkEngine *e, const int32_t *tokens, size_t n_tokens,
               const struct gk_params *params, Error *reterr);
/* Gives its pages back; any time between steps. */
GkSeq *gk_seq_free(GkSeq *seq);
DEFINE_CLEANUP(GkSeq *, gk_seq_free)
/* Gives its pages and its place up for others; it keeps its tokens, sampler and text. Between
 * steps.
 */
void gk_seq_suspend(GkSeq *seq);
/* Takes pages and a place again. All its positions are then pending, and what comes after them is
 * what would have come. Returns GK_E_BUSY (it stays suspended), GK_E_DATA_LOSS. */
int gk_seq_resume(GkSeq *seq, Error *reterr);
/* Rows that must run before the next token is sampled: > 1 while the prompt is processed, 1 when
 * decoding, 0 when the sequence has ended. */
size_t gk_seq_n_pending(const GkSeq *seq);
/* Tokens that were in the prefix cache when the sequence was made, or resumed. */
size_t gk_seq_n_cached(const GkSeq *seq);
/* ---- speculation ----
 *
 * A drafted token is a guess of one to come. It can be computed in the same step as the pending one
 * before it, and where the guess was right the step gives one token more. What is sampled, its
 * log-probabilities and its text are the same with and without drafts. */

#define GK_DRAFT_MAX 15

/* Drafts what followed where the sequence's last tokens came before, in prompt or output, for its
 * next step. Returns how many tokens that is: 0 where they did not come before, where the sequence
 * is not decoding, and without params.speculate. */
size_t gk_seq_draft(GkSeq *seq);
/* The same with the caller's guess: n tokens of the vocabulary. */
size_t gk_seq_set_draft(GkSeq *seq, const int32_t *tokens, size_t n);

/* For the caller: a value kept with the sequence (a request's id). */
void gk_seq_set_tag(GkSeq *seq, uint64_t tag);
uint64_t gk_seq_tag(const GkSeq *seq);

/* ---- the prefix cache in a file ---- */

struct gk_prefix_file {
    const char *directory; /* made where it is missing; must be ours alone: owner, mode 0700 */
    const char *name;      /* of the file in it */
    uint64_t n_bytes_max;  /* of a file that is written: the oldest pages are left out */
    bool may_share;        /* share_prefix is granted: a file of when it was not, or the other way
                              round, is not for us */
    bool (*go_on)(void *userdata); /* asked after every page; may be NULL; false: -ECANCELED */
    void *userdata;
};
/* Before the first sequence. What an engine of the same model, options and program has saved is
 * cached again, as much as there are pages for. A file of anything else, and one that is damaged,
 * is removed; no file is no error. Returns GK_E_FILE (reterr says why), -ECANCELED, -ENOMEM: the
 * cache is empty then. */
int gk_prefixes_load(GkEngine *e, const struct gk_prefix_file *file, uint64_t *ret_n_tokens,
                     Error *reterr);
/* Replaces the file with what is cached now, at once or not at all; where nothing is, as after a
 * load that was given up, it stays. Worker thread, or after the last sequence. Returns GK_E_FILE,
 * GK_E_DATA_LOSS, -ECANCELED, -ENOMEM. */
int gk_prefixes_save(GkEngine *e, const struct gk_prefix_file *file, uint64_t *ret_n_tokens,
                     Error *reterr);

/* ---- the step ---- */

struct gk_plan_row {
    GkSeq *seq;      /* each sequence at most once in a plan */
    uint32_t n_rows; /* 1 .. gk_seq_n_pending(seq), and up to as many more as are drafted */
};
struct gk_plan {
    const struct gk_plan_row *rows;
    size_t n; /* the n_rows add up to at most info->n_rows_max */
};

enum gk_finish {
    GK_FINISH_NONE,
    GK_FINISH_STOP, /* an end or stop token, a stop string, or the constraint leaves only the end */
    GK_FINISH_LENGTH,
    GK_FINISH_SCORED,
    GK_FINISH_EMBEDDED,
    GK_FINISH_STUCK, /* no token may come: the constraint and the bans leave none, or following it
                        took more than the maxima allow */
    GK_FINISH_FAILED
};

struct gk_logprob {
    int32_t token;
    float logprob; /* natural logarithm, of the distribution before temperature and filters */
};

/* What was drafted in the place of a token that was sampled. */
enum gk_guess {
    GK_GUESS_NONE,
    GK_GUESS_WRONG,
    GK_GUESS_RIGHT, /* whether or not its row was in the step */
};

/* One for each plan row, in its order. Pointers are valid until the sequence's next step. */
struct gk_result {
    GkSeq *seq;
    enum gk_finish finish; /* not NONE: the sequence has ended and has 0 pending */
    bool has_token;        /* a token was sampled in this step */
    int32_t token;
    float logprob;                /* of `token`; only with params.logprobs */
    const struct gk_logprob *top; /* n_top alternatives, best first */
    size_t n_top;
    const char
        *text; /* whole UTF-8 released by this step; may be empty, or end a held-back piece */
    size_t n_text;
    const char *stop; /* the stop string that ended it, "" else */
    /* GK_SCORE: scores[i] belongs to prompt token score_begin + i: its log-probability given those
     * before it, and (params.n_logprobs) the alternatives, n_top each, in `top`. The first token
     * has none. */
    const float *scores;
    size_t score_begin, n_scores;
    const float *embedding; /* GK_EMBED, when it has finished: (n_embedding), the model's n_embd */
    size_t n_embedding;
    size_t n_prompt_done; /* prompt tokens processed so far */
    enum gk_guess guess;  /* of `token` */
    size_t n_more;        /* results of the same step that follow: drafted tokens were right */
};

/* Takes neither memory nor locks, but where a sequence has a constraint (grammar/match.h) and where
 * float weights go through OpenBLAS, which maps a buffer for each thread, once. Returns 0, or
 * GK_E_DATA_LOSS: every result is GK_FINISH_FAILED and the engine is lost. */
int gk_step(GkEngine *e, const struct gk_plan *plan, struct gk_result *ret_results);
/* The next of the sequence's results of the last step. False: there is none. */
bool gk_seq_next_result(GkSeq *seq, struct gk_result *ret);
/* Counts up whenever compute threads make progress inside a step (the watchdog's food). Any thread.
 */
uint64_t gk_engine_heartbeat(const GkEngine *e);
#define GK_KV_PAGE_POSITIONS 64
/* Pages of so many positions: those that nobody has or has reserved, and all there are. Worker
 * thread. */
void gk_engine_kv_pages(const GkEngine *e, uint64_t *ret_free, uint64_t *ret_total);

/* For tests and measuring: sees what the pass computes. Called on the worker thread inside
 * gk_step(), once per row. `name` is "attention", "router_probabilities", "moe", "feed_forward",
 * "hidden" (per layer) or "logits" (i_layer -1, every row, not only those that are sampled from).
 */
struct gk_observer {
    void (*on_row)(void *userdata, const GkSeq *seq, const char *name, int i_layer, size_t position,
                   const float *values, size_t n);
    void *userdata;
};
void gk_engine_observe(GkEngine *e, const struct gk_observer *observer); /* NULL: no more */
