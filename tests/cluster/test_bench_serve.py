"""`consort bench serve`: on a real cluster, that figures and records fit each other and answers can be compared between runs; on a server of our own
making, which can hold, refuse and spoil answers, how the two loops send. What is measured is not judged."""
import collections
import concurrent.futures
import json
import math
import os
import signal
import subprocess
import threading

import grpc
import pytest

from support import BUILD, PATIENCE_SECONDS, consort, until

Done = collections.namedtuple("Done", "code summary records said")

PROMPTS = {
    "code": ["Write a function that adds two numbers.", "What is a list?", "Sort three numbers.", "Print the date."],
    "math": ["What is 12 times 12?", "Add 7 and 8."],
}


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for domain, texts in PROMPTS.items():
        lines = [json.dumps({"id": f"{domain}-{i}", "domain": domain, "prompt": text}) for i, text in enumerate(texts)]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


@pytest.fixture
def serve(tmp_path, prompts):
    """serve(server, option, ...): Done of one run. The records of the last one are in serve.path."""
    path = tmp_path / "records"

    def run(server, *arguments):
        done = consort("bench", "serve", "--server", server, "--prompts", prompts, "--json", "--records", path, *arguments, check=False)
        return Done(done.returncode, json.loads(done.stdout) if done.stdout else None, read_lines(path) if path.exists() else [], done.stderr)

    run.path = path
    return run


def nearest_rank(values, percent):
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def check_times(summary, records):
    """Percentiles are those of the records; 5e-6: digits printed."""
    for key, values in {
        "first_token_ms": [r["first_token_ns"] - r["scheduled_ns"] for r in records],
        "whole_ms": [r["end_ns"] - r["scheduled_ns"] for r in records],
        "late_ms": [r["sent_ns"] - r["scheduled_ns"] for r in records],
    }.items():
        for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)):
            assert summary[key][name] == pytest.approx(nearest_rank(values, percent) / 1e6, rel=1e-5), (key, name)
    for r in records:
        assert 0 <= r["scheduled_ns"] <= r["sent_ns"] < r["first_token_ns"] <= r["last_token_ns"] <= r["end_ns"]
    assert summary["seconds"] == pytest.approx(max(r["end_ns"] for r in records) / 1e9, rel=1e-5)
    assert summary["tokens"] == sum(r["tokens"] for r in records)
    assert summary["tokens_per_s"] == pytest.approx(summary["tokens"] / summary["seconds"], rel=1e-4)
    assert summary["requests_per_s"] == pytest.approx(summary["requests"] / summary["seconds"], rel=1e-4)


# ---- a real cluster ----

def test_figures_and_records_of_a_closed_loop_fit_each_other(cluster, serve):
    done = serve(cluster.server, "--requests", 8, "--streams", 3, "--tokens", 12, "--warm-up", 2, "--speculation", "lookup")
    s = done.summary
    assert done.code == 0 and not done.said and len(done.records) == s["requests"] == 8 and s["failed"] == 0 and s["load"] == "closed"
    check_times(s, done.records)
    assert sorted(r["domain"] for r in done.records) == ["code"] * 4 + ["math"] * 4
    assert {r["id"] for r in done.records} == {f"{domain}-{i}" for domain, texts in PROMPTS.items() for i in range(len(texts))}
    for r in done.records:
        assert r["error"] is None and r["speculation"] == "lookup" and 0 < r["tokens"] <= 12
        assert r["finish_reason"] == "stop" or r["tokens"] == 12
        assert list(r["by_drafter"]) == ["lookup"] and r["by_drafter"]["lookup"]["accepted"] == r["accepted"]
    for key in ("steps", "drafted", "accepted", "prompt_tokens"):
        assert s[key] == sum(r[key] for r in done.records)
    assert s["tokens_per_step"] == pytest.approx((s["steps"] + s["accepted"]) / s["steps"], rel=1e-5)
    assert s["by_drafter"]["lookup"]["drafted"] == s["drafted"]
    assert s["by_domain"]["math"]["requests"] == 4 and s["by_domain"]["code"]["tokens"] + s["by_domain"]["math"]["tokens"] == s["tokens"]


def test_the_hash_is_that_of_the_answers_tokens(cluster, serve):
    import hashlib

    record = serve(cluster.server, "--domains", "math", "--requests", 1, "--tokens", 10).records[0]
    text = PROMPTS["math"][int(record["id"].split("-")[1])]
    ids = cluster.generate([("user", text)], max_tokens=10).ids
    assert record["tokens_sha256"] == hashlib.sha256(b"".join(i.to_bytes(4, "little") for i in ids)).hexdigest()


