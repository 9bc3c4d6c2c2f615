/* The prefix cache in a file: what comes back, and what is refused. */
#include "base/macro.h"
#include "engine/internal.h"
#include "engine/prefix-file.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <xxhash.h>

#define MODEL    "engine/demo/model-q8_0.gguf"
#define N_PAGES  24
#define N_PROMPT 300
#define N_OUTPUT 20

static GkPool *pool;
static char directory[256];
static struct gk_prefix_file file;
static Error error;

static GkEngine *open_model(const char *path, enum gk_kv_type type, uint64_t n_pages) {
    struct gk_options o = {.path = path, .prefix_cache = true, .kv_type = type};
    GkEngine *e;

    if (!pool)
        assert(gk_pool_new(&pool, 2, NULL) == 0);
    o.pool = pool;
    assert(gk_engine_open(&e, &o, NULL) == 0);
    o.kv_bytes_max = n_pages * 64 * gk_engine_info(e)->n_kv_bytes_per_token;
    e = gk_engine_close(e);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    return e;
}

static GkEngine *open_demo(void) {
    return open_model(MODEL, GK_KV_F16, N_PAGES);
}

static const char *path_of(const char *name) {
    return temp_path("state/%s", name);
}

static void begin(void) {
    (void)snprintf(directory, sizeof(directory), "%s", temp_path("state"));
    file = (struct gk_prefix_file){
        .directory = directory, .name = "demo.kv", .n_bytes_max = UINT64_MAX};
    error = (Error)ERROR_INIT;
    (void)unlink(path_of("demo.kv")); /* of the test before */
}

static uint64_t load(GkEngine *e) {
    uint64_t n;

    error = (Error)ERROR_INIT;
    assert(gk_prefixes_load(e, &file, &n, &error) == 0);
    return n;
}

static uint64_t save(GkEngine *e) {
    uint64_t n;

    assert(gk_prefixes_save(e, &file, &n, NULL) == 0);
    return n;
}

static bool is_there(const char *name) {
    return access(path_of(name), F_OK) == 0;
}

static uint64_t n_cached_pages(const GkEngine *e) {
    return e->prefixes.n_idle;
}

struct answer {
    struct gk_logprob logprobs[N_OUTPUT];
    size_t n, n_cached;
};

static void make_prompt(int32_t *tokens, int family) {
    for (int i = 0; i < N_PROMPT; i++)
        tokens[i] = 300 + (i * 37 + family * 11) % 3000;
}

static struct answer ask(GkEngine *e, int family, size_t n, uint64_t owner, bool share) {
    struct gk_params params = gk_params_default();
    struct gk_result result = {.finish = GK_FINISH_NONE};
    int32_t tokens[N_PROMPT];
    struct answer a = {.n = 0};
    GkSeq *seq;

    make_prompt(tokens, family);
    params.n_tokens_max = N_OUTPUT;
    params.ignore_eos = params.logprobs = true;
    params.temperature = 0.8f;
    params.owner = owner;
    params.share_prefix = share;
    assert(gk_seq_new(&seq, e, tokens, n, &params, NULL) == 0);
    a.n_cached = gk_seq_n_cached(seq);
    while (result.finish == GK_FINISH_NONE) {
        struct gk_plan_row row = {seq, (uint32_t)gk_seq_n_pending(seq)};

        assert(gk_step(e, &(struct gk_plan){&row, 1}, &result) == 0);
        if (result.has_token)
            a.logprobs[a.n++] = (struct gk_logprob){result.token, result.logprob};
    }
    seq = gk_seq_free(seq);
    return a;
}

/* A file of a few prompts of several owners. */
static void make_file(void) {
    GkEngine *e = open_demo();

    (void)ask(e, 1, N_PROMPT, 1, false);
    (void)ask(e, 2, 200, 2, false);
    (void)ask(e, 3, N_PROMPT, 3, true);
    assert(save(e) > 700);
    e = gk_engine_close(e);
}

/* ---- what comes back ---- */

