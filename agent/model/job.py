"""The job: parses the posted document strictly, and reports all its faults at once.

The document is the body of the OVH API's `bringYourOwnImage`. `load_job` takes the text, `parse_job` the decoded JSON;
both raise `JobInvalid` with every fault and its path. No fault contains the value of a secret member.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.errors import Fault, ImageFormat, JobInvalid
from agent.model.headers import HEADER_NAME, HEADER_VALUE, RESERVED_HEADERS
from agent.model.job_text import MAX_FAULTS, read_json, shortened
from agent.model.selector import DiskSelector, parse_selector
from agent.model.url import check_url, redact_url
from agent.text import HIDDEN
from agent.units import MiB, format_size

OVH_TYPES = ("qcow2", "raw", "ova")
"""The types of the OVH API, which its message for an unknown type lists."""
IMAGE_TYPES = (*OVH_TYPES, "vmdk", "vhd", "vhdx", "vdi")
"""All types that a job may name; those behind the OVH API's are ours."""
CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
MAX_USER_DATA_BYTES = 8 * MiB
MAX_DATA_BYTES = MiB
"""Length of `networkData` and of `vendorData` as JSON on the drive, in bytes."""
MAX_LIST = 256
MAX_TEXT = 16 * 1024
MAX_SSH_KEY_BYTES = MiB
MAX_PAIR_KEY_BYTES = 1024
MAX_PAIR_VALUE_BYTES = 64 * 1024
MAX_HOSTNAME = 253
MAX_DISK_GROUP_ID = 2**31 - 1

BAD_CHECKSUM_TYPE = "Bad checkSumType, expected: md5, sha1, sha256, sha512."
BAD_CHECKSUM_PAIR = "Please provide checkSum AND checkSumType or none of them"

# RFC 1123 section 2.1.
HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_SSH_KEY = re.compile(r"(^|\s)(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+\s+[A-Za-z0-9+/]{16,}={0,3}(\s|$)")
EFI_PATH = re.compile(r"[\\/][A-Za-z0-9._+ ~()\\/-]{1,254}")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One `{key, value}` member of `httpHeader` or `userMetadatas`."""

    key: str
    value: str | None = field(repr=False)


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


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job. `checksum` is in lower case; absent members are None. Without a type the content decides."""

    url: str = field(repr=False)
    type: str | None
    checksum: str | None = None
    checksum_type: str | None = None
    configdrive: ConfigDrive = ConfigDrive()
    description: str | None = None
    disk_group_id: int | None = None
    disk_selector: DiskSelector | None = None
    http_headers: tuple[KeyValue, ...] = ()
    efi_bootloader_path: str | None = None

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
            "type": self.type,
            "checkSum": self.checksum,
            "checkSumType": self.checksum_type,
            "description": self.description,
            "diskGroupId": self.disk_group_id,
            "disk": self.disk_selector and dict(self.disk_selector.posted),
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
                }
            ),
        }
        return _present(document)

    def summary(self) -> dict[str, Any]:
        """`redacted` for the log, at most 16 KiB: long texts are cut, and lists are replaced by their lengths."""
        document = self.redacted()
        for owner, key in ((document, "httpHeader"), (document["configdrive"], "userMetadatas")):
            if key in owner:
                owner[key] = len(owner[key])
        if self.disk_selector is not None:
            document["disk"] = str(self.disk_selector)
        limits = {"URL": 1000, "description": 200, "disk": 1000}
        return document | {
            key: shortened(document[key], limits[key]) for key in limits.keys() & document.keys()
        }

    def without_secrets(self) -> dict[str, Any]:
        """The document to keep when the job has ended: without secrets, and such that `parse_job` still accepts it."""
        document = self.redacted()
        document["URL"] = document["URL"].partition("?")[0]
        for key in ("sshKey", "networkData"):  # *** is neither a key nor an object
            document["configdrive"].pop(key, None)
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
    reader = _ObjectReader(document, "")
    url = reader.text("URL", required=True, check=check_url)
    image_type = reader.text("type")
    if image_type is not None and image_type not in IMAGE_TYPES:
        reader.fault("type", ImageFormat.template, "image.format")
    checksum, checksum_type = _checksum(reader)
    job = Job(
        url=url or "",
        type=image_type,
        checksum=checksum,
        checksum_type=checksum_type,
        configdrive=_configdrive(reader.child("configdrive")),
        description=reader.text("description"),
        disk_group_id=reader.integer("diskGroupId"),
        disk_selector=_disk_selector(reader),
        http_headers=_headers(reader),
        efi_bootloader_path=reader.text("efiBootloaderPath", check=_efi_path_fault),
    )
    reader.refuse_unknown()
    if reader.faults:
        raise JobInvalid(reader.faults[:MAX_FAULTS])
    return job


def _checksum(reader: "_ObjectReader") -> tuple[str | None, str | None]:
    checksum, kind = reader.text("checkSum"), reader.text("checkSumType")
    if kind is not None and kind not in CHECKSUM_DIGITS:
        reader.fault("checkSumType", BAD_CHECKSUM_TYPE, "checksum.type")
        return None, None
    if reader.has("checkSum") != reader.has("checkSumType"):
        reader.fault("checkSum" if checksum is None else "checkSumType", BAD_CHECKSUM_PAIR, "checksum.pair")
        return None, None
    if checksum is None or kind is None:
        return None, None
    if len(checksum) != CHECKSUM_DIGITS[kind] or not re.fullmatch("[0-9A-Fa-f]+", checksum):
        reader.fault(
            "checkSum",
            f"must be {CHECKSUM_DIGITS[kind]} hexadecimal digits for {kind}, got "
            + (
                "other characters"
                if len(checksum) == CHECKSUM_DIGITS[kind]
                else f"{len(checksum)} characters"
            ),
        )
    return checksum.lower(), kind


