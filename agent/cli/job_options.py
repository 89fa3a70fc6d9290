"""The job on the command line, as a document or as options: for `byoi write` and `byoi deploy` alike."""

import argparse
import base64
import errno
import gzip
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.cli.registry_auth import MAX_FILE_BYTES, read_registry_auth
from agent.command_line import suggestion
from agent.errors import Fault, ImageFormat, JobInvalid
from agent.model.job import BAD_CHECKSUM_TYPE, CHECKSUM_DIGITS, IMAGE_TYPES, MAX_DRIVE_BYTES
from agent.model.job_text import MAX_JOB_BYTES, TextRefused, bounded_text
from agent.model.signature import (
    CHECKSUM,
    IN_REGISTRY,
    MAX_PUBLIC_KEY_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE_TYPES,
)
from agent.model.url import redact_url
from agent.model.verification import VERIFY
from agent.units import format_size


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add JOB.json, and the options that make a job without a document."""
    parser.add_argument("job", nargs="?", metavar="JOB.json", help="the job document; - reads it from stdin")
    job = parser.add_argument_group("the job, without a document")
    job.add_argument(
        "--url",
        help="http:, https: or file: URL of the image, a path, or an image in a registry (oci://HOST/REPOSITORY:TAG)",
    )
    job.add_argument(
        "--mirror",
        action="append",
        metavar="URL",
        help="the same bytes elsewhere; tried in order where a server fails",
    )
    job.add_argument("--type", help="qcow2, raw, ova, vmdk, vhd, vhdx or vdi; without it the content decides")
    job.add_argument(
        "--checksum",
        metavar="TYPE:HEX",
        help="md5, sha1, sha256 or sha512 of the file behind the URL; without TYPE the length tells it. TYPE:URL names "
        "a checksum file (SHA256SUMS)",
    )
    job.add_argument(
        "--signature",
        metavar="TYPE[:FILE|URL]",
        help="who has to vouch for the image: openpgp, minisign, ssh, cosign or sigstore, and where the signature is; "
        "TYPE alone: in the checksum file (clear-signed), or cosign's in the registry",
    )
    job.add_argument(
        "--signature-over",
        metavar="image|checkSum",
        help="what is signed; the image is, unless the signature is in the checksum file",
    )
    job.add_argument(
        "--trusted-key",
        action="append",
        metavar="FILE|NAME",
        help="the public key that counts: a file, or names of the operator's; without it all of the operator's do",
    )
    job.add_argument(
        "--registry-auth",
        metavar="FILE",
        help="credentials for the registry: a line USER:PASSWORD, or docker's config.json",
    )
    job.add_argument(
        "--header", action="append", metavar="NAME:VALUE", help="HTTP header; @FILE reads lines of them"
    )
    job.add_argument(
        "--verify",
        choices=VERIFY,
        help="what is read back before the disk becomes bootable: both its ends and the config drive (commit), or "
        "everything that was written (readback); goes beside a document too",
    )
    job.add_argument(
        "--efi-bootloader", metavar="PATH", help=r"must exist on the ESP, such as \EFI\debian\grubx64.efi"
    )
    job.add_argument(
        "--raid",
        metavar="LEVEL",
        help="make a mirror of the image's root over two disks: raid1 (docs/raid.md)",
    )
    job.add_argument(
        "--config-drive",
        nargs="?",
        const=True,
        metavar="FILE|URL",
        help="a ready-made config drive, ISO 9660 or FAT; alone: write one even with nothing to put on it",
    )
    job.add_argument("--hostname", help="host name, by the config drive")
    job.add_argument(
        "--ssh-key", action="append", metavar="FILE", help="public SSH keys, by the config drive"
    )
    job.add_argument("--user-data", metavar="FILE", help="user data for cloud-init, byte for byte")
    job.add_argument("--vendor-data", metavar="FILE", help="vendor data (JSON) for cloud-init")
    job.add_argument("--network-data", metavar="FILE", help="network data (JSON) for cloud-init")
    job.add_argument(
        "--meta", action="append", metavar="KEY=VALUE", help="a metadata entry of the config drive"
    )


_DRIVE_OPTIONS = ("config_drive", "hostname", "ssh_key", "user_data", "vendor_data", "network_data", "meta")
_JOB_OPTIONS = (
    "url", "mirror", "type", "checksum", "signature", "signature_over", "trusted_key", "registry_auth", "header",
    "efi_bootloader", "raid", *_DRIVE_OPTIONS,
)  # fmt: skip


USAGE_HINT = "Mend what the message names; --help has every option."

# What an option gives, by the path of the job's member.
_OPTION_OF = {
    "URL": "--url",
    "mirrors": "--mirror",
    "type": "--type",
    "checkSum": "--checksum",
    "checkSumType": "--checksum",
    "signature.type": "--signature",
    "signature.url": "--signature",
    "signature.data": "--signature",
    "signature.over": "--signature-over",
    "signature.keys": "--trusted-key",
    "signature.publicKey": "--trusted-key",
    "verify": "--verify",
    "registryAuth": "--registry-auth",
    "registryAuth.auth": "--registry-auth",
    "registryAuth.username": "--registry-auth",
    "registryAuth.password": "--registry-auth",
    "efiBootloaderPath": "--efi-bootloader",
    "httpHeader": "--header",
    "raid.level": "--raid",
    "disks": "--disks",
    "configdrive.content": "--config-drive",
    "configdrive.hostname": "--hostname",
    "configdrive.sshKey": "--ssh-key",
    "configdrive.userData": "--user-data",
    "configdrive.vendorData": "--vendor-data",
    "configdrive.networkData": "--network-data",
    "configdrive.userMetadatas": "--meta",
}


def by_option(options: argparse.Namespace, faults: Sequence[Fault]) -> JobInvalid:
    """The error for the faults of a job; they name the options where the job was made of options."""
    if options.job is not None:
        return JobInvalid(faults)
    told = [replace(fault, path=_option_of(fault.path)) for fault in faults]
    if not any(fault.code == ImageFormat.code for fault in told):
        return JobInvalid(told, USAGE_HINT)
    close = suggestion(options.type or "", IMAGE_TYPES).removeprefix("; ").capitalize()
    return JobInvalid(told, f"{ImageFormat.default_hint} {close}".strip())


def _option_of(path: str) -> str:
    return _OPTION_OF.get(re.sub(r"\[\d+\].*", "", path), path)


def job_text(options: argparse.Namespace) -> bytes:
    """The job as JSON: the document byte for byte, not checked, or one made of the options. Blocking.

    At most one byte more than MAX_JOB_BYTES is read of any file, so that whoever checks the job finds it too long.

    Raises:
        JobInvalid: neither is given, or both, or a file that an option names cannot be used.
    """
    if options.job is None:
        return _encoded(_document(options))
    given = [name for name in _JOB_OPTIONS if getattr(options, name) not in (None, False)]
    if given:
        raise usage(
            "--" + given[0].replace("_", "-"),
            "stands beside a job document: put it in there",
        )
    return _read(options.job, "JOB.json")


def usage(option: str, message: str) -> JobInvalid:
    """The error for an option that cannot be used."""
    return JobInvalid([Fault(option, message)], USAGE_HINT)


def _encoded(document: dict[str, Any]) -> bytes:
    try:
        # Unescaped where that is possible, because the length of a job is bounded.
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # An option was not UTF-8. Escaped it reaches the check of the job, which names it with all other faults.
        return json.dumps(document).encode()


def _document(options: argparse.Namespace) -> dict[str, Any]:
    if options.url is None:
        raise usage("JOB.json", "give a job document, or --url")
    algorithm, digest = _checksum(options.checksum)
    wants_drive = any(getattr(options, name) for name in _DRIVE_OPTIONS)
    keys = [_read(path, "--ssh-key").decode(errors="replace").strip() for path in options.ssh_key or ()]
    drive = {
        "enable": True,
        "content": _ready_drive(options.config_drive),
        "hostname": options.hostname,
        "sshKey": "\n".join(keys) or None,
        "userData": _text(options.user_data, "--user-data"),
        "vendorData": _json(options.vendor_data, "--vendor-data"),
        "networkData": _json(options.network_data, "--network-data"),
        "userMetadatas": [_pair(item, "=", "--meta") for item in options.meta or ()] or None,
    }
    return {
        "URL": _url(options.url),
        "mirrors": options.mirror,
        "type": options.type,
        "checkSum": digest,
        "checkSumType": algorithm,
        "signature": _signature(options.signature, options.signature_over, options.trusted_key or ()),
        "registryAuth": _registry_auth(options.registry_auth, options.url),
        "efiBootloaderPath": options.efi_bootloader,
        "verify": options.verify,
        "raid": None if options.raid is None else {"level": options.raid},
        "httpHeader": [_pair(line, ":", "--header") for line in _header_lines(options.header or ())] or None,
        "configdrive": drive if wants_drive else None,
    }


def _url(text: str) -> str:
    """The URL of an option, which may be the path of a file too."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
        return text
    if not text or not Path(text).exists():
        raise usage("--url", f"{text!r} is no URL (http:, https:, file:, oci:), and there is no such file")
    return Path(text).absolute().as_uri()


