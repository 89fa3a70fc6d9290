"""A server in Ironic's hands from one owner to the next, and all that happens to it on the way."""

import shutil
from collections.abc import Iterator

import pytest

from agent.formats.image import WINDOW_BYTES
from agent.units import MiB
from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_nothing_boots, assert_system
from tests.kit.images import Image
from tests.kit.ironic.conductor import Conductor, conductor
from tests.kit.ironic.machine import DEPLOYED_SECONDS, Machine, source
from tests.kit.ironic.network import Network
from tests.kit.pages import PAUSE_SECONDS, Web

PART_WAY = WINDOW_BYTES + 4 * MiB
"""Of the image, behind what is looked at before anything is written."""


@pytest.fixture
def own_conductor(environment, wires: Network, tmp_path) -> Iterator[Conductor]:
    """That a test may end; its agents need not have TLS."""
    options = {"agent": {"require_tls": False}}
    with conductor(environment, tmp_path / "ironic", wires.address, options) as one:
        yield one


@pytest.fixture
def patient_conductor(environment, wires: Network, tmp_path) -> Iterator[Conductor]:
    """That wants heartbeats every five minutes, as Ironic does by default."""
    options = {"api": {"ramdisk_heartbeat_timeout": 300}}
    with conductor(environment, tmp_path / "ironic", wires.address, options) as one:
        yield one


def part_way(one: Machine, web: Web, image: Image) -> None:
    """Deploy until the image stands still in the middle of the write."""
    one.order(source(web.publish(image.path, pause_at=PART_WAY), image.sha256))
    assert web.paused.wait(PAUSE_SECONDS)
    one.agent.wait_for("write")


def go_on(web: Web, image: Image) -> None:
    """Let the image go on, and stand still no more."""
    web.publish(image.path)
    web.resume.set()


def test_it_is_taken_back_and_deployed_again(make_machine: MakeMachine, web: Web, image: Image, qcow2: Image):
    """The same agent: a fake server is never started anew."""
    one = make_machine()
    one.deploy(source(web.publish(image.path), image.sha256))
    one.node.undeploy()
    with one.disk.open("r+b") as file:
        file.write(bytes(one.disk.stat().st_size))
    one.deploy(source(web.publish(qcow2.path, "image.qcow2"), qcow2.sha256, "qcow2"))
    assert_system(one.disk, image)


def test_it_is_rebuilt(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    one.deploy(source(web.publish(image.path), image.sha256))
    with one.disk.open("r+b") as file:
        file.write(bytes(one.disk.stat().st_size))
    one.node.provision("rebuild")
    one.reboot()
    one.node.wait("active", seconds=DEPLOYED_SECONDS)
    assert_system(one.disk, image)


def test_what_the_operator_sees_while_it_is_written(
    make_machine: MakeMachine, patient_conductor: Conductor, web: Web, image: Image
):
    """Soon, however seldom heartbeats are."""
    one = make_machine(patient_conductor)
    part_way(one, web, image)

    def told() -> bool:
        info = one.node.show()["driver_internal_info"]
        return "%" in str(info.get("agent_status_message"))

    one.agent.wait(told, "the percentage is told")
    status = one.agent.status()
    assert (status["status"], status["stage"]) == ("doing", "write")
    go_on(web, image)
    one.node.wait("active")
    assert one.agent.status()["status"] == "done"
    assert_system(one.disk, image)


def test_an_abort_in_the_middle_of_the_write(make_machine: MakeMachine, web: Web, image: Image):
    """The agent is told nothing: it finds out by its heartbeat, stops writing, and looks itself up anew."""
    one = make_machine()
    part_way(one, web, image)
    one.node.provision("abort")
    one.node.wait("deploy failed")
    assert "aborted" in one.node.failure()
    one.agent.wait(lambda: one.agent.status()["status"] != "doing", "it stops writing", 40)
    go_on(web, image)
    assert_nothing_boots(one.disk)
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)


def test_an_undeploy_in_the_middle_of_the_write(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    part_way(one, web, image)
    one.node.undeploy()
    one.agent.wait(lambda: one.agent.status()["status"] != "doing", "it stops writing", 40)
    assert_nothing_boots(one.disk)
    go_on(web, image)
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)


def test_a_conductor_that_is_restarted_in_the_middle_of_the_write(
    make_machine: MakeMachine, own_conductor: Conductor, web: Web, image: Image
):
    one = make_machine(by=own_conductor)
    part_way(one, web, image)
    own_conductor.kill()
    own_conductor.start()
    assert one.agent.status()["status"] == "doing"
    go_on(web, image)
    one.node.wait("active", seconds=DEPLOYED_SECONDS)
    assert_system(one.disk, image)


def test_a_conductor_that_is_away_when_the_write_ends(
    make_machine: MakeMachine, own_conductor: Conductor, web: Web, image: Image
):
    one = make_machine(by=own_conductor)
    part_way(one, web, image)
    own_conductor.kill()
    go_on(web, image)
    one.agent.wait(lambda: one.agent.status()["status"] == "done", "it is written", 60)
    own_conductor.start()
    one.node.wait("active", seconds=DEPLOYED_SECONDS)
    assert_system(one.disk, image)


def test_an_agent_that_has_lost_its_token(make_machine: MakeMachine, web: Web, image: Image):
    """Ironic gives a token once. Without it nothing goes on until the node is taken back; the disk does not boot."""
    one = make_machine()
    part_way(one, web, image)
    one.agent.kill()
    shutil.rmtree(one.agent.journal.parent)
    go_on(web, image)
    one.agent.start()
    one.agent.wait(lambda: "token" in one.agent.log, "it tells why it cannot go on")
    assert one.node.state == "wait call-back"
    assert_nothing_boots(one.disk)
    one.node.undeploy()
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)


def test_a_server_is_cleaned_by_hand(make_machine: MakeMachine, web: Web, image: Image):
    one = make_machine()
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)
    one.node.undeploy()
    one.node.provision("manage")
    one.node.wait("manageable")
    steps = [{"interface": "deploy", "step": "erase_devices_metadata"}]
    one.node.provision("clean", clean_steps=steps)
    one.reboot()
    one.node.wait("manageable", seconds=DEPLOYED_SECONDS)
    assert_nothing_boots(one.disk)


def test_a_server_is_cleaned_between_two_owners(make_machine: MakeMachine, web: Web, image: Image):
    """By itself, where Ironic is told to."""
    one = make_machine()
    one.deploy(source(web.publish(image.path), image.sha256))
    one.node.set(automated_clean=True)
    one.node.provision("deleted")
    one.reboot()
    one.node.wait("available", seconds=DEPLOYED_SECONDS)
    assert_nothing_boots(one.disk)
    one.power_off()
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)
