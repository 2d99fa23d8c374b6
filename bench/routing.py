#!/usr/bin/env python3
"""How soon hedge asks the right drafter, at the start of an answer and behind a change of subject in it, as Markdown tables.

    bench/routing.py --model GGUF --eval eval.jsonl [--drafters drafters] [--consort build/release/consort] [--budget 4]

Recorded greedy answers, by domain; the tables drafters/DOMAIN.ngram, none of which has seen them; the choosing is the scheduler's
(consort bench-drafters --route). Half of the answers of each domain teach the priors of prompts. The others are made into requests whose
subject changes: the prompt of one of the first domain, two answers of that, two of the second. A table is the right one if its domain is the
text's. Tokens are of the answer; a step is a round. `asked`: it is among those that are asked; `first`: it is the one that is expected to hit most.
"""
import argparse
import collections
import json
import statistics
import subprocess

DOMAINS = ("code", "general", "math", "medicine")
WITHIN = 32  # tokens


def replay(a, lines):
    route = ",".join(f"{a.drafters}/{d}.ngram" for d in DOMAINS)
    out = subprocess.run([a.consort, "bench-drafters", "--model", a.model, "--route", route, "--budget", str(a.budget)], check=True, text=True,
                         stdout=subprocess.PIPE, input="".join(json.dumps(line) + "\n" for line in lines)).stdout
    return [json.loads(line) for line in out.splitlines()]


def found(rounds, begin, end, domain):
    """Of the rounds in [begin, end): tokens and steps until it is asked and until it is first, and the shares of the first WITHIN tokens' rounds."""
    right = DOMAINS.index(domain)
    own = [r for r in rounds if begin <= r[0] < end]
    result = {"steps": len(own), "tokens": end - begin}
    for name, is_right in (("asked", lambda r: r[1] >> right & 1), ("first", lambda r: r[2] == right)):
        at = next((i for i, r in enumerate(own) if is_right(r)), None)
        result[name] = (own[at][0] - own[0][0], at) if at is not None else (end - begin, len(own))
        near = [is_right(r) for r in own if r[0] < begin + WITHIN]
        result[name + " near"], result[name + " late"] = statistics.mean(near), statistics.mean([is_right(r) for r in own if r[0] >= begin + 2 * WITHIN])
    result["n asked"] = statistics.mean([bin(r[1]).count("1") for r in own])
    return result


def row(name, results):
    def of(key, at):
        values = sorted(r[key][at] for r in results)
        return f"{statistics.median(values):g}, {values[int(0.9 * (len(values) - 1))]:g}"

    def mean(key):
        return f"{statistics.mean(r[key] for r in results):.2f}"
    rate = sum(r["tokens"] for r in results) / sum(r["steps"] for r in results)
    print(f"| {name} | {of('asked', 0)} | {of('first', 0)} | {of('first', 1)} | {mean('asked near')} | {mean('first near')} | {mean('asked late')} | {mean('first late')} | {mean('n asked')} | {rate:.3f} |")


def head(what):
    print(f"\n| {what} | tokens until asked: median, 90 % | until first | steps until first | asked in the first {WITHIN} tokens | first there | asked from token {2 * WITHIN} on | first there | asked in a round | tokens a step |")
    print("|---" * 10 + "|")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--eval", required=True)
    p.add_argument("--drafters", default="drafters")
    p.add_argument("--consort", default="build/release/consort")
    p.add_argument("--budget", type=int, default=4)
    p.add_argument("--other-half", action="store_true", help="the halves of the answers change places")
    a = p.parse_args()
    by = collections.defaultdict(list)
    with open(a.eval, encoding="utf-8") as f:
        for line in map(json.loads, f):
            by[line["domain"]].append(line)
    alone = {d: [(x, r["tokens"]) for x, r in zip(by[d], replay(a, by[d])) if r["tokens"] >= 64] for d in DOMAINS}
    first = 1 if a.other_half else 0
    teach = [dict(pair[0], teach=True) for group in zip(*(alone[d][first::2] for d in DOMAINS)) for pair in group]
    test = {d: alone[d][1 - first::2] for d in DOMAINS}
    requests = []
    for first in DOMAINS:
        for second in DOMAINS:
            for i in range(len(test[first]) if first != second else 0):
                x, y = ([test[d][(i + k) % len(test[d])] for k in range(2)] for d in (first, second))
                requests.append((first, second, x[0][1] + x[1][1], {"domain": first, "prompt": x[0][0]["prompt"], "output": "".join(part[0]["output"] + "\n\n" for part in x + y)}))
    for taught in (False, True):
        out = replay(a, (teach if taught else []) + [r[3] for r in requests])[len(teach) if taught else 0:]
        begins, changes = collections.defaultdict(list), collections.defaultdict(list)
        for (first, second, change, _), r in zip(requests, out):
            begins[first].append(found(r["rounds"], 1, change, first))
            changes[first, second].append(found(r["rounds"], change, r["tokens"], second))
        print(f"\n{'With priors that ' + str(len(teach)) + ' answers have taught' if taught else 'Without priors'}:")
        head("start of")
        for d in DOMAINS:
            row(d, begins[d])
        row("**all**", sum(begins.values(), []))
        head("change")
        for pair in changes:
            row(" to ".join(pair), changes[pair])
        row("**all**", sum(changes.values(), []))


if __name__ == "__main__":
    main()
