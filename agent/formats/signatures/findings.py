"""What is found about signatures: one finding for each, and the two ways in which one is at fault."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from agent.text import printable

WHOLE = "whole"
"""In place of a digest's name: the signed bytes themselves. Such a signature cannot be checked while an image flows."""
CLOCK_SKEW = 86400.0
"""Seconds by which a signature may be made after what this machine's clock says."""
MIN_RSA_BITS = 2048
"""Shorter keys of RSA and DSA count for nothing (NIST SP 800-131A)."""
MAX_SIGNATURES = 16
_SHOWN_USER = 200

About = Literal["signature", "key"]
Key = TypeVar("Key")


class Refused(Exception):
    """A signature file or a key that cannot be used; the text says why and follows on a colon."""

    def __init__(self, reason: str, *, about: About = "signature", hint: str = "") -> None:
        self.about = about
        self.hint = hint
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file with public keys of one type."""

    name: str | None
    """The operator's name for it; None for the one that the job brings."""
    data: bytes
    allowed: bool = True
    """Whether the job lets it count. One that does not is known all the same, and told by its name."""

    def __str__(self) -> str:
        return "the job's publicKey" if self.name is None else f"the trusted key {self.name}"


def usable_keys(file: KeyFile, read: Callable[[KeyFile], Iterable[Key]], none: str) -> list[Key]:
    """The keys of a file.

    Args:
        file: the file.
        read: gives its keys one by one, and refuses what it does not understand.
        none: why it cannot be used where it holds none.

    Raises:
        Refused: it cannot be used; the text names the file.
    """
    try:
        keys = list(read(file))
        if not keys:
            raise Refused(none)
    except Refused as refusal:
        raise Refused(f"{file} cannot be used: {refusal}", about="key") from None
    return keys


@dataclass(frozen=True, slots=True)
class Finding:
    """One signature: whose it is, and what is wrong with it."""

    key: str
    """The fingerprint or id of the key, as the tools of its type print it; empty where the signature does not say."""
    algorithm: str
    """Such as `RSA 4096, SHA512`."""
    name: str | None = None
    """The operator's name of the file that the key is in."""
    user: str | None = None
    """Whom the key says that it belongs to."""
    signed_at: float | None = None
    """Seconds since the epoch, where the signature says that."""
    fault: str | None = None
    """Why it does not count; None where it does, or where only the signed bytes can tell."""
    about: About = "signature"
    """What the fault is of."""
    hint: str = ""

    def __str__(self) -> str:
        who = self.key or "an unnamed key"
        user = f" ({printable(self.user, _SHOWN_USER)})" if self.user else ""
        return f"{who}{user}: {self.fault or 'good'}"

    def document(self) -> dict[str, Any]:
        """The finding in a status document."""
        return {
            "key": self.key,
            "name": self.name,
            "user": None if self.user is None else printable(self.user, _SHOWN_USER),
            "algorithm": self.algorithm,
            "signedAt": None if self.signed_at is None else day_and_time(self.signed_at),
            "accepted": self.fault is None,
            "reason": self.fault,
        }


class Claims(Protocol):
    """A signature file that was read, with the keys."""

    findings: Sequence[Finding]
    """One for each signature, at least one. Those without a fault wait for the signed bytes."""
    wanted: Sequence[str]
    """Digests of the signed bytes that `check` needs, as hashlib names them, or `WHOLE`."""

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The findings once the digests that are wanted are there."""


def same_bytes_fault(what: str) -> str:
    """The fault of a signature that is well made, of other bytes."""
    return f"{what} did not sign these bytes, but others"


def clock_fault(made: float, now: float, what: str) -> str | None:
    """The fault of something that was made after now, by this machine's clock."""
    if made <= now + CLOCK_SKEW:
        return None
    return (
        f"{what} was made on {day(made)}, but by the clock of this server it is only {day_and_time(now)}: "
        "the clock is wrong"
    )


CLOCK_HINT = "Set the clock of the rescue system (date -s, or NTP), then deploy again."


def expired_fault(until: float, now: float, what: str) -> str | None:
    """The fault of something that has ended by now."""
    if until > now:
        return None
    return f"{what} expired on {day(until)}; by the clock of this server it is {day_and_time(now)}"


EXPIRED_HINT = (
    "Check the clock of the rescue system (date). If it is right, get the key as its owner has renewed it."
)


def day(seconds: float) -> str:
    """The day of a time since the epoch, in UTC."""
    return day_and_time(seconds)[:10]


def day_and_time(seconds: float) -> str:
    """A time since the epoch as RFC 3339 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"second {seconds:.0f}"


def judged(findings: Sequence[Finding], judge: Callable[[int], Finding]) -> tuple[Finding, ...]:
    """The findings, those that have no fault replaced by what `judge` says of them."""
    return tuple(each if each.fault else judge(index) for index, each in enumerate(findings))
