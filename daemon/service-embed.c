/*
 * Inference.Embed: the texts of a request are tokenized one after the other, and when all are known
 * to be in order computed one after the other, each by a job of its own. A prompt fills the machine
 * by itself, so nothing would be won by computing them side by side; what others ask for comes
 * between them.
 */
#include "base/alloc.h"
#include "daemon/conn.h"
#include "daemon/daemon.h"
#include "daemon/service.h"
#include "daemon/text.h"

#include <string.h>

#define INPUTS_MAX 256
/* On the wire, beside its values: tags, lengths, the count of tokens. */
#define EMBEDDING_BYTES 32

struct input {
    char *text; /* NULL: it came as tokens */
    int32_t *tokens;
    size_t n_tokens;
};

/* Owner: Call. Thread: loop. */
typedef struct Embed {
    struct input *inputs; /* (n) */
    size_t n, i;          /* i: tokenized, later computed, so far */
    float *values;        /* (n, n_embd) */
    size_t n_embd, n_tokens;
    unsigned flags; /* enum gk_tokenize_flags */
    enum gk_pooling pooling;
    bool normalize;
    Grokd__V1__Priority priority;
} Embed;

Embed *embed_free(Embed *e) {
    if (!e)
        return NULL;
    for (size_t i = 0; i < e->n; i++) {
        free(e->inputs[i].text);
        free(e->inputs[i].tokens);
    }
    free(e->inputs);
    free(e->values);
    free(e);
    return NULL;
}

