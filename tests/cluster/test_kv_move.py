"""KV cache moves between verifiers that are cut differently, by every transport: a request goes on in another group in the midst of its
answer, with the bytes that it would have had. Whatever dies on the way, they stay the same: what does not arrive is computed."""
import json
import os
import signal

import grpc
import pytest

from support import consort, until
from test_groups import CODE, FIXED, begin, parts, rank_pid, verifiers

# SmolLM2 has 3 KV heads: of two ranks each holds two, and the one in the middle comes from either; of three each holds one.
SECOND = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 8192, "threads": 1}


def moves(metrics, result):
    return metrics["consort_kv_moves_total", f'result="{result}"']


def drain(cluster, group, *more):
    return consort("drain", group, "--server", cluster.server, *more)


WAYS = [("shm", "block"), ("mpi", "block"), ("tcp", "layer")]


@pytest.mark.parametrize("way, order, speculation, first, second", [(*way, *ranks) for way in WAYS for ranks in (("none", 1, 1), ("all", 1, 2))] + [("tcp", "block", "none", 2, 3)])
def test_running_requests_go_on_in_another_group_and_back(new_cluster, alone, way, order, speculation, first, second):
    cluster = new_cluster(tensor_parallel=first, drafters=[{**SECOND, "tensor_parallel": second}, CODE], kv_tokens=8192, threads=1, kv_transport=way, kv_order=order, **FIXED)
    calls, begun = begin(cluster, speculation)
    assert verifiers(cluster.metrics(), "requests_running") == [2, 2]
    drain(cluster, "target")
    until(lambda: verifiers(cluster.metrics(), "requests_running")[0] == 0, "the first group to be empty")
    drain(cluster, "target", "--undo")
    drain(cluster, "second")
    until(lambda: verifiers(cluster.metrics(), "requests_running")[1] == 0, "the second group to be empty")
    for call, replies, expected in zip(calls, begun, alone):
        assert parts(replies + list(call)) == expected
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


LONG = ("Once upon a time there was a ship that sailed from one harbour to the next, and in each of them it took on board something new. " * 40, {"max_tokens": 40, "ignore_end": True})


@pytest.mark.parametrize("ranks, order", [(1, "layer"), (2, "block")])
@pytest.mark.parametrize("dies", ["source", "target", "nobody"])
def test_a_prompt_moves_while_it_is_computed_whoever_dies(new_cluster, cluster, ranks, order, dies):
    expected = parts(cluster.stream(LONG[0], speculation="none", **LONG[1]))
    mine = new_cluster(drafters=[{**SECOND, "serves": "decode", "tensor_parallel": ranks}], kv_tokens=8192, threads=1, serves="prefill", kv_order=order, prefill_chunk=32, max_rows=32, max_batch=32)
    call = mine.stream(LONG[0], speculation="none", **LONG[1])
    until(lambda: mine.metrics()["consort_steps_total", ""] >= 8, "a part of the prompt to be computed")  # of 37 steps
    assert mine.metrics()["consort_kv_moves_running", ""] == 1
    if dies != "nobody":
        os.kill(rank_pid(mine, 1 if dies == "source" else 1 + ranks), signal.SIGKILL)
    assert parts(call) == expected
    end = mine.metrics()
    assert moves(end, "done") == (dies == "nobody") and moves(end, "failed") + moves(end, "cancelled") == (dies != "nobody"), mine.output()
    if dies == "nobody":
        assert end["consort_worker_steps_total", 'rank="2",group="second",role="verifier"'] > 30, "the answer did not come from the second"
    until(mine.is_idle, "the blocks to be free")


def test_the_transports_of_a_cluster_are_measured(new_cluster):
    cluster = new_cluster(drafters=[SECOND, CODE], threads=1)
    told = [[(a.transport, len(a.address) > 0) for a in w.addresses] for w in cluster.status().workers]
    assert told == [[(t, True) for t in ("shm", "mpi", "tcp")]] * 2 + [[]]
    rows = json.loads(consort("bench", "kv", "--prompt", 0, "--json", "--server", cluster.server).stdout)
    assert [(r["transport"], r["block_bytes"]) for r in rows] == [(t, n) for t in ("shm", "mpi", "tcp") for n in (25600, 720896, 8388608)]
    assert all(set(r) == {"transport", "block_bytes", "gb_s", "raw_gb_s", "source", "target"} for r in rows)
    assert all(r["gb_s"] > 0 and r["raw_gb_s"] > 0 and (r["source"], r["target"]) == (1, 2) for r in rows)
    assert cluster.is_idle()


PROMPT_FIELDS = {"prompt_tokens", "move_ms", "recompute_ms", "crossover_tokens", "move_token_ns", "prompt_token_ns"}


