/* See tokens.h. */
#include "engine/grammar/tokens.h"

#include "base/alloc.h"

#include <string.h>

unsigned token_byte_kind(uint8_t byte) {
    if (byte >= 'a' && byte <= 'z')
        return 0;
    if (byte >= 'A' && byte <= 'Z')
        return 1;
    if (byte >= '0' && byte <= '9')
        return 2;
    if (byte >= 0x80) /* what follows in a character, the starts of 2, 3 and 4 bytes, none of these
                       */
        return byte < 0xc0 ? 3 : byte < 0xe0 ? 4 : byte < 0xf0 ? 5 : byte < 0xf8 ? 6 : 7;
    if (byte == '\t' || byte == '\n' || byte == '\r')
        return byte == '\t' ? 8 : byte == '\n' ? 9 : 10;
    if (byte < 0x20 || byte == 0x7f)
        return 11;
    /* a blank and the 32 signs of ASCII, one by one */
    return byte <= '/'   ? 12u + byte - ' '
           : byte <= '@' ? 28u + byte - ':'
           : byte <= '`' ? 35u + byte - '['
                         : 41u + byte - '{';
}

static bool is_text(const Vocab *v, uint32_t token) {
    const struct piece *p = &v->pieces[token];

    return p->n_surface > 0 && p->type != PIECE_CONTROL && p->type != PIECE_UNKNOWN;
}

static uint16_t n_shared(const Vocab *v, uint32_t a, uint32_t b) {
    const uint8_t *x = vocab_surface(v, a), *y = vocab_surface(v, b);
    uint16_t n = v->pieces[a].n_surface, i = 0;

    if (v->pieces[b].n_surface < n)
        n = v->pieces[b].n_surface;
    while (i < n && x[i] == y[i])
        i++;
    return i;
}

static void fill_suffixes(TokenTable *t, const Vocab *v) {
    for (uint32_t i = 0; i < t->n; i++) {
        const uint8_t *bytes = vocab_surface(v, t->tokens[i]);
        uint16_t n = v->pieces[t->tokens[i]].n_surface;

        t->shared[i] = i > 0 ? n_shared(v, t->tokens[i - 1], t->tokens[i]) : 0;
        t->at[i + 1] = t->at[i] + n - t->shared[i];
        (void)memcpy(t->suffixes + t->at[i], bytes + t->shared[i], (size_t)n - t->shared[i]);
    }
}

/* From the back: what a token's block has in it is known before the token. */
static void fill_blocks(TokenTable *t) {
    for (uint32_t i = t->n; i-- > 0;) {
        uint32_t next = i + 1;

        for (uint32_t k = t->at[i]; k < t->at[i + 1]; k++)
            t->kinds[i] |= 1ull << token_byte_kind(t->suffixes[k]);
        for (; next < t->n && t->shared[next] > t->shared[i]; next = t->next[next])
            t->kinds[i] |= t->kinds[next];
        t->next[i] = next;
    }
}

int token_table_init(TokenTable *t, const Vocab *vocab, bool (*is_end)(const void *, int32_t),
                     const void *userdata) {
    size_t n = vocab->n, n_bytes = 0;

    *t = (TokenTable){.n_words = (n + 63) / 64, .n_bytes_max = vocab->n_surface_max};
    for (uint32_t i = 0; i < n; i++)
        n_bytes += is_text(vocab, i) ? vocab->pieces[i].n_surface : 0;
    t->tokens = alloc_array(n, sizeof(*t->tokens));
    t->shared = alloc_array(n, sizeof(*t->shared));
    t->at = alloc_array(n + 1, sizeof(*t->at));
    t->suffixes = alloc_array(n_bytes, 1);
    t->next = alloc_array(n, sizeof(*t->next));
    t->kinds = alloc_array(n, sizeof(*t->kinds));
    t->ends = alloc_array(t->n_words, sizeof(*t->ends));
    if (!t->tokens || !t->shared || !t->at || !t->suffixes || !t->next || !t->kinds || !t->ends) {
        token_table_deinit(t);
        return error_origin(-ENOMEM);
    }
    for (uint32_t i = 0; i < n; i++)
        if (is_text(vocab, vocab->by_surface[i]))
            t->tokens[t->n++] = vocab->by_surface[i];
    fill_suffixes(t, vocab);
    fill_blocks(t);
    for (uint32_t i = 0; i < n; i++)
        if (is_end(userdata, (int32_t)i))
            token_set(t->ends, i, true);
    return 0;
}

void token_table_deinit(TokenTable *t) {
    free(t->tokens);
    free(t->shared);
    free(t->at);
    free(t->suffixes);
    free(t->next);
    free(t->kinds);
    free(t->ends);
    *t = (TokenTable){.n = 0};
}