def test_answers_are_compared_with_those_of_another_run(cluster, serve, tmp_path):
    expected = tmp_path / "expected"
    assert serve(cluster.server, "--requests", 8, "--tokens", 8, "--speculation", "none").code == 0  # all prompts
    serve.path.rename(expected)
    for load in (["--streams", 4], ["--rate", 50, "--speculation", "lookup", "--seed", 9]):
        done = serve(cluster.server, "--requests", 12, "--tokens", 8, "--expect", expected, *load)
        assert done.code == 0 and done.summary["expected"] == {"compared": 12, "unknown": 0, "differ": 0}, done
    records = read_lines(expected)
    for id_, times in (("code-1", 1), ("math-1", 2)):  # the other record of math-1 is as it was
        changed = next(i for i, r in enumerate(records) if r["id"] == id_)
        lines = [{**r, "tokens_sha256": "0" * 64} if i == changed else r for i, r in enumerate(records)]
        expected.write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
        done = serve(cluster.server, "--requests", 8, "--tokens", 8, "--expect", expected)
        assert done.code == 1 and done.summary["expected"] == {"compared": 8, "unknown": 0, "differ": times}
        assert f"{id_}: the answer differs from that of {expected}" in done.said and "0000000000000000" in done.said
    done = serve(cluster.server, "--requests", 2, "--tokens", 9, "--expect", expected)  # other parameters: nothing to compare
    assert done.code == 1 and done.summary["expected"] == {"compared": 0, "unknown": 2, "differ": 0} and "no request of this run" in done.said
    consort("bench", "serve", "--server", cluster.server, "--prompts", tmp_path / "prompts", "--requests", 1)  # the table
    for line in ("{", '{"id": "a"}', json.dumps({**records[0], "tokens_sha256": "0" * 63 + "x"})):
        expected.write_text("\n" + line + "\n", encoding="utf-8")
        done = serve(cluster.server, "--requests", 1, "--expect", expected)
        assert done.code == 1 and f"{expected}, line 2: expected" in done.said and not done.summary


def test_seeds_are_part_of_a_request_only_where_tokens_are_drawn(cluster, serve, tmp_path):
    expected = tmp_path / "expected"
    arguments = ["--requests", 2, "--domains", "math", "--tokens", 8, "--temperature", 1]
    assert serve(cluster.server, *arguments, "--seed", 3).code == 0
    serve.path.rename(expected)
    assert serve(cluster.server, *arguments, "--seed", 3, "--streams", 2, "--expect", expected).summary["expected"]["compared"] == 2
    assert serve(cluster.server, *arguments, "--seed", 4, "--expect", expected).summary["expected"]["unknown"] == 2


def test_ctrl_c_tells_what_was_measured_and_frees_the_rest(cluster, prompts):
    command = [f"{BUILD}/consort", "bench", "serve", "--server", cluster.server, "--prompts", prompts, "--json", "--streams", "2", "--seconds",
               "600", "--tokens", "4000", "--ignore-end"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: cluster.status().requests_running == 2, "two streams")
    client.send_signal(signal.SIGINT)
    out, said = client.communicate(timeout=60)
    assert client.returncode == 130 and b"interrupted" in said
    summary = json.loads(out)
    assert summary["interrupted"] and summary["failed"] == 0
    until(cluster.is_idle, "the sequences to be freed")


# ---- a server of our own making ----

