"""KV blocks that go to disk when blocks run out, and come back: the bytes are the same, less is computed, no file is left."""
import concurrent.futures
import json
import os
import re

import grpc
import pytest

from support import ROOT, consort, until

CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
SMALL = {"kv_tokens": 512, "max_context": 320, "prefill_chunk": 32, "max_rows": 64, "max_batch": 16}


def figures(cluster):
    m = cluster.metrics()
    names = ("num_preemptions_total", "kv_swapped_out_blocks_total", "kv_swapped_in_blocks_total", "kv_swap_slots", "kv_swap_slots_used", "kv_swap_out_seconds_total",
             "kv_swap_in_seconds_total", "step_tokens_total")
    return {name: m[f"consort_{name}", ""] for name in names}


def requests(n):
    """Of 60 + 200 tokens each, 9 blocks: of 16 not two have theirs to the end."""
    return [([2000 + i] * 60, {"max_tokens": 200, "ignore_end": True, "logprobs": True, **({"temperature": 1.0, "seed": i} if i % 2 else {})}) for i in range(n)]


def open_swap_files(cluster, directory):
    """What the workers have open of it; they are nameless."""
    found = []
    for pid in cluster.worker_pids():
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        found += [link for link in links if link.startswith(str(directory))]
    return found


@pytest.mark.parametrize("changes", [{"speculation": "none"}, {"tensor_parallel": 2, "threads": 1, "speculation": "lookup", "draft_budgets": "fixed", "draft_floor": 0},
                                     {"kv_type": "k6v4", "max_stall_ms": 1, "drafters": [CODE]}])
def test_what_was_sent_away_comes_back_from_disk_with_the_same_bytes(new_cluster, tmp_path, changes):
    cluster = new_cluster(swap_tokens=4096, swap_directory=tmp_path, **{**SMALL, **changes})
    asked = requests(5)
    alone = [cluster.generate(p, cache_salt="alone", **f) for p, f in asked]
    before = figures(cluster)
    assert before["num_preemptions_total"] == before["kv_swapped_in_blocks_total"] == 0 and before["kv_swap_slots"] == 4096 / 32
    together = cluster.generate_all(asked)
    after = figures(cluster)
    assert [(a.ids, a.text) for a in together] == [(a.ids, a.text) for a in alone]
    assert after["num_preemptions_total"] > 0
    assert after["kv_swapped_out_blocks_total"] >= after["kv_swapped_in_blocks_total"] > 0
    assert after["kv_swap_out_seconds_total"] > 0 and after["kv_swap_in_seconds_total"] > 0
    assert after["kv_swap_slots_used"] <= after["kv_swapped_out_blocks_total"] - after["kv_swapped_in_blocks_total"]
    until(cluster.is_idle, "the blocks to be free")
    assert os.listdir(tmp_path) == [] and len(open_swap_files(cluster, tmp_path)) == changes.get("tensor_parallel", 1)


def test_without_swap_tokens_there_is_no_file(new_cluster, tmp_path):
    cluster = new_cluster(swap_directory=tmp_path, speculation="none", **SMALL)
    cluster.generate_all(requests(3))
    seen = figures(cluster)
    assert seen["num_preemptions_total"] > 0 and seen["kv_swap_slots"] == seen["kv_swapped_out_blocks_total"] == 0
    assert open_swap_files(cluster, tmp_path) == []


def answer(cluster, prompt, fields):
    """(tokens that came, how it ended)"""
    ids = []
    try:
        for reply in cluster.stream(prompt, **fields):
            ids += reply.tokens
    except grpc.RpcError as e:
        return ids, e.code()
    return ids, grpc.StatusCode.OK


def test_a_disk_that_changes_bytes_ends_the_verifier_and_no_answer_is_wrong(new_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSORT_FAULTS", "swap.flip=1")
    cluster = new_cluster(swap_tokens=4096, swap_directory=tmp_path, speculation="none", threads=1, **SMALL)
    asked = requests(5)
    alone = [cluster.generate(p, cache_salt="alone", **f).ids for p, f in asked]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda r: answer(cluster, *r), asked))
    assert grpc.StatusCode.UNAVAILABLE in {end for _, end in together} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert all(ids == expected[:len(ids)] and (end != grpc.StatusCode.OK or ids == expected) for (ids, end), expected in zip(together, alone))
    assert re.search(r"swap file: slot \d+ holds other bytes than were put in", cluster.output())
    until(lambda: not cluster.worker_pids(), "the rank to end")
    assert os.listdir(tmp_path) == []


def test_a_rank_whose_disk_is_slow_is_waited_for_and_not_lost(new_cluster, tmp_path):
    """The third prompt pushes six blocks of the first out, in one step: the second rank takes three seconds for them, and would be missing in the step's first sum."""
    cluster = new_cluster(swap_tokens=4096, swap_directory=tmp_path, speculation="none", tensor_parallel=2, threads=1, debug="on", dead_after_ms=2000, kv_tokens=512, max_context=320,
                          prefill_chunk=320, max_rows=320, max_batch=4)
    asked = [([n] * length, {"max_tokens": 4, "ignore_end": True}) for n, length in ((2000, 200), (2000, 200), (2001, 300), (2002, 300), (2000, 200))]
    alone = [cluster.generate(p, cache_salt=str(i), **f) for i, (p, f) in enumerate(asked)]
    consort("debug", "forget", "--server", cluster.server)
    consort("debug", "faults", "swap.stall=1", "--rank", "2", "--server", cluster.server)
    before = figures(cluster)
    again = [cluster.generate(p, **f) for p, f in asked[:-1]]
    assert figures(cluster)["kv_swap_slots_used"] >= 6
    again.append(cluster.generate(asked[-1][0], **asked[-1][1]))
    after = figures(cluster)
    assert [(a.ids, a.text) for a in again] == [(a.ids, a.text) for a in alone]
    assert len(cluster.worker_pids()) == 2 and "lost" not in cluster.output()
    n_out, took = (after[name] - before[name] for name in ("kv_swapped_out_blocks_total", "kv_swap_out_seconds_total"))
    assert n_out >= 6 and took >= 0.5 * n_out  # the slowest rank's time, and not the leader's
    left = json.loads(consort("debug", "forget", "--json", "--server", cluster.server).stdout)
    assert left["slots"] == left["used"] == left["kept"] == 0, left
