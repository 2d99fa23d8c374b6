"""What the cluster tests share: waiting, a cluster with its client, and looking for what a run left behind."""
import collections
import concurrent.futures
import fcntl
import glob
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("CONSORT_BUILD", os.path.join(ROOT, "build/release")))
MODEL = os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf")
LONG = bool(os.environ.get("CONSORT_LONG"))
PATIENCE_SECONDS = 60.0  # a limit for hangs, not a measure

Api = collections.namedtuple("Api", "messages services")  # of consort.proto
Answer = collections.namedtuple("Answer", "text ids finish_reason seed request_id usage timing")


def until(condition, what, seconds=PATIENCE_SECONDS):
    """Polls until the condition holds and returns its value. Tests never wait a fixed time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)


# ---- what is left behind ----

def environment_holds(pid, mark):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            return mark.encode() in f.read().split(b"\0")
    except OSError:
        return False


def command_line(pid):
    """Empty for a process that has ended, also for a zombie."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def processes(mark):
    """(pid, command line) of every process with `mark` in its environment; children inherit it."""
    pids = [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*")]
    found = {(pid, command_line(pid)) for pid in pids if pid != os.getpid() and environment_holds(pid, mark)}
    return {(pid, line) for pid, line in found if line}


def locked(path):
    """A launcher that lives holds the lock of its directories."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def files(but_launch_directories=False):
    temporary = tempfile.gettempdir()
    found = set()
    for pattern in ("/dev/shm/consort*", "/dev/shm/vader*", f"{temporary}/consort*", f"{temporary}/ompi*"):
        found |= {path for path in glob.glob(pattern) if not locked(path)}
    return {path for path in found if not (but_launch_directories and "/consort-launch-" in path)}


def leftovers(but_launch_directories=False):
    """All that a run could leave: processes, shared memory, temporary files. Compare with before: other clusters may run beside
    the tests (their launchers live, so their directories are locked)."""
    return files(but_launch_directories) | processes(f"CONSORT_TEST_RUN={os.environ['CONSORT_TEST_RUN']}")


# ---- builds with sanitizers (CONSORT_BUILD=build/asan-ubsan) ----

def sanitizer_environment(directory):
    """Each process writes its reports to a file of its own. A leak does not change the exit status: Open MPI leaks at every end."""
    options = f"log_path={directory}/sanitizer:exitcode=0"
    return {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options, "LSAN_OPTIONS": "exitcode=0"}


def sanitizer_reports(directory):
    """All but the leaks of Open MPI: those have no frame of ours, or come from below a call of ours into it."""
    reports = []
    for path in glob.glob(f"{directory}/sanitizer.*"):
        with open(path, encoding="utf-8", errors="replace") as f:
            parts = re.split(r"\n\s*\n", f.read())
        leaks = [part for part in parts if re.search(r"^(Direct|Indirect) leak of", part, re.MULTILINE)]
        reports += [part for part in leaks if f"{ROOT}/" in part.replace(f"{BUILD}/", "") and not re.search(r"parallel/(world|group)_mpi\.c", part)]
        reports += [part for part in parts if re.search(r"ERROR: (?!LeakSanitizer)|runtime error:|WARNING: ThreadSanitizer", part)]
    return reports


# ---- what /metrics says ----

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def parse_metrics(text):
    """{(name, labels): value}. Checks what `promtool check metrics` does: each family once, HELP and TYPE before its samples,
    counters named _total, histograms whole and cumulative."""
    assert text.endswith("\n")
    types, samples, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert re.fullmatch(NAME, family) and family not in types and len(line.split()) > 3, line
            types[family] = None
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == family and types[name] is None and kind in ("counter", "gauge", "histogram"), line
            assert name.endswith("_total") == (kind == "counter"), line
            types[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match and types[family], line
            name, labels, value = match.group(1), match.group(2) or "", float(match.group(3))
            suffix = name.removeprefix(family)
            assert name.startswith(family) and suffix in (("_bucket", "_sum", "_count") if types[family] == "histogram" else ("",)), line
            assert (name, labels) not in samples, line
            samples[name, labels] = value
    for name in [name for name, kind in types.items() if kind == "histogram"]:
        buckets = [(key[1], value) for key, value in samples.items() if key[0] == f"{name}_bucket"]
        assert buckets[-1] == ('le="+Inf"', samples[f"{name}_count", ""]) and f"{name}_sum" in {key[0] for key in samples}
        assert [v for _, v in buckets] == sorted(v for _, v in buckets)
        bounds = [float(label[4:-1]) for label, _ in buckets]
        assert bounds == sorted(set(bounds))
    return samples


# ---- a cluster ----

def consort(*arguments, text=None, check=True):
    done = subprocess.run([f"{BUILD}/consort", *map(str, arguments)], input=text, capture_output=True, text=True, timeout=300,
                          check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def topology_text(directory, drafters=(), **changes):
    """YAML. Keys of a group go to the one verifier, the others to the top level; drafters: groups, as dicts."""
    group = {"name": "target", "role": "verifier", "tensor_parallel": 1, "threads": 0, "kv_type": "f16", "kv_tokens": 4096, "swap_tokens": 0, "swap_directory": "/var/tmp", "isa": "auto", "serves": "both"}
    top = {"model": MODEL, "listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
    for key, value in changes.items():
        (group if key in group else top)[key] = value
    lines = [f"{key}: {value}" for key, value in top.items()] + ["groups:"]
    for g in (group, *({"role": "drafter", **d} for d in drafters)):
        lines += [f"  {'-' if i == 0 else ' '} {key}: {value}" for i, (key, value) in enumerate(g.items())]
    return "\n".join(lines) + "\n"


class Cluster:
    """A cluster started by scripts/launch, with a client. As a context it is up inside and gone after."""

    def __init__(self, api, **topology):
        self.api = api
        self.mark = f"CONSORT_TEST_CLUSTER={uuid.uuid4()}"
        self.directory = tempfile.TemporaryDirectory(prefix="cluster-")
        self.config, self.run_file, self.log = (os.path.join(self.directory.name, n) for n in ("topology.yaml", "run.json", "log"))
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(topology_text(self.directory.name, **topology))
        self.launcher = self.channel = None
        self.n_shown = 0

    def __enter__(self):
        self.launch()
        until(self.came_up, "the coordinator to listen")
        import grpc

        self.run = self.read_run_file()
        self.server = self.run["grpc"]
        self.channel = grpc.insecure_channel(self.server)
        self.inference = self.api.services.InferenceStub(self.channel)
        consort("status", "--server", self.server, "--wait-ready", int(PATIENCE_SECONDS))
        return self

    def launch(self):
        name, _, value = self.mark.partition("=")
        command = [f"{ROOT}/scripts/launch", "--config", self.config, "--run-file", self.run_file, "--log", self.log, "--build", BUILD]
        with open(f"{self.log}.launch", "wb") as err:
            environment = {**os.environ, **sanitizer_environment(self.directory.name), name: value}
            self.launcher = subprocess.Popen(command, env=environment, stderr=err)

    def came_up(self):
        assert self.launcher.poll() is None, self.output()
        return os.path.exists(self.run_file)

    def read_run_file(self):
        with open(self.run_file, encoding="utf-8") as f:
            return json.load(f)

    def output(self):
        text = ""
        for path in (f"{self.log}.launch", self.log):
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as f:
                    text += f.read()
        return text

    def __exit__(self, *_):
        if self.channel:
            self.channel.close()
        if self.launcher and self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGTERM)
            try:
                self.ends(within_seconds=40)
            except (subprocess.TimeoutExpired, AssertionError):
                for pid, _ in processes(self.mark):
                    os.kill(pid, signal.SIGKILL)
                raise
        self.last_output = self.output()
        reports = sanitizer_reports(self.directory.name)
        self.directory.cleanup()
        assert not reports, "\n\n".join(reports)

    def ends(self, status=0, within_seconds=PATIENCE_SECONDS):
        assert self.launcher.wait(within_seconds) == status, self.output()

    def left_behind(self):
        return processes(self.mark)

    def worker_pids(self):
        return [pid for pid, line in processes(self.mark) if "consortd" in line.split()[0] and pid != self.run["pid"]]

    # -- calls --

    def request(self, prompt="The capital of France is", **fields):
        """A GenerateRequest. `prompt`: text, a list of (role, content), or a list of token ids."""
        m = self.api.messages
        r = m.GenerateRequest(**fields)
        if isinstance(prompt, str):
            r.text = prompt
        elif prompt and isinstance(prompt[0], tuple):
            r.chat.messages.extend(m.Message(role=role, content=content) for role, content in prompt)
        else:
            r.tokens.ids.extend(prompt)
        return r

    def stream(self, prompt="The capital of France is", timeout=PATIENCE_SECONDS * 5, **fields):
        return self.inference.Generate(self.request(prompt, **fields), timeout=timeout)

    def generate(self, *arguments, **fields):
        return collect(self.stream(*arguments, **fields))

    def generate_all(self, requests):
        """Answers to [(prompt, fields)], asked all at once."""
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda r: self.generate(r[0], **r[1]), requests))

    def status(self):
        return self.inference.Status(self.api.messages.StatusRequest(), timeout=PATIENCE_SECONDS)

    def http(self, path, method="GET"):
        """(reply, body)"""
        host, _, port = self.read_run_file()["http"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply, reply.read().decode()
        finally:
            connection.close()

    def metrics(self):
        """{(name, labels): value}"""
        reply, body = self.http("/metrics")
        assert reply.status == 200 and reply.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        return parse_metrics(body)

    def is_idle(self):
        s = self.status()
        return s.requests_running == s.requests_waiting == s.kv_blocks_used == 0


def collect(replies):
    replies = list(replies)
    first, last = replies[0], replies[-1]
    assert first.HasField("request_id") and first.HasField("seed") and last.HasField("finish_reason")
    return Answer("".join(r.text for r in replies), [i for r in replies for i in r.tokens], last.finish_reason, first.seed,
                  first.request_id, last.usage, last.timing)


def tokenize(text):
    return json.loads(consort("tokenize", "--model", MODEL, text=json.dumps({"text": text}) + "\n").stdout)["ids"]


def cpu_seconds(pids):
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            fields = f.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
