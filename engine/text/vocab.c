/* See vocab.h. */
#include "engine/text/vocab.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PROBES_MAX 512 /* more would take a vocabulary made to collide */
#define NO_TOKEN   TEXT_VOCAB_MAX

static const char space_symbol[] = "\xe2\x96\x81"; /* ▁ */

void vocab_deinit(Vocab *v) {
    free(v->pieces);
    free(v->bytes);
    free(v->slots);
    free(v->user_defined.tokens);
    free(v->control.tokens);
    free(v->by_surface);
    free(v->pairs);
    *v = (Vocab){.n = 0};
}

/* ---- filling ---- */

static int append_bytes(Vocab *v, const void *bytes, size_t n, uint32_t *ret_at, Error *reterr) {
    if (n > VOCAB_BYTES_MAX - v->n_bytes)
        return error_set(reterr, GK_E_FILE, "the pieces have more than %u bytes", VOCAB_BYTES_MAX);
    if (v->n_bytes + n > v->bytes_capacity) {
        size_t capacity = 2 * (v->n_bytes + n) + 4096;
        uint8_t *p = alloc_resize(v->bytes, capacity);

        if (!p)
            return error_origin(-ENOMEM);
        v->bytes = p;
        v->bytes_capacity = capacity;
    }
    if (n > 0)
        (void)memcpy(v->bytes + v->n_bytes, bytes, n);
    *ret_at = (uint32_t)v->n_bytes;
    v->n_bytes += n;
    return 0;
}

static int check_piece(const void *bytes, size_t n, float score, uint32_t type, Error *reterr) {
    char shown[64];

    if (n == 0)
        return error_set(reterr, GK_E_FILE, "an empty piece");
    if (n > TEXT_PIECE_BYTES_MAX)
        return error_set(reterr, GK_E_FILE, "a piece of %zu bytes (at most %u)", n,
                         TEXT_PIECE_BYTES_MAX);
    if (type < PIECE_NORMAL || type >= _PIECE_N)
        return error_set(reterr, GK_E_FILE, "a piece of unknown type %u", type);
    (void)utf8_printable(shown, sizeof(shown), bytes, n);
    if ((type == PIECE_USER_DEFINED || type == PIECE_CONTROL) && n > VOCAB_FIXED_BYTES_MAX)
        return error_set(reterr, GK_E_FILE, "a %s piece of %zu bytes (at most %u)",
                         type == PIECE_CONTROL ? "control" : "user-defined", n,
                         VOCAB_FIXED_BYTES_MAX);
    if (isnan(score))
        return error_set(reterr, GK_E_FILE, "piece \"%s\" has NaN for a score", shown);
    return 0;
}

int vocab_add(Vocab *v, const void *bytes, size_t n, float score, uint32_t type, Error *reterr) {
    struct piece piece = {.n = (uint16_t)n, .type = (uint8_t)type, .score = score};
    int r = check_piece(bytes, n, score, type, reterr);

    if (r)
        return r;
    if (v->n == TEXT_VOCAB_MAX)
        return error_set(reterr, GK_E_FILE, "more than %u pieces", TEXT_VOCAB_MAX);
    if (v->n == v->capacity) {
        uint32_t capacity = 2 * v->capacity + 1024;
        struct piece *p = alloc_resize(v->pieces, capacity * sizeof(*p));

        if (!p)
            return error_origin(-ENOMEM);
        v->pieces = p;
        v->capacity = capacity;
    }
    r = append_bytes(v, bytes, n, &piece.at, reterr);
    if (r)
        return r;
    v->pieces[v->n++] = piece;
    v->n_bytes_max = MAX(v->n_bytes_max, (uint32_t)n);
    return 0;
}

/* ---- what each piece stands for ---- */

