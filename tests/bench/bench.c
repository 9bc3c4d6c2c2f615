/*
 * build/bench: how fast a model file runs here, and what share of the machine's limits that is.
 *
 * Prefill: tokens a second from an empty cache to the first sampled token. Decode: tokens a second
 * of one sequence after so many positions of context. Batch: tokens a second of B sequences that
 * decode together. Drafts: tokens a second of one sequence with up to K drafted rows in each step,
 * without asking whether they pay, and without. Each figure is the median of --repeat runs. The
 * roofs (roof.h) are measured first, and again after each run, because clocks and neighbours
 * change: a run's share is taken of the mean of the two beside it. The share of a decode is bytes
 * that had to be read against the read bandwidth, that of a prefill the multiply-adds against the
 * int8 peak, and that of a batch is taken against whichever binds.
 *
 * What can't be measured is refused, with status 2, before anything is: a figure in the middle that
 * fails would take with it those that took minutes.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "tests/bench/arguments.h"
#include "tests/bench/barrier.h"
#include "tests/bench/median.h"
#include "tests/bench/roof.h"
#include "tests/util/proc.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define LIST_MAX      16
#define REPEAT_MAX    64
#define BATCH_MAX     256
#define NUMBER_MAX    (1u << 20) /* of tokens, rows: far more than is of use */
#define BATCH_CONTEXT 8
#define SPARE_TOKENS  2 /* one warms up, and one more never comes, so that no sequence ends */

struct list {
    uint32_t values[LIST_MAX];
    size_t n;
};

struct arguments {
    const char *model, *isa;
    unsigned n_threads, n_repeat;
    struct list prefill, context, batch, speculate;
    uint32_t n_decode, n_rows_max;
    enum gk_kv_type kv_type;
    bool same_tokens, json;
};

struct roofs {
    double read_bytes_per_second, int8_ops_per_second;
};

struct bench {
    const struct arguments *arguments;
    GkPool *pool;
    GkEngine *engine;
    const struct gk_model_info *info;
    unsigned n_threads;
    struct roofs roofs; /* at the beginning */
    double f32_ops_per_second;
    struct roofs latest; /* measured after the last run */
    struct roofs beside; /* of that run: the means of those before and after it */
    double load_seconds;
    uint32_t n_done;   /* seeds the prompts, so that no two runs have the same tokens */
    uint32_t n_period; /* after so many tokens they repeat themselves */
    float temperature;
};

