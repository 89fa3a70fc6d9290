"""The file of `byoi write --receipt`: made before anything is written to a disk, filled when the deployment is over."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli.job_options import usage
from agent.cli.output import print_stderr
from agent.units import KiB

Keep = Callable[[Mapping[str, Any]], bool]
"""Keeps the receipt of a deployment, from its last status document; False where the file does not take it."""

_ROOM = 256 * KiB
"""What the largest receipt takes, and more: a filesystem without that is full before the deployment, not behind it."""


@contextmanager
def receipt_file(options: argparse.Namespace) -> Iterator[Keep | None]:
    """While the block runs the file is there, and has its room. One that was not filled is removed. Blocking.

    Raises:
        JobInvalid: the file or the key of the options cannot be used. Nothing is left of the file.
    """
    if options.receipt is None:
        if options.receipt_key is not None:
            raise usage("--receipt-key", "goes with --receipt")
        yield None
        return
    if options.dry_run:
        raise usage("--receipt", "tells what was done, and --dry-run does nothing")
    key = None if options.receipt_key is None else _read_key(options.receipt_key)
    path, filled = options.receipt, False
    descriptor = _make(path)

    def keep(status: Mapping[str, Any]) -> bool:
        from agent.deploy.receipt import make_receipt  # noqa: PLC0415 - not for a job that is refused

        nonlocal filled
        try:
            _fill(descriptor, json.dumps(make_receipt(status, key), indent=2).encode("ascii") + b"\n")
        except OSError as error:
            print_stderr(f"error: {path} does not take the receipt: {error.strerror}")
            return False
        filled = True
        return True

    try:
        yield keep
    finally:
        os.close(descriptor)
        if not filled:
            Path(path).unlink(missing_ok=True)


def _read_key(path: str) -> str:
    """The private key of a file, as the daemon reads that of receipt.key_file."""
    from agent.formats.dsse import KeyFault, seal  # noqa: PLC0415 - not needed without a key
    from agent.service.config.secrets import check_signing_key, read_secret  # noqa: PLC0415

    try:
        key = read_secret(path, check_signing_key)
        seal("", b"", key.value)  # only the library tells whether it is whole
    except (ValueError, KeyFault) as fault:
        raise usage("--receipt-key", f"{path} {fault}") from None
    if key.warning:
        print_stderr(f"{path}: {key.warning}")
    return key.value


def _make(path: str) -> int:
    """Make the file; returns its descriptor. A receipt is a proof: none is overwritten, nor anything else."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise usage("--receipt", f"{path} exists; it is left alone") from None
    except OSError as error:
        raise usage("--receipt", f"{path} could not be made: {error.strerror}") from None
    try:
        os.posix_fallocate(descriptor, 0, _ROOM)
    except OSError as error:
        os.close(descriptor)
        Path(path).unlink(missing_ok=True)
        raise usage("--receipt", f"{path} has no room: {error.strerror}") from None
    return descriptor


def _fill(descriptor: int, text: bytes) -> None:
    done = 0
    while done < len(text):
        done += os.pwrite(descriptor, text[done:], done)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
