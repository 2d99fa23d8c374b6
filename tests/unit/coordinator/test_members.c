/* The coordinator against its members: what a broken or hostile member does costs its link, a verifier's also the requests, never
 * the coordinator. */
#include "tests/unit/coordinator/house.h"

#include <stdio.h>
#include <string.h>

enum { PATIENT = 10000, HASTY = 100 }; /* dead_after_ms */

static house *start(uint32_t dead_after_ms, uint32_t drain_timeout_ms) {
    return house_start(&(house_options){1, dead_after_ms, drain_timeout_ms, GIVE_UP_MS, 1});
}

static house *start_two(uint32_t join_timeout_ms, uint32_t draft_wait_ms) {
    return house_start(&(house_options){2, PATIENT, PATIENT, join_timeout_ms, draft_wait_ms});
}

/* ---- the verifier ---- */

static void a_request_is_served_and_a_clean_stop_loses_nobody(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    assert_true(house_is_ready(h));
    house_ask(h, 2);
    UNTIL(h, v->n_plans == 1);
    member_say_result(v, v->plan.id, 1);
    UNTIL(h, v->n_plans == 2);
    member_say_result(v, v->plan.id, 1);
    house_ends_well(h, 2);
    assert_false(house_stop(h));
}

static void a_link_that_never_registers_is_closed(void **state) {
    (void)state;
    house *h = start(HASTY, PATIENT);
    member *v = &h->members[VERIFIER];
    v->silent = true;
    member_join(v);
    UNTIL(h, !v->link);
    assert_non_null(strstr(v->said, "no REGISTER came"));
    house_stop(h);
}

static void a_silent_rank_is_lost(void **state) {
    (void)state;
    house *h = start(HASTY, PATIENT);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    v->silent = true;
    UNTIL(h, !v->link);
    assert_non_null(strstr(v->said, "no sign of life"));
    assert_false(house_is_ready(h));
    assert_true(house_stop(h));
}

static void a_goodbye_that_nobody_asked_for_ends_the_requests(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    house_ask(h, 8);
    UNTIL(h, v->n_plans == 1);
    member_send(v, PROTO_MSG_GOODBYE, NULL, 0);
    UNTIL(h, h->request.done && !v->link);
    assert_int_equal(h->request.status, st_grpc(ST_ERR_UNAVAILABLE));
    assert_false(house_is_ready(h));
    house_ask(h, 8); /* nobody is there to send it to */
    UNTIL(h, h->request.done);
    assert_int_equal(h->request.status, st_grpc(ST_ERR_UNAVAILABLE));
    house_stop(h);
}

static void an_abort_closes_the_link_and_the_rank_may_come_back(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    uint32_t first_epoch = v->group_epoch;
    house_ask(h, 1);
    UNTIL(h, v->n_plans == 1);
    member_say_abort(v, "no memory left");
    UNTIL(h, h->request.done && !v->link);
    assert_non_null(strstr(h->request.message, "no memory left"));

    member_become_ready(v);
    assert_true(v->group_epoch > first_epoch);
    house_ask(h, 1);
    UNTIL(h, v->n_plans == 2);
    uint32_t epoch = v->group_epoch;
    v->group_epoch = first_epoch;
    member_say_result(v, v->plan.id, 1); /* of the life before: dropped */
    v->group_epoch = epoch;
    assert_true(house_is_ready(h) && v->link && h->n_tokens == 0);
    member_say_result(v, v->plan.id, 1);
    house_ends_well(h, 1);
    house_stop(h);
}

