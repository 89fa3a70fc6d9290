"""`byoi receipt`: shows the receipt of the last deployment, or checks one that was kept.

A receipt that is checked comes from anywhere: nothing of it is shown before its signature is good.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cli.client import Client, socket_path
from agent.cli.failures import BadAnswer
from agent.cli.job_options import usage
from agent.cli.output import EXIT_DONE, EXIT_FAILED, print_json, print_stderr, print_stdout
from agent.formats.dsse import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    EnvelopeFault,
    KeyFault,
    NotVerified,
    envelope_of,
    read_envelope,
    verify,
)
from agent.model.receipt import PAYLOAD_TYPE, PREDICATE_TYPE
from agent.model.verification import COMMIT, READBACK
from agent.text import printable
from agent.units import format_size

_WIDTH = 11
_MAX_KEY_BYTES = 64 * 1024


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi receipt` out; returns the exit status.

    Raises:
        JobInvalid: the options do not fit together, or a file cannot be read.
        ClientError: the daemon cannot be asked, or has no receipt.
        OutputLost: stdout does not take it.
    """
    if (options.verify is None) != (options.key is None):
        given, other = ("--key", "--verify") if options.verify is None else ("--verify", "--key")
        raise usage(given, f"goes with {other}")
    if options.verify is not None:
        return _verify(options)
    client = Client(socket_path(options.socket))
    document = await client.call("GET", "/v1/receipt")
    try:
        envelope = envelope_of(document)
        statement = _statement(envelope)
    except EnvelopeFault as fault:
        raise BadAnswer(client.path, f"its receipt cannot be read: {fault}") from None
    if options.json:
        print_json(document)
    else:
        print_stdout("\n".join((*_words(statement), _signers(envelope))))
    return EXIT_DONE


def _verify(options: argparse.Namespace) -> int:
    """Check a file; 1 where it is no receipt, or no signature of it is good by the key."""
    text = _read(options.verify, "--verify", MAX_ENVELOPE_BYTES + 1)
    key = _read(options.key, "--key", _MAX_KEY_BYTES)
    try:
        envelope = read_envelope(text)
        name = verify(envelope, key)
        statement = _statement(envelope)
    except KeyFault as fault:
        raise usage("--key", f"{options.key} {fault}") from None
    except (EnvelopeFault, NotVerified) as fault:
        print_stderr(f"error: {options.verify} is not a good receipt: {fault}")
        return EXIT_FAILED
    if options.json:
        print_json(statement)
    else:
        print_stdout("\n".join((*_words(statement), _line("signature", f"good, by the key {name}"))))
    return EXIT_DONE


def _read(path: str, option: str, most: int) -> bytes:
    try:
        if path == "-" and option == "--verify":
            return sys.stdin.buffer.read(most)
        with Path(path).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise usage(option, f"{path} cannot be read: {error.strerror}") from None


def _statement(envelope: Envelope) -> dict[str, Any]:
    """The statement in an envelope.

    Raises:
        EnvelopeFault: it is something else than a receipt.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise EnvelopeFault("it holds something else than an in-toto statement")
    try:
        statement = json.loads(envelope.payload)
    except (ValueError, RecursionError):
        raise EnvelopeFault("its payload is no JSON document") from None
    if not isinstance(statement, dict) or statement.get("predicateType") != PREDICATE_TYPE:
        raise EnvelopeFault("its statement is no receipt of byoi-agent")
    if not isinstance(statement.get("predicate"), dict):
        raise EnvelopeFault("its statement has no predicate")
    return statement


# -- words ---------------------------------------------------------------------------------------------------


def _words(statement: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a receipt. A member that is not as it should be is left out."""
    predicate: Mapping[str, Any] = statement["predicate"]
    outcome, image, times = (_table(predicate.get(key)) for key in ("outcome", "image", "times"))
    yield _line("server", predicate.get("server"))
    yield _line("outcome", f"{outcome.get('status')}: {outcome.get('message')}")
    yield _line("image", image.get("url"))
    for subject in _tables(statement.get("subject")):
        digests = _table(subject.get("digest")).items()
        yield _line(
            "subject", f"{subject.get('name')} {' '.join(f'{kind}:{digest}' for kind, digest in digests)}"
        )
    for signed in _tables(_table(predicate.get("signature")).get("signatures")):
        if signed.get("accepted"):
            yield _line("signed by", " ".join(str(signed[key]) for key in ("user", "key") if signed.get(key)))
    yield from (_line("disk", _disk(disk)) for disk in _tables(predicate.get("disks")))
    yield _line("disk state", outcome.get("diskState"))
    yield _line("read back", _READ_BACK.get(predicate.get("readBack") or "", "nothing"))
    yield _line("ended", times.get("finishedAt"))
    versions = _table(predicate.get("versions")).items()
    yield _line("versions", ", ".join(f"{name} {version}" for name, version in versions))


_READ_BACK = {COMMIT: "both ends and the config drive", READBACK: "everything that was written"}


def _disk(disk: Mapping[str, Any]) -> str:
    size = disk.get("size")
    known = [
        str(disk.get("path")),
        *(f"{name} {disk[key]}" for name, key in (("serial", "serial"), ("WWN", "wwn")) if disk.get(key)),
        *([format_size(size)] if isinstance(size, int) and 0 <= size < 2**63 else []),
        *([f"kept out: {disk['failed']}"] if disk.get("failed") else []),
    ]
    return ", ".join(known)


def _signers(envelope: Envelope) -> str:
    if not envelope.signatures:
        return _line("signature", "none: no receipt.key_file is configured")
    keys = ", ".join(name for name, _ in envelope.signatures)
    return _line("signature", f"by the key {keys}; `byoi receipt --verify` checks it")


def _line(name: str, text: object) -> str:
    return f"{name + ':':<{_WIDTH}} {printable('-' if text is None else str(text))}"


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
