#!/usr/bin/env python3
"""What a way to keep K and V costs in perplexity, before it is written in C: a forward pass in PyTorch over a GGUF file, each way a function here.

    bench/kv_types.py --model F [--prompts ../shared/workloads/eval] [--calibrate ../shared/workloads/train] [--characters 12000] [--ways q4,h32-q4]

Needs numpy, torch and gguf (pip), and build/release/consort to tokenize. Weights are dequantized, all is fp32 but the cache, so that nothing else rounds. Each
text is cut into windows of 512 tokens that do not overlap; every token but a window's first is scored. Printed for each way, as a JSON line: bits of an element
of K and V, perplexity, its change against fp32 in percent and that change's standard error over the tokens. Families: llama and gemma3, as model/arch_*.c have them.
"""
import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time

import gguf
import numpy as np
import torch
from torch.nn import functional as F

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TEXTS = ("code", "general", "math", "medicine", "spec_bench")
WINDOW, GROUP, PAD = 512, 32, -1


# ---- how rows are rounded: x[..., head] to what comes back ----

def half(x):
    return x.half().float()


def f16(x):
    return half(x)


def q8(x):
    d = x.abs().amax(-1, keepdim=True) / 127
    return torch.round(x / d.clamp_min(1e-30)) * d


def codes(bits, group=GROUP):
    """docs/numerics.md, "q4", for any number of bits: scale and minimum in f16 for each group."""
    def way(x):
        g = x.unflatten(-1, (-1, group))
        m = half(g.amin(-1, keepdim=True))
        d = half((g.amax(-1, keepdim=True) - m) / (2**bits - 1))
        q = torch.round((g - m) / d.clamp_min(1e-30)).clamp(0, 2**bits - 1)
        return (d * q + m).flatten(-2)
    way.bits = bits + 32 / group
    return way


f16.bits, q8.bits = 16, 8.5


def bfp(bits, group):
    """Block floating point: one exponent of 8 bits, mantissas of `bits` with their sign."""
    def way(x):
        g = x.unflatten(-1, (-1, group))
        step = torch.exp2(torch.floor(torch.log2(g.abs().amax(-1, keepdim=True).clamp_min(1e-30))) - (bits - 2))
        return (torch.round(g / step).clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1) * step).flatten(-2)
    way.bits = bits + 8 / group
    return way


