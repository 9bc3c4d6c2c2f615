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

/* VI_LANES outputs from `out` on; `next`: where the next outputs' weights begin, or NULL. */
static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, uint32_t out, int n_rows,
                                    const uint8_t *next) {
    uint32_t n_blocks = m->x->k / block_values(f);
    size_t lane_bytes = f.block_bytes * VI_LANES;
    const uint8_t *act[PRODUCT_ROWS];
    struct act_rows x = act_rows_begin(m, f, act);
    vf y[PRODUCT_ROWS];

#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        act[i] = act_row(m, (uint32_t)i);
        y[i] = vf_set1(0);
    }
    for (uint32_t b = 0; b < n_blocks; b++) {
        lane_copies copies;
        struct products p = {.f = f, .n_rows = n_rows, .x = act_rows_at(x, f, b)};
        struct unpacking u = {
            .blocks = lane_blocks(m, out, b * f.block_bytes, f.block_bytes, copies),
            /* Where nothing is next, no branch is worth it: lines that are there are fetched. */
            .ahead = next ? next + b * lane_bytes : m->w,
            .n_ahead = lane_bytes,
            .products = &p,
        };

        products_begin(&p);
        unpack(&u);
        products_fold(&p, y);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        vf_store_n(m->y + (uint32_t)i * m->y_stride + out, y[i],
                   m->n_out - out < VI_LANES ? m->n_out - out : VI_LANES);
}

/* n_rows: 1 .. PRODUCT_ROWS, made a constant. */
static ALWAYS_INLINE void gemv(const struct kern_mul *m, struct lane_format f, unpack_fn *unpack) {
    for (uint32_t out = 0; out < m->n_out; out += VI_LANES) {
        const uint8_t *next =
            out + VI_LANES < m->n_out ? m->w + (out + VI_LANES) * m->row_bytes : m->next;

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
