/* See homes.h. */
#include "engine/homes.h"

#include "base/alloc.h"
#include "engine/expert.h"
#include "engine/tasks.h"

#include <time.h>

#define POLL_NS 10000000

/* From here on, up to the next edge. */
struct edge {
    const uint8_t *begin;
    unsigned node;
};

struct Homes {
    const GkPool *pool;
    unsigned n_nodes;
    size_t page_bytes;
    struct edge *edges; // (n) in the order of addresses
    size_t n;
};

/* ---- the map ---- */

/* The rows of a matrix whose tasks take `tile` of them each. */
static void add_weight(Homes *h, const struct weight *w, uint32_t tile) {
    size_t n_blocks = (w->n_out + tile - 1) / tile;

    for (unsigned node = 0; w->data && node < h->n_nodes; node++) {
        size_t begin = tasks_home_begin(n_blocks, h->n_nodes, node);

        if (begin < tasks_home_begin(n_blocks, h->n_nodes, node + 1))
            h->edges[h->n++] = (struct edge){w->data + begin * tile * w->row_bytes, node};
    }
}

static void add_layer(Homes *h, const struct layer *l, uint32_t n_experts) {
    const struct weight *plain[] = {&l->q, &l->k, &l->v, &l->o};

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        add_weight(h, plain[i], TILE_OUT);
    for (uint32_t i = 0; i < n_experts; i++) {
        add_weight(h, expert_weight(l, i, EXPERT_GATE), TILE_FF);
        add_weight(h, expert_weight(l, i, EXPERT_UP), TILE_FF);
        add_weight(h, expert_weight(l, i, EXPERT_DOWN), TILE_OUT);
    }
}

static int compare_edges(const void *a, const void *b) {
    const struct edge *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

Homes *homes_new(const Shape *shape, const Weights *w, const GkPool *pool) {
    CLEANUP(homes_freep) Homes *h = alloc_new(Homes);
    uint32_t n_experts = MAX(shape->n_experts, 1u);
    size_t n_weights = 2 + (size_t)shape->n_layers * (4 + EXPERT_PART_N * (size_t)n_experts);

    if (!h)
        return NULL;
    h->pool = pool;
    h->n_nodes = pool_n_nodes(pool);
    h->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    h->edges = alloc_array(n_weights * h->n_nodes, sizeof(*h->edges));
    if (!h->edges)
        return NULL;
    /* One row of the embedding is read for a token, by anyone; spread, no node has it all. */
    add_weight(h, &w->embedding, TILE_OUT);
    if (w->output.data != w->embedding.data)
        add_weight(h, &w->output, TILE_OUT);
    for (uint32_t i = 0; i < shape->n_layers; i++)
        add_layer(h, &w->layers[i], n_experts);
    qsort(h->edges, h->n, sizeof(*h->edges), compare_edges);
    return take_ptr(h);
}

Homes *homes_free(Homes *h) {
    if (!h)
        return NULL;
    free(h->edges);
    free(h);
    return NULL;
}

int homes_node_of(const Homes *h, const uint8_t *page) {
    unsigned node;

    (void)homes_range(h, page, page + 1, &node);
    return pool_node_number(h->pool, node);
}

const uint8_t *homes_range(const Homes *h, const uint8_t *at, const uint8_t *end,
                           unsigned *ret_node) {
    size_t low = 0, high = h->n; /* edges before low begin at or before `at` */
    size_t n_left = (size_t)(end - at), n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (h->edges[middle].begin <= at)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_node = low > 0 ? h->edges[low - 1].node : 0;
    if (low == h->n)
        return end;
    n = (size_t)(h->edges[low].begin - at);
    n = (n + h->page_bytes - 1) / h->page_bytes * h->page_bytes;
    return at + MIN(n, n_left);
}

/* ---- reading ---- */

struct reading {
    const Homes *homes;
    const ModelFile *file;
    bool (*on_progress)(void *, uint64_t, uint64_t);
    void *userdata;
    uint64_t n_total;
    atomic_uint_fast64_t n_done;
    atomic_uint n_readers; /* that have not ended */
    atomic_bool is_given_up;
};

struct reader {
    struct reading *reading;
    unsigned node;
};

/* Progress is told by node 0's thread alone, the caller's. */
static bool on_read(void *userdata, uint64_t n_bytes) {
    const struct reader *r = userdata;
    struct reading *all = r->reading;
    uint64_t n_done = atomic_fetch_add(&all->n_done, n_bytes) + n_bytes;

    if (atomic_load(&all->is_given_up))
        return false;
    if (r->node == 0 && all->on_progress && !all->on_progress(all->userdata, n_done, all->n_total))
        atomic_store(&all->is_given_up, true);
    return !atomic_load(&all->is_given_up);
}

static bool read_part(struct reader *r, size_t i_part) {
    const struct reading *all = r->reading;
    size_t n_bytes;
    const uint8_t *begin = model_file_part(all->file, i_part, &n_bytes), *end = begin + n_bytes;

    for (const uint8_t *at = begin, *next; at < end; at = next) {
        unsigned node;

        next = homes_range(all->homes, at, end, &node);
        if (node == r->node && !model_file_preload_range(all->file, i_part, (size_t)(at - begin),
                                                         (size_t)(next - at), on_read, r))
            return false;
    }
    return true;
}

static void read_node(void *reading, unsigned i_node) {
    struct reader r = {.reading = reading, .node = i_node};

    for (size_t i = 0; i < model_file_n_parts(r.reading->file); i++)
        if (!read_part(&r, i))
            break;
    atomic_fetch_sub(&r.reading->n_readers, 1);
    while (i_node == 0) {
        bool all_ended = atomic_load(&r.reading->n_readers) == 0; /* what they read is counted */

        if (!on_read(&r, 0) || all_ended)
            break;
        (void)nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

int homes_preload(const Homes *h, const ModelFile *f,
                  bool (*on_progress)(void *, uint64_t, uint64_t), void *userdata, Error *reterr) {
    struct reading all = {.homes = h,
                          .file = f,
                          .on_progress = on_progress,
                          .userdata = userdata,
                          .n_total = model_file_n_bytes(f),
                          .n_readers = h->n_nodes};
    int r = pool_run_on_nodes(h->pool, read_node, &all, reterr);

    if (r == 0 && atomic_load(&all.is_given_up))
        r = error_set(reterr, -ECANCELED, "loading was given up");
    return r;
}
