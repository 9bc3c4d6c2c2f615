/* See stream.h. */
#include "engine/text/stream.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <errno.h>
#include <string.h>

#define PIECE_MAX TEXT_PIECE_BYTES_MAX
/* Longest stop or banned string, and what must be kept to match one across a token's border. */
#define STRING_MAX GK_STOP_STRING_BYTES_MAX

struct needle {
    char *bytes; /* terminated */
    size_t n;
};

struct TextStream {
    const Tokenizer *tokenizer;
    struct needle *stops, *banned;
    size_t n_stops, n_banned;
    bool stop_in_output;
    const char *stop; /* the one that matched, or NULL */
    int32_t
        *banned_tokens; // (n_vocab) what text_stream_banned() gives; NULL without banned strings
    /* Bytes not yet released: an incomplete sequence, or a possible beginning of a stop string. */
    size_t n_held;
    char held[STRING_MAX + 8 + PIECE_MAX];
    /* The last bytes of the text, to see banned strings that cross a border. */
    size_t n_tail;
    char tail[STRING_MAX];
    size_t n_released;
    /* Taken after every push. Each invalid byte may become the three of U+FFFD. */
    char released[3 * (STRING_MAX + 8 + PIECE_MAX)];
};

static int copy_needles(struct needle **ret, size_t *ret_n, const struct gk_string *strings,
                        size_t n) {
    *ret = alloc_array(n, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    *ret_n = n;
    for (size_t i = 0; i < n; i++) {
        (*ret)[i].bytes = alloc_string_n(strings[i].bytes, strings[i].n);
        if (!(*ret)[i].bytes)
            return -ENOMEM;
        (*ret)[i].n = strings[i].n;
    }
    return 0;
}

static void free_needles(struct needle *needles, size_t n) {
    for (size_t i = 0; needles && i < n; i++)
        free(needles[i].bytes);
    free(needles);
}

int text_stream_new(TextStream **ret, const Tokenizer *t, const struct gk_params *params) {
    CLEANUP(text_stream_freep) TextStream *s = alloc_new(TextStream);
    int r;

    if (!s)
        return -ENOMEM;
    s->tokenizer = t;
    s->stop_in_output = params->stop_in_output;
    if ((r = copy_needles(&s->stops, &s->n_stops, params->stop_strings, params->n_stop_strings)) !=
            0 ||
        (r = copy_needles(&s->banned, &s->n_banned, params->banned_strings,
                          params->n_banned_strings)) != 0)
        return r;
    if (s->n_banned > 0) {
        s->banned_tokens = alloc_array(tokenizer_n_vocab(t), sizeof(*s->banned_tokens));
        if (!s->banned_tokens)
            return -ENOMEM;
    }
    *ret = take_ptr(s);
    return 0;
}

TextStream *text_stream_free(TextStream *s) {
    if (!s)
        return NULL;
    free_needles(s->stops, s->n_stops);
    free_needles(s->banned, s->n_banned);
    free(s->banned_tokens);
    free(s);
    return NULL;
}

static bool bans(const TextStream *s, int32_t token) {
    char text[STRING_MAX + PIECE_MAX];
    const char *piece;
    size_t n;

    piece = tokenizer_piece(s->tokenizer, token, &n);
    n = MIN(n, (size_t)PIECE_MAX);
    if (n == 0)
        return false;
    (void)memcpy(text, s->tail, s->n_tail);
    (void)memcpy(text + s->n_tail, piece, n);
    for (size_t i = 0; i < s->n_banned; i++) {
        const struct needle *b = &s->banned[i];
        /* A match must end inside the new piece; what ended before was seen before. */
        size_t begin = s->n_tail >= b->n ? s->n_tail - b->n + 1 : 0;

        if (memmem(text + begin, s->n_tail + n - begin, b->bytes, b->n))
            return true;
    }
    return false;
}

size_t text_stream_banned(TextStream *s, const int32_t **ret_tokens) {
    size_t n = 0;

    for (uint32_t i = 0; s->n_banned > 0 && i < tokenizer_n_vocab(s->tokenizer); i++)
        if (bans(s, (int32_t)i))
            s->banned_tokens[n++] = (int32_t)i;
    *ret_tokens = s->banned_tokens;
    return n;
}

static void keep_tail(TextStream *s, const char *piece, size_t n) {
    size_t keep;

    if (s->n_banned == 0)
        return;
    if (n >= STRING_MAX) {
        (void)memcpy(s->tail, piece + n - STRING_MAX, STRING_MAX);
        s->n_tail = STRING_MAX;
        return;
    }
    keep = MIN(s->n_tail, STRING_MAX - n);
    (void)memmove(s->tail, s->tail + s->n_tail - keep, keep);
    (void)memcpy(s->tail + keep, piece, n);
    s->n_tail = keep + n;
}

/* Length of what may be the beginning of a well-formed sequence at the end of the n bytes. */
static size_t incomplete_suffix(const char *bytes, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char lead = (unsigned char)bytes[n - back];

        if ((lead & 0xC0) == 0x80)
            continue;
        if ((lead >= 0xC2 && lead <= 0xDF && back < 2) ||
            (lead >= 0xE0 && lead <= 0xEF && back < 3) ||
            (lead >= 0xF0 && lead <= 0xF4 && back < 4))
            return back;
        return 0;
    }
    return 0;
}

