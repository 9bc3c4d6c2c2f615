/*
 * See file.h: opening a model of one or many files, and answering from its table.
 *
 * A split model's keys are those of its first file; tensors are of all, and a name is in one of
 * them only. The other files hold split.no, split.count and split.tensors.count and are found by
 * name: PREFIX-00002-of-00003.gguf. Names and keys must tell the same story.
 */
#include "engine/file/map.h"
#include "engine/file/table.h"

#include "engine/engine.h"

#include "base/alloc.h"
#include "base/cursor.h"
#include "base/utf8.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define PART_SUFFIX_BYTES 20 /* -00001-of-00003.gguf */

/* Owner: GkEngine. Thread: any; immutable once open, but for what the guard marks. */
struct ModelFile {
    Mapping **parts; /* (n_parts) */
    uint32_t n_parts;
    struct file_table table;
    const struct file_tensor **by_name; /* (table.n_tensors) */
};

/* ---- values ---- */

uint32_t file_value_bytes(uint32_t type) {
    static const uint8_t bytes[] = {
#define X(name, id, n) [id] = (n),
        FILE_VALUE_MAP(X)
#undef X
    };

    return type < FILE_VALUE_N ? bytes[type] : 0;
}

void file_value_decode(struct file_value *ret, uint32_t type, const uint8_t *bytes) {
    uint32_t n = file_value_bytes(type);
    Cursor c = cursor_make(bytes, n);
    uint64_t bits = 0;
    float f;

    ret->type = type;
    for (uint32_t i = 0; i < n; i++)
        bits |= (uint64_t)bytes[i] << (8 * i);
    switch (type) {
    case FILE_VALUE_FLOAT32:
        (void)cursor_f32le(&c, &f);
        ret->f64 = (double)f;
        break;
    case FILE_VALUE_FLOAT64:
        (void)memcpy(&ret->f64, &bits, sizeof(bits));
        break;
    case FILE_VALUE_INT8:
        ret->i64 = (int8_t)bits;
        break;
    case FILE_VALUE_INT16:
        ret->i64 = (int16_t)bits;
        break;
    case FILE_VALUE_INT32:
        ret->i64 = (int32_t)bits;
        break;
    default:
        ret->u64 = bits; /* of INT64 these are the same bits */
        break;
    }
}

static bool is_signed(uint32_t type) {
    return type == FILE_VALUE_INT8 || type == FILE_VALUE_INT16 || type == FILE_VALUE_INT32 ||
           type == FILE_VALUE_INT64;
}

static bool is_unsigned(uint32_t type) {
    return type == FILE_VALUE_UINT8 || type == FILE_VALUE_UINT16 || type == FILE_VALUE_UINT32 ||
           type == FILE_VALUE_UINT64;
}

static bool is_float(uint32_t type) {
    return type == FILE_VALUE_FLOAT32 || type == FILE_VALUE_FLOAT64;
}

bool file_value_u64(const struct file_value *v, uint64_t *ret) {
    if (is_signed(v->type) ? v->i64 < 0 : !is_unsigned(v->type))
        return false;
    *ret = v->u64;
    return true;
}

/* A double too large for a float becomes infinite, and is refused as such where it matters. */
static float to_f32(double x) {
    return isfinite(x) && fabs(x) > (double)FLT_MAX ? copysignf(INFINITY, x > 0 ? 1.0f : -1.0f)
                                                    : (float)x;
}

/* ---- the table ---- */

void file_table_deinit(struct file_table *t) {
    for (size_t i = 0; i < t->n_keys; i++)
        free(t->keys[i].name);
    free(t->keys);
    free(t->tensors);
    *t = (struct file_table){.keys = NULL};
}

static int compare_name_to_key(const void *name, const void *key) {
    return strcmp(name, ((const struct file_key *)key)->name);
}

const struct file_key *file_table_find_key(const struct file_table *t, const char *name) {
    return bsearch(name, t->keys, t->n_keys, sizeof(*t->keys), compare_name_to_key);
}