static double now(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

_Noreturn static void die(const char *what, const Error *error) {
    (void)fprintf(stderr, "bench: %s%s%s\n", what, error ? ": " : "", error ? error->text : "");
    exit(1);
}

/* ---- what the roofs allow ---- */

/* Expected share of the experts that n independent tokens touch. */
static double expert_share(const struct gk_model_info *info, double n) {
    double used;

    if (info->n_experts == 0)
        return 1;
    used = (double)info->n_experts_used / info->n_experts;
    return (1 - pow(1 - used, n));
}

/* Bytes of weights read in a step of rows with n different tokens. */
static double step_bytes(const struct gk_model_info *info, double n) {
    double active = (double)info->n_active_bytes, expert_parameters, expert_bytes;

    if (info->n_experts == 0)
        return active;
    expert_parameters = (double)info->n_parameters_per_expert * info->n_experts_used;
    expert_bytes = active * expert_parameters / (double)info->n_parameters_active;
    return active - expert_bytes +
           expert_bytes * expert_share(info, n) * info->n_experts / info->n_experts_used;
}

/* Operations of a row whose token is sampled. */
static double row_ops(const struct gk_model_info *info) {
    return 2 * (double)info->n_parameters_active;
}

/* Of a prompt: its last row alone goes through the output head, and through what follows the last
 * layer's keys and values. */
static double prompt_ops(const struct gk_model_info *info, uint32_t n) {
    double head = (double)info->n_vocab * info->n_embd;
    double attention_output = (double)info->n_heads * info->head_size * info->n_embd;
    double feed_forward = 3.0 * info->n_embd * info->n_ff * MAX(info->n_experts_used, 1u);
    double once = 2 * (head + attention_output + feed_forward);

    return n * (row_ops(info) - once) + once;
}

static double step_seconds_at_roof(const struct bench *b, double n_rows, double context) {
    double bytes = step_bytes(b->info, b->arguments->same_tokens ? 1 : n_rows) +
                   n_rows * context * (double)b->info->n_kv_bytes_per_token;
    double ops = n_rows * row_ops(b->info);

    return MAX(bytes / b->beside.read_bytes_per_second, ops / b->beside.int8_ops_per_second);
}

static struct roofs measure_roofs(const struct bench *b, unsigned n_threads) {
    return (struct roofs){roof_read(n_threads), roof_int8(n_threads, b->arguments->isa)};
}

/* After each run. */
static void measure_beside(struct bench *b) {
    struct roofs before = b->latest;

    b->latest = measure_roofs(b, b->n_threads);
    b->beside.read_bytes_per_second =
        (before.read_bytes_per_second + b->latest.read_bytes_per_second) / 2;
    b->beside.int8_ops_per_second =
        (before.int8_ops_per_second + b->latest.int8_ops_per_second) / 2;
}

/* ---- runs ---- */

static GkSeq *make_sequence(struct bench *b, uint32_t n_prompt, uint32_t n_generate) {
    CLEANUP(freep) int32_t *tokens = alloc_array(n_prompt, sizeof(*tokens));
    struct gk_params params = gk_params_default();
    Error error = ERROR_INIT;
    GkSeq *seq;

    if (!tokens)
        die("out of memory", NULL);
    /* The router sees something new each time: a fixed stride through the vocabulary, moved on. */
    for (uint32_t i = 0; i < n_prompt; i++)
        tokens[i] =
            (int32_t)((i % b->n_period * 7919ull + b->n_done * 104729ull + 13) % b->info->n_vocab);
    b->n_done++;
    params.n_tokens_max = n_generate;
    params.ignore_eos = true;
    params.temperature = b->temperature;
    params.speculate = true;
    if (gk_seq_new(&seq, b->engine, tokens, n_prompt, &params, &error) != 0)
        die("can't make a sequence", &error);
    return seq;
}

static void step(struct bench *b, GkSeq **seqs, uint32_t n_seqs) {
    struct gk_plan_row rows[BATCH_MAX];
    struct gk_result results[BATCH_MAX];
    uint32_t budget = b->info->n_rows_max, n = 0;

    for (uint32_t i = 0; i < n_seqs && budget > 0; i++) {
        uint32_t pending = (uint32_t)MIN(gk_seq_n_pending(seqs[i]), (size_t)budget);

        if (pending == 0)
            continue;
        rows[n++] = (struct gk_plan_row){.seq = seqs[i], .n_rows = pending};
        budget -= pending;
    }
    if (gk_step(b->engine, &(struct gk_plan){.rows = rows, .n = n}, results) != 0)
        die("the model file failed", NULL);
}

static double run_prefill(struct bench *b, uint32_t n) {
    CLEANUP(gk_seq_freep) GkSeq *seq = make_sequence(b, n, 1);
    double begin = now();

    while (gk_seq_n_pending(seq) > 0)
        step(b, &seq, 1);
    return n / (now() - begin);
}

/* n_seqs sequences, of which a step has room for all, decode n tokens each after `context`
 * positions. */
static double run_decode(struct bench *b, uint32_t n_seqs, uint32_t context, uint32_t n) {
    uint32_t n_done = b->n_done;
    GkSeq *seqs[BATCH_MAX];
    double seconds;

    for (uint32_t i = 0; i < n_seqs; i++) {
        if (b->arguments->same_tokens)
            b->n_done = n_done;
        seqs[i] = make_sequence(b, MAX(context, 1u), n + SPARE_TOKENS);
        while (gk_seq_n_pending(seqs[i]) > 1 || context == 0) {
            step(b, &seqs[i], 1);
            if (gk_seq_n_pending(seqs[i]) <= 1)
                break;
        }
    }
    step(b, seqs, n_seqs); /* caches and clocks are warm */
    seconds = now();
    for (uint32_t i = 0; i < n; i++)
        step(b, seqs, n_seqs);
    seconds = now() - seconds;
    for (uint32_t i = 0; i < n_seqs; i++)
        (void)gk_seq_free(seqs[i]);
    return (double)n_seqs * n / seconds;
}

/* ---- drafts ---- */

#define DRAFT_PROMPT       64
#define DRAFT_TOKENS_MAX   4096
#define DRAFT_SPARE_TOKENS (GK_DRAFT_MAX + 1) /* the last step may give so many more */

/* What is drafted in a text: the tokens that came without drafts, or what the engine finds. */
static const struct draft_text {
    const char *name;
    bool is_known;
    uint32_t n_period;
    float temperature;
} draft_texts[] = {
    {"known", true, UINT32_MAX, 1},
    {"repeating", false, 8, 0},
    {"other", false, UINT32_MAX, 1},
};

struct draft_run {
    int32_t tokens[DRAFT_TOKENS_MAX + GK_DRAFT_MAX];
    uint32_t n, n_drafted, n_accepted;
    double seconds;
};

/* k 0: without drafts. */
static void draft_step(struct bench *b, GkSeq *seq, uint32_t k, const struct draft_run *known,
                       struct draft_run *run) {
    struct gk_plan_row row = {.seq = seq, .n_rows = (uint32_t)gk_seq_n_pending(seq)};
    struct gk_result result;
    size_t n_drafts = known ? gk_seq_set_draft(seq, known->tokens + run->n, known->n - run->n)
                            : gk_seq_draft(seq);

    n_drafts = MIN(n_drafts, (size_t)k);
    row.n_rows += (uint32_t)n_drafts;
    if (gk_step(b->engine, &(struct gk_plan){.rows = &row, .n = 1}, &result) != 0)
        die("the model file failed", NULL);
    run->n_drafted += (uint32_t)n_drafts;
    run->n_accepted += (uint32_t)result.n_more;
    do
        run->tokens[run->n++] = result.token;
    while (gk_seq_next_result(seq, &result));
}

static void run_drafts(struct bench *b, uint32_t k, const struct draft_run *known,
                       struct draft_run *ret) {
    uint32_t n = b->arguments->n_decode;
    CLEANUP(gk_seq_freep) GkSeq *seq = make_sequence(b, DRAFT_PROMPT, n + DRAFT_SPARE_TOKENS);
    double begin;

    ret->n = ret->n_drafted = ret->n_accepted = 0;
    while (gk_seq_n_pending(seq) > 1)
        step(b, &seq, 1);
    begin = now();
    while (ret->n < n)
        draft_step(b, seq, k, known, ret);
    ret->seconds = now() - begin;
}

/* The same text without and with drafts, as often as all is repeated. */
static void bench_draft(struct bench *b, json_t *rows, uint32_t k, const struct draft_text *text) {
    static struct draft_run plain, drafted;
    double without[REPEAT_MAX], with[REPEAT_MAX];
    unsigned n_repeat = b->arguments->n_repeat;

    b->n_period = text->n_period;
    b->temperature = text->temperature;
    for (unsigned r = 0; r < n_repeat; r++) {
        run_drafts(b, 0, NULL, &plain);
        b->n_done--; /* the same again */
        run_drafts(b, k, text->is_known ? &plain : NULL, &drafted);
        if (memcmp(plain.tokens, drafted.tokens, b->arguments->n_decode * sizeof(int32_t)) != 0)
            die("drafts changed the text", NULL);
        without[r] = plain.n / plain.seconds;
        with[r] = drafted.n / drafted.seconds;
    }
    json_array_append_new(rows, json_pack("{s:I, s:s, s:f, s:f, s:I, s:I}", "drafts", (json_int_t)k,
                                          "text", text->name, "plain_tokens_per_second",
                                          median(without, n_repeat), "tokens_per_second",
                                          median(with, n_repeat), "drafted_tokens",
                                          (json_int_t)drafted.n_drafted, "accepted_tokens",
                                          (json_int_t)drafted.n_accepted));
    if (!b->arguments->json)
        (void)printf("  drafts %2u, %-9s  %9.2f tokens/s   without %9.2f   %u of %u right\n", k,
                     text->name, median(with, n_repeat), median(without, n_repeat),
                     drafted.n_accepted, drafted.n_drafted);
    (void)fflush(stdout);
}

static json_t *bench_drafts(struct bench *b) {
    json_t *rows = json_array();

    for (size_t i = 0; b->arguments->n_decode > 0 && i < b->arguments->speculate.n; i++)
        for (size_t j = 0; j < ARRAY_SIZE(draft_texts); j++)
            bench_draft(b, rows, b->arguments->speculate.values[i], &draft_texts[j]);
    return rows;
}

static uint64_t resident_bytes(const char *which) {
    int64_t kib = proc_number("/proc/self/status", which);

    return kib > 0 ? (uint64_t)kib * 1024 : 0;
}

/* ---- output ---- */

/* What --repeat runs gave. */
struct results {
    double rates[REPEAT_MAX]; /* tokens a second */
    double shares[REPEAT_MAX];
    size_t n;
};

static void add_result(struct results *r, double rate, double roof) {
    r->rates[r->n] = rate;
    r->shares[r->n++] = rate / roof;
}

static void add_row(const struct bench *b, json_t *rows, const char *key, uint32_t value,
                    struct results *r) {
    double rate = median(r->rates, r->n), share = median(r->shares, r->n);

    json_array_append_new(rows, json_pack("{s:I, s:f, s:f}", key, (json_int_t)value,
                                          "tokens_per_second", rate, "share_of_roof", share));
    if (!b->arguments->json)
        (void)printf("  %-10s %6u   %9.2f tokens/s   %5.1f %% of the roof\n", key, value, rate,
                     100 * share);
    (void)fflush(stdout);
}

static json_t *bench_prefill(struct bench *b) {
    json_t *rows = json_array();

    if (b->arguments->prefill.n > 0) {
        (void)run_prefill(b, b->arguments->prefill.values[0]); /* pages and clocks are warm */
        measure_beside(b);
    }
    for (size_t i = 0; i < b->arguments->prefill.n; i++) {
        uint32_t n = b->arguments->prefill.values[i];
        struct results results = {.n = 0};

        while (results.n < b->arguments->n_repeat) {
            double rate = run_prefill(b, n);

            measure_beside(b);
            add_result(&results, rate, n * b->beside.int8_ops_per_second / prompt_ops(b->info, n));
        }
        add_row(b, rows, "tokens", n, &results);
    }
    return rows;
}

/* n sequences that decode together after so much context. */
static void bench_steps(struct bench *b, json_t *rows, const char *key, uint32_t value, uint32_t n,
                        uint32_t context, uint32_t n_tokens) {
    struct results results = {.n = 0};

    while (results.n < b->arguments->n_repeat) {
        double rate = run_decode(b, n, context, n_tokens);

        measure_beside(b);
        add_result(&results, rate, n / step_seconds_at_roof(b, n, context));
    }
    add_row(b, rows, key, value, &results);
}

static json_t *bench_decode(struct bench *b) {
    json_t *rows = json_array();

    for (size_t i = 0; b->arguments->n_decode > 0 && i < b->arguments->context.n; i++) {
        uint32_t context = b->arguments->context.values[i];

        bench_steps(b, rows, "context", context, 1, context, b->arguments->n_decode);
    }
    return rows;
}

/* Batches are measured without --decode, too. */
static uint32_t batch_tokens(const struct arguments *a) {
    return MAX(a->n_decode, 4u);
}

static json_t *bench_batch(struct bench *b) {
    json_t *rows = json_array();

    for (size_t i = 0; i < b->arguments->batch.n; i++) {
        uint32_t n = b->arguments->batch.values[i];

        bench_steps(b, rows, "sequences", n, n, BATCH_CONTEXT, batch_tokens(b->arguments));
    }
    return rows;
}

static void print_head(const struct bench *b) {
    const struct gk_model_info *i = b->info;

    (void)printf("%s: %s, %u layers, %s, %.2f GB\n", b->arguments->model, i->architecture,
                 i->n_layers, i->weight_types, (double)i->n_file_bytes / 1e9);
    (void)printf("%u threads, %s; loaded in %.2f s\n", b->n_threads, i->isa, b->load_seconds);
}

/* Of 1, 2, 4 … and all threads: the roofs, and what it costs them to meet. */
static json_t *bench_teams(const struct bench *b) {
    json_t *rows = json_array();
    Error error = ERROR_INIT;

    for (unsigned n = 1;; n = MIN(2 * n, b->n_threads)) {
        bool is_all = n == b->n_threads;
        struct roofs roofs = is_all ? b->roofs : measure_roofs(b, n);
        double f32 = is_all ? b->f32_ops_per_second : roof_f32(n, b->arguments->isa), barrier;
        GkPool *pool;

        if (gk_pool_new(&pool, n, &error) != 0)
            die("can't start threads", &error);
        barrier = barrier_seconds(pool);
        (void)gk_pool_free(pool);
        (void)json_array_append_new(
            rows,
            json_pack("{s:i, s:f, s:f, s:f, s:f}", "threads", (int)n, "read_bytes_per_second",
                      roofs.read_bytes_per_second, "int8_ops_per_second", roofs.int8_ops_per_second,
                      "f32_ops_per_second", f32, "barrier_seconds", barrier));
        if (!b->arguments->json)
            (void)printf("  %-10s %6u   %9.1f GB/s read   %.3f TOPS int8   %.3f TFLOPS f32   "
                         "%.0f ns a barrier\n",
                         "threads", n, roofs.read_bytes_per_second / 1e9,
                         roofs.int8_ops_per_second / 1e12, f32 / 1e12, barrier * 1e9);
        if (is_all)
            return rows;
    }
}

static json_t *roofs_json(const struct bench *b, json_t *teams) {
    return json_pack("{s:i, s:f, s:f, s:f, s:o}", "threads", (int)b->n_threads,
                     "read_bytes_per_second", b->roofs.read_bytes_per_second, "int8_ops_per_second",
                     b->roofs.int8_ops_per_second, "f32_ops_per_second", b->f32_ops_per_second,
                     "teams", teams);
}

/* Of the KV cache what sequences have come to; of its last huge page more may be resident. */
static uint64_t kv_bytes(const struct bench *b) {
    return b->info->n_kv_bytes_max - gk_engine_kv_untouched(b->engine);
}

static json_t *memory_json(const struct bench *b) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "file_bytes", (json_int_t)b->info->n_file_bytes,
                     "file_huge_page_bytes", (json_int_t)b->info->memory.n_huge_bytes,
                     "resident_bytes", (json_int_t)resident_bytes("VmRSS"),
                     "resident_anonymous_bytes", (json_int_t)resident_bytes("RssAnon"), "kv_bytes",
                     (json_int_t)kv_bytes(b));
}

