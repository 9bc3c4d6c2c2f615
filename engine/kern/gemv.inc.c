/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * VI_LANES outputs are computed together, one super-block (or a vector of plain blocks) of k after
 * the other: each output's products stay in a vector of their own, and VI_LANES such vectors are
 * summed across by one tree of shuffles, so that the fold into floats works on all outputs at once.
 * Integer sums may be made in any order; the fold is that of the definition. Weights of the next
 * outputs, one run of memory, are prefetched meanwhile.
 *
 * Included by a tier after wide.inc.c.
 */
#define GEMV_OUT  VI_LANES
#define GEMV_ROWS 4 /* rows that share one reading of the weights */

/* Rows [first, first + n_rows) of the product, for GEMV_OUT outputs from `out` on, of which n are
 * there.
 */
struct gemv {
    const struct kern_mul *m;
    const struct kern_super *supers[GEMV_ROWS]; /* either these */
    const int8_t *a[GEMV_ROWS];                 /* or these */
    const float *d[GEMV_ROWS];
    const int16_t *sums[GEMV_ROWS];
    const uint8_t *next; /* what the next outputs want, a run of memory; or NULL */
    uint32_t first, out, n;
};

/* n bytes from byte `at` of that run on. */
static ALWAYS_INLINE void prefetch_next(const struct gemv *g, size_t at, size_t n) {
    if (g->next)
        prefetch_run(g->next + at, n);
}

/* Block b of output o; outputs past the last repeat it. */
static ALWAYS_INLINE const uint8_t *gemv_block(const struct gemv *g, size_t block_bytes, uint32_t o,
                                               uint32_t b) {
    return g->m->w + (size_t)(g->out + (o < g->n ? o : g->n - 1)) * g->m->row_bytes +
           b * block_bytes;
}

/* One super-block of each output into y. */
static ALWAYS_INLINE void gemv_super(const struct gemv *g, struct wide_format f, int n_rows,
                                     uint32_t b, vf y[GEMV_ROWS]) {
    vi v[GEMV_ROWS][GEMV_OUT], mins[GEMV_ROWS][GEMV_OUT];
    _Alignas(32) uint16_t wd[GEMV_OUT], wm[GEMV_OUT];
    vf wd_all, wm_all;

    for (uint32_t o = 0; o < GEMV_OUT; o++) {
        struct wide_super w;
        vi scale[ARRAY_SIZE(w.q)];

        prefetch_next(g, ((size_t)b * GEMV_OUT + o) * f.block_bytes, f.block_bytes);
        f.super(gemv_block(g, f.block_bytes, o, b), &w);
        wd[o] = w.d;
        wm[o] = w.dmin;
        for (int j = 0; j < (int)ARRAY_SIZE(w.q); j++)
            scale[j] = vi_sub_scales(w.scale, j);
        for (int i = 0; i < n_rows; i++) {
            const int8_t *a = g->supers[i][b].q;
            __m256i s16 = load_256(g->supers[i][b].sums);
            vi sum = vi_set1(0);

            for (int j = 0; j < (int)ARRAY_SIZE(w.q); j++)
                sum = vi_dot2(sum, vi_pairs(w.q[j], vi_load(a + VI_BYTES * j)), scale[j]);
            if (f.offset)
                sum = vi_sub(sum, vi_from_256(_mm256_mullo_epi32(_mm256_madd_epi16(w.scale, s16),
                                                                 _mm256_set1_epi32(f.offset))));
            v[i][o] = sum;
            if (f.has_min)
                mins[i][o] = vi_from_256(_mm256_madd_epi16(w.min, s16));
        }
    }
    wd_all = vf_from_halves(wd);
    wm_all = vf_from_halves(wm);
    for (int i = 0; i < n_rows; i++) {
        vf value = vf_mul(wd_all, vf_from(vi_sum_lanes(v[i])));

        if (f.has_min)
            value = vf_fnma(wm_all, vf_from(vi_sum_lanes(mins[i])), value);
        y[i] = vf_fma(vf_set1(g->supers[i][b].d), value, y[i]);
    }
}

