/* The AVX-512 VNNI tier. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/ints-vnni.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"
#include "engine/kern/run-vnni.inc.c"

/* Not in ints-vnni.h: CPUs with tiles have none. */
#define SPARE_PIPES kern_has_spare_pipes
#include "engine/kern/mul-int.inc.c"

#define TIER_NAME        "vnni"
#define TIER_OPS         kern_ops_vnni
#define TIER_MUL(format) mul_##format
#include "engine/kern/table.inc.c"
