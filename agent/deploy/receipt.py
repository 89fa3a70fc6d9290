"""The receipt of a deployment that is over, by the daemon or by `byoi write`: from its last status to the envelope."""

import platform
from collections.abc import Mapping
from typing import Any

from agent import __version__
from agent.model.receipt import PAYLOAD_TYPE, Circumstances, encode, make_statement

COMMAND = "command"
"""The origin of a job that was given to `byoi write`."""


def make_receipt(
    status: Mapping[str, Any],
    key: str | None,
    *,
    job_id: str | None = None,
    origin: str = COMMAND,
    accepted_at: float | None = None,
) -> Mapping[str, Any]:
    """The receipt, an envelope. Blocking: it loads the library for signing, where there is a key.

    Args:
        status: the last status document, `done` or `error`.
        key: the private key of Ed25519 in PEM by which it is signed; None: it is not.
        job_id: that of the daemon's job.
        origin: who gave the job.
        accepted_at: when, in seconds since the epoch.

    Raises:
        KeyFault: it is no such key.
    """
    from agent.formats.dsse import seal  # noqa: PLC0415 - when a deployment ends, and not before

    versions = {"byoi-agent": __version__, "python": platform.python_version(), "linux": platform.release()}
    around = Circumstances(job_id, origin, accepted_at, versions)
    return seal(PAYLOAD_TYPE, encode(make_statement(status, around)), key)
