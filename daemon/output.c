/* See output.h. */
#include "daemon/output.h"

#include <string.h>

void output_init(Output *o, size_t n_bytes_max) {
    o->text = BUF_INIT(n_bytes_max);
    o->ids = BUF_INIT(n_bytes_max);
    o->logprobs = BUF_INIT(n_bytes_max);
}

void output_deinit(Output *o) {
    buf_deinit(&o->text);
    buf_deinit(&o->ids);
    buf_deinit(&o->logprobs);
}

bool output_has_chunk(const Output *o) {
    return buf_size(&o->text) + buf_size(&o->ids) + buf_size(&o->logprobs) > 0;
}

/* A proto3 string has no place for a zero byte in C: U+FFFD stands for it, as for every byte that
 * is no text. */
int output_add_text(Output *o, const char *text, size_t n) {
    int r = 0;

    while (n > 0 && r == 0) {
        size_t n_plain = strnlen(text, n);

        r = buf_append(&o->text, text, n_plain);
        if (r == 0 && n_plain < n)
            r = buf_append(&o->text, "\xef\xbf\xbd", 3);
        n_plain += n_plain < n;
        text += n_plain;
        n -= n_plain;
    }
    return r;
}

static int add_logprobs(Output *o, const Letter *letter) {
    struct gk_logprob none = {.token = -1},
                      own = {.token = letter->token, .logprob = letter->logprob};
    int r = buf_append(&o->logprobs, &own, sizeof(own));

    for (size_t i = 0; r == 0 && i < o->n_top; i++)
        r = buf_append(&o->logprobs, i < letter->n_top ? &letter->top[i] : &none, sizeof(none));
    return r;
}

/* One limit for all three together. */
static size_t n_bytes(const Output *o) {
    return buf_size(&o->text) + buf_size(&o->ids) + buf_size(&o->logprobs);
}

int output_add_token(Output *o, const Letter *letter) {
    int r = n_bytes(o) < o->text.max ? output_add_text(o, letter->text, letter->n_text) : -ENOBUFS;

    if (r == 0 && o->wants_ids)
        r = buf_append(&o->ids, &letter->token, sizeof(letter->token));
    if (r == 0 && o->wants_logprobs)
        r = add_logprobs(o, letter);
    return r;
}

static void fill_logprob(const GkEngine *engine, const struct gk_logprob *from,
                         Grokd__V1__Logprob *ret) {
    size_t n = 0;
    const char *text = gk_token_text(engine, from->token, &n);

    grokd__v1__logprob__init(ret);
    ret->token = from->token;
    ret->logprob = from->logprob;
    ret->text = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)text, .len = n};
}

int output_fill_logprobs(const GkEngine *engine, const struct gk_logprob *entry, uint32_t n_top,
                         MsgArena *arena, Grokd__V1__TokenLogprobs **ret) {
    Grokd__V1__TokenLogprobs *message = msg_arena_alloc(arena, sizeof(*message));
    Grokd__V1__Logprob *all = msg_arena_alloc(arena, (n_top + 1) * sizeof(*all));
    Grokd__V1__Logprob **top = msg_arena_alloc(arena, (n_top + 1) * sizeof(*top));

    if (!message || !all || !top)
        return -ENOMEM;
    grokd__v1__token_logprobs__init(message);
    fill_logprob(engine, &entry[0], &all[0]);
    message->chosen = &all[0];
    message->top = top;
    for (uint32_t i = 1; i <= n_top && entry[i].token >= 0; i++) {
        fill_logprob(engine, &entry[i], &all[i]);
        top[message->n_top++] = &all[i];
    }
    *ret = message;
    return 0;
}

int output_fill_chunk(const Output *o, const GkEngine *engine, MsgArena *arena,
                      Grokd__V1__Chunk *ret) {
    size_t stride = (o->n_top + 1) * sizeof(struct gk_logprob);
    size_t n = buf_size(&o->logprobs) / stride, n_text = buf_size(&o->text);
    char *text = msg_arena_alloc(arena, n_text + 1);
    int r;

    ret->logprobs = msg_arena_alloc(arena, (n + 1) * sizeof(*ret->logprobs));
    if (!text || !ret->logprobs)
        return -ENOMEM;
    if (n_text > 0)
        (void)memcpy(text, buf_bytes(&o->text), n_text);
    text[n_text] = '\0';
    ret->text = text;
    ret->n_token_ids = buf_size(&o->ids) / sizeof(int32_t);
    ret->token_ids = (int32_t *)(uintptr_t)buf_bytes(&o->ids);
    for (; ret->n_logprobs < n; ret->n_logprobs++) {
        const uint8_t *entry = buf_bytes(&o->logprobs) + ret->n_logprobs * stride;

        r = output_fill_logprobs(engine, (const struct gk_logprob *)(const void *)entry, o->n_top,
                                 arena, &ret->logprobs[ret->n_logprobs]);
        if (r < 0)
            return r;
    }
    return 0;
}

void output_clear_chunk(Output *o) {
    buf_consume(&o->text, buf_size(&o->text));
    buf_consume(&o->ids, buf_size(&o->ids));
    buf_consume(&o->logprobs, buf_size(&o->logprobs));
}
