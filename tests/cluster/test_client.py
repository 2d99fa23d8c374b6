"""The command `consort`: what it says and how it ends when something is wrong."""
import json
import math
import os
import signal
import socket
import subprocess

import pytest

from support import BUILD, MODEL, ROOT, consort, topology_text, until

CANNOT_CONNECT = ["--server", "127.0.0.1:1"]


def fails(*arguments, status=1, says=(), text=""):
    done = consort(*arguments, text=text, check=False)
    assert done.returncode == status and not done.stdout, done
    for word in says:
        assert word in done.stderr, done.stderr
    assert done.stderr.startswith("consort ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("change, says", [
    ({"kv_tokens": 33}, ["kv_tokens", "33"]),
    ({"kv_type": "f13"}, ["kv_type", "f13"]),
    ({"model": "models/none.gguf"}, ["models/none.gguf"]),
    ({"model": f"{ROOT}/README.md"}, ["README.md"]),
    ({"max_context": 1000000}, ["max_context", "1000000", "8192"]),
    ({"listen": "nowhere"}, ["listen", "nowhere"]),
    ({"max_runing": 4}, ["max_runing", "max_running"]),
    ({"speculation": "fixed:nobody"}, ["speculation", "fixed:nobody", "there are: lookup"]),
    ({"drafters": [{"name": "d", "kind": "ngram", "table": "none.ngram"}]}, ["groups[1]", "table", "none.ngram"]),
    ({"drafters": [{"name": "d", "kind": "ngram", "table": MODEL}]}, ["groups[1]", "table", "not an n-gram table"]),
    ({"drafters": [{"name": "d", "kind": "model", "model": f"{ROOT}/README.md"}]}, ["groups[1]", "model", "README.md"]),
    ({"drafters": [{"name": "d", "role": "verifier", "kv_type": "f32"}]}, ["groups[1]", "kv_type: f32", "groups[0] (target)", "f16"]),
    ({"chat_template": "jinja"}, ["chat template 'jinja'", "chatml", "llama3", "gemma3"]),
    ({"speculation": "sometimes"}, ["speculation", "sometimes", "none, lookup, all, hedge, cosine, fixed:<drafter>, round-robin"]),
])
def test_check_config_names_file_field_and_value(tmp_path, change, says):
    path = tmp_path / "topology.yaml"
    path.write_text(topology_text(str(tmp_path), **change), encoding="utf-8")
    fails("check-config", path, says=[str(path), *says])


