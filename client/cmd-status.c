/* grokctl status, grokctl cancel. */
#include "client/command.h"

#include "base/human.h"

#include <stdio.h>

static json_t *json_status(const struct grokd_status_response *s) {
    json_t *models = json_array();

    for (size_t i = 0; i < s->n_models; i++)
        json_array_append_new(models, ctl_json_summary(s->models[i]));
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, "
        "s:b, "
        "s:o}",
        "version", s->version, "uptime_us", (json_int_t)s->uptime_us, "pid", (json_int_t)s->pid,
        "threads", (json_int_t)s->threads, "instruction_set", s->instruction_set, "connections",
        (json_int_t)s->connections, "requests_running", (json_int_t)s->requests_running,
        "requests_queued", (json_int_t)s->requests_queued, "requests_total",
        (json_int_t)s->requests_total, "requests_failed", (json_int_t)s->requests_failed,
        "prompt_tokens_total", (json_int_t)s->prompt_tokens_total, "generated_tokens_total",
        (json_int_t)s->generated_tokens_total, "steps_total", (json_int_t)s->steps_total,
        "resident_bytes", (json_int_t)s->resident_bytes, "kv_pages_used",
        (json_int_t)s->kv_pages_used, "kv_pages_total", (json_int_t)s->kv_pages_total, "kv_type",
        s->kv_type, "draining", s->draining, "models", models);
}

static void print_uptime(uint64_t us) {
    uint64_t seconds = us / 1000000, days = seconds / 86400;

    if (days > 0)
        (void)printf("%ju day%s ", (uintmax_t)days, days == 1 ? "" : "s");
    (void)printf("%02ju:%02ju:%02ju", (uintmax_t)(seconds / 3600 % 24),
                 (uintmax_t)(seconds / 60 % 60), (uintmax_t)(seconds % 60));
}

static void print_status(const struct grokd_status_response *s) {
    char memory[HUMAN_BYTES];

    (void)printf("grokd %s, pid %u%s, up ", s->version, s->pid, s->draining ? ", draining" : "");
    print_uptime(s->uptime_us);
    (void)printf("\n");
    (void)printf("compute      %u thread%s, %s\n", s->threads, s->threads == 1 ? "" : "s",
                 s->instruction_set);
    (void)printf("requests     %u running, %u queued; %ju in all, %ju failed\n",
                 s->requests_running, s->requests_queued, (uintmax_t)s->requests_total,
                 (uintmax_t)s->requests_failed);
    (void)printf("connections  %u\n", s->connections);
    (void)printf("tokens       %ju read, %ju generated, in %ju steps\n",
                 (uintmax_t)s->prompt_tokens_total, (uintmax_t)s->generated_tokens_total,
                 (uintmax_t)s->steps_total);
    (void)printf("memory       %s resident; %ju of %ju %s%sKV pages in use\n",
                 human_amount((double)s->resident_bytes, "B", memory), (uintmax_t)s->kv_pages_used,
                 (uintmax_t)s->kv_pages_total, s->kv_type, *s->kv_type ? " " : "");
    for (size_t i = 0; i < s->n_models; i++)
        (void)printf("%-11s  %s, %s%s%s%s\n", i == 0 ? "models" : "", s->models[i]->name,
                     grokd_model_state_name(s->models[i]->state),
                     s->models[i]->is_default ? ", the default" : "",
                     *s->models[i]->error ? ": " : "", s->models[i]->error);
}

static int run_status(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_status_response *answer;
    struct grokd_error error;
    int r;

    (void)state;
    if (argc > 0)
        return ctl_fail(EXIT_USAGE, "status takes no argument, not '%s'", argv[0]);
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_status(ctl->client, &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    if (ctl->json) {
        r = ctl_print_json(json_status(answer));
    } else {
        print_status(answer);
        r = ctl_flush();
    }
    grokd_free(answer);
    return r;
}

const struct command command_status = {
    .name = "status",
    .arguments = "",
    .summary = "Show the state of the daemon",
    .run = run_status,
};

static int run_cancel(Ctl *ctl, void *state, int argc, char **argv) {
    struct grokd_cancel_response *answer;
    struct grokd_error error;
    bool found;
    int r;

    (void)state;
    if (argc != 1)
        return ctl_fail(EXIT_USAGE, "cancel takes one request id");
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    if (grokd_cancel(ctl->client, argv[0], &answer, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    found = answer->found;
    grokd_free(answer);
    if (ctl->json)
        r = ctl_print_json(json_pack("{s:b}", "found", found));
    else if (!found)
        r = ctl_fail(EXIT_REFUSED, "no request '%s' of yours is running", argv[0]);
    return r != EXIT_OK ? r : found ? EXIT_OK : EXIT_REFUSED;
}

const struct command command_cancel = {
    .name = "cancel",
    .arguments = "ID",
    .summary = "End a running request by its request id",
    .run = run_cancel,
};
