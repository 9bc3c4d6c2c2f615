/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * That speed is had where weights are read in the order in which they lie there: sixteen outputs
 * side by side cost a seventh of it, however they are fetched. So the lanes of a vector are blocks
 * of one output that follow each other. Each is summed in its lane, and the lanes are folded in
 * ascending order, which is the definition's: those of several outputs side by side, since each
 * step waits for the one before it. The activations are laid out for that once a product.
 *
 * Lines are fetched twice, into the second cache and from there into the first. A CPU drops a
 * prefetch where it has many under way, as it has wherever memory is slower than we are, and what
 * was dropped would be waited for: then it is asked for again.
 *
 * Included by mul-int.inc.c after unpack.inc.c.
 */

/* So many outputs take turns. Their sums are the lanes of one vector. */
#define TURN_OUTS 4

/* A turn takes whole rows, which are read fastest, if their activations stay in the first cache;
 * else so many values of k. (Measured.) */
#define TURN_ACTS_BYTES 20480
#define TURN_K          4096

/* Bytes between what is read and what is fetched from memory, and near (measured). Where turns are
 * less than rows, near is a turn ahead, or where a row's last turn is shorter as much of the next
 * rows'. From memory, lines are fetched in its order: a turn of whole rows ahead, so that all rows
 * are there when it begins, and twice FETCH_AHEAD more, or the last row's first lines would be
 * asked for too late. */
#define FETCH_AHEAD      16384
#define FETCH_NEAR_AHEAD 8192

/* The groups of VI_LANES blocks in a row. */
static ALWAYS_INLINE uint32_t lane_groups(uint32_t n_blocks) {
    return (n_blocks + VI_LANES - 1) / VI_LANES;
}

/* Whether half a group of super-blocks is left at a row's end: those of two outputs make one. */
static ALWAYS_INLINE bool ends_in_half(struct lane_format f, uint32_t n_blocks) {
    return f.n_sub && n_blocks % VI_LANES == VI_LANES / 2;
}

/* Where the lanes of the group that has `block` begin: the last ones begin earlier where there are
 * not as many left. */
static ALWAYS_INLINE uint32_t lanes_begin(uint32_t n_blocks, uint32_t block) {
    return MIN(block, n_blocks - VI_LANES);
}

/* Where a row has too few blocks, or activations do not fit in the scratch, panels serve. */
static ALWAYS_INLINE bool gemv_serves(const struct kern_mul *m, struct lane_format f) {
    uint32_t n_blocks = m->x->k / block_values(f);

    return m->n_rows <= PRODUCT_ROWS && n_blocks >= VI_LANES &&
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

/* Row i's activations of group g, in the scratch: (n_rows, groups, acts_vectors). */
static ALWAYS_INLINE vi *group_acts(const struct kern_mul *m, struct lane_format f, uint32_t i,
                                    uint32_t g) {
    uint32_t n_groups = lane_groups(m->x->k / block_values(f));

    return (vi *)m->scratch + ((size_t)i * n_groups + g) * acts_vectors(f);
}

static ALWAYS_INLINE void lay_out_rows(const struct kern_mul *m, struct lane_format f,
                                       uint32_t n_rows) {
    uint32_t n_blocks = m->x->k / block_values(f), n_groups = lane_groups(n_blocks);

    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t g = 0; g < n_groups; g++) {
            bool half = g == n_groups - 1 && ends_in_half(f, n_blocks);

            lay_out_acts(m, f, i, half ? g * VI_LANES : lanes_begin(n_blocks, g * VI_LANES), half,
                         group_acts(m, f, i, g));
        }
}

/* What a group of blocks has, one value a lane, without the activations' scales: (TURN_OUTS,
 * VI_LANES), or of half a group (TURN_OUTS, VI_LANES / 2). */
typedef float group_values[TURN_OUTS * VI_LANES];

