"""The contract of a transport (tests/unit/parallel/transport_contract.c) for MPI, which needs ranks; the other rows have it as a unit test."""
import argparse
import re
import runpy
import subprocess
import tempfile

from support import BUILD, ROOT, sanitizer_environment, sanitizer_reports

launch = runpy.run_path(f"{ROOT}/scripts/launch")


def contract(directory, *arguments, options=(), **parameters):
    """The lines that say what was kept."""
    with tempfile.TemporaryDirectory(prefix="consort-test-", dir="/dev/shm") as shared:
        where = argparse.Namespace(hostfile=None, slurm=False, interface="lo")
        environment = {**launch["mpi_environment"](where, str(directory), shared, None), **sanitizer_environment(directory),
                       "CONSORT_SUMS": "messages", **{f"OMPI_MCA_{name}": value for name, value in parameters.items()}}
        done = subprocess.run(["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", *options, f"{BUILD}/contract_mpi", *arguments],
                              env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not sanitizer_reports(directory)
    return re.findall(r"^ok (.*)$", done.stdout, re.MULTILINE), done


def cases():
    with open(f"{ROOT}/tests/unit/parallel/transport_contract.c", encoding="utf-8") as f:
        return re.findall(r"^    CASE\((\w+)\),$", f.read(), re.MULTILINE)


def test_mpi_keeps_the_contract_while_another_thread_sums(tmp_path):
    for parameters in ({}, {"btl": "tcp,self"}):  # on one host, and as between hosts
        kept, done = contract(tmp_path, **parameters)
        assert done.returncode == 0, done.stderr
        assert kept[:-1] == cases() and len(kept) > 10
        assert int(re.fullmatch(r"(\d+) sums meanwhile", kept[-1])[1]) > 1


def test_a_link_to_a_rank_that_was_killed_is_closed_and_nothing_polls(tmp_path):
    kept, done = contract(tmp_path, "death", options=["--enable-recovery"])
    assert kept == ["closed", "nothing polls"], done.stderr
