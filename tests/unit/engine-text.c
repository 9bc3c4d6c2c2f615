/*
 * engine/text: SentencePiece's own ids and texts, from both kinds of file; any bytes come back; no
 * vocabulary and no text makes trouble.
 */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/engine.h"
#include "engine/text/text.h"
#include "tests/util/gguf-write.h"
#include "tests/util/spm-write.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN "tests/golden/tokenizer/"

/* ---- helpers ---- */

static char *read_file(const char *path, size_t *ret_n) {
    FILE *f = fopen(path, "rbe");
    size_t capacity = 8u << 20;
    char *bytes = malloc(capacity);

    assert(f && bytes);
    *ret_n = fread(bytes, 1, capacity - 1, f);
    assert(!ferror(f) && *ret_n < capacity - 1);
    bytes[*ret_n] = '\0';
    assert(fclose(f) == 0);
    return bytes;
}

static Tokenizer *open_spm(const char *path) {
    size_t n;
    char *bytes = read_file(path, &n);
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = tokenizer_from_spm(&t, bytes, n, &error);

    if (r)
        (void)printf("# %s: %s\n", path, error.text);
    assert(r == 0);
    free(bytes);
    return t;
}

static Tokenizer *open_gguf(const char *path) {
    ModelFile *file = NULL;
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = model_file_open(&file, path, &error);

    if (r == 0)
        r = tokenizer_from_gguf(&t, file, &error);
    if (r)
        (void)printf("# %s: %s\n", path, error.text);
    assert(r == 0);
    (void)model_file_close(file);
    return t;
}

static Tokenizer *open_writer(SpmWriter *w) {
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = tokenizer_from_spm(&t, w->bytes, w->n, &error);

    if (r)
        (void)printf("# %s\n", error.text);
    assert(r == 0);
    spm_writer_deinit(w);
    return t;
}

static void assert_ids(const Tokenizer *t, const char *text, size_t n_text, unsigned flags,
                       const int32_t *ids, size_t n) {
    int32_t *tokens;
    size_t n_tokens;

    assert(tokenizer_encode(t, text, n_text, flags, n, &tokens, &n_tokens, NULL) == 0);
    for (size_t i = 0; i < MAX(n, n_tokens); i++)
        if (i >= n || i >= n_tokens || tokens[i] != ids[i])
            (void)printf("# token %zu is %d, not %d\n", i, i < n_tokens ? tokens[i] : -1,
                         i < n ? ids[i] : -1);
    assert(n_tokens == n && memcmp(tokens, ids, n * sizeof(*ids)) == 0);
    free(tokens);
}

#define assert_encodes(t, text, flags, ...)                                                        \
    do {                                                                                           \
        const int32_t _ids[] = {__VA_ARGS__};                                                      \
        assert_ids((t), (text), strlen(text), (flags), _ids, ARRAY_SIZE(_ids));                    \
    } while (0)

static void assert_text(const Tokenizer *t, const int32_t *ids, size_t n, bool control,
                        const char *text, size_t n_text) {
    char *decoded;
    size_t n_decoded;

    assert(tokenizer_decode(t, ids, n, control, &decoded, &n_decoded, NULL) == 0);
    if (n_decoded != n_text || memcmp(decoded, text, n_text) != 0)
        (void)printf("# \"%.80s\" instead of \"%.80s\"\n", decoded, text);
    assert(n_decoded == n_text && memcmp(decoded, text, n_text) == 0);
    assert(decoded[n_decoded] == '\0');
    free(decoded);
}

#define assert_decodes(t, control, text, ...)                                                      \
    do {                                                                                           \
        const int32_t _ids[] = {__VA_ARGS__};                                                      \
        assert_text((t), _ids, ARRAY_SIZE(_ids), (control), (text), strlen(text));                 \
    } while (0)

