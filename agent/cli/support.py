"""`byoi report`: what a support ticket needs, in one file, without secrets.

Whatever cannot be had is left out, and `missing.json` in the archive says why: a report is asked for when something is
broken. Documents of the agent hold no secrets; all else goes through `agent.model.blanking`.
"""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from agent import __version__
from agent.aio import run_blocking
from agent.cli.client import Client, socket_path
from agent.cli.failures import ClientError
from agent.cli.interrupt import cancel_on_signals
from agent.cli.job_options import usage
from agent.cli.output import EXIT_DONE, end_with_json, print_stderr
from agent.errors import ConfigInvalid
from agent.host.evidence import Command, gather, pack
from agent.model.blanking import blank
from agent.text import printable
from agent.units import format_size

TOOL_SECONDS = 20.0
SERVICE = "byoi-agent"
CREDENTIALS = Path("/run/credentials/byoi-agent.service")
"""Where systemd has the service's own: root reads them, to blank them."""
_JOURNAL = ("journalctl", f"--unit={SERVICE}", "--no-pager", "--output=short-iso-precise")
COMMANDS: Mapping[str, tuple[Command, ...]] = {
    # What one prints is at most 1 MiB: of long lines fewer are taken.
    "journal.txt": tuple((*_JOURNAL, f"--lines={lines}") for lines in (4000, 1000, 200)),
    "kernel.txt": (("dmesg",), ("journalctl", "--dmesg", "--no-pager", "--lines=4000")),
    "block-devices.json": (("lsblk", "--all", "--output-all", "--json"),),
    "addresses.txt": (("ip", "address"),),
    "unit.txt": (("systemctl", "show", SERVICE),),
}
_FILES = {"os-release.txt": "/etc/os-release", "kernel-command-line.txt": "/proc/cmdline"}
_MAX_FILE_BYTES = 64 * 1024
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass
class _Report:
    """The files so far, and why others are missing."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    server_name: str | None = None

    def add(self, name: str, document: Any) -> None:
        self.files[name] = json.dumps(document, indent=2).encode() + b"\n"


async def run(options: argparse.Namespace) -> int:
    """Carry `byoi report` out; returns the exit status.

    Raises:
        JobInvalid: the file is there already, or cannot be written.
        OutputLost: stdout does not take what `--json` prints.
    """
    to_stdout = options.output == "-"
    if to_stdout and options.json:
        raise usage("--json", "does not go with -o -: stdout is for the report")
    if to_stdout and sys.stdout is not None and sys.stdout.isatty():
        raise usage("-o", "- is a terminal here, and the report is no text: pipe it, or name a file")
    _require_room(options.output)
    cancel_on_signals()
    report, now = _Report(), time.time()
    await _ask(Client(socket_path(options.socket)), report)
    await run_blocking(_look, report, options.config)
    name = f"byoi-report-{_server(report)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    archive = await run_blocking(lambda: pack(report.files, directory=f"{name}/", at=now))
    path = "-" if to_stdout else options.output or f"{name}.tar.gz"
    await run_blocking(_write, path, archive)
    document = {"file": path, "size": len(archive), "files": sorted(report.files), "missing": report.missing}
    if options.json:
        return end_with_json(EXIT_DONE, document)
    _tell(path, len(archive), report)
    return EXIT_DONE


def _tell(path: str, size: int, report: _Report) -> None:
    for name, reason in report.missing.items():
        print_stderr(f"note: without {name}: {reason}")
    where = "stdout" if path == "-" else path
    print_stderr(f"{where}: {format_size(size)}, {len(report.files)} files, secrets blanked")


# -- the file ----------------------------------------------------------------------------------------------------


def _require_room(path: str | None) -> None:
    if path in (None, "-"):
        return
    if Path(str(path)).exists():
        raise usage("-o", f"{path} exists and is left alone: name another file")
    if not Path(str(path)).absolute().parent.is_dir():
        raise usage("-o", f"{path} is in a directory that is not there")


def _write(path: str, archive: bytes) -> None:
    try:
        if path == "-":
            sys.stdout.buffer.write(archive)
            sys.stdout.buffer.flush()
            return
        # For its owner alone: it has addresses and serial numbers in it.
        Path(path).touch(0o600, exist_ok=False)
        Path(path).write_bytes(archive)
    except OSError as error:
        raise usage("-o", f"{path} cannot be written: {error.strerror}") from None


def _server(report: _Report) -> str:
    return _UNFIT.sub("_", report.server_name or platform.node() or "server")[:100]


# -- what is in it -----------------------------------------------------------------------------------------------


async def _ask(client: Client, report: _Report) -> None:
    """Take what the agent tells. One that does not run costs three files."""
    for name, target in (
        ("status.json", "/v1/status"),
        ("receipt.json", "/v1/receipt"),
        ("disks.json", "/v1/disks?contents=true"),
    ):
        try:
            document = await client.call("GET", target)
        except ClientError as error:
            report.missing[name] = error.message
            continue
        report.add(name, document)
        if name == "status.json" and isinstance(document, dict):
            server = document.get("servername")
            report.server_name = server if isinstance(server, str) else None


def _look(report: _Report, config: str | None) -> None:
    """Take what this process finds by itself. Blocking."""
    secrets = _secrets(config)
    for name, make in (
        ("configuration.json", lambda: _configuration(config)),
        ("versions.json", _versions),
        *((("disks.json", lambda: _inventory(config)),) if "disks.json" not in report.files else ()),
    ):
        _try(report, name, make)
    found, missing = gather(COMMANDS, TOOL_SECONDS)
    report.missing |= missing
    for name, path in _FILES.items():
        try:
            with Path(path).open("rb") as file:
                found[name] = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            report.missing[name] = error.strerror or str(error)
    for name, content in (found | report.files).items():
        report.files[name] = blank(content.decode(errors="replace"), secrets).encode()
    report.missing = {name: blank(reason, secrets) for name, reason in report.missing.items()}
    report.add("missing.json", report.missing)


def _try(report: _Report, name: str, make: Callable[[], Any]) -> None:
    try:
        report.add(name, make())
        report.missing.pop(name, None)
    except Exception as error:  # noqa: BLE001 - the others are wanted all the same
        report.missing[name] = printable(f"{type(error).__name__}: {error}", 1000)


def _secrets(config: str | None) -> Iterable[str]:
    """The values of all secrets that this process may read."""
    from agent.service.config.model import load_secrets  # noqa: PLC0415 - see `agent.cli.groups`
    from agent.service.config.sources import kernel_command_line  # noqa: PLC0415

    credentials = CREDENTIALS if CREDENTIALS.is_dir() else None
    return load_secrets(config, cmdline=kernel_command_line(), credentials=credentials)


def _configuration(config: str | None) -> Any:
    """What `byoi-agent --check --json` prints."""
    from agent.service.config.check import explain, file_faults, find_warnings  # noqa: PLC0415 - as above
    from agent.service.config.model import load_config  # noqa: PLC0415
    from agent.service.config.sources import kernel_command_line  # noqa: PLC0415

    credentials = CREDENTIALS if CREDENTIALS.is_dir() else None
    try:
        loaded = load_config(config, cmdline=kernel_command_line(), credentials=credentials)
    except ConfigInvalid as error:
        return {"valid": False, "faults": [fault.document() for fault in error.faults]}
    faults = file_faults(loaded)
    return {
        "valid": not faults,
        "options": [{"key": row.key, "value": row.value, "origin": row.origin} for row in explain(loaded)],
        "faults": [fault.document() for fault in faults],
        "warnings": [fault.document() for fault in find_warnings(loaded)],
    }


def _inventory(config: str | None) -> Any:
    from agent.cli.groups import configured_groups  # noqa: PLC0415 - only where the agent does not tell it
    from agent.deploy.disks import inventory_document  # noqa: PLC0415

    return inventory_document(configured_groups(config))


def _versions() -> Any:
    packages = {found.name: found.version for found in metadata.distributions()}
    return {
        "byoi-agent": __version__,
        "python": platform.python_version(),
        "linux": f"{platform.release()} {platform.version()}",
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items())),
    }
