"""/health and /metrics: what a load balancer and Prometheus see."""
import json
import os
import re
import signal
import socket

import grpc
import pytest

from support import MODEL, Cluster, consort, until


def health(cluster):
    reply, body = cluster.http("/health")
    assert reply.getheader("Content-Type") == "application/json"
    return reply.status, json.loads(body)


def change(before, after, name, labels=""):
    key = f"consort_{name}", labels
    return after[key] - before[key]


def test_metrics_count_what_was_run(new_cluster):
    cluster = new_cluster()
    before = cluster.metrics()
    answers = [cluster.generate(max_tokens=n, ignore_end=True) for n in (1, 5, 9)]
    assert [a.finish_reason for a in answers] == ["length"] * 3
    stopped = cluster.generate(max_tokens=50, stop_tokens=[answers[2].ids[3]])
    assert stopped.finish_reason == "stop"
    answers.append(stopped)
    with pytest.raises(grpc.RpcError):
        cluster.generate(max_tokens=5, temperature=-1)
    until(cluster.is_idle, "the cluster to be idle")
    earlier, after, status = cluster.status(), cluster.metrics(), cluster.status()

    n_tokens = sum(len(a.ids) for a in answers)
    assert change(before, after, "request_success_total", 'finished_reason="length"') == 3
    assert change(before, after, "request_success_total", 'finished_reason="stop"') == 1
    assert change(before, after, "request_failure_total", 'code="INVALID_ARGUMENT"') == 1
    assert change(before, after, "prompt_tokens_total") == sum(a.usage.prompt_tokens for a in answers)
    assert change(before, after, "generation_tokens_total") == n_tokens
    for name, n in {"time_to_first_token": 4, "request_queue_time": 4, "e2e_request_latency": 4, "inter_token_latency": n_tokens - 4}.items():
        assert change(before, after, f"{name}_seconds_count") == n, name
    assert change(before, after, "e2e_request_latency_seconds_sum") >= change(before, after, "inter_token_latency_seconds_sum") > 0
    steps = after["consort_steps_total", ""]
    assert earlier.steps <= steps <= status.steps  # the plan that closes the last sequence may still be on its way
    assert steps == after["consort_step_time_seconds_count", ""] == after["consort_plan_overhead_seconds_count", ""]
    assert after["consort_plan_overhead_seconds_sum", ""] > 0
    assert after["consort_draft_time_seconds_count", ""] == 0  # no drafter has a rank here
    assert steps == after["consort_worker_steps_total", 'rank="1",group="target",role="verifier"']
    assert after["consort_spec_decode_num_draft_tokens_total", ""] == status.drafted
    assert after["consort_spec_decode_num_accepted_tokens_total", ""] == status.accepted
    assert after["consort_kv_cache_blocks", ""] == status.kv_blocks_total and after["consort_kv_cache_usage_perc", ""] == 0
    assert after["consort_ready", ""] == 1
    assert after["consort_worker_up", 'rank="1",group="target",role="verifier"'] == 1


def test_each_answer_of_a_drafter_is_timed(new_cluster, tmp_path):
    text = tmp_path / "text"
    text.write_text("The capital of France is Paris.", encoding="utf-8")
    consort("build-ngram", "--model", MODEL, "--out", tmp_path / "table", text)
    cluster = new_cluster(drafters=[{"name": "words", "kind": "ngram", "table": tmp_path / "table"}])
    cluster.generate(max_tokens=9, ignore_end=True)
    until(cluster.is_idle, "the cluster to be idle")
    key = "consort_worker_steps_total", 'rank="2",group="words",role="drafter"'
    m = until(lambda: (m := cluster.metrics())["consort_draft_time_seconds_count", ""] == m[key] and m, "the last answer")
    assert m[key] > 0 and m["consort_draft_time_seconds_sum", ""] > 0
    assert m["consort_step_time_seconds_count", ""] == m["consort_steps_total", ""]


