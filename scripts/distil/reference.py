"""A draft head of kind `head`: its file, and its step in plain numpy, which the runtime is compared with.

    z      = [h ; e(t)]                     h: hidden state that token t was chosen from, e(t): row of t in O (zeros if it has none)
    h'     = L z + C (silu(A z) * (B z))
    logits = O h'                           of the tokens token_ids

and on to the next token with h', and the token chosen. The file is GGUF, architecture "recurrent-head" (model/head.h); needs numpy and gguf.
"""
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

ARCH = "recurrent-head"
TENSORS = {"output.weight": "O", "linear.weight": "L", "ffn_gate.weight": "A", "ffn_up.weight": "B", "ffn_down.weight": "C"}
TYPES = ("Q8_0", "Q4_1", "Q4_0", "Q5_0", "Q5_1", "F16", "F32")


class Head:
    """ids [V] ascending, O [V][dim], L [dim][2 dim], A, B [F][2 dim], C [dim][F]; float32."""

    def __init__(self, ids, O, L, A, B, C, n_vocab, vocabulary_hash=""):
        self.ids = np.asarray(ids, np.int32)
        self.O, self.L, self.A, self.B, self.C = (np.asarray(m, np.float32) for m in (O, L, A, B, C))
        self.n_vocab, self.vocabulary_hash = int(n_vocab), vocabulary_hash  # of the target
        self.check()

    def check(self):
        (v, dim), f = self.O.shape, len(self.A)
        shapes = {"L": (dim, 2 * dim), "A": (f, 2 * dim), "B": (f, 2 * dim), "C": (dim, f)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if self.ids.shape != (v,) or np.any(np.diff(self.ids) <= 0) or self.ids[0] < 0 or self.ids[-1] >= self.n_vocab:
            raise ValueError(f"token_ids: expected {v} ascending ids under {self.n_vocab}, one a row of the output matrix")

    def embedding(self, token):
        at = int(np.searchsorted(self.ids, token))
        return self.O[at] if at < len(self.ids) and self.ids[at] == token else np.zeros(self.O.shape[1], np.float32)

    def step(self, h, token):
        """(h', logits of the tokens ids)"""
        z = np.concatenate([np.asarray(h, np.float32), self.embedding(token)])
        gate = self.A @ z
        h = self.L @ z + self.C @ (gate / (1 + np.exp(-gate)) * (self.B @ z))
        return h, self.O @ h

    def run(self, h, tokens):
        """[(h', logits)] after each of the tokens, fed one after the other."""
        steps = []
        for token in tokens:
            steps.append(self.step(h, token))
            h = steps[-1][0]
        return steps


def write(path, head, kind="Q8_0", name="head", licence="", description=""):
    """The same head and arguments give the same bytes. kind: of all matrices, one of TYPES."""
    w = GGUFWriter(path, ARCH)
    w.add_name(name)
    w.add_license(licence)
    w.add_description(description)
    w.add_embedding_length(head.O.shape[1])
    w.add_feed_forward_length(len(head.A))
    w.add_string(f"{ARCH}.vocabulary_hash", head.vocabulary_hash)
    w.add_vocab_size(head.n_vocab)
    w.add_array(f"{ARCH}.token_ids", [int(i) for i in head.ids])
    for tensor, attribute in TENSORS.items():
        values = np.ascontiguousarray(getattr(head, attribute))
        data = quants.quantize(values, GGMLQuantizationType[kind])
        if kind in ("F16", "F32"):
            w.add_tensor(tensor, data)
        else:
            w.add_tensor(tensor, data.view(np.uint8).reshape(len(values), -1), raw_dtype=GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path):
    """A head with its weights as the file has them, dequantized."""
    r = GGUFReader(path)
    arch = r.fields["general.architecture"].contents()
    if arch != ARCH:
        raise ValueError(f"{path}: architecture is {arch}, expected {ARCH}")
    data = {t.name: t for t in r.tensors}
    matrices = {a: quants.dequantize(data[n].data, data[n].tensor_type) for n, a in TENSORS.items()}
    keys = {k: r.fields[f"{ARCH}.{k}"].contents() for k in ("token_ids", "vocab_size", "vocabulary_hash")}
    return Head(keys["token_ids"], **matrices, n_vocab=keys["vocab_size"], vocabulary_hash=keys["vocabulary_hash"])


def random_head(dim, ids, F, seed, n_vocab, vocabulary_hash=""):
    """Seeded weights of sizes that keep h' about as long as h."""
    rng = np.random.default_rng(seed)

    def matrix(rows, cols, size):
        return rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(size)

    L = np.eye(dim, 2 * dim, dtype=np.float32) * np.float32(0.9) + matrix(dim, 2 * dim, 0.1 * dim**-0.5)
    A, B, C = matrix(F, 2 * dim, (2 * dim) ** -0.5), matrix(F, 2 * dim, (2 * dim) ** -0.5), matrix(dim, F, 0.3 * F**-0.5)
    return Head(sorted(ids), matrix(len(ids), dim, 1), L, A, B, C, n_vocab, vocabulary_hash)


def write_head(path, dim, ids, F, seed, n_vocab, vocabulary_hash, kind="Q8_0"):
    """A file with a random head, for tests; returns the head as `read` does."""
    write(path, random_head(dim, ids, F, seed, n_vocab, vocabulary_hash), kind, name=f"random-{seed}", description="random weights, for tests")
    return read(path)
