"""bench/simulator: that it measures and simulates what it says it does. How far off the simulator is is not judged."""
import json
import subprocess

import pytest

from support import BUILD, ROOT, topology_text

CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
LOADS = ["2", "1", "r9", "1:none"]


def bench(*options):
    done = subprocess.run([f"{ROOT}/bench/simulator", "--build", BUILD, *map(str, options)], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_load_is_measured_and_simulated(tmp_path):
    config, prompts, kept = tmp_path / "topology.yaml", tmp_path / "code.jsonl", tmp_path / "kept"
    config.write_text(topology_text(str(tmp_path), drafters=[CODE], draft_floor=0, speculation="all", corpus=f"{ROOT}/drafters/corpus.ngram"), encoding="utf-8")
    prompts.write_text("".join(json.dumps({"id": str(i), "prompt": f"Write a function that adds {i} numbers."}) + "\n" for i in range(2, 6)), encoding="utf-8")
    small = ["--config", config, "--prompts", prompts, "--domains", "code", "--calibrate", "2", "--check", ",".join(LOADS[1:]), "--rounds", 1, "--requests", 2,
             "--simulated", 2]
    loads = json.loads(bench(*small, "--keep", kept, "--json"))["loads"]
    assert list(loads) == LOADS and [x["calibrated"] for x in loads.values()] == [True, False, False, False]
    for load, x in loads.items():
        assert len(x["rounds"]) == 1 and x["rounds"][0] == pytest.approx(x["tokens_per_s"]["measured"])
        for name in ("tokens_per_s", "tokens_per_step", "ms_per_token", "whole_ms"):
            one = x[name]
            assert one["measured"] > 0 and one["simulated"] > 0 and one["off_by"] == pytest.approx(one["simulated"] / one["measured"] - 1)
        assert (x["tokens_per_step"]["measured"] == 1) == (x["tokens_per_step"]["simulated"] == 1) == load.endswith("none")
    topologies = [(kept / name / "topology.yaml").read_text(encoding="utf-8") for name in ("calibrate", "check")]
    assert all("prefix_cache: off" in text for text in topologies)
    traces = [json.loads((kept / name).read_text(encoding="utf-8")) for name in ("trace.json", "trace-of-check.json")]
    assert {h["name"] for h in traces[0]["habits"]} == {"code", "lookup", "corpus"}
    requests = [sum(e.get("cat") == "request" and e["name"] != "until the first token" for e in t["traceEvents"]) for t in traces]
    assert requests == [(2 + 2) * (1 + n) for n in (1, 3)]  # each load has two before it, and there is one before all of them

    again = bench(*small, "--kept", kept)  # nothing is measured, and of one seed all is the same
    rows = [row.split(" | ") for row in again.splitlines()[2:]]
    assert [(row[0].lstrip("| "), row[1]) for row in rows] == [(load, "checked" if i else "calibrated") for i, load in enumerate(LOADS)]
    assert [float(row[3]) for row in rows] == [pytest.approx(x["tokens_per_s"]["simulated"], abs=0.06) for x in loads.values()]
