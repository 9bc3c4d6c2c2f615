/*
 * GGUF versions 2 and 3, little-endian: header, keys, tensor entries, padding, data.
 *
 *   u32 magic, u32 version, u64 n_tensors, u64 n_keys
 *   key:    string name, u32 type, value          string: u64 n, then n bytes
 *   tensor: string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset from the data's start
 *
 * Every byte is hostile. Counts are held against what the rest of the file can hold before memory
 * is taken for them, so that memory stays within a small multiple of the file's size. Where one
 * byte could mean two things, the file is refused: a model that two programs read differently is a
 * trap. What is checked of a tensor is said in file.h; the mapping may change under us afterwards,
 * so nothing that keeps memory safe is read from it twice.
 */
#include "engine/file/table.h"

#include "engine/engine.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>

#define KEY_BYTES_MAX          65535 /* the format's own limit */
#define KEY_ENTRY_BYTES_MIN    14    /* 8 + name of 1, type, value of 1 */
#define TENSOR_ENTRY_BYTES_MIN 33    /* 8 + name of 1, n_dims, one dimension, type, offset */
#define ALIGNMENT_DEFAULT      32
#define ALIGNMENT_MIN          8 /* the format: a multiple of 8 */
#define ALIGNMENT_MAX          (1u << 20)
#define SHOWN_MAX              96

struct reader {
    Cursor c;
    struct file_table *t;
    const char *file;
    uint32_t i_part;
    uint64_t alignment;
    char entry[SHOWN_MAX + 32]; /* what is being read, for messages */
    uint64_t entry_offset;
    Error *reterr;
};

#define refuse(r, ...) (refuse_write((r), __VA_ARGS__), error_value(GK_E_FILE))

