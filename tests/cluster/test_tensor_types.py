"""A tiny model of every tensor type: the same scores on every instruction set and number of threads, in both precisions. No cluster
runs."""
import importlib.machinery
import importlib.util
import json
import math
import os
import re

import pytest

from support import ROOT, consort

with open(os.path.join(ROOT, "kernels/formats.def"), encoding="utf-8") as table:
    TYPES = dict(re.findall(r'^FORMAT\(\w+, (\d+), "(\w+)"', table.read(), re.M))
TEXT = json.dumps({"ids": [(i * 37 + 11) % 320 for i in range(40)], "n_prompt": 1}) + "\n"


@pytest.fixture(scope="module")
def make_gguf():
    loader = importlib.machinery.SourceFileLoader("make_gguf", os.path.join(ROOT, "scripts/make-gguf"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_gguf", loader))
    loader.exec_module(module)
    return module


def score(path, isa, threads, precision):
    done = consort("score", "--model", path, "--isa", isa, "--threads", threads, "--precision", precision, text=TEXT, check=False)
    return None if "lacks" in done.stderr else done.stdout  # this processor may lack an instruction set


@pytest.mark.parametrize("kind", TYPES.values())
def test_a_model_of_this_type_scores_the_same_everywhere(make_gguf, tmp_path, kind):
    path = tmp_path / f"{kind}.gguf"
    make_gguf.main(["--type", kind, "--tied", str(path)])
    answers = []
    for precision in ("fast", "fp32"):
        first = score(path, "scalar", 1, precision)
        answer = json.loads(first)
        assert len(answer["nll"]) == 39 and all(math.isfinite(x) and x > 0 for x in answer["nll"]), answer
        assert len(set(answer["argmax"])) > 5, "a model that says one thing whatever it reads"
        for isa, threads in (("scalar", 2), ("avx2", 1), ("avx2", 2), ("avx512", 2), ("neon", 2)):
            assert score(path, isa, threads, precision) in (first, None), (isa, threads)
        answers.append(answer["nll"])
    assert answers[0] != answers[1], "the precision, or the KV type that goes with it, was not heeded"
    tensors = json.loads(consort("inspect", "--json", path).stdout)["tensors"]
    assert {t["type"] for t in tensors} == {kind, "F32"}


def test_a_type_that_is_not_known_is_named_with_its_tensor(make_gguf, tmp_path):
    path = tmp_path / "strange.gguf"
    make_gguf.main(["--type", "Q4_0", str(path)])
    data = path.read_bytes()
    name = b"blk.1.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    assert data[at : at + 4] == bytes([2, 0, 0, 0])
    path.write_bytes(data[:at] + bytes([29, 0, 0, 0]) + data[at + 4 :])  # IQ1_M
    done = consort("score", "--model", path, text=TEXT, check=False)
    assert done.returncode == 1 and all(word in done.stderr for word in ["strange.gguf", "blk.1.ffn_up.weight", "IQ1_M"]), done.stderr
