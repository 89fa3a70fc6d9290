"""Checks the operator's keys: nobody else can change them, and each file holds keys of the type that its name says."""

from collections.abc import Iterator
from pathlib import Path

from agent.formats.signatures.findings import KeyFile, Refused
from agent.host.trusted_keys import SUFFIXES, find_trusted, read_trusted
from agent.service.config.model import TrustConfig
from agent.service.config.trusted_path import distrust


def trust_faults(trust: TrustConfig) -> Iterator[str]:
    """What is wrong with the directory and the files in it. Blocking."""
    if not Path(trust.keys).exists():
        if trust.require_signature:
            yield f"{trust.keys} is not there, but trust.require_signature is true: no job could be taken"
        return
    if (fault := distrust(Path(trust.keys), may_be_link=True)) is not None:
        yield str(fault)
        return
    count = 0
    for kind in SUFFIXES:
        try:
            for _, path in find_trusted(trust.keys, kind):
                if (fault := distrust(path, may_be_link=True)) is not None:
                    yield str(fault)
            files = read_trusted(trust.keys, kind)
        except (OSError, ValueError) as error:
            yield f"the keys of the type {kind} cannot be read: {error}"
            continue
        count += len(files)
        yield from _faults(kind, files)
    if trust.require_signature and not count:
        yield f"{trust.keys} holds no key, but trust.require_signature is true: no job could be taken"


def _faults(kind: str, files: dict[str, bytes]) -> Iterator[str]:
    if not files:
        return
    from agent.formats.signatures.read import require_keys  # noqa: PLC0415 - `cryptography` is not light

    for name, data in files.items():
        try:
            require_keys(kind, KeyFile(name, data))
        except Refused as refusal:
            yield str(refusal)
