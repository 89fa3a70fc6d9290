"""A server that holds each connection back: how many there are is in the status, the events and the metrics."""

import re
import socket
import time

import pytest

from agent.units import MiB
from tests.kit.deployments import job
from tests.kit.disks import make_disk
from tests.kit.images import make_image
from tests.kit.server import SO_MAX_PACING_RATE, serving

RATE = 8 * MiB
"""So slow that eight take seconds, and a status comes about once in a second."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("large"), 112 * MiB)


@pytest.fixture
def shaping(large):
    """A server of the image that sends no more than so many bytes a second over one connection."""

    def answer(request):
        request.connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
        request.file(large.data)

    with serving(answer, keep=True) as server:
        yield server


@pytest.mark.parametrize("most", [8, 1])
def test_how_many_there_are_is_told(make_agent, shaping, large, tmp_path, most):
    disk = make_disk(tmp_path / "large.img", 128 * MiB)
    agent = make_agent(disks=(disk,), config=f"[download]\nconnections = {most}\n").start()
    agent.post(job(shaping.url, large.sha256))
    seen, counted = set(), set()
    while (status := agent.status())["status"] == "doing":
        seen.add(status["connections"])
        found = re.search(rb"^byoi_deployment_connections (\S+)$", agent.get("/metrics").body, re.MULTILINE)
        counted.add(float(found[1]) if found else 0.0)
        time.sleep(0.1)
    assert (status["status"], status["connections"]) == ("done", 0)
    assert max(seen) <= most
    assert (max(seen) > 1, max(counted) > 1) == (most > 1, most > 1)
