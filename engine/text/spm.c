/*
 * SentencePiece byte-pair encoding.
 *
 * Encoding follows SentencePiece's BPE model, whose ids are the definition: spaces become ▁, one is
 * put before the text, user-defined pieces are cut out first (the longest that matches at each
 * place) and are never merged, everything else starts as single characters, and the pair whose
 * union has the best score is merged until no union is a piece; of equal scores the leftmost. What
 * is then no piece falls back to byte pieces. Bytes that are not valid UTF-8 are characters of one
 * byte each, so that any text survives a round trip.
 *
 * Merging uses a heap of candidate pairs and a doubly linked list of symbols: O(n log n) for any
 * text.
 */
#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "engine/text/vocab.h"

#include <errno.h>
#include <string.h>

#define SPACE   "\xE2\x96\x81" /* ▁, U+2581 */
#define SPACE_N 3
#define NO_ID   (-1)

struct entry {
    uint32_t raw, n_raw;   /* the piece as stored */
    uint32_t text, n_text; /* what it stands for in running text */
    float score;
    enum piece_type type;
};

struct Tokenizer {
    struct entry *entries; // (n)
    uint32_t n;
    char *bytes;      /* what entries point into */
    int32_t *buckets; // (n_buckets) id by hash of the raw bytes, open addressing; NO_ID: free
    uint32_t n_buckets;
    uint32_t *matches_next; // (n) further user-defined or control piece of the same first byte,
                            // longest first
    int32_t matches[256];   /* the first of them; NO_ID: none */
    int32_t byte_ids[256];  /* NO_ID: the vocabulary lacks it */
    int32_t bos, eos, unknown;
    bool add_bos, add_dummy_prefix, remove_extra_whitespaces, has_unused;
};

/* ---- lookup ---- */

/* FNV-1a, 64 bits folded to 32. */
static uint32_t hash_bytes(const char *p, size_t n) {
    uint64_t h = 0xCBF29CE484222325ull;

    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001B3ull;
    return (uint32_t)(h ^ h >> 32);
}

static int32_t find_piece(const Tokenizer *t, const char *p, size_t n) {
    for (uint32_t at = hash_bytes(p, n) & (t->n_buckets - 1);; at = (at + 1) & (t->n_buckets - 1)) {
        int32_t id = t->buckets[at];

        if (id == NO_ID)
            return NO_ID;
        if (t->entries[id].n_raw == n && memcmp(t->bytes + t->entries[id].raw, p, n) == 0)
            return id;
    }
}

/* False where the piece is there already. */
static bool add_to_buckets(Tokenizer *t, int32_t id) {
    const struct entry *e = &t->entries[id];
    uint32_t at;

    if (find_piece(t, t->bytes + e->raw, e->n_raw) != NO_ID)
        return false;
    at = hash_bytes(t->bytes + e->raw, e->n_raw) & (t->n_buckets - 1);
    while (t->buckets[at] != NO_ID)
        at = (at + 1) & (t->n_buckets - 1);
    t->buckets[at] = id;
    return true;
}

