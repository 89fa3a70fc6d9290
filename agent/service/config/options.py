"""The table of all options, with their keys, types, defaults and descriptions.

The checks of values, `byoi-agent --check`, the example file, docs/configuration.md and agent.toml(5) are made from it.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.host.trusted_keys import DEFAULT_DIRECTORY
from agent.model.policy import Policy
from agent.model.verification import VERIFY
from agent.service.config import kinds
from agent.service.config.kinds import OptionKind
from agent.service.config.secrets import Secret, check_secret, check_signing_key

_POLICY = Policy()

FILE_SUFFIX = "_file"


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `key` is the TOML table, a dot, and the name; or only the name."""

    key: str
    kind: OptionKind
    help: str
    """The description: whole sentences in plain text."""
    default: Any = None
    """The value if no source gives one; None if there is no default."""
    example: Any = None
    """A TOML value for the example file, if there is no default."""
    required: bool = False
    secret: bool = False
    """Whether the value is the path of a file with a secret; the configuration then has the file's content."""
    check: Callable[[str], Secret] = check_secret
    """Refuses what is no such secret."""

    @property
    def section(self) -> str:
        """The name of its TOML table; empty for an option outside of all tables."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Its key within the table."""
        return self.key.rpartition(".")[2]

    @property
    def credential(self) -> str:
        """The name of the systemd credential that may hold the secret itself."""
        return self.key.removesuffix(FILE_SUFFIX)


SECTION_HELP = {
    "api": "The API, on a Unix socket and, if asked for, on TCP with TLS.",
    "api.ovh": "Requests signed as OVH's clients do it. All three options, or none.",
    "control_plane": "Pulling: where jobs are fetched and statuses are pushed. Without a url nothing is pulled.",
    "ironic": "The front for OpenStack Ironic, whose conductor then finds this agent as its deploy ramdisk. Without a "
    "url nothing of it runs. What ironic-python-agent reads from the kernel command line (ipa-api-url and others, see "
    "docs/ironic.md) is read too; byoi.ironic.* outranks it.",
    "disk_group": "Disk groups by hand. Without any, groups are made from the inventory.",
    "policy": "What a job may ask for.",
    "policy.several": "Of a job that writes several disks, as a mirror or each by itself (docs/disks.md).",
    "trust": "Whose signatures of images count.",
    "receipt": "The receipt of each deployment (docs/provenance.md).",
    "download": "How images are fetched.",
    "reboot": "The reboot into the deployed system.",
    "state": "What outlives a restart of the agent.",
    "log": "The log, on standard error. Nothing waits for whoever reads it: beyond 1 MiB that nobody takes lines are "
    "dropped, counted and told.",
}