static void assert_round_trip(const Tokenizer *t, const char *text, size_t n, unsigned flags) {
    int32_t *tokens;
    size_t n_tokens;

    assert(tokenizer_encode(t, text, n, flags, SIZE_MAX, &tokens, &n_tokens, NULL) == 0);
    assert_text(t, tokens, n_tokens, flags & GK_TOKENIZE_CONTROL, text, n);
    free(tokens);
}

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* ---- golden ---- */

static unsigned hex(char c) {
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Decodes hex up to the next tab or newline and moves past it. */
static char *take_hex(const char **at, size_t *ret_n) {
    char *bytes = malloc(strcspn(*at, "\t\n") / 2 + 1);
    size_t n = 0;

    assert(bytes);
    for (; **at != '\t' && **at != '\n'; *at += 2)
        bytes[n++] = (char)(hex((*at)[0]) << 4 | hex((*at)[1]));
    ++*at;
    *ret_n = n;
    return bytes;
}

static void assert_line(const Tokenizer *t, const char **at) {
    size_t n_text, n_decoded, n_ids = 0;
    char *text = take_hex(at, &n_text), *decoded, *end;
    int32_t *ids = malloc((strcspn(*at, "\t") / 2 + 1) * sizeof(*ids));

    assert(ids);
    for (; **at != '\t'; *at = end)
        ids[n_ids++] = (int32_t)strtol(*at, &end, 10);
    ++*at;
    decoded = take_hex(at, &n_decoded);
    assert_ids(t, text, n_text, GK_TOKENIZE_NO_BOS, ids, n_ids);
    assert_text(t, ids, n_ids, /* control= */ false, decoded, n_decoded);
    free(text);
    free(ids);
    free(decoded);
}

static void assert_golden(Tokenizer *t, const char *path, unsigned n_lines) {
    size_t n;
    char *lines = read_file(path, &n);
    const char *at = lines;
    unsigned i = 0;

    for (; *at != '\0'; i++)
        assert_line(t, &at);
    (void)printf("# %s: %u lines\n", path, i);
    assert(i == n_lines);
    free(lines);
}

static void test_grok1(void) {
    Tokenizer *t = open_spm(GOLDEN "grok1.model");

    assert(tokenizer_n_vocab(t) == 131072);
    assert(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && !tokenizer_add_bos(t));
    assert_golden(t, GOLDEN "grok1.txt", 911);
    assert_golden(t, GOLDEN "grok1-fuzz.txt", 400);
    (void)tokenizer_free(t);
}

static void test_demo(void) {
    Tokenizer *spm = open_spm("tests/golden/demo/tokenizer.model");
    Tokenizer *gguf = open_gguf("engine/demo/model-q8_0.gguf");

    assert(tokenizer_n_vocab(spm) == tokenizer_n_vocab(gguf));
    assert(tokenizer_bos(spm) == tokenizer_bos(gguf) && tokenizer_bos(spm) == 1);
    assert(tokenizer_eos(spm) == tokenizer_eos(gguf) && tokenizer_eos(spm) == 2);
    assert_golden(spm, GOLDEN "demo.txt", 911);
    assert_golden(gguf, GOLDEN "demo.txt", 911);
    assert_golden(spm, GOLDEN "demo-fuzz.txt", 400);
    assert_golden(gguf, GOLDEN "demo-fuzz.txt", 400);
    (void)tokenizer_free(spm);
    (void)tokenizer_free(gguf);
}

/* Unused pieces, no byte pieces, extra spaces removed, no dummy prefix, user-defined pieces with
 * spaces inside: each alone and together. */
static void test_small_models(void) {
    for (unsigned i = 1; i <= 6; i++) {
        char path[64];
        Tokenizer *t;

        (void)snprintf(path, sizeof(path), GOLDEN "small%u.model", i);
        t = open_spm(path);
        (void)snprintf(path, sizeof(path), GOLDEN "small%u.txt", i);
        assert_golden(t, path, 200);
        (void)tokenizer_free(t);
    }
}

/* ---- what golden files don't hold ---- */

/* 259 a, 260 b, 261 ab, 262 ▁, 263 ▁a, 264 <|x|> (control), 265 <u> (user-defined) */
static Tokenizer *make_small(void) {
    SpmWriter w = {.n = 0};

    spm_basics(&w);
    spm_piece(&w, "a", -1, 1);
    spm_piece(&w, "b", -2, 1);
    spm_piece(&w, "ab", -3, 1);
    spm_piece(&w, "▁", -4, 1);
    spm_piece(&w, "▁a", -5, 1);
    spm_piece(&w, "<|im_end|>", 0, 3);
    spm_piece(&w, "<u>", 0, 4);
    spm_specs(&w);
    return open_writer(&w);
}

static void test_flags(void) {
    Tokenizer *t = make_small();
    int32_t *tokens;
    size_t n;

    assert_encodes(t, "ab", 0, 262, 261);
    assert_encodes(t, "ab", GK_TOKENIZE_BOS, 1, 262, 261);
    assert_encodes(t, "", GK_TOKENIZE_BOS, 1);
    assert_ids(t, "", 0, 0, (int32_t[]){0}, 0);
    assert_ids(t, NULL, 0, 0, (int32_t[]){0}, 0);
    /* Control pieces are text unless asked for; then they cut the text. */
    assert_encodes(t, "<s>", 0, 262, 3 + '<', 3 + 's', 3 + '>');
    assert_encodes(t, "<s>", GK_TOKENIZE_CONTROL, 1);
    assert_encodes(t, "b<|im_end|><s>ab", GK_TOKENIZE_CONTROL, 262, 260, 264, 1, 262, 261);
    assert_encodes(t, "<|im_end", GK_TOKENIZE_CONTROL, 262, 3 + '<', 3 + '|', 3 + 'i', 3 + 'm',
                   3 + '_', 3 + 'e', 3 + 'n', 3 + 'd');
    assert_encodes(t, "a<u>b", 0, 263, 265, 260);
    assert_round_trip(t, "<s>ab <|im_end|>  b<u></s>", 26, GK_TOKENIZE_CONTROL);
    /* Exactly n_max tokens are allowed. */
    assert(tokenizer_encode(t, "ab", 2, GK_TOKENIZE_BOS, 3, &tokens, &n, NULL) == 0 && n == 3);
    free(tokens);
    assert(tokenizer_encode(t, "ab", 2, GK_TOKENIZE_BOS, 2, &tokens, &n, NULL) == GK_E_INVALID);
    assert(tokenizer_encode(t, "ab", 2, GK_TOKENIZE_BOS, 0, &tokens, &n, NULL) == GK_E_INVALID);
    (void)tokenizer_free(t);
}

static void test_decode(void) {
    Tokenizer *t = make_small();
    Error error = ERROR_INIT;
    char *text;
    size_t n;

    assert_decodes(t, false, "ab a", 1, 262, 261, 263);
    assert_decodes(t, true, "<s>ab a", 1, 262, 261, 263);
    assert_decodes(t, false, " ab", 262, 263, 260);
    assert_decodes(t, false, "ab", 263, 2, 260);
    assert_decodes(t, false, "é ⁇  b", 3 + 0xc3, 3 + 0xa9, 0, 262, 260);
    assert_decodes(t, false, "\xa9", 3 + 0xa9); /* as the tokens are: not whole UTF-8 */
    assert_text(t, NULL, 0, false, "", 0);
    assert(tokenizer_decode(t, (int32_t[]){259, 266}, 2, false, &text, &n, &error) == GK_E_INVALID);
    assert(strstr(error.text, "token 1 is 266"));
    assert(tokenizer_decode(t, (int32_t[]){-1}, 1, false, &text, &n, NULL) == GK_E_INVALID);
    assert(tokenizer_decode(t, (int32_t[]){INT32_MIN}, 1, false, &text, &n, NULL) == GK_E_INVALID);
    (void)tokenizer_free(t);
}

/* Where extra spaces are removed, a decoded text begins with none. */
static void test_decode_without_extra(void) {
    SpmWriter w = {.n = 0};
    Tokenizer *t;

    spm_basics(&w);
    spm_piece(&w, "▁", -1, 1);
    spm_piece(&w, "▁a", -2, 1);
    spm_specs(&w);
    spm_bytes(&w, 3, "\x20\x01", 2); /* remove_extra_whitespaces */
    t = open_writer(&w);
    assert_decodes(t, false, "a a", 259, 259, 1, 260, 260);
    assert_decodes(t, false, "", 259, 259);
    (void)tokenizer_free(t);
}

static void assert_piece(const Tokenizer *t, int32_t token, const char *text) {
    size_t n;
    const char *piece = tokenizer_piece(t, token, &n);

    assert(n == strlen(text) && memcmp(piece, text, n) == 0);
}

static void test_pieces(void) {
    Tokenizer *t = make_small();
    size_t n;

    assert_piece(t, 0, " ⁇ ");
    assert_piece(t, 1, "");
    assert_piece(t, 3 + 'x', "x");
    assert(tokenizer_piece(t, 3, &n)[0] == '\0' && n == 1);
    assert_piece(t, 262, " ");
    assert_piece(t, 263, " a");
    assert_piece(t, 265, "<u>");
    assert(tokenizer_is_control(t, 1) && tokenizer_is_control(t, 264));
    assert(!tokenizer_is_control(t, 0) && !tokenizer_is_control(t, 265));
    assert(tokenizer_is_eog(t, 2) && tokenizer_is_eog(t, 264));
    assert(!tokenizer_is_eog(t, 1) && !tokenizer_is_eog(t, 259));
    (void)tokenizer_free(t);
}

/* Whatever the bytes: zeroes, cut and overlong sequences, surrogates. Only ▁ itself comes back as a
 * space, as in SentencePiece. */
static void test_any_bytes(void) {
    static const char *const bits[] = {
        "\xe2\x96", "\x81", "\xf0\x9f\x98", "\x80",  "\xc0\xaf", "\xed\xa0\x80",
        "é",        " ",    "word",         "<0x41>"};
    Tokenizer *models[] = {open_spm(GOLDEN "grok1.model"), make_small(),
                           open_gguf("engine/demo/model-q8_0.gguf")};
    uint64_t state = 1;

    for (unsigned i = 0; i < 3000; i++) {
        char text[256];
        size_t n = 0;

        while (n < 200 && next_random(&state) % 32 != 0) {
            if (next_random(&state) % 4 == 0) {
                const char *bit = bits[next_random(&state) % ARRAY_SIZE(bits)];

                (void)memcpy(text + n, bit, strlen(bit));
                n += strlen(bit);
            } else {
                text[n++] = (char)next_random(&state);
            }
        }
        if (memmem(text, n, "▁", 3))
            continue;
        for (size_t j = 0; j < ARRAY_SIZE(models); j++)
            assert_round_trip(models[j], text, n, GK_TOKENIZE_NO_BOS);
    }
    for (size_t j = 0; j < ARRAY_SIZE(models); j++)
        (void)tokenizer_free(models[j]);
}

/* ---- long texts ---- */

#define LONG_BYTES 1000000

static void fill(char *text, const char *with) {
    for (size_t i = 0; i < LONG_BYTES; i++)
        text[i] = with[i % strlen(with)];
}

static void test_long_texts(void) {
    static const char *const texts[] = {"a",     " ",  "\n", "\t", "0",     "ab",   "é",
                                        "a b c", "統", "😀",  "~",  "\xff ", "zqxj", "<|mask|>"};
    Tokenizer *t = open_spm(GOLDEN "grok1.model");
    char *text = malloc(LONG_BYTES);
    int32_t *tokens;
    size_t n;
    Error error = ERROR_INIT;

    assert(text);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        fill(text, texts[i]);
        assert_round_trip(t, text, LONG_BYTES, 0);
        assert(tokenizer_encode(t, text, LONG_BYTES, 0, 8192, &tokens, &n, &error) == GK_E_INVALID);
        assert(strcmp(error.text, "the text has more than 8192 tokens") == 0);
    }
    fill(text, "a");
    assert(tokenizer_encode(t, text, LONG_BYTES, 0, SIZE_MAX, &tokens, &n, NULL) == 0);
    assert(n == 62503); /* SentencePiece's number */
    free(tokens);
    free(text);
    (void)tokenizer_free(t);
}

