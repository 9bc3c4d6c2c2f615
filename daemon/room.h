/* Which models stay in memory: those in use or pinned do, the others as long as there is room. */
#pragma once

#include "daemon/models.h"

/* Bytes of memory that may be had, by the machine's or our control group's word. */
uint64_t room_available_bytes(void);

enum { _ROOM_E_SUCCESS, ROOM_E_WAIT, ROOM_E_NONE };

/* Looks whether the model's weights fit beside those of the others, and sends the least recently
 * used one away where they do not. Returns ROOM_E_WAIT where one is on its way out: try again when
 * it is gone; ROOM_E_NONE (reterr says why) where none can go. */
int room_make(Models *m, Model *wanted, Error *reterr);
/* Sends away what nobody has used for its keep_alive. Returns when to come again, 0: never. */
uint64_t room_tick(Models *m, uint64_t now_us);
