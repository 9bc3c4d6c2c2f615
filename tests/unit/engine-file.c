/* engine/file: what good files hold is found; files that fail under us cost no more than zeroes. */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/file/file.h"
#include "engine/file/map.h"
#include "tests/util/gguf-write.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"
#include "tests/util/tiny-model.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static ModelFile *open_good(const char *path) {
    ModelFile *f = NULL;
    Error error = ERROR_INIT;
    int r = model_file_open(&f, path, &error);

    if (r)
        (void)printf("# %s\n", error.text);
    assert(r == 0 && f);
    return f;
}

static void assert_refused(const char *path, const char *reason) {
    ModelFile *f = NULL;
    Error error = ERROR_INIT;
    int r = model_file_open(&f, path, &error);

    (void)printf("# %s\n", error.text);
    assert(r == GK_E_FILE && !f);
    assert(strstr(error.text, reason));
}

/* One tensor of n floats, 0, 1, 2, … */
static GgufWriter *simple_model(const char *tensor, size_t n) {
    GgufWriter *w = gguf_writer_new();
    float *values = calloc(n, sizeof(*values));
    uint64_t dims[] = {n};

    assert(values);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)i;
    gguf_writer_string(w, "general.architecture", "test");
    (void)gguf_writer_tensor(w, tensor, 0, 1, dims, values, n * sizeof(*values));
    free(values);
    return w;
}

static void save_and_free(GgufWriter *w, const char *path) {
    gguf_writer_save(w, path);
    gguf_writer_free(w);
}

/* ---- what good files hold ---- */

static const struct {
    uint32_t type;
    const char *bytes;
    size_t n;
    uint64_t u64;
    bool is_u64;
} numbers[] = {
    {GGUF_UINT8, "\xff", 1, 255, true},
    {GGUF_INT8, "\x7f", 1, 127, true},
    {GGUF_INT8, "\xff", 1, 0, false},
    {GGUF_UINT16, "\xff\xff", 2, 65535, true},
    {GGUF_INT16, "\xff\x7f", 2, 32767, true},
    {GGUF_INT16, "\xff\xff", 2, 0, false},
    {GGUF_UINT32, "\x01\x02\x03\xff", 4, 0xff030201, true},
    {GGUF_INT32, "\x01\x02\x03\x7f", 4, 0x7f030201, true},
    {GGUF_INT32, "\x01\x02\x03\xff", 4, 0, false},
    {GGUF_UINT64, "\x01\x02\x03\x04\x05\x06\x07\xff", 8, 0xff07060504030201, true},
    {GGUF_INT64, "\x01\x02\x03\x04\x05\x06\x07\x7f", 8, 0x7f07060504030201, true},
    {GGUF_INT64, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 0, false},
    {GGUF_FLOAT32, "\0\0\x80\x3f", 4, 0, false},
    {GGUF_BOOL, "\1", 1, 0, false},
};

static void test_numbers_of_every_type(void) {
    GgufWriter *w = simple_model("t", 1);
    const char *path = temp_path("numbers.gguf");
    uint64_t value;
    ModelFile *f;
    char key[16];

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        (void)snprintf(key, sizeof(key), "n.%zu", i);
        (void)gguf_writer_key(w, key, numbers[i].type, numbers[i].bytes, numbers[i].n);
    }
    save_and_free(w, path);
    f = open_good(path);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        (void)snprintf(key, sizeof(key), "n.%zu", i);
        assert(model_file_has(f, key));
        value = 77;
        assert(model_file_get_u64(f, key, &value) == numbers[i].is_u64);
        assert(value == (numbers[i].is_u64 ? numbers[i].u64 : 77));
    }
    assert(!model_file_has(f, "n.99") && !model_file_get_u64(f, "n.99", &value));
    (void)model_file_close(f);
}

