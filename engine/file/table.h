/* What a reader of a file format fills in: keys and tensors. file.c owns it and answers from it. */
#pragma once

#include "engine/file/file.h"

/* X(name, GGUF's number, bytes of one value: 0 where it varies) */
#define FILE_VALUE_MAP(X)                                                                          \
    X(UINT8, 0, 1)                                                                                 \
    X(INT8, 1, 1)                                                                                  \
    X(UINT16, 2, 2)                                                                                \
    X(INT16, 3, 2)                                                                                 \
    X(UINT32, 4, 4)                                                                                \
    X(INT32, 5, 4)                                                                                 \
    X(FLOAT32, 6, 4)                                                                               \
    X(BOOL, 7, 1)                                                                                  \
    X(STRING, 8, 0)                                                                                \
    X(ARRAY, 9, 0)                                                                                 \
    X(UINT64, 10, 8)                                                                               \
    X(INT64, 11, 8)                                                                                \
    X(FLOAT64, 12, 8)

enum file_value_type {
#define X(name, id, bytes) FILE_VALUE_##name = id,
    FILE_VALUE_MAP(X)
#undef X
        FILE_VALUE_N
};

struct file_value {
    uint32_t type;
    union {
        uint64_t u64; /* unsigned types and bool */
        int64_t i64;  /* signed types */
        double f64;   /* float types */
        struct file_string string;
        struct file_array array;
    };
};

struct file_key {
    char *name; /* a copy: sorting and searching must not see the file change */
    uint64_t offset;
    struct file_value value;
};

struct file_table {
    struct file_key *keys; /* sorted by name, each once */
    size_t n_keys;
    struct file_tensor *tensors; /* in the file's order */
    size_t n_tensors;
};

void file_table_deinit(struct file_table *t);
const struct file_key *file_table_find_key(const struct file_table *t, const char *name);
/* Any integer type whose value is >= 0. */
bool file_value_u64(const struct file_value *v, uint64_t *ret);
/* One value that is neither string nor array; `bytes` holds all of it. */
void file_value_decode(struct file_value *ret, uint32_t type, const uint8_t *bytes);
uint32_t file_value_bytes(uint32_t type); /* 0 for string, array and unknown types */

/* gguf.c: fills *t from a whole GGUF file; `name` is how messages call it. On failure *t holds what
 * was read, to be deinitialised. */
int gguf_read(struct file_table *t, const uint8_t *bytes, size_t n, uint32_t i_part,
              const char *name, Error *reterr);
