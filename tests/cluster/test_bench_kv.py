"""bench/kv.py: that it puts beside each other what it says it does. What it measures is not judged."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from support import BUILD, MODEL, ROOT

sys.path.insert(0, f"{ROOT}/bench")

import kv_programs  # noqa: E402  (its folder is known only now)
import pinned  # noqa: E402

SIZES = (25600, 720896, 8388608)
NEEDED = ("mpirun", "taskset")  # of the system, by PATH

# They answer as the real ones do, and write down what they were asked.
FAKES = {
    "mbw": r"""printf '0\tMethod: MCBLOCK\tElapsed: 0.00200\tMiB: 16.00000\tCopy: 8000.000 MiB/s\n'""",
    "NPopenmpi": r"""[ "$OMPI_COMM_WORLD_RANK" = 1 ] || echo "   $size 16000.000000   0.00001221" >np.out""",
    "iperf3": r"""case " $* " in *" -s "*) echo 'Server listening on 5201'; exec tail -f /dev/null;; esac
echo '{"end": {"sum_received": {"bits_per_second": 16e9}}}'""",
}
FAKE = """#!/bin/sh
PATH=/usr/bin:/bin
for word; do [ "$last" = -l ] && size=$word; last=$word; done
echo "${0##*/} $*" >>"${0%/*}/asked"
"""


@pytest.fixture
def only_fakes(tmp_path, monkeypatch):
    """A PATH that leads to the fakes, and to no real one."""
    for name in NEEDED:
        os.symlink(shutil.which(name), tmp_path / name)
    for name, text in FAKES.items():
        (tmp_path / name).write_text(FAKE + text + "\n", encoding="utf-8")
        os.chmod(tmp_path / name, 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def bench(*options):
    done = subprocess.run([sys.executable, f"{ROOT}/bench/kv.py", "--build", BUILD, *map(str, options)], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def asked(directory, program, option):
    """The values of an option in what the fakes wrote down."""
    lines = (directory / "asked").read_text(encoding="utf-8").splitlines()
    return [int(value) for line in lines if line.startswith(f"{program} ") and " -s -1 " not in line for value in re.findall(rf" {option} (\d+)", line)]


def test_all_transports_and_sizes_have_programs_beside_them(only_fakes):
    status, out, said = bench("--json", "--rounds", 2, "--prompt", 64, "--gb", 0.02, "--model", MODEL)
    assert status == 0, said
    result = json.loads(out)
    assert result["interrupted"] is None and result["n_rounds"] == 2
    assert list(result["left_out"]) == ["NPtcp -s"] and "Debian has it in netpipe-tcp" in result["left_out"]["NPtcp -s"]
    assert "NPtcp -s is left out: NPtcp is not installed" in said
    assert [(m["transport"], m["block_bytes"]) for m in result["moves"]] == [(t, n) for t in ("shm", "mpi", "tcp") for n in SIZES]
    programs = {"shm": ["memcpy", "mbw"], "mpi": ["NPopenmpi", "NPopenmpi -s"], "tcp": ["iperf3"]}
    known = {"mbw": 8000 * 2**20 / 1e9, "NPopenmpi": 16000 * 2**20 / 8e9, "NPopenmpi -s": 16000 * 2**20 / 8e9, "iperf3": 2}
    for m in result["moves"]:
        assert len(m["rounds"]) == 2 and all(r["gb_s"] > 0 and r["raw_gb_s"] > 0 for r in m["rounds"])
        ratios = [r["gb_s"] / r["raw_gb_s"] for r in m["rounds"]]
        assert (m["gb_s_in_raw"]["min"], m["gb_s_in_raw"]["max"]) == pytest.approx((min(ratios), max(ratios)))
        assert list(m["programs"]) == programs[m["transport"]]
        for name, p in m["programs"].items():
            assert len(p["rounds"]) == 2 and min(p["rounds"]) > 0
            assert name == "memcpy" or p["rounds"] == pytest.approx([known[name]] * 2)
            assert p["message_bytes"] == (min(m["block_bytes"], 2**20) if name == "iperf3" else m["block_bytes"])
            assert p["gb_s_in_it"]["max"] == pytest.approx(max(r["gb_s"] / rate for r, rate in zip(m["rounds"], p["rounds"])))
    assert [p["transport"] for p in result["prompts"]] == ["shm", "mpi", "tcp"]
    for p in result["prompts"]:
        assert (p["prompt_tokens"], p["block_bytes"], p["crossover_tokens"]) == (64, 2 * 3 * 64 * 2 * 32, 32)
        assert 0 < p["move_ms"]["median"] and 0 < p["recompute_ms"]["median"] and 0 < p["move_in_recompute"]["median"]
    order = re.findall(r"to go: ([\w -]+):", said)
    names = ["consort", *(name for beside in programs.values() for name in beside)]
    assert order == names + names[1:] + names[:1]  # another one first each round
    assert asked(only_fakes, "iperf3", "-l") == [25600, 720896, 2**20] * 2
    assert sorted(asked(only_fakes, "NPopenmpi", "-u")) == sorted(SIZES * 8)  # two ranks, to and fro and one way, two rounds
    assert asked(only_fakes, "mbw", "-b") == list(SIZES) * 2


def test_a_program_that_fails_is_named_and_what_was_measured_is_told(only_fakes):
    (only_fakes / "iperf3").write_text("#!/bin/sh\necho 'iperf3: error - unable to start listener'; exit 1\n", encoding="utf-8")
    status, out, said = bench("--rounds", 1, "--prompt", 0, "--gb", 0.02, "--model", MODEL)
    assert status == 1 and "iperf3 -c 127.0.0.1" in said and "its server does not listen: iperf3: error - unable to start listener" in said
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert [row[5] for row in rows if row[0] == "| shm" or row[5] == "mbw"] == ["memcpy", "mbw"] * 3, out
    assert [row[5] for row in rows[-3:]] == ["-"] * 3, out
    assert "NPtcp -s is left out: NPtcp is not installed; Debian has it in netpipe-tcp." in out


@pytest.mark.parametrize("program", kv_programs.PROGRAMS, ids=lambda p: p.name)
@pytest.mark.parametrize("size", SIZES)
def test_the_programs_themselves_move_messages_of_each_size(program, size, tmp_path):
    there, left_out = kv_programs.find(BUILD)
    if program not in there:
        pytest.skip(left_out[program.name])
    assert 0.01 < program.measure(kv_programs.Place(str(tmp_path), BUILD, pinned.two_cores(), 16 << 20), size) < 1000


@pytest.mark.parametrize("size", SIZES)
def test_mbw_is_given_arrays_of_whole_messages(size, only_fakes, tmp_path):
    kv_programs.mbw(kv_programs.Place(str(tmp_path), BUILD, pinned.two_cores(), 10**8), size)
    array = int((tmp_path / "asked").read_text(encoding="utf-8").split()[-1]) * 2**20
    assert array % size == 0 and 16 << 20 <= array <= 32 << 20  # else it would write behind them


@pytest.mark.parametrize("answer", ["   25600 16000.0 0.00001\n   25603 16000.0 0.00001\n", "   25597 16000.0 0.00001\n", "nonsense\n", ""])
def test_a_figure_of_another_size_is_none(answer, tmp_path):
    (tmp_path / "np.out").write_text(answer, encoding="utf-8")
    with pytest.raises(pinned.Failure, match="NPtcp: failed"):
        kv_programs.netpipe_figure(kv_programs.Place(str(tmp_path), BUILD, [0, 1], 1), 25600, ["NPtcp"], "")


@pytest.mark.parametrize("options, status, says", [
    (["--build", "/nowhere"], 2, "/nowhere/consort is missing; scripts/setup"),
    (["--model", "/nowhere"], 2, "--model: /nowhere does not exist; scripts/fetch-model"),
    (["--rounds", "-1"], 2, "--rounds"),
    (["--model", f"{ROOT}/README.md"], 1, "two-verifiers: "),
])
def test_what_cannot_be_run_is_told(options, status, says):
    got, _, said = bench(*options)
    assert got == status and says in said, said