static void test_floats_bools_strings(void) {
    GgufWriter *w = simple_model("t", 1);
    const char *path = temp_path("values.gguf");
    double doubles[] = {0.1, -1e300};
    struct file_string s;
    ModelFile *f;
    uint64_t u;
    float x;
    bool b;

    gguf_writer_f32(w, "f32", 1.5f);
    (void)gguf_writer_key(w, "f64", GGUF_FLOAT64, &doubles[0], 8);
    (void)gguf_writer_key(w, "huge", GGUF_FLOAT64, &doubles[1], 8);
    gguf_writer_bool(w, "yes", true);
    gguf_writer_bool(w, "no", false);
    gguf_writer_string(w, "text", "▁añb");
    gguf_writer_string(w, "empty", "");
    save_and_free(w, path);
    f = open_good(path);
    assert(model_file_get_f32(f, "f32", &x) && x == 1.5f);
    assert(model_file_get_f32(f, "f64", &x) && x == 0.1f);
    assert(model_file_get_f32(f, "huge", &x) && isinf(x) && x < 0);
    assert(model_file_get_bool(f, "yes", &b) && b);
    assert(model_file_get_bool(f, "no", &b) && !b);
    assert(model_file_get_string(f, "text", &s) && s.n == 7 && memcmp(s.bytes, "▁añb", 7) == 0);
    assert(model_file_get_string(f, "empty", &s) && s.n == 0);
    assert(!model_file_get_f32(f, "yes", &x) && !model_file_get_f32(f, "absent", &x));
    assert(!model_file_get_bool(f, "f32", &b) && !model_file_get_bool(f, "absent", &b));
    assert(!model_file_get_string(f, "f32", &s) && !model_file_get_string(f, "absent", &s));
    assert(!model_file_get_u64(f, "text", &u));
    (void)model_file_close(f);
}

static void test_arrays(void) {
    static const char *const words[] = {"one", "", "three"};
    static const int32_t ints[] = {-7, 0, INT32_MAX};
    static const uint32_t big[] = {5, 0xffffffff};
    static const float floats[] = {0.5f, -2.0f};
    GgufWriter *w = simple_model("t", 1);
    const char *path = temp_path("arrays.gguf");
    struct file_array a;
    struct file_string s;
    uint64_t at = 0;
    ModelFile *f;
    int32_t i32;
    float x;

    gguf_writer_strings(w, "words", words, 3);
    gguf_writer_array(w, "ints", GGUF_INT32, ints, 3, sizeof(ints));
    gguf_writer_array(w, "big", GGUF_UINT32, big, 2, sizeof(big));
    gguf_writer_array(w, "floats", GGUF_FLOAT32, floats, 2, sizeof(floats));
    gguf_writer_array(w, "none", GGUF_INT8, NULL, 0, 0);
    save_and_free(w, path);
    f = open_good(path);
    assert(model_file_get_array(f, "words", &a) && a.n == 3 && a.type == GGUF_STRING);
    for (size_t i = 0; i < 3; i++) {
        assert(file_array_next_string(&a, &at, &s) && s.n == strlen(words[i]));
        assert(memcmp(s.bytes, words[i], s.n) == 0);
    }
    assert(!file_array_next_string(&a, &at, &s));
    at = UINT64_MAX;
    assert(!file_array_next_string(&a, &at, &s) && !file_array_i32(&a, 0, &i32));
    assert(model_file_get_array(f, "ints", &a) && a.n == 3);
    for (uint64_t i = 0; i < 3; i++)
        assert(file_array_i32(&a, i, &i32) && i32 == ints[i]);
    assert(!file_array_i32(&a, 3, &i32) && !file_array_f32(&a, 0, &x));
    at = 0;
    assert(!file_array_next_string(&a, &at, &s));
    assert(model_file_get_array(f, "big", &a) && file_array_i32(&a, 0, &i32) && i32 == 5);
    assert(!file_array_i32(&a, 1, &i32)); /* does not fit */
    assert(model_file_get_array(f, "floats", &a) && file_array_f32(&a, 1, &x) && x == -2.0f);
    assert(!file_array_f32(&a, 2, &x) && !file_array_i32(&a, 0, &i32));
    assert(model_file_get_array(f, "none", &a) && a.n == 0 && !file_array_i32(&a, 0, &i32));
    assert(!model_file_get_array(f, "general.architecture", &a));
    (void)model_file_close(f);
}

