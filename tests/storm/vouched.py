"""What the images storm reads of signatures, of registries and of HTTP: texts that say what is to be believed.

Whatever is done to a signature, it must not become one of bytes that nobody has signed.
"""

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.formats.detect import sniff
from agent.formats.dsse import EnvelopeFault, NotVerified, pre_authentication, read_envelope, verify
from agent.formats.oci.look import look_at
from agent.formats.oci.manifest import Descriptor, ManifestRefused, read_manifest
from agent.formats.oci.pages import next_page
from agent.formats.oci.vouchers import BUNDLE, SIMPLE, read_voucher
from agent.formats.signatures.findings import WHOLE, KeyFile, Refused
from agent.formats.signatures.read import read_claims
from agent.formats.tables.labels import END_BYTES, label_of, md_at_end
from agent.formats.tables.md import Array, member_writes
from agent.formats.tables.superblock import sniff_filesystem
from agent.transfer.http.challenge import read_challenges
from agent.transfer.http.head import read_head
from agent.units import MiB
from tests.kit import registry
from tests.kit.signature_samples import GOOD, KEYS, NOW
from tests.storm.subject import Read, Subject, parser

FORGED = b"nobody has signed this"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
KIND, PAYLOAD = "application/vnd.in-toto+json", b'{"subject": []}'
DIGEST = "sha256:" + "a" * 64
CHALLENGE = (
    b'Bearer realm="https://a.example/token",service="a",scope="repository:a/b:pull", Basic realm="a\\"b"'
)
HEAD = b'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/20\r\nContent-Length: 5\r\nETag: "v1"'
LINK = b'</v2/a/referrers/b?n=5&last=c>; rel="next", <https://b.example/>; rel=prev; title="a, b"'
MEMBER = 2 * MiB


def signature(kind: str) -> Read:
    """A reader of signatures of a type, which also tries whether one has become good for other bytes."""
    files = [KeyFile("ours", KEYS[kind].encode())]

    def read(data: bytes, chance: random.Random) -> bytes:
        claims = read_claims(kind, data, files, NOW, image=False)
        if kind == "openpgp":
            return b""  # gpgv says what is good
        evidence = {name: hashlib.new(name, FORGED).digest() for name in claims.wanted if name != WHOLE}
        assert all(finding.fault for finding in claims.check(evidence | {WHOLE: FORGED})), "it is forged"
        return b""

    return read


def key_file(kind: str) -> Read:
    return parser(
        lambda data: read_claims(kind, GOOD[kind].encode(), [KeyFile("ours", data)], NOW, image=False)
    )


def envelope() -> bytes:
    sealed = {"keyid": "a", "sig": _base64(KEY.sign(pre_authentication(KIND, PAYLOAD)))}
    return json.dumps({"payloadType": KIND, "payload": _base64(PAYLOAD), "signatures": [sealed]}).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def opened(data: bytes, chance: random.Random) -> bytes:
    """What an envelope holds, if it is signed."""
    found = read_envelope(data)
    verify(found, PUBLIC)
    return found.payload_type.encode() + found.payload


def voucher(media_type: str) -> Read:
    annotations = {"dev.cosignproject.cosign/signature": GOOD["cosign"]}
    layer = Descriptor(DIGEST, 100, media_type, annotations)
    return parser(lambda data: read_voucher(layer, data))


def md_member() -> bytes:
    array = Array(uuid.UUID(int=3), 1_700_000_000, MiB, 0)
    data = bytearray(MEMBER)
    for offset, written in member_writes(array, 0, MEMBER, uuid.UUID(int=4)):
        data[offset : offset + len(written)] = written
    return bytes(data[-END_BYTES:])


def beginning(data: bytes) -> None:
    """What something is called by its first bytes."""
    sniff(data)
    label_of(data, sniff_filesystem(data))


def vouched() -> Iterator[Subject]:
    for kind in GOOD:
        yield Subject(f"{kind} signature", GOOD[kind].encode(), signature(kind), refusals=(Refused,))
        yield Subject(f"{kind} keys", KEYS[kind].encode(), key_file(kind), refusals=(Refused,))
    yield Subject(
        "DSSE", envelope(), opened, KIND.encode() + PAYLOAD, sealed=True,
        refusals=(EnvelopeFault, NotVerified),
    )  # fmt: skip
    layer = registry.descriptor(b"layer", annotations={"org.opencontainers.image.title": "web.qcow2"})
    documents = {
        "manifest": registry.manifest(layer, layer, artifactType="x"),
        "index": registry.index(registry.entry(b"a", "amd64"), registry.entry(b"b", artifactType=BUNDLE)),
    }
    for name, data in documents.items():
        yield Subject(f"OCI {name}", data, parser(read_manifest), refusals=(ManifestRefused,))
    _, simple = registry.simple_signature(DIGEST, KEY.sign)
    bundle = registry.bundle_signature(DIGEST, KEY.sign)
    for name, media_type, data in (("simple", SIMPLE, simple), ("bundle", BUNDLE, bundle)):
        yield Subject(f"cosign {name}", data, voucher(media_type), refusals=(ManifestRefused,))
    yield Subject("layer", registry.container_layer("disk/a.qcow2", b"QFI\xfb" + bytes(600)), parser(look_at))
    yield Subject("challenge", CHALLENGE, parser(lambda data: read_challenges([data.decode("latin-1")])))
    yield Subject("head", HEAD, parser(read_head))
    links = parser(lambda data: next_page([data.decode("latin-1")]))
    yield Subject("link", LINK, links, refusals=(ManifestRefused,))
    yield Subject("md", md_member(), parser(lambda data: md_at_end(data[-END_BYTES:], MEMBER)))
    yield Subject("beginning", b"\xfc\x4e\x2b\xa9" + bytes(2044), parser(beginning))
