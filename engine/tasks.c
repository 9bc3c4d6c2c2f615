/* See tasks.h. */
#include "engine/tasks.h"

#include "base/macro.h"

/* Of a part's matrix, the blocks whose home is the node. */
static size_t home_blocks(const struct task_part *p, unsigned n_nodes, unsigned i_node) {
    return tasks_home_begin(p->n_blocks, n_nodes, i_node + 1) -
           tasks_home_begin(p->n_blocks, n_nodes, i_node);
}

static size_t node_count(const struct task_list *list, unsigned n_nodes, unsigned i_node) {
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(list->parts); i++)
        n += list->parts[i].n_matrices * home_blocks(&list->parts[i], n_nodes, i_node);
    return n;
}

size_t tasks_of_node(const struct task_list *list, unsigned n_nodes, unsigned i_node, size_t j) {
    size_t first = 0;

    for (size_t i = 0; i < ARRAY_SIZE(list->parts); i++) {
        const struct task_part *p = &list->parts[i];
        size_t n = home_blocks(p, n_nodes, i_node);

        if (n > 0 && j < p->n_matrices * n)
            return first + j / n * p->n_blocks + tasks_home_begin(p->n_blocks, n_nodes, i_node) +
                   j % n;
        j -= p->n_matrices * n;
        first += p->n_matrices * p->n_blocks;
    }
    return TASKS_END;
}

size_t tasks_draw(struct task_draw *draw, const struct task_list *list, unsigned n_nodes,
                  struct task_turn *turn) {
    for (; turn->n_finished < n_nodes; turn->n_finished++) {
        unsigned node = (turn->node + turn->n_finished) % n_nodes;
        size_t n = node_count(list, n_nodes, node);
        size_t i =
            pool_tasks_take(&draw->nodes[node], n, turn->last && !list->in_order, &turn->n_left);

        if (i < n)
            return tasks_of_node(list, n_nodes, node, i);
    }
    return TASKS_END;
}

void tasks_reset(struct task_draw *draw, unsigned n_nodes) {
    for (unsigned i = 0; i < n_nodes; i++)
        pool_tasks_reset(&draw->nodes[i]);
}
