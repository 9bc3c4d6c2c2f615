/*
 * grokctl chat: a conversation, at a terminal or line by line from a file.
 *
 * Each turn sends the whole conversation: the daemon keeps none. What it has computed for the turns
 * before is in its cache, so a turn costs what is new in it.
 */
#include "client/chat.h"

#include "base/macro.h"
#include "base/utf8.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct chat_options {
    struct sampling_options sampling;
    const char *system, *load, *template, *priority, *actor;
    uint32_t timeout_ms;
};

#define AT(field) offsetof(struct chat_options, field)

static const struct option_row options[] = {
    {0, "system", "TEXT", "say this to the model first", OPTION_STRING, AT(system), 0},
    {'l', "load", "FILE", "go on with a conversation that was saved", OPTION_STRING, AT(load), 0},
    {0, "template", "NAME", "the chat template: a name, or a text in Jinja", OPTION_STRING,
     AT(template), 0},
    SAMPLING_ROWS(struct chat_options, sampling),
    {0, "timeout", "SECONDS", "give an answer up after so long", OPTION_SECONDS, AT(timeout_ms), 0},
    {0, "priority", "CLASS", "interactive (as it is), normal or batch", OPTION_STRING, AT(priority),
     0},
    {0, "actor", "NAME", "on whose behalf: its accounts are apart from your others'", OPTION_STRING,
     AT(actor), 0},
};

typedef struct Chat {
    Ctl *ctl;
    struct chat_options *options;
    Conversation conversation;
    int priority;
    bool is_terminal;
    bool dims; /* figures on standard error in a dim colour */
    bool is_over;
    char **texts; /* that options point to */
    size_t n_texts;
} Chat;

/* ---- an answer ---- */

struct turn {
    const Chat *chat;
    char *text;
    size_t n;
    FILE *out; /* writes the text */
    bool has_begun, at_line_start;
    struct progress progress;
};

/* Terminals obey control characters, so a model's are shown as U+FFFD. */
static void print_safely(const Chat *chat, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool is_safe = (uint8_t)text[i] >= 0x20 || text[i] == '\n' || text[i] == '\t';

        if (text[i] == 0x7f || (chat->is_terminal && !is_safe))
            (void)fputs("\xEF\xBF\xBD", stdout);
        else
            (void)putchar(text[i]);
    }
}

/* The blank that separates the answer from the prompt is no part of the message. */
static void take_text(struct turn *t, const char *text) {
    if (!t->has_begun)
        text += strspn(text, " \n");
    if (!*text)
        return;
    progress_clear(&t->progress);
    t->has_begun = true;
    (void)fputs(text, t->out);
    if (t->chat->ctl->json)
        return;
    print_safely(t->chat, text, strlen(text));
    t->at_line_start = text[strlen(text) - 1] == '\n';
    (void)ctl_flush();
}

static void end_line(struct turn *t) {
    progress_clear(&t->progress);
    if (!t->at_line_start && !t->chat->ctl->json) {
        (void)putchar('\n');
        (void)fflush(stdout);
    }
    t->at_line_start = true;
}

static void print_figures(const Chat *chat, const struct grokd_final *f) {
    const struct grokd_usage *u = f->usage;
    bool is_cut = f->finish_reason == GROKD_FINISH_LENGTH;

    if (chat->ctl->quiet || chat->ctl->json)
        return;
    (void)fprintf(stderr, "%s[%u tokens, %.1f/s; prompt %u, %u of them cached, %.2f s%s]%s\n",
                  chat->dims ? "\033[2m" : "", u->generated_tokens,
                  ctl_rate(u->generated_tokens > 0 ? u->generated_tokens - 1 : 0, u->decode_us),
                  u->prompt_tokens, u->cached_tokens, (double)u->prefill_us / 1e6,
                  is_cut ? "; cut off by max-tokens or the context" : "",
                  chat->dims ? "\033[0m" : "");
}

static int print_json(const struct turn *t, const struct grokd_final *f) {
    return ctl_print_json(json_pack("{s:s, s:o, s:s, s:o}", "role", "assistant", "content",
                                    ctl_json_text(t->text, t->n), "finish_reason",
                                    grokd_finish_reason_name(f->finish_reason), "usage",
                                    ctl_json_usage(f->usage)));
}

