"""What is computed for one request serves those that begin with the same tokens: less is computed, the bytes are the same."""
import os
import signal

import pytest

from support import ROOT, Cluster, until

BLOCK = 32
SYSTEM = ("system", "You are a careful assistant. " + "Answer in short sentences and say so where you are not sure. " * 12)
QUESTIONS = ["Why is the sky blue?", "What is 12 times 13?", "Write a haiku about rain.", "Name three rivers."]
FIELDS = [{"max_tokens": 40, "ignore_end": True, "logprobs": True}, {"max_tokens": 40, "ignore_end": True, "logprobs": True, "temperature": 1.0, "seed": 5, "presence_penalty": 0.5}]
CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}


def ask(cluster, question, history=(), **fields):
    replies = list(cluster.stream([SYSTEM, *history, ("user", question)], **{**FIELDS[0], **fields}))
    return ([t for r in replies for t in r.tokens], [x for r in replies for x in r.logprobs.token], "".join(r.text for r in replies)), replies[-1].usage


def figures(cluster):
    m = cluster.metrics()
    return {name: m[f"consort_{name}", ""] for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "step_tokens_total", "kv_cache_blocks_kept")}


@pytest.fixture(scope="module")
def without(api):
    """What a cluster that keeps nothing answers."""
    with Cluster(api, prefix_cache="off", speculation="none") as cluster:
        answers = [ask(cluster, q, **fields) for q in QUESTIONS for fields in FIELDS]
        seen = figures(cluster)
    assert all(usage.cached_tokens == 0 for _, usage in answers) and seen["prefix_cache_hits_total"] == seen["kv_cache_blocks_kept"] == 0
    return [a for a, _ in answers]


