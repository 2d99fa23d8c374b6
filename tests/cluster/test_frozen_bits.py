"""The logits of a real model over a fixed text have the committed bits, on every instruction set. No cluster runs.

They change only on purpose: docs/numerics.md, "Changing it". The same of tiny models of each family: tests/unit/model/test_run.c.
"""
import hashlib
import json
import os

import pytest

from support import MODEL, ROOT, consort

with open(os.path.join(ROOT, "tests/golden/logits.json"), encoding="utf-8") as file:
    FROZEN = json.load(file)
TEXT = json.dumps({"ids": FROZEN["ids"], "n_prompt": 1}) + "\n"


def test_the_frozen_bits_are_of_this_model():
    with open(MODEL, "rb") as model:
        assert hashlib.file_digest(model, "sha256").hexdigest() == FROZEN["model_sha256"]


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8", "k6v4", "q4"])
@pytest.mark.parametrize("isa, threads", [("scalar", 2), ("avx2", 1), ("avx2", 2), ("avx512", 1), ("avx512", 2), ("neon", 1), ("auto", 3)])
def test_the_logits_of_a_real_model_have_the_committed_bits(isa, threads, kv_type):
    done = consort("score", "--model", MODEL, "--isa", isa, "--threads", threads, "--kv-type", kv_type, "--hash", text=TEXT, check=False)
    if "instruction set" in done.stderr:
        pytest.skip(f"{isa}: not in this processor or build")
    answer = json.loads(done.stdout)
    assert len(answer["nll"]) == len(FROZEN["ids"]) - 1
    assert answer["logits_sha256"] == FROZEN[kv_type]
