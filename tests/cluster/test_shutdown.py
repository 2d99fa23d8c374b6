"""How a cluster starts and ends: drains, losses, refusals, and what it costs when it has nothing to do."""
import os
import signal
import socket
import subprocess
import time

import grpc
import pytest

from support import BUILD, ROOT, Cluster, consort, cpu_seconds, until

LONG_ANSWER = {"max_tokens": 200, "ignore_end": True}


def drain_by_signal(cluster):
    cluster.launcher.send_signal(signal.SIGTERM)


def drain_by_command(cluster):
    return subprocess.Popen([f"{BUILD}/consort", "stop", "--server", cluster.server])  # not os.spawn: it forks under gRPC's threads


@pytest.mark.parametrize("how", [drain_by_signal, drain_by_command])
def test_a_drain_finishes_what_was_accepted_and_refuses_the_rest(new_cluster, how):
    cluster = new_cluster()
    expected = cluster.generate(**LONG_ANSWER).ids
    call = cluster.stream(**LONG_ANSWER)
    got = list(next(call).tokens)
    started = how(cluster)
    refused = until(lambda: refusal(cluster), "new requests to be refused")
    assert refused == grpc.StatusCode.UNAVAILABLE
    got += [token for reply in call for token in reply.tokens]
    assert got == expected
    cluster.ends(0)
    if started:
        assert started.wait(60) == 0
    assert not os.path.exists(cluster.run_file) and not cluster.left_behind()


def refusal(cluster):
    try:
        cluster.generate(max_tokens=1)
    except grpc.RpcError as e:
        return e.code()
    return None


def test_a_second_signal_ends_it_at_once(new_cluster):
    cluster = new_cluster()
    call = cluster.stream(max_tokens=4000, ignore_end=True)
    next(call)
    drain_by_signal(cluster)
    until(lambda: cluster.status().draining, "the drain")
    drain_by_signal(cluster)
    cluster.launcher.wait(20)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert not cluster.left_behind()


def test_a_lost_verifier_ends_its_requests_and_the_coordinator_says_so(new_cluster):
    cluster = new_cluster()
    call = cluster.stream(max_tokens=4000, ignore_end=True)
    next(call)
    (worker,) = cluster.worker_pids()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as e:
        list(call)
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    status = cluster.status()
    assert not status.ready and "rank 1" in status.reason and not status.workers[0].up and status.requests_running == 0
    assert refusal(cluster) == grpc.StatusCode.UNAVAILABLE
    drain_by_signal(cluster)
    cluster.ends(0)
    assert not cluster.left_behind()


def test_a_lost_coordinator_ends_the_launcher_with_status_1(new_cluster):
    cluster = new_cluster()
    os.kill(cluster.run["pid"], signal.SIGKILL)
    cluster.ends(1)
    assert not cluster.left_behind() and not os.path.exists(cluster.run_file)


def test_sigterm_to_a_worker_is_ignored(new_cluster):
    cluster = new_cluster()
    for pid in cluster.worker_pids():
        os.kill(pid, signal.SIGTERM)
    assert len(cluster.generate(max_tokens=5, ignore_end=True).ids) == 5


def fails_to_start(cluster, *said):
    cluster.launch()
    assert cluster.launcher.wait(60) != 0
    output = cluster.output()
    assert all(text in output for text in said), output
    assert not cluster.left_behind()
    cluster.directory.cleanup()


def test_a_port_in_use_is_told(api):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fails_to_start(Cluster(api, listen=address), "listen", address)


def test_a_wrong_topology_is_told_with_its_line(api):
    fails_to_start(Cluster(api, kv_tokens=33), "kv_tokens", "33")


def test_a_missing_model_is_told(api):
    fails_to_start(Cluster(api, model="models/none.gguf"), "models/none.gguf")


def test_an_idle_cluster_of_6_ranks_uses_under_2_percent_of_a_core(new_cluster):
    drafters = [{"name": name, "kind": "ngram", "table": f"{ROOT}/drafters/{name}.ngram"} for name in ("code", "general", "math")]
    cluster = new_cluster(drafters=drafters, tensor_parallel=2, threads=1)
    cluster.generate(max_tokens=5, ignore_end=True)
    assert len(cluster.worker_pids()) == 5 and all(w.up for w in cluster.status().workers)
    until(cluster.is_idle, "the cluster to be idle")
    pids = [pid for pid, _ in cluster.left_behind()]
    begin, before = time.monotonic(), cpu_seconds(pids)
    until(lambda: time.monotonic() - begin > 5, "the measurement")
    share = (cpu_seconds(pids) - before) / (time.monotonic() - begin)
    assert share < 0.02, f"{share:.1%} of a core"
