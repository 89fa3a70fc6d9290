"""Reads the sources of the configuration: the TOML file, the kernel command line, secrets from files and credentials.

Each `take_` function adds the values of its source to a `Settings`; later calls override earlier ones. Faults are
collected there, to be reported together. Called when the daemon starts, before the event loop exists: it blocks.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import ConfigInvalid, Fault
from agent.model.disks import GroupSpec
from agent.service.config.kinds import OptionKind
from agent.service.config.options import (
    DEFAULTS,
    GROUP_TABLE,
    OPTIONS,
    SECTIONS,
    TABLE,
    Option,
    unknown_key_fault,
)
from agent.service.config.secrets import check_secret, read_regular, read_secret
from agent.service.config.trusted_path import distrust
from agent.text import MAX_SHOWN, printable
from agent.units import KiB

DEFAULT = "default"
KERNEL = "kernel command line"
PREFIX = "byoi."
RAMDISK_PREFIX = "ipa-"
INSPECTION_KEY = "ipa-inspection-callback-url"
RAMDISK_TOKEN = "ipa-agent-token"  # noqa: S105 - the name of a word
_TOKEN_KEY = "ironic.agent_token_file"  # noqa: S105 - the name of an option
RAMDISK_KEYS = {
    "ipa-api-url": "ironic.url",
    "ipa-insecure": "ironic.insecure",
    "ipa-ca-file": "ironic.ca_file",
    "ipa-advertise-host": "ironic.advertise",
    "ipa-listen-port": "ironic.listen",
    INSPECTION_KEY: "ironic.inspection_url",
    "ipa-collect-lldp": "ironic.collect_lldp",
    "ipa-lldp-timeout": "ironic.lldp_seconds",
    "ipa-global-request-id": "ironic.request_id",
    "ipa-debug": "log.level",
}
"""What Ironic writes on the kernel command line of its ramdisk, and the options that say the same."""
MAX_FILE_BYTES = 64 * KiB
MAX_LINE_BYTES = 4 * KiB
"""The memory that tomllib needs grows with the square of the number of parts of a dotted key."""
MAX_COMMAND_LINE_BYTES = 64 * KiB
_MAX_SUGGESTIONS = 50
_MAX_KEY = 80  # characters of an unknown key in a message
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_SPACE = " \t\n\v\f\r"
_GROUP_ID, _GROUP_DISKS = GROUP_TABLE
_SET_CREDENTIAL = ("systemd.set_credential", "systemd.set_credential_binary")  # kernel-command-line(7)


class Settings:
    """The values from the sources so far, the source of each value, and all faults and warnings."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = dict(DEFAULTS)
        self.origins: dict[str, str] = dict.fromkeys(DEFAULTS, DEFAULT)
        self.groups: dict[int, GroupSpec] = {}
        self.secrets: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.unread = False
        """Whether the file could not be read; missing options are then not reported."""
        self.named: set[str] = set()
        """Keys in the file or on the kernel command line, with valid or invalid values."""

    def fault(self, key: str, message: str, origin: str = "") -> None:
        """Add a fault of a key; `origin` is the source that gave it."""
        text = f"{message} (given in: {origin})" if origin else message
        self.faults.append(Fault(printable(key, _MAX_KEY), text, ConfigInvalid.code))

    def unknown(self, key: str, origin: str) -> None:
        """Add a fault for an unknown key."""
        # A suggestion takes a millisecond, and a file that is not a configuration may have many keys.
        self.fault(key, unknown_key_fault(key, suggest=len(self.faults) < _MAX_SUGGESTIONS), origin)

    def warn(self, key: str, message: str) -> None:
        """Add a warning: what is allowed but probably wrong."""
        self.warnings.append(Fault(key, message, "config.doubt"))

    def put(self, option: Option, value: object, origin: str) -> None:
        """Check a decoded value and set it, in place of an earlier one."""
        self.named.add(option.key)
        try:
            self.values[option.key] = option.kind.read(value)
        except ValueError as error:
            self.fault(option.key, str(error), origin)
        else:
            self.origins[option.key] = origin

    def given(self, key: str) -> bool:
        """Whether any source, credentials included, gave the option, with a valid or an invalid value."""
        return key in self.named or key in self.secrets

    def put_group(self, spec: GroupSpec, origin: str) -> None:
        """Set a disk group, in place of an earlier one with the same id."""
        self.groups[spec.id] = spec
        self.origins[f"disk_group.{spec.id}"] = origin


# -- the file -------------------------------------------------------------------------------------------------


def take_file(settings: Settings, path: Path, *, may_be_absent: bool) -> None:
    """Read the TOML file."""
    shown = printable(str(path), MAX_SHOWN)
    try:
        content, _ = read_regular(path, MAX_FILE_BYTES)
        document = _decode(content)
    except FileNotFoundError:
        if not may_be_absent:
            _refuse_file(settings, f"{shown} does not exist")
        return
    except OSError as error:
        _refuse_file(settings, f"{shown} cannot be read: {error.strerror}")
        return
    except ValueError as error:
        _refuse_file(settings, f"{shown} {error}")
        return
    # The file decides which command root runs to reboot.
    fault = distrust(path)
    if fault is not None:
        settings.fault("", str(fault))
    take_document(settings, document, shown)


