/*
 * build/make-model: writes a GGUF of random weights at the shapes of a real model, for measuring.
 *
 *   make-model --shape grok1|mixtral|tiny [--layers N] [--type Q4_K] FILE
 *
 * Weights are random blocks with scales that keep activations finite; the router's rows are random,
 * so that experts are used about evenly. The file is written tensor by tensor in little memory.
 * Peers open it as well.
 *
 * It has another name until it is whole, and is removed where it will never be: half a model would
 * fail whoever finds it later.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/kern/kern.h"
#include "tests/bench/arguments.h"
#include "tests/util/gguf-write.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define POOL_BLOCKS (1u << 16) /* random blocks, written again and again from random places */
#define ALIGNMENT   32
#define LAYERS_MAX  256

struct shape {
    const char *name, *architecture;
    uint32_t n_embd, n_ff, n_heads, n_kv_heads, head_size, n_vocab, n_context, n_layers;
    float rope_base;
};

/* Grok-1 itself has 8192 positions: twice as many, so that there is room to generate after 8192. */
static const struct shape shapes[] = {
    {"grok1", "grok", 6144, 32768, 48, 8, 128, 131072, 16384, 64, 1e4f},
    {"mixtral", "llama", 4096, 14336, 32, 8, 128, 32000, 32768, 32, 1e6f},
    {"tiny", "llama", 256, 512, 4, 2, 64, 512, 4096, 2, 1e4f}, /* a few megabytes, for tests */
};

struct maker {
    const struct shape *shape;
    uint32_t n_layers;
    enum kern_type type;
    GgufWriter *writer;
    uint64_t offset, seed;
};

