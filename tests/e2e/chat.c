/* Conversations: the model's template, those of the configuration and the request, their ends. */
#include "tests/e2e/util-daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUESTION "What does tar do?"
#define REPLY    "tar(1) - an archiving utility."

static struct grokd_generate_request chat(const struct grokd_message *messages, size_t n,
                                          const char *template) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;

    request.messages = messages;
    request.n_messages = n;
    request.chat_template = template;
    return request;
}

/* The text and the final event's facts. */
struct outcome {
    char *text;
    uint32_t n_prompt;
    int reason;
    char stop[64];
};

static struct outcome finish(grokd_client *client, const struct grokd_generate_request *request) {
    CALL *call = test_begin(client, request);
    struct outcome o = {.text = NULL};
    size_t n_text = 0;
    FILE *out = open_memstream(&o.text, &n_text);
    const struct grokd_event *event;
    struct grokd_error error = {0};
    int r;

    assert(out);
    while ((r = grokd_call_next(call, -1, &event, &error)) == GROKD_NEXT_EVENT) {
        if (event->chunk)
            (void)fputs(event->chunk->text, out);
        if (event->final) {
            o.n_prompt = event->final->usage->prompt_tokens;
            o.reason = event->final->finish_reason;
            (void)snprintf(o.stop, sizeof(o.stop), "%s", event->final->stop);
        }
    }
    if (r != GROKD_NEXT_END)
        (void)printf("# %s\n", error.text);
    assert(r == GROKD_NEXT_END && fclose(out) == 0);
    return o;
}

static void test_the_models_template_asks_as_it_was_trained(void) {
    static const struct grokd_message message = {"user", QUESTION};
    struct grokd_generate_request request = chat(&message, 1, NULL), plain;
    struct outcome conversation, text;
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));

    request.echo = true;
    conversation = finish(client, &request);
    plain = test_question(NULL, QUESTION);
    plain.echo = true;
    text = finish(client, &plain);
    assert(strcmp(conversation.text, text.text) == 0 && conversation.n_prompt == text.n_prompt);
    assert(strcmp(conversation.text, "Q: " QUESTION "\nA: " REPLY) == 0);
    assert(conversation.reason == GROKD_FINISH_STOP);
    free(conversation.text);
    free(text.text);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void test_turns_follow_each_other(void) {
    static const struct grokd_message messages[] = {
        {"user", "Who are you?"}, {"assistant", "grokd"}, {"user", QUESTION}};
    struct grokd_generate_request request = chat(messages, 3, NULL);
    struct outcome o;
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));

    request.echo = true;
    o = finish(client, &request);
    assert(strncmp(o.text, "Q: Who are you?\nA: grokd", 23) == 0); /* EOS prints nothing */
    assert(strstr(o.text, "Q: " QUESTION "\nA: "));
    free(o.text);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* The template's own marker ends the answer, whatever the model thinks. */
static void test_the_templates_end_ends_the_answer(void) {
    static const struct grokd_message message = {"user", QUESTION};
    static const char template[] =
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:"
        "{% else %} {{ m.content }} utility!\n{% endif %}{% endfor %}";
    static const char utility[] =
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:"
        "{% else %} {{ m.content }} utility\n{% endif %}{% endfor %}";
    static const char *const stop[] = {"archiving"};
    struct grokd_sampling sampling = GROKD_SAMPLING_INIT;
    struct grokd_generate_request request = chat(&message, 1, template);
    struct outcome o;
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));

    o = finish(client, &request);
    assert(strcmp(o.text, " " REPLY) == 0 && !*o.stop);
    free(o.text);
    request.chat_template = utility;
    o = finish(client, &request);
    assert(strcmp(o.text, " tar(1) - an archiving") == 0 && strcmp(o.stop, " utility") == 0);
    free(o.text);
    sampling.stop = stop; /* beside the request's own */
    sampling.n_stop = 1;
    request.sampling = &sampling;
    o = finish(client, &request);
    assert(strcmp(o.text, " tar(1) - an ") == 0 && strcmp(o.stop, "archiving") == 0);
    free(o.text);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void check_refused(grokd_client *client, const struct grokd_message *messages, size_t n,
                          const char *template, const char *sentence) {
    struct grokd_generate_request request = chat(messages, n, template);
    struct grokd_error error = {0};
    CALL *call = test_begin(client, &request);

    assert(test_finish(call, NULL, &error) == GROKD_INVALID_ARGUMENT);
    if (!strstr(error.text, sentence))
        (void)printf("# %s\n", error.text);
    assert(strstr(error.text, sentence));
}

