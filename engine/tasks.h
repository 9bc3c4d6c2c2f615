/*
 * Lists of tasks, and which NUMA node is home to each.
 *
 * The rows of a matrix are cut into blocks, and those into one run for each node: the node's
 * threads read these rows, in each pass, and are the first to read them when the model is loaded,
 * so that the kernel puts them into the node's memory. A list is drawn node by node: its own tasks
 * first, then what the others have left, so that no thread is idle while there is work that need
 * not wait.
 *
 * Half of the members begin at a list's end: then tasks that wait for memory and tasks that compute
 * are under way together, where neighbours would all do the same.
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
    bool in_order; /* all begin with the first, which takes longest */
};

#define TASKS_END SIZE_MAX
/* The j-th task whose home is the node, TASKS_END where there are fewer. */
size_t tasks_of_node(const struct task_list *list, unsigned n_nodes, unsigned i_node, size_t j);

/* What each node's list has drawn. */
struct task_draw {
    PoolTasks nodes[GK_NODES_MAX];
};

/* Where a member is in a list. */
struct task_turn {
    unsigned node;       /* its own */
    bool last;           /* it takes the last tasks first */
    unsigned n_finished; /* nodes in which nothing is left, of its own and those after it */
    size_t n_left;       /* in the node that the last task came from */
};

/* The next task for a member, TASKS_END when none is left. */
size_t tasks_draw(struct task_draw *draw, const struct task_list *list, unsigned n_nodes,
                  struct task_turn *turn);
void tasks_reset(struct task_draw *draw, unsigned n_nodes);
