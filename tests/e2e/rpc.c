/* Every RPC of a daemon that serves the demo model: what it answers, and what it refuses. */
#include "tests/e2e/util-daemon.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAR "tar(1) - an archiving utility."

static void test_status_tells_what_runs(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    ANSWER grokd_status_response *status = NULL;

    assert(grokd_status(client, &status, NULL) == GROKD_OK);
    assert(strcmp(status->version, grokd_version()) == 0);
    assert(status->pid == (uint32_t)d.pid && status->threads >= 1 && status->connections == 1);
    assert(status->instruction_set[0] && status->kv_pages_total > 0 && !status->draining);
    assert(status->n_models == 1 && strcmp(status->models[0]->name, "demo") == 0);
    assert(status->models[0]->state == GROKD_MODEL_READY && status->models[0]->is_default);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_models_are_listed_and_shown(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    ANSWER grokd_list_models_response *list = NULL;
    ANSWER grokd_show_model_response *show = NULL, *none = NULL;
    struct grokd_error error = {0};

    assert(grokd_list_models(client, &list, NULL) == GROKD_OK && list->n_models == 1);
    assert(strcmp(list->models[0]->architecture, "grok") == 0);
    assert(grokd_show_model(client, NULL, &show, NULL) == GROKD_OK);
    assert(show->layers == 6 && show->experts == 8 && show->experts_used == 2);
    assert(show->embedding_size == 256 && show->heads == 8 && show->kv_heads == 2);
    assert(show->vocabulary == 4096 && show->head_size == 32 && show->context_trained == 4096);
    assert(show->summary->parameters > 11000000 && show->summary->parameters < 12000000);
    assert(show->parameters_active < show->summary->parameters);
    assert(show->half_precision_bytes == 2 * show->summary->parameters && show->eos_token == 2);
    assert(strstr(show->weight_types, "Q8_0") && show->chat_template[0]);
    /* Read before it was ready, to the end of its last page. */
    assert(show->resident_bytes >= show->summary->file_bytes && show->numa_nodes >= 1);
    assert(show->home_bytes + show->away_bytes == 0 || /* threads on one node */
           show->home_bytes + show->away_bytes == show->summary->file_bytes);
    assert(grokd_show_model(client, "no such", &none, &error) == GROKD_NOT_FOUND);
    assert(!none && strstr(error.text, "no such"));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_tokens_go_there_and_back(void) {
    static const char text[] = "What does grep do?\n  \xc3\x9cn\xc3\xaf \xf0\x9f\x90\xa7\x01";
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_tokenize_request there = GROKD_TOKENIZE_REQUEST_INIT;
    struct grokd_detokenize_request back = GROKD_DETOKENIZE_REQUEST_INIT;
    ANSWER grokd_tokenize_response *tokens = NULL;
    ANSWER grokd_detokenize_response *again = NULL, *none = NULL;
    struct grokd_error error = {0};
    int32_t beyond = 4096;

    there.text = text;
    there.pieces = true;
    assert(grokd_tokenize(client, &there, &tokens, NULL) == GROKD_OK);
    assert(tokens->n_ids > 5 && tokens->n_pieces == tokens->n_ids);
    back.ids = tokens->ids;
    back.n_ids = tokens->n_ids;
    assert(grokd_detokenize(client, &back, &again, NULL) == GROKD_OK);
    assert(again->n_text == strlen(text) && memcmp(again->text, text, again->n_text) == 0);
    back.ids = &beyond;
    back.n_ids = 1;
    assert(grokd_detokenize(client, &back, &none, &error) == GROKD_INVALID_ARGUMENT);
    assert(strstr(error.text, "4096"));
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_score_adds_up(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_score_request right = GROKD_SCORE_REQUEST_INIT, wrong = right;
    ANSWER grokd_score_response *likely = NULL, *unlikely = NULL;
    double sum = 0;

    right.text = "Q: What does tar do?\nA: " TAR;
    right.top_logprobs = 2;
    wrong.text = "Q: What does tar do?\nA: purple colourless green ideas";
    assert(grokd_score(client, &right, &likely, NULL) == GROKD_OK && likely->n_tokens > 10);
    assert(grokd_score(client, &wrong, &unlikely, NULL) == GROKD_OK);
    for (size_t i = 1; i < likely->n_tokens; i++) {
        assert(likely->tokens[i].n_top == 2 && likely->tokens[i].chosen->logprob <= 0);
        assert(likely->tokens[i].top[0].logprob >= likely->tokens[i].top[1].logprob);
        sum += (double)likely->tokens[i].chosen->logprob;
    }
    assert(fabs(sum - likely->sum_logprob) < 1e-3 * fabs(sum) + 1e-6);
    assert(fabs(likely->perplexity - exp(-sum / (double)(likely->n_tokens - 1))) < 1e-2);
    assert(unlikely->perplexity > 2 * likely->perplexity);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* The reference's greedy answers, wherever int8 arithmetic can't have changed them. */
static void test_answers_are_the_references(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    FILE *file = fopen("engine/demo/answers.tsv", "re");
    char question[256], answer[256];
    unsigned n = 0;
    float distance;

    assert(file);
    while (fscanf(file, "%255[^\t]\t%255[^\t]\t%f\n", question, answer, &distance) == 3) {
        CLEANUP(freep) char *text = NULL;

        if (distance <= 1)
            continue;
        n++;
        text = test_ask(client, "demo", question);
        if (strcmp(text, answer) != 0)
            (void)printf("%s\n  is:  %s\n  due: %s\n", question, text, answer);
        assert(strcmp(text, answer) == 0);
    }
    (void)fclose(file);
    assert(n > 20);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_stream_tells_its_whole_story(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_question("demo", "What does tar do?");
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    const struct grokd_event *event;
    struct grokd_final final = {0};
    struct grokd_usage usage = {0};
    CALL *call = NULL;
    uint64_t seq = 0;
    size_t n_ids = 0, n_logprobs = 0;

    sampling.logprobs = true;
    sampling.top_logprobs = 3;
    request.sampling = &sampling;
    request.token_ids = true;
    request.request_id = "my-own-id";
    call = test_begin(client, &request);
    assert(strcmp(grokd_call_request_id(call), "my-own-id") == 0);
    while (grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT) {
        assert(event->seq == seq && !final.usage);
        if (seq++ == 0)
            assert(strcmp(event->request_id, "my-own-id") == 0 &&
                   strcmp(event->model, "demo") == 0);
        if (event->chunk) {
            n_ids += event->chunk->n_token_ids;
            n_logprobs += event->chunk->n_logprobs;
            for (size_t i = 0; i < event->chunk->n_logprobs; i++)
                assert(event->chunk->logprobs[i].n_top == 3 &&
                       event->chunk->logprobs[i].top[0].logprob <= 0);
        }
        if (event->final) {
            final = *event->final;
            usage = *event->final->usage;
        }
    }
    assert(final.usage && final.total_events == seq && final.finish_reason == GROKD_FINISH_STOP);
    (void)printf("# %u prompt tokens, prefill %u us, decode %u us\n", usage.prompt_tokens,
                 (unsigned)usage.prefill_us, (unsigned)usage.decode_us);
    assert(usage.prompt_tokens == 10 && usage.prefill_us > 0 && usage.decode_us > 0);
    assert(n_ids == usage.generated_tokens && n_logprobs == n_ids && n_ids > 5);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void expect_refusal(grokd_client *client, const struct grokd_generate_request *request,
                           int code, const char *word) {
    struct grokd_error error = {0};
    CALL *call = test_begin(client, request);
    int r = test_finish(call, NULL, &error);

    if (r != code || !strstr(error.text, word))
        (void)printf("%s: %s; %s with '%s' was due\n", grokd_code_name(r), error.text,
                     grokd_code_name(code), word);
    assert(r == code && strstr(error.text, word));
}

static void test_refusals_say_why(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    struct grokd_generate_request request = test_question("nobody", "Hello");
    CLEANUP(freep) char *text = NULL;
    CLEANUP(freep) int32_t *tokens = calloc(5000, sizeof(int32_t));

    expect_refusal(client, &request, GROKD_NOT_FOUND, "nobody");
    request.model = NULL;
    request.sampling = &sampling;
    sampling.has_temperature = true;
    sampling.temperature = -1;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "temperature");
    sampling.temperature = 0;
    sampling.has_top_p = true;
    sampling.top_p = NAN;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "top_p");
    sampling.has_top_p = false;
    sampling.logprobs = true;
    sampling.top_logprobs = 1000000;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "logprobs");
    sampling.top_logprobs = 0;
    request.text = NULL;
    request.tokens = tokens;
    request.n_tokens = 3;
    tokens[1] = 4096;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "4096");
    tokens[1] = -1;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "-1");
    tokens[1] = 310;
    for (size_t i = 0; i < 5000; i++)
        tokens[i] = 310;
    request.n_tokens = 5000;
    expect_refusal(client, &request, GROKD_INVALID_ARGUMENT, "4096");
    text = test_ask(client, NULL, "What does tar do?");
    assert(strcmp(text, TAR) == 0);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static int load_model(grokd_client *client, const char *name, const char *path,
                      struct grokd_error *error) {
    struct grokd_load_model_request request = GROKD_LOAD_MODEL_REQUEST_INIT;
    const struct grokd_event *event;
    CALL *call = NULL;
    int r, state = 0;

    request.model = name;
    request.path = path;
    assert(grokd_begin_load_model(client, &request, &call, error) == GROKD_OK);
    while ((r = grokd_call_next(call, -1, &event, error)) == GROKD_NEXT_EVENT) {
        assert(event->load && event->load->done_bytes <= event->load->total_bytes);
        if (event->load->summary)
            state = event->load->summary->state;
    }
    if (r == GROKD_NEXT_FAILED)
        return error->code;
    assert(state == GROKD_MODEL_READY);
    return GROKD_OK;
}

static void test_models_load_and_unload(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request;
    CLEANUP(freep) char *text = NULL;
    struct grokd_error error = {0};

    assert(load_model(client, "second", DEMO_MODEL, &error) == GROKD_OK);
    text = test_ask(client, "second", "What does tar do?");
    assert(strcmp(text, TAR) == 0);
    assert(grokd_unload_model(client, "second", &error) == GROKD_OK);
    request = test_question("second", "Hello");
    CALL *call = test_begin(client, &request);
    assert(test_finish(call, NULL, &error) != GROKD_OK);
    assert(error.code == GROKD_NOT_FOUND || error.code == GROKD_FAILED_PRECONDITION);
    assert(grokd_unload_model(client, "nobody", &error) == GROKD_NOT_FOUND);
    assert(load_model(client, "third", "README.md", &error) == GROKD_FAILED_PRECONDITION ||
           error.code == GROKD_INVALID_ARGUMENT);
    assert(strstr(error.text, "README.md"));
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_cancel_finds_only_what_runs(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    CLIENT *other = test_connect(&d);
    struct grokd_generate_request request = test_long(4000);
    ANSWER grokd_cancel_response *first = NULL, *second = NULL;
    const struct grokd_event *event;
    CALL *call = NULL;

    request.request_id = "long";
    call = test_begin(client, &request);
    assert(grokd_call_next(call, -1, &event, NULL) == GROKD_NEXT_EVENT);
    assert(grokd_cancel(other, "long", &first, NULL) == GROKD_OK && first->found);
    assert(test_finish(call, NULL, NULL) == GROKD_CANCELLED);
    assert(grokd_cancel(other, "long", &second, NULL) == GROKD_OK && !second->found);
    call = grokd_call_free(call);
    client = grokd_client_free(client);
    other = grokd_client_free(other);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(status_tells_what_runs),
        TEST(models_are_listed_and_shown),
        TEST(tokens_go_there_and_back),
        TEST(score_adds_up),
        {"answers_are_the_references", test_answers_are_the_references, 60},
        TEST(stream_tells_its_whole_story),
        TEST(refusals_say_why),
        TEST(models_load_and_unload),
        TEST(cancel_finds_only_what_runs),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
