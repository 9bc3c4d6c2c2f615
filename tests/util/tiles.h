/*
 * AMX tiles in plain C, for kernels tested where the CPU has none: this header, included before a
 * kernel's source, puts these functions in the place of the intrinsics.
 *
 * They do what Intel's manual says (SDM volume 1, 18.2; volume 2 by instruction): only palette 1,
 * eight tiles of up to 16 rows by 64 bytes. Where the instruction would fault (#GP, #UD) they
 * abort; memory is read and written where the instruction would, so guard pages and sanitizers see
 * it. Each thread has tiles of its own.
 */
#pragma once

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void tiles_load_config(const void *config);
void tiles_release(void);
bool tiles_are_configured(void);
/* How many tile products this thread has made. */
unsigned long tiles_n_dots(void);
void tiles_zero(int tile);
void tiles_load(int to, const void *from, ptrdiff_t stride);
void tiles_store(int from, void *to, ptrdiff_t stride);
/* sums += a · b; the bytes of each are signed or not. */
void tiles_dot(int sums, int a, int b, bool a_signed, bool b_signed);

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#define _tile_loadconfig(config)       tiles_load_config(config)
#define _tile_release()                tiles_release()
#define _tile_zero(tile)               tiles_zero(tile)
#define _tile_loadd(to, from, stride)  tiles_load(to, from, stride)
#define _tile_stored(from, to, stride) tiles_store(from, to, stride)
#define _tile_dpbssd(sums, a, b)       tiles_dot(sums, a, b, true, true)
#define _tile_dpbsud(sums, a, b)       tiles_dot(sums, a, b, true, false)
#define _tile_dpbusd(sums, a, b)       tiles_dot(sums, a, b, false, true)
#define _tile_dpbuud(sums, a, b)       tiles_dot(sums, a, b, false, false)
