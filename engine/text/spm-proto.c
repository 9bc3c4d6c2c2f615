/*
 * See text.h: a tokenizer from SentencePiece's own file, a protobuf message ModelProto.
 *
 * Read by hand, one field after the other, each inside its message's bytes: there is nothing
 * recursive in what we need, and nothing is kept of what we don't. A known field of the wrong wire
 * type, a group, and whatever would make ids differ from SentencePiece's are refused with the byte
 * offset. As in every protobuf reader the last of a repeated single field counts.
 */
#include "engine/text/spm.h"

#include "base/cursor.h"
#include "base/utf8.h"
#include "engine/engine.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* sentencepiece_model.proto */
enum { MODEL_PIECES = 1, MODEL_TRAINER, MODEL_NORMALIZER, MODEL_SELF_TEST, MODEL_DENORMALIZER };
enum { PIECE_FIELD_PIECE = 1, PIECE_FIELD_SCORE, PIECE_FIELD_TYPE };
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_WHITESPACE_AS_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNK_ID = 40,
    TRAINER_BOS_ID,
    TRAINER_EOS_ID,
    TRAINER_PAD_ID,
    TRAINER_UNK_SURFACE,
    TRAINER_UNK_PIECE,
    TRAINER_BOS_PIECE,
    TRAINER_EOS_PIECE,
};
enum {
    NORMALIZER_NAME = 1,
    NORMALIZER_CHARSMAP,
    NORMALIZER_DUMMY_PREFIX,
    NORMALIZER_REMOVE_EXTRA,
    NORMALIZER_ESCAPE,
};

enum wire { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_GROUP, WIRE_GROUP_END, WIRE_32 };

struct field {
    uint64_t number, value; /* of a varint; the bits of fixed numbers */
    enum wire wire;
    const uint8_t *bytes;
    size_t n;
    uint64_t offset; /* where the field begins in the file */
};

struct string {
    const uint8_t *bytes;
    size_t n;
};

struct special {
    const char *name;
    uint64_t id; /* 64 bits of a varint; negative: none */
    uint64_t offset;
    struct string piece;
};

struct model {
    Tokenizer *t;
    uint64_t model_type;
    bool byte_fallback;
    struct string unk_surface, normalizer_name;
    struct special unk, bos, eos, pad;
    uint64_t n_charsmap, charsmap_offset;
};

#define refuse(reterr, offset, format, ...)                                                        \
    error_set(reterr, GK_E_FILE, "byte %" PRIu64 ": " format, (uint64_t)(offset), ##__VA_ARGS__)

/* ---- the wire ---- */

static bool read_varint(Cursor *c, uint64_t *ret) {
    uint64_t value = 0;
    uint8_t byte;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (!cursor_u8(c, &byte) || (shift == 63 && byte > 1))
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = value;
            return true;
        }
    }
    return false;
}

static int read_value(Cursor *c, struct field *f, Error *reterr) {
    uint64_t n;
    uint32_t bits;

    switch (f->wire) {
    case WIRE_VARINT:
        if (!read_varint(c, &f->value))
            return refuse(reterr, f->offset,
                          "the number of field %" PRIu64 " is cut off or longer "
                          "than 10 bytes",
                          f->number);
        return 0;
    case WIRE_BYTES:
        if (!read_varint(c, &n))
            return refuse(reterr, f->offset,
                          "the length of field %" PRIu64 " is cut off or longer "
                          "than 10 bytes",
                          f->number);
        if (!cursor_take(c, n, &f->bytes))
            return refuse(reterr, f->offset,
                          "field %" PRIu64 " has %" PRIu64 " bytes where %zu are left", f->number,
                          n, cursor_left(c));
        f->n = (size_t)n;
        return 0;
    case WIRE_64:
        if (!cursor_u64le(c, &f->value))
            return refuse(reterr, f->offset, "field %" PRIu64 " is cut off", f->number);
        return 0;
    case WIRE_32:
        if (!cursor_u32le(c, &bits))
            return refuse(reterr, f->offset, "field %" PRIu64 " is cut off", f->number);
        f->value = bits;
        return 0;
    case WIRE_GROUP:
    case WIRE_GROUP_END:
    default:
        return refuse(reterr, f->offset,
                      "field %" PRIu64 " has wire type %u, which a tokenizer.model "
                      "does not have",
                      f->number, (unsigned)f->wire);
    }
}

