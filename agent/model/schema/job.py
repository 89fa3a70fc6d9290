"""The schema of a job. It accepts every job that `parse_job` accepts; `parse_job` is stricter where a schema cannot
express the rule (a URL's host, SSH keys, reserved headers, lengths in bytes).
"""

from collections.abc import Mapping
from typing import Any

from agent.model.disk_names import NAME_KEYS
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
)
from agent.model.raid import MAX_DISKS, MIRROR_DISKS, RAID_LEVELS, UUID_TEXT
from agent.model.schema.blocks import Schema, a_text, an_object, nullable, of, whole
from agent.model.schema.signature import signature_schema
from agent.model.selector import ANY, ANY_HELP, KEYS
from agent.model.url import MAX_URL_LENGTH
from agent.model.verification import VERIFY
from agent.units import format_size

# A host or an absolute path; schemes in any letter case.
_URL = r"^(?:(?:[Hh][Tt][Tt][Pp][Ss]?|[Oo][Cc][Ii](?:\+[Hh][Tt][Tt][Pp])?)://[^/?#]|[Ff][Ii][Ll][Ee]:/)"
_WEB_URL = r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]"
_CONTENT = rf"^[A-Za-z0-9+/=\s]+$|{_WEB_URL}"
_ON_THE_DRIVE = f", at most {format_size(MAX_DATA_BYTES)} as it is written to the drive. Not in the OVH API."


def job_schema() -> Schema:
    """The job as it is posted. A null member counts as absent."""
    properties = {
        "URL": a_text(
            "Where the image is: http, https, file on the server itself, or, not in the OVH API, a registry: "
            "oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:HEX (oci+http:// by plain http).",
            MAX_URL_LENGTH,
            pattern=_URL,
        ),
        "registryAuth": nullable(_registry_auth()),
        "mirrors": nullable(
            of(
                "array",
                "http and https URLs of the same bytes, tried in this order where a server fails. httpHeader goes to "
                "none of them but those that have the origin of the URL. Not in the OVH API.",
                items=a_text(limit=MAX_URL_LENGTH, pattern=_WEB_URL),
                maxItems=MAX_MIRRORS,
            )
        ),
        "type": nullable(
            of(
                "string",
                f"What the file is; its content is compared with it. Absent: the content decides. The OVH API has "
                f"{', '.join(OVH_TYPES)}, and requires it.",
                enum=list(IMAGE_TYPES),
            )
        ),
        "checkSum": nullable(
            a_text(
                "Digest of the file as downloaded, in hexadecimal digits; or, not in the OVH API, the http or https "
                "URL of a checksum file (SHA256SUMS and the like), in which it stands by the name of the image's file.",
            )
        ),
        "checkSumType": nullable(
            of("string", "The kind of the digest: both members or neither.", enum=list(CHECKSUM_DIGITS))
        ),
        "signature": nullable(signature_schema(_WEB_URL)),
        "verify": nullable(
            of(
                "string",
                "How much is read back from the disk before it becomes bootable: `commit`, both ends and the config "
                "drive; `readback`, everything that was written. Absent: what the server's policy says, which a job "
                "can add to and not take from. Not in the OVH API.",
                enum=list(VERIFY),
            )
        ),
        "configdrive": nullable(_configdrive()),
        "description": nullable(a_text("For people; kept in the status.")),
        "diskGroupId": nullable(
            of("integer", "The disk group; absent or 0: the first.", minimum=0, maximum=MAX_DISK_GROUP_ID)
        ),
        "disk": nullable(_selector()),
        "disks": nullable(
            of(
                "integer",
                "How many disks of the group, or of those that the selector leaves, get the image. Absent: one. Not in "
                "the OVH API.",
                minimum=1,
                maximum=MAX_DISKS,
            )
        ),
        "raid": nullable(_raid()),
        "httpHeader": nullable(
            _pairs("Sent to the origin of the URL, and to no other.", key={"pattern": whole(HEADER_NAME)})
        ),
        "efiBootloaderPath": nullable(
            a_text(
                "Boot loader that has to be on the image's EFI system partition. Not in the OVH API.",
                255,
                pattern=whole(EFI_PATH),
            )
        ),
    }
    return an_object(properties, required=["URL"]) | {"anyOf": _checksum_pairs()}


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


