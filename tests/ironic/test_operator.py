"""What docs/ironic.md tells an operator to type, typed: the page's own commands, by Ironic's own client."""

import json
import os
import subprocess
from pathlib import Path

from tests.ironic.conftest import MakeMachine
from tests.kit.checks import assert_complete, config_drive
from tests.kit.commands import ROOT
from tests.kit.images import Image
from tests.kit.ironic.conductor import Conductor
from tests.kit.pages import Web

FIRST = "baremetal node create"
"""The first command that is for the conductor: those above it build files and copy them."""


def _commands() -> str:
    document = (ROOT / "docs/ironic.md").read_text()
    block = document.partition("## From nothing to active")[2].partition("```sh\n")[2].partition("```")[0]
    assert block.count(FIRST) == 1
    return FIRST + block.partition(FIRST)[2]


def _make_drive(directory: Path) -> None:
    path = directory / "config-drive/openstack/latest/meta_data.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"uuid": "of-an-operator", "hostname": "n1"}))


def test_the_commands_of_the_page_end_in_active(
    make_machine: MakeMachine,
    environment: Path,
    shared_conductor: Conductor,
    web: Web,
    qcow2: Image,
    image: Image,
    tmp_path: Path,
):
    one = make_machine(enrolled_only=True)
    one.node.ironic.call("DELETE", f"/v1/nodes/{one.node.uuid}")  # the operator enrolls it, with its port
    _make_drive(tmp_path)
    url = web.publish(qcow2.path, "debian-12.qcow2")
    typed = (
        _commands()
        .replace("--driver redfish", "--driver fake-hardware")  # there is no BMC
        .replace("http://HTTP/debian-12.qcow2", url)
        .replace("MAC", one.card.mac)
        .replace("HEX", qcow2.sha256)
    )
    one.agent.start()  # the BMC would start it when it is told to
    done = subprocess.run(
        ["sh", "-euc", typed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{environment}/bin:{os.environ['PATH']}",
            "OS_AUTH_TYPE": "none",
            "OS_ENDPOINT": shared_conductor.url,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "active"
    assert_complete(one.disk, image, tmp_path)
    assert b'"hostname": "n1"' in config_drive(one.disk)