static int compare_tensors(const void *a, const void *b) {
    const struct file_tensor *x = *(struct file_tensor *const *)a,
                             *y = *(struct file_tensor *const *)b;
    int order = strcmp(x->name, y->name);

    return order != 0 ? order : (x > y) - (x < y);
}

static int index_tensors(ModelFile *f, const char *shown, Error *reterr) {
    size_t n = f->table.n_tensors;

    f->by_name = alloc_array(n, sizeof(*f->by_name));
    if (!f->by_name)
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < n; i++)
        f->by_name[i] = &f->table.tensors[i];
    qsort(f->by_name, n, sizeof(*f->by_name), compare_tensors);
    for (size_t i = 1; i < n; i++) {
        const struct file_tensor *x = f->by_name[i - 1], *y = f->by_name[i];

        if (strcmp(x->name, y->name) == 0)
            return error_set(reterr, GK_E_FILE,
                             "%s: tensor '%s' is there twice, with data at byte %" PRIu64
                             " of part %" PRIu32 " and byte %" PRIu64 " of part %" PRIu32,
                             shown, x->name, x->offset, x->i_part + 1, y->offset, y->i_part + 1);
    }
    return 0;
}

/* ---- split models ---- */

/* What a file's name says of it: PREFIX-00001-of-00003.gguf */
struct part_name {
    size_t n_prefix;
    uint32_t number, count; /* number from 1 */
};

static bool part_name_parse(const char *path, struct part_name *ret) {
    size_t n = strlen(path);
    const char *suffix = path + n - PART_SUFFIX_BYTES;
    char again[PART_SUFFIX_BYTES + 1];
    unsigned number, count;

    if (n <= PART_SUFFIX_BYTES || sscanf(suffix, "-%5u-of-%5u.gguf", &number, &count) != 2)
        return false;
    (void)snprintf(again, sizeof(again), "-%05u-of-%05u.gguf", number, count);
    if (strcmp(again, suffix) != 0)
        return false;
    *ret = (struct part_name){n - PART_SUFFIX_BYTES, number, count};
    return true;
}

static char *part_path(const char *path, const struct part_name *name, uint32_t number) {
    char *p = NULL;

    if (asprintf(&p, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (int)name->n_prefix, path, number,
                 name->count) < 0)
        return NULL;
    return p;
}

static int split_key(const struct file_table *t, const char *shown, const char *key, uint64_t *ret,
                     Error *reterr) {
    const struct file_key *k = file_table_find_key(t, key);

    if (!k)
        return error_set(reterr, GK_E_FILE, "%s: key '%s' is missing", shown, key);
    if (!file_value_u64(&k->value, ret))
        return error_set(reterr, GK_E_FILE, "%s: key '%s' at byte %" PRIu64 " is not a count",
                         shown, key, k->offset);
    return 0;
}

/* Holds the keys of one part against its place. */
static int split_check(const struct file_table *t, const char *shown, uint32_t i_part,
                       uint32_t n_parts, Error *reterr) {
    uint64_t no, count;
    int r = split_key(t, shown, "split.no", &no, reterr);

    r = r ? r : split_key(t, shown, "split.count", &count, reterr);
    if (r)
        return error_trace(r);
    if (count != n_parts)
        return error_set(reterr, GK_E_FILE,
                         "%s: key 'split.count' is %" PRIu64 " where the model has %" PRIu32
                         " parts by its file's name",
                         shown, count, n_parts);
    if (no != i_part)
        return error_set(reterr, GK_E_FILE,
                         "%s: key 'split.no' is %" PRIu64 " in what is part %" PRIu32 " of %" PRIu32
                         " by its name (counted from 0 it must be %" PRIu32 ")",
                         shown, no, i_part + 1, n_parts, i_part);
    return 0;
}

