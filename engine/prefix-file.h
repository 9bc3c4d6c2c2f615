/*
 * The prefix cache in a file, so that it outlives the daemon: what gk_prefixes_save() writes and
 * gk_prefixes_load() reads. A head, then a record for each page, the youngest first, so that
 * parents come before their children and what a cap cuts off is the oldest.
 *
 * The file is for this machine, this program and this model: the head has their fingerprint, with
 * which every checksum begins, so that no record of another file passes. Numbers are in the
 * machine's own order, as those in the pages are. Whatever is not as it was written makes the whole
 * file worthless: it is removed, and the cache begins empty.
 */
#pragma once

#include "engine/kv.h"

#define PREFIX_FILE_MAGIC 0x31584650444B4F52ull /* "ROKDPFX1" */
/* Count up where the same tokens get other keys or values, or the layout changes. */
#define PREFIX_FILE_VERSION 2

struct prefix_fingerprint {
    uint64_t low, high;
};

struct prefix_file_head {
    uint64_t checksum; /* of what follows */
    uint64_t magic;
    struct prefix_fingerprint fingerprint;
    uint64_t record_bytes, n_records; /* the file has exactly these */
};

struct prefix_file_record {
    uint64_t checksum; /* of what follows */
    uint64_t page_checksum;
    uint64_t owner;
    uint32_t index;  /* its own number in the file */
    uint32_t parent; /* the number of an earlier one; KV_NO_PAGE: none */
    uint64_t n_tokens;
    int32_t tokens[KV_PAGE_POSITIONS]; /* 0 after the last */
    /* and the page */
};

_Static_assert(sizeof(struct prefix_file_head) == 48 &&
                   sizeof(struct prefix_file_record) == 40 + 4 * KV_PAGE_POSITIONS,
               "no byte is undefined");
