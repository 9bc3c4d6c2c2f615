/*
 * engine/file: files that lie are refused, with a sentence that says where.
 *
 * Each case takes a small honest file, spoils one thing and names what the refusal must say. After
 * those come all prefixes and thousands of changed bytes, where the file may also be accepted: then
 * all that it claims to hold must be there to read.
 */
#include "engine/engine.h"
#include "engine/file/file.h"
#include "tests/util/gguf-write.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TYPE_F32    0
#define TYPE_F16    1
#define TYPE_Q8_0   8
#define TYPE_IQ4_XS 23
#define TYPE_I8     24

static const uint64_t shape_a[] = {4, 3}, shape_b[] = {32, 2}, shape_c[] = {5};

/* Keys at bytes 24, 68 and 124, tensors at 146, 194 and 242, data at 288. */
static GgufWriter *honest(void) {
    static const char *const words[] = {"one", "two"};
    GgufWriter *w = gguf_writer_new();

    gguf_writer_string(w, "general.architecture", "test");
    gguf_writer_strings(w, "some.words", words, 2);
    gguf_writer_bool(w, "some.flag", true);
    (void)gguf_writer_tensor(w, "a.weight", TYPE_F32, 2, shape_a, NULL, 48);
    (void)gguf_writer_tensor(w, "b.weight", TYPE_Q8_0, 2, shape_b, NULL, 68);
    (void)gguf_writer_tensor(w, "c", TYPE_F16, 1, shape_c, NULL, 10);
    return w;
}

static int try_bytes(const void *bytes, size_t n, ModelFile **ret, Error *error) {
    const char *path = temp_path("hostile.gguf");

    gguf_save_bytes(path, bytes, n);
    return model_file_open(ret, path, error);
}

static void bytes_refused(const char *name, const void *bytes, size_t n, const char *reason) {
    ModelFile *f = NULL;
    Error error = ERROR_INIT;
    int r;

    (void)printf("# %s: ", name);
    (void)fflush(stdout); /* names the case where the next line crashes */
    r = try_bytes(bytes, n, &f, &error);
    (void)printf("%s\n", r ? error.text : "accepted");
    (void)fflush(stdout);
    assert(r == GK_E_FILE && !f);
    assert(strstr(error.text, "hostile.gguf: "));
    assert(strstr(error.text, reason));
    for (const char *p = error.text; *p != '\0'; p++)
        assert((unsigned char)*p >= ' ' && *p != 0x7f);
}

/* Takes the writer. */
static void refused(const char *name, GgufWriter *w, const char *reason) {
    size_t n;
    uint8_t *bytes = gguf_writer_bytes(w, &n, NULL);

    gguf_writer_free(w);
    bytes_refused(name, bytes, n, reason);
    free(bytes);
}

static void test_the_honest_file_is_accepted(void) {
    GgufWriter *w = honest();
    size_t n;
    uint8_t *bytes = gguf_writer_bytes(w, &n, NULL);
    Error error = ERROR_INIT;
    ModelFile *f = NULL;

    gguf_writer_free(w);
    assert(try_bytes(bytes, n, &f, &error) == 0 && model_file_n_tensors(f) == 3);
    free(bytes);
    (void)model_file_close(f);
}

/* ---- the header ---- */

static void test_header(void) {
    static const struct {
        const char *name;
        uint32_t version;
        const char *reason;
    } versions[] = {
        {"version 0", 0, "header at byte 0: GGUF version 0"},
        {"version 1", 1, "GGUF version 1 is not supported"},
        {"version 4", 4, "GGUF version 4"},
        {"version 2^32-1", UINT32_MAX, "GGUF version 4294967295"},
        {"big-endian version 3", 3u << 24, "big-endian"},
        {"big-endian version 2", 2u << 24, "big-endian"},
    };
    uint8_t bytes[4096];
    GgufWriter *w;

    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        w = honest();
        w->version = versions[i].version;
        refused(versions[i].name, w, versions[i].reason);
    }
    w = honest();
    (void)memcpy(w->magic, "GGML", 4);
    refused("another magic", w, "header at byte 0: not a GGUF file: it starts with 'GGML'");
    w = honest();
    (void)memcpy(w->magic, "\x1b[2J", 4);
    refused("a magic for the terminal", w, "'\\x1b[2J'");
    (void)memset(bytes, 0xff, sizeof(bytes));
    bytes_refused("all 0xff", bytes, sizeof(bytes), "not a GGUF file");
    (void)memset(bytes, 0, sizeof(bytes));
    bytes_refused("all zero", bytes, sizeof(bytes), "not a GGUF file");
    bytes_refused("one byte", "G", 1, "header at byte 0: the file ends inside it");
    bytes_refused("the magic alone", "GGUF", 4, "the file ends inside it");
}

