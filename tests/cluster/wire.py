"""A wire between two hosts of namespaces (hosts.py) that is slow, late, loses frames or is cut: kernels need not have netem for it.

Each host gets an eth0 whose other end is a file of this process, which carries frames from one to the other. Lines on its standard input say
how, from then on:

    delay MS     one way               loss PERCENT     of the frames, drawn from a fixed seed
    rate MBIT    a direction; 0: any   longest BYTES    longer frames vanish (as behind a router that tells nobody of its MTU); 0: any
    cut 0|1
"""
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

from hosts import enter_network_of

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000  # <linux/if_tun.h>
QUEUE_BYTES = 1 << 18  # of a direction; what does not fit is lost, as in a router


class Wire:
    """The process, for tests. `set(rate=1, delay=20)`."""

    def __init__(self, *hosts):
        self.process = subprocess.Popen([sys.executable, __file__, *(str(h.keeper.pid) for h in hosts)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"
        for host in hosts:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def set(self, **how):
        for key, value in how.items():
            self.process.stdin.write(f"{key} {value}\n")
        self.process.stdin.flush()
        for _ in how:
            assert self.process.stdout.readline() == "done\n"

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def open_eth0(pid):
    enter_network_of(pid)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", b"eth0", IFF_TAP | IFF_NO_PI))
    return fd


class Carrier:
    def __init__(self, ends):
        self.ends, self.how = ends, {"delay": 0.0, "loss": 0.0, "rate": 0.0, "longest": 0.0, "cut": 0.0}
        self.free_at, self.queued, self.due, self.n, self.rng = [0.0, 0.0], [0, 0], [], 0, random.Random(1)

    def take(self, side):
        """What has come in at that end."""
        for _ in range(64):
            try:
                frame = os.read(self.ends[side], 1 << 16)
            except BlockingIOError:
                return
            how, n = self.how, len(frame)
            if how["cut"] or self.rng.random() * 100 < how["loss"] or 0 < how["longest"] < n or self.queued[side] + n > QUEUE_BYTES:
                continue
            sent = max(time.monotonic(), self.free_at[side]) + (n * 8e-6 / how["rate"] if how["rate"] else 0)
            self.free_at[side] = sent
            self.queued[side] += n
            heapq.heappush(self.due, (sent + how["delay"] / 1000, self.n, side, frame))
            self.n += 1

    def give(self):
        """What is due comes out at the other end. Seconds to the next."""
        while self.due and self.due[0][0] <= time.monotonic():
            _, _, side, frame = heapq.heappop(self.due)
            self.queued[side] -= len(frame)
            try:
                os.write(self.ends[1 - side], frame)
            except OSError:
                pass  # lost
        return max(0.0, self.due[0][0] - time.monotonic()) if self.due else None

    def run(self):
        while True:
            ready, _, _ = select.select([0, *self.ends], [], [], self.give())
            for side in (0, 1):
                if self.ends[side] in ready:
                    self.take(side)
            if 0 in ready and not self.obey():
                return

    def obey(self):
        text = os.read(0, 4096).decode()
        for line in text.splitlines():
            key, value = line.split()
            assert key in self.how
            self.how[key] = float(value)
            print("done", flush=True)
        return text


if __name__ == "__main__":
    carrier = Carrier([open_eth0(pid) for pid in sys.argv[1:3]])
    enter_network_of(os.getppid())
    print("up", flush=True)
    carrier.run()
