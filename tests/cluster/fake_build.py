"""A build directory whose `consort` and `consortd` are small scripts, to test the launcher without a model.

The fake daemon does what the launcher relies on: rank 0 writes the run file and leaves on SIGTERM; the others leave when rank 0
has. `$FAKE` changes that: `refuse` (rank 0 fails at once), `deaf` (ignores the first SIGTERM), `mute` (all of them), `hang` (the others never leave).
"""
import os
import stat

CONSORT = """#!/bin/sh
case "$1 $2" in
"check-config "*bad*) echo "bad.yaml: line 1: no such key" >&2; exit 1 ;;
check-config*) echo 3 ;;
esac
"""

CONSORTD = """#!/usr/bin/python3
import json, os, signal, sys, time
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
run_file = sys.argv[sys.argv.index("--run-file") + 1]
fake = os.environ.get("FAKE", "")
open(os.environ["OMPI_MCA_btl_vader_backing_directory"] + f"/vader_segment.{rank}", "w").close()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 0:
    if fake == "refuse":
        sys.exit("cannot listen")
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    with open(run_file + ".new", "w") as f:
        json.dump({"pid": os.getpid(), "grpc": "127.0.0.1:1", "control": "127.0.0.1:2", "epoch": 1}, f)
    os.rename(run_file + ".new", run_file)
    while len(asked) < {"deaf": 2, "mute": 99}.get(fake, 1):
        signal.pause()
    print("left after", len(asked), flush=True)
    os.unlink(run_file)
else:
    while not os.path.exists(run_file):
        time.sleep(0.01)
    while os.path.exists(run_file) or fake == "hang":
        time.sleep(0.01)
"""


def make(directory):
    for name, text in (("consort", CONSORT), ("consortd", CONSORTD)):
        path = os.path.join(directory, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return directory
