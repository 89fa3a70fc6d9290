"""Checks the URLs of images, and makes them safe to show.

Nothing here resolves a name or opens a connection. The terms are those of RFC 3986; the file scheme is that of RFC
8089.
"""

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from agent.model.registry import CARRIERS, check_reference
from agent.text import HIDDEN, printable

MAX_URL_LENGTH = 8192
"""In characters; longer URLs are refused before they are parsed."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MALFORMED = "the host or the port of the URL is malformed"
_FORBIDDEN_IN_AUTHORITY = re.compile(r'[\\<>"{}|^`]')
# The form of a parameter name in a query; a token is longer or has other characters.
_QUERY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


class Origin(NamedTuple):
    """Scheme, host and port of a URL (RFC 6454): the job's headers are sent to the origin of its URL only.

    That of a registry's URL is the one that is asked: https or http.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS.get(self.scheme) == self.port
        return f"{self.scheme}://{host}" if default else f"{self.scheme}://{host}:{self.port}"


def check_url(text: str) -> str | None:
    """What is wrong with the URL of an image, or None. The message has none of the URL's secrets.

    Whether plain http is allowed is for the caller to check.
    """
    if len(text) > MAX_URL_LENGTH:
        return f"the URL has {len(text)} characters, more than {MAX_URL_LENGTH}"
    if not text.isprintable() or any(character.isspace() for character in text):
        return "the URL contains white space or control characters"
    parts = _split(text)
    if parts is None:
        return _MALFORMED
    if parts.scheme == "file":
        return _check_file(parts)
    if parts.scheme in CARRIERS:
        return _check_authority(parts) or check_reference(parts)
    return _check_remote(parts)


def check_web_url(text: str) -> str | None:
    """The same, for a URL that has to be http or https."""
    fault = check_url(text)
    if fault is None and urlsplit(text).scheme not in _DEFAULT_PORTS:
        return "the URL must begin with http:// or https://"
    return fault


def _check_remote(parts: SplitResult) -> str | None:
    if parts.scheme not in _DEFAULT_PORTS:
        return "the URL must begin with http://, https://, oci:// or file:///"
    return _check_authority(parts)


def _check_authority(parts: SplitResult) -> str | None:
    if not parts.hostname:
        return "the URL names no host"
    if parts.port == 0 or _FORBIDDEN_IN_AUTHORITY.search(parts.netloc):
        return _MALFORMED
    return None


def _check_file(parts: SplitResult) -> str | None:
    if parts.netloc not in ("", "localhost"):
        return "a file URL names a local file: write file:///absolute/path"
    if not parts.path.startswith("/"):
        return "the path of a file URL must be absolute: write file:///absolute/path"
    if parts.query or parts.fragment:
        return "a file URL has neither query nor fragment: write ? as %3F and # as %23"
    if not unquote(parts.path).isprintable():
        return "the path of the file URL contains control characters"
    return None


def redact_url(text: str) -> str:
    """The URL without its secrets: userinfo, fragment, and the values of the query (signed URLs).

    Never raises. Of a text that is not a URL only the scheme is kept.
    """
    parts = _split(text) if len(text) <= MAX_URL_LENGTH else None
    if parts is None or not parts.scheme or not (parts.netloc or parts.scheme == "file"):
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,31}(?=:)", text)
        return f"{scheme[0]}:{HIDDEN}" if scheme else HIDDEN
    authority = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{authority}{parts.path}"
    if parts.query:
        shown += "?" + "&".join(_hide_value(item) for item in parts.query.split("&"))
    return printable(shown, MAX_URL_LENGTH)


def _hide_value(item: str) -> str:
    name, _, value = item.partition("=")
    # An item with nothing but equal signs behind its "name" is a value itself: base64 ends so.
    return f"{name}={HIDDEN}" if value.strip("=") and _QUERY_NAME.fullmatch(name) else HIDDEN


def origin_of(url: str) -> Origin:
    """The origin of a URL that passed `check_url`."""
    parts = urlsplit(url)
    scheme = CARRIERS.get(parts.scheme, parts.scheme)
    return Origin(scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(scheme, 0))


def userinfo_of(url: str) -> tuple[str, str] | None:
    """User and password of a URL that passed `check_url`, percent-decoded; None without them."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def without_userinfo(url: str) -> str:
    """The URL to request: without userinfo and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def redirect_target(url: str, location: str) -> str:
    """The URL that a `Location` header refers to, without userinfo.

    Raises:
        ValueError: the target is not an http or https URL, or leads from https to http; the message has no secrets.
    """
    try:
        target = urljoin(url, location)
    except ValueError:
        raise ValueError("the server redirects to a malformed URL") from None
    fault = check_url(target)
    if fault is not None:
        raise ValueError(f"the server redirects to a URL that cannot be used: {fault}")
    scheme = urlsplit(target).scheme
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"the server redirects to a {scheme} URL")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise ValueError(f"the server redirects from https to plain http: {redact_url(target)}")
    return without_userinfo(target)


def file_name(url: str) -> str:
    """The name of the file behind a URL that passed `check_url`: the last part of its path, percent-decoded; may be
    empty.
    """
    return unquote(urlsplit(url).path.rpartition("/")[2])


def file_path(url: str) -> str:
    """The absolute path of a file URL that passed `check_url`."""
    return unquote(urlsplit(url).path)


def _split(text: str) -> SplitResult | None:
    """The parts of a URL, or None if its host or port is malformed."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed on access
    except ValueError:
        return None
    return parts
