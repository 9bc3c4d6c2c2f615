/* The boundary: opening and closing, and what gk_step() does around the forward pass. See engine.h.
 */
#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/attn.h"
#include "engine/bind.h"
#include "engine/info.h"
#include "engine/internal.h"
#include "engine/memory.h"
#include "engine/seq.h"
#include "engine/step.h"
#include "engine/text/chat.h"

#include <errno.h>
#include <string.h>

#define ROWS_DEFAULT      512
#define ROWS_MAX          65536
#define SEQUENCES_DEFAULT 64
#define SEQUENCES_MAX     65536

/* ---- opening ---- */

static int set_limits(GkEngine *e, const struct gk_options *o, Error *reterr) {
    struct gk_model_info *i = &e->info;
    uint64_t kv_bytes = o->kv_bytes_max;
    int r;

    i->kv_type = gk_kv_type_names[o->kv_type];
    i->n_rows_max = o->n_rows_max ? o->n_rows_max : ROWS_DEFAULT;
    i->n_sequences_max = o->n_sequences_max ? o->n_sequences_max : SEQUENCES_DEFAULT;
    i->n_context_max =
        o->n_context_max ? MIN(o->n_context_max, e->shape.n_context) : e->shape.n_context;
    if (i->n_rows_max > ROWS_MAX)
        return error_set(reterr, GK_E_INVALID, "%u rows a step are more than %d", i->n_rows_max,
                         ROWS_MAX);
    if (i->n_sequences_max > SEQUENCES_MAX)
        return error_set(reterr, GK_E_INVALID, "%u sequences are more than %d", i->n_sequences_max,
                         SEQUENCES_MAX);
    if (kv_bytes == 0)
        kv_bytes = kv_bytes_per_position(&e->shape, o->kv_type) *
                   ((uint64_t)(i->n_context_max + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS *
                    KV_PAGE_POSITIONS);
    if ((r = kv_pool_init(&e->kv, &e->shape, o->kv_type, kv_bytes, o->hugepages, reterr)) != 0)
        return r;
    return prefix_init(&e->prefixes, &e->kv, o->prefix_cache, reterr);
}

static int check_vocab(const GkEngine *e, Error *reterr) {
    if (tokenizer_n_vocab(e->tokenizer) == e->shape.n_vocab)
        return 0;
    return error_set(reterr, GK_E_FILE,
                     "the tokenizer has %u pieces, but tensor token_embd.weight has %u rows",
                     tokenizer_n_vocab(e->tokenizer), e->shape.n_vocab);
}

static bool ends_generation(const void *tokenizer, int32_t token) {
    return tokenizer_is_eog(tokenizer, token);
}

/* With preload, what has its home on a node is read there. */
static int read_file(GkEngine *e, const struct gk_options *o, Error *reterr) {
    CLEANUP(homes_freep) Homes *homes = NULL;
    int r = 0;

    if (o->preload && pool_n_nodes(e->pool) > 1) {
        homes = homes_new(&e->shape, &e->weights, e->pool);
        if (!homes)
            return error_set(reterr, -ENOMEM, "out of memory");
        r = homes_preload(homes, e->file, o->on_progress, o->userdata, reterr);
    } else if (o->preload && !model_file_preload(e->file, o->on_progress, o->userdata)) {
        r = error_set(reterr, -ECANCELED, "loading was given up");
    }
    if (r != 0)
        return r;
    if (o->lock)
        model_file_lock(e->file);
    memory_of_file(e->file, homes, &e->info.memory);
    if (model_file_is_lost(e->file))
        return error_set(reterr, GK_E_FILE, "the file changed or failed while it was read");
    return 0;
}

static int open_parts(GkEngine *e, const struct gk_options *o, Error *reterr) {
    int r;

    e->kern = kern_select(o->isa);
    if (!e->kern) {
        const char *refused = kern_isa_refused();

        return error_set(reterr, GK_E_INVALID,
                         "this CPU has no instruction set '%s', or there is none of that name%s%s",
                         o->isa, refused ? "; " : "", refused ? refused : "");
    }
    if ((r = model_file_open(&e->file, o->path, reterr)) != 0)
        return r;
    if (o->hugepages)
        model_file_ask_huge(e->file);
    if ((r = bind_shape(e->file, &e->manifest, &e->shape, reterr)) != 0 ||
        (r = bind_weights(e->file, &e->manifest, &e->shape, &e->weights, reterr)) != 0 ||
        (r = tokenizer_from_gguf(&e->tokenizer, e->file, reterr)) != 0 ||
        (r = check_vocab(e, reterr)) != 0 || (r = set_limits(e, o, reterr)) != 0)
        return r;
    r = scratch_init(&e->scratch, &e->shape, &e->weights, e->info.n_rows_max, e->pool, reterr);
    if (r != 0)
        return r;
    automaton_cache_init(&e->automata, tokenizer_vocab(e->tokenizer), ends_generation,
                         e->tokenizer);
    r = info_init(e);
    if (r != 0)
        return error_set(reterr, r, "out of memory");
    return read_file(e, o, reterr);
}

int gk_engine_open(GkEngine **ret, const struct gk_options *options, Error *reterr) {
    CLEANUP(gk_engine_closep) GkEngine *e = alloc_new(GkEngine);
    char shown[192];
    int r;

    if (!e)
        return error_set(reterr, -ENOMEM, "out of memory");
    list_init(&e->sequences);
    e->pool = options->pool;
    e->exact_floats = options->exact_floats;
    r = open_parts(e, options, reterr);
    if (r != 0) {
        if (e->file) /* the reader names it itself */
            error_prefix(
                reterr, "%s",
                utf8_printable(shown, sizeof(shown), options->path, strlen(options->path)));
        return r;
    }
    *ret = take_ptr(e);
    return 0;
}

GkEngine *gk_engine_close(GkEngine *e) {
    if (!e)
        return NULL;
    assert(list_is_empty(&e->sequences));
    scratch_deinit(&e->scratch, gk_pool_n_threads(e->pool));
    prefix_deinit(&e->prefixes);
    kv_pool_deinit(&e->kv);
    weights_deinit(&e->weights);
    automaton_cache_deinit(&e->automata);
    (void)tokenizer_free(e->tokenizer);
    (void)model_file_close(e->file);
    for (size_t i = 0; i < ARRAY_SIZE(e->strings); i++)
        free(e->strings[i]);
    free(e);
    return NULL;
}

/* ---- immutable ---- */

const struct gk_model_info *gk_engine_info(const GkEngine *e) {
    return &e->info;
}

uint64_t gk_engine_kv_untouched(const GkEngine *e) {
    uint32_t n = atomic_load_explicit(&e->kv.n_touched, memory_order_relaxed);

    return (e->kv.n_pages - n) * (uint64_t)e->kv.page_bytes;
}

bool gk_engine_is_lost(const GkEngine *e) {
    return atomic_load_explicit(&e->lost, memory_order_acquire) || model_file_is_lost(e->file);
}

int gk_tokenize(const GkEngine *e, const char *text, size_t n_text, unsigned flags, size_t n_max,
                int32_t **ret_tokens, size_t *ret_n, Error *reterr) {
    return tokenizer_encode(e->tokenizer, text, n_text, flags, n_max, ret_tokens, ret_n, reterr);
}

int gk_tokenize_chat(const GkEngine *e, const char *template, const struct gk_message *messages,
                     size_t n_messages, unsigned flags, size_t n_max, struct gk_chat_prompt *ret,
                     Error *reterr) {
    return chat_encode(e->tokenizer, template, messages, n_messages, flags, n_max, ret, reterr);
}

int gk_detokenize(const GkEngine *e, const int32_t *tokens, size_t n, bool control, char **ret_text,
                  size_t *ret_n, Error *reterr) {
    return tokenizer_decode(e->tokenizer, tokens, n, control, ret_text, ret_n, reterr);
}

const char *gk_token_text(const GkEngine *e, int32_t token, size_t *ret_n) {
    return tokenizer_piece(e->tokenizer, token, ret_n);
}

unsigned gk_isa_available(void) {
    return kern_isa_available();
}

const char *const *gk_isa_names(void) {
    return kern_isa_names();
}

const char *gk_isa_refused(void) {
    return kern_isa_refused();
}

uint64_t gk_engine_heartbeat(const GkEngine *e) {
    return atomic_load_explicit(&e->heartbeat, memory_order_relaxed);
}

void gk_engine_kv_pages(const GkEngine *e, uint64_t *ret_free, uint64_t *ret_total) {
    *ret_free = prefix_n_available(&e->prefixes);
    *ret_total = e->kv.n_pages;
}

void gk_engine_observe(GkEngine *e, const struct gk_observer *observer) {
    e->observer = observer ? *observer : (struct gk_observer){0};
}

/* ---- products ---- */

void engine_mul(const GkEngine *e, const struct weight *w, uint32_t begin,
                const struct kern_mul *m) {
    struct kern_mul part = *m;

    part.w = w->data + begin * w->row_bytes;
    part.row_bytes = w->row_bytes;
    if (kern_types[w->type].act == ACT_F32 && !e->exact_floats &&
        m->n_rows >= e->kern->gemm_rows_min)
        kern_gemm_float(e->kern, w->type, &part);
    else
        e->kern->mul[w->type](&part);
}

/* ---- the step ---- */

static void fill_rows(GkEngine *e, const struct gk_plan_row *plan, struct forward *f) {
    GkSeq *seq = plan->seq;

    assert(seq->engine == e && plan->n_rows > 0 && gk_seq_n_pending(seq) > 0 &&
           plan->n_rows <= gk_seq_n_pending(seq) + seq->n_drafts);
    assert(plan->n_rows <= e->info.n_rows_max - f->n_rows);
    seq_take_pages(seq, seq->n_done + plan->n_rows);
    seq_begin_step(seq);
    for (uint32_t i = 0; i < plan->n_rows; i++) {
        size_t position = seq->n_done + i;

        e->scratch.rows[f->n_rows++] =
            (struct row){.seq = seq,
                         .position = (uint32_t)position,
                         .token = seq->tokens[position],
                         .is_drafted = seq_is_drafted(seq, position),
                         .wants_logits = seq_wants_logits(seq, position),
                         .wants_hidden = seq_wants_hidden(seq, position)};
        f->has_embeddings |= seq_wants_hidden(seq, position);
    }
}

/* The last n rows, cut into runs. */
static void fill_runs(GkEngine *e, uint32_t n, struct forward *f) {
    for (uint32_t n_run; n > 0; n -= n_run) {
        n_run = MIN(n, attn_run_rows(&e->shape));
        e->scratch.runs[f->n_runs++] = (struct row_run){.first = f->n_rows - n, .n = n_run};
    }
}

static int fail_all(GkEngine *e, const struct gk_plan *plan, struct gk_result *ret_results) {
    atomic_store_explicit(&e->lost, true, memory_order_release);
    for (size_t i = 0; i < plan->n; i++) {
        seq_begin_step(plan->rows[i].seq); /* what came of it is nothing */
        plan->rows[i].seq->finish = GK_FINISH_FAILED;
        ret_results[i] = (struct gk_result){
            .seq = plan->rows[i].seq, .finish = GK_FINISH_FAILED, .text = "", .stop = ""};
    }
    return GK_E_DATA_LOSS;
}

int gk_step(GkEngine *e, const struct gk_plan *plan, struct gk_result *ret_results) {
    struct forward f = {.engine = e};

    if (gk_engine_is_lost(e))
        return fail_all(e, plan, ret_results);
    for (size_t i = 0; i < plan->n; i++) {
        fill_rows(e, &plan->rows[i], &f);
        fill_runs(e, plan->rows[i].n_rows, &f);
    }
    for (uint32_t i = 0; i < f.n_rows; i++)
        if (e->scratch.rows[i].wants_logits || e->observer.on_row)
            e->scratch.logit_rows[f.n_logit_rows++] = i;
    f.n_spans = attn_plan_spans(e, f.n_runs);
    if (f.n_rows > 0)
        pool_run(e->pool, step_forward, &f);
    if (gk_engine_is_lost(e))
        return fail_all(e, plan, ret_results);
    for (size_t i = 0; i < plan->n; i++)
        seq_finish_step(plan->rows[i].seq, plan->rows[i].n_rows, &ret_results[i]);
    return 0;
}
