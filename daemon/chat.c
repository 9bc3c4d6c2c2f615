/*
 * See chat.h. A template is looked for in this order: the request's, the configured one, the model
 * file's, and "plain" for models that know of no conversations.
 */
#include "daemon/chat.h"

#include "base/alloc.h"
#include "daemon/daemon.h"
#include "daemon/log.h"

#include <stdio.h>
#include <string.h>

#define TEMPLATE_DEFAULT "plain"
/* More than any engine takes: whether it is too much is the engine's to say. */
#define TEMPLATE_BYTES_MAX (1u << 20)

/* ---- templates ---- */

static int read_file(const char *path, char **ret, Error *reterr) {
    FILE *file = fopen(path, "re");
    char *text;
    size_t n;

    if (!file)
        return error_set(reterr, -EINVAL,
                         "this is neither a chat template's name nor a file that can be read: %m");
    text = alloc_array(TEMPLATE_BYTES_MAX + 1, 1);
    if (!text) {
        (void)fclose(file);
        return error_set(reterr, -ENOMEM, "out of memory");
    }
    n = fread(text, 1, TEMPLATE_BYTES_MAX, file);
    text[n] = '\0';
    if (ferror(file) || strlen(text) != n) {
        (void)error_set(reterr, -EINVAL,
                        ferror(file) ? "cannot read the file: %m" : "the file has a zero byte");
        (void)fclose(file);
        free(text);
        return -EINVAL;
    }
    (void)fclose(file);
    *ret = text;
    return 0;
}

int chat_load_template(const char *name_or_path, char **ret, Error *reterr) {
    CLEANUP(freep) char *text = NULL;
    int r;

    if (gk_chat_template_text(name_or_path)) {
        *ret = alloc_string(name_or_path);
        return *ret ? 0 : error_set(reterr, -ENOMEM, "out of memory");
    }
    r = read_file(name_or_path, &text, reterr);
    if (r < 0)
        return r;
    if (gk_chat_template_check(text, reterr) != 0)
        return -EINVAL;
    *ret = take_ptr(text);
    return 0;
}

const char *chat_template_of(const Model *model) {
    const char *of_file = model->engine ? gk_engine_info(model->engine)->chat_template : "";

    return model->chat_template ? model->chat_template : of_file[0] ? of_file : TEMPLATE_DEFAULT;
}

const char *chat_template_name_of(const Model *model) {
    if (model->chat_template)
        return model->chat_template_name;
    return chat_template_of(model) == gk_engine_info(model->engine)->chat_template
               ? "model"
               : TEMPLATE_DEFAULT;
}

void chat_check_template(const Model *model) {
    Error error = ERROR_INIT;

    if (gk_chat_template_check(chat_template_of(model), &error) != 0)
        log_warning("model %s: conversations need another chat_template than its file's: %s",
                    model->name, error.text);
}

/* ---- conversations ---- */

size_t chat_n_bytes(const Grokd__V1__Conversation *c) {
    size_t n = strlen(c->template_) + 1 + c->n_messages * sizeof(struct gk_message);

    for (size_t i = 0; i < c->n_messages; i++)
        n += strlen(c->messages[i]->role) + strlen(c->messages[i]->content) + 2;
    return n;
}

static const char *put(char **at, const char *text) {
    size_t n = strlen(text) + 1;
    char *copy = *at;

    (void)memcpy(copy, text, n);
    *at += n;
    return copy;
}

bool chat_set_conversation(Call *call, TextWork *w, const Grokd__V1__Conversation *c) {
    const char *template = c->template_[0] ? c->template_ : chat_template_of(call->model);
    size_t n = chat_n_bytes(c) + strlen(template) + 1;
    char *at;

    w->kind = TEXT_CONVERSATION;
    w->messages = alloc_array(n, 1);
    if (!w->messages) {
        (void)text_work_free(w);
        call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
        return false;
    }
    w->n_messages = c->n_messages;
    at = (char *)(w->messages + c->n_messages);
    for (size_t i = 0; i < c->n_messages; i++) {
        w->messages[i].role = put(&at, c->messages[i]->role);
        w->messages[i].content = put(&at, c->messages[i]->content);
    }
    w->template = put(&at, template);
    return true;
}

void chat_run(TextWork *w) {
    struct gk_chat_prompt prompt;

    w->result = gk_tokenize_chat(w->model->engine, w->template, w->messages, w->n_messages,
                                 w->flags, w->n_tokens_max, &prompt, &w->error);
    if (w->result != 0)
        return;
    w->tokens = prompt.tokens;
    w->n_tokens = prompt.n_tokens;
    w->text = prompt.text;
    w->n_text = prompt.n_text;
    w->end_token = prompt.end_token;
    w->end_text = prompt.end_text;
}

/* The lists again, one longer each, with the text behind them. */
int chat_add_end(Job *job, const TextWork *w) {
    struct gk_params *p = &job->params;
    size_t n_text = strlen(w->end_text), n_strings = p->n_stop_strings * sizeof(struct gk_string),
           n_tokens = p->n_stop_tokens * sizeof(int32_t);
    struct gk_string *strings;
    int32_t *tokens;
    char *text;

    if (p->ignore_eos || (w->end_token < 0 && n_text == 0))
        return 0;
    job->end_memory =
        alloc_array(1, n_strings + sizeof(*strings) + n_tokens + sizeof(*tokens) + n_text + 1);
    if (!job->end_memory)
        return -ENOMEM;
    strings = job->end_memory;
    tokens = (int32_t *)(strings + p->n_stop_strings + 1);
    text = (char *)(tokens + p->n_stop_tokens + 1);
    if (n_strings > 0)
        (void)memcpy(strings, p->stop_strings, n_strings);
    if (n_tokens > 0)
        (void)memcpy(tokens, p->stop_tokens, n_tokens);
    (void)memcpy(text, w->end_text, n_text + 1);
    if (n_text > 0)
        strings[p->n_stop_strings++] = (struct gk_string){.bytes = text, .n = n_text};
    if (w->end_token >= 0)
        tokens[p->n_stop_tokens++] = w->end_token;
    p->stop_strings = strings;
    p->stop_tokens = tokens;
    return 0;
}
