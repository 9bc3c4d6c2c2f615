/* grokctl models, show, load, unload. */
#include "client/command.h"

#include "base/human.h"
#include "base/macro.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What is to be said of a model's place in memory, "" where it is nothing. */
static const char *describe_use(const struct grokd_model_summary *m, char text[128]) {
    uintmax_t idle = m->idle_us / 1000000, keep = m->keep_alive_us / 1000000;
    int n = 0;

    text[0] = '\0';
    if (m->users > 0)
        n = snprintf(text, 128, "%u request%s", m->users, m->users == 1 ? "" : "s");
    else if (m->state == GROKD_MODEL_READY && m->keep_alive_us > 0 && !m->pinned)
        n = snprintf(text, 128, "idle for %ju of %ju s", idle, keep);
    else if (m->state == GROKD_MODEL_READY)
        n = snprintf(text, 128, "idle for %ju s", idle);
    else if (m->retry_us > 0)
        n = snprintf(text, 128, "tried again in %ju s at the earliest",
                     (uintmax_t)(m->retry_us + 999999) / 1000000);
    if (m->pinned)
        (void)snprintf(text + n, 128 - (size_t)n, "%spinned", n > 0 ? ", " : "");
    return text;
}

static int print_models(const Ctl *ctl, const struct grokd_list_models_response *answer) {
    json_t *models;

    if (ctl->json) {
        models = json_array();
        for (size_t i = 0; i < answer->n_models; i++)
            json_array_append_new(models, ctl_json_summary(answer->models[i]));
        return ctl_print_json(json_pack("{s:o}", "models", models));
    }
    if (answer->n_models == 0)
        (void)printf("grokd has no models.\n");
    else
        (void)printf("%-20s %-11s %-9s %11s %10s  %s\n", "NAME", "STATE", "KIND", "PARAMETERS",
                     "FILE", "USE");
    for (size_t i = 0; i < answer->n_models; i++) {
        const struct grokd_model_summary *m = answer->models[i];
        char parameters[HUMAN_BYTES] = "-", bytes[HUMAN_BYTES] = "-", use[128];

        if (m->parameters > 0)
            (void)human_amount((double)m->parameters, "", parameters);
        if (m->file_bytes > 0)
            (void)human_amount((double)m->file_bytes, "B", bytes);
        (void)describe_use(m, use);
        (void)printf("%-20s %-11s %-9s %11s %10s  %s%s%s%s\n", m->name,
                     grokd_model_state_name(m->state), *m->architecture ? m->architecture : "-",
                     parameters, bytes, use, m->is_default && *use ? ", " : "",
                     m->is_default ? "the default" : "", m->is_demo ? ", the bundled demo" : "");
        if (*m->error)
            (void)printf("    %s\n", m->error);
    }
    return ctl_flush();
}

static int run_models(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_list_models_response *answer;
    struct grokd_error error;
    int r;

    (void)state;
    if (argc > 0)
        return ctl_fail(EXIT_USAGE, "models takes no argument, not '%s'", argv[0]);
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_list_models(ctl->client, &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = print_models(ctl, answer);
    grokd_free(answer);
    return r;
}

const struct command command_models = {
    .name = "models",
    .arguments = "",
    .summary = "List the models that the daemon knows",
    .run = run_models,
};

/* ---- show ---- */

static json_t *json_show(const struct grokd_show_model_response *m) {
    json_t *o = json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "summary",
                          ctl_json_summary(m->summary), "title", m->title, "description",
                          m->description, "license", m->license, "weight_types", m->weight_types,
                          "chat_template", m->chat_template, "chat_template_name",
                          m->chat_template_name, "instruction_set", m->instruction_set);
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"parameters_per_expert", m->parameters_per_expert},
        {"parameters_active", m->parameters_active},
        {"half_precision_bytes", m->half_precision_bytes},
        {"active_bytes", m->active_bytes},
        {"kv_bytes_per_token", m->kv_bytes_per_token},
        {"kv_bytes_max", m->kv_bytes_max},
        {"layers", m->layers},
        {"experts", m->experts},
        {"experts_used", m->experts_used},
        {"embedding_size", m->embedding_size},
        {"feed_forward_size", m->feed_forward_size},
        {"heads", m->heads},
        {"kv_heads", m->kv_heads},
        {"head_size", m->head_size},
        {"vocabulary", m->vocabulary},
        {"context_trained", m->context_trained},
        {"context_max", m->context_max},
        {"resident_bytes", m->resident_bytes},
        {"huge_page_bytes", m->huge_page_bytes},
        {"locked_bytes", m->locked_bytes},
        {"numa_nodes", m->numa_nodes},
        {"home_bytes", m->home_bytes},
        {"away_bytes", m->away_bytes},
    };
    json_t *nodes = json_array();

    for (size_t i = 0; o && i < sizeof(numbers) / sizeof(numbers[0]); i++)
        json_object_set_new(o, numbers[i].name, json_integer((json_int_t)numbers[i].value));
    if (o) {
        json_object_set_new(o, "bos_token", json_integer(m->bos_token));
        json_object_set_new(o, "eos_token", json_integer(m->eos_token));
        json_object_set_new(o, "add_bos", json_boolean(m->add_bos));
        json_object_set_new(o, "kv_type", json_string(m->kv_type));
        for (size_t i = 0; i < m->n_node_bytes; i++)
            json_array_append_new(nodes, json_integer((json_int_t)m->node_bytes[i]));
        json_object_set(o, "node_bytes", nodes);
    }
    json_decref(nodes);
    return o;
}

