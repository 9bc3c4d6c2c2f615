/*
 * daemon/drafts: simulated sequences whose guesses are right so often, on an engine whose steps
 * take what a line says. The scheduler knows neither.
 */
#include "base/macro.h"
#include "daemon/drafts.h"
#include "tests/util/test.h"

#include <stdio.h>

#define N_ENTRIES 8
#define N_ROWS    20
#define N_STEPS   6000

static uint64_t random_state = 88172645463325252ull;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

struct crowd {
    double fixed, per_row;        /* what steps take */
    size_t n;                     /* sequences, each a user's own */
    uint32_t n_drafts, per_mille; /* of the first one: drafted each time, right */
    uint32_t per_mille_of_others;
};

struct outcome {
    uint64_t n_tokens[N_ENTRIES], n_steps, n_draft_rows;
    double us;
};

/* Returns how many tokens came. */
static size_t take_tokens(SchedEntry *e, uint32_t per_mille) {
    size_t n = 0;

    while (n < e->n_drafts) {
        bool is_right = random_below(1000) < per_mille;

        drafts_learn(e, is_right);
        if (!is_right || n == e->n_draft_rows)
            break;
        n++;
    }
    sched_accept(e, n);
    return n + 1;
}

static void run(const struct crowd *crowd, struct outcome *ret) {
    struct sched_options options = {.n_entries_max = N_ENTRIES,
                                    .n_running_max = N_ENTRIES,
                                    .n_rows_max = N_ROWS,
                                    .n_prompt_rows_max = N_ROWS,
                                    .target_us = 200000};
    SchedEntry entries[N_ENTRIES] = {0};
    Sched s;

    *ret = (struct outcome){.us = 0};
    assert(sched_init(&s, &options) == 0);
    for (size_t i = 0; i < crowd->n; i++) {
        sched_add(&s, &entries[i], (uint32_t)(i + 1), SCHED_CLASS_NORMAL, 1);
        assert(sched_next(&s, 1) == &entries[i]);
        entries[i].n_pending = 1;
        sched_start(&s, &entries[i], 1);
    }
    for (; ret->n_steps < N_STEPS; ret->n_steps++) {
        uint32_t n_rows;
        double us;

        for (size_t i = 0; i < crowd->n; i++)
            if (i == 0 || crowd->per_mille_of_others > 0)
                entries[i].n_drafts = random_below(4) > 0 ? crowd->n_drafts : 0;
        n_rows = sched_plan(&s, (uint64_t)ret->us + 1);
        us = crowd->fixed + crowd->per_row * n_rows;
        assert(n_rows <= N_ROWS && s.n_planned == crowd->n);
        for (size_t i = 0; i < crowd->n; i++) {
            SchedEntry *e = &entries[i];

            assert(e->n_rows == 1 + e->n_draft_rows && e->n_draft_rows <= e->n_drafts);
            n_rows -= e->n_rows;
            ret->n_draft_rows += e->n_draft_rows;
            ret->n_tokens[i] +=
                take_tokens(e, i == 0 ? crowd->per_mille : crowd->per_mille_of_others);
        }
        assert(n_rows == 0);
        sched_done(&s, (uint64_t)us);
        ret->us += us;
    }
    for (size_t i = 0; i < crowd->n; i++)
        sched_remove(&s, &entries[i]);
    sched_deinit(&s);
}

/* Tokens of the i-th for each it would have had without drafts. */
static double gain(const struct crowd *crowd, size_t i, struct outcome *ret) {
    double plain_us = crowd->fixed + crowd->per_row * (double)crowd->n, rate;

    run(crowd, ret);
    rate = (double)ret->n_tokens[i] / ret->us;
    (void)printf("# %g + %g a row, %zu sequences, %u ‰ right: × %.3f, %.2f drafted rows a step\n",
                 crowd->fixed, crowd->per_row, crowd->n, crowd->per_mille, rate * plain_us,
                 (double)ret->n_draft_rows / (double)ret->n_steps);
    return rate * plain_us;
}

static void test_cheap_rows_pay(void) {
    struct outcome o;

    assert(gain(&(struct crowd){1000, 20, 1, 8, 900, 0}, 0, &o) > 3);
    assert(gain(&(struct crowd){1000, 20, 1, 8, 500, 0}, 0, &o) > 1.4);
    assert(gain(&(struct crowd){1000, 200, 1, 8, 900, 0}, 0, &o) > 1.4);
}

/* As much as tokens of their own, or nearly: hardly any are computed, though all would be right. */
static void test_dear_rows_do_not(void) {
    struct outcome o;

    assert(gain(&(struct crowd){0, 1000, 1, 8, 1000, 0}, 0, &o) > 0.97);
    assert(o.n_draft_rows < N_STEPS / 20);
    assert(gain(&(struct crowd){100, 1000, 1, 8, 600, 0}, 0, &o) > 0.97);
    assert(o.n_draft_rows < N_STEPS / 20);
}

static void test_wrong_guesses_stop(void) {
    struct outcome o;

    assert(gain(&(struct crowd){1000, 200, 1, 8, 30, 0}, 0, &o) > 0.97);
    assert(o.n_draft_rows < N_STEPS / 20);
}

/* Who drafts may make others' steps a little longer. */
static void test_others_are_not_held_up(void) {
    struct outcome o;

    assert(gain(&(struct crowd){1000, 300, 2, 8, 950, 0}, 1, &o) > 0.97);
    assert(o.n_draft_rows < N_STEPS / 20);
    assert(gain(&(struct crowd){1000, 10, 4, 8, 950, 0}, 1, &o) > 0.89);
    assert(o.n_tokens[0] > 2 * o.n_tokens[1]);
    assert(gain(&(struct crowd){1000, 10, 8, 8, 950, 950}, 1, &o) > 1.5); /* up to N_ROWS */
}

/* Steps with prompts have none, and neither has one that is not known without. */
static void test_first_things_first(void) {
    struct sched_options options = {.n_entries_max = 2,
                                    .n_running_max = 2,
                                    .n_rows_max = N_ROWS,
                                    .n_prompt_rows_max = N_ROWS,
                                    .target_us = 200000};
    SchedEntry entries[2] = {{.n_pending = 1, .n_drafts = 3}, {.n_pending = 500}};
    Sched s;

    assert(sched_init(&s, &options) == 0);
    sched_add(&s, &entries[0], 1, SCHED_CLASS_NORMAL, 1);
    assert(sched_next(&s, 1) == &entries[0]);
    sched_start(&s, &entries[0], 1);
    assert(sched_plan(&s, 1) == 1);
    for (uint64_t i = 0; i < 8; i++) {
        sched_done(&s, 1000);
        (void)sched_plan(&s, 2 + i);
    }
    assert(entries[0].n_draft_rows > 0);
    sched_done(&s, 1000);
    sched_add(&s, &entries[1], 2, SCHED_CLASS_NORMAL, 20);
    assert(sched_next(&s, 20) == &entries[1]);
    sched_start(&s, &entries[1], 20);
    assert(sched_plan(&s, 21) > 1);
    assert(entries[0].n_rows == 1 && entries[0].n_draft_rows == 0 && entries[1].n_rows > 0);
    sched_remove(&s, &entries[0]);
    sched_remove(&s, &entries[1]);
    sched_deinit(&s);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(cheap_rows_pay),         TEST(dear_rows_do_not),   TEST(wrong_guesses_stop),
        TEST(others_are_not_held_up), TEST(first_things_first),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
