/*
 * Prefill by AMX: the products of panel.inc.c with tiles of 16 rows by 64 bytes.
 *
 * A panel lies in memory as the right-hand operand of a tile product is wanted: sixteen outputs
 * by four values of k a vector, so that 64 values of k are sixteen tile rows. The left-hand operand
 * is 16 rows of activations as they are. One instruction makes 16 × 16 sums over 64 values of k, in
 * 16 cycles: fewer values of k take no less.
 *
 * Sub-blocks of a super-block have scales of their own: a tile product for each would be half or
 * three quarters empty, and 16 × 16 multiplications and additions would follow. Instead, scales are
 * multiplied into the weights, once a panel (digits.inc.c), and tiles alone sum a super-block.
 * Plain blocks have float scales, so each is a product of 32 values of k (and Q8_0 another matter:
 * mul-amx-in-place.inc.c).
 *
 * Sums are exact in int32 and folded as everywhere (fold.inc.c); a CPU does that while it
 * multiplies the next tiles, so they go to memory by turns. A tile is always whole: where rows are
 * left over, they are copied, and filled up with the last one, whose sums then go to rows of y that
 * are not stored at the end.
 *
 * Included by a tier in the place of mul-int.inc.c, whose products serve few rows.
 */
#include "engine/kern/mul-int.inc.c"

#include <stddef.h>

#define AMX_ROWS 16 /* of a tile, each of VI_BYTES */
_Static_assert(VI_LANES == AMX_ROWS && PANEL_VECS == 2 && PANEL_Y_ROWS % AMX_ROWS == 0,
               "a vector is a tile's row, and each vector of a panel has two of the eight tiles");

/* LDTILECFG's operand (Intel SDM, volume 1, 18.2). */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "as the instruction wants it");

/* Right-hand operands have a row for each four values of k. */
#define TILE_CONFIG(n_k)                                                                           \
    {                                                                                              \
        .palette = 1,                                                                              \
        .row_bytes = {[T_SUM_0] = 64,   [T_SUM_1] = 64, [T_MORE_0] = 64, [T_MORE_1] = 64,          \
                      [T_ACTS] = (n_k), [T_W_0] = 64,   [T_W_1] = 64,    [T_UNREAD] = 64},         \
        .n_rows = {                                                                                \
            [T_SUM_0] = AMX_ROWS,                                                                  \
            [T_SUM_1] = AMX_ROWS,                                                                  \
            [T_MORE_0] = AMX_ROWS,                                                                 \
            [T_MORE_1] = AMX_ROWS,                                                                 \
            [T_ACTS] = AMX_ROWS,                                                                   \
            [T_W_0] = (n_k) / 4,                                                                   \
            [T_W_1] = (n_k) / 4,                                                                   \
            [T_UNREAD] = AMX_ROWS                                                                  \
        }                                                                                          \
    }

static const struct tile_config tiles_plain = TILE_CONFIG(QUANT_BLOCK),
                                tiles_super = TILE_CONFIG(VI_BYTES);

typedef int32_t tile_sums[AMX_ROWS][VI_LANES];

/* A pass is 16 rows by a super-block, 64 values of k a step, or by so many plain blocks, one a
 * step. */
#define AMX_STEPS (PANEL_STEPS / AMX_ROWS)
/* Rows that are folded side by side. */
#define AMX_FOLD_ROWS 4

/* A row's activations of a panel. */
union amx_acts {
    struct kern_super super;
    struct {
        int8_t q[PANEL_K];
        float d[PANEL_K / QUANT_BLOCK];
        int16_t sums[PANEL_K / QUANT_BLOCK];
    } plain;
};

struct amx_work {
    struct panel_work rest;           /* first: it is what panel_mul() takes for its own */
    vi high[PANEL_STEPS][PANEL_VECS]; /* super-blocks: the digits above those of panel.w */
    /* By turns: of each plain block, or of low and high digits. */
    _Alignas(64) tile_sums sums[2][AMX_STEPS][PANEL_VECS];
    union amx_acts acts[PANEL_ACT_ROWS]; /* copies: see groups_before() */
};
_Static_assert(sizeof(struct amx_work) <= KERN_SCRATCH_BYTES, "fits in a thread's scratch");

struct amx_pass {
    const uint8_t *acts; /* the rows, at the panel's part of them; stride bytes apart */
    size_t stride;
    size_t d, d_sums; /* plain blocks: to their scales and sums */
    float (*y)[PANEL_OUT];
    tile_sums (*sums)[PANEL_VECS];
    int block, n_blocks; /* plain ones */
};

