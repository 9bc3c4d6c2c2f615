/* Where a model's weights are, as the kernel tells it. Called while a model is opened. */
#pragma once

#include "engine/engine.h"
#include "engine/file/file.h"

#include <stdio.h>

struct memory_range {
    uintptr_t begin, end;
};

/* Adds what lies in the ranges. `smaps`: /proc/self/smaps; `numa_maps`: /proc/self/numa_maps. */
void memory_read_smaps(FILE *smaps, const struct memory_range *ranges, size_t n,
                       struct gk_memory *ret);
void memory_read_numa_maps(FILE *numa_maps, const struct memory_range *ranges, size_t n,
                           struct gk_memory *ret);
/* All of the file's parts. Zeroes where the kernel does not say. */
void memory_of_file(const ModelFile *f, struct gk_memory *ret);
