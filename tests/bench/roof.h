/*
 * What this machine can do at most, measured: the denominators of every benchmark.
 *
 * Each figure is the median of a few short runs with n_threads threads working at once: the best of
 * them is nothing that a median of the model's runs could reach where CPUs are shared, and longer
 * ones would use up the time of a machine that is given so much of it a second.
 */
#pragma once

#define ROOF_THREADS_MAX 1024 /* as many as an engine's pool has at most */

/* Bytes a second of sequential reads of a buffer far larger than the caches. It is kept until
 * roof_free(): a virtual machine hands freed memory back to its host, which takes CPUs away for
 * that, so that what is measured within the next second would seem slow. */
double roof_read(unsigned n_threads);
void roof_free(void);
/* Operations a second in registers, multiply and add counting as two, with the instructions of a
 * kernel tier; NULL: the best. */
double roof_int8(unsigned n_threads, const char *isa);
double roof_f32(unsigned n_threads, const char *isa);
