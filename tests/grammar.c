/*
 * Constraints without a model, for scripts that compare them with other implementations: a line of
 * JSON in, a line out, tokens being bytes.
 *
 *     {"kind": "regex" | "schema" | "grammar", "source": TEXT, "texts": [TEXT…],
 *      "generate": COUNT, "bytes_max": N, "seed": N}
 *     {"error": TEXT} or {"accepts": [BOOLEAN…], "generated": [TEXT…]}
 */
#include "engine/grammar/grammar.h"
#include "engine/grammar/match.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static bool is_end(const void *userdata, int32_t token) {
    (void)userdata;
    return token == 256;
}

static void make_vocab(Vocab *v) {
    char piece[8];

    for (unsigned i = 0; i < 256; i++) {
        (void)snprintf(piece, sizeof(piece), "<0x%02X>", i);
        if (vocab_add(v, piece, 6, 0, PIECE_BYTE, NULL) != 0)
            abort();
    }
    if (vocab_add(v, "</s>", 4, 0, PIECE_CONTROL, NULL) != 0 || vocab_finish(v, "?", 1, NULL) != 0)
        abort();
}

static Matcher *new_matcher(GkConstraint *c, AutomatonCache *cache) {
    static const struct matcher_options options;
    Matcher *m;

    if (matcher_new(&m, cache, c, &options) != 0)
        abort();
    return m;
}

static bool accepts(GkConstraint *c, AutomatonCache *cache, const char *text, size_t n) {
    Matcher *m = new_matcher(c, cache);
    bool is_good = (n == 0 || matcher_push(m, text, n)) && matcher_is_accepting(m);

    (void)matcher_free(m);
    return is_good;
}

/* One of the bytes that the mask allows, 256 for the end; -1: none. */
static int choose(const uint64_t *mask, uint64_t *random) {
    int allowed[257], n = 0;

    for (int i = 0; i < 257; i++)
        if (mask[i / 64] >> (i % 64) & 1)
            allowed[n++] = i;
    return n == 0 ? -1 : allowed[next_random(random) % (unsigned)n];
}

/* NULL: it did not end within n_max bytes. */
static json_t *generate(GkConstraint *c, AutomatonCache *cache, size_t n_max, uint64_t *random) {
    CLEANUP(freep) char *text = malloc(n_max + 1);
    Matcher *m = new_matcher(c, cache);
    bool has_ended = false;
    size_t n = 0;

    while (text && n < n_max && !has_ended) {
        const uint64_t *mask = matcher_mask(m);
        int byte = mask ? choose(mask, random) : -1;

        if (byte < 0)
            abort(); /* there is always a way on */
        has_ended = byte == 256 || (matcher_is_accepting(m) && next_random(random) % 4 == 0);
        if (has_ended)
            break;
        text[n++] = (char)byte;
        if (!matcher_push(m, &text[n - 1], 1))
            abort();
    }
    has_ended |= matcher_is_accepting(m);
    (void)matcher_free(m);
    return has_ended && text ? json_stringn(text, n) : NULL;
}

static json_t *answer(const json_t *q, GkConstraint *c, AutomatonCache *cache) {
    const json_t *texts = json_object_get(q, "texts");
    uint64_t random = (uint64_t)json_integer_value(json_object_get(q, "seed"));
    size_t n = (size_t)json_integer_value(json_object_get(q, "generate"));
    size_t n_max = (size_t)json_integer_value(json_object_get(q, "bytes_max"));
    json_t *accepted = json_array(), *generated = json_array();

    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);

        json_array_append_new(accepted, json_boolean(accepts(c, cache, json_string_value(text),
                                                             json_string_length(text))));
    }
    for (size_t i = 0; i < n; i++) {
        json_t *text = generate(c, cache, n_max, &random);

        if (text)
            json_array_append_new(generated, text);
    }
    return json_pack("{s:o, s:o}", "accepts", accepted, "generated", generated);
}

static json_t *serve(const json_t *q, AutomatonCache *cache) {
    const char *kind = json_string_value(json_object_get(q, "kind"));
    const json_t *source = json_object_get(q, "source");
    GkConstraint *c = NULL;
    Error error = ERROR_INIT;
    json_t *a;

    if (gk_constraint_new(&c,
                          strcmp(kind, "regex") == 0    ? GK_CONSTRAINT_REGEX
                          : strcmp(kind, "schema") == 0 ? GK_CONSTRAINT_JSON_SCHEMA
                                                        : GK_CONSTRAINT_GRAMMAR,
                          json_string_value(source), json_string_length(source), &error) != 0)
        return json_pack("{s:s}", "error", error.text);
    a = answer(q, c, cache);
    (void)gk_constraint_unref(c);
    return a;
}

int main(void) {
    CLEANUP(freep) char *line = NULL;
    size_t capacity = 0;
    Vocab vocab = {.n = 0};
    AutomatonCache cache;

    make_vocab(&vocab);
    automaton_cache_init(&cache, &vocab, is_end, NULL);
    while (getline(&line, &capacity, stdin) > 0) {
        json_t *q = json_loads(line, JSON_ALLOW_NUL, NULL), *a;

        if (!q)
            return 1;
        a = serve(q, &cache);
        (void)json_dumpf(a, stdout, JSON_COMPACT);
        (void)putchar('\n');
        (void)fflush(stdout);
        json_decref(a);
        json_decref(q);
    }
    automaton_cache_deinit(&cache);
    vocab_deinit(&vocab);
    return 0;
}
