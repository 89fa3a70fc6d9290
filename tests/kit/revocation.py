"""Revocation lists as a CA makes them."""

from datetime import UTC, datetime, timedelta

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

DAY = timedelta(days=1)


def make_crl(
    ca: trustme.CA, *revoked: trustme.LeafCert, since: timedelta = -DAY, until: timedelta = DAY
) -> bytes:
    """A list in PEM of the certificates that a CA takes back; the times count from now."""
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    builder = x509.CertificateRevocationListBuilder(certificate.subject, now + since, now + until)
    for leaf in revoked:
        serial = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number
        entry = x509.RevokedCertificateBuilder(serial, now + since).build()
        builder = builder.add_revoked_certificate(entry)
    key = load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