static int take_final(struct turn *t, const struct grokd_final *f) {
    end_line(t);
    (void)fflush(t->out);
    print_figures(t->chat, f);
    return t->chat->ctl->json ? print_json(t, f) : EXIT_OK;
}

/* A connection that was lost is made anew for the next turn. */
static int fail(Chat *chat, struct turn *t, const struct grokd_error *error) {
    end_line(t);
    if (error->code == GROKD_UNAVAILABLE)
        chat->ctl->client = grokd_client_free(chat->ctl->client);
    if (!ctl_interrupted())
        return ctl_fail_call(chat->ctl, error);
    if (!chat->is_terminal)
        return ctl_fail(EXIT_INTERRUPTED, "cancelled");
    if (!chat->ctl->quiet)
        (void)fprintf(stderr, "%s[interrupted]%s\n", chat->dims ? "\033[2m" : "",
                      chat->dims ? "\033[0m" : "");
    return EXIT_INTERRUPTED;
}

static int follow(Chat *chat, struct turn *t, grokd_call *call) {
    const struct grokd_event *event;
    struct grokd_error error = {0};
    int got, r = EXIT_OK;

    while (r == EXIT_OK && (got = ctl_next(call, &event, &error)) != GROKD_NEXT_END) {
        if (got == GROKD_NEXT_FAILED)
            return fail(chat, t, &error);
        progress_show(&t->progress, event);
        if (event->chunk)
            take_text(t, event->chunk->text);
        if (event->final)
            r = take_final(t, event->final);
    }
    return r;
}

static int begin(Chat *chat, grokd_call **ret) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    struct chat_options *o = chat->options;
    struct grokd_error error = {0};
    int r;

    r = ctl_connect(chat->ctl);
    if (r != 0)
        return r;
    request.model = chat->ctl->model;
    request.messages = chat->conversation.messages;
    request.n_messages = chat->conversation.n;
    request.chat_template = o->template;
    request.sampling = &o->sampling.values;
    request.timeout_ms = o->timeout_ms;
    request.priority = chat->priority;
    request.actor = o->actor;
    if (grokd_begin_generate(chat->ctl->client, &request, ret, &error) == GROKD_OK)
        return 0;
    r = ctl_fail_call(chat->ctl, &error);
    if (error.code == GROKD_UNAVAILABLE)
        chat->ctl->client = grokd_client_free(chat->ctl->client);
    return r;
}

/* Answers the conversation, which ends with what the user said. What came before an interruption
 * stays; where nothing came, the user's turn goes, too. */
static int answer(Chat *chat) {
    struct turn t = {.chat = chat, .at_line_start = true};
    grokd_call *call = NULL;
    int r;

    t.progress.wanted = !chat->ctl->quiet && !chat->ctl->json && isatty(STDERR_FILENO);
    t.out = open_memstream(&t.text, &t.n);
    if (!t.out)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    ctl_clear_interrupt();
    r = begin(chat, &call);
    if (r == 0)
        r = follow(chat, &t, call);
    (void)grokd_call_free(call);
    if (fclose(t.out) != 0)
        r = r != EXIT_OK ? r : ctl_fail(EXIT_REFUSED, "out of memory");
    if (r == EXIT_OK || t.n > 0) {
        if (!conversation_add(&chat->conversation, "assistant", t.text ? t.text : ""))
            r = ctl_fail(EXIT_REFUSED, "out of memory");
    } else {
        conversation_drop(&chat->conversation, 1);
    }
    free(t.text);
    return r;
}

static int say(Chat *chat, const char *text) {
    if (!conversation_add(&chat->conversation, "user", text))
        return ctl_fail(EXIT_REFUSED, "out of memory");
    return answer(chat);
}

/* ---- commands ---- */

static bool last_is(const Chat *chat, const char *role) {
    const Conversation *c = &chat->conversation;

    return c->n > 0 && strcmp(c->messages[c->n - 1].role, role) == 0;
}

