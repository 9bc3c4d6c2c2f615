/*
 * engine/text/stream: what is released, and when, is the same whatever tokens the text comes in; it
 * is compared with a search of the whole text by the definition.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "base/utf8.h"
#include "engine/text/stream.h"
#include "tests/util/spm-write.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <string.h>

#define BYTE_TOKEN(c) (3 + (int32_t)(unsigned char)(c)) /* see spm_basics() */
#define N_BASICS      259

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static Tokenizer *make_tokenizer(const char *const *pieces, size_t n) {
    SpmWriter w = {.n = 0};
    Tokenizer *t = NULL;

    spm_basics(&w);
    for (size_t i = 0; i < n; i++)
        spm_piece(&w, pieces[i], 0, 1);
    spm_specs(&w);
    assert(tokenizer_from_spm(&t, w.bytes, w.n, NULL) == 0);
    spm_writer_deinit(&w);
    return t;
}

/* The strings, as gk_params has them. */
static struct gk_params params_with(struct gk_string *stops, const char *const *stop, size_t n_stop,
                                    struct gk_string *bans, const char *const *ban, size_t n_ban) {
    struct gk_params p = {.stop_strings = stops,
                          .n_stop_strings = n_stop,
                          .banned_strings = bans,
                          .n_banned_strings = n_ban};

    for (size_t i = 0; i < n_stop; i++)
        stops[i] = (struct gk_string){.bytes = stop[i], .n = strlen(stop[i])};
    for (size_t i = 0; i < n_ban; i++)
        bans[i] = (struct gk_string){.bytes = ban[i], .n = strlen(ban[i])};
    return p;
}

static TextStream *make_stream(const Tokenizer *t, const char *const *stop, size_t n_stop,
                               bool stop_in_output) {
    struct gk_string stops[GK_STOP_STRINGS_MAX];
    struct gk_params p = params_with(stops, stop, n_stop, NULL, NULL, 0);
    TextStream *s;

    p.stop_in_output = stop_in_output;
    assert(text_stream_new(&s, t, &p) == 0);
    return s;
}

/* Everything released so far. */
struct sink {
    char text[4096];
    size_t n;
    const char *stop;
};

static void take(struct sink *sink, const struct text_out *out) {
    assert(utf8_is_valid(out->text, out->n));
    assert(sink->n + out->n < sizeof(sink->text));
    (void)memcpy(sink->text + sink->n, out->text, out->n);
    sink->n += out->n;
    assert(!sink->stop || (!out->stop && out->n == 0));
    if (out->stop)
        sink->stop = out->stop;
}

static void push(TextStream *s, struct sink *sink, int32_t token) {
    struct text_out out;

    text_stream_push(s, token, &out);
    take(sink, &out);
}

static void flush(TextStream *s, struct sink *sink) {
    struct text_out out;

    text_stream_flush(s, &out);
    take(sink, &out);
    text_stream_flush(s, &out); /* nothing is left */
    take(sink, &out);
    assert(out.n == 0 && !out.stop);
}

static void assert_sink(const struct sink *sink, const char *text, size_t n, const char *stop) {
    if (sink->n != n || memcmp(sink->text, text, n) != 0)
        (void)printf("# \"%.*s\" instead of \"%.*s\"\n", (int)sink->n, sink->text, (int)n, text);
    assert(sink->n == n && memcmp(sink->text, text, n) == 0);
    assert(stop ? sink->stop && strcmp(sink->stop, stop) == 0 : !sink->stop);
}

/* ---- UTF-8 ---- */

