/* See amx-emulated.h. */
#include "tests/kern/amx-emulated.h"

#include "tests/util/tiles.h"

#define kern_ops_amx kern_ops_amx_emulated
#include "engine/kern/amx.c"
