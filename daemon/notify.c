/* See notify.h. That the manager can't be reached is its problem: results are ignored. */
#include "daemon/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

uint64_t notify_watchdog_us(void) {
    uint64_t us = 0;

    return sd_watchdog_enabled(/* unset_environment= */ 0, &us) > 0 ? us : 0;
}

void notify_ready(void) {
    (void)sd_notify(0, "READY=1");
}

void notify_stopping(void) {
    (void)sd_notify(0, "STOPPING=1\nSTATUS=Ending what is under way");
}

void notify_watchdog(void) {
    (void)sd_notify(0, "WATCHDOG=1");
}

void notify_extend(uint64_t us) {
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu", (unsigned long long)us);
}

void notify_status(const char *format, ...) {
    char text[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)sd_notifyf(0, "STATUS=%s", text);
}
