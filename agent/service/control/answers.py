"""What a control plane may answer to the two calls, and what that means. Pure.

Every answer is hostile: it is bounded before it is parsed, an id that could lead to another URL is not taken, and no
text of an answer gets into a fault.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from agent.errors import JobInvalid
from agent.model.job_text import MAX_JOB_BYTES, TextRefused, bounded_text, read_json
from agent.model.surroundings import Trouble
from agent.units import KiB

MAX_OFFER_BYTES = MAX_JOB_BYTES + 64 * KiB
"""Of the answer to the question for a job: the largest job that may be posted, and what is around it."""
MAX_REPLY_BYTES = 64 * KiB
"""Of the answer to a status that is read; a longer one says nothing."""

# One segment of a URL that every client and proxy passes on as it is: nothing in it is encoded, decoded or normalised.
_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:-]{1,128}")
_UNUSABLE_ID = "an id of 1 to 128 letters, digits and - . _ ~ :, and neither . nor .."
# 4xx that tell of the credentials or of the moment, and not of the request.
_PASSING = frozenset({401, 403, 407, 408, 425, 429})
_ID_IN_FRONT = re.compile(rb'\s*\{\s*"id"\s*:\s*"([^"\\]*)"')


class ControlFault(Exception):
    """The control plane could not be asked, or gave no sensible answer. The text holds no secret."""

    def __init__(
        self,
        reason: str,
        retry_after: str | None = None,
        *,
        is_final: bool = False,
        trouble: Trouble = Trouble.ANSWER,
    ) -> None:
        self.retry_after = retry_after
        """The header of that name, as it came; read by `agent.transfer.retry.retry_delay`."""
        self.is_final = is_final
        """Whether the same request will not be taken later either."""
        self.trouble = trouble
        """The reason in one of few words."""
        super().__init__(reason)


class Action(Enum):
    """What the control plane answers to a status."""

    CONTINUE = auto()
    CANCEL = auto()
    GONE = auto()
    """404 or 410: the deployment was deleted there."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A job as the control plane gave it, not yet looked at."""

    id: str
    job: Mapping[str, Any] = field(repr=False)
    fault: JobInvalid | None = None
    """Why the document cannot be read as strictly as a posted job is."""


def check_id(job_id: str) -> None:
    """Refuse an id that does not stay one segment of a URL.

    Raises:
        ControlFault: it does not; for good.
    """
    if not _ID.fullmatch(job_id):
        raise ControlFault(f"the job is without {_UNUSABLE_ID}", is_final=True, trouble=Trouble.AGENT)


def check_available(status: int, retry_after: str | None) -> None:
    """Refuse an answer that asks to come again later.

    Raises:
        ControlFault: 429 or 5xx.
    """
    if status == 429 or status >= 500:
        raise ControlFault(f"it answered {status}", retry_after, trouble=Trouble.UNAVAILABLE)


def read_offer(status: int, body: bytes | None) -> Offer | None:
    """The answer to the question for a job; None where there is none. Takes a while for a large body.

    Args:
        status: of the answer.
        body: of it; None where it is longer than MAX_OFFER_BYTES.

    Raises:
        ControlFault: it makes no sense, or names no id that can be answered.
    """
    if status == 204:
        return None
    if status != 200:
        raise ControlFault(f"it answered {status} to the question for a job", trouble=Trouble.REFUSED)
    if body is None:
        raise ControlFault(f"it answered with more than {MAX_OFFER_BYTES} bytes")
    document, fault = _read_strictly(body)
    job_id, job = document.get("id"), document.get("job")
    if not isinstance(job_id, str) or not _ID.fullmatch(job_id):
        raise ControlFault(f"it gave a job without {_UNUSABLE_ID}")
    return Offer(job_id, job if isinstance(job, dict) else {}, fault)


def read_action(status: int, body: bytes | None) -> Action:
    """The answer to a status. Any 2xx takes it; one that says nothing that can be understood asks for nothing.

    Args:
        status: of the answer.
        body: of it; None where it is longer than MAX_REPLY_BYTES.

    Raises:
        ControlFault: the status was not taken.
    """
    if status in (404, 410):
        return Action.GONE
    if not 200 <= status < 300:
        is_final = 400 <= status < 500 and status not in _PASSING
        raise ControlFault(f"it answered {status} to a status", is_final=is_final, trouble=Trouble.REFUSED)
    try:
        document = _read_object(body or b"{}")
    except ControlFault:
        return Action.CONTINUE
    return Action.CANCEL if document.get("action") == "cancel" else Action.CONTINUE


def _read_strictly(body: bytes) -> tuple[dict[str, Any], JobInvalid | None]:
    """The document, and why a posted job of its kind would be refused: the id is needed to refuse this one.

    Of what goes beyond the bounds nothing is read but an id that stands in front.
    """
    try:
        return _as_object(read_json(body)), None
    except JobInvalid as error:
        fault = error
    try:
        return _read_object(body), fault
    except ControlFault as refusal:
        found = _ID_IN_FRONT.match(body)
        if found is None or not isinstance(refusal.__cause__, TextRefused):
            raise
        return {"id": found[1].decode(errors="replace")}, fault


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(bounded_text(body))
    except TextRefused as refusal:
        raise ControlFault(f"its answer {refusal}") from refusal
    except ValueError:
        raise ControlFault("its answer is not JSON") from None
    return _as_object(document)


def _as_object(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ControlFault("its answer is not a JSON object")
    return document
