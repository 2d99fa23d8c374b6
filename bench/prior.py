#!/usr/bin/env python3
"""What a prior from the prompt is worth to hedge, on recorded greedy answers, as a Markdown table.

    bench/prior.py --model GGUF --train train.jsonl --eval eval.jsonl [--consort build/release/consort] [--seeds 5]

Every other answer of `train` makes a table for its domain, so that no table has seen what it is scored on; the rest, in random order, teaches
the priors, as answers that are over do (speculative/prior.c; the arithmetic is repeated here). Then the answers of `eval` come in random
order, each with every table scored on each token (consort bench-drafters --beliefs), and go on teaching. Of the table that the prior puts
first: how often it is the best of the whole answer in hindsight, and its hits in the first tokens, where hedge (speculative/hedge.c)
chooses again before each.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile

KEPT, PRIOR, RATE, LEAST, MOST = 1 - 1 / 24, 8, 0.8, 0.1, 3  # hedge.c, and its exp's RATE
BITS, LEARNS, CERTAIN, FEW, ANSWERS_KEPT = 11, 0.3, 64, 8, 1 - 1 / 64  # prior.c
LENGTHS = (8, 16, 96)


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def consort(a, *arguments, rows=None):
    text = None if rows is None else "".join(json.dumps(r) + "\n" for r in rows)
    return subprocess.run([a.consort, *arguments], check=True, text=True, stdout=subprocess.PIPE, input=text).stdout


def profile(ids):
    return sorted({(i * 2654435761 & 0xFFFFFFFF) >> (32 - BITS) for i in ids})


def scored(a, tables, answers):
    """[(profile, domain, hits by token, one list a table)]"""
    ids = [json.loads(r)["ids"] for r in consort(a, "tokenize", "--model", a.model, "--no-special", rows=[{"text": r["prompt"]} for r in answers]).splitlines()]
    rows = [[json.loads(r) for r in consort(a, "bench-drafters", "--model", a.model, "--table", t, "--beliefs", "--budget", "1", rows=answers).splitlines()]
            for t in tables.values()]
    found = [(profile(i), r[0]["domain"], [[hit for _, hit in of["ngram"]] for of in r]) for i, *r in zip(ids, *rows)]
    return [f for f in found if len(f[2][0]) >= max(LENGTHS) // 2 and len({len(h) for h in f[2]}) == 1]  # a table has something to say of each token


def faded(tally, hits, n=1, kept=KEPT):
    return (tally[0] * kept + n, tally[1] * kept + hits)


def tally_of(hits):
    tally = (0, 0)
    for hit in hits:
        tally = faded(tally, hit)
    return tally


class LastHits:
    """What it was before: the hits of all requests, the last 24 tokens counting."""
    name = "hits of all requests, the last 24 tokens"

    def __init__(self, n):
        self.tallies = [(0, 0)] * n

    def shares(self, _):
        return [(h + 1) / (n + 4) for n, h in self.tallies]

    def learn(self, _, hits):
        for d, of in enumerate(hits):
            for hit in of:
                self.tallies[d] = faded(self.tallies[d], hit)


class Mean:
    name = "mean of all answers"
    weighs = False

    def __init__(self, n):
        self.all, self.weights = [(0, 0)] * n, [[0.0] * (1 << BITS) for _ in range(n)]

    def expected(self, d, prompt):
        seen, hits = self.all[d]
        return hits / seen + (sum(self.weights[d][b] for b in prompt) if self.weighs else 0)

    def shares(self, prompt):
        return [(CERTAIN * min(max(self.expected(d, prompt), 0), 1) + 1) / (CERTAIN + 4) if self.all[d][0] else 0.25 for d in range(len(self.all))]

    def learn(self, prompt, hits):
        for d, of in enumerate(hits):
            seen, right = tally_of(of)
            share, sure = right / seen, seen / (seen + FEW)
            self.all[d] = faded(self.all[d], sure * share, sure, ANSWERS_KEPT)
            step = LEARNS * sure * (share - self.expected(d, prompt)) / len(prompt)
            for b in prompt:
                self.weights[d][b] += step


class Prompt(Mean):
    name = "from the prompt"
    weighs = True


class Hindsight:
    name = "the answer's own shares, in hindsight"

    def __init__(self, _):
        self.next = None

    def shares(self, _):
        return self.next

    def learn(self, *_):
        pass


def replay(shares, hits):
    """Of each token: whether the first pick has it, and whether one of up to three has."""
    tallies, first, any_of = [(0, 0)] * len(hits), [], []
    for at in range(len(hits[0])):
        now = [(h + PRIOR * p) / (n + PRIOR) for (n, h), p in zip(tallies, shares)]
        order = sorted(range(len(now)), key=lambda d: -now[d])
        picks = [d for d in order[:MOST] if 2.718281828 ** (RATE * tallies[0][0] * (now[d] - now[order[0]])) >= LEAST]
        first.append(hits[order[0]][at])
        any_of.append(any(hits[d][at] for d in picks))
        tallies = [faded(t, of[at]) for t, of in zip(tallies, hits)]
    return first, any_of


def run(a, kind, teach, answers, n_taught):
    """Shares of right first picks, hits of the first pick, of up to three picks, in the first tokens; means an answer."""
    sums = [0.0] * (1 + 2 * len(LENGTHS))
    for seed in range(a.seeds):
        prior, order = kind(len(answers[0][2])), random.Random(seed).sample(teach, n_taught)
        for prompt, _, hits in order:
            prior.learn(prompt, hits)
        for prompt, _, hits in random.Random(1000 + seed).sample(answers, len(answers)):
            if kind is Hindsight:
                prior.next = [sum(of) / len(of) for of in hits]
            shares, totals = prior.shares(prompt), [sum(of) for of in hits]
            first, any_of = replay(shares, hits)
            figures = [totals[shares.index(max(shares))] == max(totals)] + [sum(of[:n]) for of in (first, any_of) for n in LENGTHS]
            sums = [s + f for s, f in zip(sums, figures)]
            prior.learn(prompt, hits)
    return [s / a.seeds / len(answers) for s in sums]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--train", "--eval"):
        p.add_argument(name, required=True)
    p.add_argument("--consort", default="build/release/consort")
    p.add_argument("--seeds", type=int, default=5)
    a = p.parse_args()
    train = lines(a.train)
    with tempfile.TemporaryDirectory(prefix="consort-prior-") as directory:
        tables = {}
        for domain in sorted({r["domain"] for r in train}):
            text, tables[domain] = f"{directory}/{domain}.jsonl", f"{directory}/{domain}.ngram"
            with open(text, "w", encoding="utf-8") as f:
                f.writelines(json.dumps(r) + "\n" for r in train[::2] if r["domain"] == domain)
            consort(a, "build-ngram", "--model", os.path.abspath(a.model), "--out", tables[domain], text)
        teach, answers = scored(a, tables, train[1::2]), scored(a, tables, lines(a.eval))
    print(f"{len(teach)} answers teach, {len(answers)} are counted.\n")
    print("| share of its own tokens that a table hits | " + " | ".join(tables) + " |\n|---" + "|---" * len(tables) + "|")
    for domain in tables:
        own = [hits for _, d, hits in answers if d == domain]
        print(f"| {domain} | " + " | ".join(f"{sum(sum(h[t]) / len(h[t]) for h in own) / len(own):.2f}" for t in range(len(tables))) + " |")
    print("\n| prior | answers that taught it before | first pick is the best | hits of the first pick in the first " + ", ".join(map(str, LENGTHS)) +
          " tokens | of up to three picks |\n|---|---|---|---|---|")
    for kind, taught in ((LastHits, len(teach)), (Mean, len(teach)), (Prompt, 0), (Prompt, 32), (Prompt, 128), (Prompt, len(teach)), (Hindsight, 0)):
        best, *hits = run(a, kind, teach, answers, taught)
        first, any_of = hits[:len(LENGTHS)], hits[len(LENGTHS):]
        print(f"| {kind.name} | {taught} | {best:.2f} | " + ", ".join(f"{h:.2f}" for h in first) + " | " + ", ".join(f"{h:.2f}" for h in any_of) + " |", flush=True)


if __name__ == "__main__":
    main()