static int run_clear(Chat *chat, const char *text) {
    (void)text;
    conversation_drop(&chat->conversation,
                      chat->conversation.n - (conversation_system(&chat->conversation) != NULL));
    return 0;
}

static int run_undo(Chat *chat, const char *text) {
    (void)text;
    if (last_is(chat, "assistant"))
        conversation_drop(&chat->conversation, 1);
    if (!last_is(chat, "user"))
        return ctl_fail(EXIT_USAGE, "there is nothing to undo");
    conversation_drop(&chat->conversation, 1);
    return 0;
}

static int run_retry(Chat *chat, const char *text) {
    (void)text;
    if (last_is(chat, "assistant"))
        conversation_drop(&chat->conversation, 1);
    if (!last_is(chat, "user"))
        return ctl_fail(EXIT_USAGE, "there is nothing to answer again");
    return answer(chat);
}

static int run_history(Chat *chat, const char *text) {
    (void)text;
    for (size_t i = 0; i < chat->conversation.n; i++) {
        const struct grokd_message *m = &chat->conversation.messages[i];

        (void)printf("%s: ", m->role);
        print_safely(chat, m->content, strlen(m->content));
        (void)putchar('\n');
    }
    return ctl_flush();
}

static int run_system(Chat *chat, const char *text) {
    const char *system = conversation_system(&chat->conversation);

    if (!*text) {
        (void)printf("%s\n", system ? system : "(none)");
        return ctl_flush();
    }
    if (!conversation_set_system(&chat->conversation, strcmp(text, "none") == 0 ? "" : text))
        return ctl_fail(EXIT_REFUSED, "out of memory");
    return 0;
}

static int run_save(Chat *chat, const char *text) {
    if (!*text)
        return ctl_fail(EXIT_USAGE, "/save takes a file");
    return conversation_save(&chat->conversation, chat->ctl->model, text);
}

static int run_load(Chat *chat, const char *text) {
    if (!*text)
        return ctl_fail(EXIT_USAGE, "/load takes a file");
    return conversation_load(&chat->conversation, text);
}

static int run_quit(Chat *chat, const char *text) {
    (void)text;
    chat->is_over = true;
    return 0;
}

/* Options keep pointers: what was typed is kept for them. */
static const char *keep(Chat *chat, const char *text) {
    char **larger = realloc(chat->texts, (chat->n_texts + 1) * sizeof(*larger)), *copy;

    if (!larger)
        return NULL;
    chat->texts = larger;
    copy = strdup(text);
    if (copy)
        chat->texts[chat->n_texts++] = copy;
    return copy;
}

/* ---- /set ---- */

static bool has(const Chat *chat, const struct option_row *row) {
    return *((const bool *)chat->options + row->has);
}

static void print_setting(const Chat *chat, const struct option_row *row) {
    const char *at = (const char *)chat->options + row->at;
    const struct option_list *list = (const struct option_list *)(const void *)at;

    (void)printf("%-20s ", row->name);
    if (row->kind == OPTION_LIST) {
        for (size_t i = 0; i < list->n; i++)
            (void)printf("%s'%s'", i > 0 ? " " : "", list->values[i]);
        (void)puts(list->n == 0 ? "(none)" : "");
        return;
    }
    if (row->kind == OPTION_FLAG)
        (void)puts(*(const bool *)at ? "yes" : "no");
    else if (row->kind == OPTION_STRING)
        (void)puts(*(const char *const *)(const void *)at ? *(const char *const *)(const void *)at
                                                          : "(default)");
    else if (row->has ? !has(chat, row) : *(const uint32_t *)(const void *)at == 0)
        (void)puts("(default)");
    else if (row->kind == OPTION_SECONDS)
        (void)printf("%g s\n", *(const uint32_t *)(const void *)at / 1000.0);
    else if (row->kind == OPTION_FLOAT)
        (void)printf("%g\n", (double)*(const float *)(const void *)at);
    else if (row->kind == OPTION_U64)
        (void)printf("%ju\n", (uintmax_t) * (const uint64_t *)(const void *)at);
    else
        (void)printf("%u\n", *(const uint32_t *)(const void *)at);
}

