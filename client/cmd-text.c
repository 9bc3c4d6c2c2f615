/* grokctl score, tokenize, detokenize: texts that are looked at, not continued. */
#include "client/command.h"

#include "base/macro.h"

#include <stdio.h>
#include <string.h>

/* ---- score ---- */

struct score {
    struct text_options text;
    uint32_t n_top;
};

static const struct option_row score_options[] = {
    TEXT_FILE_ROW(struct score, text),
    {0, "logprobs", "N", "tell the best N alternatives of each token too", OPTION_U32,
     offsetof(struct score, n_top), 0},
    TEXT_BOS_ROWS(struct score, text),
    TEXT_REQUEST_ROWS(struct score, text),
};

static int print_score(const Ctl *ctl, const struct grokd_score_response *s) {
    if (ctl->json)
        return ctl_print_json(json_pack("{s:o, s:f, s:f, s:o}", "tokens",
                                        ctl_json_logprobs(s->tokens, s->n_tokens), "sum_logprob",
                                        s->sum_logprob, "perplexity", s->perplexity, "usage",
                                        s->usage ? ctl_json_usage(s->usage) : json_null()));
    ctl_print_logprobs(s->tokens, s->n_tokens);
    (void)printf("sum of log-probabilities %.4f, perplexity %.4f, %zu tokens\n", s->sum_logprob,
                 s->perplexity, s->n_tokens);
    return ctl_flush();
}

/* Waits for the answer with Ctrl-C at hand. */
static int follow_score(Ctl *ctl, grokd_call *call) {
    const struct grokd_event *event;
    struct grokd_error error;
    int got, r;

    while ((got = ctl_next(call, &event, &error)) == GROKD_NEXT_EVENT) {
        r = event->score ? print_score(ctl, event->score) : EXIT_OK;
        if (r != EXIT_OK)
            return r;
    }
    if (got == GROKD_NEXT_END)
        return EXIT_OK;
    return ctl_interrupted() ? ctl_fail(EXIT_INTERRUPTED, "cancelled") : ctl_fail_call(ctl, &error);
}