static void fail_memory(Call *call) {
    call_fail(call, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- computing ---- */

static void compute_next(Call *call) {
    Embed *e = call->embed;
    struct input *input = &e->inputs[e->i];
    Job *job = inference_new_job(call, GK_EMBED, e->priority);

    if (!job)
        return;
    job->params.pooling = e->pooling;
    job->params.normalize = e->normalize;
    job->tokens = take_ptr(input->tokens);
    job->n_tokens = input->n_tokens;
    inference_push(call, job);
}

void embed_on_letter(Call *call, const Letter *letter) {
    Embed *e = call->embed;

    (void)call_advance(call, letter->n_prompt_done);
    if (letter->type != LETTER_EMBEDDING)
        return;
    assert(letter->n_scores == e->n_embd && e->i < e->n);
    (void)memcpy(e->values + e->i * e->n_embd, letter->scores, e->n_embd * sizeof(float));
}

static void reply(Call *call) {
    Grokd__V1__EmbedResponse answer = GROKD__V1__EMBED_RESPONSE__INIT;
    const Embed *e = call->embed;
    CLEANUP(freep) Grokd__V1__Embedding *embeddings = alloc_array(e->n, sizeof(*embeddings));
    CLEANUP(freep) Grokd__V1__Embedding **pointers = alloc_array(e->n, sizeof(*pointers));
    Grokd__V1__Usage usage;

    if (!embeddings || !pointers) {
        fail_memory(call);
        return;
    }
    call->n_prompt = e->n_tokens;
    fill_usage(call, &usage);
    answer.usage = &usage;
    for (size_t i = 0; i < e->n; i++) {
        grokd__v1__embedding__init(&embeddings[i]);
        embeddings[i].values = e->values + i * e->n_embd;
        embeddings[i].n_values = e->n_embd;
        embeddings[i].tokens = (uint32_t)e->inputs[i].n_tokens;
        pointers[i] = &embeddings[i];
    }
    answer.embeddings = pointers;
    answer.n_embeddings = e->n;
    call_reply(call, &answer.base);
}

void embed_on_ended(Call *call, const Job *job) {
    /* What the last one held is free for the next. */
    call_release_job((Job *)(uintptr_t)job);
    if (++call->embed->i < call->embed->n) {
        compute_next(call);
        return;
    }
    call_set_state(call, CALL_FLUSHING);
    reply(call);
}

/* ---- tokens ---- */

static bool check_tokens(Call *call, size_t i) {
    size_t n = call->embed->inputs[i].n_tokens;
    size_t n_context = gk_engine_info(call->model->engine)->n_context_max;

    if (n == 0)
        call_fail(call, STATUS_INVALID_ARGUMENT, "input %zu is empty", i);
    else if (n > n_context)
        call_fail(call, STATUS_INVALID_ARGUMENT,
                  "input %zu has %zu tokens, which exceed the context of %zu", i, n, n_context);
    else
        return true;
    return false;
}

static void tokenize_next(Call *call);

static void on_tokenized(Call *call, TextWork *w) {
    Embed *e = call->embed;
    struct input *input = &e->inputs[e->i++];

    if (w->result != 0) {
        call_fail(call, service_status_of(w->result), "input %zu: %s", e->i - 1, w->error.text);
        return;
    }
    input->tokens = take_ptr(w->tokens);
    input->n_tokens = w->n_tokens;
    tokenize_next(call);
}

static void tokenize_next(Call *call) {
    Embed *e = call->embed;
    TextWork *w;

    while (e->i < e->n && !e->inputs[e->i].text)
        e->i++;
    if (e->i < e->n) {
        w = text_work_new(call, on_tokenized);
        if (!w || !text_work_set_text(call, w, e->inputs[e->i].text))
            return;
        w->flags = e->flags;
        w->n_tokens_max = gk_engine_info(call->model->engine)->n_context_max;
        text_work_start(call, w);
        return;
    }
    for (size_t i = 0; i < e->n; i++) {
        if (!check_tokens(call, i))
            return;
        e->n_tokens += e->inputs[i].n_tokens;
    }
    e->i = 0;
    compute_next(call);
}

/* ---- the request ---- */

static bool read_pooling(Call *call, Grokd__V1__Pooling pooling, enum gk_pooling *ret) {
    switch (pooling) {
    case GROKD__V1__POOLING__POOLING_UNSPECIFIED:
    case GROKD__V1__POOLING__POOLING_MEAN:
        *ret = GK_POOLING_MEAN;
        return true;
    case GROKD__V1__POOLING__POOLING_LAST:
        *ret = GK_POOLING_LAST;
        return true;
    default:
        call_fail(call, STATUS_INVALID_ARGUMENT, "there is no pooling %d", (int)pooling);
        return false;
    }
}

static bool copy_input(struct input *to, const Grokd__V1__EmbedInput *from) {
    if (from->input_case == GROKD__V1__EMBED_INPUT__INPUT_TEXT) {
        to->text = alloc_string(from->text);
        return to->text != NULL;
    }
    to->n_tokens = from->tokens->n_ids;
    to->tokens = alloc_array(to->n_tokens + 1, sizeof(*to->tokens));
    if (to->tokens && to->n_tokens > 0)
        (void)memcpy(to->tokens, from->tokens->ids, to->n_tokens * sizeof(*to->tokens));
    return to->tokens != NULL;
}

/* What is kept of the inputs and of the answer; 0: the call is over. */
static size_t count_bytes(Call *call, const Grokd__V1__EmbedRequest *q) {
    size_t n_each = gk_engine_info(call->model->engine)->n_embd * sizeof(float), n = 0;

    if (q->n_inputs == 0 || q->n_inputs > INPUTS_MAX) {
        call_fail(call, STATUS_INVALID_ARGUMENT, "there are %zu inputs, not 1 to %d", q->n_inputs,
                  INPUTS_MAX);
        return 0;
    }
    if (q->n_inputs > CODEC_MESSAGE_BYTES_MAX / (n_each + EMBEDDING_BYTES)) {
        call_fail(call, STATUS_RESOURCE_EXHAUSTED,
                  "%zu vectors of %zu bytes each do not fit into one answer", q->n_inputs, n_each);
        return 0;
    }
    for (size_t i = 0; i < q->n_inputs; i++) {
        const Grokd__V1__EmbedInput *input = q->inputs[i];

        if (input->input_case != GROKD__V1__EMBED_INPUT__INPUT_TEXT &&
            input->input_case != GROKD__V1__EMBED_INPUT__INPUT_TOKENS) {
            call_fail(call, STATUS_INVALID_ARGUMENT, "input %zu is neither text nor tokens", i);
            return 0;
        }
        n += input->input_case == GROKD__V1__EMBED_INPUT__INPUT_TEXT
                 ? strlen(input->text) + 1
                 : input->tokens->n_ids * sizeof(int32_t);
    }
    return n + q->n_inputs * (n_each + sizeof(struct input));
}

static bool copy_inputs(Call *call, const Grokd__V1__EmbedRequest *q) {
    Embed *e = call->embed = alloc_new(Embed);
    size_t n_embd = gk_engine_info(call->model->engine)->n_embd;
    bool is_copied = e && (e->inputs = alloc_array(q->n_inputs, sizeof(*e->inputs))) &&
                     (e->values = alloc_array(q->n_inputs * n_embd, sizeof(*e->values)));

    for (size_t i = 0; is_copied && i < q->n_inputs; i++) {
        e->n++;
        is_copied = copy_input(&e->inputs[i], q->inputs[i]);
    }
    if (!is_copied) {
        fail_memory(call);
        return false;
    }
    e->n_embd = n_embd;
    e->flags = inference_bos_flags(q->has_add_bos_case, q->add_bos, q->parse_control);
    e->normalize = !q->has_normalize_case || q->normalize;
    e->priority = q->priority;
    return true;
}

void inference_embed(Call *call, void *request) {
    const Grokd__V1__EmbedRequest *q = request;
    enum gk_pooling pooling;
    size_t n_bytes;

    if (!call_set_timeout(call, q->timeout_ms) || !inference_take_request_id(call, q->request_id) ||
        !call_set_actor(call, q->actor) || !service_use_model(call, q->model) ||
        !read_pooling(call, q->pooling, &pooling))
        return;
    n_bytes = count_bytes(call, q);
    if (n_bytes == 0 || !call_charge(call, n_bytes) || !copy_inputs(call, q))
        return;
    call->embed->pooling = pooling;
    tokenize_next(call);
}
