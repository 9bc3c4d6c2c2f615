/*
 * See stream.h.
 *
 * Stop strings are followed byte by byte, each by the length of its longest beginning that the text
 * now ends with (Knuth, Morris and Pratt). The longest of them all is what must wait: a stop string
 * begins with a whole character, so that the cut is between characters.
 *
 * Banned strings are never completed because the tokens that would do so are listed before
 * sampling. A token that holds one inside itself is always banned. Otherwise it must continue one:
 * for each proper beginning of a banned string that the output ends with, the tokens that begin
 * with the rest of it, a range of the vocabulary in the order of its surfaces.
 */
#include "engine/text/stream.h"

#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/text/spm.h"

#include <string.h>

#define CHARACTER_BYTES_MAX 4

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* A string to look for, and how much of it the text ends with. */
struct watch {
    char *bytes; /* terminated */
    uint32_t n, n_matched;
    uint16_t *fallback; /* (n) of its first i + 1 bytes: the longest proper beginning they end with
                         */
};

/* Owner: GkSeq. Thread: worker. */
struct TextStream {
    const Tokenizer *tokenizer;
    uint8_t pending[CHARACTER_BYTES_MAX]; /* an unfinished character */
    size_t n_pending;
    char *text; /* the first n_released bytes are the caller's, the rest waits */
    size_t n_text, n_released, n_text_max;
    struct watch *stops, *banned;
    size_t n_stops, n_banned;
    bool stop_in_output, has_ended;
    uint64_t *is_banned;           /* bit set (n_vocab) of banned_tokens */
    int32_t *banned_tokens;        /* (n_vocab) */
    size_t n_always, n_banned_now; /* the first n_always stay */
};

/* ---- watching for strings ---- */

static int watch_init(struct watch *w, const struct gk_string *s) {
    w->n = (uint32_t)s->n;
    w->bytes = alloc_string_n(s->bytes, s->n);
    w->fallback = alloc_array(s->n, sizeof(*w->fallback));
    if (!w->bytes || !w->fallback)
        return error_origin(-ENOMEM);
    for (uint32_t i = 1, n = 0; i < w->n; i++) {
        while (n > 0 && w->bytes[n] != w->bytes[i])
            n = w->fallback[n - 1];
        if (w->bytes[n] == w->bytes[i])
            n++;
        w->fallback[i] = (uint16_t)n;
    }
    return 0;
}

/* The longest proper beginning of the string that the text ends with. */
static uint32_t watch_progress(const struct watch *w) {
    return w->n_matched == w->n ? w->fallback[w->n - 1] : w->n_matched;
}

/* True where this byte completes the string. */
static bool watch_byte(struct watch *w, char byte) {
    uint32_t n = watch_progress(w);

    while (n > 0 && w->bytes[n] != byte)
        n = w->fallback[n - 1];
    w->n_matched = n + (w->bytes[n] == byte);
    return w->n_matched == w->n;
}

static int watches_new(struct watch **ret, size_t *ret_n, const struct gk_string *strings,
                       size_t n) {
    int r = 0;

    *ret = alloc_array(n, sizeof(**ret));
    if (!*ret)
        return error_origin(-ENOMEM);
    *ret_n = n;
    for (size_t i = 0; !r && i < n; i++)
        r = watch_init(&(*ret)[i], &strings[i]);
    return r;
}

static void watches_free(struct watch *w, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(w[i].bytes);
        free(w[i].fallback);
    }
    free(w);
}

/* ---- banned tokens ---- */

static void ban(TextStream *s, uint32_t token) {
    uint64_t bit = 1ull << (token % 64);

    if (s->is_banned[token / 64] & bit)
        return;
    s->is_banned[token / 64] |= bit;
    s->banned_tokens[s->n_banned_now++] = (int32_t)token;
}

static void ban_those_that_hold(TextStream *s, const struct watch *w) {
    const Vocab *v = &s->tokenizer->vocab;

    for (uint32_t i = 0; (i = vocab_find_holding(v, i, w->bytes, w->n)) < v->n; i++)
        ban(s, i);
}

static int banned_new(TextStream *s) {
    uint32_t n_vocab = tokenizer_n_vocab(s->tokenizer);

    if (s->n_banned == 0)
        return 0;
    s->is_banned = alloc_array((n_vocab + 63) / 64, sizeof(*s->is_banned));
    s->banned_tokens = alloc_array(n_vocab, sizeof(*s->banned_tokens));
    if (!s->is_banned || !s->banned_tokens)
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < s->n_banned; i++)
        ban_those_that_hold(s, &s->banned[i]);
    s->n_always = s->n_banned_now;
    return 0;
}

static void ban_those_that_complete(TextStream *s, const struct watch *w) {
    for (uint32_t n = watch_progress(w); n > 0; n = w->fallback[n - 1]) {
        size_t n_tokens;
        const uint32_t *tokens =
            vocab_with_prefix(&s->tokenizer->vocab, w->bytes + n, w->n - n, &n_tokens);

        for (size_t i = 0; i < n_tokens; i++)
            ban(s, tokens[i]);
    }
}

size_t text_stream_banned(TextStream *s, const int32_t **ret_tokens) {
    while (s->n_banned_now > s->n_always) {
        uint32_t token = (uint32_t)s->banned_tokens[--s->n_banned_now];

        s->is_banned[token / 64] &= ~(1ull << (token % 64));
    }
    for (size_t i = 0; i < s->n_banned; i++)
        ban_those_that_complete(s, &s->banned[i]);
    *ret_tokens = s->banned_tokens;
    return s->n_banned_now;
}

/* ---- the object ---- */

