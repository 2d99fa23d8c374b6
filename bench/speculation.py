#!/usr/bin/env python3
"""What speculation is worth: the baselines and Consort, all configurations of the same programs, on the same two cores.

    bench/speculation.py --prompts DIR [--quick] [--json] [--plots DIR] [--ablations [parts|routing|fusion]]
    bench/speculation.py --prompts DIR --tune

DIR holds *.jsonl with {id, domain, prompt} a line; each file has an equal share of the requests. A configuration is a topology in
cluster-configs/baselines/ (--configs), its file says what system it stands for. One without a file, or that `consort check-config`
refuses, is left out, and the reason told.

All clusters are started and stay; then, --rounds times, each load runs on each of them in turn, another one first each round. The
requests of a load are the same for all. The verifier has the first core; the drafters, the coordinator and the client have the
second; a verifier of several ranks has both. Loads:

    latency             one request at a time
    closed 2, closed 4  so many streams, each sends its next request when its last has ended
    saturation          requests arrive at random, 2.5 times as many as `none` serves; counted is the time in which at least 16 (the
                        largest batch) are there
    part 50, part 80    they arrive at 0.5 and 0.8 of what `none` serves (not with --quick)

Before, `none` answers every request of all loads, 16 at a time, which tells its capacity. Every answer of every later run must have
the same tokens (consort bench serve --expect); the first that has not is named, and the exit status is 1. It is 1, too, if the run
ended early, by ^C or an error: what was measured is told all the same.

--tune measures the latency of each configuration with fixed budgets, that is of fixed, specinfer, pipeinfer and cosine-paper (or, with --only,
of those named), for all of --budgets and --floors, and that of `none` right after each, and prints a table and the best: what its file
should say. Prompts are to be others than those that are reported on. It takes some 45 s on a machine that serves 120 tokens/s by `none` for
each of 18 pairs, four configurations and three rounds, so nearly three hours; with --quick a bit over one. How long is left is told after
each. One whole round comes after the other: when it ends early, by ^C too, what was measured is printed, and of how many rounds.

--ablations runs none, consort, and consort without one of its parts, or with another one instead; --ablations routing with the head and
four tables of other kinds of text, by policy; --ablations fusion with these five, by fusion, and with each of them by itself. Lookup and
the corpus are in all of the latter but round-robin, which asks one a step.
"""
import argparse
import collections
import contextlib
import itertools
import json
import os
import re
import shlex
import statistics
import sys
import time

import bars
from pinned import ROOT, Cluster, Failure, measuring, two_cores, with_keys
from rounds import Progress, in_words, print_table, read_lines, spread, turned

NAMES = ("none", "none-all", "fixed", "specinfer", "pipeinfer", "cosine-paper", "consort")
VERIFIER = "{name: smollm2, role: verifier, threads: 1, kv_tokens: 16384}"
WRITER = "{name: writer, role: drafter, kind: head, model: drafters/writer.head.gguf, threads: 1}"
TABLES = {name: f"{{name: {name}, role: drafter, kind: ngram, table: drafters/{name}.ngram}}" for name in ("code", "general", "math", "medicine")}
FIVE = {"groups": f"[{', '.join((VERIFIER, WRITER, *TABLES.values()))}]"}
ABLATIONS = {  # {set: {name: keys instead of consort's}}
    "parts": {
        "no-corpus": {"corpus": '""'},
        "no-head": {"groups": f"[{VERIFIER}]"},
        "lookup": {"speculation": "lookup", "corpus": '""'},
        "head-alone": {"speculation": "fixed:writer"},  # neither lookup nor the corpus, so nothing to fuse
        "no-early": {"draft_ahead": "off"},
        "draft-ahead": {"draft_ahead": "on"},  # instead of early results, from the beginning of the step
        "fixed-budget": {"draft_budgets": "fixed", "draft_budget": 4, "draft_floor": 15},
    },
    # The head and four tables, each of a kind of text; `all` asks everybody: no routing
    "routing": {policy: {**FIVE, "speculation": policy} for policy in ("hedge", "cosine", "all", "round-robin")},
    # All five, and each by itself; all of them beside lookup and the corpus. `consort` is the head by itself
    "fusion": {"merge": {**FIVE, "fusion": "merge"}, "lockstep": {**FIVE, "fusion": "lockstep"},
               **{f"only-{name}": {"groups": f"[{VERIFIER}, {table}]"} for name, table in TABLES.items()}},
}
ABLATED = {name for ablations in ABLATIONS.values() for name in ablations}
LARGEST_BATCH = 16
OVERLOAD = 2.5
SEED, WARM_SEED = 1, 2
WARM_REQUESTS = 8

