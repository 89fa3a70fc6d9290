"""The seal of a deployment: what both ends of the disk will hold once it is committed.

Taken when everything but the commit is done, and kept in the journal. An agent that comes back after a crash compares
the disk with it and so knows whether the commit was reached: the first sector is the last thing that a commit writes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seal:
    """The disk and its size in bytes, length in bytes and SHA-256 of each end, and the checksum of the image; the size
    of the sectors that the partition table counts in, and the config drive. Without one its length is 0.
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

    def document(self) -> dict[str, Any]:
        """The seal as JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Seal":
        """Read what `document` wrote.

        Raises:
            ValueError: it is no seal.
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
        if seal.sector_size not in (512, 4096):
            raise ValueError(f"not a seal: sectors of {seal.sector_size} bytes")
        return seal
