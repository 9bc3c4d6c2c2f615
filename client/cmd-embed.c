/* grokctl embed: prints a vector for each of several texts. */
#include "client/command.h"

#include "base/macro.h"

#include <stdio.h>
#include <string.h>

#define INPUTS_MAX 256

struct embed {
    struct text_options text;
    const char *pooling;
    bool lines, no_normalize;
};

static const struct option_row options[] = {
    TEXT_FILE_ROW(struct embed, text),
    {0, "lines", NULL, "each line of the file is a text of its own", OPTION_FLAG,
     offsetof(struct embed, lines), 0},
    {0, "pooling", "KIND", "the vector is of the mean token, or the last", OPTION_STRING,
     offsetof(struct embed, pooling), 0},
    {0, "no-normalize", NULL, "leave vectors as long as they are", OPTION_FLAG,
     offsetof(struct embed, no_normalize), 0},
    TEXT_BOS_ROWS(struct embed, text),
    TEXT_REQUEST_ROWS(struct embed, text),
};

/* ---- the texts ---- */

struct texts {
    char *file; /* what `lines` point into */
    struct grokd_input inputs[INPUTS_MAX];
    int32_t *ids[INPUTS_MAX];
    size_t n;
};

static void texts_free(struct texts *t) {
    if (!t)
        return;
    for (size_t i = 0; i < t->n; i++)
        free(t->ids[i]);
    free(t->file);
    free(t);
}

static inline void texts_freep(struct texts **t) {
    texts_free(*t);
}

static int add_text(struct texts *t, const char *text, bool is_ids) {
    size_t i = t->n;

    if (i == INPUTS_MAX)
        return ctl_fail(EXIT_USAGE, "more than %d texts", INPUTS_MAX);
    t->n++;
    t->inputs[i].text = text;
    if (!is_ids)
        return 0;
    t->inputs[i].text = NULL;
    return ctl_parse_ids(text, &t->ids[i], &t->inputs[i].n_tokens);
}

/* The arguments; without any, the file or standard input, as one text or by its lines. */
static int read_texts(const struct embed *o, int argc, char **argv, struct texts *t) {
    int r = 0;

    if (argc > 0 && o->text.file)
        return ctl_fail(EXIT_USAGE, "give the texts as arguments or with --file, not both");
    for (int i = 0; i < argc && r == 0; i++)
        r = add_text(t, argv[i], o->text.tokens);
    if (argc == 0) {
        r = ctl_read_text(o->text.file, 0, NULL, &t->file);
        if (r == 0 && !o->lines)
            r = add_text(t, t->file, o->text.tokens);
        for (char *at = t->file, *line; r == 0 && o->lines && (line = strsep(&at, "\n"));)
            if (*line)
                r = add_text(t, line, o->text.tokens);
    }
    for (size_t i = 0; i < t->n; i++)
        t->inputs[i].tokens = t->ids[i];
    return r;
}

static int read_pooling(const char *name, int *ret) {
    *ret = GROKD_POOLING_UNSPECIFIED;
    if (name && strcmp(name, "mean") == 0)
        *ret = GROKD_POOLING_MEAN;
    else if (name && strcmp(name, "last") == 0)
        *ret = GROKD_POOLING_LAST;
    else if (name)
        return ctl_fail(EXIT_USAGE, "--pooling takes mean or last, not '%s'", name);
    return 0;
}

/* ---- the answer ---- */

static int print_json(const struct grokd_embed_response *a) {
    json_t *embeddings = json_array(), *tokens = json_array();

    for (size_t i = 0; i < a->n_embeddings; i++) {
        const struct grokd_embedding *e = &a->embeddings[i];
        json_t *values = json_array();

        for (size_t k = 0; k < e->n_values; k++)
            json_array_append_new(values, json_real((double)e->values[k]));
        json_array_append_new(embeddings, values);
        json_array_append_new(tokens, json_integer(e->n_tokens));
    }
    return ctl_print_json(json_pack("{s:o, s:o, s:o}", "embeddings", embeddings, "tokens", tokens,
                                    "usage", ctl_json_usage(a->usage)));
}

static int print_embeddings(const Ctl *ctl, const struct grokd_embed_response *a) {
    if (ctl->json)
        return print_json(a);
    for (size_t i = 0; i < a->n_embeddings; i++)
        for (size_t k = 0; k < a->embeddings[i].n_values; k++)
            (void)printf("%.9g%c", (double)a->embeddings[i].values[k],
                         k + 1 < a->embeddings[i].n_values ? ' ' : '\n');
    return ctl_flush();
}

/* Waits for the answer with Ctrl-C at hand. */
static int follow(Ctl *ctl, grokd_call *call) {
    const struct grokd_event *event;
    struct grokd_error error;
    int got, r;

    while ((got = ctl_next(call, &event, &error)) == GROKD_NEXT_EVENT) {
        r = event->embed ? print_embeddings(ctl, event->embed) : EXIT_OK;
        if (r != EXIT_OK)
            return r;
    }
    if (got == GROKD_NEXT_END)
        return EXIT_OK;
    return ctl_interrupted() ? ctl_fail(EXIT_INTERRUPTED, "cancelled") : ctl_fail_call(ctl, &error);
}

static int run(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_embed_request request = GROKD_EMBED_REQUEST_INIT;
    CLEANUP(texts_freep) struct texts *texts = calloc(1, sizeof(*texts));
    const struct embed *o = state;
    struct grokd_error error;
    grokd_call *call;
    int r;

    if (!texts)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    r = read_pooling(o->pooling, &request.pooling);
    if (r == 0)
        r = ctl_parse_priority(o->text.priority, &request.priority);
    if (r == 0)
        r = read_texts(o, argc, argv, texts);
    if (r != 0)
        return r;
    request.model = ctl->model;
    request.inputs = texts->inputs;
    request.n_inputs = texts->n;
    request.has_normalize = o->no_normalize;
    request.request_id = o->text.request_id;
    request.timeout_ms = o->text.timeout_ms;
    request.has_add_bos = o->text.bos || o->text.no_bos;
    request.add_bos = o->text.bos;
    request.parse_control = o->text.control;
    request.actor = o->text.actor;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    ctl_catch_interrupt();
    if (grokd_begin_embed(ctl->client, &request, &call, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = follow(ctl, call);
    (void)grokd_call_free(call);
    return r;
}

const struct command command_embed = {
    .name = "embed",
    .arguments = "[TEXT]...",
    .summary = "Print a vector for each text",
    .details = "Each argument is a text; without one, --file or standard input is.",
    .options = options,
    .n_options = ARRAY_SIZE(options),
    .run = run,
    .state_size = sizeof(struct embed),
};
