/*
 * Block layouts of the GGUF weight formats, as bytes in the file (little-endian, packed).
 * Source: the GGUF/ggml format documentation; values are held to tests/golden/quant.
 */
#pragma once

#include <stdint.h>

#define QUANT_BLOCK 32  /* values in a block of the plain formats */
#define QUANT_SUPER 256 /* values in a super-block of the k-formats */

/* w = d·(q − 8); element i in the low nibble of qs[i], i + 16 in the high one. d: f16 bits. */
struct q4_0_block {
    uint16_t d;
    uint8_t qs[16];
} __attribute__((packed));

/* w = d·q + m */
struct q4_1_block {
    uint16_t d, m;
    uint8_t qs[16];
} __attribute__((packed));

/* w = d·(q − 16); bit i of qh is the fifth bit of element i. */
struct q5_0_block {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
} __attribute__((packed));

/* w = d·q + m */
struct q5_1_block {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} __attribute__((packed));

/* w = d·q */
struct q8_0_block {
    uint16_t d;
    int8_t qs[32];
} __attribute__((packed));

/* w = d·scale·q − dmin·min, 16 sub-blocks of 16: scale in the low, min in the high nibble. */
struct q2_k_block {
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d, dmin;
} __attribute__((packed));

/* w = d·(scale − 32)·(q − 4·!high bit), 16 sub-blocks of 16, 6-bit scales. */
struct q3_k_block {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint16_t d;
} __attribute__((packed));

/* w = d·scale·q − dmin·min, 8 sub-blocks of 32, 6-bit scales and mins. */
struct q4_k_block {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
} __attribute__((packed));

struct q5_k_block {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} __attribute__((packed));

/* w = d·scale·(q − 32), 16 sub-blocks of 16, 8-bit scales. */
struct q6_k_block {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
} __attribute__((packed));

_Static_assert(sizeof(struct q4_0_block) == 18, "Q4_0");
_Static_assert(sizeof(struct q4_1_block) == 20, "Q4_1");
_Static_assert(sizeof(struct q5_0_block) == 22, "Q5_0");
_Static_assert(sizeof(struct q5_1_block) == 24, "Q5_1");
_Static_assert(sizeof(struct q8_0_block) == 34, "Q8_0");
_Static_assert(sizeof(struct q2_k_block) == 84, "Q2_K");
_Static_assert(sizeof(struct q3_k_block) == 110, "Q3_K");
_Static_assert(sizeof(struct q4_k_block) == 144, "Q4_K");
_Static_assert(sizeof(struct q5_k_block) == 176, "Q5_K");
_Static_assert(sizeof(struct q6_k_block) == 210, "Q6_K");
