"""A soak: KV moves between three verifiers under load while requests are cancelled, verifiers drained, ranks killed and messages harmed,
all at random. Every answer has the bytes of the undisturbed run, what was cancelled is a beginning of it, and nothing is left.

Rounds, each with a cluster of its own, whose seed says what is done to it. They take 12 s, CONSORT_SOAK_SECONDS=600 is ten minutes of them,
and so is scripts/test --long; what happened is written round by round. CONSORT_SOAK_SEED is the first round's.
"""
import collections
import json
import os
import random
import signal
import sys
import threading
import time

import grpc

from support import LONG, PATIENCE_SECONDS, consort, until
from test_groups import CODE, FIXED, parts

SECONDS = float(os.environ.get("CONSORT_SOAK_SECONDS") or (600 if LONG else 12))
FIRST_SEED = int(os.environ.get("CONSORT_SOAK_SEED", 1))
ROUND_SECONDS = 40.0
N_CLIENTS = 10
N_REQUESTS = 16 + int(SECONDS / 10)  # different ones
FAULTS = "move.flip=100,move.short=100,move.stall=300,move.cut=300"  # from the start; others come and go
PLANS = (FAULTS, "move.flip=20", "move.cut=60,move.stall=100", "move.short=30,move.flip=200", "off")
TRANSPORTS = ("auto", "tcp", "mpi")
# Blocks of 32 tokens: a request takes up to 13, so that those who run together soon want more than there are.
GROUPS = [{"name": "second", "role": "verifier", "kv_type": "f16", "kv_tokens": 1024, "swap_tokens": 1024, "threads": 1, "tensor_parallel": 2},
          {"name": "third", "role": "verifier", "kv_type": "f16", "kv_tokens": 768, "threads": 1}]
FIRST_RANK = {"target": 1, "second": 2, "third": 4}

STORY = "Once upon a time there was a ship that sailed from one harbour to the next, and in each of them it took on board something new. "
RULES = "Answer as a pirate would. Be brief, be kind, and never tell where the treasure is. "
QUESTIONS = ("What is a fever?", "Write a Python function that reverses a string.", "Name three cities.", "What did it bring?", "Anna has 12 apples and buys 9. How many?")
CHOICES = ({}, {}, {"temperature": 1.0, "presence_penalty": 0.6}, {"temperature": 0.8, "top_k": 40, "repetition_penalty": 1.2}, {"temperature": 0.9, "min_p": 0.02, "frequency_penalty": 0.2})

Heard = collections.namedtuple("Heard", "index parts whole")


def draw_requests(rng):
    """[(prompt, fields)] whose prompts begin alike."""
    requests = []
    for _ in range(N_REQUESTS):
        prompt = rng.choice(("", "Listen. ", "It is late. ", "Hello! ", "We begin. ")) + rng.choice((STORY, RULES)) * rng.randint(1, 5) + rng.choice(QUESTIONS)
        requests.append(([("user", prompt)], {"max_tokens": rng.randint(40, 200), "ignore_end": rng.random() < 0.8, "logprobs": True, "seed": rng.randint(0, 99), **rng.choice(CHOICES)}))
    return requests


class Client(threading.Thread):
    """Asks one request after the other. `call`, for others to cancel."""

    def __init__(self, load, number):
        super().__init__(daemon=True)
        self.load, self.rng, self.call = load, random.Random(f"{load.seed} {number}"), None

    def run(self):
        try:
            while not self.load.over:
                self.ask(self.rng.randrange(N_REQUESTS))
        except BaseException as e:  # what goes wrong here is the test's failure
            self.load.failure = self.load.failure or e

    def ask(self, index):
        prompt, fields = self.load.requests[index]
        self.call = call = self.load.cluster.stream(prompt, speculation=self.rng.choice(("all", "none")), **fields)
        replies = []
        try:
            for reply in call:
                replies.append(reply)
                self.load.n_replies += 1  # a hint: threads may overwrite each other's
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.CANCELLED:
                raise
            replies and self.load.heard.append(Heard(index, parts(replies), False))
            self.load.n_cancelled += 1
        else:
            self.load.heard.append(Heard(index, parts(replies), True))


class Load:
    """Clients of a cluster, and what they heard."""

    def __init__(self, cluster, seed, requests):
        self.cluster, self.seed, self.requests = cluster, seed, requests
        self.heard, self.n_replies, self.n_cancelled, self.failure, self.over = [], 0, 0, None, False
        self.clients = [Client(self, i) for i in range(N_CLIENTS)]
        for client in self.clients:
            client.start()

    def check(self):
        if self.failure:
            raise self.failure

    def after(self, n):
        """Goes on when so many more replies have come: a load that hangs fails here."""
        goal = self.n_replies + n
        until(lambda: self.check() or self.n_replies >= goal, f"{n} replies")

    def end(self):
        self.over = True
        for client in self.clients:
            client.join(300)
        assert not any(client.is_alive() for client in self.clients), "a request hangs"
        self.check()


