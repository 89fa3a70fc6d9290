"""The seal of a deployment: digests of what the first and last MiB and the config drive will hold after the commit.

It is put into the journal when everything but the commit is done. After a crash, the next agent compares the disk with
it and so finds out whether the commit was complete: the first sector is the last that a commit writes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seal:
    """A disk after its commit. Sizes, lengths and offsets are in bytes; digests are SHA-256 in hexadecimal.

    `head` and `tail` are the first and the last part of the disk, `drive` is the config drive (length 0 without one),
    `checksum` is the digest of the image as downloaded, `sector_size` that of the partition table. `image_type`,
    `image_packing` and `signature` (as JSON) are those of the status, empty where it has null, and in seals of agents
    before 0.2.
    """

    path: str
    size: int
    head_length: int
    head_sha256: str
    tail_length: int
    tail_sha256: str
    checksum: str
    sector_size: int = 512
    drive_offset: int = 0
    drive_length: int = 0
    drive_sha256: str = ""
    image_type: str = ""
    image_packing: str = ""
    signature: str = ""

    def document(self) -> dict[str, Any]:
        """The seal as JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Seal":
        """Read what `document` returned.

        Raises:
            ValueError: it is not a seal; the text says why.
        """
        try:
            seal = cls(**document)
        except TypeError as error:
            raise ValueError(f"not a seal: {error}") from None
        for name, value in asdict(seal).items():
            if type(value) is not cls.__annotations__[name]:
                raise ValueError(f"not a seal: {name} is {value!r}")
        if not (0 < seal.head_length < seal.size < 2**63 and 0 < seal.tail_length < seal.size):
            raise ValueError(f"not a seal: {seal.head_length} and {seal.tail_length} of {seal.size} bytes")
        if not (seal.drive_offset >= 0 and 0 <= seal.drive_length <= seal.size - seal.drive_offset):
            raise ValueError(
                f"not a seal: a drive of {seal.drive_length} bytes at {seal.drive_offset} of {seal.size} bytes"
            )
        if seal.signature and not isinstance(_json(seal.signature), dict):
            raise ValueError("not a seal: its signature is no JSON object")
        if seal.sector_size not in (512, 4096):
            raise ValueError(f"not a seal: sectors of {seal.sector_size} bytes")
        return seal


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