/* ---- making ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "<0xAB>" → 0xAB; -1 where it is anything else. */
static int parse_byte(const char *p, size_t n) {
    int high, low;

    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>')
        return -1;
    high = hex_digit(p[3]);
    low = hex_digit(p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static int refuse_piece(uint32_t i, const struct piece *p, const char *why, Error *reterr) {
    char shown[64];

    return error_set(reterr, GK_E_FILE, "piece %u ('%s') %s", i,
                     utf8_printable(shown, sizeof(shown), p->text, p->n), why);
}

/* Writes raw bytes, then text with ▁ as a space; both stay in t->bytes. */
static int add_entry(Tokenizer *t, uint32_t i, const struct piece *p, uint32_t *at, Error *reterr) {
    struct entry *e = &t->entries[i];
    int byte;

    *e = (struct entry){.raw = *at,
                        .n_raw = (uint32_t)p->n,
                        .text = *at + (uint32_t)p->n,
                        .score = p->score,
                        .type = p->type};
    (void)memcpy(t->bytes + *at, p->text, p->n);
    *at += (uint32_t)p->n;
    if (p->type == PIECE_BYTE) {
        byte = parse_byte(p->text, p->n);
        if (byte < 0)
            return refuse_piece(i, p, "has type byte, but is not <0x00> to <0xFF>", reterr);
        if (t->byte_ids[byte] != NO_ID)
            return refuse_piece(i, p, "stands for a byte that has a piece already", reterr);
        t->byte_ids[byte] = (int32_t)i;
        t->bytes[(*at)++] = (char)byte;
        e->n_text = 1;
    } else if (p->type != PIECE_CONTROL && p->type != PIECE_UNKNOWN) {
        for (size_t j = 0; j < p->n;) {
            bool space = p->n - j >= SPACE_N && memcmp(p->text + j, SPACE, SPACE_N) == 0;

            t->bytes[(*at)++] = space ? ' ' : p->text[j];
            j += space ? SPACE_N : 1;
        }
        e->n_text = *at - e->text;
    }
    t->has_unused |= p->type == PIECE_UNUSED;
    if (!add_to_buckets(t, (int32_t)i))
        return refuse_piece(i, p, "is there twice", reterr);
    return 0;
}

static int compare_lengths(const void *a, const void *b, void *tokenizer) {
    const Tokenizer *t = tokenizer;
    uint32_t x = t->entries[*(const uint32_t *)a].n_raw, y = t->entries[*(const uint32_t *)b].n_raw;

    return (x > y) - (x < y);
}

/* Lists by first byte, longest first: pushed to the front in rising length. */
static int make_matches(Tokenizer *t) {
    CLEANUP(freep) uint32_t *ids = alloc_array(t->n, sizeof(*ids));
    uint32_t n = 0;

    t->matches_next = alloc_array(t->n, sizeof(*t->matches_next));
    if (!ids || !t->matches_next)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->entries[i].type == PIECE_USER_DEFINED || t->entries[i].type == PIECE_CONTROL)
            ids[n++] = i;
    qsort_r(ids, n, sizeof(*ids), compare_lengths, t);
    for (uint32_t i = 0; i < n; i++) {
        unsigned char first = (unsigned char)t->bytes[t->entries[ids[i]].raw];

        t->matches_next[ids[i]] = (uint32_t)t->matches[first];
        t->matches[first] = (int32_t)ids[i];
    }
    return 0;
}

static int check_pieces(const struct vocab *v, uint64_t *ret_n_bytes, Error *reterr) {
    uint64_t n_bytes = 0;

    if ((v->bos >= 0 && (uint32_t)v->bos >= v->n) || (v->eos >= 0 && (uint32_t)v->eos >= v->n) ||
        (v->unknown >= 0 && (uint32_t)v->unknown >= v->n))
        return error_set(reterr, GK_E_FILE, "begin %d, end %d and unknown %d must be ids below %u",
                         v->bos, v->eos, v->unknown, v->n);
    for (uint32_t i = 0; i < v->n; i++) {
        const struct piece *p = &v->pieces[i];

        if (p->n == 0)
            return error_set(reterr, GK_E_FILE, "piece %u is empty", i);
        if (p->n > TEXT_PIECE_BYTES_MAX)
            return error_set(reterr, GK_E_FILE, "piece %u has %zu bytes, more than %d", i, p->n,
                             TEXT_PIECE_BYTES_MAX);
        n_bytes += 2 * p->n + 1;
    }
    if (n_bytes > UINT32_MAX)
        return error_set(reterr, GK_E_FILE, "the pieces have %llu bytes together: too many",
                         (unsigned long long)n_bytes / 2);
    *ret_n_bytes = n_bytes;
    return 0;
}

int tokenizer_new(Tokenizer **ret, const struct vocab *v, Error *reterr) {
    CLEANUP(tokenizer_freep) Tokenizer *t = NULL;
    uint64_t n_bytes;
    uint32_t at = 0;
    int r;

    r = check_pieces(v, &n_bytes, reterr);
    if (r != 0)
        return r;
    t = alloc_new(Tokenizer);
    if (!t)
        return error_set(reterr, -ENOMEM, "out of memory");
    t->n = v->n;
    t->bos = v->bos < 0 ? -1 : v->bos;
    t->eos = v->eos < 0 ? -1 : v->eos;
    t->unknown = v->unknown < 0 ? -1 : v->unknown;
    t->add_bos = v->add_bos && t->bos >= 0;
    t->add_dummy_prefix = v->add_dummy_prefix;
    t->remove_extra_whitespaces = v->remove_extra_whitespaces;
    for (t->n_buckets = 16; t->n_buckets < 2 * v->n;)
        t->n_buckets *= 2;
    t->entries = alloc_array(v->n, sizeof(*t->entries));
    t->bytes = alloc_array(n_bytes, 1);
    t->buckets = alloc_array(t->n_buckets, sizeof(*t->buckets));
    if (!t->entries || !t->bytes || !t->buckets)
        return error_set(reterr, -ENOMEM, "out of memory");
    (void)memset(t->buckets, 0xFF, t->n_buckets * sizeof(*t->buckets));
    (void)memset(t->byte_ids, 0xFF, sizeof(t->byte_ids));
    (void)memset(t->matches, 0xFF, sizeof(t->matches));
    for (uint32_t i = 0; i < v->n; i++) {
        r = add_entry(t, i, &v->pieces[i], &at, reterr);
        if (r != 0)
            return r;
    }
    for (int i = 0; t->unknown < 0 && i < 256; i++)
        if (t->byte_ids[i] == NO_ID)
            return error_set(reterr, GK_E_FILE,
                             "byte <0x%02X> has no piece, and no piece is for the unknown", i);
    r = make_matches(t);
    if (r != 0)
        return error_set(reterr, r, "out of memory");
    *ret = take_ptr(t);
    return 0;
}

Tokenizer *tokenizer_free(Tokenizer *t) {
    if (!t)
        return NULL;
    free(t->entries);
    free(t->bytes);
    free(t->buckets);
    free(t->matches_next);
    free(t);
    return NULL;
}

uint32_t tokenizer_n_vocab(const Tokenizer *t) {
    return t->n;
}

int32_t tokenizer_bos(const Tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t) {
    return t->eos;
}

bool tokenizer_add_bos(const Tokenizer *t) {
    return t->add_bos;
}

bool tokenizer_is_control(const Tokenizer *t, int32_t token) {
    return t->entries[token].type == PIECE_CONTROL;
}

bool tokenizer_is_eog(const Tokenizer *t, int32_t token) {
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end|>",
                                        "<end_of_turn>"};
    const struct entry *e = &t->entries[token];

    if (token == t->eos)
        return true;
    for (size_t i = 0; e->type == PIECE_CONTROL && i < ARRAY_SIZE(names); i++)
        if (e->n_raw == strlen(names[i]) && memcmp(t->bytes + e->raw, names[i], e->n_raw) == 0)
            return true;
    return false;
}