static int next_field(Cursor *c, struct field *ret, Error *reterr) {
    struct field f = {.offset = cursor_offset(c)};
    uint64_t tag;
    int r;

    if (!read_varint(c, &tag) || tag >> 3 == 0 || tag >> 32 != 0)
        return refuse(reterr, f.offset, "not the tag of a field; this is no SentencePiece model");
    f.number = tag >> 3;
    f.wire = (enum wire)(tag & 7);
    r = read_value(c, &f, reterr);
    if (!r)
        *ret = f;
    return r;
}

static int expect(const struct field *f, enum wire wire, Error *reterr) {
    if (f->wire == wire)
        return 0;
    return refuse(reterr, f->offset, "field %" PRIu64 " has wire type %u instead of %u", f->number,
                  (unsigned)f->wire, (unsigned)wire);
}

/* The bytes of a message inside the file; offsets stay those of the file. */
static Cursor inside(const Cursor *file, const struct field *f) {
    return (Cursor){.start = file->start, .at = f->bytes, .end = f->bytes + f->n};
}

static int get_bytes(const struct field *f, struct string *ret, Error *reterr) {
    int r = expect(f, WIRE_BYTES, reterr);

    if (!r)
        *ret = (struct string){.bytes = f->bytes, .n = f->n};
    return r;
}

static int get_u64(const struct field *f, uint64_t *ret, Error *reterr) {
    int r = expect(f, WIRE_VARINT, reterr);

    if (!r)
        *ret = f->value;
    return r;
}

static int get_bool(const struct field *f, bool *ret, Error *reterr) {
    int r = expect(f, WIRE_VARINT, reterr);

    if (!r)
        *ret = f->value != 0;
    return r;
}

static int get_float(const struct field *f, float *ret, Error *reterr) {
    uint32_t bits = (uint32_t)f->value;
    int r = expect(f, WIRE_32, reterr);

    if (!r)
        (void)memcpy(ret, &bits, sizeof(*ret));
    return r;
}

/* ---- the messages ---- */

static int read_piece(struct model *m, Cursor c, uint64_t offset, Error *reterr) {
    struct string piece = {(const uint8_t *)"", 0};
    uint64_t type = PIECE_NORMAL;
    float score = 0;
    struct field f;
    int r = 0;

    while (!r && cursor_left(&c) > 0) {
        r = next_field(&c, &f, reterr);
        if (r)
            break;
        switch (f.number) {
        case PIECE_FIELD_PIECE:
            r = get_bytes(&f, &piece, reterr);
            break;
        case PIECE_FIELD_SCORE:
            r = get_float(&f, &score, reterr);
            break;
        case PIECE_FIELD_TYPE:
            r = get_u64(&f, &type, reterr);
            break;
        default:
            break;
        }
    }
    if (r)
        return r;
    r = vocab_add(&m->t->vocab, piece.bytes, piece.n, score, (uint32_t)MIN(type, UINT32_MAX),
                  reterr);
    if (r > 0)
        error_prefix(reterr, "byte %" PRIu64 ": piece %u", offset, m->t->vocab.n);
    return r;
}

static int get_id(const struct field *f, struct special *ret, Error *reterr) {
    ret->offset = f->offset;
    return get_u64(f, &ret->id, reterr);
}

