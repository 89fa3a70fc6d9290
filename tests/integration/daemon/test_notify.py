"""What systemd is told: a real notification socket, as the manager's own would be (sd_notify(3))."""

import http.client
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from agent.service.daemon import STALL_SECONDS
from agent.transfer.http.limits import HttpLimits
from agent.transfer.pool import BUFFER_SIZE
from tests.kit.deployments import job

# The daemon as its command runs it, but for how long a deployment may stand still: longer than a slow server takes to
# fill a buffer.
IMPATIENT = """
import sys
from agent.service import daemon
from agent.service.config.model import load_config
config = load_config(sys.argv[2], cmdline="", credentials=None)
sys.exit(daemon.run(config, stall_seconds=8.0))
"""
WATCHDOG_SECONDS = 3.0  # fed three times in this
WATCHDOG = {"WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1_000_000))}


class Manager:
    """The receiving end: every assignment, in order, with the time at which it came.

    A thread reads: the kernel keeps only a few datagrams, and drops what comes then.
    """

    def __init__(self, name):
        self.name = name
        self.told: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self):
        while message := self._socket.recv(65536).decode():
            with self._changed:
                self.told += [(time.monotonic(), line) for line in message.split("\n")]
                self._changed.notify_all()

    def wait_for(self, text, seconds=30.0):
        """Wait until an assignment has this text, and give it."""

        def found():
            return next((told for _, told in self.told if text in told), None)

        with self._changed:
            assert self._changed.wait_for(found, seconds), f"no {text!r} in {self.told}"
            return found()

    def times(self, assignment, since=0.0):
        with self._changed:
            return [when for when, told in self.told if told == assignment and when >= since]

    def close(self):
        if self._thread.is_alive():
            self._socket.shutdown(socket.SHUT_RD)
            self._thread.join()
            self._socket.close()


@contextmanager
def managing(name):
    manager = Manager(name)
    try:
        yield manager
    finally:
        manager.close()


@pytest.fixture
def manager(tmp_path):
    with managing(str(tmp_path / "notify")) as manager:
        yield manager


def healthy(agent):
    """Whether the API answers at the first try."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(agent.socket))
    connection.request("GET", "/healthz")
    answer = connection.getresponse().status == 200
    connection.close()
    return answer


def test_ready_is_told_once_the_socket_answers_and_stopping_last(make_agent, manager):
    agent = make_agent(environment={"NOTIFY_SOCKET": manager.name}, fresh=True)
    agent.launch()
    manager.wait_for("READY=1")
    assert healthy(agent)
    manager.wait_for("STATUS=waiting for a deployment")
    assert agent.end(signal.SIGTERM) == 0
    manager.wait_for("STOPPING=1")
    time.sleep(0.5)
    told = [assignment for _, assignment in manager.told]
    assert told.count("READY=1") == told.count("STOPPING=1") == 1
    assert told[-1] == "STOPPING=1"
    assert not any("WATCHDOG" in assignment for assignment in told), "none was asked for"


def test_the_status_names_the_stage_and_the_outcome(make_agent, manager, slow_web, image):
    began = time.monotonic()
    agent = make_agent(environment={"NOTIFY_SOCKET": manager.name}).start()
    agent.post(job(slow_web.url, image.sha256))
    during = manager.wait_for("STATUS=deploying: write, ")
    assert " %" in during
    assert manager.wait_for("STATUS=done: ") == "STATUS=done: The image is deployed and verified."
    agent.post(job(slow_web.url, "0" * 64))
    assert "Bad sha256" in manager.wait_for("STATUS=failed: ")
    told = [assignment for _, assignment in manager.told if assignment.startswith("STATUS=")]
    assert len(told) <= time.monotonic() - began + 2, "at most one a second"
    assert all(before != after for before, after in pairwise(told)), "and only what is new"


def test_an_abstract_socket_is_told_too(make_agent):
    """systemd writes the zero byte of its name as an @."""
    with managing(f"@byoi-test-{os.getpid()}-{time.monotonic_ns()}") as manager:
        make_agent(environment={"NOTIFY_SOCKET": manager.name}).start()
        manager.wait_for("READY=1")


def test_the_watchdog_is_fed_while_idle_and_while_a_deployment_moves(make_agent, manager, slow_web, image):
    agent = make_agent(environment={"NOTIFY_SOCKET": manager.name, **WATCHDOG}).start()
    manager.wait_for("READY=1")
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    began = time.monotonic()
    agent.wait_for("done")
    ended = time.monotonic()
    time.sleep(0.1)
    fed = manager.times("WATCHDOG=1")
    assert len([when for when in fed if began <= when <= ended]) >= 2
    assert max(later - earlier for earlier, later in pairwise(fed)) < WATCHDOG_SECONDS
    agent.end()


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(make_agent, manager):
    other = {"WATCHDOG_PID": str(os.getpid())}
    make_agent(environment={"NOTIFY_SOCKET": manager.name, **WATCHDOG, **other}).start()
    manager.wait_for("READY=1")
    time.sleep(WATCHDOG_SECONDS / 2)
    assert manager.times("WATCHDOG=1") == []


def test_the_watchdog_is_not_fed_while_a_deployment_stands_still_and_is_again_when_it_moves(
    make_agent, manager, slow_web, image, frozen
):
    disk, freeze, thaw = frozen
    agent = make_agent(
        disks=(disk,),
        command=("-c", IMPATIENT),
        environment={"NOTIFY_SOCKET": manager.name, **WATCHDOG},
    ).start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    freeze()
    agent.wait(lambda: "deployment_stands_still" in agent.log, "it says so")
    time.sleep(0.3)
    still = time.monotonic()
    time.sleep(WATCHDOG_SECONDS)
    assert manager.times("WATCHDOG=1", still) == []
    assert healthy(agent), "the loop itself is alive: only the deployment is not"
    thaw()
    agent.wait_for("done", "error")
    moving = time.monotonic()
    time.sleep(WATCHDOG_SECONDS)
    assert manager.times("WATCHDOG=1", moving)
    agent.end()


def test_the_slowest_line_that_is_not_dropped_counts_as_movement():
    """Bytes are counted by whole buffers: filling one must not look like standing still."""
    assert BUFFER_SIZE / HttpLimits().min_rate * 1.5 < STALL_SECONDS


def test_a_manager_that_has_gone_is_no_fault(make_agent, manager, web, image):
    agent = make_agent(environment={"NOTIFY_SOCKET": manager.name, **WATCHDOG}).start()
    manager.wait_for("READY=1")
    manager.close()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    assert agent.end(signal.SIGTERM) == 0
