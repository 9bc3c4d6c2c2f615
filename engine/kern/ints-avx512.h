/* Integer lanes of the AVX-512 tier without VNNI. */
#pragma once

#include "engine/kern/ints-512.h"

/* 12 accumulators of int16 and 12 of int32 of 32 registers. */
#define PANEL_ROWS 6
#define PANEL_VECS 2