/* Is the opened file the first part of its model, and of how many? *name is part 1 of 1 before. */
static int split_find(const struct file_table *t, const char *path, const char *shown,
                      struct part_name *name, Error *reterr) {
    bool named = part_name_parse(path, name);
    char first[192];
    uint64_t count = 0;
    int r = file_table_find_key(t, "split.count")
                ? split_key(t, shown, "split.count", &count, reterr)
                : 0;

    if (r)
        return error_trace(r);
    if (count <= 1 && name->count == 1) /* merged models keep a count of 0 */
        return 0;
    if (!named)
        return error_set(reterr, GK_E_FILE,
                         "%s: is one of %" PRIu64 " parts (key 'split.count'), but is not named "
                         "NAME-00001-of-%05" PRIu64 ".gguf: the others cannot be found",
                         shown, count, count);
    if (name->count > FILE_PARTS_MAX)
        return error_set(reterr, GK_E_FILE, "%s: %" PRIu32 " parts are more than %d", shown,
                         name->count, FILE_PARTS_MAX);
    if (name->number == 0 || name->number > name->count)
        return error_set(reterr, GK_E_FILE, "%s: there is no part %" PRIu32 " of %" PRIu32, shown,
                         name->number, name->count);
    if (name->number > 1) {
        CLEANUP(freep) char *p = part_path(path, name, 1);

        return error_set(reterr, GK_E_FILE,
                         "%s: is part %" PRIu32 " of %" PRIu32 "; open the first, %s", shown,
                         name->number, name->count,
                         p ? utf8_printable(first, sizeof(first), p, strlen(p)) : "part 1");
    }
    return split_check(t, shown, 0, name->count, reterr);
}

/* ---- opening ---- */

static int read_part(ModelFile *f, struct file_table *t, const char *path, const char *shown,
                     Error *reterr) {
    uint32_t i_part = f->n_parts;
    Mapping **m = &f->parts[i_part];
    int r = mapping_open(m, path, reterr);

    if (r)
        return error_trace(r);
    f->n_parts++;
    r = gguf_read(t, mapping_bytes(*m), mapping_n_bytes(*m), i_part, shown, reterr);
    if (r >= 0 && mapping_is_lost(*m)) /* what was read may have been the guard's zeroes */
        return error_set(reterr, GK_E_FILE,
                         "%s: changed or could not be read while it was being opened", shown);
    return r ? error_trace(r) : 0;
}

static int append_tensors(struct file_table *to, const struct file_table *from, const char *shown,
                          Error *reterr) {
    size_t n = to->n_tensors + from->n_tensors;
    struct file_tensor *grown;

    if (n > FILE_TENSORS_MAX)
        return error_set(reterr, GK_E_FILE, "%s: the model's tensors are more than %d", shown,
                         FILE_TENSORS_MAX);
    if (from->n_tensors == 0)
        return 0;
    grown = alloc_resize(to->tensors, n * sizeof(*grown));
    if (!grown)
        return error_origin(-ENOMEM);
    (void)memcpy(grown + to->n_tensors, from->tensors, from->n_tensors * sizeof(*grown));
    to->tensors = grown;
    to->n_tensors = n;
    return 0;
}

static void file_table_cleanup(struct file_table *t) {
    file_table_deinit(t);
}

static int open_other_part(ModelFile *f, const char *first_path, const struct part_name *name,
                           Error *reterr) {
    CLEANUP(file_table_cleanup) struct file_table t = {.keys = NULL};
    CLEANUP(freep) char *path = part_path(first_path, name, f->n_parts + 1);
    uint32_t i_part = f->n_parts;
    char shown[192];
    int r;

    if (!path)
        return error_origin(-ENOMEM);
    (void)utf8_printable(shown, sizeof(shown), path, strlen(path));
    r = read_part(f, &t, path, shown, reterr);
    if (r)
        return error_trace(r);
    r = split_check(&t, shown, i_part, name->count, reterr);
    if (r)
        return error_trace(r);
    r = append_tensors(&f->table, &t, shown, reterr);
    return r ? error_trace(r) : 0;
}

