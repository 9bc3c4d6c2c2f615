/* grokctl top: who uses what of the daemon, as a table, as JSON, or on a screen (top-screen.c). */
#include "client/top.h"

#include "base/human.h"
#include "base/macro.h"
#include "base/utf8.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_MS_DEFAULT 1000
#define INTERVAL_MS_MIN     100
#define INTERVAL_MS_MAX     60000
#define NAMES_MAX           64

/* ---- cells ---- */

/* Asking the system for a name can take long; a screen asks for the same ones again and again. */
static const char *user_name(uint32_t uid, char text[TOP_CELL_BYTES]) {
    static struct {
        uint32_t uid;
        char name[40];
    } known[NAMES_MAX];
    static size_t n_known;
    const struct passwd *user;
    size_t i = 0;

    while (i < n_known && known[i].uid != uid)
        i++;
    if (i == n_known) {
        i = n_known < NAMES_MAX ? n_known++ : 0;
        known[i].uid = uid;
        user = getpwuid(uid);
        if (user)
            (void)snprintf(known[i].name, sizeof(known[i].name), "%s", user->pw_name);
        else
            (void)snprintf(known[i].name, sizeof(known[i].name), "%u", uid);
    }
    (void)snprintf(text, TOP_CELL_BYTES, "%s", known[i].name);
    return text;
}

static void print_text(const char *from, size_t n_max, char text[TOP_CELL_BYTES]) {
    (void)utf8_printable(text, MIN(n_max + 1, (size_t)TOP_CELL_BYTES), from, strlen(from));
}

#define NUMBER_CELL(function, row_type, field, format, value_type)                                 \
    static void print_##function(const void *row, char text[TOP_CELL_BYTES]) {                     \
        (void)snprintf(text, TOP_CELL_BYTES, format, (value_type)((const row_type *)row)->field);  \
    }                                                                                              \
    static double value_##function(const void *row) {                                              \
        return (double)((const row_type *)row)->field;                                             \
    }
#define ACCOUNT(function, field)                                                                   \
    NUMBER_CELL(function, struct grokd_top_account, field, "%ju", uintmax_t)
#define SPEED(function, field)                                                                     \
    NUMBER_CELL(function, struct grokd_top_account, field, "%.1f", double)

ACCOUNT(connections, connections)
ACCOUNT(running, requests_running)
ACCOUNT(queued, requests_queued)
ACCOUNT(tokens, tokens_in_flight)
ACCOUNT(window, window_tokens)
ACCOUNT(pages, kv_pages)
SPEED(read_speed, prompt_tokens_per_s)
SPEED(generated_speed, generated_tokens_per_s)

static void print_bytes(const void *row, char text[TOP_CELL_BYTES]) {
    char human[HUMAN_BYTES];

    (void)human_amount((double)((const struct grokd_top_account *)row)->bytes, "B", human);
    (void)snprintf(text, TOP_CELL_BYTES, "%s", human);
}

static double value_bytes(const void *row) {
    return (double)((const struct grokd_top_account *)row)->bytes;
}

static void print_user(const void *row, char text[TOP_CELL_BYTES]) {
    const struct grokd_top_account *a = row;
    char name[TOP_CELL_BYTES], actor[TOP_CELL_BYTES];

    print_text(a->actor, 28, actor);
    (void)snprintf(text, TOP_CELL_BYTES, "%.32s%s%s", user_name(a->uid, name), *actor ? "/" : "",
                   actor);
}

static double value_user(const void *row) {
    return -(double)((const struct grokd_top_account *)row)->uid;
}

const struct top_column top_account_columns[] = {
    {"USER/ACTOR", -20, 'u', print_user, value_user},
    {"CONN", 5, 'c', print_connections, value_connections},
    {"RUN", 4, 'r', print_running, value_running},
    {"WAIT", 5, 'w', print_queued, value_queued},
    {"IN FLIGHT", 10, 't', print_tokens, value_tokens},
    {"WINDOW", 9, 'i', print_window, value_window},
    {"PAGES", 7, 'k', print_pages, value_pages},
    {"BYTES", 9, 'b', print_bytes, value_bytes},
    {"READ/S", 9, 'p', print_read_speed, value_read_speed},
    {"TOKENS/S", 9, 'g', print_generated_speed, value_generated_speed},
};
const size_t top_n_account_columns = ARRAY_SIZE(top_account_columns);

