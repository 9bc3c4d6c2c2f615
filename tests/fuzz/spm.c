/*
 * libFuzzer: a tokenizer.model and a text in one input, apart at the last zero byte. What the
 * tokenizer accepts must tokenize, and give back what it was given where it can.
 */
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/text/text.h"
#include "tests/fuzz/fuzz.h"
#include "tests/util/gguf-write.h"
#include "tests/util/spm-write.h"

#include <stdio.h>
#include <string.h>

#define TOKENS_MAX 100000

static void seed(const char *directory, const char *name, const char *text, bool is_unusual) {
    SpmWriter w = {.n = 0};
    char path[4096];

    if (is_unusual)
        spm_piece(&w, "<unk>", 0, 2);
    else
        spm_basics(&w);
    spm_piece(&w, "a", -1, 1);
    spm_piece(&w, "b", -2, 1);
    spm_piece(&w, "ab", -3, is_unusual ? 5 : 1);
    spm_piece(&w, "▁", -4, 1);
    spm_piece(&w, "▁ab", -5, 1);
    spm_piece(&w, "aba", 0, 4);
    spm_piece(&w, "<c>", 0, 3);
    if (is_unusual) /* BPE without byte fallback; the default normaliser removes extra spaces */
        spm_bytes(&w, 2, "\x18\x02", 2);
    else
        spm_specs(&w);
    spm_raw(&w, "", 1);
    spm_raw(&w, text, strlen(text));
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    gguf_save_bytes(path, w.bytes, w.n);
    spm_writer_deinit(&w);
}

void fuzz_seed(const char *directory) {
    seed(directory, "usual", " ab abab<c>b \xff é", false);
    seed(directory, "unusual", "  ab  ba aba<c>\xc3", true);
}

static void use(const Tokenizer *t, const char *text, size_t n) {
    int32_t *tokens, *again;
    size_t n_tokens, n_again, n_text;
    char *decoded;
    int r = tokenizer_encode(t, text, n, GK_TOKENIZE_CONTROL, TOKENS_MAX, &tokens, &n_tokens, NULL);

    fuzz_check(r == 0 || r == GK_E_INVALID);
    if (r)
        return;
    fuzz_check(n_tokens <= TOKENS_MAX);
    fuzz_check(tokenizer_decode(t, tokens, n_tokens, true, &decoded, &n_text, NULL) == 0);
    if (n_tokens > 0) {
        fuzz_check(tokenizer_encode(t, text, n, GK_TOKENIZE_CONTROL, n_tokens, &again, &n_again,
                                    NULL) == 0);
        fuzz_check(n_again == n_tokens && memcmp(again, tokens, n_tokens * sizeof(*tokens)) == 0);
        free(again);
        fuzz_check(tokenizer_encode(t, text, n, GK_TOKENIZE_CONTROL, n_tokens - 1, &again, &n_again,
                                    NULL) == GK_E_INVALID);
    }
    free(decoded);
    free(tokens);
}

int fuzz_one(const uint8_t *bytes, size_t n) {
    const uint8_t *zero = memrchr(bytes, 0, n);
    size_t n_model = zero ? (size_t)(zero - bytes) : n;
    void *model = alloc_string_n(bytes, n_model); /* its own block, so that its end is seen */
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = tokenizer_from_spm(&t, model, n_model, &error);

    fuzz_check(r == 0 || (r == GK_E_FILE && error.text[0] != '\0'));
    if (r == 0)
        use(t, (const char *)bytes + n_model, n - n_model);
    (void)tokenizer_free(t);
    free(model);
    return 0;
}
