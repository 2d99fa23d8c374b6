"""The verbs around n-gram tables: build-ngram and bench-drafters. No cluster runs."""
import json

from support import MODEL, consort


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def build(out, *files, check=True):
    return consort("build-ngram", "--model", MODEL, "--out", out, *files, check=check)


def test_text_and_ids_of_the_same_words_make_the_same_table(tmp_path):
    text = "The capital of France is Paris. The capital of Italy is Rome."
    ids = json.loads(consort("tokenize", "--no-special", "--model", MODEL, text=json.dumps({"text": text}) + "\n").stdout)
    plain = tmp_path / "plain.txt"
    plain.write_text(text, encoding="utf-8")
    sources = [plain, write(tmp_path / "a.jsonl", [{"output": text}]), write(tmp_path / "b.jsonl", [ids])]
    tables = []
    for i, source in enumerate(sources):
        said = build(tmp_path / f"{i}.ngram", source).stdout
        assert f"1 texts, {len(ids['ids'])} tokens" in said, said
        tables.append((tmp_path / f"{i}.ngram").read_bytes())
    assert tables[0] == tables[1] == tables[2]
    assert not list(tmp_path.glob("*.new"))


def test_a_table_of_the_answer_itself_drafts_it(tmp_path):
    line = {"id": "x", "domain": "d", "prompt": "Count.", "output": "one two three four five six seven eight nine ten"}
    build(tmp_path / "t", write(tmp_path / "a.jsonl", [line]))
    done = consort("bench-drafters", "--model", MODEL, "--table", tmp_path / "t", "--budget", 4, "--width", 1, text=json.dumps(line) + "\n")
    answer = json.loads(done.stdout)
    assert answer["id"] == "x" and answer["steps"]["ngram"] == -(-(answer["tokens"] - 1) // 5), answer
    assert answer["steps"]["lookup"] == answer["tokens"] - 1, answer


def test_wrong_input_is_named(tmp_path):
    good = write(tmp_path / "good.jsonl", [{"output": "a b"}])
    for bad, says in (([{"output": "a"}, {"text": "b"}], ["line 2", "'output'"]), ([{"ids": [49152]}], ["line 1", "ids[0]", "49152"])):
        done = build(tmp_path / "t", good, write(tmp_path / "bad.jsonl", bad), check=False)
        assert done.returncode == 1 and all(word in done.stderr for word in ["bad.jsonl", *says]), done.stderr
    done = build(tmp_path / "t", tmp_path / "none.txt", check=False)
    assert done.returncode == 1 and "none.txt" in done.stderr, done.stderr
    assert not (tmp_path / "t").exists()
    done = consort("bench-drafters", "--model", MODEL, "--table", MODEL, check=False)
    assert done.returncode == 1 and "not an n-gram table" in done.stderr, done.stderr