def hadamard(n):
    h = np.ones((1, 1), dtype=np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return torch.from_numpy(h / math.sqrt(n))


def rotated(way, n):
    """By a Hadamard matrix over each n elements before it is rounded, and back."""
    h = hadamard(n)

    def turned(x):
        return (way((x.unflatten(-1, (-1, n)) @ h).flatten(-2)).unflatten(-1, (-1, n)) @ h).flatten(-2)
    turned.bits = way.bits
    return turned


# ---- what a cache does with K and V of a layer ----

class Rows:
    """Every row by itself, K behind its rotary embedding."""

    def __init__(self, k, v):
        self.k, self.v, self.bits = k, v, (k.bits + v.bits) / 2

    def keep(self, layer, x, k_raw, turn, v):
        return self.k(turn(k_raw)), self.v(v)


class Reordered(Rows):
    """Channels sorted by their mean magnitude over the calibration text, in each layer and head (arXiv 2403.20137)."""

    def __init__(self, k, v, seen):
        super().__init__(k, v)
        self.order = [[np.argsort(-m, axis=-1) for m in layer] for layer in seen.magnitudes()]

    def sorted(self, way, x, order):
        order = torch.from_numpy(np.broadcast_to(order, x.shape).copy())
        return torch.empty_like(x).scatter_(-1, order, way(torch.gather(x, -1, order)))

    def keep(self, layer, x, k_raw, turn, v):
        return self.sorted(self.k, turn(k_raw), self.order[layer][0]), self.sorted(self.v, v, self.order[layer][1])


class Scaled(Rows):
    """K divided by its channel's magnitude, and its mean taken off, both fixed by the calibration text (KIVI, arXiv 2402.02750, without its groups of tokens)."""

    def __init__(self, k, v, seen):
        super().__init__(k, v)
        self.mean, self.size = seen.mean_k(), seen.deviation_k()

    def keep(self, layer, x, k_raw, turn, v):
        mean, size = torch.from_numpy(self.mean[layer]), torch.from_numpy(self.size[layer])
        return self.k((turn(k_raw) - mean) / size) * size + mean, self.v(v)


class Channels(Rows):
    """K by channel over 32 tokens (KIVI, its residual of the newest tokens left out): a row needs its neighbours; for comparison only."""

    def keep(self, layer, x, k_raw, turn, v):
        return self.k(turn(k_raw).transpose(1, 3)).transpose(1, 3), self.v(v)


class Latents:
    """x in the right singular vectors of W_k and of W_v, as wide as K and V (XQuant, arXiv 2508.10395, "XQuant-CL" for GQA); K and V made again from them."""

    def __init__(self, way, model):
        self.way, self.bits, self.parts = way, way.bits, []
        for layer in model.layers:
            pair = [torch.linalg.svd(layer[name], full_matrices=False) for name in ("attn_k", "attn_v")]
            self.parts.append([(right, left * s) for left, s, right in pair])

    def keep(self, layer, x, k_raw, turn, v):
        made = [self.way(x @ right.T) @ left.T for right, left in self.parts[layer]]
        return turn(made[0].view_as(k_raw)), made[1].view_as(v)


class Merged:
    """Layers 2i and 2i + 1 of the deeper half share directions, halfway on the sphere; each keeps its lengths; tokens whose two are further apart than a
    fixed cosine keep both (MiniCache, arXiv 2405.14366). K and V are those of a pass without it: errors do not add up over layers, which flatters it."""

    def __init__(self, seen_all, cosine):
        self.seen, self.cosine, self.n, self.kept = seen_all, cosine, len(seen_all), []
        self.bits = 32

    def merged(self, own, other):
        a, b = own.flatten(2), other.flatten(2)
        la, lb = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
        cos = ((a / la) * (b / lb)).sum(-1, keepdim=True)
        middle = a / la + b / lb
        self.kept.append((cos < self.cosine).float().mean().item())
        return torch.where(cos < self.cosine, a, middle / middle.norm(dim=-1, keepdim=True) * la).view_as(own)

    def keep(self, layer, x, k_raw, turn, v):
        k = turn(k_raw)
        if layer < self.n // 2:
            return k, v
        (k2, v2) = self.seen[layer ^ 1]
        self.bits = 32 * (0.5 + 0.25 + 0.25 * float(np.mean(self.kept or [0])))
        return self.merged(k, k2), self.merged(v, v2)


class Seen:
    """Keeps all as it is, and what calibration needs to know of it."""
    bits = 32

    def __init__(self, everything=False):
        self.everything, self.layers = everything, {}

    def keep(self, layer, x, k_raw, turn, v):
        k = turn(k_raw)
        if self.everything:
            self.layers[layer] = (k, v)
        else:
            self.layers[layer] = [[m.numpy() for m in (y.abs().mean((0, 1)), y.mean((0, 1)), y.std((0, 1)))] for y in (k, v)]
        return k, v

    def magnitudes(self):
        return [[y[0] for y in self.layers[i]] for i in range(len(self.layers))]

    def mean_k(self):
        return [self.layers[i][0][1] for i in range(len(self.layers))]

    def deviation_k(self):
        return [self.layers[i][0][2] for i in range(len(self.layers))]


# ---- the model ----

class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        family = reader.fields["general.architecture"].contents()
        if family not in ("llama", "gemma3"):
            raise SystemExit(f"{path}: family {family}: only llama and gemma3")
        self.gemma = family == "gemma3"

        def key(name, other=None):
            field = reader.fields.get(f"{family}.{name}")
            return field.contents() if field else other
        weights = {t.name.removesuffix(".weight"): torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32)) for t in reader.tensors}
        self.n_heads, self.n_kv = key("attention.head_count"), key("attention.head_count_kv")
        self.eps, self.base = key("attention.layer_norm_rms_epsilon"), key("rope.freq_base", 10000.0)
        self.window = key("attention.sliding_window")
        self.embedding, self.last_norm = weights["token_embd"], weights["output_norm"]
        self.output = weights.get("output", self.embedding)
        self.layers = [{name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"blk.{i}.")} for i in range(key("block_count"))]
        self.head = self.layers[0]["attn_k"].shape[0] // self.n_kv
        bos = reader.fields.get("tokenizer.ggml.add_bos_token")
        self.bos = [reader.fields["tokenizer.ggml.bos_token_id"].contents()] if bos and bos.contents() else []

    def norm(self, x, w):
        return F.rms_norm(x, w.shape, w, self.eps)

    def turner(self, n, windowed):
        angles = torch.arange(n)[:, None] * (10000.0 if windowed else self.base) ** (-torch.arange(0, self.head, 2, dtype=torch.float64) / self.head)
        cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]

        def turn(x):
            a, b = x.chunk(2, -1) if self.gemma else (x[..., ::2], x[..., 1::2])
            pair = a * cos - b * sin, b * cos + a * sin
            return torch.cat(pair, -1) if self.gemma else torch.stack(pair, -1).flatten(-2)
        return turn

    def attention(self, i, w, x, cache):
        batch, n, _ = x.shape
        q, k, v = ((x @ w[f"attn_{name}"].T).view(batch, n, -1, self.head) for name in "qkv")
        windowed = self.gemma and (i + 1) % 6 != 0
        if self.gemma:
            q, k = self.norm(q, w["attn_q_norm"]), self.norm(k, w["attn_k_norm"])
        turn = self.turner(n, windowed)
        k, v = cache.keep(i, x, k, turn, v)
        q, k, v = (y.transpose(1, 2) for y in (turn(q), k.repeat_interleave(self.n_heads // self.n_kv, 2), v.repeat_interleave(self.n_heads // self.n_kv, 2)))
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        if windowed:
            seen &= torch.ones(n, n, dtype=torch.bool).triu(1 - self.window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2) @ w["attn_output"].T

    def nll(self, ids, cache):
        """-log p of ids[window][1:], PAD left out."""
        x = self.embedding[ids.clamp_min(0)]
        if self.gemma:
            x = x * math.sqrt(x.shape[-1])
        for i, w in enumerate(self.layers):
            y = self.attention(i, w, self.norm(x, w["attn_norm"]), cache)
            x = x + (self.norm(y, w["post_attention_norm"]) if self.gemma else y)
            y = self.norm(x, w["ffn_norm"])
            gate = y @ w["ffn_gate"].T
            y = ((F.gelu(gate, approximate="tanh") if self.gemma else F.silu(gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
            x = x + (self.norm(y, w["post_ffw_norm"]) if self.gemma else y)
        x, next_ids = self.norm(x, self.last_norm)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        x, next_ids = x[next_ids != PAD], next_ids[next_ids != PAD]
        return torch.cat([F.cross_entropy(a @ self.output.T, b, reduction="none") for a, b in zip(x.split(512), next_ids.split(512))]).double()


def windows(model, path, folder, n_characters, consort):
    """[n][WINDOW] token ids: the prompts of each file, in a row."""
    rows = []
    for name in TEXTS:
        if not os.path.exists(f"{folder}/{name}.jsonl"):
            continue
        with open(f"{folder}/{name}.jsonl", encoding="utf-8") as file:
            text = "".join(json.loads(line)["prompt"] + "\n\n" for line in file)[:n_characters]
        done = subprocess.run([consort, "tokenize", "--model", path, "--no-special"], input=json.dumps({"text": text}) + "\n", stdout=subprocess.PIPE, text=True, check=True)
        ids, width = json.loads(done.stdout)["ids"], WINDOW - len(model.bos)
        ids = ids[len(model.bos):] if model.bos and ids[:1] == model.bos else ids
        for at in range(0, len(ids), width):
            row = model.bos + ids[at:at + width]
            rows.append(row + [PAD] * (WINDOW - len(row)))
    return torch.tensor(rows)


def ways(model, ids, calibration):
    """name: a function that makes the cache."""
    table = {"f16": lambda: Rows(f16, f16), "q8": lambda: Rows(q8, q8)}
    for bits in (3, 4, 5, 6):
        table[f"q{bits}"] = lambda c=codes(bits): Rows(c, c)
        for n in (32, 64, model.head):
            table[f"h{n}-q{bits}"] = lambda c=rotated(codes(bits), n): Rows(c, c)
    table["q4-group64"] = lambda c=codes(4, 64): Rows(c, c)
    table["q4-group16"] = lambda c=codes(4, 16): Rows(c, c)
    table["h64-q4-group64"] = lambda c=rotated(codes(4, 64), 64): Rows(c, c)
    for k in (5, 6, 8):
        table[f"k{k}v4"] = lambda k=q8 if k == 8 else codes(k): Rows(k, codes(4))
        table[f"h32-k{k}v4"] = lambda k=q8 if k == 8 else rotated(codes(k), 32): Rows(k, rotated(codes(4), 32))
    table["kf16-v4"] = lambda: Rows(f16, codes(4))
    table["k4-vf16"] = lambda: Rows(codes(4), f16)
    table["h32-k4-vf16"] = lambda: Rows(rotated(codes(4), 32), f16)
    table["h64-k4-vf16"] = lambda: Rows(rotated(codes(4), 64), f16)
    table["kf16-h32-v4"] = lambda: Rows(f16, rotated(codes(4), 32))
    for bits in (4, 5, 6):
        for group in (16, 32):
            table[f"bfp{bits}-{group}"] = lambda b=bfp(bits, group): Rows(b, b)
            table[f"bfp{bits}-{group}-sorted"] = lambda b=bfp(bits, group): Reordered(b, b, calibrated(model, calibration))
    table["bfp-k6v4-16-sorted"] = lambda: Reordered(bfp(6, 16), bfp(4, 16), calibrated(model, calibration))
    table["q4-sorted"] = lambda: Reordered(codes(4), codes(4), calibrated(model, calibration))
    table["q4-fixed-channels"] = lambda: Scaled(codes(4), codes(4), calibrated(model, calibration))
    table["q4-kivi"] = lambda: Channels(codes(4), codes(4))
    for bits in (4, 6):
        table[f"xquant{bits}"] = lambda c=codes(bits): Latents(c, model)
    for cosine in (0.0, 0.8):
        table[f"minicache-{cosine}"] = lambda c=cosine: Merged(everything(model, ids), c)
    return table


@functools.cache
def calibrated(model, ids):
    seen = Seen()
    model.nll(ids, seen)
    return seen


def everything(model, ids):
    seen = Seen(everything=True)
    model.nll(ids, seen)
    return seen.layers


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--prompts", default=f"{ROOT}/../shared/workloads/eval")
    p.add_argument("--calibrate", default=f"{ROOT}/../shared/workloads/train")
    p.add_argument("--characters", type=int, default=12000, help="of each file")
    p.add_argument("--ways", help="comma-separated; all")
    p.add_argument("--consort", default=f"{ROOT}/build/release/consort")
    a = p.parse_args()
    torch.set_grad_enabled(False)
    model = Model(a.model)
    ids = windows(model, a.model, a.prompts, a.characters, a.consort)
    calibration = windows(model, a.model, a.calibrate, 2500, a.consort)
    table = ways(model, ids, calibration)
    exact = model.nll(ids, Seen())
    print(json.dumps({"way": "f32", "tokens": len(exact), "perplexity": round(exact.mean().exp().item(), 4)}), flush=True)
    for name in a.ways.split(",") if a.ways else table:
        if name not in table:
            sys.exit(f"no way '{name}'; there are: {', '.join(table)}")
        start, cache = time.monotonic(), table[name]()
        nll = model.nll(ids, cache)
        change = nll - exact
        mean, error = change.mean().item(), (change.std() / math.sqrt(len(change))).item()
        print(json.dumps({"way": name, "bits": round(cache.bits, 2), "perplexity": round(nll.mean().exp().item(), 4), "percent": round(100 * math.expm1(mean), 2),
                          "error": round(100 * error, 2), "seconds": round(time.monotonic() - start)}), flush=True)


if __name__ == "__main__":
    main()
