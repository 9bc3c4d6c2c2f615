/*
 * libFuzzer: the parsers of constraints; the first byte says which. What is accepted is followed
 * for a while: a mask allows what may be pushed and nothing else, whatever was asked before, and
 * there is always a way on. Tokens are bytes, the end, and some longer pieces.
 */
#include "engine/grammar/grammar.h"
#include "engine/grammar/match.h"
#include "tests/fuzz/fuzz.h"
#include "tests/util/gguf-write.h"

#include <stdio.h>
#include <string.h>

#define STEPS_MAX 40

static const struct {
    const char *name, *source;
} seeds[] = {
    {"regex", "r^(?:ab|[^c-e\\d]{2,3})*x?$|\xc3\xa9+"},
    {"grammar",
     "groot ::= (item \",\"){1,3} # list\nitem ::= [a-z\\x41] item? | \"\\u00e9\" | .\n"},
    {"schema",
     "s{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/x\"},\"b\":{\"allOf\":[{"
     "\"minimum\":-1.5},{\"maximum\":70}],\"type\":\"number\"}},\"required\":[\"a\"],"
     "\"additionalProperties\":{\"type\":[\"string\",\"null\"],\"maxLength\":3},\"$defs\":{"
     "\"x\":{\"anyOf\":[{\"enum\":[1,\"q\"]},{\"type\":\"array\",\"prefixItems\":[{\"type\":"
     "\"integer\",\"multipleOf\":7}],\"items\":{\"$ref\":\"#\"},\"maxItems\":4}]}}}"},
    {"pattern", "s{\"type\":\"string\",\"pattern\":\"^a.b|c$\",\"title\":\"t\"}"},
    {"format",
     "s{\"anyOf\":[{\"format\":\"date-time\"},{\"format\":\"ipv6\"}],\"description\":\"d\"}"},
};

void fuzz_seed(const char *directory) {
    char path[4096];

    for (size_t i = 0; i < ARRAY_SIZE(seeds); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", directory, seeds[i].name);
        gguf_save_bytes(path, (const uint8_t *)seeds[i].source, strlen(seeds[i].source));
    }
}

static bool is_end(const void *userdata, int32_t token) {
    (void)userdata;
    return token == 256;
}

static const char *const pieces[] = {
    "ab",           "abc",
    "abcd",         "abx",
    "aba",          "abab",
    "abb",          "abcx",
    "abcabc",       "ab\"",
    "b0",           "123",
    "10",           "1.5",
    "12",           "1e",
    "{\"",          "\":",
    "\",\"",        "\"}",
    "true",         "null",
    "\n  ",         ", ",
    "[[",           "]]",
    "\\u",          "\\\"",
    "00",           "\xc3\xa9",
    "\xe2\x82\xac", "\x82\xac",
    "item",         "-1",
    "2024",         ":[",
    "x,y,",         "aaaaaaaaaaaaaaaa",
};

#define N_TOKENS (257 + ARRAY_SIZE(pieces))

static AutomatonCache *make_cache(void) {
    static Vocab vocab;
    static AutomatonCache cache;
    char piece[8];

    if (cache.vocab)
        return &cache;
    for (unsigned i = 0; i < 256; i++) {
        (void)snprintf(piece, sizeof(piece), "<0x%02X>", i);
        fuzz_check(vocab_add(&vocab, piece, 6, 0, PIECE_BYTE, NULL) == 0);
    }
    fuzz_check(vocab_add(&vocab, "</s>", 4, 0, PIECE_CONTROL, NULL) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
        fuzz_check(vocab_add(&vocab, pieces[i], strlen(pieces[i]), 0, PIECE_NORMAL, NULL) == 0);
    fuzz_check(vocab_finish(&vocab, "?", 1, NULL) == 0);
    automaton_cache_init(&cache, &vocab, is_end, NULL);
    return &cache;
}

static bool has_bit(const uint64_t *mask, unsigned i) {
    return mask && (mask[i / 64] >> (i % 64) & 1) != 0;
}

/* Some byte or longer piece that is allowed; 256: none is. */
static unsigned choose(const uint64_t *mask, unsigned random) {
    for (unsigned i = 0; i < N_TOKENS; i++) {
        unsigned token = (i + random) % N_TOKENS;

        if (token != 256 && has_bit(mask, token))
            return token;
    }
    return 256;
}

/* Whether a matcher that knows nothing takes the token after the text. */
static bool takes(GkConstraint *c, const uint8_t *text, size_t n, unsigned token) {
    static const struct matcher_options options;
    AutomatonCache *cache = make_cache();
    const uint8_t *bytes = vocab_surface(cache->vocab, token);
    Matcher *m;
    bool is_taken;

    fuzz_check(matcher_new(&m, cache, c, &options) == 0);
    fuzz_check(matcher_push(m, text, n) || n == 0);
    is_taken = matcher_push(m, bytes, cache->vocab->pieces[token].n_surface);
    (void)matcher_free(m);
    return is_taken;
}

static void follow(GkConstraint *c, const uint8_t *bytes, size_t n) {
    static const struct matcher_options options;
    AutomatonCache *cache = make_cache();
    uint8_t text[STEPS_MAX * 16];
    size_t n_text = 0;
    Matcher *m;

    fuzz_check(matcher_new(&m, cache, c, &options) == 0);
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        unsigned random = bytes[i % n] + 7 * i, probe = random * 31 % N_TOKENS, next;
        const uint64_t *mask = matcher_mask(m);

        if (!mask)
            break;
        next = choose(mask, random * 17);
        fuzz_check(has_bit(mask, 256) == matcher_is_accepting(m));
        fuzz_check((next == 256) == matcher_is_complete(m));
        if (probe != 256)
            fuzz_check(has_bit(mask, probe) == takes(c, text, n_text, probe));
        if (next == 256 || !matcher_push(m, vocab_surface(cache->vocab, next),
                                         cache->vocab->pieces[next].n_surface))
            break; /* the end, or it took too much */
        (void)memcpy(text + n_text, vocab_surface(cache->vocab, next),
                     cache->vocab->pieces[next].n_surface);
        n_text += cache->vocab->pieces[next].n_surface;
    }
    (void)matcher_free(m);
}

int fuzz_one(const uint8_t *bytes, size_t n) {
    enum gk_constraint_kind kind;
    GkConstraint *c;
    Error error = ERROR_INIT;
    int r;

    if (n < 1)
        return 0;
    kind = bytes[0] == 'r'   ? GK_CONSTRAINT_REGEX
           : bytes[0] == 'g' ? GK_CONSTRAINT_GRAMMAR
                             : GK_CONSTRAINT_JSON_SCHEMA;
    r = gk_constraint_new(&c, kind, (const char *)bytes + 1, n - 1, &error);
    fuzz_check(r == 0 || (r == GK_E_INVALID && error.text[0] != '\0'));
    if (r == 0) {
        follow(c, bytes, n);
        (void)gk_constraint_unref(c);
    }
    return 0;
}
