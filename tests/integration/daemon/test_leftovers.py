"""What deployments and clients leave in a daemon that lives on: nothing."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.units import KiB, MiB
from tests.kit.deployments import job


def shared_memory(agent):
    """Resident bytes of shared anonymous mappings: the pool's buffers, and those that writes bounce off."""
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssShmem:")]
    return int(line.split()[1]) * KiB


def mismatch(agent, web, image):
    agent.post(job(web.url, "0" * 64))
    assert agent.wait_for("error")["error"]["code"] == "checksum.mismatch"


def done(agent, web, image):
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")


def cut_off(agent, web, image):
    """The download fails while both threads are at work."""
    sent = []

    def answer(request):
        sent.append(1)
        if len(sent) == 1:
            request.file(image.data, upto=15 * MiB)
        else:
            request.head(404, Content_Length=0)

    web.answer = answer
    agent.post(job(web.url, image.sha256))
    agent.wait_for("error")


def cancelled(agent, web, image):
    def stall(request):
        request.head(200, Content_Length=len(image.data))
        request.send(image.data[: 15 * MiB])
        request.server.stopping.wait(60)

    web.answer = stall
    agent.post(job(web.url, image.sha256))
    agent.wait_for("write")
    agent.wait(lambda: shared_memory(agent) > 8 * MiB, "the buffers are in use")
    assert agent.delete().status == 200


@pytest.mark.parametrize("deployment", [done, mismatch, cut_off, cancelled])
def test_the_buffers_are_given_back_when_a_deployment_is_over(make_agent, web, image, deployment):
    agent = make_agent().start()
    deployment(agent, web, image)
    agent.wait(lambda: shared_memory(agent) < MiB, "the memory is given back", 5)


@pytest.mark.parametrize("path", ["/v1/status?since=@&wait=60", "/v1/events"])
def test_clients_that_stopped_waiting_take_no_place_from_others(make_agent, path):
    """More of them than there may be connections, one hundred after the other."""
    agent = make_agent().start()
    path = path.replace("@", str(agent.status()["revision"]))
    for _ in range(11):
        with ExitStack() as clients:
            for _ in range(100):
                client = clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                client.connect(str(agent.socket))
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.3)  # until they are being waited for
    agent.wait(agent.answers, "the last ones' places are free again")
