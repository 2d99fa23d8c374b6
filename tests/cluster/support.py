"""What the cluster tests share: waiting, and looking for what a run left behind."""
import fcntl
import glob
import os
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("CONSORT_BUILD", os.path.join(ROOT, "build/release"))
MODEL = os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf")
PATIENCE_SECONDS = 60.0  # a limit for hangs, not a measure


def until(condition, what, seconds=PATIENCE_SECONDS):
    """Polls until the condition holds and returns its value. Tests never wait a fixed time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)


def processes():
    """(pid, command line) of every process that descends from this test run, by a mark in its environment."""
    mark = f"CONSORT_TEST_RUN={os.environ['CONSORT_TEST_RUN']}".encode()
    found = set()
    for directory in glob.glob("/proc/[0-9]*"):
        pid = int(directory.split("/")[2])
        try:
            with open(f"{directory}/environ", "rb") as f:
                ours = mark in f.read().split(b"\0")
            with open(f"{directory}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if ours and line and pid != os.getpid():
            found.add((pid, line))
    return found


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


def leftovers(but_launch_directories=False):
    """All that a run could leave: processes, shared memory, temporary files. Compare with before: other clusters may run beside
    the tests (their launchers live, so their directories are locked)."""
    files = set()
    for pattern in ("/dev/shm/consort*", "/dev/shm/vader*", f"{tempfile.gettempdir()}/consort*", f"{tempfile.gettempdir()}/ompi*"):
        files |= {path for path in glob.glob(pattern) if not locked(path)}
    if but_launch_directories:
        files = {path for path in files if "/consort-launch-" not in path}
    return files | processes()
