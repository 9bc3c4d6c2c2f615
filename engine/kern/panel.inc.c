/*
 * Prefill: the product for many rows, by panels.
 *
 * A panel is 256 values of k for 2·VI_LANES outputs, unpacked once into bytes (nibbles, where that
 * is faster for few rows) and used for all rows: four values of k by VI_LANES outputs a vector, so
 * that each lane is one output, nothing is summed across lanes, and the activation's four bytes are
 * the same in all. PANEL_ROWS rows are computed together in registers. A panel (13 KiB), its rows'
 * activations and sums stay in the first two caches: so k goes by blocks, and these by outputs.
 * (With tiles Q8_0 is not unpacked: mul-amx-in-place.inc.c.)
 *
 * Outputs are folded as the definition (mul.inc.c) folds them: integers within a block, then its
 * value into the float of the output, in ascending order of k. Offsets of the unsigned
 * weights go into the accumulators' first value where it is wide enough, else into their sum:
 * Σ (u − offset)·a = Σ u·a − offset·Σ a.
 *
 * Included by mul-int.inc.c after unpack.inc.c.
 */

/*
 * The weights that come after those of PANEL_OUT outputs in a block of k are fetched while these
 * are multiplied: in the order in which they lie in memory, and evenly. (In the panels' order, runs
 * of a block, memory gives a sixth less, and lines that are asked for all at once are dropped.)
 */
struct weight_fetch {
    const uint8_t *run;          /* bytes in one piece; NULL: nothing is known of them */
    size_t at, n_run;            /* how far it is fetched, and how long it is */
    size_t stride;               /* from a run to the next one */
    size_t n_a_panel, n_a_round; /* lines */
    size_t n_left;               /* of this panel's */
};

/* A product of some rows by panels: blocks of k, in these the outputs, in these the panels. */
struct panel_place {
    uint32_t block, out, k; /* the block's first value of k; this panel's first output and k */
};
struct panel_order {
    uint32_t n_out, k, block_k;
};

/* Rows that are computed together. */
struct panel_rows {
    struct act_rows x;
    float (*y)[PANEL_OUT]; // (rows of a group)
    struct weight_fetch *fetch;
    const struct panel_order *order;
    struct panel_place place;
};

/* Rounds in which a format's panel is unpacked for a vector of outputs, and multiplied with a group
 * of rows: each takes about as long as the others. */
static ALWAYS_INLINE size_t unpack_rounds(struct lane_format f) {
    return f.in_place ? 0 : f.n_sub ? 1 : PANEL_K / QUANT_BLOCK;
}
static ALWAYS_INLINE size_t group_rounds(struct lane_format f) {
    return f.n_sub      ? (size_t)f.n_sub / 2
           : f.in_place ? PANEL_VECS * (PANEL_K / QUANT_BLOCK)
                        : PANEL_K / QUANT_BLOCK;
}

/* Groups are of n_group rows. */
static inline uint32_t row_groups(uint32_t n_rows, uint32_t n_group) {
    return (n_rows + n_group - 1) / n_group;
}

static ALWAYS_INLINE size_t panel_rounds(struct lane_format f, uint32_t n_rows, uint32_t n_group) {
    return PANEL_VECS * unpack_rounds(f) + row_groups(n_rows, n_group) * group_rounds(f);
}

/* The lines of a round. */
static ALWAYS_INLINE struct fetching begin_round(struct weight_fetch *f) {
    size_t n = MIN(f->n_a_round, f->n_left), n_run = (f->n_run - f->at + 63) / 64;
    struct fetching ret = {.n = 0};

    if (n == 0)
        return ret;
    ret.at = f->run + f->at;
    ret.n = MIN(n, n_run);
    f->n_left -= ret.n;
    f->at += 64 * ret.n;
    if (f->at >= f->n_run) {
        f->run += f->stride;
        f->at = 0;
    }
    return ret;
}

/* Those lines of a round for which its steps have no place. */
static ALWAYS_INLINE void fetch_surplus(struct fetching f, size_t n_places) {
    for (size_t i = n_places; i < f.n; i++)
        fetch_line(f.at + 64 * i);
}

