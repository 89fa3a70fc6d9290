"""`byoi-agent --check`: prints every option with its value and source, or all faults of the configuration.

Also owns the checks of what the configuration names (certificates, keys, directories, the socket's group), which the
daemon makes when it starts, too.
"""

import grp
import json
import shutil
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.command_line import EXIT_OUTPUT, EXIT_USAGE, OutputLost, write_err, write_out
from agent.errors import ConfigInvalid, Fault
from agent.service.config.crl import spans
from agent.service.config.model import ApiConfig, Config, load_config
from agent.service.config.options import TABLE, Option
from agent.service.config.secrets import read_regular
from agent.service.config.sources import DEFAULT
from agent.service.config.text import plain, toml
from agent.service.config.trust import trust_faults
from agent.service.config.trusted_path import distrust
from agent.text import HIDDEN
from agent.units import MiB

MAX_PEM_BYTES = MiB


@dataclass(frozen=True, slots=True)
class Row:
    """One option. `value` is as in JSON, None without a value, `***` for a secret; `origin` is its source."""

    key: str
    value: Any
    origin: str


def explain(config: Config) -> list[Row]:
    """Every option with its value and source, in the order of the table; disk groups come last."""
    rows = [
        Row(option.key, _value(config, option), config.origins.get(option.key, DEFAULT)) for option in TABLE
    ]
    for group in config.disk_groups:
        key = f"disk_group.{group.id}"
        rows.append(Row(key, list(group.disks), config.origins.get(key, DEFAULT)))
    return rows


def _value(config: Config, option: Option) -> Any:
    # The configuration has a secret under the name of its credential.
    value: Any = config
    for part in option.credential.split(".") if option.secret else option.key.split("."):
        value = None if value is None else getattr(value, part)
    return HIDDEN if option.secret and value is not None else plain(option, value)


# -- what the configuration names -----------------------------------------------------------------------------


def file_faults(config: Config) -> list[Fault]:
    """Check what the configuration names: certificates, keys, CA certificates and revocation lists can be read, the
    socket's group exists, and nobody else can write to the directories of the state and the socket.
    """
    named = (
        ("api.client_ca", config.api.client_ca),
        ("control_plane.ca_file", config.control_plane.ca_file if config.control_plane else None),
        ("ironic.ca_file", config.ironic.ca_file if config.ironic else None),
        ("download.ca_file", config.download.ca_file),
    )
    found = [(key, _ca_fault(path)) for key, path in named if path is not None]
    if config.api.client_crl is not None:
        found.append(("api.client_crl", _crl_fault(config.api.client_crl)))
    found += _listener_faults(config.api)
    # Who can write to the state directory can forge the journal, and thereby a job; who can write to the directory of
    # the socket can replace the socket.
    found.append(("state.directory", _directory_fault(config.journal_directory)))
    found.append(("api.socket", _directory_fault(Path(config.api.socket).parent, may_be_link=True)))
    found += [("trust.keys", fault) for fault in trust_faults(config.trust)]
    if config.api.socket_group is not None:
        found.append(("api.socket_group", _group_fault(config.api.socket_group)))
    return [
        Fault(key, f"{message} (given in: {config.origins.get(key, DEFAULT)})", ConfigInvalid.code)
        for key, message in found
        if message is not None
    ]


def _group_fault(name: str) -> str | None:
    try:
        grp.getgrnam(name)
    except KeyError:
        return f"there is no group {name} on this system"
    return None


def _directory_fault(path: Path, *, may_be_link: bool = False) -> str | None:
    fault = distrust(path, may_be_link=may_be_link)
    return None if fault is None else str(fault)


def _pem_fault(path: str, label: bytes, what: str, *, private: bool = False) -> str | None:
    """Why a file cannot be trusted or read, or has no PEM block with this label (RFC 7468); None if all is well."""
    fault = distrust(path, may_be_link=not private)
    if fault is not None:
        return str(fault)
    try:
        content, status = read_regular(path, MAX_PEM_BYTES)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
    if private and status.st_mode & 0o007:
        mode = stat.S_IMODE(status.st_mode)
        return f"{path} is open to every user (mode {mode:04o}): chmod 0600 it, and replace the key"
    return None if label in content else f"{path} holds no {what} in PEM"


def _ca_fault(path: str) -> str | None:
    fault = _pem_fault(path, b"CERTIFICATE-----", "certificate")
    if fault is not None:
        return fault
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        return f"{path} holds a certificate that cannot be read: {_reason(error)}"
    return None


