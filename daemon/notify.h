/* What systemd is told: sd_notify(3). Without a manager all of this does nothing. */
#pragma once

#include "base/macro.h"

#include <stdint.h>

/* Microseconds between the feedings that the manager wants; 0: none. */
uint64_t notify_watchdog_us(void);
void notify_ready(void);
void notify_stopping(void);
void notify_watchdog(void);
/* Start or stop may take this much longer from now on. */
void notify_extend(uint64_t us);
void notify_status(const char *format, ...) PRINTF_FORMAT(1, 2);
