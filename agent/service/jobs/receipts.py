"""Makes the receipts of deployments, and signs them where the operator has a key for that.

Nothing of it can make a deployment fail: what goes wrong here is told in the notes, and the receipt is without a
signature, or there is none.
"""

import functools
from collections.abc import Mapping
from typing import Any

import structlog

from agent.aio import run_blocking
from agent.deploy.receipt import make_receipt
from agent.service.jobs.entry import JobEntry

log = structlog.get_logger(__name__)

_UNSIGNED = "the receipt is not signed: the key of receipt.key_file"


class Receipts:
    """Those of one agent."""

    def __init__(self, key: str | None = None) -> None:
        """Args:
        key: the private key of Ed25519 in PEM, by which they are signed; None: they are not.
        """
        self._key = key

    def renew(self, key: str | None) -> None:
        """Sign by this key from now on."""
        self._key = key

    async def issue(
        self, entry: JobEntry, status: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any] | None, str | None]:
        """The receipt of a job, an envelope, and what has to be noted where it is not as it should be.

        Args:
            entry: the job.
            status: its last status document, `done` or `error`.
        """
        try:
            return await run_blocking(_make, entry, status, self._key)
        except Exception as error:
            log.error("receipt_failed", id=entry.id, exc_info=error)  # noqa: TRY400
            return None, f"there is no receipt: {type(error).__name__} while it was made"


def _make(
    entry: JobEntry, status: Mapping[str, Any], key: str | None
) -> tuple[Mapping[str, Any], str | None]:
    from agent.formats.dsse import KeyFault  # noqa: PLC0415 - when a job ends, and not before

    make = functools.partial(
        make_receipt, status, job_id=entry.id, origin=entry.origin, accepted_at=entry.accepted_at
    )
    try:
        return make(key), None
    except KeyFault as fault:  # what PEM looks like was checked when the configuration was read
        return make(None), f"{_UNSIGNED} {fault}"