static int hex_digit(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0x41>"; -1 for anything else. */
static int byte_of_piece(const uint8_t *p, size_t n) {
    int high, low;

    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>')
        return -1;
    high = hex_digit(p[3]);
    low = hex_digit(p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static int read_byte_pieces(Vocab *v, Error *reterr) {
    uint32_t n_found = 0;

    for (size_t i = 0; i < 256; i++)
        v->byte_tokens[i] = -1;
    for (uint32_t i = 0; i < v->n; i++) {
        const struct piece *p = &v->pieces[i];
        char shown[64];
        int byte;

        if (p->type != PIECE_BYTE)
            continue;
        (void)utf8_printable(shown, sizeof(shown), vocab_bytes(v, i), p->n);
        byte = byte_of_piece(vocab_bytes(v, i), p->n);
        if (byte < 0)
            return error_set(reterr, GK_E_FILE, "byte piece %u is \"%s\", not <0x00> to <0xFF>", i,
                             shown);
        if (v->byte_tokens[byte] >= 0)
            return error_set(reterr, GK_E_FILE, "byte piece %s is there twice: %d and %u", shown,
                             v->byte_tokens[byte], i);
        v->byte_tokens[byte] = (int32_t)i;
        n_found++;
    }
    for (unsigned i = 0; n_found > 0 && i < 256; i++)
        if (v->byte_tokens[i] < 0)
            return error_set(reterr, GK_E_FILE, "%u of 256 byte pieces are there; <0x%02X> is not",
                             n_found, i);
    v->has_bytes = n_found > 0;
    return 0;
}

/* Bytes as stored, with a space for each ▁. */
static size_t unescape(const uint8_t *p, size_t n, uint8_t *ret) {
    size_t n_written = 0;

    for (size_t i = 0; i < n;) {
        bool is_space = n - i >= 3 && memcmp(p + i, space_symbol, 3) == 0;

        ret[n_written++] = is_space ? ' ' : p[i];
        i += is_space ? 3 : 1;
    }
    return n_written;
}

/* ret has room for TEXT_PIECE_BYTES_MAX bytes, and the unknown surface is not longer. */
static size_t make_surface(const Vocab *v, uint32_t token, const void *unknown, size_t n_unknown,
                           uint8_t *ret) {
    const struct piece *p = &v->pieces[token];

    switch (p->type) {
    case PIECE_CONTROL:
        return 0;
    case PIECE_UNKNOWN:
        (void)memcpy(ret, unknown, n_unknown);
        return n_unknown;
    case PIECE_BYTE:
        ret[0] = (uint8_t)byte_of_piece(vocab_bytes(v, token), p->n);
        return 1;
    default:
        return unescape(vocab_bytes(v, token), p->n, ret);
    }
}

static int add_surfaces(Vocab *v, const void *unknown, size_t n_unknown, Error *reterr) {
    uint8_t surface[TEXT_PIECE_BYTES_MAX];
    int r = 0;

    if (n_unknown > sizeof(surface))
        return error_set(reterr, GK_E_FILE,
                         "the unknown piece's surface has %zu bytes (at most %zu)", n_unknown,
                         sizeof(surface));
    for (uint32_t i = 0; !r && i < v->n; i++) {
        size_t n = make_surface(v, i, unknown, n_unknown, surface);

        v->pieces[i].n_surface = (uint16_t)n;
        v->n_surface_max = MAX(v->n_surface_max, (uint32_t)n);
        r = append_bytes(v, surface, n, &v->pieces[i].at_surface, reterr);
    }
    return r;
}

/* ---- exact search ---- */

/* Eight bytes at a time, multiplied and folded; the last ones with their number. */
static uint32_t hash_bytes(const uint8_t *p, size_t n) {
    uint64_t h = n * 0x9e3779b97f4a7c15u, word;

    for (; n >= 8; n -= 8, p += 8) {
        (void)memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    word = 0;
    for (size_t i = 0; i < n; i++)
        word |= (uint64_t)p[i] << (8 * i);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h >> 32);
}

static bool is_piece(const Vocab *v, uint32_t token, const uint8_t *bytes, size_t n) {
    return v->pieces[token].n == n && memcmp(vocab_bytes(v, token), bytes, n) == 0;
}

int32_t vocab_find(const Vocab *v, const uint8_t *bytes, size_t n) {
    uint32_t hash = hash_bytes(bytes, n), mask = v->n_slots - 1;

    for (uint32_t i = hash & mask; v->slots[i].token != NO_TOKEN; i = (i + 1) & mask)
        if (v->slots[i].hash == hash && is_piece(v, v->slots[i].token, bytes, n))
            return (int32_t)v->slots[i].token;
    return -1;
}

static int insert_slot(Vocab *v, uint32_t token, Error *reterr) {
    const uint8_t *bytes = vocab_bytes(v, token);
    uint32_t n = v->pieces[token].n, mask = v->n_slots - 1, n_probes = 0;
    uint32_t hash = hash_bytes(bytes, n), i;
    char shown[64];

    for (i = hash & mask; v->slots[i].token != NO_TOKEN; i = (i + 1) & mask) {
        uint32_t other = v->slots[i].token;

        if (v->slots[i].hash == hash && is_piece(v, other, bytes, n))
            return error_set(reterr, GK_E_FILE, "pieces %u and %u are the same: \"%s\"", other,
                             token, utf8_printable(shown, sizeof(shown), bytes, n));
        if (++n_probes == PROBES_MAX)
            return error_set(reterr, GK_E_FILE, "too many pieces have one hash, such as %u", token);
    }
    v->slots[i] = (struct vocab_slot){.hash = hash, .token = token};
    return 0;
}

static bool is_mergeable(uint8_t type) {
    return type == PIECE_NORMAL || type == PIECE_UNUSED;
}

static int index_pieces(Vocab *v, Error *reterr) {
    int r = 0;

    v->n_slots = 2;
    while (v->n_slots < 2 * v->n)
        v->n_slots *= 2;
    v->slots = alloc_array(v->n_slots, sizeof(*v->slots));
    if (!v->slots)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < v->n_slots; i++)
        v->slots[i].token = NO_TOKEN;
    for (uint32_t i = 0; !r && i < v->n; i++)
        if (is_mergeable(v->pieces[i].type) || v->pieces[i].type == PIECE_USER_DEFINED)
            r = insert_slot(v, i, reterr);
    return r;
}

/* ---- sets of fixed pieces ---- */

static int compare_bytes(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b) {
    int r = memcmp(a, b, MIN(n_a, n_b));

    return r ? r : (n_a > n_b) - (n_a < n_b);
}

static int compare_pieces(const void *a, const void *b, void *userdata) {
    const Vocab *v = userdata;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;

    return compare_bytes(vocab_bytes(v, i), v->pieces[i].n, vocab_bytes(v, j), v->pieces[j].n);
}

static int make_set(Vocab *v, struct vocab_set *set, enum piece_type type, Error *reterr) {
    char shown[64];
    uint32_t at = 0;

    for (uint32_t i = 0; i < v->n; i++)
        set->n += v->pieces[i].type == type;
    set->tokens = alloc_array(set->n, sizeof(*set->tokens));
    if (!set->tokens)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < v->n; i++)
        if (v->pieces[i].type == type)
            set->tokens[at++] = i;
    qsort_r(set->tokens, set->n, sizeof(*set->tokens), compare_pieces, v);
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t token = set->tokens[i];

        if (i > 0 && compare_pieces(&set->tokens[i - 1], &token, v) == 0)
            return error_set(
                reterr, GK_E_FILE, "pieces %u and %u are the same: \"%s\"",
                MIN(set->tokens[i - 1], token), MAX(set->tokens[i - 1], token),
                utf8_printable(shown, sizeof(shown), vocab_bytes(v, token), v->pieces[token].n));
        set->first[vocab_bytes(v, token)[0] + 1]++;
    }
    for (size_t i = 0; i < 256; i++)
        set->first[i + 1] += set->first[i];
    return 0;
}