TABLE = (
    Option(
        "service_name",
        kinds.matching(
            "string",
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}",
            "must be a name of letters, digits, dots, hyphens and underscores, at most 253 characters",
        ),
        "The name of this server, as jobs address it. The only option that has to be given; where ironic.url is given, "
        "it is ironic unless something else is said.",
        example="ns1.example.net",
        required=True,
    ),
    Option(
        "api.socket",
        kinds.SOCKET_PATH,
        "The Unix socket of the API, mode 0660. At most 107 bytes.",
        default="/run/byoi-agent/api.sock",
    ),
    Option(
        "api.socket_group",
        kinds.matching("string", "[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}[$]?", "must be the name of a group"),
        "The group that may use the socket. Without it: the group that the agent runs as, which under systemd is the "
        "unit's; another one needs `Group=` there too.",
        example="byoi",
    ),
    Option(
        "api.listen",
        kinds.ADDRESS,
        "Address and port of the TLS listener. Without it there is no TCP at all. Needs tls_cert and tls_key, "
        "and one way to tell who calls: client_ca, token_file or [api.ovh].",
        example="0.0.0.0:9443",
    ),
    Option(
        "api.tls_cert",
        kinds.PATH,
        "The certificate of the listener, followed by those between it and its CA, in PEM.",
        example="/etc/byoi-agent/tls.crt",
    ),
    Option(
        "api.tls_key",
        kinds.PATH,
        "The private key of the certificate, in PEM, not encrypted.",
        example="/etc/byoi-agent/tls.key",
    ),
    Option(
        "api.client_ca",
        kinds.PATH,
        "CA certificates in PEM. A client with a certificate from one of them may call.",
        example="/etc/byoi-agent/clients.crt",
    ),
    Option(
        "api.client_crl",
        kinds.PATH,
        "Revocation lists of those CAs in PEM, one for each CA that issues certificates to clients. A certificate that "
        "is on its CA's list is refused; so is every certificate of a CA whose list is missing or has expired.",
        example="/etc/byoi-agent/clients.crl",
    ),
    Option(
        "api.token_file",
        kinds.PATH,
        "A file that holds the bearer token (Authorization: Bearer) of the API.",
        example="/etc/byoi-agent/token",
        secret=True,
    ),
    Option(
        "api.ovh.application_key",
        kinds.matching("string", "[!-~]{1,256}", "must be an application key: printable, without spaces"),
        "The application key that clients send.",
        example="byoi0000000000ab",
    ),
    Option(
        "api.ovh.application_secret_file",
        kinds.PATH,
        "A file that holds the secret that belongs to the application key.",
        example="/etc/byoi-agent/ovh-secret",
        secret=True,
    ),
    Option(
        "api.ovh.consumer_key_file",
        kinds.PATH,
        "A file that holds the consumer key.",
        example="/etc/byoi-agent/ovh-consumer",
        secret=True,
    ),
    Option(
        "control_plane.url",
        kinds.SERVICE_URL,
        "The https URL that the agent's routes are appended to. Plain http is taken for this machine itself only.",
        example="https://control.example.net/byoi",
    ),
    Option(
        "control_plane.token_file",
        kinds.PATH,
        "A file that holds the bearer token that the agent shows to the control plane.",
        example="/etc/byoi-agent/control-token",
        secret=True,
    ),
    Option(
        "control_plane.ca_file",
        kinds.PATH,
        "CA certificates in PEM that the control plane is checked by. Without it: those of the system.",
        example="/etc/byoi-agent/control-ca.crt",
    ),
    Option(
        "control_plane.poll_seconds",
        kinds.seconds(0.1, 3600),
        "How long to wait between two requests for a job.",
        default=10.0,
    ),
    Option(
        "control_plane.push_seconds",
        kinds.seconds(0.1, 60),
        "How often the status is pushed while a deployment runs; changes of its stage are pushed at once.",
        default=5.0,
    ),
    Option(
        "ironic.url",
        kinds.SERVICE_URLS,
        "The URL of Ironic's API; several, with commas between them, are tried one after the other.",
        example="https://ironic.example.net:6385",
    ),
    Option(
        "ironic.ca_file",
        kinds.PATH,
        "CA certificates in PEM that Ironic's API is checked by. Without it: those of the system.",
        example="/etc/byoi-agent/ironic-ca.crt",
    ),
    Option(
        "ironic.agent_token_file",
        kinds.PATH,
        "A file that holds the agent token, where Ironic hands it to its ramdisk and not to whoever looks the node up "
        "first: by virtual media, which has it as ipa-agent-token.",
        example="/etc/byoi-agent/ironic-token",
        secret=True,
    ),
    Option(
        "ironic.insecure",
        kinds.BOOLEAN,
        "Whether anybody is taken for Ironic, whatever certificate they show.",
        default=False,
    ),
    Option(
        "ironic.listen",
        kinds.ADDRESS,
        "Address and port at which the conductor calls back, by TLS with a certificate of the agent's own.",
        default=("0.0.0.0", 9999),  # noqa: S104 - the conductor comes from the network
    ),
    Option(
        "ironic.advertise",
        kinds.IP_ADDRESS,
        "The address that the conductor is told. Without it: that of the route to ironic.url.",
        example="192.0.2.7",
    ),
    Option(
        "ironic.inspection_url",
        kinds.SERVICE_URLS,
        "Where the inventory of this machine is posted, once, before it is looked up.",
        example="https://ironic.example.net:6385/v1/continue_inspection",
    ),
    Option(
        "ironic.collect_lldp",
        kinds.BOOLEAN,
        "Whether the inventory has what switches tell by LLDP. The agent needs raw sockets for that, which its unit "
        "does not give it by itself: see docs/ironic.md.",
        default=False,
    ),
    Option(
        "ironic.lldp_seconds",
        kinds.seconds(1, 300),
        "For how long LLDP is listened to, unless each interface with a link has heard something before. Switches send "
        "every 30 s.",
        default=35.0,
    ),
    Option(
        "ironic.request_id",
        kinds.matching("string", r"req-[0-9A-Za-z-]{1,80}", "must be a request id, such as req-1a2b"),
        "Sent along with every request to Ironic, so that its log tells them together.",
        example="req-4c8ad9b3-6f3d-4b8a-9d2e-3f1f6a0c5b77",
    ),
    Option(
        "ironic.power_off_command",
        kinds.COMMAND,
        "What the conductor's order to power off runs. Its order to reboot runs reboot.command.",
        default=("systemctl", "poweroff"),
    ),
    Option(
        "policy.require_checksum",
        kinds.BOOLEAN_OR_HTTP,
        "Refuse a job without a checksum. With http: only where its image is over plain http, and a checksum file over "
        "plain http does not count then.",
        default=_POLICY.require_checksum,
    ),
    Option(
        "policy.allow_http",
        kinds.BOOLEAN,
        "Take images over plain http too, and out of registries by oci+http.",
        default=_POLICY.allow_http,
    ),
    Option(
        "policy.allow_file",
        kinds.BOOLEAN,
        "Take file: URLs in jobs that come over TLS or from the control plane: they read any file and disk of "
        "this server. On the Unix socket they are always taken.",
        default=_POLICY.allow_file,
    ),
    Option(
        "policy.verify",
        kinds.choice(*VERIFY),
        "How much is read back from the disk before it becomes bootable: with commit both its ends and the config "
        "drive, with readback everything that was written, for every job (else for one that asks for it).",
        default=_POLICY.verify,
    ),
    Option(
        "policy.several.allow_failed",
        kinds.BOOLEAN,
        "Keep a disk out that fails while it is written, and go on with the others, as long as one is left. Without "
        "it the deployment fails. A disk that cannot be used before the first write is refused either way.",
        default=_POLICY.several.allow_failed,
    ),
    Option(
        "trust.keys",
        kinds.PATH,
        "The directory of the keys that are trusted, each in a file of its name: NAME.asc or NAME.gpg (OpenPGP), "
        "NAME.minisign (also of signify), NAME.ssh (a public key or allowed signers), NAME.cosign.pub (PEM), "
        "NAME.sigstore.json (who may sign, and the trusted root). Read for each job that has a signature.",
        default=DEFAULT_DIRECTORY,
    ),
    Option(
        "trust.require_signature",
        kinds.BOOLEAN,
        "Refuse a job without a signature, and let no key count but those in trust.keys.",
        default=_POLICY.require_signature,
    ),
    Option(
        "receipt.key_file",
        kinds.PATH,
        "A file that holds the private key, of Ed25519 and in PEM, by which receipts are signed. Without it they are "
        "not signed.",
        example="/etc/byoi-agent/receipt.key",
        secret=True,
        check=check_signing_key,
    ),
    Option(
        "download.ca_file",
        kinds.PATH,
        "CA certificates in PEM that image servers are checked by. Without it: those of the system.",
        example="/etc/byoi-agent/image-ca.crt",
    ),
    Option(
        "download.connections",
        kinds.integer(1, 16),
        "The most connections that one download has, to all its servers together. It begins with one, and has more "
        "only where that is faster. With 1 it never has a second one.",
        default=8,
    ),
    Option(
        "reboot.enabled",
        kinds.BOOLEAN,
        "Reboot once a deployment is done and that was seen.",
        default=True,
    ),
    Option(
        "reboot.command",
        kinds.COMMAND,
        "The program that reboots the server and its arguments; no shell is in between.",
        default=("systemctl", "reboot"),
    ),
    Option(
        "reboot.grace_seconds",
        kinds.seconds(0, 86400),
        "How long to wait for somebody to see the result of a job that was posted, before the reboot.",
        default=60.0,
    ),
    Option(
        "reboot.untold_seconds",
        kinds.seconds(0, 366 * 86400),
        "How long to wait, before the reboot, for a control plane to take the result of a job that it gave. One that "
        "has not been told will not know that the job was done: let it be long.",
        default=86400.0,
    ),
    Option(
        "state.directory",
        kinds.PATH,
        "Where the journal is kept. It holds the job, its secrets until that is over, and room for its outcome; "
        "it is for the agent alone.",
        default="/run/byoi-agent",
    ),
    Option(
        "log.level",
        kinds.choice("debug", "info", "warning", "error"),
        "The least level that is logged.",
        default="info",
    ),
    Option(
        "log.format",
        kinds.choice("auto", "json", "text"),
        "One JSON object a line, or text. With auto: text on a terminal, else JSON.",
        default="auto",
    ),
)

