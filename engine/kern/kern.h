/*
 * The kernel table: everything that runs per weight or per feature, once per instruction set.
 *
 * generic.c is the definition; every other tier gives the same bits (design.md 5.1). A tier is one
 * translation unit that exports one `const struct kern_ops`; kern_select() chooses by CPUID.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- weight formats: X(name, GGUF type id, values per block, bytes per block, activation kind)
 * ---- */
#define KERN_TYPE_MAP(X)                                                                           \
    X(F32, 0, 1, 4, ACT_F32)                                                                       \
    X(F16, 1, 1, 2, ACT_F32)                                                                       \
    X(Q4_0, 2, 32, 18, ACT_Q8_32)                                                                  \
    X(Q4_1, 3, 32, 20, ACT_Q8_32)                                                                  \
    X(Q5_0, 6, 32, 22, ACT_Q8_32)                                                                  \
    X(Q5_1, 7, 32, 24, ACT_Q8_32)                                                                  \
    X(Q8_0, 8, 32, 34, ACT_Q8_32)                                                                  \
    X(Q2_K, 10, 256, 84, ACT_Q8_256)                                                               \
    X(Q3_K, 11, 256, 110, ACT_Q8_256)                                                              \
    X(Q4_K, 12, 256, 144, ACT_Q8_256)                                                              \
    X(Q5_K, 13, 256, 176, ACT_Q8_256)                                                              \
    X(Q6_K, 14, 256, 210, ACT_Q8_256)                                                              \
    X(BF16, 30, 1, 2, ACT_F32)

enum kern_type {
#define X(name, id, n, bytes, act) KERN_##name,
    KERN_TYPE_MAP(X)
#undef X
        KERN_TYPE_N
};

enum act_kind { ACT_F32, ACT_Q8_32, ACT_Q8_256 };

struct kern_type_info {
    const char *name;
    uint32_t gguf_id;
    uint32_t block_values, block_bytes;
    enum act_kind act;
};
extern const struct kern_type_info kern_types[KERN_TYPE_N];
/* NULL where we lack the type; *ret_name then still names types that GGUF knows (NULL: no such
 * type). */
const struct kern_type_info *kern_type_find(uint32_t gguf_id, const char **ret_name);

/*
 * Activations, quantised once per row and shared by all kernels of a kind. Row i is `data + i *
 * stride`, 64-byte aligned:
 *   ACT_F32     float x[k]
 *   ACT_Q8_32   int8 q[k], then float d[k/32], then int16 sum[k/32]        x ≈ d·q, sum = Σ q
 *               each part rounded up to 64 bytes
 *   ACT_Q8_256  struct kern_super [k/256]
 * q is in -127..127.
 */
struct kern_acts {
    enum act_kind kind;
    uint32_t k;
    size_t stride; /* kern_act_stride(kind, k) */
    uint8_t *data;
};
size_t kern_act_stride(enum act_kind kind, uint32_t k);
/* Of ACT_Q8_32. */
const float *kern_act_scales(const struct kern_acts *x, size_t row);
const int16_t *kern_act_sums(const struct kern_acts *x, size_t row);

/* x ≈ d·q; five cache lines. */
struct kern_super {
    _Alignas(64) int8_t q[256];
    int16_t sums[26]; /* Σ q of 16 times 16, then of 8 times 32 values, then the two reaches */
    float d;
};
#define KERN_SUPER_SUMS_32 16
/* What no product with such a sub-block exceeds: of 16 values the largest Σ|q|, which times the
 * largest |weight| bounds it; of 32 values the largest Σ of positive or of negative ones, which
 * times the largest weight bounds it where no weight is negative. */
#define KERN_SUPER_REACH_16 24
#define KERN_SUPER_REACH_32 25

static inline const struct kern_super *kern_act_supers(const struct kern_acts *x, size_t row) {
    return (const struct kern_super *)(const void *)(x->data + row * x->stride);
}

