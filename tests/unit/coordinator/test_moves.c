/* Moves, as the ranks see them that carry them out: who is told what, who has to answer, and what becomes of it when one does not
 * do its part. */
#include "tests/unit/coordinator/house.h"

#include <stdio.h>
#include <string.h>

enum { PATIENT = 10000 };

static house *start(uint32_t n_members) {
    house *h = house_start(&(house_options){n_members, PATIENT, PATIENT, GIVE_UP_MS, 1});
    for (uint32_t i = 0; i < n_members; i++) member_become_ready(&h->members[i]);
    return h;
}

/* The source is the group that comes first: SECOND. */
static void both_are_told(house *h, uint32_t n_moves) {
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    UNTIL(h, (source->n_moves == n_moves && target->n_moves == n_moves) || h->measure.done);
    if (h->measure.done) fail_msg("%s", h->measure.message);
}

static void one_verifier_of_one_rank_cannot_be_measured(void **state) {
    (void)state;
    house *h = start(1);
    house_measure(h, 0);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_MISMATCH));
    assert_non_null(strstr(h->measure.message, "two groups of role verifier"));
    assert_false(house_stop(h));
}

static void two_ranks_are_told_the_same_and_each_its_part(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, 0);
    both_are_told(h, 1);
    assert_true(source->move.id == target->move.id && source->move.id >> 63);
    assert_true(target->move.target && !source->move.target);
    assert_memory_equal(source->move.key, target->move.key, PROTO_KEY_BYTES);
    assert_memory_equal(&source->move.scratch, &target->move.scratch, sizeof source->move.scratch);
    assert_string_equal(source->move.way, "shm");
    assert_string_equal(source->move.peer, "g:1");
    assert_string_equal(target->move.peer, "h:1");
    uint8_t key[PROTO_KEY_BYTES];
    uint64_t id = source->move.id;
    memcpy(key, source->move.key, sizeof key);
    member_say_moved(source, ST_OK, "", 1, 1);
    member_say_moved(target, ST_OK, "", 1, 1);
    both_are_told(h, 2);
    assert_true(source->move.id != id && memcmp(source->move.key, key, sizeof key) != 0);
    assert_false(house_stop(h));
}

/* Raw ones take 10 ns a byte, the others 20; the odd ones out do not count. */
static void a_figure_is_the_median_of_what_the_target_says(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    uint32_t n_raw = 0, most = 0;
    house_measure(h, 0);
    for (uint32_t n = 1; n <= 60; n++) { /* 2 ways, 3 sizes, 5 rounds of 2 */
        both_are_told(h, n);
        bool raw = source->move.scratch.raw, odd = n % 10 == 3;
        uint32_t bytes = source->move.scratch.piece_bytes;
        n_raw += raw;
        if (bytes > most) most = bytes;
        assert_string_equal(source->move.way, n <= 30 ? "shm" : "tcp");
        member_say_moved(target, ST_OK, "", 1000, odd ? 1 : raw ? 10000 : 20000);
        member_say_moved(source, ST_OK, "", 1000, 1);
        if (n % 10) continue;
        UNTIL(h, h->n_measured == n / 10);
        assert_true(h->measured.raw_bytes_per_s > 0.99e8 && h->measured.raw_bytes_per_s < 1.01e8);
        assert_true(h->measured.bytes_per_s > 0.49e8 && h->measured.bytes_per_s < 0.51e8);
        assert_string_equal(h->measured.transport, n <= 30 ? "shm" : "tcp");
        assert_int_equal(h->measured.block_bytes, bytes);
        assert_true(h->measured.source == source->info.rank && h->measured.target == target->info.rank);
    }
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, 0);
    assert_int_equal(n_raw, 30);
    assert_int_equal(most, PROTO_MAX_SCRATCH_BYTES);
    assert_false(house_stop(h));
}

