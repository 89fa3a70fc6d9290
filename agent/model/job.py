"""The job: parses the posted document strictly, and reports all its faults at once.

The document is the body of the OVH API's `bringYourOwnImage`. `load_job` takes the text, `parse_job` the decoded JSON;
both raise `JobInvalid` with every fault and its path. No fault contains the value of a secret member.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import ConfigDriveContent, Fault, ImageFormat, JobInvalid
from agent.model.headers import HEADER_NAME, HEADER_VALUE, RESERVED_HEADERS
from agent.model.job_text import MAX_FAULTS, read_json, shortened
from agent.model.object_reader import KeyValue, ObjectReader
from agent.model.raid import Raid, read_disk_count, read_raid
from agent.model.registry import RegistryAuth, is_reference, read_reference, read_registry_auth
from agent.model.selector import DiskSelector, parse_selector
from agent.model.signature import IMAGE, Signature, read_signature
from agent.model.url import check_url, check_web_url, origin_of, redact_url
from agent.model.verification import VERIFY
from agent.text import HIDDEN
from agent.units import MiB

OVH_TYPES = ("qcow2", "raw", "ova")
"""The types of the OVH API, which its message for an unknown type lists."""
IMAGE_TYPES = (*OVH_TYPES, "vmdk", "vhd", "vhdx", "vdi")
"""All types that a job may name; those behind the OVH API's are ours."""
CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
MAX_USER_DATA_BYTES = 8 * MiB
MAX_SSH_KEY_BYTES = MiB
MAX_DRIVE_BYTES = 64 * MiB
"""Length of a ready-made config drive, unpacked."""
MAX_CONTENT_BYTES = 64 * MiB
"""Length of `content` as base64. Over the API it is the length of a job that bounds it."""
MAX_HOSTNAME = 253
MAX_MIRRORS = 16

BAD_CHECKSUM_TYPE = "Bad checkSumType, expected: md5, sha1, sha256, sha512."
BAD_CHECKSUM_PAIR = "Please provide checkSum AND checkSumType or none of them"

# RFC 1123 section 2.1.
HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_SSH_KEY = re.compile(r"(^|\s)(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+\s+[A-Za-z0-9+/]{16,}={0,3}(\s|$)")
EFI_PATH = re.compile(r"[\\/][A-Za-z0-9._+ ~()\\/-]{1,254}")


