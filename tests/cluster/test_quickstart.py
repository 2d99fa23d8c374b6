"""scripts/quickstart: the answer on standard output, and nothing left behind, however it ends."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from support import MODEL, ROOT, consort, leftovers, until

CODE = "Write a Python function that reverses a string."


@pytest.fixture
def quickstart(tmp_path):
    """Starts it in a process group of its own, as a terminal would, so that a Ctrl-C reaches the whole group."""
    before = leftovers()
    started = []

    def start(*options):
        process = subprocess.Popen([f"{ROOT}/scripts/quickstart", *options], stdout=subprocess.PIPE, stderr=open(tmp_path / "err", "wb"),
                                   text=True, process_group=0, env=dict(os.environ, CONSORT_RUN=str(tmp_path / "run")))
        started.append(process)
        return process

    start.err, start.run_file = tmp_path / "err", tmp_path / "run/quickstart.json"
    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.wait()
        process.stdout.close()
    until(lambda: leftovers() <= before, "everything to be gone")


def test_the_answer_alone_goes_to_standard_output(quickstart):
    out, _ = quickstart("--prompt", CODE, "--max-tokens", "40").communicate(timeout=120)
    err = quickstart.err.read_text()
    assert out.strip() and len(out) < 400 and "quickstart:" not in out, err
    assert ", 40 tokens (length)" in err and "tokens/s" in err and "the cluster is stopped" in err
    told = re.search(r"; (\d\.\d+) tokens a step, (\d+) % of drafts accepted \((.*)\)", err)
    assert told and float(told[1]) > 1 and int(told[2]) > 0, err
    assert re.search(r"\bwriter [1-9]\d* %", told[3]), err


@pytest.mark.parametrize("name, ranks", [("one-verifier", 2), ("verifier-tp2", 3), ("verifier-tp3", 4), ("two-verifiers", 4), ("prefill-and-decode", 3)])
def test_any_topology_can_be_started(quickstart, tmp_path, name, ranks):
    with open(f"{ROOT}/cluster-configs/{name}.yaml", encoding="utf-8") as f:
        text = re.sub(r"(?m)^((?:http_)?listen):.*$", r"\1: 127.0.0.1:0", f.read())
    config = tmp_path / f"{name}.yaml"
    config.write_text(text, encoding="utf-8")
    out, _ = quickstart("--config", str(config), "--prompt", "Hello!", "--max-tokens", "3").communicate(timeout=120)
    err = quickstart.err.read_text()
    assert out.strip() and f"starting {ranks} ranks" in err and "3 tokens" in err, err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_in_the_middle_leaves_nothing(quickstart, number, status):
    process = quickstart("--prompt", "Tell a long story.", "--max-tokens", "2000")
    assert process.stdout.read(1)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == status, quickstart.err.read_text()


def test_keep_leaves_it_running_and_tells_how_to_stop_it(quickstart):
    for _ in range(2):  # the second finds the first
        out, _ = quickstart("--prompt", "Hello!", "--max-tokens", "3", "--keep").communicate(timeout=120)
        assert out.strip(), quickstart.err.read_text()
    run = json.loads(quickstart.run_file.read_text())
    assert f"process {run['pid']}" in quickstart.err.read_text() and "is running" in quickstart.err.read_text()
    consort("stop", "--server", run["grpc"])


def test_keep_takes_a_free_port_if_the_default_one_is_in_use(quickstart):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with taken:
        with contextlib.suppress(OSError):  # another program has it: as well
            taken.bind(("127.0.0.1", 50051))
            taken.listen()
        out, _ = quickstart("--prompt", "Hello!", "--max-tokens", "3", "--keep").communicate(timeout=120)
    assert out.strip(), quickstart.err.read_text()
    run = json.loads(quickstart.run_file.read_text())
    assert run["grpc"] != "127.0.0.1:50051" and f"--server {run['grpc']}" in quickstart.err.read_text()
    consort("stop", "--server", run["grpc"])


def test_a_missing_topology_is_told(quickstart):
    process = quickstart("--config", "/nonexistent.yaml")
    process.communicate(timeout=60)
    assert process.returncode == 1 and "/nonexistent.yaml" in quickstart.err.read_text()


# All is compiled, but not as long as for speed: one function of a product for any number of tokens (docs/testing.md) takes seconds, not half a minute.
LAUNCHER = """#!/bin/sh
exec "$@" -O1 -DKERNELS_ANY_TOKENS=1
"""


@pytest.fixture
def checkout_of_nobody():
    """The sources and the model, in the hands of a user who may not install anything."""
    directory = tempfile.mkdtemp(prefix="consort-nobody-", dir="/tmp")  # beside the tests' own, which is root's alone
    checkout = f"{directory}/consort"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=lambda at, names: {"build", "models", "run", ".git", ".venv"} & set(names) if at == ROOT else ())
    os.mkdir(f"{checkout}/models")
    shutil.copy(MODEL, f"{checkout}/models")
    with open(f"{directory}/launcher", "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o755)) as f:
        f.write(LAUNCHER)
    subprocess.run(["chown", "-R", "nobody:nogroup", directory], check=True)
    yield checkout
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_needs_no_more_than_the_packages(checkout_of_nobody):
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "-i", "HOME=/nonexistent", "PATH=/usr/bin:/bin",
                 f"CMAKE_C_COMPILER_LAUNCHER={os.path.dirname(checkout_of_nobody)}/launcher", f"TMPDIR={os.path.dirname(checkout_of_nobody)}", f"CONSORT_TEST_RUN={os.environ['CONSORT_TEST_RUN']}"]
    done = subprocess.run([*as_nobody, f"{checkout_of_nobody}/scripts/quickstart", "--prompt", "Hello!", "--max-tokens", "5"],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stdout.strip() and "5 tokens (length)" in done.stderr, done.stderr
