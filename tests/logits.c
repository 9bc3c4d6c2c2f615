/*
 * build/tests/logits MODEL: reads lines of token ids on standard input and writes every position's
 * logits as raw float32 on standard output, line after line.
 *
 *   --threads N     compute threads
 *   --slice N       prompt rows a step (default: as many as a step takes)
 *   --isa NAME      kernel tier
 *   --company N     other sequences run in the same steps
 *   --kv f16|f32|q8_0  type of the KV cache
 *   --exact         own kernels for float weights
 */
#include "base/alloc.h"
#include "engine/engine.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define COMPANY_MAX      63
#define COMPANY_KV_BYTES (64ull << 30) /* address space: what no sequence uses takes no memory */

struct run {
    GkEngine *engine;
    uint32_t n_company, n_slice;
    GkSeq *watched; /* whose logits are written */
};

_Noreturn static void die(const char *what, const Error *error) {
    (void)fprintf(stderr, "logits: %s%s%s\n", what, error ? ": " : "", error ? error->text : "");
    exit(1);
}

static void on_row(void *userdata, const GkSeq *seq, const char *name, int i_layer, size_t position,
                   const float *values, size_t n) {
    const struct run *run = userdata;

    (void)i_layer;
    (void)position;
    if (seq == run->watched && strcmp(name, "logits") == 0 &&
        fwrite(values, sizeof(float), n, stdout) != n)
        die("can't write", NULL);
}

static GkSeq *make(const struct run *run, const int32_t *tokens, size_t n) {
    struct gk_params params = gk_params_default();
    Error error = ERROR_INIT;
    GkSeq *seq;

    params.mode = GK_SCORE;
    if (gk_seq_new(&seq, run->engine, tokens, n, &params, &error) != 0)
        die("can't make a sequence", &error);
    return seq;
}

/* Company has other tokens, and lengths that make it end at other times. */
static GkSeq *make_company(const struct run *run, uint32_t i, size_t n) {
    const struct gk_model_info *info = gk_engine_info(run->engine);
    CLEANUP(freep) int32_t *tokens = NULL;

    n = 1 + (n * (i + 2) / 3 + i) % info->n_context_max;
    tokens = alloc_array(n, sizeof(*tokens));
    if (!tokens)
        die("out of memory", NULL);
    for (size_t j = 0; j < n; j++)
        tokens[j] = (int32_t)((j * 31 + i * 17 + 7) % info->n_vocab);
    return make(run, tokens, n);
}

static void run_line(struct run *run, const int32_t *tokens, size_t n) {
    const struct gk_model_info *info = gk_engine_info(run->engine);
    struct gk_plan_row rows[COMPANY_MAX + 1];
    struct gk_result results[COMPANY_MAX + 1];
    GkSeq *seqs[COMPANY_MAX + 1];
    uint32_t n_seqs = run->n_company + 1;

    for (uint32_t i = 0; i < run->n_company; i++)
        seqs[i] = make_company(run, i, n);
    seqs[run->n_company] = run->watched = make(run, tokens, n);
    while (gk_seq_n_pending(run->watched) > 0) {
        uint32_t budget = info->n_rows_max, n_plan = 0;

        for (uint32_t i = 0; i < n_seqs; i++) {
            size_t pending = gk_seq_n_pending(seqs[i]);
            uint32_t kept = MIN(n_seqs - 1 - i, budget - 1); /* a row for each that comes after */
            uint32_t take = (uint32_t)MIN(pending, (size_t)(budget - kept));

            take = run->n_slice ? MIN(take, run->n_slice) : take;
            if (take == 0 || pending == 0)
                continue;
            rows[n_plan++] = (struct gk_plan_row){.seq = seqs[i], .n_rows = take};
            budget -= take;
        }
        if (gk_step(run->engine, &(struct gk_plan){.rows = rows, .n = n_plan}, results) != 0)
            die("the model file failed", NULL);
    }
    for (uint32_t i = 0; i < n_seqs; i++)
        (void)gk_seq_free(seqs[i]);
}

static size_t parse_line(char *line, int32_t *tokens) {
    size_t n = 0;

    for (char *at = strtok(line, " \t\r\n,"); at; at = strtok(NULL, " \t\r\n,"))
        tokens[n++] = (int32_t)strtol(at, NULL, 10);
    return n;
}

static int run_all(struct run *run) {
    CLEANUP(freep) char *line = NULL;
    size_t capacity = 0;
    ssize_t length;

    while ((length = getline(&line, &capacity, stdin)) > 0) {
        CLEANUP(freep) int32_t *tokens = alloc_array((size_t)length / 2 + 1, sizeof(*tokens));
        size_t n;

        if (!tokens)
            die("out of memory", NULL);
        n = parse_line(line, tokens);
        if (n > 0)
            run_line(run, tokens, n);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

static int usage(void) {
    (void)fprintf(
        stderr,
        "Usage: logits [--threads N] [--slice N] [--isa NAME] [--company N] [--kv f16|f32|q8_0] "
        "[--exact] MODEL\n");
    return 2;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'},
        {"slice", required_argument, NULL, 's'},
        {"isa", required_argument, NULL, 'i'},
        {"company", required_argument, NULL, 'c'},
        {"kv", required_argument, NULL, 'k'},
        {"exact", no_argument, NULL, 'e'},
        {NULL, 0, NULL, 0},
    };
    struct gk_options o = {
        .kv_bytes_max = 0, .n_sequences_max = COMPANY_MAX + 1, .n_rows_max = 1024};
    struct run run = {0};
    Error error = ERROR_INIT;
    unsigned n_threads = 0;
    int c, r;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 't':
            n_threads = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 's':
            run.n_slice = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'i':
            o.isa = optarg;
            break;
        case 'c':
            run.n_company = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'k':
            if (strcmp(optarg, "f16") != 0 && strcmp(optarg, "f32") != 0 &&
                strcmp(optarg, "q8_0") != 0)
                return usage();
            o.kv_type = optarg[0] == 'q'             ? GK_KV_Q8_0
                        : strcmp(optarg, "f32") == 0 ? GK_KV_F32
                                                     : GK_KV_F16;
            break;
        case 'e':
            o.exact_floats = true;
            break;
        default:
            return usage();
        }
    }
    if (optind + 1 != argc || run.n_company > COMPANY_MAX)
        return usage();
    if (run.n_company > 0)
        o.kv_bytes_max = COMPANY_KV_BYTES;
    o.path = argv[optind];
    if (gk_pool_new(&o.pool, n_threads, &error) != 0)
        die("can't start threads", &error);
    if (gk_engine_open(&run.engine, &o, &error) != 0)
        die("can't open the model", &error);
    gk_engine_observe(run.engine, &(struct gk_observer){.on_row = on_row, .userdata = &run});
    r = run_all(&run);
    run.engine = gk_engine_close(run.engine);
    o.pool = gk_pool_free(o.pool);
    return r;
}