static void test_comes_back_as_it_was(void) {
    struct answer before, after;
    GkEngine *e;
    struct stat status;

    begin();
    e = open_demo();
    assert(load(e) == 0); /* no file yet */
    before = ask(e, 1, N_PROMPT, 1, false);
    assert(before.n_cached == 0);
    e = gk_engine_close(e);
    make_file();
    assert(stat(directory, &status) == 0 && (status.st_mode & 07777) == 0700);
    assert(stat(path_of("demo.kv"), &status) == 0 && (status.st_mode & 07777) == 0600);
    e = open_demo();
    assert(load(e) > 700);
    after = ask(e, 1, N_PROMPT, 1, false);
    assert(after.n_cached == N_PROMPT - 1);
    assert(after.n == N_OUTPUT &&
           memcmp(after.logprobs, before.logprobs, sizeof(after.logprobs)) == 0);
    assert(ask(e, 1, N_PROMPT, 2, false).n_cached == 0); /* is another's */
    assert(ask(e, 2, 200, 2, false).n_cached == 199);
    assert(ask(e, 3, N_PROMPT, 4, false).n_cached == N_PROMPT / 64 * 64); /* is everyone's */
    e = gk_engine_close(e);
}

/* With less memory than there is in the file, and with a cap: what was used last. */
static void test_what_was_used_last_stays(void) {
    struct stat status;
    GkEngine *e;

    begin();
    make_file();
    e = open_model(MODEL, GK_KV_F16, 6);
    (void)load(e);
    assert(n_cached_pages(e) == 6);
    assert(ask(e, 3, N_PROMPT - 40, 5, false).n_cached == (N_PROMPT - 40) / 64 * 64);
    e = gk_engine_close(e);
    e = open_demo();
    (void)load(e);
    assert(ask(e, 2, 200, 2, false).n_cached == 199); /* now the last */
    file.n_bytes_max = 6 * (e->kv.page_bytes + 512);
    (void)save(e);
    e = gk_engine_close(e);
    assert(stat(path_of("demo.kv"), &status) == 0 && (uint64_t)status.st_size <= file.n_bytes_max);
    e = open_demo();
    (void)load(e);
    assert(n_cached_pages(e) == 6);
    assert(ask(e, 2, 200, 2, false).n_cached == 199);
    assert(ask(e, 1, N_PROMPT, 1, false).n_cached == 0);
    file.n_bytes_max = 100;
    assert(save(e) == 0 && !is_there("demo.kv"));
    e = gk_engine_close(e);
}

/* A prompt that is given up before n tokens of it are computed. */
static void give_up(GkEngine *e, int family, uint32_t n, uint64_t owner, bool share) {
    struct gk_params params = gk_params_default();
    int32_t tokens[N_PROMPT];
    struct gk_result result;
    GkSeq *seq;

    make_prompt(tokens, family);
    params.owner = owner;
    params.share_prefix = share;
    params.n_tokens_max = N_OUTPUT;
    assert(gk_seq_new(&seq, e, tokens, N_PROMPT, &params, NULL) == 0);
    if (n < gk_seq_n_pending(seq))
        assert(gk_step(e, &(struct gk_plan){&(struct gk_plan_row){seq, n}, 1}, &result) == 0);
    seq = gk_seq_free(seq);
}

static uint32_t random_below(uint32_t n) {
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % n;
}

/* Whatever came together can be read again: prompts of some owners that are shared now and then, as
 * a whole or in part. */
static void test_whatever_is_kept_comes_back(void) {
    GkEngine *e, *next;

    begin();
    file.may_share = true;
    e = open_demo();
    (void)ask(e, 1, 100, 1, false);
    (void)ask(e, 1, 100, 2, true); /* the same, which becomes everyone's */
    (void)ask(e, 1, 100, 1, true); /* and once more */
    give_up(e, 2, 100, 1, true);   /* a page that is not whole */
    for (int i = 0; i < 30; i++) {
        next = open_demo();
        assert(save(e) == load(next) && n_cached_pages(e) == n_cached_pages(next));
        next = gk_engine_close(next);
        for (int k = 0; k < 4; k++) {
            int family = (int)random_below(3);
            uint64_t owner = 1 + random_below(3);
            bool share = random_below(2) == 0;

            if (random_below(2) == 0)
                (void)ask(e, family, 1 + random_below(N_PROMPT), owner, share);
            else
                give_up(e, family, 1 + random_below(N_PROMPT - 1), owner, share);
        }
    }
    e = gk_engine_close(e);
}

/* ---- what is refused ---- */

