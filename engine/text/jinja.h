/*
 * Chat templates: the part of Jinja that published models' templates are written in, with the
 * settings of Hugging Face's transformers (trim_blocks, lstrip_blocks, loop controls).
 *
 * There are: text, {{ }}, {# #}, {%- -%}, for (with if, else, unpacking, loop.*), if, set (also of
 * namespaces and as a block), break, continue, generation; the usual operators, slices, literals,
 * filters, tests and methods of strings and maps. What is missing (macros, includes, fractions,
 * strftime_now) is refused by its name, or undefined. Letters change their case in ASCII alone.
 *
 * Every byte of the result says where it came from, whatever filters it went through: the template,
 * or a message. So a message's text never becomes a control piece.
 *
 * A template may come from a peer or a file: its size, depth and work are bounded, and so is the
 * memory of a rendering.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JINJA_SOURCE_BYTES_MAX (64u << 10)
#define JINJA_DEPTH_MAX        128         /* of nested statements and expressions, and of values */
#define JINJA_VARIABLES_MAX    256         /* alive at once */
#define JINJA_OUTPUT_BYTES_MAX (16u << 20) /* the wire's messages are smaller */
#define JINJA_MEMORY_BYTES_MAX (64u << 20) /* of one rendering, beside its output */
#define JINJA_WORK_MAX         (8u << 20)  /* steps, and 16ths of bytes looked at */
#define JINJA_RANGE_MAX        100000      /* as Jinja's own sandbox */

typedef struct Template Template;

enum text_mark {
    MARK_TEMPLATE,
    MARK_CONTENT, /* of a message */
    MARK_ANSWER,  /* of a message of the assistant's */
};

struct gk_message;

/* What is to be rendered. */
struct jinja_input {
    const struct gk_message *messages;
    size_t n_messages;
    const char *bos, *eos; /* the tokens' text; "" where the model has none */
    bool add_generation_prompt;
};
struct jinja_output {
    char *bytes;    /* n, and a zero byte */
    uint8_t *marks; /* (n) enum text_mark */
    size_t n;
};

/* Returns GK_E_INVALID with what is wrong and in which line, -ENOMEM. */
int template_parse(Template **ret, const char *source, size_t n, Error *reterr);
Template *template_free(Template *t);
DEFINE_CLEANUP(Template *, template_free)
/* True where the text stands in the template, in quotes. */
bool template_has_string(const Template *t, const char *text);
/* True where the bytes stand anywhere in the template's source. */
bool template_has(const Template *t, const void *bytes, size_t n);
/* Returns GK_E_INVALID where the template refuses the conversation or fails over it, -ENOMEM. */
int template_render(const Template *t, const struct jinja_input *input, struct jinja_output *ret,
                    Error *reterr);
void jinja_output_deinit(struct jinja_output *o);