/* Of all rows in a turn, at most: plain blocks have the fewest activations in a group. */
#define TURN_VALUES_MAX (TURN_ACTS_BYTES / ((QUANT_BLOCK / 4 + 2) * sizeof(vi)))
_Static_assert(TURN_K / QUANT_BLOCK / VI_LANES * PRODUCT_ROWS <= TURN_VALUES_MAX,
               "those of TURN_K values fit too");

/* So many lanes are folded at a time: what waits for each other in them, other work hides. */
#define FOLD_LANES 4
_Static_assert(FOLD_LANES == TURN_OUTS, "a square is transposed");

/* y + Σ d·value of each of TURN_OUTS outputs, whose values are `stride` apart, over lanes [begin,
 * FOLD_LANES), one after the other. */
static ALWAYS_INLINE __m128 fold_lanes(const float *d, const float *values, uint32_t stride,
                                       uint32_t begin, __m128 y) {
    __m128 v[TURN_OUTS];

    for (uint32_t i = 0; i < TURN_OUTS; i++)
        v[i] = _mm_loadu_ps(values + i * stride);
    _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
#pragma GCC unroll 4
    for (uint32_t lane = 0; lane < FOLD_LANES; lane++)
        if (lane >= begin)
            y = _mm_fmadd_ps(_mm_set1_ps(d[lane]), v[lane], y);
    return y;
}

/* Byte `at` of the weights, or of those after them where they are known. */
static ALWAYS_INLINE const uint8_t *weights_ahead(const struct kern_mul *m, size_t at) {
    size_t n_bytes = m->n_out * m->row_bytes;

    if (at < n_bytes)
        return m->w + at;
    return m->next ? m->next + (at - n_bytes) : m->w;
}

/* What is fetched meanwhile, from memory and near: from these bytes of the weights on. */
struct gemv_fetch {
    size_t ahead, near;
};

/* These blocks with the rows' activations of group g: their values, each row's from number `at` of
 * its own on. */
static ALWAYS_INLINE void gemv_group(const struct kern_mul *m, struct lane_format f,
                                     unpack_fn *unpack, int n_rows, uint32_t g,
                                     struct vi_rows blocks, struct gemv_fetch *fetch,
                                     group_values *values, uint32_t at) {
    size_t n_bytes = VI_LANES * f.block_bytes, n_lines = (n_bytes + 63) / 64;
    struct products p; /* GCC 12 keeps all of it in memory where all of it is set to 0 first */
    struct unpacking u = {
        .blocks = blocks,
        .ahead = {.at = weights_ahead(m, fetch->ahead), .n = n_lines},
        .near = {.at = weights_ahead(m, fetch->near), .n = n_lines, .is_near = true},
        .products = &p,
    };

    p.f = f;
    p.n_rows = n_rows;
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        p.acts[i] = group_acts(m, f, (uint32_t)i, g);
    products_begin(&p);
    unpack(&u);
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++)
        vf_store(values[i] + at, products_value(&p, i));
    fetch->ahead += n_bytes;
    fetch->near += n_bytes;
}

/* A turn: TURN_OUTS outputs from `out` on, or what is left of them, and some groups of each. After
 * the last one comes one of no outputs, in which that is folded. */
struct gemv_turn {
    uint32_t out, n_out;
    uint32_t begin, end; /* groups */
    bool ends_in_half;   /* the last one is halves of two outputs */
};

/* The first one of these outputs, without its end. */
static inline struct gemv_turn first_turn(const struct kern_mul *m, uint32_t out) {
    return (struct gemv_turn){
        .out = out, .n_out = out < m->n_out ? MIN(m->n_out - out, (uint32_t)TURN_OUTS) : 0};
}

/* The last halves of outputs j and j + 1 of a turn, or of one where that is its last. */
static ALWAYS_INLINE struct vi_rows last_halves(const struct kern_mul *m, struct lane_format f,
                                                struct gemv_turn t, uint32_t j) {
    size_t half = VI_LANES / 2 * f.block_bytes,
           at = m->x->k / block_values(f) * f.block_bytes - half;
    ptrdiff_t next = j + 1 < t.n_out ? (ptrdiff_t)m->row_bytes : 0;

    return (struct vi_rows){m->w + (t.out + j) * m->row_bytes + at, f.block_bytes,
                            next - (ptrdiff_t)half};
}

