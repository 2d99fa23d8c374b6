#!/usr/bin/env python3
"""What it is worth to prefill and decode apart, at equal ranks, and what it costs to move a prompt's KV against computing it again.

    bench/prefill_decode.py [--quick] [--json] [--rounds N]

Two clusters of two verifiers, each of one rank with a core of its own, by turns: `apart` is --config, cluster-configs/prefill-and-decode.yaml;
`both` is the same with each group serving both, and moves from one block on. Nobody drafts and nothing is kept of earlier prompts, so that every prompt is computed.

Loads, --rounds times, each on both clusters in turn, another one first each round. Work is the same in all:

    steady       --streams streams, each one answer of --tokens tokens to a short prompt
    disturbed    the same, while --long prompts of --long-tokens tokens arrive at random, one every --every seconds, for 8 tokens
                 each; how many of them were answered while the streams still ran is told: it should be nearly all

Then a prompt of each of --sizes tokens goes to `both` alone, and once its answer has begun, its group is drained: what its KV took to move
(consort_kv_move_seconds), the longest pause that its client saw, and what the prompt took to compute: its time to the first token.

Told of each cluster, too, are its mixed steps, which compute prompts beside decoding sequences: of the first answers and of each run how many,
what they took on the average and how many took longer than max_stall_ms; and the longest. That one is a gauge, which begins at 0 with the cluster
and never falls: where it rose during a run it is that run's longest, else no step of the run was longer.

Before all that each cluster answers every request once, and that of `both` is what all later answers are compared with (consort bench serve
--expect): the first that differs is named, and the exit status is 1. It is 1, too, if the run ended early; what was measured is told all the same.
"""
import argparse
import collections
import contextlib
import json
import os
import random
import re
import statistics
import sys
import time

from pinned import POLL_SECONDS, ROOT, Cluster, Failure, end_load, measuring, two_cores, with_keys
from rounds import Progress, in_words, print_table, read_lines, spread, turned

SEED = 1
LONG_ANSWER = 8
MOVED_ANSWER = 128  # long enough to be drained in its midst
MAX_ROWS = 256     # of a prompt in a step, by default
MAX_STALL_MS = 200  # by default
WORDS = "ship river doctor garden engine letter winter market table window bread stone paper horse music bridge forest church mother island".split()

Figure = collections.namedtuple("Figure", "key text load value less")
FIGURES = (
    *(Figure(f"{load}_{p}_ms", f"{p}, {load}", load, lambda s, p=p: s["inter_token_ms"][p], True) for load in ("steady", "disturbed") for p in ("p50", "p99", "max")),
    *(Figure(f"{load}_tokens_per_s", f"tokens/s, {load}", load, lambda s: s["tokens_per_s"], False) for load in ("steady", "disturbed")),
    Figure("long_first_token_ms", "first token, long", "disturbed", lambda s: s["long"]["first_token_ms"]["p50"], True),
    Figure("long_first_token_max_ms", "the latest of them", "disturbed", lambda s: s["long"]["first_token_ms"]["max"], True),
    Figure("long_pause_ms", "longest pause, long", "disturbed", lambda s: s["long"]["inter_token_ms"]["max"], True),
    Figure("long_whole_ms", "whole answer, long", "disturbed", lambda s: s["long"]["whole_ms"]["p50"], True),
)


def say(text):
    print(f"prefill_decode: {text}", file=sys.stderr, flush=True)


# ---- prompts ----

def words(seed, n):
    """A text of about n tokens, one a word."""
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def prompts(a):
    """{file: texts}"""
    longs = random.Random(SEED)
    return {"steady": [f"Write a long story about a {WORDS[i % len(WORDS)]} and the number {i}." for i in range(a.streams)],
            "long": [words(f"long {i}", longs.randint(*a.long_tokens)) for i in range(a.long)],
            **{f"size-{n}": [words(f"size {n}", n)] for n in a.sizes}}


# ---- mixed steps ----