/* Both versions, another alignment, tensors of several types and shapes, bytes after the end. */
static void test_tensors(void) {
    for (uint32_t version = 2; version <= 3; version++) {
        static const uint64_t dims[4] = {32, 3, 2, 5};
        GgufWriter *w = simple_model("x.weight", 6);
        const char *path = temp_path("tensors.gguf");
        const struct file_tensor *t;
        uint8_t *bytes, q8[34 * 30];
        ModelFile *f;
        size_t n;

        for (size_t i = 0; i < sizeof(q8); i++)
            q8[i] = (uint8_t)(i * 7);
        w->version = version;
        w->alignment = 128;
        gguf_writer_u32(w, "general.alignment", 128);
        (void)gguf_writer_tensor(w, "q", 8, 4, dims, q8, sizeof(q8));
        (void)gguf_writer_tensor(w, "h", 1, 2, dims, NULL, 32 * 3 * 2);
        bytes = gguf_writer_bytes(w, &n, NULL);
        gguf_writer_free(w);
        gguf_save_bytes(path, bytes, n);
        assert(truncate(path, (off_t)n + 100) == 0);
        free(bytes);

        f = open_good(path);
        assert(model_file_n_tensors(f) == 3 && model_file_n_bytes(f) == n + 100);
        t = model_file_find(f, "x.weight");
        assert(t && t == model_file_tensor(f, 0) && t->type == KERN_F32 && t->n_dims == 1);
        assert(t->dims[0] == 6 && t->dims[1] == 1 && t->dims[3] == 1 && t->n_bytes == 24);
        for (size_t i = 0; i < 6; i++)
            assert(((const float *)(const void *)t->data)[i] == (float)i);
        t = model_file_find(f, "q");
        assert(t && t->type == KERN_Q8_0 && t->n_dims == 4 && t->row_bytes == 34);
        assert(t->n_bytes == sizeof(q8) && memcmp(t->data, q8, sizeof(q8)) == 0);
        assert((uintptr_t)t->data % 128 == 0 && t->offset % 128 == 0);
        t = model_file_find(f, "h");
        assert(t && t->type == KERN_F16 && t->dims[1] == 3 && t->n_bytes == 192);
        assert(!model_file_find(f, "") && !model_file_find(f, "zz") && !model_file_find(f, "x"));
        assert(!model_file_tensor(f, 3) && !model_file_is_lost(f));
        (void)model_file_close(f);
    }
}

/* A file that others wrote: its facts are those that its maker's tools print. */
static void test_demo_model(void) {
    ModelFile *f = open_good("engine/demo/model-q8_0.gguf");
    const struct file_tensor *t = model_file_find(f, "blk.5.ffn_down_exps.weight");
    struct file_array a;
    uint64_t n;

    assert(model_file_get_u64(f, "grok.block_count", &n) && n == 6);
    assert(model_file_get_array(f, "tokenizer.ggml.tokens", &a) && a.n == 4096);
    assert(t && t->type == KERN_Q8_0 && t->n_dims == 3);
    assert(t->dims[0] == 256 && t->dims[1] == 256 && t->dims[2] == 8);
    assert(model_file_n_tensors(f) == 2 + 6 * 12);
    (void)model_file_close(f);
}

/* Every format that the kernels know, at its size in the file. */
static void test_every_format(void) {
    for (int type = 0; type < KERN_TYPE_N; type++) {
        struct tiny_shape shape = tiny_shape_default("grok", (enum kern_type)type);
        const struct kern_type_info *info = &kern_types[type];
        const char *path = temp_path("%s.gguf", info->name);
        const struct file_tensor *t;
        ModelFile *f;

        save_and_free(tiny_model(&shape), path);
        f = open_good(path);
        t = model_file_find(f, "blk.1.ffn_down_exps.weight");
        assert(t && t->type == (enum kern_type)type && t->dims[2] == 4);
        assert(t->row_bytes == shape.n_ff / info->block_values * info->block_bytes);
        assert(t->n_bytes == t->row_bytes * shape.n_embd * 4);
        (void)model_file_close(f);
    }
}

/* ---- split models ---- */

static GgufWriter *split_part(uint16_t no, uint16_t count, uint32_t n_tensors) {
    GgufWriter *w = gguf_writer_new();

    (void)gguf_writer_key(w, "split.no", GGUF_UINT16, &no, 2);
    (void)gguf_writer_key(w, "split.count", GGUF_UINT16, &count, 2);
    (void)gguf_writer_key(w, "split.tensors.count", GGUF_INT32, &n_tensors, 4);
    return w;
}

static void add_tensor(GgufWriter *w, const char *name, float value) {
    static const uint64_t one[] = {1};

    (void)gguf_writer_tensor(w, name, 0, 1, one, &value, sizeof(value));
}

