/*
 * Prefill by AMX: the products of panel.inc.c with tiles of 16 rows by 64 bytes.
 *
 * A panel lies in memory as the right-hand operand of a tile product is wanted: sixteen outputs
 * by four values of k a vector, so that 64 values of k are sixteen tile rows. The left-hand operand
 * is 16 rows of activations as they are. One instruction makes 16 × 16 sums over 64 values of k.
 *
 * Sub-blocks of a super-block have scales of their own: a tile product for each would be half or
 * three quarters empty, and 16 × 16 multiplications and additions would follow. Instead, scales are
 * multiplied into the weights, once a panel: w = scale·(q − offset) is a whole number of at most 13
 * bits, so w = 256·high + low, and tiles alone sum a super-block: Σ w·a = 256·Σ high·a + Σ low·a.
 * Q2_K and Q3_K need one byte only. Plain blocks have float scales, so each is a product of
 * 32 values of k.
 *
 * Sums are exact in int32 and folded as everywhere (fold.inc.c). The last 16 rows overlap those
 * before them where there is no whole tile left: they are summed again, not folded. So a tile is
 * always whole, and nothing past a row is read.
 *
 * Included by a tier in the place of mul-int.inc.c, whose products serve few rows.
 */
#include "engine/kern/mul-int.inc.c"

#include <stddef.h>

#define AMX_ROWS 16 /* of a tile, each of VI_BYTES */
_Static_assert(VI_LANES == AMX_ROWS && PANEL_VECS == 2 && AMX_ROWS_MIN >= AMX_ROWS,
               "a vector is a tile's row, and each vector of a panel has two of the eight tiles");

/* The tiles, by number. Sums of the panel's first and second outputs: */
#define T_SUM_0  0
#define T_SUM_1  1
#define T_MORE_0 2 /* more such sums: of high bytes, or of another block */
#define T_MORE_1 3
#define T_ACTS   4
#define T_W_0    5
#define T_W_1    6
#define T_HIGH   7

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
                      [T_ACTS] = (n_k), [T_W_0] = 64,   [T_W_1] = 64,    [T_HIGH] = 64},           \
        .n_rows = {                                                                                \
            [T_SUM_0] = AMX_ROWS,                                                                  \
            [T_SUM_1] = AMX_ROWS,                                                                  \
            [T_MORE_0] = AMX_ROWS,                                                                 \
            [T_MORE_1] = AMX_ROWS,                                                                 \
            [T_ACTS] = AMX_ROWS,                                                                   \
            [T_W_0] = (n_k) / 4,                                                                   \
            [T_W_1] = (n_k) / 4,                                                                   \
            [T_HIGH] = (n_k) / 4                                                                   \
        }                                                                                          \
    }

static const struct tile_config tiles_plain = TILE_CONFIG(QUANT_BLOCK),
                                tiles_super = TILE_CONFIG(VI_BYTES);

typedef int32_t tile_sums[AMX_ROWS][VI_LANES];

struct amx_work {
    struct panel_work rest;           /* first: it is what panel_mul() takes for its own */
    vi high[PANEL_STEPS][PANEL_VECS]; /* super-blocks: bytes above those of panel.w */
    _Alignas(64) tile_sums sums[8][PANEL_VECS];   /* of each plain block; of low and high bytes */
    _Alignas(64) uint8_t acts[AMX_ROWS][PANEL_K]; /* of rows that are not evenly apart */
};
_Static_assert(sizeof(struct amx_work) <= KERN_SCRATCH_BYTES, "fits in a thread's scratch");

/* Of Q2_K 0 .. 45, of Q3_K -124 .. 128. Their scales are negated, so that all are bytes. */
static ALWAYS_INLINE bool is_one_byte(struct lane_format f) {
    return f.largest <= 7;
}

/* ---- weights ---- */

/* q − offset, as signed bytes. */
static ALWAYS_INLINE void amx_weights_plain(struct weight_panel *p, struct lane_format f,
                                            int n_blocks) {
    const vi offset = vi_set1((int32_t)((uint32_t)f.offset * 0x01010101));

    for (int t = 0; f.offset && t < 8 * n_blocks; t++)
        for (int v = 0; v < PANEL_VECS; v++)
            p->w[t][v] = vi_sub_8(p->w[t][v], offset);
}

/* scale·(q − offset): its low bytes in place, the high ones apart. Both bytes of a word are
 * multiplied as words. */
