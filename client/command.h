/*
 * grokctl's commands. One file a command (or a family), each exporting a `const struct command`;
 * client/grokctl.c holds the table and the shared options.
 */
#pragma once

#include "base/error.h"
#include "client/grokd.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* What grokctl exits with; grokctl(1) documents them. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_REFUSED = 1,      /* the daemon answered with an error, or the answer was cut short */
    EXIT_USAGE = 2,        /* the command line, or a file it names, is wrong */
    EXIT_UNREACHABLE = 3,  /* no daemon answers on the socket */
    EXIT_OUTPUT = 4,       /* standard output could not be written */
    EXIT_INTERRUPTED = 130 /* Ctrl-C */
};

/* Where a repeatable option keeps its values. */
#define OPTION_LIST_MAX 256
struct option_list {
    const char *values[OPTION_LIST_MAX];
    size_t n;
};

enum option_kind {
    OPTION_COMMON,  /* of grokctl itself */
    OPTION_FLAG,    /* bool */
    OPTION_STRING,  /* const char * */
    OPTION_LIST,    /* struct option_list */
    OPTION_U32,     /* uint32_t */
    OPTION_U64,     /* uint64_t */
    OPTION_FLOAT,   /* float */
    OPTION_SECONDS, /* uint32_t, milliseconds */
};

/* One option. The same row parses, prints --help, and is what the lint compares with the manual. */
struct option_row {
    char letter; /* 0: none */
    const char *name;
    const char *argument; /* NULL: takes none */
    const char *help;
    enum option_kind kind;
    size_t at;  /* offset of the value in the command's state */
    size_t has; /* offset of a bool that is set with it; 0: none */
};

typedef struct Ctl Ctl;

struct command {
    const char *name;
    const char *arguments; /* after the options, for the usage line */
    const char *summary;   /* one line */
    const char *details;   /* for `grokctl COMMAND --help`, may be NULL */
    const struct option_row *options;
    size_t n_options;
    /* The rest of the command line; returns an exit code. */
    int (*run)(Ctl *ctl, void *state, int argc, char **argv);
    size_t state_size; /* of the zero-filled `state` that the options fill; its first field is no
                          `has` */
};

extern const struct command command_chat, command_generate, command_score, command_embed,
    command_tokenize, command_detokenize, command_models, command_show, command_load,
    command_unload, command_status, command_top, command_cancel;

/* What every command gets. Owner: main(). */
struct Ctl {
    const struct command *command;
    const char *socket_path; /* NULL: the library's default */
    const char *model;       /* "": the daemon's default */
    bool json, quiet;
    grokd_client *client; /* NULL until ctl_connect() */
};

/* ---- helpers shared by the commands (client/ctl.c) ---- */

/* Connects once; says on standard error why not. Returns 0 or EXIT_UNREACHABLE. */
int ctl_connect(Ctl *ctl);
/* "grokctl: sentence" on standard error. Returns `code`, so that `return ctl_fail(...)` works. */
#define ctl_fail(code, ...) (ctl_complain(__VA_ARGS__), error_value(code))
void ctl_complain(const char *format, ...) PRINTF_FORMAT(1, 2);
/* The same for a failed call: the daemon's own sentence, or in --json an object with code and
 * message. */
int ctl_fail_call(const Ctl *ctl, const struct grokd_error *error);
/* Waits for the next event of a call; Ctrl-C cancels the call once and goes on waiting for its end.
 * As grokd_call_next(), but never GROKD_NEXT_WAIT. */
int ctl_next(grokd_call *call, const struct grokd_event **ret_event, struct grokd_error *error);
/* Prints the object as one line and releases it. Returns EXIT_OK or EXIT_OUTPUT. */
int ctl_print_json(json_t *object);
/* Flushes standard output. Returns EXIT_OK or EXIT_OUTPUT. */
int ctl_flush(void);
/* Text for a command: the arguments joined by spaces; `path` where given ("-": standard input);
 * standard input where neither is there. *ret is malloc()ed. */
