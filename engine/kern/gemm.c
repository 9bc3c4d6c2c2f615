/*
 * Products of float weights through OpenBLAS, a task at a time and on this thread alone: weight
 * rows as floats (in place for F32, else widened into the scratch) times a block of activation
 * rows.
 */
#include "engine/kern/kern.h"

#include "base/macro.h"

#include <cblas.h>
#include <pthread.h>
#include <string.h>

/* The scratch holds X_VALUES of gathered activations, then the widened weights. */
#define SCRATCH_VALUES (KERN_SCRATCH_BYTES / sizeof(float))
#define X_VALUES       (SCRATCH_VALUES / 2)
#define X_ROWS_MAX     64

static void use_one_thread(void) {
    openblas_set_num_threads(1);
}

/* y (n_rows, n_out) (+)= x (n_rows, n) · w (n_out, n)ᵀ */
static void multiply(const float *x, size_t x_stride, size_t n_rows, const float *w,
                     size_t w_stride, size_t n_out, size_t n, bool add, float *y, size_t y_stride) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_rows, (int)n_out, (int)n, 1.0f, x,
                (int)x_stride, w, (int)w_stride, add ? 1.0f : 0.0f, y, (int)y_stride);
}

/* One block of rows, features [begin, begin + n): gathered, then by as many weight rows as fit. */
static void multiply_block(const struct kern_ops *kern, enum kern_type type,
                           const struct kern_mul *m, size_t first, size_t n_rows, size_t begin,
                           size_t n) {
    float *x = m->scratch, *widened = x + X_VALUES;
    size_t value_bytes = kern_types[type].block_bytes, n_fit = MAX(X_VALUES / n, (size_t)1);

    for (size_t i = 0; i < n_rows; i++) {
        size_t row = kern_mul_row(m, first + i);

        (void)memcpy(x + i * n,
                     (const float *)(const void *)(m->x->data + row * m->x->stride) + begin,
                     n * sizeof(*x));
    }
    if (type == KERN_F32)
        n_fit = m->n_out;
    for (size_t o = 0; o < m->n_out; o += n_fit) {
        size_t n_out = MIN(n_fit, m->n_out - o);
        const uint8_t *w = m->w + o * m->row_bytes + begin * value_bytes;

        if (type != KERN_F32)
            for (size_t i = 0; i < n_out; i++)
                kern->dequantize[type](w + i * m->row_bytes, widened + i * n, n);
        multiply(x, n, n_rows, type == KERN_F32 ? (const float *)(const void *)w : widened,
                 type == KERN_F32 ? m->row_bytes / sizeof(float) : n, n_out, n, begin > 0,
                 m->y + first * m->y_stride + o, m->y_stride);
    }
}

void kern_gemm_float(const struct kern_ops *kern, enum kern_type type, const struct kern_mul *m) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t n_max = X_VALUES / X_ROWS_MAX;

    (void)pthread_once(&once, use_one_thread);
    for (size_t first = 0; first < m->n_rows; first += X_ROWS_MAX)
        for (size_t begin = 0; begin < m->x->k; begin += n_max)
            multiply_block(kern, type, m, first, MIN((size_t)X_ROWS_MAX, m->n_rows - first), begin,
                           MIN(n_max, m->x->k - begin));
}
