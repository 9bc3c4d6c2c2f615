/* See text.h: a tokenizer from GGUF's keys tokenizer.ggml.*, as llama.cpp defines them. */
#include "engine/text/spm.h"

#include "base/utf8.h"
#include "engine/engine.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static int check_kind(const ModelFile *file, Error *reterr) {
    struct file_string model;
    struct file_array map;
    char shown[64];

    if (!model_file_get_string(file, KEY("model"), &model))
        return error_set(reterr, GK_E_FILE, "key " KEY("model") " is missing or not a string");
    if (model.n != 5 || memcmp(model.bytes, "llama", 5) != 0)
        return error_set(
            reterr, GK_E_FILE,
            "key " KEY("model") " is \"%s\"; only \"llama\" (SentencePiece BPE) is supported",
            utf8_printable(shown, sizeof(shown), model.bytes, model.n));
    if (!model_file_has(file, KEY("precompiled_charsmap")))
        return 0;
    if (!model_file_get_array(file, KEY("precompiled_charsmap"), &map) || map.n > 0)
        return error_set(reterr, GK_E_FILE,
                         "key " KEY("precompiled_charsmap") " is not empty; only the identity "
                                                            "normaliser is supported");
    return 0;
}

static int get_array(const ModelFile *file, const char *key, uint64_t n, struct file_array *ret,
                     Error *reterr) {
    if (!model_file_get_array(file, key, ret))
        return error_set(reterr, GK_E_FILE, "key %s is missing or not an array", key);
    if (ret->n > TEXT_VOCAB_MAX)
        return error_set(reterr, GK_E_FILE, "key %s has %" PRIu64 " elements (at most %u)", key,
                         ret->n, TEXT_VOCAB_MAX);
    if (n > 0 && ret->n != n)
        return error_set(reterr, GK_E_FILE,
                         "key %s has %" PRIu64 " elements for %" PRIu64 " pieces", key, ret->n, n);
    return 0;
}

static int read_pieces(Tokenizer *t, const ModelFile *file, Error *reterr) {
    struct file_array pieces, scores, types;
    struct file_string bytes;
    uint64_t at = 0;
    int r;

    r = get_array(file, KEY("tokens"), 0, &pieces, reterr);
    if (!r)
        r = get_array(file, KEY("scores"), pieces.n, &scores, reterr);
    if (!r)
        r = get_array(file, KEY("token_type"), pieces.n, &types, reterr);
    for (uint64_t i = 0; !r && i < pieces.n; i++) {
        float score;
        int32_t type;

        if (!file_array_next_string(&pieces, &at, &bytes))
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("tokens") ": element %" PRIu64 " is not a string", i);
        if (!file_array_f32(&scores, i, &score) || isnan(score))
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("scores") ": element %" PRIu64 " is not a number", i);
        if (!file_array_i32(&types, i, &type))
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("token_type") ": element %" PRIu64 " is not an integer", i);
        r = vocab_add(&t->vocab, bytes.bytes, bytes.n, score, (uint32_t)type, reterr);
        if (r > 0)
            error_prefix(reterr, "key " KEY("tokens") ": element %" PRIu64, i);
    }
    return r;
}

/* An absent key leaves the value alone. */
static int read_token(const Tokenizer *t, const ModelFile *file, const char *key, int32_t *ret,
                      Error *reterr) {
    uint64_t token;

    if (!model_file_has(file, key))
        return 0;
    if (!model_file_get_u64(file, key, &token))
        return error_set(reterr, GK_E_FILE, "key %s is not an unsigned integer", key);
    if (token >= t->vocab.n)
        return error_set(reterr, GK_E_FILE, "key %s is %" PRIu64 "; the vocabulary has 0 to %u",
                         key, token, t->vocab.n - 1);
    *ret = (int32_t)token;
    return 0;
}

static int read_bool(const ModelFile *file, const char *key, bool *ret, Error *reterr) {
    if (!model_file_has(file, key) || model_file_get_bool(file, key, ret))
        return 0;
    return error_set(reterr, GK_E_FILE, "key %s is not a boolean", key);
}

static int32_t control_or_none(const Tokenizer *t, uint32_t token) {
    return token < t->vocab.n && t->vocab.pieces[token].type == PIECE_CONTROL ? (int32_t)token : -1;
}

/* llama.cpp's values for a "llama" file that lacks the key. */
static void set_defaults(Tokenizer *t) {
    t->bos = control_or_none(t, 1);
    t->eos = control_or_none(t, 2);
    t->add_bos = t->add_dummy_prefix = true;
}

static int read_rest(Tokenizer *t, const ModelFile *file, Error *reterr) {
    int32_t padding;
    const struct {
        const char *key;
        int32_t *token;
    } tokens[] = {
        {KEY("bos_token_id"), &t->bos},         {KEY("eos_token_id"), &t->eos},
        {KEY("eot_token_id"), &t->eot},         {KEY("eom_token_id"), &t->eom},
        {KEY("unknown_token_id"), &t->unknown}, {KEY("padding_token_id"), &padding},
    };
    /* add_eos_token is read for its type alone: a text that is to be continued must not say that it
     * has ended. */
    bool add_eos;
    const struct {
        const char *key;
        bool *value;
    } bools[] = {
        {KEY("add_bos_token"), &t->add_bos},
        {KEY("add_eos_token"), &add_eos},
        {KEY("add_space_prefix"), &t->add_dummy_prefix},
        {KEY("remove_extra_whitespaces"), &t->remove_extra_whitespaces},
    };
    int r = 0;

    set_defaults(t);
    for (size_t i = 0; !r && i < ARRAY_SIZE(tokens); i++)
        r = read_token(t, file, tokens[i].key, tokens[i].token, reterr);
    for (size_t i = 0; !r && i < ARRAY_SIZE(bools); i++)
        r = read_bool(file, bools[i].key, bools[i].value, reterr);
    if (t->bos < 0)
        t->add_bos = false;
    return r;
}

int tokenizer_from_gguf(Tokenizer **ret, const ModelFile *file, Error *reterr) {
    CLEANUP(tokenizer_freep) Tokenizer *t = NULL;
    int r = check_kind(file, reterr);

    if (r)
        return r;
    t = spm_new();
    if (!t)
        return error_origin(-ENOMEM);
    r = read_pieces(t, file, reterr);
    if (!r)
        r = read_rest(t, file, reterr);
    if (r)
        return r;
    r = spm_finish(t, SPM_UNKNOWN_SURFACE, sizeof(SPM_UNKNOWN_SURFACE) - 1, reterr);
    if (r > 0)
        error_prefix(reterr, "key " KEY("tokens"));
    if (r)
        return r;
    *ret = take_ptr(t);
    return 0;
}
