"""The answers of one domain on disk, and the virtual environment of these programs.

A folder DATA/<domain>/ holds, for all answers one after the other:

    tokens.u32      the tokens, uint32
    hidden.f16      [tokens][dim], f16: the target's hidden state that each token was chosen from
    offsets.u64     where each answer begins, in tokens, and where the last one ends: [answers + 1]
    answers.jsonl   {"id", "domain", "prompt", "output", "tokens", "temperature", "seed"}: text for `consort build-ngram` too

and DATA/source.json what they were made with: {"model", "model_hash", "vocabulary_hash", "dim"}. All numbers little-endian. A line of
answers.jsonl is written last: what the other files hold beyond it is of a run that was cut, and is dropped when writing goes on.
"""
import glob
import importlib.util
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENTS = [os.path.join(ROOT, "build/distil/venv"), os.path.join(ROOT, ".venv")]  # of scripts/distil/setup and scripts/setup --test


def needs(*modules):
    """Goes on in a virtual environment that has these modules, if this Python lacks one."""
    if all(importlib.util.find_spec(m) for m in modules):
        return
    for environment in ENVIRONMENTS:
        if all(glob.glob(f"{environment}/lib/python*/site-packages/{m}") for m in modules) and sys.prefix != environment:
            os.execv(f"{environment}/bin/python", [f"{environment}/bin/python", *sys.argv])
    sys.exit(f"{os.path.basename(sys.argv[0])}: needs the Python packages {', '.join(modules)}: run scripts/distil/setup")


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def write_json(path, value):
    with open(f"{path}.part", "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")
    os.replace(f"{path}.part", path)


class Writer:
    """Appends answers to a folder, behind the whole ones that it holds."""

    def __init__(self, folder, dim):
        os.makedirs(folder, exist_ok=True)
        self.dim, self.n_tokens, self.done = dim, 0, set()
        names = ("tokens.u32", "hidden.f16", "offsets.u64", "answers.jsonl")
        self.tokens, self.hidden, self.offsets, self.lines = (open(os.path.join(folder, n), "a+b") for n in names)
        self.recover()

    def recover(self):
        n_answers = n_bytes = 0
        self.lines.seek(0)
        for line in self.lines:
            if not line.endswith(b"\n"):
                break
            answer = json.loads(line)
            self.done.add(key(answer))
            self.n_tokens += len(answer["tokens"])
            n_answers, n_bytes = n_answers + 1, n_bytes + len(line)
        self.lines.truncate(n_bytes)
        if n_answers == 0:
            self.offsets.truncate(0)
            self.put(self.offsets, (0).to_bytes(8, "little"))
        for f, size in ((self.tokens, 4 * self.n_tokens), (self.hidden, 2 * self.dim * self.n_tokens), (self.offsets, 8 * (n_answers + 1))):
            held = f.seek(0, os.SEEK_END)
            if held < size:
                raise ValueError(f"{f.name}: {held} bytes, expected at least {size} by answers.jsonl; move the folder away and collect it again")
            f.truncate(size)

    @staticmethod
    def put(f, data):
        f.write(data)
        f.flush()

    def append(self, answer, hidden):
        """hidden: bytes, [len(tokens)][dim] f16."""
        tokens = answer["tokens"]
        assert len(hidden) == 2 * self.dim * len(tokens)
        self.n_tokens += len(tokens)
        self.put(self.tokens, b"".join(t.to_bytes(4, "little") for t in tokens))
        self.put(self.hidden, hidden)
        self.put(self.offsets, self.n_tokens.to_bytes(8, "little"))
        self.put(self.lines, json.dumps(answer).encode() + b"\n")
        self.done.add(key(answer))

    def close(self):
        for f in (self.tokens, self.hidden, self.offsets, self.lines):
            f.close()


def key(answer):
    """What tells an answer from the others of its domain."""
    return answer["id"], answer.get("temperature", 0), answer.get("seed", 0)


class Domain:
    """The answers of a folder, to read: numpy arrays over its files."""

    def __init__(self, folder, dim):
        import numpy as np

        self.name = os.path.basename(folder)
        with open(os.path.join(folder, "answers.jsonl"), "rb") as f:
            self.answers = [json.loads(line) for line in f if line.endswith(b"\n")]
        self.offsets = np.fromfile(os.path.join(folder, "offsets.u64"), "<u8").astype(np.int64)[: len(self.answers) + 1]
        n = int(self.offsets[-1])
        if len(self.offsets) != len(self.answers) + 1 or n != sum(len(a["tokens"]) for a in self.answers):
            raise ValueError(f"{folder}: offsets.u64 and answers.jsonl disagree; run scripts/distil/answers on it again")
        self.tokens = np.fromfile(os.path.join(folder, "tokens.u32"), "<u4", n).astype(np.int64)
        self.hidden = np.memmap(os.path.join(folder, "hidden.f16"), "<f2", "r", shape=(n, dim))


def domains(data):
    """Names of the domains in a folder."""
    return sorted(d for d in os.listdir(data) if os.path.exists(os.path.join(data, d, "answers.jsonl")))