/* y[i][o] = Σ_k w[o][k] · x[rows[i]][k] for a block of output features and many rows. */
struct kern_mul {
    const uint8_t *w; /* (n_out, k) in the weight's format, rows row_bytes apart */
    size_t row_bytes;
    uint32_t n_out;            /* any number >= 1 */
    const struct kern_acts *x; /* k: a multiple of the format's block */
    const uint32_t *rows;      /* (n_rows) indexes into x; NULL: 0 .. n_rows-1 */
    uint32_t n_rows;           /* any number >= 1: one is decode, many is prefill */
    float *y;                  /* y[i * y_stride + o] */
    size_t y_stride;
    const uint8_t *next; /* weights that will be wanted after these, fetched meanwhile; or NULL */
    void *scratch;       /* KERN_SCRATCH_BYTES, 64-byte aligned, this thread's own */
};
/* Where row i of the product is in x. */
static inline size_t kern_mul_row(const struct kern_mul *m, uint32_t i) {
    return m->rows ? m->rows[i] : i;
}
#define KERN_SCRATCH_BYTES  (512 * 1024)

#define KERN_MATH_LANES     16 /* partial sums of every reduction over features */

#define KERN_PAGE_POSITIONS 64  /* of a KV page: part of the exactness contract */
#define KERN_QUERIES_MAX    512 /* n_rows · n_heads of one attend_page() */

/* Positions whose pages are folded by themselves, so that the spans of a long sequence can be
 * folded at the same time; then span after span, in ascending order: part of the exactness contract
 * too. */
#define KERN_SPAN_POSITIONS 1024

/*
 * A page's keys of one kv head, or its values, as they are stored. Q8_0 is the format of that name
 * with its parts apart: int8 where the others have their numbers, then one f16 scale for each
 * position and KERN_PAGE_BLOCK features (the last block holds what is left), for keys
 * (n_blocks, 64) and for values (64, n_blocks). A scale times an int8 is exact in a float.
 */
enum kern_page { KERN_PAGE_F16, KERN_PAGE_F32, KERN_PAGE_Q8_0 };
#define KERN_PAGE_BLOCK 32

static inline size_t kern_page_n_blocks(uint32_t head_size) {
    return (head_size + KERN_PAGE_BLOCK - 1) / KERN_PAGE_BLOCK;
}
static inline size_t kern_page_bytes(enum kern_page type, uint32_t head_size) {
    size_t one = type == KERN_PAGE_F32 ? sizeof(float) * head_size
                 : type == KERN_PAGE_F16
                     ? sizeof(uint16_t) * head_size
                     : head_size + sizeof(uint16_t) * kern_page_n_blocks(head_size);

    return KERN_PAGE_POSITIONS * one;
}
/* Of a page of Q8_0. */
static inline uint16_t *kern_page_scales(const void *page, uint32_t head_size) {
    return (uint16_t *)(uintptr_t)page + (size_t)KERN_PAGE_POSITIONS / 2 * head_size;
}

/*
 * See kern_ops.attend_page. Queries are those of n_rows rows and of the n_heads heads that share a
 * kv head: row r, head h at q + r·row_stride + h·head_size, and its result likewise in acc. Keys
 * lie feature by feature, so that sixteen positions make a vector; values position by position.
 */
struct kern_attend {
    const float *q;    // (n_rows, n_heads, head_size) multiplied by the attention scale
    float *acc;        // (n_rows, n_heads, head_size) Σ p·v so far
    float *max, *sum;  // (n_rows, n_heads) of the scores so far: their maximum, Σ p
    size_t row_stride; /* in floats, of q and acc */
    uint32_t n_rows, n_heads, head_size;
    const void *k; // (head_size, 64) all of it memory that may be read, whatever is in it
    const void *v; // (64, head_size)
    const void *next_k, *next_v; /* what the next call will read, fetched meanwhile; or NULL */
    enum kern_page type;
    const uint32_t *n_positions; // (n_rows) 1 .. 64: the row sees the page's first n positions
    float cap;                   /* > 0: scores are cap·tanh(s/cap) */
    void *scratch;               /* KERN_SCRATCH_BYTES, 64-byte aligned, this thread's own */
};

