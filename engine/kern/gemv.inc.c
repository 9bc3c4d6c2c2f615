/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * VI_LANES outputs are computed together, one block of k after the other, and each lane belongs to
 * one output: nothing is summed across lanes, and nothing is stored but y. (With stores, the first
 * cache loses what was fetched ahead.) Integer sums may be made in any order; the fold is that of
 * the definition. The weights of the next outputs, one run of memory, are fetched meanwhile.
 *
 * Included by mul-int.inc.c after unpack.inc.c.
 */

/* Rows [first, first + n_rows) of VI_LANES outputs from `out` on; `next`: weights of as many
 * outputs, or NULL. */
static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, uint32_t out, uint32_t first, int n_rows,
                                    const uint8_t *next) {
    uint32_t n_blocks = m->x->k / block_values(f);
    size_t lane_bytes = f.block_bytes * VI_LANES;
    const uint8_t *act[PRODUCT_ROWS];
    vf y[PRODUCT_ROWS];

#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        act[i] = act_row(m, first + (uint32_t)i);
        y[i] = vf_set1(0);
    }
    for (uint32_t b = 0; b < n_blocks; b++) {
        lane_copies copies;
        struct products p = {.f = f, .n_rows = n_rows, .r = act_rows_at(m, f, act, b)};
        struct unpacking u = {
            .blocks = lane_blocks(m, out, b * f.block_bytes, f.block_bytes, copies),
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
        vf_store_n(m->y + (first + (uint32_t)i) * m->y_stride + out, y[i],
                   m->n_out - out < VI_LANES ? m->n_out - out : VI_LANES);
}

/* The number of rows made a constant. */
static ALWAYS_INLINE void gemv(const struct kern_mul *m, struct lane_format f, unpack_fn *unpack) {
    for (uint32_t out = 0; out < m->n_out; out += VI_LANES) {
        const uint8_t *next =
            out + VI_LANES < m->n_out ? m->w + (out + VI_LANES) * m->row_bytes : m->next;

        for (uint32_t first = 0, n; first < m->n_rows; first += n) {
            n = next_group(m->n_rows - first, PRODUCT_ROWS);
            switch (n) {
            case 1:
                gemv_rows(m, f, unpack, out, first, 1, next);
                break;
            case 2:
                gemv_rows(m, f, unpack, out, first, 2, next);
                break;
            case 3:
                gemv_rows(m, f, unpack, out, first, 3, next);
                break;
            default:
                gemv_rows(m, f, unpack, out, first, 4, next);
                break;
            }
        }
    }
}
