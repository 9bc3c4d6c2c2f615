/* engine/memory, engine/homes, engine/cpus: what the kernel's files say of nodes and of a model's
 * pages, who reads which of them, and how much an engine takes besides. */
#include "engine/memory.h"

#include "base/macro.h"
#include "engine/bind.h"
#include "engine/cpus.h"
#include "engine/expert.h"
#include "engine/file/map.h"
#include "engine/homes.h"
#include "engine/internal.h"
#include "tests/util/memlock.h"
#include "tests/util/proc.h"
#include "tests/util/team.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
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

/* CPU@NODE, in their order. */
static void expect_spread(const char *directory, const cpu_set_t *cpus, size_t n,
                          const char *expected) {
    struct cpu_place places[CPU_SETSIZE];
    size_t n_places = cpus_spread(directory, cpus, n, places);
    char text[256] = "";

    for (size_t i = 0; i < n_places; i++)
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%d@%d",
                       i > 0 ? " " : "", places[i].cpu, places[i].node);
    (void)printf("# %zu CPUs: %s\n", n, text);
    assert(strcmp(text, expected) == 0);
}

static void test_cpus_are_spread_over_the_nodes(void) {
    const char *directory = temp_path("nodes");
    cpu_set_t cpus = cpus_from(0, 6);

    (void)mkdir(directory, 0700);
    write_file(temp_path("nodes/online"), "0,2\n");
    write_file(temp_path("nodes/node0/cpulist"), "1,3,5,7-9\n"); /* 7 to 9 are not ours */
    write_file(temp_path("nodes/node1/cpulist"), "0-100\n");     /* offline */
    write_file(temp_path("nodes/node2/cpulist"), "0,2\n");       /* 4 and 6 are nowhere */
    assert(cpus_n_nodes(directory) == 2);
    expect_spread(directory, &cpus, CPU_SETSIZE, "1@0 3@0 5@0 0@2 2@2 4@-1 6@-1");
    expect_spread(directory, &cpus, 6, "1@0 3@0 0@2 2@2 4@-1 6@-1");
    expect_spread(directory, &cpus, 4, "1@0 3@0 0@2 4@-1");
    expect_spread(directory, &cpus, 2, "1@0 0@2");
    expect_spread(directory, &cpus, 1, "1@0");
    CPU_CLR(4, &cpus);
    CPU_CLR(6, &cpus);
    expect_spread(directory, &cpus, 3, "1@0 3@0 0@2");
    expect_spread(directory, &cpus, 4, "1@0 3@0 0@2 2@2");
    CPU_ZERO(&cpus);
    expect_spread(directory, &cpus, 4, "");
}

