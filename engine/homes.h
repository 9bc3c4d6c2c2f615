/*
 * Which NUMA node is home to which bytes of a model's weights: that of the threads that read them
 * (tasks.h). Made while a model is opened, and for that time.
 */
#pragma once

#include "engine/file/file.h"
#include "engine/pool.h"
#include "engine/shape.h"

typedef struct Homes Homes;

/* NULL: out of memory. */
Homes *homes_new(const Shape *shape, const Weights *w, const GkPool *pool);
Homes *homes_free(Homes *h);
DEFINE_CLEANUP(Homes *, homes_free)

/* The pages from `at`, a page's beginning, that have one home: returns where they end, at most
 * `end`. What is no weight belongs to what is before it. */
const uint8_t *homes_range(const Homes *h, const uint8_t *at, const uint8_t *end,
                           unsigned *ret_node);
/* The kernel's number of a page's home. */
int homes_node_of(const Homes *h, const uint8_t *page);

/*
 * Reads the whole file, what has its home on a node by a thread there: the kernel takes memory for
 * what it reads from the disk where the reader runs. (What is in the page cache stays where it is.)
 * on_progress as in engine.h, on the caller's thread; returns -ECANCELED where it gave up.
 */
int homes_preload(const Homes *h, const ModelFile *f,
                  bool (*on_progress)(void *, uint64_t, uint64_t), void *userdata, Error *reterr);