/* Every byte begins something that almost matches. */
static void test_costly_vocabularies(void) {
    SpmWriter w = {.n = 0};
    char *text = malloc(LONG_BYTES), piece[513];
    Tokenizer *t;

    assert(text);
    spm_basics(&w);
    spm_piece(&w, "▁", 0, 1);
    for (unsigned i = 1; i <= 200; i++) { /* merged: a, aa, aaa, … each from the one before */
        (void)memset(piece, 'a', i);
        spm_piece_n(&w, piece, i, -(float)i, 1);
    }
    for (unsigned i = 300; i <= 511; i++) { /* user-defined: cc…c!, which the text has not */
        (void)memset(piece, 'c', i);
        piece[i] = '!';
        spm_piece_n(&w, piece, i + 1, 0, 4);
    }
    spm_specs(&w);
    t = open_writer(&w);
    fill(text, "a");
    assert_round_trip(t, text, LONG_BYTES, 0);
    fill(text, "c");
    assert_round_trip(t, text, LONG_BYTES / 8, 0);
    (void)tokenizer_free(t);
    free(text);
}

/* ---- hostile files ---- */

static void assert_refused(SpmWriter *w, const char *reason) {
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = tokenizer_from_spm(&t, w->bytes, w->n, &error);

    if (r != GK_E_FILE || !strstr(error.text, reason))
        (void)printf("# %d, \"%s\" without \"%s\"\n", r, error.text, reason);
    assert(r == GK_E_FILE && !t && strstr(error.text, reason));
    spm_writer_deinit(w);
}

