/* See attn.h. */
#include "engine/attn.h"

#include "engine/pool.h"
#include "engine/seq.h"

#include <math.h>
#include <string.h>

/* ---- rows of query heads ---- */

/* Query heads that share a kv head. */
static uint32_t group_size(const Shape *s) {
    return s->n_heads / s->n_kv_heads;
}

static size_t row_stride(const Shape *s) {
    return (size_t)s->n_heads * s->head_size;
}

/* Of a kv head's first query in a row of q, attended or span_acc. */
static size_t head_at(const Shape *s, uint32_t i_kv_head) {
    return (size_t)i_kv_head * group_size(s) * s->head_size;
}

/* ---- rotary position embedding (Su et al. 2021) ---- */

/*
 * The angles are computed in double from + − × ÷ alone, because libm may give another last bit on
 * another CPU. e^x by reduction to |r| <= ln 2 / 2 and a Taylor polynomial, ln x by the atanh
 * series, cos and sin by reduction to |r| <= π/4 with π/2 in two parts (exact enough below 2^24
 * positions) and Taylor polynomials. Each is within a few 1e-16 of the truth, far below the float
 * that is kept.
 */
static double natural_log(double x) {
    double m, z, z2, sum = 0;
    int e;

    m = frexp(x, &e);
    if (m < 0.70710678118654752) {
        m *= 2;
        e--;
    }
    z = (m - 1) / (m + 1);
    z2 = z * z;
    for (int i = 23; i >= 1; i -= 2)
        sum = sum * z2 + 1.0 / i;
    return 2 * z * sum + e * 0.69314718055994531;
}

static double exponential(double x) {
    double n = rint(x * 1.4426950408889634), r, p = 1, term = 1;

    r = (x - n * 0.69314718036912382) - n * 1.9082149292705877e-10;
    for (int i = 1; i <= 15; i++) {
        term = term * r / i;
        p = p + term;
    }
    return ldexp(p, (int)n);
}

static void cos_sin(double angle, float *ret_cos, float *ret_sin) {
    double n = rint(angle * 0.63661977236758138), r, r2, c = 1, s, term = 1;
    int quarter = (int)fmod(n, 4);

    r = (angle - n * 1.5707963267341256) - n * 6.0771005065061922e-11;
    r2 = r * r;
    for (int i = 2; i <= 18; i += 2) {
        term = -term * r2 / (i * (i - 1));
        c = c + term;
    }
    s = term = r;
    for (int i = 3; i <= 19; i += 2) {
        term = -term * r2 / (i * (i - 1));
        s = s + term;
    }
    *ret_cos = (float)(quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s);
    *ret_sin = (float)(quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c);
}

void attn_prepare_rope(const GkEngine *e, uint32_t i_row) {
    const Shape *s = &e->shape;
    double position = (double)e->scratch.rows[i_row].position / (double)s->rope_scale;
    double step = exponential(-2.0 / s->n_rot * natural_log((double)s->rope_base)), frequency = 1;
    size_t n = s->n_rot / 2;

    for (size_t i = 0; i < n; i++) {
        cos_sin(position * frequency, &e->scratch.rope_cos[i_row * n + i],
                &e->scratch.rope_sin[i_row * n + i]);
        frequency *= step;
    }
}

/* Turns pair i of a head: features (2i, 2i+1) where interleaved, (i, i + n_rot/2) for halves. */
static void rotate(const GkEngine *e, uint32_t i_row, float *head) {
    size_t n = e->shape.n_rot / 2;
    const float *c = e->scratch.rope_cos + i_row * n, *s = e->scratch.rope_sin + i_row * n;
    bool interleaved = e->manifest.rope_pairing == ROPE_INTERLEAVED;

    for (size_t i = 0; i < n; i++) {
        float *a = interleaved ? &head[2 * i] : &head[i],
              *b = interleaved ? &head[2 * i + 1] : &head[i + n];
        float x = *a, y = *b;

        *a = x * c[i] - y * s[i];
        *b = y * c[i] + x * s[i];
    }
}

/* ---- the cache ---- */

/* A head in blocks of Q8_0, the last one filled up with zeros. */
struct blocks {
    int8_t q[HEAD_SIZE_MAX];
    uint16_t scales[HEAD_SIZE_MAX / KERN_PAGE_BLOCK];
};

