"""scripts/distil without a cluster: what is collected is what was answered, and a head's file says what its step does."""
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys

import grpc
import numpy as np
import pytest

from support import ROOT, until

sys.path.insert(0, os.path.join(ROOT, "scripts/distil"))

import data  # noqa: E402
import reference  # noqa: E402

DIM = 64
HASH = "5a" * 32
PROMPTS = [{"id": f"p{i}", "domain": "code", "prompt": f"Question {i}?"} for i in range(40)]


def answer_to(request):
    """(tokens, hidden states): fixed by the prompt, the temperature and the seed."""
    rng = random.Random(f"{request.chat.messages[0].content} {request.temperature:.3f} {request.seed if request.temperature else 0}")
    tokens = [rng.randrange(49152) for _ in range(rng.randint(1, request.max_tokens))]
    return tokens, np.array([[rng.gauss(0, 2) for _ in range(DIM)] for _ in tokens], "<f2")


def servicer(api):
    class Servicer(api.services.InferenceServicer):
        """Refuses prompt 7 for good, and each fifth call because it is full."""

        def __init__(self):
            self.calls = 0

        def Status(self, request, context):
            reply = api.messages.StatusReply(ready=True, model="fake")
            reply.workers.add(role="verifier", up=True, model_hash=b"m" * 32, vocabulary_hash=bytes.fromhex(HASH))
            return reply

        def Generate(self, request, context):
            self.calls += 1
            if request.chat.messages[0].content == "Question 7?":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: too many")
            if self.calls % 5 == 0:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
            tokens, hidden = answer_to(request)
            for i in range(0, len(tokens), 3):
                piece = tokens[i : i + 3]
                yield api.messages.GenerateReply(text="x" * len(piece), tokens=piece, hidden_states=hidden[i : i + 3].tobytes())
            yield api.messages.GenerateReply(finish_reason="stop")

    return Servicer()


@pytest.fixture
def server(api):
    s = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    api.services.add_InferenceServicer_to_server(servicer(api), s)
    port = s.add_insecure_port("127.0.0.1:0")
    s.start()
    yield f"127.0.0.1:{port}"
    s.stop(None).wait()


@pytest.fixture
def collect(server, tmp_path):
    """collect(*options): a running scripts/distil/answers over PROMPTS into tmp_path/data"""
    with open(tmp_path / "code.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(p) + "\n" for p in PROMPTS)

    def start(*options):
        command = [sys.executable, f"{ROOT}/scripts/distil/answers", "--server", server, "--prompts", tmp_path, "--out", tmp_path / "data", "--tokens",
                   "20", "--streams", "4", *options]
        return subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)

    return start


def finished(process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def check(api, folder):
    """Every answer in the folder is the server's, and the flat files hold just these."""
    domain = data.Domain(str(folder), DIM)
    asked = {p["id"]: p["prompt"] for p in PROMPTS}
    for i, a in enumerate(domain.answers):
        request = api.messages.GenerateRequest(temperature=a["temperature"], seed=a["seed"], max_tokens=20)
        request.chat.messages.add(role="user", content=asked[a["id"]])
        tokens, hidden = answer_to(request)
        at = slice(domain.offsets[i], domain.offsets[i + 1])
        assert a["tokens"] == tokens == domain.tokens[at].tolist() and a["output"] == "x" * len(tokens) and a["prompt"] == asked[a["id"]]
        assert domain.hidden[at].tobytes() == hidden.tobytes()
    n = int(domain.offsets[-1])
    assert [os.path.getsize(folder / f) for f in ("tokens.u32", "hidden.f16", "offsets.u64")] == [4 * n, 2 * DIM * n, 8 * len(domain.answers) + 8]
    return [(a["id"], a["temperature"], a["seed"]) for a in domain.answers]


def test_collected_answers_are_those_of_the_cluster_in_the_order_of_the_prompts(api, collect, tmp_path):
    said = finished(collect())
    assert "p7: left out: max_tokens: too many" in said
    greedy = [(p["id"], 0, 0) for p in PROMPTS if p["id"] != "p7"]
    assert check(api, tmp_path / "data/code") == greedy
    finished(collect("--temperature", "0.7", "--seeds", "3,4", "--limit", "2"))
    assert check(api, tmp_path / "data/code") == greedy + [("p0", 0.7, 3), ("p1", 0.7, 3), ("p0", 0.7, 4), ("p1", 0.7, 4)]
    assert data.read_json(tmp_path / "data/source.json") == {"model": "fake", "model_hash": "6d" * 32, "vocabulary_hash": HASH, "dim": DIM}


def test_a_cut_collection_goes_on_where_it_was(api, collect, tmp_path):
    lines = tmp_path / "data/code/answers.jsonl"
    first = collect()
    until(lambda: lines.exists() and lines.stat().st_size, "the first answers")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with open(lines, "ab") as f:  # as if cut while it wrote an answer
        f.write(b'{"id": "p3')
    for name in ("tokens.u32", "hidden.f16", "offsets.u64"):
        with open(tmp_path / "data/code" / name, "ab") as f:
            f.write(b"\1\2\3")
    finished(collect())
    assert check(api, tmp_path / "data/code") == [(p["id"], 0, 0) for p in PROMPTS if p["id"] != "p7"]


def test_answers_of_another_model_are_not_mixed_in(collect, tmp_path):
    (tmp_path / "data").mkdir()
    data.write_json(tmp_path / "data/source.json", {"model": "other", "model_hash": "00" * 32, "vocabulary_hash": HASH, "dim": DIM})
    process = collect()
    assert "choose another --out" in process.communicate(timeout=120)[1] and process.returncode == 1


@pytest.mark.parametrize("kind", reference.TYPES)
def test_a_head_is_read_back_as_written(tmp_path, kind):
    ids = range(3, 300, 7)
    head = reference.write_head(str(tmp_path / "h.gguf"), DIM, ids, 96, 1, 300, HASH, kind)
    exact = reference.random_head(DIM, ids, 96, 1, 300)
    assert (head.vocabulary_hash, head.n_vocab) == (HASH, 300) and list(head.ids) == list(ids)
    worst = max(np.abs(getattr(head, m) - getattr(exact, m)).max() / np.abs(getattr(exact, m)).max() for m in "OLABC")
    assert worst <= {"F32": 0, "F16": 1e-3, "Q8_0": 5e-3}.get(kind, 0.13)
    again = reference.write_head(str(tmp_path / "again.gguf"), DIM, ids, 96, 1, 300, HASH, kind)
    assert (tmp_path / "h.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes() and np.array_equal(head.O, again.O)


def test_a_step_is_the_formula_and_a_token_without_a_row_adds_nothing():
    head = reference.random_head(DIM, [2, 5, 9], 32, 1, 10)
    h = np.random.default_rng(0).standard_normal(DIM)
    for token, row in ((5, head.O[1]), (4, np.zeros(DIM)), (10, np.zeros(DIM))):
        z = np.concatenate([h, row])
        a = head.A @ z
        expected = head.L @ z + head.C @ (a / (1 + np.exp(-a)) * (head.B @ z))
        state, logits = head.step(h, token)
        assert np.allclose(state, expected, atol=1e-5) and np.allclose(logits, head.O @ expected, atol=1e-4)
    (first, _), (second, logits) = head.run(h, [5, 2])
    assert np.array_equal(second, head.step(first, 2)[0]) and len(logits) == 3
