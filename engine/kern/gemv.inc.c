/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * That speed is had where weights are read in the order in which they lie there: sixteen outputs
 * side by side cost a seventh of it, however they are fetched. So the lanes of a vector are blocks
 * of one output that follow each other. Each is summed in its lane, and the lanes are folded in
 * ascending order, which is the definition's. The activations are laid out for that once a product.
 *
 * Lines are fetched twice. A CPU drops a prefetch where it has many under way, as it has wherever
 * memory is slower than we are, and what was dropped would be waited for: so it is asked for again.
 *
 * Included by mul-int.inc.c after unpack.inc.c.
 */

/* So many outputs take turns, so many values of k each: then the activations stay in the first
 * cache, and what is read is still in long pieces. */
#define CHUNK_OUTS 4
#define CHUNK_K    4096

/* Bytes between what is read and what is fetched for the first time; at least those of CHUNK_OUTS
 * outputs (measured). The second time is one turn of them ahead, a chunk for each; where a row's
 * last chunk is shorter, as much of the next outputs' first one. */
#define FETCH_AHEAD 32768

/* The groups of VI_LANES blocks in a row. */
static ALWAYS_INLINE uint32_t lane_groups(uint32_t n_blocks) {
    return (n_blocks + VI_LANES - 1) / VI_LANES;
}

/* Whether half a group is left at a row's end, as a chunk of its own (super-blocks in 16 lanes):
 * then those of two outputs make one. */
static ALWAYS_INLINE bool ends_in_half(struct lane_format f, uint32_t n_blocks) {
    return CHUNK_K / block_values(f) == VI_LANES && n_blocks % VI_LANES == VI_LANES / 2;
}

/* Where the lanes of the group that has `block` begin: the last ones begin earlier where there are
 * not as many left. */
static ALWAYS_INLINE uint32_t lanes_begin(uint32_t n_blocks, uint32_t block) {
    return MIN(block, n_blocks - VI_LANES);
}

/* Where a row has too few blocks, or activations do not fit in the scratch, panels serve. */
static ALWAYS_INLINE bool gemv_serves(const struct kern_mul *m, struct lane_format f) {
    uint32_t n_blocks = m->x->k / block_values(f);

    return m->n_rows < PANEL_ROWS_MIN && n_blocks >= VI_LANES &&
           m->n_rows * lane_groups(n_blocks) * acts_vectors(f) * sizeof(vi) <= KERN_SCRATCH_BYTES;
}

/* Row i, VI_LANES blocks from `block` on; or half of them, twice. */
static ALWAYS_INLINE void lay_out_acts(const struct kern_mul *m, struct lane_format f, uint32_t i,
                                       uint32_t block, bool half, vi *to) {
    size_t block_bytes = f.n_sub ? sizeof(struct kern_super) : QUANT_BLOCK,
           row = kern_mul_row(m, i);
    struct vi_rows blocks = {act_row(m, i) + block * block_bytes, block_bytes,
                             half ? -(ptrdiff_t)(VI_LANES / 2 * block_bytes) : 0};
    vi *sums = to + acts_sums_at(f), *scales = to + acts_scales_at(f), tail[4];
    struct fetching none = {.n = 0};

    for (uint32_t at = 0; at < block_values(f); at += 16)
        vi_load_16s(blocks, at, to + at / 4, &none, 0);
    if (f.n_sub) {
        size_t at = offsetof(struct kern_super, sums);

        for (int j = 0; j < f.n_sub; j += 8)
            vi_load_16s(blocks,
                        at + sizeof(int16_t) * (size_t)(f.n_sub == 8 ? KERN_SUPER_SUMS_32 : j),
                        sums + j / 2, &none, 0);
        vi_load_16s(blocks, sizeof(struct kern_super) - 16, tail, &none, 0);
        *scales = tail[(offsetof(struct kern_super, d) % 16) / 4];
        return;
    }
    for (int lane = 0; lane < VI_LANES; lane++) {
        int16_t sum = kern_act_sums(m->x, row)[block + (uint32_t)lane];

        if (f.has_min)
            ((float *)sums)[lane] = (float)sum;
        else
            ((int32_t *)sums)[lane] = -f.offset * sum;
    }
    (void)memcpy(scales, kern_act_scales(m->x, row) + block, sizeof(*scales));
}