/* As many pieces as a prompt has, of the size that the model has; each takes 10 ns a byte. */
static void the_kv_of_a_prompt_is_measured_behind_the_sizes(void **state) {
    (void)state;
    enum { TOKENS = CONTEXT - 1, BYTES = 2 * LAYERS * 2 * PIECE_BYTES }; /* the larger share is the VERIFIER's */
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, TOKENS);
    for (uint32_t n = 1; n <= 80; n++) { /* 2 ways, 3 sizes and the prompt, 5 rounds of 2 */
        both_are_told(h, n);
        bool prompt = (n - 1) / 10 % 4 == 3;
        const proto_scratch *s = &source->move.scratch;
        assert_int_equal(s->raw, n % 2);
        if (prompt) assert_true(s->piece_bytes == 2 * PIECE_BYTES && s->n_pieces == 2 * LAYERS);
        member_say_moved(target, ST_OK, "", 1000, 10000);
        member_say_moved(source, ST_OK, "", 1000, 1);
        if (n % 10) continue;
        UNTIL(h, h->n_measured == n / 10);
        const proto_measurement *v = &h->measured;
        assert_int_equal(v->prompt_tokens, prompt ? TOKENS : 0);
        assert_in_range(v->move_ns, prompt ? 99 * BYTES / 10 : 0, prompt ? 101 * BYTES / 10 : 0);
        assert_int_equal(v->crossover_tokens, prompt ? 32 : 0); /* nothing is learnt yet: move_tokens */
        assert_true(v->move_token_ns == 0 && v->prompt_token_ns == 0);
        assert_string_equal(v->transport, n <= 40 ? "shm" : "tcp");
    }
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, 0);
    house_measure(h, 32 * 65536 / LAYERS);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_INVALID_ARGUMENT));
    assert_non_null(strstr(h->measure.message, "prompt_tokens: 419430 in 5 layers are 65540 pieces; expected at most 65536"));
    h->measure.done = false;
    house_measure(h, TOKENS + 1);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_INVALID_ARGUMENT));
    assert_non_null(strstr(h->measure.message, "prompt_tokens: 64; the two verifiers hold prompts of 63 tokens at most"));
    assert_false(house_stop(h));
}

/* A figure would be made of it. */
static void who_says_that_nothing_came_and_all_is_well_is_not_measured(void **state) {
    (void)state;
    house *h = start(3);
    house_measure(h, 0);
    both_are_told(h, 1);
    member_say_moved(&h->members[SECOND], ST_OK, "", 0, 1);
    member_say_moved(&h->members[VERIFIER], ST_OK, "", 0, 1);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_FATAL_PROTOCOL));
    assert_non_null(strstr(h->measure.message, "nothing"));
    assert_true(house_is_ready(h) && h->n_measured == 0);
    assert_false(house_stop(h));
}

static void a_way_that_does_not_lead_there_is_passed_over(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, 0);
    both_are_told(h, 1);
    member_say_moved(source, ST_ERR_UNSUPPORTED, "not this way", 0, 1);
    UNTIL(h, target->n_cancels == 1); /* it need not wait for who never calls */
    member_say_moved(target, ST_ERR_CANCELLED, "", 0, 1);
    both_are_told(h, 2);
    assert_string_equal(source->move.way, "tcp");
    member_say_moved(target, ST_ERR_UNSUPPORTED, "nor this", 0, 1);
    UNTIL(h, source->n_cancels == 1);
    member_say_moved(source, ST_ERR_CANCELLED, "", 0, 1);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_UNSUPPORTED));
    assert_non_null(strstr(h->measure.message, "no transport that both ranks have"));
    assert_false(house_stop(h));
}

static void what_fails_at_one_is_cancelled_at_the_other_and_over_when_that_has_answered(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, 0);
    both_are_told(h, 1);
    member_say_moved(target, ST_ERR_DEADLINE, "no word of it", 0, 1);
    UNTIL(h, source->n_cancels == 1);
    assert_true(house_is_ready(h) && !h->measure.done);
    member_say_moved(source, ST_ERR_CANCELLED, "", 0, 1);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_DEADLINE));
    assert_string_equal(h->measure.message, "no word of it");
    member_say_moved(source, ST_OK, "", 0, 1); /* again, and of nothing */
    source->move.id = 4711;
    member_say_moved(source, ST_OK, "", 0, 1);
    assert_true(house_is_ready(h) && source->link);
    assert_false(house_stop(h));
}

/* The target has all it wants: what its peer missed of that is of no matter. */
static void the_targets_word_counts(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, 0);
    both_are_told(h, 1);
    member_say_moved(target, ST_OK, "", 1, 1);
    member_say_moved(source, ST_ERR_DEADLINE, "no word of the peer", 0, 1);
    both_are_told(h, 2);
    assert_false(house_stop(h));
}

static void a_lost_rank_has_answered(void **state) {
    (void)state;
    for (int who = 0; who < 2; who++) {
        house *h = start(3);
        member *lost = &h->members[who ? SECOND : VERIFIER], *other = &h->members[who ? VERIFIER : SECOND];
        house_measure(h, 0);
        both_are_told(h, 1);
        member_say_abort(lost, "no memory left");
        UNTIL(h, other->n_cancels == 1);
        assert_false(h->measure.done);
        member_say_moved(other, who ? ST_OK : ST_ERR_UNAVAILABLE, "", 1, 1); /* it may have had all before */
        UNTIL(h, h->measure.done);
        assert_int_equal(h->measure.status, st_grpc(ST_ERR_UNAVAILABLE));
        house_stop(h);
    }
}