def _registry_auth(path: str | None, url: str) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        return read_registry_auth(_read(path, "--registry-auth", MAX_FILE_BYTES), url)
    except ValueError as error:
        raise usage("--registry-auth", f"{path} cannot be used: {error}") from None


def _ready_drive(given: str | bool | None) -> str | None:
    """The ready-made drive of --config-drive: its URL, or base64 of the file, packed to keep the job short."""
    if not isinstance(given, str):
        return None
    if "://" in given:
        return given
    data = _read(given, "--config-drive", MAX_DRIVE_BYTES + 1)
    return base64.b64encode(data if data.startswith(b"\x1f\x8b") else gzip.compress(data, mtime=0)).decode()


def _checksum(text: str | None) -> tuple[str | None, str | None]:
    """Type and digest of --checksum. Whether they fit each other is for the check of the job."""
    if text is None:
        return None, None
    algorithm, colon, digest = text.partition(":")
    if colon and algorithm and digest and not digest.startswith("//"):  # that is a URL without a type
        algorithm = algorithm.lower()
        if algorithm not in CHECKSUM_DIGITS:
            close = suggestion(algorithm, CHECKSUM_DIGITS)
            raise usage(
                "--checksum", BAD_CHECKSUM_TYPE.removesuffix(".") + close if close else BAD_CHECKSUM_TYPE
            )
        return algorithm, digest
    by_length = {digits: name for name, digits in CHECKSUM_DIGITS.items()}
    if re.fullmatch(r"[0-9A-Fa-f]+", text) and len(text) in by_length:
        return by_length[len(text)], text
    raise usage(
        "--checksum",
        f"expected TYPE:HEX, such as sha256:9f86d0..., or TYPE:URL, with {', '.join(CHECKSUM_DIGITS)} as TYPE; got "
        f"{_shown(text)!r}",
    )