static void what_does_not_belong_on_a_link_closes_it(void **state) {
    (void)state;
    enum { LOADING, READY, LATER_EPOCH };
    static const struct {
        int when;
        uint16_t type;
        bool empty; /* otherwise bytes that are no message */
    } cases[] = {
        {LOADING, PROTO_MSG_REGISTER, false},  {LOADING, PROTO_MSG_READY, false},
        {LOADING, PROTO_MSG_HEARTBEAT, false}, {LOADING, PROTO_MSG_RESULT, true},
        {LOADING, PROTO_MSG_PLAN, false},      {LOADING, PROTO_MSG_STOP, true},
        {LOADING, PROTO_MSG_ABORT, false},     {LOADING, 4711, true},
        {READY, PROTO_MSG_READY, true},        {READY, PROTO_MSG_RESULT, false},
        {READY, PROTO_MSG_WELCOME, true},      {LATER_EPOCH, PROTO_MSG_RESULT, true},
        {LOADING, PROTO_MSG_EARLY, true},      {LATER_EPOCH, PROTO_MSG_EARLY, true},
    };
    house *h = start(PATIENT, PATIENT);
    member *v = &h->members[VERIFIER];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].when == LOADING)
            member_join_and_load(v);
        else
            member_become_ready(v);
        v->group_epoch += cases[i].when == LATER_EPOCH;
        member_send(v, cases[i].type, "\xff\xff\xff", cases[i].empty ? 0 : 3);
        UNTIL(h, !v->link);
        assert_false(house_is_ready(h));
    }
    member_become_ready(v);
    house_stop(h);
}

static void results_that_answer_something_else_end_the_request_or_are_dropped(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    house_ask(h, 8);
    UNTIL(h, v->n_plans == 1);
    member_say_result(v, v->plan.id + 9, 1); /* dropped */
    v->plan.seq.value += 1;
    member_say_result(v, v->plan.id, 1);
    UNTIL(h, h->request.done);
    assert_int_equal(h->request.status, st_grpc(ST_FATAL_PROTOCOL));
    house_stop(h);
}

static void a_plan_that_is_never_answered_does_not_hold_up_the_end(void **state) {
    (void)state;
    house *h = start(1000, 20);
    member *v = &h->members[VERIFIER];
    member_become_ready(v);
    house_ask(h, 8);
    UNTIL(h, v->n_plans == 1);
    house_stop(h); /* its member beats on, and says nothing */
}

/* ---- two verifiers ---- */

/* None of them has come yet; nobody waits for the drafter, but it follows. */
static house *start_three(uint32_t join_timeout_ms, uint32_t drain_timeout_ms) {
    house *h = house_start(&(house_options){3, 1000, drain_timeout_ms, join_timeout_ms, 1});
    member_become_ready(&h->members[DRAFTER]);
    h->members[DRAFTER].answers = true;
    return h;
}

static void the_cluster_is_ready_when_both_verifiers_are(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(v);
    assert_false(house_is_ready(h));
    assert_string_equal(h->reason, "rank 1 has not joined yet");
    member_become_ready(second);
    assert_true(house_is_ready(h));
    net_link_close(v->link, "it is gone");
    UNTIL(h, !member_is_up(v));
    assert_true(house_is_ready(h));
    net_link_close(second->link, "it is gone, too");
    UNTIL(h, !member_is_up(second));
    assert_false(house_is_ready(h));
    assert_non_null(strstr(h->reason, "rank 1 is lost"));
    house_stop(h);
}

