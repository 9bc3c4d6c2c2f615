/*
 * Constrained sequences: the text always satisfies, and ends where it may; masks are those of
 * following every token's bytes one by one; what is too much is refused or given up by name. What
 * the languages mean is compared with others' in engine-grammar.sh.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/grammar/grammar.h"
#include "engine/internal.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define N_TOKENS_MAX 200

static GkConstraint *compile(enum gk_constraint_kind kind, const char *source) {
    Error error = ERROR_INIT;
    GkConstraint *c;

    if (gk_constraint_new(&c, kind, source, strlen(source), &error) != 0) {
        (void)printf("# %s\n", error.text);
        abort();
    }
    return c;
}

static bool is_refused(enum gk_constraint_kind kind, const char *source, const char *word) {
    Error error = ERROR_INIT;
    GkConstraint *c = NULL;
    int r = gk_constraint_new(&c, kind, source, strlen(source), &error);

    if (r != GK_E_INVALID || !strstr(error.text, word))
        (void)printf("# %d, not '%s': %s\n", r, word, error.text);
    (void)gk_constraint_unref(c);
    return r == GK_E_INVALID && strstr(error.text, word);
}

/* ---- an engine ---- */

static GkEngine *open_engine(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q8_0);
    const char *path = temp_path("model.gguf");
    struct gk_options o = {.path = path};
    GgufWriter *w;
    GkEngine *e;

    shape.n_vocab = 600;
    shape.n_context = 512;
    w = tiny_model(&shape);
    gguf_writer_save(w, path);
    gguf_writer_free(w);
    assert(gk_pool_new(&o.pool, 2, NULL) == 0);
    o.kv_bytes_max = 64u << 20;
    assert(gk_engine_open(&e, &o, NULL) == 0);
    return e;
}

static void close_engine(GkEngine *e) {
    GkPool *pool = e->pool;

    (void)gk_engine_close(e);
    (void)gk_pool_free(pool);
}

struct run {
    int32_t tokens[N_TOKENS_MAX];
    size_t n;
    char text[8 * N_TOKENS_MAX];
    size_t n_text;
    enum gk_finish finish;
    float logprobs;
};

static GkSeq *begin(GkEngine *e, const struct gk_params *p) {
    static const int32_t prompt[] = {1, 270, 299, 301};
    Error error = ERROR_INIT;
    GkSeq *seq;

    if (gk_seq_new(&seq, e, prompt, ARRAY_SIZE(prompt), p, &error) != 0) {
        (void)printf("# %s\n", error.text);
        abort();
    }
    return seq;
}

static void take(struct run *run, const struct gk_result *r) {
    if (r->has_token) {
        run->tokens[run->n++] = r->token;
        run->logprobs += r->logprob;
    }
    assert(run->n_text + r->n_text < sizeof(run->text));
    (void)memcpy(run->text + run->n_text, r->text, r->n_text);
    run->n_text += r->n_text;
    run->finish = r->finish;
}

/* All to their ends, in common steps. */
static void finish_all(GkEngine *e, GkSeq **seqs, struct run *runs, size_t n) {
    struct gk_plan_row rows[8];
    struct gk_result results[8];
    size_t who[8], n_plan;

    do {
        n_plan = 0;
        for (size_t i = 0; i < n; i++)
            if (gk_seq_n_pending(seqs[i]) > 0) {
                who[n_plan] = i;
                rows[n_plan++] = (struct gk_plan_row){seqs[i], (uint32_t)gk_seq_n_pending(seqs[i])};
            }
        if (n_plan > 0)
            assert(gk_step(e, &(struct gk_plan){rows, n_plan}, results) == 0);
        for (size_t i = 0; i < n_plan; i++)
            take(&runs[who[i]], &results[i]);
    } while (n_plan > 0);
    for (size_t i = 0; i < n; i++)
        (void)gk_seq_free(seqs[i]);
}

static struct run run_one(GkEngine *e, const struct gk_params *p) {
    struct run run = {.n = 0};
    GkSeq *seq = begin(e, p);

    finish_all(e, &seq, &run, 1);
    return run;
}

static struct gk_params params_with(GkConstraint *c, uint64_t seed) {
    struct gk_params p = gk_params_default();