/* The first in [lo, hi), which share their first `depth` bytes and are longer, whose next is at
 * least `byte`. */
static uint32_t lower_bound(const Vocab *v, const struct vocab_set *set, uint32_t lo, uint32_t hi,
                            uint32_t depth, unsigned byte) {
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;

        if (vocab_bytes(v, set->tokens[middle])[depth] < byte)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

int32_t vocab_match(const Vocab *v, const struct vocab_set *set, const uint8_t *text, size_t n) {
    uint32_t lo = set->first[text[0]], hi = set->first[text[0] + 1];
    int32_t best = -1;

    for (uint32_t depth = 1; lo < hi; depth++) {
        if (v->pieces[set->tokens[lo]].n == depth)
            best = (int32_t)set->tokens[lo++];
        if (depth == n || lo == hi)
            break;
        if (vocab_bytes(v, set->tokens[lo])[depth] != text[depth])
            lo = lower_bound(v, set, lo, hi, depth, text[depth]);
        if (lo < hi && vocab_bytes(v, set->tokens[hi - 1])[depth] != text[depth])
            hi = lower_bound(v, set, lo, hi, depth, text[depth] + 1u);
    }
    return best;
}

int32_t vocab_find_control(const Vocab *v, const void *bytes, size_t n) {
    for (uint32_t i = 0; i < v->control.n; i++)
        if (is_piece(v, v->control.tokens[i], bytes, n))
            return (int32_t)v->control.tokens[i];
    return -1;
}

/* ---- by surface ---- */

static int compare_surfaces(const void *a, const void *b, void *userdata) {
    const Vocab *v = userdata;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    int r = compare_bytes(vocab_surface(v, i), v->pieces[i].n_surface, vocab_surface(v, j),
                          v->pieces[j].n_surface);

    return r ? r : (i > j) - (i < j);
}

static int sort_surfaces(Vocab *v) {
    v->by_surface = alloc_array(v->n, sizeof(*v->by_surface));
    if (!v->by_surface)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < v->n; i++)
        v->by_surface[i] = i;
    qsort_r(v->by_surface, v->n, sizeof(*v->by_surface), compare_surfaces, v);
    return 0;
}