static void test_no_nodes_is_one(void) {
    static const char *const texts[] = {"", "\n", "x", "0-", "3-1", "-1", "0,,1", "0-99999"};
    const char *directory = temp_path("odd"), *online = temp_path("odd/online");
    cpu_set_t cpus = cpus_from(2, 3);

    assert(cpus_n_nodes(temp_path("none")) == 1);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        write_file(online, texts[i]);
        assert(cpus_n_nodes(directory) == 1);
        expect_spread(directory, &cpus, 2, "2@-1 3@-1");
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

/* ---- homes ---- */

/* Two layers of four experts whose matrices are several blocks of rows, some fewer than nodes. */
static const char *big_model(void) {
    struct tiny_shape shape = tiny_shape_default("llama", KERN_Q8_0);
    const char *path = temp_path("homes.gguf");
    GgufWriter *w;

    shape.n_ff = 7 * TILE_FF + 32;
    shape.n_embd = 2 * TILE_OUT;
    shape.n_vocab = 5 * TILE_OUT + 1;
    w = tiny_model(&shape);
    gguf_writer_save(w, path);
    gguf_writer_free(w);
    return path;
}

/* A model's file and weights, without an engine. */
struct bound {
    ModelFile *file;
    struct manifest manifest;
    Shape shape;
    Weights weights;
};

static void bound_init(struct bound *b) {
    *b = (struct bound){.file = NULL};
    assert(model_file_open(&b->file, big_model(), NULL) == 0);
    assert(bind_shape(b->file, &b->manifest, &b->shape, NULL) == 0);
    assert(bind_weights(b->file, &b->manifest, &b->shape, &b->weights, NULL) == 0);
}

static void bound_deinit(struct bound *b) {
    weights_deinit(&b->weights);
    b->file = model_file_close(b->file);
}

/* The home of the page where a block begins is that of the block, or of the one that reaches into
 * the page; returns how many are the block's. */
static size_t check_weight(const Homes *homes, const struct weight *w, uint32_t tile,
                           unsigned n_nodes) {
    size_t n_blocks = (w->n_out + tile - 1) / tile, page = (size_t)sysconf(_SC_PAGESIZE),
           n_same = 0;

    for (size_t i = 0; i < n_blocks; i++) {
        const uint8_t *begin = w->data + i * tile * w->row_bytes, *end;
        unsigned node;

        begin += page - 1 - ((uintptr_t)begin + page - 1) % page; /* a page that is all in it */
        end = homes_range(homes, begin, begin + 1, &node);
        assert(end == begin + 1 && node < n_nodes);
        if (begin + page <= w->data + MIN((i + 1) * tile, (size_t)w->n_out) * w->row_bytes) {
            assert(node == i * n_nodes / n_blocks);
            n_same++;
        }
    }
    return n_same;
}

static void check_homes(const struct bound *b, unsigned n_threads, unsigned n_nodes) {
    GkPool *pool = test_team(n_threads, n_nodes);
    Homes *homes = homes_new(&b->shape, &b->weights, pool);
    const struct layer *l = &b->weights.layers[1];
    size_t n_bytes, n_same = 0, page = (size_t)sysconf(_SC_PAGESIZE);
    const uint8_t *begin = model_file_part(b->file, 0, &n_bytes);
    unsigned seen = 0;

    assert(homes && pool_n_nodes(pool) == n_nodes);
    for (const uint8_t *at = begin, *next; at < begin + n_bytes; at = next) {
        unsigned node, again;

        next = homes_range(homes, at, begin + n_bytes, &node);
        assert(next > at && next <= begin + n_bytes && node < n_nodes);
        assert(next == begin + n_bytes || (uintptr_t)next % page == 0);
        (void)homes_range(homes, at + (size_t)(next - 1 - at) / page * page, next, &again);
        assert(again == node);
        seen |= 1u << node;
    }
    assert(seen == (1u << n_nodes) - 1);
    for (uint32_t i = 0; i < b->shape.n_experts; i++) {
        n_same += check_weight(homes, expert_weight(l, i, EXPERT_GATE), TILE_FF, n_nodes);
        n_same += check_weight(homes, expert_weight(l, i, EXPERT_UP), TILE_FF, n_nodes);
        n_same += check_weight(homes, expert_weight(l, i, EXPERT_DOWN), TILE_OUT, n_nodes);
    }
    n_same += check_weight(homes, &b->weights.output, TILE_OUT, n_nodes);
    assert(n_same > 60);
    homes = homes_free(homes);
    pool = gk_pool_free(pool);
}

static void test_rows_have_the_home_of_their_tasks(void) {
    struct bound b;

    bound_init(&b);
    for (unsigned n_nodes = 2; n_nodes <= 4; n_nodes++)
        check_homes(&b, 2 * n_nodes, n_nodes);
    check_homes(&b, 5, 3);
    bound_deinit(&b);
}

static const Homes *true_homes;

static int first_node(const void *page) {
    (void)page;
    return 0;
}

static int own_node(const void *page) {
    return homes_node_of(true_homes, page);
}

static int no_node(const void *page) {
    (void)page;
    return -1;
}

static void test_pages_at_home_and_away_are_counted(void) {
    GkPool *pool = test_team(4, 2);
    struct memory_range range;
    struct bound b;
    Homes *homes;
    size_t n;

    bound_init(&b);
    homes = homes_new(&b.shape, &b.weights, pool);
    true_homes = homes;
    range.begin = (uintptr_t)model_file_part(b.file, 0, &n);
    range.end = range.begin + n;
    for (int i = 0; i < 3; i++) {
        int (*const node_of[])(const void *) = {first_node, own_node, no_node};
        struct gk_memory m = {0};

        memory_count_homes(homes, &range, 1, node_of[i], &m);
        (void)printf("# %llu bytes at home, %llu away\n", (unsigned long long)m.n_home_bytes,
                     (unsigned long long)m.n_away_bytes);
        assert(m.n_home_bytes + m.n_away_bytes == (i < 2 ? n : 0));
        assert(i == 0 ? m.n_home_bytes > n / 3 && m.n_away_bytes > n / 3 : m.n_away_bytes == 0);
    }
    homes = homes_free(homes);
    bound_deinit(&b);
    pool = gk_pool_free(pool);
}

struct progress {
    uint64_t n_done, n_total;
    size_t n_calls, n_calls_max;
};

static bool on_progress(void *userdata, uint64_t n_done, uint64_t n_total) {
    struct progress *p = userdata;

    assert(n_done >= p->n_done && n_done <= n_total);
    p->n_done = n_done;
    p->n_total = n_total;
    return ++p->n_calls < p->n_calls_max;
}

static void test_each_node_reads_its_pages(void) {
    struct progress all = {.n_calls_max = SIZE_MAX}, few = {.n_calls_max = 2};
    struct gk_options o = {.path = big_model(), .preload = true, .on_progress = on_progress};
    const struct gk_memory *m;
    Error error = ERROR_INIT;
    GkEngine *e = NULL;

    o.pool = test_team(6, 3);
    o.userdata = &all;
    assert(gk_engine_open(&e, &o, &error) == 0);
    m = &gk_engine_info(e)->memory;
    assert(all.n_total == gk_engine_info(e)->n_file_bytes && all.n_done == all.n_total);
    assert(m->n_resident_bytes == 0 || m->n_resident_bytes >= all.n_total);
    assert(m->n_home_bytes + m->n_away_bytes == 0 || /* no kernel that tells */
           m->n_home_bytes + m->n_away_bytes == all.n_total);
    e = gk_engine_close(e);
    o.userdata = &few;
    assert(gk_engine_open(&e, &o, &error) == -ECANCELED && strstr(error.text, "given up"));
    o.pool = gk_pool_free(o.pool);
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

    if (free.n_resident_bytes == 0)
        test_skip("there is no /proc/self/smaps to tell");
    if (!test_may_lock(free.n_resident_bytes))
        test_skip("the limit of locked memory is less than the model");
    (void)printf("# %llu bytes resident, %llu locked, %llu huge, %u nodes\n",
                 (unsigned long long)locked.n_resident_bytes,
                 (unsigned long long)locked.n_locked_bytes, (unsigned long long)locked.n_huge_bytes,
                 locked.n_nodes);
    assert(free.n_locked_bytes == 0 && locked.n_nodes >= 1);
    assert(locked.n_locked_bytes > 0 && locked.n_locked_bytes == locked.n_resident_bytes);
    for (size_t i = 0; i < GK_NODES_MAX; i++)
        on_nodes += locked.node_bytes[i];
    assert(on_nodes == 0 || on_nodes == locked.n_resident_bytes);
}

/* ---- huge pages ---- */

#define HUGE_FILE_BYTES (96u << 20) /* several chunks of a preload */
#define TRIES           3           /* for others take huge pages, too */

/* Returns NULL where there is no room for it. */
static const char *large_file(void) {
    static const char mebibyte[1 << 20] = {1};
    const char *path = temp_path("large");
    FILE *f = fopen(path, "we");
    bool is_whole = f != NULL;

    for (size_t n = 0; is_whole && n < HUGE_FILE_BYTES; n += sizeof(mebibyte))
        is_whole = fwrite(mebibyte, 1, sizeof(mebibyte), f) == sizeof(mebibyte);
    is_whole = is_whole && fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (f && fclose(f) != 0)
        is_whole = false;
    return is_whole ? path : NULL;
}

/* Dropped from the page cache, where its file system lets go of it, and read: by faults, of which
 * each reads two huge pages, or by preload. Returns what is in huge pages then. */
static uint64_t huge_bytes_of(const char *path, bool preload) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    FILE *smaps = fopen("/proc/self/smaps", "re");
    struct gk_memory memory = {.n_huge_bytes = 0};
    struct memory_range range;
    Mapping *m = NULL;

    assert(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 && close(fd) == 0);
    assert(mapping_open(&m, path, NULL) == 0);
    mapping_ask_huge(m);
    if (preload)
        assert(mapping_preload(m, 0, HUGE_FILE_BYTES, NULL, NULL));
    for (size_t i = 0; !preload && i < HUGE_FILE_BYTES; i += 4u << 20)
        (void)((const volatile uint8_t *)mapping_bytes(m))[i];
    for (size_t i = 0; i < HUGE_FILE_BYTES; i += (size_t)sysconf(_SC_PAGESIZE))
        assert(((const volatile uint8_t *)mapping_bytes(m))[i] == (i % (1 << 20) == 0));
    range.begin = (uintptr_t)mapping_bytes(m);
    range.end = range.begin + HUGE_FILE_BYTES;
    if (smaps) {
        memory_read_smaps(smaps, &range, 1, &memory);
        (void)fclose(smaps);
    }
    m = mapping_close(m);
    return memory.n_huge_bytes;
}

