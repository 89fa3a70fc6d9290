"""Manual pages and shell completion, made from the definitions of the options: `python -m agent.cli.manual DIR`.

Run when the package is built. Needs shtab, which an installed agent does not have.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import __version__
from agent.cli import job_members, variables
from agent.cli.commands import DEFAULT_SOCKET
from agent.cli.completion import completion
from agent.cli.main import make_parser as make_byoi
from agent.cli.roff import Page, bold, escape, italic
from agent.model.job_text import MAX_JOB_BYTES
from agent.model.object_reader import MAX_TEXT
from agent.model.schema.job import job_schema
from agent.service.config.model import DEFAULT_PATH
from agent.service.config.options import SECTION_HELP, Option
from agent.service.config.text import in_order, plain, toml
from agent.service.daemon import make_parser as make_agent
from agent.units import format_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all files below a directory."""
    parser = argparse.ArgumentParser(prog="agent.cli.manual", description="Write man pages and completion.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; man/ and completion/ are made")
    directory: Path = parser.parse_args(arguments).directory
    for name, text in files(date=_date()).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def _date() -> str:
    """The pages' date: of SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch) if set, else today."""
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


def files(*, date: str) -> dict[str, str]:
    """Man pages, and completion for bash, zsh and fish: path below the directory -> content."""
    found = {
        "man/byoi.1": byoi_page(date),
        "man/byoi-agent.8": agent_page(date),
        "man/agent.toml.5": config_page(date),
        "man/byoi-job.5": job_page(date),
        # The shorter name, unless another package has a page of it.
        "man/job.5": ".so man5/byoi-job.5\n",
    }
    for parser in (make_byoi(), make_agent()):
        found |= {f"completion/{name}": text for name, text in completion(parser).items()}
    return found


# -- pages -----------------------------------------------------------------------------------------------------


def byoi_page(date: str) -> str:
    """byoi(1), with a part for each command."""
    parser = make_byoi()
    page = _page("byoi", 1, date, "deploy a disk image to a disk")
    commands = _commands(parser)
    _add_synopsis(page, [parser, *commands.values()])
    page.heading("DESCRIPTION")
    page.paragraph(parser.description or "")
    _add_options(page, parser)
    page.heading("COMMANDS")
    for command in commands.values():
        page.subheading(command.prog)
        page.paragraph(command.description or "")
        _add_options(page, command)
    _add_epilog(page, parser)
    _add_variables(page, variables.BYOI)
    _add_files(page, {DEFAULT_SOCKET: "The socket of byoi-agent."})
    page.heading("EXAMPLES")
    for command in commands.values():
        page.literal(_epilog(command)["EXAMPLES"])
    _add_references(page, "byoi-job(5)", "byoi-agent(8)", "agent.toml(5)")
    return str(page)


def agent_page(date: str) -> str:
    """byoi-agent(8)."""
    parser = make_agent()
    page = _page("byoi-agent", 8, date, "deploy disk images as jobs come in")
    _add_synopsis(page, [parser])
    page.heading("DESCRIPTION")
    page.paragraph(parser.description or "")
    page.heading("OPTIONS")
    _add_options(page, parser)
    page.heading("SIGNALS")
    page.item(
        bold("SIGTERM") + ", " + bold("SIGINT"), "Cancel what runs, keep the job in the journal, and end."
    )
    page.item(
        bold("SIGHUP"),
        "Take up certificates, revocation lists, tokens and secrets as they are now, and close the connections whose "
        "credential is gone. Where one has a fault, all that was in force stays so; the log says why.",
    )
    _add_epilog(page, parser)
    _add_variables(page, variables.AGENT)
    _add_files(
        page,
        {
            str(DEFAULT_PATH): "The configuration; see agent.toml(5).",
            DEFAULT_SOCKET: "The socket of the API.",
            "/proc/cmdline": "The kernel command line: byoi.KEY=VALUE wins over the configuration.",
        },
    )
    page.heading("EXAMPLES")
    page.literal(_epilog(parser)["EXAMPLES"])
    _add_references(page, "byoi(1)", "byoi-job(5)", "agent.toml(5)", "systemctl(1)", "systemd.exec(5)")
    return str(page)


def config_page(date: str) -> str:
    """agent.toml(5), from the table of options."""
    page = _page("agent.toml", 5, date, "configuration of byoi-agent")
    page.heading("SYNOPSIS")
    page.raw(italic(str(DEFAULT_PATH)))
    page.heading("DESCRIPTION")
    page.paragraph(
        "One TOML file. Every option but service_name may be left out, and an unknown one is an error. "
        "byoi.KEY=VALUE on the kernel command line wins over the file, with KEY as below and its table before it: "
        "byoi.control_plane.url=https://control.example.net/byoi. "
        "`byoi-agent --check` prints what is in force and where each value came from."
    )
    page.paragraph(
        "A secret never stands in the file: an option whose name ends in _file names the file that holds it. "
        "A systemd credential of the option's name, with its table and without _file, holds it as well."
    )
    section: str | None = None
    for option in in_order():
        if option.section != section:
            section = option.section
            page.heading("OPTIONS AT THE TOP" if not section else _table_name(section))
            if section:
                page.paragraph(SECTION_HELP[section])
        _add_option(page, option)
    page.heading("EXAMPLES")
    page.literal(['service_name = "ns1.example.net"', "", "[api]", 'socket_group = "byoi"'])
    _add_references(page, "byoi-agent(8)", "byoi(1)", "byoi-job(5)", "systemd.exec(5)")
    return str(page)


