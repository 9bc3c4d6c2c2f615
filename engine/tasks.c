/* See tasks.h. */
#include "engine/tasks.h"

#include "base/macro.h"

size_t tasks_count(const struct task_list *list) {
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(list->parts); i++)
        n += list->parts[i].n_matrices * list->parts[i].n_blocks;
    return n;
}

size_t tasks_of_node(const struct task_list *list, unsigned n_nodes, unsigned i_node, size_t j) {
    size_t first = 0;

    for (size_t i = 0; i < ARRAY_SIZE(list->parts); i++) {
        const struct task_part *p = &list->parts[i];
        size_t begin = tasks_home_begin(p->n_blocks, n_nodes, i_node);
        size_t n = tasks_home_begin(p->n_blocks, n_nodes, i_node + 1) - begin;

        if (n > 0 && j < p->n_matrices * n)
            return first + j / n * p->n_blocks + begin + j % n;
        j -= p->n_matrices * n;
        first += p->n_matrices * p->n_blocks;
    }
    return TASKS_END;
}

size_t tasks_draw(struct task_draw *draw, const struct task_list *list, unsigned n_nodes,
                  unsigned i_node, unsigned *turn) {
    for (; *turn < n_nodes; ++*turn) {
        unsigned node = (i_node + *turn) % n_nodes;
        size_t task = tasks_of_node(list, n_nodes, node, pool_tasks_take(&draw->nodes[node]));

        if (task != TASKS_END)
            return task;
    }
    return TASKS_END;
}

void tasks_reset(struct task_draw *draw, unsigned n_nodes) {
    for (unsigned i = 0; i < n_nodes; i++)
        pool_tasks_reset(&draw->nodes[i]);
}
