"""Speculation changes the speed and never the answer: the same bytes with and without drafts, greedy and sampled."""
import json

import pytest

from support import consort

REPEATING = [("user", "Repeat this sentence five times: the quick brown fox jumps over the lazy dog.")]
PROMPTS = [REPEATING, [("user", "Write a Python function that reverses a string.")], "1, 2, 3, 4, 5, 6, 7,", "Once upon a time"]


BENT = {"temperature": 0.7, "typical_p": 0.95, "repetition_penalty": 1.05, "presence_penalty": -0.3, "frequency_penalty": 0.1, "min_tokens": 70, "seed": 7}


@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.0, "top_p": 0.95, "seed": 7}, BENT], ids=["greedy", "at temperature 1", "bent"])
def test_answers_are_the_same_with_and_without(cluster, sampled):
    accepted = 0
    for prompt in PROMPTS:
        plain = cluster.generate(prompt, max_tokens=80, speculation="none", **sampled)
        replies = list(cluster.stream(prompt, max_tokens=80, speculation="lookup", **sampled))
        assert [i for r in replies for i in r.tokens] == plain.ids and "".join(r.text for r in replies) == plain.text
        figures = replies[-1].speculation
        assert figures.steps + figures.accepted >= len(plain.ids) and figures.accepted <= figures.drafted
        assert [d.name for d in figures.by_drafter] == ["lookup"] and figures.by_drafter[0].accepted == figures.accepted
        accepted += figures.accepted
    assert accepted > 5


def test_many_at_once_get_the_same_bytes_too(cluster):
    requests = [(prompt, {"max_tokens": 60, "temperature": t, "seed": 5}) for prompt in PROMPTS for t in (0.0, 0.8)]
    alone = [cluster.generate(prompt, speculation="none", **fields).ids for prompt, fields in requests]
    together = cluster.generate_all([(prompt, {**fields, "speculation": s}) for prompt, fields in requests for s in ("lookup", "none")])
    assert [a.ids for a in together] == [ids for ids in alone for _ in range(2)]


def test_ranks_agree_on_accepted_drafts(new_cluster, cluster):
    expected = cluster.generate(REPEATING, max_tokens=100, speculation="none").ids
    group = new_cluster(tensor_parallel=3, threads=1, draft_budgets="fixed", draft_floor=0)
    assert group.generate(REPEATING, max_tokens=100, speculation="lookup").ids == expected
    assert group.status().accepted > 5


def test_the_command_line_tells_the_figures(cluster):
    to = ["generate", "--server", cluster.server, "--json", "--max-tokens", 60, "--prompt", REPEATING[0][1]]
    drafted = json.loads(consort(*to).stdout)["speculation"]  # the topology's policy is `all`
    assert drafted["steps"] > 0 and drafted["accepted"] > 5 and drafted["by_drafter"]["lookup"]["accepted"] == drafted["accepted"]
    assert json.loads(consort(*to, "--speculation", "none").stdout)["speculation"]["drafted"] == 0
    refused = consort(*to, "--speculation", "magic", check=False)
    assert refused.returncode == 1 and "speculation" in refused.stderr and "lookup" in refused.stderr
