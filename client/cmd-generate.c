/* grokctl generate: prints the continuation of a prompt as it comes. */
#include "client/command.h"

#include "base/macro.h"

#include <stdio.h>
#include <string.h>

#define LOGPROBS_MAX 20

struct generate {
    struct text_options text;
    struct sampling_options sampling;
    const char *json_schema, *regex, *grammar; /* the second is the source, the others name it */
    bool echo, share_prefix, has_logprobs;
};

#define AT(field) offsetof(struct generate, field)

static const struct option_row options[] = {
    TEXT_FILE_ROW(struct generate, text),
    SAMPLING_ROWS(struct generate, sampling),
    {0, "logprobs", "N", "tell log-probabilities, and N alternatives", OPTION_U32,
     AT(sampling.values.top_logprobs), AT(has_logprobs)},
    {0, "json-schema", "FILE|TEXT", "the text is JSON that is valid under this schema",
     OPTION_STRING, AT(json_schema), 0},
    {0, "regex", "RE", "the text matches this regular expression as a whole", OPTION_STRING,
     AT(regex), 0},
    {0, "grammar", "FILE", "the text is of this grammar in GBNF", OPTION_STRING, AT(grammar), 0},
    {0, "include-stop", NULL, "keep the stop string in the text", OPTION_FLAG,
     AT(sampling.values.include_stop), 0},
    {0, "echo", NULL, "print the prompt before its continuation", OPTION_FLAG, AT(echo), 0},
    {0, "share-prefix", NULL, "let others' requests reuse what is computed for the prompt",
     OPTION_FLAG, AT(share_prefix), 0},
    TEXT_BOS_ROWS(struct generate, text),
    TEXT_REQUEST_ROWS(struct generate, text),
};

/* ---- the request ---- */

/* A schema that is not the name of a file is an object. */
static int fill_constraint(const struct generate *g, struct grokd_generate_request *request,
                           char **ret_source) {
    int r = EXIT_OK;

    if ((g->json_schema != NULL) + (g->regex != NULL) + (g->grammar != NULL) > 1)
        return ctl_fail(EXIT_USAGE,
                        "only one of --json-schema, --regex and --grammar can be given");
    request->regex = g->regex;
    if (g->grammar)
        r = ctl_read_text(g->grammar, 0, NULL, ret_source);
    else if (g->json_schema && g->json_schema[strspn(g->json_schema, " \t\r\n")] != '{')
        r = ctl_read_text(g->json_schema, 0, NULL, ret_source);
    request->grammar = g->grammar ? *ret_source : NULL;
    request->json_schema = g->json_schema && *ret_source ? *ret_source : g->json_schema;
    return r;
}

/* ---- the answer ---- */

static void print_figures(const struct grokd_final *final) {
    const struct grokd_usage *u = final->usage;

    if (!u)
        return;
    (void)fprintf(stderr, "[%u prompt tokens in %.2f s, %.1f/s", u->prompt_tokens,
                  (double)u->prefill_us / 1e6,
                  ctl_rate(u->prompt_tokens - u->cached_tokens, u->prefill_us));
    if (u->cached_tokens > 0)
        (void)fprintf(stderr, ", %u cached", u->cached_tokens);
    (void)fprintf(stderr, "; %u generated in %.2f s, %.1f/s; ", u->generated_tokens,
                  (double)u->decode_us / 1e6,
                  ctl_rate(u->generated_tokens > 0 ? u->generated_tokens - 1 : 0, u->decode_us));
    if (u->drafted_tokens > 0)
        (void)fprintf(stderr, "%u of %u guesses right; ", u->accepted_tokens, u->drafted_tokens);
    if (u->queued_us >= 10000)
        (void)fprintf(stderr, "waited %.2f s; ", (double)u->queued_us / 1e6);
    if (u->seed != 0)
        (void)fprintf(stderr, "seed %ju; ", (uintmax_t)u->seed);
    (void)fprintf(stderr, "%s%s%s%s]\n", grokd_finish_reason_name(final->finish_reason),
                  *final->stop ? " at '" : "", final->stop, *final->stop ? "'" : "");
}

static json_t *json_chunk(const struct grokd_chunk *c) {
    json_t *o = json_pack("{s:o}", "text", ctl_json_text(c->text, strlen(c->text)));
    json_t *ids = json_array();

    for (size_t i = 0; i < c->n_token_ids; i++)
        json_array_append_new(ids, json_integer(c->token_ids[i]));
    json_object_set_new(o, "token_ids", ids);
    if (c->n_logprobs > 0)
        json_object_set_new(o, "logprobs", ctl_json_logprobs(c->logprobs, c->n_logprobs));
    return o;
}

static int print_json_event(const struct grokd_event *e) {
    json_t *o = json_pack("{s:I}", "seq", (json_int_t)e->seq);

    if (*e->request_id)
        json_object_set_new(o, "request_id", json_string(e->request_id));
    if (*e->model)
        json_object_set_new(o, "model", json_string(e->model));
    if (e->queued)
        json_object_set_new(o, "queued",
                            json_pack("{s:I, s:I}", "position", (json_int_t)e->queued->position,
                                      "estimated_wait_us",
                                      (json_int_t)e->queued->estimated_wait_us));
    if (e->prefill)
        json_object_set_new(o, "prefill",
                            json_pack("{s:I, s:I, s:I}", "done_tokens",
                                      (json_int_t)e->prefill->done_tokens, "total_tokens",
                                      (json_int_t)e->prefill->total_tokens, "cached_tokens",
                                      (json_int_t)e->prefill->cached_tokens));
    if (e->chunk)
        json_object_set_new(o, "chunk", json_chunk(e->chunk));
    if (e->final)
        json_object_set_new(
            o, "final",
            json_pack("{s:s, s:s, s:I, s:o}", "finish_reason",
                      grokd_finish_reason_name(e->final->finish_reason), "stop", e->final->stop,
                      "total_events", (json_int_t)e->final->total_events, "usage",
                      e->final->usage ? ctl_json_usage(e->final->usage) : json_null()));
    return ctl_print_json(o);
}