static int open_parts(ModelFile *f, const char *path, const char *shown, Error *reterr) {
    struct part_name name = {.n_prefix = 0, .number = 1, .count = 1};
    uint64_t n_tensors;
    Mapping **parts;
    int r;

    r = split_find(&f->table, path, shown, &name, reterr);
    if (r || name.count == 1)
        return r ? error_trace(r) : 0;
    r = split_key(&f->table, shown, "split.tensors.count", &n_tensors, reterr);
    if (r)
        return error_trace(r);
    parts = alloc_array(name.count, sizeof(*parts));
    if (!parts)
        return error_origin(-ENOMEM);
    parts[0] = f->parts[0];
    free(f->parts);
    f->parts = parts;
    while (f->n_parts < name.count) {
        r = open_other_part(f, path, &name, reterr);
        if (r)
            return error_trace(r);
    }
    if (n_tensors != f->table.n_tensors)
        return error_set(reterr, GK_E_FILE,
                         "%s: key 'split.tensors.count' is %" PRIu64 ", but the parts hold %zu",
                         shown, n_tensors, f->table.n_tensors);
    return 0;
}

int model_file_open(ModelFile **ret, const char *path, Error *reterr) {
    CLEANUP(model_file_closep) ModelFile *f = alloc_new(ModelFile);
    char shown[192];
    int r;

    if (!f)
        return error_origin(-ENOMEM);
    (void)utf8_printable(shown, sizeof(shown), path, strlen(path));
    f->parts = alloc_array(1, sizeof(*f->parts));
    if (!f->parts)
        return error_origin(-ENOMEM);
    r = read_part(f, &f->table, path, shown, reterr);
    if (r)
        return error_trace(r);
    r = open_parts(f, path, shown, reterr);
    if (r)
        return error_trace(r);
    if (f->table.n_tensors == 0)
        return error_set(reterr, GK_E_FILE, "%s: holds no tensors", shown);
    r = index_tensors(f, shown, reterr);
    if (r)
        return error_trace(r);
    *ret = take_ptr(f);
    return 0;
}

ModelFile *model_file_close(ModelFile *f) {
    if (!f)
        return NULL;
    for (uint32_t i = 0; i < f->n_parts; i++)
        (void)mapping_close(f->parts[i]);
    free(f->parts);
    free(f->by_name);
    file_table_deinit(&f->table);
    free(f);
    return NULL;
}

/* ---- tensors ---- */

size_t model_file_n_tensors(const ModelFile *f) {
    return f->table.n_tensors;
}

const struct file_tensor *model_file_tensor(const ModelFile *f, size_t i) {
    return i < f->table.n_tensors ? &f->table.tensors[i] : NULL;
}

static int compare_name_to_tensor(const void *name, const void *tensor) {
    return strcmp(name, (*(struct file_tensor *const *)tensor)->name);
}

const struct file_tensor *model_file_find(const ModelFile *f, const char *name) {
    const struct file_tensor **x =
        bsearch(name, f->by_name, f->table.n_tensors, sizeof(*f->by_name), compare_name_to_tensor);

    return x ? *x : NULL;
}

uint64_t model_file_n_bytes(const ModelFile *f) {
    uint64_t n = 0;

    for (uint32_t i = 0; i < f->n_parts; i++)
        n += mapping_n_bytes(f->parts[i]); /* all are mapped at once: their sum fits */
    return n;
}

bool model_file_is_lost(const ModelFile *f) {
    for (uint32_t i = 0; i < f->n_parts; i++)
        if (mapping_is_lost(f->parts[i]))
            return true;
    return false;
}

size_t model_file_n_parts(const ModelFile *f) {
    return f->n_parts;
}

const void *model_file_part(const ModelFile *f, size_t i, size_t *ret_n) {
    *ret_n = mapping_n_bytes(f->parts[i]);
    return mapping_bytes(f->parts[i]);
}

struct timespec model_file_modified(const ModelFile *f, size_t i_part) {
    return mapping_modified(f->parts[i_part]);
}

void model_file_ask_huge(const ModelFile *f) {
    for (uint32_t i = 0; i < f->n_parts; i++)
        mapping_ask_huge(f->parts[i]);
}

void model_file_lock(const ModelFile *f) {
    for (uint32_t i = 0; i < f->n_parts; i++)
        mapping_lock(f->parts[i]);
}

