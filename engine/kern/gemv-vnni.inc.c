/*
 * Decode: the product for a few rows, at the speed at which weights come from memory.
 *
 * Sixteen outputs are computed together, one super-block (or two plain blocks) of k after the
 * other: each output's products stay in a vector of their own, and sixteen such vectors are summed
 * across by one tree of shuffles, so that the fold into floats works on sixteen outputs at once.
 * Integer sums may be made in any order; the fold is that of the definition. Weights of the next
 * sixteen outputs, one run of memory, are prefetched meanwhile.
 */
#define GEMV_OUT  16
#define GEMV_ROWS 4 /* rows that share one reading of the weights */

/* Sixteen vectors to their sixteen sums. */
static inline __m512i sum_16(const __m512i v[16]) {
    __m512i a[8], b[4], c[2];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        c[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xDD));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(c[0], c[1], 0x88),
                            _mm512_shuffle_i32x4(c[0], c[1], 0xDD));
}

/* The same for the low and the high halves apart: sums of block b and of block b + 1. */
static inline void sum_16_halves(const __m512i v[16], __m512i *ret_low, __m512i *ret_high) {
    __m512i a[8], b[4], c[2];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
        /* Lanes of 128 bits are now: outputs' sums over a quarter. Quarters 0 and 1 are the low
         * block. */
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        c[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xDD));
    *ret_low = _mm512_shuffle_i32x4(c[0], c[1], 0x88);
    *ret_high = _mm512_shuffle_i32x4(c[0], c[1], 0xDD);
}

/* int16 lane l of quarter j belongs to weights 64·j + 2·l, so to sub-block 4·j + l/8. */
static inline __m512i quarter_scales(__m256i scale, int j) {
    __m512i index =
        _mm512_add_epi16(_mm512_srli_epi16(_mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22,
                                                            21, 20, 19, 18, 17, 16, 15, 14, 13, 12,
                                                            11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           3),
                         _mm512_set1_epi16((short)(4 * j)));

    return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(scale));
}

/* What the next sixteen outputs want, from byte `at` of that run on. */
static ALWAYS_INLINE void prefetch_next(const struct kern_mul *m, uint32_t out, size_t at,
                                        size_t n) {
    prefetch_run(m->w + (size_t)(out + GEMV_OUT) * m->row_bytes + at, n);
}

/* Rows [first, first + n_rows) of the product, for 16 outputs from `out` on, of which n are there.
 */
struct gemv {
    const struct kern_mul *m;
    const int8_t *a[GEMV_ROWS];
    const float *d[GEMV_ROWS];
    const int16_t *sums[GEMV_ROWS];
    uint32_t first, out, n;
};

/* Block b of output o; outputs past the last repeat it. */
static ALWAYS_INLINE const uint8_t *gemv_block(const struct gemv *g, size_t block_bytes, uint32_t o,
                                               uint32_t b) {
    return g->m->w + (size_t)(g->out + (o < g->n ? o : g->n - 1)) * g->m->row_bytes +
           b * block_bytes;
}

/* One super-block of 16 outputs into y. */
static ALWAYS_INLINE void gemv_super(const struct gemv *g, struct wide_format f, int n_rows,
                                     uint32_t b, __m512 y[GEMV_ROWS]) {
    __m512i v[GEMV_ROWS][GEMV_OUT], mins[GEMV_ROWS][GEMV_OUT];
    _Alignas(32) uint16_t wd[GEMV_OUT], wm[GEMV_OUT];
    __m512 wd16, wm16;

    for (uint32_t o = 0; o < GEMV_OUT; o++) {
        struct wide_super w;
        __m512i scale[4];

        prefetch_next(g->m, g->out, ((size_t)b * GEMV_OUT + o) * f.block_bytes, f.block_bytes);
        f.super(gemv_block(g, f.block_bytes, o, b), &w);
        wd[o] = w.d;
        wm[o] = w.dmin;
        for (int j = 0; j < 4; j++)
            scale[j] = quarter_scales(w.scale, j);
        for (int i = 0; i < n_rows; i++) {
            __m256i s16 = load_256(g->sums[i] + KERN_SUPER_SUMS * b);
            __m512i sum = _mm512_setzero_si512();

            for (int j = 0; j < 4; j++)
                sum = _mm512_dpwssd_epi32(
                    sum, _mm512_maddubs_epi16(w.q[j], load_512(g->a[i] + QUANT_SUPER * b + 64 * j)),
                    scale[j]);
            if (f.offset)
                sum = _mm512_sub_epi32(
                    sum, _mm512_zextsi256_si512(_mm256_mullo_epi32(_mm256_madd_epi16(w.scale, s16),
                                                                   _mm256_set1_epi32(f.offset))));
            v[i][o] = sum;
            if (f.has_min)
                mins[i][o] = _mm512_zextsi256_si512(_mm256_madd_epi16(w.min, s16));
        }
    }
    wd16 = _mm512_cvtph_ps(load_256(wd));
    wm16 = _mm512_cvtph_ps(load_256(wm));
    for (int i = 0; i < n_rows; i++) {
        __m512 da = _mm512_set1_ps(g->d[i][b]);

        y[i] = _mm512_fmadd_ps(_mm512_mul_ps(wd16, da), _mm512_cvtepi32_ps(sum_16(v[i])), y[i]);
        if (f.has_min)
            y[i] = _mm512_fnmadd_ps(_mm512_mul_ps(wm16, da), _mm512_cvtepi32_ps(sum_16(mins[i])),
                                    y[i]);
    }
}