/* Moves the first n held bytes out, each maximal invalid part as one U+FFFD. */
static void release(TextStream *s, size_t n) {
    char *to = s->released + s->n_released;
    bool was_invalid = false;
    size_t i = 0;

    while (i < n) {
        uint32_t code;
        size_t length = utf8_decode(s->held + i, n - i, &code);

        if (length > 0) {
            (void)memcpy(to, s->held + i, length);
            to += length;
            was_invalid = false;
        } else if (!was_invalid || ((unsigned char)s->held[i] & 0xC0) != 0x80) {
            (void)memcpy(to, "\xEF\xBF\xBD", 3);
            to += 3;
            was_invalid = true;
        }
        i += length ? length : 1;
    }
    s->n_released = (size_t)(to - s->released);
    s->n_held -= n;
    (void)memmove(s->held, s->held + n, s->n_held);
}

/* The earliest complete stop string in what is held, and of those at one place the longest. */
static const struct needle *find_stop(const TextStream *s, size_t *ret_at) {
    const struct needle *found = NULL;

    for (size_t i = 0; i < s->n_stops; i++) {
        const char *at = memmem(s->held, s->n_held, s->stops[i].bytes, s->stops[i].n);
        size_t offset;

        if (!at)
            continue;
        offset = (size_t)(at - s->held);
        if (!found || offset < *ret_at || (offset == *ret_at && s->stops[i].n > found->n)) {
            found = &s->stops[i];
            *ret_at = offset;
        }
    }
    return found;
}

/* Longest suffix of what is held that is a proper beginning of a stop string. */
static size_t stop_suffix(const TextStream *s) {
    size_t longest = 0;

    for (size_t i = 0; i < s->n_stops; i++) {
        for (size_t n = MIN(s->stops[i].n - 1, s->n_held); n > longest; n--) {
            if (memcmp(s->held + s->n_held - n, s->stops[i].bytes, n) == 0) {
                longest = n;
                break;
            }
        }
    }
    return longest;
}

static void give(TextStream *s, struct text_out *ret) {
    *ret = (struct text_out){.text = s->released, .n = s->n_released, .stop = s->stop};
    s->n_released = 0;
}

void text_stream_push(TextStream *s, int32_t token, struct text_out *ret) {
    const struct needle *stop;
    const char *piece;
    size_t n, at = 0;

    if (s->stop) {
        give(s, ret);
        return;
    }
    piece = tokenizer_piece(s->tokenizer, token, &n);
    n = MIN(n, (size_t)PIECE_MAX);
    keep_tail(s, piece, n);
    (void)memcpy(s->held + s->n_held, piece, n);
    s->n_held += n;
    stop = find_stop(s, &at);
    if (stop) {
        s->stop = stop->bytes;
        release(s, at + (s->stop_in_output ? stop->n : 0));
        s->n_held = 0;
    } else {
        at = MAX(stop_suffix(s), incomplete_suffix(s->held, s->n_held));
        /* A beginning of a stop string must not cut a sequence in two: the cut moves before it. */
        at += incomplete_suffix(s->held, s->n_held - at);
        release(s, s->n_held - at);
    }
    give(s, ret);
}

void text_stream_flush(TextStream *s, struct text_out *ret) {
    release(s, s->n_held);
    give(s, ret);
}