static void test_counts(void) {
    static const struct {
        const char *name;
        uint64_t n;
        const char *tensors_reason, *keys_reason;
    } counts[] = {
        {"2^63", 1ull << 63, "9223372036854775808 tensors are more than 65536",
         "9223372036854775808 keys are more than 65536"},
        {"2^64-2", UINT64_MAX - 1, "tensors are more than 65536", "keys are more than 65536"},
        {"just over the limit", FILE_TENSORS_MAX + 1, "65537 tensors are more than 65536",
         "65537 keys are more than 65536"},
        {"the limit", FILE_TENSORS_MAX, "65536 tensors do not fit into",
         "65536 keys do not fit into"},
        {"more than fit", 40, "40 tensors do not fit into", "40 keys do not fit into"},
        {"one more than there are", 4, "tensor 4 of 4 at byte", "tensor 1 of 3 at byte 168"},
    };
    GgufWriter *w;

    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        w = honest();
        w->n_tensors_claimed = counts[i].n;
        refused(counts[i].name, w, counts[i].tensors_reason);
        w = honest();
        w->n_keys_claimed = counts[i].n;
        refused(counts[i].name, w, counts[i].keys_reason);
    }
    w = honest();
    w->n_tensors_claimed = 0;
    refused("no tensors", w, "holds no tensors");
    w = honest();
    w->n_keys_claimed = 0;
    refused("no keys", w, "header at byte 0: the file has no keys");
    w = honest();
    w->n_keys_claimed = 2;
    refused("one key less than there are", w, "tensor 'some.flag' at byte");
}

/* ---- keys ---- */

static void add_name(GgufWriter *w, const void *name, size_t n) {
    (void)gguf_writer_key_raw(w, name, n, GGUF_BOOL, "\1", 1);
}

static void test_key_names(void) {
    char *big = calloc(65537, 1);
    GgufWriter *w;

    assert(big);
    (void)memset(big, 'k', 65536);
    w = honest();
    w->keys[1].n_name_claimed = UINT64_MAX - 1;
    refused("length 2^64-2", w, "key 2 of 3 at byte 68: its name has 18446744073709551614 bytes");
    w = honest();
    w->keys[1].n_name_claimed = 1 << 20;
    refused("length beyond the file", w, "key 2 of 3 at byte 68: its name has 1048576 bytes");
    w = honest();
    add_name(w, "", 0);
    refused("empty", w, "key 4 of 4 at byte 146: its name is empty");
    w = honest();
    add_name(w, "a\0b", 3);
    refused("zero byte", w, "key 'a\\x00b' at byte 146: its name holds the byte 0x00");
    w = honest();
    add_name(w, "a\nb", 3);
    refused("newline", w, "key 'a\\x0ab' at byte 146: its name holds the byte 0x0a");
    w = honest();
    add_name(w, "\x1b[31m", 5);
    refused("escape sequence", w, "key '\\x1b[31m' at byte 146");
    w = honest();
    add_name(w, "a\xff\xfe", 3);
    refused("invalid UTF-8", w, "key 'a\\xff\\xfe' at byte 146: its name holds the byte 0xff");
    w = honest();
    add_name(w, "a key", 5);
    refused("space", w, "its name holds the byte 0x20");
    w = honest();
    add_name(w, big, 65536);
    refused("65536 bytes", w, "its name has 65536 bytes, more than 65535");
    w = honest();
    add_name(w, "some.flag", 9);
    refused("duplicate", w, "key 'some.flag' at byte 146: is there already at byte 124");
    w = honest();
    (void)gguf_writer_key_raw(w, "general.architecture", 20, GGUF_UINT32, "\0\0\0\0", 4);
    refused("duplicate of another type", w, "key 'general.architecture' at byte 146: is there al");
    free(big);
}

