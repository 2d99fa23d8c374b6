"""`consort simulate`: from a trace of our own making, so that what must come out can be said beforehand; and from one of a real cluster."""
import json

import pytest

from support import ROOT, consort, topology_text

CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
RANKS, DEPTHS, BINS = 2, 4, 16


def habit(name, belief_bin=15, hits=100, none=0):
    seen = [0] * (RANKS * DEPTHS * BINS)
    right = list(seen)
    for depth in range(DEPTHS):
        seen[depth * BINS + belief_bin], right[depth * BINS + belief_bin] = 100, hits
    return {"name": name, "none": [none] * DEPTHS, "seen": seen, "hits": right}


def span(kind, lane, start_us, dur_us, **args):
    return {"ph": "X", "cat": kind, "name": "r-1" if kind == "request" else "on its way", "pid": 2 if kind == "request" else 1, "tid": lane,
            "ts": start_us, "dur": dur_us, "args": {"plan": 1, "sequences": 1, "tokens": 0, "prompt": 0, "drafted": 0, "accepted": 0, **args}}


def made_trace(**changes):
    """Steps of 10 ms up to 8 rows, prompts of nothing; a drafter of 1 ms; prompts of 20 tokens, answers of 50."""
    events = [{"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "drafter code, rank 2"}}]
    for i in range(40):
        events.append(span("step", 1, 20000 * i, 10000, tokens=1 + i % 8))
        events.append(span("draft", 2, 20000 * i + 10000, 1000, tokens=5, prompt=1, drafted=4))
    events.append(span("step", 1, 900000, 0, sequences=0))
    events.append(span("request", 0, 0, 900000, tokens=50, prompt=20))
    return {"habits": [habit("code"), habit("lookup", belief_bin=4, hits=20, none=1)], "traceEvents": events, **changes}


def write_topology(directory, **topology):
    path = directory / "topology.yaml"
    path.write_text(topology_text(str(directory), drafters=[CODE], **topology), encoding="utf-8")
    return path


@pytest.fixture
def simulate(tmp_path):
    """simulate(trace, option, ..., topology={}): the summary, or what was said."""
    def run(trace, *options, topology=None, fails=False):
        path = tmp_path / "trace.json"
        path.write_text(trace if isinstance(trace, str) else json.dumps(trace), encoding="utf-8")
        config = write_topology(tmp_path, **(topology or {"draft_budgets": "fixed"}))
        done = consort("simulate", "--topology", config, "--trace", path, "--json", *options, check=False)
        assert done.returncode == fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout)

    return run


def test_without_drafts_a_step_is_a_token(simulate):
    s = simulate(made_trace(), "--speculation", "none", "--requests", 10, "--tokens", 50)
    assert s["requests"] == 10 and s["tokens"] == 500 and s["steps"] == 500 and s["drafted"] == 0
    assert s["tokens_per_s"] == pytest.approx(100, rel=0.01) and s["nodes"]["verifier"]["busy"] == pytest.approx(1, abs=0.01)
    assert s["ranks"] == 1 and s["scheduler_bytes"] > 0 and s["decisions_per_s"] > 0 and s["load"] == "closed" and s["streams"] == 1
    twice = simulate(made_trace(), "--speculation", "none", "--requests", 20, "--tokens", 50, "--streams", 2, "--copies", 2)
    assert twice["tokens_per_s"] == pytest.approx(200, rel=0.01) and twice["schedulers_bytes"] == 2 * s["scheduler_bytes"]


def test_what_a_sequence_adds_is_learnt_from_steps_of_equal_rows(simulate):
    trace = made_trace()
    for i, step in enumerate(e for e in trace["traceEvents"] if e.get("cat") == "step" and e["args"]["tokens"] > 2):
        step["args"]["sequences"] = 1 + i // 6 % 3  # so that each number of rows has each
        step["dur"] += 2000 * (i // 6 % 3)
    for streams, step_ms in (1, 10), (2, 12), (3, 14), (6, 20):
        s = simulate(trace, "--speculation", "none", "--requests", 20 * streams, "--tokens", 50, "--streams", streams)
        assert s["tokens_per_s"] == pytest.approx(streams / (step_ms / 1e3), rel=0.04)


def test_verifiers_share_the_load_and_the_drafters(tmp_path):
    config, trace = tmp_path / "topology.yaml", tmp_path / "trace.json"
    config.write_text(topology_text(str(tmp_path), drafters=[{"name": "second", "role": "verifier", "kv_type": "f16"}, CODE], draft_budgets="fixed", draft_ahead="off"), encoding="utf-8")
    trace.write_text(json.dumps(made_trace()), encoding="utf-8")
    s = json.loads(consort("simulate", "--topology", config, "--trace", trace, "--speculation", "fixed:code", "--json", "--requests", 20, "--tokens", 51,
                           "--streams", 2).stdout)
    assert s["ranks"] == 3 and s["copies"] == 1 and s["tokens"] == 1020 and s["by_drafter"]["code"]["accepted"] == 800
    assert s["tokens_per_s"] == pytest.approx(2 * 51 / (11 * 0.010 + 10 * 0.001), rel=0.03)
    assert s["nodes"]["verifier"]["least"] > 0.85


def test_a_perfect_drafter_saves_four_steps_of_five(simulate):
    late = {"draft_budgets": "fixed", "draft_ahead": "off"}
    s = simulate(made_trace(), "--speculation", "fixed:code", "--requests", 10, "--tokens", 51, topology=late)
    assert s["tokens"] == 510 and s["steps"] == 10 * (1 + 10) and s["by_drafter"]["code"]["accepted"] == 400
    assert s["tokens_per_s"] == pytest.approx(51 / (11 * 0.010 + 10 * 0.001), rel=0.02)
    early = simulate(made_trace(), "--speculation", "fixed:code", "--requests", 10, "--tokens", 51)  # as long as early results are right it is waited for no more
    assert early["tokens_per_s"] == pytest.approx(51 / (11 * 0.010 + 10 * 0.001 * 0.03), rel=0.01) and early["steps"] == s["steps"]
    slow = simulate(made_trace(), "--speculation", "fixed:code", "--requests", 10, "--tokens", 51, "--link-ms", 10, topology=late)
    assert slow["tokens_per_s"] == pytest.approx(51 / (11 * 0.030 + 10 * 0.021), rel=0.05)
    assert s["nodes"]["code"]["mbit_per_s"] > slow["nodes"]["code"]["mbit_per_s"] > 0


def test_a_seed_is_a_run_and_a_rate_is_an_open_loop(simulate):
    options = ("--requests", 40, "--rate", 1.5, "--tokens", 50)
    s, again, other = (simulate(made_trace(), *options, "--seed", seed, topology={"speculation": "all"}) for seed in (3, 3, 4))
    real = {"client_cpu_s", "events_per_s", "decisions_per_s", "decision_us", "scheduler_share"}
    assert {k: v for k, v in s.items() if k not in real} == {k: v for k, v in again.items() if k not in real}
    assert s["seconds"] != other["seconds"] and s["load"] == "open" and s["rate"] == 1.5


def test_what_is_measured_is_compared(simulate, tmp_path):
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"full": {"tokens": 800, "seconds": 10}, "tokens_per_step": 1}), encoding="utf-8")
    config = write_topology(tmp_path)
    (tmp_path / "trace.json").write_text(json.dumps(made_trace()), encoding="utf-8")
    done = consort("simulate", "--topology", config, "--trace", tmp_path / "trace.json", "--speculation", "none", "--against", measured)
    assert "measured 80.0 tokens/s, 1.000 a step; simulated " in done.stderr and "+2" in done.stderr, done.stderr