static void quantize_head(const GkEngine *e, const float *head, struct blocks *ret) {
    size_t n = e->shape.head_size, n_blocks = kern_page_n_blocks(e->shape.head_size);
    _Alignas(64) uint8_t row[2 * HEAD_SIZE_MAX];
    float padded[HEAD_SIZE_MAX];
    struct kern_acts acts = {
        .kind = ACT_Q8_32, .k = (uint32_t)n_blocks * KERN_PAGE_BLOCK, .data = row};

    (void)memcpy(padded, head, n * sizeof(*head));
    (void)memset(padded + n, 0, (acts.k - n) * sizeof(*head));
    e->kern->quantize_q8_32(padded, acts.k, row);
    (void)memcpy(ret->q, row, n);
    e->kern->to_f16(kern_act_scales(&acts, 0), ret->scales, n_blocks);
}

/* Keys lie feature by feature in their page, values position by position (kern.h). */
static void store_key_blocks(const GkEngine *e, void *slice, uint32_t at, const float *head) {
    uint16_t *scales = kern_page_scales(slice, e->shape.head_size);
    struct blocks b;

    quantize_head(e, head, &b);
    for (uint32_t i = 0; i < e->shape.head_size; i++)
        ((int8_t *)slice)[i * KV_PAGE_POSITIONS + at] = b.q[i];
    for (size_t i = 0; i < kern_page_n_blocks(e->shape.head_size); i++)
        scales[i * KV_PAGE_POSITIONS + at] = b.scales[i];
}

static void store_value_blocks(const GkEngine *e, void *slice, uint32_t at, const float *head) {
    size_t n = e->shape.head_size, n_blocks = kern_page_n_blocks(e->shape.head_size);
    struct blocks b;

    quantize_head(e, head, &b);
    (void)memcpy((int8_t *)slice + at * n, b.q, n);
    (void)memcpy(kern_page_scales(slice, e->shape.head_size) + at * n_blocks, b.scales,
                 n_blocks * sizeof(*b.scales));
}

static void store_key(const GkEngine *e, void *slice, uint32_t position, const float *head) {
    uint32_t n = e->shape.head_size, at = position % KV_PAGE_POSITIONS;
    uint16_t halves[HEAD_SIZE_MAX], *to = slice;

    if (e->kv.type == KERN_PAGE_F32) {
        for (uint32_t i = 0; i < n; i++)
            ((float *)slice)[i * KV_PAGE_POSITIONS + at] = head[i];
        return;
    }
    if (e->kv.type == KERN_PAGE_Q8_0) {
        store_key_blocks(e, slice, at, head);
        return;
    }
    e->kern->to_f16(head, halves, n);
    for (uint32_t i = 0; i < n; i++)
        to[i * KV_PAGE_POSITIONS + at] = halves[i];
}

static void store_value(const GkEngine *e, void *slice, uint32_t position, const float *head) {
    uint32_t n = e->shape.head_size, at = position % KV_PAGE_POSITIONS;

    if (e->kv.type == KERN_PAGE_F32)
        (void)memcpy((float *)slice + (size_t)at * n, head, n * sizeof(float));
    else if (e->kv.type == KERN_PAGE_Q8_0)
        store_value_blocks(e, slice, at, head);
    else
        e->kern->to_f16(head, (uint16_t *)slice + (size_t)at * n, n);
}

void attn_rotate_and_store(const GkEngine *e, uint32_t i_layer, uint32_t i_row,
                           uint32_t i_kv_head) {
    const Shape *s = &e->shape;
    const struct row *row = &e->scratch.rows[i_row];
    uint32_t page = row->seq->pages[row->position / KV_PAGE_POSITIONS], group = group_size(s);
    float *k = e->scratch.k + ((size_t)i_row * s->n_kv_heads + i_kv_head) * s->head_size;
    float *v = e->scratch.v + ((size_t)i_row * s->n_kv_heads + i_kv_head) * s->head_size;
    float *q = e->scratch.q + i_row * row_stride(s) + head_at(s, i_kv_head);
    float scale = e->manifest.attention_scale;

    if (scale == 0)
        scale = 1.0f / sqrtf((float)s->head_size);
    for (uint32_t i = 0; i < group; i++)
        rotate(e, i_row, q + (size_t)i * s->head_size);
    e->kern->scale(q, scale, (size_t)group * s->head_size);
    rotate(e, i_row, k);
    store_key(e, kv_keys(&e->kv, page, i_layer, i_kv_head), row->position, k);
    store_value(e, kv_values(&e->kv, page, i_layer, i_kv_head), row->position, v);
}

