"""Who called, and what let them pass."""

from dataclasses import dataclass, field
from enum import StrEnum

from agent.service.jobs.peer import Peer


class AuthMethod(StrEnum):
    """What let a caller pass; the member `way` of the log's lines."""

    OPEN = "open"
    SOCKET = "socket"
    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 -- the name of the method, not a token
    SIGNATURE = "signature"
    CONTROL_PLANE = "control plane"
    IRONIC = "ironic"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called: how they passed, from where, and by which credential."""

    auth_method: AuthMethod
    peer: Peer
    name: str = ""
    """Of the credential, for the log: the certificate's subject and serial number, the key's name. Never a secret."""
    credential: bytes = field(default=b"", repr=False)
    """A digest of the secret that they knew, by which a later one is told from it."""

    @property
    def remote(self) -> bool:
        """Whether they came over the network."""
        return self.peer.is_remote
