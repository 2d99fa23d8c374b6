"""Priorities in a running cluster: who is served first, and that bytes do not change."""
import concurrent.futures

from support import consort, until

LONG_ONE = ("Once upon a time", {"max_tokens": 300, "ignore_end": True})


def ask(cluster, ended, pool, name, prompt, **fields):
    """Asks in a thread, which notes its end."""
    def run():
        answer = cluster.generate(prompt, **fields)
        ended.append(name)
        return answer.ids
    return pool.submit(run)


def test_the_highest_priority_is_served_first_though_it_came_last_and_bytes_stay(new_cluster):
    short = {"max_tokens": 20, "ignore_end": True}
    requests = {"lowest": ("Water boils at", {**short, "priority": -8}),
                "first": ("1, 2, 3, 5, 8,", {**short, "temperature": 1.0, "seed": 3}),
                "second": ("def reverse(s):\n", {**short, "timeout": 600}),
                "third": ("In 1969, humans first", {**short, "priority": 0}),
                "high": ("The capital of France is", {**short, "priority": 8, "temperature": 0.8, "seed": 4})}
    cluster = new_cluster(max_running=1)
    alone = {name: cluster.generate(prompt, cache_salt="alone", **fields).ids for name, (prompt, fields) in requests.items()}
    alone["running"] = cluster.generate(LONG_ONE[0], cache_salt="alone", **LONG_ONE[1]).ids
    ended = []
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = {"running": ask(cluster, ended, pool, "running", LONG_ONE[0], **LONG_ONE[1])}
        until(lambda: cluster.status().requests_running == 1, "the first to run")
        for n, (name, (prompt, fields)) in enumerate(requests.items()):
            if name == "high":  # the one that runs is sent away for it, and goes on behind it
                assert ended == [] and cluster.metrics()["consort_num_preemptions_total", ""] == 0
            answers[name] = ask(cluster, ended, pool, name, prompt, **fields)
            if name != "high":
                until(lambda: cluster.status().requests_waiting == n + 1, f"{name} to wait")
        got = {name: future.result() for name, future in answers.items()}
    assert ended == ["high", "running", "first", "second", "third", "lowest"]
    assert got == alone
    assert cluster.metrics()["consort_num_preemptions_total", ""] == 1
    until(cluster.is_idle, "all to be freed")


def test_equals_wait_for_their_turn_and_the_command_line_can_pass_them(new_cluster):
    cluster = new_cluster(max_running=1)
    alone = consort("generate", "--server", cluster.server, "--raw", "--prompt", "Water boils at", "--max-tokens", "9").stdout
    ended = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = ask(cluster, ended, pool, "running", LONG_ONE[0], priority=1, **LONG_ONE[1])
        until(lambda: cluster.status().requests_running == 1, "the first to run")
        waiting = ask(cluster, ended, pool, "waiting", "Hello", max_tokens=5, priority=1)
        until(lambda: cluster.status().requests_waiting == 1, "the second to wait")
        told = consort("generate", "--server", cluster.server, "--raw", "--prompt", "Water boils at", "--max-tokens", "9", "--priority", "2").stdout
        assert told == alone and ended == []
        running.result(), waiting.result()
    assert ended == ["running", "waiting"]
    assert cluster.metrics()["consort_num_preemptions_total", ""] == 1
