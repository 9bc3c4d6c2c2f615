/*
 * See text.h: SentencePiece's BPE tokenizer.
 *
 * Encoding: the text is normalised (a dummy space before it, extra spaces removed where the model
 * wants that, ▁ for each space), merged (merge.c), and what no piece covers becomes byte pieces, or
 * one unknown token for each stretch. Ids are those of SentencePiece for every text that is valid
 * UTF-8. Bytes that are not are normalised to U+FFFD there; here each becomes its byte piece, so
 * that any bytes come back exactly.
 *
 * Control pieces match only where the caller asks for it. They then cut the text, and what is
 * between them is encoded like a text of its own, its dummy space included, as those do who put a
 * conversation together from SentencePiece's ids.
 */
#include "engine/text/spm.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/engine.h"
#include "engine/text/jinja.h"
#include "engine/text/merge.h"

#include <string.h>

#define INPUT_BYTES_MAX (256u << 20)

static const char space_symbol[] = "\xe2\x96\x81"; /* ▁ */

/* ---- the object ---- */

Tokenizer *spm_new(void) {
    Tokenizer *t = alloc_new(Tokenizer);

    if (t)
        t->bos = t->eos = t->eot = t->eom = t->unknown = -1;
    return t;
}

int spm_finish(Tokenizer *t, const void *unknown_surface, size_t n_unknown_surface, Error *reterr) {
    int r = vocab_finish(&t->vocab, unknown_surface, n_unknown_surface, reterr);

    if (r)
        return r;
    for (uint32_t i = 0; t->unknown < 0 && i < t->vocab.n; i++)
        if (t->vocab.pieces[i].type == PIECE_UNKNOWN)
            t->unknown = (int32_t)i;
    if (t->unknown < 0 && !t->vocab.has_bytes)
        return error_set(reterr, GK_E_FILE,
                         "there are neither byte pieces nor an unknown piece for what no piece "
                         "covers");
    return 0;
}

Tokenizer *tokenizer_free(Tokenizer *t) {
    if (!t)
        return NULL;
    vocab_deinit(&t->vocab);
    free(t);
    return NULL;
}

const Vocab *tokenizer_vocab(const Tokenizer *t) {
    return &t->vocab;
}

uint32_t tokenizer_n_vocab(const Tokenizer *t) {
    return t->vocab.n;
}

int32_t tokenizer_bos(const Tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t) {
    return t->eos;
}

bool tokenizer_add_bos(const Tokenizer *t) {
    return t->add_bos;
}

static bool is_token(const Tokenizer *t, int32_t token) {
    return token >= 0 && (uint32_t)token < t->vocab.n;
}

bool tokenizer_is_control(const Tokenizer *t, int32_t token) {
    return is_token(t, token) && t->vocab.pieces[token].type == PIECE_CONTROL;
}

bool tokenizer_is_eog(const Tokenizer *t, int32_t token) {
    static const char *const names[] = {
        "<|eot_id|>", "<|im_end|>",      "<|end|>", "<end_of_turn>", "<|endoftext|>",
        "<|eom_id|>", "<|end_of_text|>", "<|eot|>", "<EOT>",         "<|return|>",
    };

    if (!is_token(t, token))
        return false;
    if (token == t->eos || token == t->eot || token == t->eom)
        return true;
    for (size_t i = 0; tokenizer_is_control(t, token) && i < ARRAY_SIZE(names); i++)
        if (strlen(names[i]) == t->vocab.pieces[token].n &&
            memcmp(names[i], vocab_bytes(&t->vocab, (uint32_t)token), strlen(names[i])) == 0)
            return true;
    return false;
}

const char *tokenizer_piece(const Tokenizer *t, int32_t token, size_t *ret_n) {
    *ret_n = t->vocab.pieces[token].n_surface;
    return (const char *)vocab_surface(&t->vocab, (uint32_t)token);
}

/* ---- normalising ---- */

struct text {
    uint8_t *bytes;
    size_t n;
};

