/*
 * Masks of tokens: one walk over the vocabulary in the order of its bytes. A token goes on from
 * where it parts from the one before it; what no text allows is passed over with all that begins
 * so, and where the bytes of all tokens that begin alike only lead back to the same state, as in
 * the middle of a string, they are allowed at once.
 */
#include "base/alloc.h"
#include "engine/grammar/automaton.h"

#include <string.h>

#define BLOCK_MIN 8 /* tokens for which a state's loops are worth knowing */

/* Kinds of which every byte leads from the state back to it. */
static uint64_t find_loops(Automaton *a, uint32_t state) {
    const Network *w = a->network;
    uint64_t kinds = (1ull << TOKEN_BYTE_KINDS) - 1;
    bool is_loop[256];

    if (a->stacks[state].loops & LOOPS_KNOWN)
        return a->stacks[state].loops;
    for (uint32_t i = 0; i < w->n_classes; i++)
        is_loop[i] = automaton_step(a, state, w->examples[i]) == state;
    for (unsigned byte = 0; byte < 256; byte++)
        if (!is_loop[w->classes[byte]])
            kinds &= ~(1ull << token_byte_kind((uint8_t)byte));
    if (!a->has_failed)
        a->stacks[state].loops = kinds | LOOPS_KNOWN;
    return kinds;
}

/* All of the block that begins with token i are allowed, as no byte leaves the state. */
static bool is_loop_block(Automaton *a, uint32_t i, uint32_t state) {
    const TokenTable *t = a->table;

    return t->next[i] - i >= BLOCK_MIN && t->at[i] < t->at[i + 1] &&
           automaton_step(a, state, t->suffixes[t->at[i]]) == state &&
           (t->kinds[i] & ~find_loops(a, state)) == 0 && !a->has_failed;
}

static void walk(Automaton *a, uint32_t start, uint64_t *bits) {
    const TokenTable *t = a->table;
    uint32_t n_alive = 0; /* bytes of the token before that went well: their states are the trail */

    a->trail[0] = start;
    for (uint32_t i = 0; i < t->n && !a->has_failed;) {
        const uint8_t *bytes = t->suffixes + t->at[i];
        uint32_t shared = t->shared[i], n = t->at[i + 1] - t->at[i], k = 0, state;

        if (shared > n_alive) { /* what it shares with the one before is already impossible */
            i = t->next[i];
            continue;
        }
        n_alive = shared;
        state = a->trail[shared];
        if (is_loop_block(a, i, state)) {
            for (uint32_t end = t->next[i]; i < end; i++)
                token_set(bits, t->tokens[i], true);
            continue;
        }
        (void)automaton_spend(a, 1 + n);
        while (k < n && (state = automaton_step(a, state, bytes[k])) != STATE_NOTHING)
            a->trail[shared + ++k] = state;
        n_alive = shared + k;
        if (k == n)
            token_set(bits, t->tokens[i], true);
        i = k == 0 && n > 0 ? t->next[i] : i + 1;
    }
}

/* The one used longest ago, or a new one where there is room; NULL: there is none. */
static struct mask *take_slot(Automaton *a) {
    struct mask *oldest = NULL;

    if (a->n_masks < AUTOMATON_MASKS_MAX) {
        size_t n = atomic_fetch_add(&a->budget->n, 1);
        uint64_t *bits = NULL;

        if (n < a->budget->n_max || a->n_masks < AUTOMATON_MASKS_MIN)
            bits = alloc_array(a->table->n_words, sizeof(*bits));
        if (bits) {
            a->masks[a->n_masks] = (struct mask){.state = STATE_UNKNOWN, .bits = bits};
            return &a->masks[a->n_masks++];
        }
        (void)atomic_fetch_sub(&a->budget->n, 1);
    }
    for (uint32_t i = 0; i < a->n_masks; i++)
        if (!oldest || a->masks[i].used < oldest->used)
            oldest = &a->masks[i];
    if (oldest && oldest->state != STATE_UNKNOWN)
        a->stacks[oldest->state].mask = 0;
    return oldest;
}

static void keep(Automaton *a, uint32_t state, const uint64_t *bits) {
    struct mask *mask = take_slot(a);

    if (!mask)
        return;
    (void)memcpy(mask->bits, bits, a->table->n_words * sizeof(*bits));
    mask->state = state;
    mask->used = ++a->clock;
    a->stacks[state].mask = (uint16_t)(mask - a->masks + 1);
}

bool automaton_mask(Automaton *a, struct cursor *c, uint64_t *bits) {
    size_t size = a->table->n_words * sizeof(*bits);
    uint32_t state = automaton_begin(a, c);

    if (state != STATE_NOTHING && a->stacks[state].mask != 0) {
        struct mask *mask = &a->masks[a->stacks[state].mask - 1];

        mask->used = ++a->clock;
        (void)memcpy(bits, mask->bits, size);
        return true;
    }
    for (int attempt = 0; attempt < 2 && automaton_ask(a); attempt++) {
        (void)memset(bits, 0, size);
        if (c->state != STATE_NOTHING)
            walk(a, c->state, bits);
        if (!a->is_full)
            break;
    }
    if (a->has_failed)
        return false;
    if (c->state != STATE_NOTHING)
        keep(a, c->state, bits);
    return true;
}