/* What was asked for, without which the figures say nothing. */
static json_t *head_json(const struct bench *b) {
    const struct arguments *a = b->arguments;
    char path[4 * PATH_MAX]; /* printable: JSON has no place for bytes that are no text */

    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:f}", "model",
                     utf8_printable(path, sizeof(path), a->model, strlen(a->model)), "weight_types",
                     b->info->weight_types, "instruction_set", b->info->isa, "kv", b->info->kv_type,
                     "rows", (json_int_t)b->info->n_rows_max, "repeat", (json_int_t)a->n_repeat,
                     "same_tokens", (int)a->same_tokens, "load_seconds", b->load_seconds);
}

static void print_json(const json_t *all) {
    if (!all || json_dumpf(all, stdout, JSON_COMPACT) != 0)
        die("can't make JSON of the results", NULL);
    (void)putchar('\n');
}

static void run(struct bench *b) {
    json_t *all = head_json(b), *teams;

    if (!b->arguments->json)
        print_head(b);
    teams = bench_teams(b);
    measure_beside(b); /* teams took a while */
    (void)json_object_set_new(all, "prefill", bench_prefill(b));
    (void)json_object_set_new(all, "decode", bench_decode(b));
    (void)json_object_set_new(all, "batch", bench_batch(b));
    (void)json_object_set_new(all, "drafts", bench_drafts(b));
    roof_free(); /* no part of the engine's memory */
    (void)json_object_set_new(all, "roofs", roofs_json(b, teams));
    (void)json_object_set_new(all, "memory", memory_json(b));
    if (b->arguments->json)
        print_json(all);
    else
        (void)printf("  memory: %.0f MB besides the mapped file, of them KV cache %.0f MB; "
                     "%.0f %% of the file in huge pages\n",
                     (double)resident_bytes("RssAnon") / 1e6, (double)kv_bytes(b) / 1e6,
                     100 * (double)b->info->memory.n_huge_bytes / (double)b->info->n_file_bytes);
    json_decref(all);
    if (fflush(stdout) != 0 || ferror(stdout))
        die("can't write the results", NULL);
}

