/* grokctl: the command line of grokd. Parses the command line by tables and runs one command. */
#include "client/command.h"

#include "base/macro.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define OPTIONS_MAX 40

static const struct command *const commands[] = {
    &command_generate,   &command_chat,   &command_score,  &command_embed, &command_tokenize,
    &command_detokenize, &command_models, &command_show,   &command_load,  &command_unload,
    &command_status,     &command_top,    &command_cancel,
};

enum { COMMON_SOCKET, COMMON_MODEL, COMMON_JSON, COMMON_QUIET, COMMON_HELP, COMMON_VERSION };

static const struct option_row common_options[] = {
    [COMMON_SOCKET] = {'s', "socket", "PATH",
                       "grokd's socket (default $GROKD_SOCKET, then /run/grokd/grokd.sock)",
                       OPTION_COMMON, 0, 0},
    [COMMON_MODEL] = {'m', "model", "NAME", "the model to ask (default: the daemon's)",
                      OPTION_COMMON, 0, 0},
    [COMMON_JSON] = {'j', "json", NULL, "print JSON", OPTION_COMMON, 0, 0},
    [COMMON_QUIET] = {'q', "quiet", NULL, "no progress and no figures on standard error",
                      OPTION_COMMON, 0, 0},
    [COMMON_HELP] = {'h', "help", NULL, "show help and exit", OPTION_COMMON, 0, 0},
    [COMMON_VERSION] = {'V', "version", NULL, "show the version and exit", OPTION_COMMON, 0, 0},
};

static void print_option_rows(const struct option_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char left[40];

        (void)snprintf(left, sizeof(left), "%c%c%s--%s%s%s", rows[i].letter ? '-' : ' ',
                       rows[i].letter ? rows[i].letter : ' ', rows[i].letter ? ", " : "  ",
                       rows[i].name, rows[i].argument ? " " : "",
                       rows[i].argument ? rows[i].argument : "");
        (void)printf("  %-30s %s\n", left, rows[i].help);
    }
}

static int print_help(void) {
    (void)printf("Usage: grokctl [OPTION]... COMMAND [ARGUMENT]...\n\n"
                 "Ask grokd for text, show its models and watch its work.\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        (void)printf("  %-12s %s\n", commands[i]->name, commands[i]->summary);
    (void)printf("\nOptions, before or after the command:\n");
    print_option_rows(common_options, ARRAY_SIZE(common_options));
    (void)printf(
        "\n`grokctl COMMAND --help` shows a command's own options; grokctl(1) is the manual.\n");
    return ctl_flush();
}

static int print_command_help(const struct command *c) {
    (void)printf("Usage: grokctl %s [OPTION]...%s%s\n\n%s.\n", c->name, *c->arguments ? " " : "",
                 c->arguments, c->summary);
    if (c->details)
        (void)printf("%s\n", c->details);
    if (c->n_options > 0) {
        (void)printf("\nOptions:\n");
        print_option_rows(c->options, c->n_options);
    }
    (void)printf("\nCommon options:\n");
    print_option_rows(common_options, ARRAY_SIZE(common_options));
    return ctl_flush();
}

static const struct command *find_command(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

/* getopt's two tables, made from ours: common rows first, then the command's. `val` is 256 + the
 * row's number, for letters as well (see letter_row). */
struct getopt_tables {
    struct option longs[OPTIONS_MAX + 1];
    char shorts[2 * OPTIONS_MAX + 2];
    const struct option_row *rows[OPTIONS_MAX];
    size_t n;
};

static void tables_add(struct getopt_tables *t, const struct option_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert(t->n < OPTIONS_MAX);
        t->longs[t->n] = (struct option){
            .name = rows[i].name,
            .has_arg = rows[i].argument ? required_argument : no_argument,
            .val = 256 + (int)t->n,
        };
        if (rows[i].letter) {
            size_t at = strlen(t->shorts);

            t->shorts[at] = rows[i].letter;
            t->shorts[at + 1] = rows[i].argument ? ':' : '\0';
        }
        t->rows[t->n++] = &rows[i];
    }
}

static size_t row_of(const struct getopt_tables *t, int got) {
    if (got >= 256)
        return (size_t)got - 256;
    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i]->letter == got)
            return i;
    return t->n;
}

