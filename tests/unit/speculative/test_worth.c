/* Whether to wait for drafters, and how they go on. */
#include "speculative/speculative.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void learn(spec_worth *w, uint32_t kind, uint32_t n, spec_yield with, spec_yield without, uint64_t now_ns) {
    spec_round r = {.kind = kind, .n_sequences = n, .n_trips = 1, .with = with, .without = without, .wait_ns = 1000000};
    spec_worth_learn(w, &r, now_ns);
}

static void waiting_that_does_not_pay_is_given_up_and_tried_now_and_then(void **state) {
    (void)state;
    spec_worth w = {0};
    const spec_yield good = {2, 5e6}, plain = {1, 4e6}, bad = {1.05, 5e6};
    uint64_t now = 1000000000;
    for (int i = 0; i < 20; i++, now += 5000000) {
        assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0), now));
        learn(&w, spec_worth_kind(1, 0), 1, good, plain, now);
    }
    uint32_t n_more = 0; /* rounds until it is given up */
    for (; spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0), now) && n_more < 100; n_more++, now += 5000000)
        learn(&w, spec_worth_kind(1, 0), 1, bad, plain, now);
    assert_true(n_more > 5 && n_more < 40);
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(9, 0), now)); /* what does not pay for one does not for nine */
    uint32_t asked = 0;
    for (uint32_t i = 0; i < 1000; i++, now += 4000000)
        if (spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0), now)) {
            asked++;
            learn(&w, spec_worth_kind(1, 0), 1, bad, plain, now);
        }
    assert_in_range(asked, 15, 21); /* each costs 1 ms of 4 s */
    uint32_t n_probes = 0;          /* from when on it pays again */
    for (; n_probes < 50; now += 4000000) {
        if (!spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0), now)) continue;
        learn(&w, spec_worth_kind(1, 0), 1, good, plain, now);
        if (spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0), now)) break; /* not for the time that has passed */
        n_probes++;
    }
    assert_true(n_probes < 5);
}

static void a_first_bad_round_does_not_decide(void **state) {
    (void)state;
    spec_worth w = {0};
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(40, 0), 100 + i));
        learn(&w, spec_worth_kind(40, 0), 40, (spec_yield){40, 9e6}, (spec_yield){40, 8e6}, 100 + i);
    }
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(40, 0), 104));
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(33, 0), 104)); /* the same power of two */
    assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(31, 0), 104));
    assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(0, 0), 104)); /* of fewer nothing is known */
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(UINT32_MAX, 0), 104));
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(40, 0.5), 104)); /* nor where lookup has a guess */
    assert_int_equal(spec_worth_kind(40, 0.5), spec_worth_kind(63, 0.7));
    assert_true(spec_worth_kind(UINT32_MAX, 1e9) == SPEC_ROUND_KINDS - 1 && spec_worth_kind(0, 0) == 0);
}

static void an_unknown_kind_is_held_to_be_as_the_nearest_known(void **state) {
    (void)state;
    spec_worth w = {0};
    const spec_yield good = {2, 5e6}, plain = {1, 4e6}, bad = {1.05, 5e6};
    for (int i = 0; i < 4; i++) {
        learn(&w, spec_worth_kind(1, 0), 1, good, plain, 100);
        learn(&w, spec_worth_kind(8, 1), 1, bad, plain, 100);
    }
    assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 3), 104) &&
                spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(7, 3), 104));
    assert_true(
        spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(16, 0), 104)); /* the load of 8 is only known where there is a match */
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(8, 3), 104) ||
                 spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(16, 1), 104));
    for (int i = 0; i < 4; i++) learn(&w, spec_worth_kind(16, 1), 1, good, plain, 100);
    assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(16, 1), 104)); /* its own rounds say otherwise */
    assert_false(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(8, 3), 104));
}