/* ---- attention ---- */

uint32_t attn_run_rows(const Shape *s) {
    return MAX((uint32_t)ATTEND_QUERIES / group_size(s), 1u);
}

/* The run's rows that see what is from `begin` on are its last ones. */
static uint32_t first_that_sees(const struct row *rows, const struct row_run *run, uint32_t begin) {
    uint32_t first = 0;

    while (rows[run->first + first].position < begin)
        first++;
    return first;
}

/* Those that see the page from `begin` on; *ret_seen: how much of it. */
static uint32_t rows_that_see_page(const struct row *rows, const struct row_run *run,
                                   uint32_t begin, uint32_t *ret_seen) {
    uint32_t first = first_that_sees(rows, run, begin);

    for (uint32_t i = first; i < run->n; i++)
        ret_seen[i] = MIN(rows[run->first + i].position + 1 - begin, (uint32_t)KV_PAGE_POSITIONS);
    return first;
}

/* The query heads of some rows that share a kv head, and what is known of them so far: that of row
 * i, head h is number i·group + h of max and sum, and at acc + i·row_stride + h·head_size. */
struct queries {
    uint32_t i_layer, i_kv_head;
    const struct row_run *run;
    float *acc, *max, *sum;
};

static uint32_t n_visible(const GkEngine *e, const struct row_run *run) {
    return e->scratch.rows[run->first + run->n - 1].position + 1;
}

static uint32_t n_spans(const GkEngine *e, const struct row_run *run) {
    return (n_visible(e, run) + KERN_SPAN_POSITIONS - 1) / KERN_SPAN_POSITIONS;
}

/* Of query number j. */
static size_t query_at(const Shape *s, uint32_t j) {
    return j / group_size(s) * row_stride(s) + (size_t)(j % group_size(s)) * s->head_size;
}

/* The pages of a span, folded for the rows that see them. */
static void attend_span(const GkEngine *e, const struct queries *t, uint32_t i_span,
                        void *scratch) {
    const Shape *s = &e->shape;
    const struct row_run *run = t->run;
    const struct row *rows = e->scratch.rows;
    uint32_t group = group_size(s), seen[KERN_QUERIES_MAX], first;
    uint32_t begin = i_span * KERN_SPAN_POSITIONS,
             end = MIN(begin + KERN_SPAN_POSITIONS, n_visible(e, run));
    const float *q = e->scratch.q + run->first * row_stride(s) + head_at(s, t->i_kv_head);
    const uint32_t *pages = rows[run->first].seq->pages;

    for (uint32_t i = first_that_sees(rows, run, begin); i < run->n; i++) {
        for (uint32_t j = i * group; j < (i + 1) * group; j++) {
            t->max[j] = -INFINITY;
            t->sum[j] = 0;
        }
        (void)memset(t->acc + i * row_stride(s), 0, (size_t)group * s->head_size * sizeof(float));
    }
    for (; begin < end; begin += KV_PAGE_POSITIONS) {
        uint32_t page = pages[begin / KV_PAGE_POSITIONS];
        bool more = begin + KV_PAGE_POSITIONS < end;
        uint32_t next = more ? pages[begin / KV_PAGE_POSITIONS + 1] : 0;

        first = rows_that_see_page(rows, run, begin, seen);
        e->kern->attend_page(&(struct kern_attend){
            .q = q + first * row_stride(s),
            .acc = t->acc + first * row_stride(s),
            .max = t->max + (size_t)first * group,
            .sum = t->sum + (size_t)first * group,
            .row_stride = row_stride(s),
            .n_rows = run->n - first,
            .n_heads = group,
            .head_size = s->head_size,
            .k = kv_keys(&e->kv, page, t->i_layer, t->i_kv_head),
            .v = kv_values(&e->kv, page, t->i_layer, t->i_kv_head),
            .next_k = more ? kv_keys(&e->kv, next, t->i_layer, t->i_kv_head) : NULL,
            .next_v = more ? kv_values(&e->kv, next, t->i_layer, t->i_kv_head) : NULL,
            .type = e->kv.type,
            .n_positions = seen + first,
            .cap = e->manifest.attention_cap,
            .scratch = scratch,
        });
    }
}