    p.n_tokens_max = N_TOKENS_MAX;
    p.temperature = 2;
    p.seed = seed;
    p.constraint = c;
    return p;
}

/* As a whole, by a matcher of its own. */
static bool satisfies(GkEngine *e, GkConstraint *c, const char *text, size_t n) {
    static const struct matcher_options options;
    Matcher *m;
    bool is_good;

    assert(matcher_new(&m, &e->automata, c, &options) == 0);
    is_good = matcher_push(m, text, n) && matcher_is_accepting(m);
    (void)matcher_free(m);
    return is_good;
}

/* ---- tests ---- */

static const struct {
    enum gk_constraint_kind kind;
    const char *source;
} constraints[] = {
    {GK_CONSTRAINT_REGEX, "[a-h ]{3,20}"},
    {GK_CONSTRAINT_REGEX, "(a|bc)*d\xc3\xa9{2}"},
    {GK_CONSTRAINT_REGEX, "[\xe2\x82\xac-\xe2\x82\xaf]{4}|[^\\x00-\\x7f]{2,3}"},
    {GK_CONSTRAINT_GRAMMAR, "root ::= \"(\" root? \")\" | [a-h]{1,3}"},
    {GK_CONSTRAINT_GRAMMAR, "root ::= (\"a\" | \"b\" root)+ \".\""},
    {GK_CONSTRAINT_JSON_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3},\"b\":{"
     "\"enum\":"
     "[\"x\",null]}},\"required\":[\"b\"],\"additionalProperties\":false}"},
    {GK_CONSTRAINT_JSON_SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":3},"
     "\"minItems\":1,\"maxItems\":3}"},
};

static void test_texts_satisfy(void) {
    GkEngine *e = open_engine();
    size_t n_ended = 0;

    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        GkConstraint *c = compile(constraints[i].kind, constraints[i].source);

        for (uint64_t seed = 0; seed < 12; seed++) {
            struct gk_params p = params_with(c, seed);
            struct run run;

            if (seed == 0)
                p.temperature = 0;
            if (seed % 3 == 1)
                p.top_k = 1; /* of what is allowed */
            p.ignore_eos = seed % 4 == 3;
            run = run_one(e, &p);
            assert(run.finish == GK_FINISH_STOP || run.n == N_TOKENS_MAX);
            n_ended += run.finish == GK_FINISH_STOP;
            if (run.finish == GK_FINISH_STOP)
                assert(satisfies(e, c, run.text, run.n_text));
        }
        (void)gk_constraint_unref(c);
    }
    assert(n_ended > 6 * ARRAY_SIZE(constraints));
    close_engine(e);
}

/* Every token's bytes pushed one by one are the definition. */
static void check_mask(GkEngine *e, GkConstraint *c, const char *text) {
    static const struct matcher_options options;
    const struct gk_model_info *info = gk_engine_info(e);
    Matcher *m, *other;
    const uint64_t *mask;
    size_t n;

    assert(matcher_new(&m, &e->automata, c, &options) == 0);
    assert(text[0] == '\0' || matcher_push(m, text, strlen(text)));
    mask = matcher_mask(m);
    assert(mask);
    for (int32_t i = 0; i < (int32_t)info->n_vocab; i++) {
        const char *piece = gk_token_text(e, i, &n);
        bool is_good;

        assert(matcher_new(&other, &e->automata, c, &options) == 0);
        assert(text[0] == '\0' || matcher_push(other, text, strlen(text)));
        is_good = i == info->token_eos ? matcher_is_accepting(other)
                  : i <= 2             ? false /* <unk>, <s> */
                                       : n > 0 && matcher_push(other, piece, n);
        assert(((mask[i / 64] >> (i % 64) & 1) != 0) == is_good);
        (void)matcher_free(other);
    }
    (void)matcher_free(m);
}

static void test_masks_are_exact(void) {
    static const char *const texts[][4] = {
        {"", "ab", "ab cd ef", "abcdefgh abcdefgh ab"},
        {"", "abc", "bcd", "d\xc3"},
        {"", "\xe2", "\xe2\x82\xad", "\xf0\x9f"},
        {"", "(", "((", "((abc)"},
        {"", "b", "ba", "bba."},
        {"", "{", "{\"a\":3", "{\"a\":12,\"b\":null"},
        {"", "[\"", "[\"\\u00", "[\"ab\", \"abc\""},
    };
    GkEngine *e = open_engine();

    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        GkConstraint *c = compile(constraints[i].kind, constraints[i].source);

        for (size_t k = 0; k < ARRAY_SIZE(texts[i]); k++)
            check_mask(e, c, texts[i][k]);
        (void)gk_constraint_unref(c);
    }
    close_engine(e);
}

