"""What a command loads, and what it shows of this machine."""

import subprocess
import sys

import pytest

HEAVY = (
    "aiohttp",
    "rich",
    "structlog",
    "parted",
    "pyudev",
    "pycdlib",
    "isal",
    "zstandard",
    "agent.deploy",
    "shtab",
)


@pytest.mark.parametrize(
    "command", [("--help",), ("status",), ("status", "--watch"), ("deploy", "--url", "x"), ("cancel",)]
)
def test_commands_that_only_ask_start_light(command):
    """A person at a console waits for each of these modules, at every call."""
    code = (
        "import sys; from agent.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('loaded:', *(name for name in sys.modules))"
    )
    environment = {"BYOI_SOCKET": "/nonexistent.sock", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True, env=environment
    )
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "agent.cli.main" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_disks_lists_the_machine(byoi):
    outcome = byoi("disks", "--json")
    assert outcome.status == 0
    for disk in outcome.document["disks"]:
        assert disk["path"].startswith("/dev/")
        assert disk["eligible"] == (disk["reasons"] == [])
    outcome = byoi("disks")
    assert outcome.status == 0
    assert outcome.out.split()[:3] == ["group", "disk", "size"]