static void test_scalar_values(void) {
    static const uint32_t unknown[] = {13, 14, 255, 1u << 31, UINT32_MAX};
    GgufWriter *w;

    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
        char reason[96];

        w = honest();
        (void)gguf_writer_key(w, "strange", unknown[i], "12345678", 8);
        (void)snprintf(reason, sizeof(reason),
                       "key 'strange' at byte 146: has the unknown value type %u", unknown[i]);
        refused("unknown type", w, reason);
    }
    w = honest();
    (void)gguf_writer_key(w, "some.flag", GGUF_BOOL, "\2", 1);
    refused("bool of 2", w, "key 'some.flag' at byte 124: a bool is 2, not 0 or 1");
    w = honest();
    (void)gguf_writer_key(w, "some.flag", GGUF_BOOL, "\xff", 1);
    refused("bool of 255", w, "a bool is 255");
    w = honest();
    (void)gguf_writer_key(w, "text", GGUF_STRING, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    refused("string of 2^64-1", w, "key 'text' at byte 146: its string has 18446744073709551615 ");
    w = honest();
    (void)gguf_writer_key(w, "text", GGUF_STRING, "\3\0\0\0\0\0\0\0a\xc3(", 11);
    refused("string of invalid UTF-8", w, "key 'text' at byte 146: its string is not valid UTF-8");
    w = honest();
    (void)gguf_writer_key(w, "text", GGUF_STRING, "\3\0\0\0\0\0\0\0a\0b", 11);
    refused("string with a zero byte", w, "its string holds a zero byte");
}

static void test_arrays(void) {
    static const struct {
        const char *name;
        uint32_t type;
        uint64_t n;
        const char *reason;
    } arrays[] = {
        {"of arrays", GGUF_ARRAY, 1, "key 'list' at byte 146: is an array of arrays"},
        {"of type 13", 13, 1, "is an array of the unknown value type 13"},
        {"of type 2^32-1", UINT32_MAX, 1, "of the unknown value type 4294967295"},
        {"2^64-1 bytes", GGUF_UINT8, UINT64_MAX, "of 18446744073709551615 values"},
        {"2^61 of 8 bytes wrap to 0", GGUF_UINT64, 1ull << 61, "of 2305843009213693952 values"},
        {"2^62+1 of 4 bytes wrap to 4", GGUF_FLOAT32, (1ull << 62) + 1, "values where the file"},
        {"2^40 empty strings", GGUF_STRING, 1ull << 40, "of 1099511627776 values where the file"},
        {"2^61 strings wrap to 0", GGUF_STRING, 1ull << 61, "of 2305843009213693952 values"},
        {"strings that overrun", GGUF_STRING, 20, "a string of its array has"},
    };
    GgufWriter *w;

    for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
        w = honest();
        gguf_writer_array(w, "list", arrays[i].type, "abcdefgh", arrays[i].n, 8);
        refused(arrays[i].name, w, arrays[i].reason);
    }
    w = honest();
    gguf_writer_array(w, "list", GGUF_BOOL, "\1\0\2", 3, 3);
    refused("bools", w, "key 'list' at byte 146: a bool is 2");
}

/* 100000 arrays in each other: refused at the second, without recursion. */
static void test_nested_arrays(void) {
    enum { DEPTH = 100000 };
    uint8_t *bytes = calloc(DEPTH, 12);
    GgufWriter *w = honest();

    assert(bytes);
    for (size_t i = 0; i < DEPTH; i++) {
        bytes[12 * i] = GGUF_ARRAY;
        bytes[12 * i + 4] = 1;
    }
    (void)gguf_writer_key(w, "deep", GGUF_ARRAY, bytes, DEPTH * 12);
    refused("depth 100000", w, "key 'deep' at byte 146: is an array of arrays");
    free(bytes);
}