/* ---- command line ---- */

static const char usage_text[] =
    "Usage: bench --model FILE [OPTION]...\n"
    "Measure how fast a model runs here, and what share of this machine's limits that is.\n"
    "\n"
    "  --model FILE          the model: GGUF\n"
    "  --threads N           compute threads, at most the CPUs that may be used (default: these)\n"
    "  --prefill N,...       read prompts of so many tokens (512); '': don't\n"
    "  --decode N            generate so many tokens (16); 0: don't\n"
    "  --context N,...       after so many positions (0)\n"
    "  --batch N,...         for so many sequences together, at most 256 (none)\n"
    "  --same-tokens         all of these get the same tokens, so that the same experts serve "
    "them\n"
    "  --speculate K,...     of one sequence with up to K drafted tokens a step, and without, for "
    "a\n"
    "                        text that is known, one that repeats itself, and another (none)\n"
    "  --repeat N            runs of each, of which the median is given (3)\n"
    "  --rows N              rows of one step at most (512)\n"
    "  --isa NAME            kernels of this tier, and roofs of its instructions: generic, avx2,\n"
    "                        avxvnni, avx512, vnni, amx (the best)\n"
    "  --kv f16|f32|q8_0     type of the KV cache (f16)\n"
    "  --json                print one line of JSON\n"
    "  --help                print this\n";

