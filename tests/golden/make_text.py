#!/usr/bin/env python3
"""Makes spm-vocabulary.gguf, spm-tokenize.jsonl and pretokenize.jsonl: what other programs say about text.

    python3 -m venv V && V/bin/pip install sentencepiece tokenizers gguf && V/bin/python tests/golden/make_text.py

spm: a vocabulary of 700 pieces trained by SentencePiece itself on the project's README (BPE, byte fallback, space prefix), written
as GGUF, and SentencePiece's ids for texts. pretokenize: the words that Hugging Face's tokenizers make by the expressions that the
models were published with; {"pre", "text", "words": [bytes of each]}.
"""
import json
import os
import random
import tempfile

import gguf
import sentencepiece
from tokenizers import Regex, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
README = open(os.path.join(HERE, "..", "..", "README.md"), encoding="utf-8").read()
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s")
FIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama-bpe": [FIXES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST % ""],
    "qwen2": [FIXES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST % ""],
    "tekken": [CASED % ("", "") + r"|\p{N}" + REST % "/"],
    "gpt-4o": [CASED % (FIXES + "?", FIXES + "?") + r"|\p{N}{1,3}" + REST % "/"],
}
TEXTS = [
    "", "a", " ", "  ", " a  b   c", "Hello world", "I'm we'll THEY'RE it's IT'S don't", "x = 12345 + 3.14e10;", "\n\n  a\r\n\tb\n \n",
    "if (a->b[7] != NULL) { return; }", "größer Äpfel naïve ÉCOLE", "日本語のテキスト、中文。", "Привет, мир! 123", "emoji 😀👍🏽 and \u200d",
    "a\u0301e\u0301 combining", "CamelCaseWordsHTTPServer", "1 22 333 4444 ½ ² ٣٤", "'s 's'S ''ll", "path/to/file//x\n/y", "...!!!???---",
    "a\u00a0b\u3000c\u2028d\u180ee", "   leading and trailing   ", "~~~`code`|pipe|$5 + <b>^2</b>", "ǅ Lt ʰ Lm ª Lo",
]
BITS = ["a", "B", "é", "É", " ", "  ", "\n", "\r\n", "\t", "1", "23", "456", "'s", "'LL", ".", "!?", "/", "日", "本", "\u0301", "😀", "½", "_", "$", "`",
        "\u00a0", "the", " The", "ß", "Ǆ", "ʰ", "-"]


def texts(n):
    draw = random.Random(6)
    return TEXTS + ["".join(draw.choice(BITS) for _ in range(draw.randint(1, 25))) for _ in range(n)]


def make_spm():
    with tempfile.TemporaryDirectory() as at:
        with open(f"{at}/text", "w", encoding="utf-8") as f:
            f.write(README)
        sentencepiece.SentencePieceTrainer.train(
            input=f"{at}/text", model_prefix=f"{at}/m", vocab_size=700, model_type="bpe", byte_fallback=True, character_coverage=0.98,
            normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, minloglevel=2)
        spm = sentencepiece.SentencePieceProcessor(model_file=f"{at}/m.model")
    w = gguf.GGUFWriter(os.path.join(HERE, "spm-vocabulary.gguf"), "llama")
    n = spm.vocab_size()
    w.add_tokenizer_model("llama")
    w.add_token_list([spm.id_to_piece(i) for i in range(n)])
    w.add_token_scores([spm.get_score(i) for i in range(n)])
    w.add_token_types([2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1 for i in range(n)])
    w.add_bos_token_id(spm.bos_id())
    w.add_eos_token_id(spm.eos_id())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    with open(os.path.join(HERE, "spm-tokenize.jsonl"), "w", encoding="utf-8") as f:
        for text in texts(60) + README.split("\n\n")[:8]:
            f.write(json.dumps({"text": text, "ids": spm.encode(text)}, ensure_ascii=False) + "\n")


def make_pretokenize():
    with open(os.path.join(HERE, "pretokenize.jsonl"), "w", encoding="utf-8") as f:
        for name, patterns in PRE.items():
            pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns])
            for text in texts(40):
                words = [len(word.encode()) for word, _ in pre.pre_tokenize_str(text)]
                f.write(json.dumps({"pre": name, "text": text, "words": words}, ensure_ascii=False) + "\n")


make_spm()
make_pretokenize()
