"""Binary units, sizes and durations as text, and rounding to multiples."""

import re

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

_SUFFIXES = {"": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Parse a size such as `20G`, `512MiB` or `1048576`. Units are binary: 20G is 20 GiB.

    Returns:
        The size in bytes, at least 1.

    Raises:
        ValueError: the text is not a size, or the size is 0.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: expected a number with K, M, G or T behind it, such as 20G"
        )
    size = int(match[1]) * _SUFFIXES[match[2].upper()]
    if size == 0:
        raise ValueError(f"{text!r} is not a size: it must be larger than zero")
    return size


def format_size(size: float) -> str:
    """A number of bytes for people: `3.0 GiB`, `512 B`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: float) -> str:
    """A number of seconds for people: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def divide_up(value: int, divisor: int) -> int:
    """`value` divided by `divisor`, rounded up: how many units of `divisor` hold `value`."""
    return -(-value // divisor)


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is not below `value`."""
    return divide_up(value, alignment) * alignment


def align_down(value: int, alignment: int) -> int:
    """The largest multiple of `alignment` that is not above `value`."""
    return value // alignment * alignment