static void the_cluster_does_not_wait_for_a_verifier_that_is_lost_or_late_if_it_has_another(bool lost) {
    house *h = start_three(lost ? GIVE_UP_MS : 1, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_join_and_load(second);
    if (lost) net_link_close(second->link, "it has no model");
    UNTIL(h, !lost || !second->link);
    assert_false(house_is_ready(h));
    member_become_ready(v);
    UNTIL(h, house_is_ready(h));
    v->answers = true;
    house_is_served(h, 4);
    assert_int_equal(second->n_plans, 0);
    house_stop(h);
}

static void the_cluster_does_not_wait_for_a_verifier_that_is_lost_if_it_has_another(void **state) {
    (void)state;
    the_cluster_does_not_wait_for_a_verifier_that_is_lost_or_late_if_it_has_another(true);
}

static void the_cluster_does_not_wait_for_a_verifier_that_is_late_if_it_has_another(void **state) {
    (void)state;
    the_cluster_does_not_wait_for_a_verifier_that_is_lost_or_late_if_it_has_another(false);
}

static void a_drained_verifier_gives_its_requests_away_until_that_is_undone(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(second);
    house_drain(&h->drain, &(proto_drain){.group = "h"});
    UNTIL(h, h->drain.done); /* nobody else is up */
    assert_int_equal(h->drain.status, st_grpc(ST_ERR_UNAVAILABLE));
    house_drain(&h->drain, &(proto_drain){.group = "d"});
    UNTIL(h, h->drain.done);
    assert_int_equal(h->drain.status, st_grpc(ST_ERR_INVALID_ARGUMENT));
    assert_string_equal(h->drain.message, "group: there is no verifier 'd'; there are: h, g");

    member_become_ready(v);
    house_ask(h, 8);
    UNTIL(h, second->n_plans == 1);
    house_drain(&h->drain, &(proto_drain){.group = "h", .wait = true});
    UNTIL(h, member_is_drained(second));
    assert_false(h->drain.done); /* its plan is not answered yet */
    member_say_result(second, second->plan.id, 1);
    UNTIL(h, h->drain.done && v->n_plans == 1);
    assert_int_equal(h->drain.status, 0);
    assert_int_equal(v->plan.n_answered, 1);
    v->answers = true;
    member_say_result(v, v->plan.id, 1);
    house_ends_well(h, 8);
    house_is_served(h, 4);
    assert_int_equal(second->n_plans, 1);

    house_drain(&h->undo, &(proto_drain){.group = "h", .undo = true});
    UNTIL(h, h->undo.done);
    assert_int_equal(h->undo.status, 0);
    assert_false(member_is_drained(second));
    second->answers = true;
    house_is_served(h, 4);
    assert_true(second->n_plans > 1);
    house_stop(h);
}

static void a_call_that_waits_for_a_drain_hears_of_its_end(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(second);
    member_become_ready(v);
    house_ask(h, 8);
    UNTIL(h, second->n_plans == 1);
    house_drain(&h->drain, &(proto_drain){.group = "h", .wait = true});
    UNTIL(h, member_is_drained(second));
    house_drain(&h->undo, &(proto_drain){.group = "h", .undo = true});
    UNTIL(h, h->undo.done && h->drain.done);
    assert_int_equal(h->undo.status, 0);
    assert_int_equal(h->drain.status, st_grpc(ST_ERR_UNAVAILABLE));
    assert_string_equal(h->drain.message, "another call has put the verifier back into service");
    second->answers = true;
    member_say_result(second, second->plan.id, 1);
    house_ends_well(h, 8);
    house_stop(h);
}

static void a_request_goes_on_in_the_other_verifier_and_the_lost_one_may_come_back(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(v);
    member_become_ready(second);
    house_ask(h, 8);
    UNTIL(h, second->n_plans == 1); /* of as many, the first group */
    member_say_result(second, second->plan.id, 1);
    UNTIL(h, second->n_plans == 2 && h->n_tokens == 1);
    uint32_t n_chosen = 1 + 1 + second->plan.n_nodes;
    member_say_result(second, second->plan.id, 1);
    UNTIL(h, second->n_plans == 3 && h->n_tokens == n_chosen);
    assert_int_equal(v->n_plans, 0);
    net_link_close(second->link, "it is gone");
    UNTIL(h, v->n_plans == 1);
    assert_int_equal(v->plan.n_answered, n_chosen);
    v->answers = true;
    member_say_result(v, v->plan.id, 1);
    house_ends_well(h, 8);
    assert_true(house_is_ready(h) && v->n_aborts == 0);

    member_become_ready(second);
    second->answers = true;
    uint32_t n_plans = v->n_plans;
    house_is_served(h, 4);
    assert_true(v->n_plans == n_plans && second->n_plans > 3);
    assert_false(house_stop(h)); /* it is back */
}

static void a_verifier_that_never_answers_does_not_hold_up_the_end(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, 20);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(v);
    member_become_ready(second);
    house_ask(h, 8);
    UNTIL(h, second->n_plans == 1);
    assert_true(house_stop(h));
}