static void test_alignment(void) {
    static const uint32_t bad[] = {0, 1, 2, 4, 13, 33, 1u << 21, 1u << 31, UINT32_MAX};
    GgufWriter *w;
    int32_t i32 = 32;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char reason[96];

        w = honest();
        gguf_writer_u32(w, "general.alignment", bad[i]);
        (void)snprintf(reason, sizeof(reason),
                       "key 'general.alignment' at byte 146: is %u, not a power of two", bad[i]);
        refused("alignment", w, reason);
    }
    w = honest();
    (void)gguf_writer_key(w, "general.alignment", GGUF_INT32, &i32, 4);
    refused("INT32", w, "key 'general.alignment' at byte 146: is not of type UINT32");
    w = honest();
    gguf_writer_string(w, "general.alignment", "32");
    refused("string", w, "key 'general.alignment' at byte 146: is not of type UINT32");
    w = honest(); /* laid out by 32 */
    gguf_writer_u32(w, "general.alignment", 64);
    refused("another layout", w, "tensor 'c' at byte");
}

/* ---- tensors ---- */

static void test_tensor_names(void) {
    static const struct {
        const char *name;
        const char *bytes;
        size_t n;
        const char *reason;
    } names[] = {
        {"empty", "", 0, "tensor 2 of 3 at byte 194: its name is empty"},
        {"64 bytes", "0123456789012345678901234567890123456789012345678901234567890123", 64,
         "its name has 64 bytes, more than 63"},
        {"upwards", "../../etc/passwd", 16, "tensor '../../etc/passwd' at byte 194: its name hol"},
        {"newline", "a\nb", 3, "tensor 'a\\x0ab' at byte 194: its name holds the byte 0x0a"},
        {"escape sequence", "\x1b]0;x\a", 6, "tensor '\\x1b]0;x\\x07' at byte 194"},
        {"zero byte", "a\0b", 3, "tensor 'a\\x00b'"},
        {"invalid UTF-8", "\xc0\x80", 2, "tensor '\\xc0\\x80'"},
        {"text direction", "\xe2\x80\xae", 3, "tensor '\\xe2\\x80\\xae'"},
        {"duplicate", "a.weight", 8, "tensor 'a.weight' is there twice"},
    };
    GgufWriter *w;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct gguf_tensor *t;

        w = honest();
        t = &w->tensors[1];
        t->name = realloc(t->name, names[i].n + 1);
        assert(t->name);
        (void)memcpy(t->name, names[i].bytes, names[i].n);
        t->n_name = names[i].n;
        refused(names[i].name, w, names[i].reason);
    }
    w = honest();
    w->tensors[1].n_name_claimed = UINT64_MAX - 1;
    refused("length 2^64-2", w, "tensor 2 of 3 at byte 194: its name has 18446744073709551614");
}

static void shape_refused(const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                          const char *reason) {
    GgufWriter *w = honest();
    struct gguf_tensor *t = &w->tensors[1];

    t->type = type;
    t->n_dims = n_dims;
    (void)memcpy(t->dims, dims, MIN(n_dims, 8u) * sizeof(*dims));
    refused(name, w, reason);
}

#define DIMS(...) ((const uint64_t[8]){__VA_ARGS__})

