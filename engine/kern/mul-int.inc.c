/*
 * The quantised products of the tiers that have integer lanes: panels for prefill, a streaming
 * kernel for decode, which has no place for fewer blocks than a vector has lanes. Included by a
 * tier after its ints-*.h and its run-*.inc.c.
 */
#include "engine/kern/fold.inc.c"
#include "engine/kern/products.inc.c"
#ifdef HAS_TILES
#include "engine/kern/digits.inc.c"
#endif
#include "engine/kern/unpack.inc.c"

#include "engine/kern/gemv.inc.c"
#include "engine/kern/panel.inc.c"

#define MUL(name) MUL_EITHER(name, name, 0)

/* Panels of `few` for up to so many rows. */
#define MUL_EITHER(name, few, few_rows)                                                            \
    static void mul_##name(const struct kern_mul *m) {                                             \
        if (gemv_serves(m, lane_format_##name))                                                    \
            gemv(m, lane_format_##name, unpack_lanes_##name);                                      \
        else if (m->n_rows <= (few_rows))                                                          \
            panel_mul(m, lane_format_##few, unpack_lanes_##few, panel_share, PANEL_ROWS);          \
        else                                                                                       \
            panel_mul(m, lane_format_##name, unpack_lanes_##name, panel_share, PANEL_ROWS);        \
    }

MUL(q4_0)
MUL(q4_1)
MUL(q5_0)
MUL(q5_1)
MUL(q8_0)
MUL(q2_k)
MUL(q3_k)
#ifdef SPARE_PIPES
/* With two sub-blocks' scales in one product such pipes have room for the nibbles of several groups
 * of rows. (Measured on Zen 4: 32 rows lose by it.) */
MUL_EITHER(q4_k, q4_k_nibbles, SPARE_PIPES ? 24 : PANEL_NIBBLE_ROWS)
#elif defined PANEL_NIBBLE_ROWS
MUL_EITHER(q4_k, q4_k_nibbles, PANEL_NIBBLE_ROWS)
#else
MUL(q4_k)
#endif
MUL(q5_k)
MUL(q6_k)
