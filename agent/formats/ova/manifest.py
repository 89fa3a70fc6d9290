"""The manifest of an OVA: reads the digests of the members and compares them with the members as they pass.

Used by `agent.formats.ova.decoder`. If the manifest comes before a member, only the algorithms that it names are
computed; if it comes after, all three are, because an entry that could not be checked must not be accepted. Source:
DMTF DSP0243 2.1, section 5.1.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Protocol

from agent.errors import ChecksumMismatch, ImageDamaged, ImageUnsafe
from agent.units import MiB

MAX_MANIFEST = MiB
ALGORITHMS = ("sha1", "sha256", "sha512")

# A name may contain parentheses: it ends at the last one. OpenSSL 3 writes SHA2-256 and SHA2-512.
_LINE = re.compile(r"(SHA-?1|SHA2?-?256|SHA2?-?512)\s*\((.+)\)\s*=\s*([0-9a-f]+)", re.IGNORECASE)
_HEX_LENGTH = {"sha1": 40, "sha256": 64, "sha512": 128}


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass
class Digests:
    """The running digests of one member."""

    _hashes: dict[str, _Hash]

    def update(self, data: memoryview) -> None:
        """Add the member's next bytes."""
        for digest in self._hashes.values():
            digest.update(data)

    def hex(self) -> dict[str, str]:
        """The digest of each algorithm, in hexadecimal."""
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}


@dataclass
class Manifest:
    """The digests that the manifest gives and those of the members, in whatever order they come."""

    present: bool = False
    _expected: dict[str, dict[str, str]] = field(default_factory=dict)
    _found: dict[str, dict[str, str]] = field(default_factory=dict)

    def digests(self, name: str) -> Digests:
        """The digests to compute for the member `name`, which begins now."""
        wanted = tuple(self._expected.get(name, ())) if self.present else ALGORITHMS
        return Digests({algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in wanted})

    def add_member(self, name: str, digests: Digests) -> None:
        """Note the digests of a complete member.

        Raises:
            ChecksumMismatch: the manifest has a different digest for it.
        """
        self._found[name] = digests.hex()
        self._compare(name)

    def read(self, name: str, data: bytes) -> None:
        """Read the manifest and compare it with the members that have passed.

        Args:
            name: its own name in the archive, from which the names in it are resolved. An entry for the manifest
                itself is ignored: it cannot be true.
            data: its text, in UTF-8.

        Raises:
            ImageDamaged: a line is not a digest.
            ImageUnsafe: it is the archive's second manifest (check `ova_manifest`).
            ChecksumMismatch: it has a different digest for a member.
        """
        if self.present:
            raise ImageUnsafe(check="ova_manifest", detail="the archive has two manifests")
        self.present = True
        for line in data.decode("utf-8-sig", "replace").splitlines():
            if line.strip() and not line.startswith("#"):
                self._read_line(line.strip(), name)
        self._expected.pop(name, None)
        for found in self._found:
            self._compare(found)

    def finish(self, needed: tuple[str, ...]) -> None:
        """Check, at the archive's end, that every named member has passed and that the members `needed` are named.

        Raises:
            ImageDamaged: one of the two is not so.
        """
        if not self.present:
            return
        missing = sorted(set(self._expected) - set(self._found))
        unnamed = sorted(set(needed) - set(self._expected))
        if missing:
            raise _damaged(f"its manifest names {missing[0][:200]!r}, which the archive does not have")
        if unnamed:
            raise _damaged(f"its manifest does not name {unnamed[0][:200]!r}")

    def _read_line(self, line: str, manifest: str) -> None:
        match = _LINE.fullmatch(line)
        algorithm = "" if match is None else match[1].lower().replace("sha2-", "sha").replace("-", "")
        if match is None or len(match[3]) != _HEX_LENGTH.get(algorithm):
            raise _damaged(f"its manifest has the line {line[:200]!r}")
        entry = self._expected.setdefault(resolve(manifest, match[2].strip().removeprefix("./")), {})
        if entry.setdefault(algorithm, match[3].lower()) != match[3].lower():
            raise _damaged(f"its manifest has two digests for {match[2][:200]!r}")

    def _compare(self, name: str) -> None:
        found = self._found[name]
        for algorithm, expected in self._expected.get(name, {}).items():
            if found[algorithm] != expected:
                raise ChecksumMismatch(
                    algorithm=algorithm,
                    got=found[algorithm],
                    expected=expected,
                    detail=f"the manifest of the OVA says so for its member {name!r}",
                    hint="The OVA is damaged or was changed after its export: export it again.",
                )


def resolve(member: str, name: str) -> str:
    """The name in the archive of the file that `member` refers to as `name`, relative to its own directory."""
    directory, slash, _ = member.rpartition("/")
    return f"{directory}{slash}{name}"


def _damaged(reason: str) -> ImageDamaged:
    return ImageDamaged(format="ova", reason=reason)