static void a_verifier_with_less_kv_cache_than_its_group_should_have_is_refused(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *v = &h->members[VERIFIER], *second = &h->members[SECOND];
    member_become_ready(v);
    second->info.kv_blocks--;
    member_join_and_load(second);
    member_say_register(second, PROTO_MSG_READY);
    UNTIL(h, !second->link);
    assert_non_null(strstr(second->said, "rank 1 (here) holds 7 KV blocks"));
    assert_true(house_is_ready(h));
    house_stop(h);
}

/* ---- the drafter ---- */

/* Two members that are ready; the verifier answers. */
static house *start_drafting(uint32_t draft_wait_ms) {
    house *h = start_two(GIVE_UP_MS, draft_wait_ms);
    member_become_ready(&h->members[VERIFIER]);
    member_become_ready(&h->members[DRAFTER]);
    assert_true(house_is_ready(h));
    h->members[VERIFIER].answers = true;
    return h;
}

static void the_cluster_is_ready_when_its_drafter_is(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    member_become_ready(v);
    assert_false(house_is_ready(h));
    assert_string_equal(h->reason, "rank 1 has not joined yet");
    member_join_and_load(d);
    assert_false(house_is_ready(h));
    assert_non_null(strstr(h->reason, "rank 1 is loading"));
    member_say_register(d, PROTO_MSG_READY);
    UNTIL(h, house_is_ready(h));
    assert_true(member_is_up(d));
    house_stop(h);
}

static void the_cluster_does_not_wait_for_a_drafter_that_is_lost_while_it_loads(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    member_join_and_load(d);
    net_link_close(d->link, "it has no table");
    UNTIL(h, !d->link);
    member_become_ready(v);
    UNTIL(h, house_is_ready(h));
    v->answers = true;
    house_is_served(h, 4);
    assert_int_equal(d->n_plans, 0);
    house_stop(h);
}

