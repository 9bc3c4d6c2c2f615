/*
 * The quantised products of the tiers that have integer lanes: panels for prefill, a streaming
 * kernel for decode, which has no place for fewer outputs than a vector has lanes. Included by a
 * tier after its ints-*.h and its run-*.inc.c.
 */
#include "engine/kern/fold.inc.c"
#include "engine/kern/products.inc.c"
#include "engine/kern/unpack.inc.c"

#include "engine/kern/gemv.inc.c"
#include "engine/kern/panel.inc.c"

#define MUL(name)                                                                                  \
    static void mul_##name(const struct kern_mul *m) {                                             \
        if (m->n_rows < PANEL_ROWS_MIN && m->n_out >= VI_LANES)                                    \
            gemv(m, lane_format_##name, unpack_lanes_##name);                                      \
        else                                                                                       \
            panel_mul(m, lane_format_##name, unpack_lanes_##name, panel_share);                    \
    }

MUL(q4_0)
MUL(q4_1)
MUL(q5_0)
MUL(q5_1)
MUL(q8_0)
MUL(q2_k)
MUL(q3_k)
MUL(q4_k)
MUL(q5_k)
MUL(q6_k)
