/* See gguf-write.h. */
#include "tests/util/gguf-write.h"

#include "tests/util/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct blob {
    uint8_t *bytes;
    size_t n;
};

static void *copy(const void *bytes, size_t n) {
    uint8_t *p = calloc(n + 1, 1);

    assert(p);
    if (bytes && n > 0)
        (void)memcpy(p, bytes, n);
    return p;
}

static void blob_append(struct blob *b, const void *bytes, size_t n) {
    b->bytes = realloc(b->bytes, b->n + n + 1);
    assert(b->bytes);
    if (n > 0)
        (void)memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

static void blob_number(struct blob *b, uint64_t value, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));

        blob_append(b, &byte, 1);
    }
}

static void blob_align(struct blob *b, size_t alignment) {
    while (b->n % alignment != 0)
        blob_number(b, 0, 1);
}

GgufWriter *gguf_writer_new(void) {
    GgufWriter *w = calloc(1, sizeof(*w));

    assert(w);
    (void)memcpy(w->magic, "GGUF", 4);
    w->version = 3;
    w->n_keys_claimed = w->n_tensors_claimed = GGUF_TRUE_VALUE;
    w->alignment = 32;
    return w;
}

void gguf_writer_free(GgufWriter *w) {
    for (size_t i = 0; i < w->n_keys; i++) {
        free(w->keys[i].name);
        free(w->keys[i].value);
    }
    for (size_t i = 0; i < w->n_tensors; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].bytes);
    }
    free(w->keys);
    free(w->tensors);
    free(w);
}

/* ---- keys ---- */

static struct gguf_key *find_key(GgufWriter *w, const char *name) {
    for (size_t i = 0; i < w->n_keys; i++)
        if (strcmp(w->keys[i].name, name) == 0)
            return &w->keys[i];
    return NULL;
}

struct gguf_key *gguf_writer_key_raw(GgufWriter *w, const void *name, size_t n_name, uint32_t type,
                                     const void *value, size_t n) {
    struct gguf_key *k;

    w->keys = realloc(w->keys, (w->n_keys + 1) * sizeof(*w->keys));
    assert(w->keys);
    k = &w->keys[w->n_keys++];
    *k = (struct gguf_key){copy(name, n_name), n_name, GGUF_TRUE_VALUE, type, copy(value, n), n};
    return k;
}

struct gguf_key *gguf_writer_key(GgufWriter *w, const char *key, uint32_t type, const void *value,
                                 size_t n) {
    struct gguf_key *k = find_key(w, key);

    if (!k)
        return gguf_writer_key_raw(w, key, strlen(key), type, value, n);
    free(k->value);
    k->type = type;
    k->value = copy(value, n);
    k->n_value = n;
    return k;
}

void gguf_writer_u32(GgufWriter *w, const char *key, uint32_t value) {
    (void)gguf_writer_key(w, key, GGUF_UINT32, &value, sizeof(value));
}

void gguf_writer_f32(GgufWriter *w, const char *key, float value) {
    (void)gguf_writer_key(w, key, GGUF_FLOAT32, &value, sizeof(value));
}

void gguf_writer_bool(GgufWriter *w, const char *key, bool value) {
    uint8_t byte = value;

    (void)gguf_writer_key(w, key, GGUF_BOOL, &byte, 1);
}

void gguf_writer_string(GgufWriter *w, const char *key, const char *value) {
    struct blob b = {NULL, 0};

    blob_number(&b, strlen(value), 8);
    blob_append(&b, value, strlen(value));
    (void)gguf_writer_key(w, key, GGUF_STRING, b.bytes, b.n);
    free(b.bytes);
}

void gguf_writer_array(GgufWriter *w, const char *key, uint32_t type, const void *elements,
                       uint64_t n, size_t n_bytes) {
    struct blob b = {NULL, 0};

    blob_number(&b, type, 4);
    blob_number(&b, n, 8);
    blob_append(&b, elements, n_bytes);
    (void)gguf_writer_key(w, key, GGUF_ARRAY, b.bytes, b.n);
    free(b.bytes);
}

void gguf_writer_strings(GgufWriter *w, const char *key, const char *const *strings, size_t n) {
    struct blob b = {NULL, 0};

    for (size_t i = 0; i < n; i++) {
        blob_number(&b, strlen(strings[i]), 8);
        blob_append(&b, strings[i], strlen(strings[i]));
    }
    gguf_writer_array(w, key, GGUF_STRING, b.bytes, n, b.n);
    free(b.bytes);
}