def _crl_fault(path: str) -> str | None:
    fault = _pem_fault(path, b"X509 CRL-----", "revocation list")
    if fault is not None:
        return fault
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
        found = spans(read_regular(path, MAX_PEM_BYTES)[0])
    except ssl.SSLError as error:
        return f"{path} holds a revocation list that cannot be read: {_reason(error)}"
    except (OSError, ValueError) as error:
        return f"{path} {error}"
    now = datetime.now(UTC)
    for span in found:
        if span.until is not None and span.until <= now:
            end = span.until.isoformat()
            return f"{path} expired at {end}; every client certificate would be refused: get a new list from the CA"
        if span.since > now:
            start = span.since.isoformat()
            return (
                f"{path} holds only from {start} on: set this server's clock, or get the list that holds now"
            )
    return None


def _listener_faults(api: ApiConfig) -> Iterator[tuple[str, str | None]]:
    if api.tls_cert is None or api.tls_key is None:
        return
    certificate = _pem_fault(api.tls_cert, b"CERTIFICATE-----", "certificate")
    key = _pem_fault(api.tls_key, b"PRIVATE KEY-----", "private key", private=True)
    yield "api.tls_cert", certificate
    yield "api.tls_key", key
    if certificate is None and key is None:
        yield "api.tls_key", _chain_fault(api.tls_cert, api.tls_key)


def _chain_fault(certificate: str, key: str) -> str | None:
    def no_password() -> str:
        raise ValueError(f"{key} is encrypted: nobody is there to type its password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{key} does not belong to the certificate {certificate}"
        return f"{certificate} and {key} cannot be used: {_reason(error)}"
    except ValueError as error:
        return str(error)
    return None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "damaged").replace("_", " ").lower()


def find_warnings(config: Config) -> list[Fault]:
    """Warnings: what is allowed but probably wrong, for the log and for --check."""
    found = list(config.warnings)
    program = config.reboot.command[0]
    if config.reboot.enabled and shutil.which(program) is None:
        found.append(Fault("reboot.command", f"there is no program {program} on this system", "config.doubt"))
    return found


# -- the command ----------------------------------------------------------------------------------------------


def check(path: str | None, *, cmdline: str, credentials: Path | None, as_json: bool = False) -> int:
    """Print the options on stdout, and faults and warnings on stderr.

    Args:
        path: the file of --config, or None for the default.
        cmdline: the text of /proc/cmdline.
        credentials: the directory of systemd's credentials, if there is one.
        as_json: print one JSON document on stdout, which has faults and warnings too.

    Returns:
        The exit status: 0, EXIT_USAGE if there is a fault, EXIT_OUTPUT if stdout has not got all of it.
    """
    rows: list[Row] = []
    warnings: list[Fault] = []
    try:
        config = load_config(path, cmdline=cmdline, credentials=credentials)
    except ConfigInvalid as error:
        faults = list(error.faults)
    else:
        rows, faults, warnings = explain(config), file_faults(config), find_warnings(config)
    status = EXIT_USAGE if faults else 0
    try:
        write_out(_document(rows, faults, warnings) if as_json else _table(rows))
    except OutputLost as lost:
        write_err(f"byoi-agent: {lost}\n")
        status = status or EXIT_OUTPUT
    write_err("".join(f"byoi-agent: {fault}\n" for fault in faults))
    write_err("".join(f"byoi-agent: warning: {warning}\n" for warning in warnings))
    return status


def _document(rows: list[Row], faults: list[Fault], warnings: list[Fault]) -> str:
    document = {
        "valid": not faults,
        "options": [{"key": row.key, "value": row.value, "origin": row.origin} for row in rows],
        "faults": [fault.document() for fault in faults],
        "warnings": [warning.document() for warning in warnings],
    }
    return json.dumps(document, indent=2) + "\n"


def _table(rows: list[Row]) -> str:
    cells = [
        (
            row.key,
            HIDDEN if row.value == HIDDEN else "-" if row.value is None else toml(row.value),
            row.origin,
        )
        for row in rows
    ]
    wide = [min(48, max((len(cell[column]) for cell in cells), default=0)) for column in (0, 1)]
    return "".join(f"{key:<{wide[0]}}  {value:<{wide[1]}}  {origin}\n" for key, value, origin in cells)
