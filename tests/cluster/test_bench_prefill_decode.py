"""bench/prefill_decode.py: that it compares what it says it does. What it measures is not judged."""
import json
import os
import re
import statistics
import subprocess
import sys

import pytest

from support import BUILD, ROOT

sys.path.insert(0, f"{ROOT}/bench")

import pinned  # noqa: E402  (its folder is known only now)
import prefill_decode  # noqa: E402

SMALL = ("--quick", "--streams", 2, "--tokens", 150, "--long", 2, "--long-tokens", "165,200", "--every", 0.1)
BLOCK_BYTES = 30 * 2 * 3 * 64 * 2 * 32  # layers, K and V, heads, f16, tokens


def moves_take_less(rounds):
    ratios = [r["move_ms"] / r["compute_ms"] for r in rounds if r["move_ms"] is not None]
    return bool(ratios) and statistics.median(ratios) < 1


def bench(*options):
    done = subprocess.run([f"{ROOT}/bench/prefill_decode.py", "--build", BUILD, *map(str, options)], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def test_both_clusters_have_the_same_work_and_the_same_bytes():
    status, out, said = bench("--json", *SMALL, "--rounds", 2, "--sizes", "40,170")
    assert status == 0, said
    result = json.loads(out)
    assert result["bytes_equal"] is True and result["differences"] == [] and result["interrupted"] is None
    assert list(result["clusters"]) == ["both", "apart"] and result["max_stall_ms"] == 200
    for name, one in result["clusters"].items():
        for figure in prefill_decode.FIGURES:
            assert len(one[figure.key]["rounds"]) == 2 and min(one[figure.key]["rounds"]) > 0
            ratios = result["speed_in_that_of_both"][figure.key]
            assert 0 < ratios["min"] <= ratios["median"] <= ratios["max"]
        assert set(one["disturbed_in_steady"]) == {"p50", "p99", "max"} and all(0 <= n <= 2 for n in one["covered"])
        assert one["moves"] == [{"done": 2 * (name == "apart"), "failed": 0, "cancelled": 0}] * 2  # each long prompt was computed where it should be
        mixed = [m for load in ("steady", "disturbed") for m in one["mixed"][load]]
        assert len(mixed) == 4 and one["mixed"]["first"]["longest_is_of_this_run"] == (one["mixed"]["first"]["steps"] > 0)
        assert one["longest_mixed_ms"] == max(m["longest_so_far_ms"] for m in mixed)
        for m in mixed:
            assert 0 <= m["over"] <= m["steps"] and (m["steps"] == 0 or 0 < m["mean_ms"] < m["longest_so_far_ms"] + 0.001)
            assert not m["over"] or m["longest_so_far_ms"] > 200
    of_both = result["clusters"]["both"]  # a prompt of 165 takes three steps of 64 beside a stream; the streams' own are shorter
    assert sum(m["steps"] for m in of_both["mixed"]["disturbed"]) >= 3 * (sum(of_both["covered"]) > 0), of_both
    for one, blocks in zip(result["moved"], (1, 5)):
        assert all(r["prompt_tokens"] - one["tokens"] in (0, 1) and r["pause_ms"] > 0 and r["compute_ms"] > 0 for r in one["rounds"])
        for r in (r for r in one["rounds"] if r["move_ms"] is not None):  # it was not done before it was drained
            assert r["move_ms"] > 0 and blocks * BLOCK_BYTES <= r["moved_bytes"] <= (blocks + 4) * BLOCK_BYTES
    assert any(r["move_ms"] for one in result["moved"] for r in one["rounds"])
    gains = [moves_take_less(one["rounds"]) for one in result["moved"]]
    assert result["crossover_tokens"] == min((one["tokens"] for i, one in enumerate(result["moved"]) if all(gains[i:])), default=None)
    order = re.findall(r"to go: (\w+), (\w+):", said)  # another one first each round
    assert order == [(load, name) for names in (("both", "apart"), ("apart", "both")) for load in ("steady", "disturbed") for name in names]


# The real one; but the answers that are expected of a load are spoilt before it.
SPOILER = f"""#!/bin/sh
for word; do [ "$last" = --expect ] && sed -i 's/"tokens_sha256": "..../"tokens_sha256": "0000/' "$word"; last=$word; done
exec {BUILD}/consort "$@"
"""


def mixed_in(text, cluster, load):
    """As the tables have them: how many, and how many over what bound, in ms."""
    return list(map(int, re.search(rf"(?m)^{cluster}, {load}: (\d+) mixed steps of .* ms, (\d+) of them longer than (\d+)$", text).groups()))


def test_an_answer_that_differs_is_named_and_fails_the_run(tmp_path):
    (tmp_path / "consort").write_text(SPOILER, encoding="utf-8")
    os.chmod(tmp_path / "consort", 0o755)
    os.symlink(f"{BUILD}/consortd", tmp_path / "consortd")
    with open(f"{ROOT}/cluster-configs/prefill-and-decode.yaml", encoding="utf-8") as f:
        (tmp_path / "short.yaml").write_text(pinned.with_keys(f.read(), {"max_stall_ms": 1}), encoding="utf-8")  # where every step is longer
    status, out, said = bench(*SMALL, "--rounds", 1, "--sizes", 40, "--build", tmp_path, "--config", tmp_path / "short.yaml")
    assert status == 1 and "NOT THE SAME BYTES" in said
    assert re.search(r"^apart, disturbed: .*(steady|long)-\d: the answer differs", out, re.MULTILINE), out
    rows = re.findall(r"^\| ([\w, ]+) \|", out, re.MULTILINE)
    steps, over, bound = mixed_in(out, "both", "disturbed")
    assert steps == over > 0 and bound == 1 and re.search(r"longest mixed step \(max_stall_ms 1\) \|$", out, re.MULTILINE), out
    assert rows == ["ms", "both", "apart", "apart, times as good", "both", "apart", "tokens", "40"], out


@pytest.mark.parametrize("options, status, says", [
    (["--config", "/nowhere"], 2, "--config: /nowhere does not exist"),
    (["--build", "/nowhere"], 2, "/nowhere/consort is missing; scripts/setup"),
    (["--long-tokens", "9"], 2, "--long-tokens"),
    (["--config", f"{ROOT}/README.md"], 1, "both: consort check-config: both.yaml:"),
])
def test_what_cannot_be_run_is_told(options, status, says):
    got, _, said = bench(*options)
    assert got == status and says in said, said


def test_the_bound_is_that_of_the_topology_or_the_default():
    assert prefill_decode.max_stall_ms("model: a\nmax_stall_ms: 35\ngroups:\n") == 35
    with open(f"{ROOT}/docs/configuration.md", encoding="utf-8") as f:
        assert f"| `max_stall_ms` | 0 .. 60000 ms | {prefill_decode.max_stall_ms('model: a')} |" in f.read()


def test_mixed_steps_are_those_of_a_run_and_their_longest_that_of_the_cluster():
    def metrics(n, over, seconds, longest):
        return dict(zip(("consort_mixed_steps_total", "consort_mixed_steps_over_total", "consort_mixed_step_seconds_total", "consort_mixed_step_seconds_max"),
                        (n, over, seconds, longest)))

    first, second = (metrics(10, 1, 1.5, 0.25), metrics(14, 3, 2.0, 0.25))
    assert prefill_decode.mixed_steps(first, second) == {"steps": 4, "over": 2, "mean_ms": 125, "longest_so_far_ms": 250, "longest_is_of_this_run": False}
    assert prefill_decode.mixed_steps({}, first)["longest_is_of_this_run"]
    assert prefill_decode.mixed_steps(second, second)["mean_ms"] is None
    loads = {"steady": [{"mixed": prefill_decode.mixed_steps({}, first)}], "disturbed": [{"mixed": prefill_decode.mixed_steps(first, second)}] * 2}
    assert prefill_decode.longest_mixed(loads) == 250
    assert prefill_decode.mixed_in_words(loads["disturbed"], 200) == "8 mixed steps of 125.00 (125.00 - 125.00) ms, 4 of them longer than 200"
    assert prefill_decode.mixed_in_words(loads["steady"], 0).endswith("without a bound")


def runs(*pairs):
    return [{"move_ms": move, "pause_ms": 1, "compute_ms": compute} for move, compute in pairs]


def test_the_crossover_is_where_moves_take_less_from_there_on():
    assert prefill_decode.crossover({32: runs((1, 2)), 64: runs((9, 2)), 128: runs((1, 2), (3, 2), (1, 2)), 256: runs((1, 9))}) == 128
    assert prefill_decode.crossover({32: runs((1, 2)), 64: runs((3, 2))}) is None
    assert prefill_decode.crossover({32: runs((None, 2), (1, 2)), 64: runs((1, 2))}) == 32  # one that did not move says nothing
    assert prefill_decode.crossover({32: []}) is None


def test_over_one_is_better_whatever_the_figure():
    def summary(ms, rate):
        return {"inter_token_ms": {"p50": ms, "p99": ms, "max": ms}, "tokens_per_s": rate}

    found = {"both": {"steady": [summary(8, 100)], "disturbed": [summary(80, 50)]}, "apart": {"steady": [summary(4, 200)], "disturbed": [summary(8, 100)]}}
    for figure in (f for f in prefill_decode.FIGURES if f.load == "steady"):
        assert prefill_decode.speed(found, figure) == [2]
    assert prefill_decode.hurt(found, "both", "p99") == [10] and prefill_decode.hurt(found, "apart", "p99") == [2]
