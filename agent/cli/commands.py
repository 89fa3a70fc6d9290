"""The commands of `byoi`: names, help, options. Help, man pages and completion are made from these.

A command is carried out by the coroutine `run` of the module `agent.cli.NAME`, which is imported when the command is
given: `byoi status` does not wait for what `byoi write` needs. (`help` is carried out by the parser itself.)
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from agent.cli.job_options import add_job_options
from agent.model.raid import MAX_DISKS
from agent.units import parse_size

DEFAULT_SOCKET = "/run/byoi-agent/api.sock"
DEFAULT_CONFIG = "/etc/byoi-agent/agent.toml"
SOCKET_VARIABLE = "BYOI_SOCKET"


@dataclass(frozen=True)
class Command:
    """One command. `examples` are lines that can be pasted into a shell; `add_options` fills its parser."""

    name: str
    help: str
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    module: str = ""
    """Its module in `agent.cli`, where that has not its name."""


def _connections(text: str) -> int:
    if text not in map(str, range(1, 17)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 16")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if text not in map(str, range(1, MAX_DISKS + 1)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_DISKS}")
    return int(text)


def _add_choice_options(target: argparse._ActionsContainer) -> None:
    target.add_argument(
        "--disk-group", type=int, metavar="N", help="the first disk of group N (0: the default group)"
    )
    target.add_argument(
        "--disks",
        type=_count,
        metavar="N",
        help="so many disks of the group, or of those that the hints leave",
    )
    target.add_argument(
        "--disk-hint",
        action="append",
        metavar="KEY=VALUE",
        help="the disk that this fits, such as serial=Z1, size='>= 400' or rotational=false; with several, all have "
        "to fit, and one disk has to be left (or any=true); keys and operators: byoi-job(5), `disk`",
    )


def _add_config_option(target: argparse._ActionsContainer, when: str) -> None:
    target.add_argument(
        "--config",
        metavar="FILE",
        help=f"take the disk groups of this agent.toml {when} (default: {DEFAULT_CONFIG}, where it exists)",
    )


def _add_socket_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help=f"the socket of byoi-agent (default: ${SOCKET_VARIABLE}, else {DEFAULT_SOCKET})",
    )


def _add_yes_option(target: argparse._ActionsContainer) -> None:
    target.add_argument(
        "--yes",
        action="store_true",
        help="on a terminal: do not ask whether what is on the disk may be destroyed",
    )


def _write_options(parser: argparse.ArgumentParser) -> None:
    add_job_options(parser)
    target = parser.add_argument_group("where to")
    target.add_argument(
        "--disk",
        action="append",
        metavar="PATH",
        help="a whole disk, or a regular file that stands in for one; several: the image goes to all of them",
    )
    target.add_argument(
        "--size", type=_size, help="make --disk a new sparse file of this size (20G is 20 GiB)"
    )
    _add_choice_options(target)
    _add_config_option(target, "where --disk names none")
    target.add_argument(
        "--firmware",
        choices=("auto", "uefi", "bios"),
        default="auto",
        help="what the server boots with (default: auto)",
    )
    how = parser.add_argument_group("how")
    _add_yes_option(how)
    how.add_argument(
        "--dry-run", action="store_true", help="show the plan and what would be refused; write nothing"
    )
    how.add_argument(
        "--json", action="store_true", help="print the final status (or the plan) as JSON on stdout"
    )
    how.add_argument(
        "--ca-file", metavar="FILE", help="trust these certificates for https instead of the system's"
    )
    how.add_argument(
        "--connections",
        type=_connections,
        metavar="N",
        default=8,
        help="the most connections of the download; it has more than one only where that is faster (default: 8)",
    )
    how.add_argument(
        "--receipt",
        metavar="FILE",
        help="put a receipt of what was done into this new file; byoi receipt --verify checks it",
    )
    how.add_argument(
        "--receipt-key",
        metavar="FILE",
        help="sign the receipt with this private key (Ed25519, PEM); without it there is no signature",
    )
    how.add_argument("--quiet", action="store_true", help="no progress on stderr")
    how.add_argument("--verbose", action="store_true", help="log to stderr")


def _deploy_options(parser: argparse.ArgumentParser) -> None:
    add_job_options(parser)
    _add_choice_options(parser.add_argument_group("where to"))
    how = parser.add_argument_group("how")
    _add_yes_option(how)
    how.add_argument("--watch", action="store_true", help="follow the deployment to its end")
    how.add_argument("--json", action="store_true", help="print the status as JSON on stdout")
    how.add_argument("--quiet", action="store_true", help="no progress on stderr")
    _add_socket_option(how)


def _status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", action="store_true", help="follow the deployment to its end; wait for one if there is none"
    )
    parser.add_argument(
        "--forever",
        action="store_true",
        help="with --watch: follow one deployment after another, for consoles",
    )
    parser.add_argument("--json", action="store_true", help="print the status as JSON on stdout")
    _add_socket_option(parser)


def _cancel_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print what was done, or the error, as JSON on stdout"
    )
    _add_socket_option(parser)


def _receipt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the receipt itself, to be kept; with --verify: the statement in it",
    )
    parser.add_argument(
        "--verify", metavar="FILE", help="check this receipt (- is stdin) instead of asking the agent for one"
    )
    parser.add_argument("--key", metavar="FILE", help="the public key, of Ed25519 and in PEM, for --verify")
    _add_socket_option(parser)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to (- is stdout); default: byoi-report-SERVER-TIME.tar.gz in the working directory",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what is in it, and what is missing, as JSON"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the agent's configuration (default: {DEFAULT_CONFIG}, where it exists)",
    )
    _add_socket_option(parser)


def _help_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topic",
        nargs="?",
        metavar="COMMAND",
        choices=[command.name for command in COMMANDS],
        help="the command; byoi itself without one",
    )


def _disks_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.add_argument(
        "--groups", action="store_true", help="print the numbers of the disk groups, nothing else"
    )
    _add_config_option(parser, "where byoi-agent is not asked")
    _add_socket_option(parser)


COMMANDS = (
    Command(
        name="write",
        help="deploy an image to a disk or a file",
        description="""\