static void kinds_that_do_not_pay_share_their_probes(void **state) {
    (void)state;
    spec_worth w = {0};
    const spec_yield plain = {1, 4e6}, bad = {1.05, 5e6};
    const uint32_t kinds[] = {spec_worth_kind(8, 0), spec_worth_kind(16, 0), spec_worth_kind(16, 1), spec_worth_kind(16, 3)};
    uint64_t now = 1000000000;
    uint32_t asked = 0;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) learn(&w, kinds[k], 1, bad, plain, now);
    for (uint32_t i = 0; i < 1000; i++, now += 4000000)
        if (spec_worth_asking(&w, SPEC_MERGE, kinds[i % 4], now)) {
            asked++;
            learn(&w, kinds[i % 4], 1, bad, plain, now);
        }
    assert_in_range(asked, 15, 21); /* each costs 1 ms of 4 s, whatever its kind */
}

/* With what came of it 1.8 tokens in 5 ms; without 1.3 were promised in 4 ms, and 1.6 would have come. */
static void what_would_have_come_without_is_held_to_its_promises_too(void **state) {
    (void)state;
    const spec_yield with = {1.8, 5e6}, without = {1.3, 4e6};
    for (int comes = 0; comes < 2; comes++) {
        spec_worth w = {0};
        for (int i = 0; i < 400; i++) {
            learn(&w, spec_worth_kind(1, 0.5), 1, with, without, 100);
            spec_worth_judge(&w, SPEC_MERGE, (spec_trust){0.8f, 0.8f}, (spec_trust){0.3f, comes ? 0.6f : 0.3f});
        }
        assert_true(spec_worth_asking(&w, SPEC_MERGE, spec_worth_kind(1, 0.5), 104) == !comes);
    }
}

/* A world of two fusions: what their rounds give, and how long an answer takes. */
typedef struct {
    spec_worth w;
    uint64_t now_ns, random;
    double trip_ns, kept[SPEC_FUSIONS]; /* kept: of what is promised */
    double tokens[SPEC_FUSIONS], lost_ns, n[SPEC_FUSIONS];
} world;

enum { STEP_NS = 12000000, PLAIN_NS = 11000000, WAIT_NS = 500000000, DEPTH = 8 };
static const uint32_t trips[SPEC_FUSIONS] = {1, 6};

static double draw(world *w) { /* mean 1 */
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return 0.4 + 1.2 * (double)(w->random >> 33) / 2147483648.0;
}

static double rate(const world *w, spec_fusion f) { return (1 + w->kept[f] * w->tokens[f]) / (STEP_NS + trips[f] * w->trip_ns); }

static void rounds(world *w, uint32_t n) {
    memset(w->n, 0, sizeof w->n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t try_ns;
        uint32_t kind = spec_worth_kind(1, 0);
        spec_fusion f = spec_worth_fusion(&w->w, kind, DEPTH, WAIT_NS, &try_ns, w->now_ns);
        double u = draw(w), promised = w->tokens[f] * u, wait_ns = trips[f] * w->trip_ns * u;
        spec_round r = {.fusion = f,
                        .kind = kind,
                        .n_sequences = 1,
                        .tries = try_ns > 0,
                        .several = true,
                        .n_trips = (uint32_t)(trips[f] * u + 0.5) > 0 ? (uint32_t)(trips[f] * u + 0.5) : 1,
                        .with = {1 + promised, STEP_NS + wait_ns},
                        .without = {1, PLAIN_NS},
                        .wait_ns = (uint64_t)wait_ns};
        if (try_ns) spec_worth_try(&w->w, try_ns, w->now_ns);
        w->now_ns += (uint64_t)r.with.ns;
        spec_worth_learn(&w->w, &r, w->now_ns);
        uint32_t n_accepted = (uint32_t)(w->kept[f] * promised + draw(w) / 1.6);
        spec_worth_judge(&w->w, f, (spec_trust){(float)promised, (float)n_accepted}, (spec_trust){0});
        w->n[f]++;
        double best = rate(w, SPEC_MERGE) > rate(w, SPEC_LOCKSTEP) ? rate(w, SPEC_MERGE) : rate(w, SPEC_LOCKSTEP);
        w->lost_ns += r.with.ns * (1 - rate(w, f) / best);
    }
}

static const world at_first = {.now_ns = 1, .random = 7, .kept = {1, 1}, .tokens = {1.7, 3.4}};

