/* See proc.h. */
#include "tests/util/proc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t proc_number(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    size_t n = strlen(key);
    int64_t number = -1;
    char line[256];

    while (f && number < 0 && fgets(line, sizeof(line), f))
        if (strncmp(line, key, n) == 0 && line[n] == ':')
            number = strtoll(line + n + 1, NULL, 10);
    if (f)
        (void)fclose(f);
    return number;
}
