"""The types of options: how a value of the TOML file is checked, and how a word of the kernel command line is parsed.

An invalid value raises ValueError with a text that is to be read after the option's key. The text never has the value,
which may be a secret under the wrong key.
"""

import ipaddress
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent.model.url import check_url

MAX_TEXT = 4096
"""Characters of a string, and bytes of a path (PATH_MAX)."""
MAX_SOCKET_PATH = 107
"""Bytes: `sun_path` has 108 with the final NUL, see unix(7)."""
MAX_LIST = 256

_WORDS_FOR_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_TYPE_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_UNFIT = re.compile("[\\x00\\ud800-\\udfff]")  # surrogates represent bytes that are not UTF-8
_BAD_ADDRESS = "must be HOST:PORT, such as 0.0.0.0:9443 or [::]:9443"


@dataclass(frozen=True, slots=True)
class OptionKind:
    """One type of options."""

    name: str
    """Its name in the documentation."""
    read: Callable[[object], Any]
    """Checks a decoded TOML value and returns the value for the configuration.

    Raises:
        ValueError: the value is invalid.
    """
    from_word: Callable[[str], object] = str
    """Converts a value of the kernel command line to the TOML value for `read`; raises the same."""


def _wrong_type(expected: str, value: object) -> ValueError:
    return ValueError(f"must be {expected}, not {_TYPE_NAMES.get(type(value), 'a date or a time')}")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type("a string", value)
    if not value:
        raise ValueError("must not be empty")
    if len(value) > MAX_TEXT:
        raise ValueError(f"has {len(value)} characters, at most {MAX_TEXT} are taken")
    if not value.isprintable():
        raise ValueError("holds control characters, or bytes that are not UTF-8")
    return value


def matching(name: str, pattern: str, otherwise: str) -> OptionKind:
    """Strings that match `pattern` completely; `otherwise` is the fault text for others."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        text = _string(value)
        if not compiled.fullmatch(text):
            raise ValueError(otherwise)
        return text

    return OptionKind(name, read)


def _path(value: object) -> str:
    text = _string(value)
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    if len(text.encode()) >= MAX_TEXT:
        raise ValueError(f"is a path of {len(text.encode())} bytes, at most {MAX_TEXT - 1} are taken")
    return text


def _socket_path(value: object) -> str:
    text = _path(value)
    length = len(text.encode())
    if length > MAX_SOCKET_PATH:
        raise ValueError(
            f"is a path of {length} bytes; the path of a Unix socket has at most {MAX_SOCKET_PATH}"
        )
    return text


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type("true or false", value)
    return value


def _boolean_word(word: str) -> bool:
    try:
        return _WORDS_FOR_BOOLEANS[word.lower()]
    except KeyError:
        raise ValueError("must be true, 1 or yes, or else false, 0 or no") from None


def _boolean_or_http(value: object) -> bool | str:
    if value != "http" and not isinstance(value, bool):
        raise _wrong_type('true, false or "http"', value)
    return value if isinstance(value, bool) else "http"


def _boolean_or_http_word(word: str) -> bool | str:
    try:
        return word if word == "http" else _boolean_word(word)
    except ValueError:
        raise ValueError("must be true, 1 or yes, or else false, 0 or no, or http") from None


def seconds(least: float, most: float) -> OptionKind:
    """Durations in seconds from `least` to `most`."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong_type("a number of seconds", value)
        if not least <= value <= most:  # also true for nan
            raise ValueError(f"must be a number of seconds from {least:g} to {most:g}")
        return float(value)

    return OptionKind("seconds", read, _number_word)


def _number_word(word: str) -> float:
    if len(word) > 32 or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", word):
        raise ValueError("must be a number, such as 10 or 0.5")
    return float(word)


def integer(least: int, most: int) -> OptionKind:
    """Integers from `least` to `most`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type("an integer", value)
        if not least <= value <= most:
            raise ValueError(f"must be an integer from {least} to {most}")
        return value

    return OptionKind("integer", read, _integer_word)


def _integer_word(word: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", word):
        raise ValueError("must be an integer")
    return int(word)


def choice(*names: str) -> OptionKind:
    """One of these strings."""

    def read(value: object) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return OptionKind(" | ".join(names), read)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _wrong_type("an array of strings", value)
    if not 0 < len(value) <= MAX_LIST:
        raise ValueError(f"must have 1 to {MAX_LIST} elements, has {len(value)}")
    return value


def _command(value: object) -> tuple[str, ...]:
    words = []
    for index, item in enumerate(_items(value)):
        if not isinstance(item, str) or len(item) > MAX_TEXT or _UNFIT.search(item):
            raise ValueError(f"element {index} is not a word that a program can be given")
        words.append(item)
    _string(words[0])  # the program itself
    return tuple(words)


def _command_words(word: str) -> list[str]:
    try:
        return shlex.split(word)
    except ValueError as error:
        raise ValueError(f"cannot be split into words as a shell does: {error}") from None


def _disks(value: object) -> tuple[str, ...]:
    paths: list[str] = []
    for index, item in enumerate(_items(value)):
        try:
            path = _path(item)
        except ValueError as error:
            raise ValueError(f"element {index} {error}") from None
        if path in paths:
            raise ValueError(f"element {index} is a path that stood there before")
        paths.append(path)
    return tuple(paths)


def _address(value: object) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(_string(value))
    if match is None or int(match[3]) > 65535:
        raise ValueError(_BAD_ADDRESS)
    host = match[1] or match[2]
    if match[1] or re.fullmatch("[0-9.]+", host):
        try:
            ipaddress.IPv6Address(host) if match[1] else ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(_BAD_ADDRESS) from None
    return host, int(match[3])


def _ip_address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(_string(value)))
    except ValueError:
        raise ValueError("must be an IP address") from None


def _service_url(value: object) -> str:
    text = _string(value)
    if not re.match("https?://", text, re.IGNORECASE):
        raise ValueError("must begin with https://")
    wrong = check_url(text)
    if wrong is not None:
        raise ValueError(f"cannot be used: {wrong}")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("must hold no user name and no password: put a token into control_plane.token_file")
    if "?" in text or "#" in text:
        raise ValueError("must have neither query nor fragment: paths are appended to it")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https://; plain http is for this machine only (127.0.0.1)")
    return text.rstrip("/")


def _service_urls(value: object) -> tuple[str, ...]:
    """URLs of one service, by http too: an operator's own network may have no certificates."""
    urls = []
    for text in _string(value).split(","):
        if not re.match("https?://", text, re.IGNORECASE):
            raise ValueError("must begin with https:// or http://")
        wrong = check_url(text)
        if wrong is not None:
            raise ValueError(f"cannot be used: {wrong}")
        if "@" in urlsplit(text).netloc or "?" in text or "#" in text:
            raise ValueError("must have no user name, no query and no fragment")
        urls.append(text.rstrip("/"))
    return tuple(urls)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


PATH = OptionKind("path", _path)
IP_ADDRESS = OptionKind("string", _ip_address)
SOCKET_PATH = OptionKind("path", _socket_path)
BOOLEAN = OptionKind("boolean", _boolean, _boolean_word)
BOOLEAN_OR_HTTP = OptionKind("boolean or http", _boolean_or_http, _boolean_or_http_word)
COMMAND = OptionKind("array of strings", _command, _command_words)
DISKS = OptionKind("array of paths", _disks, lambda word: word.split(","))
ADDRESS = OptionKind("HOST:PORT", _address)
SERVICE_URL = OptionKind("URL", _service_url)
SERVICE_URLS = OptionKind("URL[,URL...]", _service_urls)
