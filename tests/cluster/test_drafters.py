"""Drafters on ranks of their own: the bytes of the answer are those of the target alone, whoever drafts, whatever becomes of them;
and what they draft is of use."""
import hashlib
import json
import os
import re
import signal
import sys

import numpy as np
import pytest

import support
from support import BUILD, MODEL, ROOT, consort, until

sys.path.insert(0, f"{ROOT}/scripts/distil")
import reference  # noqa: E402

CODE = {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}
MATH = {"name": "math", "kind": "ngram", "table": f"{ROOT}/drafters/math.ngram"}
TWIN = {"name": "twin", "kind": "model", "threads": 1, "kv_tokens": 8192}  # the target's own file
FIXED = {"draft_budgets": "fixed"}  # drafts whether it pays or not
PATIENT = {"draft_wait_ms": 60000}  # a busy machine may be slow: no draft is to come late
LINK_BYTES = "consort_link_bytes_total"
POLICIES = ["lookup", "fixed:code", "fixed:twin", "fixed:head", "hedge", "cosine", "round-robin", "all"]
SAMPLED = [{}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "seed": 8},
           {"temperature": 0.9, "typical_p": 0.9, "repetition_penalty": 1.1, "frequency_penalty": 0.1, "min_tokens": 20, "seed": 9}]
STORY = [("user", "Tell me a long story about a ship.")]
OWN_PROMPTS = ["Write a Python function that reverses a string.", "Repeat this sentence five times: the quick brown fox jumps.",
               "Anna has 12 apples, gives away 5 and buys 9. How many does she have?", "What is a fever, and when is it dangerous?"]


def prompts():
    """Two of each kind of ../shared/workloads where that is, else our own."""
    folder = os.path.join(os.path.dirname(ROOT), "shared/workloads/eval")
    if not os.path.isdir(folder):
        return OWN_PROMPTS
    found = []
    for name in ("code", "general", "math", "medicine"):
        with open(f"{folder}/{name}.jsonl", encoding="utf-8") as f:
            found += [json.loads(next(f))["prompt"] for _ in range(2)]
    return found


REQUESTS = [([("user", prompt)], {"max_tokens": 32, **SAMPLED[i % len(SAMPLED)]}) for i, prompt in enumerate(prompts())]


@pytest.fixture(scope="module")
def alone(cluster):
    """What the target answers by itself."""
    return [cluster.generate(prompt, speculation="none", **fields) for prompt, fields in REQUESTS]


def accepted(metrics, name):
    return metrics["consort_drafter_accepted_tokens_total", f'drafter="{name}"']


