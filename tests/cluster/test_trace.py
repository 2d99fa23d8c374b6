"""`consort trace`: what nodes and requests were busy with, as a picture of them side by side."""
import collections
import json

from support import ROOT, consort

CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}


def lanes(events, process):
    """{thread: [(start, end, event)] of the outer spans}, and the names of the threads."""
    spans, names = collections.defaultdict(list), {}
    for e in events:
        if e["pid"] == process and e["ph"] == "M" and e["name"] == "thread_name":
            names[e["tid"]] = e["args"]["name"]
        if e["pid"] == process and e["ph"] == "X":
            spans[e["tid"]].append((e["ts"], e["ts"] + e["dur"], e))
    return spans, names


def test_a_trace_shows_each_step_draft_and_request(new_cluster, tmp_path):
    cluster = new_cluster(drafters=[CODE], draft_floor=0)
    answers = cluster.generate_all([("def f(x):", {"max_tokens": 24, "ignore_end": True, "speculation": "all"})] * 3)
    before = cluster.metrics()
    said = consort("trace", "--server", cluster.server, "--out", tmp_path / "trace.json").stderr
    with open(tmp_path / "trace.json", encoding="utf-8") as f:
        events = json.load(f)["traceEvents"]
    nodes, names = lanes(events, 1)
    assert sorted(names.values()) == ["drafter code, rank 2", "verifier target, rank 1"]
    steps = [e for _, _, e in nodes[1] if e["name"] == "step"]
    assert len(steps) >= before["consort_steps_total", ""] >= 24 / 5
    assert {e["args"]["sequences"] for e in steps} - {0} and sum(e["args"]["tokens"] for e in steps) > 3 * 24
    assert [e for _, _, e in nodes[2] if e["name"] == "draft"]
    for spans in nodes.values():
        outer = sorted(s for s in spans if s[2]["name"] == "on its way")
        inner = sorted(s for s in spans if s[2]["name"] != "on its way")
        assert len(outer) == len(inner)
        for (start, end, _), (first, last, _) in zip(outer, inner):
            assert start <= first <= last <= end + 0.01  # microseconds: decimals are cut
        for (_, end, _), (start, _, _) in zip(outer, outer[1:]):
            assert end <= start + 0.01
    requests, _ = lanes(events, 2)
    assert sorted(e["name"] for spans in requests.values() for _, _, e in spans if e["name"] != "until the first token") == \
        sorted(a.request_id for a in answers)
    assert "rank 1: busy for " in said and "rank 2: busy for " in said, said


def test_a_trace_that_cannot_be_written_says_so(cluster):
    done = consort("trace", "--server", cluster.server, "--out", "/nowhere/trace.json", check=False)
    assert done.returncode == 1 and "/nowhere/trace.json: cannot be written: No such file" in done.stderr, done
