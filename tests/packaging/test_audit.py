"""The audit of the dependencies: what advisories in files say of what is pinned."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.kit.commands import run

ROOT = Path(__file__).parents[2]
PINS = "aiohttp==3.9.1 \\\n    --hash=sha256:00\nruamel.yaml==0.18.0 ; python_version > '3'\nidna==3.7\n"


def advisory(name: str, events: list[dict[str, str]], **members: object) -> dict[str, object]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": "PYSEC-1", "summary": "a fault", "affected": [affected], **members}


def audit(advisories: Path, pins: Path) -> tuple[int, list[str]]:
    """Status, and what it says."""
    command = [sys.executable, str(ROOT / "packaging/dev/audit.py"), str(advisories), str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.fixture
def pins(tmp_path) -> Path:
    path: Path = tmp_path / "requirements.txt"
    path.write_text(PINS)
    return path


def said_of(pins: Path, *advisories: dict[str, object]) -> tuple[int, list[str]]:
    path = pins.with_name("advisories.json")
    path.write_text(json.dumps(advisories))
    return audit(path, pins)


@pytest.mark.parametrize(
    ("events", "affected"),
    [
        ([{"introduced": "0"}], True),
        ([{"introduced": "0"}, {"fixed": "3.9.2"}], True),
        ([{"introduced": "0"}, {"fixed": "3.9.1"}], False),
        ([{"introduced": "3.9.1"}, {"fixed": "3.10"}], True),
        ([{"introduced": "3.9.2"}], False),
        ([{"introduced": "3.0"}, {"last_affected": "3.9.1"}], True),
        ([{"introduced": "3.0"}, {"last_affected": "3.9.0"}], False),
        ([{"fixed": "3.1"}, {"introduced": "3.9"}, {"introduced": "0"}], True),  # events come in any order
        ([{"introduced": "0"}, {"fixed": "3.1"}, {"introduced": "3.10"}], False),
    ],
)
def test_a_pin_is_affected_between_the_events_of_a_range(pins, events, affected):
    status, said = said_of(pins, advisory("AioHTTP", events, aliases=["CVE-1"]))
    assert status == affected
    assert said[-1] == "3 distributions, 1 advisories, the newest of no date"
    assert [line.partition(" (")[0] for line in said[:-1]] == [
        "aiohttp 3.9.1: PYSEC-1, CVE-1: a fault"
    ] * affected


def test_a_version_may_be_listed_alone_and_a_name_be_spelled_otherwise(pins):
    listed = {"package": {"ecosystem": "PyPI", "name": "ruamel_yaml"}, "versions": ["0.17-dev1x", "0.18"]}
    status, said = said_of(pins, {"id": "GHSA-1", "affected": [listed]})
    assert (status, said[0]) == (1, "ruamel-yaml 0.18.0: GHSA-1: no summary")


def test_withdrawn_ones_and_those_of_other_ecosystems_do_not_count(pins):
    everything = [{"introduced": "0"}]
    elsewhere = advisory("idna", everything)
    elsewhere["affected"][0]["package"]["ecosystem"] = "npm"  # type: ignore[index]
    status, _ = said_of(pins, advisory("idna", everything, withdrawn="2026-01-01T00:00:00Z"), elsewhere)
    assert status == 0


def test_a_zip_is_read_as_it_is_given_out(pins, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr(
            "PYSEC-1.json", json.dumps(advisory("idna", [{"introduced": "0"}], modified="2026-11-01"))
        )
    assert audit(tmp_path / "all.zip", pins) == (
        1,
        ["idna 3.7: PYSEC-1: a fault", "3 distributions, 1 advisories, the newest of 2026-11-01"],
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "advisories is no JSON"),
        (b"[1]", "advisories is no advisory in the OSV format"),
        (b'[{"id": "x", "affected": [7]}]', "has no attribute"),
        (
            b'[{"id": "x", "affected": [{"package": {"ecosystem": "PyPI", "name": "idna"}, "ranges": [{}]}]}]',
            "",
        ),
    ],
)
def test_what_is_no_advisory_is_told_and_never_taken_for_none(pins, tmp_path, content, fault):
    (tmp_path / "advisories").write_bytes(content)
    status, said = audit(tmp_path / "advisories", pins)
    assert status == (2 if fault else 0)
    assert fault in said[0]


def test_files_without_pins_are_told(tmp_path):
    (tmp_path / "advisories").write_text("[]")
    (tmp_path / "pins").write_text("idna>=3\n")
    assert audit(tmp_path / "advisories", tmp_path / "pins") == (
        2,
        [f"audit: {tmp_path}/pins pins nothing: give a pip file with ==, or a bill of materials"],
    )


def test_the_command_looks_up_the_pins_of_the_package_by_itself(tmp_path):
    (tmp_path / "none").mkdir()
    said = run("sh", ROOT / "packaging/dev/audit", tmp_path / "none")
    count = len(
        [line for line in (ROOT / "packaging/requirements.txt").read_text().splitlines() if "==" in line]
    )
    assert said.strip() == f"{count} distributions, 0 advisories, the newest of no date"


def test_the_bill_of_materials_of_the_package_can_be_audited(package_tree, tmp_path):
    bill = package_tree / "usr/share/doc/byoi-agent/sbom.cdx.json"
    (tmp_path / "advisory.json").write_text(json.dumps(advisory("aiohttp", [{"introduced": "0"}])))
    status, said = audit(tmp_path / "advisory.json", bill)
    assert status == 1
    assert said[0].startswith("aiohttp 3.")
