/*
 * tokens [--decode] [--control] MODEL.gguf|tokenizer.model
 *
 * Reads texts, each ended by a zero byte, and prints a line of ids for each. With --decode reads
 * lines of ids and writes texts, each ended by a zero byte. Ids are SentencePiece's: no BOS is put
 * before them. --control lets control pieces in the text match, or prints them.
 */
#include "base/macro.h"
#include "engine/engine.h"
#include "engine/text/text.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what, const char *why) {
    (void)fprintf(stderr, "tokens: %s: %s\n", what, why);
    return EXIT_FAILURE;
}

static char *read_file(const char *path, size_t *ret_n) {
    FILE *f = fopen(path, "rbe");
    size_t n = 0, capacity = 1 << 16;
    char *bytes = malloc(capacity);

    while (f && bytes) {
        size_t n_read = fread(bytes + n, 1, capacity - n, f);

        n += n_read;
        if (n_read == 0)
            break;
        if (n == capacity) {
            char *larger = realloc(bytes, capacity *= 2);

            if (!larger)
                free(bytes);
            bytes = larger;
        }
    }
    if (!f || ferror(f)) {
        free(bytes);
        bytes = NULL;
    }
    if (f)
        (void)fclose(f);
    *ret_n = n;
    return bytes;
}

static int open_tokenizer(Tokenizer **ret, const char *path, Error *reterr) {
    CLEANUP(freep) char *bytes = NULL;
    size_t n;
    int r;

    bytes = read_file(path, &n);
    if (!bytes)
        return error_set(reterr, GK_E_FILE, "%s", strerror(errno));
    if (n >= 4 && memcmp(bytes, "GGUF", 4) == 0) {
        CLEANUP(model_file_closep) ModelFile *file = NULL;

        r = model_file_open(&file, path, reterr);
        return r ? r : tokenizer_from_gguf(ret, file, reterr);
    }
    return tokenizer_from_spm(ret, bytes, n, reterr);
}

static int encode_line(const Tokenizer *t, const char *text, size_t n_text, bool control,
                       Error *reterr) {
    unsigned flags = GK_TOKENIZE_NO_BOS | (control ? GK_TOKENIZE_CONTROL : 0);
    CLEANUP(freep) int32_t *tokens = NULL;
    size_t n = 0;
    int r = tokenizer_encode(t, text, n_text, flags, SIZE_MAX, &tokens, &n, reterr);

    if (r)
        return r;
    for (size_t i = 0; i < n; i++)
        (void)printf(i ? " %" PRId32 : "%" PRId32, tokens[i]);
    (void)putchar('\n');
    return 0;
}

static int decode_line(const Tokenizer *t, const char *line, size_t n_line, bool control,
                       Error *reterr) {
    CLEANUP(freep) int32_t *tokens = malloc((n_line / 2 + 1) * sizeof(*tokens));
    CLEANUP(freep) char *text = NULL;
    const char *at = line;
    size_t n = 0, n_text;
    int r;

    if (!tokens)
        return error_origin(-ENOMEM);
    while (at += strspn(at, " \r\n"), *at != '\0') {
        char *end;
        long id = strtol(at, &end, 10);

        if (end == at || id < 0 || id > INT32_MAX)
            return error_set(reterr, GK_E_INVALID, "not a token id: %.20s", at);
        tokens[n++] = (int32_t)id;
        at = end;
    }
    r = tokenizer_decode(t, tokens, n, control, &text, &n_text, reterr);
    if (r)
        return r;
    (void)fwrite(text, 1, n_text + 1, stdout);
    return 0;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"decode", no_argument, NULL, 'd'},
                                            {"control", no_argument, NULL, 'c'},
                                            {NULL, 0, NULL, 0}};
    CLEANUP(tokenizer_freep) Tokenizer *t = NULL;
    CLEANUP(freep) char *line = NULL;
    bool decode = false, control = false;
    Error error = ERROR_INIT;
    size_t capacity = 0;
    ssize_t n;
    int r, c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?')
            return 2;
        decode |= c == 'd';
        control |= c == 'c';
    }
    if (optind + 1 != argc)
        return fail("usage", "tokens [--decode] [--control] MODEL.gguf|tokenizer.model");
    r = open_tokenizer(&t, argv[optind], &error);
    if (r)
        return fail(argv[optind], r < 0 ? strerror(-r) : error.text);
    while ((n = getdelim(&line, &capacity, decode ? '\n' : '\0', stdin)) > 0) {
        if (decode)
            r = decode_line(t, line, (size_t)n, control, &error);
        else
            r = encode_line(t, line, (size_t)n - (line[n - 1] == '\0'), control, &error);
        if (r)
            return fail("input", r < 0 ? strerror(-r) : error.text);
    }
    return ferror(stdin) || fflush(stdout) ? fail("input or output", strerror(errno))
                                           : EXIT_SUCCESS;
}