/* basics, one piece, specs */
static void assert_piece_refused(const void *piece, size_t n, float score, unsigned type,
                                 const char *reason) {
    SpmWriter w = {.n = 0};

    spm_basics(&w);
    spm_piece_n(&w, piece, n, score, type);
    spm_specs(&w);
    assert_refused(&w, reason);
}

static void test_hostile_pieces(void) {
    static char huge[70000];

    (void)memset(huge, 'x', sizeof(huge));
    assert_piece_refused("<0x-1>", 6, 0, 6, "\"<0x-1>\", not <0x00> to <0xFF>");
    assert_piece_refused("<0xGG>", 6, 0, 6, "\"<0xGG>\"");
    assert_piece_refused("<0xab>", 6, 0, 6, "\"<0xab>\"");
    assert_piece_refused("<0x100>", 7, 0, 6, "\"<0x100>\"");
    assert_piece_refused("<0x41>", 6, 0, 6, "<0x41> is there twice: 68 and 259");
    assert_piece_refused("", 0, 0, 1, "piece 259: an empty piece");
    assert_piece_refused("<s>", 3, 0, 3, "pieces 1 and 259 are the same: \"<s>\"");
    assert_piece_refused("x", 1, NAN, 1, "has NaN for a score");
    assert_piece_refused("x", 1, 0, 0, "a piece of unknown type 0");
    assert_piece_refused("x", 1, 0, 7, "a piece of unknown type 7");
    assert_piece_refused("x", 1, 0, 2, "2 unknown pieces instead of one");
    assert_piece_refused(huge, TEXT_PIECE_BYTES_MAX + 1, 0, 1, "a piece of 4097 bytes");
    assert_piece_refused(huge, 65537, 0, 1, "a piece of 65537 bytes"); /* 1 in 16 bits */
    assert_piece_refused(huge, 513, 0, 4, "a user-defined piece of 513 bytes");
    assert_piece_refused(huge, 513, 0, 3, "a control piece of 513 bytes");
}

