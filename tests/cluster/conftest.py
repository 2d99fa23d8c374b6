"""Fixtures of the cluster tests. Everything they start carries this run's mark in its environment."""
import os
import shutil
import sys
import tempfile
import uuid

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.environ["CONSORT_TEST_RUN"] = str(uuid.uuid4())


@pytest.fixture(scope="session", autouse=True)
def temporary_directory():
    """One for all that the tests start, so that what is left in it is theirs."""
    directory = tempfile.mkdtemp(prefix="consort-test-")
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    yield directory
    tempfile.tempdir = None
    shutil.rmtree(directory)
