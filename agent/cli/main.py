"""The command line of `byoi`: help, and the exit status of every outcome."""

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from agent import __version__
from agent.cli.commands import COMMANDS
from agent.cli.failures import ClientError, print_client_error
from agent.cli.output import EXIT_CANCELLED, EXIT_FAILED, exit_status, print_error
from agent.errors import DeployError

EXIT_STATUS = """\
exit status:
  0    done
  1    the deployment failed or was refused; the message and what to do are on stderr
  2    wrong usage, or a job with faults; all of them are listed
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
    """Run one command and return the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return _run(options)
    finally:
        _let_go_of_stderr()


def _let_go_of_stderr() -> None:
    """A terminal that went away must not become the exit status, as it does when Python flushes at the end."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, sys.stderr.fileno())
            os.close(null)


def _run(options: argparse.Namespace) -> int:
    command = importlib.import_module(options.module)
    try:
        status: int = asyncio.run(command.run(options))
    except DeployError as error:
        print_error(error, as_json=options.json)
        return exit_status(error.document())
    except ClientError as error:
        print_client_error(error, as_json=options.json)
        return error.exit_status
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_CANCELLED
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        sys.stderr.close()
        return EXIT_FAILED
    return status
