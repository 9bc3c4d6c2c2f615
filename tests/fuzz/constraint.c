/*
 * libFuzzer: the parsers of constraints; the first byte says which. What is accepted is followed
 * for a while, tokens being bytes: a mask allows what may be pushed and nothing else, and there is
 * always a way on.
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

static AutomatonCache *bytes_cache(void) {
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
    fuzz_check(vocab_finish(&vocab, "?", 1, NULL) == 0);
    automaton_cache_init(&cache, &vocab, is_end, NULL);
    return &cache;
}

static bool has_bit(const uint64_t *mask, unsigned i) {
    return mask && (mask[i / 64] >> (i % 64) & 1) != 0;
}

/* Some byte that is allowed; 256: none is. */
static unsigned choose(const uint64_t *mask, unsigned random) {
    for (unsigned i = 0; i < 256; i++)
        if (has_bit(mask, (i + random) % 256))
            return (i + random) % 256;
    return 256;
}

static void follow(GkConstraint *c, const uint8_t *bytes, size_t n) {
    static const struct matcher_options options;
    Matcher *m;

    fuzz_check(matcher_new(&m, bytes_cache(), c, &options) == 0);
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        const uint64_t *mask = matcher_mask(m);
        unsigned next = choose(mask, bytes[i % n] + 7 * i);
        uint8_t byte = (uint8_t)next;

        if (!mask)
            break;
        fuzz_check(has_bit(mask, 256) == matcher_is_accepting(m));
        fuzz_check((next == 256) == matcher_is_complete(m));
        if (next == 256)
            break;
        if (!matcher_push(m, &byte, 1))
            break; /* only where it took too much */
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
