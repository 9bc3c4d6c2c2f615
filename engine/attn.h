/* Rotary positions and grouped-query attention over the paged cache. Called by step.c, inside a
 * step. */
#pragma once

#include "engine/internal.h"

/* cos and sin of every rotated pair at row i's position, into the scratch. */
void attn_prepare_rope(const GkEngine *e, uint32_t i_row);
/* Turns row i's queries and keys of one kv head's group, adds nothing else, and writes the key and
 * value to the row's page. */
void attn_rotate_and_store(const GkEngine *e, uint32_t i_layer, uint32_t i_row, uint32_t i_kv_head);
/* Query heads that attend together: what one page serves while it is in cache. */
#define ATTEND_QUERIES 64
/* How many rows of one sequence, at consecutive positions, make a run at most. */
uint32_t attn_run_rows(const Shape *s);
/* A run's query heads that share one kv head, each against all positions up to its own. */
void attn_attend(const GkEngine *e, uint32_t i_layer, const struct row_run *run, uint32_t i_kv_head,
                 void *scratch);

/*
 * The same by spans of KERN_SPAN_POSITIONS, each of them a task, then all that a run has for a kv
 * head in attn_merge(): where a few long sequences would be too few tasks for the pool. The bits
 * are the same. attn_plan_spans() gives the runs their parts, one for each row of each span, and
 * says how many spans there are: 0 where runs are enough by themselves, or parts are too many.
 */
uint32_t attn_plan_spans(const GkEngine *e, uint32_t n_runs);
void attn_attend_span(const GkEngine *e, uint32_t i_layer, uint32_t i_span, uint32_t i_kv_head,
                      void *scratch);
void attn_merge(const GkEngine *e, const struct row_run *run, uint32_t i_kv_head);
