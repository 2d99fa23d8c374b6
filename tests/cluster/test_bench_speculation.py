"""bench/speculation.py: that it compares what it says it does. What it measures is not judged."""
import argparse
import glob
import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from support import BUILD, ROOT, consort, topology_text

sys.path.insert(0, f"{ROOT}/bench")

import pinned  # noqa: E402  (its folder is known only now)
import speculation  # noqa: E402

DRAFTER = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
BASELINES = sorted(glob.glob(f"{ROOT}/cluster-configs/baselines/*.yaml"))


@pytest.fixture
def bench(tmp_path):
    """A folder with `none`, `fixed` and a `pipeinfer` that no version knows, and prompts. start(option, ...): the program."""
    for folder in ("prompts", "configs", "build"):
        (tmp_path / folder).mkdir()
    for domain, texts in {"code": ["Write a function that adds two numbers.", "Sort three numbers."], "math": ["Add 7 and 8."]}.items():
        lines = [json.dumps({"id": f"{domain}-{i}", "domain": domain, "prompt": text}) for i, text in enumerate(texts)]
        (tmp_path / "prompts" / f"{domain}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    small = {"threads": 1, "max_batch": 16}
    for name, text in {"none": topology_text(tmp_path, speculation="none", **small),
                       "fixed": topology_text(tmp_path, [DRAFTER], speculation="fixed:code", draft_budgets="fixed", **small),
                       "pipeinfer": topology_text(tmp_path, [DRAFTER], magic="true")}.items():
        (tmp_path / "configs" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def start(*options):
        command = [f"{ROOT}/bench/speculation.py", "--prompts", tmp_path / "prompts", "--configs", tmp_path / "configs", "--build", BUILD,
                   "--tokens", 8, "--requests", 3, *options]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    start.folder = tmp_path
    return start


def finish(process):
    out, said = process.communicate(timeout=300)
    return process.returncode, out, said


def test_every_load_runs_on_every_configuration_in_every_round(bench):
    status, out, said = finish(bench("--json", "--rounds", 2, "--plots", bench.folder / "plots"))
    assert status == 0, said
    result = json.loads(out)
    assert result["bytes_equal"] is True and result["interrupted"] is None and list(result["configurations"]) == ["none", "fixed"]
    for name, one in result["configurations"].items():
        for figure in speculation.FIGURES:
            assert len(one["rounds"][figure.key]) == 2 and one["n_rounds"][figure.key] == [2, 2] and min(one["rounds"][figure.key]) > 0
            s = one["speed_in_that_of_none"][figure.key]
            assert min(one["rounds"][figure.key]) <= one[figure.key] <= max(one["rounds"][figure.key]) and 0 < s["min"] <= s["median"] <= s["max"]
            assert name != "none" or s["min"] == s["max"] == 1
        assert set(one["by_domain"]) == {"code", "math"}
    assert result["configurations"]["none"]["settings"] == {"speculation": "none"}
    assert result["configurations"]["fixed"]["settings"] == {"speculation": "fixed:code", "draft_budgets": "fixed"}
    assert result["configurations"]["none"]["tokens_per_step"] == 1 <= result["configurations"]["fixed"]["tokens_per_step"]
    assert re.search("no such file", result["skipped"]["consort"]) and re.search("unknown key 'magic'", result["skipped"]["pipeinfer"])
    order = re.findall(r"to go: (.*), (\w+):", said)  # another one first each round
    n = len(order) // 2
    assert [c for _, c in order[:n]] == ["none", "fixed"] * (n // 2) and [c for _, c in order[n:]] == ["fixed", "none"] * (n // 2)
    assert [load for load, _ in order[:n:2]] == ["latency", "closed 2", "closed 4", "saturation", "part 50", "part 80"]
    for plot in ("speculation-latency", "speculation-throughput"):
        xml.etree.ElementTree.parse(bench.folder / "plots" / f"{plot}.svg")


SPOILER = f"""#!/bin/sh
# The real one; but the answers that are expected of a load are spoilt before it.
for word; do [ "$last" = --expect ] && sed -i 's/"tokens_sha256": "..../"tokens_sha256": "0000/' "$word"; last=$word; done
exec {BUILD}/consort "$@"
"""


def test_an_answer_that_differs_is_named_and_fails_the_run(bench):
    (bench.folder / "build" / "consort").write_text(SPOILER, encoding="utf-8")
    os.chmod(bench.folder / "build" / "consort", 0o755)
    os.symlink(f"{BUILD}/consortd", bench.folder / "build" / "consortd")
    options = ["--quick", "--rounds", 1, "--only", "none,fixed", "--build", bench.folder / "build"]
    status, out, said = finish(bench("--json", *options))
    result = json.loads(out)
    assert status == 1 and result["bytes_equal"] is False and len(result["configurations"]["fixed"]["rounds"]["throughput_4"]) == 1
    assert any(re.match(r"fixed, closed 4: .*(code|math)-\d: the answer differs", text) for text in result["differences"]) and "NOT THE SAME BYTES" in said


def test_the_tables_tell_the_same(bench):
    os.rename(bench.folder / "configs" / "fixed.yaml", bench.folder / "configs" / "consort.yaml")
    status, out, said = finish(bench("--quick", "--rounds", 1, "--ablations"))
    assert status == 0, said
    rows = re.findall(r"^\| ([\w-]+) \|", out, re.MULTILINE)
    assert rows.count("none") == 3 and rows.count("no-corpus") == 4 and "byte for byte" in out
    assert "| fixed-budget | fixed:code | 4 | 15 | fixed | - | - | - |" in out
    assert re.search("head-alone was left out: .*speculation", out)  # it asks for `writer`


def test_routing_is_compared_over_five_drafters(bench):
    os.rename(bench.folder / "configs" / "fixed.yaml", bench.folder / "configs" / "consort.yaml")
    status, out, said = finish(bench("--json", "--quick", "--rounds", 1, "--ablations", "routing"))
    assert status == 0, said
    result = json.loads(out)
    assert result["bytes_equal"] and [one["settings"]["speculation"] for one in result["configurations"].values()] == ["none", "fixed:code", "hedge", "cosine", "all", "round-robin"]


def test_ablations_are_consort_with_other_keys_and_ranks(tmp_path):
    with open(f"{ROOT}/cluster-configs/baselines/consort.yaml", encoding="utf-8") as f:
        text = f.read()
    asked = {}
    for ablations in speculation.ABLATIONS.values():
        assert not set(ablations) & {*speculation.NAMES, *asked}
        for name, keys in ablations.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(pinned.with_keys(text, keys), encoding="utf-8")
            asked[name] = consort("check-config", path).stdout.count("  drafter ")
            assert speculation.settings_of(path.read_text(encoding="utf-8"))["corpus"] == ("" if name in ("no-corpus", "lookup") else "drafters/corpus.ngram")
    assert {name for name, n in asked.items() if n == 5} == {"hedge", "cosine", "all", "round-robin", "merge", "lockstep"}
    assert [asked[name] for name in ("no-head", "only-code", "only-medicine", "head-alone", "lookup")] == [0, 1, 1, 1, 1]


def test_tuning_tries_all_and_names_the_best(bench):
    status, out, said = finish(bench("--tune", "--rounds", 1, "--budgets", "1,3", "--floors", "0,99"))
    assert status == 0, said
    assert re.search(r"^fixed.yaml should say draft_budget: [13], draft_floor: (0|99)$", out, re.MULTILINE) and "none.yaml" not in out
    assert said.count(" of none; ") == 4


def test_a_signal_stops_the_clusters_and_tells_what_was_measured(bench):
    process = bench("--json", "--rounds", 1000, "--only", "none")
    lines = iter(process.stderr.readline, "")
    assert any("7 of" in line for line in lines)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    result = json.loads(out)
    assert process.returncode == 1 and "ended early" in said and result["interrupted"] == "by a signal" and result["bytes_equal"] is False
    assert len(result["configurations"]["none"]["rounds"]["latency_per_token_ms"]) >= 1


@pytest.mark.parametrize("options, status, says", [
    (["--prompts", "/nowhere"], 2, "/nowhere does not exist"),
    (["--build", "/nowhere"], 2, "/nowhere/consort is missing; scripts/setup"),
    (["--only", "fixed"], 1, "without `none` there is nothing to compare with"),
    (["--only", "none", "--configs", "/nowhere"], 1, "/nowhere/none.yaml: there is no such file"),
    (["--only", "none", "--tokens", "100000"], 1, "none, all answers: .*--tokens"),
])
def test_what_cannot_be_run_is_told(bench, options, status, says):
    got, _, said = finish(bench(*options))
    assert got == status and re.search(says, said), said


@pytest.mark.parametrize("ranks, where", [(1, {0: [1], 1: [0], 2: [1]}), (2, {0: [0, 1], 1: [0], 2: [1], 3: [0, 1]})])
def test_the_verifier_has_a_core_and_all_others_the_other(tmp_path, ranks, where):
    cores = pinned.two_cores()
    with pinned.Cluster("c", topology_text(tmp_path, [DRAFTER], tensor_parallel=ranks, threads=1), tmp_path, BUILD, cores) as c:
        found = {rank: {frozenset(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{pid}/task")} for pid, rank in c.processes() if rank is not None}
        assert found == {rank: {frozenset(cores[i] for i in at)} for rank, at in where.items()}
        assert c.client_cores == [cores[i] for i in where[0]]


def test_a_cluster_that_does_not_start_is_told_with_its_last_words(tmp_path):
    cluster = pinned.Cluster("c", topology_text(tmp_path, model="/nowhere.gguf"), tmp_path, BUILD, pinned.two_cores())
    with pytest.raises(pinned.Failure, match="(?s)c: .*/nowhere.gguf"), cluster:
        pass


def record(scheduled, first, last, tokens):
    return {"scheduled_ns": scheduled * 10**9, "first_token_ns": first * 10**9, "last_token_ns": last * 10**9, "end_ns": last * 10**9, "tokens": tokens}


def test_the_rate_of_saturation_counts_the_time_in_which_enough_requests_are_there():
    records = [record(0, 1, 5, 8), record(2, 3, 11, 16), record(3, 7, 9, 4)]  # two are there from 2 to 9
    assert speculation.saturated_rate(records, 2) == pytest.approx((6 + 12 + 4) / 7)
    assert speculation.saturated_rate(records, 3) == pytest.approx((4 + 4) / 2)
    assert speculation.saturated_rate(records, 4) is None


def results(**medians):
    """Of one load in two rounds: ms a token."""
    return {name.replace("_", "-"): {"latency": [{"ms_per_token": ms, "tokens_per_step": 12 / ms} for _ in range(2)]} for name, ms in medians.items()}


def test_over_one_is_better_whatever_the_figure():
    latency, steps = (next(f for f in speculation.FIGURES if f.key == key) for key in ("latency_per_token_ms", "tokens_per_step"))
    found = results(none=12, none_all=1, fixed=8, specinfer=6, consort=4, fixed_budget=2)
    for figure in (latency, steps):
        assert speculation.speed(found, "fixed", "none", figure) == [1.5, 1.5] and speculation.speed(found, "pipeinfer", "none", figure) == []
        assert speculation.in_best_baseline(found, figure) == ("specinfer", [1.5, 1.5])
    assert speculation.in_best_baseline(results(none=12, consort=4), latency) is None


def test_a_round_that_was_never_saturated_is_left_out_and_that_is_told(capsys):
    rates = {"none": [100, 110, 120], "fixed": [None, 330, 240], "consort": [None, None, None]}
    found = {name: {"saturation": [{"saturated_tokens_per_s": r} for r in rounds]} for name, rounds in rates.items()}
    figure = next(f for f in speculation.FIGURES if f.key == "throughput_tokens_per_s")
    assert speculation.rounds_of(found, "fixed", figure) == [330, 240] and speculation.rounds_of(found, "consort", figure) == []
    assert speculation.speed(found, "fixed", "none", figure) == [3, 2]  # each in its own round
    b = argparse.Namespace(results=found, settings=dict.fromkeys(rates, {}), capacity=1, skipped={}, differences=[], interrupted=None,
                           a=argparse.Namespace(tokens=8, rounds=3, quick=False))
    told = speculation.as_json(b)["configurations"]
    assert told["fixed"]["throughput_tokens_per_s"] == 285 and told["fixed"]["n_rounds"] == {figure.key: [2, 3]}
    assert told["none"]["n_rounds"] == {figure.key: [3, 3]} and figure.key not in told["consort"]["rounds"]
    speculation.print_tables(b)
    out = capsys.readouterr().out
    assert "| fixed | 285.00 (2 of 3 rounds) |" in out and "| none | 110.00 |" in out and "| consort | - |" in out


TUNED = argparse.Namespace(tokens=8, requests=3, quick=False, rounds=3, budgets=[1, 2], floors=[0])


def test_tuning_names_the_least_median(capsys):
    speculation.print_tuning(argparse.Namespace(a=TUNED, tuned={"fixed": {(1, 0): [9, 5, 1], (2, 0): [4, 4, 100]}}))
    out = capsys.readouterr().out
    assert "fixed.yaml should say draft_budget: 2, draft_floor: 0" in out and "| 1 | 5.00 (1.00 - 9.00) |" in out and "of 3 rounds" in out


def test_tuning_that_ended_early_tells_of_how_many_rounds(capsys):
    speculation.print_tuning(argparse.Namespace(a=TUNED, tuned={"fixed": {(1, 0): [9, 5], (2, 0): [4]}, "specinfer": {(1, 0): [1]}}))
    out = capsys.readouterr().out
    assert "of 1 to 2 rounds" in out and "fixed.yaml should say draft_budget: 2" in out
    assert "specinfer.yaml" not in out and "| 2 | - |" in out and "not all were measured" in out


def test_tuning_tries_all_baselines_with_fixed_budgets():
    tuned = {name for name in speculation.NAMES if speculation.is_tuned(open(f"{ROOT}/cluster-configs/baselines/{name}.yaml", encoding="utf-8").read())}
    assert tuned == {"fixed", "specinfer", "pipeinfer", "cosine-paper"}


def test_settings_are_those_of_the_topology():
    assert speculation.settings_of('speculation: all\ncorpus: ""\n# draft_floor: 3\ndraft_budget: 8\ngroups:\n  - {name: a}\n') == {"speculation": "all", "corpus": "", "draft_budget": 8}


def test_the_committed_configurations_differ_only_in_who_drafts_and_how():
    assert {os.path.basename(path) for path in BASELINES} >= {"none.yaml", "none-all.yaml", "fixed.yaml", "specinfer.yaml", "pipeinfer.yaml", "cosine-paper.yaml", "consort.yaml"}
    groups = {}
    for path in BASELINES:
        name = os.path.basename(path).removesuffix(".yaml")
        consort("check-config", path)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        assert name in speculation.NAMES and text.startswith(f"# bench/speculation.py, {name}: ")
        assert {"max_batch: 16", "max_running: 16"} <= set(text.splitlines())
        told = speculation.settings_of(text)
        if "speculation: none\n" not in text:
            assert {"speculation", "draft_budget", "draft_floor"} <= set(told)
            assert name == "consort" or {"draft_budgets", "fusion", "draft_ahead"} <= set(told), "a baseline leaves nothing to defaults, which may change"
        groups[name] = text.partition("groups:\n")[2]
    assert groups["fixed"].startswith(groups["consort"]) and groups["consort"].startswith(groups["none"])  # consort has some of the ranks
    assert len({g for name, g in groups.items() if name not in ("none", "none-all", "consort")}) == 1
