/* engine/pool, engine/tasks, engine/cpus: every member runs, barriers hold, tasks are taken once,
 * and the team has as many threads as it may. */
#include "base/alloc.h"
#include "base/macro.h"
#include "engine/cpus.h"
#include "engine/pool.h"
#include "engine/tasks.h"
#include "tests/util/team.h"
#include "tests/util/temp.h"
#include "tests/util/test.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define THREADS 8

static GkPool *new_pool(unsigned n) {
    return test_team(n, 1);
}

/*
 * Runs for a test with a team of some size: many, but on a machine that others keep busy, where
 * each meeting may take time slices of theirs, hardly more than a second's worth.
 */
static bool go_on(struct timespec *begin, size_t run, size_t n_max) {
    struct timespec now;

    assert(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    if (run == 1)
        *begin = now;
    return run <= n_max && (run <= 3 || now.tv_sec - begin->tv_sec < 1);
}

/* ---- runs ---- */

struct runs {
    size_t n[THREADS]; /* not atomic: each member counts its own, the caller reads between runs */
    pthread_t thread[THREADS];
};

static void count_run(void *userdata, unsigned i) {
    struct runs *runs = userdata;

    runs->n[i]++;
    runs->thread[i] = pthread_self();
}

static void test_every_member_runs_once_a_run(void) {
    for (unsigned n = 1; n <= THREADS; n++) {
        GkPool *pool = new_pool(n);
        struct runs runs = {0};
        struct timespec begin;

        for (size_t run = 1; go_on(&begin, run, 2000); run++) {
            pool_run(pool, count_run, &runs);
            for (unsigned i = 0; i < THREADS; i++)
                assert(runs.n[i] == (i < n ? run : 0));
        }
        assert(pthread_equal(runs.thread[0], pthread_self()));
        for (unsigned i = 1; i < n; i++)
            for (unsigned j = 0; j < i; j++)
                assert(!pthread_equal(runs.thread[i], runs.thread[j]));
        gk_pool_free(pool);
    }
}

static void test_runs_after_sleep(void) {
    GkPool *pool = new_pool(4);
    struct runs runs = {0};
    struct timespec begin, end, pause = {.tv_nsec = 30000000};

    for (size_t run = 1; run <= 5; run++) {
        (void)nanosleep(&pause, NULL);
        pool_run(pool, count_run, &runs);
        for (unsigned i = 0; i < 4; i++)
            assert(runs.n[i] == run);
    }
    /* A team with nothing to do takes no CPU: it sleeps. */
    (void)nanosleep(&pause, NULL);
    assert(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin) == 0);
    for (int i = 0; i < 10; i++)
        (void)nanosleep(&pause, NULL);
    assert(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end) == 0);
    assert((end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec < 30000000);
    gk_pool_free(pool);
}

/* ---- barriers ---- */

struct rounds {
    GkPool *pool;
    unsigned n;
    size_t n_rounds;
    size_t at[THREADS]; /* not atomic: the barrier must order them */
    size_t n_wrong[THREADS];
    size_t n_calls; /* nor this */
};

static void meet(void *userdata, unsigned i) {
    struct rounds *r = userdata;

    for (size_t round = 1; round <= r->n_rounds; round++) {
        r->at[i] = round;
        pool_barrier(r->pool, i);
        for (unsigned j = 0; j < r->n; j++)
            r->n_wrong[i] += r->at[j] != round;
        pool_barrier(r->pool, i);
    }
}

static void test_barriers_wait_for_all(void) {
    for (unsigned n = 1; n <= THREADS; n++) {
        struct rounds r = {.pool = new_pool(n), .n = n, .n_rounds = 20};
        struct timespec begin;

        for (size_t run = 1; go_on(&begin, run, 150); run++)
            pool_run(r.pool, meet, &r);
        for (unsigned i = 0; i < THREADS; i++)
            assert(r.n_wrong[i] == 0 && r.at[i] == (i < n ? r.n_rounds : 0));
        gk_pool_free(r.pool);
    }
}

