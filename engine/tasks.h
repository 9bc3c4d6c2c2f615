/*
 * Lists of tasks, and which NUMA node is home to each.
 *
 * The rows of a matrix are cut into blocks, and those into one run for each node: the node's
 * threads read these rows, in each pass, and are the first to read them when the model is loaded,
 * so that the kernel puts them into the node's memory. A list is drawn node by node: its own tasks
 * first, then what the others have left, so that no thread is idle while there is work.
 */
#pragma once

#include "engine/pool.h"

/* Of n blocks those whose home is node i: [tasks_home_begin(i), tasks_home_begin(i + 1)). The home
 * of block b is b · n_nodes / n, rounded down. */
static inline size_t tasks_home_begin(size_t n, unsigned n_nodes, unsigned i) {
    return (n * i + n_nodes - 1) / n_nodes;
}

#define TASK_PARTS_MAX 3

/* Tasks are numbered through the parts; in a part, block by block of its first matrix, then of the
 * next. */
struct task_list {
    struct task_part {
        size_t n_matrices, n_blocks; /* of each */
    } parts[TASK_PARTS_MAX];
};

size_t tasks_count(const struct task_list *list);

#define TASKS_END SIZE_MAX
/* The j-th task whose home is the node, TASKS_END where there are fewer. */
size_t tasks_of_node(const struct task_list *list, unsigned n_nodes, unsigned i_node, size_t j);

/* What each node's list has drawn. */
struct task_draw {
    PoolTasks nodes[GK_NODES_MAX];
};

/* The next task for a member on i_node, TASKS_END when none is left. *turn is the member's own: 0
 * at the beginning of a list. */
size_t tasks_draw(struct task_draw *draw, const struct task_list *list, unsigned n_nodes,
                  unsigned i_node, unsigned *turn);
void tasks_reset(struct task_draw *draw, unsigned n_nodes);