static struct list list_argument(const char *option, const char *text, uint32_t min, uint32_t max) {
    struct list list = {.n = 0};

    for (const char *at = text; *at != '\0';) {
        uint64_t number;

        if (list.n == LIST_MAX)
            wrong_argument("--%s takes at most %d numbers, not '%s'", option, LIST_MAX, text);
        at = number_read(at, max, &number);
        if (!at || number < min || (*at != '\0' && (*at != ',' || *++at == '\0')))
            wrong_argument("--%s takes whole numbers from %u to %u with commas between, not '%s'",
                           option, min, max, text);
        list.values[list.n++] = (uint32_t)number;
    }
    return list;
}

static enum gk_kv_type kv_argument(const char *text) {
    for (size_t i = 0; gk_kv_type_names[i]; i++)
        if (strcmp(text, gk_kv_type_names[i]) == 0)
            return (enum gk_kv_type)i;
    wrong_argument("--kv takes f16, f32 or q8_0, not '%s'", text);
}

static void take_option(struct arguments *a, int option) {
    switch (option) {
    case 'm':
        a->model = optarg;
        break;
    case 't':
        a->n_threads = number_argument("threads", optarg, 1, ROOF_THREADS_MAX);
        break;
    case 'p':
        a->prefill = list_argument("prefill", optarg, 1, NUMBER_MAX);
        break;
    case 'd':
        a->n_decode = number_argument("decode", optarg, 0, NUMBER_MAX);
        break;
    case 'c':
        a->context = list_argument("context", optarg, 0, NUMBER_MAX);
        break;
    case 'b':
        a->batch = list_argument("batch", optarg, 1, BATCH_MAX);
        break;
    case 'r':
        a->n_repeat = number_argument("repeat", optarg, 1, REPEAT_MAX);
        break;
    case 'R':
        a->n_rows_max = number_argument("rows", optarg, 1, NUMBER_MAX);
        break;
    case 'i':
        a->isa = optarg;
        break;
    case 'k':
        a->kv_type = kv_argument(optarg);
        break;
    case 's':
        a->speculate = list_argument("speculate", optarg, 1, GK_DRAFT_MAX);
        break;
    case 'S':
        a->same_tokens = true;
        break;
    case 'j':
        a->json = true;
        break;
    case 'h':
        (void)fputs(usage_text, stdout);
        exit(0);
    default: /* getopt_long() has told what is wrong */
        exit(2);
    }
}

