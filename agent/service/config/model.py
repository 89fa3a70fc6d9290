"""The daemon's configuration as dataclasses, and the rules between options.

Owns `Config` and `load_config`. The options are in `agent.service.config.options`, the sources of their values in
`agent.service.config.sources`. A `Config` never has faults: `load_config` raises instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from agent.errors import ConfigInvalid, Fault
from agent.model.disks import GroupSpec
from agent.model.policy import Policy, SeveralPolicy
from agent.service.config.options import DEFAULTS, TABLE
from agent.service.config.sources import Settings, take_command_line, take_file, take_secrets

DEFAULT_PATH = Path("/etc/byoi-agent/agent.toml")
IRONIC_NAME = "ironic"
"""Of a server that nobody has named but Ironic, which tells its name to nobody."""

_OVH = tuple(option.key for option in TABLE if option.section == "api.ovh")
_PULLING = {"reboot.untold_seconds", *(option.key for option in TABLE if option.section == "control_plane")}
_IRONIC = {option.key for option in TABLE if option.section == "ironic"}
_LISTENER = {"api.tls_cert", "api.tls_key", "api.client_ca", "api.client_crl", "api.token_file", *_OVH}


@dataclass(frozen=True, slots=True)
class OvhCredentials:
    """The keys with which clients of the OVH API sign their requests."""

    application_key: str
    application_secret: str = field(repr=False)
    consumer_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The API's listeners and authentication. Paths are absolute; `token` is the secret, not its file."""

    socket: str = DEFAULTS["api.socket"]
    socket_group: str | None = None
    listen: tuple[str, int] | None = None
    """Host and port (0 for any free port). If it is set, so are tls_cert, tls_key and a way to authenticate."""
    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    client_crl: str | None = None
    token: str | None = field(default=None, repr=False)
    ovh: OvhCredentials | None = None


@dataclass(frozen=True, slots=True)
class ControlPlaneConfig:
    """The control plane to poll for jobs. `url` has no slash at its end."""

    url: str
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    poll_seconds: float = DEFAULTS["control_plane.poll_seconds"]
    push_seconds: float = DEFAULTS["control_plane.push_seconds"]


