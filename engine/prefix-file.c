/* See prefix-file.h. */
#include "engine/prefix-file.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <xxhash.h>

/* Of each tensor, the first and the last so many bytes are looked at. */
#define SAMPLE_BYTES 256

/* ---- the fingerprint ---- */

/* Metadata and the table of tensors. */
static size_t table_bytes(const ModelFile *f, size_t i_part, size_t n_part) {
    size_t n = n_part;

    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct file_tensor *t = model_file_tensor(f, i);

        if (t->i_part == i_part)
            n = MIN(n, (size_t)t->offset);
    }
    return n;
}

static void hash_file(XXH3_state_t *state, const ModelFile *f) {
    for (size_t i = 0; i < model_file_n_parts(f); i++) {
        size_t n;
        const void *bytes = model_file_part(f, i, &n);
        struct timespec modified = model_file_modified(f, i);
        int64_t facts[] = {(int64_t)n, modified.tv_sec, modified.tv_nsec};

        (void)XXH3_128bits_update(state, facts, sizeof(facts));
        (void)XXH3_128bits_update(state, bytes, table_bytes(f, i, n));
    }
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct file_tensor *t = model_file_tensor(f, i);
        size_t n = MIN((size_t)t->n_bytes, (size_t)SAMPLE_BYTES);

        (void)XXH3_128bits_update(state, t->data, n);
        (void)XXH3_128bits_update(state, t->data + t->n_bytes - n, n);
    }
}

/* Of all that keys and values depend on, beside the tokens, and of who may see them. */
static int make_fingerprint(const GkEngine *e, bool may_share, struct prefix_fingerprint *ret,
                            Error *reterr) {
    static const char program[] = GROKD_VERSION;
    uint64_t facts[] = {PREFIX_FILE_VERSION, e->kv.type, e->kv.page_bytes, e->exact_floats,
                        may_share};
    XXH3_state_t *state = XXH3_createState();
    XXH128_hash_t hash;

    if (!state)
        return error_set(reterr, -ENOMEM, "out of memory");
    (void)XXH3_128bits_reset(state);
    (void)XXH3_128bits_update(state, program, sizeof(program));
    (void)XXH3_128bits_update(state, facts, sizeof(facts));
    hash_file(state, e->file);
    hash = XXH3_128bits_digest(state);
    (void)XXH3_freeState(state);
    *ret = (struct prefix_fingerprint){.low = hash.low64, .high = hash.high64};
    return 0;
}

/* ---- checksums ---- */

static uint64_t checksum_of(const void *bytes, size_t n, const struct prefix_fingerprint *f) {
    return XXH3_64bits_withSeed(bytes, n, f->low ^ f->high);
}

static uint64_t head_checksum(const struct prefix_file_head *h,
                              const struct prefix_fingerprint *f) {
    return checksum_of(&h->magic, sizeof(*h) - offsetof(struct prefix_file_head, magic), f);
}

static uint64_t record_checksum(const struct prefix_file_record *r,
                                const struct prefix_fingerprint *f) {
    return checksum_of(&r->page_checksum,
                       sizeof(*r) - offsetof(struct prefix_file_record, page_checksum), f);
}

/* ---- the directory and the file ---- */

/* What others could have written is not trusted, and where others could look nothing is put. */
static int check_own(int fd, bool is_directory, Error *reterr) {
    struct stat status;

    if (fstat(fd, &status) < 0)
        return error_set(reterr, GK_E_FILE, "%s", strerror(errno));
    if (is_directory ? !S_ISDIR(status.st_mode) : !S_ISREG(status.st_mode))
        return error_set(reterr, GK_E_FILE, "not a regular file");
    if (status.st_uid != geteuid())
        return error_set(reterr, GK_E_FILE, "it belongs to user %u, not to user %u",
                         (unsigned)status.st_uid, (unsigned)geteuid());
    if (status.st_mode & 0077)
        return error_set(reterr, GK_E_FILE, "its mode is %04o: it must be for its owner alone",
                         (unsigned)status.st_mode & 07777);
    if (!is_directory && status.st_nlink != 1)
        return error_set(reterr, GK_E_FILE, "it has other names");
    return 0;
}

/* Where the file is, and the lock on its name there, so that no two write it at once: each model
 * has its own, as those of one daemon may come and go together. */
struct place {
    int directory_fd, lock_fd;
};

static void place_close(struct place *at) {
    closep(&at->lock_fd);
    closep(&at->directory_fd);
}

