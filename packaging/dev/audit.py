"""Looks pinned distributions up in advisories; see `audit` beside it, which calls this.

Sources: the OSV format 1.6 (ossf.github.io/osv-schema), CycloneDX 1.6, PEP 503 (names), PEP 440 (versions).
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
PURL = re.compile(r"^pkg:pypi/([^@]+)@([^?#]+)")

Json = dict[str, Any]


def read_advisories(path: Path) -> Iterator[Json]:
    """Every advisory of a file, a directory or a zip, those that were withdrawn left out.

    Raises:
        ValueError: something in it is no JSON, or no advisory.
    """
    for name, text in _texts(path):
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{name} is no JSON: {error}") from error
        for advisory in document if isinstance(document, list) else [document]:
            if not isinstance(advisory, dict) or "id" not in advisory:
                raise ValueError(f"{name} is no advisory in the OSV format: it has no id")
            if "withdrawn" not in advisory:
                yield advisory


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield file.name, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        yield path.name, path.read_bytes()


def read_pins(path: Path) -> dict[str, Version]:
    """Distributions by their normalised names, from a pip file or a bill of materials.

    Raises:
        ValueError: it names none.
    """
    text = path.read_text()
    if text.lstrip().startswith("{"):
        purls = (str(component.get("purl", "")) for component in json.loads(text).get("components", []))
        found = [match.groups() for purl in purls if (match := PURL.match(purl))]
    else:
        found = PIN.findall(text)
    if not found:
        raise ValueError(f"{path} pins nothing: give a pip file with ==, or a bill of materials")
    return {canonicalize_name(name): Version(version) for name, version in found}


def affects(affected: Json, version: Version) -> bool:
    """Whether one member of an advisory's `affected` names this version, by its list or by its ranges."""
    if version in {_version(listed) for listed in affected.get("versions", [])}:
        return True
    ranges = affected.get("ranges", [])
    return any(_within(each["events"], version) for each in ranges if each.get("type") == "ECOSYSTEM")


def _within(events: list[Json], version: Version) -> bool:
    """The evaluation of a range as the format prescribes it: the last event before the version decides."""
    inside = False
    for event in sorted(events, key=_place):
        ((kind, at),) = event.items()
        if kind == "introduced" and (at == "0" or version >= Version(at)):
            inside = True
        elif (kind == "fixed" and version >= Version(at)) or (
            kind == "last_affected" and version > Version(at)
        ):
            inside = False
    return inside


def _place(event: Json) -> tuple[Version, bool]:
    ((kind, at),) = event.items()
    return Version(at), kind == "last_affected"


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:  # of the time before PEP 440; no pin has one
        return None


def findings(advisories: Iterator[Json], pins: dict[str, Version]) -> Iterator[str]:
    """A line for each pin that an advisory affects."""
    for advisory in advisories:
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") == "PyPI" and name in pins and affects(affected, pins[name]):
                names = ", ".join([advisory["id"], *advisory.get("aliases", [])])
                yield f"{name} {pins[name]}: {names}: {advisory.get('summary', 'no summary')}{_mended(affected)}"


def _mended(affected: Json) -> str:
    fixed = [
        event["fixed"] for each in affected.get("ranges", []) for event in each["events"] if "fixed" in event
    ]
    return f" (mended in {', '.join(fixed)})" if fixed else ""


def main(advisories: Path, pins: Path) -> int:
    """Print what is affected; the status that `audit` documents."""
    try:
        known, wanted = list(read_advisories(advisories)), read_pins(pins)
        found = list(findings(iter(known), wanted))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    newest = max((str(advisory.get("modified", "")) for advisory in known), default="")
    print(
        *found,
        f"{len(wanted)} distributions, {len(known)} advisories, the newest of {newest or 'no date'}",
        sep="\n",
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
