/* The formats' table, activation rows, and the choice of a tier. See kern.h. */
#include "engine/kern/kern.h"

#include "base/macro.h"
#include "engine/kern/tiers.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

const struct kern_type_info kern_types[KERN_TYPE_N] = {
#define X(type, id, n, bytes, kind)                                                                \
    {.name = #type, .gguf_id = (id), .block_values = (n), .block_bytes = (bytes), .act = (kind)},
    KERN_TYPE_MAP(X)
#undef X
};

/* Types that GGUF has had, by number, so that a refusal can name them. */
static const char *const gguf_type_names[] = {
    [0] = "F32",     [1] = "F16",         [2] = "Q4_0",        [3] = "Q4_1",        [4] = "Q4_2",
    [5] = "Q4_3",    [6] = "Q5_0",        [7] = "Q5_1",        [8] = "Q8_0",        [9] = "Q8_1",
    [10] = "Q2_K",   [11] = "Q3_K",       [12] = "Q4_K",       [13] = "Q5_K",       [14] = "Q6_K",
    [15] = "Q8_K",   [16] = "IQ2_XXS",    [17] = "IQ2_XS",     [18] = "IQ3_XXS",    [19] = "IQ1_S",
    [20] = "IQ4_NL", [21] = "IQ3_S",      [22] = "IQ2_S",      [23] = "IQ4_XS",     [24] = "I8",
    [25] = "I16",    [26] = "I32",        [27] = "I64",        [28] = "F64",        [29] = "IQ1_M",
    [30] = "BF16",   [31] = "Q4_0_4_4",   [32] = "Q4_0_4_8",   [33] = "Q4_0_8_8",   [34] = "TQ1_0",
    [35] = "TQ2_0",  [36] = "IQ4_NL_4_4", [37] = "IQ4_NL_4_8", [38] = "IQ4_NL_8_8", [39] = "MXFP4",
};

const struct kern_type_info *kern_type_find(uint32_t gguf_id, const char **ret_name) {
    *ret_name = gguf_id < ARRAY_SIZE(gguf_type_names) ? gguf_type_names[gguf_id] : NULL;
    for (size_t i = 0; i < KERN_TYPE_N; i++)
        if (kern_types[i].gguf_id == gguf_id)
            return &kern_types[i];
    return NULL;
}

/* ---- activation rows ---- */

static size_t line(size_t n) {
    return (n + 63) / 64 * 64;
}

static size_t scales_offset(uint32_t k) {
    return line(k);
}

static size_t sums_offset(uint32_t k) {
    return scales_offset(k) + line(k / 32 * sizeof(float));
}

/* Super-blocks are read at the same place of many rows at a time: an odd number of lines spreads
 * rows over all sets of a cache. */
size_t kern_act_stride(enum act_kind kind, uint32_t k) {
    if (kind == ACT_F32)
        return line(k * sizeof(float));
    if (kind == ACT_Q8_256)
        return k / 256 * sizeof(struct kern_super) | 64;
    return sums_offset(k) + line(k / 32 * sizeof(int16_t));
}

const float *kern_act_scales(const struct kern_acts *x, size_t row) {
    return (const float *)(const void *)(x->data + row * x->stride + scales_offset(x->k));
}

const int16_t *kern_act_sums(const struct kern_acts *x, size_t row) {
    return (const int16_t *)(const void *)(x->data + row * x->stride + sums_offset(x->k));
}

/* ---- tiers ---- */

/* clang 14 has no name for it. */
static bool cpu_has_f16c(void) {
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* Nor has GCC 12 for this. */
static bool cpu_has_avxvnni(void) {
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BIT(4));
}

static bool cpu_has_generic(void) {
    return true;
}

static bool cpu_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
}

static bool cpu_has_avx2_vnni(void) {
    return cpu_has_avx2() && cpu_has_avxvnni();
}

static bool cpu_has_avx512(void) {
    return cpu_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

static bool cpu_has_avx512_vnni(void) {
    return cpu_has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool cpu_has_amx_int8(void) {
    unsigned a, b, c, d;
    const unsigned amx_tile = BIT(24), amx_int8 = BIT(25);

    return cpu_has_avx512_vnni() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_tile) &&
           (d & amx_int8);
}

/* What the kernel saves when it switches threads. (_xgetbv() wants a compiler flag.) */
static bool kernel_saves_tiles(void) {
    unsigned a, b, c, d;
    const unsigned tile_config = BIT(17), tile_data = BIT(18);

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return false;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & tile_config) && (a & tile_data);
}

/* Of Linux, a process must ask before it uses tiles, once for all its threads. */
static bool kernel_permits_tiles(void) {
    const unsigned long xfeature_tile_data = 18;

    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, xfeature_tile_data) == 0;
}

const char *kern_isa_refused(void) {
    if (!cpu_has_amx_int8())
        return NULL;
    if (!kernel_saves_tiles())
        return "this CPU has AMX, but the kernel or hypervisor has not switched its tiles on";
    if (!kernel_permits_tiles())
        return "this CPU has AMX, but the kernel permits this process no tiles";
    return NULL;
}

static bool cpu_has_amx(void) {
    return cpu_has_amx_int8() && !kern_isa_refused();
}

/* In the order of kern_isa_names(). */
static const struct {
    const struct kern_ops *ops;
    bool (*available)(void);
} tiers[] = {
    {&kern_ops_generic, cpu_has_generic},   {&kern_ops_avx2, cpu_has_avx2},
    {&kern_ops_avxvnni, cpu_has_avx2_vnni}, {&kern_ops_avx512, cpu_has_avx512},
    {&kern_ops_vnni, cpu_has_avx512_vnni},  {&kern_ops_amx, cpu_has_amx},
};

const char *const *kern_isa_names(void) {
    static const char *names[ARRAY_SIZE(tiers) + 1];

    for (size_t i = 0; i < ARRAY_SIZE(tiers); i++)
        names[i] = tiers[i].ops->name;
    return names;
}

unsigned kern_isa_available(void) {
    unsigned bits = 0;

    __builtin_cpu_init();
    for (size_t i = 0; i < ARRAY_SIZE(tiers); i++)
        if (tiers[i].available())
            bits |= BIT(i);
    return bits;
}

bool kern_has_spare_pipes;

__attribute__((constructor)) static void find_spare_pipes(void) {
    __builtin_cpu_init();
    kern_has_spare_pipes = __builtin_cpu_is("amd");
}

const struct kern_ops *kern_select(const char *name) {
    unsigned available = kern_isa_available();

    for (size_t i = ARRAY_SIZE(tiers); i-- > 0;) {
        if (name && strcmp(name, tiers[i].ops->name) != 0)
            continue;
        if (available & BIT(i))
            return tiers[i].ops;
        if (name)
            return NULL;
    }
    return NULL;
}
