"""What the daemon's unit lets its process do, tried by a process in the daemon's place, under systemd."""

import json
from pathlib import Path

from tests.lab import rescue
from tests.lab.place import SYSTEM_PYTHON, run_in_place

PROBE = Path(__file__).with_name("sandbox_probe.py")
ALLOWED = {"write /run/byoi-agent", "write /tmp", "socket AF_INET"}


async def test_the_unit_lets_the_daemon_do_its_work_and_nothing_else() -> None:
    async with rescue.restored("bios") as machine:
        said = json.loads(await run_in_place(machine.ssh, PROBE.read_bytes(), SYSTEM_PYTHON))
    assert {name for name, outcome in said.items() if outcome == "done"} == ALLOWED
    # Refused, and not for another reason.
    refused = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT"}
    assert {name: outcome for name, outcome in said.items() if outcome not in {"done", *refused}} == {}
