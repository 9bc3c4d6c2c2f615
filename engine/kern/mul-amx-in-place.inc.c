/*
 * Q8_0 by AMX, its weights in place. They are signed bytes, as a tile's operand wants them, so the
 * file's own are the left-hand one: sixteen outputs by the 32 values of k of a block, a row's
 * length apart. Nothing is unpacked but scales. (With 16 rows unpacking takes as long as
 * multiplying.)
 *
 * The right-hand operand is activations, four values of k by sixteen rows a vector, laid out once a
 * block of k for all outputs that panel_mul_part() has. So a tile of sums has rows of outputs, and
 * columns for rows of activations: sixteen, or eight where there are no more. Eight lie close
 * together in memory, two outputs a vector. The panel's y holds sums in this order until k ends.
 *
 * Included by mul-amx.inc.c.
 */

/* The tiles, by number; 16 and 8 are their columns. */
#define P_SUMS_16 0
#define P_SUMS_8  1
#define P_ACTS_16 2
#define P_ACTS_8  3
#define P_W       4

static const struct tile_config tiles_in_place = {
    .palette = 1,
    .row_bytes =
        {[P_SUMS_16] = 64, [P_SUMS_8] = 32, [P_ACTS_16] = 64, [P_ACTS_8] = 32, [P_W] = QUANT_BLOCK},
    .n_rows = {[P_SUMS_16] = AMX_ROWS,
               [P_SUMS_8] = AMX_ROWS,
               [P_ACTS_16] = QUANT_BLOCK / 4,
               [P_ACTS_8] = QUANT_BLOCK / 4,
               [P_W] = AMX_ROWS},
};

static const struct lane_format lane_format_q8_0_in_place = {
    .block_bytes = sizeof(struct q8_0_block),
    .offset = OFFSET_q8_0,
    .largest = LARGEST_q8_0,
    .in_place = true,
};

#define PANEL_BLOCKS (PANEL_K / QUANT_BLOCK)

/* A group of rows' activations of a panel. */
struct in_place_acts {
    vi q[PANEL_BLOCKS][QUANT_BLOCK / 4];
    vi d[PANEL_BLOCKS]; /* floats; lane i: of row i % columns */
};

/* A block's sums are folded so many blocks later, so that none is waited for. */
#define IN_PLACE_LAG 2

struct in_place_work {
    struct panel_work rest; /* first: it is what panel_mul() takes for its own */
    struct vi_rows w[PANEL_VECS];
    _Alignas(64) int32_t sums[IN_PLACE_LAG + 1][AMX_ROWS * VI_LANES];
    struct in_place_acts acts[PANEL_ACT_ROWS / AMX_ROWS]; /* see groups_before() */
};
_Static_assert(sizeof(struct in_place_work) <= KERN_SCRATCH_BYTES, "fits in a thread's scratch");

/* From so many rows on this takes less time than without tiles (measured). */
#define IN_PLACE_ROWS_MIN 6

/* All that is left of unpacking. */
static ALWAYS_INLINE void in_place_scales(struct unpacking *u) {
    struct in_place_work *t = (struct in_place_work *)u->panel;

    if (u->b == 0)
        t->w[u->v] = u->blocks;
    put_d(u, vi_gather(u->blocks.first + offsetof(struct q8_0_block, d), u->blocks.stride));
}

/* n rows from `at` on, the last one repeated. */
static ALWAYS_INLINE void in_place_lay_out(struct in_place_acts *to, const struct act_rows *x,
                                           uint32_t at, uint32_t n, uint32_t n_columns,
                                           int n_blocks) {
    __m256i copies[VI_LANES];
    const struct vi_rows rows = {(const uint8_t *)copies, sizeof(copies[0]), 0};
    struct fetching none = {.n = 0};

    _Static_assert(sizeof(copies[0]) == QUANT_BLOCK &&
                       sizeof(copies[0]) == PANEL_BLOCKS * sizeof(float),
                   "one has a block's values, or a row's scales for a panel: padded to as many");
#pragma GCC unroll 16
    for (uint32_t i = 0; i < VI_LANES; i++)
        copies[i] = load_256(x->act[at + MIN(i % n_columns, n - 1)] + x->d);
    vi_load_32s(rows, 0, to->d, &none, 0);
    for (int b = 0; b < n_blocks; b++) {
#pragma GCC unroll 16
        for (uint32_t i = 0; i < n_columns; i++)
            copies[i] = load_256(x->act[at + MIN(i, n - 1)] + x->a + QUANT_BLOCK * (size_t)b);
        vi_load_32s(rows, 0, to->q[b], &none, 0);
    }
}

