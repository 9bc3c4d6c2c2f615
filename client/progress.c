/* What grokctl shows on a terminal while nothing comes yet: a place in the queue, a bar. */
#include "client/command.h"

#include "base/macro.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* A speed is told when so much time has passed. */
#define SPEED_US 500000

static uint64_t now_us(void) {
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

const char *ctl_bar(uint64_t done, uint64_t total, char buffer[CTL_BAR_BYTES]) {
    size_t width = CTL_BAR_BYTES - 3;
    size_t n = total > 0 ? (size_t)((double)MIN(done, total) / (double)total * (double)width) : 0;

    (void)memset(buffer, ' ', CTL_BAR_BYTES);
    (void)memset(buffer + 1, '#', n);
    buffer[0] = '[';
    buffer[width + 1] = ']';
    buffer[width + 2] = '\0';
    return buffer;
}

void progress_clear(struct progress *p) {
    if (p->shown)
        (void)fputs("\r\033[K", stderr);
    p->shown = false;
}

static void show_place(const struct grokd_queued *q) {
    (void)fprintf(stderr, "\rwaiting, %u request%s ahead", q->position,
                  q->position == 1 ? "" : "s");
    if (q->estimated_wait_us >= 1000000)
        (void)fprintf(stderr, ", about %.0f s", (double)q->estimated_wait_us / 1e6);
    (void)fputs("\033[K", stderr);
}

/* The speed is that of what was computed since the first event: cached tokens were free. */
static void show_prompt(struct progress *p, const struct grokd_prefill *prefill) {
    uint32_t n_done = prefill->done_tokens, n_total = prefill->total_tokens, n_computed;
    char bar[CTL_BAR_BYTES];
    uint64_t us;

    if (p->begun_us == 0 || n_done < p->n_begun) {
        p->begun_us = now_us();
        p->n_begun = n_done;
    }
    us = now_us() - p->begun_us;
    n_computed = n_done - p->n_begun;
    (void)fprintf(stderr, "\rreading the prompt %s %u of %u tokens", ctl_bar(n_done, n_total, bar),
                  n_done, n_total);
    if (prefill->cached_tokens > 0)
        (void)fprintf(stderr, ", %u cached", prefill->cached_tokens);
    if (us >= SPEED_US && n_computed > 0)
        (void)fprintf(stderr, ", %.1f/s, %.0f s left", (double)n_computed * 1e6 / (double)us,
                      (double)(n_total - MIN(n_done, n_total)) * (double)us / n_computed / 1e6);
    (void)fputs("\033[K", stderr);
}

void progress_show(struct progress *p, const struct grokd_event *event) {
    if (!p->wanted || (!event->queued && !event->prefill))
        return;
    if (event->queued)
        show_place(event->queued);
    else
        show_prompt(p, event->prefill);
    p->shown = true;
}
