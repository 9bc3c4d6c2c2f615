/*
 * The products of VI_LANES blocks, of one output or of two, with a few rows, made while they are
 * unpacked: weights are multiplied in the registers they come in, and never stored.
 *
 * Included by mul-int.inc.c after fold.inc.c.
 */

/* At most. For more rows panels are faster (measured); some tiers have no registers for them. */
#define PRODUCT_ROWS 3

/*
 * A row's activations of VI_LANES blocks, lane j of block j, as vectors: steps of four values of k;
 * sums; scales. The sums of super-blocks are pairs of int16 of two sub-blocks; those of plain
 * blocks, -offset·sum as int32, or the sum as float where the format has a min.
 */
static ALWAYS_INLINE size_t acts_sums_at(struct lane_format f) {
    return block_values(f) / 4;
}
static ALWAYS_INLINE size_t acts_scales_at(struct lane_format f) {
    return acts_sums_at(f) + (f.n_sub ? (size_t)f.n_sub / 2 : 1);
}
static ALWAYS_INLINE size_t acts_vectors(struct lane_format f) {
    return acts_scales_at(f) + 1;
}

struct products {
    struct lane_format f;
    int n_rows; /* at most PRODUCT_ROWS; constant, as all of f is */
    const vi *acts[PRODUCT_ROWS];
    vi sum[PRODUCT_ROWS];     /* of plain blocks Σ w·a; of super-blocks Σ scale·Σ w·a */
    vi offsets[PRODUCT_ROWS]; /* of super-blocks with an offset: Σ scale·Σ a */
    vi mins[PRODUCT_ROWS];    /* of super-blocks Σ min·Σ a */
    vi run[PRODUCT_ROWS][QUANT_SUPER / 8];
    vi scale[8]; /* super-blocks: pairs of int16 of two sub-blocks */
    vf d, m;
};

static ALWAYS_INLINE void products_begin(struct products *p) {
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++) {
        p->sum[i] = !p->f.n_sub && p->f.offset ? p->acts[i][acts_sums_at(p->f)] : vi_set1(0);
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
        p->offsets[i] = vi_dot2(p->offsets[i], pair, p->acts[i][acts_sums_at(p->f) + (size_t)j]);
}
static ALWAYS_INLINE void products_mins(struct products *p, int j, vi pair) {
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++)
        p->mins[i] = vi_dot2(p->mins[i], pair, p->acts[i][acts_sums_at(p->f) + (size_t)j]);
}

/* Four values of k from 4·step on. */
static ALWAYS_INLINE void products_add(struct products *p, int step, vi w) {
    int n_run = run_steps(p->f), at = step / n_run, i_sub = step / block_steps(p->f);
    vi scale = vi_set1(0);

    if (p->f.n_sub && step % n_run == n_run - 1)
        scale = vi_run_scale(p->scale[i_sub / 2], i_sub % 2);
#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++) {
        vi *run = &p->run[i][at];

        if (step % n_run == 0)
            *run = vi_run_begin(p->f.n_sub ? vi_set1(0) : p->sum[i], p->f.largest);
        *run = vi_run_step(*run, w, p->acts[i][step], p->f.largest);
        if (step % n_run == n_run - 1)
            p->sum[i] = p->f.n_sub ? vi_run_scaled(p->sum[i], *run, scale)
                                   : vi_run_end(p->sum[i], *run, p->f.largest);
    }
}

/* After the last of the blocks' weights: their values, without the scales of row i. */
static ALWAYS_INLINE vf products_value(const struct products *p, int i) {
    vi sum = p->sum[i];

    if (!p->f.n_sub)
        return plain_value(p->f, p->d, sum, p->m,
                           vf_load((const float *)&p->acts[i][acts_sums_at(p->f)]));
    if (p->f.offset)
        sum = vi_sub(sum, vi_mul(p->offsets[i], vi_set1(p->f.offset)));
    return super_value(p->f, p->d, sum, p->m, p->mins[i]);
}