Load = collections.namedtuple("Load", "name requests streams rate")  # rate: of the capacity of `none`, for an open loop


def loads(a):
    n = (lambda quick, full: a.requests or (quick if a.quick else full))
    yield Load("latency", n(10, 20), 1, None)
    yield Load("closed 2", n(10, 20), 2, None)
    yield Load("closed 4", n(15, 30), 4, None)
    yield Load("saturation", n(32, 60), None, OVERLOAD)
    if not a.quick:
        yield Load("part 50", n(0, 30), None, 0.5)
        yield Load("part 80", n(0, 30), None, 0.8)


# A figure of a load: the key in --json, its text, of which load, how it comes out of a run, and whether less is better.
Figure = collections.namedtuple("Figure", "key text load value less")
FIGURES = (
    Figure("latency_per_token_ms", "ms a token, 1 stream", "latency", lambda s: s["ms_per_token"], True),
    Figure("first_token_ms", "ms to the first token, 1 stream", "latency", lambda s: s["first_token_ms"]["mean"], True),
    Figure("tokens_per_step", "tokens a step, 1 stream", "latency", lambda s: s["tokens_per_step"], False),
    Figure("throughput_2", "tokens/s, 2 streams", "closed 2", lambda s: s["full"]["tokens_per_s"], False),
    Figure("throughput_4", "tokens/s, 4 streams", "closed 4", lambda s: s["full"]["tokens_per_s"], False),
    Figure("throughput_tokens_per_s", "tokens/s, saturated", "saturation", lambda s: s["saturated_tokens_per_s"], False),
    Figure("answer_ms_part_50", "ms an answer, 50 % load", "part 50", lambda s: s["whole_ms"]["mean"], True),
    Figure("answer_ms_part_80", "ms an answer, 80 % load", "part 80", lambda s: s["whole_ms"]["mean"], True),
)


# Of a topology: what a configuration drafts by.
SETTINGS = ("speculation", "draft_budget", "draft_floor", "draft_budgets", "fusion", "draft_ahead", "corpus")


def settings_of(topology):
    """{key: value} of those that the topology has; the others have their defaults."""
    found = {key: m[1].strip('"') for key in SETTINGS if (m := re.search(rf"(?m)^{key}: *(.*?) *$", topology))}
    return {key: int(value) if value.isdigit() else value for key, value in found.items()}


def is_tuned(topology):
    return settings_of(topology).get("draft_budgets") == "fixed"


def say(text):
    print(f"speculation: {text}", file=sys.stderr, flush=True)


# ---- runs ----

