/* Conversations: their templates, and their way into prompts. */
#pragma once

#include "daemon/models.h"
#include "daemon/text.h"

/* The words of a configuration: a template's name, which is given back, or a file's path, whose
 * text is. Returns -EINVAL with a sentence, -ENOMEM. */
int chat_load_template(const char *name_or_path, char **ret, Error *reterr);
/* Name or text of the template that the model's conversations have where a request names none. */
const char *chat_template_of(const Model *model);
/* Where it comes from: its own name, the configured file, or "model" for the model file's. */
const char *chat_template_name_of(const Model *model);
/* After the model has been loaded: warns where its file's template is of no use. */
void chat_check_template(const Model *model);

/* Copies the conversation into the work. Returns false where the call is over; the work is freed
 * then. */
bool chat_set_conversation(Call *call, TextWork *w, const Grokd__V1__Conversation *c);
/* What the conversation keeps in memory. */
size_t chat_n_bytes(const Grokd__V1__Conversation *c);
/* In the background. */
void chat_run(TextWork *w);
/* Has the answer end where the template ends it. Returns -ENOMEM. */
int chat_add_end(Job *job, const TextWork *w);
