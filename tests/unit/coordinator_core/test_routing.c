/* Hedge and what drafters cost, in a cluster of virtual time (goodput.h): who is slow or far is asked where that pays. */
#include "tests/unit/coordinator_core/goodput.h"

static const setting two = {
    .policy = "hedge", .adaptive = true, .max_tree = 8, .n_prompt = 3, .n_clients = 1, .n_drafters = 2, .step_us = flat_to_four};

static const uint64_t MS = 1000000;

/* Tokens a second over all seeds; the share of the drafts that were drafter 1's. */
static double routed(setting of, double *of_second) {
    double rate = 0;
    uint64_t drafts[2] = {0};
    for (of.seed = 0; of.seed < N_SEEDS; of.seed++) {
        rate += rate_of(&of) / N_SEEDS;
        for (int i = 0; i < 2; i++) drafts[i] += w.n_drafts[i];
    }
    *of_second = (double)drafts[1] / (double)(drafts[0] + drafts[1] + 1);
    return rate;
}

static double rate_with(setting of, const char *policy) {
    double unused;
    of.policy = policy;
    return routed(of, &unused);
}

static double long_steps(uint32_t rows) { return 25 * flat_to_four(rows); }

static void of_two_alike_the_far_one_is_not_asked(void **state) {
    (void)state;
    setting of = two;
    double far;
    of.drafters[0] = of.drafters[1] = (skill){200 * US, 0.7, 0.7};
    of.drafters[1].takes_ns += 20 * MS;
    for (of.n_clients = 1; of.n_clients <= 4; of.n_clients *= 4) {
        double rate = routed(of, &far), near = rate_with(of, "fixed:a");
        print_message("one of two behind 20 ms, %u clients: %.1f tokens/s, %.3f of the drafts; the near one alone %.1f\n",
                      of.n_clients, rate, far, near);
        assert_true(far < 0.02 && rate > 0.98 * near);
    }
}

static void the_far_one_is_asked_where_the_near_one_is_gone_or_busy(void **state) {
    (void)state;
    setting of = two;
    double far;
    of.step_us = long_steps; /* so that it is worth its wait at all */
    of.changes = true;
    of.drafters[0] = of.later[0] = of.drafters[1] = of.later[1] = (skill){20 * MS, 0.7, 0.7};
    of.drafters[0].takes_ns = of.later[0].takes_ns = 200 * US;
    of.lost = 1;
    double rate = routed(of, &far), none = rate_with(of, "none");
    print_message("the near one is lost: %.2f of none, %.2f of the drafts are the far one's\n", rate / none, far);
    assert_true(far > 0.95 && rate > 1.5 * none);
    of.lost = 0;
    of.later[0].takes_ns = 150 * MS; /* for all that it has to do for others */
    rate = routed(of, &far);
    print_message("the near one is busy: %.2f of none, %.2f of the drafts are the far one's\n", rate / none, far);
    assert_true(far > 0.9 && rate > 1.5 * none);
}

static void who_is_slow_and_much_better_is_asked_where_steps_are_long(void **state) {
    (void)state;
    setting of = two;
    double slow;
    of.drafters[0] = (skill){200 * US, 0.2, 0.2};
    of.drafters[1] = (skill){20 * MS, 0.8, 0.8};
    of.step_us = long_steps;
    double rate = routed(of, &slow), better = rate_with(of, "fixed:b"), worse = rate_with(of, "fixed:a");
    print_message("slow and better, steps of 100 ms: %.1f tokens/s, %.2f the slow one's; alone %.1f, the other %.1f\n", rate,
                  slow, better, worse);
    assert_true(slow > 0.45 && rate > 0.97 * better); /* half of them: both are asked */
    of.step_us = flat_to_four;
    rate = routed(of, &slow), better = rate_with(of, "fixed:b"), worse = rate_with(of, "fixed:a");
    print_message("the same, steps of 4 ms: %.1f tokens/s, %.2f the slow one's; alone %.1f, the other %.1f\n", rate, slow, better,
                  worse);
    assert_true(slow < 0.05 && rate > 0.98 * worse);
}

static void who_becomes_fast_is_found(void **state) {
    (void)state;
    setting of = two;
    double other;
    of.changes = true;
    of.drafters[0] = of.later[0] = (skill){200 * US, 0.6, 0.6};
    of.drafters[1] = of.later[1] = (skill){10 * MS, 0.8, 0.8};
    of.later[1].takes_ns = 200 * US;
    double rate = routed(of, &other), best = rate_with(of, "fixed:b");
    print_message("a slow one becomes fast: %.1f tokens/s, %.2f of the drafts; alone %.1f\n", rate, other, best);
    assert_true(other > 0.45 && rate > 0.95 * best);
}

/* The table of bench/routing-2026-11-30.md. */
static void hedge_keeps_near_the_best_of_all_ways_to_ask(void **state) {
    (void)state;
    static const double other[] = {0.7, 0.5, 0.3};
    static const uint64_t away_us[] = {200, 1000, 5000, 20000};
    double worst = 2;
    for (int i = 0; i < 2 * 3 * 4; i++) {
        setting of = two;
        double far;
        of.step_us = i < 12 ? flat_to_four : long_steps;
        of.drafters[0] = (skill){200 * US, other[i / 4 % 3], other[i / 4 % 3]};
        of.drafters[1] = (skill){200 * US + away_us[i % 4] * US, 0.7, 0.7};
        double near = rate_with(of, "fixed:a"), only = rate_with(of, "fixed:b"), both = rate_with(of, "all");
        double rate = routed(of, &far), best = near > only ? near : only;
        best = best > both ? best : both;
        print_message("| %d | %.1f | %.1f | %.1f | %.1f | %.1f | **%.1f** | %.2f |\n", i < 12 ? 4 : 100, other[i / 4 % 3],
                      (double)away_us[i % 4] / 1000, near, only, both, rate, far);
        worst = rate / best < worst ? rate / best : worst;
    }
    print_message("hedge in the best of these: %.3f at least\n", worst);
    assert_true(worst > 0.9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_two_alike_the_far_one_is_not_asked),
        cmocka_unit_test(the_far_one_is_asked_where_the_near_one_is_gone_or_busy),
        cmocka_unit_test(who_is_slow_and_much_better_is_asked_where_steps_are_long),
        cmocka_unit_test(who_becomes_fast_is_found),
        cmocka_unit_test(hedge_keeps_near_the_best_of_all_ways_to_ask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