int ctl_read_text(const char *path, int argc, char **argv, char **ret);
/* Token ids separated by blanks or commas. *ret is malloc()ed. */
int ctl_parse_ids(const char *text, int32_t **ret, size_t *ret_n);
/* The options by which a text is given, shared by the commands that take one. */
struct text_options {
    const char *file;
    bool tokens, bos, no_bos, control;
    uint32_t timeout_ms;
    const char *request_id, *actor, *priority;
};
#define TEXT_FILE_ROW(s, f)                                                                        \
    {                                                                                              \
        'f', "file", "PATH", "read the text from a file (-: standard input)", OPTION_STRING,       \
            offsetof(s, f.file), 0                                                                 \
    }
#define TEXT_BOS_ROWS(s, f)                                                                        \
    {0, "bos", NULL, "begin with the begin-of-text token", OPTION_FLAG, offsetof(s, f.bos), 0},    \
        {0, "no-bos", NULL, "never begin with it", OPTION_FLAG, offsetof(s, f.no_bos), 0}, {       \
        0, "control", NULL, "let control pieces in the text match", OPTION_FLAG,                   \
            offsetof(s, f.control), 0                                                              \
    }
#define TEXT_REQUEST_ROWS(s, f)                                                                    \
    {0, "tokens", NULL, "the text is a list of token ids", OPTION_FLAG, offsetof(s, f.tokens), 0}, \
        {0,                                                                                        \
         "timeout",                                                                                \
         "SECONDS",                                                                                \
         "give up after so long",                                                                  \
         OPTION_SECONDS,                                                                           \
         offsetof(s, f.timeout_ms),                                                                \
         0},                                                                                       \
        {0,                                                                                        \
         "actor",                                                                                  \
         "NAME",                                                                                   \
         "on whose behalf: its share of your limits is kept apart",                                \
         OPTION_STRING,                                                                            \
         offsetof(s, f.actor),                                                                     \
         0},                                                                                       \
        {0,                                                                                        \
         "priority",                                                                               \
         "CLASS",                                                                                  \
         "interactive, normal or batch",                                                           \
         OPTION_STRING,                                                                            \
         offsetof(s, f.priority),                                                                  \
         0},                                                                                       \
    {                                                                                              \
        0, "request-id", "ID", "a name by which `cancel` finds the request", OPTION_STRING,        \
            offsetof(s, f.request_id), 0                                                           \
    }
/* One of enum grokd_priority by its name (NULL: unspecified), or EXIT_USAGE. */
int ctl_parse_priority(const char *text, int *ret);
/* Reads the text, and turns it into ids with --tokens (else *ret_ids is NULL). Both are malloc()ed.
 */
int ctl_read_prompt(const struct text_options *o, int argc, char **argv, char **ret_text,
                    int32_t **ret_ids, size_t *ret_n_ids);

/* The options of how tokens are chosen, shared by the commands that generate (client/sampling.c).
 */
