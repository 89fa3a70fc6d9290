"""`byoi-agent`: the daemon's command, and the order in which its parts are started and stopped.

Start: the configuration; the journal, which no second agent can open; the listeners; the job that the journal has goes
on; the API answers; systemd is told. What a deployment needs is imported after that, in a thread: so the socket is
served early, and an upgrade that replaces the files of a running daemon finds all of them loaded.

Stop: what runs is cancelled while the API still answers, then the listeners close. A thread that hangs in the kernel
with a dead disk cannot be waited for: then the process ends without it, and the next one finds the job in the journal.
"""

import argparse
import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent import __version__
from agent.command_line import EXIT_OUTPUT, EXIT_USAGE, CommandParser, OutputLost, standard_streams, write_err
from agent.errors import ConfigInvalid, StateUnusable
from agent.service.config.check import check, file_faults, find_warnings
from agent.service.config.model import Config, Remains, load_config, load_remains
from agent.service.config.sources import credentials_directory, kernel_command_line
from agent.service.config.trusted_path import distrust

if TYPE_CHECKING:
    from agent.service.http.sockets import ListeningSocket

EXIT_OK, EXIT_FAILED = 0, 1
STOP_SECONDS = 20.0
"""That a deployment may take to stop at SIGTERM; the unit's TimeoutStopSec is longer."""
STALL_SECONDS = 1800.0
"""After which a deployment that has moved nothing will not end by itself. Retries, and every 128 MiB of a long zeroing,
count as movement; so does each buffer of 4 MiB, which takes 17 minutes on the slowest line that is not dropped."""

DESCRIPTION = """\
The byoi-agent daemon: takes deployment jobs on its API or from a control plane, deploys them to the disks of this
server, and reboots it into the system that was deployed. It runs as a systemd service on the rescue system; options
come from its configuration file and from byoi.* on the kernel command line.
"""
EPILOG = """\
examples:
  byoi-agent --check
  byoi-agent --config ./agent.toml

exit status:
  0  stopped as it was told to, or --check found no fault
  1  it could not start, or a disk kept it from stopping; the reason is on stderr
  2  wrong usage, or a configuration with faults; all of them are listed
  3  it went well, but stdout is closed or full and has not got all of the output
"""


