"""Several hosts on one machine, for tests: namespaces joined by a bridge.

A host has its own network, name, /etc/hosts, /dev/shm and directory for temporary files; it shares all other files, and process ids,
with the machine. Its namespaces live as long as the processes in them, and one process that reads from a pipe of ours keeps them
up: nothing has a name outside, so that no namespace is left behind even if the tests are killed.
"""
import contextlib
import ctypes
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from support import command_line

CLONE_NEWNET = 0x40000000  # <sched.h>
KEEPER = """
hostname "$1" && mount --bind "$2" /etc/hosts && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo up && exec cat >/dev/null
"""
REMOTE_SHELL = """#!/bin/bash
# What `ssh HOST COMMAND` does: another host, a clean environment.
host=$1
shift
case $host in
{cases}
*) echo "remote-shell: no host '$host'" >&2; exit 255 ;;
esac
cd / && exec nsenter "${{namespaces[@]}}" env -i "PATH=$PATH" "HOME=$HOME" "TMPDIR=$temporary" /bin/sh -c "$*"
"""


def skip_unless_possible():
    if os.geteuid() != 0:
        pytest.skip("hosts in namespaces need root")
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "ip", "link", "add", "br0", "type", "bridge"], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        pytest.skip(f"hosts in namespaces are not possible here: {done.stderr.strip()}")


class Host:
    def __init__(self, directory, name, address):
        self.name, self.address = name, address
        self.temporary = os.path.join(directory, name)
        os.mkdir(self.temporary)
        self.keeper = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sh", "-c", KEEPER, "sh", name, f"{directory}/hosts"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.keeper.stdout.readline() != "up\n":
            self.power_off()
            raise OSError(f"host {name} does not come up")
        self.namespaces = ["--target", str(self.keeper.pid), "--net", "--uts", "--mount"]
        self.network = os.readlink(f"/proc/{self.keeper.pid}/ns/net")

    def start(self, *command, **options):
        return subprocess.Popen(["nsenter", *self.namespaces, "--wd=.", *map(str, command)], env={**os.environ, "TMPDIR": self.temporary},
                                **options)

    def run(self, *command, check=True):
        with self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            out, err = process.communicate(timeout=120)
        assert not check or process.returncode == 0, (command, out, err)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def connect(self, address):
        """A socket of this host, connected to host:port. Threads change their network alone."""
        host, _, port = address.rpartition(":")
        with open("/proc/thread-self/ns/net", "rb") as ours:
            enter_network_of(self.keeper.pid)
            try:
                return socket.create_connection((host, int(port)), timeout=30)
            finally:
                enter_network(ours)

    def processes(self):
        """(pid, command line) of all that runs here."""
        found = set()
        for path in glob.glob("/proc/[0-9]*"):
            pid = int(path.split("/")[2])
            with contextlib.suppress(OSError):
                if pid != self.keeper.pid and os.readlink(f"{path}/ns/net") == self.network and (line := command_line(pid)):
                    found.add((pid, line))
        return found

    def shared_memory(self):
        return set(os.listdir(f"/proc/{self.keeper.pid}/root/dev/shm"))

    def remove_files_of_mpi(self):
        """What MPI's daemon removes here, unless it is killed."""
        for path in (*glob.glob(f"{self.temporary}/ompi.*"), *glob.glob(f"/proc/{self.keeper.pid}/root/dev/shm/vader_segment.*")):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def kill_all(self):
        while left := self.processes():
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def power_off(self):
        if self.keeper.poll() is None:
            self.kill_all()
        self.keeper.stdin.close()
        self.keeper.stdout.close()
        self.keeper.wait()


def enter_network(file):
    assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def enter_network_of(pid):
    """This thread does; sockets stay where they were made."""
    with open(f"/proc/{pid}/ns/net", "rb") as file:
        enter_network(file)


def connect(switch, host):
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", host.name, "netns", switch.keeper.pid)
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    switch.run("ip", "link", "set", host.name, "master", "br0", "up")


def make_remote_shell(directory, hosts):
    cases = [f"{name}) temporary={h.temporary} namespaces=({' '.join(h.namespaces)}) ;;" for h in hosts for name in (h.name, h.address)]
    path = os.path.join(directory, "remote-shell")
    with open(path, "w", encoding="utf-8") as f:
        f.write(REMOTE_SHELL.format(cases="\n".join(cases)))
    os.chmod(path, 0o755)
    return path


@contextlib.contextmanager
def network(*names, switched=True):
    """The hosts, up and, if switched, connected: 10.77.0.10 and so on. They are off at the end, whatever happens. Each knows all by name, and
    `remote_shell` of each is a program that takes the place of ssh."""
    addresses = {name: f"10.77.0.{10 + i}" for i, name in enumerate(names)}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-"))
        with open(f"{directory}/hosts", "w", encoding="utf-8") as f:
            f.writelines(f"{address} {name}\n" for name, address in [("localhost", "127.0.0.1"), *addresses.items()])

        def up(name, address=None):
            host = Host(directory, name, address)
            stack.callback(host.power_off)
            return host

        hosts = [up(name, address) for name, address in addresses.items()]
        if switched:
            switch = up("switch")
            switch.run("ip", "link", "add", "br0", "type", "bridge")
            switch.run("ip", "link", "set", "br0", "up")
        remote_shell = make_remote_shell(directory, hosts)
        for host in hosts:
            if switched:
                connect(switch, host)
            host.remote_shell = remote_shell
        yield hosts