/* When all have come, and before one goes on. */
static void call(void *userdata) {
    struct rounds *r = userdata;

    r->n_calls++;
    for (unsigned j = 0; j < r->n; j++)
        r->n_wrong[0] += r->at[j] != r->n_calls;
}

static void meet_and_call(void *userdata, unsigned i) {
    struct rounds *r = userdata;

    for (size_t round = 1; round <= r->n_rounds; round++) {
        r->at[i] = round;
        pool_barrier_once(r->pool, call, r);
        r->n_wrong[i] += r->n_calls != round;
        pool_barrier(r->pool, i);
    }
}

static void test_the_last_one_calls(void) {
    for (unsigned n = 1; n <= THREADS; n++) {
        struct rounds r = {.pool = new_pool(n), .n = n, .n_rounds = 200};

        pool_run(r.pool, meet_and_call, &r);
        assert(r.n_calls == r.n_rounds);
        for (unsigned i = 0; i < n; i++)
            assert(r.n_wrong[i] == 0);
        gk_pool_free(r.pool);
    }
}

/* Late members: those that wait have gone to sleep and must be woken. */
static void meet_late(void *userdata, unsigned i) {
    struct rounds *r = userdata;
    struct timespec pause = {.tv_nsec = 2000000};

    for (size_t round = 0; round < r->n_rounds; round++) {
        if (round % r->n == i)
            (void)nanosleep(&pause, NULL);
        r->at[i]++;
        pool_barrier(r->pool, i);
        for (unsigned j = 0; j < r->n; j++)
            r->n_wrong[i] += r->at[j] != round + 1;
        pool_barrier(r->pool, i);
    }
}

static void test_late_members_wake_the_others(void) {
    struct rounds r = {.pool = new_pool(5), .n = 5, .n_rounds = 100};

    pool_run(r.pool, meet_late, &r);
    for (unsigned i = 0; i < r.n; i++)
        assert(r.n_wrong[i] == 0 && r.at[i] == r.n_rounds);
    gk_pool_free(r.pool);
}

/* ---- counts ---- */

#define PARTS 7

/* Who does which of a count's parts changes with the round; all but one of them wait for it. */
struct counting {
    struct rounds rounds;
    PoolCount counts[2];
    size_t done[2][PARTS]; /* not atomic: the count must order them */
};

static void count_and_wait(void *userdata, unsigned i) {
    struct counting *c = userdata;
    struct rounds *r = &c->rounds;
    struct timespec pause = {.tv_nsec = 2000000};

    for (size_t round = 1; round <= r->n_rounds; round++) {
        size_t *done = c->done[round % 2];

        /* Now and then a late one: the others have gone to sleep. */
        if (round % 50 == 0 && round / 50 % r->n == i)
            (void)nanosleep(&pause, NULL);
        for (size_t part = 0, n; part < PARTS; part += n) {
            n = MIN(1 + round % 3, PARTS - part);
            if ((part + round) % r->n != i)
                continue;
            for (size_t j = 0; j < n; j++)
                done[part + j] = round;
            pool_count_add(&c->counts[round % 2], (unsigned)n);
        }
        if (round % r->n != i) {
            pool_count_wait(r->pool, &c->counts[round % 2]);
            for (size_t part = 0; part < PARTS; part++)
                r->n_wrong[i] += done[part] != round;
        }
        if (i == 0)
            pool_count_set(&c->counts[1 - round % 2], PARTS);
        pool_barrier(r->pool, i);
    }
}

static void test_counts_wait_for_their_parts(void) {
    for (unsigned n = 1; n <= THREADS; n++) {
        struct counting c = {.rounds = {.pool = new_pool(n), .n = n, .n_rounds = 200}};

        pool_count_set(&c.counts[1], PARTS);
        pool_run(c.rounds.pool, count_and_wait, &c);
        for (unsigned i = 0; i < n; i++)
            assert(c.rounds.n_wrong[i] == 0);
        gk_pool_free(c.rounds.pool);
    }
}

