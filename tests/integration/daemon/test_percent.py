"""The percentage that clients see never goes back, whenever and however the agent goes away."""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest

from agent.units import MiB
from tests.kit.agent_process import DEPLOYMENT
from tests.kit.deployments import job
from tests.kit.images import make_image


class Watcher:
    """Asks for the status without a pause, and keeps every percentage that was shown."""

    def __init__(self, agent):
        self._agent = agent
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.shown = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def _watch(self):
        while not self._stopped.is_set():
            with suppress(OSError, ValueError):  # the agent is away
                document = self._agent.request("GET", DEPLOYMENT, timeout=10).json
                if document.get("percent") is not None:
                    self.shown.append(document["percent"])
            time.sleep(0.002)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """So large that each buffer that is written is some three per cent of it."""
    return make_image(tmp_path_factory.mktemp("large"), 128 * MiB)


@pytest.fixture
def disk(tmp_path):
    (path := tmp_path / "disk.img").touch()
    os.truncate(path, 136 * MiB)
    return path


@pytest.fixture
def creeping_web(web, image):
    """Sends what is examined first at once, and the rest a buffer at a time."""

    def creep(request):
        request.head(200, Content_Length=len(image.data))
        with suppress(OSError):
            request.send(image.data[: 16 * MiB])
            for offset in range(16 * MiB, len(image.data), 2 * MiB):
                request.send(image.data[offset : offset + 2 * MiB])
                time.sleep(0.15)

    web.answer = creep
    return web


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_percentage_never_goes_back(make_agent, creeping_web, image, number):
    generator = random.Random(number)
    agent = make_agent().start()
    with Watcher(agent) as watcher:
        agent.post(job(creeping_web.url, image.sha256))
        for _ in range(4):
            agent.wait_for("write")
            time.sleep(generator.uniform(0.5, 3.5))
            agent.end(number)
            agent.start()
        agent.wait_for("done")
        agent.wait(lambda: watcher.shown[-1] == 100, "the end is seen")
    assert watcher.shown == sorted(watcher.shown)
    assert len(set(watcher.shown)) > 5
