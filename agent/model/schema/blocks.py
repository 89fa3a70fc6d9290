"""What every schema is made of."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent.model.object_reader import MAX_TEXT

Schema = dict[str, Any]

_TIME = "RFC 3339, UTC, to the millisecond"


def an_object(
    properties: Mapping[str, Schema], *, required: Sequence[str] | None = None, text: str = ""
) -> Schema:
    """An object with these members only; all of them are required unless `required` lists fewer."""
    listed = list(properties if required is None else required)
    described = {"description": text} if text else {}
    return {
        "type": "object",
        **described,
        "properties": dict(properties),
        "required": listed,
        "additionalProperties": False,
    }


def of(kind: str, text: str = "", **more: Any) -> Schema:
    """A value of this type; `text` describes it."""
    return {"type": kind, **({"description": text} if text else {}), **more}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    wider = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        wider["enum"] = [*schema["enum"], None]
    return wider


def a_text(text: str = "", limit: int = MAX_TEXT, *, empty: bool = False, **more: Any) -> Schema:
    """A text of at most `limit` characters, and of at least one unless it may be empty."""
    return of("string", text, **({} if empty else {"minLength": 1}), maxLength=limit, **more)


def whole(pattern: re.Pattern[str]) -> str:
    """A pattern that has to fit all of a text."""
    return f"^(?:{pattern.pattern})$"


def a_time(text: str = "") -> Schema:
    """A point in time."""
    return of("string", f"{text} {_TIME}.".strip(), format="date-time")


def a_count(text: str = "") -> Schema:
    """A whole number that is not negative."""
    return of("integer", text, minimum=0)