static uint8_t *read_file(size_t *ret_n) {
    FILE *f = fopen(path_of("demo.kv"), "r");
    struct stat status;
    uint8_t *bytes;

    assert(f && fstat(fileno(f), &status) == 0);
    *ret_n = (size_t)status.st_size;
    bytes = malloc(*ret_n);
    assert(bytes && fread(bytes, 1, *ret_n, f) == *ret_n);
    (void)fclose(f);
    return bytes;
}

static void write_file(const uint8_t *bytes, size_t n) {
    int fd = open(path_of("demo.kv"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    (void)close(fd);
}

/* It goes away, and nothing of it is in the cache. */
static void assert_refused(GkEngine *e, const uint8_t *bytes, size_t n) {
    uint64_t n_tokens;

    write_file(bytes, n);
    error = (Error)ERROR_INIT;
    assert(gk_prefixes_load(e, &file, &n_tokens, &error) == GK_E_FILE);
    assert(n_tokens == 0 && error.text[0] && strstr(error.text, "demo.kv"));
    assert(n_cached_pages(e) == 0 && e->kv.n_free == e->kv.n_pages && !is_there("demo.kv"));
}

/* Every 7th byte of heads, and some in each page. */
static size_t next_place(const GkEngine *e, size_t at) {
    size_t n_record = sizeof(struct prefix_file_record) + e->kv.page_bytes, in_record;

    if (at < sizeof(struct prefix_file_head))
        return at + 7;
    in_record = (at - sizeof(struct prefix_file_head)) % n_record;
    return in_record < sizeof(struct prefix_file_record)
               ? at + 7
               : at + MIN((size_t)29989, n_record - in_record);
}

static void test_damage_is_refused(void) {
    GkEngine *e;
    uint8_t *bytes;
    size_t n, n_cases = 0;

    begin();
    make_file();
    e = open_model(MODEL, GK_KV_Q8_0, N_PAGES);
    e = gk_engine_close(e);
    e = open_demo();
    bytes = read_file(&n);
    for (size_t at = 0; at < n; at = next_place(e, at)) {
        bytes[at] ^= (uint8_t)(1u << at % 8);
        assert_refused(e, bytes, n);
        bytes[at] ^= (uint8_t)(1u << at % 8);
        assert_refused(e, bytes, at);
        n_cases++;
    }
    bytes = realloc(bytes, n + 1);
    assert(bytes);
    bytes[n] = 0;
    assert_refused(e, bytes, n + 1);
    write_file(bytes, n);
    assert(load(e) > 700 && n_cases > 500); /* it was the damage */
    free(bytes);
    e = gk_engine_close(e);
}

/* What is summed up as it should be, and is wrong all the same. */
static void test_contradictions_are_refused(void) {
    struct prefix_file_head *head;
    struct prefix_file_record *first, *second;
    GkEngine *e;
    uint8_t *good, *bytes;
    uint64_t seed;
    size_t n, n_record;

    begin();
    make_file();
    e = open_demo();
    good = read_file(&n);
    bytes = malloc(n);
    assert(bytes);
    n_record = sizeof(*first) + e->kv.page_bytes;
    head = (struct prefix_file_head *)(void *)bytes;
    first = (struct prefix_file_record *)(void *)(bytes + sizeof(*head));
    second = (struct prefix_file_record *)(void *)(bytes + sizeof(*head) + n_record);
    for (int i = 0; i < 14; i++) {
        (void)memcpy(bytes, good, n);
        switch (i) {
        case 0: /* nothing: the sums below are right */
            break;
        case 1:
            head->n_records = UINT64_MAX / n_record + 2;
            break;
        case 2:
            head->n_records--;
            break;
        case 3:
            head->record_bytes = 0;
            break;
        case 4:
            first->n_tokens = 0;
            break;
        case 5:
            first->n_tokens = 65;
            break;
        case 6:
            first->n_tokens = UINT64_MAX;
            break;
        case 7:
            first->parent = 0; /* itself */
            break;
        case 8:
            first->parent = 5;
            break;
        case 9:
            first->tokens[3] = -1;
            break;
        case 10:
            first->tokens[3] = (int32_t)gk_engine_info(e)->n_vocab;
            break;
        case 11: /* twice the same */
            (void)memcpy(second, first, n_record);
            second->index = 1;
            break;
        case 12: /* what is private can't be the parent of what is everyone's */
            assert(first->owner == PREFIX_COMMON && second->parent == 0);
            first->owner = 9;
            break;
        case 13: /* nor can what is not whole be a parent */
            first->owner = second->owner = 9;
            first->n_tokens = 63;
            break;
        }
        seed = head->fingerprint.low ^ head->fingerprint.high;
        head->checksum = XXH3_64bits_withSeed(&head->magic, sizeof(*head) - 8, seed);
        first->checksum = XXH3_64bits_withSeed(&first->page_checksum, sizeof(*first) - 8, seed);
        second->checksum = XXH3_64bits_withSeed(&second->page_checksum, sizeof(*second) - 8, seed);
        if (i > 0) {
            assert_refused(e, bytes, n);
            continue;
        }
        write_file(bytes, n);
        assert(load(e) > 700);
        e = gk_engine_close(e);
        e = open_demo();
    }
    free(good);
    free(bytes);
    e = gk_engine_close(e);
}

static void copy_model(const char *to) {
    char command[600];

    (void)snprintf(command, sizeof(command), "cp %s %s", MODEL, to);
    assert(system(command) == 0);
}

/* Another model, another kv_type, the same model written anew; of when it was everyone's. */
static void test_others_files_are_removed(void) {
    const char *copy = temp_path("copy.gguf");
    uint64_t n;
    GkEngine *e;

    begin();
    make_file();
    e = open_model(MODEL, GK_KV_F32, N_PAGES);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE);
    assert(strstr(error.text, "another model") && !is_there("demo.kv"));
    e = gk_engine_close(e);
    make_file();
    e = open_model("tests/golden/grok/model-q8_0.gguf", GK_KV_F16, N_PAGES);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && !is_there("demo.kv"));
    e = gk_engine_close(e);
    make_file();
    e = open_demo();
    file.may_share = true;
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && !is_there("demo.kv"));
    file.may_share = false;
    e = gk_engine_close(e);
    make_file();
    copy_model(copy);
    e = open_model(copy, GK_KV_F16, N_PAGES);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && !is_there("demo.kv"));
    e = gk_engine_close(e);
}