/* Plain blocks b and, where n_blocks is 2, b + 1, of each output into y. */
static ALWAYS_INLINE void gemv_plain(const struct gemv *g, struct wide_format f, int n_rows,
                                     uint32_t b, int n_blocks, vf y[GEMV_ROWS]) {
    _Alignas(32) uint16_t wd[VI_BLOCKS][GEMV_OUT], wm[VI_BLOCKS][GEMV_OUT];
    vi v[GEMV_ROWS][GEMV_OUT];

    for (uint32_t o = 0; o < GEMV_OUT; o++) {
        __m256i blocks[VI_BLOCKS];
        vi q;

        prefetch_next(g, ((size_t)b * GEMV_OUT + o * VI_BLOCKS) * f.block_bytes,
                      VI_BLOCKS * f.block_bytes);
        for (int h = 0; h < VI_BLOCKS; h++) {
            struct wide_plain w = {0};

            if (h < n_blocks)
                f.plain(gemv_block(g, f.block_bytes, o, b + (uint32_t)h), &w);
            blocks[h] = w.q;
            wd[h][o] = w.d;
            wm[h][o] = w.m;
        }
        q = vi_from_blocks(blocks);
        for (int i = 0; i < n_rows; i++) {
            vi a = vi_load_blocks(g->a[i] + QUANT_BLOCK * b, n_blocks);
            vi run = vi_run_step(vi_run_begin(vi_set1(0), f.largest), q, a, f.largest);

            v[i][o] = vi_run_end(vi_set1(0), run, f.largest);
        }
    }
    for (int i = 0; i < n_rows; i++) {
        vi sum[VI_BLOCKS];

        vi_sum_blocks(v[i], sum);
        for (int h = 0; h < n_blocks; h++) {
            int32_t sum_a = g->sums[i][b + (uint32_t)h];
            vf value;

            sum[h] = vi_sub(sum[h], vi_set1(f.offset * sum_a));
            value = vf_mul(vf_from_halves(wd[h]), vf_from(sum[h]));
            if (f.has_min)
                value = vf_fma(vf_from_halves(wm[h]), vf_set1((float)sum_a), value);
            y[i] = vf_fma(vf_set1(g->d[i][b + (uint32_t)h]), value, y[i]);
        }
    }
}

static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct wide_format f, uint32_t first,
                                    int n_rows) {
    uint32_t n_blocks = m->x->k / (f.super ? QUANT_SUPER : QUANT_BLOCK);
    uint32_t n_step = f.super ? 1 : VI_BLOCKS;
    struct gemv g = {.m = m, .first = first};

    for (int i = 0; i < n_rows; i++)
        if (f.super)
            g.supers[i] = kern_act_supers(m->x, kern_mul_row(m, first + (uint32_t)i));
        else
            g.a[i] = act_row(m, first + (uint32_t)i, &g.d[i], &g.sums[i]);
    for (g.out = 0; g.out < m->n_out; g.out += GEMV_OUT) {
        vf y[GEMV_ROWS];

        g.n = m->n_out - g.out < GEMV_OUT ? m->n_out - g.out : GEMV_OUT;
        g.next = g.out + GEMV_OUT < m->n_out ? m->w + (size_t)(g.out + GEMV_OUT) * m->row_bytes
                                             : m->next;
        for (int i = 0; i < n_rows; i++)
            y[i] = vf_set1(0);
        for (uint32_t b = 0; b < n_blocks; b += n_step) {
            if (f.super)
                gemv_super(&g, f, n_rows, b, y);
            else if (n_blocks - b >= VI_BLOCKS)
                gemv_plain(&g, f, n_rows, b, VI_BLOCKS, y);
            else
                gemv_plain(&g, f, n_rows, b, 1, y);
        }
        for (int i = 0; i < n_rows; i++)
            vf_store_n(m->y + (first + (uint32_t)i) * m->y_stride + g.out, y[i], g.n);
    }
}

/* Instantiates the kernel of a format for each number of rows. */
static ALWAYS_INLINE void gemv(const struct kern_mul *m, struct wide_format f) {
    for (uint32_t first = 0; first < m->n_rows; first += GEMV_ROWS) {
        switch (m->n_rows - first) {
        case 1:
            gemv_rows(m, f, first, 1);
            break;
        case 2:
            gemv_rows(m, f, first, 2);
            break;
        case 3:
            gemv_rows(m, f, first, 3);
            break;
        default:
            gemv_rows(m, f, first, 4);
            break;
        }
    }
}