def test_check_config_of_a_good_topology_tells_the_ranks(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(topology_text(str(tmp_path)), encoding="utf-8")
    assert "rank 1  verifier target" in consort("check-config", path).stdout
    assert consort("check-config", path, "--ranks").stdout == "2\n"
    path.write_text(topology_text(str(tmp_path), swap_tokens=640, swap_directory="/tmp"), encoding="utf-8")
    assert "4096 tokens of KV in f16, 640 on disk in /tmp\n" in consort("check-config", path).stdout


def test_check_config_knows_the_drafters_that_a_policy_may_name(tmp_path):
    path = tmp_path / "topology.yaml"
    drafters = [{"name": "small", "kv_tokens": 4096}, {"name": "code", "kind": "ngram", "table": f"{ROOT}/drafters/code.ngram"}]
    path.write_text(topology_text(str(tmp_path), drafters, speculation="fixed:small"), encoding="utf-8")
    out = consort("check-config", path).stdout
    assert f"rank 2  drafter small, kind model, of {MODEL}: its share of the cores, 4096 tokens of KV in f16" in out, out
    assert f"rank 3  drafter code, kind ngram, of {ROOT}/drafters/code.ngram\n" in out, out
    path.write_text(topology_text(str(tmp_path), drafters, speculation="fixed:target"), encoding="utf-8")
    fails("check-config", path, says=[str(path), "speculation: 'fixed:target'", "there are: small, code, lookup"])


def test_check_config_without_a_file_is_told(tmp_path):
    fails("check-config", status=2, says=["FILE"])
    fails("check-config", tmp_path / "none.yaml", says=["none.yaml"])
    fails("check-config", tmp_path, says=[str(tmp_path)])


@pytest.mark.parametrize("line, says", [
    ("{", ["line 1"]),
    ("[1]", ["line 1", "object"]),
    ('{"n_prompt": 1}', ["ids"]),
    ('{"ids": [1, 2], "n_prompt": 0}', ["n_prompt"]),
    ('{"ids": [1, 2], "n_prompt": 3}', ["n_prompt"]),
    ('{"ids": [1, 49152], "n_prompt": 1}', ["ids[1]", "49151"]),
    ('{"ids": [1, "x"], "n_prompt": 1}', ["ids[1]"]),
    ('{"ids": ' + json.dumps([0] * 8193) + ', "n_prompt": 1}', ["ids", "8192"]),
])
def test_score_names_the_line_and_the_field(line, says):
    fails("score", "--model", MODEL, text="\n" + line + "\n", says=[word.replace("line 1", "line 2") for word in says])


@pytest.mark.parametrize("arguments, status, says", [
    (["score"], 2, ["--model"]),
    (["score", "--model", MODEL, "--isa", "mmx"], 1, ["mmx"]),
    (["score", "--model", MODEL, "--kv-type", "q9"], 1, ["q9"]),
    (["inspect", MODEL, "--tp", "7"], 1, ["7 ranks", "at most 6"]),
    (["inspect", MODEL, "--tp", "2", "--kv-type", "q9"], 1, ["q9"]),
    (["bench", "engine", "--model", MODEL, "--batch", "0"], 2, ["--batch", "0"]),
    (["bench", "engine", "--model", MODEL, "--threads", "1,,2"], 2, ["--threads", "1,,2"]),
    (["bench", "engine", "--model", "none.gguf"], 1, ["none.gguf"]),
    (["bench", "clutser", "--model", MODEL], 2, ["clutser"]),
    (["generate", "--prompt", "x", "--temperature", "-1"], 2, ["temperature", "-1"]),
    (["generate", *CANNOT_CONNECT, "--tokens", "1,x"], 1, ["--tokens", "1,x"]),
    (["generate", *CANNOT_CONNECT, "--tokens", ""], 1, ["--tokens"]),
    (["generate", *CANNOT_CONNECT, "--tokens", "4294967296"], 1, ["--tokens", "4294967296"]),
    (["generate", "--tokens", "1,2", "--prompt", "x"], 2, ["--prompt", "--tokens"]),
    (["generate", "--tokens", "1,2", "--system", "x"], 2, ["--system", "--tokens"]),
    (["generate", "--prompt", "x", "--stop-tokens", "1,x"], 2, ["stop_tokens", "1,x"]),
    (["generate", "--prompt", "x", "--priority", "-9"], 2, ["priority: -9 is outside -8 .. 8"]),
    (["generate", "--raw", "--system", "s", "--prompt", "x"], 2, ["--system", "--raw"]),
    (["generate", "--no-such"], 2, ["--no-such"]),
    (["generate", *CANNOT_CONNECT], 1, ["standard input"]),
    (["generate", *CANNOT_CONNECT, "--prompt", "x"], 1, ["127.0.0.1:1"]),
    (["generate", "--server", "127.0.0.1", "--prompt", "x"], 1, ["--server", "127.0.0.1"]),
    (["status", *CANNOT_CONNECT], 1, ["127.0.0.1:1"]),
    (["stop", *CANNOT_CONNECT], 1, ["127.0.0.1:1"]),
])
def test_a_wrong_command_line_is_told_in_one_line(arguments, status, says):
    fails(*arguments, status=status, says=says)


def test_a_prompt_with_a_nul_byte_is_refused_and_not_cut():
    fails("generate", *CANNOT_CONNECT, text="a\0b", says=["NUL"])
    fails("chat", *CANNOT_CONNECT, text="a\0b\n", says=["NUL"])


def test_waiting_for_readiness_ends():
    done = consort("status", *CANNOT_CONNECT, "--wait-ready", 1, check=False)
    assert done.returncode == 1 and "not ready after 1 s" in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["check-config", "--help"], ["generate", "--prompt", "Hi"],
                                       ["generate", "--prompt", "Hi", "--json"], ["status"], ["status", "--json"]])
