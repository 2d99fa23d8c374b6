"""Gemma 3 270M (Q5_0, Q8_0, Q4_K, Q6_K), where scripts/fetch-model --gemma has brought it: it is never fetched unasked."""
import json
import os

import pytest

from support import ROOT, consort

GEMMA = f"{ROOT}/models/gemma-3-270m-q4_k_m.gguf"
SAMPLE = f"{ROOT}/tests/golden/gemma3-teacher-sample.jsonl"  # of an fp32 pass over the dequantized weights

pytestmark = pytest.mark.skipif(not os.path.exists(GEMMA), reason="scripts/fetch-model --gemma has not been run")


# precision, share of the same likeliest token, mean |d nll|, margin from which the token must be the same
@pytest.mark.parametrize("precision, share, bound, clear", [("fast", 0.96, 0.032, 0.5), ("fp32", 0.998, 0.0005, 0.01)])
def test_it_is_as_close_to_the_fp32_reference_as_its_arithmetic_allows(precision, share, bound, clear):
    with open(SAMPLE, encoding="utf-8") as f:
        golden = [json.loads(line) for line in f]
    done = consort("score", "--model", GEMMA, "--precision", precision, text="".join(json.dumps(g) + "\n" for g in golden))
    n = same = 0
    difference = 0.0
    for g, answer in zip(golden, map(json.loads, done.stdout.splitlines()), strict=True):
        for i, token in enumerate(g["argmax"]):
            n += 1
            same += token == answer["argmax"][i]
            difference += abs(g["nll"][i] - answer["nll"][i])
            assert token == answer["argmax"][i] or g["margin"][i] <= clear
    assert n > 200 and same / n >= share and difference / n <= bound
