/*
 * What the kernels with lanes share: what they are told of a format, rows of activations, and the
 * fold of a block's integers into the outputs' floats, which is that of the definition (mul.inc.c).
 *
 * Included by mul-int.inc.c.
 */
#include "engine/kern/kern.h"
#include "engine/kern/unpack.h"

#include <stdbool.h>
#include <stddef.h>

/* All of it is constant where the kernels are instantiated. */
struct lane_format {
    size_t block_bytes;
    int offset, largest; /* of the unsigned weights; signed ones have no offset */
    int n_sub; /* sub-blocks with scales of their own in a super-block, 8 or 16; 0: plain blocks */
    bool has_min;
    bool nibbles;  /* unpacked as two weights a byte: see panel_weights(), digits_add() */
    bool in_place; /* not unpacked: see mul-amx-in-place.inc.c */
};

/* Runs of int16 take bytes above 127 as signed ones. */
#define IS_SIGNED(name) (RUN_IS_INT16 && LARGEST_##name > 127)

#define LANE_FORMAT(name, n_sub, has_min)                                                          \
    static const struct lane_format lane_format_##name = {sizeof(struct name##_block),             \
                                                          IS_SIGNED(name) ? 0 : OFFSET_##name,     \
                                                          LARGEST_##name,                          \
                                                          n_sub,                                   \
                                                          has_min,                                 \
                                                          false,                                   \
                                                          false};
LANE_FORMAT(q4_0, 0, false)
LANE_FORMAT(q4_1, 0, true)
LANE_FORMAT(q5_0, 0, false)
LANE_FORMAT(q5_1, 0, true)
LANE_FORMAT(q8_0, 0, false)
LANE_FORMAT(q2_k, 16, true)
LANE_FORMAT(q3_k, 16, false)
LANE_FORMAT(q4_k, 8, true)
LANE_FORMAT(q5_k, 8, true)
LANE_FORMAT(q6_k, 16, false)

static ALWAYS_INLINE uint32_t block_values(struct lane_format f) {
    return f.n_sub ? QUANT_SUPER : QUANT_BLOCK;
}

#ifdef PANEL_NIBBLE_ROWS
static const struct lane_format lane_format_q4_k_nibbles = {
    sizeof(struct q4_k_block), OFFSET_q4_k, LARGEST_q4_k, 8, true, true, false};
#endif

/* ---- activations ---- */

/* Some rows of them, at a block of k: bytes from a row's start */
struct act_rows {
    const uint8_t *const *act;
    size_t stride;  /* from one to the next; 0: it differs */
    size_t a;       /* to the block's values, or the super-block */
    size_t d, sums; /* of plain blocks, to its scale and its sum */
};

static inline const uint8_t *act_row(const struct kern_mul *m, uint32_t i) {
    return m->x->data + kern_mul_row(m, i) * m->x->stride;
}

/* At the first block. */
static ALWAYS_INLINE struct act_rows act_rows_begin(const struct kern_mul *m, struct lane_format f,
                                                    const uint8_t *const *act) {
    struct act_rows r = {.act = act, .stride = m->rows ? 0 : m->x->stride};

    if (!f.n_sub) {
        r.d = (size_t)((const uint8_t *)kern_act_scales(m->x, 0) - m->x->data);
        r.sums = (size_t)((const uint8_t *)kern_act_sums(m->x, 0) - m->x->data);
    }
    return r;
}

/* n blocks further. */
static ALWAYS_INLINE struct act_rows act_rows_at(struct act_rows r, struct lane_format f,
                                                 uint32_t n) {
    r.a += n * (f.n_sub ? sizeof(struct kern_super) : QUANT_BLOCK);
    r.d += n * sizeof(float);
    r.sums += n * sizeof(int16_t);
    return r;
}

static inline const int8_t *row_values(const struct act_rows *r, int i) {
    return (const int8_t *)(r->act[i] + r->a);
}
static inline const struct kern_super *row_super(const struct act_rows *r, int i) {
    return (const struct kern_super *)(const void *)(r->act[i] + r->a);
}
static inline const float *row_scales(const struct act_rows *r, int i) {
    return (const float *)(const void *)(r->act[i] + r->d);
}
static inline const int16_t *row_sums(const struct act_rows *r, int i) {
    return (const int16_t *)(const void *)(r->act[i] + r->sums);
}
/* The sums of a super-block's sub-blocks. */
static ALWAYS_INLINE const int16_t *row_sub_sums(const struct act_rows *r, struct lane_format f,
                                                 int i) {
    return row_super(r, i)->sums + (f.n_sub == 8 ? KERN_SUPER_SUMS_32 : 0);
}

/* ---- the fold ---- */

/* A plain block, without the activations' scale: wd·dot + wm·sum */
static ALWAYS_INLINE vf plain_value(struct lane_format f, vf wd, vi dot, vf wm, vf sum) {
    vf value = vf_mul(wd, vf_from(dot));

    return f.has_min ? vf_fma(wm, sum, value) : value;
}

/* A super-block likewise: wd·sum − wm·mins */
static ALWAYS_INLINE vf super_value(struct lane_format f, vf wd, vi sum, vf wm, vi mins) {
    vf value = vf_mul(wd, vf_from(sum));

    return f.has_min ? vf_fnma(wm, vf_from(mins), value) : value;
}

/* Steps of four k of a plain block, or of a sub-block: 8 or 4. */
static ALWAYS_INLINE int block_steps(struct lane_format f) {
    return (f.n_sub ? QUANT_SUPER / f.n_sub : QUANT_BLOCK) / 4;
}

/* Those of them that are summed before their sum is taken up: 2, 4 or all. */
static ALWAYS_INLINE int run_steps(struct lane_format f) {
    return vi_run_steps(f.largest) < block_steps(f) ? vi_run_steps(f.largest) : block_steps(f);
}