@dataclass(frozen=True, slots=True)
class ConfigDrive:
    """The content of the config drive; `user_data` is kept unchanged."""

    enable: bool = False
    hostname: str | None = None
    ssh_key: str | None = field(default=None, repr=False)
    user_data: str | None = field(default=None, repr=False)
    user_metadatas: tuple[KeyValue, ...] = ()
    network_data: Mapping[str, Any] | None = field(default=None, repr=False)
    vendor_data: Mapping[str, Any] | str | None = field(default=None, repr=False)
    content: str | None = field(default=None, repr=False)
    """A drive that was made elsewhere, instead of all that: base64, or the URL of it."""

    @property
    def content_url(self) -> str | None:
        """Where the ready-made drive is, if it is not in the job."""
        return self.content if self.content is not None and _is_url(self.content) else None

    def inline_content(self) -> bytes | None:
        """The ready-made drive as it is in the job, not unpacked. It takes a while where it is large."""
        if self.content is None or self.content_url is not None:
            return None
        return binascii.a2b_base64(self.content)


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job. `checksum` is in lower case; absent members are None. Without a type the content decides."""

    url: str = field(repr=False)
    type: str | None
    checksum: str | None = None
    """The digest; None where there is none, and where it is in a file that has not been fetched."""
    checksum_url: str | None = field(default=None, repr=False)
    """Where the checksum file is that has the digest."""
    checksum_type: str | None = None
    configdrive: ConfigDrive = ConfigDrive()
    description: str | None = None
    disk_group_id: int | None = None
    disk_selector: DiskSelector | None = None
    disk_count: int = 1
    """How many disks get the image."""
    raid: Raid | None = None
    """What they make together; None: each is a system of its own."""
    http_headers: tuple[KeyValue, ...] = ()
    efi_bootloader_path: str | None = None
    mirrors: tuple[str, ...] = field(default=(), repr=False)
    """More URLs of the same bytes, in the order in which they are tried."""
    signature: Signature | None = None
    """Who has to vouch for the image, or for the list of its checksums."""
    verify: str | None = None
    """How much is read back (`agent.model.verification`); None: what the operator wants."""
    registry_auth: RegistryAuth | None = None
    """The credentials for the registry of the URL."""

    @property
    def is_in_registry(self) -> bool:
        """Whether the URL is a reference to an image in a registry, whose manifest has the digest of its bytes."""
        return is_reference(self.url)

    @property
    def has_checksum(self) -> bool:
        """Whether the job says which bytes the image has, be it by a file that has not been fetched, or by the digest
        of a manifest.
        """
        named = self.is_in_registry and read_reference(self.url).digest is not None
        return self.checksum is not None or self.checksum_url is not None or named

    @property
    def tells_content(self) -> bool:
        """Whether something tells another file from the one that is meant: a checksum, a signature, or a manifest."""
        is_signed = self.signature is not None and self.signature.over == IMAGE
        return self.has_checksum or is_signed or self.is_in_registry

    def type_for(self, found: str) -> str:
        """The type that a file is taken for: the job's, else what was found, which counts as `raw` if it is no type.

        `found` is the content without its compression, as `agent.formats.detect.sniff` names it.
        """
        return self.type or (found if found in IMAGE_TYPES else "raw")

    def redacted(self) -> dict[str, Any]:
        """The posted document with `***` for every secret; absent members stay absent."""
        drive = self.configdrive
        document = {
            "URL": redact_url(self.url),
            "mirrors": [redact_url(url) for url in self.mirrors] or None,
            "type": self.type,
            "checkSum": self.checksum if self.checksum_url is None else redact_url(self.checksum_url),
            "checkSumType": self.checksum_type,
            "signature": self.signature and self.signature.redacted(),
            "verify": self.verify,
            "registryAuth": self.registry_auth and self.registry_auth.redacted(),
            "description": self.description,
            "diskGroupId": self.disk_group_id,
            "disk": self.disk_selector and dict(self.disk_selector.posted),
            "disks": self.disk_count if self.disk_count > 1 and self.raid is None else None,
            "raid": self.raid and self.raid.document(),
            "efiBootloaderPath": self.efi_bootloader_path,
            "httpHeader": [{"key": header.key, "value": HIDDEN} for header in self.http_headers] or None,
            "configdrive": _present(
                {
                    "enable": drive.enable,
                    "hostname": drive.hostname,
                    "sshKey": drive.ssh_key and HIDDEN,
                    "userData": drive.user_data and HIDDEN,
                    "userMetadatas": [{"key": item.key, "value": HIDDEN} for item in drive.user_metadatas]
                    or None,
                    "networkData": drive.network_data and HIDDEN,
                    "vendorData": drive.vendor_data and HIDDEN,
                    "content": redact_url(drive.content_url)
                    if drive.content_url is not None
                    else drive.content and HIDDEN,
                }
            ),
        }
        return _present(document)

    def summary(self) -> dict[str, Any]:
        """`redacted` for the log, at most 16 KiB: long texts are cut, and lists are replaced by their lengths."""
        document = self.redacted()
        for owner, key in (
            (document, "httpHeader"),
            (document, "mirrors"),
            (document["configdrive"], "userMetadatas"),
        ):
            if key in owner:
                owner[key] = len(owner[key])
        if self.disk_selector is not None:
            document["disk"] = str(self.disk_selector)
        if "signature" in document:
            document["signature"] = {
                key: shortened(value, 200) if isinstance(value, str) else len(value)
                for key, value in document["signature"].items()
            }
        drive = document["configdrive"]
        if "content" in drive:
            drive["content"] = shortened(drive["content"], 1000)
        limits = {"URL": 1000, "checkSum": 1000, "description": 200, "disk": 1000}
        return document | {
            key: shortened(document[key], limits[key]) for key in limits.keys() & document.keys()
        }

    def without_secrets(self) -> dict[str, Any]:
        """The document to keep when the job has ended: without secrets, and such that `parse_job` still accepts it."""
        document = self.redacted()
        document.pop("registryAuth", None)
        for key in document.keys() & {"URL", "checkSum"}:
            document[key] = document[key].partition("?")[0]
        if self.mirrors:
            document["mirrors"] = [url.partition("?")[0] for url in document["mirrors"]]
        if "url" in document.get("signature", {}):
            document["signature"]["url"] = document["signature"]["url"].partition("?")[0]
        drive = document["configdrive"]
        for key in ("sshKey", "networkData"):  # *** is neither a key nor an object
            drive.pop(key, None)
        if "content" in drive:  # nor is it a drive
            content = drive.pop("content")
            drive |= {"content": content.partition("?")[0]} if content != HIDDEN else {}
        return document


def _present(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


def load_job(text: bytes) -> Job:
    """Parse the JSON text of a job.

    Raises:
        JobInvalid: the text is refused by `read_json`, or the job has faults.
    """
    return parse_job(read_json(text))


def parse_job(document: object) -> Job:
    """Parse a decoded job document, as `read_json` returns it.

    Raises:
        JobInvalid: with all faults, at most `MAX_FAULTS`.
    """
    if not isinstance(document, dict):
        raise JobInvalid([Fault("", "the job must be a JSON object")])
    reader = ObjectReader(document, "")
    url = reader.text("URL", required=True, check=check_url)
    image_type = reader.text("type")
    if image_type is not None and image_type not in IMAGE_TYPES:
        reader.fault("type", ImageFormat.template, "image.format")
    checksum, checksum_type = _checksum(reader)
    checksum_url = checksum if checksum is not None and _is_url(checksum) else None
    headers = _headers(reader)
    disk_count = read_disk_count(reader)
    mirror = reader.child("raid")
    raid = read_raid(mirror) if reader.has("raid") else None
    job = Job(
        url=url or "",
        type=image_type,
        checksum=None if checksum_url is not None else checksum,
        checksum_url=checksum_url,
        checksum_type=checksum_type,
        configdrive=_configdrive(reader.child("configdrive")),
        description=reader.text("description"),
        disk_group_id=reader.integer("diskGroupId"),
        disk_selector=_disk_selector(reader),
        disk_count=disk_count if raid is None else raid.disks,
        raid=raid,
        http_headers=headers,
        efi_bootloader_path=reader.text("efiBootloaderPath", check=_efi_path_fault),
        mirrors=_mirrors(reader, url),
        signature=_signature(reader, url, None if checksum_url is None else checksum_type),
        registry_auth=_registry_auth(reader, url, headers),
        verify=reader.text("verify", check=_verify_fault),
    )
    if url is not None and is_reference(url) and checksum_url is not None:
        reader.fault(
            "checkSum", "must be a digest of the layer: a registry has no files that a list could name"
        )
    reader.refuse_unknown()
    if reader.faults:
        raise JobInvalid(reader.faults[:MAX_FAULTS])
    return job


def _verify_fault(text: str) -> str | None:
    return None if text in VERIFY else f"must be one of {', '.join(VERIFY)}"


def _is_url(text: str) -> bool:
    return "://" in text


def _checksum(reader: ObjectReader) -> tuple[str | None, str | None]:
    """The digest or the URL of a checksum file, and the kind of the digest; both or neither."""
    checksum, kind = reader.text("checkSum"), reader.text("checkSumType")
    if kind is not None and kind not in CHECKSUM_DIGITS:
        reader.fault("checkSumType", BAD_CHECKSUM_TYPE, "checksum.type")
        return None, None
    if reader.has("checkSum") != reader.has("checkSumType"):
        reader.fault("checkSum" if checksum is None else "checkSumType", BAD_CHECKSUM_PAIR, "checksum.pair")
        return None, None
    if checksum is None or kind is None:
        return None, None
    if _is_url(checksum):
        fault = check_web_url(checksum)
        if fault is not None:
            reader.fault("checkSum", fault)
        return checksum, kind
    if len(checksum) != CHECKSUM_DIGITS[kind] or not re.fullmatch("[0-9A-Fa-f]+", checksum):
        reader.fault(
            "checkSum",
            f"must be {CHECKSUM_DIGITS[kind]} hexadecimal digits for {kind}, or the URL of a checksum file, got "
            + (
                "other characters"
                if len(checksum) == CHECKSUM_DIGITS[kind]
                else f"{len(checksum)} characters"
            ),
        )
    return checksum.lower(), kind


def _signature(reader: ObjectReader, url: str | None, listed: str | None) -> Signature | None:
    child = reader.child("signature")
    if not reader.has("signature"):
        return None
    return read_signature(child, listed, in_registry=url is not None and is_reference(url))


def _registry_auth(
    reader: ObjectReader, url: str | None, headers: tuple[KeyValue, ...]
) -> RegistryAuth | None:
    child = reader.child("registryAuth")
    if not reader.has("registryAuth"):
        return None
    if url is not None and not is_reference(url):
        reader.fault("registryAuth", "is for an image in a registry (oci://); for others there is httpHeader")
    elif any(header.key.lower() == "authorization" for header in headers):
        reader.fault("registryAuth", "stands beside an Authorization in httpHeader; give one of them")
    return read_registry_auth(child)


def _disk_selector(reader: ObjectReader) -> DiskSelector | None:
    value = reader.value("disk")
    if value is not None and reader.has("diskGroupId"):
        reader.fault("disk", "stands beside diskGroupId; give one of them")
    return None if value is None else parse_selector(value, "disk", reader.faults)


def _mirrors(reader: ObjectReader, url: str | None) -> tuple[str, ...]:
    mirrors = reader.texts("mirrors", MAX_MIRRORS, check_web_url)
    if mirrors and url is not None and origin_of(url).scheme == "file":
        reader.fault("mirrors", "stand beside a file: URL, which has none")
    return mirrors


def _headers(reader: ObjectReader) -> tuple[KeyValue, ...]:
    headers = reader.pairs("httpHeader")
    for index, header in enumerate(headers):
        where = f"httpHeader[{index}]"
        if not HEADER_NAME.fullmatch(header.key):
            reader.fault(f"{where}.key", "is not a header name")
        elif header.key.lower() in RESERVED_HEADERS:
            reader.fault(f"{where}.key", f"{header.key} is set by the transfer itself")
        if not HEADER_VALUE.fullmatch(header.value or ""):
            reader.fault(f"{where}.value", "holds a control character")
    return headers


def _configdrive(reader: ObjectReader) -> ConfigDrive:
    content = _content(reader)
    drive = ConfigDrive(
        # Whoever brings a whole drive wants it written.
        enable=reader.boolean("enable") or (content is not None and not reader.has("enable")),
        hostname=reader.text("hostname", check=_hostname_fault),
        ssh_key=reader.text("sshKey", limit=MAX_SSH_KEY_BYTES, check=_ssh_key_fault),
        user_data=reader.text("userData", limit=MAX_USER_DATA_BYTES, may_be_empty=True),
        user_metadatas=_unique_pairs(reader, "userMetadatas"),
        network_data=reader.json_object("networkData"),
        vendor_data=reader.json_object("vendorData", or_text=True),
        content=content,
    )
    reader.refuse_unknown()
    return drive


def _content(reader: ObjectReader) -> str | None:
    content = reader.text("content", limit=MAX_CONTENT_BYTES)
    if content is None:
        return None
    for key in ("hostname", "sshKey", "userData", "userMetadatas", "networkData", "vendorData"):
        if reader.has(key):
            reader.fault(
                key, "stands beside a ready-made drive (configdrive.content), which is written as it is"
            )
    if _is_url(content):
        fault = check_web_url(content)
        if fault is not None:
            reader.fault("content", fault)
    elif not _is_base64(content):
        message = ConfigDriveContent.template.format(reason="it is neither base64 nor the URL of one")
        reader.fault("content", message, ConfigDriveContent.code)
    return content


def _is_base64(text: str) -> bool:
    """Whether it is base64 (RFC 4648, section 4), in lines of any length."""
    try:
        return bool(binascii.a2b_base64("".join(text.split()), strict_mode=True))
    except ValueError:
        return False


def _unique_pairs(reader: ObjectReader, key: str) -> tuple[KeyValue, ...]:
    items = reader.pairs(key)
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.key in seen:
            reader.fault(f"{key}[{index}].key", f"{item.key} is given twice")
        seen.add(item.key)
    return items


def _hostname_fault(text: str) -> str | None:
    if len(text) <= MAX_HOSTNAME and HOSTNAME.fullmatch(text):
        return None
    return (
        "is not a host name: letters, digits, hyphens and dots, at most 63 characters a label and 253 in all"
    )


def _ssh_key_fault(text: str) -> str | None:
    if "PRIVATE KEY" in text:
        return "holds a private key: give the public one (the .pub file), and replace the private one"
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#") and not _SSH_KEY.search(line):
            return f"line {number} is not an SSH public key"
    return None


def _efi_path_fault(text: str) -> str | None:
    parts = re.split(r"[\\/]", text[1:])
    if EFI_PATH.fullmatch(text) and all(part not in ("", ".", "..") for part in parts):
        return None
    return r"is not a path on the ESP: expected one such as \EFI\BOOT\BOOTX64.EFI"