static void test_duplicates_and_missing(void) {
    SpmWriter w = {.n = 0};

    spm_basics(&w);
    spm_piece(&w, "x", 0, 1);
    spm_piece(&w, "x", 0, 5);
    spm_specs(&w);
    assert_refused(&w, "pieces 259 and 260 are the same: \"x\"");

    spm_piece(&w, "<unk>", 0, 2);
    spm_piece(&w, "<0x41>", 0, 6);
    spm_specs(&w);
    assert_refused(&w, "1 of 256 byte pieces are there; <0x00> is not");

    spm_piece(&w, "x", 0, 1);
    spm_specs(&w);
    assert_refused(&w, "neither byte pieces nor an unknown piece");

    spm_piece(&w, "<unk>", 0, 2);
    spm_specs(&w);
    assert_refused(&w, "byte_fallback is true, but byte pieces are not there");

    spm_specs(&w);
    assert_refused(&w, "no pieces");
    assert_refused(&w, "model_type is UNIGRAM (1)"); /* an empty file */
}

/* The specs again after good ones: the last counts. */
static void assert_spec_refused(uint32_t spec, uint32_t field, uint64_t value, const char *reason) {
    SpmWriter w = {.n = 0}, message = {.n = 0};

    spm_basics(&w);
    spm_specs(&w);
    spm_number(&message, field, value);
    spm_bytes(&w, spec, message.bytes, message.n);
    spm_writer_deinit(&message);
    assert_refused(&w, reason);
}