/* The system message and what is loaded have their own commands. */
static bool can_be_set(const struct option_row *row) {
    return row->at != AT(system) && row->at != AT(load);
}

static const struct option_row *find_option(const char *name) {
    char dashed[64];

    (void)snprintf(dashed, sizeof(dashed), "%s", name);
    for (char *c = dashed; *c; c++)
        *c = *c == '_' ? '-' : *c;
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (can_be_set(&options[i]) && strcmp(options[i].name, dashed) == 0)
            return &options[i];
    return NULL;
}

static void unset(Chat *chat, const struct option_row *row) {
    static const size_t sizes[] = {
        [OPTION_FLAG] = sizeof(bool),
        [OPTION_STRING] = sizeof(char *),
        [OPTION_LIST] = sizeof(struct option_list),
        [OPTION_U32] = sizeof(uint32_t),
        [OPTION_U64] = sizeof(uint64_t),
        [OPTION_FLOAT] = sizeof(float),
        [OPTION_SECONDS] = sizeof(uint32_t),
    };

    (void)memset((char *)chat->options + row->at, 0, sizes[row->kind]);
    if (row->has)
        *((bool *)chat->options + row->has) = false;
}

static int change(Chat *chat, const struct option_row *row, const char *value) {
    const char *kept;
    int r;

    if (strcmp(value, "default") == 0 || (row->kind == OPTION_FLAG && strcmp(value, "no") == 0)) {
        unset(chat, row);
        return ctl_fill_sampling(&chat->options->sampling);
    }
    if (row->kind == OPTION_FLAG && *value && strcmp(value, "yes") != 0)
        return ctl_fail(EXIT_USAGE, "--%s takes yes or no, not '%s'", row->name, value);
    kept = keep(chat, value);
    if (!kept)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    r = ctl_set_option(row, chat->options, kept);
    if (r == 0)
        r = ctl_parse_priority(chat->options->priority ? chat->options->priority : "interactive",
                               &chat->priority);
    if (r == 0)
        r = ctl_fill_sampling(&chat->options->sampling);
    if (r != 0 && (row->kind == OPTION_LIST || row->kind == OPTION_STRING))
        unset(chat, row);
    return r;
}

static int run_set(Chat *chat, const char *text) {
    char name[64];
    size_t n = strcspn(text, " \t");
    const struct option_row *row;

    if (n == 0) {
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
            if (can_be_set(&options[i]))
                print_setting(chat, &options[i]);
        return ctl_flush();
    }
    (void)snprintf(name, sizeof(name), "%.*s", (int)MIN(n, sizeof(name) - 1), text);
    row = find_option(name);
    if (!row)
        return ctl_fail(EXIT_USAGE, "there is no option '%s'; /set shows those there are", name);
    text += n + strspn(text + n, " \t");
    if (*text || row->kind == OPTION_FLAG)
        return change(chat, row, text);
    print_setting(chat, row);
    return ctl_flush();
}

static int run_help(Chat *chat, const char *text);

static const struct chat_command {
    const char *name, *argument, *help;
    int (*run)(Chat *chat, const char *text);
} commands[] = {
    {"clear", "", "forget the conversation, but for the system message", run_clear},
    {"help", "", "show this", run_help},
    {"history", "", "print the conversation", run_history},
    {"load", "FILE", "go on with a conversation that was saved", run_load},
    {"quit", "", "end (or Ctrl-D)", run_quit},
    {"retry", "", "have the last turn answered again", run_retry},
    {"save", "FILE", "write the conversation to a file, as JSON", run_save},
    {"set", "[OPTION [VALUE]]", "show or change how tokens are chosen; 'default' undoes it",
     run_set},
    {"system", "[TEXT]", "show or change the system message; 'none' takes it away", run_system},
    {"undo", "", "take the last turn back", run_undo},
};

static int run_help(Chat *chat, const char *text) {
    (void)chat;
    (void)text;
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        char left[40];

        (void)snprintf(left, sizeof(left), "/%s %s", commands[i].name, commands[i].argument);
        (void)printf("%-24s %s\n", left, commands[i].help);
    }
    (void)puts(
        "Ctrl-C stops an answer, Ctrl-R searches what was typed before. A backslash at its\n"
        "end goes on with the next line, and so do \"\"\" until the next \"\"\". A turn that\n"
        "begins with // is said with one slash.");
    return ctl_flush();
}