static void print_row(const char *label, const char *value) {
    if (*value)
        (void)printf("%-26s %s\n", label, value);
}

static void print_amount(const char *label, uint64_t value, const char *unit) {
    char text[HUMAN_BYTES];

    print_row(label, human_amount((double)value, unit, text));
}

/* Where the file was when it had been loaded, and on which node where there are several. */
static void print_memory(const struct grokd_show_model_response *m) {
    char text[128], resident[HUMAN_BYTES], locked[HUMAN_BYTES], huge[HUMAN_BYTES];

    (void)snprintf(text, sizeof(text), "%s, %s locked, %s in huge pages",
                   human_amount((double)m->resident_bytes, "B", resident),
                   human_amount((double)m->locked_bytes, "B", locked),
                   human_amount((double)m->huge_page_bytes, "B", huge));
    print_row("in memory when loaded", text);
    if (m->numa_nodes > 0) {
        (void)snprintf(text, sizeof(text), "%u", m->numa_nodes);
        print_row("NUMA nodes", text);
    }
    for (size_t i = 0; m->numa_nodes > 1 && i < m->n_node_bytes; i++) {
        (void)snprintf(text, sizeof(text), "on node %zu", i);
        print_amount(text, m->node_bytes[i], "B");
    }
    if (m->home_bytes + m->away_bytes > 0) {
        (void)snprintf(text, sizeof(text), "%.1f %%",
                       100 * (double)m->home_bytes / (double)(m->home_bytes + m->away_bytes));
        print_row("on its threads' node", text);
    }
}

static void print_show(const struct grokd_show_model_response *m) {
    char text[128];

    print_row("name", m->summary->name);
    print_row("title", m->title);
    print_row("description", m->description);
    print_row("license", m->license);
    print_row("file", m->summary->path);
    print_row("state", grokd_model_state_name(m->summary->state));
    print_row("use", describe_use(m->summary, text));
    print_row("architecture", m->summary->architecture);
    print_row("weights", m->weight_types);
    print_amount("parameters", m->summary->parameters, "");
    if (m->experts > 0) {
        (void)snprintf(text, sizeof(text), "%u / %u", m->experts, m->experts_used);
        print_row("experts / used per token", text);
        print_amount("parameters per expert", m->parameters_per_expert, "");
    }
    print_amount("active per token", m->parameters_active, "");
    print_amount("file size", m->summary->file_bytes, "B");
    if (m->summary->state == GROKD_MODEL_READY)
        print_memory(m);
    print_amount("half-precision memory", m->half_precision_bytes, "B");
    print_amount("read per token", m->active_bytes, "B");
    (void)snprintf(text, sizeof(text), "%u", m->vocabulary);
    print_row("vocabulary", text);
    (void)snprintf(text, sizeof(text), "%u tokens, trained on %u", m->context_max,
                   m->context_trained);
    print_row("context", text);
    print_row("KV cache type", m->kv_type);
    print_amount("KV cache per token", m->kv_bytes_per_token, "B");
    print_amount("KV cache at most", m->kv_bytes_max, "B");
    (void)snprintf(text, sizeof(text), "%u of width %u, feed-forward %u", m->layers,
                   m->embedding_size, m->feed_forward_size);
    print_row("layers", text);
    (void)snprintf(text, sizeof(text), "%u query, %u key/value, of %u", m->heads, m->kv_heads,
                   m->head_size);
    print_row("attention heads", text);
    (void)snprintf(text, sizeof(text), "begin %d%s, end %d", m->bos_token,
                   m->add_bos ? " (put first)" : "", m->eos_token);
    print_row("special tokens", text);
    print_row("chat template", strcmp(m->chat_template_name, "model") == 0 ? "the model file's own"
                                                                           : m->chat_template_name);
    print_row("instruction set", m->instruction_set);
}

