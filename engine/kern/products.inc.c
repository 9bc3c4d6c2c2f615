/*
 * The products of a block of VI_LANES outputs with a few rows, made while it is unpacked: weights
 * are multiplied in the registers they come in, and never stored.
 *
 * Included by mul-int.inc.c after fold.inc.c.
 */
#define PRODUCT_ROWS (PANEL_ROWS_MIN - 1)

struct products {
    struct lane_format f;
    int n_rows; /* at most PRODUCT_ROWS; constant, as all of f is */
    struct act_rows x;
    vi sum[PRODUCT_ROWS];     /* of a plain block Σ w·a; of a super-block Σ scale·Σ w·a */
    vi offsets[PRODUCT_ROWS]; /* of a super-block with an offset: Σ scale·Σ a */
    vi mins[PRODUCT_ROWS];    /* of a super-block Σ min·Σ a */
    vi run[PRODUCT_ROWS][QUANT_SUPER / 8];
    vi scale[8]; /* super-blocks: pairs of int16 of two sub-blocks */
    vf d, m;
};

/* At a block of k of the rows. */
static ALWAYS_INLINE void products_begin(struct products *p) {
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++) {
        p->sum[i] = vi_set1(p->f.n_sub ? 0 : -p->f.offset * row_sums(&p->x, i)[0]);
        p->offsets[i] = p->mins[i] = vi_set1(0);
    }
}

/* Of sub-blocks 2·j and 2·j + 1. */
static ALWAYS_INLINE void products_scales(struct products *p, int j, vi pair) {
    p->scale[j] = pair;
    if (!p->f.offset)
        return;
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++)
        p->offsets[i] =
            vi_dot2(p->offsets[i], pair, broadcast_bytes(row_sub_sums(&p->x, p->f, i) + 2 * j));
}
static ALWAYS_INLINE void products_mins(struct products *p, int j, vi pair) {
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++)
        p->mins[i] =
            vi_dot2(p->mins[i], pair, broadcast_bytes(row_sub_sums(&p->x, p->f, i) + 2 * j));
}

/* Four values of k from 4·step on. */
static ALWAYS_INLINE void products_add(struct products *p, int step, vi w) {
    int n_steps = p->f.n_sub ? QUANT_SUPER / 4 / p->f.n_sub : QUANT_BLOCK / 4;
    int n_run = run_steps(p->f, n_steps);
    int at = step / n_run, i_sub = step / n_steps;
    vi scale = vi_set1(0);

    if (p->f.n_sub && step % n_run == n_run - 1)
        scale = vi_run_scale(p->scale[i_sub / 2], i_sub % 2);
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++) {
        vi *run = &p->run[i][at];

        if (step % n_run == 0)
            *run = vi_run_begin(p->f.n_sub ? vi_set1(0) : p->sum[i], p->f.largest);
        *run = vi_run_step(*run, w, broadcast_bytes(row_values(&p->x, i) + 4 * step), p->f.largest);
        if (step % n_run == n_run - 1)
            p->sum[i] = p->f.n_sub ? vi_run_scaled(p->sum[i], *run, scale)
                                   : vi_run_end(p->sum[i], *run, p->f.largest);
    }
}

/* After the last of the block's weights. */
static ALWAYS_INLINE void products_fold(const struct products *p, vf y[PRODUCT_ROWS]) {
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++)
        if (p->f.n_sub) {
            vi sum = p->f.offset ? vi_sub(p->sum[i], vi_mul(p->offsets[i], vi_set1(p->f.offset)))
                                 : p->sum[i];

            y[i] = fold_super(p->f, &p->x, i, p->d, sum, p->m, p->mins[i], y[i]);
        } else {
            y[i] = fold_plain(p->f, &p->x, i, 0, p->d, p->sum[i], p->m, y[i]);
        }
}
