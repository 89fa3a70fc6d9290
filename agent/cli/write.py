"""`byoi write`: a deployment in this process, to a disk or a file, without a daemon and without a reboot."""

import argparse
import asyncio
import dataclasses
import errno
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from agent.cli.display import show_progress
from agent.cli.output import (
    EXIT_DONE,
    exit_status,
    print_failure,
    print_json,
)
from agent.deploy.plan import Plan
from agent.deploy.runner import Deployment
from agent.deploy.target import Options
from agent.errors import DiskGroupUnknown, Fault, JobInvalid
from agent.host.disk import make_sparse
from agent.model.job import MAX_JOB_BYTES, Job, load_job, parse_job
from agent.units import parse_size

NAME = "write"
HELP = "deploy an image to a disk or a file"
DESCRIPTION = """\
Deploy an image to a disk, here and now: it is streamed, hashed and written in one pass, and the disk becomes
bootable in the last write, once the checksum is right. Everything on the disk is lost. Nothing is written
before all checks that need no writing have passed; --dry-run ends there and shows the plan.
"""
EXAMPLES = """\
examples:
  byoi write job.json --disk /dev/sda
  byoi write job.json --disk disk.img --size 20G --dry-run
  byoi write --url https://images.example.net/debian.raw --type raw --checksum sha256:9f86d0... \\
      --hostname web1 --ssh-key ~/.ssh/id_ed25519.pub --user-data setup.sh \\
      --disk /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `byoi write`."""
    parser.add_argument("job", nargs="?", metavar="JOB.json", help="the job document; - reads it from stdin")
    target = parser.add_argument_group("where to")
    target.add_argument(
        "--disk", metavar="PATH", help="a whole disk, or a regular file that stands in for one"
    )
    target.add_argument(
        "--size", type=_size, help="make --disk a new sparse file of this size (20G is 20 GiB)"
    )
    target.add_argument(
        "--disk-group", type=int, metavar="N", help="the first disk of group N (0: the default group)"
    )
    target.add_argument(
        "--firmware",
        choices=("auto", "uefi", "bios"),
        default="auto",
        help="what the server boots with (default: auto)",
    )
    job = parser.add_argument_group("the job, without a document")
    job.add_argument("--url", help="http:, https: or file: URL of the image, or a path")
    job.add_argument("--type", help="qcow2, raw or ova")
    job.add_argument(
        "--checksum", metavar="TYPE:HEX", help="md5, sha1, sha256 or sha512 of the file behind the URL"
    )
    job.add_argument(
        "--header", action="append", metavar="NAME:VALUE", help="HTTP header; @FILE reads lines of them"
    )
    job.add_argument(
        "--efi-bootloader", metavar="PATH", help=r"must exist on the ESP, such as \EFI\debian\grubx64.efi"
    )
    job.add_argument(
        "--config-drive", action="store_true", help="write a config drive even with nothing to put on it"
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
    how = parser.add_argument_group("how")
    how.add_argument(
        "--dry-run", action="store_true", help="show the plan and what would be refused; write nothing"
    )
    how.add_argument(
        "--json", action="store_true", help="print the final status (or the plan) as JSON on stdout"
    )
    how.add_argument(
        "--ca-file", metavar="FILE", help="trust these certificates for https instead of the system's"
    )
    how.add_argument("--quiet", action="store_true", help="no progress on stderr")
    how.add_argument("--verbose", action="store_true", help="log to stderr")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi write` out."""
    _configure_log(verbose=options.verbose)
    job = _read_job(options)
    if options.disk is None and options.disk_group is None and job.disk_group_id is None:
        raise _usage("--disk", "name the disk with --disk PATH, or its group with --disk-group N")
    if options.disk_group is not None:
        job = _with_group(job, options.disk_group)
    deploy_options = Options(
        disk=options.disk,
        firmware=None if options.firmware == "auto" else options.firmware,
        ca_file=options.ca_file,
    )
    _cancel_on_signals()
    with _new_file(options.disk, options.size, discard=options.dry_run):
        if options.dry_run:
            return await _preview(job, deploy_options, as_json=options.json)
        return await _deploy(job, deploy_options, options)


def _cancel_on_signals() -> None:
    """Ctrl-C and SIGTERM cancel the running task, so that it can clean up behind itself."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel if task is not None else sys.exit)


async def _deploy(job: Job, deploy_options: Options, options: argparse.Namespace) -> int:
    display = show_progress(quiet=options.quiet)
    deployment = Deployment(job, deploy_options, display.listen)
    try:
        async with display.following(deployment.snapshot):
            status = await deployment.run()
    except asyncio.CancelledError:
        status = deployment.snapshot()
    document = status.document()
    if status.error is not None:
        print_failure(status.error)
    if options.json:
        print_json(document)
    return EXIT_DONE if status.error is None else exit_status(status.error)


async def _preview(job: Job, deploy_options: Options, *, as_json: bool) -> int:
    plan = await Deployment(job, deploy_options).preview()
    if as_json:
        print_json(plan.document())
    else:
        _print_plan(plan)
    return exit_status(plan.refusals[0].document()) if plan.refusals else EXIT_DONE


def _print_plan(plan: Plan) -> None:
    for note in plan.notes:
        print(note)
    print("stages:")
    for step in plan.steps:
        print(f"  {'!' if step.destructive else ' '} {step.stage.value:<10} {step.title}")
    print("  (! writes to the disk)")
    if not plan.refusals:
        print("Nothing stands against it. Nothing was written.")
    for refusal in plan.refusals:
        print(f"refused [{refusal.code}]: {refusal}")
        if refusal.hint:
            print(f"  hint: {refusal.hint}")


@contextmanager
def _new_file(path: str | None, size: int | None, *, discard: bool) -> Iterator[None]:
    """Make the file of --size; a dry run takes it away again."""
    if size is None:
        yield
        return
    if path is None:
        raise _usage("--size", "needs --disk PATH, the file to make")
    existed = Path(path).exists()
    try:
        make_sparse(path, size)
    except FileExistsError:
        raise _usage(
            "--size", f"{path} exists and is no regular file of {size} bytes; it is left alone"
        ) from None
    except OSError as error:
        raise _usage("--size", f"{path} could not be made: {error.strerror}") from None
    try:
        yield
    finally:
        if discard and not existed:
            Path(path).unlink(missing_ok=True)


def _read_job(options: argparse.Namespace) -> Job:
    if options.job is None:
        return parse_job(_document(options))
    given = [name for name in _JOB_OPTIONS if getattr(options, name)]
    if given:
        raise _usage("--" + given[0].replace("_", "-"), "goes with --url, not with a job document")
    return load_job(_read(options.job, "JOB.json"))


_JOB_OPTIONS = (
    "url", "type", "checksum", "header", "efi_bootloader", "config_drive", "hostname", "ssh_key", "user_data",
    "vendor_data", "network_data", "meta",
)  # fmt: skip


def _document(options: argparse.Namespace) -> dict[str, Any]:
    if options.url is None:
        raise _usage("JOB.json", "give a job document, or --url and --type")
    algorithm, _, digest = (options.checksum or "").partition(":")
    wants_drive = any(getattr(options, name) for name in _JOB_OPTIONS[5:])
    keys = [_read(path, "--ssh-key").decode(errors="replace").strip() for path in options.ssh_key or ()]
    drive = {
        "enable": True,
        "hostname": options.hostname,
        "sshKey": "\n".join(keys) or None,
        "userData": _text(options.user_data, "--user-data"),
        "vendorData": _json(options.vendor_data, "--vendor-data"),
        "networkData": _json(options.network_data, "--network-data"),
        "userMetadatas": [_pair(item, "=", "--meta") for item in options.meta or ()] or None,
    }
    return {
        "URL": _url(options.url),
        "type": options.type,
        "checkSum": digest or None,
        "checkSumType": algorithm or None,
        "efiBootloaderPath": options.efi_bootloader,
        "httpHeader": [_pair(line, ":", "--header") for line in _header_lines(options.header or ())] or None,
        "configdrive": drive if wants_drive else None,
    }


def _url(text: str) -> str:
    """A path is as good as a file: URL here, where a person types it."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) and Path(text).exists():
        return Path(text).absolute().as_uri()
    return text


def _header_lines(items: list[str] | tuple[str, ...]) -> Iterator[str]:
    for item in items:
        if item.startswith("@"):
            # A secret on the command line is seen by every user of the machine; in a file it is not.
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
        raise _usage(option, f"expected NAME{separator}VALUE")
    return {"key": key.strip(), "value": value.strip() if separator == ":" else value}


def _text(path: str | None, option: str) -> str | None:
    if path is None:
        return None
    try:
        return _read(path, option).decode()
    except UnicodeDecodeError as error:
        raise _usage(
            option, f"{path} is not UTF-8 at byte {error.start}, which the job's JSON cannot carry"
        ) from None


def _json(path: str | None, option: str) -> Any:
    text = _text(path, option)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise _usage(option, f"{path} is not JSON: {error}") from None


def _read(path: str, option: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_JOB_BYTES + 1)
        with Path(path).open("rb") as file:
            return file.read(MAX_JOB_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno == errno.ENOENT:
            reason = "there is no such file"
        raise _usage(option, f"{path}: {reason}") from None


def _usage(option: str, message: str) -> JobInvalid:
    return JobInvalid([Fault(option, message)])


def _with_group(job: Job, group: int) -> Job:
    if group < 0:
        raise DiskGroupUnknown(group=group)
    return dataclasses.replace(job, disk_group_id=group)


def _configure_log(*, verbose: bool) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
