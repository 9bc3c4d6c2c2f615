/*
 * The one door to an expert's weights: where they lie is nobody else's business, so that experts
 * can one day be streamed, pinned to a node or held by another host. A dense model has one expert,
 * number 0.
 */
#pragma once

#include "engine/shape.h"

static inline const struct weight *expert_weight(const struct layer *layer, uint32_t i_expert,
                                                 enum expert_part part) {
    return &layer->experts[part][i_expert];
}
