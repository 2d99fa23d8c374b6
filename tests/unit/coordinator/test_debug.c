/* Faults on purpose, as ranks and clients see them: only where the cluster was started for it; every rank that is meant is told,
 * and every one answers, is lost or late, and is named. */
#include "tests/unit/coordinator/house.h"

#include "base/fault.h"
#include <stdio.h>
#include <string.h>

enum { PATIENT = 10000 };

static house *begin(uint32_t n_members, uint32_t dead_after_ms) {
    house *h = house_start_debug(&(house_options){n_members, dead_after_ms, PATIENT, GIVE_UP_MS, 1});
    for (uint32_t i = 0; i < n_members; i++) member_become_ready(&h->members[i]);
    return h;
}

static const proto_faults_request everywhere = {.set = true, .plan = "move.cut=3,seed=1"};

/* The coordinator is in this process: its own points are these. */
static void end(house *h) {
    house_stop(h);
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static const proto_faults_reply *told_of(const house *h, uint32_t rank) {
    for (uint32_t i = 0; i < h->n_told; i++)
        if (h->told[i].rank == rank) return &h->told[i];
    fail_msg("rank %u was not told of", rank);
    return NULL;
}

static void assert_ended(house *h, st_code code, const char *part) {
    UNTIL(h, h->faults.done);
    if (h->faults.status != st_grpc(code) || !strstr(h->faults.message, part))
        fail_msg("%d: %s", h->faults.status, h->faults.message);
}

static void a_cluster_that_was_not_started_for_it_refuses(void **state) {
    (void)state;
    house *h = house_start(&(house_options){1, PATIENT, PATIENT, GIVE_UP_MS, 1});
    member *m = &h->members[VERIFIER];
    member_become_ready(m);
    house_faults(h, &everywhere);
    assert_ended(h, ST_ERR_MISMATCH, "debug: on");
    house_faults(h, &(proto_faults_request){0});
    assert_ended(h, ST_ERR_MISMATCH, "debug: on");
    house_forget(h);
    UNTIL(h, h->forget.done);
    assert_int_equal(h->forget.status, st_grpc(ST_ERR_MISMATCH));
    assert_true(h->n_told == 0 && m->n_faults == 0 && fault_get(FAULT_MOVE_CUT).one_in == 0);
    end(h);
}

static void every_rank_is_told_and_tells(void **state) {
    (void)state;
    house *h = begin(3, PATIENT);
    member *a = &h->members[VERIFIER], *b = &h->members[SECOND], *d = &h->members[DRAFTER];
    house_faults(h, &everywhere);
    UNTIL(h, a->n_faults == 1 && b->n_faults == 1 && d->n_faults == 1);
    assert_true(a->faults.set && b->faults.id == a->faults.id);
    assert_string_equal(b->faults.plan, "move.cut=3,seed=1");
    member_say_faults(b, ST_OK, "");
    UNTIL(h, h->n_told == 2); /* the coordinator's came first */
    member_say_faults(a, ST_OK, "");
    member_say_faults(b, ST_OK, ""); /* twice: once counts */
    assert_true(house_is_ready(h) && !h->faults.done);
    member_say_faults(d, ST_OK, "");
    assert_ended(h, ST_OK, "");
    assert_int_equal(h->n_told, 4);
    assert_string_equal(h->told[0].group, "coordinator");
    assert_int_equal(h->told[0].said.n_points, FAULT_N_POINTS);
    assert_int_equal(h->told[0].said.points[FAULT_MOVE_CUT].one_in, 3);
    const proto_faults_reply *r = told_of(h, b->info.rank);
    assert_string_equal(r->group, "h");
    assert_string_equal(r->said.points[0].name, "a.point");
    assert_string_equal(r->said.points[0].help, "what it does");
    assert_true(r->said.n_points == 2 && r->said.points[0].one_in == 3 && r->said.points[0].passes == 30 &&
                r->said.points[0].hits == 10);
    house_faults(h, &(proto_faults_request){0}); /* only the question */
    UNTIL(h, a->n_faults == 2);
    assert_true(!a->faults.set && !a->faults.plan[0]);
    end(h);
}

static void who_is_meant_is_told_and_nobody_else(void **state) {
    (void)state;
    house *h = begin(3, PATIENT);
    member *a = &h->members[VERIFIER], *b = &h->members[SECOND], *d = &h->members[DRAFTER];
    proto_faults_request q = everywhere;
    snprintf(q.group, sizeof q.group, "h");
    house_faults(h, &q);
    UNTIL(h, b->n_faults == 1);
    member_say_faults(b, ST_OK, "");
    assert_ended(h, ST_OK, "");
    q = (proto_faults_request){.set = true, .has_rank = true, .rank = a->info.rank};
    house_faults(h, &q);
    UNTIL(h, a->n_faults == 1);
    member_say_faults(a, ST_OK, "");
    assert_ended(h, ST_OK, "");
    assert_true(h->n_told == 1 && h->told[0].rank == a->info.rank && d->n_faults == 0 && b->n_faults == 1);
    assert_int_equal(fault_get(FAULT_MOVE_CUT).one_in, 0); /* nor the coordinator */
    q.rank = 4;
    house_faults(h, &q);
    assert_ended(h, ST_ERR_INVALID_ARGUMENT, "rank: 4; this cluster has 0 (the coordinator) to 3");
    q = (proto_faults_request){.group = "nobody"};
    house_faults(h, &q);
    assert_ended(h, ST_ERR_INVALID_ARGUMENT, "group: there is no 'nobody'");
    end(h);
}

static void a_plan_that_makes_no_sense_is_refused_by_who_was_told(void **state) {
    (void)state;
    house *h = begin(1, PATIENT);
    member *m = &h->members[VERIFIER];
    proto_faults_request q = {.set = true, .plan = "no.point=1"};
    house_faults(h, &q);
    UNTIL(h, m->n_faults == 1);
    member_say_faults(m, ST_ERR_INVALID_ARGUMENT, "there is no fault point 'no.point'");
    assert_ended(h, ST_ERR_INVALID_ARGUMENT, "rank 0 (coordinator): there is no fault point 'no.point'");
    q = (proto_faults_request){.set = true, .plan = "no.point=1", .has_rank = true, .rank = 1};
    house_faults(h, &q);
    UNTIL(h, m->n_faults == 2);
    member_say_faults(m, ST_ERR_INVALID_ARGUMENT, "there is no fault point 'no.point'");
    assert_ended(h, ST_ERR_INVALID_ARGUMENT, "rank 1 (g): there is no fault point 'no.point'");
    end(h);
}

static void a_rank_that_is_lost_is_named(void **state) {
    (void)state;
    house *h = begin(3, PATIENT);
    member *a = &h->members[VERIFIER], *b = &h->members[SECOND], *d = &h->members[DRAFTER];
    house_faults(h, &everywhere);
    UNTIL(h, a->n_faults == 1 && b->n_faults == 1 && d->n_faults == 1);
    member_say_faults(a, ST_OK, "");
    member_say_faults(d, ST_OK, "");
    member_say_abort(b, "no memory left");
    assert_ended(h, ST_ERR_UNAVAILABLE, "(h): no memory left");
    assert_int_equal(h->n_told, 4);
    assert_string_equal(told_of(h, b->info.rank)->said.message, "no memory left");
    house_faults(h, &everywhere); /* it was lost before: told, and no failure */
    UNTIL(h, a->n_faults == 2 && d->n_faults == 2);
    member_say_faults(a, ST_OK, "");
    member_say_faults(d, ST_OK, "");
    assert_ended(h, ST_OK, "");
    assert_string_equal(told_of(h, b->info.rank)->said.message, "no memory left");
    proto_faults_request q = everywhere; /* unless it was meant */
    snprintf(q.group, sizeof q.group, "h");
    house_faults(h, &q);
    assert_ended(h, ST_ERR_UNAVAILABLE, "(h): no memory left");
    end(h);
}

static void a_rank_that_lives_and_does_not_answer_is_named(void **state) {
    (void)state;
    house *h = begin(1, 400);
    member *m = &h->members[VERIFIER];
    house_faults(h, &everywhere);
    assert_ended(h, ST_ERR_DEADLINE, "rank 1 (g): no answer within ");
    member_say_faults(m, ST_OK, ""); /* too late */
    proto_faults_order old = m->faults;
    house_faults(h, &everywhere);
    UNTIL(h, m->n_faults == 2);
    proto_faults_order now = m->faults;
    m->faults = old;
    member_say_faults(m, ST_ERR_IO, "of the call before");
    m->faults = now;
    member_say_faults(m, ST_OK, "");
    assert_ended(h, ST_OK, "");
    assert_true(house_is_ready(h) && m->link);
    end(h);
}

static void a_rank_that_is_lost_by_silence_is_not_only_late(void **state) {
    (void)state;
    house *h = begin(1, 400);
    member *m = &h->members[VERIFIER];
    house_faults(h, &everywhere);
    m->silent = true;
    assert_ended(h, ST_ERR_UNAVAILABLE, "rank 1 (g): no sign of life");
    end(h);
}

static void a_rank_that_leaves_as_it_was_told_to_is_named(void **state) {
    (void)state;
    house *h = begin(1, PATIENT);
    house_faults(h, &everywhere);
    UNTIL(h, h->members[VERIFIER].n_faults == 1);
    house_ask_stop(h);
    assert_ended(h, ST_ERR_UNAVAILABLE, "rank 1 (g): it has left");
    end(h);
}

static void one_call_at_a_time_and_one_that_left_holds_up_nobody(void **state) {
    (void)state;
    house *h = begin(1, PATIENT);
    member *m = &h->members[VERIFIER];
    house_faults(h, &everywhere);
    UNTIL(h, m->n_faults == 1);
    void *first = h->faulting;
    house_faults(h, &everywhere);
    assert_ended(h, ST_ERR_RESOURCE_EXHAUSTED, "try again");
    h->faults.done = false;
    net_grpc_cancel(h->client, first);
    UNTIL(h, h->faults.done);
    do { /* the coordinator hears of it when it does */
        house_faults(h, &everywhere);
        UNTIL(h, h->faults.done || m->n_faults == 2);
    } while (h->faults.done);
    member_say_faults(m, ST_OK, "");
    assert_ended(h, ST_OK, "");
    end(h);
}

static void who_answers_nonsense_is_lost(void **state) {
    (void)state;
    house *h = begin(1, PATIENT);
    member *m = &h->members[VERIFIER];
    house_faults(h, &everywhere);
    UNTIL(h, m->n_faults == 1);
    member_send(m, PROTO_MSG_FAULTS_TOLD, "?", 1);
    assert_ended(h, ST_ERR_UNAVAILABLE, "rank 1 (g): ");
    assert_int_equal(m->n_aborts, 1);
    end(h);
}

static void nothing_is_kept_once_it_is_to_be_forgotten(void **state) {
    (void)state;
    house *h = begin(1, PATIENT);
    member *m = &h->members[VERIFIER];
    m->answers = true;
    house_is_served(h, 50);
    assert_int_equal(m->plan.start, 51); /* of the last plan: a block is full */
    house_forget(h);
    UNTIL(h, h->forget.done);
    assert_int_equal(h->forget.status, 0);
    assert_true(h->blocks.forgotten == 1 && h->blocks.kept == 0 && h->blocks.used == 0 && h->blocks.reserved == 0);
    assert_int_equal(h->blocks.total, 8);
    house_forget(h);
    UNTIL(h, h->forget.done);
    assert_int_equal(h->blocks.forgotten, 0);
    end(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cluster_that_was_not_started_for_it_refuses),
        cmocka_unit_test(every_rank_is_told_and_tells),
        cmocka_unit_test(who_is_meant_is_told_and_nobody_else),
        cmocka_unit_test(a_plan_that_makes_no_sense_is_refused_by_who_was_told),
        cmocka_unit_test(a_rank_that_is_lost_is_named),
        cmocka_unit_test(a_rank_that_lives_and_does_not_answer_is_named),
        cmocka_unit_test(a_rank_that_is_lost_by_silence_is_not_only_late),
        cmocka_unit_test(a_rank_that_leaves_as_it_was_told_to_is_named),
        cmocka_unit_test(one_call_at_a_time_and_one_that_left_holds_up_nobody),
        cmocka_unit_test(who_answers_nonsense_is_lost),
        cmocka_unit_test(nothing_is_kept_once_it_is_to_be_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