static void test_shapes(void) {
    shape_refused("0 dimensions", TYPE_F32, 0, DIMS(0),
                  "tensor 'b.weight' at byte 194: has 0 dimensions, not 1 to 4");
    shape_refused("5 dimensions", TYPE_F32, 5, DIMS(1, 1, 1, 1, 1), "has 5 dimensions");
    shape_refused("2^32-1 dimensions", TYPE_F32, UINT32_MAX, DIMS(1, 1, 1, 1, 1, 1, 1, 1),
                  "has 4294967295 dimensions");
    shape_refused("no columns", TYPE_F32, 2, DIMS(0, 4), "its dimension 0 is 0");
    shape_refused("no rows", TYPE_F32, 2, DIMS(4, 0), "its dimension 1 is 0");
    shape_refused("the last is 0", TYPE_F32, 4, DIMS(4, 1, 1, 0), "its dimension 3 is 0");
    shape_refused("-1", TYPE_F32, 1, DIMS(UINT64_MAX), "more bytes than can be counted");
    shape_refused("INT64_MAX", TYPE_F32, 1, DIMS(INT64_MAX), "more bytes than can be counted");
    shape_refused("INT64_MAX twice", TYPE_F32, 2, DIMS(INT64_MAX, 2), "than can be counted");
    shape_refused("2^32 by 2^32", TYPE_F32, 2, DIMS(1ull << 32, 1ull << 32), "be counted");
    shape_refused("the product wraps to a small one", TYPE_F32, 3,
                  DIMS(4, (1u << 30) - 1, (1u << 30) + 1), "tensor 'b.weight': its 1844674407");
    shape_refused("the product wraps to 0", TYPE_F16, 4,
                  DIMS(1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16), "than can be counted");
    shape_refused("almost all of 2^64", TYPE_F16, 2, DIMS((1ull << 63) - 32, 1),
                  "reach beyond the end");
    shape_refused(
        "larger than the file", TYPE_F32, 2, DIMS(4, 1000),
        "tensor 'b.weight': its 16000 bytes at 288 + 64 reach beyond the end of the file");
    shape_refused("half a block", TYPE_Q8_0, 2, DIMS(16, 2),
                  "its rows of 16 values are not a multiple of Q8_0's blocks of 32");
    shape_refused("a block and one", TYPE_Q8_0, 2, DIMS(33, 2), "its rows of 33 values");
    shape_refused("half a super-block", 12, 2, DIMS(128, 2),
                  "its rows of 128 values are not a multiple of Q4_K's blocks of 256");
}

static void test_types(void) {
    static const uint32_t unknown[] = {4, 5, 1000, 1u << 31, UINT32_MAX};

    shape_refused("IQ4_XS", TYPE_IQ4_XS, 2, DIMS(256, 2),
                  "tensor 'b.weight' at byte 194: has type IQ4_XS, which is not supported");
    /* Two of these of 2^63 bytes less some once wrapped a sum of sizes in a peer. */
    shape_refused("I8", TYPE_I8, 1, DIMS(0x7fffffffffffffc0), "has type I8, which is not suppor");
    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
        shape_refused("removed or unknown", unknown[i], 1, DIMS(32),
                      "tensor 'b.weight' at byte 194: has ");
    shape_refused("unknown by number", 1000, 1, DIMS(32), "has the unknown type 1000");
}

static void offset_refused(const char *name, size_t i, uint64_t offset, const char *reason) {
    GgufWriter *w = honest();

    w->tensors[i].offset = offset;
    refused(name, w, reason);
}

/* The data lie at 288: a at 0, b at 64, c at 160, and the file ends at 458. */
static void test_offsets(void) {
    offset_refused("unaligned", 1, 65,
                   "tensor 'b.weight' at byte 194: its offset 65 is not a mult");
    offset_refused("half aligned", 1, 80, "its offset 80 is not a multiple of the alignment 32");
    offset_refused("on another", 1, 0, "overlaps tensor");
    offset_refused("into another", 1, 32, "tensor 'b.weight' at byte 320 overlaps tensor 'a.weigh");
    offset_refused("over the next", 1, 96, "tensor 'c' at byte 448 overlaps tensor 'b.weight' at ");
    offset_refused("at the end", 2, 192, "tensor 'c': its 10 bytes at 288 + 192 reach beyond the ");
    offset_refused("beyond the end", 2, 1 << 20, "reach beyond the end of the file at byte 458");
    offset_refused("before the data", 0, (uint64_t)-32, "reach beyond the end");
    offset_refused("wraps to the start", 0, (uint64_t)-288, "reach beyond the end");
    offset_refused("2^63", 0, 1ull << 63, "reach beyond the end");
}

/* ---- every prefix, many changed bytes ---- */

static void test_every_prefix_is_refused(void) {
    GgufWriter *w = honest();
    size_t n;
    uint8_t *bytes = gguf_writer_bytes(w, &n, NULL);

    gguf_writer_free(w);
    for (size_t i = 0; i < n; i++) {
        /* Of its own size, so that a sanitizer sees a byte too many. */
        ModelFile *f = NULL;
        Error error = ERROR_INIT;

        assert(try_bytes(bytes, i, &f, &error) == GK_E_FILE && !f);
        assert(strstr(error.text, i == 0 ? "is empty" : "hostile.gguf: "));
    }
    free(bytes);
}

