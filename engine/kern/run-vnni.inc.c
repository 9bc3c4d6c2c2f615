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
/* The same as vi_dot2() wants it for runs that fit in int16: with 0 for their sign. */
static inline vi vi_panel_scale(vi pair, int i) {
    return i ? vi_srl(pair, 16) : vi_and(pair, vi_set1(0xFFFF));
}
