/* The screen of grokctl top: drawn anew at each event and each key. */
#include "client/top.h"

#include "base/macro.h"

#include <locale.h>
#include <ncurses.h>
#include <string.h>

/* How long a key may wait to be heard. */
#define KEY_MS 50
/* Rows that the accounts may take of the screen, where there are requests to be shown, too. */
#define ACCOUNTS_SHARE 2

/* Owner: top_screen_run(). */
struct screen {
    const struct top_column *sorted_by;
    struct grokd_top before; /* numbers only */
    bool has_before, shows_help;
};

static void draw_row(int y, const struct top_column *columns, size_t n, const void *row,
                     const struct top_column *marked) {
    int x = 0;

    for (size_t i = 0; i < n && x < COLS; i++) {
        int width = columns[i].width < 0 ? -columns[i].width : columns[i].width;
        char text[TOP_CELL_BYTES];

        if (row)
            columns[i].print(row, text);
        else
            (void)snprintf(text, sizeof(text), "%s", columns[i].title);
        if (&columns[i] == marked)
            (void)attron(A_BOLD | A_UNDERLINE);
        if (columns[i].width > 0)
            (void)mvprintw(y, x, "%*.*s", width, width, text);
        else
            (void)mvaddnstr(y, x, text, MIN(width, COLS - x));
        if (&columns[i] == marked)
            (void)attroff(A_BOLD | A_UNDERLINE);
        x += width + 1;
    }
}

static void draw_title(int y, const struct top_column *columns, size_t n,
                       const struct top_column *marked) {
    (void)attron(A_REVERSE);
    (void)mvhline(y, 0, ' ', COLS);
    draw_row(y, columns, n, NULL, marked);
    (void)attroff(A_REVERSE);
}

static void draw_help(void) {
    int y = TOP_HEADER_LINES + 1;

    (void)mvprintw(y++, 0, "Sort users and actors by");
    for (size_t i = 0; i < top_n_account_columns; i++)
        (void)mvprintw(y++, 2, "%c  %s", top_account_columns[i].key, top_account_columns[i].title);
    (void)mvprintw(y + 1, 0,
                   "CONN connections; RUN, WAIT requests; IN FLIGHT prompts and max_tokens "
                   "of requests under way;");
    (void)mvprintw(y + 2, 0,
                   "WINDOW tokens within token_window; PAGES of the KV cache reserved; "
                   "READ/S, TOKENS/S speeds");
    (void)mvprintw(y + 4, 0, "h, ? back; q quit");
}

/* As many rows as fit; the last line says how many did not. */
static int draw_rows(int y, int end, const struct top_column *columns, size_t n_columns,
                     const void *const *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (y + 1 >= end && i + 1 < n) {
            (void)mvprintw(y++, 0, "and %zu more", n - i);
            return y;
        }
        draw_row(y++, columns, n_columns, rows[i], NULL);
    }
    return y;
}

static void draw_tables(const struct screen *s, const struct grokd_top *top) {
    int y = TOP_HEADER_LINES + 1, end = LINES - 1;
    int middle = top->n_requests > 0 ? y + (end - y) / ACCOUNTS_SHARE : end;
    CLEANUP(freep) const struct grokd_top_account **rows = top_sort(top, s->sorted_by);

    if (!rows)
        return;
    draw_title(y++, top_account_columns, top_n_account_columns, s->sorted_by);
    y = draw_rows(y, middle, top_account_columns, top_n_account_columns, (const void *const *)rows,
                  top->n_accounts);
    if (top->n_requests == 0)
        return;
    y++;
    draw_title(y++, top_request_columns, top_n_request_columns, NULL);
    (void)draw_rows(y, end, top_request_columns, top_n_request_columns,
                    (const void *const *)top->requests, top->n_requests);
}

static void draw(const struct screen *s, const struct grokd_top *top) {
    char lines[TOP_HEADER_LINES][256];

    (void)erase();
    if (top) {
        top_print_header(top, s->has_before ? &s->before : NULL, lines);
        for (int i = 0; i < TOP_HEADER_LINES; i++)
            (void)mvaddnstr(i, 0, lines[i], COLS);
    } else {
        (void)mvaddnstr(0, 0, "waiting for grokd", COLS);
    }
    if (s->shows_help)
        draw_help();
    else if (top)
        draw_tables(s, top);
    (void)mvaddnstr(LINES - 1, 0, "q quit   h help   c r w t i k b p g u sort", COLS);
    (void)refresh();
}

/* Returns false where it is time to leave. */
static bool take_key(struct screen *s, int key) {
    if (key == 'q')
        return false;
    if (key == 'h' || key == '?')
        s->shows_help = !s->shows_help;
    if (key == KEY_RESIZE)
        (void)clear(); /* what is there was moved by the terminal */
    for (size_t i = 0; i < top_n_account_columns; i++)
        if (key == top_account_columns[i].key)
            s->sorted_by = &top_account_columns[i];
    return true;
}

/* Draws what comes until somebody leaves (EXIT_OK), or the call fails (EXIT_REFUSED). */
static int show_events(grokd_call *call, struct grokd_error *error) {
    struct screen s = {.sorted_by = &top_account_columns[top_n_account_columns - 1]};
    const struct grokd_event *event;
    const struct grokd_top *top = NULL; /* of the call, until its next event */
    int got, key;

    draw(&s, NULL);
    for (;;) {
        bool had_event = top != NULL;
        struct grokd_top last = had_event ? *top : (struct grokd_top){0};

        got = grokd_call_next(call, KEY_MS, &event, error);
        if (got == GROKD_NEXT_EVENT) { /* the one before is gone now */
            s.before = last;
            s.has_before = had_event;
        }
        if (ctl_interrupted())
            return EXIT_OK;
        if (got == GROKD_NEXT_EVENT)
            top = event->top;
        else if (got != GROKD_NEXT_WAIT)
            return got == GROKD_NEXT_END ? EXIT_OK : EXIT_REFUSED;
        key = getch();
        if (!take_key(&s, key))
            return EXIT_OK;
        if (got == GROKD_NEXT_EVENT || key != ERR)
            draw(&s, top);
    }
}

int top_screen_run(Ctl *ctl, grokd_call *call) {
    struct grokd_error error = {0};
    SCREEN *terminal;
    int r;

    (void)setlocale(LC_CTYPE, "");
    terminal = newterm(NULL, stdout, stdin);
    if (!terminal)
        return ctl_fail(EXIT_USAGE, "this terminal can't show a screen; use --once");
    (void)noecho();
    (void)cbreak();
    (void)keypad(stdscr, TRUE);
    (void)nodelay(stdscr, TRUE);
    (void)curs_set(0);
    r = show_events(call, &error);
    (void)endwin();
    delscreen(terminal);
    return r == EXIT_OK ? EXIT_OK : ctl_fail_call(ctl, &error);
}