/* ---- tasks ---- */

#define TASKS 500

struct drawing {
    GkPool *pool;
    PoolTasks tasks[2];
    unsigned char taken[TASKS]; /* not atomic: one member takes each */
    size_t n_wrong;
};

static void draw(void *userdata, unsigned i) {
    struct drawing *d = userdata;

    for (int round = 0; round < 20; round++) {
        PoolTasks *tasks = &d->tasks[round % 2], *other = &d->tasks[1 - round % 2];

        for (size_t t, left; (t = pool_tasks_take(tasks, TASKS, i % 2, &left)) < TASKS;)
            d->taken[t] += left < TASKS;
        if (i == 0)
            pool_tasks_reset(other);
        pool_barrier(d->pool, i);
        for (size_t t = 0; i == 0 && t < TASKS; t++)
            d->n_wrong += d->taken[t] != round + 1;
        pool_barrier(d->pool, i);
    }
}

/* One member alone takes what is left at the end that it asks for. */
static void test_tasks_are_taken_from_both_ends(void) {
    const struct {
        bool last;
        size_t task, n_left;
    } expected[] = {{false, 0, 4}, {true, 4, 3}, {true, 3, 2}, {false, 1, 1}, {true, 2, 0}};
    PoolTasks tasks = {0};
    size_t left = 99;

    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        assert(pool_tasks_take(&tasks, 5, expected[i].last, &left) == expected[i].task);
        assert(left == expected[i].n_left);
    }
    for (int i = 0; i < 4; i++)
        assert(pool_tasks_take(&tasks, 5, i % 2, &left) == 5);
    pool_tasks_reset(&tasks);
    assert(pool_tasks_take(&tasks, 5, true, &left) == 4);
}

static void test_each_task_is_taken_once(void) {
    for (unsigned n = 1; n <= THREADS; n++) {
        struct drawing d = {.pool = new_pool(n)};

        pool_run(d.pool, draw, &d);
        assert(d.n_wrong == 0);
        gk_pool_free(d.pool);
    }
}

/* ---- tasks with homes ---- */

static const struct task_list lists[] = {
    {.parts = {{1, 1}}},
    {.parts = {{1, 2}, {1, 1}, {1, 1}}},
    {.parts = {{8, 7}}},
    {.parts = {{3, 1}}, .in_order = true},
    {.parts = {{1, 64}, {1, 16}, {1, 16}}},
    {.parts = {{0, 5}, {5, 0}}},
    {.parts = {{4, 13}, {2, 3}}},
};

static size_t tasks_count(const struct task_list *list) {
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(list->parts); i++)
        n += list->parts[i].n_matrices * list->parts[i].n_blocks;
    return n;
}

static void test_each_task_has_one_home(void) {
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        for (unsigned n_nodes = 1; n_nodes <= 9; n_nodes++) {
            size_t n = tasks_count(&lists[i]), n_seen = 0;
            unsigned char seen[TASKS] = {0};

            for (unsigned node = 0; node < n_nodes; node++) {
                size_t before = 0, j = 0;

                for (size_t t; (t = tasks_of_node(&lists[i], n_nodes, node, j)) != TASKS_END; j++) {
                    assert(t < n && seen[t]++ == 0);
                    assert(j == 0 || t > before);
                    before = t;
                    n_seen++;
                }
                assert(tasks_of_node(&lists[i], n_nodes, node, j + 100) == TASKS_END);
            }
            assert(n_seen == n);
        }
    for (size_t n = 0; n < 70; n++) /* as tasks.h says */
        for (unsigned n_nodes = 1; n_nodes <= 9; n_nodes++)
            for (size_t b = 0; b < n; b++) {
                unsigned home = (unsigned)(b * n_nodes / n);

                assert(b >= tasks_home_begin(n, n_nodes, home));
                assert(b < tasks_home_begin(n, n_nodes, home + 1));
            }
}

struct home_drawing {
    GkPool *pool;
    struct task_draw draws[2];
    unsigned char taken[TASKS]; /* not atomic: one member takes each */
    size_t n_own[THREADS], n_wrong;
};

