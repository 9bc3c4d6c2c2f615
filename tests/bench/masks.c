/*
 * What constraints cost a sequence: build/tests/bench/masks [tokenizer.model]
 *
 * Texts that satisfy each constraint are followed token by token (the longest that the vocabulary
 * has), then random tokens that the mask allows. A cold mask is
 * made where nothing is known of the constraint but its text; a known step is mask and token of a
 * sequence that comes after another one with the same text. Vocabularies: Grok-1's,
 * and its first 32000 pieces.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/match.h"
#include "engine/text/text.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define STEPS_MAX   4096
#define RANDOM_MAX  300 /* bytes of random tokens */
#define MODEL_BYTES (64u << 20)

static const struct {
    const char *name;
    enum gk_constraint_kind kind;
    const char *source, *text;
} cases[] = {
    {"free JSON", GK_CONSTRAINT_JSON_SCHEMA, "{\"type\":\"object\"}",
     "{\"name\": \"Grace Hopper\", \"born\": 1906, \"languages\": [\"COBOL\", \"FLOW-MATIC\"], "
     "\"address\": {\"city\": \"Arlington\", \"lines\": [null, true, -12.5e3]}, \"note\": \"She "
     "said: \\\"the most dangerous phrase is, we've always done it this way\\\" "
     "\xe2\x80\x94 \xc3\xa9t\xc3\xa9\"}"},
    {"schema", GK_CONSTRAINT_JSON_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\"},\"kind\":{\"enum\":["
     "\"invoice\",\"receipt\",\"order\"]},\"total\":{\"type\":\"number\",\"minimum\":0},\"lines\":"
     "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"item\":{\"type\":"
     "\"string\"},\"count\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":999},\"tags\":{"
     "\"type\":\"array\",\"items\":{\"enum\":[\"new\",\"used\",\"rare\"]}}},\"required\":["
     "\"item\",\"count\",\"tags\"],\"additionalProperties\":false}},\"date\":{\"type\":\"string\","
     "\"format\":\"date\"}},\"required\":[\"title\",\"kind\",\"total\",\"lines\",\"date\"],"
     "\"additionalProperties\":false}",
     "{\"title\": \"Spring order of the library\", \"kind\": \"order\", \"total\": 1234.5, "
     "\"lines\": [{\"item\": \"Typewriter ribbon, black\", \"count\": 12, \"tags\": [\"new\"]}, "
     "{\"item\": \"Atlas\", \"count\": 1, \"tags\": [\"used\", \"rare\"]}], \"date\": "
     "\"2024-02-29\"}"},
    {"short strings", GK_CONSTRAINT_JSON_SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":80}}",
     "[\"Once upon a midnight dreary, while I pondered, weak and weary\", \"Over many a quaint "
     "and curious volume of forgotten lore\"]"},
    {"regex", GK_CONSTRAINT_REGEX, "[a-z]+@[a-z]+\\.com", "wanderingphilosopher@thinking.com"},
    {"GBNF JSON", GK_CONSTRAINT_GRAMMAR,
     "root ::= object\n"
     "value ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
     "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n"
     "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
     "string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" "
     "[0-9a-fA-F]{4}))* \"\\\"\" ws\n"
     "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] "
     "[1-9]{0,15})? ws\n"
     "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n",
     "{\"name\": \"Grace Hopper\", \"born\": 1906, \"languages\": [\"COBOL\", \"FLOW-MATIC\"], "
     "\"address\": {\"city\": \"Arlington\", \"lines\": [null, true, -12.5e3]}}"},
    {"ambiguous", GK_CONSTRAINT_GRAMMAR, "root ::= \"a\" (root \"b\"? root \"c\"? | root root?)?\n",
     "aaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    {"ambiguous words", GK_CONSTRAINT_GRAMMAR,
     "root ::= (x? x? x? x? x? x? x? x?){100}\nx ::= [a-z ] | [a-z ] x | [a-m] x [m-z]\n",
     "thequickbrownfoxjumpsoverthelazydogs"},
    {"nth from the end", GK_CONSTRAINT_REGEX, "[a-z ]*[aeiou][a-z ]{14}",
     "the quick brown fox jumps over the lazy dogs"},
};

