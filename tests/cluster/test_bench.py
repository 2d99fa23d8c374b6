"""`consort bench engine`, and the drivers in bench/ that start MPI or measure a running cluster: they run and make their tables. What they measure is not judged."""
import json
import os
import re
import subprocess

from support import BUILD, MODEL, ROOT, consort, sanitizer_environment, sanitizer_reports


def bench(name, *arguments, directory):
    environment = {**os.environ, **sanitizer_environment(directory)}
    done = subprocess.run([f"{ROOT}/bench/{name}", "--build", BUILD, *map(str, arguments)], env=environment, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not sanitizer_reports(directory)
    return done.stdout


def test_collectives_and_the_wake_up_are_measured_for_each_number_of_ranks(tmp_path):
    out = bench("collectives", "--ranks", "2,3", "--rounds", 1, "--repetitions", 10, "--wakes", 3, directory=tmp_path)
    rows = [line.split("|")[1:-1] for line in out.splitlines()]
    assert [cell.split()[:2] for cell in rows[0][1:]] == [["2", "ranks"], ["3", "ranks"]], out
    assert len(rows) == 8 and all(re.fullmatch(r" [\d.]+ / [\d.]+ ", cell) for row in rows[2:] for cell in row[1:]), out
    assert sum("WAKE" in row[0] for row in rows) == 1


def test_the_overhead_of_a_cluster_is_measured(cluster, tmp_path):
    out = bench("overhead", cluster.run_file, "--tokens", 4, "--requests", 2, "--idle", 0, directory=tmp_path)
    assert re.search(r"^\| steady, no drafts \| 5 \| \d+ \| [\d.]+ \| 0 \| \|$", out, re.MULTILINE), out
    assert re.search(r"^The first plan after a rest of 0\.5 s takes ", out, re.MULTILINE), out
    names = re.findall(r"^\| (.*) \| [\d.]+% \|$", out, re.MULTILINE)
    assert names == ["launcher", "mpirun", "rank 0, coordinator", "rank 1, verifier target", "together"], out


def test_the_engine_is_measured_with_its_operations():
    done = consort("bench", "engine", "--model", MODEL, "--prompt", 8, "--generate", 2, "--batch", "1,2", "--verify", "3", "--context", 5, "--kv-type", "q8", "--profile", "--json")
    results = json.loads(done.stdout)
    assert [(r["test"], r["batch"]) for r in results] == [("prompt", 1), ("decode", 1), ("decode", 2), ("verify", 3)]
    for result in results:
        assert result["tokens_per_s"] > 0 and result["read_roof_gb_per_s"] > 0
        steps = {"prompt": 1, "decode": 2, "verify": 2}[result["test"]]
        calls = {(o["operation"], o.get("rows"), o.get("cols")): o["calls"] for o in result["operations"]}
        layers, dim = 30, 576
        assert calls["matmul", 960, dim] == layers * steps, "q, k and v are one sweep"
        assert calls["matmul", 3072, dim] == layers * steps, "gate and up are one"
        assert calls["matmul", 49152, dim] == steps
        assert calls["attention", None, None] == layers * steps
    text = consort("bench", "engine", "--model", MODEL, "--prompt", 8, "--generate", 1, "--batch", "1", "--profile").stdout
    assert "% of the read roof" in text and "tokens/s" in text
