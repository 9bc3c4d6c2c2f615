/*
 * Model files: a table of metadata and a table of tensors over mapped bytes.
 *
 * Readers check everything once, here: what they hand out lies inside the file, is aligned, does
 * not overlap, and has the size that its shape and type ask for. What an architecture needs of it
 * (names, shapes, ranges of values) is engine/bind.c's to check.
 */
#pragma once

#include "base/error.h"
#include "engine/kern/kern.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define FILE_DIMS_MAX    4
#define FILE_NAME_MAX    63 /* bytes of a tensor name (ggml's own limit) */
#define FILE_TENSORS_MAX 65536
#define FILE_KEYS_MAX    65536
#define FILE_PARTS_MAX   1024 /* files of a split model */

typedef struct ModelFile ModelFile;
typedef struct Mapping Mapping; /* engine/file/map.h */

struct file_tensor {
    char name[FILE_NAME_MAX + 1];
    enum kern_type type;
    uint32_t n_dims;
    uint64_t dims[FILE_DIMS_MAX]; /* dims[0] is the row length (contiguous); 1 beyond n_dims */
    uint64_t n_bytes, row_bytes;
    const uint8_t *data; /* mapped; n_bytes long */
    uint64_t offset;     /* of data in its file, for messages */
    uint32_t i_part;     /* which file of a split model */
};

/* Opens a GGUF v2 or v3 file, and the other parts where it is the first of a split model.
 * Returns GK_E_FILE with a sentence naming file, key or tensor, and offset. */
int model_file_open(ModelFile **ret, const char *path, Error *reterr);
ModelFile *model_file_close(ModelFile *f);
DEFINE_CLEANUP(ModelFile *, model_file_close)

size_t model_file_n_tensors(const ModelFile *f);
const struct file_tensor *model_file_tensor(const ModelFile *f, size_t i);
const struct file_tensor *model_file_find(const ModelFile *f, const char *name); /* or NULL */
uint64_t model_file_n_bytes(const ModelFile *f);                                 /* all parts */
/* True once a page of any part could not be read (it shrank, or the device failed). Any thread. */
bool model_file_is_lost(const ModelFile *f);
/* The bytes of one of its mapped files. */
size_t model_file_n_parts(const ModelFile *f);
const void *model_file_part(const ModelFile *f, size_t i, size_t *ret_n);
struct timespec model_file_modified(const ModelFile *f, size_t i_part);
/* Asks the kernel for huge pages, which takes effect for what is not read yet. */
void model_file_ask_huge(const ModelFile *f);
/* Keeps in memory what is there and what comes; whole parts, as many as the limit allows. */
void model_file_lock(const ModelFile *f);
/* Reads every page in; on_progress may be NULL. Returns false where that gave up. */
bool model_file_preload(const ModelFile *f, bool (*on_progress)(void *, uint64_t, uint64_t),
                        void *userdata);
/* Only n bytes of one of its files from `begin` on, a page's beginning; on_progress with the bytes
 * since its last call. */
bool model_file_preload_range(const ModelFile *f, size_t i_part, size_t begin, size_t n,
                              bool (*on_progress)(void *userdata, uint64_t n_bytes),
                              void *userdata);

/* ---- metadata: each getter says false where the key is absent or of another type ---- */

struct file_string {
    const char *bytes; /* not terminated; a key's own string is valid UTF-8 without zero bytes,
                          those in an array may hold any bytes */
    size_t n;
};
bool model_file_has(const ModelFile *f, const char *key);
bool model_file_get_u64(const ModelFile *f, const char *key,
                        uint64_t *ret); /* any integer type >= 0 */
bool model_file_get_f32(const ModelFile *f, const char *key, float *ret); /* any float type */
bool model_file_get_bool(const ModelFile *f, const char *key, bool *ret);
bool model_file_get_string(const ModelFile *f, const char *key, struct file_string *ret);
/* Arrays are views; element i is read by the getter of its kind. */
struct file_array {
    const uint8_t *bytes;
    uint64_t n_bytes;
    uint32_t type; /* GGUF value type of the elements */
    uint64_t n;
};
bool model_file_get_array(const ModelFile *f, const char *key, struct file_array *ret);
/* False where i is not in the array, the elements are of another kind, or the value does not fit.
 */
bool file_array_i32(const struct file_array *a, uint64_t i, int32_t *ret);
bool file_array_f32(const struct file_array *a, uint64_t i, float *ret);
/* Strings are found in order: *at is 0 for the first and moves on. False at the end. Lengths are
 * read from the file again and checked again: it may have changed. */
bool file_array_next_string(const struct file_array *a, uint64_t *at, struct file_string *ret);