static double now(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

struct times {
    double us[4 * STEPS_MAX];
    size_t n;
};

static void print_times(const char *when, struct times *t) {
    qsort(t->us, t->n, sizeof(*t->us), by_value);
    (void)printf("  %s %8.1f %8.1f %8.1f", when, t->us[t->n / 2], t->us[t->n * 99 / 100],
                 t->us[t->n - 1]);
}

/* The longest token that the text begins with. */
static uint32_t longest(const Vocab *v, const char *text) {
    uint32_t best = 0, n_best = 0;

    for (uint32_t i = 0; i < v->n; i++) {
        const struct piece *p = &v->pieces[i];

        if (p->n_surface > n_best && p->type != PIECE_CONTROL && p->type != PIECE_UNKNOWN &&
            strncmp(text, (const char *)vocab_surface(v, i), p->n_surface) == 0) {
            best = i;
            n_best = p->n_surface;
        }
    }
    return best;
}

static uint32_t choose(const uint64_t *mask, uint32_t n, uint64_t *random) {
    uint32_t at;

    *random = *random * 6364136223846793005u + 1442695040888963407u;
    at = (uint32_t)(*random >> 33) % n;
    for (uint32_t i = 0; i < n; i++, at = (at + 1) % n)
        if (mask[at / 64] >> (at % 64) & 1)
            return at;
    return 0;
}

/* The longest question that was given up in the present case. */
static double given_up;

static GkConstraint *compile(size_t i_case) {
    GkConstraint *c = NULL;
    Error error = ERROR_INIT;

    if (gk_constraint_new(&c, cases[i_case].kind, cases[i_case].source,
                          strlen(cases[i_case].source), &error) != 0) {
        (void)printf("%s: %s\n", cases[i_case].name, error.text);
        exit(EXIT_FAILURE);
    }
    return c;
}

static Matcher *start(AutomatonCache *cache, GkConstraint *c) {
    static const struct matcher_options options;
    Matcher *m;

    if (matcher_new(&m, cache, c, &options) != 0)
        exit(EXIT_FAILURE);
    return m;
}

/* The time of a mask after this text where nothing is known yet. */
static void measure_cold(AutomatonCache *cache, size_t i_case, const char *text, size_t n,
                         struct times *t) {
    GkConstraint *c = compile(i_case);
    Matcher *m = start(cache, c);
    double begin;

    if (n > 0 && !matcher_push(m, text, n))
        abort();
    begin = now();
    if (!matcher_mask(m))
        (void)printf("given up after '%.*s'\n", (int)n, text);
    t->us[t->n++] = now() - begin;
    (void)matcher_free(m);
    (void)gk_constraint_unref(c);
}

/* The text, or half of it and then random tokens. */
static void follow(AutomatonCache *cache, size_t i_case, GkConstraint *c, bool is_random,
                   struct times *cold, struct times *t) {
    const char *model = cases[i_case].text;
    size_t n_model = is_random ? strlen(model) / 2 : strlen(model), n = 0;
    Matcher *m = start(cache, c);
    const Vocab *v = cache->vocab;
    uint64_t random = n_model;
    char text[1 << 16];

    for (size_t i = 0; i < STEPS_MAX && n < n_model + RANDOM_MAX && !matcher_is_complete(m); i++) {
        double begin = now(), between;
        const uint64_t *mask = matcher_mask(m);
        uint32_t token;

        between = now();
        given_up = mask ? given_up : MAX(given_up, between - begin);
        if (!mask)
            break;
        token = n < n_model ? longest(v, model + n) : choose(mask, v->n, &random);
        if (v->pieces[token].n_surface == 0) /* the end */
            break;
        begin += now() - between;
        between = now();
        if (!matcher_push(m, vocab_surface(v, token), v->pieces[token].n_surface)) {
            given_up = MAX(given_up, now() - between);
            break;
        }
        if (t)
            t->us[t->n++] = now() - begin;
        if (cold)
            measure_cold(cache, i_case, text, n, cold);
        (void)memcpy(text + n, vocab_surface(v, token), v->pieces[token].n_surface);
        n += v->pieces[token].n_surface;
    }
    (void)matcher_free(m);
}

static void measure(AutomatonCache *cache) {
    static struct times cold, again;

    (void)printf("\n%u tokens, us: %34s %8s %8s %14s %8s %8s\n", cache->vocab->n, "cold mask",
                 "99%", "max", "known step", "99%", "max");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        double begin = now(), took;
        GkConstraint *c = compile(i);

        took = now() - begin;
        cold.n = again.n = 0;
        given_up = 0;
        follow(cache, i, c, false, &cold, NULL);
        follow(cache, i, c, true, &cold, NULL);
        follow(cache, i, c, false, NULL, &again);
        follow(cache, i, c, true, NULL, &again);
        (void)printf("%-14s compiled in %6.0f", cases[i].name, took);
        print_times("", &cold);
        print_times("     ", &again);
        (void)printf("  %zu steps", again.n);
        (void)(given_up > 0 ? printf(", then given up in %.0f\n", given_up) : printf("\n"));
        (void)gk_constraint_unref(c);
    }
}

static bool is_end(const void *userdata, int32_t token) {
    return token == *(const int32_t *)userdata;
}

static void measure_first(const Vocab *from, uint32_t n, int32_t end) {
    Vocab v = {.n = 0};
    AutomatonCache cache;

    for (uint32_t i = 0; i < MIN(n, from->n); i++)
        if (vocab_add(&v, vocab_bytes(from, i), from->pieces[i].n, from->pieces[i].score,
                      from->pieces[i].type, NULL) != 0)
            exit(EXIT_FAILURE);
    if (vocab_finish(&v, "?", 1, NULL) != 0)
        exit(EXIT_FAILURE);
    automaton_cache_init(&cache, &v, is_end, &end);
    measure(&cache);
    automaton_cache_deinit(&cache);
    vocab_deinit(&v);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "tests/golden/tokenizer/grok1.model";
    CLEANUP(freep) char *bytes = alloc_array(MODEL_BYTES, 1);
    FILE *f = fopen(path, "rbe");
    Error error = ERROR_INIT;
    Tokenizer *t = NULL;
    size_t n = f && bytes ? fread(bytes, 1, MODEL_BYTES, f) : 0;

    if (f)
        (void)fclose(f);
    if (n == 0 || tokenizer_from_spm(&t, bytes, n, &error) != 0) {
        (void)fprintf(stderr, "masks: %s: %s\n", path, n > 0 ? error.text : "can't be read");
        return EXIT_FAILURE;
    }
    measure_first(tokenizer_vocab(t), 32000, tokenizer_eos(t));
    measure_first(tokenizer_vocab(t), UINT32_MAX, tokenizer_eos(t));
    (void)tokenizer_free(t);
    return EXIT_SUCCESS;
}