static void the_fusion_that_gives_more_is_taken_and_the_other_tried_for_a_quarter_of_a_hundredth(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        world w = at_first;
        w.trip_ns = k ? 6e6 : 0.2e6;
        spec_fusion better = k ? SPEC_MERGE : SPEC_LOCKSTEP;
        assert_true(rate(&w, better) > 1.2 * rate(&w, k ? SPEC_LOCKSTEP : SPEC_MERGE));
        rounds(&w, 2000);
        uint64_t began_ns = w.now_ns;
        w.lost_ns = 0;
        rounds(&w, 4000);
        print_message("trips of %.1f ms: %.0f rounds of one, %.0f of the other, %.4f of the time lost\n", w.trip_ns / 1e6,
                      w.n[SPEC_MERGE], w.n[SPEC_LOCKSTEP], w.lost_ns / (double)(w.now_ns - began_ns));
        assert_true(w.n[better] > 3800 && w.n[better] < 4000 && w.lost_ns < 0.004 * (double)(w.now_ns - began_ns));
    }
}

/* The first rounds in lockstep are not many, and not before it is known what an answer takes. */
static void what_is_not_known_is_tried_as_seldom_as_its_worst_allows(void **state) {
    (void)state;
    world w = at_first;
    w.trip_ns = 6e6;
    rounds(&w, 4);
    assert_true(w.n[SPEC_LOCKSTEP] == 0);
    uint64_t began_ns = w.now_ns;
    rounds(&w, 2000);
    double most = (double)(w.now_ns - began_ns) / (200 * w.trip_ns * DEPTH * 0.7) + 1;
    assert_true(w.n[SPEC_LOCKSTEP] > 0 && w.n[SPEC_LOCKSTEP] <= most);
}

static void a_fusion_is_held_to_what_it_has_kept(void **state) {
    (void)state;
    world w = at_first;
    w.trip_ns = 0.2e6;
    w.kept[SPEC_LOCKSTEP] = 0.3;
    rounds(&w, 3000);
    assert_true(w.n[SPEC_MERGE] > 2700);
    w = at_first;
    w.trip_ns = 1.6e6;
    w.kept[SPEC_LOCKSTEP] = 1.5; /* as promised it would give less */
    assert_true(rate(&w, SPEC_LOCKSTEP) > 1.05 * rate(&w, SPEC_MERGE) && 4.4 / (12 + 6 * 1.6) < 2.7 / (12 + 1.6) * 1.03);
    rounds(&w, 2000);
    rounds(&w, 2000);
    assert_true(w.n[SPEC_LOCKSTEP] > 1400);
}

static void answers_that_take_longer_are_noticed_at_once(void **state) {
    (void)state;
    world w = at_first;
    w.trip_ns = 0.2e6;
    rounds(&w, 2000);
    assert_true(w.n[SPEC_LOCKSTEP] > 1500);
    w.trip_ns = 6e6;
    rounds(&w, 100);
    assert_true(w.n[SPEC_LOCKSTEP] < 15);
    w.trip_ns = 0.2e6; /* by tries only, each 200 times what it is held to lose behind the one before */
    rounds(&w, 8000);
    rounds(&w, 1000);
    assert_true(w.n[SPEC_LOCKSTEP] > 900);
}

/* Rounds with a drafter that is of no use, each second one, have tries of their own, which are cheap. */
static void what_is_dear_to_try_has_its_turn_beside_what_is_cheap(void **state) {
    (void)state;
    world w = at_first;
    uint32_t useless = spec_worth_kind(1, 1), n_tried = 0;
    w.trip_ns = 0.2e6;
    for (int i = 0; i < 4; i++) learn(&w.w, useless, 1, (spec_yield){1, 5e6}, (spec_yield){1, 4e6}, w.now_ns);
    for (int i = 0; i < 12000; i++, w.now_ns += 4000000) {
        rounds(&w, 1);
        if (!spec_worth_asking(&w.w, SPEC_MERGE, useless, w.now_ns)) continue;
        learn(&w.w, useless, 1, (spec_yield){1, 5e6}, (spec_yield){1, 4e6}, w.now_ns);
        n_tried++;
    }
    rounds(&w, 100);
    print_message("%u tries of the useless one; then %.0f of a hundred rounds in lockstep\n", n_tried, w.n[SPEC_LOCKSTEP]);
    assert_true(n_tried > 100 && w.n[SPEC_LOCKSTEP] > 90);
}