/* One query's state after some of its pages. */
struct kern_span {
    float *acc; // (head_size)
    float max, sum;
};

struct kern_ops {
    const char *name;
    /* Rows from which kern_gemm_float() is quicker than the tier's own float products (measured:
     * tests/bench/math.c); UINT32_MAX: never. */
    uint32_t gemm_rows_min;

    void (*mul[KERN_TYPE_N])(const struct kern_mul *m);
    /* One weight row to floats. */
    void (*dequantize[KERN_TYPE_N])(const void *blocks, float *ret, size_t n);
    /* One activation row of k floats into a row of the kind (d = max|x|/127; q rounded to nearest
     * even). */
    void (*quantize_q8_32)(const float *x, size_t k, uint8_t *ret_row);
    void (*quantize_q8_256)(const float *x, size_t k, uint8_t *ret_row);
    /* What a quantised row leaves of x: ret[i] = x[i] - d·q[i], two roundings. */
    void (*residual)(const float *x, const struct kern_acts *acts, size_t row, float *ret);

    /* Reductions: 16 strided partial sums, then the fixed tree (0+8,1+9,…; 0+4,…; 0+2,…; 0+1). */
    void (*rms_norm)(const float *x, const float *scale, float eps, float *ret, size_t n);
    /* In place, max subtracted: -INFINITY gives 0; NaN, or nothing above -INFINITY, gives NaN. */
    void (*softmax)(float *x, size_t n);
    float (*dot)(const float *a, const float *b, size_t n);
    void (*silu_mul)(const float *gate, const float *up, float *ret, size_t n); /* silu(gate)·up */
    void (*gelu_mul)(const float *gate, const float *up, float *ret, size_t n); /* tanh form */
    void (*soft_cap)(float *x, float cap, size_t n); /* cap·tanh(x · (1/cap)) */
    void (*add_scaled)(float *y, const float *x, float scale, size_t n); /* y += scale·x, one fma */
    void (*scale)(float *x, float factor, size_t n);
    void (*to_f16)(const float *x, uint16_t *ret, size_t n);
    void (*from_f16)(const uint16_t *x, float *ret, size_t n);

    /*
     * One KV page folded into the running softmax of each query. Pages of a span come in ascending
     * order; before the first one max is -INFINITY, sum and acc are 0; after the last, and where
     * there are more spans after attend_merge() of each, the result is acc / sum. A query's bits
     * depend on nothing but the query, its n_positions and that much of the page: scores add
     * features in ascending order, acc adds positions in ascending order, sum adds the page's 16
     * strided partial sums. A score of -INFINITY is as good as masked; NaN reaches the results of
     * its own query only.
     */
    void (*attend_page)(const struct kern_attend *a);
    /*
     * Of one query, the running softmax of the spans so far and that of the next one, added up into
     * the first: with e = e^(max − the larger max) of each, acc = acc·e, acc += next's acc·e by one
     * fma, and sum likewise.
     */
    void (*attend_merge)(struct kern_span *so_far, const struct kern_span *next, size_t head_size);
};

/* The best tier this CPU has, or the one of that name. NULL: no such name, or the CPU lacks it. */
const struct kern_ops *kern_select(const char *name);
const char *const *kern_isa_names(void); /* NULL-ended, slowest first */
unsigned kern_isa_available(void);       /* bits in that order */
/* Why the best tier of this CPU isn't available although the CPU has it; NULL: it is. */
const char *kern_isa_refused(void);

/* Whether this CPU shifts and adds vectors in pipes that do not multiply, as AMD's do: kernels then
 * save a product by several of these, unpack less for more rows, and give the same bits. Found out
 * before main(); only a test changes it. */
extern bool kern_has_spare_pipes;

/* The same product for F32, F16 and BF16 weights through OpenBLAS: for many rows, and where bits
 * may depend on how many. */
void kern_gemm_float(const struct kern_ops *kern, enum kern_type type, const struct kern_mul *m);
