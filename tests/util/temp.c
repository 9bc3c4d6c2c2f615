/* See temp.h. */
#include "tests/util/temp.h"

#include "tests/util/test.h"

#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[PATH_MAX / 2];
static pid_t owner;

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw) {
    (void)status;
    (void)type;
    (void)ftw;
    return remove(path);
}

__attribute__((destructor)) static void remove_directory(void) {
    if (owner == getpid()) /* tests run in children of the program */
        (void)nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

__attribute__((constructor)) static void make_directory(void) {
    const char *parent = getenv("TMPDIR");

    (void)snprintf(directory, sizeof(directory), "%s/grokd-test-XXXXXX", parent ? parent : "/tmp");
    assert(mkdtemp(directory));
    owner = getpid();
}

const char *temp_path(const char *format, ...) {
    static char paths[8][PATH_MAX];
    static unsigned i_path;
    char *path = paths[i_path++ % 8];
    int n = snprintf(path, PATH_MAX, "%s/", directory);
    va_list args;

    va_start(args, format);
    (void)vsnprintf(path + n, PATH_MAX - (size_t)n, format, args);
    va_end(args);
    return path;
}
