"""The command line of `byoi`: options, help, and the exit status of every outcome."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import NoReturn

from agent import __version__
from agent.cli import disks, write
from agent.cli.output import exit_status, print_error
from agent.errors import DeployError
from agent.host.syscalls import return_large_blocks
from agent.units import MiB

EXIT_STATUS = """\
exit status:
  0    done
  1    the deployment failed or was refused; the message and what to do are on stderr
  2    wrong usage, or a job with faults; all of them are listed
  130  cancelled (Ctrl-C, SIGTERM); the disk is left unbootable unless it was committed
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
    for module in (write, disks):
        sub = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES + "\n" + EXIT_STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    return_large_blocks(4 * MiB)
    options = make_parser().parse_args(arguments)
    try:
        status: int = asyncio.run(options.run(options))
    except DeployError as error:
        print_error(error, as_json=getattr(options, "json", False))
        return exit_status(error.document())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        sys.stderr.close()
        return 1
    return status