static void append(struct text *to, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == ' ') {
            (void)memcpy(to->bytes + to->n, space_symbol, 3);
            to->n += 3;
        } else {
            to->bytes[to->n++] = bytes[i];
        }
    }
}

/* What the normaliser takes at once: a user-defined piece or a character. */
static size_t unit_length(const Tokenizer *t, const uint8_t *bytes, size_t n) {
    int32_t token = vocab_match(&t->vocab, &t->vocab.user_defined, bytes, n);
    uint32_t character;

    return token >= 0 ? t->vocab.pieces[token].n : vocab_character(bytes, n, &character);
}

/* Of each run of spaces the first stays, but not at the start and the end. User-defined pieces keep
 * the spaces inside them. */
static void append_without_extra(const Tokenizer *t, struct text *to, const uint8_t *bytes,
                                 size_t n) {
    bool after_space = true;

    for (size_t length; n > 0; bytes += length, n -= length) {
        size_t n_skip = 0;

        length = unit_length(t, bytes, n);
        while (after_space && n_skip < length && bytes[n_skip] == ' ')
            n_skip++;
        if (n_skip == length)
            continue;
        append(to, bytes + n_skip, length - n_skip);
        after_space = bytes[length - 1] == ' ';
    }
    while (to->n >= 3 && memcmp(to->bytes + to->n - 3, space_symbol, 3) == 0)
        to->n -= 3;
}

static int normalise(const Tokenizer *t, const uint8_t *bytes, size_t n, bool with_prefix,
                     struct text *ret) {
    struct text text = {.n = 0};
    size_t n_spaces = 0;

    if (t->remove_extra_whitespaces)
        while (n > 0 && bytes[0] == ' ' && unit_length(t, bytes, n) == 1)
            bytes++, n--;
    for (size_t i = 0; i < n; i++)
        n_spaces += bytes[i] == ' ';
    text.bytes = alloc_array(n + 2 * n_spaces + 3, 1);
    if (!text.bytes)
        return error_origin(-ENOMEM);
    if (n > 0 && with_prefix)
        append(&text, (const uint8_t *)" ", 1);
    if (t->remove_extra_whitespaces)
        append_without_extra(t, &text, bytes, n);
    else
        append(&text, bytes, n);
    *ret = text;
    return 0;
}

/* ---- encoding ---- */

struct encoder {
    const Tokenizer *t;
    int32_t *tokens;
    size_t n, capacity, n_max;
    bool after_unknown;
    Error *reterr;
};

static int too_many(const struct encoder *e) {
    return error_set(e->reterr, GK_E_INVALID, "the text has more than %zu tokens", e->n_max);
}

static int push(struct encoder *e, int32_t token) {
    if (e->n == e->n_max)
        return too_many(e);
    if (e->n == e->capacity) {
        size_t capacity = MIN(2 * e->capacity + 16, e->n_max);
        int32_t *p = alloc_resize(e->tokens, capacity * sizeof(*p));

        if (!p)
            return error_origin(-ENOMEM);
        e->tokens = p;
        e->capacity = capacity;
    }
    e->tokens[e->n++] = token;
    return 0;
}

static int emit(void *userdata, const uint8_t *bytes, size_t n, int32_t token) {
    struct encoder *e = userdata;
    int r = 0;

    if (token >= 0) {
        e->after_unknown = false;
        return push(e, token);
    }
    if (!e->t->vocab.has_bytes) {
        if (e->after_unknown)
            return 0;
        e->after_unknown = true;
        return push(e, e->t->unknown);
    }
    for (size_t i = 0; !r && i < n; i++)
        r = push(e, e->t->vocab.byte_tokens[bytes[i]]);
    return r;
}

