"""kv_type q8, k6v4 and q4 keep the contract of bytes: one rank or two, in a batch or alone, with drafters or none. f16 is what all other tests
run in, f32 is test_precision's; that a rank holds what `consort inspect` foretells of a type is here for all."""
import json

import pytest

from support import MODEL, ROOT, consort

DRAFTERS = [{"name": name, "kind": "ngram", "table": f"{ROOT}/drafters/{name}.ngram"} for name in ("code", "math")]
DRAFTED = {"drafters": DRAFTERS, "draft_budgets": "fixed", "draft_budget": 8, "draft_floor": 0, "draft_wait_ms": 60000}
REQUESTS = [
    ([("user", "Repeat this sentence five times: the quick brown fox jumps over the lazy dog.")], {"max_tokens": 50}),
    ([("user", "Write a Python function that reverses a string.")], {"max_tokens": 50}),
    ([("user", "Anna has 12 apples, gives away 5 and buys 9. How many does she have?")], {"max_tokens": 50, "temperature": 1.0, "seed": 3}),
    ("1, 2, 3, 4, " * 60, {"max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "seed": 12}),
]


def answers(cluster, speculation, together):
    requests = [(prompt, {**fields, "speculation": speculation}) for prompt, fields in REQUESTS]
    done = cluster.generate_all(requests) if together else [cluster.generate(prompt, **fields) for prompt, fields in requests]
    return [(a.ids, a.text) for a in done]


@pytest.mark.parametrize("kv_type", ["q8", "k6v4", "q4"])
def test_ranks_batches_and_drafts_do_not_change_a_byte(new_cluster, kv_type):
    alone = new_cluster(kv_type=kv_type, threads=1)
    assert [w.kv_type for w in alone.status().workers] == [kv_type]
    expected = answers(alone, "none", together=False)
    assert answers(alone, "none", together=True) == expected
    pair = new_cluster(kv_type=kv_type, threads=1, tensor_parallel=2, **DRAFTED)
    assert [w.kv_type for w in pair.status().workers if w.role == "verifier"] == [kv_type] * 2
    assert answers(pair, "none", together=True) == expected
    assert answers(pair, "all", together=True) == expected
    assert answers(pair, "all", together=False) == expected
    figures = pair.metrics()
    assert pair.status().accepted > 5 and figures["consort_kv_compacted_tokens_total", ""] > 0, figures


def test_a_rank_holds_what_inspect_foretells(new_cluster):
    tokens = {"f32": 46080, "f16": 23040, "q8": 12240, "k6v4": 8640, "q4": 7200}  # 30 layers of K and V of 3 heads: 90 rows of 64 each
    for kv_type, expected in tokens.items():
        (rank,) = json.loads(consort("inspect", "--json", "--tp", 1, "--kv-type", kv_type, MODEL).stdout)["ranks"]
        assert rank["kv_token_bytes"] == expected
    (worker,) = new_cluster(kv_type="q4", threads=1, kv_tokens=4096).status().workers
    assert worker.kv_bytes == 4096 * tokens["q4"]