static void test_company_changes_nothing(void) {
    GkEngine *e = open_engine();
    struct run alone[ARRAY_SIZE(constraints)], together[ARRAY_SIZE(constraints)];
    GkConstraint *c[ARRAY_SIZE(constraints)];
    GkSeq *seqs[ARRAY_SIZE(constraints)];

    (void)memset(together, 0, sizeof(together));
    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        struct gk_params p;

        c[i] = compile(constraints[i].kind, constraints[i].source);
        p = params_with(c[i], 77 + i);
        p.logprobs = true;
        alone[i] = run_one(e, &p);
        seqs[i] = begin(e, &p);
    }
    finish_all(e, seqs, together, ARRAY_SIZE(constraints));
    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        assert(alone[i].n == together[i].n && alone[i].finish == together[i].finish);
        assert(memcmp(alone[i].tokens, together[i].tokens, alone[i].n * sizeof(int32_t)) == 0);
        assert(alone[i].logprobs == together[i].logprobs && isfinite(alone[i].logprobs));
        (void)gk_constraint_unref(c[i]);
    }
    close_engine(e);
}

static void test_endings(void) {
    static const struct gk_string stop = {"b", 1};
    GkConstraint *fixed = compile(GK_CONSTRAINT_REGEX, "abc"), *c;
    struct gk_params p = params_with(fixed, 1);
    GkEngine *e = open_engine();
    struct gk_logit_bias bans[64];
    struct run run = run_one(e, &p);

    /* The only text, and no end token is needed. */
    assert(run.finish == GK_FINISH_STOP && strcmp(run.text, "abc") == 0);
    assert(run.tokens[run.n - 1] != gk_engine_info(e)->token_eos);
    p.stop_strings = &stop;
    p.n_stop_strings = 1;
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STOP && strcmp(run.text, "a") == 0);
    /* Nothing but the end: the empty text. */
    c = compile(GK_CONSTRAINT_REGEX, "");
    p = params_with(c, 1);
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STOP && run.n_text == 0 && run.n == 1);
    p.ignore_eos = true;
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STUCK && run.n == 0);
    (void)gk_constraint_unref(c);
    /* A stop token ends where the text may end, and only there: 'd' is text until then. */
    c = compile(GK_CONSTRAINT_REGEX, "a{30}");
    p = params_with(c, 3);
    p.n_tokens_max = 4;
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_LENGTH && run.n == 4);
    /* Every token that begins with 'a' is banned. */
    p.logit_bias = bans;
    for (int32_t i = 0; i < 600; i++) {
        size_t n;
        const char *piece = gk_token_text(e, i, &n);

        if (n > 0 && piece[0] == 'a' && p.n_logit_bias < ARRAY_SIZE(bans))
            bans[p.n_logit_bias++] = (struct gk_logit_bias){.token = i, .bias = -INFINITY};
    }
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STOP || run.n > 0); /* a bias is a wish, the constraint is not */
    (void)gk_constraint_unref(c);
    (void)gk_constraint_unref(fixed);
    close_engine(e);
}

static void test_banned_strings_and_constraint(void) {
    static const struct gk_string banned = {"a", 1};
    GkConstraint *c = compile(GK_CONSTRAINT_REGEX, "a|bb"),
                 *only = compile(GK_CONSTRAINT_REGEX, "a");
    struct gk_params p = params_with(c, 1);
    GkEngine *e = open_engine();
    struct run run;

    p.banned_strings = &banned;
    p.n_banned_strings = 1;
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STOP && strcmp(run.text, "bb") == 0);
    p.constraint = only;
    run = run_one(e, &p);
    assert(run.finish == GK_FINISH_STUCK && run.n == 0 && run.n_text == 0);
    (void)gk_constraint_unref(c);
    (void)gk_constraint_unref(only);
    close_engine(e);
}