@pytest.mark.parametrize("trace, options, words", [
    ("{", (), ["trace.json: line 1"]),
    ({"traceEvents": []}, (), ["no traceEvents and habits", "consort trace --out"]),
    (made_trace(traceEvents=[]), (), ["0 steps and 0 requests", "consort bench serve"]),
    (made_trace(habits=[habit("lookup")]), ("--speculation", "all"), ["drafter code has drafted nothing", "--like"]),
    (made_trace(habits=[habit("code")]), ("--speculation", "lookup"), ["lookup has drafted nothing", "--speculation none"]),
    (made_trace(habits=[{**habit("code"), "none": [1]}]), (), ["none: 1 counts, expected 4"]),
    (made_trace(habits=[habit("code", hits=101)]), (), ["more hits than were seen"]),
    (made_trace(), ("--speculation", "nobody"), ["topology.yaml", "speculation", "nobody"]),
])
def test_what_is_wrong_is_said(simulate, trace, options, words):
    said = simulate(trace, *options, fails=True)
    assert all(word in said for word in words), said


def test_unknown_drafters_may_be_like_a_known_one(simulate):
    trace = made_trace(habits=[habit("other"), habit("lookup", belief_bin=4, hits=20, none=1)])
    trace["traceEvents"][0]["args"]["name"] = "drafter other, rank 2"
    s = simulate(trace, "--speculation", "fixed:code", "--like", "other", "--requests", 4)
    assert s["by_drafter"]["code"]["accepted"] > 0


