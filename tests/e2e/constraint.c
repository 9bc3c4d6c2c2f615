/* Structured output, end to end: what comes satisfies its constraint, what is wrong is refused. */
#include "tests/e2e/util-daemon.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCHEMA                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},"        \
    "\"size\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":99},"                                \
    "\"kind\":{\"enum\":[\"command\",\"file\"]}},\"required\":[\"name\",\"size\",\"kind\"],"       \
    "\"additionalProperties\":false}"
/* The same in an extended regular expression, less exact about the string. */
#define SCHEMA_TEXT                                                                                \
    "^\\{[ \n]*\"name\": ?\"[^\"]*\",[ \n]*\"size\": ?[0-9]{1,2},[ \n]*\"kind\": "                 \
    "?\"(command|file)\"[ \n]*\\}$"

static bool matches(const char *text, const char *pattern) {
    regex_t re;
    bool found;

    assert(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    found = regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    if (!found)
        (void)printf("# %s\n", text);
    return found;
}

static struct grokd_generate_request sampled(uint64_t seed, struct grokd_sampling *sampling) {
    struct grokd_generate_request request = test_question("demo", "What does tar do?");

    *sampling = (struct grokd_sampling)GROKD_SAMPLING_INIT;
    sampling->has_temperature = sampling->has_seed = sampling->has_max_tokens = true;
    sampling->temperature = 1.5f;
    sampling->seed = seed;
    sampling->max_tokens = 300;
    request.sampling = sampling;
    return request;
}

static void check_text(grokd_client *client, const struct grokd_generate_request *request,
                       const char *pattern) {
    CALL *call = test_begin(client, request);
    CLEANUP(freep) char *text = NULL;
    struct grokd_error error = {0};

    if (test_finish(call, &text, &error) != GROKD_OK)
        (void)printf("# %s\n", error.text);
    assert(text && matches(text, pattern));
}

static void test_texts_satisfy(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_sampling sampling;

    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct grokd_generate_request request = sampled(seed, &sampling);
        int32_t tokens[] = {1, 300, 400};

        request.json_schema = SCHEMA;
        check_text(client, &request, SCHEMA_TEXT);
        request.text = NULL;
        request.tokens = tokens;
        request.n_tokens = 3;
        check_text(client, &request, SCHEMA_TEXT);
        request.json_schema = NULL;
        request.regex = "(yes|no), [a-z]{3,9}\\.";
        check_text(client, &request, "^(yes|no), [a-z]{3,9}\\.$");
        request.regex = NULL;
        request.grammar = "root ::= item{2,3}\nitem ::= \"- \" [a-z ]{1,20} \"\\n\"\n";
        check_text(client, &request, "^(- [a-z ]{1,20}\n){2,3}$");
    }
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Many at once give what each gives alone. */
static void test_company_changes_nothing(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    grokd_call *calls[8];
    char *alone[8];

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_sampling sampling;
        struct grokd_generate_request request = sampled(i, &sampling);
        CALL *call = NULL;

        request.json_schema = SCHEMA;
        call = test_begin(client, &request);
        assert(test_finish(call, &alone[i], NULL) == GROKD_OK);
    }
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct grokd_sampling sampling;
        struct grokd_generate_request request = sampled(i, &sampling);

        request.json_schema = SCHEMA;
        calls[i] = test_begin(client, &request);
    }
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        CLEANUP(freep) char *text = NULL;

        assert(test_finish(calls[i], &text, NULL) == GROKD_OK && strcmp(text, alone[i]) == 0);
        (void)grokd_call_free(calls[i]);
        free(alone[i]);
    }
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Many users at once: each has seeds of its own, and the constraints are those of all. */
static const uid_t users[] = {2001, 2002, 2003};

#define N_EACH 6

static char *alone[ARRAY_SIZE(users)][N_EACH];

/* Begins the user's i-th; returns what its text must match. */
static const char *begin_of(grokd_client *client, size_t user, size_t i, grokd_call **ret) {
    struct grokd_sampling sampling;
    struct grokd_generate_request request = sampled(100 * user + i, &sampling);
    const char *pattern = SCHEMA_TEXT;

    if (i % 3 == 0) {
        request.regex = "(yes|no), [a-z]{3,9}\\.";
        pattern = "^(yes|no), [a-z]{3,9}\\.$";
    } else {
        request.json_schema = SCHEMA;
    }
    *ret = test_begin(client, &request);
    return pattern;
}