static ALWAYS_INLINE void amx_weights_super(struct weight_panel *p, struct lane_format f,
                                            vi high[PANEL_STEPS][PANEL_VECS]) {
    const vi low_byte = vi_set1(0x00FF00FF), high_byte = vi_set1((int32_t)0xFF00FF00);
    const int n_steps = PANEL_STEPS / f.n_sub;

    for (int t = 0; t < PANEL_STEPS; t++)
        for (int v = 0; v < PANEL_VECS; v++) {
            vi scale = panel_scale(p, t / n_steps, v), base, even, odd;

            if (is_one_byte(f))
                scale = vi_sub(vi_set1(0), scale);
            scale = vi_or(vi_and(scale, vi_set1(0xFFFF)), vi_sll(scale, 16));
            base = vi_mul_16(scale, vi_set1(f.offset * 0x00010001));
            even = vi_mul_16(scale, vi_and(p->w[t][v], low_byte));
            odd = vi_mul_16(scale, vi_srl_16(p->w[t][v], 8));
            if (f.offset) {
                even = vi_sub_16(even, base);
                odd = vi_sub_16(odd, base);
            }
            p->w[t][v] = vi_or(vi_and(even, low_byte), vi_sll_16(odd, 8));
            if (!is_one_byte(f))
                high[t][v] = vi_or(vi_srl_16(even, 8), vi_and(odd, high_byte));
        }
}

/* ---- sixteen rows ---- */

/* Where the panel's part of 16 rows begins: in place where they are evenly apart. */
static inline const uint8_t *amx_acts(struct amx_work *t, const struct panel_rows *r, size_t n_k,
                                      ptrdiff_t *ret_stride) {
    ptrdiff_t stride = r->x.act[1] - r->x.act[0];
    bool even = true;

    for (int i = 2; i < AMX_ROWS; i++)
        even &= r->x.act[i] - r->x.act[i - 1] == stride;
    if (even) {
        *ret_stride = stride;
        return r->x.act[0] + r->x.a;
    }
    for (int i = 0; i < AMX_ROWS; i++)
        (void)memcpy(t->acts[i], r->x.act[i] + r->x.a, n_k);
    *ret_stride = sizeof(t->acts[0]);
    return t->acts[0];
}

/* GCC's tile loads do not say that they read memory: what they read must be written before. */
static inline void settle_memory(void) {
    __asm__ volatile("" ::: "memory");
}

#define W_STRIDE    ((long)sizeof(((struct weight_panel *)NULL)->w[0]))
#define SUMS_STRIDE ((long)sizeof(((struct amx_work *)NULL)->sums[0][0][0]))

static ALWAYS_INLINE void amx_sum_super(struct amx_work *t, struct lane_format f, const uint8_t *a,
                                        ptrdiff_t stride) {
    const struct weight_panel *p = &t->rest.panel;

    settle_memory();
    _tile_zero(T_SUM_0);
    _tile_zero(T_SUM_1);
    _tile_zero(T_MORE_0);
    _tile_zero(T_MORE_1);
    for (int step = 0; step < PANEL_STEPS; step += AMX_ROWS) {
        _tile_loadd(T_ACTS, a + 4 * step, stride);
        _tile_loadd(T_W_0, &p->w[step][0], W_STRIDE);
        _tile_loadd(T_W_1, &p->w[step][1], W_STRIDE);
        if (is_one_byte(f)) {
            _tile_dpbssd(T_SUM_0, T_ACTS, T_W_0);
            _tile_dpbssd(T_SUM_1, T_ACTS, T_W_1);
            continue;
        }
        _tile_dpbsud(T_SUM_0, T_ACTS, T_W_0);
        _tile_dpbsud(T_SUM_1, T_ACTS, T_W_1);
        _tile_loadd(T_HIGH, &t->high[step][0], W_STRIDE);
        _tile_dpbssd(T_MORE_0, T_ACTS, T_HIGH);
        _tile_loadd(T_HIGH, &t->high[step][1], W_STRIDE);
        _tile_dpbssd(T_MORE_1, T_ACTS, T_HIGH);
    }
    _tile_stored(T_SUM_0, t->sums[0][0], SUMS_STRIDE);
    _tile_stored(T_SUM_1, t->sums[0][1], SUMS_STRIDE);
    if (!is_one_byte(f)) {
        _tile_stored(T_MORE_0, t->sums[1][0], SUMS_STRIDE);
        _tile_stored(T_MORE_1, t->sums[1][1], SUMS_STRIDE);
    }
}

static ALWAYS_INLINE void amx_fold_super(const struct amx_work *t, struct lane_format f,
                                         const struct panel_rows *r, int first) {
    const struct weight_panel *p = &t->rest.panel;
    vf wd[PANEL_VECS], wm[PANEL_VECS];

    for (int v = 0; v < PANEL_VECS; v++) {
        wd[v] = vf_load(p->d[0] + v * VI_LANES);
        wm[v] = vf_load(p->m[0] + v * VI_LANES);
    }
    for (int i = first; i < AMX_ROWS; i++) {
        vi sum[PANEL_VECS], mins[PANEL_ROWS][PANEL_VECS];

        for (int v = 0; v < PANEL_VECS; v++) {
            sum[v] = vi_load(t->sums[0][v][i]);
            sum[v] = is_one_byte(f) ? vi_sub(vi_set1(0), sum[v])
                                    : vi_add(sum[v], vi_sll(vi_load(t->sums[1][v][i]), 8));
        }
        if (f.has_min)
            dot_mins(p, f, r, i, 1, mins);
        panel_fold_super(f, r, i, sum, mins[0], wd, wm);
    }
}

