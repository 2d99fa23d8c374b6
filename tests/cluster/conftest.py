"""Fixtures of the cluster tests: real clusters under mpirun, called by a real gRPC client.

`cluster` is one that most tests share; `new_cluster` starts further ones, for tests that change the topology or end it. At the
end of either nothing may be left: no process, shared memory or temporary file. Everything the tests start carries this run's mark
in its environment, and all its temporary files lie in one directory.
"""
import importlib
import os
import shutil
import signal
import sys
import tempfile
import uuid

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
os.environ["CONSORT_TEST_RUN"] = str(uuid.uuid4())

import support  # noqa: E402  (its folder is known only now)


@pytest.fixture(scope="session", autouse=True)
def temporary_directory():
    directory = tempfile.mkdtemp(prefix="consort-test-")
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    before = support.leftovers()
    yield directory
    left = support.leftovers() - before
    for pid, _ in support.processes(f"CONSORT_TEST_RUN={os.environ['CONSORT_TEST_RUN']}"):
        os.kill(pid, signal.SIGKILL)
    tempfile.tempdir = None
    shutil.rmtree(directory)
    assert not left, "the tests left something behind"


@pytest.fixture(scope="session")
def api(temporary_directory):
    """The modules that protoc's Python plugin makes of the published consort.proto."""
    from grpc_tools import protoc

    out = os.path.join(temporary_directory, "api")
    os.mkdir(out)
    proto = os.path.join(support.ROOT, "proto")
    assert protoc.main(["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", "consort.proto"]) == 0
    sys.path.insert(0, out)
    return support.Api(importlib.import_module("consort_pb2"), importlib.import_module("consort_pb2_grpc"))


@pytest.fixture(scope="session")
def cluster(api):
    with support.Cluster(api, kv_tokens=16384, max_running=40, max_batch=40, draft_budgets="fixed", draft_floor=0) as c:
        yield c
    assert not c.left_behind()


@pytest.fixture(scope="session")
def alone(cluster):
    """What one verifier answers by itself to the STREAMS of test_groups, which others ask as well, to one after the other."""
    from test_groups import STREAMS, parts

    return [parts(cluster.stream(prompt, speculation="none", **fields)) for prompt, fields in STREAMS]


@pytest.fixture
def new_cluster(api):
    """new_cluster(**topology): a cluster of its own; what the test does not end itself is ended after it."""
    mine = []

    def start(**topology):
        c = support.Cluster(api, **topology)
        mine.append(c)
        return c.__enter__()

    yield start
    for c in mine:
        c.__exit__(None, None, None)
        assert not c.left_behind()
