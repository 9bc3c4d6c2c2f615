/* Conversations → tokens: see gk_tokenize_chat(). */
#pragma once

#include "engine/engine.h"
#include "engine/text/text.h"

int chat_encode(const Tokenizer *t, const char *template, const struct gk_message *messages,
                size_t n_messages, unsigned flags, size_t n_max, struct gk_chat_prompt *ret,
                Error *reterr);