static void the_cluster_does_not_wait_for_ever(bool joins) {
    house *h = start_two(1, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    if (joins) member_join_and_load(d);
    member_become_ready(v);
    UNTIL(h, house_is_ready(h));
    v->answers = true;
    house_is_served(h, 4);
    house_stop(h);
}

static void the_cluster_does_not_wait_for_ever_for_a_drafter_that_does_not_join(void **state) {
    (void)state;
    the_cluster_does_not_wait_for_ever(false);
}

static void the_cluster_does_not_wait_for_ever_for_a_drafter_that_loads_for_ever(void **state) {
    (void)state;
    the_cluster_does_not_wait_for_ever(true);
}

static void a_drafter_for_hidden_states_of_another_size_is_refused(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    member_become_ready(v);
    d->info.wants_hidden = true;
    d->info.dim = 96;
    member_join_and_load(d);
    member_say_register(d, PROTO_MSG_READY);
    UNTIL(h, !d->link);
    assert_int_equal(d->n_aborts, 1);
    assert_non_null(strstr(d->said, "rank 1 (d, here) is for hidden states of 96 numbers, those of "));
    assert_true(house_is_ready(h));
    house_stop(h);
}

static void a_drafter_with_another_vocabulary_is_refused_and_requests_are_served_without_it(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    member_become_ready(v);
    d->info.vocabulary_hash[31] ^= 1;
    member_join_and_load(d);
    member_say_register(d, PROTO_MSG_READY);
    UNTIL(h, !d->link);
    assert_int_equal(d->n_aborts, 1);
    assert_non_null(strstr(d->said, "rank 1 (d, here) has another vocabulary"));
    assert_true(house_is_ready(h));
    v->answers = true;
    house_is_served(h, 4);
    assert_int_equal(d->n_plans, 0);
    house_stop(h);
}

static void a_verifier_whose_swap_file_is_not_as_large_as_the_topology_says_is_refused(void **state) {
    (void)state;
    house *h = start_three(GIVE_UP_MS, PATIENT);
    member *second = &h->members[SECOND];
    member_become_ready(&h->members[VERIFIER]);
    second->info.kv_slots++;
    member_join_and_load(second);
    member_say_register(second, PROTO_MSG_READY);
    UNTIL(h, !second->link);
    assert_non_null(strstr(second->said, "rank 1 (here) has a swap file of 1 KV blocks; expected 0"));
    assert_true(house_is_ready(h));
    house_stop(h);
}

static void a_drafter_with_another_kv_cache_than_the_scheduler_counts_is_refused(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *d = &h->members[DRAFTER];
    member_become_ready(&h->members[VERIFIER]);
    d->info.kv_blocks++;
    member_join_and_load(d);
    member_say_register(d, PROTO_MSG_READY);
    UNTIL(h, !d->link);
    assert_int_equal(d->n_aborts, 1);
    assert_non_null(strstr(d->said, "rank 1 (d, here) holds 1 KV blocks; expected 0: do all hosts read the same topology?"));
    assert_true(house_is_ready(h));
    house_stop(h);
}

static void a_verifier_of_another_precision_is_refused(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER];
    memcpy(v->info.precision, "fp32", sizeof "fp32");
    member_join_and_load(v);
    member_say_register(v, PROTO_MSG_READY);
    UNTIL(h, !v->link);
    assert_int_equal(v->n_aborts, 1);
    assert_non_null(strstr(v->said, "precision fp32, the topology says fast"));
    house_stop(h);
}