static int read_trainer_field(struct model *m, const struct field *f, Error *reterr) {
    bool suffix = false;
    int r;

    switch (f->number) {
    case TRAINER_MODEL_TYPE:
        return get_u64(f, &m->model_type, reterr);
    case TRAINER_WHITESPACE_AS_SUFFIX:
        r = get_bool(f, &suffix, reterr);
        if (!r && suffix)
            r = refuse(reterr, f->offset,
                       "trainer_spec.treat_whitespace_as_suffix is not supported");
        return r;
    case TRAINER_BYTE_FALLBACK:
        return get_bool(f, &m->byte_fallback, reterr);
    case TRAINER_UNK_ID:
        return get_id(f, &m->unk, reterr);
    case TRAINER_BOS_ID:
        return get_id(f, &m->bos, reterr);
    case TRAINER_EOS_ID:
        return get_id(f, &m->eos, reterr);
    case TRAINER_PAD_ID:
        return get_id(f, &m->pad, reterr);
    case TRAINER_UNK_SURFACE:
        return get_bytes(f, &m->unk_surface, reterr);
    case TRAINER_BOS_PIECE:
        return get_bytes(f, &m->bos.piece, reterr);
    case TRAINER_EOS_PIECE:
        return get_bytes(f, &m->eos.piece, reterr);
    default:
        return 0;
    }
}

static int get_charsmap(struct model *m, const struct field *f, Error *reterr) {
    m->n_charsmap = f->n;
    m->charsmap_offset = f->offset;
    return expect(f, WIRE_BYTES, reterr);
}

static int read_normalizer_field(struct model *m, const struct field *f, Error *reterr) {
    bool escape = true;
    int r;

    switch (f->number) {
    case NORMALIZER_NAME:
        return get_bytes(f, &m->normalizer_name, reterr);
    case NORMALIZER_CHARSMAP:
        return get_charsmap(m, f, reterr);
    case NORMALIZER_DUMMY_PREFIX:
        return get_bool(f, &m->t->add_dummy_prefix, reterr);
    case NORMALIZER_REMOVE_EXTRA:
        return get_bool(f, &m->t->remove_extra_whitespaces, reterr);
    case NORMALIZER_ESCAPE:
        r = get_bool(f, &escape, reterr);
        if (!r && !escape)
            r = refuse(reterr, f->offset,
                       "normalizer_spec.escape_whitespaces = false is not supported");
        return r;
    default:
        return 0;
    }
}

static int read_denormalizer_field(struct model *m, const struct field *f, Error *reterr) {
    (void)m;
    if (f->number != NORMALIZER_CHARSMAP || f->n == 0)
        return 0;
    return refuse(reterr, f->offset, "a denormaliser is not supported");
}

static int read_spec(struct model *m, Cursor c,
                     int (*read)(struct model *, const struct field *, Error *), Error *reterr) {
    struct field f;
    int r = 0;

    while (!r && cursor_left(&c) > 0) {
        r = next_field(&c, &f, reterr);
        if (!r)
            r = read(m, &f, reterr);
    }
    return r;
}

static int read_model(struct model *m, Cursor c, Error *reterr) {
    struct field f;
    int r = 0;

    while (!r && cursor_left(&c) > 0) {
        r = next_field(&c, &f, reterr);
        if (r || f.number > MODEL_DENORMALIZER)
            continue;
        r = expect(&f, WIRE_BYTES, reterr);
        if (r)
            return r;
        switch (f.number) {
        case MODEL_PIECES:
            r = read_piece(m, inside(&c, &f), f.offset, reterr);
            break;
        case MODEL_TRAINER:
            r = read_spec(m, inside(&c, &f), read_trainer_field, reterr);
            break;
        case MODEL_NORMALIZER:
            r = read_spec(m, inside(&c, &f), read_normalizer_field, reterr);
            break;
        case MODEL_DENORMALIZER:
            r = read_spec(m, inside(&c, &f), read_denormalizer_field, reterr);
            break;
        default:
            break;
        }
    }
    return r;
}

/* ---- what SentencePiece asks of a model, and what we do ---- */

