/* See draft.h. */
#include "engine/draft.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/macro.h"

#include <errno.h>

int drafter_init(Drafter *d, size_t n_max) {
    *d = (Drafter){.n_buckets = 1, .n_indexed = DRAFT_MATCH_MIN};
    while (d->n_buckets < n_max && d->n_buckets < 1u << 30)
        d->n_buckets *= 2;
    d->newest = alloc_array(d->n_buckets, sizeof(*d->newest));
    d->older = alloc_array(n_max, sizeof(*d->older));
    if (!d->newest || !d->older) {
        drafter_deinit(d);
        return error_origin(-ENOMEM);
    }
    return 0;
}

void drafter_deinit(Drafter *d) {
    free(d->newest);
    free(d->older);
    *d = (Drafter){0};
}

/* Of the run that ends before `end`. */
static uint32_t *bucket_of(const Drafter *d, const int32_t *tokens, size_t end) {
    uint64_t h = 0;

    for (size_t i = end - DRAFT_MATCH_MIN; i < end; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
    }
    return &d->newest[h & (d->n_buckets - 1)];
}

static void bring_up_to_date(Drafter *d, const int32_t *tokens, size_t n) {
    for (; d->n_indexed < n; d->n_indexed++) {
        uint32_t *newest = bucket_of(d, tokens, d->n_indexed);

        d->older[d->n_indexed] = *newest;
        *newest = (uint32_t)d->n_indexed;
    }
}

/* How many tokens before a and before b > a are the same. */
static size_t n_same(const int32_t *tokens, size_t a, size_t b) {
    size_t n = 0, n_max = MIN(a, (size_t)DRAFT_MATCH_MAX);

    while (n < n_max && tokens[a - 1 - n] == tokens[b - 1 - n])
        n++;
    return n;
}

size_t drafter_find(Drafter *d, int32_t *tokens, size_t n, size_t n_drafts) {
    size_t place, best = 0, n_best = DRAFT_MATCH_MIN - 1;

    if (n <= DRAFT_MATCH_MIN)
        return 0;
    bring_up_to_date(d, tokens, n);
    place = *bucket_of(d, tokens, n);
    for (int i = 0; place > 0 && i < DRAFT_PLACES_MAX && n_best < DRAFT_MATCH_MAX; i++) {
        size_t n_here = n_same(tokens, place, n);

        if (n_here > n_best) {
            n_best = n_here;
            best = place;
        }
        place = d->older[place];
    }
    if (best == 0)
        return 0;
    /* What repeats itself goes on doing so: the copy may run into itself. */
    for (size_t i = 0; i < n_drafts; i++)
        tokens[n + i] = tokens[best + i];
    return n_drafts;
}
