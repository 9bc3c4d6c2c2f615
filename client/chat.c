/*
 * A conversation, in memory and as a file:
 *
 *     {"version": 1, "model": "mixtral",
 *      "messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}, …]}
 *
 * The messages are those of OpenAI's API, so that other programs' conversations can be loaded and
 * ours be used there; a bare array of messages is taken, too.
 */
#include "client/chat.h"

#include "base/macro.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FORMAT_VERSION 1
/* As many as the daemon takes. */
#define MESSAGES_MAX 16384

static char *mutable_text(const char *text) { /* of our own strings, which are malloc()ed */
    return (char *)(uintptr_t)text;
}

void conversation_deinit(Conversation *c) {
    conversation_drop(c, c->n);
    free(c->messages);
    *c = (Conversation){.n = 0};
}

struct grokd_message *conversation_add(Conversation *c, const char *role, const char *content) {
    struct grokd_message *larger, *m;

    if (c->n == c->capacity) {
        larger = realloc(c->messages, (2 * c->capacity + 8) * sizeof(*larger));
        if (!larger)
            return NULL;
        c->messages = larger;
        c->capacity = 2 * c->capacity + 8;
    }
    m = &c->messages[c->n];
    *m = (struct grokd_message){.role = strdup(role), .content = strdup(content)};
    c->n++;
    if (m->role && m->content)
        return m;
    conversation_drop(c, 1);
    return NULL;
}

void conversation_drop(Conversation *c, size_t n) {
    for (; n > 0; n--) {
        c->n--;
        free(mutable_text(c->messages[c->n].role));
        free(mutable_text(c->messages[c->n].content));
    }
}

const char *conversation_system(const Conversation *c) {
    return c->n > 0 && strcmp(c->messages[0].role, "system") == 0 ? c->messages[0].content : NULL;
}

bool conversation_set_system(Conversation *c, const char *text) {
    struct grokd_message first;

    if (conversation_system(c)) {
        free(mutable_text(c->messages[0].role));
        free(mutable_text(c->messages[0].content));
        c->n--;
        (void)memmove(c->messages, c->messages + 1, c->n * sizeof(*c->messages));
    }
    if (!*text)
        return true;
    if (!conversation_add(c, "system", text))
        return false;
    first = c->messages[c->n - 1];
    (void)memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof(*c->messages));
    c->messages[0] = first;
    return true;
}

/* ---- files ---- */

int conversation_save(const Conversation *c, const char *model, const char *path) {
    json_t *messages = json_array(), *all;
    FILE *file = NULL;
    int fd, r;

    for (size_t i = 0; i < c->n; i++) {
        const struct grokd_message *m = &c->messages[i];

        json_array_append_new(
            messages, json_pack("{s:o, s:o}", "role", ctl_json_text(m->role, strlen(m->role)),
                                "content", ctl_json_text(m->content, strlen(m->content))));
    }
    all = json_pack("{s:i, s:s, s:o}", "version", FORMAT_VERSION, "model", model, "messages",
                    messages);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0)
        file = fdopen(fd, "w");
    r = all && file ? json_dumpf(all, file, JSON_INDENT(2)) : -1;
    if (file && (fputc('\n', file) == EOF || fclose(file) != 0))
        r = -1;
    json_decref(all);
    return r == 0 ? 0 : ctl_fail(EXIT_USAGE, "can't write %s: %s", path, strerror(errno));
}

static int add_message(Conversation *c, const json_t *m, size_t i, const char *path) {
    const char *role = json_string_value(json_object_get(m, "role"));
    const char *content = json_string_value(json_object_get(m, "content"));

    if (!role || !content || strlen(content) != json_string_length(json_object_get(m, "content")))
        return ctl_fail(EXIT_USAGE, "%s: message %zu has no role and content", path, i + 1);
    if (!conversation_add(c, role, content))
        return ctl_fail(EXIT_USAGE, "out of memory");
    return 0;
}

static int add_all(Conversation *c, const json_t *root, const char *path) {
    const json_t *messages = json_is_array(root) ? root : json_object_get(root, "messages");
    const json_t *version = json_object_get(root, "version");
    int r = 0;

    if (version && json_integer_value(version) != FORMAT_VERSION)
        return ctl_fail(EXIT_USAGE, "%s: only version %d is known", path, FORMAT_VERSION);
    if (!json_is_array(messages))
        return ctl_fail(EXIT_USAGE, "%s: there is no array of messages", path);
    if (json_array_size(messages) > MESSAGES_MAX)
        return ctl_fail(EXIT_USAGE, "%s: more than %d messages", path, MESSAGES_MAX);
    for (size_t i = 0; r == 0 && i < json_array_size(messages); i++)
        r = add_message(c, json_array_get(messages, i), i, path);
    return r;
}

int conversation_load(Conversation *c, const char *path) {
    Conversation loaded = {.n = 0};
    json_error_t error;
    json_t *root;
    FILE *file;
    int r;

    file = fopen(path, "re");
    if (!file)
        return ctl_fail(EXIT_USAGE, "can't open %s: %s", path, strerror(errno));
    root = json_loadf(file, 0, &error);
    (void)fclose(file);
    if (!root)
        return ctl_fail(EXIT_USAGE, "%s:%d: %s", path, error.line, error.text);
    r = add_all(&loaded, root, path);
    json_decref(root);
    if (r != 0) {
        conversation_deinit(&loaded);
        return r;
    }
    conversation_deinit(c);
    *c = loaded;
    return 0;
}
