/* daemon/sched: years of arrivals in a second; budgets are kept and nobody starves. */
#include "base/macro.h"
#include "daemon/sched.h"
#include "tests/util/test.h"

#include <stdbool.h>
#include <stdio.h>

#define N_SEQUENCES 64
#define N_STEPS     200000

struct sequence {
    size_t n_pending, n_left; /* tokens to generate after the prompt */
    uint64_t came;
    bool had_row; /* in this step */
};

static uint64_t state = 88172645463325252ull;

static uint32_t random_below(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % n;
}

static size_t remove_ended(struct sequence *all, size_t n) {
    size_t n_kept = 0;

    for (size_t i = 0; i < n; i++)
        if (all[i].n_pending > 0)
            all[n_kept++] = all[i];
    return n_kept;
}

/* One step as the engine would do it. */
static void apply(struct sequence *all, const struct sched_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert(rows[i].n_rows <= all[i].n_pending);
        all[i].n_pending -= rows[i].n_rows;
        if (rows[i].n_rows > 0 && all[i].n_pending == 0 && all[i].n_left > 0) {
            all[i].n_left--;
            all[i].n_pending = 1;
        }
    }
}

static void check_plan(const struct sched_budget *budget, const struct sequence *all,
                       const struct sched_row *rows, size_t n, uint32_t n_planned) {
    uint32_t sum = 0, n_prompt = 0;
    bool oldest_prompt = true;

    for (size_t i = 0; i < n; i++) {
        sum += rows[i].n_rows;
        if (all[i].n_pending == 1) {
            assert(rows[i].n_rows == 1); /* who decodes has a token in every step */
            continue;
        }
        n_prompt += rows[i].n_rows;
        assert(!oldest_prompt || rows[i].n_rows > 0); /* the oldest prompt always gets on */
        oldest_prompt = false;
    }
    assert(sum == n_planned && sum <= budget->n_rows_max && n_prompt <= budget->n_prompt_rows_max);
    assert(sum > 0 || n == 0);
}

static void test_simulated_arrivals(void) {
    static struct sequence all[N_SEQUENCES];
    struct sched_row rows[N_SEQUENCES];
    size_t n = 0, n_ended = 0;

    for (uint64_t step = 0; step < N_STEPS; step++) {
        struct sched_budget budget = {.n_prompt_rows_max = 1 + random_below(200)};
        size_t n_before;

        budget.n_rows_max = N_SEQUENCES + budget.n_prompt_rows_max;
        while (n < N_SEQUENCES && random_below(4) == 0)
            all[n++] = (struct sequence){
                .n_pending = 1 + random_below(2000), .n_left = random_below(100), .came = step};
        for (size_t i = 0; i < n; i++) {
            rows[i] = (struct sched_row){.n_pending = all[i].n_pending, .n_rows = 77};
            assert(i == 0 || all[i].came >= all[i - 1].came);
            assert(step - all[i].came < 64 * 2100); /* nobody starves */
        }
        check_plan(&budget, all, rows, n, sched_plan(&budget, rows, n));
        apply(all, rows, n);
        n_before = n;
        n = remove_ended(all, n);
        n_ended += n_before - n;
    }
    (void)printf("# %zu sequences ended\n", n_ended);
    assert(n_ended > 1000);
}

static void test_prompts_are_served_first_come(void) {
    struct sched_budget budget = {.n_rows_max = 200, .n_prompt_rows_max = 100};
    struct sched_row rows[] = {{.n_pending = 60}, {.n_pending = 1}, {.n_pending = 300},
                               {.n_pending = 50}, {.n_pending = 0}, {.n_pending = 1}};

    assert(sched_plan(&budget, rows, ARRAY_SIZE(rows)) == 102);
    assert(rows[0].n_rows == 60 && rows[1].n_rows == 1 && rows[2].n_rows == 40);
    assert(rows[3].n_rows == 0 && rows[4].n_rows == 0 && rows[5].n_rows == 1);
}

static void test_a_full_step_takes_no_more(void) {
    struct sched_budget budget = {.n_rows_max = 2, .n_prompt_rows_max = 100};
    struct sched_row rows[] = {
        {.n_pending = 9}, {.n_pending = 1}, {.n_pending = 1}, {.n_pending = 1}};

    assert(sched_plan(&budget, rows, ARRAY_SIZE(rows)) == 2);
    assert(rows[0].n_rows == 0 && rows[1].n_rows == 1 && rows[2].n_rows == 1 &&
           rows[3].n_rows == 0);
    assert(sched_plan(&budget, NULL, 0) == 0);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(simulated_arrivals),
        TEST(prompts_are_served_first_come),
        TEST(a_full_step_takes_no_more),
    };
    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
