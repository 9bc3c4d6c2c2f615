/* The architectures we run. See manifest.h. */
#include "engine/manifest.h"

#include "base/macro.h"

#include <string.h>

static const struct manifest manifests[] = {
    {
        /* Grok-1, from xAI's model.py and run.py (2024-03): four norms a layer, softmax over all
         * experts and no renormalisation, tanh-capped attention scores, scaled embedding and
         * logits. */
        .architecture = "grok",
        .attn_post_norm = "attn_output_norm",
        .ffn_post_norm = "layer_output_norm",
        .ffn_post_norm_other = "post_ffw_norm", /* converters since Grok-2 */
        .rope_pairing = ROPE_HALVES,
        .rope_share = 1,
        .activation = ACTIVATION_GELU,
        .gating = GATING_SOFTMAX,
        .gate_scale = 1,
        .embedding_scale = 78.38367176906169f,
        .attention_scale = 0.08838834764831845f,
        .attention_cap = 30,
        .logit_scale = 0.5773502691896257f,
    },
    {
        /* Llama 2 and, with experts, Mixtral: softmax over the chosen, that is renormalised. */
        .architecture = "llama",
        .rope_pairing = ROPE_INTERLEAVED,
        .rope_share = 1,
        .activation = ACTIVATION_SILU,
        .gating = GATING_SOFTMAX,
        .renormalize_gates = true,
        .gate_scale = 1,
        .embedding_scale = 1,
        .logit_scale = 1,
    },
    {
        .architecture = "qwen2",
        .qkv_biases = true,
        .rope_pairing = ROPE_HALVES,
        .rope_share = 1,
        .activation = ACTIVATION_SILU,
        .gating = GATING_SOFTMAX,
        .renormalize_gates = true,
        .gate_scale = 1,
        .embedding_scale = 1,
        .logit_scale = 1,
    },
    {
        .architecture = "chatglm",
        .qkv_biases = true,
        .fused_qkv = true,
        .fused_gate_up = true,
        .rope_pairing = ROPE_INTERLEAVED,
        .rope_share = 2,
        .activation = ACTIVATION_SILU,
        .gating = GATING_SOFTMAX,
        .renormalize_gates = true,
        .gate_scale = 1,
        .embedding_scale = 1,
        .logit_scale = 1,
    },
};

const struct manifest *manifest_find(const char *architecture, unsigned long n) {
    for (size_t i = 0; i < ARRAY_SIZE(manifests); i++)
        if (strlen(manifests[i].architecture) == n &&
            memcmp(manifests[i].architecture, architecture, n) == 0)
            return &manifests[i];
    return NULL;
}

const char *manifest_names(void) {
    return "grok, llama, qwen2, chatglm";
}