static void print_request_user(const void *row, char text[TOP_CELL_BYTES]) {
    const struct grokd_top_request *r = row;
    struct grokd_top_account account = {.uid = r->uid, .actor = r->actor};

    print_user(&account, text);
}

static void print_model(const void *row, char text[TOP_CELL_BYTES]) {
    print_text(((const struct grokd_top_request *)row)->model, 64, text);
}

static void print_state(const void *row, char text[TOP_CELL_BYTES]) {
    (void)snprintf(text, TOP_CELL_BYTES, "%s",
                   grokd_request_state_name(((const struct grokd_top_request *)row)->state));
}

static const char *priority_name(int priority) {
    return priority == GROKD_PRIORITY_INTERACTIVE ? "interactive"
           : priority == GROKD_PRIORITY_BATCH     ? "batch"
           : priority == GROKD_PRIORITY_NORMAL    ? "normal"
                                                  : "-";
}

static void print_priority(const void *row, char text[TOP_CELL_BYTES]) {
    (void)snprintf(text, TOP_CELL_BYTES, "%s",
                   priority_name(((const struct grokd_top_request *)row)->priority));
}

static void print_prompt(const void *row, char text[TOP_CELL_BYTES]) {
    const struct grokd_top_request *r = row;

    (void)snprintf(text, TOP_CELL_BYTES, "%u/%u", r->prompt_done, r->prompt_tokens);
}

static void print_generated(const void *row, char text[TOP_CELL_BYTES]) {
    const struct grokd_top_request *r = row;

    (void)snprintf(text, TOP_CELL_BYTES, "%u/%u", r->generated_tokens, r->max_tokens);
}

static void print_age(const void *row, char text[TOP_CELL_BYTES]) {
    (void)snprintf(text, TOP_CELL_BYTES, "%.1f s",
                   (double)((const struct grokd_top_request *)row)->age_us / 1e6);
}

static void print_id(const void *row, char text[TOP_CELL_BYTES]) {
    print_text(((const struct grokd_top_request *)row)->request_id, 64, text);
}

const struct top_column top_request_columns[] = {
    {"USER/ACTOR", -20, 0, print_request_user, NULL},
    {"MODEL", -14, 0, print_model, NULL},
    {"STATE", -8, 0, print_state, NULL},
    {"PRIORITY", -11, 0, print_priority, NULL},
    {"PROMPT", 13, 0, print_prompt, NULL},
    {"TOKENS", 11, 0, print_generated, NULL},
    {"AGE", 9, 0, print_age, NULL},
    {"ID", -32, 0, print_id, NULL},
};
const size_t top_n_request_columns = ARRAY_SIZE(top_request_columns);

/* ---- the header ---- */

static void print_models(const struct grokd_top *top, char line[256]) {
    size_t n = (size_t)snprintf(line, 256, "models  ");

    for (size_t i = 0; i < top->n_models && n < 256; i++) {
        const struct grokd_model_summary *m = top->models[i];

        n += (size_t)snprintf(line + n, 256 - n, "%s%s %s%s", i > 0 ? ", " : "", m->name,
                              grokd_model_state_name(m->state), m->pinned ? " (pinned)" : "");
    }
}

void top_print_header(const struct grokd_top *top, const struct grokd_top *before,
                      char lines[TOP_HEADER_LINES][256]) {
    uint64_t n_steps = top->steps_total - (before ? before->steps_total : 0);
    uint64_t steps_us = top->steps_us_total - (before ? before->steps_us_total : 0);
    uintmax_t seconds = top->uptime_us / 1000000;
    char memory[HUMAN_BYTES], step[32] = "-";

    if (n_steps > 0)
        (void)snprintf(step, sizeof(step), "%.1f ms", (double)steps_us / (double)n_steps / 1e3);
    (void)snprintf(lines[0], 256,
                   "grokd   up %ju:%02ju:%02ju%s; %u connections; %u requests running, %u waiting",
                   seconds / 3600, seconds / 60 % 60, seconds % 60,
                   top->draining ? ", draining" : "", top->connections, top->requests_running,
                   top->requests_queued);
    (void)snprintf(lines[1], 256,
                   "speed   %.1f tokens/s generated, %.1f/s read; step %s; "
                   "%ju of %ju KV pages; %s resident",
                   top->generated_tokens_per_s, top->prompt_tokens_per_s, step,
                   (uintmax_t)top->kv_pages_used, (uintmax_t)top->kv_pages_total,
                   human_amount((double)top->resident_bytes, "B", memory));
    print_models(top, lines[2]);
}