PRINTF_FORMAT(2, 3) static void refuse_write(struct reader *r, const char *format, ...) {
    char sentence[ERROR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    error_write(r->reterr, "%s: %s at byte %" PRIu64 ": %s", r->file, r->entry, r->entry_offset,
                sentence);
}

static int refuse_end(struct reader *r) {
    return refuse(r, "the file ends inside it");
}

static void entry_begin(struct reader *r, const char *kind, uint64_t i, uint64_t n) {
    r->entry_offset = cursor_offset(&r->c);
    (void)snprintf(r->entry, sizeof(r->entry), "%s %" PRIu64 " of %" PRIu64, kind, i + 1, n);
}

static void entry_name(struct reader *r, const char *kind, const void *name, size_t n) {
    char shown[SHOWN_MAX];

    (void)snprintf(r->entry, sizeof(r->entry), "%s '%s'", kind,
                   utf8_printable(shown, sizeof(shown), name, n));
}

static int read_string(struct reader *r, const char *what, struct file_string *ret) {
    const uint8_t *bytes;
    uint64_t n;

    if (!cursor_u64le(&r->c, &n))
        return refuse_end(r);
    if (!cursor_take(&r->c, n, &bytes))
        return refuse(r, "%s has %" PRIu64 " bytes where the file has %zu left", what, n,
                      cursor_left(&r->c));
    *ret = (struct file_string){(const char *)bytes, (size_t)n};
    return 0;
}

/* ---- keys ---- */

static bool is_key_byte(uint8_t c) {
    return c > ' ' && c < 0x7f;
}

/* Names become message text and table entries, never paths; a slash or a dot pair has no place in
 * them all the same. */
static bool is_tensor_name_byte(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':';
}

static int read_name(struct reader *r, const char *kind, size_t n_max, bool (*allowed)(uint8_t),
                     struct file_string *ret) {
    int x = read_string(r, "its name", ret);

    if (x)
        return error_trace(x);
    if (ret->n == 0)
        return refuse(r, "its name is empty");
    if (ret->n > n_max)
        return refuse(r, "its name has %zu bytes, more than %zu", ret->n, n_max);
    entry_name(r, kind, ret->bytes, ret->n);
    for (size_t i = 0; i < ret->n; i++)
        if (!allowed((uint8_t)ret->bytes[i]))
            return refuse(r, "its name holds the byte 0x%02x", (uint8_t)ret->bytes[i]);
    return 0;
}

static int check_bools(struct reader *r, const uint8_t *bytes, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (bytes[i] > 1)
            return refuse(r, "a bool is %u, not 0 or 1", bytes[i]);
    return 0;
}

static int read_array(struct reader *r, struct file_array *ret) {
    struct file_array a = {.bytes = NULL};
    uint64_t n_bytes;
    uint32_t size;
    int x;

    if (!cursor_u32le(&r->c, &a.type) || !cursor_u64le(&r->c, &a.n))
        return refuse_end(r);
    if (a.type == FILE_VALUE_ARRAY)
        return refuse(r, "is an array of arrays, which is not supported");
    if (a.type >= FILE_VALUE_N)
        return refuse(r, "is an array of the unknown value type %" PRIu32, a.type);
    size = a.type == FILE_VALUE_STRING ? 8 : file_value_bytes(a.type); /* of a string, its length */
    if (!checked_mul(a.n, size, &n_bytes) || n_bytes > cursor_left(&r->c))
        return refuse(r, "is an array of %" PRIu64 " values where the file has %zu bytes left", a.n,
                      cursor_left(&r->c));
    a.bytes = r->c.at;
    if (a.type == FILE_VALUE_STRING) {
        struct file_string ignored;

        for (uint64_t i = 0; i < a.n; i++) {
            x = read_string(r, "a string of its array", &ignored);
            if (x)
                return error_trace(x);
        }
    } else {
        (void)cursor_take(&r->c, n_bytes, &a.bytes);
        x = a.type == FILE_VALUE_BOOL ? check_bools(r, a.bytes, a.n) : 0;
        if (x)
            return error_trace(x);
    }
    a.n_bytes = (uint64_t)(r->c.at - a.bytes);
    *ret = a;
    return 0;
}

static int read_text(struct reader *r, struct file_string *ret) {
    struct file_string s;
    int x = read_string(r, "its string", &s);

    if (x)
        return error_trace(x);
    if (!utf8_is_valid(s.bytes, s.n))
        return refuse(r, "its string is not valid UTF-8");
    if (s.n > 0 && memchr(s.bytes, 0, s.n))
        return refuse(r, "its string holds a zero byte");
    *ret = s;
    return 0;
}

static int read_value(struct reader *r, struct file_value *v) {
    const uint8_t *bytes;
    uint32_t type;

    if (!cursor_u32le(&r->c, &type))
        return refuse_end(r);
    v->type = type;
    if (type == FILE_VALUE_STRING)
        return read_text(r, &v->string);
    if (type == FILE_VALUE_ARRAY)
        return read_array(r, &v->array);
    if (type >= FILE_VALUE_N)
        return refuse(r, "has the unknown value type %" PRIu32, type);
    if (!cursor_take(&r->c, file_value_bytes(type), &bytes))
        return refuse_end(r);
    file_value_decode(v, type, bytes);
    return type == FILE_VALUE_BOOL ? check_bools(r, bytes, 1) : 0;
}

static int compare_keys(const void *a, const void *b) {
    const struct file_key *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order != 0 ? order : (x->offset > y->offset) - (x->offset < y->offset);
}

static int read_keys(struct reader *r, uint64_t n) {
    struct file_table *t = r->t;

    t->keys = alloc_array((size_t)n, sizeof(*t->keys));
    if (!t->keys)
        return error_origin(-ENOMEM);
    for (uint64_t i = 0; i < n; i++) {
        struct file_key *k = &t->keys[i];
        struct file_string name;
        int x;

        entry_begin(r, "key", i, n);
        x = read_name(r, "key", KEY_BYTES_MAX, is_key_byte, &name);
        if (x)
            return error_trace(x);
        k->offset = r->entry_offset;
        k->name = alloc_string_n(name.bytes, name.n);
        if (!k->name)
            return error_origin(-ENOMEM);
        t->n_keys++;
        x = read_value(r, &k->value);
        if (x)
            return error_trace(x);
    }
    qsort(t->keys, t->n_keys, sizeof(*t->keys), compare_keys);
    for (size_t i = 1; i < t->n_keys; i++) {
        if (strcmp(t->keys[i - 1].name, t->keys[i].name) != 0)
            continue;
        r->entry_offset = t->keys[i].offset;
        entry_name(r, "key", t->keys[i].name, strlen(t->keys[i].name));
        return refuse(r, "is there already at byte %" PRIu64, t->keys[i - 1].offset);
    }
    return 0;
}

static int read_alignment(struct reader *r) {
    static const char name[] = "general.alignment";
    const struct file_key *k = file_table_find_key(r->t, name);
    uint64_t a;

    r->alignment = ALIGNMENT_DEFAULT;
    if (!k)
        return 0;
    r->entry_offset = k->offset;
    entry_name(r, "key", name, strlen(name));
    if (k->value.type != FILE_VALUE_UINT32)
        return refuse(r, "is not of type UINT32");
    a = k->value.u64;
    if (a < ALIGNMENT_MIN || a > ALIGNMENT_MAX || (a & (a - 1)) != 0)
        return refuse(r, "is %" PRIu64 ", not a power of two from %u to %u", a, ALIGNMENT_MIN,
                      ALIGNMENT_MAX);
    r->alignment = a;
    return 0;
}

/* ---- tensors ---- */

static int read_shape(struct reader *r, struct file_tensor *x) {
    if (!cursor_u32le(&r->c, &x->n_dims))
        return refuse_end(r);
    if (x->n_dims < 1 || x->n_dims > FILE_DIMS_MAX)
        return refuse(r, "has %" PRIu32 " dimensions, not 1 to %d", x->n_dims, FILE_DIMS_MAX);
    for (uint32_t i = 0; i < FILE_DIMS_MAX; i++) {
        x->dims[i] = 1;
        if (i < x->n_dims && !cursor_u64le(&r->c, &x->dims[i]))
            return refuse_end(r);
        if (x->dims[i] == 0)
            return refuse(r, "its dimension %" PRIu32 " is 0", i);
    }
    return 0;
}

static int read_type(struct reader *r, struct file_tensor *x,
                     const struct kern_type_info **ret_info) {
    const char *name = NULL;
    uint32_t id;

    if (!cursor_u32le(&r->c, &id))
        return refuse_end(r);
    *ret_info = kern_type_find(id, &name);
    if (*ret_info) {
        x->type = (enum kern_type)(*ret_info - kern_types);
        return 0;
    }
    if (name)
        return refuse(r, "has type %s, which is not supported", name);
    return refuse(r, "has the unknown type %" PRIu32, id);
}

static int size_tensor(struct reader *r, struct file_tensor *x, const struct kern_type_info *info) {
    bool fits;

    if (x->dims[0] % info->block_values != 0)
        return refuse(
            r, "its rows of %" PRIu64 " values are not a multiple of %s's blocks of %" PRIu32,
            x->dims[0], info->name, info->block_values);
    fits = checked_mul(x->dims[0] / info->block_values, info->block_bytes, &x->row_bytes) &&
           checked_mul(x->row_bytes, x->dims[1], &x->n_bytes) &&
           checked_mul(x->n_bytes, x->dims[2], &x->n_bytes) &&
           checked_mul(x->n_bytes, x->dims[3], &x->n_bytes);
    if (!fits)
        return refuse(r,
                      "its shape %" PRIu64 "×%" PRIu64 "×%" PRIu64 "×%" PRIu64
                      " has more bytes than can be counted",
                      x->dims[0], x->dims[1], x->dims[2], x->dims[3]);
    return 0;
}

/* Leaves in x->offset what the file says: the distance from the data's start. */
static int read_tensor(struct reader *r, struct file_tensor *x) {
    const struct kern_type_info *info;
    struct file_string name;
    int e;

    e = read_name(r, "tensor", FILE_NAME_MAX, is_tensor_name_byte, &name);
    if (e)
        return error_trace(e);
    (void)memcpy(x->name, name.bytes, name.n);
    x->i_part = r->i_part;
    e = read_shape(r, x);
    if (e)
        return error_trace(e);
    e = read_type(r, x, &info);
    if (e)
        return error_trace(e);
    e = size_tensor(r, x, info);
    if (e)
        return error_trace(e);
    if (!cursor_u64le(&r->c, &x->offset))
        return refuse_end(r);
    if (x->offset % r->alignment != 0)
        return refuse(r, "its offset %" PRIu64 " is not a multiple of the alignment %" PRIu64,
                      x->offset, r->alignment);
    return 0;
}

/* From distances to places in the file. */
static int place_tensors(struct reader *r, uint64_t data_start) {
    size_t n_file = (size_t)(r->c.end - r->c.start);

    for (size_t i = 0; i < r->t->n_tensors; i++) {
        struct file_tensor *x = &r->t->tensors[i];
        uint64_t start;

        if (!checked_add(data_start, x->offset, &start) ||
            !checked_range(start, x->n_bytes, n_file))
            return error_set(r->reterr, GK_E_FILE,
                             "%s: tensor '%s': its %" PRIu64 " bytes at %" PRIu64 " + %" PRIu64
                             " reach beyond the end of the file at byte %zu",
                             r->file, x->name, x->n_bytes, data_start, x->offset, n_file);
        x->offset = start;
        x->data = r->c.start + start;
    }
    return 0;
}

static int compare_offsets(const void *a, const void *b) {
    const struct file_tensor *x = *(struct file_tensor *const *)a,
                             *y = *(struct file_tensor *const *)b;

    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int check_disjoint(struct reader *r) {
    CLEANUP(freep) struct file_tensor **order = alloc_array(r->t->n_tensors, sizeof(*order));

    if (!order)
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < r->t->n_tensors; i++)
        order[i] = &r->t->tensors[i];
    qsort(order, r->t->n_tensors, sizeof(*order), compare_offsets);
    for (size_t i = 1; i < r->t->n_tensors; i++) {
        const struct file_tensor *x = order[i - 1], *y = order[i];

        if (x->offset + x->n_bytes > y->offset)
            return error_set(r->reterr, GK_E_FILE,
                             "%s: tensor '%s' at byte %" PRIu64 " overlaps tensor '%s' at byte "
                             "%" PRIu64,
                             r->file, y->name, y->offset, x->name, x->offset);
    }
    return 0;
}

static int read_tensors(struct reader *r, uint64_t n) {
    uint64_t data_start;
    int x;

    if (n == 0)
        return 0;
    r->t->tensors = alloc_array((size_t)n, sizeof(*r->t->tensors));
    if (!r->t->tensors)
        return error_origin(-ENOMEM);
    for (uint64_t i = 0; i < n; i++) {
        entry_begin(r, "tensor", i, n);
        x = read_tensor(r, &r->t->tensors[i]);
        if (x)
            return error_trace(x);
        r->t->n_tensors++;
    }
    entry_begin(r, "tensor", n - 1, n);
    if (!checked_align(cursor_offset(&r->c), r->alignment, &data_start))
        return refuse_end(r);
    x = place_tensors(r, data_start);
    return x ? error_trace(x) : check_disjoint(r);
}

/* ---- the header ---- */

static int read_version(struct reader *r) {
    char shown[32];
    const uint8_t *magic;
    uint32_t version;

    if (!cursor_take(&r->c, 4, &magic))
        return refuse_end(r);
    if (memcmp(magic, "GGUF", 4) != 0)
        return refuse(r, "not a GGUF file: it starts with '%s'",
                      utf8_printable(shown, sizeof(shown), magic, 4));
    if (!cursor_u32le(&r->c, &version))
        return refuse_end(r);
    if (version != 0 && (version & 0xffff) == 0)
        return refuse(r, "big-endian GGUF is not supported");
    if (version != 2 && version != 3)
        return refuse(r, "GGUF version %" PRIu32 " is not supported, only 2 and 3", version);
    return 0;
}

static int check_count(struct reader *r, const char *what, uint64_t n, uint64_t n_max,
                       uint64_t entry_bytes_min) {
    if (n > n_max)
        return refuse(r, "%" PRIu64 " %s are more than %" PRIu64, n, what, n_max);
    if (n > cursor_left(&r->c) / entry_bytes_min)
        return refuse(r, "%" PRIu64 " %s do not fit into the %zu bytes that follow", n, what,
                      cursor_left(&r->c));
    return 0;
}

int gguf_read(struct file_table *t, const uint8_t *bytes, size_t n, uint32_t i_part,
              const char *name, Error *reterr) {
    struct reader r = {
        .c = cursor_make(bytes, n), .t = t, .file = name, .i_part = i_part, .reterr = reterr};
    uint64_t n_tensors, n_keys;
    int x;

    (void)snprintf(r.entry, sizeof(r.entry), "header");
    x = read_version(&r);
    if (x)
        return error_trace(x);
    if (!cursor_u64le(&r.c, &n_tensors) || !cursor_u64le(&r.c, &n_keys))
        return refuse_end(&r);
    x = check_count(&r, "tensors", n_tensors, FILE_TENSORS_MAX, TENSOR_ENTRY_BYTES_MIN);
    if (x)
        return error_trace(x);
    x = check_count(&r, "keys", n_keys, FILE_KEYS_MAX, KEY_ENTRY_BYTES_MIN);
    if (x)
        return error_trace(x);
    if (n_keys == 0)
        return refuse(&r, "the file has no keys");
    x = read_keys(&r, n_keys);
    if (x)
        return error_trace(x);
    x = read_alignment(&r);
    if (x)
        return error_trace(x);
    return read_tensors(&r, n_tensors);
}
