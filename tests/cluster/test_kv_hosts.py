"""KV moves between two hosts, over a wire that is late, slow and loses frames, that passes only short ones, or that is cut in the middle of a
move: the answers are those of one verifier."""
import http.client
import json
import os
import signal
import sys

import pytest

import hosts as fake
from support import parse_metrics, until
from test_hosts import Launched, ranks_on
from wire import Wire

TOPOLOGY = """
model: models/SmolLM2-135M-Instruct.Q4_1.gguf
control_listen: 0.0.0.0:0
control_advertise: head
listen: 127.0.0.1:0
http_listen: 127.0.0.1:0
kv_listen: 0.0.0.0
kv_transport: {way}
groups:
  - {{name: here, kv_tokens: 4096, threads: 1}}
  - {{name: there, kv_tokens: 4096, threads: 1}}
"""
PROMPT = "Once upon a time there was a ship that sailed from one harbour to the next, and in each of them it took on board something new. " * 6
# Two, so that each verifier has one, and begin differently: what the other has already does not move.
REQUESTS = [{"prompt": PROMPT, "ignore_end": True}, {"prompt": "Not so long ago, o" + PROMPT[1:], "ignore_end": True, "temperature": 0.9, "seed": 5}]
LONG, SHORT = 500, 250  # tokens of an answer
CLIENT = """
import json, sys, grpc
_, directory, server, request = sys.argv
sys.path.insert(0, directory)
import consort_pb2, consort_pb2_grpc
fields = json.loads(request)
call = consort_pb2_grpc.InferenceStub(grpc.insecure_channel(server)).Generate(consort_pb2.GenerateRequest(text=fields.pop("prompt"), **fields))
ids = list(next(call).tokens)
print("streams", flush=True)
for reply in call:
    ids += reply.tokens
print(json.dumps(ids), flush=True)
"""


@pytest.fixture(scope="module")
def net():
    fake.skip_unless_possible()
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("a wire between hosts needs /dev/net/tun")
    with fake.network("head", "node1", switched=False) as both:
        wire = Wire(*both)
        yield both, wire
        wire.close()


@pytest.fixture(scope="module")
def alone(cluster):
    return [cluster.generate(r["prompt"], max_tokens=LONG, speculation="none", **{k: v for k, v in r.items() if k != "prompt"}).ids for r in REQUESTS]


class TwoHosts(Launched):
    def __init__(self, net, directory, way, api):
        self.wire, self.api = net[1], api
        self.wire.set(delay=0, rate=0, loss=0, longest=0, cut=0)
        topology, hostfile = directory / "topology.yaml", directory / "hostfile"
        topology.write_text(TOPOLOGY.format(way=way))
        hostfile.write_text("head slots=2\nnode1 slots=1\n")
        super().__init__(net[0], directory, topology, hostfile)

    def metrics(self):
        address = json.loads(self.run_file.read_text())["http"]
        connection = http.client.HTTPConnection(address)
        connection.sock = self.head.connect(address)
        try:
            connection.request("GET", "/metrics")
            return parse_metrics(connection.getresponse().read().decode())
        finally:
            connection.close()

    def begin(self, max_tokens):
        """Clients on the first host that have each had a reply."""
        clients = self.clients = [self.head.start(sys.executable, "-c", CLIENT, os.path.dirname(self.api.messages.__file__), self.server, json.dumps({**r, "max_tokens": max_tokens}), stdout=-1, text=True) for r in REQUESTS]
        assert [c.stdout.readline() for c in clients] == ["streams\n"] * len(clients)
        assert self.running("here") == self.running("there") == 1
        return clients

    def running(self, group):
        return self.metrics()["consort_verifier_requests_running", f'group="{group}"']

    def moves(self, result):
        return self.metrics()["consort_kv_moves_total", f'result="{result}"']

    def moving(self):
        return self.metrics()["consort_kv_moves_running", ""]


@pytest.fixture
def launch(net, tmp_path, api):
    started = []

    def start(way):
        started.append(TwoHosts(net, tmp_path, way, api).until_ready())
        return started[-1]

    yield start
    net[1].set(delay=0, rate=0, loss=0, longest=0, cut=0)
    for cluster in started:
        if cluster.launcher.poll() is None:
            cluster.launcher.send_signal(signal.SIGTERM)
        assert "stopped" in cluster.ended()
        for client in cluster.clients:
            client.communicate()
    for host in net[0]:
        until(lambda: not host.processes(), "all processes to end", 10)
        host.remove_files_of_mpi()  # of a daemon that was cut off
        assert not host.shared_memory() and not os.listdir(host.temporary)


def answers(clients):
    said = [client.communicate(timeout=240)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * len(clients)
    return [json.loads(text) for text in said]


@pytest.mark.parametrize("way", ["tcp", "mpi"])
def test_requests_move_over_a_slow_wire_that_loses_frames(launch, net, alone, way):
    two = launch(way)
    assert ranks_on(two.head).keys() == {0, 1} and ranks_on(two.other).keys() == {2}
    net[1].set(delay=5, rate=100, loss=0.2)
    clients = two.begin(LONG)
    two.consort("drain", "there")
    until(lambda: two.running("there") == 0, "the other host to be empty")
    assert two.moves("done") >= 1
    two.consort("drain", "--undo", "there")
    two.consort("drain", "here")
    until(lambda: two.running("here") == 0, "the first host to be empty")
    assert answers(clients) == alone
    assert two.moves("failed") == two.moves("cancelled") == 0  # on the way back they may be computed: to move took long


def test_a_move_whose_messages_vanish_ends_and_its_request_is_computed_where_it_went(launch, net, alone):
    two = launch("tcp")
    clients = two.begin(SHORT)
    net[1].set(longest=900)  # control messages of a few tokens pass
    two.consort("drain", "there")
    until(two.moving, "the move to begin")
    assert answers(clients) == [ids[:SHORT] for ids in alone]
    until(lambda: two.moves("failed") == 1, "the move to be given up")
    assert two.moves("done") == 0


def test_the_wire_is_cut_in_the_middle_of_a_move(launch, net, alone):
    two = launch("tcp")
    clients = two.begin(SHORT)
    net[1].set(rate=2)
    two.consort("drain", "there")
    until(two.moving, "the move to begin")
    net[1].set(cut=1)
    assert answers(clients) == [ids[:SHORT] for ids in alone]
    assert two.moves("done") == 0 and two.metrics()["consort_verifier_up", 'group="there"'] == 0
    net[1].set(cut=0)
    until(lambda: 2 not in ranks_on(two.other), "the rank that is lost to leave")


def test_shared_memory_is_not_taken_between_hosts(launch, alone):
    two = launch("shm")
    clients = two.begin(SHORT)
    two.consort("drain", "there")
    assert answers(clients) == [ids[:SHORT] for ids in alone]
    assert two.moves("failed") == 1 and two.moves("done") == 0
    assert "no transport that both have reaches it" in two.log.read_text()