/* Expected: what Python's bytes.decode("utf-8", "replace") gives, with # for U+FFFD. */
static const struct {
    const char *bytes;
    size_t n;
    const char *text;
} sequences[] = {
    {"\x80", 1, "#"},
    {"\x80\x80", 2, "##"},
    {"a\xc3", 2, "a#"},
    {"\xc3\xc3\xa9", 3, "#\xc3\xa9"},
    {"\xc3(", 2, "#("},
    {"\xe2\x82", 2, "#"},
    {"\xe2\x82\xac", 3, "\xe2\x82\xac"},
    {"\xe2(\xa1", 3, "#(#"},
    {"\xe2\x82(", 3, "#("},
    {"\xf0\x9f\x98\x80", 4, "\xf0\x9f\x98\x80"},
    {"\xf0\x9f\x98", 3, "#"},
    {"\xf0\x9f\x98x", 4, "#x"},
    {"\xf0\x9f\xf0\x9f\x98\x80", 6, "#\xf0\x9f\x98\x80"},
    {"\xf0\x80\x80\x80", 4, "####"},
    {"\xf4\x8f\xbf\xbf", 4, "\xf4\x8f\xbf\xbf"},
    {"\xf4\x90\x80\x80", 4, "####"},
    {"\xf5\x80", 2, "##"},
    {"\xc0\xaf", 2, "##"},
    {"\xc1\xbf", 2, "##"},
    {"\xe0\x9f\xbf", 3, "###"},
    {"\xe0\xa0\x80", 3, "\xe0\xa0\x80"},
    {"\xed\x9f\xbf", 3, "\xed\x9f\xbf"},
    {"\xed\xa0\x80", 3, "###"},
    {"\xee\x80\x80", 3, "\xee\x80\x80"},
    {"\xfe\xff", 2, "##"},
    {"\xc3\xa9\xff\xc3\xa9", 5, "\xc3\xa9#\xc3\xa9"},
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, "####\x41"},
    {"\xf0\x9f\x98\xc3\xa9", 5, "#\xc3\xa9"},
    {"a\0b", 3, "a"}, /* and a zero byte and b: see below */
};

static void test_utf8(void) {
    Tokenizer *t = make_tokenizer(NULL, 0);

    for (size_t i = 0; i < ARRAY_SIZE(sequences); i++) {
        TextStream *s = make_stream(t, NULL, 0, false);
        struct sink sink = {.n = 0};
        char expected[64];
        size_t n = 0;

        for (const char *c = sequences[i].text; *c; c++) {
            if (*c == '#')
                n += (size_t)snprintf(expected + n, 8, "\xef\xbf\xbd");
            else
                expected[n++] = *c;
        }
        if (sequences[i].n == 3 && memcmp(sequences[i].bytes, "a\0b", 3) == 0) {
            (void)memcpy(expected, "a\0b", 3);
            n = 3;
        }
        for (size_t j = 0; j < sequences[i].n; j++)
            push(s, &sink, BYTE_TOKEN(sequences[i].bytes[j]));
        flush(s, &sink);
        assert_sink(&sink, expected, n, NULL);
        (void)text_stream_free(s);
    }
    (void)tokenizer_free(t);
}

/* A character comes with its last byte; a U+FFFD as soon as nothing can mend it. */
static void test_utf8_timing(void) {
    Tokenizer *t = make_tokenizer(NULL, 0);
    TextStream *s = make_stream(t, NULL, 0, false);
    static const struct {
        char byte;
        size_t n; /* released with it */
    } steps
        [] =
            {
                {'\xf0', 0}, {'\x9f', 0}, {'\x98', 0}, {'\x80', 4}, {'\xe2', 0},
                {'\x82', 0}, {'a', 4},    {'\xff', 3}, {'\xc3', 0}, {'\xc3', 3},
                {'\xa9', 2}, {'\xed', 0}, {'\xa0', 6}, /* no surrogate begins like that */
            };
    struct text_out out;

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        text_stream_push(s, BYTE_TOKEN(steps[i].byte), &out);
        assert(out.n == steps[i].n && !out.stop);
    }
    text_stream_push_last(s, BYTE_TOKEN('\xc3'), &out);
    assert(out.n == 3 && memcmp(out.text, "\xef\xbf\xbd", 3) == 0);
    (void)text_stream_free(s);
    (void)tokenizer_free(t);
}