@dataclass(frozen=True, slots=True)
class IronicConfig:
    """The Ironic whose conductor may drive this agent. Its URLs have no slash at their ends."""

    url: tuple[str, ...]
    agent_token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    insecure: bool = DEFAULTS["ironic.insecure"]
    listen: tuple[str, int] = DEFAULTS["ironic.listen"]
    advertise: str | None = None
    inspection_url: tuple[str, ...] | None = None
    collect_lldp: bool = DEFAULTS["ironic.collect_lldp"]
    lldp_seconds: float = DEFAULTS["ironic.lldp_seconds"]
    request_id: str | None = None
    power_off_command: tuple[str, ...] = DEFAULTS["ironic.power_off_command"]


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """How images are fetched."""

    ca_file: str | None = None
    connections: int = DEFAULTS["download.connections"]


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Whose signatures count: the directory of their keys. Whether one is required is in the policy too."""

    keys: str = DEFAULTS["trust.keys"]
    require_signature: bool = DEFAULTS["trust.require_signature"]


@dataclass(frozen=True, slots=True)
class ReceiptConfig:
    """The receipts: `key` is the private key that signs them, in PEM, not its file."""

    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RebootConfig:
    """The reboot after a deployment."""

    enabled: bool = DEFAULTS["reboot.enabled"]
    command: tuple[str, ...] = DEFAULTS["reboot.command"]
    grace_seconds: float = DEFAULTS["reboot.grace_seconds"]
    untold_seconds: float = DEFAULTS["reboot.untold_seconds"]


@dataclass(frozen=True, slots=True)
class StateConfig:
    """The directory for the journal."""

    directory: str = DEFAULTS["state.directory"]


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log: `level` is debug, info, warning or error; `format` is auto, json or text."""

    level: str = DEFAULTS["log.level"]
    format: str = DEFAULTS["log.format"]


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `origins` has the source of each value by dotted key; `warnings` are warnings."""

    service_name: str
    api: ApiConfig = ApiConfig()
    control_plane: ControlPlaneConfig | None = None
    ironic: IronicConfig | None = None
    disk_groups: tuple[GroupSpec, ...] = ()
    policy: Policy = Policy()
    trust: TrustConfig = TrustConfig()
    receipt: ReceiptConfig = ReceiptConfig()
    download: DownloadConfig = DownloadConfig()
    reboot: RebootConfig = RebootConfig()
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Fault, ...] = ()

    @property
    def journal_directory(self) -> Path:
        """The state directory, or `state` in it if it holds the socket too: the socket's group needs access to that
        directory, but must not have access to the journal.
        """
        directory = Path(self.state.directory)
        return directory / "state" if directory == Path(self.api.socket).parent else directory


def load_config(
    path: str | None, *, cmdline: str, credentials: Path | None, default_path: Path = DEFAULT_PATH
) -> Config:
    """Read all sources: defaults, the TOML file, the kernel command line, secrets; each overrides the ones before.

    Args:
        path: the TOML file, or None for `default_path`, which need not exist.
        cmdline: the text of /proc/cmdline.
        credentials: the directory of systemd's credentials, if there is one.
        default_path: another default, for tests.

    Raises:
        ConfigInvalid: with all faults of all sources.
    """
    file = default_path if path is None else Path(path)
    settings = Settings()
    take_file(settings, file, may_be_absent=path is None)
    take_command_line(settings, cmdline)
    take_secrets(settings, credentials)
    _check_rules(settings, file)
    if settings.faults:
        raise ConfigInvalid(settings.faults)
    return _build(settings)


@dataclass(frozen=True, slots=True)
class Remains:
    """What a configuration with faults tells all the same."""

    service_name: str | None
    socket: str
    socket_group: str | None


def load_remains(
    path: str | None, *, cmdline: str, faults: Sequence[Fault], default_path: Path = DEFAULT_PATH
) -> Remains:
    """The server's name, and the socket to tell its faults on: the default one where those are about the socket.

    Args:
        path: as for `load_config`.
        cmdline: as for `load_config`.
        faults: what is wrong with it.
        default_path: another default, for tests.
    """
    settings = Settings()
    take_file(settings, default_path if path is None else Path(path), may_be_absent=path is None)
    take_command_line(settings, cmdline)
    values = settings.values
    if any(fault.path in ("api.socket", "api.socket_group") for fault in faults):
        values = values | {"api.socket": DEFAULTS["api.socket"], "api.socket_group": None}
    return Remains(values["service_name"], values["api.socket"], values["api.socket_group"])


def load_disk_groups(
    path: str | None, *, cmdline: str, default_path: Path = DEFAULT_PATH
) -> tuple[GroupSpec, ...]:
    """The configured disk groups alone, as in `load_config`; empty if none are configured.

    For commands that deploy without the daemon, and so without the server's name and secrets.

    Raises:
        ConfigInvalid: a source cannot be read or has any fault. A mistyped table may have been meant as a group, and a
            group's number must mean the same disk as in the daemon.
    """
    return _groups(_load_plain(path, cmdline, default_path))


def load_trusted_keys(path: str | None, *, cmdline: str, default_path: Path = DEFAULT_PATH) -> str:
    """The directory of the operator's keys alone; see `load_disk_groups`."""
    keys: str = _load_plain(path, cmdline, default_path).values["trust.keys"]
    return keys


def load_secrets(
    path: str | None, *, cmdline: str, credentials: Path | None, default_path: Path = DEFAULT_PATH
) -> tuple[str, ...]:
    """The values of all secrets that can be read, whatever faults there are: to blank them in what others wrote.

    Args:
        path: as for `load_config`.
        cmdline: as for `load_config`.
        credentials: as for `load_config`.
        default_path: another default, for tests.
    """
    settings = Settings()
    take_file(settings, default_path if path is None else Path(path), may_be_absent=path is None)
    take_command_line(settings, cmdline)
    take_secrets(settings, credentials)
    return tuple(secret for secret in settings.secrets.values() if secret)


def _load_plain(path: str | None, cmdline: str, default_path: Path) -> Settings:
    """What needs no secrets."""
    settings = Settings()
    take_file(settings, default_path if path is None else Path(path), may_be_absent=path is None)
    take_command_line(settings, cmdline)
    if settings.faults:
        raise ConfigInvalid(settings.faults)
    return settings


def _groups(settings: Settings) -> tuple[GroupSpec, ...]:
    return tuple(settings.groups[number] for number in sorted(settings.groups))


