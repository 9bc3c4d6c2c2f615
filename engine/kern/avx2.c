/* The AVX2 tier. */
#include "engine/kern/lanes-avx2.h"

#include "engine/kern/ints-avx2.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"
#include "engine/kern/run-madd.inc.c"

#include "engine/kern/mul-int.inc.c"

#define TIER_NAME        "avx2"
#define TIER_OPS         kern_ops_avx2
#define TIER_MUL(format) mul_##format
#include "engine/kern/table.inc.c"
