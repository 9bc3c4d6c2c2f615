/* See spm-write.h. */
#include "tests/util/spm-write.h"

#include "tests/util/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void spm_writer_deinit(SpmWriter *w) {
    free(w->bytes);
    *w = (SpmWriter){.n = 0};
}

void spm_raw(SpmWriter *w, const void *bytes, size_t n) {
    w->bytes = realloc(w->bytes, w->n + n + 1);
    assert(w->bytes);
    if (n > 0)
        (void)memcpy(w->bytes + w->n, bytes, n);
    w->n += n;
}

void spm_varint(SpmWriter *w, uint64_t value) {
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value >= 0x80 ? 0x80 : 0));

        spm_raw(w, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

void spm_tag(SpmWriter *w, uint32_t field, enum spm_wire wire) {
    spm_varint(w, (uint64_t)field << 3 | wire);
}

void spm_number(SpmWriter *w, uint32_t field, uint64_t value) {
    spm_tag(w, field, SPM_VARINT);
    spm_varint(w, value);
}

void spm_bytes(SpmWriter *w, uint32_t field, const void *bytes, size_t n) {
    spm_tag(w, field, SPM_BYTES);
    spm_varint(w, n);
    spm_raw(w, bytes, n);
}

void spm_piece_n(SpmWriter *w, const void *piece, size_t n, float score, unsigned type) {
    SpmWriter message = {.n = 0};

    spm_bytes(&message, 1, piece, n);
    spm_tag(&message, 2, SPM_32);
    spm_raw(&message, &score, sizeof(score));
    spm_number(&message, 3, type);
    spm_bytes(w, 1, message.bytes, message.n);
    spm_writer_deinit(&message);
}

void spm_piece(SpmWriter *w, const char *piece, float score, unsigned type) {
    spm_piece_n(w, piece, strlen(piece), score, type);
}

void spm_specs(SpmWriter *w) {
    SpmWriter message = {.n = 0};

    spm_number(&message, 3, 2);  /* model_type: BPE */
    spm_number(&message, 35, 1); /* byte_fallback */
    spm_bytes(w, 2, message.bytes, message.n);
    spm_writer_deinit(&message);
    spm_bytes(&message, 1, "identity", 8);
    spm_number(&message, 4, 0); /* remove_extra_whitespaces */
    spm_bytes(w, 3, message.bytes, message.n);
    spm_writer_deinit(&message);
}

void spm_basics(SpmWriter *w) {
    char piece[8];

    spm_piece(w, "<unk>", 0, 2);
    spm_piece(w, "<s>", 0, 3);
    spm_piece(w, "</s>", 0, 3);
    for (unsigned i = 0; i < 256; i++) {
        (void)snprintf(piece, sizeof(piece), "<0x%02X>", i);
        spm_piece(w, piece, 0, 6);
    }
}