class Disturber:
    """What is done to the cluster. `alive`: groups that were not killed."""

    def __init__(self, cluster, load, rng):
        self.cluster, self.load, self.rng = cluster, load, rng
        self.ranks = sorted(cluster.worker_pids())
        self.alive, self.drained, self.done = list(FIRST_RANK), set(), collections.Counter()

    def drain(self, group, *more):
        return consort("drain", group, "--server", self.cluster.server, *more, check=False).returncode == 0

    def look(self):
        """Who was paused may have been given up."""
        for group in [g for g in self.alive if not self.is_up(g)]:
            self.forget(group)
            self.done["given up"] += 1

    def one_thing(self):
        self.look()
        what = self.rng.choice(("cancel", "cancel", "drain", "drain", "undo", "pause", "change faults"))
        if what == "cancel" and (call := self.rng.choice(self.load.clients).call):
            call.cancel()
        elif what == "drain" and (free := [g for g in self.alive if g not in self.drained]):
            group = self.rng.choice(free)
            if self.drain(group):  # the last one is not
                self.drained.add(group)
        elif what == "undo" and self.drained:
            group = self.rng.choice(sorted(self.drained))
            assert self.drain(group, "--undo")
            self.drained.remove(group)
        elif what == "pause" and len(self.alive) > 1:
            self.pause()
        elif what == "change faults":
            return self.change_faults()
        else:
            return
        self.done[what] += 1

    def change_faults(self):
        """Everywhere, or in one group; who is lost at that moment is named."""
        plan = self.rng.choice(PLANS)
        plan = plan if plan == "off" else f"{plan},seed={self.rng.randint(0, 99)}"
        where = self.rng.choice(([], ["--group", self.rng.choice(self.alive)]))
        done = consort("debug", "faults", plan, *where, "--server", self.cluster.server, check=False)
        assert done.returncode == 0 or "consort debug: rank " in done.stderr, done
        self.done["faults changed"] += 1

    def undo_all(self):
        for group in self.drained:
            assert self.drain(group, "--undo")
        self.drained.clear()

    def draw_rank(self):
        """(a group, the process of one of its ranks). Another group is left that takes requests."""
        self.look()
        group = self.rng.choice(self.alive)
        if self.drained >= set(self.alive) - {group}:
            self.undo_all()
        rank = FIRST_RANK[group] + self.rng.randrange(2 if group == "second" else 1)
        return group, self.ranks[rank - 1]

    def is_up(self, group):
        return value(self.cluster.metrics(), "verifier_up", f'group="{group}"') == 1

    def forget(self, group):
        self.alive.remove(group)
        self.drained.discard(group)

    def kill(self):
        if len(self.alive) == 1:
            return  # others were given up
        group, pid = self.draw_rank()
        os.kill(pid, signal.SIGKILL)
        self.forget(group)
        self.done["kill"] += 1
        until(lambda: not self.is_up(group), "the loss to be noticed")

    def pause(self):
        """A rank that goes on after a while, at times only once it was given up: then nothing that it says counts."""
        group, pid = self.draw_rank()
        os.kill(pid, signal.SIGSTOP)
        if len(self.alive) == len(FIRST_RANK) and self.rng.random() < 0.2:
            until(lambda: not self.is_up(group), "a rank that does nothing to be given up")
        else:
            self.load.after(5)
        os.kill(pid, signal.SIGCONT)
        self.look()


def n_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def value(metrics, name, labels=""):
    return metrics[f"consort_{name}", labels]


def count(cluster, before, disturber):
    """What the round had of everything, from its metrics and its log."""
    end, said = cluster.metrics(), cluster.output()
    moved = {r: int(value(end, "kv_moves_total", f'result="{r}"')) for r in ("done", "failed", "cancelled")}
    return collections.Counter({**disturber.done, **{f"moves {r}": n for r, n in moved.items()}, "preemptions": int(value(end, "num_preemptions_total")),
                                "swapped out": int(value(end, "kv_swapped_out_blocks_total")), "swapped in": int(value(end, "kv_swapped_in_blocks_total")),
                                "displaced": int(value(end, "displaced_requests_total")), "prefix hits": int(value(end, "prefix_cache_hits_total") - value(before, "prefix_cache_hits_total")),
                                "faults": said.count("INFO  fault") + said.count("INFO fault")})