def test_the_kv_of_a_prompt_is_measured_moved_and_computed(new_cluster):
    cluster = new_cluster(drafters=[{**SECOND, "tensor_parallel": 2}], kv_tokens=4096, threads=1, kv_transport="tcp", move_tokens=64)
    rows = json.loads(consort("bench", "kv", "--json", "--server", cluster.server).stdout)
    piece = 2 * 3 * 64 * 32 * 2  # bytes of K and V of a block: the first sends all three heads, to two ranks that hold two each
    assert [r["block_bytes"] for r in rows] == [25600, 720896, 8388608, piece] and all(r["gb_s"] > 0 and r["raw_gb_s"] > 0 for r in rows)
    assert [PROMPT_FIELDS & set(r) for r in rows] == [set(), set(), set(), PROMPT_FIELDS]
    row = rows[-1]
    assert row["prompt_tokens"] == 1000 and row["move_ms"] == pytest.approx(30 * 32 * piece / row["gb_s"] / 1e6, rel=1e-3)
    assert row["crossover_tokens"] == 64 and row["move_token_ns"] is None  # no request has moved yet
    assert row["recompute_ms"] > 0 and row["prompt_token_ns"] is None  # nor was one computed where it would go: the first group did
    assert cluster.metrics()["consort_prefix_cache_hits_total", ""] == 0, "a prompt that is to be computed was found in the cache"
    table = consort("bench", "kv", "--prompt", 100, "--server", cluster.server).stdout.splitlines()
    assert len(table) == 5 and all("GB/s" in line for line in table[:4]) and "a prompt of 100 tokens moves in" in table[4] and "moves from 64 tokens on" in table[4]
    done = consort("bench", "kv", "--prompt", 4096, "--server", cluster.server, check=False)
    assert done.returncode == 1 and "--prompt 4096" in done.stderr and "at most 4031" in done.stderr
    assert cluster.is_idle()


def test_a_small_cluster_measures_the_longest_prompt_that_it_promises_to_hold(new_cluster):
    cluster = new_cluster(drafters=[{**SECOND, "kv_tokens": 512}], kv_tokens=512, threads=1, kv_transport="tcp", draft_budget=63)
    rows = json.loads(consort("bench", "kv", "--json", "--server", cluster.server).stdout)
    assert rows[-1]["prompt_tokens"] == 447 and rows[-1]["recompute_ms"] > 0
    done = consort("bench", "kv", "--prompt", 448, "--server", cluster.server, check=False)
    assert done.returncode == 1 and "--prompt 448: expected at most 447" in done.stderr
    for prompt in (449, 60000):  # whoever asks without asking what it holds
        with pytest.raises(grpc.RpcError) as refused:
            list(cluster.api.services.AdminStub(cluster.channel).MeasureKv(cluster.api.messages.MeasureKvRequest(prompt_tokens=prompt)))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "448 tokens at most" in refused.value.details()
    done = consort("bench", "kv", "--prompt", 2**32 - 1, "--server", cluster.server, check=False)
    assert done.returncode == 2 and "4294967294" in done.stderr


def test_between_ranks_of_one_group_nothing_would_move(new_cluster):
    cluster = new_cluster(tensor_parallel=2, threads=1, kv_transport="tcp")
    row = json.loads(consort("bench", "kv", "--prompt", 64, "--json", "--server", cluster.server).stdout)[-1]
    assert (row["source"], row["target"], row["crossover_tokens"], row["move_token_ns"]) == (1, 2, None, None) and row["prompt_token_ns"] > 0
    assert "the scheduler moves nothing between the two (a token moved: not known yet" in consort("bench", "kv", "--prompt", 64, "--server", cluster.server).stdout


def test_where_moves_have_taken_longer_than_prompts_it_computes_at_any_length(new_cluster):
    cluster = new_cluster(drafters=[SECOND], kv_tokens=8192, threads=1, kv_transport="tcp", debug="on")
    drain(cluster, "target", "--wait")
    list(cluster.stream(LONG[0], max_tokens=1, ignore_end=True))  # the second learns what a prompt takes
    drain(cluster, "target", "--undo")
    drain(cluster, "second", "--wait")
    call = cluster.stream("It was a dark and stormy night, " * 5, max_tokens=400, ignore_end=True, speculation="none")
    next(call)
    drain(cluster, "second", "--undo")
    consort("debug", "faults", "move.stall=1", "--server", cluster.server)  # 100 ms whenever there is something to do
    drain(cluster, "target", "--wait")
    call.cancel()
    consort("debug", "faults", "off", "--server", cluster.server)
    drain(cluster, "target", "--undo")
    until(cluster.is_idle, "the blocks to be free")
    assert moves(cluster.metrics(), "done") == 1, cluster.output()
    row = json.loads(consort("bench", "kv", "--prompt", 64, "--json", "--server", cluster.server).stdout)[-1]
    assert row["crossover_tokens"] is None and row["move_token_ns"] > row["prompt_token_ns"] > 0, row
    assert "the scheduler computes at any length (a token moved: " in consort("bench", "kv", "--prompt", 64, "--server", cluster.server).stdout


def test_a_cluster_of_one_rank_says_what_it_takes_to_be_measured(cluster):
    done = consort("bench", "kv", "--server", cluster.server, check=False)
    assert done.returncode == 1 and "two groups of role verifier" in done.stderr
