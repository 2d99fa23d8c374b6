#!/usr/bin/env python3
"""How fast KV cache moves between two verifiers, beside programs that have nothing of Consort.

    bench/kv.py [--quick] [--json] [--rounds N] [--prompt N] [--model FILE] [--build DIR]

A cluster of two verifiers, one a core, is started and stays. --rounds times `consort bench kv` measures it, and each program below that
is installed moves messages of the same sizes between the same two cores; another one is first each round.

    move, alone   of `consort bench kv`: gb_s, a move with its copies, checksums and questions; raw_gb_s, the same transport without
                  them. Each is the median of five, of 64 MiB and at least 16 messages, which lie in 16 MiB at either end
    memcpy        shm: bench/memcpy.c, one core copies the messages from 16 MiB to 16 MiB. A transport by shared memory copies in on
                  one core and out on the other
    mbw           shm: -t2. Its messages all come from one place, so that small ones come from the cache, and go to 16 MiB or more
    NPopenmpi     mpi: NetPIPE, to and fro, half the time; -s: one way, one message after the other, as a move does. Open MPI and its
                  parameters are the cluster's. Through 10 MB at either end (-I); the best of its trials counts
    iperf3        tcp: one stream over the loopback, one place at either end again and again. It writes 1 MiB at most: that stands
                  beside larger messages
    NPtcp -s      tcp: NetPIPE, one way over the loopback, through 10 MB at either end; the best of its trials counts

All count alike: bytes of messages, each once, one way; a GB has 10^9. So ratios tell what the protocol costs (move / alone) and what
somebody else makes of the same way (move / program). The Debian packages of programs that are missing are told.

The KV of a prompt of --prompt tokens is timed too, moved in pieces as the model has them (a layer of a block) and computed by one of the
verifiers, with one thread; and from how many tokens on the scheduler moves what it need not compute (`move_tokens`, as long as moves take
less by what it has learnt). bench/prefill_decode.py finds where that is by requests that move.
"""
import argparse
import collections
import json
import os
import statistics
import sys

import kv_programs
from pinned import ROOT, Cluster, Failure, measuring, two_cores
from rounds import Progress, in_words, print_table, spread, turned

BLOCK = 32
TOKENS_BEHIND = 65  # of a prompt: one of the answer and the largest draft tree have to fit
TOPOLOGY = """\
model: {model}
control_listen: 127.0.0.1:0
speculation: none
draft_budget: 0
groups:
  - {{name: first, role: verifier, threads: 1, kv_type: f16, kv_tokens: {kv_tokens}}}
  - {{name: second, role: verifier, threads: 1, kv_type: f16, kv_tokens: {kv_tokens}}}
"""

Move = collections.namedtuple("Move", "gb_s raw_gb_s")
Prompt = collections.namedtuple("Prompt", "block_bytes prompt_tokens move_ms recompute_ms crossover_tokens")


def say(text):
    print(f"kv: {text}", file=sys.stderr, flush=True)


class Bench:
    """Measures and keeps what came of it."""

    def __init__(self, a, directory):
        self.a, self.directory = a, directory
        self.place = kv_programs.Place(directory, a.build, two_cores(), int(a.gb * 1e9))
        self.programs, self.left_out = kv_programs.find(a.build)
        self.moves = {}     # {(transport, bytes of a message): [Move of each round]}
        self.prompts = {}   # {transport: [Prompt of each round]}
        self.beside = {}    # {(transport, bytes of a message): {program: [GB/s of each round]}}
        self.interrupted = None

    def cluster(self):
        kv_tokens = (self.a.prompt + TOKENS_BEHIND) // BLOCK * BLOCK + 2 * BLOCK
        c = Cluster("two-verifiers", TOPOLOGY.format(model=self.a.model, kv_tokens=kv_tokens), self.directory, self.a.build, self.place.cores)
        if why := c.refusal():
            raise Failure(f"{c.name}: {why}")
        return c

    def run_consort(self, cluster):
        for row in json.loads(cluster.consort("bench", "kv", "--json", "--prompt", self.a.prompt)):
            if "prompt_tokens" in row:
                self.prompts.setdefault(row["transport"], []).append(Prompt(*(row[key] for key in Prompt._fields)))
            else:
                self.moves.setdefault((row["transport"], row["block_bytes"]), []).append(Move(row["gb_s"], row["raw_gb_s"]))
        return "; ".join(f"{way}, {in_bytes(size)}: {m[-1].gb_s:.2f} GB/s, {m[-1].raw_gb_s:.2f} alone" for (way, size), m in self.moves.items())

    def run_program(self, program, sizes):
        said = []
        for size in sizes:
            rate = program.measure(self.place, size)
            self.beside.setdefault((program.transport, size), {}).setdefault(program.name, []).append(rate)
            said.append(f"{in_bytes(size)}: {rate:.2f} GB/s")
        return ", ".join(said)

    def measure(self):
        for name, remedy in self.left_out.items():
            say(f"{name} is left out: {remedy}")
        with self.cluster() as cluster:
            warm = json.loads(cluster.consort("bench", "kv", "--json", "--prompt", 0))  # it also tells which sizes there are
            sizes = {way: [row["block_bytes"] for row in warm if row["transport"] == way] for way in dict.fromkeys(row["transport"] for row in warm)}
            say("the cluster is up; its transports are " + ", ".join(sizes))
            parts = [None, *(p for p in self.programs if p.transport in sizes)]
            progress = Progress(self.a.rounds * len(parts), say)
            for r in range(self.a.rounds):
                for p in turned(parts, r):
                    said = self.run_program(p, sizes[p.transport]) if p else self.run_consort(cluster)
                    progress.say(f"{p.name if p else 'consort'}: {said}")