const char *tokenizer_piece(const Tokenizer *t, int32_t token, size_t *ret_n) {
    *ret_n = t->entries[token].n_text;
    return t->bytes + t->entries[token].text;
}

/* ---- encoding ---- */

struct symbol {
    uint32_t begin, n; /* bytes of the escaped text; n 0: merged into the one before */
    int32_t previous, next;
    bool frozen; /* a user-defined or control piece */
};

struct pair {
    float score;
    uint32_t left, right, n; /* n: bytes of the union, to see whether the pair is still as it was */
};

struct encoder {
    const Tokenizer *t;
    char *text; /* escaped */
    size_t n_text;
    struct symbol *symbols;
    size_t n_symbols;
    struct pair *heap;
    size_t n_heap;
    int32_t *tokens;
    size_t n_tokens, n_tokens_max;
};

/* Spaces to ▁, the dummy prefix, and the removal of extra ones where the model asks for it. */
static int escape(struct encoder *e, const char *text, size_t n) {
    bool remove = e->t->remove_extra_whitespaces, after_space = remove;
    size_t to = 0, n_spaces = 0;

    for (size_t i = 0; i < n; i++)
        n_spaces += text[i] == ' ';
    e->text = alloc_array(n + 2 * n_spaces + SPACE_N + 1, 1);
    if (!e->text)
        return -ENOMEM;
    while (remove && n > 0 && text[n - 1] == ' ')
        n--;
    if (n > 0 && e->t->add_dummy_prefix) {
        (void)memcpy(e->text, SPACE, SPACE_N);
        to = SPACE_N;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            e->text[to++] = text[i];
        } else if (!(remove && after_space)) {
            (void)memcpy(e->text + to, SPACE, SPACE_N);
            to += SPACE_N;
        }
        after_space = text[i] == ' ';
    }
    e->n_text = to;
    return 0;
}

/* The longest user-defined piece (and control piece, if wanted) at p, or NO_ID. */
static int32_t match(const Tokenizer *t, const char *p, size_t n, bool control) {
    int32_t id = t->matches[(unsigned char)p[0]];

    for (; id != NO_ID; id = (int32_t)t->matches_next[id]) {
        const struct entry *e = &t->entries[id];

        if (e->type == PIECE_CONTROL && !control)
            continue;
        if (e->n_raw <= n && memcmp(t->bytes + e->raw, p, e->n_raw) == 0)
            return id;
    }
    return NO_ID;
}

