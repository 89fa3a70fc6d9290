"""Reads the members of one JSON object of a job, strictly, and collects what is wrong with them. Pure.

Owned by `agent.model.job`. A member that is null counts as absent. No fault contains the value of a member.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.errors import Fault
from agent.model.job_text import shortened
from agent.units import MiB, format_size

MAX_DATA_BYTES = MiB
"""Length of `networkData` and of `vendorData` as JSON on the drive, in bytes."""
MAX_LIST = 256
MAX_TEXT = 16 * 1024
MAX_PAIR_KEY_BYTES = 1024
MAX_PAIR_VALUE_BYTES = 64 * 1024
MAX_DISK_GROUP_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One `{key, value}` member of `httpHeader` or `userMetadatas`."""

    key: str
    value: str | None = field(repr=False)


class ObjectReader:
    """Reads the members of one JSON object and collects faults; null counts as absent."""

    def __init__(self, document: Mapping[str, Any], path: str, faults: list[Fault] | None = None) -> None:
        self._document = document
        self._path = path
        self._known: set[str] = set()
        self.faults: list[Fault] = [] if faults is None else faults

    def fault(self, key: str, message: str, code: str = "job.invalid") -> None:
        """Note a fault of a member; `key` may go on with an index or a member below it."""
        self.faults.append(Fault(f"{self._path}{key}", message, code))

    def has(self, key: str) -> bool:
        """Whether the member is there, and not null."""
        return self._document.get(key) is not None

    def value(self, key: str) -> Any:
        """The member as it is, checked by nobody; None where it is absent."""
        self._known.add(key)
        return self._document.get(key)

    def text(
        self,
        key: str,
        *,
        required: bool = False,
        limit: int = MAX_TEXT,
        may_be_empty: bool = False,
        check: Callable[[str], str | None] | None = None,
    ) -> str | None:
        """A string of at most `limit` bytes in UTF-8; `check` says what else is wrong with it. None with a fault."""
        value = self.value(key)
        if value is None:
            if required:
                self.fault(key, "is required")
            return None
        message = self._text_fault(value, limit, may_be_empty=may_be_empty)
        if message is None and check is not None:
            message = check(value)
        if message is not None:
            self.fault(key, message)
            return None
        return str(value)

    @staticmethod
    def _text_fault(value: object, limit: int, *, may_be_empty: bool) -> str | None:
        if not isinstance(value, str):
            return "must be a string"
        if not value and not may_be_empty:
            return "must not be empty (leave it out, or give null)"
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no text"
        return _too_long(length, limit) if length > limit else None

    def texts(self, key: str, most: int, check: Callable[[str], str | None]) -> tuple[str, ...]:
        """An array of at most `most` strings; `check` says what is wrong with one."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most:
            self.fault(key, f"must be an array of strings, at most {most}")
            return ()
        for index, item in enumerate(value):
            message = self._text_fault(item, MAX_TEXT, may_be_empty=False) or check(item)
            if message is not None:
                self.fault(f"{key}[{index}]", message)
        return tuple(map(str, value))

    def integer(self, key: str) -> int | None:
        """An integer from 0 to `MAX_DISK_GROUP_ID`."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_DISK_GROUP_ID:
            self.fault(key, "must be an integer, 0 or larger")
            return None
        return value

    def boolean(self, key: str) -> bool:
        """True only where the member is."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            self.fault(key, "must be true or false")
        return value is True

    def json_object(self, key: str, *, or_text: bool = False) -> Any:
        """An object (or a string) that is handed on as it is, at most `MAX_DATA_BYTES` as JSON."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict) and not (or_text and isinstance(value, str)):
            self.fault(key, "must be an object or a string" if or_text else "must be an object")
            return None
        length = len(json.dumps(value))
        if length > MAX_DATA_BYTES:
            self.fault(key, _too_long(length, MAX_DATA_BYTES))
            return None
        return value

    def child(self, key: str) -> "ObjectReader":
        """The reader of an object within this one, empty where it is absent; its faults are kept here."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.fault(key, "must be an object")
            value = None
        return ObjectReader(value or {}, f"{self._path}{key}.", self.faults)

    def pairs(self, key: str) -> tuple[KeyValue, ...]:
        """An array of `{key, value}` objects, at most `MAX_LIST`."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_LIST:
            self.fault(key, f'must be an array of {{"key", "value"}} objects, at most {MAX_LIST}')
            return ()
        return tuple(
            pair for index, item in enumerate(value) if (pair := self._pair(f"{key}[{index}]", item))
        )

    def _pair(self, where: str, item: object) -> KeyValue | None:
        if not isinstance(item, dict):
            self.fault(where, 'must be an object with "key" and "value"')
            return None
        reader = ObjectReader(item, f"{self._path}{where}.", self.faults)
        key = reader.text("key", required=True, limit=MAX_PAIR_KEY_BYTES)
        value = reader.text("value", may_be_empty=True, limit=MAX_PAIR_VALUE_BYTES)
        reader.refuse_unknown()
        return None if key is None else KeyValue(key, value)

    def refuse_unknown(self) -> None:
        """Note a fault for each member that nobody has asked for; called last."""
        for key in self._document:
            if key not in self._known:
                self.fault(
                    shortened(str(key)), f"is an unknown key; known are {_listed(sorted(self._known))}"
                )


def _too_long(length: int, limit: int) -> str:
    return f"has {format_size(length)}, at most {format_size(limit)} are taken"


def _listed(words: Sequence[str] | Iterable[str]) -> str:
    return ", ".join(words)
