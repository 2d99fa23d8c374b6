"""A verifier group of several ranks: the same bytes as one, its share of the weights on each, and no survivor trapped by a dead rank."""
import json
import os
import signal

import grpc
import pytest

from support import MODEL, consort, cpu_seconds, until

N_WORKERS = [2, 3, 4]  # 9 query heads in 3 KV groups and 6 FFN units: all of these split unevenly somewhere
REQUESTS = [
    ("The capital of France is", {"max_tokens": 40, "ignore_end": True}),
    ([("user", "Write a Python function that reverses a string.")], {"max_tokens": 60}),
    ([("user", "Tell me a story about a ship.")], {"max_tokens": 60, "temperature": 1.0, "seed": 11}),
    ("1, 2, 3, 4, " * 80, {"max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 12}),
]


@pytest.fixture(scope="module")
def alone(cluster):
    """What one rank answers, and how many bytes of weights it holds."""
    (worker,) = cluster.status().workers
    return [cluster.generate(prompt, **fields).ids for prompt, fields in REQUESTS], worker.weight_bytes


def sums_in_memory(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return "/dev/shm/consort-sum-" in maps.read()


@pytest.mark.parametrize("n, sums", [(n, "memory") for n in N_WORKERS] + [(3, "messages")])
def test_any_number_of_ranks_gives_the_same_bytes_from_its_shares(new_cluster, alone, n, sums, monkeypatch):
    expected, whole_bytes = alone
    monkeypatch.setenv("CONSORT_SUMS", sums)
    cluster = new_cluster(tensor_parallel=n, threads=1)
    assert [sums_in_memory(pid) for pid in cluster.worker_pids()] == [sums == "memory"] * n
    workers = cluster.status().workers
    assert [(w.rank, w.group_rank, w.group_size, w.up) for w in workers] == [(i + 1, i, n, True) for i in range(n)]
    # Only a KV head whose query heads are on two ranks stands twice.
    shares = [w.weight_bytes for w in workers]
    assert whole_bytes <= sum(shares) < 1.05 * whole_bytes
    assert all(share < 1.5 * whole_bytes / n for share in shares), shares
    assert [cluster.generate(prompt, **fields).ids for prompt, fields in REQUESTS] == expected
    together = cluster.generate_all(REQUESTS * 3)
    assert [answer.ids for answer in together] == expected * 3


def memory_bytes(pid):
    """What a process holds for itself: not the pages of files that it reads."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        fields = dict(line.split(":", 1) for line in status)
    return sum(1024 * int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_rank_holds_its_share_and_little_else(new_cluster, n):
    """As `consort inspect --tp` foretells it."""
    kv_tokens = 4096
    ranks = json.loads(consort("inspect", "--json", "--tp", n, MODEL).stdout)["ranks"]
    cluster = new_cluster(tensor_parallel=n, threads=1, kv_tokens=kv_tokens)
    cluster.generate("Once upon a time", max_tokens=4)
    for worker, pid, rank in zip(cluster.status().workers, sorted(cluster.worker_pids()), ranks, strict=True):
        assert worker.weight_bytes <= rank["weight_bytes"] < worker.weight_bytes + (1 << 20)  # with the vectors
        most = 1.1 * rank["weight_bytes"] + kv_tokens * rank["kv_token_bytes"] + 40e6
        print(pid, memory_bytes(pid), most)
        assert memory_bytes(pid) <= most, (n, rank)


@pytest.mark.parametrize("victim, sums", [("the leader", "memory"), ("another rank", "memory"), ("another rank", "messages")])
def test_a_lost_rank_traps_nobody(new_cluster, victim, sums, monkeypatch):
    monkeypatch.setenv("CONSORT_SUMS", sums)
    cluster = new_cluster(tensor_parallel=3, threads=1)
    call = cluster.stream(max_tokens=4000, ignore_end=True)
    next(call)
    pids = sorted(cluster.worker_pids())  # mpirun starts ranks in order
    os.kill(pids[0] if victim == "the leader" else pids[-1], signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as e:
        list(call)
    assert e.value.code() == grpc.StatusCode.UNAVAILABLE
    until(lambda: not cluster.worker_pids(), "the survivors of the group to leave")
    status = cluster.status()
    assert not status.ready and "lost" in status.reason and status.requests_running == 0
    cluster.launcher.send_signal(signal.SIGTERM)
    cluster.ends(0)
    assert not cluster.left_behind()


def test_a_leader_that_is_late_with_a_plan_is_waited_for(new_cluster, alone):
    cluster = new_cluster(tensor_parallel=2, threads=1)
    leader, follower = sorted(cluster.worker_pids())
    os.kill(leader, signal.SIGSTOP)
    try:
        call = cluster.stream(REQUESTS[0][0], **REQUESTS[0][1])
        until(lambda: cluster.status().requests_running == 1, "the plan to be sent")
        before = cpu_seconds([follower])
        until(lambda: cpu_seconds([follower]) > before + 0.05, "the woken rank to listen in vain", 2)
    finally:
        os.kill(leader, signal.SIGCONT)
    assert [token for reply in call for token in reply.tokens] == alone[0][0]
