/* The avx2 tier. See math.inc.c and mul.inc.c. */
#include "engine/kern/lanes-avx2.h"

#include "engine/kern/math.inc.c"
#include "engine/kern/mul.inc.c"
#include "engine/kern/quantize.inc.c"

#define TIER_NAME "avx2"
#define TIER_OPS  kern_ops_avx2
#include "engine/kern/table.inc.c"
