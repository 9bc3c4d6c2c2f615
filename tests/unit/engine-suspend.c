/* A sequence that is suspended again and again has the tokens and the text of one that is not. */
#include "base/macro.h"
#include "engine/engine.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <string.h>

#define MODEL    "engine/demo/model-q8_0.gguf"
#define N_TOKENS 120
#define N_PAGES  6 /* for the sequence and one other */

struct output {
    int32_t tokens[N_TOKENS];
    char text[N_TOKENS * 16];
    size_t n, n_text, n_interruptions;
};

static uint32_t random_below(uint32_t n) {
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % n;
}

static GkEngine *open_engine(GkPool *pool) {
    struct gk_options o = {.path = MODEL, .pool = pool, .n_sequences_max = 2};
    GkEngine *e;

    assert(gk_engine_open(&e, &o, NULL) == 0);
    o.kv_bytes_max = N_PAGES * 64 * gk_engine_info(e)->n_kv_bytes_per_token;
    e = gk_engine_close(e);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    return e;
}

static GkSeq *make(GkEngine *e, enum gk_mode mode, uint32_t n_tokens_max) {
    static const struct gk_string banned = {"tar", 3};
    struct gk_params params = gk_params_default();
    int32_t *tokens;
    size_t n;
    GkSeq *seq;

    params.mode = mode;
    params.n_tokens_max = n_tokens_max;
    params.temperature = 1.1f;
    params.top_p = 0.95f;
    params.repetition_penalty = 1.2f;
    params.frequency_penalty = 0.1f;
    params.seed = 7;
    params.ignore_eos = true;
    params.banned_strings = &banned;
    params.n_banned_strings = 1;
    assert(gk_tokenize(e, "Q: What does tar do, and who wrote it?\nA:", 41, 0, 100, &tokens, &n,
                       NULL) == 0);
    assert(gk_seq_new(&seq, e, tokens, n, &params, NULL) == 0);
    free(tokens);
    return seq;
}

/* Another one uses the pages and the place meanwhile. */
static void interrupt(GkEngine *e, GkSeq *seq) {
    struct gk_result result;
    uint64_t n_free, n_pages;
    GkSeq *others[2];

    gk_seq_suspend(seq);
    gk_engine_kv_pages(e, &n_free, &n_pages);
    assert(n_free == n_pages);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        others[i] = make(e, GK_GENERATE, 64 + random_below(64));
        for (int step = 0; step < 3; step++) {
            struct gk_plan_row row = {others[i], (uint32_t)gk_seq_n_pending(others[i])};

            assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        }
    }
    assert(gk_seq_resume(seq, NULL) == GK_E_BUSY);
    others[0] = gk_seq_free(others[0]);
    if (gk_seq_resume(seq, NULL) == 0) { /* beside the other */
        others[1] = gk_seq_free(others[1]);
        return;
    }
    others[1] = gk_seq_free(others[1]);
    assert(gk_seq_resume(seq, NULL) == 0);
}

static void run(GkEngine *e, bool interrupted, struct output *ret) {
    GkSeq *seq = make(e, GK_GENERATE, N_TOKENS);
    struct gk_result result = {.finish = GK_FINISH_NONE};

    *ret = (struct output){.n = 0};
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {.seq = seq};

        if (interrupted && random_below(8) == 0) {
            interrupt(e, seq);
            ret->n_interruptions++;
        }
        row.n_rows = 1 + random_below((uint32_t)gk_seq_n_pending(seq));
        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        if (!result.has_token)
            continue;
        assert(ret->n < N_TOKENS && ret->n_text + result.n_text <= sizeof(ret->text));
        ret->tokens[ret->n++] = result.token;
        (void)memcpy(ret->text + ret->n_text, result.text, result.n_text);
        ret->n_text += result.n_text;
    }
    seq = gk_seq_free(seq);
}

static void test_resumes_to_the_same_tokens(void) {
    static struct output alone, interrupted;
    GkPool *pool;
    GkEngine *e;

    assert(gk_pool_new(&pool, 2, NULL) == 0);
    e = open_engine(pool);
    run(e, false, &alone);
    assert(alone.n == N_TOKENS);
    for (int i = 0; i < 4; i++) {
        run(e, true, &interrupted);
        (void)printf("# interrupted %zu times\n", interrupted.n_interruptions);
        assert(interrupted.n_interruptions > 3 && interrupted.n == N_TOKENS);
        assert(memcmp(interrupted.tokens, alone.tokens, sizeof(alone.tokens)) == 0);
        assert(interrupted.n_text == alone.n_text &&
               memcmp(interrupted.text, alone.text, alone.n_text) == 0);
    }
    e = gk_engine_close(e);
    pool = gk_pool_free(pool);
}

static void score(GkEngine *e, bool interrupted, float *ret_scores, size_t *ret_n) {
    GkSeq *seq = make(e, GK_SCORE, 0);
    struct gk_result result = {.finish = GK_FINISH_NONE};

    *ret_n = 0;
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {.seq = seq, .n_rows = 1 + random_below(3)};

        if (interrupted && random_below(6) == 0)
            interrupt(e, seq);
        row.n_rows = (uint32_t)MIN((size_t)row.n_rows, gk_seq_n_pending(seq));
        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        for (size_t i = 0; i < result.n_scores; i++)
            ret_scores[result.score_begin + i] = result.scores[i];
        *ret_n = MAX(*ret_n, result.score_begin + result.n_scores);
    }
    seq = gk_seq_free(seq);
}

static void test_scores_are_the_same(void) {
    float alone[64] = {0}, interrupted[64] = {0};
    size_t n, n_again;
    GkPool *pool;
    GkEngine *e;

    assert(gk_pool_new(&pool, 2, NULL) == 0);
    e = open_engine(pool);
    score(e, false, alone, &n);
    score(e, true, interrupted, &n_again);
    assert(n > 8 && n == n_again && memcmp(alone, interrupted, sizeof(alone)) == 0);
    e = gk_engine_close(e);
    pool = gk_pool_free(pool);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(resumes_to_the_same_tokens),
        TEST(scores_are_the_same),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