static void test_preload_takes_the_huge_pages_that_there_are(void) {
    const char *path = large_file();
    uint64_t by_faults = 0, by_preload = 0;

    if (!path)
        test_skip("there is no room for a large file");
    for (int i = 0; i < TRIES && by_preload < HUGE_FILE_BYTES; i++) {
        by_faults = MAX(by_faults, huge_bytes_of(path, false));
        by_preload = MAX(by_preload, huge_bytes_of(path, true));
    }
    (void)unlink(path);
    (void)printf("# of %u MiB in huge pages: %" PRIu64 " by faults, %" PRIu64 " by preload\n",
                 HUGE_FILE_BYTES >> 20, by_faults >> 20, by_preload >> 20);
    if (by_faults < HUGE_FILE_BYTES / 4 * 3)
        test_skip("the kernel, or this file system, has no huge pages for files, or few");
    assert(by_preload >= by_faults / 8 * 7);
}

/* Whether huge pages were asked for where `at` is mapped; -1: there is nobody to tell. */
static int wants_huge_pages(const void *at) {
    FILE *smaps = fopen("/proc/self/smaps", "re");
    uintptr_t begin, end;
    char line[4096];
    int ret = -1;

    for (bool inside = false; smaps && ret < 0 && fgets(line, sizeof(line), smaps);) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2)
            inside = (uintptr_t)at >= begin && (uintptr_t)at < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            ret = strstr(line, " hg") != NULL;
    }
    if (smaps)
        (void)fclose(smaps);
    return ret;
}

