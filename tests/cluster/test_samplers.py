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


@pytest.fixture(scope="module", params=[{}, {"temperature": 0.9, "seed": 21}], ids=["greedy", "at temperature 0.9"])
def usual(cluster, request):
    """Fields, and what they make of the prompts."""
    fields = {"max_tokens": 60, "ignore_end": True, **request.param}
    return fields, [cluster.generate(p, **fields).ids for p in PROMPTS]


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.6}, {"presence_penalty": 2.0}, {"frequency_penalty": 0.8},
                                     {"repetition_penalty": 0.8, "presence_penalty": -0.5, "frequency_penalty": 0.2}], ids=str)
def test_penalties_are_the_same_with_drafts_and_without(cluster, penalty, usual):
    fields, unbent = usual
    answers = [same_with_drafts(cluster, p, **penalty, **fields) for p in PROMPTS]
    assert [a.ids for a, _ in answers] != unbent
    if penalty.get("presence_penalty") == -0.5:
        assert sum(accepted for _, accepted in answers) > 5  # it loves to repeat, so drafts by lookup are taken


def test_a_frequency_penalty_stops_a_loop(cluster):
    usual = cluster.generate("1 1 1 1 1 1 1 1 1", max_tokens=60, ignore_end=True).ids
    varied = cluster.generate("1 1 1 1 1 1 1 1 1", max_tokens=60, ignore_end=True, frequency_penalty=2.0).ids
    assert len(set(varied)) > 2 * len(set(usual))


def logprobs_of(replies):
    """[(id, logprob, [(id, logprob), ...])], one for each token of the answer."""
    all_ = []
    for r in replies:
        n = len(r.logprobs.top) // len(r.tokens) if r.tokens else 0
        assert len(r.logprobs.token) == len(r.tokens) and len(r.logprobs.top_tokens) == n * len(r.tokens)
        pairs = list(zip(r.logprobs.top_tokens, r.logprobs.top))
        all_ += [(t, r.logprobs.token[i], pairs[i * n:(i + 1) * n]) for i, t in enumerate(r.tokens)]
    return all_


def test_logprobs_are_those_of_the_engine_whatever_bends_the_choice(cluster):
    prompt = tokenize("Once upon a time")
    fields = {"max_tokens": 40, "ignore_end": True, "temperature": 1.3, "seed": 9, "top_k": 50, "repetition_penalty": 1.2, "top_logprobs": 4}
    told = logprobs_of(cluster.stream(prompt, **fields))
    line = json.dumps({"ids": prompt + [t for t, _, _ in told], "n_prompt": len(prompt)}) + "\n"
    scored = json.loads(consort("score", "--model", MODEL, text=line).stdout)
    assert len(told) == 40
    for (token, log, top), likeliest, nll in zip(told, scored["argmax"], scored["nll"]):
        assert log == pytest.approx(-nll, rel=1e-6) and top[0][0] == likeliest
        assert [x for _, x in top] == sorted((x for _, x in top), reverse=True) and len({t for t, _ in top}) == 4
        assert log <= top[0][1] and all(x == log for t, x in top if t == token)


@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.9, "seed": 4}], ids=["greedy", "at temperature 0.9"])
def test_logprobs_are_the_same_with_drafts_and_without(cluster, sampled):
    fields = {"max_tokens": 60, "top_logprobs": 20, **sampled}
    replies = list(cluster.stream(REPEATING, speculation="lookup", **fields))
    assert any(len(r.tokens) > 1 for r in replies)
    assert logprobs_of(replies) == logprobs_of(cluster.stream(REPEATING, speculation="none", **fields))


def test_logprobs_come_only_if_asked_for_and_without_alternatives_if_so(cluster):
    assert not any(r.HasField("logprobs") for r in cluster.stream("Hello", max_tokens=5))
    told = logprobs_of(cluster.stream("Hello", max_tokens=5, logprobs=True))
    assert len(told) > 2 and all(log <= 0 and top == [] for _, log, top in told)


def test_ranks_of_a_group_agree_under_all_of_it(new_cluster, cluster):
    fields = {"max_tokens": 50, "temperature": 0.8, "seed": 3, "typical_p": 0.9, "repetition_penalty": 1.3, "frequency_penalty": 0.2,
              "min_tokens": 40, "logit_bias": biases(cluster, {28: -3.0, 30: 2.0}), "top_logprobs": 3}
    expected = logprobs_of(cluster.stream(REPEATING, speculation="none", **fields))
    group = new_cluster(tensor_parallel=3, threads=1)
    assert logprobs_of(group.stream(REPEATING, speculation="lookup", **fields)) == expected


@pytest.mark.parametrize("fields, named", [
    ({"top_logprobs": 21}, "top_logprobs"),
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
    printed = json.loads(consort(*to, "--min-tokens", 5, "--logit-bias", "28:-100,30:3.5").stdout)
    assert printed["ids"] == expected.ids and "logprobs" not in printed
    told = logprobs_of(cluster.stream("Once upon a time", max_tokens=12, presence_penalty=0.5, top_logprobs=2))
    printed = json.loads(consort(*to, "--presence-penalty", 0.5, "--top-logprobs", 2).stdout)["logprobs"]
    assert [(p["id"], p["logprob"], [tuple(x) for x in p["top"]]) for p in printed] == told
