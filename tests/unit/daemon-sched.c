/*
 * daemon/sched: a simulated engine, clock and crowd. A step takes what a model of costs says, with
 * noise; the scheduler knows neither the model nor the noise.
 */
#include "base/macro.h"
#include "daemon/sched.h"
#include "tests/util/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_REQUESTS    256 /* alive at once */
#define N_RUNNING     32
#define N_ROWS        (512 + N_RUNNING)
#define N_STEP_ROWS   512
#define N_UIDS        8
#define TARGET_US     200000
#define PAGE_TOKENS   64
#define SECOND        1000000ull
#define WARM_UP_STEPS 200

struct request {
    SchedEntry entry;
    bool is_alive;
    uint32_t uid, n_prompt, n_tokens, n_generated, n_pages;
    enum sched_class class;
    uint64_t came_us, last_token_us;
    unsigned n_suspended;
};

/* What steps take: a line, or one that is flat at first, as experts are shared by more rows. */
struct shape {
    double fixed, prompt_row, decode_row, bend; /* bend: of rows^0.5 */
};

static struct sim {
    Sched sched;
    struct shape shape;
    uint64_t now_us, n_steps;
    uint32_t n_free_pages;
    struct request requests[N_REQUESTS];
    uint64_t n_tokens[N_UIDS]; /* computed, by user */
    uint64_t n_ended, n_suspended, n_resumed, n_late, longest_us;
    uint64_t n_batch_rows, n_rows, n_measured;
} sim;

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

static void begin(struct shape shape, uint32_t n_pages) {
    struct sched_options options = {.n_entries_max = N_REQUESTS,
                                    .n_running_max = N_RUNNING,
                                    .n_pages = n_pages,
                                    .n_rows_max = N_ROWS,
                                    .n_prompt_rows_max = N_STEP_ROWS,
                                    .target_us = TARGET_US};

    memset(&sim, 0, sizeof(sim));
    random_state = 88172645463325252ull;
    sim.shape = shape;
    sim.now_us = 1000 * SECOND;
    sim.n_free_pages = n_pages;
    assert(sched_init(&sim.sched, &options) == 0);
}

static struct request *request_of(SchedEntry *e) {
    return container_of(e, struct request, entry);
}

static double true_cost(uint32_t n_prompt, uint32_t n_decode) {
    const struct shape *s = &sim.shape;

    return s->fixed + s->prompt_row * n_prompt + s->decode_row * n_decode +
           s->bend * sqrt(n_prompt + n_decode);
}

/* NULL: there is no place. */
static struct request *arrive(uint32_t uid, enum sched_class class, uint32_t n_prompt,
                              uint32_t n_tokens) {
    for (size_t i = 0; i < N_REQUESTS; i++) {
        struct request *r = &sim.requests[i];

        if (r->is_alive)
            continue;
        *r = (struct request){.is_alive = true,
                              .uid = uid,
                              .class = class,
                              .n_prompt = n_prompt,
                              .n_tokens = n_tokens,
                              .n_pages = (n_prompt + MIN(n_tokens, 1000u)) / PAGE_TOKENS + 1,
                              .came_us = sim.now_us,
                              .last_token_us = sim.now_us};
        r->entry.n_pages = r->n_pages;
        sched_add(&sim.sched, &r->entry, uid, class, sim.now_us);
        return r;
    }
    return NULL;
}

static void end(struct request *r) {
    if (r->entry.is_running)
        sim.n_free_pages += r->n_pages;
    sched_remove(&sim.sched, &r->entry);
    r->is_alive = false;
    sim.longest_us = MAX(sim.longest_us, sim.now_us - r->came_us);
}

static bool has_foreground(void) {
    for (size_t i = 0; i < N_REQUESTS; i++)
        if (sim.requests[i].is_alive &&
            (sim.requests[i].class != SCHED_CLASS_BATCH || sim.requests[i].entry.is_aged))
            return true;
    return false;
}