/* Three parts, the first without tensors as gguf-split --no-tensor-first-split writes it. */
static GgufWriter *split_make(unsigned i_part) {
    GgufWriter *w = split_part((uint16_t)i_part, 3, 3);

    if (i_part == 0)
        gguf_writer_string(w, "general.architecture", "test");
    if (i_part == 1)
        add_tensor(w, "b", 1.0f);
    if (i_part == 2) {
        add_tensor(w, "a", 2.0f);
        add_tensor(w, "c", 3.0f);
    }
    return w;
}

static const char *split_path(unsigned i_part) {
    return temp_path("model-%05u-of-00003.gguf", i_part + 1);
}

static void split_save(void) {
    for (unsigned i = 0; i < 3; i++)
        save_and_free(split_make(i), split_path(i));
}

static void test_split_model(void) {
    const struct file_tensor *t;
    ModelFile *f;

    split_save();
    f = open_good(split_path(0));
    assert(model_file_n_tensors(f) == 3 && model_file_has(f, "general.architecture"));
    t = model_file_find(f, "b");
    assert(t && t->i_part == 1 && *(const float *)(const void *)t->data == 1.0f);
    t = model_file_find(f, "a");
    assert(t && t->i_part == 2 && *(const float *)(const void *)t->data == 2.0f);
    t = model_file_find(f, "c");
    assert(t && t->i_part == 2 && *(const float *)(const void *)t->data == 3.0f);
    assert(!model_file_is_lost(f));
    assert(truncate(split_path(1), 10) == 0);
    assert(model_file_is_lost(f));
    (void)model_file_close(f);
}

static void test_split_models_that_lie(void) {
    GgufWriter *w;
    char other[256];

    split_save();
    assert_refused(split_path(1), "model-00001-of-00003.gguf");
    assert_refused(split_path(1), "is part 2 of 3; open the first");

    (void)snprintf(other, sizeof(other), "%s", temp_path("plain.gguf"));
    save_and_free(split_make(0), other);
    assert_refused(other, "NAME-00001-of-00003.gguf");
    save_and_free(split_make(0), temp_path("m-00001-of-00004.gguf"));
    assert_refused(temp_path("m-00001-of-00004.gguf"), "'split.count' is 3 where");
    save_and_free(simple_model("t", 1), temp_path("m-00001-of-00004.gguf"));
    assert_refused(temp_path("m-00001-of-00004.gguf"), "'split.no' is missing");
    save_and_free(split_make(0), temp_path("m-00005-of-00004.gguf"));
    assert_refused(temp_path("m-00005-of-00004.gguf"), "no part 5 of 4");
    save_and_free(split_make(0), temp_path("m-00001-of-99999.gguf"));
    assert_refused(temp_path("m-00001-of-99999.gguf"), "parts are more than");

    assert(unlink(split_path(2)) == 0);
    assert_refused(split_path(0), "model-00003-of-00003.gguf: cannot open");
    save_and_free(split_make(1), split_path(2)); /* the second in the third's place */
    assert_refused(split_path(0), "model-00003-of-00003.gguf: key 'split.no' is 1");
    w = split_make(2);
    gguf_writer_remove_key(w, "split.no");
    save_and_free(w, split_path(2));
    assert_refused(split_path(0), "'split.no' is missing");
    w = split_make(2);
    gguf_writer_string(w, "split.count", "three");
    save_and_free(w, split_path(2));
    assert_refused(split_path(0), "'split.count' at byte");
    w = split_make(2);
    add_tensor(w, "d", 0);
    save_and_free(w, split_path(2));
    assert_refused(split_path(0), "'split.tensors.count' is 3, but the parts hold 4");
    w = split_make(2);
    gguf_writer_remove_tensor(w, "a");
    add_tensor(w, "b", 0);
    save_and_free(w, split_path(2));
    assert_refused(split_path(0), "tensor 'b' is there twice");
    save_and_free(split_make(2), split_path(2));
    (void)model_file_close(open_good(split_path(0)));
}

/* gguf-split --merge leaves the keys with a count of 0. */
static void test_merged_model(void) {
    GgufWriter *w = split_part(0, 0, 7);

    add_tensor(w, "t", 1);
    save_and_free(w, temp_path("merged.gguf"));
    (void)model_file_close(open_good(temp_path("merged.gguf")));
}

/* ---- what is no file ---- */