def _signature(text: str | None, over: str | None, keys: Sequence[str]) -> dict[str, Any] | None:
    """The job's signature. Whether its parts fit each other is for the check of the job.

    A type alone means that the signature is where the image or its list is: in a registry, or in the checksum file.
    """
    if text is None:
        for option, given in (("--signature-over", over), ("--trusted-key", keys)):
            if given:
                raise usage(option, "needs --signature TYPE[:FILE|URL]")
        return None
    kind, colon, place = text.partition(":")
    if kind not in SIGNATURE_TYPES:
        close = suggestion(kind, SIGNATURE_TYPES)
        raise usage(
            "--signature",
            f"expected TYPE:FILE or TYPE:URL, with {', '.join(SIGNATURE_TYPES)} as TYPE; got {_shown(text)!r}{close}",
        )
    is_url = "://" in place
    files = [key for key in keys if "/" in key or Path(key).is_file()]
    if files and len(keys) > 1:
        raise usage("--trusted-key", "give one file, or names of the operator's keys")
    return {
        "type": kind,
        "over": over or (None if colon or kind in IN_REGISTRY else CHECKSUM),
        "url": place if is_url else None,
        "data": _packed(place, "--signature", MAX_SIGNATURE_BYTES) if colon and not is_url else None,
        "keys": None if files else list(keys) or None,
        "publicKey": _packed(files[0], "--trusted-key", MAX_PUBLIC_KEY_BYTES) if files else None,
    }


def _packed(path: str, option: str, limit: int) -> str:
    """A file as text, or base64 of it where it is none."""
    data = _read(path, option, limit + 1)
    if len(data) > limit:
        raise usage(option, f"{path} is larger than {format_size(limit)}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def _shown(text: str) -> str:
    """What an option was given, for a message: a URL without its secrets."""
    return redact_url(text) if "://" in text else text[:200]


def _header_lines(items: list[str] | tuple[str, ...]) -> Iterator[str]:
    for item in items:
        if item.startswith("@"):
            # Every user of a machine can read the command lines of its processes: secrets are better in a file.
            yield from (
                line
                for line in _read(item[1:], "--header").decode(errors="replace").splitlines()
                if line.strip()
            )
        else:
            yield item


def _pair(text: str, separator: str, option: str) -> dict[str, str]:
    key, found, value = text.partition(separator)
    if not found:
        raise usage(option, f"expected NAME{separator}VALUE")
    return {"key": key.strip(), "value": value.strip() if separator == ":" else value}


def _text(path: str | None, option: str) -> str | None:
    if path is None:
        return None
    try:
        return _read(path, option).decode()
    except UnicodeDecodeError as error:
        raise usage(
            option, f"{path} is not UTF-8 at byte {error.start}, which the job's JSON cannot carry"
        ) from None


def _json(path: str | None, option: str) -> Any:
    try:
        return (
            None
            if path is None
            else json.loads(bounded_text(_read(path, option)), parse_constant=_no_constant)
        )
    except TextRefused as refusal:
        raise usage(option, f"{path} {refusal}") from None
    except ValueError as error:
        raise usage(option, f"{path} is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} stands in it")


def _read(path: str, option: str, limit: int = MAX_JOB_BYTES + 1) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(limit)
        with Path(path).open("rb") as file:
            return file.read(limit)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno == errno.ENOENT:
            reason = "there is no such file"
        raise usage(option, f"{path}: {reason}") from None
