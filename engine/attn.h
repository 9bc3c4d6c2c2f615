/* Rotary positions and grouped-query attention over the paged cache. Called by step.c, inside a
 * step. */
#pragma once

#include "engine/internal.h"

/* cos and sin of every rotated pair at row i's position, into the scratch. */
void attn_prepare_rope(const GkEngine *e, uint32_t i_row);
/* Turns row i's queries and keys of one kv head's group, adds nothing else, and writes the key and
 * value to the row's page. */
void attn_rotate_and_store(const GkEngine *e, uint32_t i_layer, uint32_t i_row, uint32_t i_kv_head);
/* Row i's query heads that share one kv head, against all positions up to the row's own. */
void attn_attend(const GkEngine *e, uint32_t i_layer, uint32_t i_row, uint32_t i_kv_head,
                 void *scratch);
