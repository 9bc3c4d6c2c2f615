/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * VI_LANES outputs are computed together, one block of k after the other, and each lane belongs to
 * one output: nothing is summed across lanes, and nothing is stored but y. (With stores, the first
 * cache loses what was fetched ahead.) Integer sums may be made in any order; the fold is that of
 * the definition. Meanwhile as many bytes are fetched of the next outputs' weights, which follow
 * each other in memory.
 *
 * Included by mul-int.inc.c after unpack.inc.c.
 */

/* VI_LANES outputs from `out` on; `next`: what is fetched, as many bytes. */
static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, uint32_t out, int n_rows,
                                    const uint8_t *next) {
    uint32_t n_blocks = m->x->k / block_values(f);
    const uint8_t *w = m->w + out * m->row_bytes, *act[PRODUCT_ROWS];
    struct act_rows x = act_rows_begin(m, f, act);
    vf y[PRODUCT_ROWS];

#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        act[i] = act_row(m, (uint32_t)i);
        y[i] = vf_set1(0);
    }
    for (uint32_t b = 0; b < n_blocks; b++) {
        struct products p = {.f = f, .n_rows = n_rows, .x = act_rows_at(x, f, b)};
        struct unpacking u = {
            .blocks = {w + b * f.block_bytes, m->row_bytes},
            .ahead = {.at = next + b * f.block_bytes * VI_LANES,
                      .n = (f.block_bytes * VI_LANES + 63) / 64},
            .products = &p,
        };

        products_begin(&p);
        unpack(&u);
        products_fold(&p, y);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        vf_store(m->y + (uint32_t)i * m->y_stride + out, y[i]);
}

/* n_rows: 1 .. PRODUCT_ROWS, made a constant; n_out: at least VI_LANES. The last outputs overlap
 * those before them where there are not as many left: they are computed again. */
static ALWAYS_INLINE void gemv(const struct kern_mul *m, struct lane_format f, unpack_fn *unpack) {
    for (uint32_t n_done = 0; n_done < m->n_out; n_done += VI_LANES) {
        uint32_t out = m->n_out - n_done < VI_LANES ? m->n_out - VI_LANES : n_done;
        const uint8_t *next =
            n_done + VI_LANES < m->n_out ? m->w + (n_done + VI_LANES) * m->row_bytes : m->next;

        if (!next) /* some memory: a branch for every line would cost more */
            next = m->w;
        switch (m->n_rows) {
        case 1:
            gemv_rows(m, f, unpack, out, 1, next);
            break;
        case 2:
            gemv_rows(m, f, unpack, out, 2, next);
            break;
#if PRODUCT_ROWS > 3
        case 3:
            gemv_rows(m, f, unpack, out, 3, next);
            break;
#endif
        default:
            gemv_rows(m, f, unpack, out, PRODUCT_ROWS, next);
            break;
        }
    }
}
