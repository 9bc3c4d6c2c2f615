/* Where a model's weights are, as the kernel tells it. Called while a model is opened. */
#pragma once

#include "engine/engine.h"
#include "engine/file/file.h"
#include "engine/homes.h"

#include <stdio.h>

struct memory_range {
    uintptr_t begin, end;
};

/* Adds what lies in the ranges. `smaps`: /proc/self/smaps; `numa_maps`: /proc/self/numa_maps. */
void memory_read_smaps(FILE *smaps, const struct memory_range *ranges, size_t n,
                       struct gk_memory *ret);
void memory_read_numa_maps(FILE *numa_maps, const struct memory_range *ranges, size_t n,
                           struct gk_memory *ret);
/* A sample of the pages in the ranges, which must have been read. node_of: the number of the node
 * that a page is on; negative: nobody knows. */
void memory_count_homes(const Homes *homes, const struct memory_range *ranges, size_t n,
                        int (*node_of)(const void *page), struct gk_memory *ret);
/* All of the file's parts. Zeroes where the kernel does not say. homes: NULL where the file has not
 * been read or there is one node. */
void memory_of_file(const ModelFile *f, const Homes *homes, struct gk_memory *ret);
