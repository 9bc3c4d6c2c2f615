/* The AMX tier: tiles for prefill, the rest as in the AVX-512 VNNI tier. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/ints-amx.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"
#include "engine/kern/run-vnni.inc.c"

#include "engine/kern/mul-amx.inc.c"

#define TIER_NAME        "amx"
#define TIER_OPS         kern_ops_amx
#define TIER_MUL(format) amx_mul_##format
#include "engine/kern/table.inc.c"
