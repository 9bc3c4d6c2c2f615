/*
 * Blocks as vectors, one a lane: of VI_LANES outputs for panels, of one output or of two for
 * products. A vector holds four values of k of each.
 *
 * Bytes are transposed as they are in the file, 16 or 32 of each block at a time, and taken apart
 * afterwards, all blocks at once: what unpack.h says of a byte is said here of the bytes of a
 * dword. So the code needs nothing of a tier but dword lanes, and a format's scales cost no more
 * than its weights.
 *
 * Each function unpacks one block of each lane: first scales and mins, then weights, where those
 * of a sub-block, or of a plain block, come in ascending order of k (but for nibbles, of which two
 * sub-blocks come at once). Included by mul-int.inc.c.
 */
#include <stddef.h>

/* 256 values of k of PANEL_OUT outputs. */
#define PANEL_OUT   (PANEL_VECS * VI_LANES)
#define PANEL_K     256
#define PANEL_STEPS (PANEL_K / 4)

struct weight_panel {
    vi w[PANEL_STEPS][PANEL_VECS];
    /* Of super-blocks: the first n_sub scales, as vi_panel_scale() makes them; and mins, pairs of
     * int16 of two sub-blocks. */
    vi scale[16][PANEL_VECS];
    vi min[8][PANEL_VECS];
    /* Of each plain block, and its min; [0] of a super-block, and its dmin. */
    _Alignas(64) float d[8][PANEL_OUT];
    _Alignas(64) float m[8][PANEL_OUT];
};

/* A block of each lane on its way. */
struct unpacking {
    struct vi_rows blocks;
    struct fetching ahead;      /* lines of other weights, meanwhile */
    struct weight_panel *panel; /* into vector v of a panel, a plain block as its block b */
    int v, b;
    struct products *products; /* or, where there are some, at once into these */
#ifdef HAS_TILES
    struct digits *digits; /* or weights and scales into these, the rest into the panel */
    unsigned n_loads;      /* of 16 bytes so far: see keep_awake() */
#endif
    struct fetching near; /* with products: others, into the first cache */
};

/* ---- where it goes ---- */

static ALWAYS_INLINE void put_weights(struct unpacking *u, int step, vi w) {
    if (u->products)
        products_add(u->products, step, w);
#ifdef HAS_TILES
    else if (u->digits)
        digits_add(u->digits, step, w);
#endif
    else
        u->panel->w[8 * u->b + step][u->v] = w;
}

/* Of sub-blocks 2·j and 2·j + 1, pairs of int16. */
static ALWAYS_INLINE void put_scales(struct unpacking *u, int j, vi pair) {
    if (u->products)
        products_scales(u->products, j, pair);
#ifdef HAS_TILES
    else if (u->digits)
        digits_scales(u->digits, j, pair);
#endif
    else {
        u->panel->scale[2 * j][u->v] = vi_panel_scale(pair, 0);
        u->panel->scale[2 * j + 1][u->v] = vi_panel_scale(pair, 1);
    }
}
static ALWAYS_INLINE void put_mins(struct unpacking *u, int j, vi pair) {
    if (u->products)
        products_mins(u->products, j, pair);
    else
        u->panel->min[j][u->v] = pair;
}

/* Low halves of dwords, as float16. */
static ALWAYS_INLINE void put_d(struct unpacking *u, vi halves) {
    if (u->products)
        u->products->d = vf_from_half(halves);
    else
        vf_store(u->panel->d[u->b] + u->v * VI_LANES, vf_from_half(halves));
}
static ALWAYS_INLINE void put_m(struct unpacking *u, vi halves) {
    if (u->products)
        u->products->m = vf_from_half(halves);
    else
        vf_store(u->panel->m[u->b] + u->v * VI_LANES, vf_from_half(halves));
}

/* ---- where it comes from ---- */

/* Lines that are fetched with 16 bytes of each lane: as many as these are where there is nothing
 * but unpacking and its products, half of them for panels, whose tiles fetch too. */