static void parse_arguments(int argc, char **argv, struct arguments *a) {
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 't'},
        {"prefill", required_argument, NULL, 'p'},
        {"decode", required_argument, NULL, 'd'},
        {"context", required_argument, NULL, 'c'},
        {"batch", required_argument, NULL, 'b'},
        {"repeat", required_argument, NULL, 'r'},
        {"rows", required_argument, NULL, 'R'},
        {"isa", required_argument, NULL, 'i'},
        {"kv", required_argument, NULL, 'k'},
        {"speculate", required_argument, NULL, 's'},
        {"same-tokens", no_argument, NULL, 'S'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        take_option(a, option);
    if (optind < argc)
        wrong_argument("there is no argument '%s'; --help lists the options", argv[optind]);
    if (!a->model)
        wrong_argument("--model is missing; --help lists the options");
    if (a->speculate.n > 0 && a->n_decode > DRAFT_TOKENS_MAX)
        wrong_argument("--decode %u: with --speculate %d at most", a->n_decode, DRAFT_TOKENS_MAX);
}

/* ---- what can be measured with this model ---- */

static void check_context(const struct bench *b, const char *option, uint32_t value,
                          uint32_t n_prompt, uint32_t n_generate) {
    if ((uint64_t)n_prompt + n_generate > b->info->n_context_max)
        wrong_argument("--%s %u: %u prompt tokens and %u to generate exceed the context of %u",
                       option, value, n_prompt, n_generate, b->info->n_context_max);
}