static int check_kind(const struct model *m, Error *reterr) {
    static const char *const names[] = {"?", "UNIGRAM", "BPE", "WORD", "CHAR"};
    char shown[64];

    if (m->model_type != 2)
        return error_set(
            reterr, GK_E_FILE, "trainer_spec.model_type is %s (%" PRIu64 "); only BPE is supported",
            names[m->model_type < ARRAY_SIZE(names) ? m->model_type : 0], m->model_type);
    if (m->n_charsmap > 0)
        return refuse(
            reterr, m->charsmap_offset,
            "the normaliser \"%s\" has a map of characters; only identity is supported",
            utf8_printable(shown, sizeof(shown), m->normalizer_name.bytes, m->normalizer_name.n));
    return 0;
}

static int check_pieces(const struct model *m, Error *reterr) {
    const Vocab *v = &m->t->vocab;
    uint32_t n_unknown = 0;

    for (uint32_t i = 0; i < v->n; i++)
        n_unknown += v->pieces[i].type == PIECE_UNKNOWN;
    if (n_unknown != 1)
        return error_set(reterr, GK_E_FILE, "%u unknown pieces instead of one", n_unknown);
    if (v->has_bytes != m->byte_fallback)
        return error_set(reterr, GK_E_FILE,
                         "trainer_spec.byte_fallback is %s, but byte pieces are %s",
                         m->byte_fallback ? "true" : "false", v->has_bytes ? "there" : "not there");
    return 0;
}

/* SentencePiece goes by the piece; the id in the file only has to make sense. */
static int find_special(const struct model *m, const struct special *s, int32_t *ret,
                        Error *reterr) {
    if ((int64_t)s->id >= (int64_t)m->t->vocab.n)
        return refuse(reterr, s->offset,
                      "trainer_spec.%s is %" PRIu64 "; the vocabulary has 0 to %u", s->name, s->id,
                      m->t->vocab.n - 1);
    *ret = vocab_find_control(&m->t->vocab, s->piece.bytes, s->piece.n);
    return 0;
}

#define SPECIAL(field, text)                                                                       \
    {                                                                                              \
        .name = field, .id = UINT64_MAX, .piece = {(const uint8_t *)(text), sizeof(text) - 1 }     \
    }

int tokenizer_from_spm(Tokenizer **ret, const void *bytes, size_t n, Error *reterr) {
    CLEANUP(tokenizer_freep) Tokenizer *t = spm_new();
    struct model m = {
        .t = t,
        .model_type = 1, /* the defaults of sentencepiece_model.proto */
        .unk_surface = {(const uint8_t *)SPM_UNKNOWN_SURFACE, sizeof(SPM_UNKNOWN_SURFACE) - 1},
        .normalizer_name = {(const uint8_t *)"", 0},
        .unk = SPECIAL("unk_id", ""),
        .bos = SPECIAL("bos_id", "<s>"),
        .eos = SPECIAL("eos_id", "</s>"),
        .pad = SPECIAL("pad_id", ""),
    };
    int32_t ignored;
    int r;

    if (!t)
        return error_origin(-ENOMEM);
    t->add_dummy_prefix = t->remove_extra_whitespaces = true;
    r = read_model(&m, cursor_make(bytes, n), reterr);
    if (!r)
        r = check_kind(&m, reterr);
    if (!r)
        r = spm_finish(t, m.unk_surface.bytes, m.unk_surface.n, reterr);
    if (!r)
        r = check_pieces(&m, reterr);
    if (!r)
        r = find_special(&m, &m.unk, &ignored, reterr);
    if (!r)
        r = find_special(&m, &m.pad, &ignored, reterr);
    if (!r)
        r = find_special(&m, &m.bos, &t->bos, reterr);
    if (!r)
        r = find_special(&m, &m.eos, &t->eos, reterr);
    if (r)
        return r;
    *ret = take_ptr(t);
    return 0;
}