class Bench:
    """Runs loads on clusters and keeps what came of it."""

    def __init__(self, a, directory):
        self.a, self.directory = a, directory
        self.expected, self.records = f"{directory}/expected", f"{directory}/records"
        self.capacity = None     # of `none`: requests a second
        self.differences = []    # answers that are not those of `none`
        self.skipped = {}        # {configuration: why}
        self.settings = {}       # {configuration: its settings_of}
        self.results = {}        # {configuration: {load: [summary of each round]}}
        self.tuned = {}          # {configuration: {(budget, floor): [ms a token in those of `none`, of each round]}}
        self.interrupted = None
        self.n_loads = 0

    def cluster(self, name, topology):
        return Cluster(name, topology, self.directory, self.a.build, two_cores())

    def topology(self, name):
        path = f"{self.a.configs}/{name}.yaml"
        try:
            with open(path, encoding="utf-8") as f:
                return f.read()
        except FileNotFoundError:
            self.skipped[name] = f"{path}: there is no such file"
            return None

    def clusters(self):
        """Those that are to run, not started."""
        wanted = {name: self.topology(name) for name in self.a.only or NAMES}
        if self.a.ablations:
            wanted = {name: self.topology(name) for name in ("none", "consort")}
            wanted.update((name, with_keys(wanted["consort"], keys)) for name, keys in ABLATIONS[self.a.ablations].items() if wanted["consort"])
        self.settings = {name: settings_of(topology) for name, topology in wanted.items() if topology}
        found = [self.cluster(name, topology) for name, topology in wanted.items() if topology]
        for c in found:
            if why := c.refusal():
                self.skipped[c.name] = why
        for name, why in self.skipped.items():
            say(f"{name} is left out: {why}")
        found = [c for c in found if c.name not in self.skipped]
        if not found or found[0].name != "none":
            raise Failure(f"without `none` there is nothing to compare with: {self.skipped.get('none', 'it comes first in --only')}")
        return found

    def serve(self, cluster, what, *options):
        """The summary of a load. An answer that differs is noted; whatever else goes wrong ends the run.

        Each load has a salt of its own: the prompts are the same in all, and what the cache keeps of one would be another's head start.
        """
        self.n_loads += 1
        code, summary, said = cluster.load("--prompts", self.a.prompts, "--tokens", self.a.tokens, "--records", self.records,
                                           "--cache-salt", f"load-{self.n_loads}", *options)
        if code and "the answer differs from" in said:
            self.differences.append(f"{cluster.name}, {what}: {said}")
            say(f"NOT THE SAME BYTES: {self.differences[-1]}")
        elif code:
            raise Failure(f"{cluster.name}, {what}: {said}")
        return summary

    def run(self, cluster, load):
        how = ["--streams", load.streams] if load.streams else ["--rate", load.rate * self.capacity]
        summary = self.serve(cluster, load.name, "--requests", load.requests, "--seed", SEED, "--expect", self.expected, *how)
        if summary["expected"]["unknown"]:
            raise Failure(f"{cluster.name}, {load.name}: {summary['expected']['unknown']} requests have no answer of `none` to compare with")
        if load.name == "saturation":
            summary["saturated_tokens_per_s"] = saturated_rate(read_lines(self.records), min(LARGEST_BATCH, max(1, load.requests // 2)))
        return summary

    def warm_up(self, cluster):
        self.serve(cluster, "warm-up", "--requests", self.a.requests or WARM_REQUESTS, "--seed", WARM_SEED, "--streams", 4, "--expect", self.expected)

    def answer_all(self, none, n):
        """What every answer must be, and how many requests a second `none` serves when it is full."""
        with open(self.expected, "w", encoding="utf-8") as expected:
            for seed, requests in ((WARM_SEED, self.a.requests or WARM_REQUESTS), (SEED, n)):
                summary = self.serve(none, "all answers", "--requests", requests, "--seed", seed, "--streams", LARGEST_BATCH)
                expected.writelines(json.dumps(r) + "\n" for r in read_lines(self.records))
        self.capacity = summary["full"]["tokens_per_s"] * summary["requests"] / summary["tokens"]
        say(f"none serves {self.capacity:.2f} requests/s, {summary['full']['tokens_per_s']:.0f} tokens/s")

    def measure(self):
        clusters = self.clusters()
        with contextlib.ExitStack() as running:
            for c in clusters:
                running.enter_context(c)
                say(f"{c.name} is up")
            self.answer_all(clusters[0], max(load.requests for load in loads(self.a)))
            for c in clusters:
                self.warm_up(c)
            plan = [(load, c) for r in range(self.a.rounds) for load in loads(self.a) for c in turned(clusters, r)]
            progress = Progress(len(plan), say)
            for load, c in plan:
                self.results.setdefault(c.name, {}).setdefault(load.name, []).append(self.run(c, load))
                progress.say(f"{load.name}, {c.name}: {in_short(self.results[c.name][load.name][-1], load)}")

    def tune(self):
        """Fills `tuned`; each budget and floor in a cluster of its own, by turns, and `none` right after it, so that a busy machine counts little."""
        load = next(loads(self.a))
        clusters = self.clusters()
        topologies = {c.name: self.topology(c.name) for c in clusters}
        drafting = [name for name, t in topologies.items() if settings_of(t).get("speculation") != "none" and (self.a.only or is_tuned(t))]
        grid = list(itertools.product(drafting, self.a.budgets, self.a.floors)) * self.a.rounds
        with clusters[0] as none:
            self.answer_all(none, load.requests)
            progress = Progress(len(grid), say)
            for name, budget, floor in grid:
                with self.cluster(name, with_keys(topologies[name], {"draft_budget": budget, "draft_floor": floor})) as c:
                    self.warm_up(c)
                    summary = self.run(c, load)
                share = summary["ms_per_token"] / self.run(none, load)["ms_per_token"]
                self.tuned.setdefault(name, {}).setdefault((budget, floor), []).append(share)
                progress.say(f"{name}, draft_budget {budget}, draft_floor {floor}: {share:.3f} of none; {in_short(summary, load)}")


def saturated_rate(records, level):
    """Tokens a second while at least `level` requests were there; those of a request are spread evenly over its time of answering."""
    changes = sorted([(r["scheduled_ns"], 1) for r in records] + [(r["end_ns"], -1) for r in records])
    there = list(itertools.accumulate(step for _, step in changes))
    times = [t for (t, _), n in zip(changes, there) if n >= level]
    if not times:
        return None
    begin, end = times[0], next(t for (t, _), n in zip(reversed(changes), reversed([0] + there[:-1])) if n >= level)

    def tokens(r):
        whole = max(r["last_token_ns"] - r["first_token_ns"], 1)
        inside = min(r["last_token_ns"], end) - max(r["first_token_ns"], begin)
        return r["tokens"] * min(1, max(0, inside / whole))

    return sum(tokens(r) for r in records) / (end - begin) * 1e9


def in_short(summary, load):
    return ", ".join(f"{value:.2f} {f.text}" for f in FIGURES if f.load == load.name and (value := f.value(summary)))


# ---- figures ----

def all_rounds(results, name, figure):
    """None: a round in which it did not come out, as of a saturation in which there were never as many requests as should be."""
    return [figure.value(s) for s in results.get(name, {}).get(figure.load, [])]


def rounds_of(results, name, figure):
    return [v for v in all_rounds(results, name, figure) if v is not None]


def of_rounds(results, name, figure):
    """Of how many rounds a figure is, where it is not of all."""
    n, n_all = len(rounds_of(results, name, figure)), len(all_rounds(results, name, figure))
    return f" ({n} of {n_all} rounds)" if n < n_all else ""


def speed(results, name, base, figure):
    """How many times as good as `base`, in each round in which both have it: over 1 is better, also where less is."""
    pairs = zip(all_rounds(results, name, figure), all_rounds(results, base, figure))
    return [(b / v if figure.less else v / b) for v, b in pairs if v is not None and b is not None]


def best_baseline(results, figure):
    """The speculative baseline whose median is best; None if there is none."""
    medians = {n: statistics.median(v) for n in results if n not in ("none", "none-all", "consort") and n not in ABLATED
               and (v := rounds_of(results, n, figure))}
    return (min if figure.less else max)(medians, key=medians.get) if medians else None


def in_best_baseline(results, figure):
    """(the baseline, the speed of consort in that of it in each round); None where either is missing."""
    best = best_baseline(results, figure)
    ratios = speed(results, "consort", best, figure) if best else []
    return (best, ratios) if ratios else None


def by_domain(results, name):
    """{domain: median of ms a token and tokens a step}, one stream."""
    rounds = [s["by_domain"] for s in results[name].get("latency", [])]
    return {domain: {key: statistics.median(r[domain][key] for r in rounds) for key in ("ms_per_token", "tokens_per_step")}
            for domain in (rounds[0] if rounds else ())}


def as_json(b):
    configurations, versus = {}, {}
    for name in b.results:
        one = configurations[name] = {"settings": b.settings[name], "by_domain": by_domain(b.results, name), "rounds": {}, "n_rounds": {}, "speed_in_that_of_none": {}}
        for f in FIGURES:
            if values := rounds_of(b.results, name, f):
                one[f.key], one["rounds"][f.key], one["n_rounds"][f.key] = statistics.median(values), values, [len(values), len(all_rounds(b.results, name, f))]
            if ratios := speed(b.results, name, "none", f):
                one["speed_in_that_of_none"][f.key] = spread(ratios)
    for f in FIGURES:
        if found := in_best_baseline(b.results, f):
            versus[f.key] = {"baseline": found[0], **spread(found[1])}
    return {"bytes_equal": not b.differences and not b.interrupted, "differences": b.differences, "interrupted": b.interrupted, "skipped": b.skipped,
            "configurations": configurations, "consort_in_best_baseline": versus, "none_requests_per_s": b.capacity,
            "quick": b.a.quick, "n_rounds": b.a.rounds, "tokens": b.a.tokens}


def print_tables(b):
    results = b.results
    shown = [f for f in FIGURES if any(rounds_of(results, name, f) for name in results)]
    head = ["", *(f.text for f in shown)]
    print(f"Answers of at most {b.a.tokens} tokens, {b.a.rounds} rounds; `none` serves {b.capacity:.2f} requests/s. Medians of the rounds:")
    print_table(head, ([name, *(f"{statistics.median(v):.2f}{of_rounds(results, name, f)}" if (v := rounds_of(results, name, f)) else "-" for f in shown)] for name in results))
    print("\nSpeed in that of `none` in the same round, over 1 is better: median (least - most). Last row: consort in the best speculative baseline.")
    rows = [[name, *(in_words(speed(results, name, "none", f)) for f in shown)] for name in results if name != "none"]
    versus = [in_best_baseline(results, f) for f in shown]
    rows.append(["consort in the best", *(f"{in_words(v[1])}, {v[0]}" if v else "-" for v in versus)])
    print_table(head, rows)
    domains = {name: by_domain(results, name) for name in results}
    print("\nOne stream, by domain: ms a token, tokens a step.")
    print_table(["", *domains["none"]], ([name, *(f"{d['ms_per_token']:.2f}, {d['tokens_per_step']:.2f}" for d in found.values())]
                                         for name, found in domains.items()))
    print("\nSettings, as the topologies have them (-: the default; docs/configuration.md).")
    print_table(["", *SETTINGS], ([name, *(str(b.settings[name].get(key, "-")) or '""' for key in SETTINGS)] for name in results))
    for name, why in b.skipped.items():
        print(f"\n{name} was left out: {why}")
    print("\nNOT THE SAME BYTES:\n" + "\n".join(b.differences) if b.differences else "\nAll answers are those of `none`, byte for byte.")


def draw(b, directory):
    os.makedirs(directory, exist_ok=True)
    for stem, title, keys in (("speculation-latency", "Speed of one request in that of none (ms a token)", ("latency_per_token_ms",)),
                              ("speculation-throughput", "Tokens a second in those of none, by load",
                               ("throughput_2", "throughput_4", "throughput_tokens_per_s"))):
        groups = {f.text: {name: spread(ratios) for name in b.results if (ratios := speed(b.results, name, "none", f))}
                  for f in FIGURES if f.key in keys}
        with open(f"{directory}/{stem}.svg", "w", encoding="utf-8") as f:
            f.write(bars.svg(title, groups))
        say(f"wrote {directory}/{stem}.svg")


def print_tuning(b):
    print(f"Answers of at most {b.a.tokens} tokens, {next(loads(b.a)).requests} requests one at a time; {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {machine()}:\n\n    "
          + shlex.join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]))
    for name, grid in b.tuned.items():
        pairs = list(itertools.product(b.a.budgets, b.a.floors))
        rounds = [len(grid.get(at, ())) for at in pairs]
        print(f"\n{name}: ms a token in those of `none` right after, median (least - most) of {in_rounds(rounds)}")
        print_table(["draft_budget", *(f"draft_floor {f}" for f in b.a.floors)], ([str(n), *(in_words(grid.get((n, f), ())) for f in b.a.floors)] for n in b.a.budgets))
        budget, floor = min(grid, key=lambda at: statistics.median(grid[at]))
        print(f"\n{name}.yaml should say draft_budget: {budget}, draft_floor: {floor}" if min(rounds) else f"\n{name}: not all were measured, so nothing is said of what its file should say")


def in_rounds(counts):
    least, most = min(counts), max(counts)
    return f"{most} round{'s'[:most > 1]}" if least == most else f"{least} to {most} rounds"


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = re.search(r"(?m)^model name\s*: (.*)$", f.read())
    return f"{os.cpu_count()} cores of {model[1] if model else os.uname().machine}"


# ---- the command line ----

def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompts", required=True, metavar="DIR")
    p.add_argument("--quick", action="store_true", help="two rounds of fewer requests, no part loads: some ten minutes")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    p.add_argument("--plots", metavar="DIR", help="write speculation-latency.svg and speculation-throughput.svg there")
    p.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 2")
    p.add_argument("--tokens", type=int, default=128, metavar="N", help="most tokens of an answer (%(default)s)")
    p.add_argument("--requests", type=int, metavar="N", help="of every load, instead of its own number")
    p.add_argument("--only", type=lambda s: s.split(","), metavar="NAME,...", help="these configurations; none must come first")
    p.add_argument("--configs", default=os.path.join(ROOT, "cluster-configs/baselines"), metavar="DIR")
    p.add_argument("--ablations", nargs="?", const="parts", choices=ABLATIONS)
    p.add_argument("--tune", action="store_true")
    p.add_argument("--budgets", type=numbers, default=numbers("1,2,3,4,6,8"), metavar="N,...", help="of --tune: draft_budget")
    p.add_argument("--floors", type=numbers, default=numbers("0,15,30"), metavar="N,...", help="of --tune: draft_floor")
    p.add_argument("--build", default=os.path.join(ROOT, "build/release"), metavar="DIR")
    a = p.parse_args()
    a.rounds = a.rounds or (2 if a.quick else 3)
    a.prompts, a.build, a.configs = map(os.path.abspath, (a.prompts, a.build, a.configs))
    if not os.access(f"{a.build}/consort", os.X_OK):
        p.error(f"{a.build}/consort is missing; scripts/setup builds it")
    if not os.path.exists(a.prompts):
        p.error(f"--prompts: {a.prompts} does not exist; a folder of *.jsonl with {{id, domain, prompt}} a line is expected")
    return a


def tell(b):
    if b.a.json:
        print(json.dumps(as_json(b)))
    elif b.results:
        print_tables(b)
    if b.a.plots and b.results:
        draw(b, b.a.plots)


def main():
    a = arguments()
    with measuring(lambda directory: Bench(a, directory)) as b:
        b.tune() if a.tune else b.measure()
    print_tuning(b) if a.tune else tell(b)
    if b.interrupted:
        say(f"ended early: {b.interrupted}")
    return 1 if b.interrupted or b.differences else 0


if __name__ == "__main__":
    sys.exit(main())
