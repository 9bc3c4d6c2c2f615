/* Integer lanes of the AVX2 tier. */
#pragma once

#include "engine/kern/ints-256.h"

/* 8 accumulators of 16 registers. */
#define PANEL_ROWS 4
#define PANEL_VECS 2
