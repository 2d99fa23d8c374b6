"""The cluster as a job of a real Slurm: a controller and two hosts, from munged to sbatch. It serves, drains, and leaves nothing."""
import contextlib
import json
import os
import shutil
import signal
import subprocess

import pytest

import hosts as fake
from support import BUILD, LONG, PATIENCE_SECONDS, ROOT, files, until

PROMPT = "The capital of France is"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}  # squeue has more states on the way
SLURM_CONF = """
ClusterName=test
SlurmctldHost=c0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={d}/munge.socket
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool.%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.%n.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd.%n.log
TmpFS={tmp}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=5
NodeName=c0 NodeAddr={c0} CPUs=2
NodeName=c1 NodeAddr={c1} CPUs=2
PartitionName=all Nodes=c0,c1 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Its daemons in the foreground, on hosts c0 (with the controller) and c1. As a context it is up inside and gone after."""

    def __init__(self, hosts, directory):
        self.hosts, self.directory = hosts, str(directory)
        self.daemons = []

    def __enter__(self):
        with open(f"{self.directory}/slurm.conf", "w", encoding="utf-8") as f:
            addresses = {host.name: host.address for host in self.hosts}
            f.write(SLURM_CONF.format(d=self.directory, tmp=os.path.dirname(self.hosts[0].temporary), **addresses))
        with open(f"{self.directory}/cgroup.conf", "w", encoding="utf-8") as f:
            f.write("IgnoreSystemd=yes\n")  # in a container there is none to ask
        os.makedirs(f"{self.directory}/state")
        key = f"{self.directory}/munge.key"
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o400), "wb") as f:
            f.write(os.urandom(128))
        options = [f"--{name}={self.directory}/munge.{end}" for name, end in
                   (("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]
        head = self.hosts[0]
        self.daemon(head, "munged", "--foreground", "--force", *options)
        until(lambda: os.path.exists(f"{self.directory}/munge.socket"), "munged")
        self.daemon(head, "slurmctld", "-D", "-f", f"{self.directory}/slurm.conf")
        for host in self.hosts:
            self.daemon(host, "slurmd", "-D", "-f", f"{self.directory}/slurm.conf")
        until(lambda: self.run("sinfo", "--noheader", "--format=%T %D", check=False).stdout == "idle 2\n", "both hosts to be idle")
        return self

    def daemon(self, host, *command):
        with open(f"{self.directory}/daemons.log", "ab") as log:
            self.daemons.append(host.start(*command, stdout=log, stderr=log))

    def run(self, *command, check=True):
        return self.hosts[0].run("env", f"SLURM_CONF={self.directory}/slurm.conf", *command, check=check)

    def state(self, job):
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip()

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)

    def logs(self):
        paths = [os.path.join(self.directory, name) for name in sorted(os.listdir(self.directory)) if name.endswith(".log")]
        return "".join(f"--- {path}\n{open(path, encoding='utf-8', errors='replace').read()}" for path in paths)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    fake.skip_unless_possible()
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    assert not missing, f"{missing} missing: scripts/setup --test installs them"
    before = files()
    with fake.network("c0", "c1") as hosts:
        with Slurm(hosts, tmp_path_factory.mktemp("slurm")) as s:
            yield s
        until(lambda: not any(host.processes() for host in hosts), "all processes to end", 10)
        assert not any(host.shared_memory() or os.listdir(host.temporary) for host in hosts) and files() <= before


@pytest.fixture
def checkout(tmp_path):
    """What a user has: the root of a built checkout, on a file system that all hosts share."""
    for name in ("scripts", "cluster-configs", "drafters", "models"):
        os.symlink(f"{ROOT}/{name}", tmp_path / name)
    os.mkdir(tmp_path / "build")
    os.symlink(BUILD, tmp_path / "build/release")
    return tmp_path


def submit(slurm, checkout, *options):
    job = slurm.run("sbatch", "--parsable", f"--chdir={checkout}", *options, f"{checkout}/cluster-configs/slurm/consort.sbatch").stdout.strip()
    run_file = checkout / f"run/slurm-{job}.json"
    until(lambda: run_file.exists() or slurm.state(job) in ENDED, "the coordinator to listen")
    assert run_file.exists(), output(checkout, job) + slurm.logs()
    server = json.loads(run_file.read_text())["grpc"]
    slurm.run(f"{BUILD}/consort", "status", "--server", server, "--wait-ready", int(PATIENCE_SECONDS))
    return job, server


def output(checkout, job):
    return "".join(path.read_text() for path in (checkout / f"slurm-{job}.out", checkout / f"run/slurm-{job}.log") if path.exists())


def is_rank(line):
    return "consortd" in line.split()[0]


def ranks(slurm):
    return [sum(is_rank(line) for _, line in host.processes()) for host in slurm.hosts]


def drained(slurm, checkout, job, within_seconds=PATIENCE_SECONDS):
    until(lambda: slurm.state(job) in ENDED, "the job to end", within_seconds)
    said = output(checkout, job)
    assert slurm.state(job) == "COMPLETED" and "draining" in said and "stopped" in said, said + slurm.logs()
    assert not (checkout / f"run/slurm-{job}.json").exists() and ranks(slurm) == [0, 0]


def test_a_job_serves_and_drains_when_it_is_told_to(slurm, checkout, cluster):
    expected = cluster.generate(PROMPT, max_tokens=120, ignore_end=True)
    job, server = submit(slurm, checkout)
    assert ranks(slurm) == [2, 2]
    assert f"{job}.0" in slurm.run("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i").stdout.split()  # of the second host
    asked = slurm.run("srun", f"--jobid={job}", "--overlap", "-n1", "-N1", "-w", "c0", f"{BUILD}/consort", "generate", "--server", server,
                      "--raw", "--prompt", PROMPT, "--max-tokens", 120, "--ignore-end")
    assert asked.stdout.rstrip("\n") == expected.text.rstrip("\n")
    client = slurm.hosts[0].start(f"{BUILD}/consort", "generate", "--server", server, "--raw", "--prompt", PROMPT, "--max-tokens", 120,
                                  "--ignore-end", stdout=subprocess.PIPE, text=True)
    with client:
        text = client.stdout.read(1)
        slurm.run("scancel", "--batch", "--signal=TERM", job)
        text += client.stdout.read()
    assert client.returncode == 0 and text.rstrip("\n") == expected.text.rstrip("\n")
    drained(slurm, checkout, job)


@pytest.mark.skipif(not LONG, reason="the signal comes up to a minute late; only with --long")
def test_a_job_drains_before_its_time_is_up(slurm, checkout):
    job, server = submit(slurm, checkout, "--time=00:02:00")
    text = slurm.run(f"{BUILD}/consort", "generate", "--server", server, "--prompt", PROMPT, "--max-tokens", 5).stdout
    assert text
    drained(slurm, checkout, job, 180)


def test_a_job_outlives_a_host_and_a_plain_scancel_kills_it_all(slurm, checkout):
    job, server = submit(slurm, checkout)
    for pid, line in slurm.hosts[1].processes():
        if is_rank(line) or line.startswith("orted"):
            os.kill(pid, signal.SIGKILL)
    until(lambda: ranks(slurm) == [1, 0], "the other rank of the group to leave")
    slurm.run(f"{BUILD}/consort", "status", "--server", server, "--wait-ready", 2, check=False)  # time for mpirun to end it all
    status = json.loads(slurm.run(f"{BUILD}/consort", "status", "--server", server, "--json").stdout)
    assert not status["ready"] and "lost" in status["reason"]
    slurm.run("scancel", job)
    until(lambda: slurm.state(job) == "CANCELLED", "the job to end")
    until(lambda: ranks(slurm) == [0, 0], "all ranks to end")
    for host in slurm.hosts:  # the job's TMPDIR is that of its first host
        host.remove_files_of_mpi()