def had_both(cluster):
    """A move, and a preemption whose blocks came back from disk: without them a round shows little."""
    m = cluster.metrics()
    return value(m, "kv_moves_total", 'result="done"') > 0 and value(m, "num_preemptions_total") > 0 and value(m, "kv_swapped_in_blocks_total") > 0


def soak(cluster, seed, requests, seconds):
    """One round. (what was heard, how often what happened)"""
    rng = random.Random(f"disturb {seed}")
    before = cluster.metrics()
    for prompt, fields in requests[:2]:  # what is opened at the first use is open
        cluster.generate(prompt, **{**fields, "max_tokens": 1})
    until(cluster.is_idle, "the first answers to be over")
    load = Load(cluster, seed, requests)
    disturber = Disturber(cluster, load, rng)
    disturber.change_faults()
    pids = {pid: n_files(pid) for pid in (*disturber.ranks, cluster.run["pid"])}
    began = time.monotonic()
    kill_at = [began + seconds * share for share in (0.5, 0.8)]
    while time.monotonic() < began + seconds or (time.monotonic() < began + seconds + PATIENCE_SECONDS and not had_both(cluster)):
        load.after(rng.randint(1, 40))
        disturber.one_thing()
        if kill_at and time.monotonic() > kill_at[0]:
            kill_at.pop(0)
            disturber.kill()
    load.end()
    disturber.undo_all()
    until(cluster.is_idle, "all blocks to be free")
    end = cluster.metrics()
    assert value(end, "kv_cache_blocks_used") == value(end, "kv_cache_blocks_reserved") == value(end, "kv_moves_running") == 0
    left = json.loads(consort("debug", "forget", "--json", "--server", cluster.server).stdout)
    assert left["used"] == left["reserved"] == left["kept"] == left["slots"] == 0, left
    for pid in set(pids) & {cluster.run["pid"], *cluster.worker_pids()}:
        until(lambda: n_files(pid) <= pids[pid], f"process {pid} to close its files: {n_files(pid)}, before {pids[pid]}")
    happened = count(cluster, before, disturber)
    happened.update({"answers": sum(h.whole for h in load.heard), "cancelled": load.n_cancelled})
    return load.heard, happened


def begins(part, whole):
    return part == whole[:len(part)]


def compare(seed, requests, heard, undisturbed):
    for index, got, whole in heard:
        expected = undisturbed[index]
        same = got == expected if whole else all(begins(g, e) for g, e in zip(got[:3], expected[:3]))
        assert same, f"round {seed}, request {index} {requests[index]}: got {got}, undisturbed {expected}"


def run_round(new_cluster, monkeypatch, seed, requests, seconds):
    monkeypatch.setenv("CONSORT_FAULTS", f"{FAULTS},seed={seed}")
    mine = new_cluster(drafters=[*GROUPS, CODE], kv_tokens=768, swap_tokens=2048, threads=1, serves="prefill" if seed % 2 else "both", kv_transport=TRANSPORTS[(seed - 1) % len(TRANSPORTS)],
                       prefill_chunk=64, debug="on", **FIXED)
    monkeypatch.delenv("CONSORT_FAULTS")
    try:
        heard, happened = soak(mine, seed, requests, seconds)
    except BaseException:
        print(mine.output(), file=sys.stderr)
        raise
    mine.__exit__(None, None, None)
    return heard, happened


def test_whatever_happens_to_moves_the_bytes_are_those_of_the_undisturbed_run(new_cluster, cluster, monkeypatch):
    total, seed, left = collections.Counter(), FIRST_SEED, SECONDS
    requests, undisturbed = draw_requests(random.Random(FIRST_SEED)), {}
    while left > 0:
        heard, happened = run_round(new_cluster, monkeypatch, seed, requests, min(left, ROUND_SECONDS))
        calls = {h.index: cluster.stream(requests[h.index][0], speculation="none", **requests[h.index][1]) for h in heard if h.index not in undisturbed}
        undisturbed.update({index: parts(call) for index, call in calls.items()})
        compare(seed, requests, heard, undisturbed)
        print(f"soak: round {seed}: {dict(sorted(happened.items()))}", file=sys.stderr, flush=True)
        total.update(happened)
        seed += 1
        left -= ROUND_SECONDS
    print(f"soak: {seed - FIRST_SEED} rounds: {dict(sorted(total.items()))}", file=sys.stderr, flush=True)
    total["lost"] = total["kill"] + total["given up"]
    for what in ("answers", "cancel", "drain", "lost", "moves done", "preemptions", "swapped out", "swapped in", "faults"):
        assert total[what] > 0, f"no {what}: {total}"
