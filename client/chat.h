/*
 * grokctl chat's parts: the conversation (chat.c), and where its lines come from (chat-input.c).
 */
#pragma once

#include "client/command.h"

/* Owner: cmd-chat.c. */
typedef struct Conversation {
    struct grokd_message *messages; /* their strings are malloc()ed */
    size_t n, capacity;
} Conversation;

void conversation_deinit(Conversation *c);
/* Copies both; NULL is out of memory. */
struct grokd_message *conversation_add(Conversation *c, const char *role, const char *content);
/* The last n messages go. */
void conversation_drop(Conversation *c, size_t n);
/* NULL where there is none. It is the first message, if any. */
const char *conversation_system(const Conversation *c);
/* Puts it first, or in place of the one there is; "" takes it away. False: out of memory. */
bool conversation_set_system(Conversation *c, const char *text);
/* Both say what was wrong on standard error, and return 0 or EXIT_USAGE. Loading replaces the
 * conversation only where all went well. */
int conversation_save(const Conversation *c, const char *model, const char *path);
int conversation_load(Conversation *c, const char *path);

/* ---- lines ---- */

typedef struct ChatInput ChatInput;

enum chat_line {
    CHAT_LINE,        /* *ret is a line without its newline, malloc()ed */
    CHAT_INTERRUPTED, /* Ctrl-C while it was typed */
    CHAT_END,
};

/* With `is_terminal` lines can be edited, and are remembered from one program to the next. NULL:
 * out of memory, or a terminal that can't be used. */
ChatInput *chat_input_open(bool is_terminal);
ChatInput *chat_input_close(ChatInput *in);
/* One turn's text: a line, lines that end in backslashes with the one after them, or lines between
 * triple quotes. */
enum chat_line chat_input_read(ChatInput *in, char **ret);
