/*
 * Attention over one page (see kern.h). Both products, q·Kᵀ and p·V, are one small matrix product:
 * a tile of rows of `a`, each value broadcast, times vectors of 16 columns of `b`, with all sums in
 * registers. An element's sum runs over t in ascending order whatever the tile's shape.
 */
#include "base/macro.h"

#define TILE_ROWS_MAX   6
#define TILE_WIDTH_MAX  4
#define PAGE_COLUMNS    KERN_PAGE_POSITIONS
#define PAGE_VALUES_MAX (KERN_SCRATCH_BYTES / sizeof(float) / 2) /* half the scratch: one side */

/*
 * What the next call will read, brought to the second-level cache while this one computes: 32
 * bytes (of a page of Q8_0 16, as it is half as long) for each vector of a tile's width and each t,
 * so that the first rows' tiles get through it just in time. (All at once, before the tiles, gained
 * nothing.)
 */
struct ahead {
    const char *at;
    size_t n_left;   /* bytes */
    size_t n_vector; /* of them, for each vector */
};
#define AHEAD_BYTES 32

static inline struct ahead ahead_of(const void *next, enum kern_page type, uint32_t head_size) {
    return (struct ahead){.at = next,
                          .n_left = next ? kern_page_bytes(type, head_size) : 0,
                          .n_vector = type == KERN_PAGE_Q8_0 ? AHEAD_BYTES / 2 : AHEAD_BYTES};
}

/* The next part, n_t steps of it; where too little is left, steps that stand still at `idle`. */
static inline const char *ahead_take(struct ahead *a, size_t n_t, size_t step, const void *idle,
                                     size_t *ret_step) {
    const char *at = a->at;
    size_t n = n_t * step;

    *ret_step = 0;
    if (a->n_left < n)
        return idle;
    *ret_step = step;
    a->at += n;
    a->n_left -= n;
    return at;
}

/* c[i][j] = (c[i][j]·factor[i] or 0) + Σ_t a[i][t]·b[t][j] for columns [0, n_columns): a multiple
 * of 16. */
struct panel {
    const float *b;
    size_t b_stride, n_t, n_columns;
    struct ahead *ahead;
};