static void draw_from_home(void *userdata, unsigned i) {
    struct home_drawing *d = userdata;
    unsigned n_nodes = pool_n_nodes(d->pool), node = pool_node(d->pool, i);

    for (size_t round = 0; round < 10 * ARRAY_SIZE(lists); round++) {
        const struct task_list *list = &lists[round % ARRAY_SIZE(lists)];
        struct task_turn turn = {.node = node, .last = i % 2};

        for (size_t t; (t = tasks_draw(&d->draws[round % 2], list, n_nodes, &turn)) != TASKS_END;) {
            d->taken[t]++;
            d->n_own[i] += turn.n_finished == 0;
        }
        pool_barrier(d->pool, i);
        if (i == 0)
            tasks_reset(&d->draws[round % 2], n_nodes);
        for (size_t t = 0; i == 0 && t < TASKS; t++) {
            d->n_wrong += d->taken[t] != (t < tasks_count(list));
            d->taken[t] = 0;
        }
        pool_barrier(d->pool, i);
    }
}

/* By members of all nodes, at home and away. */
static void test_each_task_of_a_node_is_taken_once(void) {
    for (unsigned n = 1; n <= THREADS; n++)
        for (unsigned n_nodes = 1; n_nodes <= MIN(n, 4u); n_nodes++) {
            struct home_drawing *d = alloc_aligned(sizeof(*d));
            size_t n_own = 0;

            assert(d);
            d->pool = test_team(n, n_nodes);
            assert(pool_n_nodes(d->pool) == n_nodes);
            for (unsigned i = 1; i < n; i++) /* neighbours, and each node has some */
                assert(pool_node(d->pool, i) - pool_node(d->pool, i - 1) <= 1);
            assert(pool_node(d->pool, n - 1) == n_nodes - 1);
            for (int run = 0; run < 5; run++)
                pool_run(d->pool, draw_from_home, d);
            for (unsigned i = 0; i < n; i++)
                n_own += d->n_own[i];
            assert(d->n_wrong == 0 && n_own > 0);
            d->pool = gk_pool_free(d->pool);
            free(d);
        }
}

static void note_node(void *userdata, unsigned i_node) {
    struct runs *runs = userdata;

    runs->n[i_node]++;
    runs->thread[i_node] = pthread_self();
}

static void run_beside(void *userdata, unsigned i) {
    GkPool *pool = userdata;
    struct runs runs = {0};

    if (i != 0)
        return;
    assert(pool_run_on_nodes(pool, note_node, &runs, NULL) == 0);
    for (unsigned node = 0; node < THREADS; node++)
        assert(runs.n[node] == (node < pool_n_nodes(pool)));
    assert(pthread_equal(runs.thread[0], pthread_self()));
}

/* While a step of another model runs. */
static void test_nodes_are_visited_beside_a_run(void) {
    for (unsigned n_nodes = 1; n_nodes <= 4; n_nodes++) {
        GkPool *pool = test_team(4, n_nodes);

        pool_run(pool, run_beside, pool);
        run_beside(pool, 0);
        pool = gk_pool_free(pool);
    }
}

/* ---- life ---- */

