"""The command line of `byoi`: help, and the exit status of every outcome."""

import argparse
import importlib
from collections.abc import Sequence

from agent import __version__
from agent.cli.commands import COMMANDS
from agent.cli.failures import ClientError, print_client_error
from agent.cli.output import EXIT_CANCELLED, EXIT_DONE, print_error, print_output_lost
from agent.command_line import EXIT_OUTPUT, CommandParser, OutputLost, standard_streams
from agent.errors import DeployError, OutOfMemory

EXIT_STATUS = """\
exit status:
  0    done
  1    the deployment failed or was refused; the message and what to do are on stderr
  2    wrong usage, or a job with faults; all of them are listed
  3    it went well, but stdout or the file of --receipt has not got all of the output
  130  cancelled, interrupted (Ctrl-C, SIGTERM) or not agreed to; `byoi write` says what is on the disk then
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; documentation is made from it too."""
    parser = CommandParser(
        prog="byoi",
        description="Deploy a disk image to a disk: streamed, verified, and bootable only in the last write.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("--version", action="version", version=f"byoi {__version__}")
    # Not `required`: that argparse says before it looks at `--verson`.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=False)
    parser.set_defaults(command=None)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=f"examples:\n{command.examples}\n{EXIT_STATUS}",
        )
        command.add_options(sub)
        sub.set_defaults(command=command.module or command.name)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. Every error that is not a defect becomes one, with its message."""
    with standard_streams():
        try:
            return _run(arguments)
        except OutputLost as lost:
            print_output_lost(lost)
            return EXIT_OUTPUT


def _run(arguments: Sequence[str] | None) -> int:
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.error("the following arguments are required: COMMAND")
        if options.command == "help":
            parser.parse_args([*([options.topic] if options.topic else []), "--help"])
    except SystemExit as leave:  # argparse has printed the help, or what is wrong with the usage
        return leave.code if isinstance(leave.code, int) else EXIT_DONE
    return _carry_out(options)


def _carry_out(options: argparse.Namespace) -> int:
    """Run the coroutine of the command that was given; returns the exit status.

    Raises:
        OutputLost: stdout does not take what the command prints.
    """
    import asyncio  # noqa: PLC0415 - the help and wrong usage do without it, and start a third sooner

    try:
        command = importlib.import_module(f"agent.cli.{options.command}")
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