# ---- figures ----

def in_bytes(n):
    return f"{n / 1e3:.1f} KB" if n < 1e6 else f"{n / 1e6:.2f} MB"


def shares(of, whole):
    """Round by round; a round that ended early has less."""
    return [a / b for a, b in zip(of, whole)]


def of_program(name, size):
    """Bytes of its messages."""
    return kv_programs.iperf3_message(size) if name == "iperf3" else size


def as_json(b):
    moves, prompts = [], []
    for (way, size), runs in b.moves.items():
        gb_s, raw = zip(*runs)
        programs = {name: {"message_bytes": of_program(name, size), "gb_s": spread(rates), "rounds": rates, "gb_s_in_it": spread(shares(gb_s, rates)),
                           "raw_gb_s_in_it": spread(shares(raw, rates))} for name, rates in b.beside.get((way, size), {}).items()}
        moves.append({"transport": way, "block_bytes": size, "gb_s": spread(gb_s), "raw_gb_s": spread(raw), "gb_s_in_raw": spread(shares(gb_s, raw)),
                      "rounds": [m._asdict() for m in runs], "programs": programs})
    for way, runs in b.prompts.items():
        moved, computed = [p.move_ms for p in runs], [p.recompute_ms for p in runs]
        prompts.append({"transport": way, **{key: getattr(runs[-1], key) for key in ("block_bytes", "prompt_tokens", "crossover_tokens")},
                        "move_ms": spread(moved), "recompute_ms": spread(computed), "move_in_recompute": spread(shares(moved, computed))})
    return {"interrupted": b.interrupted, "left_out": b.left_out, "moves": moves, "prompts": prompts, "quick": b.a.quick, "n_rounds": b.a.rounds}


def rows_of_moves(b):
    for (way, size), runs in b.moves.items():
        gb_s, raw = zip(*runs)
        cells = [way, in_bytes(size), in_words(gb_s), in_words(raw), in_words(shares(gb_s, raw))]
        for name, rates in b.beside.get((way, size), {"-": []}).items():
            message = of_program(name, size)
            yield [*cells, name if message == size else f"{name}, {in_bytes(message)}", in_words(rates), in_words(shares(gb_s, rates)), in_words(shares(raw, rates))]
            cells = [""] * len(cells)


def rows_of_prompts(b):
    for way, runs in b.prompts.items():
        p, moved, computed = runs[-1], [p.move_ms for p in runs], [p.recompute_ms for p in runs]
        yield [way, str(p.prompt_tokens), in_bytes(p.block_bytes), in_words(moved), f"{statistics.median(computed):.0f}",
               f"{statistics.median(shares(moved, computed)):.2%}", f"{p.crossover_tokens} tokens" if p.crossover_tokens else "none"]


def print_tables(b):
    print(f"GB/s (10^9 bytes a second) and ratios in a round: median (least - most) of {b.a.rounds} rounds.")
    print_table(["", "message", "move", "alone", "move / alone", "program", "its GB/s", "move / program", "alone / program"], rows_of_moves(b))
    if b.prompts:
        print("\nThe KV of a prompt, moved and computed, milliseconds:")
        print_table(["", "tokens", "pieces", "moved", "computed", "moved / computed", "the scheduler moves from"], rows_of_prompts(b))
    for name, remedy in b.left_out.items():
        print(f"\n{name} is left out: {remedy}.")


# ---- the command line ----

def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="two rounds, in which programs move a fifth (all five take a minute)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    p.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 2")
    p.add_argument("--gb", type=float, metavar="X", help="that a program moves for a figure, NetPIPE in each of its trials: default 0.5, with --quick 0.1")
    p.add_argument("--prompt", type=int, default=1000, metavar="N", help="tokens of the prompt that is moved and computed (%(default)s); 0: none")
    p.add_argument("--model", default=os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf"), metavar="FILE")
    p.add_argument("--build", default=os.path.join(ROOT, "build/release"), metavar="DIR")
    a = p.parse_args()
    a.rounds, a.gb = a.rounds or (2 if a.quick else 5), a.gb or (0.1 if a.quick else 0.5)
    a.model, a.build = map(os.path.abspath, (a.model, a.build))
    if a.rounds < 1 or a.gb <= 0 or a.prompt < 0:
        p.error("--rounds, --gb, --prompt: less than nothing")
    if not os.access(f"{a.build}/consort", os.X_OK):
        p.error(f"{a.build}/consort is missing; scripts/setup builds it")
    if not os.path.exists(a.model):
        p.error(f"--model: {a.model} does not exist; scripts/fetch-model brings the usual one")
    return a


def main():
    a = arguments()
    try:
        with measuring(lambda directory: Bench(a, directory)) as b:
            b.measure()
    except Failure as e:  # before anything was measured
        say(str(e))
        return 1
    print(json.dumps(as_json(b))) if a.json else print_tables(b)
    if b.interrupted:
        say(f"ended early: {b.interrupted}")
    return 1 if b.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
