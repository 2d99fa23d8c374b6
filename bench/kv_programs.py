"""Programs that have nothing of Consort's transports and move messages of one size through memory, MPI or TCP. For bench/kv.py.

The sender is on the first of a Place's cores, the receiver on the second. A figure is GB/s (10^9 bytes), and a byte that went from one
end to the other counts once.
"""
import argparse
import collections
import contextlib
import json
import math
import os
import re
import runpy
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from pinned import ROOT, Failure

PATIENCE_SECONDS, LEAVE_SECONDS, POLL_SECONDS = 120, 5, 0.02
RING_MIB = 16            # what messages of a measurement of KV lie in, at either end
IPERF3_MOST = 1 << 20    # bytes of a write
MIB = 1 << 20
LOOPBACK = "127.0.0.1"
launch = runpy.run_path(f"{ROOT}/scripts/launch")

Place = collections.namedtuple("Place", "directory build cores bytes")  # bytes: that a program moves for a figure
Program = collections.namedtuple("Program", "name transport executable package measure")  # measure: of Place and bytes of a message


# ---- processes ----

def on(core, *command):
    return ["taskset", "-c", str(core), *map(str, command)]


@contextlib.contextmanager
def started(command, place, env=None):
    """A process that no signal of a terminal reaches; it is ended, whatever happens."""
    process = subprocess.Popen(command, cwd=place.directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


def run(command, place, env=None):
    """Its exit status and all that it says."""
    with started(command, place, env) as process:
        try:
            out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(command)}: has not ended after {PATIENCE_SECONDS} s; run it by hand") from None
    return process.returncode, out


def refuse(command, out):
    raise Failure(f"{' '.join(command)}: failed; run it by hand, or take it from the PATH\n{out.strip()[-1000:]}")


def output_of(command, place, env=None):
    status, out = run(command, place, env)
    return refuse(command, out) if status else out


def free_port():
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return s.getsockname()[1]


# ---- memory ----

def memcpy(place, size):
    command = on(place.cores[0], f"{place.build}/bench_memcpy", size, max(place.bytes, size))
    return float(output_of(command, place)) / 1e9


def mbw(place, size):
    """Its arrays are a whole number of MiB and must be a whole number of messages: beyond one it writes behind its array."""
    array = math.lcm(size, MIB) // MIB
    array *= -(-RING_MIB // array)
    command = on(place.cores[0], "mbw", "-q", "-a", "-t2", "-b", size, "-n", max(place.bytes // (array * MIB), 3), array)
    out = output_of(command, place)
    rates = [float(rate) for rate in re.findall(r"Method: MCBLOCK\s.*Copy: ([\d.]+) MiB/s", out)]
    return statistics.median(rates) * MIB / 1e9 if rates else refuse(command, out)


# ---- NetPIPE ----

def netpipe(place, size):
    """Options: one size, so many messages, through memory that is not in the cache."""
    return ["-I", "-p", 0, "-l", size, "-u", size, "-n", max(place.bytes // size, 3), "-o", "np.out"]


def netpipe_figure(place, size, command, out):
    """Of its second column, megabits of 2^20: there are too few digits of the third, seconds."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(f"{place.directory}/np.out", encoding="utf-8") as f:
            found = [line.split() for line in f]
        os.remove(f"{place.directory}/np.out")
        if len(found) == 1 and int(found[0][0]) == size:
            return float(found[0][1]) * MIB / 8 / 1e9
    return refuse(command, out)


def npopenmpi(place, size, *mode):
    with tempfile.TemporaryDirectory(prefix="consort-bench-") as session, tempfile.TemporaryDirectory(prefix="consort-bench-", dir="/dev/shm") as shared:
        env = launch["mpi_environment"](argparse.Namespace(hostfile=None, slurm=False, interface="lo"), session, shared, None)
        sender, receiver = (["-n", "1", *on(core, "NPopenmpi", *mode, *netpipe(place, size))] for core in place.cores)
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", *sender, ":", *receiver]
        return netpipe_figure(place, size, command, output_of(command, place, env))


def npopenmpi_stream(place, size):
    return npopenmpi(place, size, "-s")


def nptcp_stream(place, size):
    """Nothing tells when the receiver listens: the sender is started until it finds it."""
    options = ["-s", "-P", free_port(), *netpipe(place, size)]
    command = on(place.cores[0], "NPtcp", "-h", LOOPBACK, *options)
    with started(on(place.cores[1], "NPtcp", *options), place) as receiver:
        for _ in range(int(LEAVE_SECONDS / POLL_SECONDS)):
            status, out = run(command, place)
            if "Cannot Connect" not in out or receiver.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
    return refuse(command, out) if status else netpipe_figure(place, size, command, out)


# ---- iperf3 ----

def iperf3_message(size):
    return min(size, IPERF3_MOST)


def iperf3(place, size):
    port = free_port()
    command = on(place.cores[0], "iperf3", "-c", LOOPBACK, "-p", port, "-l", iperf3_message(size), "-n", place.bytes, "-J")
    with started(on(place.cores[1], "iperf3", "-s", "-1", "-B", LOOPBACK, "-p", port, "--forceflush"), place) as server:
        said = []
        while not said or (said[-1] and "listening" not in said[-1]):
            said.append(server.stdout.readline())
        out = output_of(command, place) if said[-1] else refuse(command, "its server does not listen: " + "".join(said))
    try:
        return json.loads(out)["end"]["sum_received"]["bits_per_second"] / 8e9
    except (ValueError, KeyError):
        return refuse(command, out)


# ---- all of them ----

PROGRAMS = (
    Program("memcpy", "shm", "bench_memcpy", None, memcpy),
    Program("mbw", "shm", "mbw", "mbw", mbw),
    Program("NPopenmpi", "mpi", "NPopenmpi", "netpipe-openmpi", npopenmpi),
    Program("NPopenmpi -s", "mpi", "NPopenmpi", "netpipe-openmpi", npopenmpi_stream),
    Program("iperf3", "tcp", "iperf3", "iperf3", iperf3),
    Program("NPtcp -s", "tcp", "NPtcp", "netpipe-tcp", nptcp_stream),
)


def find(build):
    """The programs that are there; and {name: remedy} of those that are not."""
    there, left_out = [], {}
    for p in PROGRAMS:
        if shutil.which(p.executable) if p.package else os.access(f"{build}/{p.executable}", os.X_OK):
            there.append(p)
        else:
            left_out[p.name] = (f"{p.executable} is not installed; Debian has it in {p.package}" if p.package else
                                f"{build}/{p.executable} is missing; scripts/setup builds it")
    return there, left_out
