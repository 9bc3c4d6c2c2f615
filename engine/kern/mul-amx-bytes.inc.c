/*
 * Q8_0 by AMX. Its weights are signed bytes, as a tile's operand wants them, so the file's own are
 * the left-hand one: sixteen outputs by the 32 values of k of a block, a row's length apart.
 * Nothing is unpacked but scales. (With 16 rows unpacking takes as long as multiplying.)
 *
 * The right-hand operand are activations, four values of k by sixteen rows a vector, laid out once
 * for all outputs of a block of k. So a tile of sums has rows of outputs, and columns for rows of
 * activations: sixteen, or eight where there are no more. Eight lie close together in memory, two
 * outputs a vector. Sums in the panel's y are in this order until k ends.
 *
 * Included by mul-amx.inc.c.
 */

/* The tiles, by number. */
#define B_SUMS_16 0 /* columns */
#define B_SUMS_8  1
#define B_ACTS_16 2
#define B_ACTS_8  3
#define B_W       4

static const struct tile_config tiles_bytes = {
    .palette = 1,
    .row_bytes =
        {[B_SUMS_16] = 64, [B_SUMS_8] = 32, [B_ACTS_16] = 64, [B_ACTS_8] = 32, [B_W] = QUANT_BLOCK},
    .n_rows = {[B_SUMS_16] = AMX_ROWS,
               [B_SUMS_8] = AMX_ROWS,
               [B_ACTS_16] = QUANT_BLOCK / 4,
               [B_ACTS_8] = QUANT_BLOCK / 4,
               [B_W] = AMX_ROWS},
};

/* Sixteen rows' activations of a panel. */
struct bytes_acts {
    vi q[PANEL_K / QUANT_BLOCK][QUANT_BLOCK / 4];
    vi d[PANEL_K / QUANT_BLOCK]; /* floats; lane i: of row i % columns */
};

/* Blocks whose sums are in memory before they are folded, so that none is waited for. */
#define BYTES_LAG 2

struct bytes_work {
    struct amx_work rest; /* first */
    struct vi_rows w[PANEL_VECS];
    _Alignas(64) int32_t sums[2 * BYTES_LAG][AMX_ROWS * VI_LANES];
    struct bytes_acts
        acts[PANEL_ACT_ROWS / AMX_ROWS]; /* of each panel of a block of k, by groups */
};
_Static_assert(sizeof(struct bytes_work) <= KERN_SCRATCH_BYTES, "fits in a thread's scratch");

/* From so many rows on this takes less time than without tiles (measured). */
#define BYTES_ROWS_MIN 6

/* In the place of unpacking. */
static ALWAYS_INLINE void bytes_find(struct unpacking *u) {
    struct bytes_work *t = (struct bytes_work *)u->panel;

    if (u->b == 0)
        t->w[u->v] = u->blocks;
    put_d(u, vi_gather(u->blocks.first + offsetof(struct q8_0_block, d), u->blocks.stride));
}

