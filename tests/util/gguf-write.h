/*
 * Writes GGUF files for tests: honest ones, and ones that lie in any field.
 *
 * Keys and tensors are kept in order and written at the end, so a model made by one function can be
 * spoiled by another: adding a key that is there replaces it, a tensor's record may be changed at
 * will. Failures of the writer itself end the test.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_UINT8,
    GGUF_INT8,
    GGUF_UINT16,
    GGUF_INT16,
    GGUF_UINT32,
    GGUF_INT32,
    GGUF_FLOAT32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_UINT64,
    GGUF_INT64,
    GGUF_FLOAT64
};

#define GGUF_TRUE_VALUE UINT64_MAX /* of a claimed number: say the truth */

struct gguf_key {
    char *name;
    size_t n_name;
    uint64_t n_name_claimed;
    uint32_t type;
    uint8_t *value; /* as in the file */
    size_t n_value;
};

struct gguf_tensor {
    char *name;
    size_t n_name;
    uint64_t n_name_claimed;
    uint32_t n_dims;
    uint64_t dims[8]; /* the first n_dims (at most 8) are written */
    uint32_t type;    /* GGUF's number */
    uint64_t offset;  /* GGUF_TRUE_VALUE: where the data lands */
    uint8_t *bytes;
    size_t n_bytes;
};

typedef struct GgufWriter {
    char magic[4];
    uint32_t version;
    uint64_t n_keys_claimed, n_tensors_claimed;
    size_t alignment; /* of the layout; the key general.alignment is the caller's to add */
    struct gguf_key *keys;
    size_t n_keys;
    struct gguf_tensor *tensors;
    size_t n_tensors;
} GgufWriter;

GgufWriter *gguf_writer_new(void);
void gguf_writer_free(GgufWriter *w);

/* Any type of value from its bytes in the file; all below come down to it. */
struct gguf_key *gguf_writer_key(GgufWriter *w, const char *key, uint32_t type, const void *value,
                                 size_t n);
/* The same without replacing: for duplicates, and names of any bytes. */
struct gguf_key *gguf_writer_key_raw(GgufWriter *w, const void *name, size_t n_name, uint32_t type,
                                     const void *value, size_t n);
void gguf_writer_u32(GgufWriter *w, const char *key, uint32_t value);
void gguf_writer_f32(GgufWriter *w, const char *key, float value);
void gguf_writer_bool(GgufWriter *w, const char *key, bool value);
void gguf_writer_string(GgufWriter *w, const char *key, const char *value);
/* `elements` holds n values as in the file. */
void gguf_writer_array(GgufWriter *w, const char *key, uint32_t type, const void *elements,
                       uint64_t n, size_t n_bytes);
void gguf_writer_strings(GgufWriter *w, const char *key, const char *const *strings, size_t n);
void gguf_writer_remove_key(GgufWriter *w, const char *key);

/* Copies n_bytes of data (NULL: zeroes). */
struct gguf_tensor *gguf_writer_tensor(GgufWriter *w, const char *name, uint32_t type,
                                       uint32_t n_dims, const uint64_t *dims, const void *bytes,
                                       size_t n_bytes);
struct gguf_tensor *gguf_writer_find_tensor(GgufWriter *w, const char *name); /* or NULL */
void gguf_writer_remove_tensor(GgufWriter *w, const char *name);

/* The file: malloc()ed. *ret_n_header (may be NULL): bytes before the padding of the data. */
uint8_t *gguf_writer_bytes(const GgufWriter *w, size_t *ret_n, size_t *ret_n_header);
void gguf_writer_save(const GgufWriter *w, const char *path);
void gguf_save_bytes(const char *path, const void *bytes, size_t n);