struct sampling_options {
    struct grokd_sampling values;
    struct option_list stop, stop_tokens, banned, logit_bias;
    int32_t stop_token_ids[OPTION_LIST_MAX];
    struct grokd_logit_bias biases[OPTION_LIST_MAX];
};
/* clang-format off */
#define SAMPLING_AT(s, f, field) offsetof(s, f.values.field), offsetof(s, f.values.has_##field)
#define SAMPLING_ROWS(s, f) \
    {'n', "max-tokens", "N", "stop after N tokens", \
     OPTION_U32, SAMPLING_AT(s, f, max_tokens)}, \
    {'t', "temperature", "T", "sample with this temperature (0: greedy)", \
     OPTION_FLOAT, SAMPLING_AT(s, f, temperature)}, \
    {0, "top-k", "K", "sample from the K most probable tokens (0: off)", \
     OPTION_U32, SAMPLING_AT(s, f, top_k)}, \
    {0, "top-p", "P", "sample from the best tokens that make up P (1: off)", \
     OPTION_FLOAT, SAMPLING_AT(s, f, top_p)}, \
    {0, "min-p", "P", "sample from tokens at least P times the best (0: off)", \
     OPTION_FLOAT, SAMPLING_AT(s, f, min_p)}, \
    {0, "repetition-penalty", "X", "divide the logits of tokens seen by X (1: off)", \
     OPTION_FLOAT, SAMPLING_AT(s, f, repetition_penalty)}, \
    {0, "presence-penalty", "X", "subtract X for tokens generated before", \
     OPTION_FLOAT, SAMPLING_AT(s, f, presence_penalty)}, \
    {0, "frequency-penalty", "X", "subtract X for each time generated", \
     OPTION_FLOAT, SAMPLING_AT(s, f, frequency_penalty)}, \
    {0, "seed", "N", "the same seed gives the same text", \
     OPTION_U64, SAMPLING_AT(s, f, seed)}, \
    {0, "stop", "STRING", "end the text before STRING (repeatable)", \
     OPTION_LIST, offsetof(s, f.stop), 0}, \
    {0, "stop-token", "ID", "end the text at this token (repeatable)", \
     OPTION_LIST, offsetof(s, f.stop_tokens), 0}, \
    {0, "ban", "STRING", "never let STRING appear (repeatable)", \
     OPTION_LIST, offsetof(s, f.banned), 0}, \
    {0, "logit-bias", "ID=BIAS", "add BIAS to a token's logit (repeatable)", \
     OPTION_LIST, offsetof(s, f.logit_bias), 0}, \
    {0, "ignore-eos", NULL, "go on after the end-of-text token", \
     OPTION_FLAG, offsetof(s, f.values.ignore_eos), 0}
/* clang-format on */
/* Makes `values` of what the options say. Returns 0 or EXIT_USAGE. */
int ctl_fill_sampling(struct sampling_options *o);

/* Sets what the row describes in the command's state. `value` stays the caller's; it is NULL for an
 * option without an argument. Returns 0 or EXIT_USAGE. (client/grokctl.c) */
int ctl_set_option(const struct option_row *row, void *state, const char *value);

/* Numbers from the command line; EXIT_USAGE names the option and the text that is not one. */
int ctl_parse_u32(const char *option, const char *text, uint32_t *ret);
int ctl_parse_u64(const char *option, const char *text, uint64_t *ret);
int ctl_parse_i32(const char *option, const char *text, int32_t *ret);
int ctl_parse_float(const char *option, const char *text, float *ret);
/* "[####    ]" */
#define CTL_BAR_BYTES 35
const char *ctl_bar(uint64_t done, uint64_t total, char buffer[CTL_BAR_BYTES]);

/* What standard error shows while a Generate has no text yet (client/progress.c). */
struct progress {
    bool wanted; /* only ever on a terminal */
    bool shown;
    uint64_t begun_us; /* when n_begun tokens of the prompt were done */
    uint32_t n_begun;
};
/* For every event; what is no news of this kind is left alone. */
void progress_show(struct progress *p, const struct grokd_event *event);
/* Before anything else is written. */
void progress_clear(struct progress *p);
/* The fields that several answers share. */
json_t *ctl_json_summary(const struct grokd_model_summary *m);
json_t *ctl_json_usage(const struct grokd_usage *u);
json_t *ctl_json_logprobs(const struct grokd_token_logprobs *tokens, size_t n);
/* A line a token: log-probability, id, text, then the alternatives. */
void ctl_print_logprobs(const struct grokd_token_logprobs *tokens, size_t n);
/* A string that JSON can hold: bytes that are not UTF-8 become U+FFFD. */
json_t *ctl_json_text(const char *bytes, size_t n);
/* Ctrl-C: the first sets the flag and interrupts a blocking wait, a second ends the program. */
void ctl_catch_interrupt(void);
bool ctl_interrupted(void);
/* After that: whether Ctrl-C ends a read from standard input, too. */
void ctl_interrupt_reads(bool are_ended);
/* For commands that go on after what was interrupted: forgets it. From then on it takes a few more
 * to end the program. */
void ctl_clear_interrupt(void);
/* Tokens a second. */
double ctl_rate(uint64_t n, uint64_t us);
