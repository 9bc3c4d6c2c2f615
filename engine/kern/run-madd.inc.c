/*
 * Runs of dot products, for tiers without VNNI: four products of bytes a lane and step, of weights
 * 0 .. `largest` (the format's constant) and activations -127 .. 127.
 *
 * vpmaddubsw makes int16 of two products, saturated. Two of weights up to 127 fit, and so do sums
 * of as many steps as vi_run_steps() says; a run ends with its int16 added to the int32. Larger
 * weights (Q8_0) come as signed bytes instead, without an offset, and their sign goes to the
 * activations: two products of up to 128 · 127 fit, but no sum of those.
 */
#define RUN_IS_INT16 true /* of weights up to 127 */

static inline vi vi_dot2(vi acc, vi a, vi b) {
    return vi_add(acc, vi_pairs_16(a, b));
}

static inline vi vi_dot2_at(vi acc, vi a, const int16_t *b) {
    return vi_dot2(acc, a, vi_set1_at(b));
}

static inline int vi_run_steps(int largest) {
    return largest > 127 ? 64 : INT16_MAX / (2 * 127 * largest);
}
static inline vi vi_run_begin(vi sum, int largest) {
    return largest > 127 ? sum : vi_set1(0);
}
static inline vi vi_run_step(vi run, vi u, vi s, int largest) {
    if (largest <= 127)
        return vi_settled(vi_add_16(run, vi_pairs(u, s)));
    return vi_settled(vi_dot2(run, vi_pairs(vi_abs_8(u), vi_sign_8(s, u)), vi_set1(0x00010001)));
}
static inline vi vi_run_step_at(vi run, vi u, const int8_t *s, int largest) {
    return vi_run_step(run, u, vi_set1_at(s), largest);
}
static inline vi vi_run_end(vi sum, vi run, int largest) {
    return largest > 127 ? run : vi_dot2(sum, run, vi_set1(0x00010001));
}
/* Of the scales of two sub-blocks, number i, as vi_run_scaled() wants it: in both halves
 * of its dword. */
static inline vi vi_run_scale(vi pair, int i) {
    return i ? vi_high_words(pair) : vi_low_words(pair, pair);
}
/* sum + a run's lanes, each times its scale: no weight above 127 */
static inline vi vi_run_scaled(vi sum, vi run, vi scale) {
    return vi_dot2(sum, run, scale);
}
/* The same for panels. */
static inline vi vi_panel_scale(vi pair, int i) {
    return vi_run_scale(pair, i);
}