struct preload {
    bool (*on_progress)(void *, uint64_t, uint64_t);
    void *userdata;
    uint64_t done, total;
};

static bool on_preloaded(void *userdata, uint64_t n_bytes) {
    struct preload *p = userdata;

    p->done += n_bytes;
    return p->on_progress(p->userdata, p->done, p->total);
}

bool model_file_preload(const ModelFile *f, bool (*on_progress)(void *, uint64_t, uint64_t),
                        void *userdata) {
    struct preload p = {on_progress, userdata, 0, model_file_n_bytes(f)};

    for (uint32_t i = 0; i < f->n_parts; i++)
        if (!mapping_preload(f->parts[i], 0, mapping_n_bytes(f->parts[i]),
                             on_progress ? on_preloaded : NULL, &p))
            return false;
    return true;
}

bool model_file_preload_range(const ModelFile *f, size_t i_part, size_t begin, size_t n,
                              bool (*on_progress)(void *, uint64_t), void *userdata) {
    return mapping_preload(f->parts[i_part], begin, n, on_progress, userdata);
}

/* ---- metadata ---- */

static const struct file_value *find_value(const ModelFile *f, const char *key) {
    const struct file_key *k = file_table_find_key(&f->table, key);

    return k ? &k->value : NULL;
}

bool model_file_has(const ModelFile *f, const char *key) {
    return find_value(f, key) != NULL;
}

bool model_file_get_u64(const ModelFile *f, const char *key, uint64_t *ret) {
    const struct file_value *v = find_value(f, key);

    return v && file_value_u64(v, ret);
}

bool model_file_get_f32(const ModelFile *f, const char *key, float *ret) {
    const struct file_value *v = find_value(f, key);

    if (!v || !is_float(v->type))
        return false;
    *ret = to_f32(v->f64);
    return true;
}

bool model_file_get_bool(const ModelFile *f, const char *key, bool *ret) {
    const struct file_value *v = find_value(f, key);

    if (!v || v->type != FILE_VALUE_BOOL)
        return false;
    *ret = v->u64 != 0;
    return true;
}

bool model_file_get_string(const ModelFile *f, const char *key, struct file_string *ret) {
    const struct file_value *v = find_value(f, key);

    if (!v || v->type != FILE_VALUE_STRING)
        return false;
    *ret = v->string;
    return true;
}

bool model_file_get_array(const ModelFile *f, const char *key, struct file_array *ret) {
    const struct file_value *v = find_value(f, key);

    if (!v || v->type != FILE_VALUE_ARRAY)
        return false;
    *ret = v->array;
    return true;
}

bool file_array_i32(const struct file_array *a, uint64_t i, int32_t *ret) {
    struct file_value v;

    if (i >= a->n || !(is_signed(a->type) || is_unsigned(a->type)))
        return false;
    file_value_decode(&v, a->type, a->bytes + i * file_value_bytes(a->type));
    if (is_signed(a->type) ? v.i64 < INT32_MIN || v.i64 > INT32_MAX : v.u64 > INT32_MAX)
        return false;
    *ret = (int32_t)v.i64;
    return true;
}

bool file_array_f32(const struct file_array *a, uint64_t i, float *ret) {
    struct file_value v;

    if (i >= a->n || !is_float(a->type))
        return false;
    file_value_decode(&v, a->type, a->bytes + i * file_value_bytes(a->type));
    *ret = to_f32(v.f64);
    return true;
}

bool file_array_next_string(const struct file_array *a, uint64_t *at, struct file_string *ret) {
    Cursor c = cursor_make(a->bytes, (size_t)a->n_bytes);
    const uint8_t *bytes;
    uint64_t n;

    if (a->type != FILE_VALUE_STRING || !cursor_take(&c, *at, &bytes) || !cursor_u64le(&c, &n) ||
        !cursor_take(&c, n, &bytes))
        return false;
    *at = cursor_offset(&c);
    *ret = (struct file_string){(const char *)bytes, (size_t)n};
    return true;
}
