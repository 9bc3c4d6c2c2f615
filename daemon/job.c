/* See job.h. */
#include "daemon/job.h"

#include "base/alloc.h"

#include <string.h>

Job *job_new(uint64_t id, struct Model *model, GkEngine *engine) {
    Job *job = alloc_new(Job);

    if (!job)
        return NULL;
    list_init(&job->letter.node);
    job->letter.id = id;
    job->letter.model = model;
    job->engine = engine;
    return job;
}

Job *job_free(Job *job) {
    if (!job)
        return NULL;
    assert(!job->seq);
    free(job->tokens);
    free(job->params_memory);
    free(job->end_memory);
    (void)gk_constraint_unref(job->constraint);
    free(job);
    return NULL;
}

/* One block: the letter, then the alternatives, the scores and the text. */
Letter *letter_new(enum letter_type type, const Job *job, const struct gk_result *result) {
    size_t n_rows = type == LETTER_SCORES ? result->n_scores : type == LETTER_TOKEN;
    size_t n_top = n_rows * result->n_top * sizeof(struct gk_logprob);
    size_t n_values = type == LETTER_SCORES      ? result->n_scores
                      : type == LETTER_EMBEDDING ? result->n_embedding
                                                 : 0;
    size_t n_scores = n_values * sizeof(float);
    size_t n_text = type == LETTER_TOKEN ? result->n_text : 0;
    Letter *letter = alloc_array(1, sizeof(*letter) + n_top + n_scores + n_text);
    char *at = (char *)(letter + 1);

    if (!letter)
        return NULL;
    *letter = (Letter){
        .type = type,
        .id = job->letter.id,
        .model = job->letter.model,
        .n_prompt_done = result->n_prompt_done,
        .token = result->token,
        .logprob = result->logprob,
        .score_begin = result->score_begin,
        .n_scores = n_values,
        .n_top = result->n_top,
        .top = (struct gk_logprob *)(void *)at,
        .scores = (float *)(void *)(at + n_top),
        .text = at + n_top + n_scores,
        .n_text = n_text,
    };
    list_init(&letter->node);
    if (n_top > 0)
        (void)memcpy(at, result->top, n_top);
    if (n_scores > 0)
        (void)memcpy(at + n_top, type == LETTER_SCORES ? result->scores : result->embedding,
                     n_scores);
    if (n_text > 0)
        (void)memcpy(at + n_top + n_scores, result->text, n_text);
    return letter;
}