/* What the worker does. */
static void start_waiting(void) {
    SchedEntry *e, *victim;

    while ((e = sched_next(&sim.sched, sim.now_us))) {
        struct request *r = request_of(e);

        assert(r->is_alive && !e->is_running);
        assert(r->class != SCHED_CLASS_BATCH || e->is_aged || !has_foreground());
        while ((sched_is_full(&sim.sched) || sim.n_free_pages < r->n_pages) &&
               (victim = sched_victim(&sim.sched, e, sim.now_us))) {
            assert(victim->is_running && victim != e);
            sim.n_free_pages += request_of(victim)->n_pages;
            request_of(victim)->n_suspended++;
            sched_suspend(&sim.sched, victim, e, sim.now_us);
            sim.n_suspended++;
        }
        if (sched_is_full(&sim.sched) || sim.n_free_pages < r->n_pages) {
            assert(sim.sched.n_running > 0);
            sched_block(&sim.sched, e, sim.now_us);
            continue;
        }
        sim.n_free_pages -= r->n_pages;
        e->n_pending = r->n_prompt + r->n_generated; /* all of it again after a suspension */
        sim.n_resumed += r->n_suspended > 0;
        sched_start(&sim.sched, e, sim.now_us);
    }
}

/* Nobody's stream stands still, but for few steps that tell what the smallest user takes alone. */
static void check_served(const uint32_t *decodes, const uint32_t *served) {
    uint32_t least = UINT32_MAX;
    bool all = true;

    for (size_t i = 0; i < N_UIDS; i++) {
        all &= (decodes[i] > 0) == (served[i] > 0);
        least = decodes[i] > 0 ? MIN(least, decodes[i]) : least;
    }
    if (all)
        return;
    sim.n_measured++;
    assert(sim.n_measured <= 8 + sim.n_steps / 64 && sim.sched.n_prompt_rows == 0);
    assert(sim.sched.n_decode_rows == least);
    for (size_t i = 0; i < N_UIDS; i++)
        assert(served[i] == 0 || served[i] == least);
}

static void check_plan(uint32_t n_planned) {
    const Sched *s = &sim.sched;
    uint32_t decodes[N_UIDS] = {0}, served[N_UIDS] = {0};
    bool foreground = has_foreground();
    uint32_t n_prompt = 0, n_decode = 0, n_decoding = 0;
    double us, limit;

    for (size_t i = 0; i < s->n_planned; i++) {
        const SchedEntry *e = s->planned[i];
        const struct request *r = request_of(s->planned[i]);

        assert(e->is_running && e->n_rows > 0 && e->n_rows <= e->n_pending);
        assert(r->class != SCHED_CLASS_BATCH || e->is_aged || !foreground);
        *(e->n_pending == 1 ? &n_decode : &n_prompt) += e->n_rows;
        served[r->uid] += e->n_pending == 1;
        sim.n_batch_rows += r->class == SCHED_CLASS_BATCH && !e->is_aged ? e->n_rows : 0;
    }
    assert(n_prompt == s->n_prompt_rows && n_decode == s->n_decode_rows);
    assert(n_planned == n_prompt + n_decode && n_planned <= N_ROWS && n_prompt <= N_STEP_ROWS);
    for (size_t i = 0; i < N_REQUESTS; i++) {
        const struct request *r = &sim.requests[i];

        if (!r->is_alive || !r->entry.is_running || r->entry.n_pending != 1 ||
            (foreground && r->class == SCHED_CLASS_BATCH && !r->entry.is_aged))
            continue;
        decodes[r->uid]++;
        n_decoding++;
    }
    check_served(decodes, served);
    if (sim.n_steps < WARM_UP_STEPS || n_prompt == 0)
        return;
    us = true_cost(n_prompt, n_decode);
    limit = n_decoding > 0 ? MAX(TARGET_US, 1.25 * true_cost(0, n_decoding))
                           : MAX(200000, 4 * true_cost(0, 0));
    if (us > 1.25 * limit + true_cost(16, 0))
        printf("step of %u + %u rows: %.0f us, limit %.0f\n", n_prompt, n_decode, us, limit);
    assert(us <= 1.25 * limit + true_cost(16, 0));
}

static void take_token(struct request *r) {
    r->entry.has_token = true;
    r->entry.n_pending = 1;
    r->last_token_us = sim.now_us;
    if (++r->n_generated >= r->n_tokens) {
        sim.n_ended++;
        end(r);
    }
}