#define LINES_WITH_PRODUCTS (16 * VI_LANES / 64)
#define LINES_WITH_PANELS   (LINES_WITH_PRODUCTS / 2)

/* So many lines of what is fetched with products. */
static ALWAYS_INLINE void fetch_with_products(struct unpacking *u, int n) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        fetch_next(&u->ahead);
        fetch_next(&u->near);
    }
}

/* Each fourth load of 16 bytes: a product costs something too, where tiles would not fall asleep.
 */
static ALWAYS_INLINE void keep_awake(struct unpacking *u) {
#ifdef HAS_TILES
    if (u->digits && u->n_loads++ % 4 == 0)
        keep_tiles_awake();
#else
    (void)u;
#endif
}

/* Bytes [at, at + 16) of each lane's block: lane j of to[i] is dword i of block j. */
static ALWAYS_INLINE void load_16s(struct unpacking *u, size_t at, vi to[4]) {
    vi_load_16s(u->blocks, at, to, &u->ahead, u->products ? 0 : LINES_WITH_PANELS);
    keep_awake(u);
    if (u->products)
        fetch_with_products(u, LINES_WITH_PRODUCTS);
}

/* Bytes [at, at + 32) likewise. */
static ALWAYS_INLINE void load_32s(struct unpacking *u, size_t at, vi to[8]) {
#ifdef PANEL_NIBBLE_ROWS
    vi_load_32s(u->blocks, at, to, &u->ahead, u->products ? 0 : 2 * LINES_WITH_PANELS);
    if (u->products)
        fetch_with_products(u, 2 * LINES_WITH_PRODUCTS);
#else
    load_16s(u, at, to);
    load_16s(u, at + 16, to + 4);
#endif
}

static inline vi low_nibbles(vi x) {
    return vi_and(x, vi_set1(0x0F0F0F0F));
}
static inline vi high_nibbles(vi x) {
    return low_nibbles(vi_srl(x, 4));
}

typedef void unpack_fn(struct unpacking *u);

/* ---- super-blocks ---- */

/* d, dmin, and eight 6-bit scales and mins: see unpack_k4_scales() in unpack.h. */
static ALWAYS_INLINE void lanes_k4_head(struct unpacking *u) {
    const vi six = vi_set1(0x3F3F3F3F), two = vi_set1(0x30303030);
    vi head[4], scales[2], mins[2];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    put_m(u, vi_srl(head[0], 16));
    scales[0] = vi_and(head[1], six);
    scales[1] = vi_or(low_nibbles(head[3]), vi_and(vi_srl(head[1], 2), two));
    mins[0] = vi_and(head[2], six);
    mins[1] = vi_or(high_nibbles(head[3]), vi_and(vi_srl(head[2], 2), two));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        put_scales(u, j, vi_byte_pair(scales[j / 2], j % 2));
        put_mins(u, j, vi_byte_pair(mins[j / 2], j % 2));
    }
}

static ALWAYS_INLINE void unpack_lanes_q4_k(struct unpacking *u) {
    lanes_k4_head(u);
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++) {
        int step = 16 * (run / 2) + 4 * (run % 2);
        vi q[4];

        load_16s(u, offsetof(struct q4_k_block, qs) + 16 * (size_t)run, q);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            put_weights(u, step + i, low_nibbles(q[i]));
            put_weights(u, step + 8 + i, high_nibbles(q[i]));
        }
    }
}

#ifdef PANEL_NIBBLE_ROWS
/* For a panel of nibbles: bytes as they are. */
static ALWAYS_INLINE void unpack_lanes_q4_k_nibbles(struct unpacking *u) {
    lanes_k4_head(u);
#pragma GCC unroll 4
    for (int run = 0; run < 4; run++) {
        vi q[8];

        load_32s(u, offsetof(struct q4_k_block, qs) + 32 * (size_t)run, q);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            put_weights(u, 8 * run + i, q[i]);
    }
}
#endif