/* What is written beside the file, and in its place when it is whole; or locked. */
static int name_beside(char *to, const char *name, const char *end, Error *reterr) {
    if (snprintf(to, NAME_MAX + 1, "%s.%s", name, end) <= NAME_MAX)
        return 0;
    return error_set(reterr, GK_E_FILE, "%s: its name is too long", name);
}

static int lock(struct place *at, const char *name, Error *reterr) {
    char beside[NAME_MAX + 1];
    int r = name_beside(beside, name, "lock", reterr);

    if (r != 0)
        return r;
    at->lock_fd = openat(at->directory_fd, beside,
                         O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (at->lock_fd < 0)
        return error_set(reterr, GK_E_FILE, "%s: cannot open: %s", beside, strerror(errno));
    if (flock(at->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(reterr, GK_E_FILE, "%s: another process uses it", name);
    return 0;
}

static int place_open(struct place *at, const struct gk_prefix_file *f, Error *reterr) {
    int r;

    if (mkdir(f->directory, 0700) < 0 && errno != EEXIST)
        return error_set(reterr, GK_E_FILE, "%s: cannot be made: %s", f->directory,
                         strerror(errno));
    at->directory_fd = open(f->directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (at->directory_fd < 0)
        return error_set(reterr, GK_E_FILE, "%s: cannot open: %s", f->directory, strerror(errno));
    r = check_own(at->directory_fd, true, reterr);
    if (r == 0)
        r = lock(at, f->name, reterr);
    if (r != 0)
        error_prefix(reterr, "%s", f->directory);
    return r;
}

static int read_all(int fd, void *bytes, size_t n, Error *reterr) {
    for (size_t at = 0; at < n;) {
        ssize_t r = read(fd, (uint8_t *)bytes + at, n - at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return error_set(reterr, GK_E_FILE, "%s", strerror(errno));
        if (r == 0)
            return error_set(reterr, GK_E_FILE, "it ends too early");
        at += (size_t)r;
    }
    return 0;
}

static int write_all(int fd, const void *bytes, size_t n, Error *reterr) {
    for (size_t at = 0; at < n;) {
        ssize_t r = write(fd, (const uint8_t *)bytes + at, n - at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return error_set(reterr, GK_E_FILE, "%s", strerror(errno));
        at += (size_t)r;
    }
    return 0;
}

static bool goes_on(const struct gk_prefix_file *f) {
    return !f->go_on || f->go_on(f->userdata);
}

/* ---- loading ---- */

struct loader {
    GkEngine *engine;
    const struct gk_prefix_file *file;
    int fd;
    struct prefix_fingerprint fingerprint;
    uint32_t n;      /* records that there is room for */
    uint32_t *pages; // (n) of the records
    uint64_t n_tokens;
};

static uint64_t record_bytes(const GkEngine *e) {
    return sizeof(struct prefix_file_record) + e->kv.page_bytes;
}

static int read_head(struct loader *l, Error *reterr) {
    struct prefix_file_head h;
    uint64_t n_bytes;
    struct stat status;
    int r = read_all(l->fd, &h, sizeof(h), reterr);

    if (r != 0)
        return r;
    if (h.magic != PREFIX_FILE_MAGIC || h.fingerprint.low != l->fingerprint.low ||
        h.fingerprint.high != l->fingerprint.high || h.record_bytes != record_bytes(l->engine))
        return error_set(reterr, GK_E_FILE,
                         "it is of another model, configuration or version of grokd");
    if (h.checksum != head_checksum(&h, &l->fingerprint))
        return error_set(reterr, GK_E_FILE, "its head is damaged");
    if (fstat(l->fd, &status) < 0 || !checked_mul(h.n_records, h.record_bytes, &n_bytes) ||
        !checked_add(n_bytes, sizeof(h), &n_bytes) || n_bytes != (uint64_t)status.st_size)
        return error_set(reterr, GK_E_FILE, "it has not the size that its head says");
    l->n = (uint32_t)MIN(h.n_records, (uint64_t)l->engine->kv.n_free);
    l->pages = alloc_array(MAX(l->n, 1u), sizeof(*l->pages));
    return l->pages ? 0 : error_set(reterr, -ENOMEM, "out of memory");
}

static bool is_sound(const struct loader *l, const struct prefix_file_record *r, uint32_t i) {
    if (r->checksum != record_checksum(r, &l->fingerprint) || r->index != i ||
        r->n_tokens > KV_PAGE_POSITIONS || (r->parent != KV_NO_PAGE && r->parent >= i))
        return false;
    for (size_t t = 0; t < r->n_tokens; t++)
        if (r->tokens[t] < 0 || (uint32_t)r->tokens[t] >= l->engine->shape.n_vocab)
            return false;
    return true;
}

/* Into the page, which is the tree's afterwards, or free again. */
static int read_record(struct loader *l, uint32_t i, uint32_t page, Error *reterr) {
    KvPool *kv = &l->engine->kv;
    struct prefix_file_record r;
    struct prefix_node_info node;
    int result = read_all(l->fd, &r, sizeof(r), reterr);

    if (result == 0 && !is_sound(l, &r, i))
        result = error_set(reterr, GK_E_FILE, "record %u is damaged", i);
    if (result == 0)
        result = read_all(l->fd, kv_page_memory(kv, page), kv->page_bytes, reterr);
    if (result == 0 &&
        r.page_checksum != checksum_of(kv_page_memory(kv, page), kv->page_bytes, &l->fingerprint))
        result = error_set(reterr, GK_E_FILE, "the page of record %u is damaged", i);
    if (result == 0) {
        node = (struct prefix_node_info){.owner = r.owner,
                                         .parent = r.parent == KV_NO_PAGE ? KV_NO_PAGE
                                                                          : l->pages[r.parent],
                                         .tokens = r.tokens,
                                         .n_tokens = (uint32_t)r.n_tokens};
        if (!prefix_restore(&l->engine->prefixes, page, &node))
            result = error_set(reterr, GK_E_FILE, "record %u contradicts those before it", i);
    }
    if (result != 0) {
        kv_pool_give(kv, 1, &page);
        return result;
    }
    l->pages[i] = page;
    l->n_tokens += r.n_tokens;
    return 0;
}

static int read_records(struct loader *l, Error *reterr) {
    int r = 0;

    for (uint32_t i = 0, page; i < l->n && r == 0; i++) {
        if (!goes_on(l->file))
            return error_set(reterr, -ECANCELED, "loading was given up");
        if (!kv_pool_take(&l->engine->kv, 1, &page))
            return 0;
        r = read_record(l, i, page, reterr);
    }
    return r;
}

static int load(struct loader *l, int directory_fd, Error *reterr) {
    int r;

    l->fd = openat(directory_fd, l->file->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (l->fd < 0 && errno == ENOENT)
        return 0;
    if (l->fd < 0)
        return error_set(reterr, GK_E_FILE, "cannot open: %s", strerror(errno));
    if ((r = check_own(l->fd, false, reterr)) != 0)
        return r;
    (void)posix_fadvise(l->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    if ((r = make_fingerprint(l->engine, l->file->may_share, &l->fingerprint, reterr)) != 0 ||
        (r = read_head(l, reterr)) != 0 || (r = read_records(l, reterr)) != 0)
        prefix_clear(&l->engine->prefixes);
    if (r == GK_E_FILE)
        (void)unlinkat(directory_fd, l->file->name, 0);
    (void)posix_fadvise(l->fd, 0, 0, POSIX_FADV_DONTNEED);
    return r;
}

int gk_prefixes_load(GkEngine *e, const struct gk_prefix_file *file, uint64_t *ret_n_tokens,
                     Error *reterr) {
    struct loader l = {.engine = e, .file = file, .fd = -1};
    CLEANUP(place_close) struct place at = {.directory_fd = -1, .lock_fd = -1};
    int r;

    assert(e->n_sequences == 0 && e->kv.n_free == e->kv.n_pages);
    *ret_n_tokens = 0;
    if (!prefix_is_on(&e->prefixes))
        return 0;
    r = place_open(&at, file, reterr);
    if (r != 0)
        return r;
    r = load(&l, at.directory_fd, reterr);
    if (r != 0)
        error_prefix(reterr, "%s/%s", file->directory, file->name);
    else
        *ret_n_tokens = l.n_tokens;
    closep(&l.fd);
    free(l.pages);
    return r;
}

/* ---- saving ---- */

struct saver {
    GkEngine *engine;
    const struct gk_prefix_file *file;
    int fd;
    struct prefix_fingerprint fingerprint;
    uint32_t n;
    uint32_t *indices; // (kv.n_pages) by page
    uint64_t n_tokens;
};

/* As many as the cap allows, the youngest: what their numbers will be. */
static int choose(struct saver *s, Error *reterr) {
    const PrefixCache *c = &s->engine->prefixes;
    uint64_t max = s->file->n_bytes_max, head = sizeof(struct prefix_file_head);
    uint64_t n_max = max > head ? (max - head) / record_bytes(s->engine) : 0;

    s->indices = alloc_array(c->kv->n_pages, sizeof(*s->indices));
    if (!s->indices)
        return error_set(reterr, -ENOMEM, "out of memory");
    (void)memset(s->indices, 0xFF, c->kv->n_pages * sizeof(*s->indices));
    for (uint32_t page = prefix_youngest(c); page != KV_NO_PAGE && s->n < n_max;
         page = prefix_older(c, page))
        s->indices[page] = s->n++;
    return 0;
}

static int write_head(const struct saver *s, Error *reterr) {
    struct prefix_file_head h = {.magic = PREFIX_FILE_MAGIC,
                                 .fingerprint = s->fingerprint,
                                 .record_bytes = record_bytes(s->engine),
                                 .n_records = s->n};

    h.checksum = head_checksum(&h, &s->fingerprint);
    return write_all(s->fd, &h, sizeof(h), reterr);
}

static int write_record(struct saver *s, uint32_t i, uint32_t page, Error *reterr) {
    const KvPool *kv = &s->engine->kv;
    const void *bytes = kv_page_memory(kv, page);
    struct prefix_node_info node = prefix_node_info(&s->engine->prefixes, page);
    struct prefix_file_record r = {.owner = node.owner, .index = i, .parent = KV_NO_PAGE};
    int result;

    /* No child is younger than its parent. */
    if (node.parent != KV_NO_PAGE) {
        r.parent = s->indices[node.parent];
        assert(r.parent < i);
    }
    r.n_tokens = node.n_tokens;
    (void)memcpy(r.tokens, node.tokens, node.n_tokens * sizeof(*r.tokens));
    r.page_checksum = checksum_of(bytes, kv->page_bytes, &s->fingerprint);
    r.checksum = record_checksum(&r, &s->fingerprint);
    s->n_tokens += r.n_tokens;
    result = write_all(s->fd, &r, sizeof(r), reterr);
    return result != 0 ? result : write_all(s->fd, bytes, kv->page_bytes, reterr);
}

static int write_file(struct saver *s, Error *reterr) {
    const PrefixCache *c = &s->engine->prefixes;
    uint32_t page = prefix_youngest(c);
    int r = write_head(s, reterr);

    for (uint32_t i = 0; i < s->n && r == 0; i++, page = prefix_older(c, page))
        r = goes_on(s->file) ? write_record(s, i, page, reterr)
                             : error_set(reterr, -ECANCELED, "saving was given up");
    if (r == 0 && fsync(s->fd) < 0)
        r = error_set(reterr, GK_E_FILE, "%s", strerror(errno));
    (void)posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
    return r;
}

/* Beside the old one, which it replaces when it is whole and on the disk. */
static int save(struct saver *s, int directory_fd, Error *reterr) {
    char fresh[NAME_MAX + 1];
    int r = name_beside(fresh, s->file->name, "new", reterr);

    if (r != 0)
        return r;
    (void)unlinkat(directory_fd, fresh, 0); /* of a process that was killed */
    s->fd = openat(directory_fd, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->fd < 0)
        return error_set(reterr, GK_E_FILE, "cannot be made: %s", strerror(errno));
    r = write_file(s, reterr);
    if (r == 0 && renameat(directory_fd, fresh, directory_fd, s->file->name) < 0)
        r = error_set(reterr, GK_E_FILE, "cannot be renamed: %s", strerror(errno));
    if (r == 0 && fsync(directory_fd) < 0)
        return error_set(reterr, GK_E_FILE, "%s", strerror(errno));
    if (r != 0)
        (void)unlinkat(directory_fd, fresh, 0);
    return r;
}

int gk_prefixes_save(GkEngine *e, const struct gk_prefix_file *file, uint64_t *ret_n_tokens,
                     Error *reterr) {
    struct saver s = {.engine = e, .file = file, .fd = -1};
    CLEANUP(place_close) struct place at = {.directory_fd = -1, .lock_fd = -1};
    int r;

    *ret_n_tokens = 0;
    if (!prefix_is_on(&e->prefixes) || prefix_youngest(&e->prefixes) == KV_NO_PAGE)
        return 0;
    if (gk_engine_is_lost(e))
        return error_set(reterr, GK_E_DATA_LOSS, "the model's file could not be read any more");
    if ((r = place_open(&at, file, reterr)) != 0)
        return r;
    r = choose(&s, reterr);
    if (r == 0 && s.n == 0)
        (void)unlinkat(at.directory_fd, file->name, 0);
    else if (r == 0 && (r = make_fingerprint(e, file->may_share, &s.fingerprint, reterr)) == 0)
        r = save(&s, at.directory_fd, reterr);
    if (r != 0)
        error_prefix(reterr, "%s/%s", file->directory, file->name);
    else
        *ret_n_tokens = s.n_tokens;
    closep(&s.fd);
    free(s.indices);
    return r;
}