static unsigned n_threads_alive(void) {
    DIR *dir = opendir("/proc/self/task");
    unsigned n = 0;

    assert(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    (void)closedir(dir);
    return n;
}

static void test_free_joins_the_threads(void) {
    unsigned before;

    gk_pool_free(new_pool(2)); /* a sanitizer may start a thread of its own with the first one */
    before = n_threads_alive();
    for (int i = 0; i < 50; i++) {
        GkPool *pool = new_pool(THREADS);
        struct runs runs = {0};

        assert(n_threads_alive() == before + THREADS - 1);
        if (i % 2)
            pool_run(pool, count_run, &runs);
        assert(gk_pool_free(pool) == NULL);
        /* A joined thread may be listed for a moment longer. */
        for (int tries = 0; n_threads_alive() != before && tries < 1000; tries++)
            (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        assert(n_threads_alive() == before);
    }
    assert(gk_pool_free(NULL) == NULL);
}

static void test_too_many_threads_are_refused(void) {
    GkPool *pool = NULL;
    Error error = {0};

    assert(gk_pool_new(&pool, 100000, &error) == GK_E_INVALID && !pool);
    assert(strstr(error.text, "100000"));
}

struct cpus {
    int n[THREADS];  /* CPUs the member may run on */
    int at[THREADS]; /* the first of them */
};

static void note_cpus(void *userdata, unsigned i) {
    struct cpus *cpus = userdata;
    cpu_set_t set;

    assert(sched_getaffinity(0, sizeof(set), &set) == 0);
    cpus->n[i] = CPU_COUNT(&set);
    for (cpus->at[i] = 0; !CPU_ISSET(cpus->at[i], &set);)
        cpus->at[i]++;
}

static void test_default_is_what_the_process_may_use(void) {
    struct cpus cpus = {0};
    GkPool *pool = NULL;
    cpu_set_t all, one;
    unsigned usable = cpus_usable(&cpus_kernel, &all);
    int first = 0, n = CPU_COUNT(&all);

    assert(usable >= 1 && usable <= (unsigned)n);
    assert(gk_pool_new(&pool, 0, NULL) == 0 && gk_pool_n_threads(pool) == usable);
    if (usable <= THREADS) {
        pool_run(pool, note_cpus, &cpus);
        assert(cpus.n[0] == (usable > 1 ? 1 : n));
        for (unsigned i = 1; i < usable; i++)
            assert(cpus.n[i] == 1 && cpus.at[i] > cpus.at[i - 1]);
    }
    assert(sched_getaffinity(0, sizeof(one), &one) == 0); /* the caller has its own mask again */
    assert(CPU_EQUAL(&one, &all));
    gk_pool_free(pool);
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert(sched_setaffinity(0, sizeof(one), &one) == 0);
    for (unsigned n_asked = 0; n_asked <= 3; n_asked++) {
        assert(gk_pool_new(&pool, n_asked, NULL) == 0 && gk_pool_n_threads(pool) == 1);
        gk_pool_free(pool);
    }
}

/* ---- quotas ---- */

static void write_file(const char *path, const char *text) {
    char directory[4096];
    FILE *f;

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        (void)snprintf(directory, sizeof(directory), "%.*s", (int)(slash - path), path);
        (void)mkdir(directory, 0700);
    }
    f = fopen(path, "we");
    assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void test_quota_v2(void) {
    const char *list = temp_path("list2"), *mount = temp_path("v2");

    write_file(list, "0::/a/b/c\n");
    assert(cpus_quota(list, mount) == 0); /* no files at all */
    write_file(temp_path("v2/a/b/c/cpu.max"), "max 100000\n");
    assert(cpus_quota(list, mount) == 0);
    write_file(temp_path("v2/a/b/cpu.max"), "250000 100000\n");
    assert(cpus_quota(list, mount) == 2); /* rounded down */
    write_file(temp_path("v2/a/cpu.max"), "400000 100000\n");
    assert(cpus_quota(list, mount) == 2); /* the least */
    write_file(temp_path("v2/a/b/c/cpu.max"), "199999 100000\n");
    assert(cpus_quota(list, mount) == 1);
    write_file(temp_path("v2/a/b/c/cpu.max"), "200000 100000\n");
    assert(cpus_quota(list, mount) == 2); /* exactly */
    write_file(list, "0::/\n");
    assert(cpus_quota(list, mount) == 0);
    write_file(temp_path("v2/cpu.max"), "100000 100000\n"); /* a container's own root */
    assert(cpus_quota(list, mount) == 1);
    assert(cpus_quota(temp_path("none"), mount) == 0);
}

static void test_quota_v1(void) {
    const char *list = temp_path("list1"), *mount = temp_path("v1");

    write_file(list, "5:cpuset:/x\n4:cpuacct,cpu:/docker/1\n1:name=systemd:/\n0::/\n");
    assert(cpus_quota(list, mount) == 0);
    /* The path begins above what is mounted: only the root is there. */
    write_file(temp_path("v1/cpu/cpu.cfs_quota_us"), "250000\n");
    write_file(temp_path("v1/cpu/cpu.cfs_period_us"), "100000\n");
    assert(cpus_quota(list, mount) == 2);
    write_file(temp_path("v1/cpu/docker/1/cpu.cfs_quota_us"), "-1\n");
    write_file(temp_path("v1/cpu/docker/1/cpu.cfs_period_us"), "100000\n");
    assert(cpus_quota(list, mount) == 2);
    write_file(temp_path("v1/cpu/docker/1/cpu.cfs_quota_us"), "50000\n");
    assert(cpus_quota(list, mount) == 1);     /* at least one */
    write_file(list, "5:cpuset:/docker/1\n"); /* no cpu controller */
    assert(cpus_quota(list, mount) == 0);
}

/* Whatever is asked for, and although the mask has more. */
static void test_quota_caps_the_team(void) {
    const char *list = temp_path("list4"), *mount = temp_path("cap");
    struct cpus_sources sources = {.cgroups = list, .cgroup_mount = mount, .nodes = CPUS_NODES};
    static const unsigned expected[] = {2, 1, 2, 2, 2, 2};
    cpu_set_t allowed;

    CPU_ZERO(&allowed);
    for (int cpu = 0; cpu < 6; cpu++)
        CPU_SET(cpu, &allowed);
    sources.allowed = &allowed;
    write_file(list, "0::/a\n");
    write_file(temp_path("cap/a/cpu.max"), "250000 100000\n");
    for (unsigned n_asked = 0; n_asked < ARRAY_SIZE(expected); n_asked++) {
        struct runs runs = {0};
        GkPool *pool = NULL;

        assert(pool_new(&pool, n_asked, &sources, NULL) == 0);
        assert(gk_pool_n_threads(pool) == expected[n_asked]);
        pool_run(pool, count_run, &runs);
        for (unsigned i = 0; i < THREADS; i++)
            assert(runs.n[i] == (i < expected[n_asked]));
        gk_pool_free(pool);
    }
}

static void test_quota_nonsense_is_no_limit(void) {
    static const char *const texts[] = {"",         "\n",  "max",  "100000",
                                        "0 100000", "5 0", "-3 5", "x y"};
    const char *list = temp_path("list3"), *mount = temp_path("bad"),
               *file = temp_path("bad/a/cpu.max");

    write_file(list, "nonsense\n0::\n:::\n0::/a\n");
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        write_file(file, texts[i]);
        assert(cpus_quota(list, mount) == 0);
    }
    write_file(file, "9223372036854775807 1\n");
    assert(cpus_quota(list, mount) == INT32_MAX);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        {"every_member_runs_once_a_run", test_every_member_runs_once_a_run, 60},
        TEST(runs_after_sleep),
        {"barriers_wait_for_all", test_barriers_wait_for_all, 60},
        {"the_last_one_calls", test_the_last_one_calls, 60},
        {"late_members_wake_the_others", test_late_members_wake_the_others, 60},
        {"counts_wait_for_their_parts", test_counts_wait_for_their_parts, 60},
        TEST(tasks_are_taken_from_both_ends),
        {"each_task_is_taken_once", test_each_task_is_taken_once, 60},
        TEST(each_task_has_one_home),
        {"each_task_of_a_node_is_taken_once", test_each_task_of_a_node_is_taken_once, 60},
        TEST(nodes_are_visited_beside_a_run),
        TEST(free_joins_the_threads),
        TEST(too_many_threads_are_refused),
        TEST(default_is_what_the_process_may_use),
        TEST(quota_v2),
        TEST(quota_v1),
        TEST(quota_caps_the_team),
        TEST(quota_nonsense_is_no_limit),
    };

    return test_main(tests, ARRAY_SIZE(tests), argc, argv);
}
