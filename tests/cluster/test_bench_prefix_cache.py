"""bench/prefix_cache.py: that it compares what it says it does. What it measures is not judged."""
import json
import subprocess

from support import BUILD, MODEL, ROOT

SMALL = ["--rounds", 2, "--chats", 2, "--prefix", 128, "--streams", 8, "--requests", 8, "--tokens", 96]


def test_the_loads_find_a_cache_and_blocks_that_run_out(tmp_path):
    command = [f"{ROOT}/bench/prefix_cache.py", "--json", "--build", BUILD, "--model", MODEL, *SMALL]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bytes_equal"] is True and result["interrupted"] is None
    loads = result["loads"]
    assert {load: list(found) for load, found in loads.items()} == {
        "fresh chats": ["off", "on"], "shared chats": ["off", "on"], "answers": ["off", "on", "tight-off", "tight-on", "tight-disk"]}
    for found in loads.values():
        for name, one in found.items():
            assert len(one["rounds"]) == 2 and min(r["tokens_per_s"] for r in one["rounds"]) > 0
            assert "off" not in name or one["cached_share"] == 0
            assert (one["preemptions"] > 0) == name.startswith("tight")
            assert (one["from_disk"] > 0) == (name == "tight-disk")
        assert found["off"]["in_off"]["tokens_per_s"] == {"median": 1, "min": 1, "max": 1}
    assert loads["shared chats"]["on"]["cached_share"] > 0.5 > 0.25 > loads["fresh chats"]["on"]["cached_share"]
    assert abs(loads["shared chats"]["on"]["prompt_tokens"] / (128 + 48) - 1) < 0.25
