/* A SentencePiece vocabulary from GGUF metadata. */
#include "base/alloc.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "engine/text/vocab.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static int check_model(const ModelFile *f, Error *reterr) {
    struct file_string model;
    char shown[64];

    if (!model_file_get_string(f, KEY("model"), &model))
        return error_set(reterr, GK_E_FILE, "key " KEY("model") " is missing or not a string");
    if (model.n == 5 && memcmp(model.bytes, "llama", 5) == 0)
        return 0;
    return error_set(reterr, GK_E_FILE,
                     "key " KEY("model") " is '%s'; only 'llama' (SentencePiece BPE) is supported",
                     utf8_printable(shown, sizeof(shown), model.bytes, model.n));
}

static int get_array(const ModelFile *f, const char *key, uint64_t n, struct file_array *ret,
                     Error *reterr) {
    if (!model_file_get_array(f, key, ret))
        return error_set(reterr, GK_E_FILE, "key %s is missing or not an array", key);
    if (ret->n != n)
        return error_set(reterr, GK_E_FILE,
                         "key %s has %llu elements, not one for each of the %llu tokens", key,
                         (unsigned long long)ret->n, (unsigned long long)n);
    return 0;
}

static int read_pieces(const ModelFile *f, struct vocab *v, Error *reterr) {
    struct file_array tokens, scores, types;
    uint64_t at = 0;
    int r;

    if (!model_file_get_array(f, KEY("tokens"), &tokens))
        return error_set(reterr, GK_E_FILE, "key " KEY("tokens") " is missing or not an array");
    if (tokens.n == 0 || tokens.n > TEXT_VOCAB_MAX)
        return error_set(reterr, GK_E_FILE, "key " KEY("tokens") " has %llu elements, not 1 to %u",
                         (unsigned long long)tokens.n, TEXT_VOCAB_MAX);
    if ((r = get_array(f, KEY("scores"), tokens.n, &scores, reterr)) != 0 ||
        (r = get_array(f, KEY("token_type"), tokens.n, &types, reterr)) != 0)
        return r;
    v->pieces = alloc_array(tokens.n, sizeof(*v->pieces));
    if (!v->pieces)
        return error_set(reterr, -ENOMEM, "out of memory");
    v->n = (uint32_t)tokens.n;
    for (uint64_t i = 0; i < tokens.n; i++) {
        struct piece *p = &v->pieces[i];
        struct file_string text;
        int32_t type;

        if (!file_array_next_string(&tokens, &at, &text))
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("tokens") ": element %llu is not a string",
                             (unsigned long long)i);
        if (!file_array_f32(&scores, i, &p->score) || isnan(p->score))
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("scores") ": element %llu is not a number",
                             (unsigned long long)i);
        if (!file_array_i32(&types, i, &type) || type < PIECE_NORMAL || type > PIECE_BYTE)
            return error_set(reterr, GK_E_FILE,
                             "key " KEY("token_type") ": element %llu is not 1 to 6",
                             (unsigned long long)i);
        p->text = text.bytes;
        p->n = text.n;
        p->type = (enum piece_type)type;
    }
    return 0;
}

/* An id in the vocabulary; absent: -1. */
static int get_id(const ModelFile *f, const char *key, uint32_t n, int32_t *ret, Error *reterr) {
    uint64_t id;

    *ret = -1;
    if (!model_file_has(f, key))
        return 0;
    if (!model_file_get_u64(f, key, &id) || id >= n)
        return error_set(reterr, GK_E_FILE, "key %s is not an id below %u", key, n);
    *ret = (int32_t)id;
    return 0;
}

/* Leaves *ret alone where the key is absent. */
static int get_bool(const ModelFile *f, const char *key, bool *ret, Error *reterr) {
    if (model_file_has(f, key) && !model_file_get_bool(f, key, ret))
        return error_set(reterr, GK_E_FILE, "key %s is not a bool", key);
    return 0;
}

int tokenizer_from_gguf(Tokenizer **ret, const ModelFile *file, Error *reterr) {
    struct vocab v = {.add_bos = true, .add_dummy_prefix = true};
    int r;

    if ((r = check_model(file, reterr)) == 0 && (r = read_pieces(file, &v, reterr)) == 0 &&
        (r = get_id(file, KEY("bos_token_id"), v.n, &v.bos, reterr)) == 0 &&
        (r = get_id(file, KEY("eos_token_id"), v.n, &v.eos, reterr)) == 0 &&
        (r = get_id(file, KEY("unknown_token_id"), v.n, &v.unknown, reterr)) == 0 &&
        (r = get_bool(file, KEY("add_bos_token"), &v.add_bos, reterr)) == 0 &&
        (r = get_bool(file, KEY("add_space_prefix"), &v.add_dummy_prefix, reterr)) == 0 &&
        (r = get_bool(file, KEY("remove_extra_whitespaces"), &v.remove_extra_whitespaces,
                      reterr)) == 0)
        r = tokenizer_new(ret, &v, reterr);
    free(v.pieces);
    return r;
}