static void an_answer_from_the_life_before_is_dropped(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    uint32_t old = target->group_epoch;
    member_say_abort(target, "no memory left");
    UNTIL(h, !target->link);
    member_become_ready(target);
    house_measure(h, 0);
    both_are_told(h, 1);
    uint32_t epoch = target->group_epoch;
    target->group_epoch = old;
    member_say_moved(target, ST_ERR_DEADLINE, "", 0, 1);
    target->group_epoch = epoch;
    assert_true(house_is_ready(h) && source->n_cancels == 0);
    member_say_moved(target, ST_OK, "", 1, 1);
    member_say_moved(source, ST_OK, "", 1, 1);
    both_are_told(h, 2);
    house_stop(h);
}

static void who_says_something_else_than_what_came_of_it_is_lost(void **state) {
    (void)state;
    house *h = start(3);
    member *target = &h->members[VERIFIER];
    member_send(target, PROTO_MSG_MOVED, "?", 1);
    UNTIL(h, !target->link);
    assert_true(target->n_aborts == 1);
    house_stop(h);
}

static void one_measures_at_a_time_and_not_beside_requests(void **state) {
    (void)state;
    house *h = start(3);
    member *source = &h->members[SECOND], *target = &h->members[VERIFIER];
    house_measure(h, 0);
    both_are_told(h, 1);
    void *call = h->measuring;
    house_measure(h, 0);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_RESOURCE_EXHAUSTED));
    net_grpc_cancel(h->client, call); /* who does not listen any more */
    UNTIL(h, source->n_cancels == 1 && target->n_cancels == 1);
    member_say_moved(source, ST_ERR_CANCELLED, "", 0, 1);
    member_say_moved(target, ST_OK, "", 1, 1); /* it was done before it heard */
    assert_true(house_is_ready(h));
    house_ask(h, 4);
    UNTIL(h, source->n_plans + target->n_plans > 0);
    house_measure(h, 0);
    UNTIL(h, h->measure.done);
    assert_int_equal(h->measure.status, st_grpc(ST_ERR_RESOURCE_EXHAUSTED));
    assert_non_null(strstr(h->measure.message, "requests are running"));
    member *busy = source->n_plans ? source : target;
    busy->answers = true;
    member_say_result(busy, busy->plan.id, 1);
    house_ends_well(h, 4);
    assert_false(house_stop(h));
}

/* ---- what the scheduler wants moved ---- */

/* A request of which `busy` has computed 43 tokens, in a group that is then drained. */
static void drain_in_the_midst(house *h, member **busy, member **other) {
    member *a = &h->members[VERIFIER], *b = &h->members[SECOND];
    house_ask(h, 50);
    UNTIL(h, a->n_plans + b->n_plans == 1);
    *busy = a->n_plans ? a : b;
    *other = a->n_plans ? b : a;
    for (uint32_t n = 1; n <= 40; n++) {
        UNTIL(h, (*busy)->n_plans == n);
        member_say_result(*busy, (*busy)->plan.id, 1);
    }
    UNTIL(h, (*busy)->n_plans == 41);
    proto_drain d = {0};
    snprintf(d.group, sizeof d.group, "%s", *busy == a ? "g" : "h");
    house_drain(&h->drain, &d);
    UNTIL(h, h->drain.done);
    assert_int_equal(h->drain.status, 0);
    assert_int_equal((*busy)->n_moves + (*other)->n_moves, 0); /* a plan in flight names its blocks */
    member_say_result(*busy, (*busy)->plan.id, 1);
}

static house *start_and_drain(member **busy, member **other) {
    house *h = start(3);
    drain_in_the_midst(h, busy, other);
    UNTIL(h, (*busy)->n_moves == 1 && (*other)->n_moves == 1);
    return h;
}

static void a_request_of_a_drained_group_goes_on_behind_what_was_moved(void **state) {
    (void)state;
    member *busy, *other;
    house *h = start_and_drain(&busy, &other);
    assert_true(busy->move.id == other->move.id && !busy->move.target && other->move.target);
    assert_true(busy->move.n_tokens == 32 && busy->move.n_blocks == 1 && busy->move.n_ready == 1);
    assert_true(other->move.n_tokens == 32 && other->move.n_blocks == 1 && other->move.first_block < 8);
    assert_true(busy->move.by_layer == 0 && other->move.by_layer == 0);
    assert_int_equal(busy->move.after_plan, busy->plan.id);
    assert_int_equal(other->move.after_plan, 0);
    assert_memory_equal(busy->move.key, other->move.key, PROTO_KEY_BYTES);
    member_say_moved(busy, ST_OK, "", 4096, 1);
    assert_true(house_is_ready(h) && other->n_plans == 0); /* the target's word is missing */
    other->answers = true;
    member_say_moved(other, ST_OK, "", 4096, 1);
    UNTIL(h, other->n_plans == 1 || h->request.done);
    house_ends_well(h, 50);
    assert_true(busy->n_cancels == 0 && other->n_cancels == 0);
    assert_false(house_stop(h));
}

