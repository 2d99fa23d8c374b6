"""What a request may ask of its tokens: each does what it says, and speculation changes none of it."""
import json

import grpc
import pytest

from support import MODEL, consort, tokenize

ONE_WORD = [("user", "Reply with the single word: yes")]
REPEATING = [("user", "Repeat this sentence five times: the quick brown fox jumps over the lazy dog.")]
PROMPTS = [REPEATING, "1, 2, 3, 4, 5, 6, 7,", "Once upon a time"]


def biases(cluster, pairs):
    return [cluster.api.messages.TokenBias(token=token, bias=bias) for token, bias in pairs.items()]


def same_with_drafts(cluster, prompt, **fields):
    """The answer without drafts, having seen that with them it is the same; and how many drafts were accepted."""
    plain = cluster.generate(prompt, speculation="none", **fields)
    *_, last = replies = list(cluster.stream(prompt, speculation="lookup", **fields))
    assert [i for r in replies for i in r.tokens] == plain.ids and last.finish_reason == plain.finish_reason
    return plain, last.speculation.accepted


def test_a_token_of_bias_minus_100_does_not_come_and_one_of_100_comes_always(cluster):
    usual = cluster.generate("Once upon a time", max_tokens=30, ignore_end=True)
    banned = usual.ids[3]
    answer, _ = same_with_drafts(cluster, "Once upon a time", max_tokens=30, ignore_end=True, logit_bias=biases(cluster, {banned: -100}))
    assert answer.ids[:3] == usual.ids[:3] and banned not in answer.ids
    forced, accepted = same_with_drafts(cluster, "Once upon a time", max_tokens=30, temperature=1.0, seed=3,
                                        logit_bias=biases(cluster, {banned: 100}))
    assert set(forced.ids) == {banned} and accepted > 5


@pytest.mark.parametrize("drafted", [{}, {"temperature": 0.7, "seed": 11}], ids=["greedy", "at temperature 0.7"])
def test_an_answer_has_min_tokens_before_it_ends(cluster, drafted):
    short = cluster.generate(ONE_WORD, max_tokens=100, **drafted)
    assert short.finish_reason == "stop"
    n = len(short.ids) + 20
    longer, _ = same_with_drafts(cluster, ONE_WORD, max_tokens=100, min_tokens=n, **drafted)
    assert len(longer.ids) >= n and longer.ids[: len(short.ids)] == short.ids
    assert len(cluster.generate(ONE_WORD, max_tokens=30, min_tokens=90, **drafted).ids) == 30
    assert cluster.generate(ONE_WORD, max_tokens=100, min_tokens=len(short.ids), **drafted).ids == short.ids


def test_stop_tokens_too_wait_for_min_tokens(cluster):
    whole = cluster.generate("1, 2, 3,", max_tokens=40, ignore_end=True).ids
    comma = tokenize("1, 2")[1]
    assert whole.count(comma) > 3
    answer, _ = same_with_drafts(cluster, "1, 2, 3,", max_tokens=40, ignore_end=True, stop_tokens=[comma], min_tokens=10)
    assert len(answer.ids) >= 10 and comma not in answer.ids


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.6}, {"presence_penalty": 2.0}, {"frequency_penalty": 0.8},
                                     {"repetition_penalty": 0.8, "presence_penalty": -0.5, "frequency_penalty": 0.2}], ids=str)
@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.9, "seed": 21}], ids=["greedy", "at temperature 0.9"])
def test_penalties_are_the_same_with_drafts_and_without(cluster, penalty, sampled):
    fields = {"max_tokens": 60, "ignore_end": True, **sampled}
    answers = [same_with_drafts(cluster, p, **penalty, **fields) for p in PROMPTS]
    assert [a.ids for a, _ in answers] != [cluster.generate(p, **fields).ids for p in PROMPTS]
    if penalty.get("presence_penalty") == -0.5:
        assert sum(accepted for _, accepted in answers) > 5  # it loves to repeat, so drafts by lookup are taken


def test_a_frequency_penalty_stops_a_loop(cluster):
    usual = cluster.generate("1 1 1 1 1 1 1 1 1", max_tokens=60, ignore_end=True).ids
    varied = cluster.generate("1 1 1 1 1 1 1 1 1", max_tokens=60, ignore_end=True, frequency_penalty=2.0).ids
    assert len(set(varied)) > 2 * len(set(usual))


@pytest.mark.parametrize("fields, named", [
    ({"repetition_penalty": 0.0}, "repetition_penalty"), ({"presence_penalty": -2.5}, "presence_penalty"),
    ({"frequency_penalty": float("nan")}, "frequency_penalty"),
    ({"typical_p": 1.5}, "typical_p"), ({"min_tokens": 1 << 21}, "min_tokens"),
    ({"logit_bias": {1 << 30: 1}}, "logit_bias[0]"), ({"logit_bias": {5: 101}}, "logit_bias[0]"),
    ({"logit_bias": {i: 1 for i in range(301)}}, "logit_bias"),
])
def test_a_bad_field_is_named(cluster, fields, named):
    if "logit_bias" in fields:
        fields = {"logit_bias": biases(cluster, fields["logit_bias"])}
    with pytest.raises(grpc.RpcError) as e:
        cluster.generate("Hello", **fields)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and named in e.value.details()


def test_typical_p_at_any_temperature_is_lossless_and_does_something(cluster):
    fields = {"max_tokens": 60, "temperature": 1.0, "seed": 5}
    narrow = [same_with_drafts(cluster, p, typical_p=0.2, **fields)[0].ids for p in PROMPTS]
    assert narrow != [cluster.generate(p, **fields).ids for p in PROMPTS]


def test_the_command_line_says_the_same(cluster):
    to = ["generate", "--server", cluster.server, "--raw", "--json", "--prompt", "Once upon a time", "--max-tokens", 12]
    expected = cluster.generate("Once upon a time", max_tokens=12, min_tokens=5, logit_bias=biases(cluster, {28: -100, 30: 3.5}))
    assert json.loads(consort(*to, "--min-tokens", 5, "--logit-bias", "28:-100,30:3.5").stdout)["ids"] == expected.ids
