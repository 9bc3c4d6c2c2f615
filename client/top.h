/* What grokctl top shows, as a table and on the screen: columns, their values and their order. */
#pragma once

#include "client/command.h"

#define TOP_CELL_BYTES 96

struct top_column {
    const char *title;
    int width; /* < 0: to the left */
    char key;  /* sorts by it; 0: not sorted by */
    void (*print)(const void *row, char text[TOP_CELL_BYTES]);
    double (*value)(const void *row); /* what it is sorted by, the largest first */
};

/* Rows are struct grokd_top_account and struct grokd_top_request. */
extern const struct top_column top_account_columns[], top_request_columns[];
extern const size_t top_n_account_columns, top_n_request_columns;

#define TOP_HEADER_LINES 3
/* What is over the tables. `before` is the event before this one, or NULL. */
void top_print_header(const struct grokd_top *top, const struct grokd_top *before,
                      char lines[TOP_HEADER_LINES][256]);
/* The accounts in the order of a column; those that have nothing come last. malloc()ed. */
const struct grokd_top_account **top_sort(const struct grokd_top *top,
                                          const struct top_column *column);

/* The screen, until it is left or the call ends. Returns an exit code. */
int top_screen_run(Ctl *ctl, grokd_call *call);