static void test_only_regular_files(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert(mkfifo(temp_path("fifo"), 0600) == 0);
    assert_refused(temp_path("fifo"), "is a pipe, not a regular file");
    assert_refused(temp_path("."), "is a directory, not a regular file");
    assert_refused("/dev/zero", "is a device, not a regular file");
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", temp_path("socket"));
    assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    assert_refused(temp_path("socket"), "cannot open");
    assert(close(fd) == 0);
    assert_refused(temp_path("absent"), "cannot open: No such file or directory");
    gguf_save_bytes(temp_path("empty"), NULL, 0);
    assert_refused(temp_path("empty"), "is empty");
    assert(symlink("loop", temp_path("loop")) == 0);
    assert_refused(temp_path("loop"), "cannot open");
    assert_refused(temp_path("a\nb\x1b[31m"), "a\\x0ab\\x1b[31m: cannot open");
}

static void test_symlink_is_followed(void) {
    save_and_free(simple_model("t", 1), temp_path("target.gguf"));
    assert(symlink("target.gguf", temp_path("link.gguf")) == 0);
    (void)model_file_close(open_good(temp_path("link.gguf")));
}

/* More than can be mapped: a sentence, not a crash. In memory, as file systems on disk have lower
 * limits. */
static void test_enormous_sparse_file(void) {
    int fd = memfd_create("sparse", MFD_CLOEXEC);
    char path[64];

    assert(fd >= 0 && pwrite(fd, "GGUF", 4, 0) == 4);
    assert(ftruncate(fd, INT64_MAX) == 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    assert_refused(path, "cannot map its 9223372036854775807 bytes");
}

/* ---- files that fail under us ---- */

static const float *first_values(const ModelFile *f) {
    return (const float *)(const void *)model_file_tensor(f, 0)->data;
}

#define MANY 100000

static void test_truncated_while_mapped(void) {
    const char *path = temp_path("shrinks.gguf"), *other_path = temp_path("stays.gguf");
    ModelFile *f, *other;

    save_and_free(simple_model("t", MANY), path);
    save_and_free(simple_model("t", MANY), other_path);
    f = open_good(path);
    other = open_good(other_path);
    assert(first_values(f)[MANY - 1] == MANY - 1);
    assert(truncate(path, 0) == 0);
    for (size_t i = 0; i < MANY; i++)
        assert(first_values(f)[i] == 0.0f);
    assert(model_file_is_lost(f));
    assert(!model_file_is_lost(other) && first_values(other)[MANY - 1] == MANY - 1);
    (void)model_file_close(f);
    assert(!model_file_is_lost(other) && first_values(other)[1] == 1);
    (void)model_file_close(other);
}

/* Only what is behind the cut reads as zero; the flag tells before anybody looks at the size. */
static void test_truncated_in_the_middle(void) {
    const char *path = temp_path("middle.gguf");
    Error error = ERROR_INIT;
    Mapping *m = NULL;
    size_t n = 64 * 4096;
    uint8_t *bytes = malloc(n);

    assert(bytes);
    (void)memset(bytes, 0x55, n);
    gguf_save_bytes(path, bytes, n);
    free(bytes);
    assert(mapping_open(&m, path, &error) == 0 && mapping_n_bytes(m) == n);
    assert(truncate(path, 32 * 4096) == 0);
    assert(mapping_bytes(m)[n - 1] == 0 && mapping_bytes(m)[32 * 4096 - 1] == 0x55);
    assert(mapping_bytes(m)[32 * 4096] == 0 && mapping_bytes(m)[n - 4097] == 0);
    assert(mapping_is_lost(m));
    (void)mapping_close(m);
}

struct summer {
    const ModelFile *file;
    double sum;
};

static void *sum_values(void *argument) {
    struct summer *s = argument;

    for (size_t i = MANY; i-- > 0;) /* backwards: each page fails by itself */
        s->sum += (double)first_values(s->file)[i];
    return NULL;
}

static void test_threads_survive_truncation(void) {
    const char *path = temp_path("threads.gguf");

    for (int round = 0; round < 20; round++) {
        struct summer s[4];
        pthread_t threads[4];
        ModelFile *f;

        save_and_free(simple_model("t", MANY), path);
        f = open_good(path);
        assert(truncate(path, 4096) == 0);
        for (int i = 0; i < 4; i++) {
            s[i] = (struct summer){f, 0};
            assert(pthread_create(&threads[i], NULL, sum_values, &s[i]) == 0);
        }
        for (int i = 0; i < 4; i++)
            assert(pthread_join(threads[i], NULL) == 0);
        assert(model_file_is_lost(f));
        (void)model_file_close(f);
    }
}

/* No page fails where the cut is within the last page, or the content is exchanged. */
static void test_silent_changes_are_noticed(void) {
    const char *path = temp_path("silent.gguf");
    ModelFile *f;
    struct stat status;
    int fd;

    save_and_free(simple_model("t", 16), path);
    f = open_good(path);
    assert(stat(path, &status) == 0 && truncate(path, status.st_size - 8) == 0);
    assert(first_values(f)[15] == 0.0f && model_file_is_lost(f));
    (void)model_file_close(f);

    save_and_free(simple_model("t", 16), path);
    f = open_good(path);
    assert(!model_file_is_lost(f));
    (void)usleep(20000); /* times of modification have the clock tick's grain */
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert(fd >= 0 && pwrite(fd, "x", 1, status.st_size - 1) == 1 && close(fd) == 0);
    assert(model_file_is_lost(f));
    (void)model_file_close(f);
}

/* The right way to exchange a model harms nobody. */
static void test_replaced_by_rename(void) {
    const char *path = temp_path("old.gguf"), *new_path = temp_path("new.gguf");
    ModelFile *f;

    save_and_free(simple_model("t", 16), path);
    save_and_free(simple_model("u", 8), new_path);
    f = open_good(path);
    assert(rename(new_path, path) == 0);
    assert(!model_file_is_lost(f) && first_values(f)[15] == 15.0f);
    (void)model_file_close(f);
}

static atomic_bool stop;

static void *shrink_and_grow(void *argument) {
    const char *path = argument;

    while (!atomic_load(&stop)) {
        save_and_free(simple_model("t", 4096), path);
    }
    return NULL;
}

/* Opening while another process writes: an answer, one way or the other. */
static void test_shrinks_while_opened(void) {
    char path[256];
    pthread_t thread;
    unsigned n_refused = 0;

    (void)snprintf(path, sizeof(path), "%s", temp_path("race.gguf"));
    save_and_free(simple_model("t", 4096), path);
    assert(pthread_create(&thread, NULL, shrink_and_grow, path) == 0);
    for (int i = 0; i < 3000; i++) {
        ModelFile *f = NULL;
        Error error = ERROR_INIT;
        int r = model_file_open(&f, path, &error);

        assert(r == 0 || (r == GK_E_FILE && error.text[0] != '\0'));
        n_refused += r != 0;
        if (f)
            assert(model_file_find(f, "t"));
        (void)model_file_close(f);
    }
    atomic_store(&stop, true);
    assert(pthread_join(thread, NULL) == 0);
    (void)printf("# %u of 3000 refused\n", n_refused);
}

/* ---- preload ---- */

static uint64_t preload_done, preload_total, preload_calls;
static char preload_path[256];

static bool on_progress(void *userdata, uint64_t done, uint64_t total) {
    assert(userdata == &preload_done && done > preload_done);
    preload_done = done;
    preload_total = total;
    preload_calls++;
    if (preload_path[0] != '\0' && preload_calls == 1)
        assert(truncate(preload_path, 4096) == 0);
    return true;
}

static bool give_up(void *userdata, uint64_t done, uint64_t total) {
    (void)done;
    (void)total;
    return ++*(unsigned *)userdata < 2;
}

static void test_preload(void) {
    const char *path = temp_path("preload.gguf");
    unsigned n_calls = 0;
    ModelFile *f;

    save_and_free(simple_model("t", MANY), path);
    assert(truncate(path, 100 << 20) == 0);
    f = open_good(path);
    assert(model_file_preload(f, on_progress, &preload_done));
    assert(preload_calls >= 4 && preload_done == 100 << 20 && preload_total == preload_done);
    assert(model_file_preload(f, NULL, NULL));
    assert(!model_file_preload(f, give_up, &n_calls) && n_calls == 2);
    assert(!model_file_is_lost(f));
    (void)model_file_close(f);
}

static void test_preload_survives_truncation(void) {
    const char *path = temp_path("preload.gguf");
    ModelFile *f;

    save_and_free(simple_model("t", MANY), path);
    assert(truncate(path, 100 << 20) == 0);
    (void)snprintf(preload_path, sizeof(preload_path), "%s", path);
    f = open_good(path);
    assert(model_file_preload(f, on_progress, &preload_done));
    assert(preload_calls == 1 && model_file_is_lost(f));
    (void)model_file_close(f);
}

/* ---- SIGBUS that is not ours ---- */

static uint8_t *foreign_bad_page(void) {
    const char *path = temp_path("foreign");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    uint8_t *p;

    assert(fd >= 0 && ftruncate(fd, 4096) == 0);
    p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert(p != MAP_FAILED && ftruncate(fd, 0) == 0 && close(fd) == 0);
    return p;
}

static ModelFile *open_any(void) {
    save_and_free(simple_model("t", 1), temp_path("any.gguf"));
    return open_good(temp_path("any.gguf"));
}

static int status_of_child(void (*run)(void)) {
    int status;
    pid_t pid = fork();

    assert(pid >= 0);
    if (pid == 0) {
        run();
        _exit(0);
    }
    assert(waitpid(pid, &status, 0) == pid);
    return status;
}

static void default_then_fault(void) {
    (void)signal(SIGBUS, SIG_DFL); /* a sanitizer's own handler would exit */
    (void)open_any();
    (void)*(volatile uint8_t *)foreign_bad_page();
}

static void default_then_kill(void) {
    (void)signal(SIGBUS, SIG_DFL);
    (void)open_any();
    (void)raise(SIGBUS);
}

static void ignore_then_kill(void) {
    (void)signal(SIGBUS, SIG_IGN);
    (void)open_any();
    (void)raise(SIGBUS);
}

static void exit_42(int signal_number) {
    _exit(signal_number == SIGBUS ? 42 : 1);
}

static void exit_43(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    _exit(info && context ? 43 : 1);
}

static void handler_then_fault(void) {
    (void)signal(SIGBUS, exit_42);
    (void)open_any();
    (void)*(volatile uint8_t *)foreign_bad_page();
}

static void siginfo_handler_then_fault(void) {
    struct sigaction action = {.sa_sigaction = exit_43, .sa_flags = SA_SIGINFO};

    (void)sigaction(SIGBUS, &action, NULL);
    (void)open_any();
    (void)*(volatile uint8_t *)foreign_bad_page();
}

static void test_other_faults_go_where_they_went(void) {
    int status = status_of_child(default_then_fault);

    assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = status_of_child(default_then_kill);
    assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = status_of_child(ignore_then_kill);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    status = status_of_child(handler_then_fault);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = status_of_child(siginfo_handler_then_fault);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 43);
}

