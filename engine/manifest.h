/*
 * What tells one architecture from another, as data: the forward pass reads these fields and no
 * names.
 */
#pragma once

#include <stdbool.h>

enum activation { ACTIVATION_SILU, ACTIVATION_GELU };
enum rope_pairing { ROPE_HALVES, ROPE_INTERLEAVED };
/* How router logits become probabilities. */
enum gating { GATING_SOFTMAX, GATING_SIGMOID };

struct manifest {
    const char *architecture; /* GGUF's general.architecture */
    /* Tensor names after "blk.N.", or NULL: none. The last may come by another name. */
    const char *attn_post_norm, *ffn_post_norm, *ffn_post_norm_other;
    bool qkv_biases;
    bool fused_qkv;     /* one tensor attn_qkv: q, then k, then v */
    bool fused_gate_up; /* one tensor ffn_up: gate, then up */
    enum rope_pairing rope_pairing;
    unsigned rope_share; /* 1/rope_share of a head is rotated where the file doesn't say */
    enum activation activation;
    /* ---- what a file's own keys may override ---- */
    enum gating gating;
    bool renormalize_gates; /* the chosen experts' probabilities are made to add up to 1 */
    float gate_scale;
    float embedding_scale;
    float attention_scale;                      /* of q·k; 0: 1/√head_size */
    float attention_cap, router_cap, logit_cap; /* cap·tanh(x/cap); 0: none */
    float logit_scale;
};

/* The row of an architecture, or NULL. */
const struct manifest *manifest_find(const char *architecture, unsigned long n);
/* All names, comma-separated, for refusals. */
const char *manifest_names(void);
