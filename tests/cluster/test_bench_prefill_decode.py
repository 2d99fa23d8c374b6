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

import prefill_decode  # noqa: E402  (its folder is known only now)

SMALL = ("--quick", "--streams", 2, "--tokens", 12, "--long", 2, "--long-tokens", "165,200", "--every", 0.1)
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
    assert list(result["clusters"]) == ["both", "apart"]
    for name, one in result["clusters"].items():
        for figure in prefill_decode.FIGURES:
            assert len(one[figure.key]["rounds"]) == 2 and min(one[figure.key]["rounds"]) > 0
            ratios = result["speed_in_that_of_both"][figure.key]
            assert 0 < ratios["min"] <= ratios["median"] <= ratios["max"]
        assert set(one["disturbed_in_steady"]) == {"p50", "p99", "max"} and all(0 <= n <= 2 for n in one["covered"])
        assert one["moves"] == [{"done": 2 * (name == "apart"), "failed": 0, "cancelled": 0}] * 2  # each long prompt was computed where it should be
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


def test_an_answer_that_differs_is_named_and_fails_the_run(tmp_path):
    (tmp_path / "consort").write_text(SPOILER, encoding="utf-8")
    os.chmod(tmp_path / "consort", 0o755)
    os.symlink(f"{BUILD}/consortd", tmp_path / "consortd")
    status, out, said = bench(*SMALL, "--rounds", 1, "--sizes", 40, "--build", tmp_path)
    assert status == 1 and "NOT THE SAME BYTES" in said
    assert re.search(r"^apart, disturbed: .*(steady|long)-\d: the answer differs", out, re.MULTILINE), out
    rows = re.findall(r"^\| ([\w, ]+) \|", out, re.MULTILINE)
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
