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

static inline __m512i load_512(const void *p) {
    return _mm512_loadu_si512(p);
}
static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline __m512i join(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* ---- super-blocks as vectors: four times 64 unsigned weights, 16 scales, 16 mins ---- */

struct wide_super {
    __m512i q[4];
    __m256i scale, min; /* int16 */
    uint16_t d, dmin;   /* halves */
};

/* Eight 6-bit scales and mins, each doubled: see unpack_k4_scales(). */
static inline void wide_k4_scales(const uint8_t s[12], struct wide_super *w) {
    const __m128i twice = _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    uint32_t a, b, c;
    uint64_t scales, mins;

    (void)memcpy(&a, s, 4);
    (void)memcpy(&b, s + 4, 4);
    (void)memcpy(&c, s + 8, 4);
    scales = (a & 0x3F3F3F3F) | (uint64_t)((c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)) << 32;
    mins = (b & 0x3F3F3F3F) | (uint64_t)(((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)) << 32;
    w->scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)scales), twice));
    w->min = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)mins), twice));
}

static inline void wide_q4_k(const struct q4_k_block *b, struct wide_super *w) {
    const __m256i low = _mm256_set1_epi8(15);

    w->d = b->d;
    w->dmin = b->dmin;
    wide_k4_scales(b->scales, w);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i q = load_256(b->qs + 32 * j);

        w->q[j] = join(_mm256_and_si256(q, low), _mm256_and_si256(_mm256_srli_epi16(q, 4), low));
    }
}

static inline void wide_q5_k(const struct q5_k_block *b, struct wide_super *w) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m512i fifth = _mm512_set1_epi8(16);
    __m256i high = load_256(b->qh);

    w->d = b->d;
    w->dmin = b->dmin;
    wide_k4_scales(b->scales, w);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i q = load_256(b->qs + 32 * j);
        __m512i q4 = join(_mm256_and_si256(q, low), _mm256_and_si256(_mm256_srli_epi16(q, 4), low));
        __mmask64 set =
            (uint64_t)_mm256_test_epi8_mask(high, _mm256_set1_epi8((char)(1 << (2 * j)))) |
            (uint64_t)_mm256_test_epi8_mask(high, _mm256_set1_epi8((char)(2 << (2 * j)))) << 32;

        w->q[j] = _mm512_mask_add_epi8(q4, set, q4, fifth);
    }
}

static inline void wide_q6_k(const struct q6_k_block *b, struct wide_super *w) {
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(48);

    w->d = b->d;
    w->dmin = 0;
    w->scale = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)b->scales));
    w->min = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m512i ql = load_512(b->ql + 64 * half);
        __m256i qh = load_256(b->qh + 32 * half);
        __m512i first = join(_mm256_slli_epi16(qh, 4), _mm256_slli_epi16(qh, 2));
        __m512i second = join(qh, _mm256_srli_epi16(qh, 2));

        w->q[2 * half] = _mm512_or_si512(_mm512_and_si512(ql, low), _mm512_and_si512(first, two));
        w->q[2 * half + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(ql, 4), low),
                                             _mm512_and_si512(second, two));
    }
}

/* The formats that are decoded less often go through unpack.h. */
#define WIDE_BY_UNPACK(name)                                                                       \
    static inline void wide_##name(const struct name##_block *b, struct wide_super *w) {           \
        struct unpacked_super u;                                                                   \
                                                                                                   \
        unpack_##name(b, &u);                                                                      \
        w->d = b->d;                                                                               \
        w->dmin = WIDE_DMIN_##name;                                                                \
        w->scale = load_256(u.scale);                                                              \
        w->min = load_256(u.min);                                                                  \
        for (int j = 0; j < 4; j++)                                                                \
            w->q[j] = load_512(u.q + 64 * j);                                                      \
    }
#define WIDE_DMIN_q2_k b->dmin
#define WIDE_DMIN_q3_k 0
WIDE_BY_UNPACK(q2_k)
WIDE_BY_UNPACK(q3_k)

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

