/*
 * See map.h.
 *
 * The handler may run in any thread at any instruction, so it takes no lock: mappings are published
 * in a fixed table of slots, each a little seqlock. A slot whose sequence changes while it is read
 * belongs to a mapping that is being opened or closed, which is not the one that the faulting
 * thread is reading; so the handler skips it and never waits.
 *
 * Shared, not private: a shared mapping of a descriptor opened for reading can't be made writable
 * by anyone, and the kernel accounts nothing for it.
 *
 * The descriptor stays open, as the fault alone doesn't tell all: where a file is cut within its
 * last page, or is overwritten in place (cp does that), no page fails and wrong weights are read in
 * silence. So mapping_is_lost() also compares size and time of modification. A file that is
 * replaced by rename(), as it should be, keeps its old content for us and is not lost.
 */
#include "engine/file/map.h"

#include "engine/engine.h"

#include "base/alloc.h"
#include "base/utf8.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define PRELOAD_CHUNK_BYTES (32u << 20)
/* What a fault reads where huge pages are asked for: two of them (Linux, mm/filemap.c, since 5.18).
 * Before, it reads less, and a preload is slower. */
#define HUGE_FAULT_BYTES (4u << 20)

struct slot {
    atomic_uint sequence; /* odd while it is being changed */
    atomic_uintptr_t start, end;
    atomic_bool lost;
    bool taken; /* under slots_lock */
};

/* Owner: ModelFile. Thread: the one that opens and closes; reading is for all. */
struct Mapping {
    int fd;
    const uint8_t *bytes; /* (n_bytes) */
    size_t n_bytes;
    struct timespec modified;
    bool asks_huge;
    struct slot *slot;
};

static struct slot slots[MAPPING_MAX];
static atomic_size_t n_slots_used; /* slots beyond were never taken */
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_action;
static size_t page_bytes;

/* ---- the guard: async-signal-safe ---- */

static struct slot *slot_find(uintptr_t address, uintptr_t *ret_end) {
    size_t n = atomic_load_explicit(&n_slots_used, memory_order_acquire);

    for (size_t i = 0; i < n; i++) {
        struct slot *s = &slots[i];
        unsigned before = atomic_load_explicit(&s->sequence, memory_order_acquire);
        uintptr_t start = atomic_load_explicit(&s->start, memory_order_acquire);
        uintptr_t end = atomic_load_explicit(&s->end, memory_order_acquire);

        if (atomic_load_explicit(&s->sequence, memory_order_relaxed) != before || (before & 1))
            continue;
        if (address >= start && address < end) {
            *ret_end = end;
            return s;
        }
    }
    return NULL;
}

/* Zeroes from the failed page to the end of its mapping: what was truncated away fails only once.
 */
static bool guard_replace(uintptr_t address) {
    uintptr_t end, page = address & ~(uintptr_t)(page_bytes - 1);
    struct slot *s = slot_find(address, &end);

    if (!s)
        return false;
    if (mmap((void *)page, end - page, PROT_READ,
             MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        return false;
    atomic_store_explicit(&s->lost, true, memory_order_release);
    return true;
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context) {
    int saved_errno = errno;
    bool is_fault = info->si_code > 0; /* not sent by kill() */

    if (is_fault && guard_replace((uintptr_t)info->si_addr)) {
        errno = saved_errno;
        return;
    }
    if (previous_action.sa_flags & SA_SIGINFO) {
        previous_action.sa_sigaction(signal_number, info, context);
    } else if (previous_action.sa_handler == SIG_DFL ||
               (previous_action.sa_handler == SIG_IGN && is_fault)) {
        /* Delivered on return, when the signal is unblocked: ends the process as if we were not. */
        (void)signal(signal_number, SIG_DFL);
        (void)raise(signal_number);
    } else if (previous_action.sa_handler != SIG_IGN) {
        previous_action.sa_handler(signal_number);
    }
    errno = saved_errno;
}

static void guard_install(void) {
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, NULL, &previous_action); /* before ours can run */
    (void)sigaction(SIGBUS, &action, NULL);
}

static void slot_write(struct slot *s, uintptr_t start, uintptr_t end) {
    (void)atomic_fetch_add_explicit(&s->sequence, 1, memory_order_relaxed);
    atomic_store_explicit(&s->start, start, memory_order_release); /* who sees it sees the former */
    atomic_store_explicit(&s->end, end, memory_order_release);
    atomic_store_explicit(&s->lost, false, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&s->sequence, 1, memory_order_release);
}

static struct slot *slot_take(uintptr_t start, uintptr_t end) {
    struct slot *s = NULL;

    (void)pthread_mutex_lock(&slots_lock);
    for (size_t i = 0; i < MAPPING_MAX && !s; i++) {
        if (slots[i].taken)
            continue;
        s = &slots[i];
        s->taken = true;
        slot_write(s, start, end);
        if (i >= atomic_load_explicit(&n_slots_used, memory_order_relaxed))
            atomic_store_explicit(&n_slots_used, i + 1, memory_order_release);
    }
    (void)pthread_mutex_unlock(&slots_lock);
    return s;
}

static void slot_release(struct slot *s) {
    (void)pthread_mutex_lock(&slots_lock);
    slot_write(s, 0, 0);
    s->taken = false;
    (void)pthread_mutex_unlock(&slots_lock);
}

/* ---- the object ---- */

static const char *kind_of(mode_t mode) {
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

static int open_regular(const char *path, const char *shown, int *ret_fd, struct stat *ret_status,
                        Error *reterr) {
    /* O_NONBLOCK: opening a pipe that nobody writes to must not wait. */
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return error_set(reterr, GK_E_FILE, "%s: cannot open: %s", shown, strerror(errno));
    if (fstat(fd, ret_status) < 0)
        return error_set(reterr, GK_E_FILE, "%s: cannot stat: %s", shown, strerror(errno));
    if (!S_ISREG(ret_status->st_mode))
        return error_set(reterr, GK_E_FILE, "%s: is %s, not a regular file", shown,
                         kind_of(ret_status->st_mode));
    if (ret_status->st_size <= 0)
        return error_set(reterr, GK_E_FILE, "%s: is empty", shown);
    *ret_fd = take_fd(&fd);
    return 0;
}

int mapping_open(Mapping **ret, const char *path, Error *reterr) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    CLEANUP(mapping_closep) Mapping *m = alloc_new(Mapping);
    char shown[192];
    struct stat status;
    uintptr_t start;
    void *bytes;
    int r;

    if (!m)
        return error_origin(-ENOMEM);
    m->fd = -1;
    (void)pthread_once(&once, guard_install);
    (void)utf8_printable(shown, sizeof(shown), path, strlen(path));
    r = open_regular(path, shown, &m->fd, &status, reterr);
    if (r)
        return error_trace(r);
    bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, m->fd, 0);
    if (bytes == MAP_FAILED)
        return error_set(reterr, GK_E_FILE, "%s: cannot map its %lld bytes: %s", shown,
                         (long long)status.st_size, strerror(errno));
    m->bytes = bytes;
    m->n_bytes = (size_t)status.st_size;
    m->modified = status.st_mtim;
    start = (uintptr_t)bytes;
    /* To the end of the last page: it is mapped, and a fault in it is ours too. */
    m->slot =
        slot_take(start, (start + m->n_bytes + page_bytes - 1) & ~(uintptr_t)(page_bytes - 1));
    if (!m->slot)
        return error_set(reterr, GK_E_FILE, "%s: more than %d files are mapped", shown,
                         MAPPING_MAX);
    *ret = take_ptr(m);
    return 0;
}

