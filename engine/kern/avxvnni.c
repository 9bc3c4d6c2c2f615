/* The AVX-VNNI tier: AVX2 with 8-bit dot products of 256 bits. */
#include "engine/kern/lanes-avx2.h"

#include "engine/kern/ints-avxvnni.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"
#include "engine/kern/run-vnni.inc.c"

#include "engine/kern/mul-int.inc.c"

#define TIER_NAME        "avxvnni"
#define TIER_OPS         kern_ops_avxvnni
#define TIER_MUL(format) mul_##format
#include "engine/kern/table.inc.c"