static void test_unsupported(void) {
    SpmWriter w = {.n = 0}, message = {.n = 0};

    assert_spec_refused(2, 3, 1, "model_type is UNIGRAM (1); only BPE");
    assert_spec_refused(2, 3, 3, "model_type is WORD");
    assert_spec_refused(2, 3, 4, "model_type is CHAR");
    assert_spec_refused(2, 3, UINT64_MAX, "model_type is ? (18446744073709551615)");
    assert_spec_refused(2, 24, 1, "treat_whitespace_as_suffix");
    assert_spec_refused(2, 35, 0, "byte_fallback is false, but byte pieces are there");
    assert_spec_refused(2, 40, 259, "unk_id is 259; the vocabulary has 0 to 258");
    assert_spec_refused(2, 41, 259, "bos_id is 259; the vocabulary has 0 to 258");
    assert_spec_refused(2, 42, INT64_MAX, "eos_id is 9223372036854775807");
    assert_spec_refused(2, 43, 1u << 31, "pad_id is 2147483648");
    assert_spec_refused(3, 5, 0, "escape_whitespaces = false");
    assert_spec_refused(3, 2, 1, "has wire type 0 instead of 2");
    spm_basics(&w);
    spm_specs(&w);
    spm_bytes(&message, 1, "nmt_nfkc", 8);
    spm_bytes(&message, 2, "\1\0\0\0\xff\xff\xff\xff", 8);
    spm_bytes(&w, 3, message.bytes, message.n);
    assert_refused(&w, "the normaliser \"nmt_nfkc\" has a map of characters");
    spm_basics(&w);
    spm_specs(&w);
    spm_bytes(&w, 5, message.bytes, message.n);
    assert_refused(&w, "a denormaliser is not supported");
    spm_writer_deinit(&message);
}

static void assert_tail_refused(const void *bytes, size_t n, const char *reason) {
    SpmWriter w = {.n = 0};

    spm_basics(&w);
    spm_specs(&w);
    spm_raw(&w, bytes, n);
    assert_refused(&w, reason);
}

