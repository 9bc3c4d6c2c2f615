/* See memlock.h. */
#include "tests/util/memlock.h"

#include "tests/util/test.h"

#include <sys/mman.h>
#include <sys/resource.h>

bool test_may_lock(size_t n_bytes) {
    struct rlimit limit;
    void *memory;
    bool may;

    assert(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    assert(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    memory = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(memory != MAP_FAILED);
    may = mlock2(memory, n_bytes, MLOCK_ONFAULT) == 0;
    assert(munmap(memory, n_bytes) == 0);
    return may;
}
