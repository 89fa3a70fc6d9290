"""The units, as far as they can be judged without a running systemd."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/byoi-agent.service"
CONSOLE = ROOT / "systemd/byoi-console@.service"


def exposure(unit: Path) -> float:
    """What systemd makes of a unit's sandbox: 0 is none of the system within reach, 10 all of it."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


@pytest.mark.parametrize(("unit", "documented"), [(UNIT, 2.6), (CONSOLE, 0.9)], ids=["daemon", "console"])
def test_the_units_are_confined_as_far_as_the_documentation_says(unit, documented):
    """By the systemd of Debian 12; a later one may count otherwise, but finds no more."""
    assert exposure(unit) <= documented
    assert f"**{documented}**" in (ROOT / "docs/packaging.md").read_text()


def test_the_daemon_leaves_no_core_and_reaches_no_link_local_service():
    unit = UNIT.read_text()
    assert "\nLimitCORE=0\n" in unit
    assert "\nIPAddressDeny=link-local\n" in unit
    assert "io_uring_setup io_uring_enter io_uring_register" in unit


def test_the_console_is_no_root():
    unit = CONSOLE.read_text()
    assert "\nDynamicUser=yes\n" in unit
    assert "\nCapabilityBoundingSet=\n" in unit


def test_the_daemon_is_restarted_when_it_fails_but_not_for_a_faulty_configuration():
    unit = UNIT.read_text()
    assert "\nRestart=on-failure\n" in unit
    assert "\nRestartPreventExitStatus=2\n" in unit
    assert "\nExecStart=/usr/bin/byoi-agent --tell-faults\n" in unit
    assert "\nRuntimeDirectoryPreserve=yes\n" in unit, "a restart would lose the journal"