class Fake:
    """Answers each prompt with `n_tokens` tokens of its own, one a reply; `answer` may be replaced."""

    def __init__(self, api):
        self.messages, self.lock = api.messages, threading.Lock()
        self.ready, self.n_tokens, self.in_flight, self.most, self.prompts, self.requests = True, 3, 0, 0, [], []
        self.answer = lambda request, number: self.tokens(request)
        outer = self

        class Servicer(api.services.InferenceServicer):
            def Status(self, request, context):
                return outer.messages.StatusReply(model="fake", version="0", ready=outer.ready, reason="it is a fake")

            def Generate(self, request, context):
                with outer.lock:
                    outer.in_flight += 1
                    outer.most = max(outer.most, outer.in_flight)
                    number = len(outer.requests)
                    outer.requests.append(request)
                try:
                    for reply in outer.answer(request, number):
                        if isinstance(reply, grpc.StatusCode):
                            context.abort(reply, "as told")
                        yield reply
                        if reply.HasField("finish_reason"):  # the client may send its next request as soon as it has this
                            break
                finally:
                    with outer.lock:
                        outer.in_flight -= 1

        self.pool = concurrent.futures.ThreadPoolExecutor(40)
        self.server = grpc.server(self.pool)
        api.services.add_InferenceServicer_to_server(Servicer(), self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def tokens(self, request, n=None, end="stop"):
        text = request.text or request.chat.messages[-1].content
        for i in range(self.n_tokens if n is None else n):
            yield self.messages.GenerateReply(tokens=[len(text) + i])
        if end:
            yield self.messages.GenerateReply(finish_reason=end)

    def asked(self):
        return [r.text or r.chat.messages[-1].content for r in self.requests]


@pytest.fixture
def fake(api):
    f = Fake(api)
    yield f
    f.server.stop(None).wait()
    f.pool.shutdown()


def test_a_closed_loop_keeps_its_streams_busy_and_no_more(fake, serve):
    """Answers come by threes: the first of three would never come if fewer were in the air."""
    barrier = threading.Barrier(3)

    def answer(request, number):
        barrier.wait(PATIENCE_SECONDS)
        return fake.tokens(request)

    fake.answer = answer
    done = serve(fake.address, "--streams", 3, "--requests", 12, "--warm-up", 3)
    assert done.code == 0 and fake.most == 3 and len(fake.requests) == 15 and len(done.records) == 12
    check_times(done.summary, done.records)


def test_an_open_loop_sends_whatever_the_server_does(fake, serve):
    barrier = threading.Barrier(20)  # no answer before all requests have come

    def answer(request, number):
        barrier.wait(PATIENCE_SECONDS)
        return fake.tokens(request)

    fake.answer = answer
    runs = [serve(fake.address, "--rate", 500, "--requests", 20, "--seed", seed) for seed in (5, 5, 6)]
    for done in runs:
        assert done.code == 0 and len(done.records) == 20 and done.summary["load"] == "open"
        check_times(done.summary, done.records)
    schedules, ids = ([[r[key] for r in done.records] for done in runs] for key in ("scheduled_ns", "id"))
    assert schedules[0] == schedules[1] != schedules[2] and ids[0] == ids[1] != ids[2]
    assert schedules[0] == sorted(schedules[0]) and schedules[0][0] > 0


def test_the_order_is_the_same_whatever_the_load_and_files_have_equal_shares(fake, serve):
    orders = [[r["id"] for r in serve(fake.address, "--requests", 16, *load).records]
              for load in (["--streams", 1], ["--streams", 7, "--warm-up", 5], ["--rate", 1000])]
    assert orders[0] == orders[1] == orders[2]
    assert [sum(i.startswith(domain) for i in orders[0]) for domain in ("code", "math")] == [8, 8]
    assert collections.Counter(orders[0])["math-0"] == 4 and collections.Counter(orders[0])["code-0"] == 2
    assert {r["domain"] for r in serve(fake.address, "--requests", 4, "--domains", "code").records} == {"code"}


def test_options_reach_the_request(fake, serve):
    serve(fake.address, "--requests", 1, "--tokens", 7, "--temperature", 0.5, "--seed", 11, "--speculation", "none", "--top-k", 4,
          "--system", "Be short.")
    r = fake.requests[-1]
    assert (r.max_tokens, r.temperature, r.seed, r.speculation, r.top_k) == (7, 0.5, 11, "none", 4)
    assert [(m.role) for m in r.chat.messages] == ["system", "user"]
    serve(fake.address, "--requests", 1, "--raw")
    assert fake.requests[-1].text in PROMPTS["code"] + PROMPTS["math"]


def test_a_time_ends_the_load(fake, serve):
    done = serve(fake.address, "--seconds", 1, "--streams", 2)
    assert done.code == 0 and done.records and all(r["sent_ns"] < 1e9 for r in done.records)
    assert done.summary["full"]["seconds"] == pytest.approx(1, abs=0.5)
    done = serve(fake.address, "--seconds", 1, "--rate", 100)
    assert done.code == 0 and done.records and all(r["scheduled_ns"] < 1e9 for r in done.records)


def test_requests_that_fail_are_counted_apart_and_told(fake, serve):
    refuse = lambda request: iter([grpc.StatusCode.RESOURCE_EXHAUSTED])  # noqa: E731
    fake.answer = lambda request, number: refuse(request) if number % 3 == 1 else fake.tokens(request)
    for load in (["--streams", 2], ["--rate", 200]):
        fake.requests.clear()
        done = serve(fake.address, "--requests", 9, *load)
        s = done.summary
        assert done.code == 1 and (s["requests"], s["failed"], s["tokens"], s["stopped"]) == (6, 3, 18, False)
        failed = [r for r in done.records if r["error"]]
        assert len(done.records) == 9 and [r["error"] for r in failed] == ["as told"] * 3 and "tokens_sha256" not in failed[0]
        assert f"3 of 9 requests failed; the first, {failed[0]['id']}: as told" in done.said


def test_nothing_more_is_sent_to_a_cluster_that_is_gone(fake, serve):
    fake.answer = lambda request, number: iter([grpc.StatusCode.UNAVAILABLE]) if number == 2 else fake.tokens(request)
    done = serve(fake.address, "--requests", 9)
    assert done.code == 1 and len(fake.requests) == 3 and done.summary["stopped"] and (done.summary["requests"], done.summary["failed"]) == (2, 1)


def test_a_server_that_ends_breaks_no_record(fake, serve):
    def answer(request, number):
        if number < 2:
            return fake.tokens(request)
        fake.server.stop(0)
        return fake.tokens(request, 1, None)

    fake.answer = answer
    done = serve(fake.address, "--requests", 9)
    assert done.code == 1 and done.summary["requests"] == 2 and done.summary["failed"] >= 1 and "requests failed; the first" in done.said


@pytest.mark.parametrize("n, end, says", [(65, "stop", "more tokens came than the 64"), (3, None, "the answer has no end")])
def test_answers_that_are_not_as_they_should_be_have_failed(fake, serve, n, end, says):
    fake.answer = lambda request, number: fake.tokens(request, n, end)
    done = serve(fake.address, "--requests", 2)
    assert done.code == 1 and done.summary["failed"] == 2 and says in done.said


def test_the_same_request_with_another_answer_is_an_error(fake, serve):
    fake.answer = lambda request, number: fake.tokens(request, 2 if number == 4 else 3)
    done = serve(fake.address, "--requests", 6, "--domains", "math")
    assert done.code == 1 and "differs from that of the same request in this run" in done.said, done.said


def test_a_deadline_ends_a_request(fake, serve):
    released = threading.Event()
    fake.answer = lambda request, number: released.wait(PATIENCE_SECONDS) and fake.tokens(request)
    try:
        done = serve(fake.address, "--requests", 2, "--streams", 2, "--timeout", 1)
    finally:
        released.set()
    assert done.code == 1 and done.summary["failed"] == 2 and "deadline exceeded" in done.said.lower()  # either side may say it first


def test_a_warm_up_that_fails_ends_the_run(fake, serve):
    fake.answer = lambda request, number: iter([grpc.StatusCode.INVALID_ARGUMENT])
    done = serve(fake.address, "--requests", 2, "--warm-up", 1)
    assert done.code == 1 and not done.summary and "warm-up: as told" in done.said


def test_a_cluster_that_does_not_serve_is_told_at_once(fake, serve):
    fake.ready = False
    done = serve(fake.address, "--requests", 2)
    assert done.code == 1 and not done.summary and "the cluster does not serve: it is a fake" in done.said and not fake.requests


# ---- the command line ----

@pytest.mark.parametrize("arguments, status, says", [
    ([], 1, "127.0.0.1:1"),
    (["--streams", "0"], 2, "--streams"),
    (["--streams", "257"], 2, "--streams"),
    (["--streams", "1", "--rate", "1"], 2, "--streams and --rate"),
    (["--rate", "-1"], 2, "--rate"),
    (["--requests", "0"], 2, "--requests"),
    (["--tokens", "0"], 2, "--tokens"),
    (["--raw", "--system", "x"], 2, "--system and --raw"),
    (["--n", "2"], 2, "--n"),
    (["--domains", "code,none"], 1, "no prompts of the domain 'none'"),
    (["--expect", "/nowhere"], 1, "/nowhere"),
    (["--speculation", "x" * 50], 2, "speculation"),
])
def test_a_wrong_command_line_is_told_in_one_line(prompts, arguments, status, says):
    done = consort("bench", "serve", "--server", "127.0.0.1:1", "--prompts", prompts, *arguments, check=False)
    assert done.returncode == status and not done.stdout and says in done.stderr, done
    assert done.stderr.startswith("consort bench serve: ") and done.stderr.count("\n") == 1, done.stderr


def test_records_that_cannot_be_written_are_an_error(fake, prompts, tmp_path):
    for path in (tmp_path, "/dev/full"):
        done = consort("bench", "serve", "--server", fake.address, "--prompts", prompts, "--requests", 2, "--records", path, check=False)
        assert done.returncode == 1 and str(path) in done.stderr, done
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([f"{BUILD}/consort", "bench", "serve", "--server", fake.address, "--prompts", prompts, "--requests", "1"],
                              stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == 1 and "standard output" in done.stderr