/* The stream is the continuation: the first piece keeps its space; control pieces are nothing. */
static void test_continuation(void) {
    static const char *const pieces[] = {"▁grokd", "▁is"};
    Tokenizer *t = make_tokenizer(pieces, 2);
    TextStream *s = make_stream(t, NULL, 0, false);
    struct sink sink = {.n = 0};

    push(s, &sink, N_BASICS);
    push(s, &sink, 1);
    push(s, &sink, N_BASICS + 1);
    push(s, &sink, 0);
    push(s, &sink, 2);
    flush(s, &sink);
    assert_sink(&sink, " grokd is ⁇ ", 14, NULL);
    (void)text_stream_free(s);
    (void)tokenizer_free(t);
}

/* ---- stop strings ---- */

static const char *const words[] = {"a",    "b",    "c",   "ab",   "ba",   "abc", "aab", "bca",
                                    "abab", "cabc", "aaa", "abca", "bcab", "é",   "aé",  "éb"};

/* One to three words in a row. */
static void random_string(uint64_t *state, char *ret, size_t capacity) {
    size_t n_words = 1 + next_random(state) % 3, n = 0;

    for (size_t i = 0; i < n_words; i++)
        n += (size_t)snprintf(ret + n, capacity - n, "%s",
                              words[next_random(state) % ARRAY_SIZE(words)]);
}

/* By the definition: the first place where a stop string is complete, there the longest. */
static const char *find_stop(const char *text, size_t n, const char *const *stops, size_t n_stops,
                             size_t *ret_end) {
    for (size_t end = 1; end <= n; end++) {
        const char *found = NULL;

        for (size_t i = 0; i < n_stops; i++) {
            size_t length = strlen(stops[i]);

            if (length <= end && memcmp(text + end - length, stops[i], length) == 0 &&
                (!found || length > strlen(found)))
                found = stops[i];
        }
        *ret_end = end;
        if (found)
            return found;
    }
    return NULL;
}

/* Bytes at the end that some stop string begins with. */
static size_t count_waiting(const char *text, size_t n, const char *const *stops, size_t n_stops) {
    size_t n_waiting = 0;

    for (size_t i = 0; i < n_stops; i++)
        for (size_t length = 1; length < strlen(stops[i]) && length <= n; length++)
            if (memcmp(text + n - length, stops[i], length) == 0)
                n_waiting = MAX(n_waiting, length);
    return n_waiting;
}

static void run_stops(const Tokenizer *t, uint64_t *state, const char *const *stops, size_t n_stops,
                      bool keep) {
    TextStream *s = make_stream(t, stops, n_stops, keep);
    const char *stop = NULL;
    struct sink sink = {.n = 0};
    char text[512];
    size_t n = 0, end = 0;

    while (n < 60 && next_random(state) % 30 != 0) {
        int32_t token = N_BASICS + (int32_t)(next_random(state) % ARRAY_SIZE(words));
        const char *word = words[token - N_BASICS];

        (void)memcpy(text + n, word, strlen(word));
        n += strlen(word);
        if (strcmp(word, "é") == 0) { /* in two tokens */
            push(s, &sink, BYTE_TOKEN(word[0]));
            token = BYTE_TOKEN(word[1]);
        }
        push(s, &sink, token);
        stop = find_stop(text, n, stops, n_stops, &end);
        if (stop)
            break;
        assert_sink(&sink, text, n - count_waiting(text, n, stops, n_stops), NULL);
    }
    flush(s, &sink);
    assert_sink(&sink, text, stop ? end - (keep ? 0 : strlen(stop)) : n, stop);
    push(s, &sink, N_BASICS); /* ends silently */
    (void)text_stream_free(s);
}

static void test_stop_strings(void) {
    Tokenizer *t = make_tokenizer(words, ARRAY_SIZE(words));
    uint64_t state = 11;

    for (unsigned i = 0; i < 20000; i++) {
        char stops[4][16];
        const char *list[4];
        size_t n_stops = next_random(&state) % 4;

        for (size_t j = 0; j < n_stops; j++) {
            random_string(&state, stops[j], sizeof(stops[j]));
            list[j] = stops[j];
        }
        run_stops(t, &state, list, n_stops, i % 2);
    }
    (void)tokenizer_free(t);
}

