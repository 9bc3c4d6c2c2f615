/* The generic tier. See math.inc.c and mul.inc.c. */
#include "engine/kern/lanes-generic.h"

#include "engine/kern/math.inc.c"
#include "engine/kern/mul.inc.c"
#include "engine/kern/quantize.inc.c"

#define TIER_NAME        "generic"
#define TIER_OPS         kern_ops_generic
#define TIER_MUL(format) mul_##format
#include "engine/kern/table.inc.c"