/* The groups of rows that the panels before this one have in its block of k: so far on is what is
 * kept of each for all outputs. They are of PANEL_ACT_ROWS rows at most, this panel's too: see
 * k_block(), which is told of whole groups. */
static ALWAYS_INLINE size_t groups_before(const struct panel_rows *r, uint32_t n_rows) {
    return (r->place.k - r->place.block) / PANEL_K * row_groups(n_rows, AMX_ROWS);
}

/* ---- sixteen rows ---- */

static ALWAYS_INLINE void amx_copy_plain(union amx_acts *copy, const struct act_rows *x,
                                         const uint8_t *row, size_t n_blocks) {
    (void)memcpy(copy->plain.q, row + x->a, n_blocks * QUANT_BLOCK);
    (void)memcpy(copy->plain.d, row + x->d, n_blocks * sizeof(float));
    (void)memcpy(copy->plain.sums, row + x->sums, n_blocks * sizeof(int16_t));
}

/* Rows from `at` on, of which n are left. In place, or where they are not evenly apart or fewer
 * than a tile has, as copies, which are made once a block of k for all outputs. */
static ALWAYS_INLINE void amx_put_rows(struct amx_pass *pass, struct lane_format f,
                                       const struct panel_rows *r, uint32_t at, uint32_t n,
                                       int n_blocks, union amx_acts *copies) {
    const struct act_rows *x = &r->x;

    pass->y = r->y + at;
    if (x->stride && n >= AMX_ROWS) {
        pass->acts = x->act[at] + x->a;
        pass->stride = x->stride;
        pass->d = x->d - x->a;
        pass->d_sums = x->sums - x->a;
        return;
    }
    for (uint32_t i = 0; i < AMX_ROWS && r->place.out == 0; i++) {
        const uint8_t *row = x->act[at + MIN(i, n - 1)];

        if (f.n_sub)
            copies[i].super = *(const struct kern_super *)(const void *)(row + x->a);
        else if (n_blocks == PANEL_K / QUANT_BLOCK) /* as a rule: made a constant */
            amx_copy_plain(&copies[i], x, row, PANEL_K / QUANT_BLOCK);
        else
            amx_copy_plain(&copies[i], x, row, (size_t)n_blocks);
    }
    pass->acts = (const uint8_t *)copies;
    pass->stride = sizeof(copies[0]);
    pass->d = offsetof(union amx_acts, plain.d);
    pass->d_sums = offsetof(union amx_acts, plain.sums);
}

/* GCC's tile loads do not say that they read memory: what they read must be written before. */
static inline void settle_memory(void) {
    __asm__ volatile("" ::: "memory");
}

#define W_STRIDE    ((long)sizeof(((struct weight_panel *)NULL)->w[0]))
#define SUMS_STRIDE ((long)sizeof((*(tile_sums *)NULL)[0]))

/* 64 values of k. */
static ALWAYS_INLINE void amx_step_super(struct amx_work *t, struct lane_format f,
                                         const struct amx_pass *pass, int i) {
    const struct weight_panel *p = &t->rest.panel;
    int step = AMX_ROWS * i;

    if (i == 0) {
        _tile_zero(T_SUM_0);
        _tile_zero(T_SUM_1);
        _tile_zero(T_MORE_0);
        _tile_zero(T_MORE_1);
    }
    _tile_loadd(T_ACTS, pass->acts + 4 * step, (long)pass->stride);
    _tile_loadd(T_W_0, &p->w[step][0], W_STRIDE);
    _tile_loadd(T_W_1, &p->w[step][1], W_STRIDE);
    if (has_one_digit(f)) {
        _tile_dpbssd(T_SUM_0, T_ACTS, T_W_0);
        _tile_dpbssd(T_SUM_1, T_ACTS, T_W_1);
    } else {
        _tile_dpbsud(T_SUM_0, T_ACTS, T_W_0);
        _tile_dpbsud(T_SUM_1, T_ACTS, T_W_1);
        _tile_loadd(T_W_0, &t->high[step][0], W_STRIDE);
        _tile_loadd(T_W_1, &t->high[step][1], W_STRIDE);
        if (has_digits_of_scale(f)) {
            _tile_dpbsud(T_MORE_0, T_ACTS, T_W_0);
            _tile_dpbsud(T_MORE_1, T_ACTS, T_W_1);
        } else {
            _tile_dpbssd(T_MORE_0, T_ACTS, T_W_0);
            _tile_dpbssd(T_MORE_1, T_ACTS, T_W_1);
        }
    }
    if (i == AMX_STEPS - 1) {
        _tile_stored(T_SUM_0, pass->sums[0][0], SUMS_STRIDE);
        _tile_stored(T_SUM_1, pass->sums[0][1], SUMS_STRIDE);
        if (!has_one_digit(f)) {
            _tile_stored(T_MORE_0, pass->sums[1][0], SUMS_STRIDE);
            _tile_stored(T_MORE_1, pass->sums[1][1], SUMS_STRIDE);
        }
    }
}

