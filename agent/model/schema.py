"""JSON Schemas of the documents (draft 2020-12, as in OpenAPI 3.1): job, status, disks, error body.

They are made from the constants that the models use, so that they stay true. The schema of the job accepts every job
that `parse_job` accepts; `parse_job` is stricter where a schema cannot express the rule (a URL's host, SSH keys,
reserved headers, lengths in bytes). Each function returns a new document without references.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from agent import errors
from agent.errors import Blame, DeployError
from agent.model.disk_names import NAME_KEYS
from agent.model.disk_state import DiskState
from agent.model.disks import HolderKind
from agent.model.headers import HEADER_NAME
from agent.model.hints import MAX_HINT, OPERATORS_HELP
from agent.model.job import (
    BAD_CHECKSUM_PAIR,
    CHECKSUM_DIGITS,
    EFI_PATH,
    HOSTNAME,
    IMAGE_TYPES,
    MAX_CONTENT_BYTES,
    MAX_HOSTNAME,
    MAX_MIRRORS,
    MAX_SSH_KEY_BYTES,
    MAX_USER_DATA_BYTES,
    OVH_TYPES,
)
from agent.model.object_reader import (
    MAX_DATA_BYTES,
    MAX_DISK_GROUP_ID,
    MAX_LIST,
    MAX_PAIR_KEY_BYTES,
    MAX_PAIR_VALUE_BYTES,
    MAX_TEXT,
)
from agent.model.selector import ANY, ANY_HELP, KEYS
from agent.model.stage import STAGES
from agent.model.status import DOING, DONE, ERROR
from agent.model.surroundings import ContactState, Trouble
from agent.model.url import MAX_URL_LENGTH
from agent.units import format_size

Schema = dict[str, Any]

WAITING_ON = ("network", "disk", "cpu")
MAX_REVISION = 2**53 - 1
"""The largest integer that every reader of JSON keeps (RFC 8259, section 6)."""
REBOOT_STATES = ("disabled", "waiting", "due", "calledOff", "failed")
REBOOT_WAITS_FOR = ("client", "controlPlane", "shutdown")
# The codes of single faults of a job, in addition to those of the error classes.
_FAULT_CODES = ("checksum.type", "checksum.pair")
# A host or an absolute path; schemes in any letter case.
_URL = r"^(?:[Hh][Tt][Tt][Pp][Ss]?://[^/?#]|[Ff][Ii][Ll][Ee]:/)"
_WEB_URL = r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]"
_CONTENT = rf"^[A-Za-z0-9+/=\s]+$|{_WEB_URL}"
_ON_THE_DRIVE = f", at most {format_size(MAX_DATA_BYTES)} as it is written to the drive. Not in the OVH API."
_TIME = "RFC 3339, UTC, to the millisecond"


def error_codes() -> tuple[str, ...]:
    """Every code that an error of a deployment can have, sorted."""
    family = (item for item in vars(errors).values() if isinstance(item, type))
    classes = (item for item in family if issubclass(item, DeployError) and item is not DeployError)
    return tuple(sorted({cls.code for cls in classes} | set(_FAULT_CODES)))


# -- building blocks -------------------------------------------------------------------------------------------------


def _object(
    properties: Mapping[str, Schema], *, required: Sequence[str] | None = None, text: str = ""
) -> Schema:
    """An object with these members only; all of them are required unless `required` lists fewer."""
    listed = list(properties if required is None else required)
    described = {"description": text} if text else {}
    return {
        "type": "object",
        **described,
        "properties": dict(properties),
        "required": listed,
        "additionalProperties": False,
    }


def _of(kind: str, text: str = "", **more: Any) -> Schema:
    return {"type": kind, **({"description": text} if text else {}), **more}


def _nullable(schema: Schema) -> Schema:
    """The same, or null."""
    wider = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        wider["enum"] = [*schema["enum"], None]
    return wider


def _text(text: str = "", limit: int = MAX_TEXT, *, empty: bool = False, **more: Any) -> Schema:
    return _of("string", text, **({} if empty else {"minLength": 1}), maxLength=limit, **more)


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^(?:{pattern.pattern})$"


# -- the job -----------------------------------------------------------------------------------------------------


def job_schema() -> Schema:
    """The job as it is posted. A null member counts as absent."""
    properties = {
        "URL": _text(
            "Where the image is: http, https, or file on the server itself.", MAX_URL_LENGTH, pattern=_URL
        ),
        "mirrors": _nullable(
            _of(
                "array",
                "http and https URLs of the same bytes, tried in this order where a server fails. httpHeader goes to "
                "none of them but those that have the origin of the URL. Not in the OVH API.",
                items=_text(limit=MAX_URL_LENGTH, pattern=_WEB_URL),
                maxItems=MAX_MIRRORS,
            )
        ),
        "type": _nullable(
            _of(
                "string",
                f"What the file is; its content is compared with it. Absent: the content decides. The OVH API has "
                f"{', '.join(OVH_TYPES)}, and requires it.",
                enum=list(IMAGE_TYPES),
            )
        ),
        "checkSum": _nullable(
            _text(
                "Digest of the file as downloaded, in hexadecimal digits; or, not in the OVH API, the http or https "
                "URL of a checksum file (SHA256SUMS and the like), in which it stands by the name of the image's file.",
            )
        ),
        "checkSumType": _nullable(
            _of("string", "The kind of the digest: both members or neither.", enum=list(CHECKSUM_DIGITS))
        ),
        "configdrive": _nullable(_configdrive()),
        "description": _nullable(_text("For people; kept in the status.")),
        "diskGroupId": _nullable(
            _of("integer", "The disk group; absent or 0: the first.", minimum=0, maximum=MAX_DISK_GROUP_ID)
        ),
        "disk": _nullable(_selector()),
        "httpHeader": _nullable(
            _pairs("Sent to the origin of the URL, and to no other.", key={"pattern": _whole(HEADER_NAME)})
        ),
        "efiBootloaderPath": _nullable(
            _text(
                "Boot loader that has to be on the image's EFI system partition. Not in the OVH API.",
                255,
                pattern=_whole(EFI_PATH),
            )
        ),
    }
    return _object(properties, required=["URL"]) | {"anyOf": _checksum_pairs()}


def _checksum_pairs() -> list[Schema]:
    """Both members of a checksum or neither, and as many digits as its type has."""
    neither = {
        "description": BAD_CHECKSUM_PAIR,
        "properties": {"checkSum": {"type": "null"}, "checkSumType": {"type": "null"}},
    }
    both = [
        {
            "properties": {
                "checkSum": {"type": "string", "pattern": f"^[0-9A-Fa-f]{{{digits}}}$|{_WEB_URL}"},
                "checkSumType": {"const": kind},
            },
            "required": ["checkSum", "checkSumType"],
        }
        for kind, digits in CHECKSUM_DIGITS.items()
    ]
    return [neither, *both]


def _selector() -> Schema:
    text = (
        f"Chooses the disk by what it is, instead of diskGroupId. All members have to fit. {OPERATORS_HELP}"
    )
    properties: dict[str, Schema] = {key: _nullable(_text(KEYS[key], MAX_HINT)) for key in NAME_KEYS}
    size, flag = ["integer", "string", "null"], ["boolean", "integer", "string", "null"]
    properties["size"] = {"type": size, "description": KEYS["size"], "minLength": 1, "maxLength": MAX_HINT}
    properties["rotational"] = {"type": flag, "description": KEYS["rotational"]}
    properties[ANY] = {"type": flag, "description": ANY_HELP}
    return _object(properties, required=[], text=text)


def _configdrive() -> Schema:
    properties = {
        "enable": _nullable(
            _of("boolean", "Whether a config-2 partition is written. Absent: no, but with `content`.")
        ),
        "hostname": _nullable(_text("RFC 1123.", MAX_HOSTNAME, pattern=_whole(HOSTNAME))),
        "sshKey": _nullable(_text("Public keys, one a line.", MAX_SSH_KEY_BYTES)),
        "userData": _nullable(_text("Written to the drive byte by byte.", MAX_USER_DATA_BYTES, empty=True)),
        "userMetadatas": _nullable(_pairs("The member `meta` of meta_data.json; each key once.")),
        "networkData": _nullable(_of("object", f"network_data.json{_ON_THE_DRIVE}")),
        "vendorData": {
            "type": ["object", "string", "null"],
            "description": f"vendor_data.json{_ON_THE_DRIVE}",
            "maxLength": MAX_DATA_BYTES,
        },
        "content": _nullable(
            _text(
                "A ready-made drive instead of the other members: base64 of an ISO 9660 or FAT image with the label "
                "config-2 (gzip allowed), or its http or https URL; unpacked at most 64 MiB. Written as it is. Not in "
                "the OVH API.",
                MAX_CONTENT_BYTES,
                pattern=_CONTENT,
            )
        ),
    }
    return _object(properties, required=[], text="The drive that cloud-init reads at the first boot.")


def _pairs(text: str, key: Mapping[str, Any] | None = None) -> Schema:
    pair = _object(
        {
            "key": _text(limit=MAX_PAIR_KEY_BYTES, **(key or {})),
            "value": _nullable(_text(limit=MAX_PAIR_VALUE_BYTES, empty=True)),
        },
        required=["key"],
    )
    return _of("array", text, items=pair, maxItems=MAX_LIST)


# -- the status --------------------------------------------------------------------------------------------------


def status_schema() -> Schema:
    """The status of a deployment. The first four members are those of the OVH API."""
    seconds = _nullable(_of("number", "Seconds; null while it runs.", minimum=0))
    stage = {"name": _stage(), "startedAt": _time("When it began."), "seconds": seconds}
    properties = {
        "servername": _nullable(_of("string")),
        "status": _of("string", enum=[DOING, DONE, ERROR]),
        "message": _of("string", "For people. The first is `starting`."),
        "checksum": _nullable(
            _of(
                "string",
                "Of the file as downloaded: type, colon, digits. Compared with the job's where it names one.",
            )
        ),
        "stage": _nullable(_stage()),
        "percent": _of("number", "Never goes back.", minimum=0, maximum=100),
        "bytesDownloaded": _count("Bytes of this attempt."),
        "bytesTotal": _nullable(_count("Bytes of the file, where the image server told.")),
        "bytesWritten": _count("Bytes of the file that were decoded and written."),
        "rate": _count("Bytes a second."),
        "eta": _nullable(_of("number", "Seconds until the download is complete.", minimum=0)),
        "waitingOn": _nullable(_of("string", "Which side is the slowest.", enum=list(WAITING_ON))),
        "attempt": _of("integer", minimum=1),
        "startedAt": _time(),
        "updatedAt": _time(),
        "finishedAt": _nullable(_time()),
        "stages": _of("array", "Those that have begun.", items=_object(stage)),
        "error": _nullable(_error()),
        "disk": _nullable(_disk(required=["path", "size"])),
        "imageType": _nullable(
            _of("string", "What the content of the file showed, such as qcow2; null: not known yet.")
        ),
        "imagePacking": _nullable(
            _of("string", "What is around it, such as gzip or tar in gzip; null: nothing, or not known yet.")
        ),
        "job": _of("object", "The job as posted, its secrets blanked."),
        "notes": _notes(),
        "id": _nullable(_of("string", "The id of the job: the control plane's, or one that the agent made.")),
        "revision": _revision(),
        "reboot": _nullable(_reboot()),
        **_surroundings(),
    }
    return _object(properties)


def idle_schema() -> Schema:
    """The answer of /v1/status without a deployment: the members of the OVH API are null."""
    null = {"type": "null"}
    properties = {
        "servername": _nullable(_of("string")),
        "status": null,
        "message": null,
        "checksum": null,
        "id": null,
        "notes": _notes(),
        "revision": _revision(),
        "reboot": null,
        **_surroundings(),
    }
    return _object(properties)


def _surroundings() -> dict[str, Schema]:
    """What stands in every status document, as `agent.model.surroundings` makes it."""
    strings, text, count = _of("array", items=_of("string")), _of("string"), _count()
    doubts = _of("array", items=_object({"path": text, "message": text, "code": text}))
    contact = {
        "url": text,
        "state": _of("string", "How the last call went.", enum=[state.value for state in ContactState]),
        "since": _nullable(_time("When it came to this state.")),
        "reason": _nullable(_of("string", "Why the last call failed.")),
        "trouble": _nullable(_of("string", "The same in a word.", enum=[word.value for word in Trouble])),
        "nextTry": _nullable(_time("When it is tried again.")),
    }
    node = _of("string", "The UUID of the node that this machine is; null: not looked up yet.")
    return {
        "agent": _object({"version": text, "addresses": strings, "listening": strings}),
        "controlPlane": _nullable(_object(contact, text="null: none is configured.")),
        "ironic": _nullable(_object({**contact, "node": _nullable(node)}, text="null: none is configured.")),
        "configuration": _object(
            {"inForce": _of("boolean"), "faultCount": count, "faults": doubts, "warnings": doubts}
        ),
    }


def _stage() -> Schema:
    return _of("string", enum=[stage.value for stage in STAGES])


def _time(text: str = "") -> Schema:
    return _of("string", f"{text} {_TIME}.".strip(), format="date-time")


def _count(text: str = "") -> Schema:
    return _of("integer", text, minimum=0)


def _notes() -> Schema:
    return _of("array", "What people should know: retries, redirects, repairs.", items=_of("string"))


def _revision() -> Schema:
    return _of(
        "integer", "Grows with each change of the document, also across restarts of the agent.", minimum=0
    )


def _reboot() -> Schema:
    properties = {
        "state": _of("string", enum=list(REBOOT_STATES)),
        "at": _nullable(_time("When it comes at the latest.")),
        "reason": _nullable(_of("string", "Why it failed, or why it has not come yet.")),
        "waitingFor": _nullable(_of("string", "What it waits for.", enum=list(REBOOT_WAITS_FOR))),
        "since": _nullable(_time("When it came to this state.")),
    }
    return _object(properties, text="The reboot after a deployment that is done.")


def _error() -> Schema:
    properties = {
        "code": _of("string", enum=list(error_codes())),
        "blame": _of("string", enum=[blame.value for blame in Blame]),
        "retryable": _of("boolean", "Whether another try may help."),
        "message": _of("string"),
        "detail": _nullable(_of("string", "Names the object, and both numbers.")),
        "hint": _nullable(
            _of(
                "string",
                "What to do about it; of a deployment also what is on the disk, as its last sentence.",
            )
        ),
        "diskState": _of("string", "What is on the disk.", enum=[state.value for state in DiskState]),
        "faults": _of("array", "Of a job that is not valid.", items=_fault()),
    }
    return _object(properties, required=[name for name in properties if name != "faults"])


def _fault() -> Schema:
    codes = [
        code
        for code in error_codes()
        if code in (*_FAULT_CODES, "job.invalid", "image.format", "config.invalid", "configdrive.content")
    ]
    properties = {
        "path": _of("string", "The member that it is about."),
        "message": _of("string"),
        "code": _of("string", enum=codes),
    }
    return _object(properties)


# -- disks -------------------------------------------------------------------------------------------------------


def disks_schema() -> Schema:
    """The inventory: every disk, and the groups that `diskGroupId` names."""
    listed = _disk()
    listed["properties"] |= {
        "diskGroupId": _nullable(_of("integer", minimum=1)),
        "eligible": _of("boolean", "Whether an image may go there."),
        "reasons": _of("array", "Why it may not.", items=_of("string")),
    }
    listed["properties"]["contents"] = _nullable(_contents())  # only where it was asked for
    listed["properties"]["hints"] = _hints()
    listed["required"] += ["diskGroupId", "eligible", "reasons", "hints"]
    group = {
        "id": _of("integer", minimum=1),
        "disks": _of("array", "Their paths.", items=_of("string")),
        "target": _nullable(_of("string", "The disk that the image goes to: the first of the group.")),
        "transport": _nullable(_of("string")),
        "rotational": _of("boolean"),
        "size": _count("Bytes of the target."),
        "model": _nullable(_of("string")),
        "configured": _of("boolean", "Whether the configuration names its disks."),
        "missing": _of("array", "Configured paths that lead to no disk.", items=_of("string")),
    }
    return _object({"disks": _of("array", items=listed), "groups": _of("array", items=_object(group))})


def _hints() -> Schema:
    names = {key: _of("array", items=_of("string")) for key in NAME_KEYS}
    rest = {"size": _count("GiB, rounded down."), "rotational": _of("boolean")}
    return _object(
        names | rest, text="What the members of a job's `disk` are compared with; one name is enough."
    )


def _contents() -> Schema:
    """What is on a disk, and lost where an image is written to it."""
    piece = {
        "path": _of("string", "Of its node; of a partition of a regular file: FILE#NUMBER."),
        "size": _count("Bytes."),
        "on": _nullable(_of("string", "The path of what it is on. null: it is the disk itself.")),
        "type": _nullable(_of("string", "What it holds, as blkid names it. null: not known.")),
        "label": _nullable(_of("string", "Of its filesystem; the name of its array, volume group or pool.")),
        "name": _nullable(_of("string", "Of the partition, in a GPT; of the volume, array or mapping.")),
    }
    properties = {
        "blank": _of("boolean", "Whether nothing is on it."),
        "table": _nullable(_of("string", enum=["gpt", "mbr"])),
        "pieces": _of("array", "Partitions, and what is built on them.", items=_object(piece)),
        "leftOut": _count("How many more there are."),
        "unread": _nullable(_of("string", "Why it could not be read. null: it was.")),
    }
    return _object(properties)


def _disk(required: Sequence[str] | None = None) -> Schema:
    unknown = _nullable(_of("string", "null: not known."))
    holder = {
        "kind": _of("string", enum=list(get_args(HolderKind))),
        "name": _of("string"),
        "where": _of("string", "Mount point, name of the array, of the volume."),
        "via": _of("string", "The partition or device that it sits on."),
        "stoppable": _of("boolean", "Whether claiming the disk may stop it."),
    }
    properties = {
        "path": _of("string"),
        "size": _count("Bytes."),
        "kind": _of("string"),
        "transport": _of("string"),
        "byId": _of("array", items=_of("string")),
        "byPath": unknown,
        "wwn": unknown,
        "serial": unknown,
        "model": unknown,
        "vendor": unknown,
        "logicalSectorSize": _count("Bytes."),
        "physicalSectorSize": _count("Bytes."),
        "rotational": _of("boolean"),
        "removable": _of("boolean"),
        "readOnly": _of("boolean"),
        "holders": _of("array", "What sits on it.", items=_object(holder)),
        "bootMedium": _of("boolean", "Whether the running system lies on it."),
    }
    return _object(properties, required=required)


# -- error answers -----------------------------------------------------------------------------------------------


def error_body_schema() -> Schema:
    """The body of every error answer of the API."""
    properties = {
        "class": _of("string", "Kind of the error, from the general to the special, separated by `::`."),
        "message": _of("string", "For people."),
        "errorCode": _of("string", "For programs."),
        "details": _of(
            "object",
            "More, by kind of error; `faults` of a job that is not valid.",
            properties={"faults": _of("array", items=_fault())},
        ),
    }
    return _object(properties)
