/*
 * Blocks of many outputs into a panel: each lane of a vector belongs to one output.
 *
 * Bytes are transposed as they are in the file, 16 of each output at a time, and taken apart
 * afterwards, all outputs at once: what unpack.h says of a byte is said here of the bytes of a
 * dword. So the code needs nothing of a tier but dword lanes, and a format's scales cost no more
 * than its weights.
 *
 * Each function unpacks block `b` of VI_LANES outputs, whose blocks are given, into vector v.
 * Included by panel.inc.c.
 */

typedef void unpack_panel_fn(struct weight_panel *p, struct vi_rows blocks, int v, int b);

static inline vi low_nibbles(vi x) {
    return vi_and(x, vi_set1(0x0F0F0F0F));
}
static inline vi high_nibbles(vi x) {
    return low_nibbles(vi_srl(x, 4));
}
/* Bytes 2·i and 2·i + 1 of a dword as two int16. */
static inline vi byte_pair(vi x, int i) {
    x = vi_srl(x, 16 * i);
    return vi_or(vi_and(x, vi_set1(0xFF)), vi_sll(vi_and(x, vi_set1(0xFF00)), 8));
}

static inline void put_d(struct weight_panel *p, int v, int b, vi halves) {
    vf_store(p->d[b] + v * VI_LANES, vf_from_half(halves));
}
static inline void put_m(struct weight_panel *p, int v, int b, vi halves) {
    vf_store(p->m[b] + v * VI_LANES, vf_from_half(halves));
}

/* ---- super-blocks ---- */

/* d, dmin, and eight 6-bit scales and mins: see unpack_k4_scales(). */
static ALWAYS_INLINE void panel_k4_head(struct weight_panel *p, struct vi_rows blocks, int v) {
    const vi six = vi_set1(0x3F3F3F3F), two = vi_set1(0x30303030);
    vi head[4], scales[2], mins[2];

    vi_load_runs(blocks, 0, head);
    put_d(p, v, 0, head[0]);
    put_m(p, v, 0, vi_srl(head[0], 16));
    scales[0] = vi_and(head[1], six);
    scales[1] = vi_or(low_nibbles(head[3]), vi_and(vi_srl(head[1], 2), two));
    mins[0] = vi_and(head[2], six);
    mins[1] = vi_or(high_nibbles(head[3]), vi_and(vi_srl(head[2], 2), two));
    for (int j = 0; j < 4; j++) {
        p->scale[j][v] = byte_pair(scales[j / 2], j % 2);
        p->min[j][v] = byte_pair(mins[j / 2], j % 2);
    }
}

static ALWAYS_INLINE void unpack_panel_q4_k(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    (void)b;
    panel_k4_head(p, blocks, v);
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++) {
        int step = 16 * (run / 2) + 4 * (run % 2);
        vi q[4];

        vi_load_runs(blocks, offsetof(struct q4_k_block, qs) + 16 * (size_t)run, q);
        for (int i = 0; i < 4; i++) {
            p->w[step + i][v] = low_nibbles(q[i]);
            p->w[step + 8 + i][v] = high_nibbles(q[i]);
        }
    }
}

static ALWAYS_INLINE void unpack_panel_q5_k(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    const vi one = vi_set1(0x01010101);
    vi high[8];

    (void)b;
    panel_k4_head(p, blocks, v);
    vi_load_runs(blocks, offsetof(struct q5_k_block, qh), high);
    vi_load_runs(blocks, offsetof(struct q5_k_block, qh) + 16, high + 4);
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++) {
        int j = run / 2, step = 16 * j + 4 * (run % 2);
        vi q[4];

        vi_load_runs(blocks, offsetof(struct q5_k_block, qs) + 16 * (size_t)run, q);
        for (int i = 0; i < 4; i++) {
            vi fifth = vi_srl(high[4 * (run % 2) + i], 2 * j);

            p->w[step + i][v] = vi_or(low_nibbles(q[i]), vi_sll(vi_and(fifth, one), 4));
            p->w[step + 8 + i][v] =
                vi_or(high_nibbles(q[i]), vi_sll(vi_and(vi_srl(fifth, 1), one), 4));
        }
    }
}

