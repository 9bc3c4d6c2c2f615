/* The AVX-512 VNNI tier: panels for prefill, a streaming kernel for decode. */
#include "engine/kern/lanes-avx512.h"

#include "engine/kern/ints-vnni.h"
#include "engine/kern/math.inc.c"
#include "engine/kern/quantize.inc.c"

static inline const int8_t *act_row(const struct kern_mul *m, uint32_t i, const float **ret_d,
                                    const int16_t **ret_sums) {
    size_t row = m->rows ? m->rows[i] : i;

    *ret_d = kern_act_scales(m->x, row);
    *ret_sums = kern_act_sums(m->x, row);
    return (const int8_t *)(m->x->data + row * m->x->stride);
}

#include "engine/kern/wide-avx512.inc.c"

#include "engine/kern/gemv-vnni.inc.c"
#include "engine/kern/panel.inc.c"

/* From so many rows on, unpacking a panel costs less than reading weights again (measured). */
#define PANEL_ROWS_MIN 6

#define MUL(name)                                                                                  \
    static void mul_##name(const struct kern_mul *m) {                                             \
        if (m->n_rows < PANEL_ROWS_MIN)                                                            \
            gemv(m, wide_format_##name);                                                           \
        else                                                                                       \
            panel_mul(m, wide_format_##name, unpack_panel_##name);                                 \
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

#define TIER_NAME "vnni"
#define TIER_OPS  kern_ops_vnni
#include "engine/kern/table.inc.c"