static void step(void) {
    Sched *s = &sim.sched;
    uint32_t n_planned;
    double us;

    for (size_t i = 0; i < N_REQUESTS; i++)
        if (sim.requests[i].is_alive && sched_is_late(s, &sim.requests[i].entry, sim.now_us)) {
            sim.n_late++;
            end(&sim.requests[i]);
        }
    start_waiting();
    assert(s->n_running > 0 || s->n_waiting == 0); /* never idle while there is work */
    n_planned = sched_plan(s, sim.now_us);
    assert((n_planned > 0) == (s->n_running > 0));
    if (n_planned == 0) {
        sim.now_us += 1000;
        return;
    }
    check_plan(n_planned);
    us = true_cost(s->n_prompt_rows, s->n_decode_rows) * (0.95 + random_below(1000) / 10000.0);
    sim.now_us += (uint64_t)us + 1;
    sim.n_steps++;
    sim.n_rows += n_planned;
    sched_done(s, (uint64_t)us + 1);
    for (size_t i = 0; i < s->n_planned; i++) {
        SchedEntry *e = s->planned[i];
        struct request *r = request_of(e);

        sim.n_tokens[r->uid] += e->n_rows;
        e->n_pending -= e->n_rows;
        if (e->n_pending == 0)
            take_token(r);
    }
}

static void end_all(void) {
    for (size_t i = 0; i < N_REQUESTS; i++)
        if (sim.requests[i].is_alive)
            end(&sim.requests[i]);
    assert(sim.sched.n_running == 0 && sim.sched.n_waiting == 0 && sim.sched.n_foreground == 0);
    sched_deinit(&sim.sched);
}

/* A small model, one of which a step's fixed part is most, one whose rows share ever more. */
static const struct shape shapes[] = {
    {300, 100, 300, 0}, {60000, 2000, 1500, 0}, {5000, 2500, 4000, 0}, {1000, 3000, 2000, 40000}};

/* ---- the crowd ---- */

/* Arrivals in one of n_quiet steps. */
static void crowd(struct shape shape, uint32_t n_pages, uint32_t n_quiet) {
    uint64_t n_arrived = 0, n_refused = 0;

    begin(shape, n_pages);
    while (n_arrived < 3000) {
        for (uint32_t n = random_below(4); n > 0 && random_below(n_quiet) == 0; n--) {
            uint32_t n_prompt = 1 + random_below(random_below(8) == 0 ? 2000 : 100);
            struct request *r = arrive(random_below(8), (enum sched_class)random_below(3), n_prompt,
                                       1 + random_below(60));

            n_arrived += r != NULL;
            n_refused += r == NULL;
            if (r && random_below(20) == 0)
                r->entry.deadline_us = sim.now_us + random_below(20 * SECOND);
        }
        if (random_below(50) == 0) {
            struct request *r = &sim.requests[random_below(N_REQUESTS)];

            if (r->is_alive)
                end(r); /* cancelled */
        }
        step();
    }
    while (sim.sched.n_entries > 0)
        step();
    assert(sim.n_free_pages == n_pages);
    (void)printf("# %lu ended, %lu late, %lu refused, %lu resumed in %lu steps; longest %.1f s\n",
                 (unsigned long)sim.n_ended, (unsigned long)sim.n_late, (unsigned long)n_refused,
                 (unsigned long)sim.n_resumed, (unsigned long)sim.n_steps,
                 (double)sim.longest_us / SECOND);
    /* All that can be before anyone, twice over: as a prompt and, suspended, once more. */
    assert((double)sim.longest_us <
           2 * N_REQUESTS * (2000 * shape.prompt_row + true_cost(1, 1) * 60));
    end_all();
}

static void test_crowds_are_served(void) {
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        crowd(shapes[i], 4000, 12); /* memory for all */
        crowd(shapes[i], 100, 12);
        crowd(shapes[i], 100, 2); /* more than can be served */
    }
}

/* ---- shares ---- */

/* Keeps so many requests of the user alive. */
static void keep_busy(uint32_t uid, enum sched_class class, size_t n, uint32_t n_prompt,
                      uint32_t n_tokens) {
    size_t n_alive = 0;

    for (size_t i = 0; i < N_REQUESTS; i++)
        n_alive += sim.requests[i].is_alive && sim.requests[i].uid == uid &&
                   sim.requests[i].class == class;
    for (; n_alive < n; n_alive++)
        assert(arrive(uid, class, n_prompt + random_below(n_prompt / 2 + 1), n_tokens));
}

static void run_until(uint64_t n_rows, void (*arrivals)(void)) {
    uint64_t until = sim.n_rows + n_rows;

    while (sim.n_rows < until) {
        arrivals();
        step();
    }
}

/* Short prompts and long ones, few of them and many. */
static void readers(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 40, 1000, 1);
    keep_busy(1, SCHED_CLASS_NORMAL, 60, 50, 1);
    keep_busy(2, SCHED_CLASS_NORMAL, 12, 300, 1);
    keep_busy(3, SCHED_CLASS_INTERACTIVE, 20, 300, 1);
}

