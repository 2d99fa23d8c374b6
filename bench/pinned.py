"""A cluster on two cores: the verifier has one, everything else, the client of a load too, the other.

A verifier of several ranks has both, its ranks by turns; the coordinator and the client may then run on either. For bench/speculation.py,
bench/prefix_cache.py, bench/prefill_decode.py and bench/kv.py.
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_SECONDS = 120
POLL_SECONDS = 0.05


class Failure(Exception):
    """What went wrong, and what to do."""


@contextlib.contextmanager
def measuring(make):
    """The bench that `make` makes of a directory, which goes with the context. A Failure or a signal ends the block, and then
    stands in the bench's `interrupted`."""
    for end in (signal.SIGTERM, signal.SIGINT):  # the latter is ignored in what a shell has started in the background
        signal.signal(end, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="consort-bench-") as directory:
        b = make(directory)
        try:
            yield b
        except Failure as e:
            b.interrupted = str(e)
        except KeyboardInterrupt:
            b.interrupted = "by a signal"


def two_cores():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Failure(f"this process may run on {len(cores)} core, two are needed: one for the verifier, one for all others (taskset -p {os.getpid()})")
    return cores[:2]


def with_keys(topology, keys):
    """The text of a topology with these keys of its top level instead of its own."""
    for key in keys:
        topology = re.sub(rf"(?m)^{key}:.*\n(?: .*\n)*", "", topology)
    return "".join(f"{key}: {value}\n" for key, value in keys.items()) + topology


class Cluster:
    """A topology that runs, as a context. Its files are in `directory`; its ports are free ones."""

    def __init__(self, name, topology, directory, build, cores, http='""'):
        self.name, self.build, self.cores = name, build, cores
        self.config, self.run_file, self.log = (f"{directory}/{name}.{kind}" for kind in ("yaml", "run", "log"))
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(with_keys(topology, {"listen": "127.0.0.1:0", "http_listen": http}))
        self.launcher = None

    def refusal(self):
        """Why this topology cannot run with this build; None if it can."""
        done = subprocess.run([f"{self.build}/consort", "check-config", self.config], cwd=ROOT, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else done.stderr.strip().replace(self.config, f"{self.name}.yaml")

    def __enter__(self):
        command = ["scripts/launch", "--config", self.config, "--run-file", self.run_file, "--log", self.log, "--build", self.build]
        with open(f"{self.log}.launch", "wb") as said:
            self.launcher = subprocess.Popen(command, cwd=ROOT, stderr=said, start_new_session=True)  # ^C is ours alone
        try:
            self.await_ready()
            self.pin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def await_ready(self):
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            if os.path.exists(self.run_file):
                break
            try:
                self.launcher.wait(POLL_SECONDS)
                raise Failure(f"{self.name}: the cluster did not start\n{self.last_words()}")
            except subprocess.TimeoutExpired:
                pass
        with open(self.run_file, encoding="utf-8") as f:
            run = json.load(f)
        self.server, self.http, self.coordinator = run["grpc"], run["http"], run["pid"]
        self.consort("status", "--wait-ready", START_SECONDS)

    def last_words(self):
        text = ""
        for path in filter(os.path.exists, (self.log, f"{self.log}.launch")):
            with open(path, encoding="utf-8", errors="replace") as f:
                text += f.read()[-1000:]
        return text.strip()

    def consort(self, *arguments):
        done = subprocess.run([f"{self.build}/consort", *map(str, arguments), "--server", self.server], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"{self.name}: {done.stderr.strip()}\n{self.last_words()}")
        return done.stdout

    def pin(self):
        workers = json.loads(self.consort("status", "--json"))["workers"]
        verifiers = sorted(w["rank"] for w in workers if w["role"] == "verifier")
        self.client_cores = self.cores[1:] if len(verifiers) == 1 else self.cores
        for pid, rank in self.processes():
            move(pid, [self.cores[verifiers.index(rank) % 2]] if rank in verifiers else self.client_cores)

    def processes(self):
        """(pid, rank) of all of the cluster; None for those without a rank: the launcher and mpirun."""
        session = stat(self.coordinator)[3]
        yield self.launcher.pid, None
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if stat(pid)[3] == session:
                with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as f:
                    rank = re.search(r"\bOMPI_COMM_WORLD_RANK=(\d+)", f.read())
                yield pid, int(rank[1]) if rank else None

    def begin_load(self, *options):
        """`consort bench serve`, run where a client may. Several may be under way."""
        command = [f"{self.build}/consort", "bench", "serve", "--server", self.server, "--json", *map(str, options)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                preexec_fn=lambda: os.sched_setaffinity(0, self.client_cores))

    def load(self, *options):
        return end_load(self.begin_load(*options))

    def metrics(self):
        """{name with its labels: value}"""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def __exit__(self, *_):
        if self.launcher and self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGTERM)
            self.launcher.wait()


def end_load(process):
    """Its exit status, its summary and what it said."""
    out, said = process.communicate()
    return process.returncode, json.loads(out) if out else None, said.strip()


def stat(pid):
    """Fields of /proc/PID/stat from the third on (state, parent, group, session, ...)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return [""] * 4


def move(pid, cores):
    """All threads; those that start later inherit it."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:
            pass