static char *repeated(const char *begin, const char *middle, size_t n, const char *end) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert(f);
    (void)fputs(begin, f);
    for (size_t i = 0; i < n; i++)
        (void)fputs(middle, f);
    (void)fputs(end, f);
    assert(fclose(f) == 0);
    return text;
}

static void check_refused(enum gk_constraint_kind kind, char *source, const char *word) {
    assert(is_refused(kind, source, word));
    free(source);
}

/* BEGIN item0,item1,… END */
static char *listed(const char *begin, const char *item, int n, const char *end) {
    const char *number = strstr(item, "%d");
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert(f && number);
    (void)fputs(begin, f);
    for (int i = 0; i < n; i++)
        (void)fprintf(f, "%s%.*s%d%s", i > 0 ? "," : "", (int)(number - item), item, i, number + 2);
    (void)fputs(end, f);
    assert(fclose(f) == 0);
    return text;
}

/* Forty definitions, each of which has the next one twice: a billion laughs. */
static char *doubling(const char *key) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    assert(f);
    (void)fputs("{\"$ref\":\"#/$defs/d0\",\"$defs\":{\"d40\":{\"type\":\"object\"}", f);
    for (int i = 0; i < 40; i++)
        (void)fprintf(f,
                      ",\"d%d\":{\"%s\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]}",
                      i, key, i + 1, i + 1);
    (void)fputs("}}", f);
    assert(fclose(f) == 0);
    return text;
}

/* Large, and no more than that. */
static void test_large_schemas_are_taken(void) {
    static const char *const sources[][3] = {
        {"{\"properties\":{", "\"name%d\":{\"type\":\"string\"}",
         "},\"additionalProperties\":true}"},
        {"{\"properties\":{", "\"name%d\":{\"maxLength\":10000}", "}}"},
        {"{\"enum\":[", "\"value %d\"", "]}"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
        CLEANUP(freep) char *source = listed(sources[i][0], sources[i][1], 1000, sources[i][2]);
        GkConstraint *c = compile(GK_CONSTRAINT_JSON_SCHEMA, source);

        assert(gk_constraint_bytes(c) < (4u << 20));
        (void)gk_constraint_unref(c);
    }
}

static void test_too_much_is_refused(void) {
    char *closing;

    check_refused(GK_CONSTRAINT_REGEX, repeated("", "a", GK_CONSTRAINT_BYTES_MAX + 1, ""), "bytes");
    check_refused(GK_CONSTRAINT_REGEX, repeated("", "(a|b){9999}", 30, ""), "states");
    check_refused(GK_CONSTRAINT_REGEX, repeated("", "(", 5000, ""), "each other");
    check_refused(GK_CONSTRAINT_REGEX, alloc_string("a\xff"), "at byte 1");
    check_refused(GK_CONSTRAINT_GRAMMAR, repeated("root ::= ", "(", 5000, ""), "each other");
    check_refused(GK_CONSTRAINT_GRAMMAR, repeated("root ::= ", "\"a\"{9999} ", 30, ""), "states");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, repeated("{\"a\":", "[", 5000, ""), "can't be read");
    closing = repeated("true", "}", 200, "");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, repeated("", "{\"items\":", 200, closing),
                  "each other");
    free(closing);
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, alloc_string("{\"$ref\":\"#\"}"), "left recursion");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA,
                  alloc_string("{\"allOf\":[{\"$ref\":\"#\"},{\"type\":\"string\"}]}"),
                  "each other");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, alloc_string("{\"minLength\":100000}"), "minLength");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA,
                  alloc_string("{\"properties\":{\"a~/b\":{\"patternProperties\":{}}}}"),
                  "'patternProperties'");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, listed("{\"oneOf\":[", "{\"const\":%d}", 2000, "]}"),
                  "comparisons");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA,
                  listed("{\"allOf\":[", "{\"properties\":{\"p%d\":{}}}", 3000, "]}"),
                  "hold together");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, listed("{\"enum\":[", "\"v%d\"", 20001, "]}"),
                  "unfolds to more");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, doubling("allOf"), "each other");
    check_refused(GK_CONSTRAINT_JSON_SCHEMA, doubling("oneOf"), "'oneOf'");
}