/* Step t of block or sub-block s. In a panel of nibbles, bytes are as the k-formats have them: low
 * nibbles are weights of one sub-block, high ones those of the next. */
static ALWAYS_INLINE vi panel_weights(const struct weight_panel *p, struct lane_format f, int s,
                                      int t, int v) {
    vi pair;

    if (!f.nibbles)
        return p->w[s * block_steps(f) + t][v];
    pair = p->w[s / 2 * block_steps(f) + t][v];
    return s % 2 ? high_nibbles(pair) : low_nibbles(pair);
}

/* Rows whose activations are operands in memory: an instruction less for each, but a load more. An
 * Intel CPU makes as many loads as products, so those of two rows are not, but where rows are few
 * and products wait for each other. */
static ALWAYS_INLINE int rows_in_memory(int n_rows) {
    return n_rows < 5 ? n_rows : n_rows - 2;
}

/* Adds a run of steps, from step `begin` of block or sub-block s on, to that of each row; n_at of
 * them are operands in memory. Most of the time goes here. */
static ALWAYS_INLINE void add_run(const struct weight_panel *p, struct lane_format f, int s,
                                  int begin, const struct panel_rows *r, int n_rows, int n_at,
                                  struct fetching *ahead, vi run[PANEL_ROWS][PANEL_VECS]) {
#pragma GCC unroll 8
    for (int t = begin; t < begin + run_steps(f); t++) {
        vi w[PANEL_VECS];

        fetch_next(ahead);
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++) /* GCC reads it for each row otherwise */
            w[v] = vi_settled(panel_weights(p, f, s, t, v));
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++) {
            const int8_t *four = row_values(&r->x, i) + 4 * (s * block_steps(f) + t);

#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                run[i][v] = i < n_at ? vi_run_step_at(run[i][v], w[v], four, f.largest)
                                     : vi_run_step(run[i][v], w[v], vi_set1_at(four), f.largest);
        }
    }
}

/* The lines to fetch with a block or two sub-blocks. */
static ALWAYS_INLINE struct fetching begin_tile_round(struct panel_rows *r, struct lane_format f,
                                                      int s, bool fetches) {
    struct fetching ahead = {.n = 0};

    if (fetches && (!f.n_sub || s % 2 == 0))
        ahead = begin_round(r->fetch);
    fetch_surplus(ahead, (size_t)block_steps(f));
    return ahead;
}

/* The dot products of a plain block. */
static ALWAYS_INLINE void dot_block(const struct weight_panel *p, struct lane_format f, int b,
                                    const struct panel_rows *r, int n_rows, struct fetching ahead,
                                    vi dot[PANEL_ROWS][PANEL_VECS]) {
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            dot[i][v] = f.offset ? vi_set1(-f.offset * row_sums(&r->x, i)[b]) : vi_set1(0);
#pragma GCC unroll 4
    for (int begin = 0; begin < block_steps(f); begin += run_steps(f)) {
        vi run[PANEL_ROWS][PANEL_VECS];

#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                run[i][v] = vi_run_begin(dot[i][v], f.largest);
        add_run(p, f, b, begin, r, n_rows, rows_in_memory(n_rows), &ahead, run);
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                dot[i][v] = vi_run_end(dot[i][v], run[i][v], f.largest);
    }
}

/* Block b of a row into vector v of its outputs; d and sum are those of the activations. */
static ALWAYS_INLINE vf panel_fold_plain(const struct weight_panel *p, struct lane_format f, int b,
                                         int v, float d, int16_t sum, vi dot, vf y) {
    return vf_fma(vf_set1(d),
                  plain_value(f, vf_load(p->d[b] + v * VI_LANES), dot,
                              vf_load(p->m[b] + v * VI_LANES), vf_set1((float)sum)),
                  y);
}