void gguf_writer_remove_key(GgufWriter *w, const char *key) {
    struct gguf_key *k = find_key(w, key);
    size_t i;

    assert(k);
    i = (size_t)(k - w->keys);
    free(k->name);
    free(k->value);
    (void)memmove(k, k + 1, (w->n_keys - i - 1) * sizeof(*k));
    w->n_keys--;
}

/* ---- tensors ---- */

struct gguf_tensor *gguf_writer_tensor(GgufWriter *w, const char *name, uint32_t type,
                                       uint32_t n_dims, const uint64_t *dims, const void *bytes,
                                       size_t n_bytes) {
    struct gguf_tensor *t;

    assert(n_dims <= 8);
    w->tensors = realloc(w->tensors, (w->n_tensors + 1) * sizeof(*w->tensors));
    assert(w->tensors);
    t = &w->tensors[w->n_tensors++];
    *t = (struct gguf_tensor){.name = copy(name, strlen(name)),
                              .n_name = strlen(name),
                              .n_name_claimed = GGUF_TRUE_VALUE,
                              .n_dims = n_dims,
                              .type = type,
                              .offset = GGUF_TRUE_VALUE,
                              .bytes = copy(bytes, n_bytes),
                              .n_bytes = n_bytes};
    (void)memcpy(t->dims, dims, n_dims * sizeof(*dims));
    return t;
}

struct gguf_tensor *gguf_writer_find_tensor(GgufWriter *w, const char *name) {
    for (size_t i = 0; i < w->n_tensors; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return &w->tensors[i];
    return NULL;
}

void gguf_writer_remove_tensor(GgufWriter *w, const char *name) {
    struct gguf_tensor *t = gguf_writer_find_tensor(w, name);
    size_t i;

    assert(t);
    i = (size_t)(t - w->tensors);
    free(t->name);
    free(t->bytes);
    (void)memmove(t, t + 1, (w->n_tensors - i - 1) * sizeof(*t));
    w->n_tensors--;
}

/* ---- the file ---- */

static uint64_t claim(uint64_t claimed, uint64_t truth) {
    return claimed == GGUF_TRUE_VALUE ? truth : claimed;
}

static size_t padded(size_t n, size_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

static void write_entries(struct blob *b, const GgufWriter *w) {
    size_t at = 0;

    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct gguf_tensor *t = &w->tensors[i];

        blob_number(b, claim(t->n_name_claimed, t->n_name), 8);
        blob_append(b, t->name, t->n_name);
        blob_number(b, t->n_dims, 4);
        for (uint32_t j = 0; j < t->n_dims && j < 8; j++)
            blob_number(b, t->dims[j], 8);
        blob_number(b, t->type, 4);
        blob_number(b, claim(t->offset, at), 8);
        at += padded(t->n_bytes, w->alignment);
    }
}

uint8_t *gguf_writer_bytes(const GgufWriter *w, size_t *ret_n, size_t *ret_n_header) {
    struct blob b = {NULL, 0};

    blob_append(&b, w->magic, 4);
    blob_number(&b, w->version, 4);
    blob_number(&b, claim(w->n_tensors_claimed, w->n_tensors), 8);
    blob_number(&b, claim(w->n_keys_claimed, w->n_keys), 8);
    for (size_t i = 0; i < w->n_keys; i++) {
        const struct gguf_key *k = &w->keys[i];

        blob_number(&b, claim(k->n_name_claimed, k->n_name), 8);
        blob_append(&b, k->name, k->n_name);
        blob_number(&b, k->type, 4);
        blob_append(&b, k->value, k->n_value);
    }
    write_entries(&b, w);
    if (ret_n_header)
        *ret_n_header = b.n;
    for (size_t i = 0; i < w->n_tensors; i++) {
        blob_align(&b, w->alignment);
        blob_append(&b, w->tensors[i].bytes, w->tensors[i].n_bytes);
    }
    *ret_n = b.n;
    return b.bytes;
}

void gguf_save_bytes(const char *path, const void *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert(fd >= 0);
    for (size_t at = 0; at < n;) {
        ssize_t written = write(fd, (const uint8_t *)bytes + at, n - at);

        assert(written > 0);
        at += (size_t)written;
    }
    assert(close(fd) == 0);
}

void gguf_writer_save(const GgufWriter *w, const char *path) {
    size_t n;
    uint8_t *bytes = gguf_writer_bytes(w, &n, NULL);

    gguf_save_bytes(path, bytes, n);
    free(bytes);
}