def drafted(metrics, name):
    return metrics["consort_drafter_draft_tokens_total", f'drafter="{name}"']


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A head that says each token once more, nearly: h' is h and a little noise; with the target's rows of its first 2,000 tokens."""
    folder = tmp_path_factory.mktemp("heads")
    tensor = next(t for t in reference.GGUFReader(MODEL).tensors if t.name == "token_embd.weight")
    rows = reference.quants.dequantize(tensor.data[:2000], tensor.tensor_type)
    n_vocab, dim = len(tensor.data), rows.shape[1]
    noise = [np.random.default_rng(i).standard_normal(shape, dtype=np.float32) * 0.005
             for i, shape in enumerate([(dim, 2 * dim), (64, 2 * dim), (64, 2 * dim), (dim, 64)])]
    vocabulary = json.loads(consort("inspect", "--json", MODEL).stdout)["vocabulary_sha256"]
    head = reference.Head(range(2000), rows, np.eye(dim, 2 * dim, dtype=np.float32) + noise[0], *noise[1:], n_vocab, vocabulary)
    for kind in ("F32", "Q8_0"):
        reference.write(str(folder / f"{kind}.gguf"), head, kind)
    return lambda kind: {"name": "head", "kind": "head", "model": folder / f"{kind}.gguf", "threads": 1}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_drafters_and_any_ranks_give_the_bytes_of_the_target_alone(new_cluster, alone, echo, ranks):
    # Few at once: the more sequences share a step, the smaller their trees.
    cluster = new_cluster(drafters=[CODE, MATH, TWIN, echo("Q8_0")], tensor_parallel=ranks, threads=1, draft_budget=8, draft_floor=0, **FIXED, **PATIENT)
    for policy in POLICIES if ranks == 1 else ["fixed:head", "hedge", "all"]:  # ranks and policies know nothing of each other
        for i in range(0, len(REQUESTS), 2):
            answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS[i:i + 2]])
            for answer, expected in zip(answers, alone[i:i + 2]):
                assert (answer.ids, answer.text, answer.finish_reason) == (expected.ids, expected.text, expected.finish_reason), policy
    figures = cluster.metrics()
    assert all(accepted(figures, name) > 0 for name in ("code", "math", "twin", "lookup")) and drafted(figures, "head") > 0, figures
    assert figures["consort_branched_draft_trees_total", ""] > 0 and figures["consort_kv_compacted_tokens_total", ""] > 0
    assert figures["consort_late_drafts_total", ""] == 0 and cluster.is_idle()


def test_adaptive_budgets_give_the_same_bytes(new_cluster, alone, echo):
    """They follow the clock, so what is drafted differs from run to run."""
    corpus = f"{ROOT}/drafters/corpus.ngram"
    cluster = new_cluster(drafters=[CODE, MATH, TWIN, echo("Q8_0")], threads=1, corpus=corpus, draft_budget=8, draft_floor=0, **PATIENT)
    for policy in POLICIES + ["fixed:corpus"]:
        answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS])
        assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone], policy
    figures = cluster.metrics()
    assert figures["consort_spec_decode_num_offered_tokens_total", ""] > figures["consort_spec_decode_num_draft_tokens_total", ""] > 0
    assert figures["consort_asked_rounds_total", ""] > 0 and figures["consort_drafter_wait_seconds", 'drafter="twin"'] > 0
    assert any(name == "consort_believed_step_seconds" for name, _ in figures) and cluster.is_idle()
    assert accepted(figures, "corpus") > 0


def test_drafts_ahead_give_the_same_bytes_and_are_of_use(new_cluster, alone, echo):
    cluster = new_cluster(drafters=[CODE, TWIN, echo("Q8_0")], threads=1, draft_budget=4, draft_floor=0, draft_ahead="on", **FIXED, **PATIENT)
    for policy in ("fixed:twin", "all"):
        answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS])
        assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone], policy
    figures = cluster.metrics()
    assert figures["consort_draft_ahead_bets_total", ""] > figures["consort_draft_ahead_won_total", ""] > 0 and cluster.is_idle()


@pytest.mark.parametrize("ranks", [1, 2])
def test_early_results_give_the_same_bytes_and_send_drafters_on(new_cluster, alone, echo, ranks):
    """They are the default. A group of several ranks tells none: nobody in it has all logits before the end."""
    cluster = new_cluster(drafters=[CODE, TWIN, echo("Q8_0")], tensor_parallel=ranks, threads=1, draft_budget=4, draft_floor=0, **FIXED, **PATIENT)
    for policy in ("fixed:head", "fixed:twin", "all"):
        for i in range(0, len(REQUESTS), 2):
            answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS[i:i + 2]])
            assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone[i:i + 2]], policy
    figures = cluster.metrics()
    outcome = {o: figures["consort_early_results_total", f'outcome="{o}"'] for o in ("right", "wrong", "late")}
    if ranks > 1:
        assert not any(outcome.values()) and not figures["consort_draft_ahead_bets_total", ""]
        return
    assert outcome["right"] > 4 * outcome["wrong"] and not outcome["late"], outcome
    assert figures["consort_draft_ahead_bets_total", ""] > figures["consort_draft_ahead_won_total", ""] / 2 > 0 and cluster.is_idle()
    asked = {"max_tokens": 16, "logprobs": True, "speculation": "all", "ignore_end": True}
    told = sum(outcome.values())
    cluster.generate(STORY, **asked)  # whose log-probabilities are not known early
    assert sum(cluster.metrics()["consort_early_results_total", f'outcome="{o}"'] for o in outcome) == told
    assert cluster.metrics()[LINK_BYTES, 'direction="received",role="verifier",message="early"'] > 0


def test_hidden_states_are_counted_in_the_bytes_on_the_wire(new_cluster, echo):
    cluster = new_cluster(drafters=[echo("Q8_0")], threads=1, draft_budget=4, draft_ahead="off", **FIXED, **PATIENT)
    counts = []
    for policy in ("none", "fixed:head"):
        before = cluster.metrics()
        cluster.generate(STORY, max_tokens=16, ignore_end=True, speculation=policy)
        after = cluster.metrics()
        counts.append({labels: after[name, labels] - n for (name, labels), n in before.items() if name == LINK_BYTES})
    none, head = counts
    states = 15 * 2 * 576  # f16; of all tokens but the last, which nobody drafts behind
    result, plan = (f'direction="{way}",role="{role}",message="{message}"' for way, role, message in
                    (("received", "verifier", "result"), ("sent", "drafter", "plan")))
    assert 0 < none[result] < states and head[result] > none[result] / 2 + states, counts
    assert none[plan] == 0 and head[plan] > 2 * 576 and head['direction="received",role="drafter",message="result"'] > 0, counts


def test_fusion_as_it_is_measured_gives_the_same_bytes_and_tries_both(new_cluster, alone, echo):
    """The clock decides which rounds are in lockstep."""
    cluster = new_cluster(drafters=[CODE, MATH, echo("Q8_0")], threads=1, draft_budget=4, draft_floor=0, **PATIENT)  # auto is the default
    in_lockstep = 0
    for _ in range(20):
        for policy in ("all", "hedge", "cosine"):
            answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS])
            assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone], policy
        in_lockstep = cluster.metrics()["consort_lockstep_rounds_total", ""]
        if in_lockstep:
            break
    figures = cluster.metrics()
    assert 0 < in_lockstep < figures["consort_asked_rounds_total", ""] and figures["consort_late_drafts_total", ""] == 0
    asked = {"max_tokens": 24, "ignore_end": True}
    for _ in range(2):  # one drafter has nobody to go on from
        cluster.generate(STORY, speculation="fixed:head", **asked)
    assert cluster.metrics()["consort_lockstep_rounds_total", ""] == in_lockstep and cluster.is_idle()


@pytest.mark.parametrize("budgets", ["fixed", "adaptive"])
def test_drafters_in_lockstep_give_the_same_bytes_and_are_of_use(new_cluster, alone, echo, budgets):
    cluster = new_cluster(drafters=[CODE, MATH, echo("Q8_0")], threads=1, draft_budget=4, draft_floor=0, fusion="lockstep", draft_budgets=budgets, **PATIENT)
    for policy in ("cosine", "all", "fixed:head"):
        answers = cluster.generate_all([(prompt, {**fields, "speculation": policy}) for prompt, fields in REQUESTS])
        assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone], policy
    figures = cluster.metrics()
    assert all(drafted(figures, name) > 0 for name in ("code", "math", "head", "lookup")) and accepted(figures, "code") > 0, figures
    assert figures["consort_late_drafts_total", ""] == 0 and cluster.is_idle()


def test_the_target_as_its_own_drafter_is_right_in_lockstep_too(new_cluster):
    """So each depth's answer follows what was agreed on, and its cache holds that."""
    cluster = new_cluster(drafters=[TWIN], threads=1, draft_budget=4, draft_floor=0, fusion="lockstep", **FIXED, **PATIENT)
    asked = {"max_tokens": 61, "ignore_end": True}
    plain = cluster.generate(STORY, speculation="none", **asked)
    replies = list(cluster.stream(STORY, speculation="fixed:twin", **asked))
    assert [i for r in replies for i in r.tokens] == plain.ids
    figures = replies[-1].speculation
    assert figures.drafted >= 3 * figures.steps and figures.accepted == figures.drafted, figures


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_target_as_its_own_drafter_is_always_right(new_cluster, temperature):
    cluster = new_cluster(drafters=[TWIN], threads=1, draft_budget=4, **FIXED, **PATIENT)
    asked = {"max_tokens": 61, "ignore_end": True, "temperature": temperature, "seed": 3}
    plain = cluster.generate(STORY, speculation="none", **asked)
    replies = list(cluster.stream(STORY, speculation="fixed:twin", **asked))
    assert [i for r in replies for i in r.tokens] == plain.ids
    figures = replies[-1].speculation
    assert figures.drafted >= 3 * figures.steps and figures.accepted == figures.drafted, figures
    assert {d.name: d.accepted for d in figures.by_drafter} == {"twin": figures.accepted, "lookup": 0}
    line = re.compile(rf"request {replies[0].request_id}, answer 0: length, \d+ prompt tokens, 61 tokens, .*, {figures.steps} steps, "
                      rf"{figures.accepted} of {figures.drafted} drafts accepted\n")
    until(lambda: len(line.findall(cluster.output())) == 1, "one line in the log")