static ALWAYS_INLINE void amx_fold_super(const struct amx_work *t, struct lane_format f,
                                         const struct amx_pass *pass, int first) {
    const struct weight_panel *p = &t->rest.panel;
    const struct kern_super *x[AMX_FOLD_ROWS];
    vi mins[AMX_FOLD_ROWS][PANEL_VECS];
    vf wd[PANEL_VECS], wm[PANEL_VECS];

#pragma GCC unroll 4
    for (int i = 0; i < AMX_FOLD_ROWS; i++) {
        x[i] = (const struct kern_super *)(const void *)(pass->acts +
                                                         (size_t)(first + i) * pass->stride);
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECS; v++)
            mins[i][v] = vi_set1(0);
    }
    if (f.has_min)
#pragma GCC unroll 8
        for (int j = 0; j < f.n_sub / 2; j++)
#pragma GCC unroll 4
            for (int i = 0; i < AMX_FOLD_ROWS; i++)
#pragma GCC unroll 2
                for (int v = 0; v < PANEL_VECS; v++)
                    mins[i][v] =
                        vi_dot2_at(mins[i][v], p->min[j][v],
                                   x[i]->sums + (f.n_sub == 8 ? KERN_SUPER_SUMS_32 : 0) + 2 * j);
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VECS; v++) {
        wd[v] = vf_load(p->d[0] + v * VI_LANES);
        wm[v] = vf_load(p->m[0] + v * VI_LANES);
    }
#pragma GCC unroll 4
    for (int i = 0; i < AMX_FOLD_ROWS; i++) {
        vi sum[PANEL_VECS];

#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECS; v++) {
            sum[v] = vi_load(pass->sums[0][v][first + i]);
            if (!has_one_digit(f))
                sum[v] = vi_add(sum[v],
                                vi_sll(vi_load(pass->sums[1][v][first + i]), high_digit_shift(f)));
            else if (f.offset)
                sum[v] = vi_sub(vi_set1(0), sum[v]);
        }
        panel_fold_super(f, x[i]->d, sum, mins[i], wd, wm, pass->y[first + i]);
    }
}

/* A block into the sums of tiles `first` and `second`, and from there to memory. */
#define AMX_SUM_BLOCK(first, second, sums)                                                         \
    do {                                                                                           \
        _tile_zero(first);                                                                         \
        _tile_zero(second);                                                                        \
        _tile_dpbssd(first, T_ACTS, T_W_0);                                                        \
        _tile_dpbssd(second, T_ACTS, T_W_1);                                                       \
        _tile_stored(first, (sums)[0], SUMS_STRIDE);                                               \
        _tile_stored(second, (sums)[1], SUMS_STRIDE);                                              \
    } while (0)

/* A block. */
static ALWAYS_INLINE void amx_step_plain(struct amx_work *t, const struct amx_pass *pass, int i) {
    const struct weight_panel *p = &t->rest.panel;
    int b = pass->block + i;

    _tile_loadd(T_ACTS, pass->acts + QUANT_BLOCK * (ptrdiff_t)b, (long)pass->stride);
    _tile_loadd(T_W_0, &p->w[8 * b][0], W_STRIDE);
    _tile_loadd(T_W_1, &p->w[8 * b][1], W_STRIDE);
    if (i % 2 == 0)
        AMX_SUM_BLOCK(T_SUM_0, T_SUM_1, pass->sums[i]);
    else
        AMX_SUM_BLOCK(T_MORE_0, T_MORE_1, pass->sums[i]);
}