def job_page(date: str) -> str:
    """byoi-job(5), from the schema of the job."""
    page = _page("byoi-job", 5, date, "what is deployed by byoi and byoi-agent")
    page.heading("DESCRIPTION")
    page.paragraph(
        "A job says which image goes to the disk, and what the config drive beside it holds. "
        "It is one JSON object: what is posted to byoi-agent, what a control plane answers, and the file that "
        "byoi deploy and byoi write take."
    )
    page.paragraph(
        "It is read strictly. A member that is null counts as absent; an unknown one, and one that is given twice, is "
        "refused. All faults are listed together, each with its path, before anything is opened. "
        f"The whole is UTF-8 and at most {format_size(MAX_JOB_BYTES)} long, a string in it at most "
        f"{format_size(MAX_TEXT)} where nothing else is said."
    )
    page.paragraph(
        "Secrets are registryAuth, the values of httpHeader and userMetadatas, sshKey, userData, networkData, "
        "vendorData, and of the URL its password and the values of its query. They are blanked in every status, and "
        "in no log."
    )
    for name, members in job_members.objects(job_schema()):
        page.heading(f"MEMBERS OF {name}" if name else "MEMBERS")
        for member in members:
            page.item(f"{bold(member.name)} ({escape(member.kind)})", member.text)
    page.heading("EXAMPLES")
    page.literal(job_members.example_lines())
    _add_references(page, "byoi(1)", "byoi-agent(8)", "agent.toml(5)")
    return str(page)


def _table_name(section: str) -> str:
    return f"[[{section}]]" if section == "disk_group" else f"[{section}]"


def _add_option(page: Page, option: Option) -> None:
    if option.required:
        end = "Required."
    elif option.default is not None:
        end = f"Default: {toml(plain(option, option.default))}"
    else:
        end = f"No default; for example {toml(option.example)}"
    page.item(f"{bold(option.name)} ({escape(option.kind.name)})", f"{option.help} {end}")


def _page(name: str, section: int, date: str, purpose: str) -> Page:
    page = Page(name, section, date=date, source=f"byoi-agent {__version__}")
    page.heading("NAME")
    page.raw(f"{escape(name)} \\- {escape(purpose)}")
    return page


def _add_synopsis(page: Page, parsers: Sequence[argparse.ArgumentParser]) -> None:
    page.heading("SYNOPSIS")
    for number, parser in enumerate(parsers):
        if number:
            page.raw(".br")
        words = [bold(parser.prog)]
        for action in _actions(parser):
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no other name for it
                words.append(italic("COMMAND") + " ...")
            elif not isinstance(action, argparse._HelpAction):  # noqa: SLF001
                words.append(f"[{_invocation(action, first_only=True)}]")
        page.raw(" ".join(words))


def _add_options(page: Page, parser: argparse.ArgumentParser) -> None:
    for group in parser._action_groups:  # noqa: SLF001 - the only way to the groups
        actions = [action for action in group._group_actions if _is_listed(action)]  # noqa: SLF001
        if actions and group.title not in ("options", "positional arguments"):
            page.paragraph(f"{(group.title or '').capitalize()}:")
        for action in actions:
            page.item(_invocation(action), action.help or "")


def _is_listed(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 - each command has a section


def _invocation(action: argparse.Action, *, first_only: bool = False) -> str:
    value = ""
    if action.nargs != 0:
        choices = "|".join(map(str, action.choices)) if action.choices else None
        value = bold(choices) if choices else italic(str(action.metavar or action.dest.upper()))
    if not action.option_strings:
        return value
    if action.nargs == "?":  # the option may stand alone
        value = f"[{value}]"
    names = action.option_strings[:1] if first_only else action.option_strings
    return ", ".join(bold(name) for name in names) + (f" {value}" if value else "")


def _add_epilog(page: Page, parser: argparse.ArgumentParser) -> None:
    page.heading("EXIT STATUS")
    for line in _epilog(parser)["EXIT STATUS"]:
        code, _, meaning = line.strip().partition(" ")
        page.item(bold(code), meaning.strip())


def _add_variables(page: Page, names: Mapping[str, str]) -> None:
    page.heading("ENVIRONMENT")
    for name, meaning in names.items():
        page.item(bold(name), meaning)


def _add_files(page: Page, paths: dict[str, str]) -> None:
    page.heading("FILES")
    for path, meaning in paths.items():
        page.item(italic(path), meaning)


def _add_references(page: Page, *names: str) -> None:
    page.heading("SEE ALSO")
    words = [re.fullmatch(r"(.+)(\(\d\))", name) for name in names]
    page.raw(",\n".join(f"{bold(word[1])}{word[2]}" for word in words if word))


# -- what is read from the parsers ------------------------------------------------------------------------------


def _epilog(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """The parts of an epilog by their headings, which stand at the margin and end in a colon."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (parser.epilog or "").splitlines():
        if re.fullmatch(r"\w[\w ]*:", line):
            lines = parts.setdefault(line[:-1].upper(), [])
        elif line.strip():
            lines.append(line.removeprefix("  "))
    return parts


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - the only way to them


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


if __name__ == "__main__":
    sys.exit(main())