static void test_hostile_wire(void) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *reason;
    } tails[] = {
        {"\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, NULL}, /* 2^64 - 1 in field 15 */
        {"\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11, "longer than 10 bytes"},
        {"\x78\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "longer than 10 bytes"},
        {"\x78\x80", 2, "is cut off"},
        {"\x7a\x05\x01", 3, "field 15 has 5 bytes where 1 are left"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "bytes where 0 are left"},
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01", 11, "bytes where 1 are left"},
        {"\x7b\x08\x01\x7c", 4, "wire type 3"},
        {"\x7c", 1, "wire type 4"},
        {"\x7e", 1, "wire type 6"},
        {"\x7f", 1, "wire type 7"},
        {"\x79\1\2\3\4\5\6\7", 8, "is cut off"},
        {"\x7d\1\2\3", 4, "is cut off"},
        {"\x00\x00", 2, "not the tag of a field"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, "not the tag of a field"},
        {"\x08\x01", 2, "field 1 has wire type 0 instead of 2"},
        {"\x0a\x03\x0a\x05\x41", 5, "field 1 has 5 bytes where 1 are left"},
        {"\x0a\x02\x08\x01", 4, "field 1 has wire type 0 instead of 2"},
        {"\x0a\x05\x0a\x01x\x10\x01", 7, "field 2 has wire type 0 instead of 5"},
        {"\x0a\x05\x0a\x01x\x1a\x00", 7, "field 3 has wire type 2 instead of 0"},
        {"\x0a\x00", 2, "an empty piece"},
    };
    SpmWriter w = {.n = 0};
    Tokenizer *t = NULL;

    spm_basics(&w);
    spm_specs(&w);
    spm_raw(&w, tails[0].bytes, tails[0].n);
    t = open_writer(&w);
    assert(tokenizer_n_vocab(t) == 259);
    (void)tokenizer_free(t);
    for (size_t i = 1; i < ARRAY_SIZE(tails); i++)
        assert_tail_refused(tails[i].bytes, tails[i].n, tails[i].reason);
}

/* Accepted ones must work. */
static void try_bytes(const void *bytes, size_t n) {
    static const char text[] = "ab <s>c\xff é  x ▁▁b";
    void *exact = alloc_string_n(bytes, n); /* its own block, so that ASan sees its end */
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r = tokenizer_from_spm(&t, exact, n, &error);

    assert(r == 0 || (r == GK_E_FILE && error.text[0] != '\0'));
    if (r == 0) {
        int32_t *tokens;
        size_t n_tokens, n_text;
        char *decoded;

        assert(tokenizer_encode(t, text, sizeof(text) - 1, GK_TOKENIZE_CONTROL, SIZE_MAX, &tokens,
                                &n_tokens, NULL) == 0);
        assert(tokenizer_decode(t, tokens, n_tokens, true, &decoded, &n_text, NULL) == 0);
        free(decoded);
        free(tokens);
    }
    (void)tokenizer_free(t);
    free(exact);
}

static void test_mutants(void) {
    size_t n;
    char *bytes = read_file(GOLDEN "small5.model", &n);
    uint64_t state = 7;

    for (size_t i = 0; i <= n; i++)
        try_bytes(bytes, i);
    for (size_t i = 0; i < n; i++) {
        char was = bytes[i];

        for (unsigned bit = 0; bit < 8; bit++) {
            bytes[i] = (char)(was ^ 1 << bit);
            try_bytes(bytes, n);
        }
        bytes[i] = (char)0xff;
        try_bytes(bytes, n);
        bytes[i] = (char)next_random(&state);
        try_bytes(bytes, n);
        bytes[i] = was;
    }
    free(bytes);
}

static void assert_keys_refused(GgufWriter *w, const char *reason) {
    const char *path = temp_path("vocabulary.gguf");
    ModelFile *file = NULL;
    Tokenizer *t = NULL;
    Error error = ERROR_INIT;
    int r;

    gguf_writer_save(w, path);
    assert(model_file_open(&file, path, &error) == 0);
    r = tokenizer_from_gguf(&t, file, &error);
    if (reason)
        (void)printf("# %s\n", error.text);
    assert(reason ? r == GK_E_FILE && strstr(error.text, reason) : r == 0);
    (void)tokenizer_free(t);
    (void)model_file_close(file);
    gguf_writer_free(w);
}

static GgufWriter *honest_keys(void) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "a", "▁"};
    static const float scores[] = {0, 0, 0, -1, -2};
    static const int32_t types[] = {2, 3, 3, 1, 1};
    static const uint64_t one[] = {1};
    GgufWriter *w = gguf_writer_new();

    gguf_writer_string(w, "general.architecture", "test");
    gguf_writer_string(w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(w, "tokenizer.ggml.tokens", pieces, 5);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_FLOAT32, scores, 5, sizeof(scores));
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_INT32, types, 5, sizeof(types));
    (void)gguf_writer_tensor(w, "x", 0, 1, one, NULL, 4);
    return w;
}

