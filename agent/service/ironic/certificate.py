"""The certificate that the conductor knows this agent by, and the TLS settings of the listener that shows it.

The agent makes it, and sends it along with each heartbeat. It is trusted for what it is, so it names the address and no
more, and holds at all times: the clock of a rescue system may be anywhere.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.service.http.sockets import restrict

_SINCE, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def make_certificate(address: str) -> tuple[str, str]:
    """A new key on the curve P-256, and a certificate signed by it for this IP address (RFC 5280); both PEM.

    Returns:
        The certificate and the key.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "byoi-agent")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_SINCE)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), text.decode()


class OwnCertificate:
    """The TLS settings of the listener. `trust` never changes: no client shows a certificate."""

    trust = b""

    def __init__(self, certificate: str, key: str) -> None:
        """Args:
        certificate: PEM.
        key: PEM.
        """
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        restrict(self.context)
        # OpenSSL reads files only; these are in memory, and no file system has seen the key.
        with _memory_file(certificate) as certificate_path, _memory_file(key) as key_path:
            self.context.load_cert_chain(certificate_path, key_path)


@contextlib.contextmanager
def _memory_file(text: str) -> Iterator[str]:
    fd = os.memfd_create("byoi-agent", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