/* ---- order ---- */

static const struct top_column *sorted_by;

static int compare(const void *a, const void *b) {
    const struct grokd_top_account *const *x = a, *const *y = b;
    double vx = sorted_by->value(*x), vy = sorted_by->value(*y);

    if (vx != vy)
        return vx < vy ? 1 : -1;
    if ((*x)->uid != (*y)->uid)
        return (*x)->uid < (*y)->uid ? -1 : 1;
    return strcmp((*x)->actor, (*y)->actor);
}

const struct grokd_top_account **top_sort(const struct grokd_top *top,
                                          const struct top_column *column) {
    const struct grokd_top_account **rows = calloc(top->n_accounts + 1, sizeof(*rows));

    if (!rows)
        return NULL;
    for (size_t i = 0; i < top->n_accounts; i++)
        rows[i] = top->accounts[i];
    sorted_by = column;
    qsort(rows, top->n_accounts, sizeof(*rows), compare);
    return rows;
}

/* ---- the plain table ---- */

static void print_row(const struct top_column *columns, size_t n, const void *row) {
    for (size_t i = 0; i < n; i++) {
        char text[TOP_CELL_BYTES];

        if (row)
            columns[i].print(row, text);
        else
            (void)snprintf(text, sizeof(text), "%s", columns[i].title);
        (void)printf("%s%*s", i > 0 ? " " : "",
                     i + 1 < n || columns[i].width > 0 ? columns[i].width : 0, text);
    }
    (void)printf("\n");
}

static int print_table(const struct grokd_top *top) {
    const struct top_column *by = &top_account_columns[top_n_account_columns - 1];
    CLEANUP(freep) const struct grokd_top_account **rows = top_sort(top, by);
    char lines[TOP_HEADER_LINES][256];

    if (!rows)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    top_print_header(top, NULL, lines);
    for (size_t i = 0; i < TOP_HEADER_LINES; i++)
        (void)printf("%s\n", lines[i]);
    (void)printf("\n");
    print_row(top_account_columns, top_n_account_columns, NULL);
    for (size_t i = 0; i < top->n_accounts; i++)
        print_row(top_account_columns, top_n_account_columns, rows[i]);
    if (top->n_requests > 0) {
        (void)printf("\n");
        print_row(top_request_columns, top_n_request_columns, NULL);
    }
    for (size_t i = 0; i < top->n_requests; i++)
        print_row(top_request_columns, top_n_request_columns, top->requests[i]);
    return ctl_flush();
}

/* ---- JSON ---- */

static json_t *json_account(const struct grokd_top_account *a) {
    return json_pack(
        "{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "uid", (json_int_t)a->uid,
        "actor", a->actor, "connections", (json_int_t)a->connections, "requests_running",
        (json_int_t)a->requests_running, "requests_queued", (json_int_t)a->requests_queued, "bytes",
        (json_int_t)a->bytes, "tokens_in_flight", (json_int_t)a->tokens_in_flight, "window_tokens",
        (json_int_t)a->window_tokens, "kv_pages", (json_int_t)a->kv_pages, "prompt_tokens_per_s",
        a->prompt_tokens_per_s, "generated_tokens_per_s", a->generated_tokens_per_s);
}

