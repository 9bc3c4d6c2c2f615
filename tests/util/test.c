/* See test.h. */
#include "tests/util/test.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_SKIP 77

_Noreturn void test_skip(const char *reason) {
    (void)printf("# skip: %s\n", reason);
    (void)fflush(stdout);
    _exit(EXIT_SKIP);
}

/* Sanitizer builds are several times slower; tests/run sets the factor. */
static unsigned time_limit(const struct test *t) {
    const char *factor = getenv("GROKD_TEST_SLOWNESS");
    unsigned seconds = t->seconds ? t->seconds : TEST_SECONDS_DEFAULT;

    return factor ? seconds * (unsigned)strtoul(factor, NULL, 10) : seconds;
}

static bool run_one(const struct test *t, size_t number) {
    int status;
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    assert(pid >= 0);
    if (pid == 0) {
        (void)alarm(time_limit(t));
        t->run();
        exit(0); /* not _exit(): leak checkers report at exit */
    }
    while (waitpid(pid, &status, 0) < 0)
        assert(errno == EINTR);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        (void)printf("ok %zu - %s\n", number, t->name);
        return true;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP) {
        (void)printf("ok %zu - %s # SKIP\n", number, t->name);
        return true;
    }
    if (WIFSIGNALED(status))
        (void)printf("not ok %zu - %s # %s\n", number, t->name,
                     WTERMSIG(status) == SIGALRM ? "timed out" : strsignal(WTERMSIG(status)));
    else
        (void)printf("not ok %zu - %s # exit status %d\n", number, t->name, WEXITSTATUS(status));
    return false;
}

int test_main(const struct test *tests, size_t n, int argc, char **argv) {
    size_t number = 0;
    bool ok = true;

    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* what a test said before it aborted is kept */
    for (size_t i = 0; i < n; i++) {
        bool wanted = argc < 2;

        for (int j = 1; j < argc; j++)
            wanted |= strcmp(argv[j], tests[i].name) == 0;
        if (wanted)
            ok &= run_one(&tests[i], ++number);
    }
    (void)printf("1..%zu\n", number);
    return ok && number > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
