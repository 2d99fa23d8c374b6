#!/usr/bin/env python3
"""Merge, lockstep and auto over links of several round trips, simulated, as a Markdown table.

    bench/fusion.py --topology cluster-configs/four-tables.yaml --trace TRACE [--ways 0.025,0.25,1,5] [--seeds 4] [-- OPTION ...]

TRACE: of a cluster of that topology with `fusion: merge` (docs/simulator.md), since habits are of drafts that each made alone. A way is what
a message takes, in ms; a round trip is two. All after -- goes to `consort simulate`: --streams, --copies, --link-mbit ...
"""
import argparse
import json
import re
import subprocess
import tempfile

FUSIONS = ("merge", "lockstep", "auto")


def simulate(a, directory, fusion, way):
    """Tokens a second over all seeds, and the share of rounds that were in lockstep."""
    with open(a.topology, encoding="utf-8") as f:
        text = re.sub(r"(?m)^fusion:.*\n", "", f.read())
    path = f"{directory}/{fusion}.yaml"
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{text}\nfusion: {fusion}\n")
    runs = []
    for seed in range(a.seeds):
        command = [f"{a.build}/consort", "simulate", "--topology", path, "--trace", a.trace, "--link-ms", str(way), "--seed", str(1 + seed), "--json", *a.options]
        runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    rounds = sum(r["asked_rounds"] + r["unasked_rounds"] for r in runs)
    return sum(r["tokens"] for r in runs) / sum(r["seconds"] for r in runs), sum(r["lockstep_rounds"] for r in runs) / max(rounds, 1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--topology", required=True)
    p.add_argument("--trace", required=True)
    p.add_argument("--ways", default="0.025,0.25,1,5")
    p.add_argument("--seeds", type=int, default=4)
    p.add_argument("--build", default="build/release")
    p.add_argument("options", nargs="*")
    a = p.parse_args()
    print("| round trip, ms | merge, tokens/s | lockstep | auto | auto in the better one | rounds of auto in lockstep |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="consort-fusion-") as directory:
        for way in map(float, a.ways.split(",")):
            (merge, _), (lockstep, _), (auto, share) = (simulate(a, directory, fusion, way) for fusion in FUSIONS)
            print(f"| {2 * way:g} | {merge:.1f} | {lockstep:.1f} | {auto:.1f} | {auto / max(merge, lockstep):.3f} | {100 * share:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