def test_metrics_show_a_request_while_it_runs(new_cluster):
    cluster = new_cluster(max_running=1)
    calls = [cluster.stream(max_tokens=2000, ignore_end=True)]
    next(calls[0])
    calls.append(cluster.stream(max_tokens=1))
    now = until(lambda: (m := cluster.metrics())["consort_num_requests_waiting", ""] == 1 and m, "the second request to wait")
    assert now["consort_num_requests_running", ""] == 1
    assert 0 < now["consort_kv_cache_usage_perc", ""] <= 1 and now["consort_generation_tokens_total", ""] > 0
    for call in calls:
        call.cancel()
    until(cluster.is_idle, "the cluster to be idle")
    assert cluster.metrics()["consort_request_failure_total", 'code="CANCELLED"'] == 2


def test_health_follows_the_cluster_from_start_to_loss(api):
    cluster = Cluster(api)
    seen = []
    try:
        cluster.launch()
        until(cluster.came_up, "the coordinator to listen")
        seen.append(health(cluster))
        # The port opens before a rank can have joined, and loading the model takes longer than this call.
        assert seen[0][0] == 503 and seen[0][1]["status"] == "loading" and "rank 1" in seen[0][1]["reason"]
        until(lambda: health(cluster) == (200, {"status": "ok"}), "the cluster to be ready")
        cluster.run = cluster.read_run_file()
        (worker,) = cluster.worker_pids()
        os.kill(worker, signal.SIGKILL)
        code, body = until(lambda: (h := health(cluster))[0] == 503 and h, "the loss to be told")
        assert code == 503 and body["status"] == "lost" and "rank 1" in body["reason"]
        lost = cluster.metrics()
        assert lost["consort_ready", ""] == 0 and lost["consort_worker_up", 'rank="1",group="target",role="verifier"'] == 0
    finally:
        cluster.__exit__(None, None, None)
    assert not cluster.left_behind()


def test_health_says_when_the_cluster_drains(new_cluster):
    cluster = new_cluster()
    call = cluster.stream(max_tokens=2000, ignore_end=True)
    next(call)
    cluster.launcher.send_signal(signal.SIGTERM)
    code, body = until(lambda: (h := health(cluster))[0] == 503 and h, "the drain to be told")
    assert (code, body["status"]) == (503, "draining")
    call.cancel()
    cluster.ends(0)


def test_other_paths_and_methods_are_refused(cluster):
    assert cluster.http("/")[0].status == 404
    assert cluster.http("/metrics/")[0].status == 404
    assert cluster.http("/health?verbose=1")[0].status == 200
    reply, _ = cluster.http("/metrics", "POST")
    assert reply.status == 405 and reply.getheader("Allow") == "GET, HEAD"
    reply, body = cluster.http("/metrics", "HEAD")
    assert reply.status == 200 and body == "" and int(reply.getheader("Content-Length")) > 1000


def test_a_broken_client_gets_400_and_the_server_lives(cluster):
    host, _, port = cluster.read_run_file()["http"].rpartition(":")
    for bad in (b"GET /health HTTP/1.1\nHost: a\n\n", b"\x16\x03\x01\x00\xa5", b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as s:
            s.sendall(bad)
            assert s.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
    assert health(cluster)[0] == 200


def test_an_empty_address_switches_it_off(new_cluster):
    cluster = new_cluster(http_listen="''")
    assert cluster.run["http"] == "" and cluster.status().ready


def test_a_port_beyond_loopback_is_told_loudly(new_cluster):
    cluster = new_cluster(http_listen="0.0.0.0:0")
    assert re.search(r"WARN .*http_listen 0\.0\.0\.0:0 is reachable from other hosts.*NO TLS", cluster.output())


def test_an_http_port_in_use_is_told(api):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster = Cluster(api, http_listen=address)
        cluster.launch()
        assert cluster.launcher.wait(60) != 0
        assert "http_listen" in cluster.output() and address in cluster.output()
        cluster.directory.cleanup()


def test_a_wrong_http_address_is_found_before_the_start(api):
    cluster = Cluster(api, http_listen="nowhere")
    done = consort("check-config", cluster.config, check=False)
    assert done.returncode != 0 and "http_listen" in done.stderr
    cluster.directory.cleanup()