static inline void prefetch_next(const struct kern_mul *m, uint32_t out, size_t at, size_t n) {
    const uint8_t *next = m->w + (size_t)(out + GEMV_OUT) * m->row_bytes + at;

    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)next + i, _MM_HINT_T1);
}

/* Rows [first, first + n_rows) for all outputs. */
#define GEMV_SUPER(name, has_min)                                                                  \
    static inline __attribute__((always_inline)) void gemv_rows_##name(                            \
        const struct kern_mul *m, uint32_t first, int n_rows) {                                    \
        uint32_t n_blocks = m->x->k / QUANT_SUPER;                                                 \
        const int16_t *sums[GEMV_ROWS];                                                            \
        const int8_t *a[GEMV_ROWS];                                                                \
        const float *d[GEMV_ROWS];                                                                 \
                                                                                                   \
        for (int i = 0; i < n_rows; i++)                                                           \
            a[i] = act_row(m, first + (uint32_t)i, &d[i], &sums[i]);                               \
        for (uint32_t out = 0; out < m->n_out; out += GEMV_OUT) {                                  \
            uint32_t n = m->n_out - out < GEMV_OUT ? m->n_out - out : GEMV_OUT;                    \
            __m512 y[GEMV_ROWS];                                                                   \
                                                                                                   \
            for (int i = 0; i < n_rows; i++)                                                       \
                y[i] = _mm512_setzero_ps();                                                        \
            for (uint32_t b = 0; b < n_blocks; b++) {                                              \
                _Alignas(64) __m512i v[GEMV_ROWS][GEMV_OUT], mins[GEMV_ROWS][GEMV_OUT];            \
                _Alignas(64) uint16_t wd[GEMV_OUT], wm[GEMV_OUT];                                  \
                __m512 wd16, wm16;                                                                 \
                                                                                                   \
                prefetch_next(m, out, (size_t)b *GEMV_OUT * sizeof(struct name##_block),           \
                              GEMV_OUT * sizeof(struct name##_block));                             \
                for (uint32_t o = 0; o < GEMV_OUT; o++) {                                          \
                    uint32_t row = out + (o < n ? o : n - 1);                                      \
                    const struct name##_block *block =                                             \
                        (const struct name##_block *)(const void *)(m->w +                         \
                                                                    (size_t)row * m->row_bytes) +  \
                        b;                                                                         \
                    struct wide_super w;                                                           \
                    __m512i scale[4];                                                              \
                                                                                                   \
                    wide_##name(block, &w);                                                        \
                    wd[o] = w.d;                                                                   \
                    wm[o] = w.dmin;                                                                \
                    for (int j = 0; j < 4; j++)                                                    \
                        scale[j] = quarter_scales(w.scale, j);                                     \
                    for (int i = 0; i < n_rows; i++) {                                             \
                        __m256i s16 = load_256(sums[i] + 16 * b);                                  \
                        __m512i sum = _mm512_setzero_si512();                                      \
                                                                                                   \
                        for (int j = 0; j < 4; j++)                                                \
                            sum = _mm512_dpwssd_epi32(                                             \
                                sum,                                                               \
                                _mm512_maddubs_epi16(w.q[j],                                       \
                                                     load_512(a[i] + QUANT_SUPER * b + 64 * j)),   \
                                scale[j]);                                                         \
                        if (OFFSET_##name)                                                         \
                            sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(_mm256_mullo_epi32( \
                                                            _mm256_madd_epi16(w.scale, s16),       \
                                                            _mm256_set1_epi32(OFFSET_##name))));   \
                        v[i][o] = sum;                                                             \
                        if (has_min)                                                               \
                            mins[i][o] = _mm512_zextsi256_si512(_mm256_madd_epi16(w.min, s16));    \
                    }                                                                              \
                }                                                                                  \
                wd16 = _mm512_cvtph_ps(load_256(wd));                                              \
                wm16 = _mm512_cvtph_ps(load_256(wm));                                              \
                for (int i = 0; i < n_rows; i++) {                                                 \
                    __m512 da = _mm512_set1_ps(d[i][b]);                                           \
                                                                                                   \
                    y[i] = _mm512_fmadd_ps(_mm512_mul_ps(wd16, da),                                \
                                           _mm512_cvtepi32_ps(sum_16(v[i])), y[i]);                \
                    if (has_min)                                                                   \
                        y[i] = _mm512_fnmadd_ps(_mm512_mul_ps(wm16, da),                           \
                                                _mm512_cvtepi32_ps(sum_16(mins[i])), y[i]);        \
                }                                                                                  \
            }                                                                                      \
            for (int i = 0; i < n_rows; i++)                                                       \
                _mm512_mask_storeu_ps(m->y + (first + (uint32_t)i) * m->y_stride + out,            \
                                      v16_first(n), y[i]);                                         \
        }                                                                                          \
    }                                                                                              \
    GEMV_SWITCH(name)

#define GEMV_SWITCH(name)                                                                          \
    static void gemv_##name(const struct kern_mul *m) {                                            \
        for (uint32_t first = 0; first < m->n_rows; first += GEMV_ROWS) {                          \
            switch (m->n_rows - first) {                                                           \
            case 1:                                                                                \
                gemv_rows_##name(m, first, 1);                                                     \
                break;                                                                             \
            case 2:                                                                                \
                gemv_rows_##name(m, first, 2);                                                     \
                break;                                                                             \
            case 3:                                                                                \
                gemv_rows_##name(m, first, 3);                                                     \
                break;                                                                             \
            default:                                                                               \
                gemv_rows_##name(m, first, 4);                                                     \
                break;                                                                             \
            }                                                                                      \
        }                                                                                          \
    }

GEMV_SUPER(q2_k, true)
GEMV_SUPER(q3_k, false)
GEMV_SUPER(q4_k, true)
GEMV_SUPER(q5_k, true)
GEMV_SUPER(q6_k, false)

/* ---- plain blocks, two at a time ---- */

struct wide_plain {
    __m512i q; /* block b low, block b + 1 high (zeroes where there is none) */
    uint16_t d[2], m[2];
};

#define WIDE_PLAIN(name, MIN)                                                                      \
    static inline void wide_##name(const struct name##_block *b, int n, struct wide_plain *w) {    \
        struct unpacked_block u[2];                                                                \
                                                                                                   \
        unpack_##name(b, &u[0]);                                                                   \
        w->d[0] = b->d;                                                                            \
        w->m[0] = MIN(b[0]);                                                                       \
        w->d[1] = w->m[1] = 0;                                                                     \
        w->q = _mm512_zextsi256_si512(load_256(u[0].q));                                           \
        if (n > 1) {                                                                               \
            unpack_##name(b + 1, &u[1]);                                                           \
            w->d[1] = b[1].d;                                                                      \
            w->m[1] = MIN(b[1]);                                                                   \
            w->q = join(load_256(u[0].q), load_256(u[1].q));                                       \
        }                                                                                          \
    }
#define WIDE_NO_MIN(block) 0
#define WIDE_MIN(block)    (block).m
WIDE_PLAIN(q4_0, WIDE_NO_MIN)
WIDE_PLAIN(q4_1, WIDE_MIN)
WIDE_PLAIN(q5_0, WIDE_NO_MIN)
WIDE_PLAIN(q5_1, WIDE_MIN)

static inline void wide_q8_0(const struct q8_0_block *b, int n, struct wide_plain *w) {
    __m512i q = n > 1 ? join(load_256(b[0].qs), load_256(b[1].qs))
                      : _mm512_zextsi256_si512(load_256(b[0].qs));

    w->q = _mm512_xor_si512(q, _mm512_set1_epi8((char)0x80));
    w->d[0] = b[0].d;
    w->d[1] = n > 1 ? b[1].d : 0;
    w->m[0] = w->m[1] = 0;
}

#define GEMV_PLAIN(name, has_min)                                                                  \
    static inline __attribute__((always_inline)) void gemv_rows_##name(                            \
        const struct kern_mul *m, uint32_t first, int n_rows) {                                    \
        uint32_t n_blocks = m->x->k / QUANT_BLOCK;                                                 \
        const int16_t *sums[GEMV_ROWS];                                                            \
        const int8_t *a[GEMV_ROWS];                                                                \
        const float *d[GEMV_ROWS];                                                                 \
                                                                                                   \
        for (int i = 0; i < n_rows; i++)                                                           \
            a[i] = act_row(m, first + (uint32_t)i, &d[i], &sums[i]);                               \
        for (uint32_t out = 0; out < m->n_out; out += GEMV_OUT) {                                  \
            uint32_t n = m->n_out - out < GEMV_OUT ? m->n_out - out : GEMV_OUT;                    \
            __m512 y[GEMV_ROWS];                                                                   \
                                                                                                   \
            for (int i = 0; i < n_rows; i++)                                                       \
                y[i] = _mm512_setzero_ps();                                                        \
            for (uint32_t b = 0; b < n_blocks; b += 2) {                                           \
                int n_here = n_blocks - b > 1 ? 2 : 1;                                             \
                __mmask64 there = n_here > 1 ? ~0ull : 0xFFFFFFFFull;                              \
                _Alignas(64) __m512i v[GEMV_ROWS][GEMV_OUT];                                       \
                _Alignas(64) uint16_t wd[2][GEMV_OUT], wm[2][GEMV_OUT];                            \
                                                                                                   \
                prefetch_next(m, out, (size_t)b *GEMV_OUT * sizeof(struct name##_block),           \
                              2 * GEMV_OUT * sizeof(struct name##_block));                         \
                for (uint32_t o = 0; o < GEMV_OUT; o++) {                                          \
                    uint32_t row = out + (o < n ? o : n - 1);                                      \
                    struct wide_plain w;                                                           \
                                                                                                   \
                    wide_##name(                                                                   \
                        (const struct name##_block *)(const void *)(m->w +                         \
                                                                    (size_t)row * m->row_bytes) +  \
                            b,                                                                     \
                        n_here, &w);                                                               \
                    for (int h = 0; h < 2; h++) {                                                  \
                        wd[h][o] = w.d[h];                                                         \
                        wm[h][o] = w.m[h];                                                         \
                    }                                                                              \
                    for (int i = 0; i < n_rows; i++)                                               \
                        v[i][o] = _mm512_dpbusd_epi32(                                             \
                            _mm512_setzero_si512(), w.q,                                           \
                            _mm512_maskz_loadu_epi8(there, a[i] + QUANT_BLOCK * b));               \
                }                                                                                  \
                for (int i = 0; i < n_rows; i++) {                                                 \
                    __m512i sum[2];                                                                \
                                                                                                   \
                    sum_16_halves(v[i], &sum[0], &sum[1]);                                         \
                    for (int h = 0; h < n_here; h++) {                                             \
                        __m512 da = _mm512_set1_ps(d[i][b + (uint32_t)h]);                         \
                        int32_t sum_a = sums[i][b + (uint32_t)h];                                  \
                        __m512i exact =                                                            \
                            OFFSET_##name ? _mm512_sub_epi32(                                      \
                                                sum[h], _mm512_set1_epi32(OFFSET_##name * sum_a))  \
                                          : sum[h];                                                \
                                                                                                   \
                        y[i] =                                                                     \
                            _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtph_ps(load_256(wd[h])), da),   \
                                            _mm512_cvtepi32_ps(exact), y[i]);                      \
                        if (has_min)                                                               \
                            y[i] = _mm512_fmadd_ps(                                                \
                                _mm512_mul_ps(_mm512_cvtph_ps(load_256(wm[h])), da),               \
                                _mm512_set1_ps((float)sum_a), y[i]);                               \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            for (int i = 0; i < n_rows; i++)                                                       \
                _mm512_mask_storeu_ps(m->y + (first + (uint32_t)i) * m->y_stride + out,            \
                                      v16_first(n), y[i]);                                         \
        }                                                                                          \
    }                                                                                              \
    GEMV_SWITCH(name)

GEMV_PLAIN(q4_0, false)
GEMV_PLAIN(q4_1, true)
GEMV_PLAIN(q5_0, false)
GEMV_PLAIN(q5_1, true)
GEMV_PLAIN(q8_0, false)
