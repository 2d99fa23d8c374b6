"""KV cache moves between verifiers that are cut differently, by every transport: a request goes on in another group in the midst of its
answer, with the bytes that it would have had. Whatever dies on the way, they stay the same: what does not arrive is computed."""
import json
import os
import signal

import pytest

from support import ROOT, consort, until
from test_groups import CODE, FIXED, STREAMS, begin, parts, rank_pid, verifiers

# SmolLM2 has 3 KV heads: of two ranks each holds two, and the one in the middle comes from either.
SECOND = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 8192, "threads": 1}


@pytest.fixture(scope="module")
def alone(cluster):
    return [parts(cluster.stream(prompt, speculation="none", **fields)) for prompt, fields in STREAMS]


def moves(metrics, result):
    return metrics["consort_kv_moves_total", f'result="{result}"']


def drain(cluster, group, *more):
    return consort("drain", group, "--server", cluster.server, *more)


@pytest.mark.parametrize("way", ["shm", "mpi", "tcp"])
@pytest.mark.parametrize("speculation, ranks", [("none", 1), ("all", 2)])
def test_running_requests_go_on_in_another_group_and_back(new_cluster, alone, way, speculation, ranks):
    cluster = new_cluster(drafters=[{**SECOND, "tensor_parallel": ranks}, CODE], kv_tokens=8192, threads=1, kv_transport=way, **FIXED)
    calls, begun = begin(cluster, speculation)
    assert verifiers(cluster.metrics(), "requests_running") == [2, 2]
    drain(cluster, "target")
    until(lambda: verifiers(cluster.metrics(), "requests_running")[0] == 0, "the first group to be empty")
    drain(cluster, "target", "--undo")
    drain(cluster, "second")
    until(lambda: verifiers(cluster.metrics(), "requests_running")[1] == 0, "the second group to be empty")
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    end = cluster.metrics()
    assert moves(end, "done") >= 2 and moves(end, "failed") == moves(end, "cancelled") == 0, cluster.output()
    # 30 layers, K and V, 3 heads of 64 f16 of at least a block of 32 tokens
    assert end["consort_kv_moved_bytes_total", ""] >= moves(end, "done") * 30 * 2 * 3 * 64 * 2 * 32
    assert end["consort_kv_move_seconds_count", ""] == moves(end, "done")
    until(cluster.is_idle, "the blocks to be free")


def test_without_a_transport_the_kv_is_computed_again(new_cluster, alone):
    cluster = new_cluster(drafters=[SECOND], kv_tokens=8192, threads=1, kv_transport="off")
    calls, begun = begin(cluster, "none")
    drain(cluster, "target")
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    end = cluster.metrics()
    assert moves(end, "done") == moves(end, "failed") == 0 and end["consort_displaced_requests_total", ""] == 2