/* The model of a command that takes at most one: the argument, or --model. */
static int model_argument(const Ctl *ctl, int argc, char **argv, const char **ret) {
    if (argc > 1)
        return ctl_fail(EXIT_USAGE, "%s takes one model, and '%s' is one too many",
                        ctl->command->name, argv[1]);
    *ret = argc == 1 ? argv[0] : ctl->model;
    return 0;
}

static int run_show(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_show_model_response *answer;
    struct grokd_error error;
    const char *model = "";
    int r;

    (void)state;
    r = model_argument(ctl, argc, argv, &model);
    if (r != 0)
        return r;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_show_model(ctl->client, model, &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    if (ctl->json) {
        r = ctl_print_json(json_show(answer));
    } else {
        print_show(answer);
        r = ctl_flush();
    }
    grokd_free(answer);
    return r;
}

const struct command command_show = {
    .name = "show",
    .arguments = "[MODEL]",
    .summary = "Show every fact about a model",
    .run = run_show,
};

/* ---- load ---- */

static void draw_bar(const struct grokd_load_progress *p, const char *model) {
    char done[HUMAN_BYTES], total[HUMAN_BYTES], bar[CTL_BAR_BYTES];

    (void)fprintf(stderr, "\r%s %s %s of %s\033[K", model,
                  ctl_bar(p->done_bytes, p->total_bytes, bar),
                  human_amount((double)p->done_bytes, "B", done),
                  human_amount((double)p->total_bytes, "B", total));
}

static int print_load_event(const Ctl *ctl, const struct grokd_load_progress *p, const char *model,
                            bool draw) {
    char bytes[HUMAN_BYTES];
    json_t *o;

    if (ctl->json) {
        o = json_pack("{s:I, s:I}", "done_bytes", (json_int_t)p->done_bytes, "total_bytes",
                      (json_int_t)p->total_bytes);
        if (o && p->summary)
            json_object_set_new(o, "summary", ctl_json_summary(p->summary));
        return ctl_print_json(o);
    }
    if (draw)
        draw_bar(p, model);
    if (p->summary) {
        if (draw)
            (void)fputs("\r\033[K", stderr);
        (void)printf("%s is %s (%s)\n", p->summary->name, grokd_model_state_name(p->summary->state),
                     human_amount((double)p->summary->file_bytes, "B", bytes));
    }
    return ctl_flush();
}

static int follow_load(Ctl *ctl, grokd_call *call, const char *model) {
    bool draw = !ctl->quiet && !ctl->json && isatty(STDERR_FILENO);
    const struct grokd_event *event;
    struct grokd_error error;
    int r, got;

    while ((got = ctl_next(call, &event, &error)) == GROKD_NEXT_EVENT) {
        if (!event->load)
            continue;
        r = print_load_event(ctl, event->load, model, draw);
        if (r != EXIT_OK)
            return r;
    }
    if (got == GROKD_NEXT_END)
        return EXIT_OK;
    if (draw)
        (void)fputs("\r\033[K", stderr);
    if (ctl_interrupted())
        return ctl_fail(EXIT_INTERRUPTED, "interrupted; the daemon goes on loading %s", model);
    return ctl_fail_call(ctl, &error);
}

struct load {
    bool pin;
};

static const struct option_row load_options[] = {
    {0, "pin", NULL, "keep it in memory until it is unloaded", OPTION_FLAG,
     offsetof(struct load, pin), 0},
};

static int run_load(Ctl *ctl, void *state, int argc, char **argv) {
    const struct load *options = state;
    struct grokd_load_model_request request = GROKD_LOAD_MODEL_REQUEST_INIT;
    struct grokd_error error;
    grokd_call *call;
    int r;

    if (argc < 1 || argc > 2)
        return ctl_fail(EXIT_USAGE,
                        "load takes a model's name, and a path if the daemon doesn't know it");
    request.pin = options->pin;
    request.model = argv[0];
    request.path = argc == 2 ? argv[1] : NULL;
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    ctl_catch_interrupt();
    if (grokd_begin_load_model(ctl->client, &request, &call, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = follow_load(ctl, call, argv[0]);
    (void)grokd_call_free(call);
    return r;
}

const struct command command_load = {
    .name = "load",
    .arguments = "MODEL [PATH]",
    .summary = "Load a model",
    .options = load_options,
    .n_options = ARRAY_SIZE(load_options),
    .run = run_load,
    .state_size = sizeof(struct load),
};

static int run_unload(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_error error;
    int r;

    (void)state;
    if (argc != 1)
        return ctl_fail(EXIT_USAGE, "unload takes one model's name");
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_unload_model(ctl->client, argv[0], &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    return ctl->json ? ctl_print_json(json_pack("{s:s}", "unloaded", argv[0])) : EXIT_OK;
}

const struct command command_unload = {
    .name = "unload",
    .arguments = "MODEL",
    .summary = "Take a model out of memory",
    .run = run_unload,
};