static void assert_stops(const Tokenizer *t, const char *const *stops, size_t n_stops,
                         const char *text, const char *released, const char *stop) {
    TextStream *s = make_stream(t, stops, n_stops, false);
    struct sink sink = {.n = 0};

    for (; *text; text++)
        push(s, &sink, BYTE_TOKEN(*text));
    flush(s, &sink);
    assert_sink(&sink, released, strlen(released), stop);
    (void)text_stream_free(s);
}

static void test_stop_rules(void) {
    static const char *const some[] = {"\nQ:", "stop", "top", "sto", "\xef\xbf\xbd!", "pp"};
    Tokenizer *t = make_tokenizer(NULL, 0);
    char longest[GK_STOP_STRING_BYTES_MAX + 1];
    const char *one = longest;

    assert_stops(t, some, 1, "A\nQ\nQ: x", "A\nQ", "\nQ:");
    assert_stops(t, some + 1, 2, "don't stop!", "don't ", "stop"); /* the longest */
    assert_stops(t, some + 1, 3, "don't stop!", "don't ", "sto");  /* complete first */
    assert_stops(t, some + 4, 1, "x\xff!y", "x", "\xef\xbf\xbd!"); /* text as released */
    assert_stops(t, some + 5, 1, "a stop", "a stop", NULL);        /* begun at the end */
    assert_stops(t, NULL, 0, "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", NULL);
    (void)memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 2] = 'y';
    longest[sizeof(longest) - 1] = '\0';
    assert_stops(t, &one, 1, longest, "", longest);
    (void)tokenizer_free(t);
}

/* The end of the text completes a stop string: by push_last() and by the U+FFFD of flush(). */
static void test_stop_at_the_end(void) {
    static const char *const stop[] = {"\xef\xbf\xbd"};
    Tokenizer *t = make_tokenizer(NULL, 0);
    TextStream *s = make_stream(t, stop, 1, false);
    struct sink sink = {.n = 0};
    struct text_out out;

    push(s, &sink, BYTE_TOKEN('a'));
    push(s, &sink, BYTE_TOKEN('\xe2'));
    text_stream_flush(s, &out);
    take(&sink, &out);
    assert_sink(&sink, "a", 1, stop[0]);
    (void)text_stream_free(s);
    s = make_stream(t, stop, 1, true);
    text_stream_push_last(s, BYTE_TOKEN('\xe2'), &out);
    assert(out.n == 3 && out.stop && strcmp(out.stop, stop[0]) == 0);
    (void)text_stream_free(s);
    (void)tokenizer_free(t);
}

/* ---- banned strings ---- */

static bool would_complete(const Tokenizer *t, const char *text, size_t n, int32_t token,
                           const char *const *bans, size_t n_bans) {
    char whole[1024];
    size_t n_piece;
    const char *piece = tokenizer_piece(t, token, &n_piece);

    (void)memcpy(whole, text, n);
    (void)memcpy(whole + n, piece, n_piece);
    for (size_t end = n + 1; end <= n + n_piece; end++)
        for (size_t i = 0; i < n_bans; i++) {
            size_t length = strlen(bans[i]);

            if (length <= end && memcmp(whole + end - length, bans[i], length) == 0)
                return true;
        }
    return false;
}

static void assert_banned(TextStream *s, const Tokenizer *t, const char *text, size_t n,
                          const char *const *bans, size_t n_bans) {
    bool is_banned[N_BASICS + ARRAY_SIZE(words)] = {false};
    const int32_t *tokens;
    size_t n_tokens = text_stream_banned(s, &tokens);

    for (size_t i = 0; i < n_tokens; i++) {
        assert(!is_banned[tokens[i]]); /* each once */
        is_banned[tokens[i]] = true;
    }
    for (int32_t i = 0; i < (int32_t)ARRAY_SIZE(is_banned); i++)
        assert(is_banned[i] == would_complete(t, text, n, i, bans, n_bans));
}