/* A block of sixteen outputs. */
#define IN_PLACE_PRODUCT(n_columns)                                                                \
    static ALWAYS_INLINE void in_place_product_##n_columns(struct vi_rows w, const vi *acts,       \
                                                           int32_t *sums) {                        \
        _tile_loadd(P_W, w.first, (long)w.stride);                                                 \
        _tile_loadd(P_ACTS_##n_columns, acts, VI_BYTES);                                           \
        _tile_zero(P_SUMS_##n_columns);                                                            \
        _tile_dpbssd(P_SUMS_##n_columns, P_W, P_ACTS_##n_columns);                                 \
        _tile_stored(P_SUMS_##n_columns, sums, (long)sizeof(*sums) * (n_columns));                 \
    }
IN_PLACE_PRODUCT(16)
IN_PLACE_PRODUCT(8)

static ALWAYS_INLINE void in_place_product(struct vi_rows w, const vi *acts, uint32_t n_columns,
                                           int32_t *sums) {
    settle_memory();
    if (n_columns == 16)
        in_place_product_16(w, acts, sums);
    else
        in_place_product_8(w, acts, sums);
    settle_memory();
}

/* n_columns vectors of sums, in the order in which tiles have them. */
static ALWAYS_INLINE void in_place_fold(const int32_t *sums, const float wd[VI_LANES], vi d,
                                        uint32_t n_columns, vf y[AMX_ROWS]) {
    vf all = vf_load(wd);

#pragma GCC unroll 16
    for (uint32_t i = 0; i < n_columns; i++) {
        vf one = n_columns == VI_LANES
                     ? vf_set1(wd[i])
                     : vf_spread(all, (int)(i * (VI_LANES / n_columns)), (int)n_columns);

        y[i] = vf_fma(vf_of_bits(d), vf_mul(one, vf_from(vi_load(sums + i * VI_LANES))), y[i]);
    }
}

/* The next panel's blocks of two of sixteen outputs, which tiles would wait for. */
static ALWAYS_INLINE void fetch_next_panel(const struct vi_rows *w, int i) {
    const size_t n = PANEL_BLOCKS * sizeof(struct q8_0_block);
    const uint8_t *next = w->first + (size_t)i * 2 * w->stride + n;

#pragma GCC unroll 8
    for (size_t at = 0; at < n + 63; at += 64) { /* they begin and end within lines */
        fetch_line_near(next + at);
        fetch_line_near(next + w->stride + at);
    }
}

/* A vector of outputs by a group of rows, of which n_rows are there. */
static ALWAYS_INLINE void in_place_tile(struct in_place_work *t, const struct in_place_acts *acts,
                                        int v, const struct panel_rows *r, uint32_t n_rows,
                                        uint32_t n_columns, int n_blocks, bool fetches) {
    const struct weight_panel *p = &t->rest.panel;
    struct vi_rows w = t->w[v];
    float last[AMX_ROWS * VI_LANES];
    vf y[AMX_ROWS];

    w.first += offsetof(struct q8_0_block, qs);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < n_columns; i++)
        y[i] = vf_load(r->y[i] + v * VI_LANES);
#pragma GCC unroll 16
    for (int b = 0; b < n_blocks + IN_PLACE_LAG; b++) {
        int folded = b - IN_PLACE_LAG;

        if (b < n_blocks) {
            fetch_surplus(begin_round(r->fetch), 0);
            if (fetches)
                fetch_next_panel(&t->w[v], b);
            in_place_product(w, acts->q[b], n_columns, t->sums[b % (IN_PLACE_LAG + 1)]);
            w.first += sizeof(struct q8_0_block);
        }
        if (folded >= 0)
            in_place_fold(t->sums[folded % (IN_PLACE_LAG + 1)], p->d[folded] + v * VI_LANES,
                          acts->d[folded], n_columns, y);
    }
    if (r->place.k + PANEL_K < r->order->k) {
#pragma GCC unroll 16
        for (uint32_t i = 0; i < n_columns; i++)
            vf_store(r->y[i] + v * VI_LANES, y[i]);
        return;
    }
#pragma GCC unroll 16
    for (uint32_t i = 0; i < n_columns; i++)
        vf_store(last + i * VI_LANES, y[i]);
    for (uint32_t i = 0; i < n_rows; i++)
        vf_store(r->y[i] + v * VI_LANES,
                 vf_of_bits(vi_gather(last + i, n_columns * sizeof(*last))));
}

/* n rows from `at` on. */
static ALWAYS_INLINE void in_place_group(struct in_place_work *t, struct in_place_acts *acts,
                                         const struct panel_rows *r, uint32_t at, uint32_t n,
                                         uint32_t n_columns, int n_blocks, bool fetches) {
    if (r->place.out == 0)
        in_place_lay_out(acts, &r->x, at, n, n_columns, n_blocks);
    for (int v = 0; v < PANEL_VECS; v++) {
        if (n_blocks == PANEL_BLOCKS) /* as a rule: made a constant */
            in_place_tile(t, acts, v, r, n, n_columns, PANEL_BLOCKS, fetches);
        else
            in_place_tile(t, acts, v, r, n, n_columns, n_blocks, false);
    }
}

/* See panel_share(). */
static ALWAYS_INLINE void in_place_share(struct panel_work *work, struct lane_format f,
                                         struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    struct in_place_work *t = (struct in_place_work *)work;
    const struct panel_place *place = &r->place;
    struct in_place_acts *acts = t->acts + groups_before(r, n_rows);
    bool is_last = place->k + PANEL_K >= MIN(place->block + r->order->block_k, r->order->k);

    (void)f;
    assert(acts + row_groups(n_rows, AMX_ROWS) <= t->acts + ARRAY_SIZE(t->acts));
    for (uint32_t at = 0; at < n_rows; at += AMX_ROWS, acts++, r->y += AMX_ROWS) {
        uint32_t n = MIN(n_rows - at, (uint32_t)AMX_ROWS);
        bool fetches = !is_last && at + AMX_ROWS >= n_rows; /* once a panel */

        if (n <= 8)
            in_place_group(t, acts, r, at, n, 8, n_blocks, fetches);
        else
            in_place_group(t, acts, r, at, n, 16, n_blocks, fetches);
    }
}

static void amx_mul_q8_0(const struct kern_mul *m) {
    if (m->n_rows < IN_PLACE_ROWS_MIN) {
        mul_q8_0(m);
        return;
    }
    _tile_loadconfig(&tiles_in_place);
    panel_mul(m, lane_format_q8_0_in_place, in_place_scales, in_place_share, AMX_ROWS);
    _tile_release();
}