Mapping *mapping_close(Mapping *m) {
    if (!m)
        return NULL;
    if (m->slot)
        slot_release(m->slot);
    if (m->bytes)
        (void)munmap((void *)(uintptr_t)m->bytes, m->n_bytes);
    closep(&m->fd);
    free(m);
    return NULL;
}

const uint8_t *mapping_bytes(const Mapping *m) {
    return m->bytes;
}

size_t mapping_n_bytes(const Mapping *m) {
    return m->n_bytes;
}

struct timespec mapping_modified(const Mapping *m) {
    return m->modified;
}

static bool file_has_changed(const Mapping *m) {
    struct stat status;

    /* A file system that no longer answers shows itself when a page is read. */
    if (fstat(m->fd, &status) < 0)
        return false;
    return status.st_size < (off_t)m->n_bytes || status.st_mtim.tv_sec != m->modified.tv_sec ||
           status.st_mtim.tv_nsec != m->modified.tv_nsec;
}

bool mapping_is_lost(Mapping *m) {
    if (atomic_load_explicit(&m->slot->lost, memory_order_acquire))
        return true;
    if (!file_has_changed(m))
        return false;
    atomic_store_explicit(&m->slot->lost, true, memory_order_release);
    return true;
}

/* Page cache of a file system that has large folios, read by faults after this, comes in huge
 * pages. */
void mapping_ask_huge(Mapping *m) {
    m->asks_huge = madvise((void *)(uintptr_t)m->bytes, m->n_bytes, MADV_HUGEPAGE) == 0;
}

/* MLOCK_ONFAULT: nothing is read for it, that is preload's. */
void mapping_lock(const Mapping *m) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    (void)mlock2(m->bytes, m->n_bytes, MLOCK_ONFAULT);
}

static void touch(const uint8_t *bytes, size_t n, size_t step) {
    for (size_t i = 0; i < n; i += step)
        (void)*(const volatile uint8_t *)(bytes + i);
}

/* Has the disk read n bytes that will be mapped next. MADV_WILLNEED doesn't wait for them, but
 * reads into small pages; so does, where the device's read-ahead is small, what the kernel reads
 * ahead of faults. What a fault itself reads comes in huge pages: it waits for the first one, and
 * the second is read meanwhile. */
static void read_ahead(const Mapping *m, const uint8_t *bytes, size_t n) {
    if (m->asks_huge)
        touch(bytes, n, HUGE_FAULT_BYTES);
    else if (n > 0)
        (void)madvise((void *)(uintptr_t)bytes, n, MADV_WILLNEED);
}

bool mapping_preload(Mapping *m, size_t begin, size_t n_bytes,
                     bool (*on_progress)(void *userdata, uint64_t n_bytes), void *userdata) {
    read_ahead(m, m->bytes + begin, MIN(n_bytes, (size_t)PRELOAD_CHUNK_BYTES));
    for (size_t at = 0; at < n_bytes; at += PRELOAD_CHUNK_BYTES) {
        size_t n = MIN(n_bytes - at, (size_t)PRELOAD_CHUNK_BYTES);
        size_t ahead = MIN(n_bytes - at - n, (size_t)PRELOAD_CHUNK_BYTES);
        const uint8_t *chunk = m->bytes + begin + at;

        read_ahead(m, chunk + n, ahead);
        /* Kernels before 5.14 lack it, and it gives up at a bad page: touching does not. */
        if (madvise((void *)(uintptr_t)chunk, n, MADV_POPULATE_READ) < 0)
            touch(chunk, n, page_bytes);
        if (mapping_is_lost(m))
            return true;
        if (on_progress && !on_progress(userdata, n))
            return false;
    }
    return true;
}