static void ask_as_alone(const TestDaemon *d, TestUser *self) {
    size_t user = geteuid() - users[0];
    CLIENT *client = test_connect(d);
    grokd_call *calls[N_EACH];
    const char *patterns[N_EACH];

    (void)self;
    for (size_t i = 0; i < N_EACH; i++)
        patterns[i] = begin_of(client, user, i, &calls[i]);
    for (size_t i = 0; i < N_EACH; i++) {
        CLEANUP(freep) char *text = NULL;

        assert(test_finish(calls[i], &text, NULL) == GROKD_OK && matches(text, patterns[i]));
        assert(strcmp(text, alone[user][i]) == 0);
        (void)grokd_call_free(calls[i]);
    }
}

static void test_users_get_what_each_gets_alone(void) {
    CLIENT *client = NULL;
    TestDaemon d;

    test_daemon_start_open(&d, "");
    client = test_connect(&d);
    for (size_t user = 0; user < ARRAY_SIZE(users); user++)
        for (size_t i = 0; i < N_EACH; i++) {
            CALL *call = NULL;

            (void)begin_of(client, user, i, &call);
            assert(test_finish(call, &alone[user][i], NULL) == GROKD_OK);
        }
    assert(strcmp(alone[0][1], alone[1][1]) != 0);
    client = grokd_client_free(client);
    test_as_all(&d, users, ARRAY_SIZE(users), 2, ask_as_alone);
    for (size_t user = 0; user < ARRAY_SIZE(users); user++)
        for (size_t i = 0; i < N_EACH; i++)
            free(alone[user][i]);
    test_daemon_stop(&d); /* asserts that all accounts are at zero */
}

static void check_refused(grokd_client *client, const struct grokd_generate_request *request,
                          const char *words) {
    CALL *call = test_begin(client, request);
    struct grokd_error error = {0};
    int code = test_finish(call, NULL, &error);

    if (code != GROKD_INVALID_ARGUMENT || !strstr(error.text, words))
        (void)printf("# %d, not '%s': %s\n", code, words, error.text);
    assert(code == GROKD_INVALID_ARGUMENT && strstr(error.text, words));
}

static void test_refusals_name_the_place(void) {
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_generate_request request = test_question("demo", "What does tar do?");
    struct grokd_error error = {0};
    grokd_call *call = NULL;

    request.json_schema = "{\n  \"type\": \"object\",\n  }";
    check_refused(client, &request, "line 3");
    request.json_schema = "{\"properties\":{\"a\":{\"if\":true}}}";
    check_refused(client, &request, "#/properties/a: the keyword 'if'");
    request.json_schema = NULL;
    request.regex = "abc(d";
    check_refused(client, &request, "byte 3");
    request.regex = "a";
    request.grammar = "";
    assert(grokd_begin_generate(client, &request, &call, &error) == GROKD_INVALID_ARGUMENT);
    assert(!call && strstr(error.text, "only one"));
    request.regex = NULL;
    request.grammar = "root ::= \"a\"\nb := c";
    check_refused(client, &request, "line 2");
    request.grammar = "root ::= root \"a\"";
    check_refused(client, &request, "left recursion");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Longer than what is hashed at once: compiled, found again, refused or given up as any other. */
static void test_long_sources(void) {
    enum { N_LONG = 200000, N_TOO_LONG = 300000 };
    CLEANUP(freep) char *schema = malloc(N_TOO_LONG + 100);
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_sampling sampling;
    struct grokd_generate_request request = sampled(1, &sampling);

    (void)sprintf(schema, "{\"enum\":[\"yes\",\"no\"]%*s}", N_LONG, "");
    request.json_schema = schema;
    for (int i = 0; i < 3; i++) {
        check_text(client, &request, "^\"(yes|no)\"$");
        (void)grokd_call_free(test_begin(client, &request));
    }
    schema[strlen(schema) - 1] = ']';
    check_refused(client, &request, "line 1");
    (void)sprintf(schema, "%*s{}", N_TOO_LONG, "");
    check_refused(client, &request, "more than 262144");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

/* Bans that leave nothing end the request, and only that. */
static void test_nothing_left_is_an_error(void) {
    static const char *const banned[] = {"y"};
    TestDaemon d;
    CLIENT *client = test_connect(test_daemon_start(&d));
    struct grokd_sampling sampling;
    struct grokd_generate_request request = sampled(1, &sampling);
    struct grokd_error error = {0};
    CALL *call = NULL;

    sampling.banned_strings = banned;
    sampling.n_banned_strings = 1;
    request.regex = "yes";
    call = test_begin(client, &request);
    assert(test_finish(call, NULL, &error) == GROKD_ABORTED && strstr(error.text, "constraint"));
    request.regex = "yes|no";
    check_text(client, &request, "^no$");
    client = grokd_client_free(client);
    test_daemon_stop(&d);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(texts_satisfy),
        TEST(company_changes_nothing),
        TEST(users_get_what_each_gets_alone),
        TEST(refusals_name_the_place),
        TEST(long_sources),
        TEST(nothing_left_is_an_error),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