static void writers(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 60, 2, 300);
    keep_busy(1, SCHED_CLASS_NORMAL, 12, 2, 300);
    keep_busy(2, SCHED_CLASS_NORMAL, 30, 2, 60);
    keep_busy(3, SCHED_CLASS_INTERACTIVE, 20, 2, 60);
}

static void both(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 60, 300, 100);
    keep_busy(1, SCHED_CLASS_NORMAL, 12, 300, 100);
    keep_busy(2, SCHED_CLASS_NORMAL, 40, 30, 10);
    keep_busy(3, SCHED_CLASS_INTERACTIVE, 20, 600, 200);
}

static void check_shares(struct shape shape, void (*arrivals)(void)) {
    uint64_t before[N_UIDS], least = UINT64_MAX, most = 0;

    begin(shape, 100000);
    run_until(50000, arrivals);
    (void)memcpy(before, sim.n_tokens, sizeof(before));
    run_until(200000, arrivals);
    for (uint32_t uid = 0; uid < 4; uid++) {
        uint64_t n = sim.n_tokens[uid] - before[uid];

        (void)printf("# user %u: %lu tokens\n", uid, (unsigned long)n);
        least = MIN(least, n);
        most = MAX(most, n);
    }
    assert((double)most <= 1.05 * (double)least);
    end_all();
}

static void test_users_with_much_to_do_have_equal_shares(void) {
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        check_shares(shapes[i], readers);
        check_shares(shapes[i], writers);
        check_shares(shapes[i], both);
    }
}

static void one_and_many(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 1, 20, 4000);
    keep_busy(1, SCHED_CLASS_NORMAL, 64, 20, 300);
}

/* The one has at least the speed of half a machine, within 1.15; whether it was there before the
 * others or comes when a step of one row was never seen. */
static void check_one_beside_many(struct shape shape, bool is_first) {
    double alone, beside;
    uint64_t began_us, n_before;

    begin(shape, 100000);
    keep_busy(is_first ? 0 : 1, SCHED_CLASS_NORMAL, is_first ? 1 : 64, 20, 4000);
    for (int k = 0; k < 2000; k++)
        step();
    run_until(20000, one_and_many);
    n_before = sim.n_tokens[0];
    began_us = sim.now_us;
    run_until(100000, one_and_many);
    alone = true_cost(0, 1);
    beside = (double)(sim.now_us - began_us) / (double)(sim.n_tokens[0] - n_before);
    (void)printf("# a token in %.1f ms alone, %.1f ms beside 64\n", alone / 1000, beside / 1000);
    assert(beside <= 1.15 * 2 * alone);
    end_all();
}

static void test_one_stream_beside_many(void) {
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        check_one_beside_many(shapes[i], true);
        check_one_beside_many(shapes[i], false);
    }
}

/* ---- classes ---- */

static void normal_and_batch(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 4, 50, 50);
    keep_busy(1, SCHED_CLASS_BATCH, 30, 50, 20);
}

/* Batch has nothing while there is other work, but what came first ends some day. */
static void test_batch_yields_and_ages(void) {
    begin(shapes[2], 1000);
    keep_busy(1, SCHED_CLASS_BATCH, 30, 50, 20);
    step();
    assert(sim.n_batch_rows > 0);
    sim.n_batch_rows = 0;
    run_until(1000, normal_and_batch); /* no more than AGE_US */
    assert(sim.n_batch_rows == 0);
    sim.n_ended = 0;
    run_until(200000, normal_and_batch);
    assert(sim.n_batch_rows == 0);
    (void)printf("# of %lu tokens %lu of batch that aged\n",
                 (unsigned long)(sim.n_tokens[0] + sim.n_tokens[1]),
                 (unsigned long)sim.n_tokens[1]);
    assert(sim.n_tokens[1] > 1000 && sim.n_tokens[1] < sim.n_tokens[0]);
    end_all();
}

static void test_interactive_goes_first(void) {
    struct request *last, *first;

    begin(shapes[2], 1000);
    for (uint32_t i = 0; i < N_RUNNING; i++)
        assert(arrive(i % 4, SCHED_CLASS_NORMAL, 2000, 5));
    step();
    last = arrive(5, SCHED_CLASS_NORMAL, 200, 5);
    first = arrive(6, SCHED_CLASS_INTERACTIVE, 200, 5);
    while (!first->entry.has_token)
        step();
    assert(!last->entry.has_token);
    (void)printf("# first token after %.2f s\n", (double)(sim.now_us - first->came_us) / SECOND);
    end_all();
}

/* ---- room ---- */