/* All rows: (n_rows, groups, acts_vectors). */
static ALWAYS_INLINE void lay_out_rows(const struct kern_mul *m, struct lane_format f,
                                       uint32_t n_rows) {
    uint32_t n_blocks = m->x->k / block_values(f), n_groups = lane_groups(n_blocks);
    vi *acts = m->scratch;

    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t g = 0; g < n_groups; g++) {
            bool half = g == n_groups - 1 && ends_in_half(f, n_blocks);

            lay_out_acts(m, f, i, half ? g * VI_LANES : lanes_begin(n_blocks, g * VI_LANES), half,
                         acts + ((size_t)i * n_groups + g) * acts_vectors(f));
        }
}

/* y + Σ d·value, lanes [begin, end) one after the other. */
static ALWAYS_INLINE float fold_lanes(const vi *scales, vf value, uint32_t begin, uint32_t end,
                                      float y) {
    const float *d = (const float *)scales;
    _Alignas(64) float values[VI_LANES];

    vf_store(values, value);
    if (begin == 0 && end == VI_LANES) {
#pragma GCC unroll 16
        for (int lane = 0; lane < VI_LANES; lane++)
            y = __builtin_fmaf(d[lane], values[lane], y);
        return y;
    }
    for (uint32_t lane = begin; lane < end; lane++)
        y = __builtin_fmaf(d[lane], values[lane], y);
    return y;
}

/* Byte `at` of the weights, or of those after them. */
static ALWAYS_INLINE const uint8_t *weights_ahead(const struct kern_mul *m, size_t at) {
    size_t n_bytes = m->n_out * m->row_bytes;

    if (at < n_bytes)
        return m->w + at;
    return m->next ? m->next + (at - n_bytes) : m->w;
}

/* What is fetched meanwhile, for the first time and again: from these bytes of the weights on. */
struct gemv_fetch {
    size_t ahead, again;
};

/* These blocks with the rows' activations of group g. */
static ALWAYS_INLINE void gemv_group(const struct kern_mul *m, struct lane_format f,
                                     unpack_fn *unpack, uint32_t g, struct vi_rows blocks,
                                     struct gemv_fetch fetch, struct products *p) {
    size_t n_lines = (VI_LANES * f.block_bytes + 63) / 64;
    uint32_t n_groups = lane_groups(m->x->k / block_values(f));
    const vi *acts = m->scratch;
    struct unpacking u = {
        .blocks = blocks,
        .ahead = {.at = weights_ahead(m, fetch.ahead), .n = n_lines},
        .again = {.at = weights_ahead(m, fetch.again), .n = n_lines},
        .products = p,
    };

#pragma GCC unroll 4
    for (int i = 0; i < p->n_rows; i++)
        p->acts[i] = acts + ((size_t)i * n_groups + g) * acts_vectors(f);
    products_begin(p);
    unpack(&u);
}

/* Groups [begin, end) of an output. */
static ALWAYS_INLINE void gemv_part(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, int n_rows, uint32_t out, uint32_t begin,
                                    uint32_t end, struct gemv_fetch fetch, float y[PRODUCT_ROWS]) {
    uint32_t n_blocks = m->x->k / block_values(f);

    for (uint32_t g = begin; g < end; g++) {
        uint32_t first = lanes_begin(n_blocks, g * VI_LANES);
        struct products p = {.f = f, .n_rows = n_rows};

        gemv_group(
            m, f, unpack, g,
            (struct vi_rows){m->w + out * m->row_bytes + first * f.block_bytes, f.block_bytes, 0},
            fetch, &p);
        fetch.ahead += VI_LANES * f.block_bytes;
        fetch.again += VI_LANES * f.block_bytes;
#pragma GCC unroll 4
        for (int i = 0; i < n_rows; i++)
            y[i] = fold_lanes(p.acts[i] + acts_scales_at(f), products_value(&p, i),
                              g * VI_LANES - first, VI_LANES, y[i]);
    }
}

