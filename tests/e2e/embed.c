/* Inference.Embed, end to end. */
#include "tests/e2e/util-daemon.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_EMBD 256 /* of the demo model */

static struct grokd_embed_response *embed(grokd_client *client,
                                          const struct grokd_embed_request *request) {
    struct grokd_embed_response *answer = NULL;
    struct grokd_error error = {0};

    if (grokd_embed(client, request, &answer, &error) != GROKD_OK) {
        (void)printf("# %s\n", error.text);
        abort();
    }
    assert(answer->n_embeddings == request->n_inputs);
    return answer;
}

static double dot(const struct grokd_embedding *a, const struct grokd_embedding *b) {
    double sum = 0;

    assert(a->n_values == N_EMBD && b->n_values == N_EMBD);
    for (size_t i = 0; i < N_EMBD; i++)
        sum += (double)a->values[i] * (double)b->values[i];
    return sum;
}

static void test_texts_have_vectors(void) {
    static const struct grokd_input inputs[] = {{.text = "What does tar do?"},
                                                {.text = "What does tar do"},
                                                {.text = "\xe2\x99\x9e 17 { }"},
                                                {.text = "What does tar do?"}};
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_embed_request request = GROKD_EMBED_REQUEST_INIT;
    ANSWER grokd_embed_response *mean = NULL, *last = NULL, *plain = NULL, *alone = NULL;

    request.inputs = inputs;
    request.n_inputs = ARRAY_SIZE(inputs);
    mean = embed(client, &request);
    for (size_t i = 0; i < mean->n_embeddings; i++)
        assert(fabs(dot(&mean->embeddings[i], &mean->embeddings[i]) - 1) < 1e-5);
    assert(mean->usage->prompt_tokens == mean->embeddings[0].n_tokens * 2 +
                                             mean->embeddings[1].n_tokens +
                                             mean->embeddings[2].n_tokens);
    assert(dot(&mean->embeddings[0], &mean->embeddings[1]) >
           dot(&mean->embeddings[0], &mean->embeddings[2]));
    assert(memcmp(mean->embeddings[0].values, mean->embeddings[3].values, N_EMBD * sizeof(float)) ==
           0);
    request.n_inputs = 1;
    alone = embed(client, &request);
    assert(memcmp(mean->embeddings[0].values, alone->embeddings[0].values,
                  N_EMBD * sizeof(float)) == 0);
    request.pooling = GROKD_POOLING_LAST;
    last = embed(client, &request);
    assert(memcmp(mean->embeddings[0].values, last->embeddings[0].values, N_EMBD * sizeof(float)) !=
           0);
    request.has_normalize = true;
    plain = embed(client, &request);
    /* The same direction, another length. */
    assert(fabs(dot(&plain->embeddings[0], &last->embeddings[0]) -
                sqrt(dot(&plain->embeddings[0], &plain->embeddings[0]))) < 1e-3);
    assert(dot(&plain->embeddings[0], &plain->embeddings[0]) > 2);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void check_refused(grokd_client *client, const struct grokd_embed_request *request,
                          const char *words) {
    struct grokd_embed_response *none = NULL;
    struct grokd_error error = {0};
    int code = grokd_embed(client, request, &none, &error);

    if (code != GROKD_INVALID_ARGUMENT || !strstr(error.text, words))
        (void)printf("# %d, not '%s': %s\n", code, words, error.text);
    assert(code == GROKD_INVALID_ARGUMENT && strstr(error.text, words) && !none);
}

static void test_refusals_name_the_input(void) {
    static struct grokd_input inputs[300];
    static int32_t many[5000], wrong[] = {5, 9999};
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_embed_request request = GROKD_EMBED_REQUEST_INIT;
    ANSWER grokd_embed_response *answer = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(inputs); i++)
        inputs[i].text = "a";
    for (size_t i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = 300;
    request.inputs = inputs;
    check_refused(client, &request, "0 inputs");
    request.n_inputs = ARRAY_SIZE(inputs);
    check_refused(client, &request, "300 inputs");
    request.n_inputs = 3;
    request.pooling = 7;
    check_refused(client, &request, "pooling");
    request.pooling = GROKD_POOLING_MEAN;
    inputs[1] = (struct grokd_input){.tokens = many, .n_tokens = 5000};
    check_refused(client, &request, "input 1 has 5000 tokens");
    inputs[1].n_tokens = 0;
    check_refused(client, &request, "input 1 is empty");
    inputs[1] = (struct grokd_input){.tokens = wrong, .n_tokens = 2};
    check_refused(client, &request, "9999");
    /* The connection is as good as before, and the largest request is answered. */
    inputs[1] = (struct grokd_input){.text = "b"};
    request.n_inputs = 256;
    answer = embed(client, &request);
    client = grokd_client_free(client);
    test_await_idle(&d);
    test_daemon_stop(&d);
}

/* One that is given up, or whose client goes, leaves nothing behind. */
static void test_cancelled_in_the_middle(void) {
    static struct grokd_input inputs[50]; /* little enough to be sent at once */
    static int32_t tokens[1000];
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_embed_request request = GROKD_EMBED_REQUEST_INIT;
    const struct grokd_event *event;
    struct grokd_error error = {0};
    grokd_call *call;

    for (size_t i = 0; i < ARRAY_SIZE(tokens); i++)
        tokens[i] = 300 + (int32_t)(i % 1000);
    for (size_t i = 0; i < ARRAY_SIZE(inputs); i++)
        inputs[i] = (struct grokd_input){.tokens = tokens, .n_tokens = ARRAY_SIZE(tokens)};
    request.inputs = inputs;
    request.n_inputs = ARRAY_SIZE(inputs);
    assert(grokd_begin_embed(client, &request, &call, &error) == GROKD_OK);
    test_await_running(&d, 1);
    grokd_call_cancel(call);
    assert(grokd_call_next(call, -1, &event, &error) == GROKD_NEXT_FAILED);
    assert(error.code == GROKD_CANCELLED);
    (void)grokd_call_free(call);
    assert(grokd_begin_embed(client, &request, &call, &error) == GROKD_OK);
    test_await_running(&d, 1);
    client = grokd_client_free(client);
    (void)grokd_call_free(call);
    test_await_idle(&d);
    test_daemon_stop(&d);
}

/* ---- many users ---- */

static const uid_t users[] = {2001, 2002, 2003};

#define N_INPUTS 8
#define N_TOKENS 150 /* of the longest input */

/* Of one user's inputs; each has others, of different lengths. */
static float alone[ARRAY_SIZE(users)][N_INPUTS][N_EMBD];

static struct grokd_embed_response *embed_inputs_of(grokd_client *client, size_t user) {
    static int32_t tokens[N_TOKENS];
    struct grokd_input inputs[N_INPUTS];
    struct grokd_embed_request request = GROKD_EMBED_REQUEST_INIT;

    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = 300 + (int32_t)((i * 37 + user * 101) % 3000);
    for (size_t i = 0; i < N_INPUTS; i++)
        inputs[i] = (struct grokd_input){.tokens = tokens + i, .n_tokens = N_TOKENS - 19 * i};
    request.inputs = inputs;
    request.n_inputs = N_INPUTS;
    return embed(client, &request);
}

static void embed_as_alone(const TestDaemon *d, TestUser *self) {
    size_t user = geteuid() - users[0];
    CLIENT *client = test_connect(d);
    ANSWER grokd_embed_response *answer = embed_inputs_of(client, user);

    (void)self;
    for (size_t i = 0; i < N_INPUTS; i++)
        assert(answer->embeddings[i].n_values == N_EMBD &&
               memcmp(answer->embeddings[i].values, alone[user][i], sizeof(alone[user][i])) == 0);
}

static void test_users_get_what_each_gets_alone(void) {
    CLIENT *client = NULL;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    client = test_connect(&d);
    for (size_t user = 0; user < ARRAY_SIZE(users); user++) {
        ANSWER grokd_embed_response *answer = embed_inputs_of(client, user);

        for (size_t i = 0; i < N_INPUTS; i++)
            (void)memcpy(alone[user][i], answer->embeddings[i].values, sizeof(alone[user][i]));
    }
    assert(memcmp(alone[0], alone[1], sizeof(alone[0])) != 0);
    client = grokd_client_free(client);
    test_as_all(&d, users, ARRAY_SIZE(users), 5, embed_as_alone);
    test_daemon_stop(&d); /* asserts that all accounts are at zero */
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(texts_have_vectors),
        TEST(refusals_name_the_input),
        TEST(cancelled_in_the_middle),
        TEST(users_get_what_each_gets_alone),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