/* One user has all sequences; another comes, and has some soon. All end with all their tokens. */
static void test_room_is_made_for_newcomers(void) {
    struct request *r;

    begin(shapes[1], 100);
    for (int i = 0; i < 60; i++)
        assert(arrive(0, i % 2 ? SCHED_CLASS_NORMAL : SCHED_CLASS_BATCH, 100, 100));
    for (int i = 0; i < 300; i++)
        step();
    r = arrive(1, SCHED_CLASS_NORMAL, 100, 100);
    step();
    assert(r->entry.is_running);
    while (sim.sched.n_entries > 0)
        step();
    assert(sim.n_ended == 61 && sim.n_resumed > 0 && sim.n_free_pages == 100);
    (void)printf("# %lu were resumed\n", (unsigned long)sim.n_resumed);
    end_all();
}

/* Short requests, one after the other, where another user has all sequences: a place is made once,
 * and not for each of them. */
static void test_coming_again_suspends_nobody_again(void) {
    uint64_t began_us, n_came = 0;

    begin(shapes[2], 1000);
    for (int i = 0; i < 40; i++)
        assert(arrive(0, SCHED_CLASS_NORMAL, 50, 100000));
    for (int i = 0; i < 300; i++)
        step();
    began_us = sim.now_us;
    while (sim.now_us < began_us + 20 * SECOND) {
        struct request *r = arrive(1, SCHED_CLASS_NORMAL, 10, 3);
        uint64_t came_us = sim.now_us;

        while (r->is_alive)
            step();
        assert(sim.now_us - came_us < SECOND);
        n_came++;
    }
    (void)printf("# %lu came, %lu were suspended\n", (unsigned long)n_came,
                 (unsigned long)sim.n_suspended);
    assert(n_came > 100 && sim.n_suspended > 0 && sim.n_suspended < 25);
    end_all();
}

static void small_ones(void) {
    keep_busy(0, SCHED_CLASS_NORMAL, 20, 30, 30);
    keep_busy(1, SCHED_CLASS_NORMAL, 20, 30, 30);
}

/* What needs all the memory there is waits for it, but not for ever. */
static void test_a_large_one_is_not_passed_for_ever(void) {
    struct request *r;

    begin(shapes[2], 20);
    run_until(2000, small_ones);
    r = arrive(2, SCHED_CLASS_NORMAL, 1000, 200);
    while (!r->entry.is_running) {
        small_ones();
        step();
        assert(sim.now_us - r->came_us < 60 * SECOND);
    }
    (void)printf("# it waited %.1f s\n", (double)(sim.now_us - r->came_us) / SECOND);
    end_all();
}

/* One user's request has all the memory, or all the places; others come while it runs. They take
 * turns, and all end with all their tokens. */
static void check_turns(uint32_t n_pages, size_t n_places) {
    uint64_t longest_us = 0;
    struct request *giant;

    begin(shapes[1], n_pages);
    sim.sched.options.n_running_max = n_places;
    giant = arrive(0, SCHED_CLASS_NORMAL, 100, 1000);
    for (int i = 0; i < 300; i++)
        step();
    for (uint32_t uid = 1; giant->is_alive; uid = uid % 7 + 1) {
        struct request *r = arrive(uid, SCHED_CLASS_NORMAL, 100, 50);
        uint64_t came_us = sim.now_us;

        while (!r->entry.is_running)
            step();
        longest_us = MAX(longest_us, sim.now_us - came_us);
        while (r->is_alive)
            step();
    }
    (void)printf("# %lu others; the one that waited longest did so for %.1f s\n",
                 (unsigned long)sim.n_ended - 1, (double)longest_us / SECOND);
    assert(longest_us < 15 * SECOND && sim.n_resumed > 0 && sim.n_ended > 3);
    while (sim.sched.n_entries > 0)
        step();
    assert(sim.n_tokens[0] >= 1100);
    end_all();
}

static void test_large_ones_take_turns(void) {
    check_turns(20, N_RUNNING);
    check_turns(1000, 1);
}

static uint32_t n_small_users;

static void small_and_long(void) {
    for (uint32_t uid = 1; uid <= n_small_users; uid++)
        keep_busy(uid, SCHED_CLASS_NORMAL, 1, 100, 900);
}

/* And so does one that needs all the memory where others' requests last long: neither it nor they
 * wait until the others have ended. */
