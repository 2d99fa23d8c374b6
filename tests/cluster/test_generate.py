"""One answer through the whole house: the model's, whatever runs beside it, and only what was asked for."""
import json

import grpc
import pytest

from support import LONG, MODEL, consort, tokenize, until

PROMPTS = ["The capital of France is", "def reverse(s):\n", "Once upon a time", "1, 2, 3, 5, 8,", "Water boils at", "Grüße aus 東京: ",
           "The opposite of hot is", "In 1969, humans first"]
N_STREAMS = 32
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
GREEDY = {"max_tokens": 40, "ignore_end": True}


def same(a, b):
    return (a.text, a.ids, a.finish_reason) == (b.text, b.ids, b.finish_reason)


def test_greedy_tokens_are_the_likeliest_ones_of_the_engine(cluster):
    prompt = tokenize("The capital of France is")
    answer = cluster.generate(prompt, **GREEDY)
    line = json.dumps({"ids": prompt + answer.ids, "n_prompt": len(prompt)}) + "\n"
    scored = json.loads(consort("score", "--model", MODEL, text=line).stdout)
    assert answer.ids == scored["argmax"]
    assert "Paris" in answer.text


def test_an_answer_carries_its_count_seed_and_id(cluster):
    answer = cluster.generate("Once upon a time", max_tokens=7, ignore_end=True, seed=5, request_id="tale-1")
    assert (len(answer.ids), answer.finish_reason, answer.seed, answer.request_id) == (7, "length", 5, "tale-1")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokenize("Once upon a time")), 7)
    assert 0 < answer.timing.first_token_ns <= answer.timing.total_ns


def test_text_and_its_tokens_are_the_same_prompt(cluster):
    assert same(cluster.generate("Water boils at", **GREEDY), cluster.generate(tokenize("Water boils at"), **GREEDY))


def test_a_chat_is_laid_out_by_the_models_template(cluster):
    laid_out = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    answer = cluster.generate([("user", "Hello!")], max_tokens=40)
    assert same(answer, cluster.generate(laid_out, max_tokens=40))
    assert same(answer, cluster.generate([("system", SYSTEM), ("user", "Hello!")], max_tokens=40))