/* Rounds of some kinds by turns, whose fusions give so much in that of rounds without. */
static void ask_by_turns(world *w, const uint32_t *kinds, uint32_t n_kinds, const double gains[SPEC_FUSIONS], uint32_t n) {
    static const double waits_ns[SPEC_FUSIONS] = {2e6, 4e6};
    double owed[SPEC_FUSIONS] = {0}; /* drafts to be accepted */
    memset(w->n, 0, sizeof w->n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t try_ns;
        uint32_t kind = kinds[i % n_kinds];
        spec_fusion f = spec_worth_fusion(&w->w, kind, DEPTH, WAIT_NS, &try_ns, w->now_ns);
        double ns = STEP_NS + waits_ns[f];
        bool asks = try_ns || spec_worth_asking(&w->w, f, kind, w->now_ns);
        if (try_ns) spec_worth_try(&w->w, try_ns, w->now_ns);
        w->now_ns += asks ? (uint64_t)ns : PLAIN_NS;
        if (!asks) continue;
        w->n[f]++;
        double n_drafts = gains[f] * ns / PLAIN_NS - 1;
        spec_round r = {.fusion = f,
                        .kind = kind,
                        .n_sequences = 1,
                        .n_trips = trips[f],
                        .tries = try_ns > 0,
                        .several = true,
                        .with = {1 + n_drafts / w->kept[f], ns},
                        .without = {1, PLAIN_NS},
                        .wait_ns = (uint64_t)waits_ns[f]};
        spec_worth_learn(&w->w, &r, w->now_ns);
        owed[f] += n_drafts;
        spec_worth_judge(&w->w, f, (spec_trust){(float)(n_drafts / w->kept[f]), (float)(uint32_t)owed[f]}, (spec_trust){0});
        owed[f] -= (uint32_t)owed[f];
    }
}

/* Tries of lockstep come so often there that they would leave nothing to the probes. */
static void where_neither_fusion_pays_it_is_still_seen_when_one_does(void **state) {
    (void)state;
    const uint32_t kinds[] = {spec_worth_kind(1, 0), spec_worth_kind(1, 1)};
    for (uint32_t n_kinds = 1; n_kinds <= 2; n_kinds++) {
        world w = at_first;
        ask_by_turns(&w, kinds, n_kinds, (double[]){0.99, 0.98}, 20000);
        ask_by_turns(&w, kinds, n_kinds, (double[]){0.99, 0.98}, 20000);
        print_message("%u kinds: %.0f probes of 20000 rounds, %.0f tries\n", n_kinds, w.n[SPEC_MERGE], w.n[SPEC_LOCKSTEP]);
        assert_true(w.n[SPEC_MERGE] > 100 && w.n[SPEC_MERGE] < 1000 && w.n[SPEC_LOCKSTEP] < 4000);
        ask_by_turns(&w, kinds, n_kinds, (double[]){1.3, 0.98}, 1000);
        ask_by_turns(&w, kinds, n_kinds, (double[]){1.3, 0.98}, 1000);
        assert_true(w.n[SPEC_MERGE] > 950);
    }
}

/* By its promises alone it would not be asked for; merge would, which pays, too. */
static void a_fusion_that_keeps_more_than_it_promises_is_asked_for(void **state) {
    (void)state;
    const uint32_t kind = spec_worth_kind(1, 0);
    world w = at_first;
    w.kept[SPEC_LOCKSTEP] = 1.4;
    ask_by_turns(&w, &kind, 1, (double[]){1.03, 1.10}, 4000);
    ask_by_turns(&w, &kind, 1, (double[]){1.03, 1.10}, 4000);
    print_message("%.0f of 4000 rounds merge, %.0f in lockstep\n", w.n[SPEC_MERGE], w.n[SPEC_LOCKSTEP]);
    assert_true(w.n[SPEC_LOCKSTEP] > 3000 && w.n[SPEC_MERGE] + w.n[SPEC_LOCKSTEP] > 3900);
}

