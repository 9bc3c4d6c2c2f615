/* Names and metadata of a file → Shape and Weights, all verified. */
#pragma once

#include "engine/file/file.h"
#include "engine/shape.h"

/* The architecture's row with what the file overrides, and the hyper-parameters. Returns GK_E_FILE.
 */
int bind_shape(const ModelFile *f, struct manifest *ret_manifest, Shape *ret_shape, Error *reterr);
/* Returns GK_E_FILE, naming the tensor and what was expected of it. */
int bind_weights(const ModelFile *f, const struct manifest *m, const Shape *s, Weights *ret,
                 Error *reterr);
void weights_deinit(Weights *w);