def test_text_arrives_in_whole_characters_and_adds_up(cluster):
    pieces = [r.text for r in cluster.stream("Write 10 emojis: 😀😃😄", max_tokens=40, ignore_end=True)]
    assert "".join(pieces) == cluster.generate("Write 10 emojis: 😀😃😄", max_tokens=40, ignore_end=True).text
    assert not any("\ufffd" in piece for piece in pieces[:-1]) and len(pieces) > 3


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "at temperature 1"])
def test_32_streams_at_once_get_what_each_gets_alone(cluster, sampled):
    for round_ in range(5 if LONG else 1):
        fields = [dict(GREEDY, temperature=1.0, seed=100 * round_ + i, top_p=0.95) if sampled else GREEDY for i in range(N_STREAMS)]
        requests = [(PROMPTS[i % len(PROMPTS)] + " " * (i // len(PROMPTS)), fields[i]) for i in range(N_STREAMS)]
        together = cluster.generate_all(requests)
        for (prompt, options), answer in list(zip(requests, together))[:: 1 if LONG else 4]:
            assert same(answer, cluster.generate(prompt, **options)), prompt
    assert cluster.status().largest_batch >= 8


def test_the_seed_decides_and_is_told(cluster):
    first = cluster.generate("Once upon a time", max_tokens=20, temperature=1.0)
    again = cluster.generate("Once upon a time", max_tokens=20, temperature=1.0, seed=first.seed)
    other = cluster.generate("Once upon a time", max_tokens=20, temperature=1.0, seed=first.seed + 1 & (1 << 64) - 1)
    assert same(first, again) and not same(first, other)


def test_top_k_1_is_greedy_at_any_temperature(cluster):
    assert same(cluster.generate("Water boils at", **GREEDY), cluster.generate("Water boils at", temperature=2.0, top_k=1, **GREEDY))


def test_a_stop_text_ends_the_answer_before_it(cluster):
    whole = cluster.generate("1, 2, 3,", max_tokens=40, ignore_end=True).text
    stop = whole[12:15]
    answer = cluster.generate("1, 2, 3,", max_tokens=40, ignore_end=True, stop=["never to be seen", stop])
    assert answer.text == whole[: whole.index(stop)] and answer.finish_reason == "stop"


def test_a_stop_text_ends_the_work_too(cluster):
    stop = cluster.generate("1, 2, 3,", max_tokens=10, ignore_end=True).text[4:7]
    before = cluster.status().steps
    cluster.generate("1, 2, 3,", max_tokens=400, ignore_end=True, stop=[stop])
    assert cluster.status().steps - before < 40


def test_a_stop_token_ends_the_answer(cluster):
    whole = cluster.generate("1, 2, 3,", **GREEDY)
    stop = whole.ids[5]
    answer = cluster.generate("1, 2, 3,", stop_tokens=[stop], **GREEDY)
    assert answer.finish_reason == "stop" and answer.ids[: whole.ids.index(stop)] == whole.ids[: whole.ids.index(stop)]
    assert len(answer.ids) <= whole.ids.index(stop) + 1 and whole.text.startswith(answer.text)


def test_the_end_of_an_answer_is_kept_unless_ignored(cluster):
    question = [("user", "Reply with the single word: yes")]
    answer = cluster.generate(question, max_tokens=200)
    assert answer.finish_reason == "stop" and "<|im_end|>" not in answer.text
    ignored = cluster.generate(question, max_tokens=200, ignore_end=True)
    assert (len(ignored.ids), ignored.finish_reason) == (200, "length")


@pytest.mark.parametrize("fields, named", [
    ({"temperature": -1.0}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_p": 1.5}, "top_p"),
    ({"min_p": -0.1}, "min_p"), ({"top_k": 1 << 31}, "top_k"), ({"max_tokens": (1 << 32) - 1}, "max_tokens"),
    ({"stop": [""]}, "stop"), ({"stop": ["x"] * 17}, "stop"), ({"stop": ["x" * 257]}, "stop"), ({"stop_tokens": [1 << 30]}, "stop_tokens"),
    ({"request_id": "x" * 65}, "request_id"), ({"prompt": ""}, "text"), ({"prompt": "a\0b"}, "text"), ({"prompt": [1 << 30]}, "tokens"),
    ({"priority": 9}, "priority: 9 is outside -8 .. 8"), ({"priority": -(1 << 31)}, "priority"),
    ({"prompt": []}, "tokens"), ({"prompt": [("", "hello")]}, "role"),
])
def test_a_bad_field_is_named(cluster, fields, named):
    with pytest.raises(grpc.RpcError) as e:
        cluster.generate(**{"prompt": "Hello", **fields})
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and named in e.value.details()
    assert cluster.status().ready


def test_a_request_without_a_prompt_is_refused(cluster):
    with pytest.raises(grpc.RpcError) as e:
        list(cluster.inference.Generate(cluster.api.messages.GenerateRequest(), timeout=60))
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_cancel_frees_the_sequence(cluster):
    before = cluster.status().steps
    call = cluster.stream("Once upon a time", max_tokens=4000, ignore_end=True)
    next(call)
    assert cluster.status().requests_running == 1 and cluster.status().kv_blocks_used > 0
    call.cancel()
    until(cluster.is_idle, "the sequence to be freed")
    assert cluster.status().steps - before < 1000  # and not by having come to its end


def test_a_deadline_frees_the_sequence(cluster):
    before = cluster.status().steps
    with pytest.raises(grpc.RpcError) as e:
        cluster.generate("Once upon a time", max_tokens=8000, ignore_end=True, timeout=0.5)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(cluster.is_idle, "the sequence to be freed")
    assert cluster.status().steps - before < 2000


def test_a_full_queue_refuses_and_recovers(new_cluster):
    small = new_cluster(max_running=1, max_queue=1)
    running = small.stream("Once upon a time", max_tokens=3000, ignore_end=True)
    next(running)
    waiting = small.stream("Once upon a time", max_tokens=1)
    until(lambda: small.status().requests_waiting == 1, "the second request to wait")
    with pytest.raises(grpc.RpcError) as e:
        small.generate(max_tokens=1)
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    running.cancel()
    assert sum(len(r.tokens) for r in waiting) == 1
    until(small.is_idle, "all to be freed")


def test_what_can_never_fit_is_refused_and_what_does_not_fit_now_waits(new_cluster):
    small = new_cluster(kv_tokens=512)
    with pytest.raises(grpc.RpcError) as e:
        small.generate(max_tokens=1000)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "1000 tokens" in e.value.details()
    fields = {"max_tokens": 20, "ignore_end": True}
    prompts = [[1000 + i] * 300 for i in range(3)]  # 10 of the 16 blocks each, and none of them alike
    alone = [small.generate(prompt, **fields) for prompt in prompts]
    together = small.generate_all([(prompt, fields) for prompt in prompts])
    assert all(same(answer, expected) for answer, expected in zip(together, alone))
    assert small.status().largest_batch == 1


def test_kv_tokens_0_is_measured_and_the_same_in_all_ranks_of_a_group(new_cluster, cluster):
    small = {"name": "small", "kind": "model", "threads": 1, "kv_tokens": 0}
    mine = new_cluster(drafters=[small], kv_tokens=0, tensor_parallel=2, threads=1, speculation="none")
    first, second, drafter = (json.loads(consort("status", "--server", mine.server, "--json").stdout)["workers"])
    available = 1024 * int(next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemAvailable")))
    assert 1024 // 32 <= first["kv_blocks"] == second["kv_blocks"] <= 2**20 // 32 and drafter["kv_blocks"] >= 1024 // 32
    assert sum(w["kv_bytes"] + w["weight_bytes"] for w in (first, second, drafter)) < 0.7 * available
    assert first["kv_blocks"] != 65536 // 32 and f"kv_tokens of target: {32 * first['kv_blocks']}" in open(mine.log, encoding="utf-8").read()
    assert same(mine.generate("Water boils at", max_tokens=8), cluster.generate("Water boils at", max_tokens=8))


def test_the_command_line_streams_the_same_answer(cluster):
    to = ["--server", cluster.server, "--max-tokens", 20]
    expected = cluster.generate("Water boils at", max_tokens=20)
    printed = json.loads(consort("generate", *to, "--raw", "--json", "--prompt", "Water boils at").stdout)
    assert (printed["text"], printed["ids"], printed["finish_reason"]) == (expected.text, expected.ids, expected.finish_reason)
    assert printed["usage"]["completion_tokens"] == len(expected.ids) and {"seed", "request_id", "times"} <= printed.keys()
    assert consort("generate", *to, "--raw", "--prompt", "Water boils at").stdout.rstrip("\n") == expected.text.rstrip("\n")
    chat = cluster.generate([("user", "Hello!")], max_tokens=20).text
    assert consort("generate", *to, text="Hello!").stdout.rstrip("\n") == chat.rstrip("\n")


def test_the_command_line_takes_token_ids(cluster):
    ids = tokenize("The capital of France is")
    printed = json.loads(consort("generate", "--server", cluster.server, "--tokens", ",".join(map(str, ids)), "--max-tokens", 8, "--json").stdout)
    assert printed["ids"] == cluster.generate(ids, max_tokens=8).ids and printed["usage"]["prompt_tokens"] == len(ids)
    for wrong in ("1,,2", "a", "1,", "-1", "4294967296", ""):
        refused = consort("generate", "--server", cluster.server, f"--tokens={wrong}", check=False)
        assert refused.returncode == 1 and "--tokens" in refused.stderr



def test_the_command_line_names_a_bad_value(cluster):
    done = consort("generate", "--server", cluster.server, "--prompt", "x", "--temperature", "-1", check=False)
    assert done.returncode != 0 and "temperature" in done.stderr


def test_status_tells_what_the_cluster_holds(cluster):
    status = json.loads(consort("status", "--server", cluster.server, "--json").stdout)
    assert status["ready"] and not status["draining"] and status["kv_blocks_total"] == 16384 // 32
    assert [(w["role"], w["up"]) for w in status["workers"]] == [("verifier", True)]