/* Text without control pieces. `with_prefix`: the dummy prefix, where the model has it. */
static int encode_stretch(struct encoder *e, Merger *m, const uint8_t *bytes, size_t n,
                          bool with_prefix) {
    struct text text;
    int r;

    if (n == 0)
        return 0;
    r = normalise(e->t, bytes, n, with_prefix && e->t->add_dummy_prefix, &text);
    if (r)
        return r;
    /* Before any work: a token covers at most the longest piece. */
    if (e->t->vocab.has_bytes && text.n / e->t->vocab.n_bytes_max > e->n_max)
        r = too_many(e);
    else
        r = merger_run(m, text.bytes, text.n);
    e->after_unknown = false;
    free(text.bytes);
    return r;
}

static int encode_with_control(struct encoder *e, Merger *m, const uint8_t *bytes, size_t n) {
    const Vocab *v = &e->t->vocab;
    size_t begin = 0;
    int r = 0;

    for (size_t at = 0; !r && at < n;) {
        int32_t token = vocab_match(v, &v->control, bytes + at, n - at);

        if (token < 0) {
            at++;
            continue;
        }
        r = encode_stretch(e, m, bytes + begin, at - begin, true);
        if (!r)
            r = push(e, token);
        at += v->pieces[token].n;
        begin = at;
    }
    return r ? r : encode_stretch(e, m, bytes + begin, n - begin, true);
}

/* Before any text; checks its length, too. */
static int begin_encoding(struct encoder *e, size_t n, unsigned flags) {
    const Tokenizer *t = e->t;

    if (n > INPUT_BYTES_MAX)
        return error_set(e->reterr, GK_E_INVALID, "a text of %zu bytes (at most %u)", n,
                         INPUT_BYTES_MAX);
    if ((flags & GK_TOKENIZE_BOS) && t->bos < 0)
        return error_set(e->reterr, GK_E_INVALID, "the model has no BOS token to begin with");
    if ((flags & GK_TOKENIZE_BOS) || (t->add_bos && !(flags & GK_TOKENIZE_NO_BOS)))
        return push(e, t->bos);
    return 0;
}

/* Hands the tokens over where r is 0. */
static int end_encoding(struct encoder *e, int r, int32_t **ret_tokens, size_t *ret_n) {
    if (!r && !e->tokens) {
        e->tokens = alloc_array(1, sizeof(*e->tokens));
        if (!e->tokens)
            r = error_origin(-ENOMEM);
    }
    if (r) {
        free(e->tokens);
        return r;
    }
    *ret_tokens = e->tokens;
    *ret_n = e->n;
    return 0;
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t n_text, unsigned flags,
                     size_t n_max, int32_t **ret_tokens, size_t *ret_n, Error *reterr) {
    struct encoder e = {.t = t, .n_max = MIN(n_max, SIZE_MAX / sizeof(int32_t)), .reterr = reterr};
    Merger m = MERGER_INIT(&t->vocab, emit, &e);
    const uint8_t *bytes = (const uint8_t *)text;
    int r = begin_encoding(&e, n_text, flags);

    if (!r)
        r = flags & GK_TOKENIZE_CONTROL ? encode_with_control(&e, &m, bytes, n_text)
                                        : encode_stretch(&e, &m, bytes, n_text, true);
    merger_deinit(&m);
    return end_encoding(&e, r, ret_tokens, ret_n);
}

/* ---- conversations ---- */

/* A rendered conversation on its way to tokens. */
struct chat {
    struct encoder e;
    Merger m;
    const uint8_t *bytes, *marks;
    size_t n;
    const Template *template;
    uint8_t *is_marker; /* (n_vocab) 0: not known yet, 1: no, 2: yes; NULL: none was asked for */
    size_t begin;       /* of the stretch that is not encoded yet */
    bool with_prefix;   /* that stretch has the dummy prefix */
};

static int chat_cut(struct chat *c, size_t at, bool with_prefix) {
    int r = encode_stretch(&c->e, &c->m, c->bytes + c->begin, at - c->begin, c->with_prefix);

    c->begin = at;
    c->with_prefix = with_prefix;
    return r;
}

static bool is_all_of_template(const struct chat *c, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (c->marks[at + i] != MARK_TEMPLATE)
            return false;
    return true;
}