@pytest.mark.parametrize("fusion", ["merge", "lockstep"])
def test_a_drafter_follows_as_many_requests_as_its_cache_holds_and_drops_the_others(new_cluster, alone, fusion):
    """All of them begin in a cache in which few can end, so some have to go; a draft that they lack is all that it costs."""
    blocks = 12
    cluster = new_cluster(drafters=[{**TWIN, "kv_tokens": 32 * blocks}], threads=1, draft_budget=4, draft_floor=0, fusion=fusion, **FIXED, **PATIENT)
    answers = cluster.generate_all([(prompt, {**fields, "speculation": "fixed:twin"}) for prompt, fields in REQUESTS])
    assert [(a.ids, a.text, a.finish_reason) for a in answers] == [(a.ids, a.text, a.finish_reason) for a in alone]
    figures, twin = cluster.metrics(), 'drafter="twin"'
    assert figures["consort_drafter_kv_blocks", twin] == blocks and accepted(figures, "twin") > 0
    long = {"max_tokens": 150, "ignore_end": True}
    expected = cluster.generate(STORY, speculation="none", **long).ids
    calls = [cluster.stream(STORY, speculation="fixed:twin", **long) for _ in range(4)]
    ids = [list(next(call).tokens) for call in calls]  # all run, and each will need more than a third of the cache
    ids = [begun + [token for reply in call for token in reply.tokens] for begun, call in zip(ids, calls)]
    assert ids == [expected] * 4
    figures = cluster.metrics()
    assert figures["consort_drafter_requests_dropped_total", twin] > 0 and figures["consort_late_drafts_total", ""] == 0
    until(lambda: cluster.metrics()["consort_drafter_kv_blocks_held", twin] == 0, "the drafter to follow nobody")
    rank = cluster.status().workers[1]
    assert (rank.up, rank.kv_blocks, rank.followed, rank.kv_blocks_held) == (True, blocks, 0, 0) and rank.dropped > 0
    shown = consort("status", "--server", cluster.server).stdout
    assert f"follows 0 requests, in 0 of {blocks} KV blocks; has had to drop {rank.dropped} for others" in shown


