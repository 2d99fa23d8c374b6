#!/usr/bin/env python3
"""Makes families.txt: what llama.cpp says about the tiny models of tests/unit/model/test_families.c.

    python3 -m venv V && V/bin/pip install xllamacpp gguf numpy && V/bin/python tests/golden/make_families.py build/release

Each file is written by the test program itself, gets a vocabulary here (llama.cpp does not load one without), and is asked for the
log-probabilities behind some prefixes of a fixed text, in float weights and float KV. A line a model: name, n, n token ids, then
`@row -log p` of the token that follows the row.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

import gguf
import xllamacpp

HERE = os.path.dirname(os.path.abspath(__file__))
N, ROWS = 45, (0, 1, 4, 9, 18, 19, 20, 21, 24, 30, 31, 32, 39, 43)


def with_vocabulary(source, target):
    r = gguf.GGUFReader(source)
    arch = r.fields["general.architecture"].contents()
    w = gguf.GGUFWriter(target, arch)
    for name, field in r.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            w.add_key_value(name, field.contents(), field.types[0])
    n = next(int(t.shape[1]) for t in r.tensors if t.name == "token_embd.weight")
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>"] + [f"t{i}" for i in range(3, n)])
    w.add_token_scores([0.0] * n)
    w.add_token_types([2, 3, 3] + [1] * (n - 3))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(False)
    for t in r.tensors:
        w.add_tensor(t.name, t.data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return n


def server(path):
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_gpu_layers, p.cpuparams.n_threads = path, 128, 0, 1
    p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    p.warmup, p.cache_prompt, p.use_jinja, p.n_parallel, p.verbosity = False, False, False, 1, 0
    return xllamacpp.Server(p)


def score(s, ids, row, n_vocab):
    """None where llama.cpp ends the text there: it then tells no probabilities."""
    answer = s.handle_completions({"prompt": ids[:row + 1], "n_predict": 1, "n_probs": n_vocab, "logprobs": n_vocab, "temperature": 0,
                                   "cache_prompt": False})
    answer = json.loads(answer) if isinstance(answer, str) else answer
    told = answer["choices"][0].get("logprobs")
    return told and next(-e["logprob"] for e in told["content"][0]["top_logprobs"] if e["id"] == ids[row + 1])


def main():
    draw = random.Random(9)
    with tempfile.TemporaryDirectory() as at, open(os.path.join(HERE, "families.txt"), "w", encoding="ascii") as out:
        subprocess.run([f"{sys.argv[1]}/test_model_families"], env=dict(os.environ, CONSORT_WRITE_PEERS=at), check=True)
        for name in ("llama", "llama-linear", "llama-yarn", "llama-freqs", "qwen2", "qwen2-yarn", "qwen3", "gemma3", "gemma3-linear"):
            n_vocab = with_vocabulary(f"{at}/{name}.gguf", f"{at}/{name}-v.gguf")
            ids = [draw.randrange(3, n_vocab) for _ in range(N)]
            s = server(f"{at}/{name}-v.gguf")
            scores = [(row, score(s, ids, row, n_vocab)) for row in ROWS]
            out.write(f"{name} {N} {' '.join(map(str, ids))} {' '.join(f'@{row} {x:.7f}' for row, x in scores if x)}\n")
            del s


main()