@pytest.mark.parametrize("changes", [{}, {"tensor_parallel": 2, "threads": 1}, {"kv_type": "q8", "prefill_chunk": 24, "max_rows": 40, "max_batch": 32}])
def test_bytes_are_equal_and_less_is_computed(new_cluster, without, changes):
    cluster = new_cluster(drafters=[CODE], draft_budgets="fixed", draft_floor=0, **changes)
    if changes.get("kv_type") == "q8":
        without = [ask(cluster, q, cache_salt=f"{k}-{i}", **fields)[0] for k, q in enumerate(QUESTIONS) for i, fields in enumerate(FIELDS)]
    before = figures(cluster)
    answers = [ask(cluster, q, **fields) for q in QUESTIONS for fields in FIELDS]
    after = figures(cluster)
    assert [a for a, _ in answers] == without
    shared = [usage.cached_tokens for _, usage in answers]
    assert shared[0] == 0 and all(n >= 4 * BLOCK and n % BLOCK == 0 for n in shared[1:])
    assert all(n == (answers[i][1].prompt_tokens - 2) // BLOCK * BLOCK for i, n in enumerate(shared) if i % 2), "the same prompt again: all whole blocks before the last two tokens"
    prompts = sum(usage.prompt_tokens for _, usage in answers)
    assert after["prefix_cache_hits_total"] - before["prefix_cache_hits_total"] == sum(shared)
    assert after["prefix_cache_queries_total"] - before["prefix_cache_queries_total"] == prompts
    assert after["kv_cache_blocks_kept"] > 0
    until(cluster.is_idle, "the blocks to be free")


def test_a_chat_goes_on_from_its_own_answers(cluster):
    history = []
    for i, question in enumerate(QUESTIONS):
        (ids, _, text), usage = ask(cluster, question, history, cache_salt="chat", speculation="lookup")
        assert (usage.cached_tokens >= last) if i else usage.cached_tokens == 0
        last = (usage.prompt_tokens + len(ids)) // BLOCK * BLOCK - BLOCK  # where the text is tokenized again, its end may differ
        history += [("user", question), ("assistant", text)]


def test_another_salt_shares_nothing(cluster):
    one, usage = ask(cluster, QUESTIONS[0], cache_salt="one")
    assert usage.cached_tokens == 0
    assert ask(cluster, QUESTIONS[0], cache_salt="one")[1].cached_tokens > 0
    other, usage = ask(cluster, QUESTIONS[0], cache_salt="other")
    assert usage.cached_tokens == 0 and other == one


def test_alike_prompts_in_flight_are_computed_once(new_cluster):
    cluster = new_cluster(speculation="none", max_rows=64)
    fields = {"max_tokens": 8, "ignore_end": True}
    prompt = list(range(1000, 1400))
    before = figures(cluster)
    answers = cluster.generate_all([(prompt, fields)] * 6)
    n_rows = figures(cluster)["step_tokens_total"] - before["step_tokens_total"]
    assert len({tuple(a.ids) for a in answers}) == 1
    whole, rest = 400, 400 - 399 // BLOCK * BLOCK
    assert n_rows <= whole + 5 * rest + 6 * 8, "each block once, and what is behind the last one by each"
    before = figures(cluster)
    replies = list(cluster.stream([*prompt[::-1]], n=4, temperature=1.0, seed=3, **fields))
    assert replies[-1].usage.cached_tokens == 0 and replies[-1].usage.prompt_tokens == 400
    assert figures(cluster)["prefix_cache_hits_total"] - before["prefix_cache_hits_total"] == 3 * (400 - rest)


def test_alike_prompts_in_flight_meet_in_one_verifier(new_cluster):
    second = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 4096, "threads": 1}
    cluster = new_cluster(drafters=[second], threads=1, speculation="none", max_rows=64)
    fields = {"max_tokens": 8, "ignore_end": True}
    prompt = list(range(1000, 1400))
    one, two = cluster.generate_all([(prompt, fields)] * 2)
    assert one.ids == two.ids and {one.usage.cached_tokens, two.usage.cached_tokens} == {0, 399 // BLOCK * BLOCK}
    assert cluster.metrics()["consort_worker_steps_total", 'rank="2",group="second",role="verifier"'] == 0
    cluster.generate_all([(prompt[::-1], fields), (prompt[::-1], {**fields, "cache_salt": "other"})])
    assert cluster.metrics()["consort_worker_steps_total", 'rank="2",group="second",role="verifier"'] > 0, "what they do not share does not hold them together"


def test_where_nothing_is_kept_each_answer_computes_the_prompt(new_cluster):
    cluster = new_cluster(speculation="none", prefix_cache="off")
    list(cluster.stream(list(range(1000, 1400)), n=3, temperature=1.0, seed=3, max_tokens=8, ignore_end=True))
    assert figures(cluster)["step_tokens_total"] == 3 * (400 + 7), "the last token of an answer is not computed"


def test_what_is_kept_makes_room(new_cluster):
    cluster = new_cluster(speculation="none", kv_tokens=512, max_context=512)
    fields = {"max_tokens": 4, "ignore_end": True}
    prompts = [[1000 + i] * 200 for i in range(6)]
    first = [cluster.generate(p, **fields) for p in prompts]  # 7 blocks each, of 16
    again = [cluster.generate(p, **fields) for p in reversed(prompts)]
    assert [a.ids for a in again] == [a.ids for a in reversed(first)]
    assert again[0].usage.cached_tokens == 192 and again[-1].usage.cached_tokens == 0
    assert cluster.status().kv_blocks_used == 0


def test_a_lost_verifier_takes_what_it_kept_with_it(new_cluster):
    second = {"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 4096, "threads": 1}
    cluster = new_cluster(drafters=[second], threads=1, speculation="none")
    one, usage = ask(cluster, QUESTIONS[0])
    assert usage.cached_tokens == 0
    again, usage = ask(cluster, QUESTIONS[0])  # to the one that has it, though both are idle
    assert again == one and usage.cached_tokens > 0
    os.kill(sorted(cluster.worker_pids())[0], signal.SIGKILL)
    until(lambda: cluster.metrics()["consort_verifier_up", 'group="target"'] == 0, "the loss to be noticed")
    again, usage = ask(cluster, QUESTIONS[0])
    assert again == one and usage.cached_tokens == 0
    assert ask(cluster, QUESTIONS[0])[1].cached_tokens > 0


def test_answers_that_outgrow_the_cache_take_turns_and_keep_their_bytes(new_cluster):
    fields = {"max_tokens": 200, "ignore_end": True, "logprobs": True}
    requests = [([2000 + i] * 40, {**fields, "temperature": 1.0, "seed": i}) for i in range(4)]
    cluster = new_cluster(speculation="lookup", kv_tokens=512, max_context=256, draft_budgets="fixed", draft_floor=0)
    alone = [cluster.generate(p, cache_salt="alone", **f).ids for p, f in requests]  # 240 tokens each: two fit at a time
    together = cluster.generate_all(requests)
    assert [a.ids for a in together] == alone
    assert cluster.metrics()["consort_num_preemptions_total", ""] > 0
    until(cluster.is_idle, "the blocks to be free")