def make_parser() -> argparse.ArgumentParser:
    """The options of the daemon; its man page and completion are made from it too."""
    parser = CommandParser(prog="byoi-agent", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: /etc/byoi-agent/agent.toml)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print what is in force and where each value came from; start nothing",
    )
    parser.add_argument("--json", action="store_true", help="with --check: print it as JSON")
    parser.add_argument(
        "--tell-faults",
        action="store_true",
        help="where the configuration has faults, stay and show them to `byoi status`, the console and /metrics until "
        "they are mended (systemctl reload) or the agent is stopped; the unit starts it so",
    )
    parser.add_argument("--version", action="version", version=f"byoi-agent {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the configuration, or serve until told to stop."""
    with standard_streams():
        try:
            return _run(arguments)
        except OutputLost as lost:
            write_err(f"byoi-agent: {lost}\n")
            return EXIT_OUTPUT


def _run(arguments: Sequence[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    cmdline, credentials = kernel_command_line(), credentials_directory(os.environ)
    if options.check:
        return check(options.config, cmdline=cmdline, credentials=credentials, as_json=options.json)

    def read() -> Config:
        config = load_config(options.config, cmdline=cmdline, credentials=credentials)
        faults = file_faults(config)
        if faults:
            raise ConfigInvalid(faults)
        return config

    try:
        config = read()
    except ConfigInvalid as error:
        write_err("byoi-agent: the configuration has faults:\n")
        for fault in error.faults:
            write_err(f"  {fault}\n")
        if not options.tell_faults:
            return EXIT_USAGE
        mended = _tell_faults(load_remains(options.config, cmdline=cmdline, faults=error.faults), error, read)
        if mended is None:
            return EXIT_USAGE
        config = mended
    return run(config, read)


def _tell_faults(remains: Remains, error: ConfigInvalid, reread: Callable[[], Config]) -> Config | None:
    """Tell the faults on the Unix socket until they are mended; None: the agent is to end, or has no safe socket."""
    from agent.logs import print_line, set_up  # noqa: PLC0415 - not needed by --check
    from agent.service.http.sockets import ListenError, listen_unix  # noqa: PLC0415
    from agent.service.unconfigured import Unconfigured  # noqa: PLC0415

    set_up(logging.INFO, as_json=not (sys.stderr is not None and sys.stderr.isatty()))
    try:
        doubt = distrust(Path(remains.socket).parent, may_be_link=True)
        if doubt is not None:
            raise ListenError(str(doubt))
        socket = listen_unix(remains.socket, remains.socket_group)
    except ListenError as refusal:
        print_line(f"byoi-agent: the faults cannot be told on {remains.socket}: {refusal}")
        return None
    unconfigured = Unconfigured(remains.service_name, error.faults, socket, reread)
    return asyncio.run(unconfigured.run())


def run(
    config: Config, reread: Callable[[], Config] | None = None, *, stall_seconds: float = STALL_SECONDS
) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: what is in force.
        reread: reads it again, at SIGHUP; without it the same is used again.
        stall_seconds: for how long a deployment may move nothing before the watchdog is no longer fed.
    """
    from agent.host.syscalls import return_large_blocks  # noqa: PLC0415 - not needed by --check
    from agent.logs import configure_logs, print_line  # noqa: PLC0415
    from agent.service.http.sockets import ListenError  # noqa: PLC0415
    from agent.units import MiB  # noqa: PLC0415

    return_large_blocks(4 * MiB)
    configure_logs(config.log.level, config.log.format)
    _raise_file_limit()
    try:
        return asyncio.run(_serve(config, stall_seconds, reread or (lambda: config)))
    except (StateUnusable, ListenError) as error:
        print_line(f"byoi-agent: {error}")
        if isinstance(error, StateUnusable) and error.hint:
            print_line(f"hint: {error.hint}")
        return EXIT_FAILED


async def _serve(config: Config, stall_seconds: float, reread: Callable[[], Config]) -> int:
    import structlog  # noqa: PLC0415 - not needed by --check

    from agent.service.assembly import Daemon  # noqa: PLC0415 - aiohttp is not needed by --check
    from agent.service.jobs.journal import Journal  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    journal = Journal(config.journal_directory, config.service_name)
    try:
        book, note = await journal.open()
        listeners = _listen(config)
        warnings = find_warnings(config)
        for warning in warnings:
            structlog.get_logger(__name__).warning("config_doubt", key=warning.path, text=warning.message)
        daemon = Daemon(config, journal, listeners, stall_seconds, reread, warnings)
        loop.add_signal_handler(signal.SIGHUP, daemon.reload)
        await daemon.run(book, note, stop, STOP_SECONDS, _abandon)
    finally:
        journal.close()
    return EXIT_OK


def _abandon() -> NoReturn:
    """End the process at once. The interpreter's own way out would wait for the thread that hangs."""
    from agent.logs import flush_logs  # noqa: PLC0415

    flush_logs()
    os._exit(EXIT_FAILED)


def _listen(config: Config) -> "list[ListeningSocket]":
    from agent.service.http.sockets import listen_tls, listen_unix, tls_files  # noqa: PLC0415

    api, files = config.api, tls_files(config.api)
    listeners = [listen_unix(api.socket, api.socket_group)]
    if api.listen is not None and files is not None:
        try:
            listeners.append(listen_tls(*api.listen, files))
        except BaseException:
            listeners[0].close()
            raise
    return listeners


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: each connection takes a file descriptor.

    systemd leaves the soft one at 1024 for programs that use select(2), which this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
