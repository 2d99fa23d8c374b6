"""n answers to one prompt: each is what a request for it alone gets, they stream side by side, and they end together."""
import json

import grpc
import pytest

from support import consort, until

SAMPLED = {"max_tokens": 24, "temperature": 1.0, "seed": 77, "ignore_end": True}
PROMPT = "Once upon a time"


def choices(replies):
    """{index: (text, ids, finish_reason)}, and the replies."""
    replies = list(replies)
    of = {}
    for r in replies:
        of.setdefault(r.index, []).append(r)
    for own in of.values():
        assert own[0].HasField("request_id") and own[0].seed == SAMPLED["seed"]
        assert [r.HasField("finish_reason") for r in own] == [False] * (len(own) - 1) + [True]
    return {i: ("".join(r.text for r in own), [t for r in own for t in r.tokens], own[-1].finish_reason) for i, own in of.items()}, replies


def alone(cluster, **fields):
    answer = cluster.generate(PROMPT, **{**SAMPLED, **fields})
    return answer.text, answer.ids, answer.finish_reason


@pytest.mark.parametrize("speculation", ["none", "lookup"])
def test_answer_i_is_the_one_of_a_request_for_it_alone(cluster, speculation):
    of, replies = choices(cluster.stream(PROMPT, n=5, speculation=speculation, **SAMPLED))
    assert sorted(of) == [0, 1, 2, 3, 4]
    assert of[0] == alone(cluster)
    assert [of[i] for i in range(5)] == [alone(cluster, first_choice=i) for i in range(5)]
    assert len({tuple(ids) for _, ids, _ in of.values()}) == 5, "answers that are all the same"
    later, _ = choices(cluster.stream(PROMPT, n=2, first_choice=3, **SAMPLED))
    assert [later[0], later[1]] == [of[3], of[4]]


def test_answers_stream_side_by_side_and_usage_comes_once_over_all(cluster):
    of, replies = choices(cluster.stream(PROMPT, n=4, **SAMPLED))
    first_end = next(k for k, r in enumerate(replies) if r.HasField("finish_reason"))
    assert {r.index for r in replies[:first_end]} == {0, 1, 2, 3}
    assert [r.HasField("usage") for r in replies] == [False] * (len(replies) - 1) + [True]
    usage = replies[-1].usage
    assert usage.completion_tokens == sum(len(ids) for _, ids, _ in of.values()) == 4 * SAMPLED["max_tokens"]
    assert usage.prompt_tokens == cluster.generate(PROMPT, **SAMPLED).usage.prompt_tokens


def test_each_answer_has_its_own_stop(cluster):
    whole = alone(cluster, first_choice=1)[0]
    stop = whole[8:14]
    of, _ = choices(cluster.stream(PROMPT, n=3, stop=[stop], **SAMPLED))
    assert of[1][0] == whole[: whole.index(stop)] and of[1][2] == "stop"
    assert [of[i] for i in range(3)] == [alone(cluster, first_choice=i, stop=[stop]) for i in range(3)]


def test_cancel_ends_all_answers(cluster):
    before = cluster.status().steps
    call = cluster.stream(PROMPT, n=6, max_tokens=2000, ignore_end=True, temperature=1.0)
    seen = set()
    while len(seen) < 6:
        seen.add(next(call).index)
    assert cluster.status().requests_running == 6
    call.cancel()
    until(cluster.is_idle, "the six sequences to be freed")
    assert cluster.status().steps - before < 1000


def test_n_has_limits(cluster, new_cluster):
    for n in (0, 17):
        with pytest.raises(grpc.RpcError) as e:
            cluster.generate(PROMPT, n=n)
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "n:" in e.value.details()
    small = new_cluster(max_running=2, max_queue=1)
    with pytest.raises(grpc.RpcError) as e:
        small.generate(PROMPT, n=4)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "at most" in e.value.details()
    running = small.stream(PROMPT, max_tokens=3000, ignore_end=True)
    next(running)
    with pytest.raises(grpc.RpcError) as e:
        small.generate(PROMPT, n=3)
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert small.status().requests_running == 1 and small.status().requests_waiting == 0
    running.cancel()
    until(small.is_idle, "the running request to be freed")
    assert len(choices(small.stream(PROMPT, n=3, **SAMPLED))[0]) == 3  # one of them waits for its turn


def test_the_command_prints_each_answer(cluster):
    options = [f"--{name.replace('_', '-')}" + (f"={value}" if value is not True else "") for name, value in SAMPLED.items()]
    done = consort("generate", "--server", cluster.server, "--raw", "--json", "--prompt", PROMPT, "--n", 3, *options)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line["ids"] for line in lines] == [alone(cluster, first_choice=i)[1] for i in range(3)]
    assert all(line["usage"]["completion_tokens"] == 24 and line["usage"]["prompt_tokens"] > 0 for line in lines)
    shown = consort("generate", "--server", cluster.server, "--raw", "--quiet", "--prompt", PROMPT, "--n", 2, *options).stdout
    assert all(f"--- {i} ---\n{lines[i]['text']}" in shown for i in range(2))
    assert consort("chat", "--server", cluster.server, "--n", 2, text="", check=False).returncode == 2