static void test_the_kv_cache_is_huge_where_that_is_asked_for(void) {
    int wants[2];

    for (int i = 0; i < 2; i++) {
        struct gk_options o = {.path = MODEL, .hugepages = i == 1};
        GkEngine *e;

        assert(gk_pool_new(&o.pool, 1, NULL) == 0);
        assert(gk_engine_open(&e, &o, NULL) == 0);
        wants[i] = wants_huge_pages(e->kv.memory);
        e = gk_engine_close(e);
        o.pool = gk_pool_free(o.pool);
    }
    assert(wants[0] != 1);
    if (wants[1] != 1)
        test_skip("the kernel has no huge pages, or nobody tells");
}

/* ---- memory of our own ---- */

#define OWN_BYTES_MAX (300u << 20)
#define KV_BYTES      (16u << 20)

/* One layer of Grok-1's widths, and two experts: what steps take hardly depends on how many there
 * are of either. A file with a hole where its weights are, since nothing is computed. NULL: no file
 * may be so large. */
static const char *grok_1(void) {
    static const struct { uint32_t tiny, full; } widths[] = {{256, 6144}, {512, 32768}};
    struct tiny_shape shape = tiny_shape_default("grok", KERN_Q4_K);
    const char *path = temp_path("grok-1.gguf");
    uint64_t n_bytes = 0, n_header;
    struct stat st;
    GgufWriter *w;

    shape.n_layers = 1;
    shape.n_experts = 2;
    shape.n_embd = widths[0].tiny;
    shape.n_ff = widths[1].tiny;
    shape.n_heads = 48;
    shape.n_kv_heads = 8;
    shape.head_size = 128;
    shape.n_vocab = 131072;
    shape.n_context = 8192;
    w = tiny_model(&shape);
    gguf_writer_u32(w, "grok.embedding_length", widths[0].full);
    gguf_writer_u32(w, "grok.feed_forward_length", widths[1].full);
    for (size_t i = 0; i < w->n_tensors; i++) {
        struct gguf_tensor *t = &w->tensors[i];
        uint64_t n = t->n_bytes;

        for (uint32_t j = 0; j < t->n_dims; j++)
            for (size_t k = 0; k < ARRAY_SIZE(widths); k++)
                if (t->dims[j] == widths[k].tiny) {
                    t->dims[j] = widths[k].full;
                    n = n / widths[k].tiny * widths[k].full;
                    break;
                }
        t->n_bytes = 0; /* only its record is written */
        t->offset = n_bytes;
        n_bytes += n;
    }
    gguf_writer_save(w, path);
    gguf_writer_free(w);
    assert(stat(path, &st) == 0);
    n_header = (uint64_t)st.st_size;
    return truncate(path, (off_t)(n_header + n_bytes)) == 0 ? path : NULL;
}