/* Rules that call each other more deeply than the maximum end all the same. */
static void test_depth_has_an_end(void) {
    GkConstraint *c = compile(GK_CONSTRAINT_GRAMMAR, "root ::= \"(\" root \")\" | \"x\"");
    GkEngine *e = open_engine();
    static const struct matcher_options options;
    Matcher *m;
    size_t n = 0;

    assert(matcher_new(&m, &e->automata, c, &options) == 0);
    while (n < 1000 && matcher_push(m, "(", 1))
        n++;
    assert(n >= 200 && n < 260);
    (void)matcher_free(m);
    assert(matcher_new(&m, &e->automata, c, &options) == 0);
    for (size_t i = 0; i < n; i++)
        assert(matcher_push(m, "(", 1));
    assert(matcher_mask(m) && matcher_push(m, "x", 1));
    for (size_t i = 0; i < n; i++)
        assert(!matcher_is_accepting(m) && matcher_push(m, ")", 1));
    assert(matcher_is_complete(m));
    (void)matcher_free(m);
    (void)gk_constraint_unref(c);
    close_engine(e);
}

/* A call in last place adds no depth: lists may be as long as they like. */
static void test_long_chains_are_not_deep(void) {
    char *source = NULL;
    size_t size;
    FILE *f = open_memstream(&source, &size);
    GkConstraint *c;

    assert(f);
    (void)fputs("{\"properties\":{\"p\":{}", f);
    for (int i = 0; i < 900; i++)
        (void)fprintf(f, ",\"p%d\":{\"type\":\"null\"}", i);
    (void)fputs("},\"required\":[\"p\"", f);
    for (int i = 0; i < 900; i++)
        (void)fprintf(f, ",\"p%d\"", i);
    (void)fputs("]}", f);
    assert(fclose(f) == 0);
    c = compile(GK_CONSTRAINT_JSON_SCHEMA, source);
    (void)gk_constraint_unref(c);
    free(source);
}

/* So ambiguous that stacks multiply: followed or given up, but bounded, and what the maxima make it
 * forget changes no answer. */
static void test_ambiguity_is_bounded(void) {
    static const char *const sources[] = {
        "root ::= \"a\" root root | \"a\"",
        "root ::= \"a\" (root \"b\"? root \"c\"? | root root?)? ",
        "root ::= (x? x? x? x? x? x? x? x?){100}\nx ::= \"a\" | \"a\" x | \"b\" x \"b\"",
    };
    static const struct matcher_options options;
    GkEngine *e = open_engine();

    for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
        GkConstraint *c = compile(GK_CONSTRAINT_GRAMMAR, sources[i]);
        size_t n = 0;
        Matcher *m;

        assert(matcher_new(&m, &e->automata, c, &options) == 0);
        while (n < 60 && matcher_mask(m) && matcher_push(m, "a", 1))
            n++;
        (void)printf("# %zu bytes of '%s'\n", n, sources[i]);
        assert(n > 5);
        (void)matcher_free(m);
        (void)gk_constraint_unref(c);
    }
    close_engine(e);
}

/* ---- what sequences share ---- */

#define STEPS 60

/* Random texts that the constraint allows, and a hash of all masks on the way. */
static uint64_t walk(AutomatonCache *cache, GkConstraint *c, uint64_t seed) {
    static const struct matcher_options options;
    uint64_t hash = seed;
    Matcher *m;

    assert(matcher_new(&m, cache, c, &options) == 0);
    for (size_t i = 0; i < STEPS && !matcher_is_complete(m); i++) {
        const uint64_t *mask = matcher_mask(m);
        uint32_t token = (uint32_t)(hash >> 33) % cache->vocab->n;

        assert(mask);
        for (size_t k = 0; k < cache->table.n_words; k++)
            hash = (hash ^ mask[k]) * 0x9e3779b97f4a7c15u ^ hash >> 31;
        for (uint32_t k = 0; (mask[token / 64] >> (token % 64) & 1) == 0 ||
                             cache->vocab->pieces[token].n_surface == 0;
             k++, token = (token + 1) % cache->vocab->n)
            assert(k < cache->vocab->n);
        assert(matcher_push(m, vocab_surface(cache->vocab, token),
                            cache->vocab->pieces[token].n_surface));
    }
    (void)matcher_free(m);
    return hash;
}