/* The rows from `at` on, of which n are left. */
static ALWAYS_INLINE void lay_out_bytes(struct bytes_acts *to, const struct act_rows *x,
                                        uint32_t at, uint32_t n, uint32_t n_columns, int n_blocks) {
    __m256i copies[VI_LANES];
    const struct vi_rows rows = {(const uint8_t *)copies, sizeof(copies[0]), 0};
    struct fetching none = {.n = 0};

    _Static_assert(sizeof(copies[0]) == QUANT_BLOCK &&
                       sizeof(copies[0]) == PANEL_K / QUANT_BLOCK * sizeof(float),
                   "one has a block's values, or all scales of a row, as these are padded");
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
#define BYTES_PRODUCT(n_columns)                                                                   \
    static ALWAYS_INLINE void bytes_product_##n_columns(struct vi_rows w, const vi *acts,          \
                                                        int32_t *sums) {                           \
        _tile_loadd(B_W, w.first, (long)w.stride);                                                 \
        _tile_loadd(B_ACTS_##n_columns, acts, VI_BYTES);                                           \
        _tile_zero(B_SUMS_##n_columns);                                                            \
        _tile_dpbssd(B_SUMS_##n_columns, B_W, B_ACTS_##n_columns);                                 \
        _tile_stored(B_SUMS_##n_columns, sums, 4L * (n_columns));                                  \
    }
BYTES_PRODUCT(16)
BYTES_PRODUCT(8)

static ALWAYS_INLINE void bytes_product(struct vi_rows w, const vi *acts, int n_columns,
                                        int32_t *sums) {
    settle_memory();
    if (n_columns == 16)
        bytes_product_16(w, acts, sums);
    else
        bytes_product_8(w, acts, sums);
    settle_memory();
}

/* n_columns vectors of sums, in the order in which tiles have them. */
static ALWAYS_INLINE void bytes_fold(const int32_t *sums, const float wd[VI_LANES], vf d,
                                     int n_columns, vf y[AMX_ROWS]) {
    vf all = vf_load(wd);

#pragma GCC unroll 16
    for (int i = 0; i < n_columns; i++) {
        vf one = n_columns == VI_LANES ? vf_set1(wd[i])
                                       : vf_spread(all, i * (VI_LANES / n_columns), n_columns);

        y[i] = vf_fma(d, vf_mul(one, vf_from(vi_load(sums + i * VI_LANES))), y[i]);
    }
}

/* Into the first cache: tiles wait for what they load. The next panel's blocks of two of sixteen
 * outputs. */
static ALWAYS_INLINE void fetch_rows(const struct vi_rows *w, int i) {
    const size_t n = PANEL_K / QUANT_BLOCK * sizeof(struct q8_0_block);
    const uint8_t *next = w->first + (size_t)i * 2 * w->stride + n;

#pragma GCC unroll 5
    for (size_t at = 0; at < n; at += 64) {
        __builtin_prefetch(next + at);
        __builtin_prefetch(next + w->stride + at);
    }
}

/* A vector of outputs by a group of rows, of which n_rows are there. */
static ALWAYS_INLINE void bytes_tile(struct bytes_work *t, const struct bytes_acts *acts, int v,
                                     const struct panel_rows *r, uint32_t n_rows, int n_columns,
                                     int n_blocks) {
    const struct weight_panel *p = &t->rest.rest.panel;
    struct vi_rows w = t->w[v];
    _Alignas(64) float last[AMX_ROWS * VI_LANES];
    vf y[AMX_ROWS];

    w.first += offsetof(struct q8_0_block, qs);
#pragma GCC unroll 16
    for (int i = 0; i < n_columns; i++)
        y[i] = r->place.k == 0 ? vf_set1(0) : vf_load(r->y[i] + v * VI_LANES);
#pragma GCC unroll 16
    for (int b = 0; b < n_blocks + BYTES_LAG; b++) {
        if (b < n_blocks) {
            fetch_surplus(begin_round(r->fetch), 0);
            fetch_rows(&t->w[v], b);
            bytes_product(w, acts->q[b], n_columns, t->sums[b % (2 * BYTES_LAG)]);
            w.first += sizeof(struct q8_0_block);
        }
        if (b >= BYTES_LAG)
            bytes_fold(t->sums[(b - BYTES_LAG) % (2 * BYTES_LAG)],
                       p->d[b - BYTES_LAG] + v * VI_LANES,
                       _mm512_castsi512_ps(acts->d[b - BYTES_LAG]), n_columns, y);
    }
    if (r->place.k + PANEL_K < r->order->k) {
#pragma GCC unroll 16
        for (int i = 0; i < n_columns; i++)
            vf_store(r->y[i] + v * VI_LANES, y[i]);
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n_columns; i++)
        vf_store(last + i * VI_LANES, y[i]);
    for (uint32_t i = 0; i < n_rows; i++)
        (void)_mm512_storeu_si512(r->y[i] + v * VI_LANES,
                                  vi_gather(last + i, (size_t)n_columns * sizeof(*last)));
}

static ALWAYS_INLINE void bytes_tiles(struct bytes_work *t, const struct bytes_acts *acts,
                                      const struct panel_rows *r, uint32_t n_rows, int n_columns,
                                      int n_blocks) {
    for (int v = 0; v < PANEL_VECS; v++) {
        if (n_blocks == PANEL_K / QUANT_BLOCK) /* as a rule: made a constant */
            bytes_tile(t, acts, v, r, n_rows, n_columns, PANEL_K / QUANT_BLOCK);
        else
            bytes_tile(t, acts, v, r, n_rows, n_columns, n_blocks);
    }
}

/* See panel_share(). */
static ALWAYS_INLINE void bytes_share(struct panel_work *work, struct lane_format f,
                                      struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    struct bytes_work *t = (struct bytes_work *)work;
    struct bytes_acts *acts =
        t->acts + (r->place.k - r->place.block) / PANEL_K * row_groups(n_rows, AMX_ROWS);

    (void)f;
    for (uint32_t at = 0; at < n_rows; at += AMX_ROWS, acts++, r->y += AMX_ROWS) {
        uint32_t n = MIN(n_rows - at, (uint32_t)AMX_ROWS);
        uint32_t n_columns = n <= 8 ? 8 : 16;

        if (r->place.out == 0)
            lay_out_bytes(acts, &r->x, at, n, n_columns, n_blocks);
        if (n_columns == 8)
            bytes_tiles(t, acts, r, n, 8, n_blocks);
        else
            bytes_tiles(t, acts, r, n, 16, n_blocks);
    }
}

static void amx_mul_q8_0(const struct kern_mul *m) {
    if (m->n_rows < BYTES_ROWS_MIN) {
        mul_q8_0(m);
        return;
    }
    _tile_loadconfig(&tiles_bytes);
    panel_mul(m, lane_format_q8_0_bytes, bytes_find, bytes_share, AMX_ROWS);
    _tile_release();
}