def test_the_corpus_drafts_as_in_the_trace(tmp_path):
    config, trace = tmp_path / "topology.yaml", tmp_path / "trace.json"
    config.write_text(topology_text(str(tmp_path), draft_budgets="fixed", corpus=f"{ROOT}/drafters/corpus.ngram"), encoding="utf-8")

    def run(*habits):
        trace.write_text(json.dumps(made_trace(habits=[habit("lookup", belief_bin=4, hits=20, none=1), *habits])), encoding="utf-8")
        done = consort("simulate", "--topology", config, "--trace", trace, "--json", "--speculation", "all", "--requests", 10, "--tokens", 51)
        return json.loads(done.stdout), done.stderr

    s, said = run(habit("corpus"))
    assert 10 * (1 + 10) <= s["steps"] < 130 and s["by_drafter"]["corpus"]["accepted"] > 300 and s["ranks"] == 1 and not said
    s, said = run()
    assert s["steps"] > 200 and "corpus" not in s["by_drafter"] and "simulated without the corpus: it has drafted nothing in" in said


def test_drafters_of_one_file_draft_the_same(tmp_path):
    (tmp_path / "trace.json").write_text(json.dumps(made_trace(habits=[habit("code", hits=50), habit("lookup", belief_bin=4, hits=20, none=1)])), encoding="utf-8")

    def run(*tables):
        config = tmp_path / "topology.yaml"
        drafters = [{**CODE, "name": f"code-{i}" if i else "code", "table": f"{ROOT}/drafters/{table}.ngram"} for i, table in enumerate(tables)]
        config.write_text(topology_text(str(tmp_path), drafters=drafters, draft_budgets="fixed", fusion="merge", draft_ahead="off"), encoding="utf-8")
        return json.loads(consort("simulate", "--topology", config, "--trace", tmp_path / "trace.json", "--like", "code", "--json", "--speculation", "all",
                                  "--requests", 40, "--tokens", 50).stdout)

    copies, others = run("code", "code", "code"), run("code", "math", "general")
    assert copies["by_drafter"]["code"] == copies["by_drafter"]["code-1"] == copies["by_drafter"]["code-2"]
    assert others["by_drafter"]["code"] != others["by_drafter"]["code-1"] and others["steps"] < 0.9 * copies["steps"]
    assert copies["ranks"] == 4 and copies["nodes"]["code-2"]["busy"] > 0


def test_prompts_move_from_the_verifier_that_prefills(tmp_path):
    trace = made_trace()
    trace["traceEvents"][-1]["args"]["prompt"] = 100
    (tmp_path / "trace.json").write_text(json.dumps(trace), encoding="utf-8")
    second = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 4096, "threads": 1, "serves": "prefill"}
    config = tmp_path / "topology.yaml"
    config.write_text(topology_text(str(tmp_path), drafters=[second], draft_budgets="fixed"), encoding="utf-8")

    def run(*options):
        return json.loads(consort("simulate", "--topology", config, "--trace", tmp_path / "trace.json", "--json", "--speculation", "none", "--requests", 10,
                                  "--tokens", 50, *options).stdout)

    s, still = run("--move-mbit", 1000), run()
    assert s["moves"] == 10 and s["moved_tokens"] == 10 * 96 and still["moves"] == 0 and s["tokens"] == still["tokens"] == 500


def test_a_traced_cluster_can_be_simulated(new_cluster, tmp_path):
    cluster = new_cluster(drafters=[CODE], draft_floor=0)
    cluster.generate_all([("def f(x):", {"max_tokens": 60, "ignore_end": True, "speculation": "all"})] * 6)
    consort("trace", "--server", cluster.server, "--out", tmp_path / "trace.json")
    config = write_topology(tmp_path, draft_floor=0)
    s = json.loads(consort("simulate", "--topology", config, "--trace", tmp_path / "trace.json", "--streams", 2, "--json").stdout)
    assert s["failed"] == 0 and s["requests"] == 64 and s["tokens_per_s"] > 0 and s["by_drafter"]["lookup"]["drafted"] > 0
    assert 0 < s["nodes"]["verifier"]["busy"] <= 1 and s["drafted"] >= s["accepted"] > 0
