"""One hint of a disk selector: an operator and what it compares with. Pure.

The operators are those of Ironic's root device hints, which are oslo.utils' (`specs_matcher`, version 10.2) behind the
preparation that Ironic 39 and its agent give them: letter case does not count, and an operator stands in front.
`tests/unit/model/test_hints.py` has a table of what these two answer. Where they fail with an exception, or where
what they do is a trap for whoever wipes a disk by it, docs/disks.md says what is done here instead.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.units import GiB

MAX_HINT = 1024
"""The most characters of a hint."""
MAX_SIZE = 10**9
"""The largest size in GiB that a hint can name."""
OR, IN, ALL_IN, RANGE_IN = "<or>", "<in>", "<all-in>", "<range-in>"
EQUAL = "s=="

_NUMERIC: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.ge,  # so it is in oslo.utils, for the sake of old specifications
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TEXTUAL: Mapping[str, Callable[[str, str], bool]] = {
    EQUAL: operator.eq,
    "s!=": operator.ne,
    "s>=": operator.ge,
    "s<=": operator.le,
    "s>": operator.gt,
    "s<": operator.lt,
    IN: lambda value, operand: operand in value,
    ALL_IN: lambda value, operand: all(word in value for word in operand.split()),
}
OPERATORS = tuple(sorted((*_NUMERIC, *_TEXTUAL, OR, RANGE_IN), key=len, reverse=True))
"""All operators, a longer one before what it begins with."""
OPERATORS_HELP = (
    "A text without an operator has to be equal, without regard to case. Operators stand in front, as in Ironic's root "
    "device hints: s== s!= s< s<= s> s>= compare texts; == != < <= > >= numbers (= is >=); <in> A is a part of it, "
    "<all-in> A B each is, <or> A <or> B it is one of them, <range-in> [ A B ] a range with or, by round brackets, "
    "without its ends."
)
_OPERATOR = re.compile("|".join(map(re.escape, OPERATORS)))
# These are in no name of a disk; within a hint without an operator they are one at the wrong place.
_MISPLACED = re.compile("<or>|<in>|<all-in>|<range-in>|s==|s!=")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?")
_RANGE = re.compile(r"([\[(])\s*(\S+)\s+([^\s\])]+)\s*([\])])")
_TRUE = ("1", "t", "true", "on", "y", "yes")
_FALSE = ("0", "f", "false", "off", "n", "no")


class HintRefused(ValueError):
    """A hint is refused. The message is a predicate ("has no ..."); the caller puts the key before it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """An operator, and the words behind it in lower case: several for `<or>`, four for `<range-in>`, else one."""

    operator: str
    operands: tuple[str, ...]


def normal(text: str) -> str:
    """The text as it is compared: in lower case, with single blanks in it and none around it."""
    return " ".join(text.split()).lower()


# -- reading -------------------------------------------------------------------------------------------------


def read_text_hint(value: object) -> Hint:
    """The hint for a key whose values are texts. Without an operator it is `s==`.

    Raises:
        HintRefused: it is no hint.
    """
    hint = _split(value) if isinstance(value, str) else None
    if hint is None:
        raise HintRefused("must be a string")
    hint = Hint(hint.operator or EQUAL, hint.operands)
    if hint.operator in _NUMERIC and number(hint.operands[0]) is None:
        raise HintRefused(
            f"has {hint.operator} before what is no number; for texts there is s{hint.operator}"
        )
    return hint


