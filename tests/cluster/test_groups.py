"""Several verifiers under one scheduler: requests are spread over them, drafters serve all, and when one is lost its requests go on
in another, with the bytes that they would have had."""
import os
import signal

import grpc
import pytest

from support import ROOT, consort, until

SECOND = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 8192, "threads": 1}
CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
FIXED = {"draft_budgets": "fixed", "draft_floor": 0}  # drafts whether it pays or not
LONG = {"max_tokens": 240, "ignore_end": True, "logprobs": True}
# What a choice depends on beside the logits: the position and the seed, and which tokens are the answer.
STREAMS = [([("user", "Write a Python function that reverses a string.")], LONG),
           ([("user", "Tell me a long story about a ship.")], {**LONG, "temperature": 1.0, "seed": 7, "presence_penalty": 0.6, "frequency_penalty": 0.3}),
           ([("user", "What is a fever, and when is it dangerous?")], {**LONG, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 8, "repetition_penalty": 1.2}),
           ([("user", "Anna has 12 apples, gives away 5 and buys 9. How many does she have?")],
            {**LONG, "ignore_end": False, "min_tokens": 230, "temperature": 0.9, "min_p": 0.02, "seed": 9, "frequency_penalty": 0.2})]


def parts(replies):
    replies = list(replies)
    return [t for r in replies for t in r.tokens], [x for r in replies for x in r.logprobs.token], "".join(r.text for r in replies), replies[-1].finish_reason


def verifiers(metrics, name):
    return [metrics[f"consort_verifier_{name}", f'group="{group}"'] for group in ("target", "second")]


def rank_pid(cluster, rank):
    return sorted(cluster.worker_pids())[rank - 1]  # mpirun starts ranks in order


def begin(cluster, speculation):
    """Streams that have each given a reply, and the replies."""
    calls = [cluster.stream(prompt, speculation=speculation, **fields) for prompt, fields in STREAMS]
    return calls, [[next(call)] for call in calls]


def test_requests_are_spread_over_the_verifiers_and_answered_alike(new_cluster, alone):
    cluster = new_cluster(drafters=[SECOND, CODE], kv_tokens=8192, threads=1, **FIXED)
    calls, begun = begin(cluster, "all")
    assert verifiers(cluster.metrics(), "requests_running") == [2, 2]
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    until(cluster.is_idle, "the blocks to be free")
    end = cluster.metrics()
    assert verifiers(end, "up") == [1, 1] and verifiers(end, "kv_blocks") == [256, 256]
    assert all(busy > 0 for busy in verifiers(end, "busy_seconds_total"))
    assert end["consort_displaced_requests_total", ""] == 0
    assert end["consort_drafter_accepted_tokens_total", 'drafter="code"'] > 0
    steps = [end["consort_worker_steps_total", f'rank="{rank}",group="{group}",role="verifier"'] for rank, group in ((1, "target"), (2, "second"))]
    assert sum(steps) == end["consort_steps_total", ""] and min(steps) > 0
    shown = consort("status", "--server", cluster.server).stdout
    assert "rank 1: up, verifier target" in shown and "rank 2: up, verifier second" in shown


@pytest.mark.parametrize("speculation, ranks", [("all", 2), ("none", 1)])
def test_requests_of_a_killed_verifier_go_on_in_the_other_with_the_same_bytes(new_cluster, alone, speculation, ranks):
    cluster = new_cluster(drafters=[{**SECOND, "tensor_parallel": ranks}, CODE], kv_tokens=8192, threads=1, **FIXED)
    calls, begun = begin(cluster, speculation)
    assert verifiers(cluster.metrics(), "requests_running") == [2, 2]
    os.kill(rank_pid(cluster, 1), signal.SIGKILL)
    until(lambda: verifiers(cluster.metrics(), "up") == [0, 1], "the loss to be noticed")
    after = cluster.metrics()
    assert after["consort_num_requests_running", ""] + after["consort_num_requests_waiting", ""] == 4, "some were over before the verifier was killed"
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    end = cluster.metrics()
    assert end["consort_displaced_requests_total", ""] == 2
    assert end["consort_request_queue_time_seconds_count", ""] == 4 and end["consort_request_failure_total", 'code="UNAVAILABLE"'] == 0
    assert cluster.status().ready and cluster.http("/health")[0].status == 200
    assert "rank 1: down, verifier target" in consort("status", "--server", cluster.server).stdout

    # The last one is lost, too.
    call = cluster.stream(STREAMS[0][0], **LONG)
    next(call)
    os.kill(rank_pid(cluster, 1), signal.SIGKILL)  # of those that are left
    with pytest.raises(grpc.RpcError) as e:
        list(call)
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE and "the verifier group was lost" in e.value.details()
    assert not cluster.status().ready and cluster.http("/health")[0].status == 503
    cluster.launcher.send_signal(signal.SIGTERM)
    cluster.ends(0)
    assert not cluster.left_behind()


def test_a_drained_verifier_gives_its_requests_to_the_other_with_the_same_bytes(new_cluster, alone):
    cluster = new_cluster(drafters=[SECOND, CODE], kv_tokens=8192, threads=1, **FIXED)
    server = ("--server", cluster.server)
    calls, begun = begin(cluster, "all")
    assert verifiers(cluster.metrics(), "requests_running") == [2, 2]
    assert consort("drain", "second", "--wait", *server).returncode == 0
    after = cluster.metrics()
    assert verifiers(after, "requests_running")[1] == 0 and verifiers(after, "drained") == [0, 1]
    assert after["consort_num_requests_running", ""] + after["consort_num_requests_waiting", ""] == 4, "some were over before the verifier was drained"
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    assert "rank 2: up, drained, verifier second" in consort("status", *server).stdout
    steps = lambda: cluster.metrics()["consort_worker_steps_total", 'rank="2",group="second",role="verifier"']
    before = steps()
    for prompt, fields in STREAMS[:2]:
        list(cluster.stream(prompt, **{**fields, "max_tokens": 4}))
    assert steps() == before

    refused = [consort("drain", name, *server, check=False) for name in ("target", "code", "x" * 40)]
    assert [r.returncode for r in refused] == [1, 1, 1]
    assert "no other verifier group that is ready takes requests" in refused[0].stderr
    assert "group: there is no verifier 'code'; there are: target, second" in refused[1].stderr

    # It serves again, and the other can be drained.
    assert consort("drain", "second", "--undo", *server).returncode == 0
    assert consort("drain", "target", "--wait", "--timeout", "30", *server).returncode == 0
    list(cluster.stream(STREAMS[0][0], **{**LONG, "max_tokens": 4}))
    assert steps() > before and verifiers(cluster.metrics(), "drained") == [1, 0]
