/* The AVX-512 tier of CPUs without VNNI. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/ints-avx512.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"
#include "engine/kern/run-madd.inc.c"

#include "engine/kern/mul-int.inc.c"

#define TIER_NAME        "avx512"
#define TIER_OPS         kern_ops_avx512
#define TIER_MUL(format) mul_##format
#include "engine/kern/table.inc.c"
