/*
 * Weights as the tiles of mul-amx.inc.c want them: signed or unsigned bytes, with the scales of a
 * super-block's sub-blocks multiplied in while they are unpacked. A byte is too small for most of
 * these products, so they are put into two digits, each a byte, which are multiplied apart:
 *   Q4_K, Q5_K  scale = 8·high + low, and high·q and low·q are unsigned bytes: none reaches into
 *               the next, so one multiplication of words makes two of them
 *   Q6_K        scale·(q − offset), a signed number of 14 bits, = 256·high + low
 *   Q2_K, Q3_K  need one digit: 0 .. 45; and -124 .. 128, which fit in a signed byte once scales
 *               are negated (the fold negates their sums again)
 * Plain blocks, whose scales are floats, have q − offset.
 *
 * Included by mul-int.inc.c after fold.inc.c, where a tier has tiles.
 */
struct digits {
    struct lane_format f; /* constant */
    vi scale[16];         /* of each sub-block, in both words of a lane */
    vi *low, *high;       /* the first steps; the others are PANEL_VECS apart */
};

static ALWAYS_INLINE bool has_one_digit(struct lane_format f) {
    return f.largest <= 7; /* Q2_K, Q3_K */
}
static ALWAYS_INLINE bool has_digits_of_scale(struct lane_format f) {
    return !has_one_digit(f) && f.offset == 0;
}
/* By how many bits the high digits are above the low ones. */
static ALWAYS_INLINE int high_digit_shift(struct lane_format f) {
    return has_digits_of_scale(f) ? 3 : 8;
}

/* Of sub-blocks 2·j and 2·j + 1. */
static ALWAYS_INLINE void digits_scales(struct digits *d, int j, vi pair) {
    if (has_one_digit(d->f) && d->f.offset)
        pair = vi_sub_16(vi_set1(0), pair);
    d->scale[2 * j] = vi_low_words(pair, pair);
    d->scale[2 * j + 1] = vi_high_words(pair);
}

/* Four values of k from 4·step on. */
static ALWAYS_INLINE void put_digits(struct digits *d, int step, vi q) {
    const vi even_bytes = vi_set1(0x00FF00FF);
    vi *low = d->low + step * PANEL_VECS, *high = d->high + step * PANEL_VECS, scale, even, odd;

    if (!d->f.n_sub) {
        *low = vi_sub_8(q, vi_set1(0x01010101 * d->f.offset));
        return;
    }
    scale = d->scale[step / block_steps(d->f)];
    if (has_digits_of_scale(d->f)) {
        *low = vi_mul_16(q, vi_and(scale, vi_set1(0x00070007)));
        *high = vi_mul_16(q, vi_srl_16(scale, 3));
        return;
    }
    even = vi_mul_16(vi_and(q, even_bytes), scale);
    odd = vi_mul_16(vi_srl_16(q, 8), scale);
    if (d->f.offset) {
        vi base = vi_mul_16(scale, vi_set1(0x00010001 * d->f.offset));

        even = vi_sub_16(even, base);
        odd = vi_sub_16(odd, base);
    }
    *low = vi_select(even_bytes, even, vi_sll_16(odd, 8));
    if (!has_one_digit(d->f))
        *high = vi_select(even_bytes, vi_srl_16(even, 8), odd);
}

/* As they come: of nibbles, those of a sub-block are low ones, those of the next one high ones. */
static ALWAYS_INLINE void digits_add(struct digits *d, int step, vi q) {
    const int n_steps = QUANT_BLOCK / 4;

    if (!d->f.nibbles) {
        put_digits(d, step, q);
        return;
    }
    step += step / n_steps * n_steps;
    put_digits(d, step, vi_and(q, vi_set1(0x0F0F0F0F)));
    put_digits(d, step + n_steps, vi_and(vi_srl(q, 4), vi_set1(0x0F0F0F0F)));
}