static ALWAYS_INLINE void panel_tile(const struct panel *p, const float *const *a, float *const *c,
                                     const float *factor, size_t column, const int n_i,
                                     const int n_j) {
    const float *b = p->b + column;
    size_t ahead_step;
    const char *ahead =
        ahead_take(p->ahead, p->n_t, p->ahead->n_vector * (size_t)n_j, b, &ahead_step);
    v16 sum[TILE_ROWS_MAX][TILE_WIDTH_MAX], b_t[TILE_WIDTH_MAX];

#pragma GCC unroll 6
    for (int i = 0; i < n_i; i++)
#pragma GCC unroll 4
        for (int j = 0; j < n_j; j++)
            sum[i][j] = factor ? v16_mul(v16_load(c[i] + column + 16 * j), v16_set1(factor[i]))
                               : v16_set1(0.0f);
    for (size_t t = 0; t < p->n_t; t++, b += p->b_stride, ahead += ahead_step) {
        __builtin_prefetch(ahead, 0, 2);
        if (n_j * AHEAD_BYTES > 64)
            __builtin_prefetch(ahead + 64, 0, 2);
#pragma GCC unroll 4
        for (int j = 0; j < n_j; j++)
            b_t[j] = v16_load(b + 16 * j);
#pragma GCC unroll 6
        for (int i = 0; i < n_i; i++) {
            v16 a_t = v16_set1(a[i][t]);

#pragma GCC unroll 4
            for (int j = 0; j < n_j; j++)
                sum[i][j] = v16_fma(a_t, b_t[j], sum[i][j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n_i; i++)
#pragma GCC unroll 4
        for (int j = 0; j < n_j; j++)
            v16_store(c[i] + column + 16 * j, sum[i][j]);
}

#define PANEL_WIDTH(n_i) LANES_TILE_WIDTH(n_i)
#define PANEL_CASE(n_i)                                                                            \
    case n_i:                                                                                      \
        for (; column + 16 * PANEL_WIDTH(n_i) <= p->n_columns; column += 16 * PANEL_WIDTH(n_i))    \
            panel_tile(p, a, c, factor, column, n_i, PANEL_WIDTH(n_i));                            \
        for (; column < p->n_columns; column += 16)                                                \
            panel_tile(p, a, c, factor, column, n_i, 1);                                           \
        break;

static void panel_rows(const struct panel *p, size_t n_rows, const float *const *a, float *const *c,
                       const float *factor) {
    size_t column = 0;

    switch (n_rows) {
        PANEL_CASE(1)
        PANEL_CASE(2)
        PANEL_CASE(3)
        PANEL_CASE(4)
        PANEL_CASE(5)
        PANEL_CASE(6)
    }
}

/* All rows, in tiles of about the same height. */
static void panel_multiply(const struct panel *p, size_t n_rows, const float *const *a,
                           float *const *c, const float *factor) {
    for (size_t n_tiles = (n_rows + TILE_ROWS_MAX - 1) / TILE_ROWS_MAX; n_tiles > 0; n_tiles--) {
        size_t n = n_rows / n_tiles;

        panel_rows(p, n, a, c, factor);
        a += n;
        c += n;
        factor = factor ? factor + n : NULL;
        n_rows -= n;
    }
}

/* ---- the softmax of a page ---- */

/* s (64) becomes p = e^(s − max), 0 from n on. *ret_shrink: how much the exponent of what was
 * before has shrunk. */
static float fold_scores(float *s, uint32_t n, float cap, float *max, float *ret_shrink) {
    v16 x[PAGE_COLUMNS / 16], masked = v16_set1(-INFINITY), most = masked, sum, top;
    float new_max;

    for (size_t j = 0; j < PAGE_COLUMNS / 16; j++)
        x[j] = v16_load(s + 16 * j);
    for (size_t j = 0; cap > 0 && j < PAGE_COLUMNS / 16; j++)
        x[j] = cap_lanes(x[j], v16_set1(cap), v16_set1(1.0f / cap));
    for (size_t j = 0; j < PAGE_COLUMNS / 16; j++) {
        x[j] = v16_first(n > 16 * j ? n - 16 * j : 0, x[j], masked);
        most = v16_max(x[j], most);
    }
    new_max = v16_tree_max(most);
    new_max = *max > new_max ? *max : new_max;
    top = v16_set1(softmax_top(new_max));
    sum = v16_set1(0.0f);
    for (size_t j = 0; j < PAGE_COLUMNS / 16; j++) {
        x[j] = exp_lanes(v16_sub(x[j], top));
        sum = v16_add(sum, x[j]);
        v16_store(s + 16 * j, x[j]);
    }
    *ret_shrink = *max - softmax_top(new_max);
    *max = new_max;
    return v16_tree(sum);
}

static void exp_all(float *x, size_t n) {
    LANES_FOR(i, n, v16_store(x + i, exp_lanes(v16_load(x + i))),
              v16_store_n(x + i, exp_lanes(v16_load_n(x + i, n - i)), n - i));
}

static void fold_softmax(const struct kern_attend *a, float *scores, float *shrink) {
    size_t n = (size_t)a->n_rows * a->n_heads;
    float sums[KERN_QUERIES_MAX];

    for (size_t i = 0; i < n; i++)
        sums[i] = fold_scores(scores + i * PAGE_COLUMNS, a->n_positions[i / a->n_heads], a->cap,
                              &a->max[i], &shrink[i]);
    exp_all(shrink, n);
    for (size_t i = 0; i < n; i++)
        a->sum[i] = fmaf(a->sum[i], shrink[i], sums[i]);
}

/* ---- the page ---- */

static void widen_keys(const int8_t *q, const uint16_t *scales, uint32_t head_size, float *to) {
    for (size_t i = 0, end; i < head_size; i = end, scales += PAGE_COLUMNS) {
        v16 d[PAGE_COLUMNS / 16];

        end = i + KERN_PAGE_BLOCK < head_size ? i + KERN_PAGE_BLOCK : head_size;
        for (size_t j = 0; j < PAGE_COLUMNS / 16; j++)
            d[j] = v16_load_half(scales + 16 * j);
        for (size_t t = i; t < end; t++)
            for (size_t j = 0; j < PAGE_COLUMNS / 16; j++, q += 16, to += 16)
                v16_store(to, v16_mul(v16_load_int8(q), d[j]));
    }
}

/* The first n positions' values. */
static void widen_values(const int8_t *q, const uint16_t *scales, uint32_t head_size, size_t n,
                         float *to) {
    float d[PAGE_VALUES_MAX / KERN_PAGE_BLOCK], *scale = d;

    math_from_f16(scales, d, n * kern_page_n_blocks(head_size));
    for (size_t t = 0; t < n; t++)
        for (size_t left = head_size, n_block; left > 0; left -= n_block, scale++) {
            v16 factor = v16_set1(*scale);

            n_block = left < KERN_PAGE_BLOCK ? left : KERN_PAGE_BLOCK;
            LANES_FOR(i, n_block, v16_store(to + i, v16_mul(v16_load_int8(q + i), factor)), {
                for (; i < n_block; i++)
                    to[i] = (float)q[i] * *scale;
            });
            q += n_block;
            to += n_block;
        }
}

/* A page's matrix as floats: where it is, or widened into `to`. */
static const float *key_floats(const struct kern_attend *a, float *to) {
    if (a->type == KERN_PAGE_F32)
        return a->k;
    if (a->type == KERN_PAGE_F16)
        math_from_f16(a->k, to, (size_t)a->head_size * PAGE_COLUMNS);
    else
        widen_keys(a->k, kern_page_scales(a->k, a->head_size), a->head_size, to);
    return to;
}

static const float *value_floats(const struct kern_attend *a, size_t n_visible, float *to) {
    if (a->type == KERN_PAGE_F32)
        return a->v;
    if (a->type == KERN_PAGE_F16)
        math_from_f16(a->v, to, n_visible * a->head_size);
    else
        widen_values(a->v, kern_page_scales(a->v, a->head_size), a->head_size, n_visible, to);
    return to;
}

/* The last head_size % 16 features, through copies padded to a vector. */
static void fold_last_features(const struct panel *values, uint32_t n_last, size_t n_rows,
                               const float *const *p, float *const *acc, const float *factor) {
    float b[KERN_PAGE_POSITIONS][16], c[TILE_ROWS_MAX][16], *c_rows[TILE_ROWS_MAX];
    struct panel last = {
        .b = b[0], .b_stride = 16, .n_t = values->n_t, .n_columns = 16, .ahead = values->ahead};
    size_t column = values->n_columns, n;

    for (size_t t = 0; t < values->n_t; t++)
        v16_store(b[t], v16_load_n(values->b + t * values->b_stride + column, n_last));
    for (size_t first = 0; first < n_rows; first += n) {
        n = n_rows - first < TILE_ROWS_MAX ? n_rows - first : TILE_ROWS_MAX;
        for (size_t i = 0; i < n; i++) {
            v16_store(c[i], v16_load_n(acc[first + i] + column, n_last));
            c_rows[i] = c[i];
        }
        panel_rows(&last, n, p + first, c_rows, factor + first);
        for (size_t i = 0; i < n; i++)
            v16_store_n(acc[first + i] + column, v16_load(c[i]), n_last);
    }
}

/* Rows that see as much of the page as each other go together: none ever touches a value that it
 * may not see. */
static void fold_values(const struct kern_attend *a, const float *v, const float *const *p,
                        float *const *acc, const float *shrink, struct ahead *ahead) {
    uint32_t n_last = a->head_size % 16;

    for (uint32_t row = 0, end; row < a->n_rows; row = end) {
        struct panel values = {.b = v,
                               .b_stride = a->head_size,
                               .n_t = a->n_positions[row],
                               .n_columns = a->head_size - n_last,
                               .ahead = ahead};
        size_t first = (size_t)row * a->n_heads, n;

        for (end = row + 1; end < a->n_rows && a->n_positions[end] == a->n_positions[row];)
            end++;
        n = (size_t)(end - row) * a->n_heads;
        panel_multiply(&values, n, p + first, acc + first, shrink + first);
        if (n_last > 0)
            fold_last_features(&values, n_last, n, p + first, acc + first, shrink + first);
    }
}

static void math_attend_page(const struct kern_attend *a) {
    float *floats = a->scratch, *scores = floats + PAGE_VALUES_MAX, shrink[KERN_QUERIES_MAX];
    const float *q[KERN_QUERIES_MAX];
    float *s[KERN_QUERIES_MAX], *acc[KERN_QUERIES_MAX];
    size_t n = (size_t)a->n_rows * a->n_heads, n_visible = 0;
    struct ahead next_k = ahead_of(a->next_k, a->type, a->head_size),
                 next_v = ahead_of(a->next_v, a->type, a->head_size);

    for (uint32_t row = 0, i = 0; row < a->n_rows; row++) {
        n_visible = a->n_positions[row] > n_visible ? a->n_positions[row] : n_visible;
        for (uint32_t head = 0; head < a->n_heads; head++, i++) {
            q[i] = a->q + row * a->row_stride + (size_t)head * a->head_size;
            acc[i] = a->acc + row * a->row_stride + (size_t)head * a->head_size;
            s[i] = scores + (size_t)i * PAGE_COLUMNS;
        }
    }
    panel_multiply(&(struct panel){.b = key_floats(a, floats),
                                   .b_stride = PAGE_COLUMNS,
                                   .n_t = a->head_size,
                                   .n_columns = (n_visible + 15) / 16 * 16,
                                   .ahead = &next_k},
                   n, q, s, NULL);
    fold_softmax(a, scores, shrink);
    fold_values(a, value_floats(a, n_visible, floats), (const float *const *)s, acc, shrink,
                &next_v);
}

static void math_attend_merge(struct kern_span *so_far, const struct kern_span *next,
                              size_t head_size) {
    float max = so_far->max > next->max ? so_far->max : next->max;
    float e[16] = {so_far->max - softmax_top(max), next->max - softmax_top(max)};
    v16 factor, factor_next;

    v16_store(e, exp_lanes(v16_load(e)));
    factor = v16_set1(e[0]);
    factor_next = v16_set1(e[1]);
    LANES_FOR(i, head_size,
              v16_store(so_far->acc + i, v16_fma(factor_next, v16_load(next->acc + i),
                                                 v16_mul(factor, v16_load(so_far->acc + i)))),
              v16_store_n(so_far->acc + i,
                          v16_fma(factor_next, v16_load_n(next->acc + i, head_size - i),
                                  v16_mul(factor, v16_load_n(so_far->acc + i, head_size - i))),
                          head_size - i));
    so_far->sum = fmaf(next->sum, e[1], so_far->sum * e[0]);
    so_far->max = max;
}
