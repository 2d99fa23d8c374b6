"""`consort debug`: faults that are made in a running cluster, seen, and ended; and a KV cache that forgets what it keeps. Whatever is done,
answers keep their bytes."""
import json
import os
import signal

import pytest

import support
from support import consort, until
from test_groups import STREAMS, begin, parts, rank_pid

SECOND = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 8192, "threads": 1, "tensor_parallel": 2}
POINTS = ["move.flip", "move.short", "move.cut", "swap.flip", "move.stall", "swap.stall"]


def debug(cluster, *arguments, check=True):
    done = consort("debug", *arguments, "--json", "--server", cluster.server, check=check)
    return json.loads(done.stdout) if check else done


def one_in(told, point):
    """{rank: one pass in so many}"""
    return {t["rank"]: p["one_in"] for t in told for p in t["points"] if p["name"] == point}


def test_a_cluster_that_was_not_started_for_it_refuses_and_says_what_it_takes(cluster):
    for what in (["faults"], ["faults", "move.flip=2"], ["faults", "off"], ["forget"]):
        done = debug(cluster, *what, check=False)
        assert done.returncode == 1 and "debug: on" in done.stderr, done
    assert "faults are made on purpose" not in cluster.output()


def test_faults_change_while_requests_move_and_change_no_byte(new_cluster, alone):
    cluster = new_cluster(drafters=[SECOND], kv_tokens=8192, threads=1, debug="on")
    told = debug(cluster, "faults")
    assert sorted((t["rank"], t["group"], t["error"]) for t in told) == [(0, "coordinator", None), (1, "target", None), (2, "second", None), (3, "second", None)]
    assert all([p["name"] for p in t["points"]] == POINTS and all(p["help"] and not p["one_in"] for p in t["points"]) for t in told)
    calls, begun = begin(cluster, "none")
    told = debug(cluster, "faults", "move.flip=1,seed=7", "--group", "second")
    assert sorted(t["rank"] for t in told) == [2, 3] and one_in(told, "move.flip") == {2: 1, 3: 1}
    told = debug(cluster, "faults", "move.cut=1", "--rank", 1)
    assert one_in(told, "move.cut") == {1: 1}
    consort("drain", "second", "--wait", "--server", cluster.server)
    for call, first, expected in zip(calls, begun, alone):
        assert parts(first + list(call)) == expected
    told = debug(cluster, "faults")
    assert one_in(told, "move.flip") == {0: 0, 1: 0, 2: 1, 3: 1} and one_in(told, "move.cut") == {0: 0, 1: 1, 2: 0, 3: 0}
    hits = {t["rank"]: {p["name"]: p["hits"] for p in t["points"]} for t in told}
    assert hits[2]["move.flip"] + hits[3]["move.flip"] > 0 and hits[1]["move.cut"] > 0, hits
    text = consort("debug", "faults", "--server", cluster.server).stdout
    assert "move.cut     the link of a flow breaks" in text and "rank 1 target: move.cut 1 in 1 (" in text and "rank 0 coordinator: off\n" in text
    assert consort("debug", "faults", "off", "--server", cluster.server).stdout.count("1 in") == 0
    assert set(one_in(debug(cluster, "faults"), "move.cut").values()) == {0}
    until(cluster.is_idle, "the blocks to be free")


def test_what_makes_no_sense_is_told_and_changes_nothing(new_cluster):
    cluster = new_cluster(drafters=[SECOND], threads=1, debug="on")
    debug(cluster, "faults", "move.stall=9")
    for arguments, says in ((["faults", "move.stahl=1"], "there is no fault point 'move.stahl'"), (["faults", "x"], "expected POINT=N"), (["faults", "--rank", 4], "this cluster has 0 (the coordinator) to 3"),
                            (["faults", "--group", "third"], "there is no 'third'"), (["faults", "--group", "second", "--rank", 2], "expected one of them at most")):
        done = debug(cluster, *arguments, check=False)
        assert done.returncode == 1 and says in done.stderr, done
    assert debug(cluster, "forget", "off", check=False).returncode == debug(cluster, "flaws", check=False).returncode == 2
    assert set(one_in(debug(cluster, "faults"), "move.stall").values()) == {9}


def test_a_rank_that_is_lost_is_named(new_cluster):
    cluster = new_cluster(drafters=[SECOND], threads=1, debug="on")
    os.kill(rank_pid(cluster, 3), signal.SIGKILL)
    until(lambda: cluster.metrics()["consort_verifier_up", 'group="second"'] == 0, "the loss to be noticed")
    told = {t["rank"]: t for t in debug(cluster, "faults", "move.cut=5")}  # no failure: it was lost before
    assert one_in(told.values(), "move.cut") == {0: 5, 1: 5} and all(told[r]["error"] and not told[r]["points"] for r in (2, 3))
    done = debug(cluster, "faults", "--group", "second", check=False)
    assert done.returncode == 1 and "rank 2 (second): " in done.stderr, done


def test_a_rank_that_does_nothing_is_named(new_cluster):
    cluster = new_cluster(drafters=[SECOND], threads=1, debug="on")
    pid = rank_pid(cluster, 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = debug(cluster, "faults", "move.cut=5", check=False)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1 and "rank 1 (target): " in done.stderr, done
    assert {t["rank"] for t in json.loads(done.stdout)} == {0, 1, 2, 3}


OTHER_FILE = """#!/bin/sh
if [ "$OMPI_COMM_WORLD_RANK" = 2 ]; then
    sed 's/^debug: on$/debug: off/' "$2" >"$2.other"
    config=$2.other
    shift 2
    set -- --config "$config" "$@"
fi
exec {build}/consortd "$@"
"""


def test_a_rank_whose_own_file_does_not_say_it_does_nothing(new_cluster, monkeypatch, tmp_path):
    (tmp_path / "consortd").write_text(OTHER_FILE.format(build=support.BUILD), encoding="utf-8")
    (tmp_path / "consortd").chmod(0o755)
    (tmp_path / "consort").symlink_to(f"{support.BUILD}/consort")
    monkeypatch.setattr(support, "BUILD", str(tmp_path))
    cluster = new_cluster(drafters=[SECOND], threads=1, debug="on")
    done = debug(cluster, "faults", "move.cut=5", check=False)
    assert done.returncode == 1 and "rank 2 (second): its topology does not say debug: on" in done.stderr, done
    told = json.loads(done.stdout)
    assert one_in(told, "move.cut") == {0: 5, 1: 5, 2: 0, 3: 5} and [t["rank"] for t in told if t["error"]] == [2]


def test_nothing_is_kept_once_it_is_forgotten(new_cluster, alone):
    cluster = new_cluster(drafters=[SECOND], kv_tokens=8192, threads=1, debug="on")
    prompt, fields = STREAMS[1]
    assert parts(cluster.stream(prompt, speculation="none", **fields)) == alone[1]
    until(cluster.is_idle, "the blocks to be free")
    kept = cluster.metrics()["consort_kv_cache_blocks_kept", ""]
    first = debug(cluster, "forget")
    assert first["forgotten"] == kept > 0 and first["used"] == first["reserved"] == first["kept"] == 0 and first["total"] == 512
    call = cluster.stream(prompt, speculation="none", **fields)
    begun = [next(call)]
    busy = debug(cluster, "forget")  # in the midst of it
    assert busy["used"] > 0 and busy["kept"] == 0
    replies = begun + list(call)
    assert parts(replies) == alone[1] and replies[-1].usage.cached_tokens == 0
    until(cluster.is_idle, "the blocks to be free")
    assert debug(cluster, "forget")["forgotten"] == 0  # what it held when all was forgotten is not kept either
