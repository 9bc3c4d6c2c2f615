/* engine/memory, engine/cpus: what the kernel's files say of nodes and of a model's pages. */
#include "engine/memory.h"

#include "base/macro.h"
#include "engine/cpus.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- nodes ---- */

static void write_file(const char *path, const char *text) {
    char directory[4096];
    FILE *f;

    (void)snprintf(directory, sizeof(directory), "%s", path);
    *strrchr(directory, '/') = '\0';
    (void)mkdir(directory, 0700);
    f = fopen(path, "we");
    assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static cpu_set_t cpus_from(int first, int last) {
    cpu_set_t set;

    CPU_ZERO(&set);
    for (int i = first; i <= last; i++)
        CPU_SET(i, &set);
    return set;
}

static void test_cpus_of_a_node_are_neighbours(void) {
    static const int expected[] = {1, 3, 5, 0, 2, 4, 6};
    const char *directory = temp_path("nodes");
    cpu_set_t cpus = cpus_from(0, 6);
    int order[CPU_SETSIZE];

    (void)mkdir(directory, 0700);
    write_file(temp_path("nodes/online"), "0,2\n");
    write_file(temp_path("nodes/node0/cpulist"), "1,3,5,7-9\n"); /* 7 to 9 are not ours */
    write_file(temp_path("nodes/node1/cpulist"), "0-100\n");     /* offline */
    write_file(temp_path("nodes/node2/cpulist"), "0,2,4\n");     /* 6 is nowhere */
    assert(cpus_n_nodes(directory) == 2);
    assert(cpus_by_node(directory, &cpus, order, ARRAY_SIZE(order)) == ARRAY_SIZE(expected));
    assert(memcmp(order, expected, sizeof(expected)) == 0);
    assert(cpus_by_node(directory, &cpus, order, 4) == 4 && order[3] == 0);
}

static void test_no_nodes_is_one(void) {
    static const char *const texts[] = {"", "\n", "x", "0-", "3-1", "-1", "0,,1", "0-99999"};
    const char *directory = temp_path("odd"), *online = temp_path("odd/online");
    cpu_set_t cpus = cpus_from(2, 3);
    int order[2];

    assert(cpus_n_nodes(temp_path("none")) == 1);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        write_file(online, texts[i]);
        assert(cpus_n_nodes(directory) == 1);
        assert(cpus_by_node(directory, &cpus, order, 2) == 2 && order[0] == 2 && order[1] == 3);
    }
    assert(cpus_n_nodes(CPUS_NODES) >= 1);
}

/* ---- pages ---- */

static FILE *text_file(const char *text) {
    FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");

    assert(f);
    return f;
}

static void test_smaps_of_our_ranges(void) {
    static const char text[] =
        "7f0000000000-7f0000400000 r--s 00000000 fe:00 12 /models/a b.gguf\n"
        "Size:               4096 kB\nRss:                3000 kB\nPss:                1500 kB\n"
        "AnonHugePages:         0 kB\nShmemPmdMapped:        0 kB\nFilePmdMapped:      2048 kB\n"
        "Locked:             1500 kB\nVmFlags: rd mr me ms lo sd\n"
        "7f0000400000-7f0000800000 r--s 00400000 fe:00 12 /models/a b.gguf\n"
        "Size:               4096 kB\nRss:                1000 kB\nFilePmdMapped:         0 kB\n"
        "VmFlags: rd mr me ms sd\n"
        "7f0000800000-7f0000c00000 rw-p 00000000 00:00 0 \n"
        "Rss:                4096 kB\nAnonHugePages:      4096 kB\nVmFlags: rd wr mr lo\n"
        "7f0001000000-7f0001001000 r--s 00000000 fe:00 13 /models/part2\n"
        "Rss:                   4 kB\nVmFlags: rd lo\n";
    const struct memory_range ranges[] = {{0x7f0000000000, 0x7f00007ff123},
                                          {0x7f0001000000, 0x7f0001000010}};
    struct gk_memory m = {0};
    FILE *f = text_file(text);

    memory_read_smaps(f, ranges, ARRAY_SIZE(ranges), &m);
    (void)fclose(f);
    assert(m.n_resident_bytes == 4004 * 1024 && m.n_huge_bytes == 2048 * 1024);
    assert(m.n_locked_bytes == 3004 * 1024);
}

static void test_numa_maps_of_our_ranges(void) {
    static const char text[] =
        "7f0000000000 default file=/models/a\\040b.gguf mapped=300 active=0 N0=100 N1=200 "
        "kernelpagesize_kB=4\n"
        "7f0000400000 interleave:0-1 anon=2 N1=1 N3=1 kernelpagesize_kB=2048\n"
        "7f0000800000 default heap anon=9 N0=9 kernelpagesize_kB=4\n"
        "7f0000500000 default file=/N0=77 mapped=5 N99999=5 kernelpagesize_kB=4\n"
        "7f0000600000 default\nnonsense\n";
    const struct memory_range range = {0x7f0000000000, 0x7f0000800000};
    struct gk_memory m = {0};
    FILE *f = text_file(text);

    memory_read_numa_maps(f, &range, 1, &m);
    (void)fclose(f);
    assert(m.node_bytes[0] == 100 * 4096 && m.node_bytes[1] == 200 * 4096 + (2 << 20));
    assert(m.node_bytes[2] == 0 && m.node_bytes[3] == 2 << 20);
}

/* ---- of a model ---- */

#define MODEL "tests/golden/grok/model-q4_0.gguf"

static struct gk_memory memory_of(const char *path, bool lock) {
    struct gk_options o = {.path = path, .preload = true, .hugepages = true, .lock = lock};
    struct gk_memory memory;
    GkEngine *e;

    assert(gk_pool_new(&o.pool, 1, NULL) == 0);
    assert(gk_engine_open(&e, &o, NULL) == 0);
    memory = gk_engine_info(e)->memory;
    assert(memory.n_resident_bytes == 0 || /* no /proc */
           memory.n_resident_bytes >= gk_engine_info(e)->n_file_bytes);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
    return memory;
}

static void test_a_model_is_locked_where_that_is_allowed(void) {
    struct gk_memory free = memory_of(MODEL, false), locked = memory_of(MODEL, true);
    uint64_t on_nodes = 0;

    (void)printf("# %llu bytes resident, %llu locked, %llu huge, %u nodes\n",
                 (unsigned long long)locked.n_resident_bytes,
                 (unsigned long long)locked.n_locked_bytes, (unsigned long long)locked.n_huge_bytes,
                 locked.n_nodes);
    assert(free.n_locked_bytes == 0 && locked.n_nodes >= 1);
    assert(locked.n_locked_bytes == 0 || locked.n_locked_bytes == locked.n_resident_bytes);
    for (size_t i = 0; i < GK_NODES_MAX; i++)
        on_nodes += locked.node_bytes[i];
    assert(on_nodes == 0 || on_nodes == locked.n_resident_bytes);
}

/* The limit is the user's; root has none, so it becomes somebody else. */
static void test_a_model_loads_where_locking_is_not_allowed(void) {
    const struct rlimit none = {0, 0};

    assert(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
        test_skip("root locks what it likes");
    if (access(MODEL, R_OK) != 0)
        test_skip("nobody but root can read the model");
    assert(memory_of(MODEL, true).n_locked_bytes == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(cpus_of_a_node_are_neighbours),
        TEST(no_nodes_is_one),
        TEST(smaps_of_our_ranges),
        TEST(numa_maps_of_our_ranges),
        TEST(a_model_is_locked_where_that_is_allowed),
        TEST(a_model_loads_where_locking_is_not_allowed),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