static ALWAYS_INLINE void unpack_panel_q6_k(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    const vi two = vi_set1(0x30303030);
    vi scales[4], tail[4];

    (void)b;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        vi high[8];

        vi_load_runs(blocks, offsetof(struct q6_k_block, qh) + 32 * (size_t)half, high);
        vi_load_runs(blocks, offsetof(struct q6_k_block, qh) + 32 * (size_t)half + 16, high + 4);
#pragma GCC unroll 4
        for (int run = 0; run < 4; run++) {
            int step = 32 * half + 4 * run;
            vi q[4];

            vi_load_runs(blocks, 64 * (size_t)half + 16 * (size_t)run, q);
            for (int i = 0; i < 4; i++) {
                vi h = high[4 * (run % 2) + i];
                vi first = run < 2 ? vi_sll(h, 4) : vi_sll(h, 2);
                vi second = run < 2 ? h : vi_srl(h, 2);

                p->w[step + i][v] = vi_or(low_nibbles(q[i]), vi_and(first, two));
                p->w[step + 16 + i][v] = vi_or(high_nibbles(q[i]), vi_and(second, two));
            }
        }
    }
    vi_load_runs(blocks, offsetof(struct q6_k_block, scales), scales);
    for (int j = 0; j < 8; j++)
        p->scale[j][v] = vi_sra_16(vi_sll_16(byte_pair(scales[j / 2], j % 2), 8), 8);
    vi_load_runs(blocks, sizeof(struct q6_k_block) - 16, tail);
    put_d(p, v, 0, vi_srl(tail[3], 16));
}

/* Two bits of each byte, a quarter of 128 weights at each shift. */
static ALWAYS_INLINE void panel_crumbs(struct weight_panel *p, struct vi_rows blocks, int v,
                                       size_t at) {
#pragma GCC unroll 4
    for (int run = 0; run < 4; run++) {
        vi q[4];

        vi_load_runs(blocks, at + 16 * (size_t)run, q);
        for (int quarter = 0; quarter < 4; quarter++)
            for (int i = 0; i < 4; i++)
                p->w[32 * (run / 2) + 8 * quarter + 4 * (run % 2) + i][v] =
                    vi_and(vi_srl(q[i], 2 * quarter), vi_set1(0x03030303));
    }
}

static ALWAYS_INLINE void unpack_panel_q2_k(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi scales[4], tail[4];

    (void)b;
    panel_crumbs(p, blocks, v, offsetof(struct q2_k_block, qs));
    vi_load_runs(blocks, offsetof(struct q2_k_block, scales), scales);
    for (int j = 0; j < 8; j++) {
        p->scale[j][v] = byte_pair(low_nibbles(scales[j / 2]), j % 2);
        p->min[j][v] = byte_pair(high_nibbles(scales[j / 2]), j % 2);
    }
    vi_load_runs(blocks, sizeof(struct q2_k_block) - 16, tail);
    put_d(p, v, 0, tail[3]);
    put_m(p, v, 0, vi_srl(tail[3], 16));
}

