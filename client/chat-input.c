/*
 * Where grokctl chat's lines come from: a terminal through libedit, or standard input as it is.
 *
 * While a line is edited Ctrl-C is a key like any other (the terminal sends no signal); while an
 * answer comes it is the usual signal. So one never does the other's work.
 */
#include "client/chat.h"

#include "base/macro.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <wchar.h>

#define HISTORY_LINES  1000
#define TURN_BYTES_MAX (4u << 20) /* what the daemon takes in one message */
#define TRIPLE         "\"\"\""
#define PROMPT         "> "
#define CTRL_C         3
#define PROMPT_MORE    ". "

struct ChatInput {
    EditLine *editor; /* NULL: no terminal */
    History *history;
    char *history_path; /* NULL: not kept */
    bool is_more, was_interrupted;
    char *line; /* getline()'s */
    size_t line_capacity;
};

/* ---- libedit ---- */

static ChatInput *input_of(EditLine *editor) {
    ChatInput *in = NULL;

    (void)el_get(editor, EL_CLIENTDATA, &in);
    return in;
}

static char *give_prompt(EditLine *editor) {
    return (char *)(uintptr_t)(input_of(editor)->is_more ? PROMPT_MORE : PROMPT);
}

/* One character for libedit: 1, or 0 at the end. Ctrl-C ends the line, which is then given up.
 * (libedit could call a function for a key, but never lets go of that function's name.) */
static int read_key(EditLine *editor, wchar_t *ret) {
    mbstate_t state = {0};
    size_t n = (size_t)-2;
    char byte = 0;

    while (n == (size_t)-2) { /* a character begun */
        ssize_t got = read(STDIN_FILENO, &byte, 1);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        n = mbrtowc(ret, &byte, 1, &state);
    }
    if (n == (size_t)-1) /* the byte that breaks a character off may be the line's end */
        *ret = (unsigned char)byte < 0x80 ? (wchar_t)byte : L'?';
    if (*ret == CTRL_C) {
        input_of(editor)->was_interrupted = true;
        *ret = L'\n';
    }
    return 1;
}

/* $XDG_STATE_HOME/grokd/history; its directories are made. NULL where there is no home. */
static char *find_history(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n;

    if (state && *state == '/')
        n = asprintf(&path, "%s/grokd/history", state);
    else if (home && *home == '/')
        n = asprintf(&path, "%s/.local/state/grokd/history", home);
    else
        return NULL;
    if (n < 0)
        return NULL;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700); /* if it can't be, the file can't be opened */
        *slash = '/';
    }
    return path;
}

static bool open_history(ChatInput *in) {
    HistEvent event;

    in->history = history_init();
    if (!in->history)
        return false;
    (void)history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    (void)history(in->history, &event, H_SETUNIQUE, 1);
    in->history_path = find_history();
    if (in->history_path)
        (void)history(in->history, &event, H_LOAD, in->history_path);
    return true;
}

static bool open_editor(ChatInput *in) {
    (void)setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1)
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    in->editor = el_init("grokctl", stdin, stdout, stderr);
    if (!in->editor || !open_history(in))
        return false;
    (void)el_set(in->editor, EL_CLIENTDATA, in);
    (void)el_set(in->editor, EL_PROMPT, give_prompt);
    (void)el_set(in->editor, EL_EDITOR, "emacs");
    (void)el_set(in->editor, EL_SIGNAL, 1); /* the terminal is put right before others end us */
    (void)el_set(in->editor, EL_HIST, history, in->history);
    (void)el_set(in->editor, EL_GETCFN, read_key);
    (void)el_source(in->editor, NULL);
    (void)el_set(in->editor, EL_SETTY, "-d", "-isig", NULL);
    (void)el_set(in->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    return true;
}

ChatInput *chat_input_open(bool is_terminal) {
    ChatInput *in = calloc(1, sizeof(*in));

    if (in && is_terminal && !open_editor(in))
        in = chat_input_close(in);
    return in;
}

ChatInput *chat_input_close(ChatInput *in) {
    if (!in)
        return NULL;
    if (in->editor)
        el_end(in->editor);
    if (in->history)
        history_end(in->history);
    free(in->history_path);
    free(in->line);
    free(in);
    return NULL;
}

/* ---- lines ---- */

/* Kept at once, so that a program that is killed loses none. */
static void remember(ChatInput *in, const char *line) {
    HistEvent event;

    if (line[strspn(line, " \t\n")] == '\0')
        return;
    (void)history(in->history, &event, H_ENTER, line);
    if (in->history_path)
        (void)history(in->history, &event, H_SAVE, in->history_path);
}

static enum chat_line edit_line(ChatInput *in, const char **ret) {
    const char *line;
    int n = 0;

    in->was_interrupted = false;
    line = el_gets(in->editor, &n);
    if (in->was_interrupted) {
        (void)fputs("^C\n", stdout);
        return CHAT_INTERRUPTED;
    }
    if (!line || n <= 0)
        return CHAT_END;
    remember(in, line);
    *ret = line;
    return CHAT_LINE;
}

static enum chat_line read_line(ChatInput *in, const char **ret) {
    ssize_t n;

    if (in->editor)
        return edit_line(in, ret);
    ctl_interrupt_reads(true);
    n = getline(&in->line, &in->line_capacity, stdin);
    ctl_interrupt_reads(false);
    if (n < 0)
        return ctl_interrupted() ? CHAT_INTERRUPTED : CHAT_END;
    *ret = in->line;
    return CHAT_LINE;
}

static bool begins_with(const char *text, size_t n, const char *with) {
    return n >= strlen(with) && memcmp(text, with, strlen(with)) == 0;
}

static bool ends_with(const char *text, size_t n, const char *with) {
    return n >= strlen(with) && memcmp(text + n - strlen(with), with, strlen(with)) == 0;
}

/* What is in the text so far asks for another line. */
static bool wants_more(char *text, size_t *n) {
    if (begins_with(text, *n, TRIPLE)) {
        if (*n < 2 * strlen(TRIPLE) || !ends_with(text, *n, TRIPLE)) {
            text[(*n)++] = '\n';
            return true;
        }
        *n -= 2 * strlen(TRIPLE);
        (void)memmove(text, text + strlen(TRIPLE), *n);
        return false;
    }
    if (!ends_with(text, *n, "\\"))
        return false;
    text[*n - 1] = '\n';
    return true;
}

/* Where lines are begun by quotes that never end, what there is counts. */
static enum chat_line end_early(char *text, size_t n, enum chat_line kind, char **ret) {
    if (kind == CHAT_INTERRUPTED || n == 0) {
        free(text);
        return kind;
    }
    text[n] = '\0';
    *ret = text;
    return CHAT_LINE;
}

enum chat_line chat_input_read(ChatInput *in, char **ret) {
    char *text = NULL, *larger;
    size_t n = 0, length;
    enum chat_line kind;
    const char *line;

    in->is_more = false;
    do {
        kind = read_line(in, &line);
        if (kind != CHAT_LINE)
            return end_early(text, n, kind, ret);
        length = strlen(line);
        if (length > 0 && line[length - 1] == '\n')
            length--;
        larger = n + length < TURN_BYTES_MAX ? realloc(text, n + length + 2) : NULL;
        if (!larger) {
            ctl_complain("a turn of more than %u bytes", TURN_BYTES_MAX);
            return end_early(text, 0, CHAT_END, ret);
        }
        text = larger;
        (void)memcpy(text + n, line, length);
        n += length;
        in->is_more = true;
    } while (wants_more(text, &n));
    text[n] = '\0';
    *ret = text;
    return CHAT_LINE;
}