/* ---- resources ---- */

static void test_slots_and_descriptors_come_back(void) {
    const char *path = temp_path("often.gguf");
    int before, after;

    save_and_free(simple_model("t", 1), path);
    before = dup(0);
    assert(before >= 0 && close(before) == 0);
    for (int i = 0; i < 2 * MAPPING_MAX; i++)
        (void)model_file_close(open_good(path));
    after = dup(0);
    assert(after == before && close(after) == 0);
}

static void test_every_allocation_may_fail(void) {
    size_t n = 1;

    split_save();
    for (;; n++) {
        ModelFile *f = NULL;
        Error error = ERROR_INIT;
        int r;

        alloc_fail_after(n);
        r = model_file_open(&f, split_path(0), &error);
        alloc_fail_after(0);
        if (r == 0) {
            (void)model_file_close(f);
            break;
        }
        assert(r == -ENOMEM && !f);
    }
    assert(n > 10);
}

static const struct test tests[] = {
    TEST(numbers_of_every_type),
    TEST(floats_bools_strings),
    TEST(arrays),
    TEST(tensors),
    TEST(demo_model),
    TEST(every_format),
    TEST(split_model),
    TEST(split_models_that_lie),
    TEST(merged_model),
    TEST(only_regular_files),
    TEST(symlink_is_followed),
    TEST(enormous_sparse_file),
    TEST(truncated_while_mapped),
    TEST(truncated_in_the_middle),
    TEST(threads_survive_truncation),
    TEST(silent_changes_are_noticed),
    TEST(replaced_by_rename),
    TEST(shrinks_while_opened),
    TEST(preload),
    TEST(preload_survives_truncation),
    TEST(other_faults_go_where_they_went),
    TEST(slots_and_descriptors_come_back),
    TEST(every_allocation_may_fail),
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
