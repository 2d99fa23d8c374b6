#!/usr/bin/env python3
"""What the prefix cache is worth, and what it costs when KV blocks run out.

    bench/prefix_cache.py [--quick] [--json] [--rounds N] [--model FILE] [--build DIR]

Five clusters without drafters are started and stay, each a verifier on the first core and all else on the second: with and without
the prefix cache, both again with a KV cache too small for the second load (`tight`), and the last once more with room on disk
(`tight-disk`). --rounds times each load runs on those that it is for, by turns, another one first each round; figures are told with
their share in those of `off` in the same round.

    chats    one at a time, three on `off` and `on`: `fresh`, where each begins with --prefix tokens that no one has seen; `shared`,
             where all begin with the same ones, like a system prompt, and one has been there before
    answers  --streams at a time, of --tokens tokens each: on all five. What `tight` has room for is a quarter of what they want, so
             requests are preempted and go on later

Every answer must have the same tokens on all clusters (consort bench serve --expect); else, or if the run ended early, the exit status
is 1. What was measured is told all the same.
"""
import argparse
import collections
import contextlib
import json
import os
import random
import statistics
import sys

from pinned import ROOT, Cluster, Failure, measuring, two_cores
from rounds import Progress, in_words, print_table, read_lines, spread, turned

BLOCK = 32
WORDS = "ship river doctor theorem garden engine letter winter market violin copper bridge planet summer window captain".split()
TOKENS_A_WORD = 1.1  # of these, with their spaces, in vocabularies of some ten thousand tokens
TOKENS_AROUND = 48   # of an answer's prompt: the question, and what the chat template adds
NAMES = ("off", "on", "tight-off", "tight-on", "tight-disk")
CHAT_TOKENS = 8
TOPOLOGY = """\
model: {model}
control_listen: 127.0.0.1:0
speculation: none
draft_budget: 0
prefix_cache: {cache}
max_running: {streams}
max_batch: {streams}
max_context: {context}
groups:
  - name: target
    role: verifier
    tensor_parallel: 1
    threads: 1
    kv_type: f16
    kv_tokens: {kv_tokens}
    swap_tokens: {swap_tokens}
"""

Load = collections.namedtuple("Load", "name on requests streams tokens prefix")  # on: clusters; prefix: None, "fresh", "shared"
Run = collections.namedtuple("Run", "first_token_ms_median first_token_ms_p90 tokens_per_s prompt_tokens cached_share preemptions from_disk")


def say(text):
    print(f"prefix_cache: {text}", file=sys.stderr, flush=True)


def loads(a):
    return (Load("fresh chats", ("off", "on"), a.chats, 1, CHAT_TOKENS, "fresh"),
            Load("shared chats", ("off", "on"), a.chats, 1, CHAT_TOKENS, "shared"),
            Load("answers", NAMES, a.requests, a.streams, a.tokens, None))


def words(seed, n_tokens):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(round(n_tokens / TOKENS_A_WORD)))