def read_size_hint(value: object) -> Hint:
    """The hint for a size in GiB: a whole number, or text with an operator for numbers. Without one it is `==`.

    Raises:
        HintRefused: it is no hint.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise HintRefused("must be a whole number of GiB, or a string such as >= 100")
    hint = _split(value if isinstance(value, str) else _decimal(value))
    hint = Hint(hint.operator or "==", hint.operands)
    if hint.operator == RANGE_IN:
        return hint
    if hint.operator != OR and hint.operator not in _NUMERIC:
        raise HintRefused(
            f"has {hint.operator}, which compares texts; a size takes {', '.join(_NUMERIC)}, {OR}"
        )
    for operand in hint.operands:
        if not re.fullmatch(r"\d{1,10}", operand, re.ASCII) or not 1 <= int(operand) <= MAX_SIZE:
            raise HintRefused(f"must name a whole number of GiB, from 1 to {MAX_SIZE}")
    return hint


def _decimal(value: int) -> str:
    return str(value) if abs(value) <= MAX_SIZE else "too large"


def read_flag(value: object) -> bool:
    """A truth value: of JSON, or as Ironic spells it.

    Raises:
        HintRefused: it is none.
    """
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word not in (*_TRUE, *_FALSE):
        raise HintRefused("must be true or false (or 1, t, on, y, yes; 0, f, off, n, no)")
    return word in _TRUE


def _split(text: str) -> Hint:
    """Operator and operands; the operator is empty where there is none."""
    if len(text) > MAX_HINT:
        raise HintRefused(f"has {len(text)} characters, at most {MAX_HINT} are taken")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise HintRefused("holds half of a surrogate pair, which is no text")
    text = normal(text)
    if not text:
        raise HintRefused("must not be empty (leave it out, or give null)")
    found = _OPERATOR.match(text)
    if found is None:
        if misplaced := _MISPLACED.search(text):
            raise HintRefused(f"has {misplaced[0]} in its middle; an operator stands in front")
        return Hint("", (text,))
    rest = text[found.end() :].strip()
    if found[0] == RANGE_IN:
        return Hint(RANGE_IN, _range(rest))
    operands = tuple(map(str.strip, rest.split(OR))) if found[0] == OR else (rest,)
    for operand in operands:
        _check_operand(found[0], operand)
    return Hint(found[0], operands)


def _check_operand(name: str, operand: str) -> None:
    if not operand:
        raise HintRefused(f"has {name} with nothing behind it")
    if (second := _OPERATOR.match(operand) or _MISPLACED.search(operand)) or name in operand:
        raise HintRefused(f"has {second[0] if second else name} behind {name}; a hint has one operator")


def _range(text: str) -> tuple[str, ...]:
    found = _RANGE.fullmatch(text)
    low, high = (number(found[2]), number(found[3])) if found else (None, None)
    if found is None or low is None or high is None or low > high:
        raise HintRefused(
            f"has {RANGE_IN}, behind which a range is expected such as [ 100 500 ] or ( 100 500 )"
        )
    return found.groups()


def number(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


# -- comparing -----------------------------------------------------------------------------------------------


def fits_texts(hint: Hint, names: Iterable[str]) -> bool:
    """Whether a hint fits what has these names. One of them is enough; a hint that excludes has to hold for all."""
    values = [normal(name) for name in names]
    enough = all if hint.operator in ("!=", "s!=") else any
    return bool(values) and enough(_fits_text(hint, value) for value in values)


def _fits_text(hint: Hint, value: str) -> bool:
    if hint.operator == OR:
        return value in hint.operands
    if hint.operator in _TEXTUAL:
        return _TEXTUAL[hint.operator](value, hint.operands[0])
    found = number(value)
    return found is not None and _fits_number(hint, found)


def fits_size(hint: Hint, size: int) -> bool:
    """Whether a hint fits a size in bytes. Equality is that of whole GiB, all else is compared exactly."""
    whole = size // GiB
    if hint.operator == OR:
        return whole in map(int, hint.operands)
    return _fits_number(hint, whole if hint.operator in ("==", "!=") else size / GiB)


def _fits_number(hint: Hint, found: float) -> bool:
    if hint.operator == RANGE_IN:
        return _is_within(found, hint.operands)
    return _NUMERIC[hint.operator](found, float(hint.operands[0]))


def _is_within(found: float, operands: Sequence[str]) -> bool:
    opening, low, high, closing = operands
    above = found >= float(low) if opening == "[" else found > float(low)
    below = found <= float(high) if closing == "]" else found < float(high)
    return above and below
