"""Blanks secrets in text that others have written: logs, the kernel's messages, a command line. Pure.

What the agent writes itself holds none (documents by `Job.redacted`, the log by `agent.logs`). This is for what comes
from elsewhere, and for the day on which one of those has a fault: known secrets wherever they stand, and what looks
like one by its surroundings. It rather blanks too much.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from agent.model.url import redact_url
from agent.text import HIDDEN

MIN_KNOWN = 6
"""Characters of a known secret that is looked for: a shorter one would blank words that are none."""

_VALUE = r"""(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',;}&]+)"""
_KEPT = {"null", "true", "false", "None", "True", "False", HIDDEN, f'"{HIDDEN}"', '""'}


def _redact(match: re.Match[str]) -> str:
    return redact_url(match[0])


def _hide_value(match: re.Match[str]) -> str:
    value = match["value"]
    if value in _KEPT or match["name"].lower().endswith("_file"):  # the path of a file is none
        return match[0]
    return match[0][: match.start("value") - match.start()] + (
        f'"{HIDDEN}"' if value.startswith('"') else HIDDEN
    )


# Every repetition in front of a word is bounded: a text of a MiB takes a moment, whatever is in it.
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        lambda _: f"{HIDDEN} (a private key)",
    ),
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s\"'<>\\]+"), _redact),
    (
        re.compile(r"(?i)\b(?P<name>(?:proxy-)?authorization|cookie|x-auth-token)\b\"?\s*[:=]\s*(?P<value>\"[^\"]*\"|[^\r\n\"]+)"),
        _hide_value,
    ),
    (re.compile(r"(?i)\b(?P<name>bearer|basic)\s+(?P<value>[A-Za-z0-9._~+/=-]{8,})"), _hide_value),
    # A parameter of the kernel that is quoted as a whole.
    (re.compile(r'(?i)(?<=")(?:[\w.]{1,40}\.)?set_?credential\w*=[^"]*(?=")'), lambda _: HIDDEN),
    # systemd.exec(5): NAME:VALUE, on the kernel command line and in units.
    (
        re.compile(r"(?i)(?P<name>set_?credential(?:_binary|encrypted)?)=(?:[^:\s\"]+:)" + _VALUE),
        _hide_value,
    ),
    (
        re.compile(
            r"(?i)(?P<name>[\w.-]{0,40}(?:token|secret|passw(?:or)?d|passphrase|private_?key)[\w.-]{0,40}+)[\"']?\s*[=:]\s*"
            + _VALUE
        ),
        _hide_value,
    ),
)  # fmt: skip


def blank(text: str, known: Iterable[str] = ()) -> str:
    """The text with `***` for every secret that can be told.

    Args:
        text: of any origin.
        known: secrets by their values; each is found as it stands, as JSON and URLs write it, and in base64.
    """
    for form in sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return text


def _forms(secret: str) -> Iterable[str]:
    secret = secret.strip()
    if len(secret) < MIN_KNOWN:
        return ()
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    lines = [line for line in secret.splitlines() if len(line) >= MIN_KNOWN and not line.startswith("-----")]
    return (
        secret,
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        encoded,
        *(lines if len(lines) > 1 else ()),
    )
