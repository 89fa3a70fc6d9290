"""What an operator adds to the rescue: certificates, secrets and agent.toml, as an overlay of packaging/rescue/build.

Made once for each machine that tests run on and kept in the cache, since the rescue is made anew with every change of
it. All of it blocks.
"""

import os
import secrets
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.lab.images import CACHE
from tests.lab.machine import HOST

RECIPE = 2
"""To be raised when what follows changes."""
API_PORT = 9443
SERVICE_NAME = "lab1"
APPLICATION_KEY = "lab-application"
ETC = "/etc/byoi-agent"
CONTROL_TOKEN = "control.token"
AGENT_TOML = f"""\
# Of every server of the lab; what differs comes with the kernel.
[api]
listen = "0.0.0.0:{API_PORT}"
tls_cert = "{ETC}/tls.crt"
tls_key = "{ETC}/tls.key"
token_file = "{ETC}/api.token"

[api.ovh]
application_key = "{APPLICATION_KEY}"
application_secret_file = "{ETC}/application"
consumer_key_file = "{ETC}/consumer"

[reboot]
# Longer than any test waits: who sees a reboot knows that the outcome was seen.
grace_seconds = 3600
"""


@dataclass(frozen=True)
class Site:
    """The directory: `overlay` goes into the rescue, the rest stays with the host."""

    directory: Path

    @property
    def overlay(self) -> Path:
        return self.directory / "overlay"

    @property
    def ca(self) -> Path:
        """What every certificate of the lab is checked by."""
        return self.overlay / "etc/byoi-agent/ca.crt"

    def secret(self, name: str) -> str:
        """A file that the rescue holds (api.token, application, consumer), or control.token, given at its start."""
        directory = self.directory if name == CONTROL_TOKEN else self.overlay / "etc/byoi-agent"
        return (directory / name).read_text()

    def control_plane_tls(self) -> ssl.SSLContext:
        """For a control plane on the host's loopback, that machines reach at HOST."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "control.pem")
        return context


def site() -> Site:
    """The site of this machine, made where it is not yet."""
    path = CACHE / f"site-{RECIPE}"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        scratch = CACHE / f"{os.getpid()}-site"
        _make(Site(scratch))
        try:
            scratch.rename(path)
        except OSError:  # another run was first
            shutil.rmtree(scratch)
    return Site(path)


def _make(made: Site) -> None:
    etc = made.ca.parent
    etc.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made.ca))
    # A server of the lab is reached by a port of the host's loopback.
    agent, control = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1", HOST)
    agent.cert_chain_pems[0].write_to_path(str(etc / "tls.crt"))
    (etc / "agent.toml").write_text(AGENT_TOML)
    private = {etc / name: secrets.token_hex(16).encode() for name in _SECRETS}
    private[made.directory / CONTROL_TOKEN] = secrets.token_hex(16).encode()
    private[etc / "tls.key"] = agent.private_key_pem.bytes()
    private[made.directory / "control.pem"] = control.private_key_and_cert_chain_pem.bytes()
    for path, content in private.items():
        path.touch(mode=0o600)
        path.write_bytes(content)


_SECRETS = ("api.token", "application", "consumer")
