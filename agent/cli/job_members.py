"""The members of a job in words, from its JSON Schema, for the manual page byoi-job(5). Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.model.object_reader import MAX_TEXT
from agent.model.schema.blocks import Schema
from agent.units import KiB, format_size

EXAMPLE: dict[str, Any] = {
    "URL": "https://images.example.net/debian-12.raw",
    "type": "raw",
    "checkSum": "5f439fb6f36c2f05e73ddd5eebcb011d6b00b0f5ad496bee2fe1d49d230a147a",
    "checkSumType": "sha256",
    "httpHeader": [{"key": "Authorization", "value": "Bearer ..."}],
    "configdrive": {
        "enable": True,
        "hostname": "web1.example.net",
        "sshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ admin",
        "userData": "#cloud-config\npackages: [nginx]\n",
    },
}
"""A job with most of what jobs have; docs/job.md shows the same."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: its name, its type in words, and what it does with its limits."""

    name: str
    kind: str
    text: str


def objects(schema: Schema, name: str = "") -> Iterator[tuple[str, tuple[Member, ...]]]:
    """The object of a schema and those within it, outer ones first: the path of each (at first empty), members."""
    required = schema["required"]
    properties: dict[str, Schema] = schema["properties"]
    yield (
        name,
        tuple(
            Member(key, _kind(each) + (", required" if key in required else ""), _text(each))
            for key, each in properties.items()
        ),
    )
    for key, each in properties.items():
        if "properties" in each:
            yield from objects(each, f"{name}.{key}" if name else key)


def example_lines() -> Iterator[str]:
    """`EXAMPLE` as JSON in lines of less than 80 characters."""
    for line in json.dumps(EXAMPLE, indent=2).splitlines():
        name, colon, value = line.partition('": ')
        if len(line) < 70 or not colon:  # the escapes of roff want room as well
            yield line
        else:
            yield f'{name}":'
            yield f"{' ' * (len(name) - len(name.lstrip()) + 2)}{value}"


def _kind(schema: Schema) -> str:
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    words = " or ".join(kind for kind in kinds if kind != "null")
    if "items" in schema:
        inner = schema["items"].get("properties", {})
        words += f" of {{{', '.join(inner)}}}" if inner else f" of {_kind(schema['items'])}"
    return words


def _text(schema: Schema) -> str:
    """What a member does, and what it may be where the description does not say so already."""
    said = schema.get("description", "")
    parts = [said]
    if "enum" in schema:
        parts.append(f"One of {', '.join(str(word) for word in schema['enum'] if word is not None)}.")
    if "maximum" in schema:
        parts.append(f"From {schema['minimum']} to {schema['maximum']}.")
    if "maxItems" in schema:
        parts.append(f"At most {schema['maxItems']} of them.")
    length = schema.get("maxLength", MAX_TEXT)
    if length != MAX_TEXT and "at most" not in said:
        parts.append(f"At most {f'{length} characters' if length < KiB else format_size(length)}.")
    return " ".join(part for part in parts if part)
