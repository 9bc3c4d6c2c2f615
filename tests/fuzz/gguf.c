/* libFuzzer: the GGUF reader over bytes of exactly their size, then all that it says is there. */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/file/table.h"
#include "tests/fuzz/fuzz.h"
#include "tests/util/gguf-write.h"

#include <stdio.h>
#include <string.h>

void fuzz_seed(const char *directory) {
    static const char *const words[] = {"one", "", "three"};
    static const uint64_t shape[] = {32, 2, 3, 1};
    static const float floats[] = {1, 2, 3};
    GgufWriter *w = gguf_writer_new();
    char path[4096];

    gguf_writer_string(w, "general.architecture", "test");
    gguf_writer_u32(w, "general.alignment", 32);
    gguf_writer_strings(w, "words", words, 3);
    gguf_writer_array(w, "floats", GGUF_FLOAT32, floats, 3, sizeof(floats));
    gguf_writer_bool(w, "flag", true);
    (void)gguf_writer_key(w, "f64", GGUF_FLOAT64, "12345678", 8);
    (void)gguf_writer_tensor(w, "a.weight", 0, 2, shape, NULL, 256);
    (void)gguf_writer_tensor(w, "b.weight", 8, 4, shape, NULL, 204);
    (void)snprintf(path, sizeof(path), "%s/honest", directory);
    gguf_writer_save(w, path);
    gguf_writer_free(w);
}

static void walk_key(const struct file_key *k, const uint8_t *bytes, size_t n) {
    const struct file_array *a = &k->value.array;
    struct file_string s;
    uint64_t at = 0, n_strings = 0;
    int32_t i32;
    float f32;

    fuzz_check(k->offset < n);
    if (k->value.type == FILE_VALUE_STRING)
        fuzz_check(k->value.string.n <= n &&
                   memchr(k->value.string.bytes, 0, k->value.string.n) == NULL);
    if (k->value.type != FILE_VALUE_ARRAY)
        return;
    fuzz_check(a->bytes >= bytes && a->n_bytes <= (size_t)(bytes + n - a->bytes));
    while (file_array_next_string(a, &at, &s))
        n_strings++;
    fuzz_check(a->type != FILE_VALUE_STRING || n_strings == a->n);
    for (uint64_t i = 0; i < a->n; i++) {
        (void)file_array_i32(a, i, &i32);
        (void)file_array_f32(a, i, &f32);
    }
    fuzz_check(!file_array_i32(a, a->n, &i32) && !file_array_f32(a, a->n, &f32));
}

static void walk_tensor(const struct file_tensor *t, const uint8_t *bytes, size_t n) {
    const struct kern_type_info *info = &kern_types[t->type];

    fuzz_check(t->n_bytes > 0 && t->offset < n && t->n_bytes <= n - t->offset);
    fuzz_check(t->data == bytes + t->offset && t->name[0] != '\0');
    fuzz_check(t->row_bytes == t->dims[0] / info->block_values * info->block_bytes);
    fuzz_check(t->n_bytes % t->row_bytes == 0);
}

int fuzz_one(const uint8_t *bytes, size_t n) {
    struct file_table t = {.keys = NULL};
    Error error = ERROR_INIT;
    int r = gguf_read(&t, bytes, n, 0, "fuzz", &error);

    fuzz_check(r == 0 || (r == GK_E_FILE && error.text[0] != '\0'));
    if (r == 0) {
        for (size_t i = 0; i < t.n_keys; i++) {
            walk_key(&t.keys[i], bytes, n);
            fuzz_check(file_table_find_key(&t, t.keys[i].name) == &t.keys[i]);
        }
        for (size_t i = 0; i < t.n_tensors; i++)
            walk_tensor(&t.tensors[i], bytes, n);
    }
    file_table_deinit(&t);
    return 0;
}