def _disk_selector(reader: "_ObjectReader") -> DiskSelector | None:
    value = reader.value("disk")
    if value is not None and reader.has("diskGroupId"):
        reader.fault("disk", "stands beside diskGroupId; give one of them")
    return None if value is None else parse_selector(value, "disk", reader.faults)


def _headers(reader: "_ObjectReader") -> tuple[KeyValue, ...]:
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


def _configdrive(reader: "_ObjectReader") -> ConfigDrive:
    drive = ConfigDrive(
        enable=reader.boolean("enable"),
        hostname=reader.text("hostname", check=_hostname_fault),
        ssh_key=reader.text("sshKey", limit=MAX_SSH_KEY_BYTES, check=_ssh_key_fault),
        user_data=reader.text("userData", limit=MAX_USER_DATA_BYTES, may_be_empty=True),
        user_metadatas=_unique_pairs(reader, "userMetadatas"),
        network_data=reader.json_object("networkData"),
        vendor_data=reader.json_object("vendorData", or_text=True),
    )
    reader.refuse_unknown()
    return drive


def _unique_pairs(reader: "_ObjectReader", key: str) -> tuple[KeyValue, ...]:
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


class _ObjectReader:
    """Reads the members of one JSON object and collects faults; null counts as absent."""

    def __init__(self, document: Mapping[str, Any], path: str, faults: list[Fault] | None = None) -> None:
        self._document = document
        self._path = path
        self._known: set[str] = set()
        self.faults: list[Fault] = [] if faults is None else faults

    def fault(self, key: str, message: str, code: str = "job.invalid") -> None:
        self.faults.append(Fault(f"{self._path}{key}", message, code))

    def has(self, key: str) -> bool:
        return self._document.get(key) is not None

    def value(self, key: str) -> Any:
        self._known.add(key)
        return self._document.get(key)

    def text(
        self,
        key: str,
        *,
        required: bool = False,
        limit: int = MAX_TEXT,
        may_be_empty: bool = False,
        check: Callable[[str], str | None] | None = None,
    ) -> str | None:
        value = self.value(key)
        if value is None:
            if required:
                self.fault(key, "is required")
            return None
        message = self._text_fault(value, limit, may_be_empty=may_be_empty)
        if message is None and check is not None:
            message = check(value)
        if message is not None:
            self.fault(key, message)
            return None
        return str(value)

    @staticmethod
    def _text_fault(value: object, limit: int, *, may_be_empty: bool) -> str | None:
        if not isinstance(value, str):
            return "must be a string"
        if not value and not may_be_empty:
            return "must not be empty (leave it out, or give null)"
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no text"
        return _too_long(length, limit) if length > limit else None

    def integer(self, key: str) -> int | None:
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_DISK_GROUP_ID:
            self.fault(key, "must be an integer, 0 or larger")
            return None
        return value

    def boolean(self, key: str) -> bool:
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            self.fault(key, "must be true or false")
        return value is True

    def json_object(self, key: str, *, or_text: bool = False) -> Any:
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict) and not (or_text and isinstance(value, str)):
            self.fault(key, "must be an object or a string" if or_text else "must be an object")
            return None
        length = len(json.dumps(value))
        if length > MAX_DATA_BYTES:
            self.fault(key, _too_long(length, MAX_DATA_BYTES))
            return None
        return value

    def child(self, key: str) -> "_ObjectReader":
        value = self.value(key)
        if value is not None and not isinstance(value, dict):
            self.fault(key, "must be an object")
            value = None
        return _ObjectReader(value or {}, f"{self._path}{key}.", self.faults)

    def pairs(self, key: str) -> tuple[KeyValue, ...]:
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_LIST:
            self.fault(key, f'must be an array of {{"key", "value"}} objects, at most {MAX_LIST}')
            return ()
        return tuple(
            pair for index, item in enumerate(value) if (pair := self._pair(f"{key}[{index}]", item))
        )

    def _pair(self, where: str, item: object) -> KeyValue | None:
        if not isinstance(item, dict):
            self.fault(where, 'must be an object with "key" and "value"')
            return None
        reader = _ObjectReader(item, f"{self._path}{where}.", self.faults)
        key = reader.text("key", required=True, limit=MAX_PAIR_KEY_BYTES)
        value = reader.text("value", may_be_empty=True, limit=MAX_PAIR_VALUE_BYTES)
        reader.refuse_unknown()
        return None if key is None else KeyValue(key, value)

    def refuse_unknown(self) -> None:
        for key in self._document:
            if key not in self._known:
                self.fault(
                    shortened(str(key)), f"is an unknown key; known are {_listed(sorted(self._known))}"
                )


def _too_long(length: int, limit: int) -> str:
    return f"has {format_size(length)}, at most {format_size(limit)} are taken"


def _listed(words: Sequence[str] | Iterable[str]) -> str:
    return ", ".join(words)
