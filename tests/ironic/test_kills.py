"""The agent is killed at fifty random instants: Ironic never calls a server `active` whose disk is not the image."""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_system, what_is_on
from tests.kit.disks import make_disk
from tests.kit.images import Image
from tests.kit.ironic.machine import Machine, source
from tests.kit.pages import Web

KILLS = int(os.environ.get("BYOI_IRONIC_KILLS", "50"))
SERVERS = 5
PATIENCE_SECONDS = 40
TOKEN_LOST = "was given to an agent that is gone"
"""Ironic gives a token once: an agent that was killed before it had kept it is heard no more. The operator takes the
node back."""


def kill_once(one: Machine, image: Image, url: str, seconds: float) -> str:
    """One deployment, whose agent is killed so many seconds after its start: gives the node's state at the end."""
    old = make_disk(one.disk).read_bytes()
    one.order(source(url, image.sha256))
    time.sleep(seconds)
    one.agent.kill()
    one.agent.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (state := one.node.state) not in ("active", "deploy failed"):
        if state == "wait call-back" and TOKEN_LOST in one.agent.log:
            break
        assert time.monotonic() < deadline, f"{state}: {one.agent.log[-4000:]}"
        time.sleep(0.2)
    # What has a first sector is whole, also where the word of it did not arrive.
    if state == "active" or what_is_on(one.disk, old) == "system":
        assert_system(one.disk, image)
    if state == "deploy failed":
        assert one.node.failure()
    one.power_cycle()
    (one.agent.directory / "agent.log").unlink()
    one.node.undeploy()
    return state


@pytest.mark.timeout(600)
def test_fifty_kills(make_machine: MakeMachine, web: Web, image: Image):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    machines = [make_machine() for _ in range(SERVERS)]
    url = web.publish(image.path)
    began = time.monotonic()
    machines[0].deploy(source(url, image.sha256))
    usual = time.monotonic() - began
    machines[0].power_cycle()
    machines[0].node.undeploy()
    instants = [chance.uniform(0, usual * 1.5) for _ in range(KILLS)]
    states: Counter[str] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        for instant in instants[number::SERVERS]:
            state = kill_once(machines[number], image, url, instant)
            with lock:
                states[state] += 1

    with ThreadPoolExecutor(SERVERS) as pool:
        for done in [pool.submit(work, number) for number in range(SERVERS)]:
            done.result()
    print(f"seed {seed}, instants up to {usual * 1.5:.1f} s: {dict(states)}")
    assert states.total() == KILLS
    assert states["active"] > 0