/* The last halves of n_out outputs, one or two. */
static ALWAYS_INLINE void gemv_halves(const struct kern_mul *m, struct lane_format f,
                                      unpack_fn *unpack, int n_rows, uint32_t out, uint32_t n_out,
                                      struct gemv_fetch fetch, float y[][PRODUCT_ROWS]) {
    uint32_t n_blocks = m->x->k / block_values(f);
    size_t half = VI_LANES / 2 * f.block_bytes, at = n_blocks * f.block_bytes - half;
    struct products p = {.f = f, .n_rows = n_rows};

    gemv_group(m, f, unpack, lane_groups(n_blocks) - 1,
               (struct vi_rows){m->w + out * m->row_bytes + at, f.block_bytes,
                                (ptrdiff_t)((n_out - 1) * m->row_bytes) - (ptrdiff_t)half},
               fetch, &p);
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        vf value = products_value(&p, i);

        for (uint32_t j = 0; j < n_out; j++)
            y[j][i] = fold_lanes(p.acts[i] + acts_scales_at(f), value, j * VI_LANES / 2,
                                 (j + 1) * VI_LANES / 2, y[j][i]);
    }
}

static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, int n_rows) {
    uint32_t n_blocks = m->x->k / block_values(f), n_groups = lane_groups(n_blocks);
    uint32_t n_chunk = CHUNK_K / (block_values(f) * VI_LANES), n_side;
    size_t chunk_bytes = CHUNK_K / block_values(f) * f.block_bytes;
    size_t ahead = MAX((size_t)FETCH_AHEAD, CHUNK_OUTS * m->row_bytes);

    lay_out_rows(m, f, (uint32_t)n_rows);
    for (uint32_t first = 0; first < m->n_out; first += CHUNK_OUTS) {
        uint32_t end = MIN(first + CHUNK_OUTS, m->n_out);
        float y[CHUNK_OUTS][PRODUCT_ROWS] = {{0}};

        for (uint32_t begin = 0; begin < n_groups; begin += n_chunk) {
            bool is_last = begin + n_chunk >= n_groups;
            size_t done = begin / n_chunk * chunk_bytes;

            for (uint32_t out = first; out < end; out += n_side) {
                struct gemv_fetch fetch = {ahead, is_last
                                                      ? (out + CHUNK_OUTS) * m->row_bytes
                                                      : out * m->row_bytes + done + chunk_bytes};

                n_side = is_last && ends_in_half(f, n_blocks) ? MIN(end - out, 2u) : 1;
                if (is_last && ends_in_half(f, n_blocks))
                    gemv_halves(m, f, unpack, n_rows, out, n_side, fetch, y + (out - first));
                else
                    gemv_part(m, f, unpack, n_rows, out, begin, MIN(begin + n_chunk, n_groups),
                              fetch, y[out - first]);
                ahead += n_side * (is_last ? m->row_bytes - done : chunk_bytes);
            }
        }
        for (uint32_t out = first; out < end; out++)
            for (int i = 0; i < n_rows; i++)
                m->y[(uint32_t)i * m->y_stride + out] = y[out - first][i];
    }
}

/* n_rows: 1 .. PRODUCT_ROWS, made a constant. */
static ALWAYS_INLINE void gemv(const struct kern_mul *m, struct lane_format f, unpack_fn *unpack) {
    switch (m->n_rows) {
    case 1:
        gemv_rows(m, f, unpack, 1);
        break;
    case 2:
        gemv_rows(m, f, unpack, 2);
        break;
#if PRODUCT_ROWS > 3
    case 3:
        gemv_rows(m, f, unpack, 3);
        break;
#endif
    default:
        gemv_rows(m, f, unpack, PRODUCT_ROWS);
        break;
    }
}