def max_stall_ms(topology):
    """What a mixed step may take; 0: no bound."""
    found = re.search(r"(?m)^max_stall_ms: *(\d+)", topology)
    return int(found[1]) if found else MAX_STALL_MS


def mixed_steps(before, after):
    """Of a run, by the metrics before it, {} for the start, and after."""
    n, over, seconds = (after[key] - before.get(key, 0) for key in ("consort_mixed_steps_total", "consort_mixed_steps_over_total", "consort_mixed_step_seconds_total"))
    longest, earlier = (m.get("consort_mixed_step_seconds_max", 0) for m in (after, before))
    return {"steps": int(n), "over": int(over), "mean_ms": seconds / n * 1e3 if n else None, "longest_so_far_ms": longest * 1e3, "longest_is_of_this_run": longest > earlier}


def longest_mixed(loads):
    """{load: [summary of each round]}: what the gauge has come to."""
    return max(s["mixed"]["longest_so_far_ms"] for runs in loads.values() for s in runs)


def mixed_in_words(runs, bound_ms):
    steps, over = (sum(s["mixed"][key] for s in runs) for key in ("steps", "over"))
    means = [s["mixed"]["mean_ms"] for s in runs if s["mixed"]["steps"]]
    return f"{steps} mixed steps of {in_words(means)} ms, " + (f"{over} of them longer than {bound_ms}" if bound_ms else "without a bound")


# ---- runs ----

