/*
 * See chat.h. A named template is a Jinja text like any other.
 *
 * What ends an answer is found by trying: a conversation of question, answer, question is rendered,
 * and what the template puts after the answer is looked at. If a control piece comes first, that
 * token is the end, as with <|im_end|>, or with <|user|> where a template marks only beginnings.
 * If there is text alone, the end is its first line that is not blank: "\nUser:" of a transcript.
 */
#include "engine/text/chat.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/text/jinja.h"

#include <string.h>

#define ROLE_BYTES_MAX 64

/* ---- templates with a name ---- */

#define TURN_RULE                                                                                  \
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"                                  \
    "{{ raise_exception('after an optional system message, user and assistant must alternate') }}" \
    "{% endif %}"
/* Sets `system` (none where there is none) and `turns`. */
#define SPLIT_SYSTEM                                                                               \
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"                  \
    "{% set turns = messages[1:] %}"                                                               \
    "{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"
#define CHATML_TURNS                                                                               \
    "{% for message in messages %}"                                                                \
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"  \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

static const struct chat_template {
    const char *name, *text;
} templates[] = {
    {"alpaca",
     "{% for message in messages %}{% if message.role == 'system' %}{{ message.content + '\\n\\n' "
     "}}"
     "{% elif message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}"
     "{% elif message.role == 'assistant' %}{{ '### Response:\\n' + message.content + '\\n\\n' }}"
     "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"},
    {"chatglm3", "[gMASK]sop{% for message in messages %}"
                 "{{ '<|' + message.role + '|>\\n ' + message.content }}{% endfor %}"
                 "{% if add_generation_prompt %}<|assistant|>{% endif %}"},
    {"chatglm4", "[gMASK]<sop>{% for message in messages %}"
                 "{{ '<|' + message.role + '|>\\n' + message.content }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
    {"chatml", CHATML_TURNS},
    {"gemma",
     "{{ bos_token }}" SPLIT_SYSTEM "{% for message in turns %}" TURN_RULE
     "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}"
     "{% if loop.first and system is not none %}{{ system | trim + '\\n\\n' }}{% endif %}"
     "{{ message.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"},
    {"llama2",
     SPLIT_SYSTEM "{% for message in turns %}" TURN_RULE "{% if message.role == 'user' %}"
                  "{{ bos_token + '[INST] ' }}{% if loop.first and system is not none %}"
                  "{{ ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message.content) | trim }}"
                  "{% else %}{{ message.content | trim }}{% endif %}{{ ' [/INST]' }}"
                  "{% else %}{{ ' ' + message.content | trim + ' ' + eos_token }}{% endif %}"
                  "{% endfor %}"},
    {"llama3",
     "{{ bos_token }}{% for message in messages %}"
     "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim"
     " + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"mistral",
     "{{ bos_token }}" SPLIT_SYSTEM "{% for message in turns %}" TURN_RULE
     "{% if message.role == 'user' %}{{ '[INST] ' }}"
     "{% if loop.first and system is not none %}{{ system + '\\n\\n' }}{% endif %}"
     "{{ message.content + ' [/INST]' }}{% else %}{{ message.content + eos_token }}{% endif %}"
     "{% endfor %}"},
    {"phi3", "{{ bos_token }}{% for message in messages %}"
             "{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
    {"plain",
     "{% for message in messages %}{% if message.role == 'system' %}"
     "{{ message.content | trim + '\\n\\n' }}{% elif message.role == 'user' %}"
     "{{ 'User: ' + message.content | trim + '\\n' }}{% elif message.role == 'assistant' %}"
     "{{ 'Assistant: ' + message.content | trim + '\\n' }}{% endif %}{% endfor %}"
     "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"},
    {"qwen2", "{% if messages[0].role != 'system' %}"
              "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif "
              "%}" CHATML_TURNS},
    {"vicuna", SPLIT_SYSTEM
     "{{ bos_token }}{% if system is not none %}{{ system | trim + '\\n\\n' }}{% endif %}"
     "{% for message in turns %}" TURN_RULE "{% if message.role == 'user' %}"
     "{{ 'USER: ' + message.content | trim + '\\n' }}"
     "{% else %}{{ 'ASSISTANT: ' + message.content | trim + eos_token + '\\n' }}"
     "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"},
    {"zephyr",
     "{% for message in messages %}"
     "{{ '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
};

const char *gk_chat_template_name(size_t i) {
    return i < ARRAY_SIZE(templates) ? templates[i].name : NULL;
}

const char *gk_chat_template_text(const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(templates); i++)
        if (strcmp(templates[i].name, name) == 0)
            return templates[i].text;
    return NULL;
}

/* A text without braces was meant as a name. */
static int parse(Template **ret, const char *template, Error *reterr) {
    const char *text = gk_chat_template_text(template);
    char shown[80];

    if (!text && !strchr(template, '{'))
        return error_set(reterr, GK_E_INVALID, "there is no chat template '%s'",
                         utf8_printable(shown, sizeof(shown), template, strlen(template)));
    if (!text)
        text = template;
    return template_parse(ret, text, strlen(text), reterr);
}

int gk_chat_template_check(const char *template, Error *reterr) {
    Template *t = NULL;
    int r = parse(&t, template, reterr);

    (void)template_free(t);
    return r;
}

/* ---- conversations ---- */

/* A role stands among the template's markers, so it must be one that the template knows, or one of
 * the three that all do. */
static bool is_role(const Template *t, const char *role) {
    if (strcmp(role, "system") == 0 || strcmp(role, "user") == 0 || strcmp(role, "assistant") == 0)
        return true;
    return role[0] && strlen(role) <= ROLE_BYTES_MAX &&
           strspn(role, "abcdefghijklmnopqrstuvwxyz_-") == strlen(role) &&
           template_has_string(t, role);
}

static int check_messages(const Template *t, const struct gk_message *messages, size_t n,
                          Error *reterr) {
    char shown[80];

    if (n == 0)
        return error_set(reterr, GK_E_INVALID, "the conversation is empty");
    if (n > GK_MESSAGES_MAX)
        return error_set(reterr, GK_E_INVALID, "a conversation of %zu messages (at most %u)", n,
                         GK_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!is_role(t, messages[i].role))
            return error_set(
                reterr, GK_E_INVALID, "message %zu: the chat template knows no role '%s'", i + 1,
                utf8_printable(shown, sizeof(shown), messages[i].role, strlen(messages[i].role)));
    return 0;
}

/* The pieces' text, which a template writes out. */
struct special {
    char *bos, *eos;
};

static void special_deinit(struct special *s) {
    free(s->bos);
    free(s->eos);
}

static int special_init(struct special *s, const Tokenizer *t) {
    size_t n = 0;
    const char *piece = tokenizer_bos(t) < 0 ? "" : tokenizer_stored(t, tokenizer_bos(t), &n);

    s->bos = alloc_string_n(piece, n);
    n = 0;
    piece = tokenizer_eos(t) < 0 ? "" : tokenizer_stored(t, tokenizer_eos(t), &n);
    s->eos = alloc_string_n(piece, n);
    return s->bos && s->eos ? 0 : -ENOMEM;
}

static int render(const Template *t, const struct special *s, const struct gk_message *messages,
                  size_t n, bool add_generation_prompt, struct jinja_output *ret, Error *reterr) {
    const struct jinja_input input = {.messages = messages,
                                      .n_messages = n,
                                      .bos = s->bos,
                                      .eos = s->eos,
                                      .add_generation_prompt = add_generation_prompt};

    return template_render(t, &input, ret, reterr);
}

/* ---- what ends an answer ---- */

/* The template's text after the answer; false: there is none. */
static bool find_separator(const struct jinja_output *o, size_t *ret_begin, size_t *ret_end) {
    const uint8_t *answer = memrchr(o->marks, MARK_ANSWER, o->n);
    size_t begin = answer ? (size_t)(answer - o->marks) + 1 : o->n, end = begin;

    while (end < o->n && o->marks[end] == MARK_TEMPLATE)
        end++;
    *ret_begin = begin;
    *ret_end = end;
    return begin < end;
}

static size_t n_blanks(const char *bytes, size_t n) {
    size_t i = 0;

    while (i < n && strchr(" \t\n", bytes[i]))
        i++;
    return i;
}

/* The first line that is not blank, and what is before it; "" where there is none. */
static void take_line(const char *bytes, size_t n, char ret[GK_STOP_STRING_BYTES_MAX + 1]) {
    size_t end = n_blanks(bytes, n);

    if (end == n)
        return;
    while (end < n && bytes[end] != '\n')
        end++;
    while (bytes[end - 1] == ' ')
        end--;
    if (end > GK_STOP_STRING_BYTES_MAX)
        return;
    (void)memcpy(ret, bytes, end);
    ret[end] = '\0';
}

/* Where the template can't render such a conversation there is no end but the model's EOS. */
static void find_end(const Tokenizer *t, const Template *template, const struct special *s,
                     int32_t *ret_token, char ret_text[GK_STOP_STRING_BYTES_MAX + 1]) {
    static const struct gk_message messages[] = {{"user", "q"}, {"assistant", "a"}, {"user", "r"}};
    struct jinja_output o = {.n = 0};
    size_t begin, end, n;

    *ret_token = -1;
    ret_text[0] = '\0';
    if (render(template, s, messages, ARRAY_SIZE(messages), true, &o, NULL) == 0 &&
        find_separator(&o, &begin, &end)) {
        n = n_blanks(o.bytes + begin, end - begin);
        *ret_token = tokenizer_match_marker(t, o.bytes + begin + n, end - begin - n);
        if (*ret_token < 0)
            take_line(o.bytes + begin, end - begin, ret_text);
    }
    jinja_output_deinit(&o);
}

/* ---- all of it ---- */

static int finish(struct gk_chat_prompt *p, struct jinja_output *o, const char *end_text) {
    size_t n_end = strlen(end_text) + 1;
    char *text = alloc_resize(o->bytes, o->n + 1 + n_end);

    if (!text)
        return -ENOMEM;
    (void)memcpy(text + o->n + 1, end_text, n_end);
    o->bytes = NULL;
    p->text = text;
    p->n_text = o->n;
    p->end_text = text + o->n + 1;
    return 0;
}

int chat_encode(const Tokenizer *t, const char *template, const struct gk_message *messages,
                size_t n_messages, unsigned flags, size_t n_max, struct gk_chat_prompt *ret,
                Error *reterr) {
    CLEANUP(special_deinit) struct special special = {.bos = NULL};
    CLEANUP(jinja_output_deinit) struct jinja_output o = {.n = 0};
    CLEANUP(template_freep) Template *parsed = NULL;
    char end_text[GK_STOP_STRING_BYTES_MAX + 1];
    struct gk_chat_prompt p = {.n_tokens = 0};
    int r;

    r = parse(&parsed, template, reterr);
    if (r)
        return r;
    r = check_messages(parsed, messages, n_messages, reterr);
    if (r)
        return r;
    if (special_init(&special, t) < 0)
        return error_set(reterr, -ENOMEM, "out of memory");
    r = render(parsed, &special, messages, n_messages, true, &o, reterr);
    if (r)
        return r;
    find_end(t, parsed, &special, &p.end_token, end_text);
    r = tokenizer_encode_chat(t, &o, parsed, flags, n_max, &p.tokens, &p.n_tokens, reterr);
    if (r)
        return r;
    r = finish(&p, &o, end_text);
    if (r) {
        free(p.tokens);
        return error_set(reterr, r, "out of memory");
    }
    *ret = p;
    return 0;
}
