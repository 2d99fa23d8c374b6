"""The launcher: signals drain, nothing is left behind, the exit status is its own. Against a fake daemon under real mpirun."""
import json
import os
import signal
import subprocess

import fake_build
import pytest

from support import ROOT, leftovers, until


@pytest.fixture
def launch(tmp_path):
    """Starts the launcher and returns it with its run; at the end nothing may be left, whatever the test did."""
    build = fake_build.make(str(tmp_path))
    run_file, log = tmp_path / "run.json", tmp_path / "log"
    started = []

    def start(fake="", config="good.yaml", up=True):
        env = dict(os.environ, FAKE=fake)
        process = subprocess.Popen([f"{ROOT}/scripts/launch", "--config", config, "--build", build, "--run-file", run_file,
                                    "--log", log], env=env, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if up:
            until(run_file.exists, "the run file")
            return process, json.loads(run_file.read_text())
        return process, None

    start.log, start.run_file = log, run_file
    before = leftovers()
    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()
    until(lambda: leftovers(but_launch_directories=True) <= before, "all processes to end")


def until_line(process, text):
    while text not in (line := process.stderr.readline()):
        assert line, f"no line with '{text}'"


def ends(process, status):
    _, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    return err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_leaves_nothing(launch, number):
    before = leftovers()
    process, run = launch()
    assert os.getsid(run["pid"]) != os.getsid(process.pid)  # a terminal's signal never reaches mpirun
    process.send_signal(number)
    assert "stopped" in ends(process, 0)
    assert "signal 1" in launch.log.read_text()
    assert leftovers() <= before and not launch.run_file.exists()


def test_a_second_signal_reaches_the_coordinator(launch):
    process, _ = launch("deaf")
    process.send_signal(signal.SIGTERM)
    until(lambda: "signal 1" in launch.log.read_text(), "the first signal")
    process.send_signal(signal.SIGTERM)
    ends(process, 0)
    assert "signal 2" in launch.log.read_text()


def test_a_third_signal_kills(launch):
    before = leftovers()
    process, _ = launch("mute")
    for line in ("draining", "leave at once", "stopping at once"):
        process.send_signal(signal.SIGTERM)
        until_line(process, line)
    ends(process, 1)
    assert leftovers() <= before and not launch.run_file.exists()


def test_a_lost_coordinator_is_status_1_and_leaves_nothing(launch):
    before = leftovers()
    process, run = launch("hang")
    os.kill(run["pid"], signal.SIGKILL)
    assert "coordinator was lost" in ends(process, 1)
    assert leftovers() <= before and not launch.run_file.exists()


def test_workers_that_never_leave_are_ended(launch):
    before = leftovers()
    process, _ = launch("hang")
    process.send_signal(signal.SIGTERM)
    ends(process, 0)
    assert leftovers() <= before


def test_a_cluster_that_does_not_come_up_is_status_1(launch):
    process, _ = launch("refuse", up=False)
    until(lambda: launch.log.exists() and "cannot listen" in launch.log.read_text(), "the refusal")
    process.send_signal(signal.SIGTERM)  # the other ranks of the fake wait for ever
    ends(process, 1)


def test_a_wrong_topology_is_status_2(launch):
    process, _ = launch(config="bad.yaml", up=False)
    assert "no such key" in ends(process, 2)


def test_a_running_cluster_is_not_started_twice(launch):
    first, _ = launch()
    second, _ = launch()
    assert "already" in ends(second, 1)
    first.send_signal(signal.SIGTERM)
    ends(first, 0)


def test_a_killed_launcher_takes_its_ranks_along_and_the_next_one_cleans_up(launch):
    before = leftovers()
    process, run = launch()
    process.kill()
    process.wait()
    until(lambda: not os.path.exists(f"/proc/{run['pid']}"), "the coordinator to end")
    until(lambda: leftovers(but_launch_directories=True) <= before, "all processes to end")
    second, _ = launch(up=False)  # over the run file that the first one left
    until(lambda: launch.run_file.exists() and json.loads(launch.run_file.read_text()) != run, "the second run")
    second.send_signal(signal.SIGTERM)
    ends(second, 0)
    assert leftovers() <= before