static void test_a_large_one_has_its_turn(void) {
    struct request *r;
    uint64_t n_before[N_UIDS];

    begin(shapes[1], 60);
    n_small_users = 3; /* 18 pages each */
    run_until(2000, small_and_long);
    r = arrive(0, SCHED_CLASS_NORMAL, 2700, 1000);
    while (!r->entry.is_running) {
        small_and_long();
        step();
        assert(sim.now_us - r->came_us < 60 * SECOND);
    }
    (void)printf("# it waited %.1f s\n", (double)(sim.now_us - r->came_us) / SECOND);
    (void)memcpy(n_before, sim.n_tokens, sizeof(n_before));
    while (r->is_alive) {
        small_and_long();
        step();
    }
    for (uint32_t uid = 1; uid <= 3; uid++)
        assert(sim.n_tokens[uid] > n_before[uid] + 100);
    end_all();
}

/* ---- what the queue is told ---- */

static void test_places_count_down(void) {
    struct request *r;
    uint32_t last;

    begin(shapes[2], 100000);
    for (int i = 0; i < 100; i++)
        assert(arrive(0, SCHED_CLASS_NORMAL, 50, 50));
    r = arrive(1, SCHED_CLASS_NORMAL, 50, 50);
    sched_rank(&sim.sched);
    assert(r->entry.n_ahead <= 1); /* one of the other user's at most */
    r = &sim.requests[99];
    assert(sched_wait_us(&sim.sched, &r->entry) == 0);
    last = r->entry.n_ahead;
    while (!r->entry.is_running) {
        step();
        sched_rank(&sim.sched);
        assert(r->entry.is_running || r->entry.n_ahead <= last);
        last = r->entry.n_ahead;
        if (last == 20)
            assert(sched_wait_us(&sim.sched, &r->entry) > 0);
    }
    end_all();
}

static void test_late_ones_are_not_computed(void) {
    struct request *hopeless, *fine;

    begin(shapes[2], 1000);
    for (int i = 0; i < 4; i++)
        assert(arrive(0, SCHED_CLASS_NORMAL, 500, 30));
    while (sim.sched.n_entries > 0)
        step();
    hopeless = arrive(1, SCHED_CLASS_NORMAL, 2000, 5);
    hopeless->entry.deadline_us = sim.now_us + 2 * SECOND; /* it takes five */
    fine = arrive(2, SCHED_CLASS_NORMAL, 100, 5);
    fine->entry.deadline_us = sim.now_us + 2 * SECOND;
    step();
    step();
    assert(!hopeless->is_alive && sim.n_late == 1 && sim.n_tokens[1] < N_STEP_ROWS);
    while (fine->is_alive)
        step();
    assert(sim.n_late == 1);
    end_all();
}

/* ---- costs ---- */

static void test_costs_are_learnt(void) {
    Cost cost;
    double decode;

    begin(shapes[2], 0);
    cost_init(&cost);
    for (int i = 0; i < 400; i++) {
        uint32_t n_prompt = random_below(4) * 100, n_decode = 1 + random_below(30);

        cost_learn(&cost, n_prompt, n_decode,
                   true_cost(n_prompt, n_decode) * (0.9 + random_below(1000) / 5000.0));
    }
    assert(fabs(cost_of_step(&cost, 300, 10) / true_cost(300, 10) - 1) < 0.15);
    assert(fabs(cost_of_decoding(&cost, 1) / true_cost(0, 1) - 1) < 0.3);
    /* Long of one shape, and disturbed once: what is known of others stays. */
    decode = cost_of_step(&cost, 0, 20);
    for (int i = 0; i < 2000; i++)
        cost_learn(&cost, 0, 20, i == 1000 ? 1e9 : true_cost(0, 20));
    assert(fabs(cost_of_step(&cost, 0, 20) / decode - 1) < 0.2);
    assert(fabs(cost_of_step(&cost, 300, 10) / true_cost(300, 10) - 1) < 0.4);
    end_all();
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"crowds_are_served", test_crowds_are_served, 60},
        {"users_with_much_to_do_have_equal_shares", test_users_with_much_to_do_have_equal_shares,
         60},
        {"one_stream_beside_many", test_one_stream_beside_many, 60},
        {"batch_yields_and_ages", test_batch_yields_and_ages, 60},
        TEST(interactive_goes_first),
        TEST(room_is_made_for_newcomers),
        TEST(coming_again_suspends_nobody_again),
        TEST(a_large_one_is_not_passed_for_ever),
        TEST(large_ones_take_turns),
        TEST(a_large_one_has_its_turn),
        TEST(places_count_down),
        TEST(late_ones_are_not_computed),
        TEST(costs_are_learnt),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
