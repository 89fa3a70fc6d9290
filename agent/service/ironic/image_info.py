"""Makes a job of the arguments of `write_image`, Ironic's deploy step. Pure.

| Ironic | the job |
|---|---|
| `urls` | `URL`, and the rest `mirrors` |
| `disk_format` (`gpt` is a raw image whose table Ironic has seen; null: unknown) | `type` |
| `os_hash_algo`, `os_hash_value` (a digest, or a checksum file's URL); else `checksum` | `checkSum`, `checkSumType` |
| `configdrive` (base64 of a gzipped drive, or a URL) | `configdrive.content` |
| the node's `root_device` hints | `disk` |
| `efi_bootloader_path` of `instance_info`, which is free for what a ramdisk understands | `efiBootloaderPath` |
| `image_server_user`, `image_server_password`; `image_request_authorization` (base64 of a header) | `httpHeader` |

What makes no job there is left to `parse_job`, which knows what is wrong with it.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from agent.errors import DeployError, Fault, JobInvalid
from agent.model.job import CHECKSUM_DIGITS

_RAW = ("raw", "gpt")
_DIGITS = {digits: kind for kind, digits in CHECKSUM_DIGITS.items()}


def job_document(args: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """The job, as somebody would have posted it.

    Args:
        args: of the step.
        node: as the conductor sent it along.

    Raises:
        JobInvalid: it is for something that is no job of ours, such as a partition image.
    """
    image = args.get("image_info")
    if not isinstance(image, dict):
        raise JobInvalid([Fault("image_info", "must be an object")])
    _refuse_others(image)
    urls = image.get("urls")
    if not isinstance(urls, list) or not urls:
        raise JobInvalid([Fault("image_info.urls", "must name at least one URL")])
    document = {
        "URL": urls[0],
        "mirrors": urls[1:] or None,
        "type": "raw" if image.get("disk_format") in _RAW else image.get("disk_format"),
        "disk": _root_device(node),
        "efiBootloaderPath": _held(node, "instance_info").get("efi_bootloader_path"),
        "httpHeader": _headers(image),
        "description": f"Ironic node {uuid}" if isinstance(uuid := node.get("uuid"), str) else None,
        **_checksum(image),
        **_configdrive(args, image),
    }
    return {key: value for key, value in document.items() if value is not None}


def _refuse_others(image: Mapping[str, Any]) -> None:
    if image.get("image_type") == "partition" or "root_mb" in image:
        raise JobInvalid(
            [
                Fault(
                    "image_info", "is a partition image: this agent writes whole disks only (docs/ironic.md)"
                )
            ],
            hint="Give a whole-disk image, without kernel and ramdisk in instance_info.",
        )
    if image.get("proxies"):
        raise JobInvalid(
            [Fault("image_info.proxies", "are not supported: this agent asks the image's server itself")],
            hint="Take image_http_proxy and image_https_proxy out of the node's driver_info.",
        )
    if image.get("image_server_auth_strategy") not in (None, "noauth", "http_basic"):
        raise JobInvalid([Fault("image_info.image_server_auth_strategy", "must be noauth or http_basic")])


def _checksum(image: Mapping[str, Any]) -> dict[str, Any]:
    value, kind = image.get("os_hash_value"), image.get("os_hash_algo")
    if value is None and kind is None:
        value = image.get("checksum")
        kind = None if value is None else _kind_of(str(value))
    return {"checkSum": value, "checkSumType": kind}


def _kind_of(checksum: str) -> str:
    """The kind of a checksum that nobody names: by the length of a digest, or by the name of a checksum file."""
    if "://" not in checksum:
        return _DIGITS.get(len(checksum), "md5")  # what Ironic means by a checksum alone
    named = re.search("|".join(sorted(CHECKSUM_DIGITS, key=len, reverse=True)), checksum.lower())
    return named[0] if named else "sha256"


def _configdrive(args: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    content = args.get("configdrive") or image.get("configdrive")
    return {"configdrive": {"enable": True, "content": content}} if content else {}


def _root_device(node: Mapping[str, Any]) -> Any:
    """The hints of the instance, else those of the node."""
    for owner in ("instance_info", "properties"):
        hints = _held(node, owner).get("root_device")
        if hints:
            # Where several disks fit, Ironic means the first one; a node's hints cannot say so.
            return {"any": True, **hints} if isinstance(hints, dict) else hints
    return None


def _held(node: Mapping[str, Any], owner: str) -> Mapping[str, Any]:
    held = node.get(owner)
    return held if isinstance(held, dict) else {}


def _headers(image: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """What the image's server asks for: a header that the node brings, else a name and a password (RFC 7617)."""
    supplied = image.get("image_request_authorization")
    if supplied:
        try:
            value = base64.b64decode(supplied, validate=True).decode()
        except (TypeError, ValueError):
            raise JobInvalid(
                [Fault("image_info.image_request_authorization", "must be the base64 of a text")]
            ) from None
        return [{"key": "Authorization", "value": value}]
    user, password = image.get("image_server_user"), image.get("image_server_password")
    if user is None and password is None:
        return None
    try:
        if not isinstance(user, str) or not isinstance(password, str):
            raise TypeError
        credential = base64.b64encode(f"{user}:{password}".encode()).decode()
    except (TypeError, UnicodeEncodeError):
        raise JobInvalid(
            [Fault("image_info.image_server_user", "and image_server_password must be texts")]
        ) from None
    return [{"key": "Authorization", "value": f"Basic {credential}"}]


def error_document(error: DeployError) -> dict[str, Any]:
    """A deployment's error as a conductor shows it to its operator: of all members it shows `details` alone."""
    return error_members(error.code, error.message, error.detail, error.hint)


def error_members(code: str, message: str, detail: str | None, hint: str | None) -> dict[str, Any]:
    """The same of an error that a status document tells."""
    said = f"{message} ({detail})" if detail else message
    return {"type": code, "code": 500, "message": message, "details": f"{said} {hint}" if hint else said}