static int run_command(Chat *chat, char *text) {
    size_t n = strcspn(text, " \t\n");
    const char *rest = text + n + strspn(text + n, " \t\n");

    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strlen(commands[i].name) == n && memcmp(commands[i].name, text, n) == 0) {
            if (*rest && !*commands[i].argument)
                return ctl_fail(EXIT_USAGE, "/%s takes nothing", commands[i].name);
            return commands[i].run(chat, rest);
        }
    return ctl_fail(EXIT_USAGE, "there is no command /%.*s; /help lists them",
                    (int)MIN(n, (size_t)64), text);
}

/* ---- the program ---- */

static int take_turn(Chat *chat, char *text) {
    size_t n = strlen(text);

    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = '\0';
    if (n == 0)
        return 0;
    if (text[0] == '/' && text[1] != '/')
        return run_command(chat, text + 1);
    return say(chat, text[0] == '/' ? text + 1 : text);
}

/* At a terminal a mistake is told, and the next line read; in a script it is the end. */
static int converse(Chat *chat, ChatInput *in) {
    enum chat_line kind = CHAT_LINE;
    int r = 0;

    while (!chat->is_over && kind != CHAT_END) {
        char *text = NULL;

        kind = chat_input_read(in, &text);
        if (kind == CHAT_LINE)
            r = take_turn(chat, text);
        free(text);
        if (kind == CHAT_INTERRUPTED && !chat->is_terminal)
            return ctl_fail(EXIT_INTERRUPTED, "interrupted");
        if (r == EXIT_OUTPUT || (r != 0 && !chat->is_terminal))
            return r;
    }
    if (chat->is_terminal && !chat->is_over)
        (void)putchar('\n');
    return 0;
}

static int prepare(Chat *chat) {
    struct chat_options *o = chat->options;
    int r;

    r = ctl_parse_priority(o->priority ? o->priority : "interactive", &chat->priority);
    if (r == 0)
        r = ctl_fill_sampling(&o->sampling);
    if (r == 0 && o->load)
        r = conversation_load(&chat->conversation, o->load);
    if (r == 0 && o->system && !conversation_set_system(&chat->conversation, o->system))
        r = ctl_fail(EXIT_REFUSED, "out of memory");
    return r != 0 ? r : ctl_connect(chat->ctl);
}

static bool wants_colour(void) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(STDERR_FILENO) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

static void chat_deinit(Chat *chat) {
    conversation_deinit(&chat->conversation);
    for (size_t i = 0; i < chat->n_texts; i++)
        free(chat->texts[i]);
    free(chat->texts);
}

static int run(Ctl *ctl, void *state, int argc, char **argv) {
    CLEANUP(chat_deinit) Chat chat = {.ctl = ctl, .options = state, .dims = wants_colour()};
    ChatInput *in;
    int r;

    if (argc > 0)
        return ctl_fail(EXIT_USAGE, "chat takes no '%s': what is said comes from standard input",
                        argv[0]);
    chat.is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !ctl->json;
    r = prepare(&chat);
    if (r != 0)
        return r;
    in = chat_input_open(chat.is_terminal);
    if (!in)
        return ctl_fail(EXIT_REFUSED, "this terminal can't be used");
    ctl_catch_interrupt();
    (void)signal(SIGTERM, SIG_DFL); /* that is for the program, not for the answer */
    if (chat.is_terminal && !ctl->quiet)
        (void)puts("Say something; /help shows what else there is, Ctrl-D ends.");
    r = converse(&chat, in);
    (void)chat_input_close(in);
    return r;
}

const struct command command_chat = {
    .name = "chat",
    .arguments = "",
    .summary = "Hold a conversation with a model",
    .details = "At a terminal lines are edited and remembered, and /help shows the commands.\n"
               "Otherwise each line of standard input is a turn.",
    .options = options,
    .n_options = ARRAY_SIZE(options),
    .run = run,
    .state_size = sizeof(struct chat_options),
};
