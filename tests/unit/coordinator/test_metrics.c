/* What /metrics says, and that docs/metrics.md says what the table says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "../reference_page.h"
#include "base/mem.h"
#include "coordinator/metrics_int.h"

static const uint64_t MS = 1000000;
static const metrics_worker two_workers[] = {{1, "a \"b\"", "verifier", true, true, 7},
                                             {2, "a \"b\"", "verifier", false, false, 0}};
static const proto_drafter_figures three_drafters[] = {{"a\\b", 9, 5}, {"lookup", 0, 0}, {"corpus", 3, 2}};
static const sched_drafter_stats one_with_a_rank[] = {
    {.scored = 21, .hits = 20, .wait_ns = 1500000, .followed = 2, .kv_blocks = 9, .kv_held = 7, .dropped = 26}};
static const metrics_verifier two_verifiers[] = {
    {.group = "a \"b\"",
     .stats = {.up = true, .running = 2, .blocks_total = 5, .blocks_used = 1, .busy_ns = 21500000000, .idle_ns = 250000000},
     .costs = {{1, 4000000}, {5, 6500000}},
     .n_costs = 2},
    {.group = "c", .stats = {.blocks_total = 3}}};
static const metrics_view view = {.sched = {.running = 3,
                                            .waiting = 4,
                                            .blocks_total = 8,
                                            .blocks_used = 2,
                                            .steps = 7,
                                            .late_drafts = 11,
                                            .branched_trees = 12,
                                            .moved_kv = 13,
                                            .offered = 14,
                                            .expected = 12.5,
                                            .asked_rounds = 15,
                                            .unasked_rounds = 16,
                                            .lockstep_rounds = 14,
                                            .held_steps = 17,
                                            .mixed_steps = 26,
                                            .mixed_over = 3,
                                            .mixed_ns = 2500000000,
                                            .longest_mixed_ns = 250000000,
                                            .displaced = 21,
                                            .preempted = 25,
                                            .blocks_kept = 22,
                                            .looked_up = 23,
                                            .shared = 24,
                                            .slots_total = 31,
                                            .slots_used = 30,
                                            .swapped_out = 29,
                                            .swapped_in = 28,
                                            .swap_out_ns = 1500000000,
                                            .swap_in_ns = 250000000,
                                            .early_right = 32,
                                            .early_wrong = 33,
                                            .early_late = 34,
                                            .bets = 18,
                                            .bets_won = 19,
                                            .bets_dropped = 20,
                                            .n_by_drafter = 3,
                                            .by_drafter = three_drafters},
                                  .ready = true,
                                  .uptime_seconds = 1.5,
                                  .n_drafters = 1,
                                  .drafters = one_with_a_rank,
                                  .verifiers = two_verifiers,
                                  .n_verifiers = 2,
                                  .workers = two_workers,
                                  .n_workers = 2};

static metrics_text write_all(const metrics *m) {
    metrics_text t;
    assert_int_equal(metrics_write(m, &view, &t), ST_OK);
    assert_int_equal(strlen(t.bytes), t.n);
    return t;
}

static bool has_line(const metrics_text *t, const char *line) {
    for (const char *at = t->bytes; (at = strstr(at, line)); at++)
        if (at[-1] == '\n' && at[strlen(line)] == '\n') return true; /* the text begins with a comment */
    return false;
}

