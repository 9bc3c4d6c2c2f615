/*
 * What each parser's fuzz entry defines. fuzz.c makes a libFuzzer program of it, which starts from
 * the entry's own seeds: no corpus is kept.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Ends the run where what the parser promises does not hold. */
#define fuzz_check(condition) ((condition) ? (void)0 : abort())

/* Writes files of good input into the directory. */
void fuzz_seed(const char *directory);
int fuzz_one(const uint8_t *bytes, size_t n);