static ALWAYS_INLINE void amx_fold_plain(const struct amx_work *t, struct lane_format f,
                                         const struct amx_pass *pass, int n_blocks, int first) {
    const struct weight_panel *p = &t->rest.panel;

#pragma GCC unroll 2
    for (int i = first; i < first + AMX_FOLD_ROWS; i++) {
        const uint8_t *row = pass->acts + (size_t)i * pass->stride;
        const float *d = (const float *)(const void *)(row + pass->d) + pass->block;
        const int16_t *sums = (const int16_t *)(const void *)(row + pass->d_sums) + pass->block;

#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECS; v++) {
            float *at = pass->y[i] + v * VI_LANES;
            vf y = vf_load(at);

#pragma GCC unroll 4
            for (int b = 0; b < n_blocks; b++)
                y = panel_fold_plain(p, f, pass->block + b, v, d[b], sums[b],
                                     vi_load(pass->sums[b][v][i]), y);
            vf_store(at, y);
        }
    }
}

/* ---- the product ---- */

static ALWAYS_INLINE void amx_run(struct amx_work *t, struct lane_format f,
                                  const struct amx_pass *pass, struct weight_fetch *fetch) {
    const size_t n_passes = f.n_sub ? 1 : PANEL_K / QUANT_BLOCK / AMX_STEPS,
                 n_rounds = group_rounds(f) / n_passes / AMX_STEPS; /* a step */

    settle_memory();
#pragma GCC unroll 4
    for (int i = 0; i < AMX_STEPS; i++) {
#pragma GCC unroll 2
        for (size_t j = 0; j < n_rounds; j++)
            fetch_surplus(begin_round(fetch), 0);
        if (f.n_sub)
            amx_step_super(t, f, pass, i);
        else if (i < pass->n_blocks)
            amx_step_plain(t, pass, i);
    }
    settle_memory();
#pragma GCC unroll 4
    for (int i = 0; i < AMX_ROWS; i += AMX_FOLD_ROWS) {
        if (f.n_sub)
            amx_fold_super(t, f, pass, i);
        else if (pass->n_blocks == AMX_STEPS) /* as a rule: made a constant */
            amx_fold_plain(t, f, pass, AMX_STEPS, i);
        else
            amx_fold_plain(t, f, pass, pass->n_blocks, i);
    }
}

/* See panel_share(). */
static ALWAYS_INLINE void amx_share(struct panel_work *work, struct lane_format f,
                                    struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    struct amx_work *t = (struct amx_work *)work;
    union amx_acts *copies = t->acts + AMX_ROWS * groups_before(r, n_rows);
    struct amx_pass pass;
    unsigned turn = 0;

    for (uint32_t at = 0; at < n_rows; at += AMX_ROWS, copies += AMX_ROWS) {
        assert(copies + AMX_ROWS <= t->acts + ARRAY_SIZE(t->acts));
        amx_put_rows(&pass, f, r, at, n_rows - at, n_blocks, copies);
        for (int block = 0; block < n_blocks; block += AMX_STEPS, turn = !turn) {
            pass.sums = t->sums[turn];
            pass.block = block;
            pass.n_blocks = MIN(n_blocks - block, AMX_STEPS);
            amx_run(t, f, &pass, r->fetch);
        }
    }
}

/* Tiles are released at once: the kernel need not save them when it switches threads. */
#define AMX_MUL(name) AMX_MUL_OF(name, name)
#define AMX_MUL_OF(name, unpacked)                                                                 \
    static ALWAYS_INLINE void amx_unpack_##name(struct unpacking *u) {                             \
        struct amx_work *t = (struct amx_work *)u->panel;                                          \
        struct digits d;                                                                           \
                                                                                                   \
        d.f = lane_format_##unpacked;                                                              \
        d.low = &u->panel->w[8 * u->b][u->v];                                                      \
        d.high = &t->high[0][u->v];                                                                \
        u->digits = &d;                                                                            \
        unpack_lanes_##unpacked(u);                                                                \
        u->digits = NULL;                                                                          \
    }                                                                                              \
    static void amx_mul_##name(const struct kern_mul *m) {                                         \
        if (m->n_rows < AMX_ROWS_MIN) {                                                            \
            mul_##name(m);                                                                         \
            return;                                                                                \
        }                                                                                          \
        _tile_loadconfig(lane_format_##name.n_sub ? &tiles_super : &tiles_plain);                  \
        panel_mul(m, lane_format_##name, amx_unpack_##name, amx_share, AMX_ROWS);                  \
        _tile_release();                                                                           \
    }

AMX_MUL(q4_0)
AMX_MUL(q4_1)
AMX_MUL(q5_0)
AMX_MUL(q5_1)
AMX_MUL(q2_k)
AMX_MUL(q3_k)
AMX_MUL_OF(q4_k, q4_k_nibbles)
AMX_MUL(q5_k)
AMX_MUL(q6_k)

#include "engine/kern/mul-amx-in-place.inc.c"