static void numbers_stand_under_their_names(void **state) {
    (void)state;
    metrics m = {.succeeded_stop = 5, .prompt_tokens = UINT64_C(1) << 53};
    m.failed[14] = 6;
    metrics_text t = write_all(&m);
    assert_true(has_line(&t, "consort_ready 1"));
    assert_true(has_line(&t, "consort_uptime_seconds 1.5"));
    assert_true(has_line(&t, "consort_num_requests_running 3"));
    assert_true(has_line(&t, "consort_num_requests_waiting 4"));
    assert_true(has_line(&t, "consort_kv_cache_usage_perc 0.25"));
    assert_true(has_line(&t, "consort_kv_cache_blocks_kept 22"));
    assert_true(has_line(&t, "consort_prefix_cache_queries_total 23"));
    assert_true(has_line(&t, "consort_prefix_cache_hits_total 24"));
    assert_true(has_line(&t, "consort_kv_swap_slots 31"));
    assert_true(has_line(&t, "consort_kv_swap_slots_used 30"));
    assert_true(has_line(&t, "consort_kv_swapped_out_blocks_total 29"));
    assert_true(has_line(&t, "consort_kv_swapped_in_blocks_total 28"));
    assert_true(has_line(&t, "consort_kv_swap_out_seconds_total 1.5"));
    assert_true(has_line(&t, "consort_kv_swap_in_seconds_total 0.25"));
    assert_true(has_line(&t, "consort_prompt_tokens_total 9007199254740992"));
    assert_true(has_line(&t, "consort_request_success_total{finished_reason=\"stop\"} 5"));
    assert_true(has_line(&t, "consort_request_success_total{finished_reason=\"length\"} 0"));
    assert_true(has_line(&t, "consort_request_failure_total{code=\"UNAVAILABLE\"} 6"));
    assert_true(has_line(&t, "consort_worker_up{rank=\"1\",group=\"a \\\"b\\\"\",role=\"verifier\"} 1"));
    assert_true(has_line(&t, "consort_worker_up{rank=\"2\",group=\"a \\\"b\\\"\",role=\"verifier\"} 0"));
    assert_true(has_line(&t, "consort_worker_steps_total{rank=\"1\",group=\"a \\\"b\\\"\",role=\"verifier\"} 7"));
    assert_true(has_line(&t, "consort_believed_step_seconds{group=\"a \\\"b\\\"\",rows=\"1\"} 0.004"));
    assert_true(has_line(&t, "consort_believed_step_seconds{group=\"a \\\"b\\\"\",rows=\"5\"} 0.0065"));
    assert_true(has_line(&t, "consort_spec_decode_num_offered_tokens_total 14"));
    assert_true(has_line(&t, "consort_spec_decode_expected_tokens_total 12.5"));
    assert_true(has_line(&t, "consort_asked_rounds_total 15"));
    assert_true(has_line(&t, "consort_unasked_rounds_total 16"));
    assert_true(has_line(&t, "consort_lockstep_rounds_total 14"));
    assert_true(has_line(&t, "consort_held_steps_total 17"));
    assert_true(has_line(&t, "consort_mixed_steps_total 26"));
    assert_true(has_line(&t, "consort_mixed_steps_over_total 3"));
    assert_true(has_line(&t, "consort_mixed_step_seconds_total 2.5"));
    assert_true(has_line(&t, "consort_mixed_step_seconds_max 0.25"));
    assert_true(has_line(&t, "consort_displaced_requests_total 21"));
    assert_true(has_line(&t, "consort_num_preemptions_total 25"));
    assert_true(has_line(&t, "consort_verifier_up{group=\"a \\\"b\\\"\"} 1"));
    assert_true(has_line(&t, "consort_verifier_up{group=\"c\"} 0"));
    assert_true(has_line(&t, "consort_verifier_requests_running{group=\"a \\\"b\\\"\"} 2"));
    assert_true(has_line(&t, "consort_verifier_kv_blocks{group=\"c\"} 3"));
    assert_true(has_line(&t, "consort_verifier_kv_blocks_used{group=\"a \\\"b\\\"\"} 1"));
    assert_true(has_line(&t, "consort_verifier_busy_seconds_total{group=\"a \\\"b\\\"\"} 21.5"));
    assert_true(has_line(&t, "consort_verifier_idle_seconds_total{group=\"a \\\"b\\\"\"} 0.25"));
    assert_true(has_line(&t, "consort_early_results_total{outcome=\"right\"} 32"));
    assert_true(has_line(&t, "consort_early_results_total{outcome=\"wrong\"} 33"));
    assert_true(has_line(&t, "consort_early_results_total{outcome=\"late\"} 34"));
    assert_true(has_line(&t, "consort_draft_ahead_bets_total 18"));
    assert_true(has_line(&t, "consort_draft_ahead_won_total 19"));
    assert_true(has_line(&t, "consort_draft_ahead_dropped_total 20"));
    assert_true(has_line(&t, "consort_late_drafts_total 11"));
    assert_true(has_line(&t, "consort_branched_draft_trees_total 12"));
    assert_true(has_line(&t, "consort_kv_compacted_tokens_total 13"));
    assert_null(strstr(t.bytes, "consort_worker_steps_total{rank=\"2\"")); /* only leaders report steps */
    mem_free(t.bytes);
}

static void bytes_of_links_stand_under_way_role_and_message(void **state) {
    (void)state;
    metrics m = {0};
    m.link_bytes[METRICS_SENT][0][METRICS_PLANS] = 35;
    m.link_bytes[METRICS_RECEIVED][0][METRICS_EARLY_RESULTS] = 36;
    m.link_bytes[METRICS_RECEIVED][1][METRICS_RESULTS] = 37;
    metrics_text t = write_all(&m);
    assert_true(has_line(&t, "consort_link_bytes_total{direction=\"sent\",role=\"verifier\",message=\"plan\"} 35"));
    assert_true(has_line(&t, "consort_link_bytes_total{direction=\"received\",role=\"verifier\",message=\"early\"} 36"));
    assert_true(has_line(&t, "consort_link_bytes_total{direction=\"received\",role=\"drafter\",message=\"result\"} 37"));
    assert_null(strstr(t.bytes, "direction=\"received\",role=\"verifier\",message=\"plan\""));
    mem_free(t.bytes);
}