static json_t *json_request(const struct grokd_top_request *r) {
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "uid",
                     (json_int_t)r->uid, "actor", r->actor, "method", r->method, "request_id",
                     r->request_id, "model", r->model, "state", grokd_request_state_name(r->state),
                     "priority", priority_name(r->priority), "prompt_tokens",
                     (json_int_t)r->prompt_tokens, "prompt_done", (json_int_t)r->prompt_done,
                     "generated_tokens", (json_int_t)r->generated_tokens, "max_tokens",
                     (json_int_t)r->max_tokens, "age_us", (json_int_t)r->age_us);
}

static json_t *json_top(const struct grokd_top *top) {
    json_t *models = json_array(), *accounts = json_array(), *requests = json_array();

    for (size_t i = 0; i < top->n_models; i++)
        json_array_append_new(models, ctl_json_summary(top->models[i]));
    for (size_t i = 0; i < top->n_accounts; i++)
        json_array_append_new(accounts, json_account(top->accounts[i]));
    for (size_t i = 0; i < top->n_requests; i++)
        json_array_append_new(requests, json_request(top->requests[i]));
    return json_pack(
        "{s:I, s:b, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "uptime_us",
        (json_int_t)top->uptime_us, "draining", top->draining, "connections",
        (json_int_t)top->connections, "requests_running", (json_int_t)top->requests_running,
        "requests_queued", (json_int_t)top->requests_queued, "prompt_tokens_per_s",
        top->prompt_tokens_per_s, "generated_tokens_per_s", top->generated_tokens_per_s,
        "kv_pages_used", (json_int_t)top->kv_pages_used, "kv_pages_total",
        (json_int_t)top->kv_pages_total, "steps_total", (json_int_t)top->steps_total,
        "steps_us_total", (json_int_t)top->steps_us_total, "resident_bytes",
        (json_int_t)top->resident_bytes, "models", models, "accounts", accounts, "requests",
        requests);
}

/* ---- the command ---- */

struct top {
    uint32_t interval_ms;
    bool once;
};

static const struct option_row options[] = {
    {0, "once", NULL, "print a table and exit", OPTION_FLAG, offsetof(struct top, once), 0},
    {'i', "interval", "SECONDS", "show it anew so often (default 1)", OPTION_SECONDS,
     offsetof(struct top, interval_ms), 0},
};

static int print_events(Ctl *ctl, grokd_call *call) {
    const struct grokd_event *event;
    struct grokd_error error;
    int r, got;

    while ((got = ctl_next(call, &event, &error)) == GROKD_NEXT_EVENT) {
        if (!event->top)
            continue;
        r = ctl->json ? ctl_print_json(json_top(event->top)) : print_table(event->top);
        if (r != EXIT_OK)
            return r;
    }
    if (ctl_interrupted())
        return EXIT_INTERRUPTED;
    return got == GROKD_NEXT_END ? EXIT_OK : ctl_fail_call(ctl, &error);
}

static int run_top(Ctl *ctl, void *state, int argc, char **argv) {
    const struct top *o = state;
    uint32_t interval_ms = o->interval_ms ? o->interval_ms : INTERVAL_MS_DEFAULT;
    bool on_screen = !o->once && !ctl->json;
    struct grokd_error error;
    grokd_call *call;
    int r;

    if (argc > 0)
        return ctl_fail(EXIT_USAGE, "top takes no argument, not '%s'", argv[0]);
    if (interval_ms < INTERVAL_MS_MIN || interval_ms > INTERVAL_MS_MAX)
        return ctl_fail(EXIT_USAGE, "--interval takes seconds from 0.1 to 60");
    if (on_screen && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)))
        return ctl_fail(EXIT_USAGE, "top needs a terminal; without one use --once or --json");
    r = ctl_connect(ctl);
    if (r != 0)
        return r;
    ctl_catch_interrupt();
    if (grokd_begin_top(ctl->client, o->once ? 0 : interval_ms, &call, &error) != GROKD_OK)
        return ctl_fail_call(ctl, &error);
    r = on_screen ? top_screen_run(ctl, call) : print_events(ctl, call);
    (void)grokd_call_free(call);
    return r;
}

const struct command command_top = {
    .name = "top",
    .arguments = "",
    .summary = "Watch who uses what",
    .options = options,
    .n_options = ARRAY_SIZE(options),
    .run = run_top,
    .state_size = sizeof(struct top),
};