/* By itself, with nothing known. */
static uint64_t walk_alone(const AutomatonCache *like, GkConstraint *c, uint64_t seed) {
    AutomatonCache cache;
    uint64_t hash;

    automaton_cache_init(&cache, like->vocab, like->is_end, like->userdata);
    hash = walk(&cache, c, seed);
    automaton_cache_deinit(&cache);
    return hash;
}

static void test_automata_are_kept(void) {
    GkEngine *e = open_engine();
    GkConstraint *c = compile(GK_CONSTRAINT_GRAMMAR, constraints[4].source);
    Automaton *a, *again;
    uint32_t n_stacks;

    (void)walk(&e->automata, c, 1);
    assert(automaton_cache_get(&e->automata, c, &a) == 0);
    n_stacks = a->n_stacks;
    assert(a->n_masks > 1 && atomic_load(&e->automata.budget.n) == a->n_masks);
    (void)walk(&e->automata, c, 1);
    assert(a->n_stacks == n_stacks); /* all was known */
    automaton_cache_put(&e->automata, a);
    /* It outlives the request's constraint, until others are used more. */
    for (size_t i = 0; i < AUTOMATA_IDLE_MAX; i++) {
        GkConstraint *other = compile(GK_CONSTRAINT_REGEX, "[a-h]*");

        assert(automaton_cache_get(&e->automata, c, &again) == 0 && again == a);
        if (i > 0)
            automaton_cache_put(&e->automata, again);
        (void)walk(&e->automata, other, 1);
        (void)gk_constraint_unref(other);
        if (i == 0)
            automaton_cache_put(&e->automata, again);
    }
    for (size_t i = 0; i < AUTOMATA_IDLE_MAX; i++) {
        GkConstraint *other = compile(GK_CONSTRAINT_REGEX, "[a-h]*");

        (void)walk(&e->automata, other, 1);
        (void)gk_constraint_unref(other);
    }
    assert(automaton_cache_get(&e->automata, c, &again) == 0 && again->n_stacks < n_stacks);
    automaton_cache_put(&e->automata, again);
    (void)gk_constraint_unref(c);
    close_engine(e);
}

struct walker {
    pthread_t thread;
    Matcher *m;
    AutomatonCache *cache;
    uint64_t masks[STEPS]; /* hashes */
};

/* The same text for all, so that they ask the same at the same time. */
static void *walk_in_thread(void *userdata) {
    struct walker *w = userdata;
    uint64_t random = 1;

    for (size_t i = 0; i < STEPS && !matcher_is_complete(w->m); i++) {
        const uint64_t *mask = matcher_mask(w->m);
        uint32_t n = w->cache->vocab->n, token = (uint32_t)(random >> 33) % n;

        assert(mask);
        for (size_t k = 0; k < w->cache->table.n_words; k++)
            w->masks[i] = (w->masks[i] ^ mask[k]) * 0x9e3779b97f4a7c15u;
        while ((mask[token / 64] >> (token % 64) & 1) == 0 ||
               w->cache->vocab->pieces[token].n_surface == 0)
            token = (token + 1) % n;
        random = random * 6364136223846793005u + w->masks[i];
        assert(matcher_push(w->m, vocab_surface(w->cache->vocab, token),
                            w->cache->vocab->pieces[token].n_surface));
    }
    return NULL;
}

static void test_threads_share(void) {
    static const struct matcher_options options;
    GkEngine *e = open_engine();

    for (size_t i = 3; i < ARRAY_SIZE(constraints); i++) {
        GkConstraint *c = compile(constraints[i].kind, constraints[i].source);
        struct walker walkers[6] = {{.cache = &e->automata}};

        for (size_t k = 0; k < ARRAY_SIZE(walkers); k++) {
            walkers[k].cache = &e->automata;
            assert(matcher_new(&walkers[k].m, &e->automata, c, &options) == 0);
        }
        for (size_t k = 0; k < ARRAY_SIZE(walkers); k++)
            assert(pthread_create(&walkers[k].thread, NULL, walk_in_thread, &walkers[k]) == 0);
        for (size_t k = 0; k < ARRAY_SIZE(walkers); k++) {
            assert(pthread_join(walkers[k].thread, NULL) == 0);
            assert(memcmp(walkers[k].masks, walkers[0].masks, sizeof(walkers[0].masks)) == 0);
            (void)matcher_free(walkers[k].m);
        }
        (void)gk_constraint_unref(c);
    }
    close_engine(e);
}