static void figures_of_drafters_stand_under_their_names(void **state) {
    (void)state;
    metrics m = {0};
    metrics_text t = write_all(&m);
    assert_true(has_line(&t, "consort_drafter_draft_tokens_total{drafter=\"a\\\\b\"} 9"));
    assert_true(has_line(&t, "consort_drafter_accepted_tokens_total{drafter=\"a\\\\b\"} 5"));
    assert_true(has_line(&t, "consort_drafter_draft_tokens_total{drafter=\"lookup\"} 0"));
    assert_true(has_line(&t, "consort_drafter_scored_tokens_total{drafter=\"a\\\\b\"} 21"));
    assert_true(has_line(&t, "consort_drafter_hit_tokens_total{drafter=\"a\\\\b\"} 20"));
    assert_true(has_line(&t, "consort_drafter_wait_seconds{drafter=\"a\\\\b\"} 0.0015"));
    assert_true(has_line(&t, "consort_drafter_requests_followed{drafter=\"a\\\\b\"} 2"));
    assert_true(has_line(&t, "consort_drafter_kv_blocks{drafter=\"a\\\\b\"} 9"));
    assert_true(has_line(&t, "consort_drafter_kv_blocks_held{drafter=\"a\\\\b\"} 7"));
    assert_true(has_line(&t, "consort_drafter_requests_dropped_total{drafter=\"a\\\\b\"} 26"));
    assert_null(strstr(t.bytes, "consort_drafter_wait_seconds{drafter=\"lookup\"")); /* nobody waits for it */
    assert_null(strstr(t.bytes, "consort_drafter_hit_tokens_total{drafter=\"lookup\""));
    assert_null(strstr(t.bytes, "consort_drafter_scored_tokens_total{drafter=\"lookup\""));
    mem_free(t.bytes);
}

static void a_histogram_counts_each_time_in_all_buckets_that_hold_it(void **state) {
    (void)state;
    metrics m = {0};
    metrics_add(&m.step, MS, 1);     /* on a bound: in it */
    metrics_add(&m.step, MS + 1, 2); /* just over */
    metrics_add(&m.step, 1500 * MS, 1);
    metrics_add(&m.step, 2000000 * MS, 1); /* over all */
    metrics_text t = write_all(&m);
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"0.001\"} 1"));
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"0.002\"} 3"));
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"1\"} 3"));
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"2\"} 4"));
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"1000\"} 4"));
    assert_true(has_line(&t, "consort_step_time_seconds_bucket{le=\"+Inf\"} 5"));
    assert_true(has_line(&t, "consort_step_time_seconds_count 5"));
    assert_true(has_line(&t, "consort_step_time_seconds_sum 2001.503"));
    assert_true(has_line(&t, "consort_request_queue_time_seconds_count 0"));
    mem_free(t.bytes);
}

static void many_workers_make_the_text_grow(void **state) {
    static metrics_worker many[1000];
    (void)state;
    metrics m = {0};
    metrics_view v = view;
    metrics_text t;
    for (uint32_t i = 0; i < 1000; i++) many[i] = (metrics_worker){i + 1, "group", "verifier", true, true, i};
    v.workers = many;
    v.n_workers = 1000;
    assert_int_equal(metrics_write(&m, &v, &t), ST_OK);
    assert_true(has_line(&t, "consort_worker_up{rank=\"1000\",group=\"group\",role=\"verifier\"} 1"));
    assert_true(has_line(&t, "consort_worker_steps_total{rank=\"1000\",group=\"group\",role=\"verifier\"} 999"));
    mem_free(t.bytes);

    uint64_t n = 0, n_needed;
    do {
        mem_fail_at(++n);
        st_code code = metrics_write(&m, &v, &t);
        n_needed = mem_fail_at(0);
        if (code) assert_null(t.bytes);
        mem_free(t.bytes);
    } while (n_needed >= n && n < 100);
    assert_in_range(n, 3, 99);
}

static void the_reference_page_is_up_to_date(void **state) {
    (void)state;
    char made[1 << 14];
    metrics_row r;
    size_t n = (size_t)snprintf(made, sizeof made, "| name | type | labels | |\n|---|---|---|---|\n");
    for (size_t i = 0; metrics_row_at(i, &r); i++)
        n += (size_t)snprintf(made + n, sizeof made - n, "| `%s` | %s | %s | %s |\n", r.name, r.type, r.labels, r.help);
    assert_true(n < sizeof made);
    const char *wrong = page_compare("docs/metrics.md", made);
    if (wrong) fail_msg("docs/metrics.md: %s", wrong);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_of_links_stand_under_way_role_and_message),
                                       cmocka_unit_test(numbers_stand_under_their_names),
                                       cmocka_unit_test(figures_of_drafters_stand_under_their_names),
                                       cmocka_unit_test(a_histogram_counts_each_time_in_all_buckets_that_hold_it),
                                       cmocka_unit_test(many_workers_make_the_text_grow),
                                       cmocka_unit_test(the_reference_page_is_up_to_date)};
    return cmocka_run_group_tests_name("coordinator_metrics", tests, NULL, NULL);
}
