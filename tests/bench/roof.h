/*
 * What this machine can do at most, measured: the denominators of every benchmark.
 *
 * Each figure is the best of a few short runs with n_threads threads working at once, because a
 * roof is a maximum and these machines are shared.
 */
#pragma once

struct roofs {
    unsigned n_threads;
    double read_bytes_per_second; /* sequential reads of a buffer far larger than the caches */
    double int8_ops_per_second;   /* multiply and add count as two */
    double f32_ops_per_second;    /* fused multiply-adds in registers, likewise */
};

/* With the instructions of a kernel tier; NULL: the best. */
struct roofs roofs_measure(unsigned n_threads, const char *isa);