def _refuse_file(settings: Settings, message: str) -> None:
    settings.unread = True
    settings.fault("", message)


def _decode(content: bytes) -> dict[str, Any]:
    if max(map(len, content.split(b"\n"))) > MAX_LINE_BYTES:
        raise ValueError(f"has a line of more than {MAX_LINE_BYTES} bytes")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"is not UTF-8 (line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {printable(str(error), 200)}") from None
    except RecursionError:
        raise ValueError("is not TOML: it holds arrays or tables nested too deeply") from None


def take_document(settings: Settings, document: Mapping[str, Any], origin: str) -> None:
    """Take a decoded TOML document."""
    _take_table(settings, document, "", origin)


def _take_table(settings: Settings, table: Mapping[str, Any], prefix: str, origin: str) -> None:
    for name, value in table.items():
        # A quoted key may have dots or be empty; it must not be taken for a dotted key.
        key = prefix + (name if _BARE_KEY.fullmatch(name) else f'"{name}"')
        if key == "disk_group":
            _take_groups(settings, value, origin)
        elif key in SECTIONS:
            if isinstance(value, dict):
                _take_table(settings, value, key + ".", origin)
            else:
                settings.fault(key, f"must be a table: write [{key}]", origin)
        elif key in OPTIONS:
            settings.put(OPTIONS[key], value, origin)
        else:
            settings.unknown(key, origin)


def _take_groups(settings: Settings, value: object, origin: str) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        settings.fault("disk_group", "must be an array of tables: write [[disk_group]]", origin)
        return
    seen: set[int] = set()
    for index, table in enumerate(value):
        where = f"disk_group[{index}]"
        number = _member(settings, table, _GROUP_ID, where, origin)
        disks = _member(settings, table, _GROUP_DISKS, where, origin)
        for name in sorted(table.keys() - {option.name for option in GROUP_TABLE}):
            settings.fault(f"{where}.{name}", "is an unknown option; a disk group has id and disks", origin)
        if number in seen:
            settings.fault(f"{where}.id", f"gives a second group the id {number}", origin)
        elif number is not None and disks is not None:
            seen.add(number)
            settings.put_group(GroupSpec(number, disks), origin)


def _member(settings: Settings, table: Mapping[str, Any], option: Option, where: str, origin: str) -> Any:
    if option.name not in table:
        settings.fault(f"{where}.{option.name}", "is required", origin)
        return None
    return _read(settings, option.kind, table[option.name], f"{where}.{option.name}", origin)


def _read(settings: Settings, kind: OptionKind, value: object, key: str, origin: str) -> Any:
    try:
        return kind.read(value)
    except ValueError as error:
        settings.fault(key, str(error), origin)
        return None


# -- the kernel command line ----------------------------------------------------------------------------------


