/*
 * libFuzzer: a chat template and a conversation in one input: texts apart at zero bytes, the first
 * of them the template. It is rendered or refused with a sentence, and every byte of a content is
 * marked as such.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/text/jinja.h"
#include "tests/fuzz/fuzz.h"
#include "tests/util/gguf-write.h"

#include <stdio.h>
#include <string.h>

#define MESSAGES_MAX 8
/* Stands in no template: contents are made of it alone. */
#define CONTENT_BYTE '\x02'

void fuzz_seed(const char *directory) {
    char path[4096];

    for (size_t i = 0; gk_chat_template_name(i); i++) {
        const char *text = gk_chat_template_text(gk_chat_template_name(i));

        (void)snprintf(path, sizeof(path), "%s/%s", directory, gk_chat_template_name(i));
        gguf_save_bytes(path, text, strlen(text));
    }
}

/* The lengths of what follows the template are those of the contents. */
static size_t make_messages(const uint8_t *bytes, size_t n, struct gk_message *messages) {
    static const char *const roles[] = {"system", "user", "assistant"};
    size_t n_messages = 0;

    while (n > 0 && n_messages < MESSAGES_MAX) {
        size_t length = strnlen((const char *)bytes, n);
        char *content = malloc(length + 1);

        fuzz_check(content != NULL);
        (void)memset(content, CONTENT_BYTE, length);
        content[length] = '\0';
        messages[n_messages] = (struct gk_message){.role = roles[bytes[0] % 3], .content = content};
        n_messages++;
        length = length < n ? length + 1 : length;
        bytes += length;
        n -= length;
    }
    return n_messages;
}

static void check_output(const struct jinja_output *o) {
    fuzz_check(o->n <= JINJA_OUTPUT_BYTES_MAX && o->bytes[o->n] == '\0');
    for (size_t i = 0; i < o->n; i++)
        fuzz_check(o->bytes[i] != CONTENT_BYTE || o->marks[i] != MARK_TEMPLATE);
}

static void use(const Template *t, const struct gk_message *messages, size_t n) {
    const struct jinja_input input = {.messages = messages,
                                      .n_messages = n,
                                      .bos = "<s>",
                                      .eos = "</s>",
                                      .add_generation_prompt = true};
    struct jinja_output o = {.n = 0};
    Error error = ERROR_INIT;
    int r = template_render(t, &input, &o, &error);

    fuzz_check(r == 0 || (r == GK_E_INVALID && error.text[0]));
    if (r == 0)
        check_output(&o);
    jinja_output_deinit(&o);
}

int fuzz_one(const uint8_t *bytes, size_t n) {
    size_t n_source = strnlen((const char *)bytes, n);
    char *source = alloc_string_n(bytes, n_source); /* its own block, so that its end is seen */
    struct gk_message messages[MESSAGES_MAX];
    size_t n_messages =
        n_source < n ? make_messages(bytes + n_source + 1, n - n_source - 1, messages) : 0;
    Template *t = NULL;
    Error error = ERROR_INIT;
    int r;

    fuzz_check(source != NULL);
    r = template_parse(&t, source, n_source, &error);
    fuzz_check(r == 0 || (r == GK_E_INVALID && error.text[0]));
    /* A template that writes the byte itself, or an escape that may be it, proves nothing. */
    if (r == 0 && !memchr(source, CONTENT_BYTE, n_source) && !memchr(source, '\\', n_source))
        use(t, messages, n_messages);
    (void)template_free(t);
    while (n_messages > 0)
        free((char *)(uintptr_t)messages[--n_messages].content);
    free(source);
    return 0;
}