/* What is not ours, or open to others, is neither read nor written to. */
static void test_only_our_own_is_trusted(void) {
    uint64_t n;
    GkEngine *e;

    begin();
    make_file();
    e = open_demo();
    assert(chmod(path_of("demo.kv"), 0640) == 0);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && strstr(error.text, "0640"));
    assert(chmod(path_of("demo.kv"), 0600) == 0);
    assert(link(path_of("demo.kv"), path_of("second")) == 0);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && is_there("demo.kv"));
    assert(unlink(path_of("demo.kv")) == 0 && symlink("second", path_of("demo.kv")) == 0);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && is_there("second"));
    assert(unlink(path_of("demo.kv")) == 0 && mkfifo(path_of("demo.kv"), 0600) == 0);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE);
    assert(unlink(path_of("demo.kv")) == 0);
    assert(chmod(directory, 0750) == 0);
    assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE && strstr(error.text, "0750"));
    (void)ask(e, 1, N_PROMPT, 1, false);
    assert(gk_prefixes_save(e, &file, &n, &error) == GK_E_FILE && !is_there("demo.kv"));
    assert(chmod(directory, 0700) == 0);
    assert(symlink("state", temp_path("link")) == 0);
    file.directory = temp_path("link");
    assert(gk_prefixes_save(e, &file, &n, &error) == GK_E_FILE && !is_there("demo.kv"));
    file.directory = directory;
    assert(symlink("second", path_of("demo.kv.new")) == 0); /* a trap for who writes */
    (void)save(e);
    assert(is_there("demo.kv") && !is_there("demo.kv.new"));
    if (geteuid() == 0) {
        assert(chown(path_of("demo.kv"), 12345, 12345) == 0);
        prefix_clear(&e->prefixes);
        assert(gk_prefixes_load(e, &file, &n, &error) == GK_E_FILE &&
               strstr(error.text, "user 12345"));
    }
    e = gk_engine_close(e);
}

/* ---- several at once ---- */

static int save_beside(GkEngine *e, const char *name) {
    struct gk_prefix_file other = file;
    uint64_t n;

    other.go_on = NULL;
    other.name = name;
    return gk_prefixes_save(e, &other, &n, &error);
}

