/*
 * A SentencePiece vocabulary from its own file, tokenizer.model: a protobuf, of which a bounded
 * reader of the wire format takes the few fields that matter (sentencepiece_model.proto of the
 * SentencePiece project).
 */
#include "base/alloc.h"
#include "base/cursor.h"
#include "engine/engine.h"
#include "engine/text/vocab.h"

#include <errno.h>
#include <math.h>

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t varint;
    Cursor bytes; /* WIRE_BYTES */
    float f32;    /* WIRE_32 */
};

static bool read_varint(Cursor *c, uint64_t *ret) {
    uint64_t v = 0;
    uint8_t byte;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (!cursor_u8(c, &byte) || (shift == 63 && byte > 1))
            return false;
        v |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static bool read_field(Cursor *c, struct field *ret) {
    const uint8_t *p;
    uint64_t key, n;

    if (!read_varint(c, &key) || key >> 3 == 0 || key >> 3 > 0x1FFFFFFF)
        return false;
    ret->number = (uint32_t)(key >> 3);
    ret->wire = (enum wire)(key & 7);
    switch (ret->wire) {
    case WIRE_VARINT:
        return read_varint(c, &ret->varint);
    case WIRE_64:
        return cursor_take(c, 8, &p);
    case WIRE_32:
        return cursor_f32le(c, &ret->f32);
    case WIRE_BYTES:
        if (!read_varint(c, &n) || !cursor_take(c, n, &p))
            return false;
        ret->bytes = (Cursor){.start = c->start, .at = p, .end = p + n};
        return true;
    default: /* groups, and numbers that are no type */
        return false;
    }
}

static int malformed(const Cursor *c, const char *what, Error *reterr) {
    return error_set(reterr, GK_E_FILE, "%s is malformed at offset %llu", what,
                     (unsigned long long)cursor_offset(c));
}

static int read_piece(Cursor c, struct piece *ret, Error *reterr) {
    struct field f;

    *ret = (struct piece){.text = "", .type = PIECE_NORMAL};
    while (cursor_left(&c) > 0) {
        if (!read_field(&c, &f))
            return malformed(&c, "a piece", reterr);
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            ret->text = (const char *)f.bytes.at;
            ret->n = cursor_left(&f.bytes);
        } else if (f.number == 2 && f.wire == WIRE_32) {
            ret->score = f.f32;
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            if (f.varint < PIECE_NORMAL || f.varint > PIECE_BYTE)
                return error_set(
                    reterr, GK_E_FILE, "the piece before offset %llu has type %llu, not 1 to 6",
                    (unsigned long long)cursor_offset(&c), (unsigned long long)f.varint);
            ret->type = (enum piece_type)f.varint;
        }
    }
    if (isnan(ret->score))
        return error_set(reterr, GK_E_FILE,
                         "the piece before offset %llu has a score that is not a number",
                         (unsigned long long)cursor_offset(&c));
    return 0;
}

static int read_trainer(Cursor c, struct vocab *v, Error *reterr) {
    static const char *const types[] = {"none", "unigram", "BPE", "word", "char"};
    uint64_t model_type = 1;
    struct field f;

    while (cursor_left(&c) > 0) {
        if (!read_field(&c, &f))
            return malformed(&c, "trainer_spec", reterr);
        if (f.wire != WIRE_VARINT)
            continue;
        if (f.number == 3)
            model_type = f.varint;
        else if (f.number == 40)
            v->unknown = (int32_t)f.varint;
        else if (f.number == 41)
            v->bos = (int32_t)f.varint;
        else if (f.number == 42)
            v->eos = (int32_t)f.varint;
    }
    if (model_type != 2)
        return error_set(reterr, GK_E_FILE, "a SentencePiece model of type %s, not BPE",
                         model_type < 5 ? types[model_type] : "unknown");
    return 0;
}

static int read_normalizer(Cursor c, struct vocab *v, Error *reterr) {
    struct field f;

    while (cursor_left(&c) > 0) {
        if (!read_field(&c, &f))
            return malformed(&c, "normalizer_spec", reterr);
        if (f.number == 2 && f.wire == WIRE_BYTES && cursor_left(&f.bytes) > 0)
            return error_set(reterr, GK_E_FILE,
                             "normalizer_spec has a character map at offset %llu; only the "
                             "identity is supported",
                             (unsigned long long)cursor_offset(&f.bytes));
        if (f.number == 3 && f.wire == WIRE_VARINT)
            v->add_dummy_prefix = f.varint != 0;
        if (f.number == 4 && f.wire == WIRE_VARINT)
            v->remove_extra_whitespaces = f.varint != 0;
        if (f.number == 5 && f.wire == WIRE_VARINT && f.varint == 0)
            return error_set(reterr, GK_E_FILE,
                             "normalizer_spec doesn't escape spaces; that is not supported");
    }
    return 0;
}

/* First pass: how many pieces, and the settings. */
static int scan(Cursor c, struct vocab *v, Error *reterr) {
    bool has_trainer = false;
    struct field f;
    uint64_t n = 0;
    int r = 0;

    while (r == 0 && cursor_left(&c) > 0) {
        if (!read_field(&c, &f))
            return malformed(&c, "the file", reterr);
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == 1)
            n++;
        else if (f.number == 2)
            r = read_trainer(f.bytes, v, reterr);
        else if (f.number == 3)
            r = read_normalizer(f.bytes, v, reterr);
        has_trainer |= f.number == 2;
    }
    if (r != 0)
        return r;
    if (n == 0 || n > TEXT_VOCAB_MAX || !has_trainer)
        return error_set(reterr, GK_E_FILE, "not a SentencePiece model: %llu pieces%s",
                         (unsigned long long)n, has_trainer ? "" : ", no trainer_spec");
    v->n = (uint32_t)n;
    return 0;
}

int tokenizer_from_spm(Tokenizer **ret, const void *bytes, size_t n, Error *reterr) {
    struct vocab v = {
        .bos = 1, .eos = 2, .add_dummy_prefix = true, .remove_extra_whitespaces = true};
    Cursor c = cursor_make(bytes, n);
    struct field f;
    int r;

    r = scan(c, &v, reterr);
    if (r != 0)
        return r;
    v.pieces = alloc_array(v.n, sizeof(*v.pieces));
    if (!v.pieces)
        return error_set(reterr, -ENOMEM, "out of memory");
    for (uint32_t i = 0; r == 0 && i < v.n && read_field(&c, &f);)
        if (f.number == 1 && f.wire == WIRE_BYTES)
            r = read_piece(f.bytes, &v.pieces[i++], reterr);
    if (r == 0)
        r = tokenizer_new(ret, &v, reterr);
    free(v.pieces);
    return r;
}