struct answer {
    const Ctl *ctl;
    bool table;                       /* log-probabilities in place of the text */
    bool at_line_start;               /* what was printed ended with a newline */
    uint32_t n_prompt, n_prompt_done; /* what a cancelled request had cost */
    uint64_t n_chunk_tokens;
    struct progress progress;
};

static int print_event(struct answer *a, const struct grokd_event *e) {
    if (e->prefill) {
        a->n_prompt_done = e->prefill->done_tokens;
        a->n_prompt = e->prefill->total_tokens;
    }
    if (e->chunk) {
        a->n_prompt_done = a->n_prompt;
        a->n_chunk_tokens += e->chunk->n_token_ids;
    }
    if (a->ctl->json)
        return print_json_event(e);
    progress_show(&a->progress, e);
    if (e->chunk) {
        size_t n = strlen(e->chunk->text);

        progress_clear(&a->progress);
        if (a->table) {
            ctl_print_logprobs(e->chunk->logprobs, e->chunk->n_logprobs);
        } else if (n > 0) {
            (void)fwrite(e->chunk->text, 1, n, stdout);
            a->at_line_start = e->chunk->text[n - 1] == '\n';
        }
    }
    if (e->final) {
        progress_clear(&a->progress);
        if (!a->at_line_start)
            (void)putchar('\n');
        if (!a->ctl->quiet) {
            (void)fflush(stdout);
            print_figures(e->final);
        }
    }
    return ctl_flush();
}

static int end_failed(struct answer *a, const struct grokd_error *error) {
    progress_clear(&a->progress);
    if (!a->ctl->json && !a->at_line_start) {
        (void)putchar('\n');
        (void)fflush(stdout);
    }
    if (!ctl_interrupted())
        return ctl_fail_call(a->ctl, error);
    if (a->ctl->json)
        (void)ctl_fail_call(a->ctl, error);
    return ctl_fail(EXIT_INTERRUPTED, "cancelled after %u prompt tokens and %ju generated",
                    a->n_prompt_done, (uintmax_t)a->n_chunk_tokens);
}

static int follow(Ctl *ctl, const struct generate *g, grokd_call *call) {
    struct answer a = {
        .ctl = ctl,
        .table = g->has_logprobs && !ctl->json,
        .at_line_start = true,
        .progress = {.wanted = !ctl->quiet && !ctl->json && isatty(STDERR_FILENO)},
    };
    const struct grokd_event *event;
    struct grokd_error error;
    int got, r;

    while ((got = ctl_next(call, &event, &error)) == GROKD_NEXT_EVENT) {
        r = print_event(&a, event);
        if (r != EXIT_OK)
            return r;
    }
    return got == GROKD_NEXT_END ? EXIT_OK : end_failed(&a, &error);
}

static int run(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    CLEANUP(freep) int32_t *ids = NULL;
    CLEANUP(freep) char *text = NULL, *constraint = NULL;
    struct generate *g = state;
    struct grokd_error error;
    grokd_call *call;
    int r;

    g->sampling.values.logprobs = g->has_logprobs;
    if (g->sampling.values.top_logprobs > LOGPROBS_MAX)
        return ctl_fail(EXIT_USAGE, "--logprobs takes a number up to %d, not %u", LOGPROBS_MAX,
                        g->sampling.values.top_logprobs);
    r = ctl_fill_sampling(&g->sampling);
    if (r != 0)
        return r;
    r = ctl_parse_priority(g->text.priority, &request.priority);
    if (r != 0)
        return r;
    r = fill_constraint(g, &request, &constraint);
    if (r != 0)
        return r;
    r = ctl_read_prompt(&g->text, argc, argv, &text, &ids, &request.n_tokens);
    if (r != 0)
        return r;
    request.model = ctl->model;
    request.text = text;
    request.tokens = ids;
    request.sampling = &g->sampling.values;
    request.request_id = g->text.request_id;
    request.actor = g->text.actor;
    request.timeout_ms = g->text.timeout_ms;
    request.has_add_bos = g->text.bos || g->text.no_bos;
    request.add_bos = g->text.bos;
    request.parse_control = g->text.control;
    request.echo = g->echo;
    request.share_prefix = g->share_prefix;
    request.token_ids = true; /* counted for what a cancelled request had cost */
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    ctl_catch_interrupt();
    if (grokd_begin_generate(ctl->client, &request, &call, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = follow(ctl, g, call);
    (void)grokd_call_free(call);
    return r;
}

const struct command command_generate = {
    .name = "generate",
    .arguments = "[PROMPT]...",
    .summary = "Print a model's continuation of a prompt",
    .details = "The prompt is taken from the arguments, --file or standard input, and nothing is "
               "added to it.",
    .options = options,
    .n_options = ARRAY_SIZE(options),
    .run = run,
    .state_size = sizeof(struct generate),
};
