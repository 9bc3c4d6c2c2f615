/*
 * The quantised products of the tiers that have integer lanes: panels for prefill, a streaming
 * kernel for decode. Included by a tier after its ints-*.h and its run-*.inc.c.
 */
#include "engine/kern/kern.h"

#include "base/macro.h"
#include "engine/kern/wide.inc.c"

static inline const int8_t *act_row(const struct kern_mul *m, uint32_t i, const float **ret_d,
                                    const int16_t **ret_sums) {
    size_t row = kern_mul_row(m, i);

    *ret_d = kern_act_scales(m->x, row);
    *ret_sums = kern_act_sums(m->x, row);
    return (const int8_t *)(m->x->data + row * m->x->stride);
}

#include "engine/kern/gemv.inc.c"
#include "engine/kern/panel.inc.c"

#define MUL(name)                                                                                  \
    static void mul_##name(const struct kern_mul *m) {                                             \
        if (m->n_rows < PANEL_ROWS_MIN)                                                            \
            gemv(m, wide_format_##name);                                                           \
        else                                                                                       \
            panel_mul(m, wide_format_##name, unpack_panel_##name, panel_share);                    \
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