static int run_score(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_score_request request = GROKD_SCORE_REQUEST_INIT;
    CLEANUP(freep) int32_t *ids = NULL;
    CLEANUP(freep) char *text = NULL;
    const struct score *s = state;
    struct grokd_error error;
    grokd_call *call;
    int r;

    r = ctl_parse_priority(s->text.priority, &request.priority);
    if (r != 0)
        return r;
    r = ctl_read_prompt(&s->text, argc, argv, &text, &ids, &request.n_tokens);
    if (r != 0)
        return r;
    request.model = ctl->model;
    request.text = text;
    request.tokens = ids;
    request.top_logprobs = s->n_top;
    request.request_id = s->text.request_id;
    request.actor = s->text.actor;
    request.timeout_ms = s->text.timeout_ms;
    request.has_add_bos = s->text.bos || s->text.no_bos;
    request.add_bos = s->text.bos;
    request.parse_control = s->text.control;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    ctl_catch_interrupt();
    if (grokd_begin_score(ctl->client, &request, &call, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = follow_score(ctl, call);
    (void)grokd_call_free(call);
    return r;
}

const struct command command_score = {
    .name = "score",
    .arguments = "[TEXT]...",
    .summary = "Print the log-probability of each token of a text",
    .options = score_options,
    .n_options = ARRAY_SIZE(score_options),
    .run = run_score,
    .state_size = sizeof(struct score),
};

/* ---- tokenize ---- */

struct tokenize {
    struct text_options text;
    bool pieces;
};

static const struct option_row tokenize_options[] = {
    TEXT_FILE_ROW(struct tokenize, text),
    {'p', "pieces", NULL, "print a line for each token: id, tab, text", OPTION_FLAG,
     offsetof(struct tokenize, pieces), 0},
    TEXT_BOS_ROWS(struct tokenize, text),
};

static int print_tokens_json(const struct grokd_tokenize_response *t) {
    json_t *ids = json_array(), *pieces = json_array();

    for (size_t i = 0; i < t->n_ids; i++)
        json_array_append_new(ids, json_integer(t->ids[i]));
    for (size_t i = 0; i < t->n_pieces; i++)
        json_array_append_new(pieces, ctl_json_text(t->pieces[i].bytes, t->pieces[i].n));
    return ctl_print_json(json_pack("{s:o, s:o}", "ids", ids, "pieces", pieces));
}

static int print_tokens(const Ctl *ctl, const struct tokenize *o,
                        const struct grokd_tokenize_response *t) {
    if (ctl->json)
        return print_tokens_json(t);
    for (size_t i = 0; i < t->n_ids; i++) {
        if (o->pieces && i < t->n_pieces) {
            json_t *piece = ctl_json_text(t->pieces[i].bytes, t->pieces[i].n);

            (void)printf("%d\t", t->ids[i]);
            (void)json_dumpf(piece, stdout, JSON_ENCODE_ANY);
            (void)putchar('\n');
            json_decref(piece);
        } else {
            (void)printf("%s%d", i > 0 ? " " : "", t->ids[i]);
        }
    }
    if (!o->pieces)
        (void)putchar('\n');
    return ctl_flush();
}

static int run_tokenize(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_tokenize_request request = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_tokenize_response *answer;
    CLEANUP(freep) char *text = NULL;
    const struct tokenize *o = state;
    struct grokd_error error;
    int r;

    r = ctl_read_prompt(&o->text, argc, argv, &text, NULL, NULL);
    if (r != 0)
        return r;
    request.model = ctl->model;
    request.text = text;
    request.has_add_bos = o->text.bos || o->text.no_bos;
    request.add_bos = o->text.bos;
    request.parse_control = o->text.control;
    request.pieces = o->pieces;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_tokenize(ctl->client, &request, &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = print_tokens(ctl, o, answer);
    grokd_free(answer);
    return r;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .arguments = "[TEXT]...",
    .summary = "Print the token ids of a text",
    .options = tokenize_options,
    .n_options = ARRAY_SIZE(tokenize_options),
    .run = run_tokenize,
    .state_size = sizeof(struct tokenize),
};

/* ---- detokenize ---- */

struct detokenize {
    const char *file;
    bool control;
};

static const struct option_row detokenize_options[] = {
    {'f', "file", "PATH", "read the ids from a file (-: standard input)", OPTION_STRING,
     offsetof(struct detokenize, file), 0},
    {0, "control", NULL, "print control pieces instead of leaving them out", OPTION_FLAG,
     offsetof(struct detokenize, control), 0},
};

static int run_detokenize(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_detokenize_request request = GROKD_DETOKENIZE_REQUEST_INIT;
    struct grokd_detokenize_response *answer;
    CLEANUP(freep) int32_t *ids = NULL;
    CLEANUP(freep) char *text = NULL;
    const struct detokenize *o = state;
    struct grokd_error error;
    int r;

    r = ctl_read_text(o->file, argc, argv, &text);
    if (r != 0)
        return r;
    r = ctl_parse_ids(text, &ids, &request.n_ids);
    if (r != 0)
        return r;
    request.model = ctl->model;
    request.ids = ids;
    request.control = o->control;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_detokenize(ctl->client, &request, &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    if (ctl->json) {
        r = ctl_print_json(json_pack("{s:o}", "text", ctl_json_text(answer->text, answer->n_text)));
    } else {
        (void)fwrite(answer->text, 1, answer->n_text, stdout);
        r = ctl_flush();
    }
    grokd_free(answer);
    return r;
}

const struct command command_detokenize = {
    .name = "detokenize",
    .arguments = "[ID]...",
    .summary = "Print the text of token ids",
    .options = detokenize_options,
    .n_options = ARRAY_SIZE(detokenize_options),
    .run = run_detokenize,
    .state_size = sizeof(struct detokenize),
};