static int set_common(Ctl *ctl, size_t row, const char *value, bool *ret_help, bool *ret_version) {
    switch (row) {
    case COMMON_SOCKET:
        ctl->socket_path = value;
        break;
    case COMMON_MODEL:
        ctl->model = value;
        break;
    case COMMON_JSON:
        ctl->json = true;
        break;
    case COMMON_QUIET:
        ctl->quiet = true;
        break;
    case COMMON_HELP:
        *ret_help = true;
        break;
    default:
        *ret_version = true;
        break;
    }
    return 0;
}

int ctl_set_option(const struct option_row *row, void *state, const char *value) {
    struct option_list *list = (struct option_list *)(void *)((char *)state + row->at);
    void *at = (char *)state + row->at;
    float seconds;
    int r = 0;

    assert(state);
    switch (row->kind) {
    case OPTION_COMMON:
        break;
    case OPTION_FLAG:
        *(bool *)at = true;
        break;
    case OPTION_STRING:
        *(const char **)at = value;
        break;
    case OPTION_LIST:
        if (list->n == OPTION_LIST_MAX)
            return ctl_fail(EXIT_USAGE, "--%s may be given at most %d times", row->name,
                            OPTION_LIST_MAX);
        list->values[list->n++] = value;
        break;
    case OPTION_U32:
        r = ctl_parse_u32(row->name, value, at);
        break;
    case OPTION_U64:
        r = ctl_parse_u64(row->name, value, at);
        break;
    case OPTION_FLOAT:
        r = ctl_parse_float(row->name, value, at);
        break;
    case OPTION_SECONDS:
        r = ctl_parse_float(row->name, value, &seconds);
        if (r == 0 && !(seconds >= 0.001f && seconds <= 4e6f))
            return ctl_fail(EXIT_USAGE, "--%s takes seconds from 0.001 to 4000000, not '%s'",
                            row->name, value);
        *(uint32_t *)at = r == 0 ? (uint32_t)((double)seconds * 1000) : 0;
        break;
    }
    if (r == 0 && row->has)
        *((bool *)state + row->has) = true;
    return r;
}

/* Options stop at the first operand where `stop_early`, which is how the command is found. */
static int parse_options(Ctl *ctl, void *state, int argc, char **argv, bool stop_early,
                         bool *ret_help, bool *ret_version) {
    const struct command *c = stop_early ? NULL : ctl->command;
    struct getopt_tables t = {.shorts = "+"};
    int got, r;

    if (!stop_early)
        t.shorts[0] = '\0';
    tables_add(&t, common_options, ARRAY_SIZE(common_options));
    if (c)
        tables_add(&t, c->options, c->n_options);
    optind = 0;
    while ((got = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1) {
        size_t row = row_of(&t, got);

        if (got == '?' || row == t.n)
            return ctl_fail(EXIT_USAGE, "try `grokctl %s%s--help`", c ? c->name : "", c ? " " : "");
        if (row < ARRAY_SIZE(common_options))
            r = set_common(ctl, row, optarg, ret_help, ret_version);
        else
            r = ctl_set_option(t.rows[row], state, optarg);
        if (r != 0)
            return r;
    }
    return 0;
}

static int run(Ctl *ctl, int argc, char **argv) {
    CLEANUP(freep) void *state = NULL;
    bool help = false, version = false;
    int r;

    r = parse_options(ctl, NULL, argc, argv, true, &help, &version);
    if (r != 0)
        return r;
    if (version) {
        (void)printf("grokctl %s\n", GROKD_VERSION);
        return ctl_flush();
    }
    if (optind >= argc) {
        if (help)
            return print_help();
        return ctl_fail(EXIT_USAGE, "no command given; `grokctl --help` lists them");
    }
    ctl->command = find_command(argv[optind]);
    if (!ctl->command)
        return ctl_fail(EXIT_USAGE, "there is no command '%s'; `grokctl --help` lists them",
                        argv[optind]);
    argc -= optind;
    argv += optind;
    state = calloc(1, ctl->command->state_size + 1);
    if (!state)
        return ctl_fail(EXIT_REFUSED, "out of memory");
    r = parse_options(ctl, state, argc, argv, false, &help, &version);
    if (r != 0)
        return r;
    if (help)
        return print_command_help(ctl->command);
    return ctl->command->run(ctl, state, argc - optind, argv + optind);
}

int main(int argc, char **argv) {
    Ctl ctl = {.model = ""};
    int r;

    r = run(&ctl, argc, argv);
    (void)grokd_client_free(ctl.client);
    return r;
}
