/* daemon/config: what a file, its drop-ins and the command line make of the defaults. */
#include "daemon/config.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char path[256];

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(name, "we");

    assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void write_config(const char *text) {
    (void)snprintf(path, sizeof(path), "%s", temp_path("grokd.conf"));
    write_file(path, text);
}

static void write_drop_in(const char *name, const char *text) {
    char directory[300], file[400];

    (void)snprintf(directory, sizeof(directory), "%s.d", path);
    (void)mkdir(directory, 0700);
    (void)snprintf(file, sizeof(file), "%s/%s", directory, name);
    write_file(file, text);
}

static void test_defaults_are_the_manuals(void) {
    Config c;

    assert(config_init(&c) == 0);
    assert(strcmp(c.socket, "/run/grokd/grokd.sock") == 0 && c.socket_mode == 0660);
    assert(c.drain_us == 30000000 && c.n_step_rows == 512 && c.n_sequences_max == 64);
    assert(c.preload && c.hugepages && !c.lock && !c.exact_floats &&
           c.limits[QUOTA_BYTES] == 64 << 20);
    assert(c.n_models == 0 && config_check(&c) == 0);
    config_deinit(&c);
}

static void test_values_have_units(void) {
    Config c;

    assert(config_init(&c) == 0);
    write_config("# a comment\n; another\n\n[daemon]\nsocket=/x y\n  drain_timeout  =  5min \n"
                 "log_level = debug\n[engine]\nkv_memory = 3G\nkv_type=f32\nexact_floats=yes\n"
                 "[requests]\ndefault_timeout = 1500 ms\n");
    assert(config_load(&c, path, true) == 0);
    assert(strcmp(c.socket, "/x y") == 0 && c.drain_us == 300000000);
    assert(c.log_level == 4 && c.kv_bytes == 3ull << 30 && c.kv_type == 1 && c.exact_floats);
    assert(c.timeout_default_us == 1500000);
    config_deinit(&c);
}

static void test_switches(void) {
    static const char *const words[][2] = {
        {"no", "yes"}, {"false", "true"}, {"off", "on"}, {"0", "1"}};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        char text[64];
        Config c;

        (void)snprintf(text, sizeof(text), "[engine]\npreload = %s\nlock = %s\n", words[i][0],
                       words[i][1]);
        write_config(text);
        assert(config_init(&c) == 0 && config_load(&c, path, true) == 0);
        assert(!c.preload && c.lock);
        config_deinit(&c);
    }
}

static void test_kv_types(void) {
    static const char *const names[] = {"f16", "f32", "q8_0"};

    for (uint64_t i = 0; i < ARRAY_SIZE(names); i++) {
        char text[64];
        Config c;

        (void)snprintf(text, sizeof(text), "[engine]\nkv_type = %s\n", names[i]);
        write_config(text);
        assert(config_init(&c) == 0 && config_load(&c, path, true) == 0 && c.kv_type == i);
        config_deinit(&c);
    }
}

/* What a few users may have by default must leave something to others. */
static void test_no_few_users_have_everything(void) {
    enum { N_FEW = 7 };
    Config c;

    assert(config_init(&c) == 0);
    assert(N_FEW * c.limits[QUOTA_CONNECTIONS] < c.n_connections_max);
    assert(N_FEW * c.limits[QUOTA_REQUESTS] < c.n_requests_max);
    config_deinit(&c);
}

static void test_later_values_win_and_nothing_is_the_default(void) {
    Config c;

    assert(config_init(&c) == 0);
    write_config("[engine]\nthreads = 3\nstep_rows = 9\n[model a]\npath = /1\n");
    write_drop_in("20.conf", "[engine]\nthreads = 5\n[model b]\npath = /2\ndefault = yes\n");
    write_drop_in("10.conf", "[engine]\nthreads = 4\nstep_rows =\n[model a]\nload = no\n");
    write_drop_in("30.conf.bak", "[engine]\nthreads = 6\n");
    assert(config_load(&c, path, true) == 0);
    assert(c.n_threads == 5 && c.n_step_rows == 512 && c.n_models == 2);
    assert(strcmp(c.models[0].name, "a") == 0 && strcmp(c.models[0].path, "/1") == 0);
    assert(!c.models[0].load && c.models[1].load && c.models[1].is_default);
    assert(config_check(&c) == 0);
    config_deinit(&c);
}

static void test_drop_ins_may_be_anywhere(void) {
    Config c;

    assert(config_init(&c) == 0);
    (void)snprintf(path, sizeof(path), "%s", temp_path("[a]*?\\{b,c}.conf"));
    write_file(path, "");
    write_drop_in(".hidden.conf", "[engine]\nthreads = 6\n");
    write_drop_in("1.conf", "[engine]\nthreads = 5\n");
    assert(config_load(&c, path, true) == 0 && c.n_threads == 5);
    config_deinit(&c);
}

static void test_users_and_groups_have_limits_of_their_own(void) {
    Config c;

    assert(config_init(&c) == 0);
    write_config("[user alice]\nmax_user_tokens = 0\nmax_user_requests = 7\n[limits]\n"
                 "max_user_tokens = 9\n[group alice]\nmax_user_bytes = 4K\n");
    write_drop_in("1.conf", "[user alice]\nmax_user_requests =\nmax_user_context = 5\n");
    assert(config_load(&c, path, true) == 0 && c.n_accounts == 2);
    assert(strcmp(c.accounts[0].name, "alice") == 0 && !c.accounts[0].is_group);
    assert(c.accounts[0].limits[QUOTA_TOKENS] == QUOTA_UNLIMITED);
    assert(c.accounts[0].limits[QUOTA_REQUESTS] == CONFIG_UNSET);
    assert(c.accounts[0].limits[QUOTA_CONTEXT] == 5);
    assert(c.accounts[1].is_group && c.accounts[1].limits[QUOTA_BYTES] == 4096);
    assert(c.limits[QUOTA_TOKENS] == 9 && c.limits[QUOTA_CONTEXT] == QUOTA_UNLIMITED);
    config_deinit(&c);
}