static ALWAYS_INLINE void unpack_lanes_q5_k(struct unpacking *u) {
    const vi one = vi_set1(0x01010101);
    vi high[8];

    lanes_k4_head(u);
    load_16s(u, offsetof(struct q5_k_block, qh), high);
    load_16s(u, offsetof(struct q5_k_block, qh) + 16, high + 4);
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++) {
        int j = run / 2, step = 16 * j + 4 * (run % 2);
        vi q[4];

        load_16s(u, offsetof(struct q5_k_block, qs) + 16 * (size_t)run, q);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            vi fifth = vi_srl(high[4 * (run % 2) + i], 2 * j);

            put_weights(u, step + i, vi_or(low_nibbles(q[i]), vi_sll(vi_and(fifth, one), 4)));
            put_weights(u, step + 8 + i,
                        vi_or(high_nibbles(q[i]), vi_sll(vi_and(vi_srl(fifth, 1), one), 4)));
        }
    }
}

static ALWAYS_INLINE void unpack_lanes_q6_k(struct unpacking *u) {
    const vi two = vi_set1(0x30303030);
    vi scales[4], tail[4];

    load_16s(u, offsetof(struct q6_k_block, scales), scales);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        put_scales(u, j, vi_sra_16(vi_sll_16(vi_byte_pair(scales[j / 2], j % 2), 8), 8));
    load_16s(u, sizeof(struct q6_k_block) - 16, tail);
    put_d(u, vi_srl(tail[3], 16));
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        vi high[8];

        load_16s(u, offsetof(struct q6_k_block, qh) + 32 * (size_t)half, high);
        load_16s(u, offsetof(struct q6_k_block, qh) + 32 * (size_t)half + 16, high + 4);
#pragma GCC unroll 4
        for (int run = 0; run < 4; run++) {
            int step = 32 * half + 4 * run;
            vi q[4];

            load_16s(u, 64 * (size_t)half + 16 * (size_t)run, q);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                vi h = high[4 * (run % 2) + i];
                vi first = run < 2 ? vi_sll(h, 4) : vi_sll(h, 2);
                vi second = run < 2 ? h : vi_srl(h, 2);

                put_weights(u, step + i, vi_or(low_nibbles(q[i]), vi_and(first, two)));
                put_weights(u, step + 16 + i, vi_or(high_nibbles(q[i]), vi_and(second, two)));
            }
        }
    }
}

/* Two bits of each byte, a quarter of 128 weights at each shift; and a third bit of each weight,
 * part by part of 32 weights one of each byte of `high`, where that is not NULL. */
static ALWAYS_INLINE void lanes_crumbs(struct unpacking *u, size_t at, const vi high[8]) {
#pragma GCC unroll 4
    for (int run = 0; run < 4; run++) {
        vi q[4];

        load_16s(u, at + 16 * (size_t)run, q);
#pragma GCC unroll 4
        for (int quarter = 0; quarter < 4; quarter++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int part = 4 * (run / 2) + quarter, step = 4 * (run % 2) + i;
                vi w = vi_and(vi_srl(q[i], 2 * quarter), vi_set1(0x03030303));

                if (high)
                    w = vi_or(w, vi_sll(vi_and(vi_srl(high[step], part), vi_set1(0x01010101)), 2));
                put_weights(u, 8 * part + step, w);
            }
    }
}

static ALWAYS_INLINE void unpack_lanes_q2_k(struct unpacking *u) {
    vi scales[4], tail[4];

    load_16s(u, sizeof(struct q2_k_block) - 16, tail);
    put_d(u, tail[3]);
    put_m(u, vi_srl(tail[3], 16));
    load_16s(u, offsetof(struct q2_k_block, scales), scales);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        put_scales(u, j, vi_byte_pair(low_nibbles(scales[j / 2]), j % 2));
        put_mins(u, j, vi_byte_pair(high_nibbles(scales[j / 2]), j % 2));
    }
    lanes_crumbs(u, offsetof(struct q2_k_block, qs), NULL);
}

