"""Inspection: Ironic asks for what a server is, and gets it from the agent."""

from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_system
from tests.kit.images import Image
from tests.kit.ironic.conductor import Conductor
from tests.kit.ironic.machine import source
from tests.kit.pages import Web


def test_a_server_is_inspected_and_then_deployed(
    make_machine: MakeMachine, shared_conductor: Conductor, web: Web, image: Image
):
    """As metal3 registers one: the same agent goes on to the deployment."""
    url = f"{shared_conductor.url}/v1/continue_inspection"
    one = make_machine(enrolled_only=True, config=f'inspection_url = "{url}"')
    one.node.provision("manage")
    one.node.wait("manageable")
    one.node.provision("inspect")
    one.node.wait("inspect wait")
    one.agent.start()
    node = one.node.wait("manageable")
    assert node["properties"]["cpu_arch"] == "x86_64"
    inventory = one.node.ironic.call("GET", f"/v1/nodes/{one.node.uuid}/inventory")["inventory"]
    (card,) = [card for card in inventory["interfaces"] if card["name"] != "lo"]
    assert card["mac_address"] == one.card.mac
    assert card["ipv4_address"] == one.card.address
    assert inventory["memory"]["physical_mb"] > 0
    assert inventory["cpu"]["count"] > 0
    one.node.provision("provide")
    one.node.wait("available")
    one.deploy(source(web.publish(image.path), image.sha256))
    assert_system(one.disk, image)