/* What an engine takes besides its file and the KV cache, resident or not, for steps of 512 rows,
 * which take nothing more (engine-steady); without sequences. */
static void test_grok_1_takes_little_memory_of_its_own(void) {
    struct gk_options o = {.n_rows_max = 512, .kv_bytes_max = KV_BYTES};
    int64_t kib_before;
    GkEngine *e;
    uint64_t n;

    if (TEST_SANITIZED)
        test_skip("the sanitizer takes memory beside all that is taken");
    o.path = grok_1();
    if (!o.path)
        test_skip("no file may have the size of Grok-1's layer");
    o.pool = test_team(2, 1);
    (void)malloc_trim(0); /* or the engine would be given what the writer had */
    kib_before = proc_number("/proc/self/status", "VmData"); /* private and may be written to */
    if (kib_before < 0)
        test_skip("there is no /proc/self/status to tell");
    assert(gk_engine_open(&e, &o, NULL) == 0);
    n = (uint64_t)(proc_number("/proc/self/status", "VmData") - kib_before) * 1024;
    (void)printf("# %" PRIu64 " MiB, of them KV cache %u; the file has %" PRIu64 "\n", n >> 20,
                 KV_BYTES >> 20, gk_engine_info(e)->n_file_bytes >> 20);
    (void)fflush(stdout);
    assert(gk_engine_info(e)->n_file_bytes > 1u << 30);
    assert(n >= KV_BYTES + e->scratch.n_bytes && n <= KV_BYTES + OWN_BYTES_MAX);
    e = gk_engine_close(e);
    o.pool = gk_pool_free(o.pool);
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
        TEST(cpus_are_spread_over_the_nodes),
        TEST(no_nodes_is_one),
        TEST(smaps_of_our_ranges),
        TEST(numa_maps_of_our_ranges),
        TEST(rows_have_the_home_of_their_tasks),
        TEST(pages_at_home_and_away_are_counted),
        TEST(each_node_reads_its_pages),
        TEST(a_model_is_locked_where_that_is_allowed),
        TEST(preload_takes_the_huge_pages_that_there_are),
        TEST(the_kv_cache_is_huge_where_that_is_asked_for),
        TEST(grok_1_takes_little_memory_of_its_own),
        TEST(a_model_loads_where_locking_is_not_allowed),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
