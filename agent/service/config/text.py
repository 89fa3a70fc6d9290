"""Generates texts from the table of options: TOML values, the example file, the reference in docs/configuration.md.

Tests compare the committed files with these functions.
"""

import json
from typing import Any

from agent.service.config.kinds import ADDRESS, SERVICE_URLS
from agent.service.config.options import GROUP_TABLE, SECTION_HELP, TABLE, Option
from agent.text import MAX_SHOWN, printable

WIDTH = 100
_EXAMPLE_HEAD = """\
# The configuration of byoi-agent: agent.toml(5), docs/configuration.md.
#
# A line that begins with # and no space is an option: with its default, or with an example where there is
# none. byoi.KEY=VALUE on the kernel command line wins over this file. `byoi-agent --check` shows what is in
# force and where it came from.
"""


def plain(option: Option, value: Any) -> Any:
    """A value of the configuration as a TOML or JSON value."""
    if option.kind is ADDRESS and value is not None:
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if option.kind is SERVICE_URLS and value is not None:
        return ",".join(value)
    return list(value) if isinstance(value, tuple) else value


def toml(value: Any) -> str:
    """A value from `plain` in TOML syntax, without unprintable characters."""
    if isinstance(value, float):
        return repr(int(value) if value.is_integer() else value)
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    # TOML and JSON agree on all other types.
    return printable(json.dumps(value, ensure_ascii=False), MAX_SHOWN)


def example_toml() -> str:
    """The example file, with every option commented out."""
    blocks = [_EXAMPLE_HEAD]
    section = ""
    for option in in_order():
        if option.section != section:
            section = option.section
            header = f"[[{section}]]" if section == "disk_group" else f"[{section}]"
            blocks.append(f"{_comment(SECTION_HELP[section])}#{header}\n")
        value = option.example if option.default is None else plain(option, option.default)
        blocks.append(f"{_comment(option.help)}#{option.name} = {toml(value)}\n")
    return "\n".join(blocks)


def in_order() -> list[Option]:
    """All options in the order of the documentation, with those of disk groups before the policy."""
    before = next(index for index, option in enumerate(TABLE) if option.section == "policy")
    return [*TABLE[:before], *GROUP_TABLE, *TABLE[before:]]


def _comment(text: str) -> str:
    lines, line = [], "#"
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = "#"
        line += " " + word
    return "\n".join([*lines, line]) + "\n"


def reference() -> str:
    """The reference of the options: a Markdown table for each TOML table."""
    parts = []
    section: str | None = None
    for option in in_order():
        if option.section != section:
            section = option.section
            heading = {"": "At the top", "disk_group": "`[[disk_group]]`"}.get(section, f"`[{section}]`")
            text = f"{SECTION_HELP[section]}\n\n" if section else ""
            parts.append(
                f"\n### {heading}\n\n{text}| option | type | default | meaning |\n|---|---|---|---|\n"
            )
        default = "required" if option.required else "none"
        if option.default is not None:
            default = f"`{toml(plain(option, option.default))}`"
        kind = option.kind.name.replace(" | ", ", ")
        parts.append(f"| `{option.name}` | {kind} | {default} | {option.help} |\n")
    return "".join(parts).strip() + "\n"