static ALWAYS_INLINE void unpack_panel_q3_k(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    const vi two = vi_set1(0x30303030), one = vi_set1(0x01010101);
    vi tail[4], high[8], low[2], top, scales[4];

    (void)b;
    panel_crumbs(p, blocks, v, offsetof(struct q3_k_block, qs));
    vi_load_runs(blocks, offsetof(struct q3_k_block, hmask), high);
    vi_load_runs(blocks, offsetof(struct q3_k_block, hmask) + 16, high + 4);
#pragma GCC unroll 8
    for (int part = 0; part < 8; part++)
        for (int i = 0; i < 8; i++)
            p->w[8 * part + i][v] =
                vi_or(p->w[8 * part + i][v], vi_sll(vi_and(vi_srl(high[i], part), one), 2));
    /* The last 16 bytes are two of qs, twelve of scales, and d. */
    vi_load_runs(blocks, sizeof(struct q3_k_block) - 16, tail);
    low[0] = vi_or(vi_srl(tail[0], 16), vi_sll(tail[1], 16));
    low[1] = vi_or(vi_srl(tail[1], 16), vi_sll(tail[2], 16));
    top = vi_or(vi_srl(tail[2], 16), vi_sll(tail[3], 16));
    scales[0] = vi_or(low_nibbles(low[0]), vi_and(vi_sll(top, 4), two));
    scales[1] = vi_or(low_nibbles(low[1]), vi_and(vi_sll(top, 2), two));
    scales[2] = vi_or(high_nibbles(low[0]), vi_and(top, two));
    scales[3] = vi_or(high_nibbles(low[1]), vi_and(vi_srl(top, 2), two));
    for (int j = 0; j < 8; j++)
        p->scale[j][v] = vi_add_16(byte_pair(scales[j / 2], j % 2), vi_set1((int32_t)0xFFE0FFE0));
    put_d(p, v, 0, vi_srl(tail[3], 16));
}

/* ---- plain blocks ---- */

static ALWAYS_INLINE void panel_nibbles(struct weight_panel *p, struct vi_rows blocks, int v, int b,
                                        size_t at) {
    vi q[4];

    vi_load_runs(blocks, at, q);
    for (int i = 0; i < 4; i++) {
        p->w[8 * b + i][v] = low_nibbles(q[i]);
        p->w[8 * b + 4 + i][v] = high_nibbles(q[i]);
    }
}

/* Bit k of `bits` is the fifth bit of weight k: four bits go to the four bytes of a step. */
static ALWAYS_INLINE void panel_fifth_bits(struct weight_panel *p, int v, int b, vi bits) {
    for (int i = 0; i < 8; i++) {
        vi four = vi_and(vi_srl(bits, 4 * i), vi_set1(15));
        vi spread = vi_and(vi_mul(four, vi_set1(0x00204081)), vi_set1(0x01010101));

        p->w[8 * b + i][v] = vi_or(p->w[8 * b + i][v], vi_sll(spread, 4));
    }
}

static ALWAYS_INLINE void unpack_panel_q4_0(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi head[4];

    panel_nibbles(p, blocks, v, b, offsetof(struct q4_0_block, qs));
    vi_load_runs(blocks, 0, head);
    put_d(p, v, b, head[0]);
}

static ALWAYS_INLINE void unpack_panel_q4_1(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi head[4];

    panel_nibbles(p, blocks, v, b, offsetof(struct q4_1_block, qs));
    vi_load_runs(blocks, 0, head);
    put_d(p, v, b, head[0]);
    put_m(p, v, b, vi_srl(head[0], 16));
}

static ALWAYS_INLINE void unpack_panel_q5_0(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi head[4];

    panel_nibbles(p, blocks, v, b, offsetof(struct q5_0_block, qs));
    vi_load_runs(blocks, 0, head);
    put_d(p, v, b, head[0]);
    panel_fifth_bits(p, v, b, vi_or(vi_srl(head[0], 16), vi_sll(head[1], 16)));
}

static ALWAYS_INLINE void unpack_panel_q5_1(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi head[4];

    panel_nibbles(p, blocks, v, b, offsetof(struct q5_1_block, qs));
    vi_load_runs(blocks, 0, head);
    put_d(p, v, b, head[0]);
    put_m(p, v, b, vi_srl(head[0], 16));
    panel_fifth_bits(p, v, b, head[1]);
}

static ALWAYS_INLINE void unpack_panel_q8_0(struct weight_panel *p, struct vi_rows blocks, int v,
                                            int b) {
    vi head[4];

#pragma GCC unroll 2
    for (int run = 0; run < 2; run++) {
        vi q[4];

        vi_load_runs(blocks, offsetof(struct q8_0_block, qs) + 16 * (size_t)run, q);
        for (int i = 0; i < 4; i++)
            p->w[8 * b + 4 * run + i][v] = vi_xor(q[i], vi_set1((int32_t)0x80808080));
    }
    vi_load_runs(blocks, 0, head);
    put_d(p, v, b, head[0]);
}