class Bench:
    """Runs loads on clusters and keeps what came of it."""

    def __init__(self, a, directory):
        self.a, self.directory, self.expected = a, directory, f"{directory}/expected"
        self.prompts = prompts(a)
        for name, texts in self.prompts.items():
            with open(f"{directory}/{name}.jsonl", "w", encoding="utf-8") as f:
                f.writelines(json.dumps({"id": f"{name}-{i}", "domain": name, "prompt": text}) + "\n" for i, text in enumerate(texts))
        self.differences = []  # answers that are not those of `both`
        self.results = {}      # {cluster: {load: [summary of each round]}}
        self.first = {}        # {cluster: mixed_steps of the first answers}
        self.moved = {n: [] for n in a.sizes}  # [of each round]
        self.interrupted = None
        self.max_stall_ms = None  # the same in both clusters

    def clusters(self):
        with open(self.a.config, encoding="utf-8") as f:
            apart = with_keys(f.read(), {"speculation": "none", "prefix_cache": "off"})
        self.max_stall_ms = max_stall_ms(apart)
        both = with_keys(re.sub(r"(?m)^( +)serves:.*$", r"\1serves: both", apart), {"move_tokens": 1})
        found = [Cluster(name, text, self.directory, self.a.build, two_cores(), http="127.0.0.1:0") for name, text in (("both", both), ("apart", apart))]
        for c in found:
            if why := c.refusal():
                raise Failure(f"{c.name}: {why}")
        return found

    def begin(self, cluster, name, *options):
        tokens = {"steady": self.a.tokens, "long": LONG_ANSWER}.get(name, MOVED_ANSWER)
        return cluster.begin_load("--prompts", f"{self.directory}/{name}.jsonl", "--requests", len(self.prompts[name]), "--tokens", tokens, "--ignore-end",
                                  "--raw", "--seed", SEED, "--records", f"{self.directory}/records-{name}", *options)

    def end(self, cluster, what, process):
        """The summary of a load. An answer that differs is noted; whatever else goes wrong ends the run."""
        code, summary, said = end_load(process)
        if code and "the answer differs from" in said:
            self.differences.append(f"{cluster.name}, {what}: {said}")
            say(f"NOT THE SAME BYTES: {self.differences[-1]}")
        elif code:
            raise Failure(f"{cluster.name}, {what}: {said}")
        elif "expected" in summary and summary["expected"]["unknown"]:
            raise Failure(f"{cluster.name}, {what}: {summary['expected']['unknown']} requests have no answer to compare with")
        return summary

    def records(self, name):
        return read_lines(f"{self.directory}/records-{name}")

    def answer_all(self, clusters):
        """The first tells what every answer must be; all are warm then."""
        for c in clusters:
            expect = () if c is clusters[0] else ("--expect", self.expected)
            for name in self.prompts:
                self.end(c, "all answers", self.begin(c, name, "--streams", self.a.streams, *expect))
            self.first[c.name] = mixed_steps({}, c.metrics())
            if not expect:
                with open(self.expected, "w", encoding="utf-8") as f:
                    f.writelines(json.dumps(r) + "\n" for name in self.prompts for r in self.records(name))

    def run(self, cluster, load):
        before = cluster.metrics()
        steady = self.begin(cluster, "steady", "--streams", self.a.streams, "--expect", self.expected)
        long = load == "disturbed" and self.begin(cluster, "long", "--rate", 1 / self.a.every, "--expect", self.expected)
        summary = self.end(cluster, load, steady)
        if long:
            summary["long"] = self.end(cluster, load, long)
        after = cluster.metrics()
        summary["mixed"] = mixed_steps(before, after)
        if long:
            end = max(r["end_ns"] for r in self.records("steady"))
            summary["covered"] = sum(r["first_token_ns"] < end for r in self.records("long"))
            summary["moves"] = {result: int(after[key] - before[key]) for result in ("done", "failed", "cancelled")
                                for key in [f'consort_kv_moves_total{{result="{result}"}}']}
        self.results.setdefault(cluster.name, {}).setdefault(load, []).append(summary)

    def drain_in_its_midst(self, cluster, process, steps):
        """The group that computes the one request there is gives it away, after so many steps of the cluster; not if it has ended by then."""
        while process.poll() is None:
            status = json.loads(cluster.consort("status", "--json"))
            group = next((w["name"] for w in status["workers"] if w["requests"]), None)
            if group and status["steps"] >= steps:
                cluster.consort("drain", group, "--wait")
                cluster.consort("drain", group, "--undo")
                return
            time.sleep(POLL_SECONDS)

    def move(self, cluster, n):
        before, steps = cluster.metrics(), json.loads(cluster.consort("status", "--json"))["steps"]
        process = self.begin(cluster, f"size-{n}", "--expect", self.expected)
        self.drain_in_its_midst(cluster, process, steps + n // MAX_ROWS + 4)
        self.end(cluster, f"{n} tokens", process)
        record, after = self.records(f"size-{n}")[0], cluster.metrics()
        since = {key: after[key] - before[key] for key in ("consort_kv_move_seconds_sum", "consort_kv_move_seconds_count", "consort_kv_moved_bytes_total")}
        moved = since["consort_kv_move_seconds_count"] == 1
        self.moved[n].append({"prompt_tokens": record["prompt_tokens"], "moved_bytes": int(since["consort_kv_moved_bytes_total"]),
                              "move_ms": since["consort_kv_move_seconds_sum"] * 1e3 if moved else None,
                              "pause_ms": (record["inter_token_ns"]["max"] - record["inter_token_ns"]["p50"]) / 1e6,
                              "compute_ms": record["first_token_ns"] / 1e6})

    def measure(self):
        clusters = self.clusters()
        with contextlib.ExitStack() as running:
            for c in clusters:
                running.enter_context(c)
                say(f"{c.name} is up")
            self.answer_all(clusters)
            plan = [(load, c) for r in range(self.a.rounds) for load in ("steady", "disturbed") for c in turned(clusters, r)]
            progress = Progress(len(plan) + self.a.rounds * len(self.a.sizes), say)
            for load, c in plan:
                self.run(c, load)
                progress.say(f"{load}, {c.name}: {in_short(self.results[c.name][load][-1], load)}")
            for n in self.a.sizes * self.a.rounds:
                self.move(clusters[0], n)
                progress.say(f"{n} tokens: {self.moved[n][-1]}")


def in_short(summary, load):
    return ", ".join(f"{f.value(summary):.1f} {f.text}" for f in FIGURES if f.load == load)


# ---- figures ----

def rounds_of(results, name, figure):
    return [figure.value(s) for s in results.get(name, {}).get(figure.load, [])]


def speed(results, figure):
    """How many times as good as `both` is `apart`, in each round: over 1 is better, also where less is."""
    pairs = zip(rounds_of(results, "apart", figure), rounds_of(results, "both", figure))
    return [(b / v if figure.less else v / b) for v, b in pairs]


def hurt(results, name, p):
    """How many times the steady streams' pauses a cluster's are while long prompts come, in each round."""
    loads = [[s["inter_token_ms"][p] for s in results.get(name, {}).get(load, [])] for load in ("disturbed", "steady")]
    return [d / s for d, s in zip(*loads)]


def share(runs, key):
    """Of what it took to compute, in each round in which it moved."""
    return [r[key] / r["compute_ms"] for r in runs if r["move_ms"] is not None]


def crossover(moved):
    """The fewest of the measured tokens from which on a move takes less than to compute, by medians; None: not even the most."""
    found = None
    for n, runs in sorted(moved.items(), reverse=True):
        ratios = share(runs, "move_ms")
        if not ratios or statistics.median(ratios) >= 1:
            break
        found = n
    return found


def as_json(b):
    clusters = {name: {f.key: {"median": statistics.median(v), "rounds": v} for f in FIGURES if (v := rounds_of(b.results, name, f))} for name in b.results}
    for name, one in clusters.items():
        one["disturbed_in_steady"] = {p: spread(ratios) for p in ("p50", "p99", "max") if (ratios := hurt(b.results, name, p))}
        for key in ("moves", "covered"):
            one[key] = [s[key] for s in b.results[name].get("disturbed", [])]
        one["mixed"] = {"first": b.first[name], **{load: [s["mixed"] for s in runs] for load, runs in b.results[name].items()}}
        one["longest_mixed_ms"] = longest_mixed(b.results[name])
    moved = [{"tokens": n, "rounds": runs, **{f"{key}_in_compute": spread(ratios) for key in ("move", "pause") if (ratios := share(runs, f"{key}_ms"))}}
             for n, runs in b.moved.items() if runs]
    return {"bytes_equal": not b.differences and not b.interrupted, "differences": b.differences, "interrupted": b.interrupted, "clusters": clusters,
            "speed_in_that_of_both": {f.key: spread(ratios) for f in FIGURES if (ratios := speed(b.results, f))}, "moved": moved,
            "crossover_tokens": crossover(b.moved), "max_stall_ms": b.max_stall_ms, "quick": b.a.quick, "n_rounds": b.a.rounds,
            "streams": b.a.streams, "tokens": b.a.tokens, "long": b.a.long, "long_tokens": b.a.long_tokens, "every_s": b.a.every}


def print_loads(b):
    print(f"{b.a.streams} streams of {b.a.tokens} tokens; disturbed: by {b.a.long} prompts of {b.a.long_tokens[0]} to {b.a.long_tokens[1]} tokens, one in {b.a.every} s; "
          f"{b.a.rounds} rounds. Medians of the rounds; last row: how many times as good is `apart`, median (least - most) of the ratios in a round.")
    shown = [f for f in FIGURES if any(rounds_of(b.results, name, f) for name in b.results)]
    rows = [[name, *(f"{statistics.median(v):.1f}" if (v := rounds_of(b.results, name, f)) else "-" for f in shown), f"{longest_mixed(b.results[name]):.1f}"]
            for name in b.results]
    print_table(["ms", *(f.text for f in shown), f"longest mixed step (max_stall_ms {b.max_stall_ms})"],
                [*rows, ["apart, times as good", *(in_words(speed(b.results, f)) for f in shown), "-"]])
    print("\nTime between tokens of the steady streams with long prompts, in that without:")
    print_table(["", "p50", "p99", "max"], ([name, *(in_words(hurt(b.results, name, p)) for p in ("p50", "p99", "max"))] for name in b.results))
    for name, loads in b.results.items():
        for load, runs in {"the first answers": [{"mixed": b.first[name]}], **loads}.items():
            print(f"\n{name}, {load}: {mixed_in_words(runs, b.max_stall_ms)}")
        for s in loads.get("disturbed", []):
            print(f"\n{name}: {s['covered']} of {b.a.long} long prompts while the streams ran; moves {s['moves']}")


def print_moves(b):
    print("\nA prompt's KV moves, against computing it: ms, medians; and the shares of the latter in each round, median (least - most).")
    rows = []
    for n, runs in b.moved.items():
        there = [r for r in runs if r["move_ms"] is not None]
        if there:
            middle = {key: statistics.median(r[key] for r in there) for key in ("move_ms", "pause_ms", "compute_ms")}
            rows.append([str(n), f"{len(there)} of {len(runs)}", *(f"{v:.2f}" for v in middle.values()), *(in_words(share(runs, key)) for key in ("move_ms", "pause_ms"))])
    print_table(["tokens", "moved", "move", "pause of the client", "compute", "move / compute", "pause / compute"], rows)
    at = crossover(b.moved)
    print(f"\nA move takes less than to compute from {at} tokens on, of those measured." if at else "\nNo size was found from which on a move takes less.")


def tell(b):
    if b.a.json:
        print(json.dumps(as_json(b)))
        return
    if b.results:
        print_loads(b)
    if any(b.moved.values()):
        print_moves(b)
    print("\nNOT THE SAME BYTES:\n" + "\n".join(b.differences) if b.differences else "\nAll answers are those of `both`, byte for byte.")


# ---- the command line ----

def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="two rounds of shorter answers and fewer long prompts: some five minutes")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    p.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 2")
    p.add_argument("--streams", type=int, default=4, metavar="N", help="steady ones (%(default)s)")
    p.add_argument("--tokens", type=int, metavar="N", help="of a steady answer; default: 3200, with --quick 1600")
    p.add_argument("--long", type=int, metavar="N", help="prompts in a run; default: 8, with --quick 4")
    p.add_argument("--long-tokens", type=numbers, default="800,1500", metavar="LEAST,MOST", help="of a long prompt (%(default)s)")
    p.add_argument("--every", type=float, default=2.5, metavar="SECONDS", help="on average, between them (%(default)s)")
    p.add_argument("--sizes", type=numbers, default="32,64,128,256,512,1000", metavar="N,...", help="of prompts that move (%(default)s)")
    p.add_argument("--config", default=os.path.join(ROOT, "cluster-configs/prefill-and-decode.yaml"), metavar="FILE")
    p.add_argument("--build", default=os.path.join(ROOT, "build/release"), metavar="DIR")
    a = p.parse_args()
    a.rounds, a.tokens, a.long = a.rounds or (2 if a.quick else 5), a.tokens or (1600 if a.quick else 3200), a.long or (4 if a.quick else 8)
    a.config, a.build = os.path.abspath(a.config), os.path.abspath(a.build)
    if not os.access(f"{a.build}/consort", os.X_OK):
        p.error(f"{a.build}/consort is missing; scripts/setup builds it")
    if len(a.long_tokens) != 2 or a.long_tokens[0] > a.long_tokens[1]:
        p.error("--long-tokens: LEAST,MOST is expected")
    if not os.path.exists(a.config):
        p.error(f"--config: {a.config} does not exist")
    return a


def main():
    a = arguments()
    with measuring(lambda directory: Bench(a, directory)) as b:
        b.measure()
    tell(b)
    if b.interrupted:
        say(f"ended early: {b.interrupted}")
    return 1 if b.interrupted or b.differences else 0


if __name__ == "__main__":
    sys.exit(main())