static uint64_t aligned(uint64_t n) {
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t next_random(uint64_t *seed) {
    uint64_t z = (*seed += 0x9E3779B97F4A7C15ull);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static char part_path[PATH_MAX]; /* what is written to; "": nothing is */

static void remove_part(void) {
    if (part_path[0] != '\0')
        (void)unlink(part_path);
}

_Noreturn static void die(const char *what) {
    (void)fprintf(stderr, "make-model: %s: %s\n", what, strerror(errno));
    remove_part();
    exit(1);
}

static void on_signal(int number) {
    remove_part();
    (void)raise(number); /* now it ends us, see SA_RESETHAND */
}

/* ---- metadata ---- */

static void add_u32(struct maker *m, const char *name, uint32_t value) {
    char key[64];

    (void)snprintf(key, sizeof(key), "%s.%s", m->shape->architecture, name);
    gguf_writer_u32(m->writer, key, value);
}

static void add_f32(struct maker *m, const char *name, float value) {
    char key[64];

    (void)snprintf(key, sizeof(key), "%s.%s", m->shape->architecture, name);
    gguf_writer_f32(m->writer, key, value);
}

/* <unk>, <s>, </s>, the bytes, then words that nothing merges into. */
static void add_vocab(struct maker *m) {
    uint32_t n = m->shape->n_vocab;
    const char **pieces = alloc_array(n, sizeof(*pieces));
    char(*text)[16] = alloc_array(n, sizeof(*text));
    float *scores = alloc_array(n, sizeof(*scores));
    int32_t *types = alloc_array(n, sizeof(*types));

    if (!pieces || !text || !scores || !types)
        die("memory");
    for (uint32_t i = 0; i < n; i++) {
        if (i < 3)
            (void)snprintf(text[i], sizeof(text[i]), "%s",
                           i == 0   ? "<unk>"
                           : i == 1 ? "<s>"
                                    : "</s>");
        else
            (void)snprintf(text[i], sizeof(text[i]), i < 259 ? "<0x%02X>" : "w%u",
                           i < 259 ? i - 3 : i);
        types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
        scores[i] = -(float)i;
        pieces[i] = text[i];
    }
    gguf_writer_string(m->writer, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(m->writer, "tokenizer.ggml.tokens", pieces, n);
    gguf_writer_array(m->writer, "tokenizer.ggml.scores", GGUF_FLOAT32, scores, n,
                      n * sizeof(*scores));
    gguf_writer_array(m->writer, "tokenizer.ggml.token_type", GGUF_INT32, types, n,
                      n * sizeof(*types));
    gguf_writer_u32(m->writer, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(m->writer, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(m->writer, "tokenizer.ggml.unknown_token_id", 0);
    gguf_writer_bool(m->writer, "tokenizer.ggml.add_bos_token", false);
    free(types);
    free(scores);
    free(text);
    free(pieces);
}

static void add_metadata(struct maker *m) {
    const struct shape *s = m->shape;

    gguf_writer_string(m->writer, "general.architecture", s->architecture);
    gguf_writer_string(m->writer, "general.name", "random weights");
    add_u32(m, "context_length", s->n_context);
    add_u32(m, "embedding_length", s->n_embd);
    add_u32(m, "block_count", m->n_layers);
    add_u32(m, "feed_forward_length", s->n_ff);
    add_u32(m, "attention.head_count", s->n_heads);
    add_u32(m, "attention.head_count_kv", s->n_kv_heads);
    add_u32(m, "attention.key_length", s->head_size);
    add_u32(m, "attention.value_length", s->head_size);
    add_f32(m, "attention.layer_norm_rms_epsilon", 1e-5f);
    add_u32(m, "rope.dimension_count", s->head_size);
    add_f32(m, "rope.freq_base", s->rope_base);
    add_u32(m, "expert_count", 8);
    add_u32(m, "expert_used_count", 2);
    add_u32(m, "vocab_size", s->n_vocab);
    add_vocab(m);
}

/* ---- tensors: records first, then the data in the same order ---- */

struct record {
    enum kern_type type;
    uint64_t n_bytes;
};

#define LAYER_TENSORS_MAX 12
#define OTHER_TENSORS_MAX 3

struct records {
    struct record list[OTHER_TENSORS_MAX + LAYERS_MAX * LAYER_TENSORS_MAX];
    size_t n;
};

static void add_tensor(struct maker *m, struct records *r, enum kern_type type, uint64_t k,
                       uint64_t n_out, uint64_t n_matrices, const char *suffix, int i_layer) {
    uint64_t dims[3] = {k, n_out, n_matrices};
    struct gguf_tensor *t;
    char name[64];

    if (i_layer < 0)
        (void)snprintf(name, sizeof(name), "%s", suffix);
    else
        (void)snprintf(name, sizeof(name), "blk.%d.%s", i_layer, suffix);
    t = gguf_writer_tensor(m->writer, name, kern_types[type].gguf_id,
                           n_matrices > 1 ? 3
                           : n_out > 1    ? 2
                                          : 1,
                           dims, NULL, 0);
    t->offset = m->offset;
    assert(r->n < ARRAY_SIZE(r->list));
    r->list[r->n] = (struct record){type, k / kern_types[type].block_values *
                                              kern_types[type].block_bytes * n_out * n_matrices};
    m->offset += aligned(r->list[r->n++].n_bytes);
}

static void add_layer(struct maker *m, struct records *r, int i) {
    const struct shape *s = m->shape;
    bool grok = strcmp(s->architecture, "grok") == 0;
    uint64_t n_q = (uint64_t)s->n_heads * s->head_size,
             n_kv = (uint64_t)s->n_kv_heads * s->head_size;

    add_tensor(m, r, KERN_F32, s->n_embd, 1, 1, "attn_norm.weight", i);
    add_tensor(m, r, KERN_F32, s->n_embd, 1, 1, "ffn_norm.weight", i);
    if (grok) {
        add_tensor(m, r, KERN_F32, s->n_embd, 1, 1, "attn_output_norm.weight", i);
        add_tensor(m, r, KERN_F32, s->n_embd, 1, 1, "layer_output_norm.weight", i);
    }
    add_tensor(m, r, m->type, s->n_embd, n_q, 1, "attn_q.weight", i);
    add_tensor(m, r, m->type, s->n_embd, n_kv, 1, "attn_k.weight", i);
    add_tensor(m, r, m->type, s->n_embd, n_kv, 1, "attn_v.weight", i);
    add_tensor(m, r, m->type, n_q, s->n_embd, 1, "attn_output.weight", i);
    add_tensor(m, r, KERN_F32, s->n_embd, 8, 1, "ffn_gate_inp.weight", i);
    add_tensor(m, r, m->type, s->n_embd, s->n_ff, 8, "ffn_gate_exps.weight", i);
    add_tensor(m, r, m->type, s->n_embd, s->n_ff, 8, "ffn_up_exps.weight", i);
    add_tensor(m, r, m->type, s->n_ff, s->n_embd, 8, "ffn_down_exps.weight", i);
}

/* Where a block's halves lie (scale, then min), and how large they are for weights of about ±0.02.
 */
static void put_scales(const struct kern_ops *kern, enum kern_type type, uint8_t *block,
                       uint64_t *seed) {
    static const struct {
        int d, m;
        float d_size, m_size;
    } scales[KERN_TYPE_N] = {
        [KERN_Q4_0] = {0, -1, 4e-3f, 0},    [KERN_Q4_1] = {0, 2, 4e-3f, -3e-2f},
        [KERN_Q5_0] = {0, -1, 2e-3f, 0},    [KERN_Q5_1] = {0, 2, 2e-3f, -3e-2f},
        [KERN_Q8_0] = {0, -1, 3e-4f, 0},    [KERN_Q2_K] = {80, 82, 2e-3f, 3e-3f},
        [KERN_Q3_K] = {108, -1, 5e-4f, 0},  [KERN_Q4_K] = {0, 2, 1e-4f, 7e-4f},
        [KERN_Q5_K] = {0, 2, 5e-5f, 7e-4f}, [KERN_Q6_K] = {208, -1, 2e-5f, 0},
    };
    float d = scales[type].d_size * (0.5f + (float)(next_random(seed) % 1024) / 1024);
    uint16_t half;

    kern->to_f16(&d, &half, 1);
    (void)memcpy(block + scales[type].d, &half, sizeof(half));
    if (scales[type].m < 0)
        return;
    d = scales[type].m_size;
    kern->to_f16(&d, &half, 1);
    (void)memcpy(block + scales[type].m, &half, sizeof(half));
}

static uint8_t *make_pool(enum kern_type type, size_t *ret_n_bytes, uint64_t *seed) {
    size_t n = (size_t)POOL_BLOCKS * kern_types[type].block_bytes;
    uint8_t *pool = alloc_array(n, 1);
    const struct kern_ops *kern =
        kern_select("generic"); /* once: it asks the CPU, which takes long */

    if (!pool)
        die("memory");
    for (size_t i = 0; i < n; i++)
        pool[i] = (uint8_t)next_random(seed);
    for (size_t i = 0; i < POOL_BLOCKS; i++) {
        uint8_t *block = pool + i * kern_types[type].block_bytes;
        float f = ((float)(next_random(seed) % 2048) / 1024 - 1) * 0.03f;

        if (type == KERN_F32) {
            (void)memcpy(block, &f, sizeof(f));
        } else if (type == KERN_F16) {
            uint16_t half;

            kern->to_f16(&f, &half, 1);
            (void)memcpy(block, &half, sizeof(half));
        } else if (type == KERN_BF16) {
            (void)memcpy(block, (const uint8_t *)&f + 2, 2);
        } else {
            put_scales(kern, type, block, seed);
        }
    }
    *ret_n_bytes = n;
    return pool;
}

/* Zeroes up to where the next tensor begins. */
static void write_padding(FILE *f, uint64_t n_written) {
    static const uint8_t zeroes[ALIGNMENT];
    size_t n = aligned(n_written) - n_written;

    if (fwrite(zeroes, 1, n, f) != n)
        die(part_path);
}

static void write_tensor(FILE *f, const struct record *r, const uint8_t *pool, size_t n_pool,
                         uint64_t *seed) {
    uint64_t left = r->n_bytes;
    size_t block = kern_types[r->type].block_bytes;

    while (left > 0) {
        size_t from = next_random(seed) % (POOL_BLOCKS / 2) * block, n = n_pool - from;

        n = n < left ? n : left;
        if (fwrite(pool + from, 1, n, f) != n)
            die(part_path);
        left -= n;
    }
    write_padding(f, r->n_bytes);
}

static void remove_part_on_signals(void) {
    static const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGXFSZ};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct sigaction before;

        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &action, NULL);
    }
}

/* Beside the path, where rename() finds the same file system. */
static FILE *open_part(const char *path, uint64_t n_bytes) {
    int n = snprintf(part_path, sizeof(part_path), "%s.%d.part", path, (int)getpid());
    struct statvfs disk;
    FILE *f;

    if (n < 0 || (size_t)n >= sizeof(part_path)) {
        part_path[0] = '\0';
        errno = ENAMETOOLONG;
        die(path);
    }
    remove_part_on_signals();
    f = fopen(part_path, "we");
    if (!f)
        die(part_path);
    /* A disk too small is told now. Not by fallocate(): it may fill the disk before it fails. */
    if (fstatvfs(fileno(f), &disk) == 0 && disk.f_blocks > 0 &&
        disk.f_bavail * disk.f_frsize < n_bytes) {
        errno = ENOSPC;
        die(part_path);
    }
    return f;
}

/* What is written lies in the page cache in small pages, mostly. It is taken out, so that the first
 * who asks for huge pages can get them. */
static void close_part(FILE *f, const char *path) {
    if (fflush(f) != 0 || fsync(fileno(f)) != 0)
        die(part_path);
    (void)posix_fadvise(fileno(f), 0, 0, POSIX_FADV_DONTNEED);
    if (fclose(f) != 0)
        die(part_path);
    if (rename(part_path, path) != 0)
        die(path);
    part_path[0] = '\0';
}

static void write_file(struct maker *m, const struct records *r, const char *path) {
    size_t n_header, n_matrices, n_vectors, n;
    uint8_t *header = gguf_writer_bytes(m->writer, &n, &n_header);
    uint8_t *matrices = make_pool(m->type, &n_matrices, &m->seed),
            *vectors = make_pool(KERN_F32, &n_vectors, &m->seed);
    uint64_t n_bytes = aligned(n_header) + m->offset;
    FILE *f;

    (void)fprintf(stderr, "make-model: %s takes %.0f MB\n", path, (double)n_bytes / 1e6);
    f = open_part(path, n_bytes);
    if (fwrite(header, 1, n_header, f) != n_header)
        die(part_path);
    write_padding(f, n_header);
    for (size_t i = 0; i < r->n; i++) {
        bool vector = r->list[i].type == KERN_F32 && m->type != KERN_F32;

        write_tensor(f, &r->list[i], vector ? vectors : matrices, vector ? n_vectors : n_matrices,
                     &m->seed);
    }
    close_part(f, path);
    free(header);
    free(matrices);
    free(vectors);
}

static void print_usage(void) {
    (void)printf("Usage: make-model --shape NAME [--layers N] [--type NAME] FILE\n"
                 "Write a GGUF of random weights at the shapes of a real model, for measuring.\n"
                 "\n"
                 "  --shape NAME  one of:");
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
        (void)printf(" %s", shapes[i].name);
    (void)printf("\n"
                 "  --layers N    so many of its layers, at most %d (all)\n"
                 "  --type NAME   of matrices (Q4_K), one of:",
                 LAYERS_MAX);
    for (size_t i = 0; i < KERN_TYPE_N; i++)
        (void)printf(" %s", kern_types[i].name);
    (void)printf("\n"
                 "  --help        print this\n");
}

static const struct shape *shape_argument(const char *text) {
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
        if (strcmp(text, shapes[i].name) == 0)
            return &shapes[i];
    wrong_argument("there is no --shape '%s'; --help lists them", text);
}

static enum kern_type type_argument(const char *text) {
    for (size_t i = 0; i < KERN_TYPE_N; i++)
        if (strcmp(text, kern_types[i].name) == 0)
            return (enum kern_type)i;
    wrong_argument("there is no --type '%s'; --help lists them", text);
}

static void take_option(struct maker *m, int option) {
    switch (option) {
    case 's':
        m->shape = shape_argument(optarg);
        break;
    case 'l':
        m->n_layers = number_argument("layers", optarg, 1, LAYERS_MAX);
        break;
    case 't':
        m->type = type_argument(optarg);
        break;
    case 'h':
        print_usage();
        exit(0);
    default: /* getopt_long() has told what is wrong */
        exit(2);
    }
}

/* A device, a folder or a link: rename() would put the model in its place. */
static void check_target(const char *path) {
    struct stat there;

    if (lstat(path, &there) == 0 && !S_ISREG(there.st_mode))
        wrong_argument("%s is there, and no regular file", path);
}

/* Returns the file's name. */
static const char *parse_arguments(int argc, char **argv, struct maker *m) {
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},
        {"layers", required_argument, NULL, 'l'},
        {"type", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        take_option(m, option);
    if (!m->shape)
        wrong_argument("--shape is missing; --help lists them");
    if (optind == argc)
        wrong_argument("the name of the file is missing");
    if (optind + 1 < argc)
        wrong_argument("there is no argument '%s' after the file", argv[optind + 1]);
    check_target(argv[optind]);
    if (m->n_layers == 0)
        m->n_layers = m->shape->n_layers;
    return argv[optind];
}

int main(int argc, char **argv) {
    struct maker m = {.type = KERN_Q4_K, .seed = 1};
    const char *path = parse_arguments(argc, argv, &m);
    static struct records r;

    m.writer = gguf_writer_new();
    add_metadata(&m);
    add_tensor(&m, &r, m.type, m.shape->n_embd, m.shape->n_vocab, 1, "token_embd.weight", -1);
    add_tensor(&m, &r, KERN_F32, m.shape->n_embd, 1, 1, "output_norm.weight", -1);
    if (strcmp(m.shape->architecture, "grok") != 0)
        add_tensor(&m, &r, m.type, m.shape->n_embd, m.shape->n_vocab, 1, "output.weight", -1);
    for (uint32_t i = 0; i < m.n_layers; i++)
        add_layer(&m, &r, (int)i);
    write_file(&m, &r, path);
    gguf_writer_free(m.writer);
    return 0;
}
