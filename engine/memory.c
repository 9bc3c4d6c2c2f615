/*
 * See memory.h. The two files of the kernel list the same areas, smaps with a header line
 * "BEGIN-END flags offset …" and lines "Name: NUMBER kB" after it, numa_maps with one line
 * "BEGIN policy … N0=PAGES N1=PAGES kernelpagesize_kB=4". Both walk the page tables, which takes
 * time on a large model: they are read once.
 */
#include "engine/memory.h"

#include "base/alloc.h"
#include "base/macro.h"
#include "engine/cpus.h"

#include <inttypes.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/syscall.h>

#define LINE_MAX_BYTES 4096 /* paths are the longest thing in them */
#define SAMPLES        65536

static bool is_inside(uintptr_t begin, const struct memory_range *ranges, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (begin >= ranges[i].begin && begin < ranges[i].end)
            return true;
    return false;
}

/* The number of a line "Name: NUMBER kB" in bytes, 0 where it has another name. */
static uint64_t bytes_of(const char *line, const char *name) {
    size_t n = strlen(name);
    uint64_t kib = 0;

    if (strncmp(line, name, n) != 0 || sscanf(line + n, ": %" SCNu64 " kB", &kib) != 1)
        return 0;
    return kib * 1024;
}

void memory_read_smaps(FILE *smaps, const struct memory_range *ranges, size_t n,
                       struct gk_memory *ret) {
    char line[LINE_MAX_BYTES];
    uintptr_t begin, end;
    uint64_t resident = 0;
    bool inside = false;

    while (fgets(line, sizeof(line), smaps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
            inside = is_inside(begin, ranges, n);
            resident = 0;
        }
        if (!inside)
            continue;
        resident += bytes_of(line, "Rss");
        ret->n_resident_bytes += bytes_of(line, "Rss");
        ret->n_huge_bytes += bytes_of(line, "AnonHugePages") + bytes_of(line, "FilePmdMapped") +
                             bytes_of(line, "ShmemPmdMapped");
        /* "Locked:" counts what is shared with other processes in part only; the flag does not. */
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " lo"))
            ret->n_locked_bytes += resident;
    }
}

void memory_read_numa_maps(FILE *numa_maps, const struct memory_range *ranges, size_t n,
                           struct gk_memory *ret) {
    char line[LINE_MAX_BYTES];
    uintptr_t begin;

    while (fgets(line, sizeof(line), numa_maps)) {
        const char *size = strstr(line, " kernelpagesize_kB=");
        uint64_t page_kib, pages;
        unsigned node;

        if (!size || sscanf(size, " kernelpagesize_kB=%" SCNu64, &page_kib) != 1 ||
            sscanf(line, "%" SCNxPTR " ", &begin) != 1 || !is_inside(begin, ranges, n))
            continue;
        for (const char *at = line; (at = strstr(at, " N")); at++)
            if (sscanf(at, " N%u=%" SCNu64, &node, &pages) == 2 && node < GK_NODES_MAX)
                ret->node_bytes[node] += pages * page_kib * 1024;
    }
}

static size_t sample_bytes(const struct memory_range *ranges, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n_pages = 0;

    for (size_t i = 0; i < n; i++)
        n_pages += (ranges[i].end - ranges[i].begin) / page;
    return (n_pages / SAMPLES + 1) * page;
}

void memory_count_homes(const Homes *homes, const struct memory_range *ranges, size_t n,
                        int (*node_of)(const void *page), struct gk_memory *ret) {
    size_t step = sample_bytes(ranges, n);

    for (size_t i = 0; i < n; i++)
        for (uintptr_t at = ranges[i].begin; at < ranges[i].end; at += step) {
            const uint8_t *page = (const uint8_t *)at;
            size_t n_bytes = MIN(step, ranges[i].end - at);
            int node = node_of(page);

            if (node >= 0 && node == homes_node_of(homes, page))
                ret->n_home_bytes += n_bytes;
            else if (node >= 0)
                ret->n_away_bytes += n_bytes;
        }
}

static int kernel_node_of(const void *page) {
    int node;

    return syscall(SYS_get_mempolicy, &node, NULL, 0ul, page, MPOL_F_NODE | MPOL_F_ADDR) == 0 ? node
                                                                                              : -1;
}

void memory_of_file(const ModelFile *f, const Homes *homes, struct gk_memory *ret) {
    CLEANUP(freep) struct memory_range *ranges = NULL;
    size_t n = model_file_n_parts(f);
    FILE *file;

    *ret = (struct gk_memory){.n_nodes = cpus_n_nodes(CPUS_NODES)};
    ranges = alloc_array(n, sizeof(*ranges));
    if (!ranges)
        return;
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes;

        ranges[i].begin = (uintptr_t)model_file_part(f, i, &n_bytes);
        ranges[i].end = ranges[i].begin + n_bytes;
    }
    if ((file = fopen("/proc/self/smaps", "re"))) {
        memory_read_smaps(file, ranges, n, ret);
        (void)fclose(file);
    }
    if ((file = fopen("/proc/self/numa_maps", "re"))) {
        memory_read_numa_maps(file, ranges, n, ret);
        (void)fclose(file);
    }
    if (homes)
        memory_count_homes(homes, ranges, n, kernel_node_of, ret);
}
