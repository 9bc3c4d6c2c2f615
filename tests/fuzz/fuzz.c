/* See fuzz.h: the two functions that libFuzzer calls. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    if (*argc > 1 && (*argv)[*argc - 1][0] != '-')
        fuzz_seed((*argv)[*argc - 1]);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    return fuzz_one(bytes, n);
}
