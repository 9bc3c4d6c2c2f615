/*
 * Runs of dot products, for tiers with VNNI: int32 lanes from the start, so a run never overflows.
 * See run-madd.inc.c.
 */
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
/* sum + a run's lanes, each times the scale in both halves of its dword */
static inline vi vi_run_scaled(vi sum, vi run, vi scale) {
    return vi_add(sum, vi_mul(run, vi_sra(scale, 16)));
}