Deploy an image to a disk, here and now: it is streamed, hashed and written in one pass, and the disk becomes
bootable in the last write, once the checksum is right. Everything on the disk is lost. Nothing is written
before all checks that need no writing have passed; --dry-run ends there and shows the plan. On a terminal it
is shown first what is on the disk, and asked; --yes leaves the question out.
""",
        examples="""\
  byoi write job.json --disk /dev/sda
  byoi write job.json --disk /dev/sda --yes
  byoi write job.json --disk disk.img --size 20G --dry-run
  byoi write job.json --disk-hint serial=S64GNE0R1 --dry-run
  byoi write job.json --disk /dev/nvme0n1 --disk /dev/nvme1n1
  byoi write job.json --disk /dev/sda --verify readback --receipt receipt.json --receipt-key receipt.key
  byoi write --url https://images.example.net/debian.raw --type raw --checksum sha256:9f86d0... \\
      --hostname web1 --ssh-key ~/.ssh/id_ed25519.pub --user-data setup.sh \\
      --disk /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
""",
        add_options=_write_options,
    ),
    Command(
        name="deploy",
        help="hand a job to byoi-agent",
        description="""\
Hand a job to the byoi-agent of this machine, which deploys it as it would for its control plane: it goes on
without this command, survives a restart of the agent, and reboots the server at the end where that is
configured. Interrupting --watch leaves the deployment alone. On a terminal it is shown first what is on the
disk, and asked; --yes leaves the question out.
""",
        examples="""\
  byoi deploy job.json --watch
  byoi deploy job.json --yes
  byoi deploy --url https://images.example.net/debian.raw --type raw --hostname web1 --disk-group 2
  byoi deploy --url https://images.example.net/debian.raw --raid raid1 --watch
""",
        add_options=_deploy_options,
    ),
    Command(
        name="status",
        help="show the deployment of byoi-agent",
        description="""\
Show what byoi-agent is doing: stage, percent, bytes, rate, what is waited for, and in the end the error with
what to do about it. Without --watch the exit status tells only whether the agent could be asked.
""",
        examples="""\
  byoi status
  byoi status --watch
  byoi status --json | jq .percent
""",
        add_options=_status_options,
    ),
    Command(
        name="cancel",
        help="cancel the deployment of byoi-agent and erase its state",
        description="""\
Cancel the running deployment and wait until it has stopped, erase the state of one that is over, and call a
pending reboot off: the server stays in its rescue system. A disk that was not committed yet is left
unbootable. A reboot that has been ordered is not called off any more: that is said, and nothing is done.
""",
        examples="""\
  byoi cancel
""",
        add_options=_cancel_options,
    ),
    Command(
        name="receipt",
        help="show the receipt of the last deployment, or check one",
        description="""\
Show the receipt of the deployment that ended last: which image went to which disk, where it came from, who
signed it, what was read back, and when. It is signed where receipt.key_file is configured. With --verify a
receipt that was kept, or that byoi write --receipt has made, is checked by the public key, without the agent:
the exit status is 0 where that key has signed it as it is, 1 where not, and 2 where the file or the key
cannot be read.
""",
        examples="""\
  byoi receipt
  byoi receipt --json > receipt.json
  byoi receipt --verify receipt.json --key receipt.pub
""",
        add_options=_receipt_options,
    ),
    Command(
        name="report",
        help="pack what a support ticket needs into one file",
        description="""\
Pack what somebody needs who is to find out what went wrong: status and receipt, the inventory, the journal of
byoi-agent, the kernel's messages, versions, and the configuration in force. Secrets are blanked. What cannot
be had is left out, and the archive says why: root gets all of it, and byoi-agent need not run. A file that
exists is not replaced.
""",
        examples="""\
  byoi report
  byoi report -o /tmp/report.tar.gz
  byoi report -o - | ssh host 'cat > report.tar.gz'
""",
        add_options=_report_options,
        module="support",
    ),
    Command(
        name="disks",
        help="list the disks and disk groups of this machine",
        description="""\
List the disks with the group that diskGroupId names, and the reasons why a disk cannot be written. Groups
are made of like disks (transport, rotation, size, model) and numbered in an order that does not depend on
how the kernel found them, or are those that the configuration of byoi-agent names. Where byoi-agent runs,
it is asked; where it does not, its configuration is read in its stead, and stderr says so.
""",
        examples="""\
  byoi disks
  byoi disks --json
""",
        add_options=_disks_options,
    ),
    Command(
        name="help",
        help="show the help of a command",
        description="Show the help of a command, as `byoi COMMAND --help` does, or that of byoi.\n",
        examples="""\
  byoi help write
""",
        add_options=_help_options,
    ),
)