def test_output_that_cannot_be_written_is_a_failure(cluster, arguments):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([f"{BUILD}/consort", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
                              env={**os.environ, "CONSORT_SERVER": cluster.server})
    assert done.returncode == 1 and "standard output" in done.stderr, done
    until(cluster.is_idle, "the sequence to be freed")


def test_ctrl_c_cancels_the_call_and_exits_with_130(cluster):
    command = [f"{BUILD}/consort", "generate", "--server", cluster.server, "--prompt", "Count to a million.", "--max-tokens", "4000",
               "--ignore-end"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert client.stdout.read(1)
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=60)
    assert client.returncode == 130 and b"cancelled" in said
    until(cluster.is_idle, "the sequence to be freed")


def interrupted_while_waiting(server, seen):
    client = subprocess.Popen([f"{BUILD}/consort", "status", "--server", server, "--wait-ready", "60"], stderr=subprocess.PIPE)
    seen(client)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    return client.returncode


def test_ctrl_c_ends_waiting_for_readiness():
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and says nothing
        calls = []
        server = f"127.0.0.1:{mute.getsockname()[1]}"
        assert interrupted_while_waiting(server, lambda _: calls.append(mute.accept()[0]) or calls[0].recv(1)) == 130
    assert interrupted_while_waiting("127.0.0.1:1", lambda client: client.stderr.readline()) == 130  # between two calls, too


def test_a_stranger_on_the_control_link_gets_a_closed_socket(cluster):
    host, _, port = cluster.run["control"].rpartition(":")
    for bytes_ in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"CNS1" + b"\xff" * 64, b"CNS1\1\0\1\0" + bytes(64)):
        with socket.create_connection((host, int(port)), timeout=60) as stranger:
            stranger.sendall(bytes_)
            try:
                assert stranger.recv(1) == b""
            except ConnectionResetError:
                pass
    assert cluster.status().ready


def test_perplexity_is_that_of_the_scores_of_its_windows(tmp_path):
    text = "The quick brown fox jumps over the lazy dog. It was not the first time, and it would not be the last; the dog knew it, too."
    path = tmp_path / "text"
    path.write_text(text, encoding="utf-8")
    ids = json.loads(consort("tokenize", "--no-special", "--model", MODEL, text=json.dumps({"text": text}) + "\n").stdout)["ids"]

    def scores(window, first):
        line = json.dumps({"ids": window, "n_prompt": first}) + "\n"
        return json.loads(consort("score", "--model", MODEL, text=line).stdout)["nll"]

    def perplexity(context):
        return json.loads(consort("perplexity", "--model", MODEL, "--text", path, "--context", context, "--json").stdout)

    whole = perplexity(512)
    assert whole["tokens"] == len(ids) - 1 and abs(whole["nll"] - sum(scores(ids, 1)) / (len(ids) - 1)) < 1e-6
    assert abs(math.log(whole["perplexity"]) - whole["nll"]) < 1e-6
    nll = scores(ids[:8], 1)  # windows of 8, each 4 on
    for start in range(4, len(ids) - 4, 4):
        nll += scores(ids[start:start + 8], 4)
    assert len(nll) == len(ids) - 1
    assert abs(perplexity(8)["nll"] - sum(nll) / len(nll)) < 1e-6
    path.write_text("", encoding="utf-8")
    fails("perplexity", "--model", MODEL, "--text", path, says=[str(path), "at least 2"])
    fails("perplexity", "--model", MODEL, "--text", path, "--context", 7, says=["text"])
