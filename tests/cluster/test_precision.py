"""precision: fp32 keeps the contract of bytes: any number of ranks, with and without drafts. No other test runs a cluster in it."""
PROMPTS = [
    ([("user", "Repeat this sentence five times: the quick brown fox jumps over the lazy dog.")], {"max_tokens": 40}),
    ("1, 2, 3, 4, " * 30, {"max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "seed": 12}),
]


def answers(cluster, speculation):
    return [a.ids for a in cluster.generate_all([(prompt, {**fields, "speculation": speculation}) for prompt, fields in PROMPTS])]


def test_in_fp32_ranks_and_drafts_do_not_change_a_byte(new_cluster):
    alone = new_cluster(precision="fp32", kv_type="auto", threads=1)
    (worker,) = alone.status().workers
    assert (worker.precision, worker.kv_type) == ("fp32", "f32")
    expected = answers(alone, "none")
    pair = new_cluster(precision="fp32", kv_type="auto", threads=1, tensor_parallel=2, draft_budgets="fixed", draft_floor=0)
    assert [(w.precision, w.kv_type) for w in pair.status().workers] == [("fp32", "f32")] * 2
    assert answers(pair, "none") == expected
    assert answers(pair, "lookup") == expected
    assert pair.status().accepted > 5