/* Span i_span of the rows that see it, added up into what they have so far. */
static void merge_span(const GkEngine *e, const struct queries *so_far, const struct queries *next,
                       uint32_t i_span) {
    const Shape *s = &e->shape;
    const struct row_run *run = so_far->run;
    uint32_t first = first_that_sees(e->scratch.rows, run, i_span * KERN_SPAN_POSITIONS);

    for (uint32_t j = first * group_size(s); j < run->n * group_size(s); j++) {
        struct kern_span a = {so_far->acc + query_at(s, j), so_far->max[j], so_far->sum[j]},
                         b = {next->acc + query_at(s, j), next->max[j], next->sum[j]};

        e->kern->attend_merge(&a, &b, s->head_size);
        so_far->max[j] = a.max;
        so_far->sum[j] = a.sum;
    }
}

/* What is known after the last span becomes the result. */
static void finish(const GkEngine *e, const struct queries *t) {
    const Shape *s = &e->shape;

    for (uint32_t j = 0; j < t->run->n * group_size(s); j++)
        e->kern->scale(t->acc + query_at(s, j), 1.0f / t->sum[j], s->head_size);
}

void attn_attend(const GkEngine *e, uint32_t i_layer, const struct row_run *run, uint32_t i_kv_head,
                 void *scratch) {
    size_t at = run->first * row_stride(&e->shape) + head_at(&e->shape, i_kv_head);
    float max[2][KERN_QUERIES_MAX], sum[2][KERN_QUERIES_MAX];
    struct queries so_far = {i_layer, i_kv_head, run, e->scratch.attended + at, max[0], sum[0]},
                   next = {i_layer, i_kv_head, run, e->scratch.span_acc + at, max[1], sum[1]};

    attend_span(e, &so_far, 0, scratch);
    for (uint32_t i = 1; i < n_spans(e, run); i++) {
        attend_span(e, &next, i, scratch);
        merge_span(e, &so_far, &next, i);
    }
    finish(e, &so_far);
}

/* ---- spans at the same time ---- */

uint32_t attn_plan_spans(const GkEngine *e, uint32_t n_runs) {
    uint32_t n_parts = 0, n = 0;

    /* Two tasks a thread: with fewer, one that is left over is waited for by most. */
    if (n_runs * e->shape.n_kv_heads >= 2 * gk_pool_n_threads(e->pool))
        return 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        struct row_run *run = &e->scratch.runs[i];

        run->first_part = n_parts;
        n_parts += n_spans(e, run) * run->n;
        n += n_spans(e, run);
        if (n_parts > e->info.n_rows_max)
            return 0;
    }
    return n > n_runs ? n : 0;
}

/* Of a run's span; numbers lie by kv heads. The first span's acc is where the result will be. */
static struct queries parts_of(const GkEngine *e, uint32_t i_layer, uint32_t i_kv_head,
                               const struct row_run *run, uint32_t i_span) {
    const Shape *s = &e->shape;
    size_t part = run->first_part + (size_t)i_span * run->n;
    size_t at = part * s->n_heads + (size_t)i_kv_head * run->n * group_size(s);
    float *acc = i_span == 0 ? e->scratch.attended + run->first * row_stride(s)
                             : e->scratch.span_acc + part * row_stride(s);

    return (struct queries){.i_layer = i_layer,
                            .i_kv_head = i_kv_head,
                            .run = run,
                            .acc = acc + head_at(s, i_kv_head),
                            .max = e->scratch.span_max + at,
                            .sum = e->scratch.span_sum + at};
}

void attn_attend_span(const GkEngine *e, uint32_t i_layer, uint32_t i_span, uint32_t i_kv_head,
                      void *scratch) {
    const struct row_run *run = e->scratch.runs;
    struct queries t;

    for (; i_span >= n_spans(e, run); run++)
        i_span -= n_spans(e, run);
    t = parts_of(e, i_layer, i_kv_head, run, i_span);
    attend_span(e, &t, i_span, scratch);
}

void attn_merge(const GkEngine *e, const struct row_run *run, uint32_t i_kv_head) {
    struct queries so_far = parts_of(e, 0, i_kv_head, run, 0);

    for (uint32_t i = 1; i < n_spans(e, run); i++) {
        struct queries next = parts_of(e, 0, i_kv_head, run, i);

        merge_span(e, &so_far, &next, i);
    }
    finish(e, &so_far);
}