/* < 0: the surface comes before all that begin with the prefix; 0: it begins with it. */
static int compare_prefix(const Vocab *v, uint32_t token, const void *prefix, size_t n) {
    const struct piece *p = &v->pieces[token];
    int r = memcmp(vocab_surface(v, token), prefix, MIN(n, (size_t)p->n_surface));

    return r ? r : p->n_surface < n ? -1 : 0;
}

const uint32_t *vocab_with_prefix(const Vocab *v, const void *bytes, size_t n, size_t *ret_n) {
    uint32_t begin, lo = 0, hi = v->n;

    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;

        if (compare_prefix(v, v->by_surface[middle], bytes, n) < 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    begin = lo;
    hi = v->n;
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;

        if (compare_prefix(v, v->by_surface[middle], bytes, n) <= 0)
            lo = middle + 1;
        else
            hi = middle;
    }
    *ret_n = lo - begin;
    return v->by_surface + begin;
}

/* The token whose surface has the byte at this place of v->bytes. */
static uint32_t token_at(const Vocab *v, size_t at) {
    uint32_t lo = 0, hi = v->n;

    while (hi - lo > 1) {
        uint32_t middle = lo + (hi - lo) / 2;

        if (v->pieces[middle].at_surface <= at)
            lo = middle;
        else
            hi = middle;
    }
    return lo;
}

uint32_t vocab_find_holding(const Vocab *v, uint32_t from, const void *bytes, size_t n) {
    size_t at = from < v->n ? v->pieces[from].at_surface : v->n_bytes;
    const uint8_t *hit;

    while ((hit = memmem(v->bytes + at, v->n_bytes - at, bytes, n))) {
        uint32_t token = token_at(v, (size_t)(hit - v->bytes));
        const struct piece *p = &v->pieces[token];

        at = (size_t)(hit - v->bytes);
        if (n <= p->at_surface + p->n_surface - at)
            return token;
        at++;
    }
    return v->n;
}

/* ---- pairs of characters ---- */

size_t vocab_character(const uint8_t *bytes, size_t n, uint32_t *ret_character) {
    size_t length = utf8_decode(bytes, n, ret_character);

    if (length > 0)
        return length;
    *ret_character = 0x110000u + bytes[0];
    return 1;
}

static uint32_t pair_bit(uint32_t a, uint32_t b) {
    return (a * 0x9e3779b1u ^ (b + 1) * 0x85ebca6bu) >> (32 - VOCAB_PAIR_BITS);
}

bool vocab_may_join(const Vocab *v, uint32_t a, uint32_t b) {
    uint32_t bit = pair_bit(a, b);

    return (v->pairs[bit / 64] >> (bit % 64) & 1) != 0;
}

static int mark_pairs(Vocab *v) {
    v->pairs = alloc_array(1u << VOCAB_PAIR_BITS >> 6, sizeof(*v->pairs));
    if (!v->pairs)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < v->n; i++) {
        const struct piece *p = &v->pieces[i];
        const uint8_t *bytes = vocab_bytes(v, i);
        uint32_t before, character;
        size_t at;

        if (!is_mergeable(p->type))
            continue;
        v->n_merged_bytes_max = MAX(v->n_merged_bytes_max, (uint32_t)p->n);
        at = vocab_character(bytes, p->n, &before);
        v->has_unused |= p->type == PIECE_UNUSED && at < p->n;
        while (at < p->n) {
            uint32_t bit;

            at += vocab_character(bytes + at, p->n - at, &character);
            bit = pair_bit(before, character);
            v->pairs[bit / 64] |= 1ull << (bit % 64);
            before = character;
        }
    }
    return 0;
}

int vocab_finish(Vocab *v, const void *unknown_surface, size_t n_unknown_surface, Error *reterr) {
    int r;

    if (v->n == 0)
        return error_set(reterr, GK_E_FILE, "no pieces");
    r = read_byte_pieces(v, reterr);
    if (!r)
        r = add_surfaces(v, unknown_surface, n_unknown_surface, reterr);
    if (!r)
        r = index_pieces(v, reterr);
    if (!r)
        r = make_set(v, &v->user_defined, PIECE_USER_DEFINED, reterr);
    if (!r)
        r = make_set(v, &v->control, PIECE_CONTROL, reterr);
    if (!r)
        r = sort_surfaces(v);
    return r ? r : mark_pairs(v);
}
