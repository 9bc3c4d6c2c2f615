/* Which models stay in memory: those in use or pinned do, the others as long as there is room. */
#pragma once

#include "daemon/models.h"

enum { _ROOM_E_SUCCESS, ROOM_E_WAIT, ROOM_E_NONE };

/* Looks whether the model fits beside the others, and sends the least recently used one away where
 * it does not. Returns ROOM_E_WAIT where one is on its way out: try again when
 * it is gone; ROOM_E_NONE (reterr says why) where none can go. */
int room_make(Models *m, Model *wanted, Error *reterr);
/* The KV cache that the model is to have, as configured or as there is room; the log says why. */
uint64_t room_kv_bytes(const Models *m, const Model *wanted);
/* Sends away what nobody has used for its keep_alive. Returns when to come again, 0: never. */
uint64_t room_tick(Models *m, uint64_t now_us);