def kernel_command_line() -> str:
    """The kernel command line of this system; empty if it cannot be read."""
    try:
        with Path("/proc/cmdline").open("rb") as file:
            return file.read(MAX_COMMAND_LINE_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def credentials_directory(environment: Mapping[str, str]) -> Path | None:
    """The directory of this service's systemd credentials, or None (systemd.exec(5))."""
    path = environment.get("CREDENTIALS_DIRECTORY")
    return Path(path) if path else None


def split_command_line(text: str) -> list[tuple[str, str | None]]:
    """Split into parameters and their values, as the kernel does (next_arg in lib/cmdline.c).

    Parameters are separated by white space outside of double quotes. Quotes around a whole value or a whole parameter
    are removed, others are kept. A backslash has no special meaning.
    """
    return [_parameter(match[0]) for match in re.finditer(rf'(?:[^"{_SPACE}]|"[^"]*(?:"|\Z))+', text)]


def _parameter(word: str) -> tuple[str, str | None]:
    if word.startswith('"'):
        word = word[1:].removesuffix('"')
        quoted = True
    else:
        quoted = False
    equals = word.find("=", 1)
    if equals < 0:
        return word, None
    name, value = word[:equals], word[equals + 1 :]
    if value.startswith('"'):
        value = value[1:] if quoted else value[1:].removesuffix('"')
    return name, value


def take_command_line(settings: Settings, text: str) -> None:
    """Take every `byoi.KEY=VALUE`, and what is addressed to an Ironic ramdisk; if a key is given twice, the last value
    is used.
    """
    given: dict[str, str | None] = {}
    for_ramdisk: dict[str, str | None] = {}
    exposed: list[str] = []
    for name, value in split_command_line(text):
        if name.startswith(PREFIX):
            # In the names of parameters, the kernel treats - and _ as equal.
            given[name.removeprefix(PREFIX).replace("-", "_")] = value
        elif name.replace("_", "-").startswith(RAMDISK_PREFIX):
            for_ramdisk[name.replace("_", "-")] = value
        elif name in _SET_CREDENTIAL:
            exposed.append((value or "").partition(":")[0])
    for key, value in for_ramdisk.items():
        _take_ramdisk_word(settings, key, value)
    _take_inspection_alone(settings, for_ramdisk.get(INSPECTION_KEY))
    for key, value in given.items():
        _take_word(settings, key, value)
    if names := [option.credential for option in TABLE if option.secret and option.credential in exposed]:
        settings.warn(
            names[0],
            f"{', '.join(names)}: on the kernel command line, which every user of this system can read; a second "
            "initrd or the firmware can hand a secret over unread (docs/rescue.md)",
        )


def _take_ramdisk_word(settings: Settings, key: str, value: str | None) -> None:
    """What ironic-python-agent would read there, in its spelling."""
    if key == "ipa-listen-port":
        host, _ = settings.values["ironic.listen"]
        value = f"[{host}]:{value}" if ":" in host else f"{host}:{value}"
    elif key == "ipa-debug":
        value = "debug" if value in (None, "1", "true", "yes") else "info"
    elif key in ("ipa-insecure", "ipa-collect-lldp") and value is None:
        value = "true"
    known = RAMDISK_KEYS.get(key)
    if key == RAMDISK_TOKEN:
        _take_ramdisk_token(settings, value or "")
    elif known is None:
        settings.warn(printable(key, _MAX_KEY), "is for ironic-python-agent; this agent has nothing like it")
    else:
        _take_word(settings, known, value, given_as=key)


def _take_inspection_alone(settings: Settings, value: str | None) -> None:
    """For an inspection Ironic tells where the inventory goes and no more, unless the server is to be kept running."""
    path = "/v1/continue_inspection"
    bases = [url.rstrip("/").removesuffix(path) for url in (value or "").split(",") if path in url]
    if bases and "ironic.url" not in settings.named:
        _take_word(settings, "ironic.url", ",".join(bases), given_as=INSPECTION_KEY)


def _take_ramdisk_token(settings: Settings, value: str) -> None:
    """The one secret that Ironic itself writes there, on the medium that it makes for this server."""
    try:
        settings.secrets[_TOKEN_KEY] = check_secret(value).value
    except ValueError as error:
        settings.fault(_TOKEN_KEY, f"{RAMDISK_TOKEN} {error}", KERNEL)
    settings.origins[_TOKEN_KEY] = KERNEL


def _take_word(settings: Settings, key: str, value: str | None, *, given_as: str = "") -> None:
    section, _, number = key.rpartition(".")
    option = _GROUP_DISKS if section == "disk_group" else OPTIONS.get(key)
    if option is None:
        settings.unknown(key or '""', KERNEL)
        return
    settings.named.add(key)
    if value is None:
        settings.fault(key, f"has no value: write {given_as or PREFIX + key}=VALUE", KERNEL)
        return
    try:
        decoded = option.kind.from_word(value)
        if option is not _GROUP_DISKS:
            settings.put(option, decoded, KERNEL)
            return
        spec = GroupSpec(_group_number(number), option.kind.read(decoded))
    except ValueError as error:
        settings.fault(key, str(error), KERNEL)
    else:
        settings.put_group(spec, KERNEL)


def _group_number(text: str) -> int:
    try:
        return int(_GROUP_ID.kind.read(_GROUP_ID.kind.from_word(text)))
    except ValueError as error:
        raise ValueError(f"names a group whose id {error}") from None


# -- secrets --------------------------------------------------------------------------------------------------


def take_secrets(settings: Settings, credentials: Path | None) -> None:
    """Read every secret, from its systemd credential or else from the file that its option names.

    Args:
        settings: has the values of the other sources already.
        credentials: the directory of the service's credentials ($CREDENTIALS_DIRECTORY in systemd.exec(5)), or None.
    """
    for option in TABLE:
        if not option.secret:
            continue
        credential = None if credentials is None else credentials / option.credential
        if credential is not None and os.path.lexists(credential):
            _take_secret(settings, option, credential, f"credential {option.credential}")
        elif settings.values[option.key] is not None:
            path = Path(settings.values[option.key])
            _take_secret(settings, option, path, f"{path}, named in: {settings.origins[option.key]}")


def _take_secret(settings: Settings, option: Option, path: Path, origin: str) -> None:
    settings.secrets[option.key] = ""  # counts as given, even if it is refused below
    try:
        secret = read_secret(path, option.check)
    except ValueError as error:
        # The path is not shown unless it exists: the value may be the secret itself instead of a path.
        shown = origin if os.path.lexists(path) else settings.origins[option.key]
        settings.fault(option.key, f"the file {error}", shown)
        return
    fault = distrust(path)
    if fault is not None:
        settings.fault(option.key, str(fault), origin)
        return
    settings.secrets[option.key] = secret.value
    settings.origins[option.key] = origin
    if secret.warning:
        settings.warn(option.key, f"{secret.warning} ({origin})")
