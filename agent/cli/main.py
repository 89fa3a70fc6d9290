"""The command line of `byoi`: help, and the exit status of every outcome."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from agent import __version__
from agent.cli.commands import COMMANDS
from agent.cli.failures import ClientError, print_client_error
from agent.cli.output import (
    EXIT_CANCELLED,
    EXIT_DONE,
    EXIT_OUTPUT,
    OutputLost,
    print_error,
    print_output_lost,
)
from agent.errors import DeployError, OutOfMemory

EXIT_STATUS = """\
exit status:
  0    done
  1    the deployment failed or was refused; the message and what to do are on stderr
  2    wrong usage, or a job with faults; all of them are listed
  3    it went well, but stdout is closed or full and has not got all of the output
  130  cancelled or interrupted (Ctrl-C, SIGTERM); an interrupted `byoi write` says what is on the disk
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; documentation is made from it too."""
    parser = _Parser(
        prog="byoi",
        description="Deploy a disk image to a disk: streamed, verified, and bootable only in the last write.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"byoi {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=f"examples:\n{command.examples}\n{EXIT_STATUS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(sub)
        sub.set_defaults(module=f"agent.cli.{command.name}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. Every error that is not a defect becomes one, with its message."""
    _fill_standard_descriptors()
    try:
        return _run(arguments)
    except OutputLost as lost:
        print_output_lost(lost)
        return EXIT_OUTPUT
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_discard(stream)


def _fill_standard_descriptors() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed.

    Else the next file that is opened gets that number: a disk would take what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open to the end


def _flush_or_discard(stream: TextIO | None) -> None:
    """Flush a stream, or have what it holds go to /dev/null where that fails.

    Python flushes both streams when the process ends, and a flush that failed there would replace the exit status.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, stream.fileno())
            os.close(null)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as leave:  # argparse has printed the help, or what is wrong with the usage
        _flush_help()
        return leave.code if isinstance(leave.code, int) else EXIT_DONE
    return _carry_out(options)


def _carry_out(options: argparse.Namespace) -> int:
    """Run the coroutine of the command that was given; returns the exit status.

    Raises:
        OutputLost: stdout does not take what the command prints.
    """
    import asyncio  # noqa: PLC0415 - the help and wrong usage do without it, and start a third sooner

    try:
        command = importlib.import_module(options.module)
        status: int = asyncio.run(command.run(options))
    except MemoryError:
        return print_error(OutOfMemory(), as_json=options.json)
    except DeployError as error:
        return print_error(error, as_json=options.json)
    except ClientError as error:
        return print_client_error(error, as_json=options.json)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_CANCELLED
    return status


def _flush_help() -> None:
    """Raises OutputLost: stdout does not take what argparse printed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise OutputLost(error.strerror or str(error)) from None
