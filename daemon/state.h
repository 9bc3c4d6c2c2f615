/* What outlives the daemon: the models' prefix caches, in files of the state directory. */
#pragma once

#include "daemon/models.h"

/* For the background, which has the engine to itself: read what was kept of the model, and keep
 * what there is. Where that can't be, the log says why, and the cache begins empty. */
void state_load(Model *m, GkEngine *engine);
void state_save(Model *m, GkEngine *engine);
