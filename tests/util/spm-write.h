/* Writes tokenizer.model files (SentencePiece's ModelProto) for tests: honest ones, or any bytes.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct SpmWriter {
    uint8_t *bytes;
    size_t n;
} SpmWriter;

enum spm_wire { SPM_VARINT, SPM_64, SPM_BYTES, SPM_GROUP, SPM_GROUP_END, SPM_32 };

void spm_writer_deinit(SpmWriter *w);
void spm_raw(SpmWriter *w, const void *bytes, size_t n);
void spm_varint(SpmWriter *w, uint64_t value);
void spm_tag(SpmWriter *w, uint32_t field, enum spm_wire wire);
void spm_number(SpmWriter *w, uint32_t field, uint64_t value);
void spm_bytes(SpmWriter *w, uint32_t field, const void *bytes, size_t n);

/* type: as in SentencePiece: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
void spm_piece(SpmWriter *w, const char *piece, float score, unsigned type);
void spm_piece_n(SpmWriter *w, const void *piece, size_t n, float score, unsigned type);
/* trainer_spec: BPE with byte fallback; identity normaliser that keeps extra spaces. */
void spm_specs(SpmWriter *w);
/* <unk> <s> </s> and the byte pieces: tokens 0 to 258. */
void spm_basics(SpmWriter *w);