class Bench:
    """Runs loads on clusters and keeps what came of it."""

    def __init__(self, a, directory):
        self.a, self.directory = a, directory
        self.results = {}      # {load: {cluster: [Run of each round]}}
        self.differences = []  # answers that are not those of the first cluster
        self.interrupted = None

    def cluster(self, name):
        most = self.a.streams * (self.a.tokens + TOKENS_AROUND) // BLOCK * BLOCK
        context = max(self.a.prefix * 2, self.a.tokens + 4 * TOKENS_AROUND)
        text = TOPOLOGY.format(model=self.a.model, cache="off" if name.endswith("off") else "on", streams=self.a.streams, context=context,
                               swap_tokens=2 * most if name.endswith("disk") else 0,
                               kv_tokens=max(most // 4 if name.startswith("tight") else 2 * most, context) // BLOCK * BLOCK + BLOCK)
        return Cluster(name, text, self.directory, self.a.build, two_cores(), http="127.0.0.1:0")

    def prompts(self, load, round_number):
        """A file of prompts: others in each round, but for what is shared."""
        path = f"{self.directory}/prompts.jsonl"
        with open(path, "w", encoding="utf-8") as f:
            for i in range(load.requests):
                head = "" if load.prefix is None else words(f"{round_number} {i}" if load.prefix == "fresh" else "", self.a.prefix) + ". "
                prompt = f"{head}Write about a {WORDS[i % len(WORDS)]} and the number {round_number * load.requests + i}."
                f.write(json.dumps({"id": f"{load.name}-{i}", "domain": "made-up", "prompt": prompt}) + "\n")
        return path

    def serve(self, cluster, load, prompts, expected, *options):
        """The summary and the records of a load. An answer that differs is noted; whatever else goes wrong ends the run."""
        records = f"{self.directory}/records"
        code, summary, said = cluster.load("--prompts", prompts, "--requests", load.requests, "--streams", load.streams, "--tokens", load.tokens,
                                           "--ignore-end", "--records", records, *(["--expect", expected] if os.path.exists(expected) else []), *options)
        if code and "the answer differs from" in said:
            self.differences.append(f"{cluster.name}, {load.name}: {said}")
            say(f"NOT THE SAME BYTES: {self.differences[-1]}")
        elif code:
            raise Failure(f"{cluster.name}, {load.name}: {said}")
        if not os.path.exists(expected):
            os.rename(records, expected)
            records = expected
        return summary, read_lines(records)

    def run(self, cluster, load, round_number):
        expected = f"{self.directory}/{load.name}.{round_number}"
        warm = ("--warm-up", 1) if load.prefix == "shared" else ()
        prompts, before = self.prompts(load, round_number), cluster.metrics()
        summary, records = self.serve(cluster, load, prompts, expected, *warm)
        spent = collections.Counter(cluster.metrics())
        spent.subtract(before)
        first = [(r["first_token_ns"] - r["sent_ns"]) / 1e6 for r in records]
        return Run(statistics.median(first), statistics.quantiles(first, n=10)[8], summary["full"]["tokens_per_s"],
                   statistics.median(r["prompt_tokens"] for r in records),
                   spent["consort_prefix_cache_hits_total"] / spent["consort_prefix_cache_queries_total"],
                   int(spent["consort_num_preemptions_total"]), int(spent["consort_kv_swapped_in_blocks_total"]))

    def measure(self):
        with contextlib.ExitStack() as running:
            clusters = {name: running.enter_context(self.cluster(name)) for name in NAMES}
            plan = [(load, name, r) for r in range(self.a.rounds) for load in loads(self.a) for name in turned(load.on, r)]
            progress = Progress(len(plan), say)
            for load, name, r in plan:
                run = self.run(clusters[name], load, r)
                self.results.setdefault(load.name, {}).setdefault(name, []).append(run)
                progress.say(f"{load.name}, {name}: {run.first_token_ms_median:.1f} ms to the first token, {run.tokens_per_s:.1f} tokens/s, "
                             f"{run.cached_share:.0%} cached, {run.preemptions} preemptions, {run.from_disk} blocks from disk")


# ---- figures ----

def medians(runs):
    return Run(*(statistics.median(values) for values in zip(*runs)))


def shares(results, load, name, figure):
    """Of this figure in that of `off` in the same round."""
    pairs = zip(results[load].get(name, []), results[load].get("off", []))
    return [getattr(run, figure) / getattr(off, figure) for run, off in pairs]


def as_json(b):
    found = {load: {name: {"rounds": [run._asdict() for run in runs], **medians(runs)._asdict(),
                           "in_off": {figure: spread(ratios) for figure in Run._fields[:3] if (ratios := shares(b.results, load, name, figure))}}
                    for name, runs in by_name.items()} for load, by_name in b.results.items()}
    return {"bytes_equal": not b.differences and not b.interrupted, "differences": b.differences, "interrupted": b.interrupted, "loads": found,
            "quick": b.a.quick, "n_rounds": b.a.rounds, "streams": b.a.streams, "tokens": b.a.tokens, "prefix": b.a.prefix}


def print_tables(b):
    a, chats = b.a, [load for load in b.results if load != "answers"]
    print(f"Medians of {a.rounds} rounds; shares in `off` of the same round: median (least - most).")
    print_table([f"chats that begin with {a.prefix} tokens", "ms to the first token, median", "p90", "share in `off`", "tokens of a prompt", "of these in the cache"],
                ([f"{load.removesuffix(' chats')}, `{name}`", f"{m.first_token_ms_median:.1f}", f"{m.first_token_ms_p90:.1f}",
                  in_words(shares(b.results, load, name, "first_token_ms_median")), f"{m.prompt_tokens:.0f}", f"{m.cached_share:.0%}"]
                 for load in chats for name, runs in b.results[load].items() for m in [medians(runs)]))
    print_table([f"answers of {a.tokens} tokens, {a.streams} at a time", "tokens/s", "share in `off`", "preemptions", "of what began in the cache",
                 "blocks from disk"],
                ([f"`{name}`", f"{m.tokens_per_s:.1f}", in_words(shares(b.results, "answers", name, "tokens_per_s")), f"{m.preemptions:.0f} of {a.requests} requests",
                  f"{m.cached_share:.0%}", f"{m.from_disk:.0f}"] for name, runs in b.results.get("answers", {}).items() for m in [medians(runs)]))
    print("\nNOT THE SAME BYTES:\n" + "\n".join(b.differences) if b.differences else "\nAll answers are the same, byte for byte.")


# ---- the command line ----

def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="two rounds of fewer requests and shorter answers: some minutes")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    p.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 2")
    p.add_argument("--chats", type=int, metavar="N", help="of a round, on each cluster: default 20, with --quick 5")
    p.add_argument("--prefix", type=int, default=500, metavar="N", help="tokens that chats begin with, about (%(default)s)")
    p.add_argument("--streams", type=int, default=16, metavar="N", help="answers at a time (%(default)s)")
    p.add_argument("--requests", type=int, metavar="N", help="answers of a round: default twice --streams")
    p.add_argument("--tokens", type=int, metavar="N", help="of an answer: default 384, with --quick 128")
    p.add_argument("--model", default=os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf"), metavar="FILE")
    p.add_argument("--build", default=os.path.join(ROOT, "build/release"), metavar="DIR")
    a = p.parse_args()
    a.rounds = a.rounds or (2 if a.quick else 5)
    a.chats = a.chats or (5 if a.quick else 20)
    a.tokens = a.tokens or (128 if a.quick else 384)
    a.requests = a.requests or 2 * a.streams
    a.model, a.build = map(os.path.abspath, (a.model, a.build))
    if a.chats < 2 or a.requests < 2:
        p.error("--chats, --requests: two at least, for quantiles")
    if not os.access(f"{a.build}/consort", os.X_OK):
        p.error(f"{a.build}/consort is missing; scripts/setup builds it")
    return a


def main():
    a = arguments()
    with measuring(lambda directory: Bench(a, directory)) as b:
        b.measure()
    print(json.dumps(as_json(b))) if a.json else print_tables(b)
    if b.interrupted:
        say(f"ended early: {b.interrupted}")
    return 1 if b.interrupted or b.differences else 0


if __name__ == "__main__":
    sys.exit(main())