/* Nobody may be there to ask. */
static void a_try_is_spent_when_it_begins(void **state) {
    (void)state;
    const uint32_t kind = spec_worth_kind(1, 0);
    world w = at_first;
    w.trip_ns = 0.2e6;
    rounds(&w, 4);
    w.now_ns += 1000000000;
    uint64_t try_ns;
    for (int i = 0; i < 2; i++)
        assert_true(spec_worth_fusion(&w.w, kind, DEPTH, WAIT_NS, &try_ns, w.now_ns) == SPEC_LOCKSTEP && try_ns);
    spec_worth_try(&w.w, try_ns, w.now_ns);
    uint64_t again_ns = w.now_ns + 2 * try_ns;
    assert_true(spec_worth_fusion(&w.w, kind, DEPTH, WAIT_NS, &try_ns, again_ns - 1) == SPEC_MERGE && !try_ns);
    assert_true(spec_worth_fusion(&w.w, kind, DEPTH, WAIT_NS, &try_ns, again_ns) == SPEC_LOCKSTEP && try_ns);
}

static void no_try_is_held_to_cost_more_than_a_round_waits(void **state) {
    (void)state;
    const uint64_t short_ns = 10000000;
    const uint32_t kind = spec_worth_kind(1, 0);
    world w = at_first;
    w.trip_ns = 6e6;
    rounds(&w, 4);
    w.now_ns += 20000000000;
    uint64_t try_ns;
    assert_true(spec_worth_fusion(&w.w, kind, DEPTH, WAIT_NS, &try_ns, w.now_ns) == SPEC_LOCKSTEP && try_ns > 300 * short_ns);
    assert_true(spec_worth_fusion(&w.w, kind, DEPTH, short_ns, &try_ns, w.now_ns) == SPEC_LOCKSTEP);
    assert_true(try_ns >= 200 * short_ns && try_ns < 201 * short_ns);
}

/* As with hedge, which often asks one drafter alone. */
static void rounds_with_one_drafter_are_not_compared(void **state) {
    (void)state;
    world w = at_first;
    double n_merged = 0, n_lockstep = 0;
    w.trip_ns = 0.2e6;
    for (int i = 0; i < 4000; i++) {
        rounds(&w, 1);
        if (i >= 2000) n_merged += w.n[SPEC_MERGE], n_lockstep += w.n[SPEC_LOCKSTEP];
        learn(&w.w, spec_worth_kind(1, 0), 1, (spec_yield){6, STEP_NS + 1e6}, (spec_yield){1, PLAIN_NS}, w.now_ns);
    }
    print_message("%.0f of 2000 rounds merge\n", n_merged);
    assert_true(n_lockstep > 1800 && n_merged > 10); /* tried beside the others */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_kind_is_held_to_be_as_the_nearest_known),
        cmocka_unit_test(kinds_that_do_not_pay_share_their_probes),
        cmocka_unit_test(waiting_that_does_not_pay_is_given_up_and_tried_now_and_then),
        cmocka_unit_test(a_first_bad_round_does_not_decide),
        cmocka_unit_test(what_would_have_come_without_is_held_to_its_promises_too),
        cmocka_unit_test(the_fusion_that_gives_more_is_taken_and_the_other_tried_for_a_quarter_of_a_hundredth),
        cmocka_unit_test(what_is_not_known_is_tried_as_seldom_as_its_worst_allows),
        cmocka_unit_test(a_fusion_is_held_to_what_it_has_kept),
        cmocka_unit_test(what_is_dear_to_try_has_its_turn_beside_what_is_cheap),
        cmocka_unit_test(answers_that_take_longer_are_noticed_at_once),
        cmocka_unit_test(where_neither_fusion_pays_it_is_still_seen_when_one_does),
        cmocka_unit_test(a_fusion_that_keeps_more_than_it_promises_is_asked_for),
        cmocka_unit_test(a_try_is_spent_when_it_begins),
        cmocka_unit_test(rounds_with_one_drafter_are_not_compared),
        cmocka_unit_test(no_try_is_held_to_cost_more_than_a_round_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