static void both_ends_are_told_the_order_that_the_topology_wants(void **state) {
    (void)state;
    member *busy, *other;
    house *h = start(3);
    h->topology.kv_order = "layer";
    drain_in_the_midst(h, &busy, &other);
    UNTIL(h, busy->n_moves == 1 && other->n_moves == 1);
    assert_true(busy->move.by_layer == 1 && other->move.by_layer == 1);
    member_say_moved(busy, ST_OK, "", 4096, 1);
    other->answers = true;
    member_say_moved(other, ST_OK, "", 4096, 1);
    house_ends_well(h, 50);
    assert_false(house_stop(h));
}

static void what_did_not_arrive_is_computed(void **state) {
    (void)state;
    member *busy, *other;
    house *h = start_and_drain(&busy, &other);
    member_say_moved(other, ST_ERR_UNAVAILABLE, "the peer is lost", 0, 1);
    UNTIL(h, busy->n_cancels == 1);
    assert_true(house_is_ready(h) && other->n_plans == 0); /* the source still reads its blocks, for all that is known */
    member_say_moved(busy, ST_ERR_CANCELLED, "", 0, 1);
    UNTIL(h, other->n_plans == 1);
    assert_true(other->plan.start == 0 && other->plan.n_answered == 41);
    net_grpc_cancel(h->client, h->requesting); /* a member does not know how to answer half a prompt */
    UNTIL(h, h->request.done);
    member_say_result(other, other->plan.id, 1);
    assert_false(house_stop(h));
}

static void a_request_that_is_cancelled_while_it_moves_holds_its_blocks_until_both_have_let_go(void **state) {
    (void)state;
    member *busy, *other;
    house *h = start_and_drain(&busy, &other);
    net_grpc_cancel(h->client, h->requesting);
    UNTIL(h, busy->n_cancels == 1 && other->n_cancels == 1);
    member_say_moved(busy, ST_ERR_CANCELLED, "", 0, 1);
    member_say_moved(other, ST_OK, "", 4096, 1);
    proto_drain undo = {.undo = true};
    snprintf(undo.group, sizeof undo.group, "%s", busy == &h->members[VERIFIER] ? "g" : "h");
    house_drain(&h->undo, &undo);
    UNTIL(h, h->undo.done);
    busy->answers = other->answers = true;
    house_is_served(h, 50);
    assert_false(house_stop(h));
}

static void where_a_rank_has_no_transports_it_is_computed(void **state) {
    (void)state;
    member *busy, *other;
    house *h = house_start(&(house_options){3, PATIENT, PATIENT, GIVE_UP_MS, 1});
    h->members[SECOND].info.n_kv_heads = 0;
    for (uint32_t i = 0; i < 3; i++) member_become_ready(&h->members[i]);
    drain_in_the_midst(h, &busy, &other);
    UNTIL(h, other->n_plans == 1);
    assert_true(busy->n_moves + other->n_moves == 0 && other->plan.start == 0);
    net_grpc_cancel(h->client, h->requesting);
    UNTIL(h, h->request.done);
    member_say_result(other, other->plan.id, 1);
    assert_false(house_stop(h));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_verifier_of_one_rank_cannot_be_measured),
        cmocka_unit_test(two_ranks_are_told_the_same_and_each_its_part),
        cmocka_unit_test(a_figure_is_the_median_of_what_the_target_says),
        cmocka_unit_test(the_kv_of_a_prompt_is_measured_behind_the_sizes),
        cmocka_unit_test(who_says_that_nothing_came_and_all_is_well_is_not_measured),
        cmocka_unit_test(a_way_that_does_not_lead_there_is_passed_over),
        cmocka_unit_test(what_fails_at_one_is_cancelled_at_the_other_and_over_when_that_has_answered),
        cmocka_unit_test(the_targets_word_counts),
        cmocka_unit_test(a_lost_rank_has_answered),
        cmocka_unit_test(an_answer_from_the_life_before_is_dropped),
        cmocka_unit_test(who_says_something_else_than_what_came_of_it_is_lost),
        cmocka_unit_test(one_measures_at_a_time_and_not_beside_requests),
        cmocka_unit_test(a_request_of_a_drained_group_goes_on_behind_what_was_moved),
        cmocka_unit_test(both_ends_are_told_the_order_that_the_topology_wants),
        cmocka_unit_test(what_did_not_arrive_is_computed),
        cmocka_unit_test(where_a_rank_has_no_transports_it_is_computed),
        cmocka_unit_test(a_request_that_is_cancelled_while_it_moves_holds_its_blocks_until_both_have_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