static void test_refusals_are_sentences(void) {
    static const struct grokd_message messages[] = {{"user", "a"}, {"user", "b"}},
                                      strange = {"narrator", "a"};
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));

    check_refused(client, messages, 0, NULL, "the conversation is empty");
    check_refused(client, messages, 2, "mistral", "user and assistant must alternate");
    check_refused(client, &strange, 1, NULL, "knows no role 'narrator'");
    check_refused(client, messages, 1, "nonsense", "there is no chat template 'nonsense'");
    check_refused(client, messages, 1, "a\n{% fi %}", "line 2: the tag 'fi'");
    check_refused(client, messages, 1, "{{ raise_exception('not today') }}",
                  "refuses the conversation: not today");
    check_refused(client, messages, 1,
                  "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}"
                  "{% endfor %}",
                  "too many steps");
    check_refused(client, messages, 1, "{{ '' }}", "prompt is empty");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

static void check_template(grokd_client *client, const char *model, const char *name,
                           const char *part) {
    ANSWER grokd_show_model_response *show = NULL;

    assert(grokd_show_model(client, model, &show, NULL) == GROKD_OK);
    assert(strcmp(show->chat_template_name, name) == 0);
    assert(strstr(show->chat_template, part));
}

static void test_templates_of_the_configuration(void) {
    static const struct grokd_message message = {"user", QUESTION};
    static const char *const options[] = {"--model", "own=" DEMO_MODEL, NULL};
    char directory[300], path[400], config[2000];
    struct grokd_generate_request request = chat(&message, 1, NULL);
    struct outcome o;
    TestDaemon d;
    grokd_client *client;
    FILE *file;

    test_daemon_init(&d);
    assert(getcwd(directory, sizeof(directory)));
    (void)snprintf(path, sizeof(path), "%s/template.jinja", d.directory);
    file = fopen(path, "we");
    assert(file && fputs("{# mine #}Q: {{ messages[-1].content }}\nA:\n", file) >= 0);
    assert(fclose(file) == 0);
    (void)snprintf(config, sizeof(config),
                   "[model file]\npath = %s/" DEMO_MODEL "\nchat_template = %s\n"
                   "[model name]\npath = %s/" DEMO_MODEL "\nchat_template = chatml\n",
                   directory, path, directory);
    test_daemon_configure(&d, config);
    test_daemon_spawn(&d, options);
    test_daemon_await(&d, "READY=1");
    client = test_connect(&d);
    check_template(client, "own", "model", "Q: ");
    check_template(client, "name", "chatml", "<|im_start|>");
    check_template(client, "file", path, "mine");
    request.model = "file";
    o = finish(client, &request);
    assert(strcmp(o.text, " " REPLY) == 0);
    free(o.text);
    assert(unlink(path) == 0);
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* ---- many users ---- */

static const uid_t users[] = {2001, 2002, 2003};
static struct outcome alone[ARRAY_SIZE(users)];

/* Each user's conversation is another one: a turn, several, one with a template of its own. */
static struct grokd_generate_request chat_of(size_t user) {
    static const struct grokd_message messages[] = {
        {"user", "Who are you?"}, {"assistant", "grokd"}, {"user", QUESTION}};
    static const char template[] = "{% for m in messages %}{% if m.role == 'user' %}"
                                   "Q: {{ m.content }}\nA:{% else %} {{ m.content }} utility\n"
                                   "{% endif %}{% endfor %}";
    struct grokd_generate_request request =
        chat(user == 1 ? messages : messages + 2, user == 1 ? ARRAY_SIZE(messages) : 1,
             user == 2 ? template : NULL);

    request.echo = true;
    return request;
}

static void chat_as_alone(const TestDaemon *d, TestUser *self) {
    size_t user = geteuid() - users[0];
    struct grokd_generate_request request = chat_of(user);
    const struct outcome *expected = &alone[user];
    CLIENT *client = test_connect(d);
    struct outcome o = finish(client, &request);

    (void)self;
    assert(strcmp(o.text, expected->text) == 0 && strcmp(o.stop, expected->stop) == 0);
    assert(o.n_prompt == expected->n_prompt && o.reason == expected->reason);
    free(o.text);
}

static void test_users_get_what_each_gets_alone(void) {
    CLIENT *client = NULL;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    client = test_connect(&d);
    for (size_t user = 0; user < ARRAY_SIZE(users); user++) {
        struct grokd_generate_request request = chat_of(user);

        alone[user] = finish(client, &request);
    }
    assert(strstr(alone[0].text, REPLY) && strcmp(alone[2].stop, " utility") == 0);
    assert(strcmp(alone[0].text, alone[1].text) != 0 && strcmp(alone[0].text, alone[2].text) != 0);
    client = grokd_client_free(client);
    test_as_all(&d, users, ARRAY_SIZE(users), 10, chat_as_alone);
    for (size_t user = 0; user < ARRAY_SIZE(users); user++)
        free(alone[user].text);
    test_daemon_stop(&d); /* asserts that all accounts are at zero */
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(the_models_template_asks_as_it_was_trained),
        TEST(turns_follow_each_other),
        TEST(the_templates_end_ends_the_answer),
        TEST(refusals_are_sentences),
        TEST(templates_of_the_configuration),
        TEST(users_get_what_each_gets_alone),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
