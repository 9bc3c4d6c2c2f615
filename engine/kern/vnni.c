/* The vnni tier. See math.inc.c and mul.inc.c. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/math.inc.c"
#include "engine/kern/mul.inc.c"

#define TIER_NAME "vnni"
#define TIER_OPS  kern_ops_vnni
#include "engine/kern/table.inc.c"