static ALWAYS_INLINE void unpack_lanes_q3_k(struct unpacking *u) {
    const vi two = vi_set1(0x30303030);
    vi tail[4], high[8], low[2], top, scales[4];

    /* The last 16 bytes are two of qs, twelve of scales, and d. */
    load_16s(u, sizeof(struct q3_k_block) - 16, tail);
    low[0] = vi_or(vi_srl(tail[0], 16), vi_sll(tail[1], 16));
    low[1] = vi_or(vi_srl(tail[1], 16), vi_sll(tail[2], 16));
    top = vi_or(vi_srl(tail[2], 16), vi_sll(tail[3], 16));
    scales[0] = vi_or(low_nibbles(low[0]), vi_and(vi_sll(top, 4), two));
    scales[1] = vi_or(low_nibbles(low[1]), vi_and(vi_sll(top, 2), two));
    scales[2] = vi_or(high_nibbles(low[0]), vi_and(top, two));
    scales[3] = vi_or(high_nibbles(low[1]), vi_and(vi_srl(top, 2), two));
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        put_scales(u, j,
                   vi_add_16(vi_byte_pair(scales[j / 2], j % 2), vi_set1((int32_t)0xFFE0FFE0)));
    put_d(u, vi_srl(tail[3], 16));
    load_16s(u, offsetof(struct q3_k_block, hmask), high);
    load_16s(u, offsetof(struct q3_k_block, hmask) + 16, high + 4);
    lanes_crumbs(u, offsetof(struct q3_k_block, qs), high);
}

/* ---- plain blocks ---- */

static ALWAYS_INLINE void lanes_nibbles(struct unpacking *u, size_t at) {
    vi q[4];

    load_16s(u, at, q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        put_weights(u, i, low_nibbles(q[i]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        put_weights(u, 4 + i, high_nibbles(q[i]));
}

/* Bit k of `bits` is the fifth bit of weight k: four bits go to the four bytes of a step. */
static ALWAYS_INLINE vi fifth_bits(vi bits, int step) {
    vi four = vi_and(vi_srl(bits, 4 * step), vi_set1(15));

    return vi_sll(vi_and(vi_mul(four, vi_set1(0x00204081)), vi_set1(0x01010101)), 4);
}

static ALWAYS_INLINE void lanes_fives(struct unpacking *u, size_t at, vi bits) {
    vi q[4];

    load_16s(u, at, q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        put_weights(u, i, vi_or(low_nibbles(q[i]), fifth_bits(bits, i)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        put_weights(u, 4 + i, vi_or(high_nibbles(q[i]), fifth_bits(bits, 4 + i)));
}

static ALWAYS_INLINE void unpack_lanes_q4_0(struct unpacking *u) {
    vi head[4];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    lanes_nibbles(u, offsetof(struct q4_0_block, qs));
}

static ALWAYS_INLINE void unpack_lanes_q4_1(struct unpacking *u) {
    vi head[4];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    put_m(u, vi_srl(head[0], 16));
    lanes_nibbles(u, offsetof(struct q4_1_block, qs));
}

static ALWAYS_INLINE void unpack_lanes_q5_0(struct unpacking *u) {
    vi head[4];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    lanes_fives(u, offsetof(struct q5_0_block, qs),
                vi_or(vi_srl(head[0], 16), vi_sll(head[1], 16)));
}

static ALWAYS_INLINE void unpack_lanes_q5_1(struct unpacking *u) {
    vi head[4];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    put_m(u, vi_srl(head[0], 16));
    lanes_fives(u, offsetof(struct q5_1_block, qs), head[1]);
}

static ALWAYS_INLINE void unpack_lanes_q8_0(struct unpacking *u) {
    vi head[4], q[8];

    load_16s(u, 0, head);
    put_d(u, head[0]);
    load_32s(u, offsetof(struct q8_0_block, qs), q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        put_weights(u, i, IS_SIGNED(q8_0) ? q[i] : vi_xor(q[i], vi_set1((int32_t)0x80808080)));
}
