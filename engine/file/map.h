/*
 * A file mapped read-only, and the guard over it.
 *
 * A page of a mapped file can fail: the file shrank, the disk or its network died. The kernel then
 * sends SIGBUS to the thread that touched it. The guard, one handler for the process, puts zeroes
 * in the place of that page and all after it and marks the mapping lost; the thread goes on with
 * zeroes, and whoever owns the mapping asks mapping_is_lost() before it believes what was computed.
 * SIGBUS must not be blocked in threads that read mappings: the kernel would end the process.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define MAPPING_MAX 4096 /* alive in one process: every part of every model */

typedef struct Mapping Mapping;

/* Regular files only, and not empty. Returns GK_E_FILE with a sentence. */
int mapping_open(Mapping **ret, const char *path, Error *reterr);
Mapping *mapping_close(Mapping *m);
DEFINE_CLEANUP(Mapping *, mapping_close)

const uint8_t *mapping_bytes(const Mapping *m);
size_t mapping_n_bytes(const Mapping *m);
struct timespec mapping_modified(const Mapping *m); /* when it was opened */
/* True, and for ever, once a page could not be read or the file was seen to have been changed. Any
 * thread; one system call. */
bool mapping_is_lost(Mapping *m);
/* See file.h; where the kernel won't, nothing changes. */
void mapping_ask_huge(Mapping *m);
void mapping_lock(const Mapping *m);
/* Reads every page of n bytes from `begin` on, a page's beginning, in order, calling on_progress
 * (may be NULL) with the bytes done since the last call; stops early where the mapping is lost.
 * Returns false where on_progress did so, to give up. */
bool mapping_preload(Mapping *m, size_t begin, size_t n,
                     bool (*on_progress)(void *userdata, uint64_t n_bytes), void *userdata);