static ALWAYS_INLINE void tile_plain(const struct weight_panel *p, struct lane_format f,
                                     struct panel_rows *r, int n_rows, int n_blocks, bool fetches) {
    vf y[PANEL_ROWS][PANEL_VECS];
    vi dot[PANEL_ROWS][PANEL_VECS];

#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++) {
        for (int v = 0; v < PANEL_VECS; v++)
            y[i][v] = vf_load(r->y[i] + v * VI_LANES);
    }
    for (int b = 0; b < n_blocks; b++) {
        dot_block(p, f, b, r, n_rows, begin_tile_round(r, f, b, fetches), dot);
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                y[i][v] = panel_fold_plain(p, f, b, v, row_scales(&r->x, i)[b],
                                           row_sums(&r->x, i)[b], dot[i][v], y[i][v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++) {
        for (int v = 0; v < PANEL_VECS; v++)
            vf_store(r->y[i] + v * VI_LANES, y[i][v]);
    }
}

/* The super-block of a row likewise, with the scale and the scale of the mins of each output. */
static ALWAYS_INLINE void panel_fold_super(struct lane_format f, float d, const vi sum[PANEL_VECS],
                                           const vi mins[PANEL_VECS], const vf wd[PANEL_VECS],
                                           const vf wm[PANEL_VECS], float y[PANEL_OUT]) {
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++) {
        float *at = y + v * VI_LANES;

        vf_store(at,
                 vf_fma(vf_set1(d), super_value(f, wd[v], sum[v], wm[v], mins[v]), vf_load(at)));
    }
}

/* Σ number·sum of a super-block's sub-blocks for each row, where numbers lie as mins do: side by
 * side, as one row alone would wait for itself. */
static ALWAYS_INLINE void dot_sums(const vi numbers[][PANEL_VECS], struct lane_format f,
                                   const struct panel_rows *r, int n_rows,
                                   vi ret[PANEL_ROWS][PANEL_VECS]) {
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < PANEL_VECS; v++)
            ret[i][v] = vi_set1(0);
#pragma GCC unroll 8
    for (int j = 0; j < f.n_sub / 2; j++)
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++) {
            const int16_t *two = row_sub_sums(&r->x, f, i) + 2 * j;

#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                ret[i][v] = vi_dot2_at(ret[i][v], numbers[j][v], two);
        }
}

/*
 * Whether the dot products of all sub-blocks fit in int16, so that one instruction multiplies them
 * by their scales and adds them up; as a rule they do. What they can't exceed is known of the
 * activations. (Runs of int16 always fit: they have no offset yet.)
 */
static ALWAYS_INLINE bool dots_fit(struct lane_format f, const struct panel_rows *r, int n_rows) {
    int weight = f.largest - f.offset > f.offset ? f.largest - f.offset : f.offset;
    int limit = INT16_MAX / weight, margin = 0;

    if (RUN_IS_INT16 || limit >= 127 * QUANT_SUPER / f.n_sub)
        return true;
    for (int i = 0; i < n_rows; i++) /* negative if one of them is */
        margin |=
            limit -
            row_super(&r->x, i)->sums[f.n_sub == 8 ? KERN_SUPER_REACH_32 : KERN_SUPER_REACH_16];
    return margin >= 0;
}

/* Adds the dot products of a super-block's sub-blocks, times their scales, to sum; see dots_fit().
 * Where runs are of int16, an offset has no room in them: take_offsets() follows. */
static ALWAYS_INLINE void sum_super(const struct weight_panel *p, struct lane_format f,
                                    struct panel_rows *r, int n_rows, bool fetches, bool fit,
                                    vi sum[PANEL_ROWS][PANEL_VECS]) {
    for (int s = 0; s < f.n_sub; s++) {
        struct fetching ahead = begin_tile_round(r, f, s, fetches);

#pragma GCC unroll 4
        for (int begin = 0; begin < block_steps(f); begin += run_steps(f)) {
            const bool has_offset = f.offset && begin == 0 && !RUN_IS_INT16;
            vi run[PANEL_ROWS][PANEL_VECS];

#pragma GCC unroll 8
            for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < PANEL_VECS; v++)
                    run[i][v] =
                        has_offset ? vi_set1(-f.offset * row_sub_sums(&r->x, f, i)[s]) : vi_set1(0);
            add_run(p, f, s, begin, r, n_rows, rows_in_memory(n_rows), &ahead, run);
#pragma GCC unroll 8
            for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < PANEL_VECS; v++)
                    sum[i][v] =
                        fit ? vi_settled(vi_dot2(sum[i][v], run[i][v], p->scale[s][v]))
                            : vi_add(sum[i][v], vi_mul(run[i][v], vi_word(p->scale[s][v], 0)));
        }
    }
}