/* Plain blocks b and, where n_blocks is 2, b + 1, of 16 outputs into y. */
static ALWAYS_INLINE void gemv_plain(const struct gemv *g, struct wide_format f, int n_rows,
                                     uint32_t b, int n_blocks, __m512 y[GEMV_ROWS]) {
    __mmask64 there = n_blocks > 1 ? ~0ull : 0xFFFFFFFFull;
    _Alignas(32) uint16_t wd[2][GEMV_OUT], wm[2][GEMV_OUT];
    __m512i v[GEMV_ROWS][GEMV_OUT];

    for (uint32_t o = 0; o < GEMV_OUT; o++) {
        struct wide_plain w[2] = {0};
        __m512i q;

        prefetch_next(g->m, g->out, ((size_t)b * GEMV_OUT + o * 2) * f.block_bytes,
                      2 * f.block_bytes);
        for (int h = 0; h < n_blocks; h++)
            f.plain(gemv_block(g, f.block_bytes, o, b + (uint32_t)h), &w[h]);
        for (int h = 0; h < 2; h++) {
            wd[h][o] = w[h].d;
            wm[h][o] = w[h].m;
        }
        q = join(w[0].q, w[1].q);
        for (int i = 0; i < n_rows; i++)
            v[i][o] =
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), q,
                                    _mm512_maskz_loadu_epi8(there, g->a[i] + QUANT_BLOCK * b));
    }
    for (int i = 0; i < n_rows; i++) {
        __m512i sum[2];

        sum_16_halves(v[i], &sum[0], &sum[1]);
        for (int h = 0; h < n_blocks; h++) {
            int32_t sum_a = g->sums[i][b + (uint32_t)h];
            __m512 da = _mm512_set1_ps(g->d[i][b + (uint32_t)h]);

            sum[h] = _mm512_sub_epi32(sum[h], _mm512_set1_epi32(f.offset * sum_a));
            y[i] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtph_ps(load_256(wd[h])), da),
                                   _mm512_cvtepi32_ps(sum[h]), y[i]);
            if (f.has_min)
                y[i] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtph_ps(load_256(wm[h])), da),
                                       _mm512_set1_ps((float)sum_a), y[i]);
        }
    }
}

static ALWAYS_INLINE void gemv_rows(const struct kern_mul *m, struct wide_format f, uint32_t first,
                                    int n_rows) {
    uint32_t n_blocks = m->x->k / (f.super ? QUANT_SUPER : QUANT_BLOCK), n_step = f.super ? 1 : 2;
    struct gemv g = {.m = m, .first = first};

    for (int i = 0; i < n_rows; i++)
        g.a[i] = act_row(m, first + (uint32_t)i, &g.d[i], &g.sums[i]);
    for (g.out = 0; g.out < m->n_out; g.out += GEMV_OUT) {
        __m512 y[GEMV_ROWS];

        g.n = m->n_out - g.out < GEMV_OUT ? m->n_out - g.out : GEMV_OUT;
        for (int i = 0; i < n_rows; i++)
            y[i] = _mm512_setzero_ps();
        for (uint32_t b = 0; b < n_blocks; b += n_step) {
            if (f.super)
                gemv_super(&g, f, n_rows, b, y);
            else if (n_blocks - b > 1)
                gemv_plain(&g, f, n_rows, b, 2, y);
            else
                gemv_plain(&g, f, n_rows, b, 1, y);
        }
        for (int i = 0; i < n_rows; i++)
            _mm512_mask_storeu_ps(m->y + (first + (uint32_t)i) * m->y_stride + g.out,
                                  (__mmask16)((1u << g.n) - 1), y[i]);
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
