"""The receipt of a deployment: an in-toto statement of what was done, made from its last status. Pure.

A status holds no secret, and the statement holds nothing else, so neither does the receipt. The same facts give the
same bytes: members in order, no spaces, ASCII only.

Format: in-toto Attestation Framework, Statement v1. `agent.formats.dsse` puts it into its envelope.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.model.status import DONE, timestamp
from agent.model.url import file_name
from agent.model.verification import COMMIT, VERIFY

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://byoi-agent.invalid/receipt/v1"
"""A name, and no page: there is no public home yet (see pyproject.toml)."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""The media type of a statement in an envelope."""
JOB_SUBJECT = "job"
"""The name of the subject where the image's digest is not known: the job, whose digest is that of `predicate.job`."""

_DISK_MEMBERS = ("path", "model", "serial", "wwn", "size", "failed")
_ERROR_MEMBERS = ("code", "blame", "message", "detail", "hint")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a status does not tell: the job's id, who gave it, when (seconds since the epoch), what dealt with it."""

    job_id: str | None
    origin: str | None
    accepted_at: float | None
    versions: Mapping[str, str]
    """Of the agent and of what it runs on, by their names."""


def make_statement(status: Mapping[str, Any], around: Circumstances) -> dict[str, Any]:
    """The statement of a deployment that is over.

    Args:
        status: its last status document.
        around: what that does not tell.
    """
    job = status.get("job") or {}
    predicate = {
        "job": job,
        "jobId": around.job_id,
        "origin": around.origin,
        "server": status.get("servername"),
        "outcome": _outcome(status),
        "image": _image(status, job),
        "signature": status.get("signature"),
        "disks": [{key: disk.get(key) for key in _DISK_MEMBERS} for disk in _disks(status)],
        "readBack": _read_back(status),
        "times": {
            "acceptedAt": None if around.accepted_at is None else timestamp(around.accepted_at),
            "startedAt": status.get("startedAt"),
            "finishedAt": status.get("finishedAt"),
            "stages": list(status.get("stages") or ()),
        },
        "attempt": status.get("attempt"),
        "versions": dict(around.versions),
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject(status, job)],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The one text of a JSON document: members in order, no spaces, ASCII only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _subject(status: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    kind, _, digest = (status.get("checksum") or "").partition(":")
    if digest:
        return {"name": file_name(str(job.get("URL", ""))) or "image", "digest": {kind: digest}}
    # A statement has to be about something that has a digest.
    return {"name": JOB_SUBJECT, "digest": {"sha256": hashlib.sha256(encode(job)).hexdigest()}}


def _outcome(status: Mapping[str, Any]) -> dict[str, Any]:
    error = status.get("error") or {}
    done = status.get("status") == DONE
    return {
        "status": status.get("status"),
        "message": status.get("message"),
        "error": {key: error.get(key) for key in _ERROR_MEMBERS} if error else None,
        "diskState": "committed" if done else error.get("diskState"),
    }


def _image(status: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "url": job.get("URL"),
        "mirrors": list(job.get("mirrors") or ()),
        "checksum": status.get("checksum"),
        "registry": status.get("registry"),
        "compared": "checkSum" in job or status.get("registry") is not None,
        "bytes": status.get("bytesDownloaded"),
        "type": status.get("imageType"),
        "packing": status.get("imagePacking"),
    }


def _disks(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    disk, disks = status.get("disk"), status.get("disks")
    found = disks if isinstance(disks, list) and disks else [disk]
    return [one for one in found if isinstance(one, dict)]


def _read_back(status: Mapping[str, Any]) -> str | None:
    told = status.get("readBack")
    if told in VERIFY:
        return str(told)
    return COMMIT if status.get("status") == DONE else None
