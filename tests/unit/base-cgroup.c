/* Control groups: trees of both versions as a kernel shows them, written by hand. */
#include "base/cgroup.h"
#include "base/macro.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void write_file(const char *path, const char *text) {
    char directory[4096];
    FILE *f;

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        (void)snprintf(directory, sizeof(directory), "%.*s", (int)(slash - path), path);
        (void)mkdir(directory, 0700);
    }
    f = fopen(path, "we");
    assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* Writes a group's files; NULL: it has none of that name. */
static void write_group(const char *directory, const char *max, const char *high,
                        const char *current, const char *stat) {
    const char *const files[][2] = {{"memory.max", max},
                                    {"memory.high", high},
                                    {"memory.current", current},
                                    {"memory.stat", stat}};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (files[i][1])
            write_file(temp_path("%s/%s", directory, files[i][0]), files[i][1]);
}

static void assert_available(const char *mount, uint64_t n, const char *what) {
    struct cgroup_memory m = cgroup_memory(temp_path("list"), temp_path("%s", mount));

    assert(m.n_available == n);
    assert(!what || strcmp(m.what, temp_path("%s/%s", mount, what)) == 0);
}

static void test_memory_v2(void) {
    write_file(temp_path("list"), "0::/a.slice/b.service\n");
    assert_available("v2", UINT64_MAX, NULL); /* no files at all */
    write_group("v2/a.slice/b.service", "max\n", "max\n", "700\n", "anon 700\nfile 0\n");
    assert_available("v2", UINT64_MAX, NULL);
    write_group("v2/a.slice/b.service", "1000\n", NULL, NULL, NULL);
    assert_available("v2", 300, "a.slice/b.service/memory.max");
    /* What a mapped file has of it can be had again; what is in tmpfs cannot. */
    write_group("v2/a.slice/b.service", NULL, NULL, "950\n",
                "anon 500\nfile 450\nshmem 50\ninactive_anon 500\nactive_anon 50\n"
                "inactive_file 150\nactive_file 250\nunevictable 0\n");
    assert_available("v2", 450, "a.slice/b.service/memory.max");
    write_group("v2/a.slice/b.service", NULL, "800\n", NULL, NULL);
    assert_available("v2", 250, "a.slice/b.service/memory.high");
    /* The group above has others in it. */
    write_group("v2/a.slice", "4000\n", "max\n", "3900\n", "inactive_file 10\nactive_file 20\n");
    assert_available("v2", 130, "a.slice/memory.max");
    write_group("v2/a.slice", NULL, NULL, "4100\n", NULL); /* more than there may be */
    assert_available("v2", 0, "a.slice/memory.max");
    write_group("v2/a.slice", "max\n", NULL, NULL, NULL);
    assert_available("v2", 250, NULL);
    write_file(temp_path("list"), "0::/\n"); /* a container's own root */
    write_group("v2", "600\n", NULL, "100\n", "");
    assert_available("v2", 500, "/memory.max");
}

static void test_memory_v1(void) {
    write_file(temp_path("list"), "7:cpu,cpuacct:/x\n6:memory:/docker/1\n0::/y\n");
    assert_available("v1", UINT64_MAX, NULL);
    write_file(temp_path("v1/memory/memory.limit_in_bytes"), "9223372036854771712\n");
    write_file(temp_path("v1/memory/memory.usage_in_bytes"), "5000\n");
    assert_available("v1", 9223372036854771712ull - 5000, NULL);
    write_file(temp_path("v1/memory/docker/1/memory.limit_in_bytes"), "1000\n");
    write_file(temp_path("v1/memory/docker/1/memory.usage_in_bytes"), "900\n");
    write_file(temp_path("v1/memory/docker/1/memory.stat"),
               "cache 400\nactive_file 1\ninactive_file 2\n"
               "total_active_file 100\ntotal_inactive_file 200\n");
    assert_available("v1", 400, "memory/docker/1/memory.limit_in_bytes");
}

static void test_nonsense_is_no_limit(void) {
    static const char *const limits[] = {"", "\n", "max", "x", "-5"};

    write_file(temp_path("list"), "nonsense\n0::\n:::\n0::/a\n");
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        write_group("bad/a", limits[i], limits[i], "10", NULL);
        assert_available("bad", UINT64_MAX, NULL);
    }
    write_group("bad/a", "100", "max", "x", "inactive_file -1\nactive_file 99999999999999999999\n");
    assert_available("bad", 100, NULL); /* whatever is said to be in use */
    assert(cgroup_memory(temp_path("none"), temp_path("bad")).n_available == UINT64_MAX);
}

struct seen {
    char text[1024];
};

static void note(void *userdata, const char *directory, bool is_v1) {
    struct seen *seen = userdata;

    (void)snprintf(seen->text + strlen(seen->text), sizeof(seen->text) - strlen(seen->text),
                   "%s%s ", is_v1 ? "1:" : "2:", directory);
}

static void test_walks_up(void) {
    struct seen seen = {""};

    write_file(temp_path("list"), "3:cpuset,cpu:/x/y\n2:memory:/z\n0::/a/b\n");
    cgroup_walk(temp_path("list"), "/m", "cpu", note, &seen);
    assert(strcmp(seen.text, "1:/m/cpu/x/y 1:/m/cpu/x 1:/m/cpu 2:/m/a/b 2:/m/a 2:/m ") == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(memory_v2),
        TEST(memory_v1),
        TEST(nonsense_is_no_limit),
        TEST(walks_up),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