static bool looks_like_marker(const uint8_t *bytes, size_t n) {
    return n >= 3 &&
           ((bytes[0] == '<' && bytes[n - 1] == '>') || (bytes[0] == '[' && bytes[n - 1] == ']'));
}

/* A user-defined piece that looks like a marker and stands in the template. */
static int is_marker(struct chat *c, int32_t token, bool *ret) {
    const Vocab *v = &c->e.t->vocab;
    const uint8_t *bytes = vocab_bytes(v, (uint32_t)token);
    size_t n = v->pieces[token].n;

    *ret = false;
    if (!looks_like_marker(bytes, n))
        return 0;
    if (!c->is_marker)
        c->is_marker = alloc_array(v->n, 1);
    if (!c->is_marker)
        return error_origin(-ENOMEM);
    if (c->is_marker[token] == 0)
        c->is_marker[token] = template_has(c->template, bytes, n) ? 2 : 1;
    *ret = c->is_marker[token] == 2;
    return 0;
}

/* An answer begins here, or after the template's spaces here. */
static bool is_seam(const struct chat *c, size_t at) {
    size_t i = at;

    if (at == c->begin || c->marks[at - 1] == MARK_ANSWER ||
        (c->marks[at - 1] == MARK_TEMPLATE && c->bytes[at - 1] == ' '))
        return false;
    while (i < c->n && c->marks[i] == MARK_TEMPLATE && c->bytes[i] == ' ')
        i++;
    return i < c->n && c->marks[i] == MARK_ANSWER;
}

