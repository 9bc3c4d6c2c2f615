/* Fills gk_model_info. */
#pragma once

#include "engine/internal.h"

/* Everything but the limits that the options set. -ENOMEM. */
int info_init(GkEngine *e);