#ifdef SPARE_PIPES
_Static_assert(!RUN_IS_INT16, "the whole of a sub-block is one run");

/*
 * The same for a format without an offset where dot products fit, with one product for the scales
 * of two sub-blocks. Their dot products are made in the same register: those of the second
 * sub-block come first and are moved into the upper halves; those of the first are added to 2^15,
 * so they never borrow, and lose it again at the end. Three instructions stand for the other
 * product: see kern_has_spare_pipes. (An offset costs as much as it saves. All measured on Zen 4.)
 */
static ALWAYS_INLINE void sum_super_paired(const struct weight_panel *p, struct lane_format f,
                                           struct panel_rows *r, int n_rows, bool fetches,
                                           vi sum[PANEL_ROWS][PANEL_VECS]) {
    vi next[PANEL_ROWS][PANEL_VECS];

#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            next[i][v] = vi_set1(0);
    for (int s = f.n_sub - 1; s >= 0; s--) {
        struct fetching ahead = begin_tile_round(r, f, s, fetches);
        vi run[PANEL_ROWS][PANEL_VECS];

        /* GCC 12 keeps an array in memory that goes around the loop and through add_run(), or twice
         * through it: that is three times slower. */
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                run[i][v] = next[i][v];
        /* With no row's activations in registers there is one for 2^15. */
        add_run(p, f, s, 0, r, n_rows, n_rows, &ahead, run);
        if (s % 2 == 1) {
#pragma GCC unroll 8
            for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
                for (int v = 0; v < PANEL_VECS; v++)
                    next[i][v] = vi_settled(vi_or(vi_sll(run[i][v], 16), vi_set1(0x8000)));
            continue;
        }
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++) {
            vi scales = vi_settled(vi_low_words(p->scale[s][v], p->scale[s + 1][v]));

#pragma GCC unroll 8
            for (int i = 0; i < n_rows; i++) {
                vi pair = vi_xor(run[i][v], vi_set1(0x8000));

                sum[i][v] = vi_settled(vi_dot2(sum[i][v], pair, scales));
                next[i][v] = vi_set1(0);
            }
        }
    }
}
#endif