def _check_rules(settings: Settings, file: Path) -> None:
    """Check the rules between options. An option with an invalid value counts as given: its fault is noted already."""
    if settings.unread:
        return
    if not settings.given("service_name") and not settings.given("ironic.url"):
        settings.fault(
            "service_name",
            f"is required: set it in {file}, or boot with byoi.service_name=NAME on the kernel command line",
        )
    if settings.given("api.listen"):
        _check_listener(settings)
    _check_ovh(settings)
    switches = (
        ("api.listen", _LISTENER),
        ("api.client_ca", {"api.client_crl"}),
        ("control_plane.url", _PULLING),
        ("ironic.url", _IRONIC),
    )
    for switch, section in switches:
        for key in () if settings.given(switch) else sorted(section & settings.named):
            settings.warn(key, f"has no effect without {switch} (given in: {settings.origins[key]})")


def _check_listener(settings: Settings) -> None:
    for key in ("api.tls_cert", "api.tls_key"):
        if not settings.given(key):
            settings.fault("api.listen", f"needs {key}: there is no TCP without TLS")
    if not any(map(settings.given, ("api.client_ca", "api.token_file", "api.ovh.application_key"))):
        settings.fault(
            "api.listen",
            "needs a way to tell who calls: give api.client_ca, api.token_file or the options of [api.ovh]",
        )


def _check_ovh(settings: Settings) -> None:
    # Not if only the credentials exist: the systemd unit may load them on every server.
    for key in _OVH if settings.named & set(_OVH) else ():
        if not settings.given(key):
            settings.fault(key, "is required: [api.ovh] is used, which has three options or none")


def _build(settings: Settings) -> Config:
    values, secrets = settings.values, settings.secrets
    return Config(
        service_name=values["service_name"] or IRONIC_NAME,
        api=_api(settings),
        control_plane=None
        if values["control_plane.url"] is None
        else ControlPlaneConfig(
            url=values["control_plane.url"],
            token=secrets.get("control_plane.token_file"),
            ca_file=values["control_plane.ca_file"],
            poll_seconds=values["control_plane.poll_seconds"],
            push_seconds=values["control_plane.push_seconds"],
        ),
        ironic=_ironic(settings),
        disk_groups=_groups(settings),
        policy=Policy(
            require_checksum=values["policy.require_checksum"],
            allow_http=values["policy.allow_http"],
            allow_file=values["policy.allow_file"],
            require_signature=values["trust.require_signature"],
            verify=values["policy.verify"],
            several=SeveralPolicy(allow_failed=values["policy.several.allow_failed"]),
        ),
        trust=TrustConfig(values["trust.keys"], values["trust.require_signature"]),
        receipt=ReceiptConfig(secrets.get("receipt.key_file")),
        download=DownloadConfig(values["download.ca_file"], values["download.connections"]),
        reboot=RebootConfig(
            enabled=values["reboot.enabled"],
            command=values["reboot.command"],
            grace_seconds=values["reboot.grace_seconds"],
            untold_seconds=values["reboot.untold_seconds"],
        ),
        state=StateConfig(values["state.directory"]),
        log=LogConfig(values["log.level"], values["log.format"]),
        origins=MappingProxyType(settings.origins),
        warnings=tuple(settings.warnings),
    )


def _ironic(settings: Settings) -> IronicConfig | None:
    values = settings.values
    if values["ironic.url"] is None:
        return None
    plain = (name for name in IronicConfig.__slots__ if name != "agent_token")
    return IronicConfig(
        **{name: values[f"ironic.{name}"] for name in plain},
        agent_token=settings.secrets.get("ironic.agent_token_file"),
    )


def _api(settings: Settings) -> ApiConfig:
    values, secrets = settings.values, settings.secrets
    application_key = values["api.ovh.application_key"]
    return ApiConfig(
        socket=values["api.socket"],
        socket_group=values["api.socket_group"],
        listen=values["api.listen"],
        tls_cert=values["api.tls_cert"],
        tls_key=values["api.tls_key"],
        client_ca=values["api.client_ca"],
        client_crl=values["api.client_crl"],
        token=secrets.get("api.token_file"),
        ovh=None
        if application_key is None
        else OvhCredentials(
            application_key,
            secrets["api.ovh.application_secret_file"],
            secrets["api.ovh.consumer_key_file"],
        ),
    )
