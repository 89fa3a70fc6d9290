"""What the daemon's unit lets its process do, tried by a process in the daemon's place, under systemd."""

import json
from pathlib import Path

from tests.lab import rescue

UNIT = "byoi-agent.service"
PROBE = Path(__file__).with_name("sandbox_probe.py")
PLACE = "/run/byoi-agent/sandbox"
# The unit itself with its drop-ins, but for what it runs and how it is said to be ready.
AS_PROBE = f"""\
set -eu
dropins=/run/systemd/system/{UNIT}.d
mkdir -p {PLACE} $dropins
cat >{PLACE}/probe.py
cat >$dropins/zz-probe.conf <<END
[Service]
Type=oneshot
NotifyAccess=none
WatchdogSec=0
Restart=no
ExecReload=
ExecStopPost=
ExecStart=
ExecStart=$(echo /usr/bin/python3.*) -I {PLACE}/probe.py {PLACE}/outcome
END
systemctl daemon-reload
systemctl stop {UNIT}
systemctl start {UNIT}
cat {PLACE}/outcome
"""
ALLOWED = {"write /run/byoi-agent", "write /tmp", "socket AF_INET"}


async def test_the_unit_lets_the_daemon_do_its_work_and_nothing_else() -> None:
    async with rescue.restored("bios") as machine:
        said = json.loads(await machine.ssh.run(AS_PROBE, stdin=PROBE.read_bytes()))
    assert {name for name, outcome in said.items() if outcome == "done"} == ALLOWED
    # Refused, and not for another reason.
    refused = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT"}
    assert {name: outcome for name, outcome in said.items() if outcome not in {"done", *refused}} == {}