static unsigned read_all_tensors(const ModelFile *f) {
    unsigned sum = 0;

    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct file_tensor *t = model_file_tensor(f, i);

        assert(model_file_find(f, t->name) == t && t->row_bytes > 0);
        assert((uintptr_t)t->data % 8 == 0);
        for (uint64_t j = 0; j < t->n_bytes; j++)
            sum += t->data[j];
    }
    return sum;
}

static void read_all_words(const ModelFile *f) {
    struct file_array a;
    struct file_string s;
    uint64_t at = 0, n = 0;

    if (!model_file_get_array(f, "some.words", &a) || a.type != GGUF_STRING)
        return;
    while (file_array_next_string(&a, &at, &s))
        n++;
    assert(n == a.n && at == a.n_bytes);
}

/* Sets every byte of the header to a few values; returns how many of the files were accepted. */
static size_t try_mutants(uint8_t *bytes, size_t n, size_t n_header) {
    static const uint8_t values[] = {0x00, 0x01, 0x07, 0x08, 0x20, 0x7f, 0x80, 0xfe, 0xff};
    size_t n_accepted = 0;

    for (size_t i = 0; i < n_header; i++) {
        for (size_t j = 0; j < ARRAY_SIZE(values) + 8; j++) {
            uint8_t old = bytes[i];
            ModelFile *f = NULL;
            Error error = ERROR_INIT;
            int r;

            bytes[i] = j < 8 ? (uint8_t)(old ^ (1u << j)) : values[j - 8];
            r = try_bytes(bytes, n, &f, &error);
            assert(r == 0 || (r == GK_E_FILE && error.text[0] != '\0'));
            if (f) {
                n_accepted++;
                (void)read_all_tensors(f);
                read_all_words(f);
            }
            (void)model_file_close(f);
            bytes[i] = old;
        }
    }
    return n_accepted;
}

static void test_changed_bytes(void) {
    GgufWriter *w = honest();
    size_t n, n_header, n_accepted;
    uint8_t *bytes = gguf_writer_bytes(w, &n, &n_header);

    gguf_writer_free(w);
    n_accepted = try_mutants(bytes, n, n_header);
    (void)printf("# %zu of %zu accepted\n", n_accepted, n_header * 17);
    assert(n_accepted > 0); /* a letter of a name */
    free(bytes);
}

/* ---- memory ---- */

static size_t address_space_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    size_t n_pages;

    assert(f && fscanf(f, "%zu", &n_pages) == 1);
    (void)fclose(f);
    return n_pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* No file of 1 KiB makes us ask for more than 1 MiB: with no more to be had, none of the answers is
 * "out of memory". */
static void test_small_files_take_little_memory(void) {
    GgufWriter *w = honest();
    static uint8_t bytes[1024];
    struct rlimit limit;
    size_t n, n_header;
    uint8_t *made = gguf_writer_bytes(w, &n, &n_header);
    void *volatile p; /* volatile: or a compiler knows better than to ask */

    gguf_writer_free(w);
    if (TEST_SANITIZED)
        test_skip("the sanitizer's own memory cannot be limited");
    assert(n <= sizeof(bytes));
    (void)memcpy(bytes, made, n);
    free(made);
    limit.rlim_cur = limit.rlim_max = address_space_bytes() + (1 << 20);
    assert(setrlimit(RLIMIT_AS, &limit) == 0);
    p = malloc(2 << 20);
    assert(!p); /* the limit works */
    (void)try_mutants(bytes, sizeof(bytes), n_header);
}

static const struct test tests[] = {
    TEST(the_honest_file_is_accepted),
    TEST(header),
    TEST(counts),
    TEST(key_names),
    TEST(scalar_values),
    TEST(arrays),
    TEST(nested_arrays),
    TEST(alignment),
    TEST(tensor_names),
    TEST(shapes),
    TEST(types),
    TEST(offsets),
    TEST(every_prefix_is_refused),
    TEST(changed_bytes),
    TEST(small_files_take_little_memory),
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
