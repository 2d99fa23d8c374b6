"""The cluster over two hosts: the same answer as on one, a loss is told, and both hosts are left as they were."""
import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

import hosts as fake
from support import BUILD, ROOT, files, until

PROMPT = "The capital of France is"
CONFIG, HOSTFILE = "cluster-configs/two-hosts.yaml", "cluster-configs/two-hosts.hostfile"
CLIENT = """
import sys, grpc
_, directory, server, prompt = sys.argv
sys.path.insert(0, directory)
import consort_pb2, consort_pb2_grpc
call = consort_pb2_grpc.InferenceStub(grpc.insecure_channel(server)).Generate(
    consort_pb2.GenerateRequest(text=prompt, max_tokens=4000, ignore_end=True))
next(call)
print("streams", flush=True)
try:
    list(call)
except grpc.RpcError as e:
    print(e.code().name)
"""


@pytest.fixture(scope="module")
def hosts():
    fake.skip_unless_possible()
    with fake.network("head", "node1") as both:
        yield both


class Launched:
    """A cluster that scripts/launch starts on the first host."""

    def __init__(self, hosts, tmp_path, config=CONFIG, hostfile=HOSTFILE):
        self.head, self.other = hosts
        self.run_file, self.log = tmp_path / "run.json", tmp_path / "log"
        self.launcher = self.head.start(f"{ROOT}/scripts/launch", "--config", config, "--hostfile", hostfile, "--rsh-agent",
                                        self.head.remote_shell, "--interface", "eth0", "--build", BUILD, "--run-file", self.run_file,
                                        "--log", self.log, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def until_ready(self):
        until(lambda: self.launcher.poll() is not None or self.run_file.exists(), "the coordinator to listen")
        assert self.launcher.poll() is None, self.ended()
        run = json.loads(self.run_file.read_text())
        self.server = run["grpc"]
        self.consort("status", "--wait-ready", 60)
        return self

    def consort(self, command, *options, check=True):
        return self.head.run(f"{BUILD}/consort", command, "--server", self.server, *options, check=check)

    def ended(self):
        _, err = self.launcher.communicate(timeout=60)
        return err + (self.log.read_text() if self.log.exists() else "")

    def ends(self, status):
        said = self.ended()
        assert self.launcher.returncode == status, said
        return said


@pytest.fixture
def launch(hosts, tmp_path):
    before = files()
    started = []

    def start(**where):
        started.append(Launched(hosts, tmp_path, **where))
        return started[-1]

    yield start
    for cluster in started:
        if cluster.launcher.poll() is None:  # the test has failed
            cluster.launcher.kill()
            for host in hosts:
                host.kill_all()
        cluster.launcher.communicate()
    until(lambda: not any(host.processes() for host in hosts), "all processes to end", 10)
    assert not any(host.shared_memory() or os.listdir(host.temporary) for host in hosts) and files() <= before


def ranks_on(host):
    """{rank: pid}"""
    found = {}
    for pid, line in host.processes():
        if "consortd" in line.split()[0]:
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/environ", encoding="utf-8") as f:  # it may have ended by now
                found[int(f.read().partition("OMPI_COMM_WORLD_RANK=")[2].partition("\0")[0])] = pid
    return found


def test_a_model_on_two_hosts_gives_the_answer_of_one(launch, cluster):
    expected = cluster.generate(PROMPT, max_tokens=40, ignore_end=True)
    two = launch().until_ready()
    assert ranks_on(two.head).keys() == {0, 1} and ranks_on(two.other).keys() == {2, 3}
    client = two.head.start(f"{BUILD}/consort", "generate", "--server", two.server, "--raw", "--prompt", PROMPT, "--max-tokens", 40,
                            "--ignore-end", stdout=subprocess.PIPE, text=True)
    with client:
        text = client.stdout.read(1) + client.stdout.read()
    assert client.returncode == 0 and text.rstrip("\n") == expected.text.rstrip("\n")
    answer = json.loads(two.consort("generate", "--raw", "--prompt", PROMPT, "--max-tokens", 40, "--ignore-end", "--json").stdout)
    assert answer["ids"] == expected.ids
    verifiers, drafter = (workers := json.loads(two.consort("status", "--json").stdout)["workers"])[:2], workers[2]
    assert [w["threads"] for w in verifiers] == [len(os.sched_getaffinity(0))] * 2  # each has a host of its own
    assert drafter["name"] == "code" and drafter["up"] and drafter["steps"] > 0
    two.launcher.send_signal(signal.SIGTERM)
    assert "stopped" in two.ends(0)


def test_a_verifier_lost_on_the_other_host_is_unavailable_and_the_cluster_can_be_stopped(api, launch, tmp_path):
    topology = tmp_path / "topology.yaml"
    with open(f"{ROOT}/{CONFIG}", encoding="utf-8") as f:
        topology.write_text(f.read().replace("control_advertise: head\n", ""))  # then it is the name of the host
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("10.77.0.10 slots=1  # the coordinator alone\n10.77.0.11 slots=3\n")
    two = launch(config=topology, hostfile=hostfile).until_ready()
    assert ranks_on(two.head).keys() == {0} and ranks_on(two.other).keys() == {1, 2, 3}
    workers = json.loads(two.consort("status", "--json").stdout)["workers"]
    assert [w["threads"] for w in workers[:2]] == [max(1, len(os.sched_getaffinity(0)) // 2)] * 2  # they share theirs
    client = two.head.start(sys.executable, "-c", CLIENT, os.path.dirname(api.messages.__file__), two.server, PROMPT, stdout=subprocess.PIPE,
                            text=True)
    with client:
        assert client.stdout.readline() == "streams\n"
        os.kill(ranks_on(two.other)[2], signal.SIGKILL)
        assert client.stdout.readline() == "UNAVAILABLE\n"
    until(lambda: ranks_on(two.other).keys() == {3}, "the other rank of the group to leave; the drafter stays")
    status = json.loads(two.consort("status", "--json").stdout)
    assert not status["ready"] and "lost" in status["reason"] and 0 in ranks_on(two.head)
    two.consort("stop")
    assert "stopped" in two.ends(0)


def test_a_host_that_loses_its_power_is_told_and_the_cluster_can_be_stopped(launch):
    two = launch().until_ready()
    two.other.run("ip", "link", "set", "eth0", "down")  # so that the head learns nothing of how its processes end
    two.other.kill_all()
    status = until(lambda: (s := json.loads(two.consort("status", "--json").stdout)) and not s["ready"] and s, "the loss to be noticed")
    assert "rank 2 is lost" in status["reason"] or "sent away, since rank 2 is lost" in status["reason"]
    two.other.run("ip", "link", "set", "eth0", "up")
    two.consort("stop")
    assert "stopped" in two.ends(0)
    two.other.remove_files_of_mpi()


def test_a_first_host_that_is_not_this_one_is_told(launch, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("# swapped\nnode1 slots=2\nhead slots=2\n")
    assert "first host is node1" in launch(hostfile=hostfile).ends(2)


def test_a_host_that_cannot_be_reached_is_told(launch, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("head slots=2\nnode9 slots=2\n")
    said = launch(hostfile=hostfile).ends(1)
    assert "did not come up" in said and "no host 'node9'" in said


def test_too_few_slots_are_told(launch, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("head slots=1\nnode1 slots=1\n")
    assert "slots" in launch(hostfile=hostfile).ends(1)