/* Pushes banned tokens too, now and then: what is complete already bans nothing by itself. */
static void run_banned(const Tokenizer *t, uint64_t *state, const char *const *bans,
                       size_t n_bans) {
    struct gk_string strings[4];
    struct gk_params p = params_with(NULL, NULL, 0, strings, bans, n_bans);
    struct text_out out;
    TextStream *s;
    char text[512];
    size_t n = 0, n_piece;

    assert(text_stream_new(&s, t, &p) == 0);
    while (n < 40) {
        int32_t token = N_BASICS + (int32_t)(next_random(state) % ARRAY_SIZE(words));
        const char *piece;

        assert_banned(s, t, text, n, bans, n_bans);
        if (next_random(state) % 3 == 0)
            token = BYTE_TOKEN("abc\xc3\xa9"[next_random(state) % 5]);
        piece = tokenizer_piece(t, token, &n_piece);
        (void)memcpy(text + n, piece, n_piece);
        n += n_piece;
        text_stream_push(s, token, &out);
    }
    (void)text_stream_free(s);
}

static void test_banned_strings(void) {
    Tokenizer *t = make_tokenizer(words, ARRAY_SIZE(words));
    uint64_t state = 5;

    for (unsigned i = 0; i < 500; i++) {
        char bans[4][16];
        const char *list[4];
        size_t n_bans = 1 + next_random(&state) % 4;

        for (size_t j = 0; j < n_bans; j++) {
            random_string(&state, bans[j], sizeof(bans[j]));
            list[j] = bans[j];
        }
        run_banned(t, &state, list, n_bans);
    }
    (void)tokenizer_free(t);
}

static void test_nothing_banned(void) {
    Tokenizer *t = make_tokenizer(words, ARRAY_SIZE(words));
    TextStream *s = make_stream(t, NULL, 0, false);
    const int32_t *tokens;

    assert(text_stream_banned(s, &tokens) == 0);
    (void)text_stream_free(s);
    (void)tokenizer_free(t);
}

/* ---- limits ---- */

/* The longest piece, all of it invalid, after the longest text that can wait. */
static void test_longest_piece(void) {
    static const char *const stop[] = {
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"};
    static char bytes[TEXT_PIECE_BYTES_MAX];
    SpmWriter w = {.n = 0};
    TextStream *s;
    Tokenizer *t;
    struct text_out out;

    (void)memset(bytes, '\xff', sizeof(bytes));
    spm_basics(&w);
    spm_piece_n(&w, bytes, sizeof(bytes), 0, 1);
    spm_specs(&w);
    assert(tokenizer_from_spm(&t, w.bytes, w.n, NULL) == 0);
    spm_writer_deinit(&w);
    s = make_stream(t, stop, 1, false);
    for (size_t i = 0; i < strlen(stop[0]) - 1; i++)
        text_stream_push(s, BYTE_TOKEN('a'), &out);
    assert(out.n == 0);
    text_stream_push(s, BYTE_TOKEN('\xe2'), &out);
    text_stream_push(s, BYTE_TOKEN('\x82'), &out);
    assert(out.n == 0);
    text_stream_push(s, N_BASICS, &out);
    assert(out.n == strlen(stop[0]) - 1 + 3 * (1 + sizeof(bytes)));
    (void)text_stream_free(s);
    (void)tokenizer_free(t);
}

static void test_allocation_failures(void) {
    static const char *const strings[] = {"stop", "it"};
    Tokenizer *t = make_tokenizer(words, ARRAY_SIZE(words));
    struct gk_string stops[2], bans[2];
    struct gk_params p = params_with(stops, strings, 2, bans, strings, 2);

    for (size_t i = 1;; i++) {
        TextStream *s = NULL;
        int r;

        alloc_fail_after(i);
        r = text_stream_new(&s, t, &p);
        alloc_fail_after(0);
        (void)text_stream_free(s);
        if (r == 0) {
            assert(i > 10);
            break;
        }
        assert(r == -ENOMEM && !s);
    }
    (void)tokenizer_free(t);
}

static const struct test tests[] = {
    TEST(utf8),          TEST(utf8_timing),         TEST(continuation),   TEST(stop_strings),
    TEST(stop_rules),    TEST(stop_at_the_end),     TEST(banned_strings), TEST(nothing_banned),
    TEST(longest_piece), TEST(allocation_failures),
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
