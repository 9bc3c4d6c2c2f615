/* The tables that the tiers' translation units export; only kern.c reads this. */
#pragma once

#include "engine/kern/kern.h"

extern const struct kern_ops kern_ops_generic, kern_ops_avx2, kern_ops_avxvnni, kern_ops_avx512,
    kern_ops_vnni, kern_ops_amx;
