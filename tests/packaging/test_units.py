"""The units, as far as they can be judged without a running systemd."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/byoi-agent.service"
LIMIT = 4.5


@pytest.fixture(scope="module")
def exposure() -> float:
    """What systemd makes of the daemon's sandbox: 0 is none of the system within reach, 10 all of it."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Overall exposure level for byoi-agent\.service: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def test_the_daemon_is_confined(exposure):
    assert exposure <= LIMIT


def test_the_documentation_gives_the_exposure_that_is(exposure):
    assert f"**{exposure}**" in (ROOT / "docs/packaging.md").read_text()


def test_the_daemon_is_restarted_when_it_fails_but_not_for_a_faulty_configuration():
    unit = UNIT.read_text()
    assert "\nRestart=on-failure\n" in unit
    assert "\nRestartPreventExitStatus=2\n" in unit
    assert "\nRuntimeDirectoryPreserve=yes\n" in unit, "a restart would lose the journal"