static bool save_others(void *engine) {
    assert(save_beside(engine, "other.kv") == 0 && is_there("other.kv"));
    assert(save_beside(engine, "demo.kv") == GK_E_FILE && strstr(error.text, "another process"));
    return true;
}

/* While one model's file is written another's can be, but not the same. */
static void test_each_file_for_itself(void) {
    GkEngine *e;

    begin();
    e = open_demo();
    (void)ask(e, 1, 100, 1, false);
    file.go_on = save_others;
    file.userdata = e;
    assert(save(e) > 100);
    assert(save_beside(e, "demo.kv") == 0);
    e = gk_engine_close(e);
}

/* ---- giving up ---- */

static bool go_on_for(void *userdata) {
    int *n = userdata;

    return (*n)-- > 0;
}

/* The old file stays whole. */
static void test_giving_up_changes_nothing(void) {
    uint64_t n;
    GkEngine *e;
    int left = 2;

    begin();
    make_file();
    e = open_demo();
    file.go_on = go_on_for;
    file.userdata = &left;
    assert(gk_prefixes_load(e, &file, &n, &error) == -ECANCELED && n_cached_pages(e) == 0);
    left = 2;
    assert(save(e) == 0 && is_there("demo.kv")); /* nobody has asked for anything since */
    (void)ask(e, 7, N_PROMPT, 1, false);
    left = 2;
    assert(gk_prefixes_save(e, &file, &n, &error) == -ECANCELED);
    file.go_on = NULL;
    assert(!is_there("demo.kv.new"));
    prefix_clear(&e->prefixes);
    assert(load(e) > 700);
    e = gk_engine_close(e);
}

/* ---- when it goes wrong ---- */

static void test_a_full_disk_changes_nothing(void) {
    struct rlimit limit;
    uint64_t n;
    GkEngine *e;

    begin();
    make_file();
    e = open_demo();
    (void)ask(e, 7, N_PROMPT, 1, false);
    assert(getrlimit(RLIMIT_FSIZE, &limit) == 0 && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    limit.rlim_cur = 3 * e->kv.page_bytes;
    assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    assert(gk_prefixes_save(e, &file, &n, &error) == GK_E_FILE && n == 0 && error.text[0]);
    assert(!is_there("demo.kv.new"));
    prefix_clear(&e->prefixes);
    assert(load(e) > 700);
    e = gk_engine_close(e);
}

/* Saves again and again until it is killed, of two states in turn. */
_Noreturn static void save_for_ever(int fd) {
    GkEngine *e;

    pool = NULL; /* its threads are our parent's */
    e = open_demo();
    for (int i = 0;; i++) {
        prefix_clear(&e->prefixes);
        (void)ask(e, i % 2, i % 2 ? 130 : N_PROMPT, 1, false);
        (void)save(e);
        if (i == 0)
            assert(write(fd, "", 1) == 1);
    }
}

/* What is there afterwards is whole. */
static void test_killed_at_any_time(void) {
    GkEngine *e;
    int found[2] = {0};

    begin();
    e = open_demo();
    for (unsigned i = 0; i < 30; i++) {
        int fds[2], status;
        uint64_t n;
        pid_t child;
        char ready;

        assert(pipe(fds) == 0 && (child = fork()) >= 0);
        if (child == 0)
            save_for_ever(fds[1]);
        assert(read(fds[0], &ready, 1) == 1);
        (void)usleep(1000 * (i * 37 % 200));
        assert(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
        assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        (void)close(fds[0]);
        (void)close(fds[1]);
        n = load(e);
        assert(n == 0 || n == N_PROMPT + N_OUTPUT - 1 || n == 130 + N_OUTPUT - 1);
        found[0] += n > 200;
        found[1] += n > 0 && n < 200;
        prefix_clear(&e->prefixes);
    }
    (void)printf("# %d of one, %d of the other\n", found[0], found[1]);
    assert(found[0] + found[1] > 10);
    e = gk_engine_close(e);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(comes_back_as_it_was),
        TEST(what_was_used_last_stays),
        TEST(whatever_is_kept_comes_back),
        TEST(damage_is_refused),
        TEST(contradictions_are_refused),
        TEST(others_files_are_removed),
        TEST(only_our_own_is_trusted),
        TEST(each_file_for_itself),
        TEST(giving_up_changes_nothing),
        TEST(a_full_disk_changes_nothing),
        {"killed_at_any_time", test_killed_at_any_time, 90},
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