static ALWAYS_INLINE void take_offsets(const struct weight_panel *p, struct lane_format f,
                                       const struct panel_rows *r, int n_rows,
                                       vi sum[PANEL_ROWS][PANEL_VECS]) {
    vi pairs[8][PANEL_VECS], offsets[PANEL_ROWS][PANEL_VECS];

#pragma GCC unroll 8
    for (int j = 0; j < f.n_sub / 2; j++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            pairs[j][v] = vi_low_words(p->scale[2 * j][v], p->scale[2 * j + 1][v]);
    dot_sums(pairs, f, r, n_rows, offsets);
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            sum[i][v] = vi_sub(sum[i][v], vi_mul(offsets[i][v], vi_set1(f.offset)));
}

static ALWAYS_INLINE void tile_super(const struct weight_panel *p, struct lane_format f,
                                     struct panel_rows *r, int n_rows, bool fetches) {
    vi sum[PANEL_ROWS][PANEL_VECS], mins[PANEL_ROWS][PANEL_VECS];
    vf wd[PANEL_VECS], wm[PANEL_VECS];

#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            sum[i][v] = vi_set1(0);
    if (!dots_fit(f, r, n_rows))
        sum_super(p, f, r, n_rows, fetches, false, sum);
#ifdef SPARE_PIPES
    else if (SPARE_PIPES && !f.offset)
        sum_super_paired(p, f, r, n_rows, fetches, sum);
#endif
    else
        sum_super(p, f, r, n_rows, fetches, true, sum);
    if (f.offset && RUN_IS_INT16)
        take_offsets(p, f, r, n_rows, sum);
    if (f.has_min)
        dot_sums(p->min, f, r, n_rows, mins);
    for (int v = 0; v < PANEL_VECS; v++) {
        wd[v] = vf_load(p->d[0] + v * VI_LANES);
        wm[v] = vf_load(p->m[0] + v * VI_LANES);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
        panel_fold_super(f, row_super(&r->x, i)->d, sum[i], mins[i], wd, wm, r->y[i]);
}

/* n_bytes, at most those of a panel, from byte `at` on of VI_LANES outputs. Where fewer are left,
 * a copy that repeats the last one: what becomes of those is not stored at the end. */
typedef uint8_t lane_copies[VI_LANES][PANEL_K / QUANT_BLOCK * sizeof(struct q8_0_block)];

static ALWAYS_INLINE struct vi_rows lane_blocks(const struct kern_mul *m, uint32_t first_out,
                                                size_t at, size_t n_bytes, lane_copies copies) {
    if (first_out + VI_LANES <= m->n_out)
        return (struct vi_rows){m->w + first_out * m->row_bytes + at, m->row_bytes, 0};
    for (uint32_t lane = 0; lane < VI_LANES; lane++) {
        uint32_t out = first_out + lane < m->n_out ? first_out + lane : m->n_out - 1;

        (void)memcpy(copies[lane], m->w + out * m->row_bytes + at, n_bytes);
    }
    return (struct vi_rows){copies[0], sizeof(copies[0]), 0};
}

/* Sums of so many outputs for so many rows at a time; the scratch holds them and the panel. */
#define PANEL_Y_ROWS 256
#define PANEL_Y_OUT  256
struct panel_work {
    struct weight_panel panel;
    lane_copies copies[PANEL_VECS];
    const uint8_t *act[PANEL_Y_ROWS];
    _Alignas(64) float y[PANEL_Y_OUT / PANEL_OUT][PANEL_Y_ROWS][PANEL_OUT];
};
_Static_assert(sizeof(struct panel_work) <= KERN_SCRATCH_BYTES,
               "the panel fits in a thread's scratch");

static ALWAYS_INLINE void unpack_panel(struct panel_work *work, const struct kern_mul *m,
                                       struct lane_format f, unpack_fn *unpack,
                                       struct panel_rows *r, uint32_t first_out,
                                       uint32_t first_block, int n_blocks) {
    for (int v = 0; v < PANEL_VECS; v++) {
        struct unpacking u = {
            .blocks =
                lane_blocks(m, first_out + (uint32_t)v * VI_LANES, first_block * f.block_bytes,
                            (size_t)n_blocks * f.block_bytes, work->copies[v]),
            .panel = &work->panel,
            .v = v,
        };

        for (u.b = 0; u.b < n_blocks; u.b++) {
            if (unpack_rounds(f) > 0)
                u.ahead = begin_round(r->fetch);
            fetch_surplus(u.ahead, (f.block_bytes + 15) / 16 * LINES_WITH_PANELS);
            unpack(&u);
            u.blocks.first += f.block_bytes;
        }
    }
}

/* How many of the rows left are next, at most n_max: as even as can be, so that no small group is
 * left over. */
static inline uint32_t next_group(uint32_t n_left, uint32_t n_max) {
    uint32_t n_groups = (n_left + n_max - 1) / n_max;

    return (n_left + n_groups - 1) / n_groups;
}

static ALWAYS_INLINE void tile_rows(const struct weight_panel *p, struct lane_format f,
                                    struct panel_rows *r, int n_rows, int n_blocks, bool fetches) {
    if (f.n_sub)
        tile_super(p, f, r, n_rows, fetches);
    else
        tile_plain(p, f, r, n_rows, n_blocks, fetches);
}

/* All rows of a group, their number made a constant; and for the groups that many rows are divided
 * into, that nothing is left to fetch. */
static ALWAYS_INLINE void tile(const struct weight_panel *p, struct lane_format f,
                               struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    if (r->fetch->n_left == 0 && n_rows >= PANEL_ROWS - 1) {
        if (n_rows == PANEL_ROWS)
            tile_rows(p, f, r, PANEL_ROWS, n_blocks, false);
        else
            tile_rows(p, f, r, PANEL_ROWS - 1, n_blocks, false);
        return;
    }
    switch (n_rows) {
    case 1:
        tile_rows(p, f, r, 1, n_blocks, true);
        break;
    case 2:
        tile_rows(p, f, r, 2, n_blocks, true);
        break;
    case 3:
        tile_rows(p, f, r, 3, n_blocks, true);
        break;
#if PANEL_ROWS > 4
    case 4:
        tile_rows(p, f, r, 4, n_blocks, true);
        break;
#endif
#if PANEL_ROWS > 5
    case 5:
        tile_rows(p, f, r, 5, n_blocks, true);
        break;
#endif
#if PANEL_ROWS > 6
    case 6:
        tile_rows(p, f, r, 6, n_blocks, true);
        break;
#endif
    default:
        tile_rows(p, f, r, PANEL_ROWS, n_blocks, true);
    }
}

/* A panel's share of the sums of all rows; r is where it is in rows. In each block of k, all panels
 * of the first outputs come first. */
typedef void panel_share_fn(struct panel_work *work, struct lane_format f, struct panel_rows *r,
                            uint32_t n_rows, int n_blocks);

static ALWAYS_INLINE void panel_share(struct panel_work *work, struct lane_format f,
                                      struct panel_rows *r, uint32_t n_rows, int n_blocks) {
    for (uint32_t at = 0, n; at < n_rows; at += n) {
        n = next_group(n_rows - at, PANEL_ROWS);
        tile(&work->panel, f, r, n, n_blocks);
        r->x.act += n;
        r->y += n;
    }
}

/* Blocks of k are so small that activations (160 KiB) stay in the second cache for all outputs, and
 * that it has room for them, for the weights of PANEL_OUT outputs, and for those of the next ones:
 * larger ones are pushed out before they are read, smaller ones slower to fetch (measured with a
 * cache of 1 MiB). */
#define PANEL_ACT_ROWS    520 /* two panels of PANEL_Y_ROWS, by whole groups of PANEL_ROWS */
#define PANEL_CACHE_BYTES ((size_t)640 * 1024)

/* Lines that a round fetches at least: where rows are many, the first groups do it for all. */
#define FETCH_ROUND_MIN 8

_Static_assert((PANEL_Y_ROWS + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS * 2 <= PANEL_ACT_ROWS,
               "so that there are two panels in a block of k");

static ALWAYS_INLINE size_t panel_bytes(struct lane_format f) {
    return PANEL_OUT * f.block_bytes * (PANEL_K / block_values(f));
}

/* Values of k in a block: all, or an even share of them. */
static ALWAYS_INLINE uint32_t k_block(struct lane_format f, uint32_t k, uint32_t n_rows) {
    size_t n_bytes = 2 * panel_bytes(f) + n_rows * sizeof(struct kern_super); /* a panel of k */
    uint32_t by_acts = PANEL_ACT_ROWS / n_rows, by_cache = (uint32_t)(PANEL_CACHE_BYTES / n_bytes);

    return PANEL_K * next_group((k + PANEL_K - 1) / PANEL_K, MIN(by_acts, by_cache));
}

/* Moves on. Returns false after the last. */
static inline bool panel_advance(const struct panel_order *o, struct panel_place *at) {
    at->k += PANEL_K;
    if (at->k < at->block + o->block_k && at->k < o->k)
        return true;
    at->k = at->block;
    at->out += PANEL_OUT;
    if (at->out < o->n_out)
        return true;
    at->out = 0;
    at->k = at->block += o->block_k;
    return at->block < o->k;
}

/* At the first panel of PANEL_OUT outputs in a block of k. */
static ALWAYS_INLINE struct weight_fetch begin_fetch(const struct kern_mul *m, struct lane_format f,
                                                     const struct panel_order *order,
                                                     struct panel_place at, size_t n_rounds) {
    size_t n_panels = (MIN(order->k - at.block, order->block_k) + PANEL_K - 1) / PANEL_K;
    struct weight_fetch ret = {.stride = m->row_bytes};
    const uint8_t *w = m->w;

    at.k = order->k;
    if (!panel_advance(order, &at)) {
        at = (struct panel_place){0};
        w = m->next;
    }
    if (!w)
        return ret;
    ret.run = w + at.out * m->row_bytes + at.block / block_values(f) * f.block_bytes;
    ret.n_run = MIN(order->k - at.block, order->block_k) / block_values(f) * f.block_bytes;
    if (ret.n_run == m->row_bytes)
        ret.stride = ret.n_run *= PANEL_OUT;
    else
        ret.n_run += 63; /* it begins and ends within lines */
    ret.n_a_panel = (ret.n_run + 63) / 64 * (ret.stride == m->row_bytes ? PANEL_OUT : 1);
    ret.n_a_panel = (ret.n_a_panel + n_panels - 1) / n_panels;
    ret.n_a_round = MAX((ret.n_a_panel + n_rounds - 1) / n_rounds, (size_t)FETCH_ROUND_MIN);
    return ret;
}

/* Some outputs of some rows. */
static ALWAYS_INLINE void panel_mul_part(const struct kern_mul *m, struct lane_format f,
                                         unpack_fn *unpack, panel_share_fn *share, uint32_t n_group,
                                         uint32_t first_row, uint32_t n_rows) {
    uint32_t block = block_values(f), n_whole = row_groups(n_rows, n_group) * n_group;
    struct panel_work *work = m->scratch;
    struct panel_order order = {.n_out = m->n_out, .k = m->x->k};
    struct panel_place at = {0};
    struct act_rows x = act_rows_begin(m, f, work->act);
    struct weight_fetch fetch;

    order.block_k = k_block(f, order.k, n_whole);
    for (uint32_t i = 0; i < n_rows; i++)
        work->act[i] = act_row(m, first_row + i);
    do {
        uint32_t n_k = m->x->k - at.k < PANEL_K ? m->x->k - at.k : PANEL_K;
        int n_blocks = (int)(n_k / block);
        struct panel_rows r = {
            .x = act_rows_at(x, f, at.k / block),
            .y = work->y[at.out / PANEL_OUT],
            .fetch = &fetch,
            .order = &order,
            .place = at,
        };

        if (at.k == at.block)
            fetch = begin_fetch(m, f, &order, at, panel_rounds(f, n_rows, n_group));
        fetch.n_left = fetch.n_a_panel;
        if (at.k == 0)
            (void)memset(r.y, 0, MIN(n_whole, (uint32_t)PANEL_Y_ROWS) * sizeof(*r.y));
        unpack_panel(work, m, f, unpack, &r, at.out, at.k / block, n_blocks);
        share(work, f, &r, n_rows, n_blocks);
    } while (panel_advance(&order, &at));
    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t out = 0; out < m->n_out; out += PANEL_OUT)
            (void)memcpy(m->y + (size_t)(first_row + i) * m->y_stride + out,
                         work->y[out / PANEL_OUT][i],
                         (m->n_out - out < PANEL_OUT ? m->n_out - out : PANEL_OUT) * sizeof(float));
}

/* Shares take n_group rows at a time. */
static ALWAYS_INLINE void panel_mul(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, panel_share_fn *share, uint32_t n_group) {
    struct kern_mul part = *m;

    for (uint32_t out = 0; out < m->n_out; out += part.n_out) {
        part.n_out = m->n_out - out < PANEL_Y_OUT ? m->n_out - out : PANEL_Y_OUT;
        part.w = m->w + out * m->row_bytes;
        part.y = m->y + out;
        part.next = out + part.n_out < m->n_out ? part.w + part.n_out * m->row_bytes : m->next;
        for (uint32_t row = 0, n_rows; row < m->n_rows; row += n_rows) {
            n_rows = next_group(m->n_rows - row, PANEL_Y_ROWS);
            panel_mul_part(&part, f, unpack, share, n_group, row, n_rows);
        }
    }
}
