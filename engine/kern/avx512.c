/* The avx512 tier. See math.inc.c and mul.inc.c. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/math.inc.c"
#include "engine/kern/mul.inc.c"
#include "engine/kern/quantize.inc.c"

#define TIER_NAME "avx512"
#define TIER_OPS  kern_ops_avx512
#include "engine/kern/table.inc.c"