def _registry_auth() -> Schema:
    properties = {
        "username": nullable(a_text("The user; some registries take any beside a token.")),
        "password": nullable(a_text("Or a token that may pull.")),
        "auth": nullable(a_text("Instead of both: base64 of USER:PASSWORD, as docker's config.json has it.")),
    }
    text = (
        "Credentials for the registry of an oci: URL and the token service that it names. Not in the OVH API."
    )
    return an_object(properties, required=[], text=text)


def _raid() -> Schema:
    properties = {
        "level": of("string", "What the disks make together.", enum=list(RAID_LEVELS)),
        "disks": nullable(of("integer", "How many of them.", minimum=MIRROR_DISKS, maximum=MIRROR_DISKS)),
        "uuid": nullable(a_text("Of the array. Absent: a new one each time.", 36, pattern=whole(UUID_TEXT))),
    }
    return an_object(
        properties,
        required=["level"],
        text="A mirror of the image's root over several disks, in sync from the start. Not in the OVH API.",
    )


def _selector() -> Schema:
    text = (
        f"Chooses the disk by what it is, instead of diskGroupId. All members have to fit. {OPERATORS_HELP}"
    )
    properties: dict[str, Schema] = {key: nullable(a_text(KEYS[key], MAX_HINT)) for key in NAME_KEYS}
    size, flag = ["integer", "string", "null"], ["boolean", "integer", "string", "null"]
    properties["size"] = {"type": size, "description": KEYS["size"], "minLength": 1, "maxLength": MAX_HINT}
    properties["rotational"] = {"type": flag, "description": KEYS["rotational"]}
    properties[ANY] = {"type": flag, "description": ANY_HELP}
    return an_object(properties, required=[], text=text)


def _configdrive() -> Schema:
    properties = {
        "enable": nullable(
            of("boolean", "Whether a config-2 partition is written. Absent: no, but with `content`.")
        ),
        "hostname": nullable(a_text("RFC 1123.", MAX_HOSTNAME, pattern=whole(HOSTNAME))),
        "sshKey": nullable(a_text("Public keys, one a line.", MAX_SSH_KEY_BYTES)),
        "userData": nullable(a_text("Written to the drive byte by byte.", MAX_USER_DATA_BYTES, empty=True)),
        "userMetadatas": nullable(_pairs("The member `meta` of meta_data.json; each key once.")),
        "networkData": nullable(of("object", f"network_data.json{_ON_THE_DRIVE}")),
        "vendorData": {
            "type": ["object", "string", "null"],
            "description": f"vendor_data.json{_ON_THE_DRIVE}",
            "maxLength": MAX_DATA_BYTES,
        },
        "content": nullable(
            a_text(
                "A ready-made drive instead of the other members: base64 of an ISO 9660 or FAT image with the label "
                "config-2 (gzip allowed), or its http or https URL; unpacked at most 64 MiB. Written as it is. Not in "
                "the OVH API.",
                MAX_CONTENT_BYTES,
                pattern=_CONTENT,
            )
        ),
    }
    return an_object(properties, required=[], text="The drive that cloud-init reads at the first boot.")


def _pairs(text: str, key: Mapping[str, Any] | None = None) -> Schema:
    pair = an_object(
        {
            "key": a_text(limit=MAX_PAIR_KEY_BYTES, **(key or {})),
            "value": nullable(a_text(limit=MAX_PAIR_VALUE_BYTES, empty=True)),
        },
        required=["key"],
    )
    return of("array", text, items=pair, maxItems=MAX_LIST)