/* More states than are kept: forgetting them moves all sequences, and changes no answer. */
static void test_forgetting_changes_nothing(void) {
    static const struct matcher_options options;
    GkConstraint *c = compile(GK_CONSTRAINT_REGEX, "[a-h ]*[a-d][a-h ]{15}");
    GkEngine *e = open_engine();
    Matcher *other[3], *m;
    AutomatonCache cache;
    Automaton *a;
    bool has_forgotten = false;
    uint32_t n_before = 0;

    assert(automaton_cache_get(&e->automata, c, &a) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
        assert(matcher_new(&other[i], &e->automata, c, &options) == 0);
        assert(matcher_push(other[i], "abcd efgh ", 4 + i));
    }
    for (uint64_t seed = 0; seed < 140; seed++) {
        assert(walk(&e->automata, c, seed) == walk_alone(&e->automata, c, seed));
        assert(automaton_bytes(a) < (8u << 20));
        has_forgotten |= a->n_stacks < n_before;
        n_before = a->n_stacks;
    }
    assert(has_forgotten);
    automaton_cache_init(&cache, e->automata.vocab, e->automata.is_end, e->automata.userdata);
    for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
        assert(matcher_new(&m, &cache, c, &options) == 0 && matcher_push(m, "abcd efgh ", 4 + i));
        assert(memcmp(matcher_mask(m), matcher_mask(other[i]), cache.table.n_words * 8) == 0);
        (void)matcher_free(other[i]);
        (void)matcher_free(m);
    }
    automaton_cache_deinit(&cache);
    automaton_cache_put(&e->automata, a);
    (void)gk_constraint_unref(c);
    close_engine(e);
}

/* Where memory runs out a question has no answer, and the next one may have. */
static void test_matching_without_memory(void) {
    static const struct matcher_options options;
    GkEngine *e = open_engine();
    size_t n_failed = 0;

    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        GkConstraint *c = compile(constraints[i].kind, constraints[i].source);
        bool has_failed = true;

        for (size_t n = 1; has_failed; n++) {
            AutomatonCache cache;
            Matcher *m = NULL;

            automaton_cache_init(&cache, e->automata.vocab, e->automata.is_end,
                                 e->automata.userdata);
            alloc_fail_after(n);
            has_failed = matcher_new(&m, &cache, c, &options) != 0 || !matcher_mask(m) ||
                         !matcher_push(m, "\xe2\x82\xac", 0) || !matcher_mask(m);
            has_failed |= m && !matcher_push(m, i < 2 ? "a" : i == 2 ? "\xe2" : &"(a{["[i - 3], 1);
            n_failed += has_failed;
            alloc_fail_after(0);
            (void)matcher_free(m);
            assert(walk(&cache, c, 5) == walk_alone(&cache, c, 5));
            automaton_cache_deinit(&cache);
        }
        (void)gk_constraint_unref(c);
    }
    assert(n_failed > 50);
    close_engine(e);
}

static void test_allocation_failures(void) {
    for (size_t i = 0; i < ARRAY_SIZE(constraints); i++) {
        int r = -ENOMEM;

        for (size_t n = 1; r == -ENOMEM; n++) {
            GkConstraint *c = NULL;

            alloc_fail_after(n);
            r = gk_constraint_new(&c, constraints[i].kind, constraints[i].source,
                                  strlen(constraints[i].source), NULL);
            alloc_fail_after(0);
            assert(r == 0 || r == -ENOMEM);
            (void)gk_constraint_unref(c);
        }
    }
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(texts_satisfy),
        TEST(masks_are_exact),
        TEST(company_changes_nothing),
        TEST(endings),
        TEST(banned_strings_and_constraint),
        {"too_much_is_refused", test_too_much_is_refused, 60},
        TEST(large_schemas_are_taken),
        TEST(depth_has_an_end),
        TEST(long_chains_are_not_deep),
        {"ambiguity_is_bounded", test_ambiguity_is_bounded, 60},
        TEST(automata_are_kept),
        TEST(threads_share),
        {"forgetting_changes_nothing", test_forgetting_changes_nothing, 60},
        {"matching_without_memory", test_matching_without_memory, 60},
        {"allocation_failures", test_allocation_failures, 60},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