static int split(struct encoder *e, bool control) {
    e->symbols = alloc_array(e->n_text, sizeof(*e->symbols));
    if (!e->symbols)
        return -ENOMEM;
    for (size_t at = 0; at < e->n_text;) {
        int32_t id = match(e->t, e->text + at, e->n_text - at, control), i = (int32_t)e->n_symbols;
        size_t n = id != NO_ID ? e->t->entries[id].n_raw
                               : utf8_decode(e->text + at, e->n_text - at, &(uint32_t){0});

        n = n ? n : 1;
        e->symbols[e->n_symbols++] = (struct symbol){.begin = (uint32_t)at,
                                                     .n = (uint32_t)n,
                                                     .previous = i - 1,
                                                     .next = i + 1,
                                                     .frozen = id != NO_ID};
        at += n;
    }
    if (e->n_symbols > 0)
        e->symbols[e->n_symbols - 1].next = -1;
    return 0;
}

static bool pair_before(const struct pair *a, const struct pair *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void heap_push(struct encoder *e, struct pair p) {
    size_t i = e->n_heap++;

    for (; i > 0 && pair_before(&p, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = p;
}

static struct pair heap_pop(struct encoder *e) {
    struct pair top = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && pair_before(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!pair_before(&e->heap[child], &last))
            break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return top;
}

/* Symbols lie in the text in order, so a union is the run of both. */
static void consider(struct encoder *e, int32_t left, int32_t right) {
    const struct symbol *a, *b;
    int32_t id;

    if (left < 0 || right < 0)
        return;
    a = &e->symbols[left];
    b = &e->symbols[right];
    if (a->frozen || b->frozen || a->n + b->n > TEXT_PIECE_BYTES_MAX)
        return;
    id = find_piece(e->t, e->text + a->begin, a->n + b->n);
    if (id == NO_ID ||
        (e->t->entries[id].type != PIECE_NORMAL && e->t->entries[id].type != PIECE_UNUSED &&
         e->t->entries[id].type != PIECE_USER_DEFINED))
        return;
    heap_push(e, (struct pair){.score = e->t->entries[id].score,
                               .left = (uint32_t)left,
                               .right = (uint32_t)right,
                               .n = a->n + b->n});
}

static int merge(struct encoder *e) {
    /* Each merge takes one candidate out and puts two in at most. */
    e->heap = alloc_array(2 * e->n_symbols + 2, sizeof(*e->heap));
    if (!e->heap)
        return -ENOMEM;
    for (size_t i = 0; i + 1 < e->n_symbols; i++)
        consider(e, (int32_t)i, (int32_t)i + 1);
    while (e->n_heap > 0) {
        struct pair p = heap_pop(e);
        struct symbol *left = &e->symbols[p.left], *right = &e->symbols[p.right];

        if (left->n == 0 || right->n == 0 || left->n + right->n != p.n)
            continue;
        left->n += right->n;
        right->n = 0;
        left->next = right->next;
        if (right->next >= 0)
            e->symbols[right->next].previous = (int32_t)p.left;
        consider(e, left->previous, (int32_t)p.left);
        consider(e, (int32_t)p.left, left->next);
    }
    return 0;
}

static int put(struct encoder *e, int32_t token) {
    if (e->n_tokens == e->n_tokens_max)
        return GK_E_INVALID;
    e->tokens[e->n_tokens++] = token;
    return 0;
}

static int put_bytes(struct encoder *e, const char *p, size_t n) {
    int r = 0;

    for (size_t i = 0; i < n; i++)
        if (e->t->byte_ids[(unsigned char)p[i]] == NO_ID)
            return put(e, e->t->unknown);
    for (size_t i = 0; i < n && r == 0; i++)
        r = put(e, e->t->byte_ids[(unsigned char)p[i]]);
    return r;
}

/*
 * The pieces of a run. An unused piece may be merged through but not come out: it is cut again
 * where a merge of two pieces with the best first score could have made it, which is how
 * SentencePiece remembers it.
 */
static int put_run(struct encoder *e, const char *p, size_t n) {
    int32_t id = find_piece(e->t, p, n);
    int r;

    if (id == NO_ID || e->t->entries[id].type == PIECE_UNKNOWN)
        return put_bytes(e, p, n);
    if (e->t->entries[id].type != PIECE_UNUSED)
        return put(e, id);
    for (size_t cut = n - 1; cut > 0; cut--) {
        if (find_piece(e->t, p, cut) == NO_ID || find_piece(e->t, p + cut, n - cut) == NO_ID)
            continue;
        r = put_run(e, p, cut);
        return r != 0 ? r : put_run(e, p + cut, n - cut);
    }
    return put_bytes(e, p, n);
}

static int put_all(struct encoder *e, bool bos) {
    int r = bos ? put(e, e->t->bos) : 0;

    for (int32_t i = e->n_symbols > 0 ? 0 : -1; i >= 0 && r == 0; i = e->symbols[i].next) {
        const struct symbol *s = &e->symbols[i];
        const char *p = e->text + s->begin;

        if (s->frozen)
            r = put(e, find_piece(e->t, p, s->n));
        else
            r = put_run(e, p, s->n);
    }
    return r;
}

static int encode(struct encoder *e, const char *text, size_t n, unsigned flags) {
    bool bos = flags & GK_TOKENIZE_BOS || (e->t->add_bos && !(flags & GK_TOKENIZE_NO_BOS));
    int r;

    if ((r = escape(e, text, n)) != 0 || (r = split(e, flags & GK_TOKENIZE_CONTROL)) != 0 ||
        (r = merge(e)) != 0)
        return r;
    /* No symbol makes more tokens than it has bytes. */
    e->n_tokens_max = MIN(e->n_tokens_max, e->n_text + 1);
    e->tokens = alloc_array(e->n_tokens_max, sizeof(*e->tokens));
    if (!e->tokens)
        return -ENOMEM;
    return put_all(e, bos && e->t->bos >= 0);
}

/* Offsets are 32 bits, and ▁ triples a space. */
#define TEXT_BYTES_MAX (512u << 20)

int tokenizer_encode(const Tokenizer *t, const char *text, size_t n_text, unsigned flags,
                     size_t n_max, int32_t **ret_tokens, size_t *ret_n, Error *reterr) {
    struct encoder e = {.t = t, .n_tokens_max = n_max};
    int r;

    if (n_text > TEXT_BYTES_MAX)
        return error_set(reterr, GK_E_INVALID, "a text of %zu bytes is longer than %u", n_text,
                         TEXT_BYTES_MAX);
    /* A token has a piece's length at most: what can't fit is not worth the work. */
    if (n_text / TEXT_PIECE_BYTES_MAX > n_max)
        r = GK_E_INVALID;
    else
        r = encode(&e, text, n_text, flags);
    free(e.text);
    free(e.symbols);
    free(e.heap);
    if (r == 0) {
        *ret_tokens = e.tokens;
        *ret_n = e.n_tokens;
        return 0;
    }
    free(e.tokens);
    if (r == GK_E_INVALID)
        return error_set(reterr, r, "the text has more than %zu tokens", n_max);
    return error_set(reterr, r, "out of memory");
}

/* ---- decoding ---- */

int tokenizer_decode(const Tokenizer *t, const int32_t *tokens, size_t n, bool control,
                     char **ret_text, size_t *ret_n, Error *reterr) {
    bool at_start = t->add_dummy_prefix || t->remove_extra_whitespaces;
    size_t n_bytes = 0, to = 0;
    char *text;

    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= t->n)
            return error_set(reterr, GK_E_INVALID,
                             "token %d at position %zu is not in the vocabulary of %u", tokens[i],
                             i, t->n);
        n_bytes += t->entries[tokens[i]].n_raw + 5;
    }
    text = alloc_array(n_bytes + 1, 1);
    if (!text)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = &t->entries[tokens[i]];
        const char *p = t->bytes + e->text;
        size_t n_piece = e->n_text;

        if (e->type == PIECE_UNKNOWN) {
            p = " \xE2\x81\x87 "; /* ⁇, as SentencePiece shows it */
            n_piece = 5;
        } else if (e->type == PIECE_CONTROL && control) {
            p = t->bytes + e->raw;
            n_piece = e->n_raw;
        } else if (e->type == PIECE_CONTROL) {
            continue;
        } else if (at_start && n_piece > 0 && p[0] == ' ' && e->type != PIECE_BYTE) {
            /* The dummy prefix goes, once. */
            p++;
            n_piece--;
        }
        at_start = at_start && e->type == PIECE_CONTROL;
        (void)memcpy(text + to, p, n_piece);
        to += n_piece;
    }
    *ret_text = text;
    *ret_n = to;
    return 0;
}
