#!/usr/bin/env python3
"""Tokens per second of a running cluster, for several numbers of streams at once.

    bench/streams.py [--server HOST:PORT] [--streams 1,8,32] [--tokens 64] [--rounds 3] [--build build/release]

Each stream is one `consort generate` of the same length (end-of-answer tokens ignored, T = 0) over a prompt of its own. Printed for each number of streams, as
one JSON line: tokens of all streams over the time from the first start to the last end, prompts included (best and median of the rounds), and the median time to
the first token. The client processes share the cores with the cluster.
"""
import argparse
import json
import statistics
import subprocess
import time

WORDS = "ship river doctor theorem garden engine letter winter market violin".split()


def run(a, n):
    start = time.monotonic()
    calls = [
        subprocess.Popen(
            [f"{a.build}/consort", "generate", "--server", a.server, "--json", "--ignore-end", "--max-tokens", str(a.tokens), "--prompt",
             f"Write a paragraph about a {WORDS[i % 10]} and the number {i}."],
            stdout=subprocess.PIPE, text=True)
        for i in range(n)
    ]
    outputs = [call.communicate()[0] for call in calls]
    if any(call.returncode for call in calls):
        raise SystemExit(f"streams: a call failed; does a cluster serve at {a.server}? (consort status)")
    answers = [json.loads(output) for output in outputs]
    seconds = time.monotonic() - start
    assert all(len(x["ids"]) == a.tokens for x in answers)
    return n * a.tokens / seconds, statistics.median(x["times"]["first_token_s"] for x in answers)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--server", default="127.0.0.1:50051")
    p.add_argument("--streams", default="1,8,32", type=lambda s: [int(x) for x in s.split(",")])
    p.add_argument("--tokens", default=64, type=int)
    p.add_argument("--rounds", default=3, type=int)
    p.add_argument("--build", default="build/release")
    a = p.parse_args()
    for n in a.streams:
        rounds = [run(a, n) for _ in range(a.rounds)]
        rates = [r[0] for r in rounds]
        print(json.dumps({"streams": n, "tokens_per_s_best": round(max(rates), 1), "tokens_per_s_median": round(statistics.median(rates), 1),
                          "first_token_s_median": round(statistics.median(r[1] for r in rounds), 3)}), flush=True)


main()
