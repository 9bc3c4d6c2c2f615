/*
 * Runs of dot products, for tiers with VNNI: int32 lanes from the start, so a run never overflows.
 * See run-madd.inc.c.
 */
#define RUN_IS_INT16 false

static inline int vi_run_steps(int largest) {
    (void)largest;
    return 64;
}
static inline vi vi_run_begin(vi sum, int largest) {
    (void)largest;
    return sum;
}
static inline vi vi_run_step(vi run, vi u, vi s, int largest) {
    (void)largest;
    return vi_dot4(run, u, s);
}
/* The same with the four bytes at s for every lane. */
static inline vi vi_run_step_at(vi run, vi u, const int8_t *s, int largest) {
    (void)largest;
    return vi_dot4_at(run, u, s);
}
static inline vi vi_run_end(vi sum, vi run, int largest) {
    (void)sum;
    (void)largest;
    return run;
}
/* Of the scales of two sub-blocks, number i, as vi_run_scaled() wants it. */
static inline vi vi_run_scale(vi pair, int i) {
    return vi_word(pair, i);
}
/* sum + a run's lanes, each times its scale */
static inline vi vi_run_scaled(vi sum, vi run, vi scale) {
    return vi_add(sum, vi_mul(run, scale));
}
/* The same for panels: with 0 above it, so that vi_dot2() multiplies the low halves of runs. */
static inline vi vi_panel_scale(vi pair, int i) {
    return i ? vi_srl(pair, 16) : vi_and(pair, vi_set1(0xFFFF));
}