GROUP_TABLE = (
    Option(
        "disk_group.id",
        kinds.integer(1, 2**31 - 1),  # what diskGroupId of a job can hold
        "The number that a job's diskGroupId names. The lowest one is the default group.",
        example=1,
        required=True,
    ),
    Option(
        "disk_group.disks",
        kinds.DISKS,
        "Block devices, or regular files for trials. The image goes to the first.",
        example=["/dev/disk/by-id/wwn-0x5000c500a0b1c2d3", "/dev/disk/by-id/wwn-0x5000c500a0b1c2d4"],
        required=True,
    ),
)

OPTIONS = {option.key: option for option in TABLE}
DEFAULTS = {option.key: option.default for option in TABLE}
SECTIONS = frozenset(option.section for option in TABLE if option.section)


def unknown_key_fault(key: str, *, suggest: bool = True) -> str:
    """The fault text for an unknown key; with `suggest` it has the most similar known key."""
    if key + FILE_SUFFIX in OPTIONS:
        return f"must not stand here itself: put it into a file, and name that by {key}{FILE_SUFFIX}"
    if key == "disk_group":
        return "needs the number of a group: write byoi.disk_group.1=/dev/..."
    near = difflib.get_close_matches(key[:80], OPTIONS, n=1) if suggest else []
    advice = f"did you mean {near[0]}?" if near else "agent.toml(5) lists them all"
    return f"is an unknown option; {advice}"
