/* The AMX tier on tiles in plain C (tests/util/tiles.h): needs what the vnni tier needs. */
#pragma once

#include "engine/kern/kern.h"

extern const struct kern_ops kern_ops_amx_emulated;