/* What a turn has, and where it is summed up: while the next turn is read, a few lanes at a time,
 * since each step of a fold waits for the one before it. */
struct gemv_folding {
    struct gemv_turn t;
    uint32_t next, n_whole; /* lanes of the turn: the next one, and all of groups that are whole */
    const group_values *values;
    __m128 y[PRODUCT_ROWS];
};

static ALWAYS_INLINE void gemv_fold_begin(const struct kern_mul *m, struct lane_format f,
                                          struct gemv_folding *folding, struct gemv_turn t,
                                          const group_values *values) {
    uint32_t n_blocks = m->x->k / block_values(f);

    folding->t = t;
    folding->values = values;
    folding->next = 0;
    folding->n_whole = (MIN(t.end, n_blocks / VI_LANES) - t.begin) * VI_LANES;
}

/* From lane `lane` of group g of the turn on FOLD_LANES of them, but for those below `begin`. */
static ALWAYS_INLINE void gemv_fold_lanes(const struct kern_mul *m, struct lane_format f,
                                          int n_rows, struct gemv_folding *folding, uint32_t g,
                                          uint32_t lane, uint32_t n_lanes, uint32_t begin) {
    const group_values *values = folding->values + g * (uint32_t)n_rows;

#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        const vi *scales = group_acts(m, f, (uint32_t)i, folding->t.begin + g) + acts_scales_at(f);

        folding->y[i] = fold_lanes((const float *)scales + lane, values[i] + lane, n_lanes,
                                   begin > lane ? begin - lane : 0, folding->y[i]);
    }
}

/* FOLD_LANES of a whole group, if there are any left. */
static ALWAYS_INLINE void gemv_fold_some(const struct kern_mul *m, struct lane_format f, int n_rows,
                                         struct gemv_folding *folding) {
    if (folding->next >= folding->n_whole)
        return;
    gemv_fold_lanes(m, f, n_rows, folding, folding->next / VI_LANES, folding->next % VI_LANES,
                    VI_LANES, 0);
    folding->next += FOLD_LANES;
}

/* All that is left. After the last groups of these outputs, their sums are put where they belong.
 */
static ALWAYS_INLINE void gemv_fold_end(const struct kern_mul *m, struct lane_format f, int n_rows,
                                        struct gemv_folding *folding) {
    uint32_t n_blocks = m->x->k / block_values(f), n_groups = lane_groups(n_blocks);
    struct gemv_turn t = folding->t;

    while (folding->next < folding->n_whole)
        gemv_fold_some(m, f, n_rows, folding);
    if (t.end < n_groups || t.n_out == 0)
        return;
    if (n_blocks % VI_LANES) {
        uint32_t n_lanes = t.ends_in_half ? VI_LANES / 2 : VI_LANES;
        uint32_t begin = t.ends_in_half ? 0 : VI_LANES - n_blocks % VI_LANES;

        for (uint32_t lane = begin - begin % FOLD_LANES; lane < n_lanes; lane += FOLD_LANES)
            gemv_fold_lanes(m, f, n_rows, folding, n_groups - 1 - t.begin, lane, n_lanes, begin);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n_rows; i++) {
        float y[TURN_OUTS];

        _mm_storeu_ps(y, folding->y[i]);
        (void)memcpy(m->y + (uint32_t)i * m->y_stride + t.out, y, t.n_out * sizeof(float));
        folding->y[i] = _mm_setzero_ps();
    }
}

/* The groups of output j of a turn: (groups, n_rows). One that is halves of two outputs comes with
 * the second of them. With each of them some lanes of the turn before are folded, which has as many
 * outputs: more at once would be a wait that nothing hides. (In one loop: a group is all there is
 * of a format, and compiled once.) */