static void test_model_option_adds_and_replaces(void) {
    Error error = ERROR_INIT;
    Config c;

    assert(config_init(&c) == 0);
    write_config("[model a]\npath = /1\nload = no\n");
    assert(config_load(&c, path, true) == 0);
    assert(config_add_model(&c, "a=/other=file", &error) == 0);
    assert(config_add_model(&c, "b=rel.gguf", &error) == 0);
    assert(c.n_models == 2 && strcmp(c.models[0].path, "/other=file") == 0 && c.models[0].load);
    assert(config_add_model(&c, "b", &error) == -EINVAL && strstr(error.text, "NAME=PATH"));
    assert(config_add_model(&c, "b=", &error) == -EINVAL);
    assert(config_add_model(&c, "a b=/x", &error) == -EINVAL && strstr(error.text, "letters"));
    assert(config_add_model(&c, "=/x", &error) == -EINVAL);
    assert(c.n_models == 2);
    config_deinit(&c);
}

/* Standard error as it comes. */
static void load_and_read_log(const char *text, char *log, size_t n) {
    int fds[2], status;
    ssize_t n_read;
    pid_t pid;

    write_config(text);
    assert(pipe(fds) == 0 && (pid = fork()) >= 0);
    if (pid == 0) {
        Config c;

        assert(dup2(fds[1], STDERR_FILENO) >= 0 && config_init(&c) == 0);
        _exit(config_load(&c, path, true) == -EINVAL || config_check(&c) == -EINVAL);
    }
    (void)close(fds[1]);
    assert(waitpid(pid, &status, 0) == pid);
    n_read = read(fds[0], log, n - 1);
    assert(n_read >= 0);
    log[n_read] = '\0';
    (void)close(fds[0]);
    assert((WEXITSTATUS(status) == 1) == (n_read > 0));
}

static void test_mistakes_are_told_with_their_place(void) {
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"\n[nonsense]\n", "grokd.conf:2: there is no section [nonsense]"},
        {"[model a]\nchat_template = nope\n", ":2: chat_template = nope: this is neither"},
        {"[engine]\nthreds = 2\n", ":2: section [engine] has no key 'threds'"},
        {"[user x]\nmax_connections = 2\n", ":2: a user has no key 'max_connections'"},
        {"[group ]\n", ":1: "},
        {"[group x]\nmax_user_requests = 0\n", ":2: max_user_requests = 0: the value must be"},
        {"[engine]\nthreads = many\n", ":2: threads = many: a whole number"},
        {"[engine]\nthreads = -1\n", ":2: threads"},
        {"[engine]\nthreads = 99999999999999999999\n", ":2: threads"},
        {"[engine]\nmax_sequences = 0\n", "from 1 to 4096"},
        {"[engine]\nkv_memory = 99999999999T\n", "too large"},
        {"[engine]\nkv_memory = 3Q\n", "'Q' is no unit"},
        {"[engine]\ninstruction_set = mmx\n", ":2: instruction_set = mmx: one of generic, avx2, "},
        {"[engine]\nkv_type = q4_0\n", ":2: kv_type = q4_0: one of f16, f32, q8_0 is expected"},
        {"[engine]\nprefix_sharing = all\n", "one of private, shared is expected"},
        {"[daemon]\nsocket_mode = 999\n", ":2: socket_mode"},
        {"[daemon]\nlog_level = loud\n", ":2: log_level = loud: one of error, warning, notice, "},
        {"[engine]\npreload = maybe\n", "yes or no"},
        {"threads = 2\n", ":1: a key outside"},
        {"[engine]\nthreads\n", ":2: neither"},
        {"[engine\n", ":1: a section's line"},
        {"[model a b]\n", ":1: a model's name"},
        {"[model a]\n", "[model a] has no path"},
        {"[model a]\npath=/x\ndefault=yes\n[model b]\npath=/y\ndefault=yes\n", "both the default"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char log[4096];

        load_and_read_log(cases[i].text, log, sizeof(log));
        if (!strstr(log, cases[i].word))
            (void)printf("%s\nlogs '%s'; '%s' was due\n", cases[i].text, log, cases[i].word);
        assert(strstr(log, cases[i].word));
    }
}

static void test_a_file_that_is_not_there(void) {
    Config c;

    assert(config_init(&c) == 0);
    assert(config_load(&c, "/nonexistent/grokd.conf", false) == 0);
    assert(config_load(&c, "/nonexistent/grokd.conf", true) == -EINVAL);
    config_deinit(&c);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(defaults_are_the_manuals),
        TEST(values_have_units),
        TEST(switches),
        TEST(kv_types),
        TEST(no_few_users_have_everything),
        TEST(later_values_win_and_nothing_is_the_default),
        TEST(drop_ins_may_be_anywhere),
        TEST(users_and_groups_have_limits_of_their_own),
        TEST(model_option_adds_and_replaces),
        TEST(mistakes_are_told_with_their_place),
        TEST(a_file_that_is_not_there),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
