/*
 * Guessing tokens without a model: what followed where the last tokens came before.
 *
 * An index of all runs of DRAFT_MATCH_MIN tokens, by hash, that is brought up to date when it is
 * asked. Of the places where the last tokens came before, the one counts where most of them did,
 * and of equals the newest. Quoting, code, tables and lists of like things are where that is right;
 * shorter matches are wrong more often than what a row costs.
 *
 * Owner: GkSeq. Thread: worker. Nothing here allocates after drafter_init().
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define DRAFT_MATCH_MIN 4
/* Longer matches are all the same. */
#define DRAFT_MATCH_MAX 32
/* Places that are looked at, the newest first. */
#define DRAFT_PLACES_MAX 64

typedef struct Drafter {
    uint32_t *newest;   // (n_buckets) where a run of that hash ended last; 0: there is none
    uint32_t *older;    // (n_max) where one of the same bucket ended before the one that ended here
    uint32_t n_buckets; /* a power of two */
    size_t n_indexed;   /* runs that end before this are in the index */
} Drafter;

/* For up to n_max tokens. Returns -ENOMEM: nothing is taken. */
int drafter_init(Drafter *d, size_t n_max);
/* One that is all zero is taken. */
void drafter_deinit(Drafter *d);
/* Writes up to n_drafts tokens behind the n tokens, and returns how many. `tokens` are those of the
 * call before, and more. */
size_t drafter_find(Drafter *d, int32_t *tokens, size_t n, size_t n_drafts);