static void test_hostile_keys(void) {
    static const char *const ids[] = {"bos", "eos", "unknown", "padding", "eot", "eom"};
    static const int32_t four[] = {2, 3, 3, 1};
    static const uint8_t map[] = {1, 2, 3, 4};
    GgufWriter *w = honest_keys();
    char key[64];

    assert_keys_refused(w, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        (void)snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", ids[i]);
        w = honest_keys();
        gguf_writer_u32(w, key, 5);
        assert_keys_refused(w, "_token_id is 5; the vocabulary has 0 to 4");
        w = honest_keys();
        gguf_writer_f32(w, key, 1);
        assert_keys_refused(w, "_token_id is not an unsigned integer");
    }
    w = honest_keys();
    gguf_writer_string(w, "tokenizer.ggml.model", "gpt2");
    assert_keys_refused(w, "is \"gpt2\"; only \"llama\"");
    w = honest_keys();
    gguf_writer_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_UINT8, map, 4, 4);
    assert_keys_refused(w, "only the identity normaliser");
    w = honest_keys();
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_INT32, four, 4, sizeof(four));
    assert_keys_refused(w, "token_type has 4 elements for 5 pieces");
    w = honest_keys();
    gguf_writer_u32(w, "tokenizer.ggml.add_bos_token", 1);
    assert_keys_refused(w, "add_bos_token is not a boolean");
    w = honest_keys();
    gguf_writer_strings(w, "tokenizer.ggml.tokens", NULL, 0);
    assert_keys_refused(w, "tokens: no pieces");
}

/* ---- memory ---- */

static int open_and_use(const void *bytes, size_t n) {
    CLEANUP(tokenizer_freep) Tokenizer *t = NULL;
    CLEANUP(freep) int32_t *tokens = NULL;
    CLEANUP(freep) char *text = NULL;
    size_t n_tokens, n_text;
    int r = tokenizer_from_spm(&t, bytes, n, NULL);

    if (!r)
        r = tokenizer_encode(t, "<s>ab  c▁\xff</s>ddd", 18, GK_TOKENIZE_CONTROL, 100, &tokens,
                             &n_tokens, NULL);
    if (!r)
        r = tokenizer_decode(t, tokens, n_tokens, true, &text, &n_text, NULL);
    return r;
}

static void test_allocation_failures(void) {
    size_t n, i = 1;
    char *bytes = read_file(GOLDEN "small1.model", &n);

    for (;; i++) {
        int r;

        alloc_fail_after(i);
        r = open_and_use(bytes, n);
        alloc_fail_after(0);
        if (r == 0)
            break;
        assert(r == -ENOMEM);
    }
    (void)printf("# %zu allocations\n", i - 1);
    assert(i > 10);
    free(bytes);
}

static const struct test tests[] = {
    TEST(grok1),
    TEST(demo),
    TEST(small_models),
    TEST(flags),
    TEST(decode),
    TEST(decode_without_extra),
    TEST(pieces),
    TEST(any_bytes),
    {"long_texts", test_long_texts, 30},
    {"costly_vocabularies", test_costly_vocabularies, 30},
    TEST(hostile_pieces),
    TEST(duplicates_and_missing),
    TEST(unsupported),
    TEST(hostile_wire),
    {"mutants", test_mutants, 30},
    TEST(hostile_keys),
    TEST(allocation_failures),
};

int main(int argc, char **argv) {
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
