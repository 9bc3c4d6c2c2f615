/* The mixture of experts: who computes a row, and the experts' feed-forward blocks. Inside a step.
 */
#pragma once

#include "engine/internal.h"
#include "engine/tasks.h"

/* Row i's router: probabilities, the chosen experts in rank order, their gates. A NaN never wins.
 */
void moe_route(const GkEngine *e, const struct layer *l, uint32_t i_row, void *scratch);
/* Sorts the (row, rank) slots by expert: counting sort, stable, so rows of an expert stay in order.
 * Then the experts that have some: first those of more rows than the average, which compute for
 * longer than they wait for memory; and what their tasks wait for. All others wait meanwhile. */
void moe_sort(const GkEngine *e, uint32_t n_rows);

/* Whether this step's slots are copied in their order, so that the rows of an expert lie side by
 * side for integer products; then moe_gather() is called for all of them, [begin, end) at a time.
 */
bool moe_gathers(const GkEngine *e, const struct layer *l);
void moe_gather(const GkEngine *e, const struct layer *l, uint32_t begin, uint32_t end);

/* The feed-forward blocks as tasks, first (active expert, TILE_FF features) of activation(gate)·up,
 * then (active expert, TILE_OUT outputs) of down. i_next is the task that comes after, or one that
 * isn't there. From moe_sort() to moe_combine() no barrier is needed but the last one, if a member
 * gathers its share before it takes tasks, and takes none of the second list while the first has
 * some: a task waits for its expert's slots, and for its inner features. */
struct task_part moe_inner_tasks(const GkEngine *e);
void moe_inner_task(const GkEngine *e, const struct layer *l, size_t i_task, size_t i_next,
                    void *scratch);
struct task_part moe_down_tasks(const GkEngine *e);
void moe_down_task(const GkEngine *e, const struct layer *l, size_t i_task, size_t i_next,
                   void *scratch);

/* Row i's branch: Σ gate · expert's output, in rank order. */
void moe_combine(const GkEngine *e, uint32_t i_row);
