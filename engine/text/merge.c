/*
 * See merge.h. User-defined pieces are cut out of the text whole, longest first, and stay as they
 * are. The rest is cut into characters. Then the pair of neighbours that makes the piece with the
 * best score (of equal ones the first in the text) becomes one symbol, until no pair makes a piece.
 *
 * Candidates wait in a heap, so that n characters take O(n log n). Where two characters stand side
 * by side that do so in no piece, nothing can merge across, and what is before them is merged and
 * emitted on its own: in most vocabularies that happens at every word. So memory and cache misses
 * are those of a word, not of the text, and a caller that has enough tokens stops early.
 *
 * Unused pieces merge like others, but are taken apart again where they are left at the end: into
 * the two parts that made them. Which those are depends on the piece alone: until something merges
 * across its ends, and then it is not made, its characters merge in the same order everywhere. One
 * that can't be taken apart is as unknown as if it were not there, as in SentencePiece 0.2.3 (0.2.1
 * gave its id).
 */
#include "engine/text/merge.h"

#include "base/alloc.h"

#include <string.h>

#define NONE UINT32_MAX

void merger_deinit(Merger *m) {
    free(m->symbols);
    free(m->heap);
    free(m->splits);
    *m = (Merger){.vocab = NULL};
}

/* ---- the heap ---- */

static bool comes_before(const struct candidate *a, const struct candidate *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static int heap_push(Merger *m, struct candidate c) {
    size_t i = m->n_heap;

    if (m->n_heap == m->heap_capacity) {
        size_t capacity = 2 * m->heap_capacity + 64;
        struct candidate *p = alloc_resize(m->heap, capacity * sizeof(*p));

        if (!p)
            return error_origin(-ENOMEM);
        m->heap = p;
        m->heap_capacity = capacity;
    }
    m->n_heap++;
    while (i > 0 && comes_before(&c, &m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = c;
    return 0;
}

static struct candidate heap_pop(Merger *m) {
    struct candidate top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < m->n_heap) {
        if (child + 1 < m->n_heap && comes_before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!comes_before(&m->heap[child], &last))
            break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

/* ---- merging ---- */

/* Offers the symbol and the one after it. */
static int offer(Merger *m, uint32_t left) {
    const struct symbol *a = &m->symbols[left], *b;
    struct candidate c = {.left = left};

    if (left == NONE || a->next == NONE)
        return 0;
    b = &m->symbols[a->next];
    c.n = a->n + b->n;
    if (c.n > m->vocab->n_merged_bytes_max)
        return 0;
    c.token = vocab_find(m->vocab, m->text + a->at, c.n);
    if (c.token < 0)
        return 0;
    c.score = m->vocab->pieces[c.token].score;
    if (m->splits && m->vocab->pieces[c.token].type == PIECE_UNUSED)
        m->splits[c.token] = a->n;
    return heap_push(m, c);
}

static int merge_best(Merger *m) {
    struct candidate c = heap_pop(m);
    struct symbol *a = &m->symbols[c.left], *b;
    int r;

    if (a->n == 0 || a->next == NONE)
        return 0;
    b = &m->symbols[a->next];
    if (a->n + b->n != c.n)
        return 0;
    a->n = c.n;
    a->token = c.token;
    a->next = b->next;
    if (b->next != NONE)
        m->symbols[b->next].prev = c.left;
    b->n = 0;
    r = a->prev == NONE ? 0 : offer(m, a->prev);
    return r ? r : offer(m, c.left);
}

/* Each part is shorter than the whole, so that this ends, at most a piece's length deep. */
// NOLINTNEXTLINE(misc-no-recursion)
static int emit_piece(Merger *m, uint32_t at, uint32_t n, int32_t token) {
    uint32_t n_left;
    int r;

    if (token < 0 || m->vocab->pieces[token].type != PIECE_UNUSED)
        return m->emit(m->userdata, m->text + at, n, token);
    if (!m->splits || m->splits[token] == 0)
        return m->emit(m->userdata, m->text + at, n, /* token= */ -1);
    n_left = m->splits[token];
    r = emit_piece(m, at, n_left, vocab_find(m->vocab, m->text + at, n_left));
    at += n_left;
    n -= n_left;
    return r ? r : emit_piece(m, at, n, vocab_find(m->vocab, m->text + at, n));
}

/* Merges and emits the symbols there are. */
static int finish_symbols(Merger *m) {
    int r = 0;

    if (m->n_symbols == 0)
        return 0;
    m->symbols[m->n_symbols - 1].next = NONE;
    for (uint32_t i = 0; !r && i + 1 < m->n_symbols; i++)
        r = offer(m, i);
    while (!r && m->n_heap > 0)
        r = merge_best(m);
    for (uint32_t i = 0; !r && i != NONE; i = m->symbols[i].next)
        r = emit_piece(m, m->symbols[i].at, m->symbols[i].n, m->symbols[i].token);
    m->n_symbols = 0;
    m->n_heap = 0;
    return r;
}

/* ---- cutting ---- */

static int add_symbol(Merger *m, size_t at, size_t n) {
    size_t i = m->n_symbols;

    if (i == m->symbols_capacity) {
        size_t capacity = 2 * m->symbols_capacity + 64;
        struct symbol *p = alloc_resize(m->symbols, capacity * sizeof(*p));

        if (!p)
            return error_origin(-ENOMEM);
        m->symbols = p;
        m->symbols_capacity = capacity;
    }
    m->symbols[i] = (struct symbol){.at = (uint32_t)at,
                                    .n = (uint32_t)n,
                                    .prev = i == 0 ? NONE : (uint32_t)i - 1,
                                    .next = (uint32_t)i + 1,
                                    .token = vocab_find(m->vocab, m->text + at, n)};
    m->n_symbols++;
    return 0;
}

/* A user-defined piece, beside which nothing merges. */
static int add_fixed(Merger *m, size_t at, int32_t token) {
    int r = finish_symbols(m);

    return r ? r : m->emit(m->userdata, m->text + at, m->vocab->pieces[token].n, token);
}

int merger_run(Merger *m, const uint8_t *text, size_t n) {
    const Vocab *v = m->vocab;
    uint32_t before = 0, character;
    int r = 0;

    assert(n < UINT32_MAX);
    m->text = text;
    if (v->has_unused && !m->splits) {
        m->splits = alloc_array(v->n, sizeof(*m->splits));
        if (!m->splits)
            return error_origin(-ENOMEM);
    }
    for (size_t at = 0, length; !r && at < n; at += length) {
        int32_t token = vocab_match(v, &v->user_defined, text + at, n - at);

        if (token >= 0) {
            length = v->pieces[token].n;
            r = add_fixed(m, at, token);
            continue;
        }
        length = vocab_character(text + at, n - at, &character);
        if (!vocab_may_join(v, before, character))
            r = finish_symbols(m);
        if (!r)
            r = add_symbol(m, at, length);
        before = character;
    }
    return r ? r : finish_symbols(m);
}
