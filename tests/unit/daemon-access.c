/* daemon/access: lists of users and groups, limits by user and by group. */
#include "daemon/access.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static Config config;
static Access access_lists;
static struct access_peer peer;
static Error error;

static int load(const char *text) {
    char path[256];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s", temp_path("grokd.conf"));
    file = fopen(path, "we");
    assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
    assert(config_init(&config) == 0 && config_load(&config, path, true) == 0);
    return access_init(&access_lists, &config, &error);
}

static unsigned services_of(uid_t uid, gid_t group, gid_t other_group) {
    peer.uid = uid;
    peer.groups[0] = group;
    peer.groups[1] = other_group;
    peer.n_groups = 2;
    return access_services(&access_lists, &peer);
}

#define INFERENCE BIT(CONFIG_INFERENCE)
#define MODELS    BIT(CONFIG_MODELS)
#define ADMIN     BIT(CONFIG_ADMIN)

static void test_defaults(void) {
    assert(load("") == 0);
    assert(services_of(0, 0, 0) == (INFERENCE | MODELS | ADMIN));
    assert(services_of(geteuid(), 77, 78) == (INFERENCE | MODELS | ADMIN));
    assert(services_of(4321, 0, 0) == INFERENCE); /* root's group is not root */
    config_deinit(&config);
}

static void test_denied_wins(void) {
    assert(load("[access]\ninference_allow = @100, 4321\ninference_deny = @200 4000 0\n"
                "models_allow = *\nmodels_deny = 4321\nadmin_allow = @root\n") == 0);
    assert(services_of(4321, 1, 1) == INFERENCE);
    assert(services_of(4321, 1, 200) == 0);
    assert(services_of(5000, 1, 100) == (INFERENCE | MODELS));
    assert(services_of(5000, 100, 200) == MODELS);
    assert(services_of(5000, 100, 0) == (INFERENCE | MODELS | ADMIN));
    assert(services_of(4000, 100, 1) == MODELS);
    assert(services_of(5000, 1, 2) == MODELS);
    assert(services_of(0, 1, 2) == (MODELS | ADMIN)); /* root too */
    config_deinit(&config);
}

static void test_names_must_be_there(void) {
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"[access]\nadmin_allow = root no-such-user\n", "admin_allow: there is no user 'no-such"},
        {"[access]\ninference_deny = @no-such-group\n", "inference_deny: there is no group 'no-"},
        {"[access]\nmodels_allow = 4294967295\n", "models_allow: there is no user '4294967295'"},
        {"[access]\nmodels_allow = 12x\n", "models_allow: there is no user '12x'"},
        {"[user no-such-user]\n", "[user no-such-user]: there is no user"},
        {"[group no-such-group]\n", "[group no-such-group]: there is no group"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert(load(cases[i].text) == -EINVAL && strstr(error.text, cases[i].words));
        config_deinit(&config);
    }
}

static uint64_t limit_of(uid_t uid, gid_t group, gid_t other_group, enum quota_kind kind) {
    uint64_t max[_QUOTA_N];

    (void)services_of(uid, group, other_group);
    access_fill_limits(&access_lists, &config, &peer, max);
    return max[kind];
}

static void test_limits_by_user_then_largest_group_then_all(void) {
    assert(load("[limits]\nmax_user_requests = 3\n[user 4000]\nmax_user_requests = 1\n"
                "[group 100]\nmax_user_requests = 5\nmax_user_tokens = 50\n"
                "[group 200]\nmax_user_requests = 4\nmax_user_tokens = 0\n") == 0);
    assert(limit_of(5000, 1, 2, QUOTA_REQUESTS) == 3);
    assert(limit_of(5000, 1, 100, QUOTA_REQUESTS) == 5);
    assert(limit_of(5000, 200, 100, QUOTA_REQUESTS) == 5);
    assert(limit_of(4000, 200, 100, QUOTA_REQUESTS) == 1);
    assert(limit_of(4000, 100, 1, QUOTA_TOKENS) == 50);
    assert(limit_of(4000, 200, 100, QUOTA_TOKENS) == QUOTA_UNLIMITED);
    assert(limit_of(5000, 100, 200, QUOTA_BYTES) == 64 << 20);
    config_deinit(&config);
}

static void test_peer_is_told_by_the_kernel(void) {
    int fds[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    assert(access_read_peer(fds[0], &peer) == 0);
    assert(peer.uid == geteuid() && peer.pid == getpid());
    assert(peer.n_groups == 1 + (size_t)getgroups(0, NULL) && peer.groups[0] == getegid());
    (void)close(fds[0]);
    (void)close(fds[1]);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(defaults),
        TEST(denied_wins),
        TEST(names_must_be_there),
        TEST(limits_by_user_then_largest_group_then_all),
        TEST(peer_is_told_by_the_kernel),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