static bool is_blank(uint8_t byte) {
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

/* Extra spaces go at the start of a stretch, where the model removes them: the prefix is the one
 * that stays. */
static bool has_prefix_at_seam(const struct chat *c, size_t at) {
    if (c->bytes[at] == ' ')
        return c->e.t->remove_extra_whitespaces;
    return !is_blank(c->bytes[at]) && !is_blank(c->bytes[at - 1]);
}

/* Goes on by the bytes that were looked at. */
static int chat_step(struct chat *c, size_t at, size_t *ret_length) {
    const Vocab *v = &c->e.t->vocab;
    int32_t token = vocab_match(v, &v->control, c->bytes + at, c->n - at);
    bool is_forged = false;
    int r = 0;

    *ret_length = 1;
    if (token >= 0 && is_all_of_template(c, at, v->pieces[token].n)) {
        *ret_length = v->pieces[token].n;
        r = chat_cut(c, at, true);
        c->begin = at + *ret_length;
        /* Not twice where the template begins with what was put there already. */
        if (r || (token == c->e.t->bos && at == 0 && c->e.n == 1))
            return r;
        return push(&c->e, token);
    }
    if (is_seam(c, at))
        r = chat_cut(c, at, has_prefix_at_seam(c, at));
    token = vocab_match(v, &v->user_defined, c->bytes + at, c->n - at);
    if (!r && token >= 0 && !is_all_of_template(c, at, v->pieces[token].n))
        r = is_marker(c, token, &is_forged);
    return !r && is_forged ? chat_cut(c, at + 1, false) : r;
}

int tokenizer_encode_chat(const Tokenizer *t, const struct jinja_output *text,
                          const Template *template, unsigned flags, size_t n_max,
                          int32_t **ret_tokens, size_t *ret_n, Error *reterr) {
    struct chat c = {
        .e = {.t = t, .n_max = MIN(n_max, SIZE_MAX / sizeof(int32_t)), .reterr = reterr},
        .bytes = (const uint8_t *)text->bytes,
        .marks = text->marks,
        .n = text->n,
        .template = template,
        .with_prefix = true,
    };
    int r = begin_encoding(&c.e, text->n, flags);

    c.m = MERGER_INIT(&t->vocab, emit, &c.e);
    for (size_t at = 0, length; !r && at < c.n; at += length)
        r = chat_step(&c, at, &length);
    if (!r)
        r = chat_cut(&c, c.n, false);
    merger_deinit(&c.m);
    free(c.is_marker);
    return end_encoding(&c.e, r, ret_tokens, ret_n);
}

int32_t tokenizer_match_marker(const Tokenizer *t, const char *text, size_t n_text) {
    const Vocab *v = &t->vocab;
    int32_t token = -1;

    if (n_text > 0)
        token = vocab_match(v, &v->control, (const uint8_t *)text, n_text);
    if (token >= 0 || n_text == 0)
        return token;
    token = vocab_match(v, &v->user_defined, (const uint8_t *)text, n_text);
    return token >= 0 && looks_like_marker((const uint8_t *)text, v->pieces[token].n) ? token : -1;
}

const char *tokenizer_stored(const Tokenizer *t, int32_t token, size_t *ret_n) {
    *ret_n = t->vocab.pieces[token].n;
    return (const char *)vocab_bytes(&t->vocab, (uint32_t)token);
}

/* ---- decoding ---- */

struct decoder {
    const Tokenizer *t;
    bool control;
    uint8_t *bytes; /* NULL: counts only */
    size_t n;
    size_t begin;     /* where the text, or the one after the last printed control piece, begins */
    bool at_start;    /* of that text: the next ▁ may be the dummy prefix */
    bool has_skipped; /* the token before was taken for the dummy prefix */
};

static void put(struct decoder *d, const uint8_t *bytes, size_t n) {
    if (d->bytes && n > 0)
        (void)memcpy(d->bytes + d->n, bytes, n);
    d->n += n;
}

static void decode_token(struct decoder *d, uint32_t token) {
    const Tokenizer *t = d->t;
    const struct piece *p = &t->vocab.pieces[token];
    const uint8_t *surface = vocab_surface(&t->vocab, token);
    size_t n_skip = 0;

    if (p->type == PIECE_BYTE) {
        put(d, surface, p->n_surface);
        return;
    }
    if (p->type == PIECE_CONTROL && d->control) {
        put(d, vocab_bytes(&t->vocab, token), p->n);
        d->begin = d->n;
        d->at_start = true;
        d->has_skipped = false;
        return;
    }
    if (d->has_skipped || d->n > d->begin)
        d->at_start = false;
    if (d->at_start && p->type != PIECE_CONTROL && p->type != PIECE_UNKNOWN && p->n >= 3 &&
        (t->add_dummy_prefix || t->remove_extra_whitespaces))
        n_skip = memcmp(vocab_bytes(&t->vocab, token), space_symbol, 3) == 0;
    put(d, surface + n_skip, p->n_surface - n_skip);
    /* Where extra spaces are removed, all at the start go; else the dummy prefix alone. */
    d->has_skipped = n_skip > 0 && !t->remove_extra_whitespaces;
}

static void decode(struct decoder *d, const int32_t *tokens, size_t n) {
    d->at_start = true;
    for (size_t i = 0; i < n; i++)
        decode_token(d, (uint32_t)tokens[i]);
}

int tokenizer_decode(const Tokenizer *t, const int32_t *tokens, size_t n, bool control,
                     char **ret_text, size_t *ret_n, Error *reterr) {
    struct decoder count = {.t = t, .control = control}, d = count;

    if (n > SIZE_MAX / 2 / TEXT_PIECE_BYTES_MAX)
        return error_set(reterr, GK_E_INVALID, "%zu tokens are more than a text can have", n);
    for (size_t i = 0; i < n; i++)
        if (!is_token(t, tokens[i]))
            return error_set(reterr, GK_E_INVALID, "token %zu is %d; the vocabulary has 0 to %u", i,
                             tokens[i], t->vocab.n - 1);
    decode(&count, tokens, n);
    d.bytes = alloc_array(count.n + 1, 1);
    if (!d.bytes)
        return error_origin(-ENOMEM);
    decode(&d, tokens, n);
    *ret_text = (char *)d.bytes;
    *ret_n = d.n;
    return 0;
}