/* Rows beyond a step's would be left out of it. */
static void check_rows(const struct bench *b, const char *option, uint32_t value, uint32_t n_rows) {
    if (n_rows > b->info->n_rows_max)
        wrong_argument("--%s %u: a step of %u rows exceeds the %u of --rows", option, value, n_rows,
                       b->info->n_rows_max);
}

static void check_batch(const struct bench *b, uint32_t n_seqs) {
    uint32_t n_generate = batch_tokens(b->arguments) + SPARE_TOKENS;
    uint32_t n_positions = BATCH_CONTEXT + n_generate;
    uint64_t n_pages = (n_positions + GK_KV_PAGE_POSITIONS - 1) / GK_KV_PAGE_POSITIONS;
    uint64_t n_free, n_all;

    check_rows(b, "batch", n_seqs, n_seqs);
    check_context(b, "batch", n_seqs, BATCH_CONTEXT, n_generate);
    gk_engine_kv_pages(b->engine, &n_free, &n_all);
    if (n_seqs * n_pages > n_free)
        wrong_argument("--batch %u: %" PRIu64 " pages exceed the %" PRIu64 " of the KV cache",
                       n_seqs, n_seqs * n_pages, n_free);
}

static void check_runs(const struct bench *b) {
    const struct arguments *a = b->arguments;

    for (size_t i = 0; i < a->prefill.n; i++)
        check_context(b, "prefill", a->prefill.values[i], a->prefill.values[i], 1);
    for (size_t i = 0; a->n_decode > 0 && i < a->context.n; i++)
        check_context(b, "context", a->context.values[i], MAX(a->context.values[i], 1u),
                      a->n_decode + SPARE_TOKENS);
    for (size_t i = 0; i < a->batch.n; i++)
        check_batch(b, a->batch.values[i]);
    for (size_t i = 0; a->n_decode > 0 && i < a->speculate.n; i++) {
        check_rows(b, "speculate", a->speculate.values[i], a->speculate.values[i] + 1);
        check_context(b, "speculate", a->speculate.values[i], DRAFT_PROMPT,
                      a->n_decode + DRAFT_SPARE_TOKENS);
    }
}

/* ---- all of it ---- */

static void open_engine(struct bench *b) {
    const struct arguments *a = b->arguments;
    struct gk_options options = {
        .path = a->model,
        .pool = b->pool,
        .isa = a->isa,
        .kv_type = a->kv_type,
        .n_rows_max = a->n_rows_max,
        .n_sequences_max = BATCH_MAX,
        .preload = true,
        .hugepages = true, /* as the daemon's default */
    };
    Error error = ERROR_INIT;
    double begin = now();
    int r = gk_engine_open(&b->engine, &options, &error);

    if (r == GK_E_INVALID)
        wrong_argument("%s", error.text);
    if (r != 0)
        die("can't load the model", &error);
    b->load_seconds = now() - begin;
    b->info = gk_engine_info(b->engine);
}

int main(int argc, char **argv) {
    struct arguments a = {
        .n_repeat = 3, .n_decode = 16, .prefill = {{512}, 1}, .context = {{0}, 1}};
    struct bench b = {.arguments = &a, .n_period = UINT32_MAX};
    Error error = ERROR_INIT;

    parse_arguments(argc, argv, &a);
    if (gk_pool_new(&b.pool, a.n_threads, &error) != 0)
        die("can't start threads", &error);
    b.n_threads = gk_pool_n_threads(b.pool);
    if (a.n_threads > b.n_threads)
        (void)fprintf(stderr, "bench: note: %u of %u threads, no more CPUs may be used here\n",
                      b.n_threads, a.n_threads);
    open_engine(&b);
    check_runs(&b);
    b.roofs = b.latest = measure_roofs(&b, b.n_threads);
    b.f32_ops_per_second = roof_f32(b.n_threads, a.isa);
    run(&b);
    b.engine = gk_engine_close(b.engine);
    b.pool = gk_pool_free(b.pool);
    return 0;
}