/* And accepted drafts save steps. */
static void draft_plans_go_to_the_drafter_and_step_plans_to_the_verifier(void **state) {
    (void)state;
    house *h = start_drafting(GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    d->answers = true;
    house_is_served(h, 1 + 2 * (BUDGET + 1)); /* the prompt's step, then two with drafts; on_plan looks at the kinds */
    assert_int_equal(v->n_plans, 3);
    assert_int_equal(v->n_nodes, 2 * BUDGET);
    assert_int_equal(d->n_plans, 3); /* the first brings the prompt */
    UNTIL(h, v->n_closed == 1 && d->n_closed == 1);
    assert_false(house_stop(h));
}

/* Whatever it says, the answer is that of the results; of a drafter there is none. */
static void an_early_result_sends_the_drafter_on_and_changes_nothing_else(void **state) {
    (void)state;
    house *h = start_two(GIVE_UP_MS, GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    member_become_ready(v);
    member_become_ready(d);
    house_ask(h, 4);
    UNTIL(h, v->n_plans == 1 && d->n_plans == 1);
    assert_true(v->plan.early);
    member_say_result(d, d->plan.id, 1);
    member_send(v, PROTO_MSG_EARLY, "\xff\xff\xff", 3); /* nonsense is no more than no early result */
    uint32_t epoch = v->group_epoch--;
    member_say_early(v, v->plan.id); /* of a life before */
    v->group_epoch = epoch;
    member_say_early(v, v->plan.id + 9);
    member_say_early(v, v->plan.id);
    UNTIL(h, d->n_plans == 2);
    assert_int_equal(h->n_tokens, 0);
    member_say_result(v, v->plan.id, 1);
    UNTIL(h, h->n_tokens == 1);
    assert_int_equal(v->n_plans, 1); /* it was right: the draft is waited for */
    member_say_result(d, d->plan.id, 1);
    UNTIL(h, v->n_plans == 2);
    v->answers = true;
    member_say_result(v, v->plan.id, 1);
    house_ends_well(h, 4);
    member_say_early(d, d->plan.id);
    UNTIL(h, !d->link);
    assert_non_null(strstr(d->said, "not from a verifier's leader"));
    house_stop(h);
}

static void a_drafter_that_vanishes_costs_its_link_and_no_request(void **state) {
    (void)state;
    enum { CLOSES, ABORTS, LEAVES, TALKS_NONSENSE, IS_AHEAD, N_WAYS };
    house *h = start_drafting(GIVE_UP_MS); /* so that a request whose drafter is not given up hangs */
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    for (int way = 0; way < N_WAYS; way++) {
        d->n_plans = 0;
        house_ask(h, 6);
        UNTIL(h, d->n_plans == 1);
        member_say_result(d, d->plan.id, 1); /* it has taken in the prompt */
        UNTIL(h, d->n_plans == 2);
        assert_int_equal(d->plan.n_nodes, BUDGET);
        assert_false(h->request.done);
        d->group_epoch += way == IS_AHEAD;
        switch (way) {
        case CLOSES: net_link_close(d->link, "it is gone"); break;
        case ABORTS: member_say_abort(d, "no memory left"); break;
        case LEAVES: member_send(d, PROTO_MSG_GOODBYE, NULL, 0); break;
        case TALKS_NONSENSE: member_send(d, PROTO_MSG_RESULT, "\xff\xff\xff", 3); break;
        default: member_say_result(d, d->plan.id, 1);
        }
        house_ends_well(h, 6);
        UNTIL(h, !d->link);
        assert_true(house_is_ready(h) && member_is_up(v) && !member_is_up(d));
        house_is_served(h, 4);
        assert_int_equal(d->n_plans, 2);
        member_become_ready(d);
    }
    assert_true(v->link && v->n_welcomes == 1 && v->n_aborts == 0 && v->n_nodes == 0);
    house_stop(h);
}

static void a_drafter_that_never_answers_delays_a_request_by_one_wait(void **state) {
    (void)state;
    enum { WAIT_MS = GIVE_UP_MS / 50, N_TOKENS = 60 }; /* with a wait for each token UNTIL would not have the patience */
    house *h = start_drafting(WAIT_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    uint64_t start_ns = net_now_ns();
    house_is_served(h, N_TOKENS);
    assert_true(net_now_ns() - start_ns >= WAIT_MS * UINT64_C(1000000));
    assert_int_equal(v->n_plans, N_TOKENS);
    assert_int_equal(d->n_plans, 1);
    assert_true(d->link && member_is_up(d) && house_is_ready(h)); /* it beats: slow is not lost */
    house_stop(h);
}

static void the_loss_of_the_verifier_does_not_send_the_drafter_away(void **state) {
    (void)state;
    house *h = start_drafting(GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    v->answers = false;
    d->answers = true;
    house_ask(h, 8);
    UNTIL(h, v->n_plans == 1 && d->n_plans == 1);
    net_link_close(v->link, "it is gone");
    UNTIL(h, h->request.done && !v->link);
    assert_int_equal(h->request.status, st_grpc(ST_ERR_UNAVAILABLE));
    assert_false(house_is_ready(h));
    assert_true(d->link && member_is_up(d));
    UNTIL(h, d->n_closed == 1); /* of the request that has ended */

    member_become_ready(v);
    assert_true(house_is_ready(h));
    v->answers = true;
    house_is_served(h, 1 + BUDGET + 1);
    assert_int_equal(v->n_nodes, BUDGET);
    assert_true(d->n_plans > 1 && d->n_welcomes == 1 && d->n_aborts == 0);
    house_stop(h);
}

static void a_drafter_may_join_again_and_is_asked_again(void **state) {
    (void)state;
    house *h = start_drafting(GIVE_UP_MS);
    member *v = &h->members[VERIFIER], *d = &h->members[DRAFTER];
    uint32_t first_epoch = d->group_epoch;
    net_link_close(d->link, "it is gone");
    UNTIL(h, !d->link && !member_is_up(d));
    member_become_ready(d);
    assert_true(d->group_epoch > first_epoch);
    uint32_t epoch = d->group_epoch;
    house_ask(h, 1 + BUDGET + 1);
    UNTIL(h, d->n_plans == 1);
    d->group_epoch = first_epoch;
    d->plan.seq.value += 1;
    member_say_result(d, d->plan.id, 1); /* of the life before: dropped, or it would be the end of its part in this request */
    d->group_epoch = epoch;
    d->plan.seq.value -= 1;
    d->answers = true;
    member_say_result(d, d->plan.id, 1);
    house_ends_well(h, 1 + BUDGET + 1);
    assert_int_equal(v->n_nodes, BUDGET);
    assert_int_equal(v->n_welcomes, 1);
    house_stop(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_served_and_a_clean_stop_loses_nobody),
        cmocka_unit_test(a_link_that_never_registers_is_closed),
        cmocka_unit_test(a_silent_rank_is_lost),
        cmocka_unit_test(a_goodbye_that_nobody_asked_for_ends_the_requests),
        cmocka_unit_test(an_abort_closes_the_link_and_the_rank_may_come_back),
        cmocka_unit_test(what_does_not_belong_on_a_link_closes_it),
        cmocka_unit_test(results_that_answer_something_else_end_the_request_or_are_dropped),
        cmocka_unit_test(a_plan_that_is_never_answered_does_not_hold_up_the_end),
        cmocka_unit_test(the_cluster_is_ready_when_both_verifiers_are),
        cmocka_unit_test(the_cluster_does_not_wait_for_a_verifier_that_is_lost_if_it_has_another),
        cmocka_unit_test(the_cluster_does_not_wait_for_a_verifier_that_is_late_if_it_has_another),
        cmocka_unit_test(a_drained_verifier_gives_its_requests_away_until_that_is_undone),
        cmocka_unit_test(a_call_that_waits_for_a_drain_hears_of_its_end),
        cmocka_unit_test(a_request_goes_on_in_the_other_verifier_and_the_lost_one_may_come_back),
        cmocka_unit_test(a_verifier_that_never_answers_does_not_hold_up_the_end),
        cmocka_unit_test(a_verifier_with_less_kv_cache_than_its_group_should_have_is_refused),
        cmocka_unit_test(a_verifier_whose_swap_file_is_not_as_large_as_the_topology_says_is_refused),
        cmocka_unit_test(the_cluster_is_ready_when_its_drafter_is),
        cmocka_unit_test(the_cluster_does_not_wait_for_a_drafter_that_is_lost_while_it_loads),
        cmocka_unit_test(the_cluster_does_not_wait_for_ever_for_a_drafter_that_does_not_join),
        cmocka_unit_test(the_cluster_does_not_wait_for_ever_for_a_drafter_that_loads_for_ever),
        cmocka_unit_test(a_verifier_of_another_precision_is_refused),
        cmocka_unit_test(a_drafter_for_hidden_states_of_another_size_is_refused),
        cmocka_unit_test(a_drafter_with_another_vocabulary_is_refused_and_requests_are_served_without_it),
        cmocka_unit_test(a_drafter_with_another_kv_cache_than_the_scheduler_counts_is_refused),
        cmocka_unit_test(draft_plans_go_to_the_drafter_and_step_plans_to_the_verifier),
        cmocka_unit_test(an_early_result_sends_the_drafter_on_and_changes_nothing_else),
        cmocka_unit_test(a_drafter_that_vanishes_costs_its_link_and_no_request),
        cmocka_unit_test(a_drafter_that_never_answers_delays_a_request_by_one_wait),
        cmocka_unit_test(the_loss_of_the_verifier_does_not_send_the_drafter_away),
        cmocka_unit_test(a_drafter_may_join_again_and_is_asked_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