@pytest.mark.parametrize("kind, precision", [("F32", "fast"), ("Q8_0", "fast"), ("Q8_0", "fp32")])
def test_a_head_drafts_what_its_formula_makes_of_the_states_that_clients_are_given(new_cluster, echo, kind, precision):
    head = reference.read(str(echo(kind)["model"]))
    cluster = new_cluster(drafters=[echo(kind)], precision=precision, threads=1, draft_budget=1, draft_floor=0, **FIXED, **PATIENT)
    asked = {"max_tokens": 80, "ignore_end": True}
    song = "la la la la la la la la la la la la"  # the answer repeats a digit
    replies = list(cluster.stream(song, speculation="none", hidden_states=True, **asked))
    ids = [i for r in replies for i in r.tokens]
    states = np.frombuffer(b"".join(r.hidden_states for r in replies), "<f2").reshape(len(ids), -1)
    assert states.shape == (80, cluster.status().workers[0].dim)
    n_accepted, at = 0, 0  # the step that verifies what was drafted behind token `at`
    while at < len(ids) - 2:  # no draft is worth its row where only one more token may come
        right = head.ids[np.argmax(head.step(states[at], ids[at])[1])] == ids[at + 1]
        n_accepted += right
        at += 1 + right
    end = list(cluster.stream(song, speculation="fixed:head", **asked))[-1].speculation
    assert n_accepted >= 5 and end.accepted == n_accepted and end.steps + end.accepted == len(ids), (n_accepted, end)