int text_stream_new(TextStream **ret, const Tokenizer *t, const struct gk_params *params) {
    CLEANUP(text_stream_freep) TextStream *s = alloc_new(TextStream);
    int r;

    if (!s)
        return error_origin(-ENOMEM);
    s->tokenizer = t;
    s->stop_in_output = params->stop_in_output;
    /* What waits, and a token: each of its bytes, and the pending ones, may turn into a U+FFFD. */
    s->n_text_max = GK_STOP_STRING_BYTES_MAX +
                    (sizeof(replacement) - 1) * (t->vocab.n_surface_max + CHARACTER_BYTES_MAX);
    s->text = alloc_array(s->n_text_max, 1);
    if (!s->text)
        return error_origin(-ENOMEM);
    r = watches_new(&s->stops, &s->n_stops, params->stop_strings, params->n_stop_strings);
    if (!r)
        r = watches_new(&s->banned, &s->n_banned, params->banned_strings, params->n_banned_strings);
    if (!r)
        r = banned_new(s);
    if (r)
        return r;
    *ret = take_ptr(s);
    return 0;
}

TextStream *text_stream_free(TextStream *s) {
    if (!s)
        return NULL;
    watches_free(s->stops, s->n_stops);
    watches_free(s->banned, s->n_banned);
    free(s->is_banned);
    free(s->banned_tokens);
    free(s->text);
    free(s);
    return NULL;
}

size_t text_stream_bytes_max(const TextStream *s) {
    return s->n_text_max;
}

/* ---- text ---- */

/* Appends whole characters. Returns the stop string that became complete; what follows is dropped.
 */
static const struct watch *append(TextStream *s, const void *bytes, size_t n) {
    const char *p = bytes;

    for (size_t i = 0; i < n; i++) {
        const struct watch *found = NULL;

        s->text[s->n_text++] = p[i];
        for (size_t j = 0; j < s->n_stops; j++)
            if (watch_byte(&s->stops[j], p[i]) && (!found || s->stops[j].n > found->n))
                found = &s->stops[j];
        if (found)
            return found;
    }
    return NULL;
}

/* Can more bytes make these n < 4 a well-formed character? They can if some do: for every first
 * byte one of the two extremes may come second, and any byte of the range after it. */
static bool may_become_character(const uint8_t *bytes, size_t n) {
    uint8_t low[CHARACTER_BYTES_MAX], high[CHARACTER_BYTES_MAX];
    uint32_t code;

    (void)memset(low, 0x80, sizeof(low));
    (void)memset(high, 0xbf, sizeof(high));
    (void)memcpy(low, bytes, n);
    (void)memcpy(high, bytes, n);
    return utf8_decode(low, sizeof(low), &code) > n || utf8_decode(high, sizeof(high), &code) > n;
}

/* The pending bytes will never be a character. */
static const struct watch *replace_pending(TextStream *s) {
    if (s->n_pending == 0)
        return NULL;
    s->n_pending = 0;
    return append(s, replacement, sizeof(replacement) - 1);
}

static const struct watch *push_byte(TextStream *s, uint8_t byte) {
    const struct watch *found = NULL;
    uint32_t code;

    s->pending[s->n_pending] = byte;
    if (s->n_pending > 0 && utf8_decode(s->pending, s->n_pending + 1, &code) == 0 &&
        !may_become_character(s->pending, s->n_pending + 1)) {
        found = replace_pending(s);
        s->pending[0] = byte;
    }
    if (found)
        return found;
    s->n_pending++;
    if (utf8_decode(s->pending, s->n_pending, &code) > 0) {
        found = append(s, s->pending, s->n_pending);
        s->n_pending = 0;
        return found;
    }
    /* One alone may be hopeless; more are not, as was seen above. */
    if (s->n_pending == 1 && !may_become_character(s->pending, 1))
        return replace_pending(s);
    return NULL;
}

/* What was released last time goes; what waited moves to the front. */
static void forget_released(TextStream *s) {
    s->n_text -= s->n_released;
    (void)memmove(s->text, s->text + s->n_released, s->n_text);
    s->n_released = 0;
}

static const struct watch *push_token(TextStream *s, int32_t token) {
    const struct watch *found = NULL;
    size_t n;
    const char *piece = tokenizer_piece(s->tokenizer, token, &n);

    if (s->has_ended)
        return NULL;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < s->n_banned; j++)
            (void)watch_byte(&s->banned[j], piece[i]);
    for (size_t i = 0; !found && i < n; i++)
        found = push_byte(s, (uint8_t)piece[i]);
    return found;
}

static void release(TextStream *s, const struct watch *found, struct text_out *ret) {
    size_t n_waiting = 0;

    if (found) {
        s->has_ended = true;
        s->n_pending = 0;
        if (!s->stop_in_output)
            s->n_text -= found->n;
    }
    for (size_t i = 0; !s->has_ended && i < s->n_stops; i++)
        n_waiting = MAX(n_waiting, (size_t)s->stops[i].n_matched);
    s->n_released = s->n_text - n_waiting;
    *ret =
        (struct text_out){.text = s->text, .n = s->n_released, .stop = found ? found->bytes : NULL};
}

static void release_all(TextStream *s, const struct watch *found, struct text_out *ret) {
    if (!found)
        found = replace_pending(s);
    s->has_ended = true;
    release(s, found, ret);
}

void text_stream_push(TextStream *s, int32_t token, struct text_out *ret) {
    forget_released(s);
    release(s, push_token(s, token), ret);
}

void text_stream_push_last(TextStream *s, int32_t token, struct text_out *ret) {
    forget_released(s);
    release_all(s, push_token(s, token), ret);
}

void text_stream_flush(TextStream *s, struct text_out *ret) {
    forget_released(s);
    release_all(s, /* found= */ NULL, ret);
}
