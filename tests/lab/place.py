"""Programs in the place of a rescue's daemon, under its unit and the drop-ins of that: what it may do, and no more."""

from tests.lab.ssh import Ssh

SYSTEM_PYTHON = "/usr/bin/python3.*"
AGENT_PYTHON = "/usr/lib/byoi-agent/live-*/bin/python"
"""Which has the agent's modules. Both are patterns, each of which one file fits."""
UNIT = "byoi-agent.service"
PLACE = "/run/byoi-agent/place"
# The unit itself with its drop-ins, but for what it runs and how it is said to be ready.
INSTEAD = f"""\
set -eu
dropins=/run/systemd/system/{UNIT}.d
mkdir -p {PLACE} $dropins
cat >{PLACE}/program.py
cat >$dropins/zz-place.conf <<END
[Service]
Type=oneshot
NotifyAccess=none
WatchdogSec=0
Restart=no
ExecReload=
ExecStopPost=
ExecStart=
ExecStart=$(echo @PYTHON@) -I {PLACE}/program.py {PLACE}/outcome
END
systemctl daemon-reload
systemctl stop {UNIT}
systemctl start {UNIT} || {{ journalctl --unit {UNIT} --no-pager --lines 40 >&2; exit 1; }}
cat {PLACE}/outcome
"""


async def run_in_place(ssh: Ssh, program: bytes, python: str, *, seconds: float = 120) -> str:
    """Stop the daemon and run a program under its unit; gives what that writes into the file of its only argument.

    Args:
        ssh: the way into the rescue.
        program: Python's.
        python: SYSTEM_PYTHON or AGENT_PYTHON.
        seconds: that it may take.

    Raises:
        SshFailed: it failed; the text has its log.
    """
    return await ssh.run(INSTEAD.replace("@PYTHON@", python), stdin=program, seconds=seconds)