def rank_pid(cluster, rank):
    return sorted(cluster.worker_pids())[rank - 1]  # mpirun starts ranks in order


def test_a_killed_drafter_costs_nothing_but_speed(new_cluster, cluster):
    asked = {"max_tokens": 400, "ignore_end": True}
    expected = cluster.generate(STORY, speculation="none", **asked).ids
    mine = new_cluster(drafters=[CODE, TWIN], threads=1, draft_budget=4, **FIXED)
    call = mine.stream(STORY, speculation="all", **asked)
    ids = list(next(call).tokens)
    begun = accepted(mine.metrics(), "twin")
    until(lambda: accepted(mine.metrics(), "twin") > begun, "the drafter to be of use")
    os.kill(rank_pid(mine, 3), signal.SIGKILL)
    until(lambda: [w.up for w in mine.status().workers] == [True, True, False], "the loss to be noticed")
    after = mine.metrics()
    assert after["consort_num_requests_running", ""] == 1, "the request was over before the drafter was killed"
    ids += [token for reply in call for token in reply.tokens]
    assert ids == expected
    again = mine.generate(STORY, speculation="fixed:twin", **asked)
    assert again.ids == expected and mine.status().ready
    end = mine.metrics()
    assert drafted(end, "twin") - drafted(after, "twin") <= 4, "what was on its way, and no more"
    assert accepted(end, "code") + accepted(end, "lookup") > accepted(after, "code") + accepted(after, "lookup")
    mine.launcher.send_signal(signal.SIGTERM)
    mine.ends(0)
    assert not mine.left_behind()


def test_a_drafter_that_hangs_is_not_waited_for_twice(new_cluster, cluster):
    asked = {"max_tokens": 120, "ignore_end": True}
    expected = cluster.generate(STORY, speculation="none", **asked).ids
    mine = new_cluster(drafters=[CODE], threads=1, draft_wait_ms=100, dead_after_ms=600000, **FIXED)
    victim = rank_pid(mine, 2)
    os.kill(victim, signal.SIGSTOP)
    try:
        assert mine.generate(STORY, speculation="fixed:code", **asked).ids == expected
        assert drafted(mine.metrics(), "code") == 0
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: mine.status().workers[1].steps > 0, "its late answer")
    assert mine.generate(STORY, speculation="fixed:code", **asked).ids == expected
    assert drafted(mine.metrics(), "code") > 0


def test_a_drafter_of_another_vocabulary_is_sent_away_and_the_rest_serves(new_cluster, cluster, tmp_path):
    stranger = tmp_path / "other.ngram"
    with open(CODE["table"], "rb") as f:
        body = f.read()[:-32]  # its SHA-256 stands behind it
    vocabulary = bytes.fromhex(json.loads(consort("inspect", "--json", MODEL).stdout)["vocabulary_sha256"])
    assert vocabulary in body
    body = body.replace(vocabulary, vocabulary[::-1])
    stranger.write_bytes(body + hashlib.sha256(body).digest())
    mine = new_cluster(drafters=[{**CODE, "table": stranger}])
    assert [w.up for w in mine.status().workers] == [True, False] and "another vocabulary" in mine.output()
    assert mine.generate(max_tokens=12).ids == cluster.generate(max_tokens=12).ids


def test_a_missing_table_is_told_and_the_rest_serves(new_cluster):
    mine = new_cluster(drafters=[{**CODE, "table": "/nonexistent.ngram"}])
    assert "/nonexistent.ngram" in mine.output() and mine.generate(max_tokens=3).ids


def test_a_drafter_that_cannot_read_the_topology_holds_nobody_up(new_cluster, tmp_path, monkeypatch):
    os.symlink(f"{BUILD}/consort", tmp_path / "consort")
    daemon = tmp_path / "consortd"  # as on a host that lacks the file
    daemon.write_text(f'#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" != 2 ] || set -- --config /nonexistent.yaml\nexec {BUILD}/consortd "$@"\n')
    daemon.chmod(0o755)
    monkeypatch.setattr(support, "BUILD", str(tmp_path))
    mine = new_cluster(drafters=[CODE], join_timeout_ms=1000)
    assert "/nonexistent.yaml" in mine.output() and mine.generate(max_tokens=3).ids
