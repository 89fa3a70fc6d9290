"""What a deployment leaves in a daemon that lives on: nothing of its memory."""

from pathlib import Path

import pytest

from agent.units import KiB, MiB
from tests.integration.harness import job


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

    def answer(request, _number):
        sent.append(1)
        if len(sent) == 1:
            request.file(image.data, upto=15 * MiB)
        else:
            request.head(404, Content_Length=0)

    web.answer = answer
    agent.post(job(web.url, image.sha256))
    agent.wait_for("error")


def cancelled(agent, web, image):
    def stall(request, _number):
        request.head(200, Content_Length=len(image.data))
        request.wfile.write(image.data[: 15 * MiB])
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