/* Block b into the sums of tiles `first` and `second`, and from there to memory. */
#define AMX_SUM_BLOCK(b, first, second)                                                            \
    do {                                                                                           \
        _tile_zero(first);                                                                         \
        _tile_zero(second);                                                                        \
        _tile_loadd(T_ACTS, a + (size_t)QUANT_BLOCK * (b), stride);                                \
        _tile_loadd(T_W_0, &p->w[8 * (b)][0], W_STRIDE);                                           \
        _tile_loadd(T_W_1, &p->w[8 * (b)][1], W_STRIDE);                                           \
        _tile_dpbssd(first, T_ACTS, T_W_0);                                                        \
        _tile_dpbssd(second, T_ACTS, T_W_1);                                                       \
        _tile_stored(first, t->sums[b][0], SUMS_STRIDE);                                           \
        _tile_stored(second, t->sums[b][1], SUMS_STRIDE);                                          \
    } while (0)

static ALWAYS_INLINE void amx_sum_plain(struct amx_work *t, const uint8_t *a, ptrdiff_t stride,
                                        int n_blocks) {
    const struct weight_panel *p = &t->rest.panel;

    settle_memory();
    for (int b = 0; b < n_blocks; b += 2) {
        AMX_SUM_BLOCK(b, T_SUM_0, T_SUM_1);
        if (b + 1 < n_blocks)
            AMX_SUM_BLOCK(b + 1, T_MORE_0, T_MORE_1);
    }
}

static ALWAYS_INLINE void amx_fold_plain(const struct amx_work *t, struct lane_format f,
                                         const struct panel_rows *r, int first, int n_blocks) {
    for (int i = first; i < AMX_ROWS; i++) {
        vf y[PANEL_VECS];

        for (int v = 0; v < PANEL_VECS; v++)
            y[v] = vf_load(r->y[i] + v * VI_LANES);
        for (int b = 0; b < n_blocks; b++) {
            vi dot[PANEL_VECS];

            for (int v = 0; v < PANEL_VECS; v++)
                dot[v] = vi_load(t->sums[b][v][i]);
            panel_fold_plain(&t->rest.panel, f, r, i, b, dot, y);
        }
        for (int v = 0; v < PANEL_VECS; v++)
            vf_store(r->y[i] + v * VI_LANES, y[v]);
    }
}

/* ---- the product ---- */

/* See panel_share(). n_rows: at least AMX_ROWS. */
static ALWAYS_INLINE void amx_share(struct panel_work *work, struct lane_format f,
                                    struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    struct amx_work *t = (struct amx_work *)work;
    const uint8_t *const *act = r->x.act;
    float(*y)[PANEL_OUT] = r->y;
    size_t n_rounds = row_groups(AMX_ROWS) * group_rounds(f); /* as if multiplied without tiles */
    ptrdiff_t stride;

    if (f.n_sub)
        amx_weights_super(&work->panel, f, t->high);
    else
        amx_weights_plain(&work->panel, f, n_blocks);
    for (uint32_t done = 0; done < n_rows; done += AMX_ROWS) {
        uint32_t at = done + AMX_ROWS <= n_rows ? done : n_rows - AMX_ROWS;
        int first = (int)(done - at);
        const uint8_t *a;

        r->x.act = act + at;
        r->y = y + at;
        for (size_t i = 0; i < n_rounds; i++)
            fetch_surplus(begin_round(r->fetch), 0);
        a = amx_acts(t, r, f.n_sub ? PANEL_K : (size_t)n_blocks * QUANT_BLOCK, &stride);
        if (f.n_sub) {
            amx_sum_super(t, f, a, stride);
            amx_fold_super(t, f, r, first);
        } else {
            amx_sum_plain(t, a, stride, n_blocks);
            amx_fold_plain(t, f, r, first, n_blocks);
        }
    }
}

/* Tiles are released at once: the kernel need not save them when it switches threads. */
#define AMX_MUL(name)                                                                              \
    static void amx_mul_##name(const struct kern_mul *m) {                                         \
        if (m->n_rows < AMX_ROWS_MIN) {                                                            \
            mul_##name(m);                                                                         \
            return;                                                                                \
        }                                                                                          \
        _tile_loadconfig(lane_format_##name.n_sub ? &tiles_super : &tiles_plain);                  \
        panel_mul(m, lane_format_##name, unpack_lanes_##name, amx_share);                          \
        _tile_release();                                                                           \
    }

AMX_MUL(q4_0)
AMX_MUL(q4_1)
AMX_MUL(q5_0)
AMX_MUL(q5_1)
AMX_MUL(q8_0)
AMX_MUL(q2_k)
AMX_MUL(q3_k)
AMX_MUL(q4_k)
AMX_MUL(q5_k)
AMX_MUL(q6_k)
