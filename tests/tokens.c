/*
 * build/tests/tokens MODEL.gguf|tokenizer.model: reads texts that end with a zero byte on standard
 * input and prints a line of ids for each; with --decode lines of ids, and prints texts that end
 * with a zero byte.
 * --control lets control pieces match, or prints them.
 */
#include "engine/engine.h"
#include "engine/text/text.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define FILE_BYTES_MAX (256u << 20)
#define TOKENS_MAX     (64u << 20)

_Noreturn static void die(const char *what, const char *why) {
    (void)fprintf(stderr, "tokens: %s: %s\n", what, why);
    exit(1);
}

static Tokenizer *load_spm(const char *path) {
    FILE *f = fopen(path, "re");
    char *bytes = malloc(FILE_BYTES_MAX);
    Error error = ERROR_INIT;
    Tokenizer *t;
    size_t n;

    if (!f || !bytes)
        die(path, "can't open");
    n = fread(bytes, 1, FILE_BYTES_MAX, f);
    (void)fclose(f);
    if (tokenizer_from_spm(&t, bytes, n, &error) != 0)
        die(path, error.text);
    free(bytes);
    return t;
}

static Tokenizer *load_gguf(const char *path) {
    Error error = ERROR_INIT;
    ModelFile *f;
    Tokenizer *t;

    if (model_file_open(&f, path, &error) != 0 || tokenizer_from_gguf(&t, f, &error) != 0)
        die(path, error.text);
    (void)model_file_close(f);
    return t;
}

static bool is_gguf(const char *path) {
    FILE *f = fopen(path, "re");
    char magic[4] = "";
    bool r;

    if (!f)
        die(path, "can't open");
    r = fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    (void)fclose(f);
    return r;
}

static void encode(const Tokenizer *t, const char *text, size_t n, bool control) {
    unsigned flags = GK_TOKENIZE_NO_BOS | (control ? GK_TOKENIZE_CONTROL : 0);
    Error error = ERROR_INIT;
    int32_t *tokens;
    size_t n_tokens;

    if (tokenizer_encode(t, text, n, flags, TOKENS_MAX, &tokens, &n_tokens, &error) != 0)
        die("a text", error.text);
    for (size_t i = 0; i < n_tokens; i++)
        (void)printf("%s%d", i ? " " : "", tokens[i]);
    (void)putchar('\n');
    free(tokens);
}

static void decode(const Tokenizer *t, char *line, bool control) {
    int32_t *tokens = calloc(strlen(line) / 2 + 1, sizeof(*tokens));
    Error error = ERROR_INIT;
    size_t n = 0, n_text;
    char *text;

    for (char *at = strtok(line, " \n"); at; at = strtok(NULL, " \n"))
        tokens[n++] = (int32_t)strtol(at, NULL, 10);
    if (tokenizer_decode(t, tokens, n, control, &text, &n_text, &error) != 0)
        die("a line", error.text);
    (void)fwrite(text, 1, n_text, stdout);
    (void)putchar('\0');
    free(text);
    free(tokens);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"decode", no_argument, NULL, 'd'},
                                            {"control", no_argument, NULL, 'c'},
                                            {NULL, 0, NULL, 0}};
    bool decodes = false, control = false;
    char *line = NULL;
    size_t capacity = 0;
    Tokenizer *t;
    ssize_t n;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        decodes |= c == 'd';
        control |= c == 'c';
        if (c == '?')
            return 2;
    }
    if (optind + 1 != argc) {
        (void)fprintf(stderr, "Usage: tokens [--decode] [--control] MODEL.gguf|tokenizer.model\n");
        return 2;
    }
    t = is_gguf(argv[optind]) ? load_gguf(argv[optind]) : load_spm(argv[optind]);
    while ((n = getdelim(&line, &capacity, decodes ? '\n' : '\0', stdin)) > 0) {
        if (decodes)
            decode(t, line, control);
        else
            encode(t, line, (size_t)n - (line[n - 1] == '\0'), control);
    }
    free(line);
    (void)tokenizer_free(t);
    return fflush(stdout) == 0 ? 0 : 1;
}