static ALWAYS_INLINE void gemv_part(const struct kern_mul *m, struct lane_format f,
                                    unpack_fn *unpack, int n_rows, struct gemv_turn t, uint32_t j,
                                    struct gemv_fetch *fetch, group_values *values,
                                    struct gemv_folding *folding) {
    uint32_t n_blocks = m->x->k / block_values(f);
    bool has_halves = t.ends_in_half && (j % 2 == 1 || j + 1 == t.n_out);

    for (uint32_t g = t.begin; g < t.end - (t.ends_in_half && !has_halves); g++) {
        size_t at = lanes_begin(n_blocks, g * VI_LANES) * f.block_bytes;
        struct vi_rows blocks = {m->w + (t.out + j) * m->row_bytes + at, f.block_bytes, 0};
        uint32_t to = j * VI_LANES;

        if (has_halves && g + 1 == t.end) {
            blocks = last_halves(m, f, t, j - j % 2);
            to = (j - j % 2) * VI_LANES / 2;
        }
        gemv_group(m, f, unpack, n_rows, g, blocks, fetch,
                   values + (g - t.begin) * (uint32_t)n_rows, to);
        gemv_fold_some(m, f, n_rows, folding);
    }
}

static ALWAYS_INLINE void gemv_rows(const struct kern_mul *mul, struct lane_format f,
                                    unpack_fn *unpack, int n_rows) {
    const struct kern_mul copy = *mul, *m = &copy; /* what is stored can't be part of it */
    const uint32_t acts_bytes = (uint32_t)(acts_vectors(f) * sizeof(vi)),
                   n_whole = TURN_ACTS_BYTES / (acts_bytes * (uint32_t)n_rows),
                   n_part = TURN_K / (block_values(f) * VI_LANES);
    uint32_t n_blocks = m->x->k / block_values(f), n_groups = lane_groups(n_blocks);
    uint32_t n_turn = n_groups <= n_whole ? n_groups : n_part;
    size_t turn_bytes = n_turn * VI_LANES * f.block_bytes, ahead = FETCH_AHEAD,
           near = FETCH_NEAR_AHEAD;
    _Alignas(64) group_values values[2][TURN_VALUES_MAX];
    struct gemv_folding folding = {.values = values[1]};
    struct gemv_turn t = first_turn(m, 0);
    bool is_last;

    if (n_turn < n_groups) {
        near = TURN_OUTS * m->row_bytes;
        ahead = near + (size_t)2 * FETCH_AHEAD;
    }
    lay_out_rows(m, f, (uint32_t)n_rows);
    /* Outputs that aren't there are folded too. */
    for (int i = 0; i < 2 && m->n_out % TURN_OUTS; i++)
        (void)memset(values[i], 0, n_turn * (uint32_t)n_rows * sizeof(values[i][0]));
    do {
        size_t done = t.begin / n_turn * turn_bytes, n_bytes = turn_bytes;
        group_values *to = values[folding.values == values[0]];
        struct gemv_fetch fetch = {.ahead = ahead};

        is_last = t.n_out == 0;
        t.end = MIN(t.begin + n_turn, n_groups);
        t.ends_in_half = t.end == n_groups && ends_in_half(f, n_blocks);
        if (t.end == n_groups)
            n_bytes = m->row_bytes - done;
        for (uint32_t j = 0; j < t.n_out; j++) {
            if (j == 0 || n_turn < n_groups)
                fetch.near =
                    (t.out + j) * m->row_bytes + (t.end == n_groups ? near : done + turn_bytes);
            gemv_part(m, f, unpack, n_rows, t, j, &fetch, to, &folding);
        }
        gemv_fold_end(m, f, n_rows, &folding);
        ahead += t.n_out * n_bytes;
        gemv_fold_begin(m, f, &folding, t, to);
        t.begin = t.end;
        if (t.end == n_groups)
            t = first_turn(m, t.out + TURN_OUTS);
    } while (!is_last);
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
    default:
        gemv_rows(m, f, unpack, PRODUCT_ROWS);
        break;
    }
}
